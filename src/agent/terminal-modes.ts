/**
 * Which modes a program has switched on in its terminal, read off its output: the alternate screen, mouse reports, a hidden cursor,
 * colours of the terminal itself. `redo` puts another terminal into them, `undo` puts one back to how a shell expects it. Sequences as
 * in xterm's ctlseqs and the kitty keyboard protocol; whatever else there is passes by.
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

/** What DECSTR, the soft reset, resets everywhere. Terminals do not agree on the rest, such as the mouse: it stays as it was. */
const softlyReset: readonly number[] = [1, 7, 25];

/** The text, the cursor and what is below it: how a terminal's own colours are set (OSC), and put back by what is 100 more. */
const colours: ReadonlySet<number> = new Set([10, 11, 12]);

const escapeByte = 0x1b;
/** `]` */
const textIntroducer = 0x5d;
/** A longer one is no sequence that matters here; what a program prints between ESC and its end is kept so long. */
const sequenceBytesMax = 64;
/** The same for those with a text in them: titles. */
const textSequenceBytesMax = 1024;
const keyboardStackMax = 16;

// biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences begin with one
const complete = /^\x1b(?:\[([<-?]?)([\d;:]*)([ -/]*)([@-~])|([=>78c])|[^[\]])/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: as above
const unfinished = /^\x1b(?:\[[0-?]*[ -/]*)?$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: as above
const completeText = /^\x1b\](\d*);?([^\x07\x1b]*)(?:\x07|\x1b\\)/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: as above
const unfinishedText = /^\x1b\][^\x07\x1b]*\x1b?$/;

