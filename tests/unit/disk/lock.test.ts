/** The lock: one process has it, for exactly as long as it lives, however it ends. */
import { describe, expect, test } from "bun:test";
import { readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { isLocked, lockHolder, lockToChange, tryLock } from "~/disk/lock";
import { MeshError } from "~/errors";
import { cleanup } from "../../support/cleanup";
import { root } from "../../support/cli";
import { foreignLock } from "../../support/processes";
import { tempDir } from "../../support/temp-dir";

interface Other {
  pid: number;
  /** What the other process said of the lock: `held` or `busy`. */
  said: Promise<string>;
  /** Ends it by closing its standard input, so that it leaves in an orderly way. */
  end(): Promise<void>;
  kill(): Promise<void>;
}

function otherProcess(path: string, waitMs = 0): Other {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "hold-lock.ts"), path, String(waitMs)], {
    cwd: root,
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  const kill = async () => {
    child.kill("SIGKILL");
    await child.exited;
  };
  cleanup(kill);
  const reader = child.stdout.getReader();
  return {
    pid: child.pid,
    said: reader.read().then(({ value }) => new TextDecoder().decode(value).trim()),
    kill,
    async end() {
      await child.stdin.end();
      await child.exited;
    },
  };
}

describe("among processes", () => {
  test("one has it, and keeps it under pressure of the garbage collector, until it is killed", async () => {
    const path = join(tempDir(), "lock");
    const holder = otherProcess(path);
    expect(await holder.said).toBe("held");
    expect(isLocked(path)).toBe(true);
    expect(tryLock(path)).toBeUndefined();
    expect(await otherProcess(path).said).toBe("busy");

    await holder.kill();
    expect(isLocked(path)).toBe(false);
    const lock = tryLock(path);
    expect(lock).toBeDefined();
    lock?.release();
  });

  test("one that leaves in an orderly way leaves it too", async () => {
    const path = join(tempDir(), "lock");
    const holder = otherProcess(path);
    expect(await holder.said).toBe("held");
    await holder.end();
    expect(isLocked(path)).toBe(false);
  });

  test("this one has it against others, under pressure of the garbage collector", async () => {
    const path = join(tempDir(), "lock");
    const take = () => tryLock(path) !== undefined;
    expect(take()).toBe(true);
    for (let round = 0; round < 5; round++) Bun.gc(true);
    expect(await otherProcess(path).said).toBe("busy");
  });

  test("one that waits gets it when it is free", async () => {
    const path = join(tempDir(), "lock");
    const lock = tryLock(path);
    const waiter = otherProcess(path, 30_000);
    lock?.release();
    expect(await waiter.said).toBe("held");
  });

  test("one that waits gives up in the end", async () => {
    const path = join(tempDir(), "lock");
    const lock = tryLock(path);
    expect(await otherProcess(path, 20).said).toBe("busy");
    lock?.release();
  });
});

describe("in one process", () => {
  test("it is had once at a time", () => {
    const path = join(tempDir(), "lock");
    const lock = tryLock(path);
    expect(lock).toBeDefined();
    expect(tryLock(path)).toBeUndefined();
    expect(tryLock(path, 5_000)).toBeUndefined();
    expect(isLocked(path)).toBe(true);
    lock?.release();
    expect(isLocked(path)).toBe(false);
    const again = tryLock(path);
    expect(again).toBeDefined();
    // The first one's release was used up: it does not open what is now the second one's.
    lock?.release();
    expect(isLocked(path)).toBe(true);
    again?.release();
  });

  test("its file is for its owner only: who can read it could keep us out", () => {
    const path = join(tempDir(), "lock");
    const lock = tryLock(path);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    lock?.release();
  });

  test("asking whether it is free does not take it", () => {
    const path = join(tempDir(), "lock");
    expect(isLocked(path)).toBe(false);
    expect(isLocked(path)).toBe(false);
    const lock = tryLock(path);
    expect(lock).toBeDefined();
    lock?.release();
  });

  test("two files are two locks", () => {
    const dir = tempDir();
    const locks = [tryLock(join(dir, "a")), tryLock(join(dir, "b"))];
    expect(locks).not.toContain(undefined);
    locks[0]?.release();
    expect([isLocked(join(dir, "a")), isLocked(join(dir, "b"))]).toEqual([false, true]);
    locks[1]?.release();
  });

  test("asking by another path is refused, and does not open it to others", async () => {
    const dir = tempDir();
    const path = join(dir, "lock");
    const lock = tryLock(path);
    symlinkSync(path, join(dir, "same"));
    expect(tryLock(join(dir, "same"))).toBeUndefined();
    expect(tryLock(`${dir}/../${dir.split("/").pop()}/lock`)).toBeUndefined();
    Bun.gc(true);
    expect(await otherProcess(path).said).toBe("busy");
    lock?.release();
  });
});

describe("where there can be no lock", () => {
  function codeOf(action: () => unknown): string {
    try {
      action();
    } catch (error) {
      if (error instanceof MeshError) return error.code;
      throw error;
    }
    return "nothing was refused";
  }

  test("that is an error, and not somebody else's lock", () => {
    const dir = tempDir();
    expect(codeOf(() => tryLock(join(dir, "not there", "lock")))).toBe("storage_failed");
    expect(codeOf(() => tryLock(dir))).toBe("storage_failed");
    expect(codeOf(() => isLocked(dir))).toBe("storage_failed");
    expect(() => tryLock(dir)).toThrow(expect.objectContaining({ hint: expect.stringContaining("a file") }));
  });

  test("a file of another kind is left as it is, and can be tried again", () => {
    const path = join(tempDir(), "file");
    writeFileSync(path, "somebody's notes. ".repeat(100));
    expect(codeOf(() => tryLock(path))).toBe("storage_failed");
    expect(() => tryLock(path)).toThrow(
      expect.objectContaining({ hint: expect.stringContaining(`mv '${path}'`) }),
    );
    expect(readFileSync(path, "utf8")).toBe("somebody's notes. ".repeat(100));
  });
});

test("who wants to change a file and cannot is told what to look for", () => {
  const path = join(tempDir(), "file.lock");
  const lock = lockToChange(path);
  expect(() => lockToChange(path)).toThrow(`another process has held ${path}`);
  lock.release();
  lockToChange(path).release();
});

describe.skipIf(process.platform !== "linux")("who holds it (skipped off Linux)", () => {
  test("is nobody, or another process, which is named; this one does not count", async () => {
    const path = join(tempDir(), "lock");
    writeFileSync(path, "");
    expect(lockHolder(path)).toBeUndefined();
    const own = tryLock(path);
    expect(lockHolder(path)).toBeUndefined();
    own?.release();
    const other = otherProcess(path);
    expect(await other.said).toBe("held");
    expect(lockHolder(path)).toEqual({ pid: other.pid, program: expect.any(String), isOurs: true });
    expect(lockHolder(join(tempDir(), "nowhere"))).toBeUndefined();
    await other.kill();
    expect(lockHolder(path)).toBeUndefined();
  });

  test("may be any other program", async () => {
    const path = join(tempDir(), "lock");
    const { pid, program } = await foreignLock(path);
    expect(isLocked(path)).toBe(true);
    expect(lockHolder(path)).toEqual({ pid, program, isOurs: false });
  });
});
