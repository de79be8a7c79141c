/**
 * Keeps the strings that a program sends to its terminal (titles, the clipboard, pictures: OSC, DCS and their kind, ECMA-48) within
 * bounds, since the emulator gathers each of them in memory, and far too much of it. What is beyond the limit is left out; a string
 * still ends where it did, so that what follows is read as before.
 */

const [bell, cancel, substitute, escapeByte, firstPrintable] = [0x07, 0x18, 0x1a, 0x1b, 0x20];
/** The first byte of the control characters of the upper half, in UTF-8; and the second one of ST. */
const upper = 0xc2;
const upperEnd = 0x9c;
/** Behind an escape, and in the upper half: DCS, SOS, OSC, PM, APC. Only the third also ends with a bell. */
const begins = new Set([0x50, 0x58, 0x5d, 0x5e, 0x5f]);
const upperBegins = new Set([0x90, 0x98, 0x9d, 0x9e, 0x9f]);
const bellEnds = new Set([0x5d, 0x9d]);

export class StringLimit {
  readonly #bytesMax: number;
  #place: "text" | "escape" | "string" = "text";
  #endsWithBell = false;
  #bytes = 0;
  #before = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** What of `bytes`, which come next, is to be taken in: mostly all of it. */
  take(bytes: Uint8Array): Uint8Array {
    // Mostly nothing in it can begin a string.
    const isText = this.#place === "text" && this.#before !== upper;
    if (isText && !bytes.includes(escapeByte) && !bytes.includes(upper)) return bytes;
    let kept: Uint8Array[] | undefined;
    let from = 0;
    for (let at = 0; at < bytes.length; at++) {
      const byte = bytes[at] ?? 0;
      const wasFull = this.#place === "string" && this.#bytes >= this.#bytesMax;
      this.#read(byte);
      if (wasFull && this.#place === "string") {
        kept ??= [];
        if (from < at) kept.push(bytes.subarray(from, at));
        from = at + 1;
      } else if (wasFull && byte === upperEnd) {
        // Its first half was left out.
        kept ??= [];
        kept.push(Uint8Array.of(upper));
      }
      this.#before = byte;
    }
    if (kept === undefined) return bytes;
    kept.push(bytes.subarray(from));
    return Buffer.concat(kept);
  }

  #read(byte: number): void {
    if (byte === escapeByte) this.#place = "escape";
    else if (this.#place === "string") this.#goOn(byte);
    else if (this.#place === "escape" && begins.has(byte)) this.#begin(byte);
    else if (this.#before === upper && upperBegins.has(byte)) this.#begin(byte);
    // Other control characters may stand within a sequence.
    else if (byte >= firstPrintable || byte === cancel || byte === substitute) this.#place = "text";
  }

  #begin(byte: number): void {
    this.#place = "string";
    this.#endsWithBell = bellEnds.has(byte);
    this.#bytes = 0;
  }

  #goOn(byte: number): void {
    const isEnd =
      byte === cancel ||
      byte === substitute ||
      (byte === bell && this.#endsWithBell) ||
      (byte === upperEnd && this.#before === upper);
    if (isEnd) this.#place = "text";
    else this.#bytes += 1;
  }
}
