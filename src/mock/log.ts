/**
 * Standard error as the place of a mock's log. A harness may read it late or never, and share it with the mock: so writing to it holds
 * up nothing else in this process, and it is left as it is (`process.stderr` would switch a shared pipe to non-blocking for everybody).
 */
import { write } from "node:fs";
import { type Clock, pause } from "~/clock";
import { systemCodeOf } from "~/errors";
import { logLine } from "~/log";
import { logBacklogBytesMax, mockLogEndMsMax } from "~/wire/limits";

const stderr = 2;
const retryMs = 20;

export class MockLog {
  readonly #clock: Clock;
  /** What is being written, and what waits for that; each whole lines. */
  #writing = "";
  #waiting = "";
  #linesLost = 0;
  #isOver = false;
  #idle = Promise.resolve();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Takes a line; when too many wait, it is counted instead. */
  write(line: string): void {
    if (this.#isOver) return;
    if (this.#waiting.length + line.length > logBacklogBytesMax) {
      this.#linesLost++;
      return;
    }
    this.#waiting += line;
    if (this.#writing === "") this.#idle = this.#writeAll();
  }

  /** Resolves when everything is written, or soon in any case. */
  async settled(): Promise<void> {
    const enough = new AbortController();
    await Promise.race([this.#idle, pause(this.#clock, mockLogEndMsMax, enough.signal)]);
    enough.abort();
  }

  async #writeAll(): Promise<void> {
    while (this.#waiting !== "" && !this.#isOver) {
      this.#writing = this.#waiting;
      this.#waiting = "";
      let bytes: Uint8Array = Buffer.from(this.#writing);
      while (bytes.length > 0 && !this.#isOver) bytes = bytes.subarray(await this.#put(bytes));
      if (this.#linesLost > 0) {
        const lost = { lines: this.#linesLost };
        this.#linesLost = 0;
        this.#waiting += logLine(this.#clock.now(), "warn", "log_lines_lost", lost);
      }
    }
    this.#writing = "";
  }

  /** How much was taken. */
  async #put(bytes: Uint8Array): Promise<number> {
    const { promise, resolve } = Promise.withResolvers<number | Error>();
    write(stderr, bytes, (error, taken) => resolve(error ?? taken));
    const result = await promise;
    if (typeof result === "number") return result;
    // Somebody else has switched it to non-blocking; or nobody reads it any more, and its disk may be full.
    if (systemCodeOf(result) === "EAGAIN") await pause(this.#clock, retryMs, new AbortController().signal);
    else this.#isOver = true;
    return 0;
  }
}
