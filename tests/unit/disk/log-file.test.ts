import { describe, expect, test } from "bun:test";
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import * as v from "valibot";
import { isoTime } from "~/clock";
import { LogFile, type LogLimits } from "~/disk/log-file";
import { logLine } from "~/log";
import { logBacklogBytesMax, logRotationRetryMs } from "~/wire/limits";
import { oldLog, oldLogNumbers } from "~/wire/paths";
import { cleanup } from "../../support/cleanup";
import { FakeClock } from "../../support/fake-clock";
import { canMount, fill, shrink } from "../../support/small-disk";
import { tempDir } from "../../support/temp-dir";

const Line = v.looseObject({ time: v.string(), level: v.string(), message: v.string() });
const dayMs = 24 * 3600 * 1000;

function openLog(
  limits: Partial<LogLimits> = {},
  path = join(tempDir(), "daemon.log"),
  clock = new FakeClock(),
) {
  const current: LogLimits = { bytesMax: 1_000, daysMax: 7, filesKept: 3, ...limits };
  const log = new LogFile(path, clock, () => current);
  cleanup(() => log.close());
  /** Writes numbered lines, each rotation finished before the next line. */
  const write = async (from: number, to = from): Promise<void> => {
    for (let number = from; number <= to; number++) {
      clock.advance(1);
      log.write(logLine(clock.now(), "info", "numbered", { number }));
      await log.settled();
    }
  };
  return { path, clock, log, write, limits: current };
}

const linesIn = (path: string): v.InferOutput<typeof Line>[] =>
  readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => v.parse(Line, JSON.parse(line)));

/** The files of a log, oldest first. */
const filesOf = (path: string): string[] => [
  ...oldLogNumbers(basename(path), readdirSync(dirname(path)))
    .toReversed()
    .map((number) => oldLog(path, number)),
  path,
];

const numbersIn = (paths: readonly string[]): unknown[] =>
  paths.flatMap(linesIn).flatMap(({ message, number }) => (message === "numbered" ? [number] : []));

const upTo = (last: number, first = 1): number[] =>
  Array.from({ length: last - first + 1 }, (_, at) => first + at);

