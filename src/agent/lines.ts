/**
 * Takes a stream of bytes apart into lines, however it comes: split within a character, many at once, or one that never ends. A line is
 * UTF-8; what is not is replaced. One that is too long is thrown away up to its end, and reported.
 */

export type ReadLine = { kind: "line"; text: string } | { kind: "too_long"; bytes: number };

const newline = 0x0a;

export class LineReader {
  readonly #bytesMax: number;
  #parts: Uint8Array[] = [];
  /** Of the line that is not complete yet, those included that were thrown away. */
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** The lines that are complete now, without their ends (`\n` or `\r\n`). Keeps nothing of `chunk` but a copy. */
  push(chunk: Uint8Array): ReadLine[] {
    const lines: ReadLine[] = [];
    let from = 0;
    for (let end = chunk.indexOf(newline); end !== -1; end = chunk.indexOf(newline, from)) {
      this.#keep(chunk.subarray(from, end));
      lines.push(this.#take());
      from = end + 1;
    }
    this.#keep(chunk.subarray(from));
    return lines;
  }

  /** What came after the last end of a line; undefined when nothing did. */
  rest(): ReadLine | undefined {
    return this.#bytes === 0 ? undefined : this.#take();
  }

  #keep(part: Uint8Array): void {
    this.#bytes += part.length;
    if (this.#bytes > this.#bytesMax) this.#parts = [];
    // A Buffer's own `slice` would not copy.
    else if (part.length > 0) this.#parts.push(new Uint8Array(part));
  }

  #take(): ReadLine {
    const bytes = this.#bytes;
    const whole = Buffer.concat(this.#parts);
    this.#parts = [];
    this.#bytes = 0;
    if (bytes > this.#bytesMax) return { kind: "too_long", bytes };
    return { kind: "line", text: whole.toString("utf8").replace(/\r$/, "") };
  }
}
