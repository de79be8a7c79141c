/**
 * The log file of a server, and what becomes of it in months: when it has grown too large or too old it is copied to
 * `….log.1` (the older ones move on to 2, 3, …) and emptied. It is emptied and not replaced because standard error, inherited
 * and opened for appending, is the same file: what the runtime says when it crashes still lands there. Most of the copy is made
 * beside the daemon's work; the last of it, the renames and the emptying are one step that no line can come between.
 *
 * Killed in the middle, the copy is unfinished and thrown away, or whole and found equal to the log, and then thrown away. A log
 * that cannot be written or copied (a full disk) never throws: lines that went nowhere are counted, and `problem` tells.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  type Stats,
  statSync,
  writeSync,
} from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { basename, dirname } from "node:path";
import type { Clock } from "~/clock";
import { removeFile, storageError } from "~/disk/file";
import { messageOf } from "~/errors";
import { type LogFields, type LogLevel, logLine } from "~/log";
import {
  logBacklogBytesMax,
  logFileBytesMax,
  logFileDaysMax,
  logFilesKept,
  logRotationRetryMs,
} from "~/wire/limits";
import { oldLog, oldLogNumbers } from "~/wire/paths";

export interface LogLimits {
  /** A file beyond this is done with. */
  bytesMax: number;
  /** So is one whose first line is older. */
  daysMax: number;
  /** How many old files stay. */
  filesKept: number;
}

export const defaultLogLimits: LogLimits = {
  bytesMax: logFileBytesMax,
  daysMax: logFileDaysMax,
  filesKept: logFilesKept,
};

export interface LogProblem {
  code: "log_not_written" | "log_not_rotated";
  message: string;
  hint: string;
}

/** Where the lines of a log go. */
export interface LogSink {
  write(line: string): void;
  /** What keeps the log from being whole; undefined when nothing does. */
  readonly problem: LogProblem | undefined;
}

interface LogSinkOptions {
  /** Where the log of this server is when it runs in the background. */
  path: string;
  clock: Clock;
  /** Asked whenever it matters. Default: the usual ones. */
  limits?: () => LogLimits;
}

/**
 * Standard error as the place of the log: looked after when it is the file at `path`, and else left to whoever reads it.
 * Never throws.
 */
export function openStderrLog({ path, clock, limits = () => defaultLogLimits }: LogSinkOptions): LogSink {
  const stream = new StderrStream(clock);
  try {
    const status = statusOf(path);
    if (status !== undefined && isSameFile(status, fstatSync(2))) return new LogFile(path, clock, limits);
    if (status?.isFile()) noteElsewhere(path, clock);
  } catch (error) {
    // Standard error still takes the lines.
    const { message } = storageError(`cannot use the log file ${path}`, error);
    stream.write(logLine(clock.now(), "warn", "log_file_not_used", { error: message }));
  }
  return stream;
}

/** A log file that this process alone writes. */
export class LogFile implements LogSink {
  readonly #path: string;
  readonly #clock: Clock;
  readonly #limits: () => LogLimits;
  #fd: number;
  /** The time of the file's first line; undefined while it is empty. */
  #beganAtMs: number | undefined;
  /** The last thing in the file is part of a line. */
  #isTorn = false;
  #linesLost = 0;
  #writeProblem: LogProblem | undefined;
  #rotationProblem: LogProblem | undefined;
  #rotating: Promise<void> | undefined;
  #noRotationBeforeMs = 0;

  /** Throws what opening the file throws. */
  constructor(path: string, clock: Clock, limits: () => LogLimits) {
    this.#path = path;
    this.#clock = clock;
    this.#limits = limits;
    this.#fd = openToAppend(path);
    try {
      removeFile(unfinishedCopy(path));
      if (isBeginningOf(oldLog(path, 1), path)) removeFile(oldLog(path, 1));
      this.#beganAtMs = beginningOf(path);
    } catch (error) {
      this.#rotationFailed(error);
    }
  }

  get problem(): LogProblem | undefined {
    return this.#writeProblem ?? this.#rotationProblem;
  }