describe("a log file", () => {
  test("is rotated by size: every line is there once and in order, in files for the owner alone", async () => {
    const { path, write } = openLog({ filesKept: 50 });
    await write(1, 100);
    const files = filesOf(path);
    expect(files.length).toBeGreaterThan(5);
    expect(numbersIn(files)).toEqual(upTo(100));
    for (const file of files) {
      expect([file, statSync(file).mode & 0o777]).toEqual([file, 0o600]);
      expect(statSync(file).size).toBeLessThan(1_200);
    }
    expect(linesIn(path)[0]).toMatchObject({ level: "info", message: "log_begun", pid: process.pid });
    expect(existsSync(`${path}.new`)).toBe(false);
  });

  test("does not grow without end while an old file is being made, and says what it left out", async () => {
    const { path, clock, log, write } = openLog();
    const long = logLine(clock.now(), "warn", "flood", { text: "x".repeat(3_000) });
    const count = 1_000;
    for (let number = 0; number < count; number++) log.write(long);
    expect(statSync(path).size).toBeLessThan(1_000 + logBacklogBytesMax + 2 * long.length);
    await log.settled();
    await write(1);
    const lines = filesOf(path).flatMap(linesIn);
    const lost = lines.find(({ message }) => message === "log_lines_lost")?.lines;
    expect(lost).toBeGreaterThan(500);
    expect(lines.filter(({ message }) => message === "flood").length + Number(lost)).toBe(count);
  });

  test("loses the oldest files alone, and more of them when fewer are wanted", async () => {
    const { path, write, limits } = openLog();
    await write(1, 100);
    expect(oldLogNumbers("daemon.log", readdirSync(dirname(path)))).toEqual([1, 2, 3]);
    const numbers = numbersIn(filesOf(path));
    expect(numbers).toEqual(upTo(100, Number(numbers[0])));
    limits.filesKept = 1;
    await write(101, 120);
    expect(oldLogNumbers("daemon.log", readdirSync(dirname(path)))).toEqual([1]);
    limits.filesKept = 0;
    await write(121, 140);
    // With none, what was there is dropped with the next file that is full.
    expect(oldLogNumbers("daemon.log", readdirSync(dirname(path)))).toEqual([]);
    expect(statSync(path).size).toBeLessThan(1_200);
    expect(numbersIn([path]).at(-1)).toBe(140);
  });

  test("is rotated by the age of its first line, which a restart does not change", async () => {
    const first = openLog({ bytesMax: 1_000_000 });
    await first.write(1);
    first.clock.advance(6 * dayMs);
    await first.write(2);
    const second = openLog({ bytesMax: 1_000_000 }, first.path, new FakeClock(first.clock.now()));
    await second.write(3);
    expect(filesOf(first.path)).toEqual([first.path]);
    second.clock.advance(dayMs);
    await second.write(4, 5);
    expect(numbersIn([oldLog(first.path, 1)])).toEqual([1, 2, 3, 4]);
    expect(numbersIn([first.path])).toEqual([5]);
    // A clock that is set back makes nothing older.
    second.clock.setWall(0);
    await second.write(6);
    expect(numbersIn([first.path])).toEqual([5, 6]);
  });

  test("that begins with something else than a line of ours has the age of the first that has one", async () => {
    const path = join(tempDir(), "daemon.log");
    const clock = new FakeClock();
    const time = isoTime(clock.now() - 8 * dayMs);
    writeFileSync(
      path,
      `panic: something went wrong\n\u0000\u0001\n{"time":"${time}","level":"info","message":"x"}\n`,
    );
    const { write } = openLog({}, path, clock);
    await write(1, 2);
    expect(existsSync(oldLog(path, 1))).toBe(true);
    expect(numbersIn([path])).toEqual([2]);
  });

  test("open to others is closed to them; a symbolic link is refused", () => {
    const path = join(tempDir(), "daemon.log");
    writeFileSync(path, "");
    chmodSync(path, 0o644);
    openLog({}, path);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const link = join(tempDir(), "daemon.log");
    symlinkSync(path, link);
    expect(() => openLog({}, link)).toThrow("ELOOP");
  });

  test("whose directory was moved away goes on there", async () => {
    const dir = tempDir();
    mkdirSync(join(dir, "then"));
    const { write } = openLog({}, join(dir, "then", "daemon.log"));
    await write(1);
    renameSync(join(dir, "then"), join(dir, "now"));
    await write(2);
    expect(numbersIn([join(dir, "now", "daemon.log")])).toEqual([1, 2]);
    expect(readdirSync(dir)).toEqual(["now"]);
  });

  test("that somebody moved away or removed is begun anew, where people look for it", async () => {
    const { path, write } = openLog({ bytesMax: 1_000_000 });
    await write(1, 2);
    renameSync(path, `${path}-moved`);
    await write(3);
    unlinkSync(path);
    await write(4);
    expect(numbersIn([`${path}-moved`])).toEqual([1, 2]);
    expect(numbersIn([path])).toEqual([4]);
  });

  test("takes what the runtime itself writes to the same file, without losing it or its own", async () => {
    const { path, write } = openLog({ filesKept: 50 });
    for (let round = 0; round < 10; round++) {
      await write(round * 10 + 1, round * 10 + 10);
      appendFileSync(path, `${logLine(0, "error", "panic", { round })}`);
    }
    expect(numbersIn(filesOf(path))).toEqual(upTo(100));
    const panics = filesOf(path)
      .flatMap(linesIn)
      .filter(({ message }) => message === "panic");
    expect(panics.map(({ round }) => round)).toEqual(upTo(9, 0));
  });
});

