/**
 * Which modes a program has switched on in its terminal, read off its output: the alternate screen, mouse reports, a hidden cursor.
 * `redo` puts another terminal into them, `undo` puts one back to how a shell expects it. Sequences as in xterm's ctlseqs and the
 * kitty keyboard protocol; whatever else there is passes by.
 */

/** DEC private modes that are on by themselves: wrapping lines, the cursor. */
const onAtFirst: ReadonlySet<number> = new Set([7, 25]);
/** The alternate screen, in its three spellings. */
const alternates: ReadonlySet<number> = new Set([47, 1047, 1049]);
/**
 * Modes that would confuse whoever uses the terminal next, and that a repainted one needs: cursor keys, reverse video, wrapping, mouse of
 * X10, cursor, reverse wrapping, the mouse's kinds and encodings, focus, alternate scrolling, bracketed paste, synchronised output,
 * grapheme clusters, colour scheme reports, in-band resizing.
 */
const followed: ReadonlySet<number> = new Set([
  1, 5, 7, 9, 25, 45, 1000, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 2004, 2026, 2027, 2031, 2048,
]);

/** Holds back what is shown, for a moment: whoever switches it on switches it off, and a repainted terminal need not wait. */
const synchronised = 2026;

const escapeByte = 0x1b;
/** A longer one is no sequence that matters here; what a program prints between ESC and its end is kept so long. */
const sequenceBytesMax = 64;
const keyboardStackMax = 16;

// biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences begin with one
const complete = /^\x1b(?:\[([<-?]?)([\d;:]*)([ -/]*)([@-~])|([=>78c])|[^[])/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: as above
const unfinished = /^\x1b(?:\[[0-?]*[ -/]*)?$/;

export class TerminalModes {
  /** Those that are not as they are at first. */
  readonly #changed = new Set<number>();
  #alternate: number | undefined;
  #hasKeypad = false;
  #region: string | undefined;
  #cursorStyle: string | undefined;
  #modifyOtherKeys: string | undefined;
  #keyboard: string[] = [];
  #rest: Buffer = Buffer.alloc(0);

  get isAlternate(): boolean {
    return this.#alternate !== undefined;
  }

  feed(bytes: Uint8Array): void {
    let text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (this.#rest.length > 0) {
      text = Buffer.concat([this.#rest, text]);
      this.#rest = Buffer.alloc(0);
    }
    for (let at = text.indexOf(escapeByte); at !== -1; at = text.indexOf(escapeByte, at + 1)) {
      const head = text.toString("latin1", at, at + sequenceBytesMax);
      const match = complete.exec(head);
      if (match !== null) this.#apply(match);
      else if (unfinished.test(head) && head.length < sequenceBytesMax) {
        this.#rest = Buffer.from(text.subarray(at));
        return;
      }
    }
  }

  #apply([, marker = "", numbers = "", between = "", final, plain]: RegExpExecArray): void {
    if (plain !== undefined) this.#applyPlain(plain);
    else if (marker === "?" && between === "" && (final === "h" || final === "l")) {
      for (const mode of numbers.split(";")) this.#set(Number(mode), final === "h");
    } else if (final === "r" && marker === "" && between === "") {
      this.#region = numbers === "" ? undefined : numbers;
    } else if (final === "q" && between === " ") {
      this.#cursorStyle = numbers === "" || numbers === "0" ? undefined : numbers;
    } else if (final === "m" && marker === ">") {
      // Also `CSI > 4 m`, which resets it.
      this.#modifyOtherKeys = /^4;[1-9]/.test(numbers) ? numbers : undefined;
    } else if (final === "u") this.#applyKeyboard(marker, numbers);
    // DECSTR, the soft reset.
    else if (final === "p" && between === "!") this.#reset();
  }

  #applyPlain(plain: string): void {
    if (plain === "=" || plain === ">") this.#hasKeypad = plain === "=";
    if (plain !== "c") return;
    this.#reset();
    this.#alternate = undefined;
    this.#keyboard = [];
  }

  #applyKeyboard(marker: string, numbers: string): void {
    if (marker === ">") {
      this.#keyboard.push(numbers === "" ? "0" : numbers);
      if (this.#keyboard.length > keyboardStackMax) this.#keyboard.shift();
    } else if (marker === "=") {
      // Changes the flags in place; taking them off an empty stack resets them.
      this.#keyboard.splice(-1, 1, numbers.split(";")[0] || "0");
    } else if (marker === "<") {
      const count = numbers === "" ? 1 : Number(numbers);
      this.#keyboard.splice(Math.max(0, this.#keyboard.length - count));
    }
  }

  #set(mode: number, isOn: boolean): void {
    if (alternates.has(mode)) {
      this.#alternate = isOn ? mode : undefined;
      return;
    }
    if (!followed.has(mode)) return;
    if (isOn === onAtFirst.has(mode)) this.#changed.delete(mode);
    else this.#changed.add(mode);
  }

  #reset(): void {
    this.#changed.clear();
    this.#hasKeypad = false;
    this.#region = undefined;
    this.#cursorStyle = undefined;
    this.#modifyOtherKeys = undefined;
  }

  /** For a terminal that shows the same screen already, in the same alternate screen or not, and is otherwise as at first. */
  redo(): string {
    const region = this.#region === undefined ? "" : keepingCursor(`\x1b[${this.#region}r`);
    return [
      region,
      ...[...this.#changed]
        .filter((mode) => mode !== synchronised)
        .map((mode) => decMode(mode, !onAtFirst.has(mode))),
      this.#hasKeypad ? "\x1b=" : "",
      this.#cursorStyle === undefined ? "" : `\x1b[${this.#cursorStyle} q`,
      this.#modifyOtherKeys === undefined ? "" : `\x1b[>${this.#modifyOtherKeys}m`,
      ...this.#keyboard.map((flags) => `\x1b[>${flags}u`),
    ].join("");
  }

  /** Back to how it is at first. Leaving the alternate screen comes last but for colours, since the keyboard's modes belong to each. */
  undo(): string {
    return [
      this.#region === undefined ? "" : keepingCursor("\x1b[r"),
      ...[...this.#changed].map((mode) => decMode(mode, onAtFirst.has(mode))),
      this.#hasKeypad ? "\x1b>" : "",
      this.#cursorStyle === undefined ? "" : "\x1b[0 q",
      this.#modifyOtherKeys === undefined ? "" : "\x1b[>4m",
      this.#keyboard.length === 0 ? "" : `\x1b[<${this.#keyboard.length}u`,
      this.#alternate === undefined ? "" : decMode(this.#alternate, false),
      // Colours, and the letters that a stray byte may have turned into lines.
      "\x0f\x1b(B\x1b[m",
    ].join("");
  }
}

const decMode = (mode: number, isOn: boolean): string => `\x1b[?${mode}${isOn ? "h" : "l"}`;

/** Setting the scrolling region moves the cursor to its beginning. */
const keepingCursor = (sequence: string): string => `\x1b7${sequence}\x1b8`;
