/** Which process a daemon's directory belongs to: the lock decides, the record only names. */
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { endRecord, findHolder, listenForLastWord, processStart, writeRecord } from "~/daemon/holder";
import { tryLock } from "~/disk/lock";
import { daemonPaths } from "~/wire/paths";
import { cleanup } from "../../support/cleanup";
import { foreignLock } from "../../support/processes";
import { tempDir } from "../../support/temp-dir";

const startedAt = "2026-01-01T00:00:00.000Z";

function locked() {
  const paths = daemonPaths(tempDir());
  const lock = tryLock(paths.lock);
  cleanup(() => lock?.release());
  return { paths, release: () => lock?.release() };
}

describe("the holder", () => {
  test("is nobody without a lock, and looking makes none", () => {
    const paths = daemonPaths(tempDir());
    expect(findHolder(paths)).toEqual({ kind: "none" });
    expect(existsSync(paths.lock)).toBe(false);
  });

  test("is nobody when the lock is free, whatever the record says", () => {
    const { paths, release } = locked();
    writeRecord(paths, startedAt, []);
    release();
    expect(findHolder(paths)).toEqual({ kind: "none" });
  });

  test("is the process of the record, with what it was started with", () => {
    const { paths } = locked();
    writeRecord(paths, startedAt, ["--no-tcp"]);
    expect(findHolder(paths)).toEqual({
      kind: "process",
      pid: process.pid,
      startedAt,
      startedWith: ["--no-tcp"],
    });
  });

  const spoiled: [what: string, spoil: (record: Record<string, unknown>) => unknown][] = [
    [
      "names a process that began at another time: the id was used again",
      (r) => ({ ...r, process_start: "x/1" }),
    ],
    ["names a process that is not there", (r) => ({ ...r, pid: 2 ** 22 - 1 })],
    ["could not tell when its process began", (r) => ({ ...r, process_start: null })],
    ["names no process", (r) => ({ ...r, pid: 0 })],
    ["is no record", () => "garbage"],
  ];
  test.each(spoiled)("is hidden when the record %s", (_what, spoil) => {
    const { paths } = locked();
    writeRecord(paths, startedAt, []);
    writeFileSync(paths.record, JSON.stringify(spoil(JSON.parse(readFileSync(paths.record, "utf8")))));
    expect(findHolder(paths)).toEqual({ kind: "hidden", why: expect.stringContaining(paths.record) });
  });

  test("is hidden when there is no record", () => {
    expect(findHolder(locked().paths)).toMatchObject({ kind: "hidden" });
  });

  test.skipIf(process.platform !== "linux")(
    "is another process when the kernel names one that the record does not (skipped off Linux)",
    async () => {
      const paths = daemonPaths(tempDir());
      writeFileSync(
        paths.record,
        JSON.stringify({ pid: 1, started_at: startedAt, started_with: [], process_start: "x" }),
      );
      const { pid, program } = await foreignLock(paths.lock);
      expect(findHolder(paths)).toEqual({ kind: "other", pid, program, isOurs: false });
    },
  );
});

test("a process is told from a later one by when it began", async () => {
  const child = Bun.spawn(["sleep", "60"]);
  cleanup(() => child.kill("SIGKILL"));
  const start = processStart(child.pid);
  expect(start).toBeString();
  expect(processStart(child.pid)).toBe(start);
  expect(processStart(process.pid)).not.toBe(start);
  child.kill("SIGKILL");
  await child.exited;
  expect(processStart(child.pid)).toBeUndefined();
});

describe("the last word", () => {
  const lastWord = { unsent: 3, not_left: ["team"] };

  test("is heard by whoever listened before, when record and directory are gone", () => {
    const { paths } = locked();
    writeRecord(paths, startedAt, []);
    const listening = listenForLastWord(paths);
    cleanup(() => listening.close());
    endRecord(paths, lastWord);
    expect(existsSync(paths.record)).toBe(false);
    rmSync(paths.dir, { recursive: true });
    expect(listening.lastWord()).toEqual(lastWord);
  });

  test("is nothing when the daemon was killed, or had no record", () => {
    const { paths } = locked();
    const early = listenForLastWord(paths);
    writeRecord(paths, startedAt, []);
    const listening = listenForLastWord(paths);
    cleanup(() => listening.close());
    expect([early.lastWord(), listening.lastWord()]).toEqual([undefined, undefined]);
  });

  test("is not left in the record of another process", () => {
    const { paths } = locked();
    writeRecord(paths, startedAt, []);
    const record = { ...JSON.parse(readFileSync(paths.record, "utf8")), pid: 1 };
    writeFileSync(paths.record, JSON.stringify(record));
    const listening = listenForLastWord(paths);
    cleanup(() => listening.close());
    endRecord(paths, lastWord);
    expect(listening.lastWord()).toBeUndefined();
  });
});
