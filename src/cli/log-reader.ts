/**
 * Reads the lines of a server's log across its old files, and goes on reading while lines are written and files change: every
 * line once. A file is known by its first line, wherever it has been moved or copied to meanwhile; what was read from a
 * file that changed under our hands is thrown away and read again.
 */
import { closeSync, constants, fstatSync, openSync, readdirSync, readSync } from "node:fs";
import { basename, dirname } from "node:path";
import { MeshError, systemCodeOf } from "~/errors";
import { logLineShownCharsMax } from "~/wire/limits";
import { oldLog, oldLogNumbers } from "~/wire/paths";

const chunkBytes = 64 * 1024;
/** So much of a first line tells files apart: its time is at the beginning. */
const headBytes = 1024;
const attemptsMax = 10;
/** Many times what may be kept (`log.files_kept`). */
const knownMax = 1000;
const newline = 0x0a;

/** A file that is open: what was found in it stays, whatever becomes of its name. */
interface OpenFile {
  fd: number;
  head: string;
  isCurrent: boolean;
}

export class LogReader {
  readonly #path: string;
  /** The first lines of files that need not be begun any more, the ones met last at the end. */
  readonly #known = new Set<string>();
  /** Of the file that was the current one: how far it was read. */
  #place: { head: string; offset: number } | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  /**
   * The newest lines that are `wanted`, oldest first; what comes later is for `next`. Undefined when there is no log at all.
   * `isLast`: nothing will be read after this, so that a line without an end is one, too.
   */
  last(count: number, wanted: (line: string) => boolean, isLast: boolean): string[] | undefined {
    return this.#whileUnchanged((files) => {
      if (files.length === 0) return { value: undefined, commit: () => undefined };
      const lines: string[] = [];
      let place = this.#place;
      for (const file of files.toReversed()) {
        const size = fstatSync(file.fd).size;
        const end = file.isCurrent && !isLast ? endOfLines(file.fd, size) : size;
        if (file.isCurrent) place = { head: file.head, offset: end };
        for (const line of linesBackwards(file.fd, end)) {
          if (lines.length >= count) break;
          if (wanted(line)) lines.push(line);
        }
      }
      return { value: lines.reverse(), commit: () => this.#remember(files, place) };
    });
  }

  /** What was written since, complete lines only. */
  next(): string[] {
    return this.#whileUnchanged((files) => {
      const lines: string[] = [];
      let place: { head: string; offset: number } | undefined;
      for (const file of files) {
        const size = fstatSync(file.fd).size;
        const isPlace = file.head === this.#place?.head;
        if (!isPlace && this.#known.has(file.head)) continue;
        const from = isPlace ? Math.min(this.#place?.offset ?? 0, size) : 0;
        const end = file.isCurrent ? endOfLines(file.fd, size, from) : size;
        lines.push(...linesBetween(file.fd, from, end));
        if (file.isCurrent) place = { head: file.head, offset: end };
      }
      return { value: lines, commit: () => this.#remember(files, place) };
    });
  }

  #remember(files: readonly OpenFile[], place: { head: string; offset: number } | undefined): void {
    // One that was moved on twice while the others were opened is met again only the next time.
    for (const { head } of files) {
      this.#known.delete(head);
      this.#known.add(head);
    }
    for (const head of this.#known) {
      if (this.#known.size <= knownMax) break;
      this.#known.delete(head);
    }
    this.#place = place;
  }

  /** Runs `read` on what there is, again when the current file was emptied meanwhile. */
  #whileUnchanged<T>(read: (files: readonly OpenFile[]) => { value: T; commit: () => void }): T {
    for (let attempt = 1; ; attempt++) {
      const files = openFiles(this.#path);
      try {
        const { value, commit } = read(files);
        const current = files.find(({ isCurrent }) => isCurrent);
        const isSame = current === undefined || headOf(current.fd) === current.head;
        if (!isSame && attempt < attemptsMax) continue;
        commit();
        return value;
      } finally {
        for (const { fd } of files) closeSync(fd);
      }
    }
  }
}

