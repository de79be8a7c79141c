import { describe, expect, test } from "bun:test";
import { appendFileSync, copyFileSync, mkdirSync, renameSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { daemonLogs } from "~/cli/daemon/logs";
import { LogReader } from "~/cli/log-reader";
import { LogFile } from "~/disk/log-file";
import { logLine } from "~/log";
import { oldLog } from "~/wire/paths";
import { cleanup } from "../../support/cleanup";
import { FakeClock } from "../../support/fake-clock";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";
import { type CaptureOptions, capturedHost } from "./captured-host";
import { startSource } from "./source-cli";

const clock = new FakeClock();

const numbered = (number: number, level: "info" | "warn" = "info"): string => {
  clock.advance(1);
  return logLine(clock.now(), level, "numbered", { number });
};

const all = (): boolean => true;
const Numbered = v.looseObject({ number: v.number() });
const numberOf = (line: unknown): number[] => {
  const parsed = v.safeParse(Numbered, line);
  return parsed.success ? [parsed.output.number] : [];
};
const numbersIn = (lines: readonly string[]): number[] => lines.flatMap((line) => numberOf(JSON.parse(line)));
const upTo = (last: number, first = 1): number[] =>
  Array.from({ length: last - first + 1 }, (_, at) => first + at);

function hostWithLog(options?: CaptureOptions) {
  const host = capturedHost(options);
  mkdirSync(host.paths.daemonDir);
  return { host, log: join(host.paths.daemonDir, "daemon.log") };
}

describe("the last lines", () => {
  test("come from as many old files as it takes, in order", async () => {
    const { host, log } = hostWithLog({ json: true });
    const file = new LogFile(log, clock, () => ({ bytesMax: 700, daysMax: 7, filesKept: 20 }));
    cleanup(() => file.close());
    for (const number of upTo(60)) {
      file.write(numbered(number));
      await file.settled();
    }
    for (const count of [0, 1, 7, 33, 100]) {
      host.answers.length = 0;
      await daemonLogs.execute(["-n", String(count)], host);
      if (count < 60) expect(host.answers).toHaveLength(count);
      const numbers = host.answers.flatMap(numberOf);
      expect(numbers).toEqual(upTo(60, 61 - numbers.length));
      if (count === 100) expect(numbers).toHaveLength(60);
    }
  });

  test("of a level are found behind many others; lines that are no lines of ours are errors", async () => {
    const { host, log } = hostWithLog({ json: true });
    const quiet = Array.from({ length: 5_000 }, (_, at) => numbered(at + 10)).join("");
    writeFileSync(log, `${numbered(1, "warn")}panic: oh "no"\n\n${quiet}${numbered(2, "warn")}the end`);
    await daemonLogs.execute(["--lines", "3", "--level", "warn"], host);
    expect(host.answers).toMatchObject([
      { level: "error", message: 'panic: oh "no"' },
      { level: "warn", number: 2 },
      { level: "error", message: "the end" },
    ]);
    host.answers.length = 0;
    await daemonLogs.execute(["--level", "warn"], host);
    expect(host.answers).toHaveLength(4);
  });

  test("are readable, one a line, and steer no terminal", async () => {
    const { host, log } = hostWithLog();
    writeFileSync(
      log,
      `${logLine(clock.now(), "warn", "link_status", { mesh: "team", error: "it \u001b[31mfailed\nbadly", missing: [] })}\u001b[2Jpanic\n{"level":"info","message":{"toString":1}}\n`,
    );
    await daemonLogs.execute([], host);
    expect(host.answers).toEqual([
      expect.stringMatching(
        /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d {2}warn {3}link_status {2}mesh=team {2}error="it \\u001b\[31mfailed\\nbadly" {2}missing=\[\]$/,
      ),
      "\\x1b[2Jpanic",
      '{"toString":1}',
    ]);
  });

  test("longer than any buffer, cut in the middle of characters by it, are whole or told to be cut", () => {
    const path = join(tempDir(), "daemon.log");
    const long = Array.from({ length: 40 }, (_, at) => `${at} ${"é€😀".repeat(700 + at)}`);
    const endless = "x".repeat(400_000);
    writeFileSync(path, `${[...long, endless, "after"].join("\n")}\n`);
    const expected = [...long, `${endless.slice(0, 65_536)}…`, "after"];
    expect(new LogReader(path).last(1_000, all, true)).toEqual(expected);
    const reader = new LogReader(path);
    writeFileSync(path, "");
    expect(reader.last(10, all, false)).toBeUndefined();
    writeFileSync(path, `${[...long, endless, "after"].join("\n")}\n`);
    expect(reader.next()).toEqual(expected);
  });

  test("without any log: the command says where it may be", async () => {
    const { host } = hostWithLog();
    await expect(daemonLogs.execute([], host)).rejects.toMatchObject({
      code: "no_log",
      hint: expect.stringContaining("journalctl --user -t claudemesh"),
    });
  });

  test("that end with a move to elsewhere: the command says where to look", async () => {
    const { host, log } = hostWithLog();
    writeFileSync(log, logLine(clock.now(), "info", "log_elsewhere", { where: "the journal" }));
    await daemonLogs.execute([], host);
    expect(host.notes.join()).toContain("journalctl");
  });
});

describe("a reader that follows", () => {
  /** Every way in which a file may have changed between two looks. */
  test("gets every line once, however many rotations there were between two looks", async () => {
    const path = join(tempDir(), "daemon.log");
    const file = new LogFile(path, clock, () => ({ bytesMax: 600, daysMax: 7, filesKept: 50 }));
    cleanup(() => file.close());
    const reader = new LogReader(path);
    expect(reader.last(10, all, false)).toBeUndefined();
    const seen: number[] = [];
    let number = 0;
    for (const batch of [1, 0, 1, 3, 20, 1, 60, 2, 0, 0, 7, 40, 1, 1, 1]) {
      for (let at = 0; at < batch; at++) {
        file.write(numbered(++number));
        await file.settled();
      }
      seen.push(...numbersIn(reader.next()));
      expect(seen).toEqual(upTo(number));
    }
  });

  test("is not misled by a rotation that has got half-way, nor by one that was killed there", () => {
    const path = join(tempDir(), "daemon.log");
    writeFileSync(path, numbered(1) + numbered(2));
    const reader = new LogReader(path);
    expect(numbersIn(reader.last(1, all, false) ?? [])).toEqual([2]);
    appendFileSync(path, numbered(3));
    copyFileSync(path, oldLog(path, 1));
    expect(numbersIn(reader.next())).toEqual([3]);
    appendFileSync(path, numbered(4));
    expect(numbersIn(reader.next())).toEqual([4]);
    copyFileSync(path, oldLog(path, 1));
    truncateSync(path);
    expect(reader.next()).toEqual([]);
    appendFileSync(path, numbered(5));
    expect(numbersIn(reader.next())).toEqual([5]);
    renameSync(oldLog(path, 1), oldLog(path, 2));
    copyFileSync(path, oldLog(path, 1));
    writeFileSync(path, numbered(6));
    expect(numbersIn(reader.next())).toEqual([6]);
  });

  test("does not begin a file anew that it once looked past, because it was moved on meanwhile", () => {
    const path = join(tempDir(), "daemon.log");
    writeFileSync(oldLog(path, 2), numbered(1));
    writeFileSync(oldLog(path, 1), numbered(2));
    writeFileSync(path, numbered(3));
    const reader = new LogReader(path);
    expect(numbersIn(reader.last(10, all, false) ?? [])).toEqual([1, 2, 3]);
    renameSync(oldLog(path, 2), join(path, "..", "out of sight"));
    appendFileSync(path, numbered(4));
    expect(numbersIn(reader.next())).toEqual([4]);
    renameSync(join(path, "..", "out of sight"), oldLog(path, 2));
    expect(reader.next()).toEqual([]);
  });

  test("takes no part of a line, and all that was left behind when the file was emptied by hand", () => {
    const path = join(tempDir(), "daemon.log");
    const [first, second] = [numbered(1), numbered(2)];
    writeFileSync(path, first + second.slice(0, 20));
    const reader = new LogReader(path);
    expect(reader.last(10, all, false)).toEqual([first.trim()]);
    expect(reader.next()).toEqual([]);
    appendFileSync(path, second.slice(20));
    expect(numbersIn(reader.next())).toEqual([2]);
    writeFileSync(path, "");
    expect(reader.next()).toEqual([]);
    appendFileSync(path, numbered(3));
    expect(numbersIn(reader.next())).toEqual([3]);
  });
});

describe("daemon logs -f", () => {
  test("shows what is written while files change under it, every line once, until it is interrupted", async () => {
    const { host, log } = hostWithLog({ json: true });
    const file = new LogFile(log, clock, () => ({ bytesMax: 2_000, daysMax: 7, filesKept: 50 }));
    cleanup(() => file.close());
    for (const number of upTo(30)) file.write(numbered(number));
    await file.settled();
    const following = daemonLogs.execute(["-f", "-n", "5"], host);
    await waitFor(() => host.answers.length >= 5, { what: "the last lines" });
    for (const number of upTo(400, 31)) {
      file.write(numbered(number));
      if (number % 40 === 0)
        await waitFor(() => host.answers.flatMap(numberOf).includes(number), { what: "it" });
    }
    await waitFor(() => host.answers.flatMap(numberOf).includes(400), { what: "the last line" });
    const numbers = host.answers.flatMap(numberOf);
    expect(numbers).toEqual(upTo(400, Number(numbers[0])));
    expect(Number(numbers[0])).toBeGreaterThanOrEqual(26);
    host.interrupt();
    expect(await following).toBe(0);
  });

  test("waits for a log that is not there yet, and for its directory", async () => {
    const host = capturedHost({ json: true });
    const following = daemonLogs.execute(["--follow"], host);
    await waitFor(() => host.notes.length > 0, { what: "it to say so" });
    expect(host.notes.join()).toContain("nothing is logged");
    mkdirSync(host.paths.daemonDir);
    writeFileSync(join(host.paths.daemonDir, "daemon.log"), numbered(1));
    await waitFor(() => host.answers.length === 1, { what: "the line" });
    host.interrupt();
    await following;
  });

  test("ends with 130 on Ctrl-C, and quietly when nobody reads it any more", async () => {
    const dir = tempDir();
    mkdirSync(join(dir, "daemon"));
    const log = join(dir, "daemon", "daemon.log");
    writeFileSync(log, numbered(1));
    const start = () => startSource(["daemon", "logs", "-f"], { env: { CLAUDEMESH_CONFIG_DIR: dir } });
    const interrupted = start();
    const reader = interrupted.stdout.getReader();
    await reader.read();
    interrupted.kill("SIGINT");
    expect(await interrupted.exited).toBe(130);

    const cut = start();
    const cutReader = cut.stdout.getReader();
    await cutReader.read();
    await cutReader.cancel();
    let number = 1;
    await waitFor(
      () => {
        appendFileSync(log, numbered(++number));
        return cut.exitCode !== null;
      },
      { what: "it to notice" },
    );
    expect([await cut.exited, await cut.stderr.text()]).toEqual([0, ""]);
  });
});
