/** Where a socket may be put, and that nobody else's is taken away for it. */
import { expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { giveSocket, listenOnSocket } from "~/disk/unix-socket";
import { MeshError } from "~/errors";
import { socketPathBytesMax } from "~/wire/limits";
import { cleanup } from "../../support/cleanup";
import { canMount, shrink } from "../../support/small-disk";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";

const listen = async (path: string) => {
  const listener = await listenOnSocket(path, { data: () => undefined });
  cleanup(() => listener.close());
  return listener;
};

const refusal = async (path: string): Promise<string> => {
  const error = await listen(path).catch((thrown: unknown) => thrown);
  return error instanceof MeshError ? error.code : "it listens";
};

const isServed = (path: string): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(path);
    socket.once("connect", () => resolve(true));
    socket.once("error", () => resolve(false));
    cleanup(() => void socket.destroy());
  });

/** A program that puts a socket there, and holds it for as long as it runs. */
async function holder(path: string, command: readonly string[]): Promise<Bun.Subprocess> {
  const child = Bun.spawn([...command, path], { stdin: "ignore", stderr: "inherit" });
  cleanup(async () => {
    child.kill("SIGKILL");
    await child.exited;
  });
  await waitFor(() => existsSync(path), { what: "the other one to bind" });
  return child;
}

test("the umask is as it was, while one is bound slowly and after several at once", async () => {
  const dir = tempDir();
  const before = process.umask();
  const { promise: mayBind, resolve } = Promise.withResolvers<void>();
  const bindSlowly = async (path: string) => {
    const listener = Bun.listen({ unix: path, socket: { data: () => undefined } });
    await mayBind;
    return listener;
  };
  const both = Promise.all(["a", "b"].map((name) => giveSocket(join(dir, name), bindSlowly)));
  // Both are at it: the names beside theirs are there.
  await waitFor(() => readdirSync(dir).length === 2, { what: "both to bind" });
  expect(process.umask()).toBe(before);
  resolve();
  for (const listener of await both) cleanup(() => listener.close());
  expect(process.umask()).toBe(before);
  expect(["a", "b"].map((name) => statSync(join(dir, name)).mode & 0o777)).toEqual([0o600, 0o600]);
});

test("it is for its owner alone, and gone when it is closed", async () => {
  const path = join(tempDir(), "s");
  const listener = await listen(path);
  expect([statSync(path).mode & 0o777, await isServed(path)]).toEqual([0o600, true]);
  listener.close();
  expect(existsSync(path)).toBe(false);
});

test("one that was left over makes way", async () => {
  const path = join(tempDir(), "s");
  const script = "Bun.listen({ unix: process.argv[1], socket: { data() {} } })";
  const child = await holder(path, [process.execPath, "-e", script]);
  child.kill("SIGKILL");
  await child.exited;
  expect(existsSync(path)).toBe(true);
  await listen(path);
  expect(await isServed(path)).toBe(true);
});

test("one that is in use stays", async () => {
  const path = join(tempDir(), "s");
  await listen(path);
  expect(await refusal(path)).toBe("already_running");
  expect(await isServed(path)).toBe(true);
});

const python = Bun.which("python3");

/** Bun and Node.js call each of these a refusal, too. */
const others: [what: string, script: readonly string[]][] = [
  [
    "of a process that accepts nobody at the moment",
    [
      "s = socket.socket(socket.AF_UNIX)",
      "s.bind(sys.argv[1])",
      "s.listen(0)",
      "waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]",
      "for c in waiting: c.setblocking(False); c.connect_ex(sys.argv[1])",
    ],
  ],
  ["for datagrams", ["s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)", "s.bind(sys.argv[1])"]],
];
test.skipIf(python === null).each(others)("one %s stays", async (_, script) => {
  const path = join(tempDir(), "s");
  const lines = [
    "import socket, sys, time",
    ...script,
    "open(sys.argv[1] + '.ready', 'w')",
    "time.sleep(1000)",
  ];
  await holder(path, [python ?? "", "-c", lines.join("\n")]);
  await waitFor(() => existsSync(`${path}.ready`), { what: "it to be as wanted" });
  expect(await refusal(path)).toBe("already_running");
  expect(existsSync(path)).toBe(true);
});

test("what is no socket stays", async () => {
  const dir = tempDir();
  writeFileSync(join(dir, "file"), "precious");
  symlinkSync(join(dir, "nowhere"), join(dir, "link"));
  for (const path of [dir, join(dir, "file"), join(dir, "link")]) {
    expect(await refusal(path)).toBe("path_unsafe");
  }
  expect(readFileSync(join(dir, "file"), "utf8")).toBe("precious");
});

test("one that somebody else has put there meanwhile is not removed with ours", async () => {
  const path = join(tempDir(), "s");
  const ours = await listen(path);
  unlinkSync(path);
  const theirs = createServer();
  await new Promise<void>((resolve) => void theirs.listen(path, resolve));
  cleanup(() => void theirs.close());
  ours.close();
  expect(await isServed(path)).toBe(true);
});

/** In a directory so deep that no more than a name of this length fits. */
function deepPath(nameBytes: number): string {
  const max = process.platform === "darwin" ? socketPathBytesMax.darwin : socketPathBytesMax.linux;
  const dir = tempDir();
  const deep = join(dir, "d".repeat(max - dir.length - "//".length - nameBytes));
  mkdirSync(deep);
  return join(deep, "s".repeat(nameBytes));
}

test.each([1, 2, 5, 9, 20])(
  "where a name of %d bytes fits, too, the file appears when connecting to it works, and one of several has it",
  async (nameBytes) => {
    const path = deepPath(nameBytes);
    const bind = (bound: string) => {
      expect([bound !== path, existsSync(path)]).toEqual([true, false]);
      return Bun.listen({ unix: bound, socket: { data: () => undefined } });
    };
    const all = await Promise.allSettled([1, 2, 3].map(() => giveSocket(path, bind)));
    for (const one of all) if (one.status === "fulfilled") cleanup(() => one.value.close());
    const codes = all.flatMap((one) => (one.status === "rejected" ? [(one.reason as MeshError).code] : []));
    expect(codes).toEqual(["already_running", "already_running"]);
    expect([await isServed(path), readdirSync(join(path, "..")).length]).toEqual([true, 1]);
  },
);

test("a directory without a free name that is short enough is told of", async () => {
  const path = deepPath(1);
  for (const digit of "0123456789abcdef") writeFileSync(join(path, "..", digit), "");
  expect(await refusal(path)).toBe("storage_failed");
  expect(readdirSync(join(path, "..")).length).toBe(16);
});

test("what is missing or forbidden is told by the path that was given", async () => {
  const dir = tempDir();
  writeFileSync(join(dir, "file"), "");
  const messages: [path: string, code: string, message: string][] = [
    [
      join(dir, "none/s"),
      "storage_failed",
      `cannot listen on ${dir}/none/s: there is no directory ${dir}/none`,
    ],
    [join(dir, "file/s"), "storage_failed", `cannot look at ${dir}/file/s: ENOTDIR`],
  ];
  for (const [path, code, message] of messages) {
    await expect(listen(path)).rejects.toMatchObject({ code, message, hint: expect.any(String) });
  }
});

test.skipIf(!canMount)("a directory that cannot be written is told of as such", async () => {
  const dir = tempDir();
  shrink(dir);
  Bun.spawnSync(["mount", "-o", "remount,ro", dir]);
  await expect(listen(join(dir, "s"))).rejects.toMatchObject({
    code: "storage_read_only",
    message: expect.stringContaining(`cannot listen on ${dir}/s: `),
  });
});
