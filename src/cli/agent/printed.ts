/**
 * What an agent has printed, as lines of text: read off the raw log of its terminal, without colours and cursor movements. Of a line that
 * was written over, what stood there last is shown, as far as returns can tell; a program that paints its screen prints more than it
 * shows.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { stripVTControlCharacters } from "node:util";
import { MeshError, systemCodeOf } from "~/errors";
import { logLineShownCharsMax } from "~/wire/limits";

const chunkBytes = 256 * 1024;
const newline = 0x0a;
const tailBytes = 4096;
/** Of a line without end, so much is kept. */
const lineBytesMax = 4 * logLineShownCharsMax;

export class PrintedLines {
  readonly #path: string;
  #offset = 0;
  /** Which file the offset is in: the log is replaced when it is cut. */
  #inode: number | undefined;
  #rest: Buffer = Buffer.alloc(0);
  /** The last bytes that were read: where they stand in a new file, we were. */
  #tail: Buffer = Buffer.alloc(0);

  constructor(path: string) {
    this.#path = path;
  }

  /** The newest lines, oldest first; what is printed later is for `next`. Undefined when there is no log. */
  last(count: number): string[] | undefined {
    const fd = openIfThere(this.#path);
    if (fd === undefined) return undefined;
    try {
      const { size, ino } = fstatSync(fd);
      this.#inode = ino;
      this.#offset = size;
      this.#tail = readBetween(fd, Math.max(0, size - tailBytes), size);
      if (count === 0) return [];
      const start = startOfLast(fd, size, count);
      // What comes next goes on with the last line, if it has no end yet; it is shown now all the same, for it may be a prompt.
      return shownLines(readBetween(fd, start, size)).slice(-count);
    } finally {
      closeSync(fd);
    }
  }

  /** What was printed since, complete lines only. */
  next(): string[] {
    const fd = openIfThere(this.#path);
    if (fd === undefined) return [];
    try {
      const { size, ino } = fstatSync(fd);
      if (ino !== this.#inode || size < this.#offset) {
        this.#inode = ino;
        this.#offset = this.#placeIn(readBetween(fd, 0, size));
        if (this.#offset === 0) this.#rest = Buffer.alloc(0);
      }
      const read = readBetween(fd, this.#offset, size);
      this.#offset += read.length;
      this.#tail = Buffer.concat([this.#tail, read]).subarray(-tailBytes);
      const news = Buffer.concat([this.#rest, read]);
      const end = news.lastIndexOf(newline) + 1;
      this.#rest = news.subarray(end).subarray(-lineBytesMax);
      return end === 0 ? [] : shownLines(news.subarray(0, end - 1));
    } finally {
      closeSync(fd);
    }
  }

  /** The log was cut: its newer half is in a new file, and with it what we read last. */
  #placeIn(content: Buffer): number {
    const at = this.#tail.length === 0 ? -1 : content.lastIndexOf(this.#tail);
    return at === -1 ? 0 : at + this.#tail.length;
  }
}

function openIfThere(path: string): number | undefined {
  const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
  try {
    const fd = openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    if (fstatSync(fd).isFile()) return fd;
    closeSync(fd);
    throw new Error("not a file");
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return undefined;
    throw new MeshError("storage_failed", `cannot read ${path} (${systemCodeOf(error) ?? String(error)})`, {
      hint: "Check who owns the file and its permissions.",
      cause: error,
    });
  }
}

/** Where the last `count` lines begin. */
function startOfLast(fd: number, size: number, count: number): number {
  let left = count;
  for (let end = size; end > 0; ) {
    const start = Math.max(0, end - chunkBytes);
    const chunk = readBetween(fd, start, end);
    for (let at = chunk.length - 1; at >= 0; at--) {
      // The last one's own end does not count.
      if (chunk[at] !== newline || start + at === size - 1) continue;
      left -= 1;
      if (left <= 0) return start + at + 1;
    }
    end = start;
  }
  return 0;
}

function readBetween(fd: number, start: number, end: number): Buffer {
  const bytes = Buffer.alloc(Math.max(0, end - start));
  let filled = 0;
  while (filled < bytes.length) {
    const read = readSync(fd, bytes, filled, bytes.length - filled, start + filled);
    if (read === 0) break;
    filled += read;
  }
  return bytes.subarray(0, filled);
}

export function shownLines(bytes: Uint8Array): string[] {
  const text = stripVTControlCharacters(Buffer.from(bytes).toString("utf8"));
  const lines = text.split("\n").map(shownLine);
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

/** What a return sends the cursor back for is written over what stood there. */
function shownLine(line: string): string {
  let shown = "";
  for (const part of line.replace(/\r+$/, "").split("\r")) shown = part + shown.slice(part.length);
  return shown.length > logLineShownCharsMax ? `${shown.slice(0, logLineShownCharsMax)}…` : shown.trimEnd();
}
