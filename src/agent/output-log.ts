/**
 * The raw output of an agent in a file, for its owner alone. At its largest size the older half is cut off, so that the file always ends
 * with the newest. A log that cannot be written is told of, once, and tried again now and then: the agent goes on.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  renameSync,
  writeSync,
} from "node:fs";
import type { Clock } from "~/clock";
import { removeFile, storageError } from "~/disk/file";
import { MeshError } from "~/errors";
import { logRotationRetryMs } from "~/wire/limits";

export interface OutputLogOptions {
  path: string;
  bytesMax: number;
  clock: Clock;
  /** Told when it begins to fail. */
  warn(message: string): void;
}

const chunkBytes = 1024 * 1024;

export class OutputLog {
  readonly #options: OutputLogOptions;
  #fd: number;
  #size: number;
  #notBeforeMs = Number.NEGATIVE_INFINITY;
  #isFailing = false;

  /** Goes on with a file that is there. Throws `storage_*`, and `path_unsafe` for what is no file. */
  constructor(options: OutputLogOptions) {
    this.#options = options;
    this.#fd = openToAppend(options.path);
    this.#size = fstatSync(this.#fd).size;
  }

  write(bytes: Uint8Array): void {
    const { bytesMax, clock } = this.#options;
    const nowMs = clock.monotonicMs();
    if (nowMs < this.#notBeforeMs) return;
    try {
      // Of more than fits at all, the end.
      const part = bytes.length > bytesMax / 2 ? bytes.subarray(bytes.length - bytesMax / 2) : bytes;
      if (this.#size + part.length > bytesMax) this.#cut(Math.floor(bytesMax / 2));
      for (let written = 0; written < part.length; ) {
        const count = writeSync(this.#fd, part, written);
        written += count;
        this.#size += count;
      }
      this.#isFailing = false;
    } catch (error) {
      this.#notBeforeMs = nowMs + logRotationRetryMs;
      if (this.#isFailing) return;
      this.#isFailing = true;
      const { message } = storageError(`cannot write the agent's output to ${this.#options.path}`, error);
      this.#options.warn(`${message}; it is tried again every ${logRotationRetryMs / 1000} s`);
    }
  }

  close(): void {
    this.#notBeforeMs = Number.POSITIVE_INFINITY;
    closeSync(this.#fd);
  }

  /** Leaves the last bytes. They are copied to a new file that takes the old one's place, so that a reader never sees half of it. */
  #cut(keptBytes: number): void {
    const { path } = this.#options;
    const copy = `${path}.new`;
    removeFile(copy);
    const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW, O_APPEND } = constants;
    const to = openSync(copy, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_APPEND, 0o600);
    try {
      const size = copyEnd(this.#fd, to, Math.max(0, this.#size - keptBytes));
      renameSync(copy, path);
      closeSync(this.#fd);
      this.#fd = to;
      this.#size = size;
    } catch (error) {
      closeSync(to);
      removeFile(copy);
      // With no room for the copy there is room in the file itself, once it is emptied.
      ftruncateSync(this.#fd, 0);
      this.#size = 0;
      throw error;
    }
  }
}

function copyEnd(from: number, to: number, start: number): number {
  const chunk = Buffer.alloc(chunkBytes);
  let copied = 0;
  for (;;) {
    const bytesRead = readSync(from, chunk, 0, chunk.length, start + copied);
    if (bytesRead === 0) return copied;
    for (let written = 0; written < bytesRead; )
      written += writeSync(to, chunk, written, bytesRead - written);
    copied += bytesRead;
  }
}

function openToAppend(path: string): number {
  const { O_RDWR, O_CREAT, O_APPEND, O_NOFOLLOW, O_NONBLOCK } = constants;
  let fd: number;
  try {
    fd = openSync(path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK, 0o600);
  } catch (error) {
    throw storageError(`cannot write the agent's output to ${path}`, error);
  }
  const status = fstatSync(fd);
  if (!status.isFile()) {
    closeSync(fd);
    throw new MeshError("path_unsafe", `${path} is not a file`, { hint: "Choose another with --log." });
  }
  if ((status.mode & 0o077) !== 0) fchmodSync(fd, 0o600);
  return fd;
}