export class TerminalModes {
  /** Those that are not as they are at first. */
  readonly #changed = new Set<number>();
  #alternate: number | undefined;
  #hasKeypad = false;
  #isInserting = false;
  #region: string | undefined;
  #cursorStyle: string | undefined;
  #modifyOtherKeys: string | undefined;
  /** Each screen has a stack of its own. */
  readonly #keyboards: Record<"normal" | "alternate", number[]> = { normal: [], alternate: [] };
  readonly #colours = new Map<number, string>();
  #title: string | undefined;
  #hasLink = false;
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
      const isText = text[at + 1] === textIntroducer;
      const bytesMax = isText ? textSequenceBytesMax : sequenceBytesMax;
      const head = text.toString("latin1", at, at + bytesMax);
      const match = (isText ? completeText : complete).exec(head);
      if (match !== null) isText ? this.#applyText(match) : this.#apply(match);
      else if ((isText ? unfinishedText : unfinished).test(head) && head.length < bytesMax) {
        this.#rest = Buffer.from(text.subarray(at));
        return;
      }
    }
  }

  #apply([, marker = "", numbers = "", between = "", final, plain]: RegExpExecArray): void {
    if (plain !== undefined) this.#applyPlain(plain);
    else if (marker === "?" && between === "" && (final === "h" || final === "l")) {
      for (const mode of numbers.split(";")) this.#set(Number(mode), final === "h");
    } else if (marker === "" && between === "" && (final === "h" || final === "l")) {
      if (numbers.split(";").includes("4")) this.#isInserting = final === "h";
    } else if (final === "r" && marker === "" && between === "") {
      this.#region = numbers === "" ? undefined : numbers;
    } else if (final === "q" && between === " ") {
      this.#cursorStyle = numbers === "" || numbers === "0" ? undefined : numbers;
    } else if (final === "m" && marker === ">") {
      // Also `CSI > 4 m`, which resets it.
      this.#modifyOtherKeys = /^4;[1-9]/.test(numbers) ? numbers : undefined;
    } else if (final === "u") this.#applyKeyboard(marker, numbers);
    // DECSTR, the soft reset.
    else if (final === "p" && between === "!") this.#resetSoftly();
  }

  #applyPlain(plain: string): void {
    if (plain === "=" || plain === ">") this.#hasKeypad = plain === "=";
    // RIS, which resets everything.
    if (plain !== "c") return;
    this.#resetSoftly();
    this.#changed.clear();
    this.#cursorStyle = undefined;
    this.#modifyOtherKeys = undefined;
    this.#alternate = undefined;
    this.#keyboards.normal = [];
    this.#keyboards.alternate = [];
    this.#colours.clear();
    this.#hasLink = false;
  }

  #applyText([, number = "", text = ""]: RegExpExecArray): void {
    const kind = Number(number);
    if (number === "") return;
    if (kind === 0 || kind === 2) this.#title = Buffer.from(text, "latin1").toString("utf8");
    else if (kind === 8) this.#hasLink = !text.endsWith(";");
    // With a question mark it asks for the colour.
    else if (colours.has(kind) && text !== "" && !text.includes("?")) this.#colours.set(kind, text);
    else if (colours.has(kind - 100)) this.#colours.delete(kind - 100);
  }

  get #keyboard(): number[] {
    return this.#keyboards[this.isAlternate ? "alternate" : "normal"];
  }

  #applyKeyboard(marker: string, numbers: string): void {
    const stack = this.#keyboard;
    const [first = 0, second = 1] = numbers.split(";").map(Number);
    if (marker === ">") {
      stack.push(first);
      if (stack.length > keyboardStackMax) stack.shift();
    } else if (marker === "=") {
      // Changes the flags in place: replaces, adds or takes away. Taking them off an empty stack resets them.
      const flags = stack.pop() ?? 0;
      stack.push(second === 2 ? flags | first : second === 3 ? flags & ~first : first);
    } else if (marker === "<") {
      stack.splice(Math.max(0, stack.length - (numbers === "" ? 1 : first)));
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

  #resetSoftly(): void {
    for (const mode of softlyReset) this.#changed.delete(mode);
    this.#hasKeypad = false;
    this.#isInserting = false;
    this.#region = undefined;
  }

  /**
   * For a terminal that is otherwise as at first: what it is to be sent before it is shown the screen, in the normal screen, and what
   * after it, in the same screen as the program.
   */
  redo(): { before: string; after: string } {
    const after = [
      this.#region === undefined ? "" : keepingCursor(`\x1b[${this.#region}r`),
      ...[...this.#changed]
        .filter((mode) => mode !== synchronised)
        .map((mode) => decMode(mode, !onAtFirst.has(mode))),
      this.#isInserting ? "\x1b[4h" : "",
      this.#hasKeypad ? "\x1b=" : "",
      this.#cursorStyle === undefined ? "" : `\x1b[${this.#cursorStyle} q`,
      this.#modifyOtherKeys === undefined ? "" : `\x1b[>${this.#modifyOtherKeys}m`,
      ...this.#keyboard.map(pushed),
      ...[...this.#colours].map(([kind, colour]) => `\x1b]${kind};${colour}\x07`),
      this.#title === undefined ? "" : `\x1b]2;${this.#title}\x07`,
    ].join("");
    return { before: this.isAlternate ? this.#keyboards.normal.map(pushed).join("") : "", after };
  }

  /**
   * Back to how it is at first, but for the title. Leaving the alternate screen comes last but for colours and for what belongs to the
   * normal one: the keyboard's modes are those of each.
   */
  undo(): string {
    const { normal, alternate } = this.#keyboards;
    return [
      this.#region === undefined ? "" : keepingCursor("\x1b[r"),
      ...[...this.#changed].map((mode) => decMode(mode, onAtFirst.has(mode))),
      this.#isInserting ? "\x1b[4l" : "",
      this.#hasKeypad ? "\x1b>" : "",
      this.#cursorStyle === undefined ? "" : "\x1b[0 q",
      this.#modifyOtherKeys === undefined ? "" : "\x1b[>4m",
      this.#hasLink ? "\x1b]8;;\x07" : "",
      ...[...this.#colours.keys()].map((kind) => `\x1b]${kind + 100}\x07`),
      this.#alternate === undefined ? "" : popped(alternate) + decMode(this.#alternate, false),
      popped(normal),
      // Colours, and the letters that a stray byte may have turned into lines.
      "\x0f\x1b(B\x1b[m",
    ].join("");
  }
}

const pushed = (flags: number): string => `\x1b[>${flags}u`;
const popped = ({ length }: readonly number[]): string => (length === 0 ? "" : `\x1b[<${length}u`);

const decMode = (mode: number, isOn: boolean): string => `\x1b[?${mode}${isOn ? "h" : "l"}`;

/** Setting the scrolling region moves the cursor to its beginning. */
const keepingCursor = (sequence: string): string => `\x1b7${sequence}\x1b8`;
