/**
 * Prints on a terminal in the background and in order. Bun's own standard output waits for a terminal that takes nothing, and sees
 * nothing of what is typed meanwhile, Ctrl-C least of all.
 */
import { write } from "node:fs";
import type { Clock } from "~/clock";
import { systemCodeOf } from "~/errors";

/** So much is on its way at a time: what waits behind it can still be left out. */
const portionBytes = 16 * 1024;
/** A terminal that was made not to wait (O_NONBLOCK) is tried again so soon. */
const againMs = 5;

export interface PrinterOptions {
  fd: number;
  clock: Clock;
  /** After each portion, with how much still waits. */
  printed(waitingBytes: number): void;
  /** Once: the terminal is gone. Nothing is printed any more. */
  failed(): void;
}

export class Printer {
  readonly #options: PrinterOptions;
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  #isPrinting = false;
  #hasFailed = false;
  #whenDone: (() => void)[] = [];

  constructor(options: PrinterOptions) {
    this.#options = options;
  }

  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  print(content: Uint8Array | string): void {
    if (this.#hasFailed) return;
    const bytes = typeof content === "string" ? Buffer.from(content) : content;
    for (let at = 0; at < bytes.length; at += portionBytes) {
      this.#waiting.push(bytes.subarray(at, at + portionBytes));
    }
    this.#waitingBytes += bytes.length;
    if (!this.#isPrinting) this.#printNext();
  }

  /** Leaves out what waits, but for what is on its way. */
  forget(): void {
    this.#waiting = this.#isPrinting ? this.#waiting.slice(0, 1) : [];
    this.#waitingBytes = this.#waiting.reduce((sum, { length }) => sum + length, 0);
  }

  /** Resolves when nothing waits, or nothing can be printed any more. */
  done(): Promise<void> {
    return this.#waiting.length === 0
      ? Promise.resolve()
      : new Promise((resolve) => this.#whenDone.push(resolve));
  }

  #printNext(): void {
    const next = this.#waiting[0];
    this.#isPrinting = next !== undefined;
    if (next === undefined) {
      for (const resolve of this.#whenDone.splice(0)) resolve();
      return;
    }
    write(this.#options.fd, next, (error, taken) => {
      if (error !== null && systemCodeOf(error) !== "EAGAIN") this.#fail();
      else if (error !== null) this.#options.clock.after(againMs, () => this.#printNext());
      else this.#took(next, taken);
    });
  }

  #took(portion: Uint8Array, taken: number): void {
    this.#waitingBytes -= taken;
    if (taken < portion.length) this.#waiting[0] = portion.subarray(taken);
    else this.#waiting.shift();
    this.#printNext();
    this.#options.printed(this.#waitingBytes);
  }

  #fail(): void {
    this.#hasFailed = true;
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.#printNext();
    this.#options.failed();
  }
}