/**
 * Oldest first. Opened newest first: a file that moves on meanwhile may be met twice and is told by its first line, but is
 * never missed. Files without a whole line are left for later.
 */
function openFiles(path: string): OpenFile[] {
  const files: OpenFile[] = [];
  try {
    const numbers = oldLogNumbers(basename(path), namesIn(dirname(path)));
    // One more than there is: they may be moving on right now.
    const last = (numbers.at(-1) ?? 0) + 1;
    for (const name of [path, ...[...numbers, last].map((number) => oldLog(path, number))]) {
      const fd = openIfThere(name);
      if (fd === undefined) continue;
      const head = headOf(fd);
      if (head === undefined || files.some((file) => file.head === head)) closeSync(fd);
      else files.push({ fd, head, isCurrent: name === path });
    }
    return files.reverse();
  } catch (error) {
    for (const { fd } of files) closeSync(fd);
    throw unreadable(path, error);
  }
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return [];
    throw error;
  }
}

function openIfThere(path: string): number | undefined {
  const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
  try {
    return openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

const unreadable = (path: string, error: unknown): MeshError =>
  new MeshError("storage_failed", `cannot read the log ${path} (${systemCodeOf(error) ?? String(error)})`, {
    hint: "It can be read by the user that the daemon runs as.",
    cause: error,
  });

/** The first line, or enough of it; undefined as long as there is none. */
function headOf(fd: number): string | undefined {
  const head = readAt(fd, 0, headBytes);
  const end = head.indexOf(newline);
  if (end === -1 && head.length < headBytes) return undefined;
  return head.toString("latin1", 0, end === -1 ? head.length : end);
}

function readAt(fd: number, position: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  return bytes.subarray(0, readSync(fd, bytes, 0, length, position));
}

/** Behind the last line that has an end; `from` when there is none after it. */
function endOfLines(fd: number, size: number, from = 0): number {
  for (let end = size; end > from; ) {
    const start = Math.max(from, end - chunkBytes);
    const found = readAt(fd, start, end - start).lastIndexOf(newline);
    if (found >= 0) return start + found + 1;
    end = start;
  }
  return from;
}

function* linesBetween(fd: number, from: number, end: number): Generator<string> {
  let rest: Buffer = Buffer.alloc(0);
  for (let position = from; position < end; ) {
    const chunk = readAt(fd, position, Math.min(chunkBytes, end - position));
    if (chunk.length === 0) break;
    position += chunk.length;
    let start = 0;
    for (let at = chunk.indexOf(newline); at >= 0; at = chunk.indexOf(newline, start)) {
      yield* shown(Buffer.concat([rest, chunk.subarray(start, at)]));
      rest = Buffer.alloc(0);
      start = at + 1;
    }
    // Of a line without end, only what is shown is kept.
    if (rest.length < bytesShownMax) rest = Buffer.concat([rest, chunk.subarray(start)]);
  }
  yield* shown(rest);
}

function* linesBackwards(fd: number, size: number): Generator<string> {
  let rest: Buffer = Buffer.alloc(0);
  for (let end = size; end > 0; ) {
    const start = Math.max(0, end - chunkBytes);
    const chunk = readAt(fd, start, end - start);
    let stop = chunk.length;
    for (let at = chunk.lastIndexOf(newline, stop - 1); at >= 0 && stop > 0; ) {
      yield* shown(Buffer.concat([chunk.subarray(at + 1, stop), rest]));
      rest = Buffer.alloc(0);
      stop = at;
      at = at === 0 ? -1 : chunk.lastIndexOf(newline, at - 1);
    }
    rest = Buffer.concat([chunk.subarray(0, stop), rest]).subarray(0, bytesShownMax);
    end = start;
  }
  yield* shown(rest);
}

const bytesShownMax = 4 * logLineShownCharsMax;

function* shown(bytes: Buffer): Generator<string> {
  const text = bytes.toString("utf8").trimEnd();
  if (text === "") return;
  yield text.length > logLineShownCharsMax ? `${text.slice(0, logLineShownCharsMax)}…` : text;
}