describe("a log that cannot be", () => {
  test("written never throws: the lines that are lost are counted, in problem and later in the log", async () => {
    const { path, log, write } = openLog();
    await write(1);
    expect(log.problem).toBeUndefined();
    renameSync(path, `${path}-moved`);
    mkdirSync(path);
    await write(2, 4);
    expect(log.problem?.code).toBe("log_not_written");
    expect(log.problem?.message).toContain("3 lines are lost");
    rmSync(path, { recursive: true });
    await write(5);
    expect(log.problem).toBeUndefined();
    expect(linesIn(path)).toMatchObject([{ message: "log_lines_lost", lines: 3 }, { number: 5 }]);
  });

  test("copied grows on, says so, and is rotated when it can be", async () => {
    const { path, clock, log, write } = openLog();
    mkdirSync(`${path}.new`);
    await write(1, 40);
    expect(log.problem?.code).toBe("log_not_rotated");
    expect(numbersIn([path])).toEqual(upTo(40));
    expect(filesOf(path)).toEqual([path]);
    rmSync(`${path}.new`, { recursive: true });
    await write(41);
    // Not at every line: a disk that is full would be asked again and again.
    expect(filesOf(path)).toEqual([path]);
    clock.advance(logRotationRetryMs);
    await write(42);
    expect(log.problem).toBeUndefined();
    expect(numbersIn([oldLog(path, 1)])).toEqual(upTo(42));
  });

  describe.skipIf(!canMount)("because the disk is full", () => {
    test("has whole lines only, says how many it lost, and goes on when there is space", async () => {
      const dir = tempDir();
      shrink(dir);
      const { path, clock, log, write } = openLog(
        { bytesMax: 100_000, filesKept: 50 },
        join(dir, "daemon.log"),
      );
      await write(1, 100);
      const makeRoom = fill(dir);
      await write(101, 400);
      expect(log.problem?.message).toContain("no space left");
      makeRoom();
      await write(401, 2_000);
      clock.advance(logRotationRetryMs);
      await write(2_001, 2_010);
      expect(log.problem).toBeUndefined();
      // Part of one line may have got through before the disk was full.
      const text = filesOf(path)
        .map((file) => readFileSync(file, "utf8"))
        .join("");
      const broken = text.split("\n").filter((line) => line !== "" && !line.endsWith("}"));
      expect(broken.length).toBeLessThanOrEqual(1);
      for (const line of broken) expect(line).toStartWith('{"time"');
      const lines = text
        .split("\n")
        .filter((line) => line.endsWith("}"))
        .map((line) => v.parse(Line, JSON.parse(line)));
      const numbers = lines.flatMap(({ number }) => (typeof number === "number" ? [number] : []));
      const lost = lines.find(({ message }) => message === "log_lines_lost")?.lines;
      expect(numbers).toEqual([...new Set(numbers)].toSorted((a, b) => a - b));
      expect(numbers.length + Number(lost)).toBe(2_010);
      expect(filesOf(path).length).toBeGreaterThan(1);
    });
  });
});

describe("a process that is killed", () => {
  test("while it copies leaves a part of a copy, which is thrown away", async () => {
    const { path, write } = openLog({ bytesMax: 1_000_000 });
    await write(1, 10);
    writeFileSync(`${path}.new`, readFileSync(path).subarray(0, 300));
    const again = openLog({}, path);
    expect(existsSync(`${path}.new`)).toBe(false);
    await again.write(11, 30);
    expect(numbersIn(filesOf(path))).toEqual(upTo(30));
  });

  test("between the copy and the emptying leaves everything twice, which is mended, and nothing else is", async () => {
    const { path, write } = openLog({ filesKept: 50 });
    await write(1, 30);
    // As it is at that moment: the older files have moved on, the copy has its name, the log is whole.
    for (const number of oldLogNumbers("daemon.log", readdirSync(dirname(path))).toReversed())
      renameSync(oldLog(path, number), oldLog(path, number + 1));
    copyFileSync(path, oldLog(path, 1));
    appendFileSync(path, logLine(Date.now(), "error", "crashed", {}));
    const again = openLog({ filesKept: 50 }, path);
    expect(existsSync(oldLog(path, 1))).toBe(false);
    await again.write(31, 60);
    expect(numbersIn(filesOf(path))).toEqual(upTo(60));
    expect(
      filesOf(path)
        .flatMap(linesIn)
        .filter(({ message }) => message === "crashed"),
    ).toHaveLength(1);
    // An old file that is not the beginning of the log stays.
    const before = filesOf(path);
    openLog({ filesKept: 50 }, path);
    expect(filesOf(path)).toEqual(before);
  });

  test("again and again, at any moment, has lost and doubled no line that it wrote", async () => {
    const path = join(tempDir(), "daemon.log");
    let last = 0;
    for (let round = 0; round < 6; round++) {
      const child = Bun.spawn(
        [process.execPath, join(import.meta.dir, "write-log.ts"), path, String(last + 1)],
        {
          stdout: "pipe",
          stderr: "inherit",
        },
      );
      let text = "";
      const decoder = new TextDecoder();
      for await (const chunk of child.stdout) {
        text += decoder.decode(chunk, { stream: true });
        // Somewhere among its rotations, each time elsewhere.
        if (text.split("\n").length > 50 + 37 * round) child.kill("SIGKILL");
      }
      await child.exited;
      openLog({ bytesMax: 1_000_000, filesKept: 100 }, path);
      const numbers = numbersIn(filesOf(path));
      const told = Number(text.trimEnd().split("\n").at(-1));
      last = Number(numbers.at(-1));
      expect(last).toBeGreaterThanOrEqual(told);
      expect(numbers).toEqual(upTo(last, Number(numbers[0])));
    }
    expect(numbersIn(filesOf(path))[0]).toBe(1);
  }, 30_000);
});
