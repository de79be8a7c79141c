/** Where a socket may be put, and that nobody else's is taken away for it. */
import { expect, test } from "bun:test";
import { existsSync, readFileSync, statSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { listenOnSocket } from "~/disk/unix-socket";
import { MeshError } from "~/errors";
import { cleanup } from "../../support/cleanup";
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