  /** Resolves when no old file is being made. */
  async settled(): Promise<void> {
    await this.#rotating;
  }

  write(line: string): void {
    try {
      this.#followPath();
      if (this.#isFlooded()) {
        this.#linesLost++;
        return;
      }
      if (this.#linesLost > 0) {
        this.#put(this.#line("warn", "log_lines_lost", { lines: this.#linesLost }));
        this.#linesLost = 0;
      }
      this.#put(line);
      this.#writeProblem = undefined;
    } catch (error) {
      this.#linesLost++;
      this.#writeProblem = {
        code: "log_not_written",
        message: `${storageError(`cannot write to the log ${this.#path}`, error).message}; ${this.#linesLost} lines are lost`,
        hint: `Make room on its disk and check who owns it: ls -l '${this.#path}'. Everything else goes on.`,
      };
    }
    try {
      this.#rotateIfDue();
    } catch (error) {
      this.#rotationFailed(error);
    }
  }

  close(): void {
    this.#noRotationBeforeMs = Number.POSITIVE_INFINITY;
    closeSync(this.#fd);
  }

  /** Who makes us log faster than an old file can be made must not fill the disk: the copy would never come to an end. */
  #isFlooded(): boolean {
    if (this.#rotating === undefined) return false;
    return fstatSync(this.#fd).size > this.#limits().bytesMax + logBacklogBytesMax;
  }

  #line(level: LogLevel, message: string, fields: LogFields): string {
    return logLine(this.#clock.now(), level, message, fields);
  }

  /** A line whole, or, when that fails, a mark that the next one begins behind a part of it. */
  #put(line: string): void {
    const bytes = Buffer.from(this.#isTorn ? `\n${line}` : line);
    let written = 0;
    try {
      while (written < bytes.length) written += writeSync(this.#fd, bytes, written);
      this.#isTorn = false;
    } catch (error) {
      if (written > 0) this.#isTorn = bytes[written - 1] !== newline;
      throw error;
    }
    this.#beganAtMs ??= this.#clock.now();
  }

  /** Somebody moved or removed the file: lines go where people look for them. */
  #followPath(): void {
    const there = statusOf(this.#path);
    if (there !== undefined && isSameFile(there, fstatSync(this.#fd))) return;
    // With its directory gone as well, the file may still be read where that was moved.
    if (there === undefined && statusOf(dirname(this.#path)) === undefined) return;
    const fd = openToAppend(this.#path);
    closeSync(this.#fd);
    this.#fd = fd;
    this.#isTorn = false;
    this.#beganAtMs = beginningOf(this.#path);
  }

  // ── Old files ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #rotateIfDue(): void {
    if (this.#rotating !== undefined || this.#clock.monotonicMs() < this.#noRotationBeforeMs) return;
    const { bytesMax, daysMax } = this.#limits();
    const ageMs = this.#clock.now() - (this.#beganAtMs ?? this.#clock.now());
    if (ageMs < daysMax * dayMs && fstatSync(this.#fd).size <= bytesMax) return;
    this.#rotating = this.#rotate()
      .then(() => {
        this.#rotationProblem = undefined;
      })
      .catch((error: unknown) => this.#rotationFailed(error))
      .finally(() => {
        this.#rotating = undefined;
      });
  }

  #rotationFailed(error: unknown): void {
    this.#noRotationBeforeMs = this.#clock.monotonicMs() + logRotationRetryMs;
    this.#rotationProblem = {
      code: "log_not_rotated",
      message: storageError(`cannot begin a new log file for ${this.#path}`, error).message,
      hint: `The old one grows on meanwhile. Make room on its disk and check its directory: ls -ld '${dirname(this.#path)}'`,
    };
  }

  async #rotate(): Promise<void> {
    if (this.#limits().filesKept === 0) {
      removeOldLogs(this.#path, 0);
      return this.#begin();
    }
    const copy = unfinishedCopy(this.#path);
    removeFile(copy);
    const { O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
    const from = await open(this.#path, O_RDONLY | O_NOFOLLOW);
    let to: FileHandle | undefined;
    try {
      to = await open(copy, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
      const copied = await copyMost(from, to);
      await to.datasync();
      this.#finish(from.fd, to.fd, copied);
    } catch (error) {
      removeFile(copy);
      throw error;
    } finally {
      await from.close();
      await to?.close();
    }
  }

  /** From here on nothing waits: no line comes between the end of the copy and the emptying of what was copied. */
  #finish(from: number, to: number, copied: number): void {
    if (!isSameFile(fstatSync(from), fstatSync(this.#fd))) throw new Error("the log was replaced meanwhile");
    copyRest(from, to, copied);
    makeWay(this.#path, this.#limits().filesKept);
    renameSync(unfinishedCopy(this.#path), oldLog(this.#path, 1));
    this.#begin();
  }

  /** Every file begins with a line of its own, by which readers tell it from the others, and whose time is its age. */
  #begin(): void {
    ftruncateSync(this.#fd, 0);
    this.#isTorn = false;
    this.#beganAtMs = undefined;
    this.#put(this.#line("info", "log_begun", { pid: process.pid }));
  }
}

/** A terminal, a pipe, the journal, or a file that somebody else looks after. */
class StderrStream implements LogSink {
  readonly #clock: Clock;
  #waitingBytes = 0;
  #linesLost = 0;
  #why: string | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
    // Each write is told of its failure; as an event without a listener it would end the process.
    if (process.stderr.listenerCount("error", ignore) === 0) process.stderr.on("error", ignore);
  }

  get problem(): LogProblem | undefined {
    if (this.#why === undefined) return undefined;
    return {
      code: "log_not_written",
      message: `cannot write the log to standard error: ${this.#why}; ${this.#linesLost} lines are lost`,
      hint: "Whoever reads it has stopped reading, or its disk is full. Everything else goes on.",
    };
  }

  write(line: string): void {
    const bytes = Buffer.byteLength(line);
    if (this.#waitingBytes + bytes > logBacklogBytesMax) {
      this.#linesLost++;
      this.#why = `${logBacklogBytesMax} bytes wait to be read`;
      return;
    }
    if (this.#linesLost > 0 && this.#why === undefined) {
      const lost = { lines: this.#linesLost };
      this.#linesLost = 0;
      this.write(logLine(this.#clock.now(), "warn", "log_lines_lost", lost));
    }
    this.#waitingBytes += bytes;
    process.stderr.write(line, (error) => {
      this.#waitingBytes -= bytes;
      if (error == null) this.#why = undefined;
      else {
        this.#linesLost++;
        this.#why = messageOf(error);
      }
    });
  }
}

const ignore = (): void => undefined;

/** Who looks into a file that is not written any more shall find out why. */
function noteElsewhere(path: string, clock: Clock): void {
  if (lastBytes(path).includes('"log_elsewhere"')) return;
  const where = isJournal() ? "the journal" : "standard error";
  const fd = openToAppend(path);
  try {
    writeSync(fd, logLine(clock.now(), "info", "log_elsewhere", { pid: process.pid, where }));
  } finally {
    closeSync(fd);
  }
}

/** As systemd.exec(5) has it: JOURNAL_STREAM names the device and inode of the journal's socket. */
function isJournal(): boolean {
  const { dev, ino } = fstatSync(2);
  return process.env.JOURNAL_STREAM === `${dev}:${ino}`;
}

// ── Files ────────────────────────────────────────────────────────────────────────────────────────────────────────────

const dayMs = 24 * 3600 * 1000;
const newline = 0x0a;
const chunkBytes = 256 * 1024;
/** The first line of a file with a time is looked for in so much of it. */
const headBytes = 64 * 1024;

const unfinishedCopy = (path: string): string => `${path}.new`;

const statusOf = (path: string): Stats | undefined => statSync(path, { throwIfNoEntry: false });

const isSameFile = (a: Stats, b: Stats): boolean => a.dev === b.dev && a.ino === b.ino;

/** Its owner's alone, whoever made it; never through a symbolic link, and never something that would keep us waiting. */
function openToAppend(path: string): number {
  const { O_WRONLY, O_CREAT, O_APPEND, O_NOFOLLOW, O_NONBLOCK } = constants;
  const fd = openSync(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK, 0o600);
  try {
    const status = fstatSync(fd);
    if (!status.isFile()) throw new Error("not a file");
    if ((status.mode & 0o077) !== 0) fchmodSync(fd, 0o600);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Copies until only little is left, while more may be appended; returns how much was copied. */
async function copyMost(from: FileHandle, to: FileHandle): Promise<number> {
  const chunk = Buffer.alloc(chunkBytes);
  for (let copied = 0; ; ) {
    const { bytesRead } = await from.read(chunk, 0, chunk.length, copied);
    for (let written = 0; written < bytesRead; )
      written += (await to.write(chunk, written, bytesRead - written)).bytesWritten;
    copied += bytesRead;
    if (bytesRead < chunk.length) return copied;
  }
}

function copyRest(from: number, to: number, copied: number): void {
  const chunk = Buffer.alloc(chunkBytes);
  for (let position = copied; ; ) {
    const bytesRead = readSync(from, chunk, 0, chunk.length, position);
    if (bytesRead === 0) return;
    for (let written = 0; written < bytesRead; )
      written += writeSync(to, chunk, written, bytesRead - written);
    position += bytesRead;
  }
}

/** Frees number 1. A gap that a killed process left is filled; what is more than `kept` goes. */
function makeWay(path: string, kept: number): void {
  const present = oldLogNumbers(basename(path), readdirSync(dirname(path)));
  let free = 1;
  while (present.includes(free) && free < kept) free++;
  for (let number = free; number > 1; number--) renameSync(oldLog(path, number - 1), oldLog(path, number));
  removeOldLogs(path, kept);
}

function removeOldLogs(path: string, kept: number): void {
  for (const number of oldLogNumbers(basename(path), readdirSync(dirname(path))))
    if (number > kept) removeFile(oldLog(path, number));
}

/** Whether the log begins with all that is in `old`: then a process was killed between the copy and the emptying. */
function isBeginningOf(old: string, path: string): boolean {
  const size = statusOf(old)?.size;
  if (size === undefined || size === 0 || size > (statusOf(path)?.size ?? 0)) return false;
  const [a, b] = [openSync(old, "r"), openSync(path, "r")];
  try {
    const [left, right] = [Buffer.alloc(chunkBytes), Buffer.alloc(chunkBytes)];
    for (let position = 0; position < size; ) {
      const wanted = Math.min(chunkBytes, size - position);
      const read = readSync(a, left, 0, wanted, position);
      if (read === 0 || readSync(b, right, 0, read, position) !== read) return false;
      if (!left.subarray(0, read).equals(right.subarray(0, read))) return false;
      position += read;
    }
    return true;
  } finally {
    closeSync(a);
    closeSync(b);
  }
}

/** When the first line was written that tells its time; when none does, when the file was made. Undefined for an empty file. */
function beginningOf(path: string): number | undefined {
  const fd = openSync(path, "r");
  try {
    const { size, birthtimeMs, mtimeMs } = fstatSync(fd);
    if (size === 0) return undefined;
    const head = Buffer.alloc(Math.min(size, headBytes));
    const text = head.toString("utf8", 0, readSync(fd, head, 0, head.length, 0));
    const [, time = ""] = /^\{"time":"([^"]+)"/m.exec(text) ?? [];
    const atMs = Date.parse(time);
    return Number.isNaN(atMs) ? birthtimeMs || mtimeMs : atMs;
  } finally {
    closeSync(fd);
  }
}

function lastBytes(path: string): string {
  const fd = openSync(path, "r");
  try {
    const { size } = fstatSync(fd);
    const tail = Buffer.alloc(Math.min(size, 256));
    return tail.toString("utf8", 0, readSync(fd, tail, 0, tail.length, size - tail.length));
  } finally {
    closeSync(fd);
  }
}
