/** Which socket files make room for a new one: only those on which nobody can be met. */
import { describe, expect, test } from "bun:test";
import { existsSync, lstatSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { clearStaleSocket } from "~/daemon/ipc/stale";
import { MeshError } from "~/errors";
import { tempDir } from "../../support/temp-dir";
import { fakeDaemon, json, newSocketPath, rawDaemon } from "../client/fake-daemon";

async function deadSocket(): Promise<string> {
  const path = newSocketPath();
  const script = `Bun.listen({ unix: ${JSON.stringify(path)}, socket: { data() {} } }); process.kill(process.pid, "SIGKILL");`;
  await Bun.spawn([process.execPath, "-e", script], { stdout: "ignore", stderr: "ignore" }).exited;
  expect(lstatSync(path).isSocket()).toBe(true);
  return path;
}

const codeOf = (promise: Promise<unknown>): Promise<string | undefined> =>
  promise.then(
    () => undefined,
    (error: unknown) => (error instanceof MeshError ? error.code : String(error)),
  );

test("no file is fine", async () => {
  expect(await codeOf(clearStaleSocket(newSocketPath()))).toBeUndefined();
});

test("the socket of a process that died is removed", async () => {
  const path = await deadSocket();
  expect(await codeOf(clearStaleSocket(path))).toBeUndefined();
  expect(existsSync(path)).toBe(false);
});

test("a plain file, which nobody can serve, is removed", async () => {
  const path = newSocketPath();
  writeFileSync(path, "no socket");
  expect(await codeOf(clearStaleSocket(path))).toBeUndefined();
  expect(existsSync(path)).toBe(false);
});

describe("what stays", () => {
  test("a socket on which somebody answers", async () => {
    const { socketPath } = fakeDaemon(() => json({}));
    expect(await codeOf(clearStaleSocket(socketPath))).toBe("already_running");
    expect(existsSync(socketPath)).toBe(true);
  });

  test("one on which somebody hangs up", async () => {
    const path = rawDaemon("");
    expect(await codeOf(clearStaleSocket(path))).toBe("already_running");
    expect(existsSync(path)).toBe(true);
  });

  const others: [what: string, make: (path: string) => void][] = [
    ["a directory", (path) => mkdirSync(path)],
    ["a symbolic link", (path) => symlinkSync("/nowhere", path)],
  ];
  test.each(others)("%s, and the way out is named", async (_what, make) => {
    const path = join(tempDir(), "daemon.sock");
    make(path);
    const failed = await clearStaleSocket(path).catch((error: unknown) => error);
    expect(failed).toMatchObject({ code: "path_unsafe", hint: expect.stringContaining(`rm '${path}'`) });
    expect(() => lstatSync(path)).not.toThrow();
  });

  test("a link to a dead socket", async () => {
    const path = join(tempDir(), "daemon.sock");
    symlinkSync(await deadSocket(), path);
    expect(await codeOf(clearStaleSocket(path))).toBe("path_unsafe");
    expect(lstatSync(path).isSymbolicLink()).toBe(true);
  });
});
