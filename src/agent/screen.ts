/**
 * The screen of an agent's terminal, and what was printed on it while a text was being worked on. Output is taken in bit by bit, so that
 * everything else has its turn; who writes more than that is told to wait (`isFull`). Rows that the terminal's edge broke are one line.
 */
import type { IBuffer, IMarker, Terminal } from "@xterm/headless";
import type { View } from "~/agent/recognition";
import type { Capture } from "~/agent/runtime";
import { openSnapshots, type Snapshots } from "~/agent/snapshot";
import { leftOut, Stitching } from "~/agent/stitching";
import { StringLimit } from "~/agent/string-limit";
import {
  responseCharsMax,
  terminalPortionBytes,
  terminalScrollbackLines,
  terminalStringBytesMax,
} from "~/wire/limits";

export interface ScreenOptions {
  rows: number;
  cols: number;
  /** What a terminal says by itself when it is asked: its kind, the place of the cursor. */
  answer(text: string): void;
  /** After each time that something was taken in, with how much is still to be. */
  tookIn(waitingBytes: number): void;
}

/** Loads the emulator. */
export async function openScreen(options: ScreenOptions): Promise<Screen> {
  // Loaded late, since nothing but a shim needs them.
  const [{ Terminal }, { Unicode11Addon }] = await Promise.all([
    import("@xterm/headless"),
    import("@xterm/addon-unicode11"),
  ]);
  const terminal = new Terminal({
    rows: options.rows,
    cols: options.cols,
    scrollback: terminalScrollbackLines,
    allowProposedApi: true,
    logLevel: "off",
  });
  terminal.loadAddon(new Unicode11Addon());
  terminal.unicode.activeVersion = "11";
  return new Screen(terminal, options);
}

export interface Printed {
  lines: string[];
  isReprinted: boolean;
  isCursorLast: boolean;
}

export class Screen {
  readonly #terminal: Terminal;
  readonly #options: ScreenOptions;
  readonly #snapshots: Snapshots;
  #waitingBytes = 0;
  #isCursorHidden = false;
  #title = "";
  /** Of what is being taken in. */
  #isAnswered = true;
  /** Of what was written last. */
  #willBeAnswered = true;
  #recording: Recording | undefined;
  readonly #strings = new StringLimit(terminalStringBytesMax);

  constructor(terminal: Terminal, options: ScreenOptions) {
    this.#terminal = terminal;
    this.#options = options;
    this.#snapshots = openSnapshots(terminal);
    terminal.onData((text) => void (this.#isAnswered && options.answer(text)));
    terminal.onTitleChange((title) => {
      this.#title = title.slice(0, titleCharsMax);
    });
    const { parser } = terminal;
    parser.registerCsiHandler({ final: "J" }, ([kind]) => {
      // 2 and 3 clear all; 0, which is what none means, does so from the top left corner on.
      const { cursorX, cursorY } = terminal.buffer.active;
      const isFromTop = cursorX === 0 && cursorY === 0;
      if (kind === 2 || kind === 3 || ((kind ?? 0) === 0 && isFromTop)) this.#recording?.cleared(kind === 3);
      return false;
    });
    // What scrolls, goes to a tab stop or repeats a character is done one by one: more of it than there is would hold up everything else.
    const most: [finals: string, countMax: () => number][] = [
      ["LMST", () => terminal.rows],
      ["IZ", () => terminal.cols],
      ["b", () => terminal.rows * terminal.cols],
    ];
    for (const [finals, countMax] of most) {
      for (const final of finals) {
        parser.registerCsiHandler({ final }, ([count]) => Number(count ?? 0) > countMax());
      }
    }
    for (const final of ["h", "l"]) {
      parser.registerCsiHandler({ prefix: "?", final }, (modes) => {
        if (modes.includes(25)) this.#isCursorHidden = final === "l";
        return false;
      });
    }
  }

  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** `isAnswered`: whether what is asked in it is for us to answer. */
  write(output: Uint8Array, isAnswered = true): void {
    const bytes = this.#strings.take(output);
    if (isAnswered !== this.#willBeAnswered) {
      this.#willBeAnswered = isAnswered;
      this.#terminal.write("", () => {
        this.#isAnswered = isAnswered;
      });
    }
    this.#waitingBytes += bytes.length;
    for (let at = 0; at < bytes.length; ) {
      const length = this.#portionBytes(bytes, at);
      const portion = bytes.subarray(at, at + length);
      at += portion.length;
      this.#terminal.write(portion, () => {
        this.#waitingBytes -= portion.length;
        // Between two portions, a picture may be half painted; where much scrolls away, it has to be looked at all the same.
        this.#recording?.printed(this.#waitingBytes === 0 || length < terminalPortionBytes);
        this.#options.tookIn(this.#waitingBytes);
      });
    }
  }

  /** No more than the screen keeps, when what scrolls away has to be noted: on the alternate screen, half of its rows. */
  #portionBytes(bytes: Uint8Array, at: number): number {
    const { active } = this.#terminal.buffer;
    if (this.#recording === undefined || active.type === "normal") return terminalPortionBytes;
    const end = Math.min(bytes.length, at + terminalPortionBytes);
    let newlines = 0;
    for (let next = at; next < end; next++) {
      if (bytes[next] === newline && ++newlines >= this.#terminal.rows / 2) return next + 1 - at;
    }
    return terminalPortionBytes;
  }

  /** Resolves when all that was written before is on the screen. */
  settled(): Promise<void> {
    return new Promise((resolve) => this.#terminal.write("", resolve));
  }

  resize(rows: number, cols: number): void {
    this.#terminal.resize(cols, rows);
  }

  /** As `Runtime.snapshot`. */
  snapshot(isComplete: boolean): Promise<string> {
    return this.#snapshots(isComplete);
  }

  /** Null: the whole screen, as far as there is something or the cursor; otherwise the last lines that are not empty, from what scrolled away as well. */
  capture(lastLines: number | null): Capture {
    const buffer = this.#terminal.buffer.active;
    const cursorRow = buffer.cursorY;
    const cursorCol = Math.min(buffer.cursorX, this.#terminal.cols - 1);
    const texts = rowTexts(buffer, lastLines === null ? buffer.baseY : 0, buffer.length);
    const filled = texts.findLastIndex((text) => text !== "") + 1;
    const end = lastLines === null ? Math.max(filled, cursorRow + 1) : filled;
    const start = lastLines === null ? 0 : Math.max(0, end - lastLines);
    return { content: texts.slice(start, end).join("\n"), cursorRow, cursorCol };
  }

  view(): View {
    const buffer = this.#terminal.buffer.active;
    const lines: string[] = [];
    let cursorLine = 0;
    let beforeCursor = "";
    for (let row = buffer.baseY; row < buffer.baseY + this.#terminal.rows; row++) {
      const line = buffer.getLine(row);
      const isOneWithNext = buffer.getLine(row + 1)?.isWrapped ?? false;
      const text = line?.translateToString(!isOneWithNext) ?? "";
      const isContinued = (line?.isWrapped ?? false) && lines.length > 0;
      const head = isContinued ? (lines.pop() ?? "") : "";
      if (row === buffer.baseY + buffer.cursorY) {
        cursorLine = lines.length;
        beforeCursor = head + (line?.translateToString(false, 0, buffer.cursorX) ?? "");
      }
      lines.push(head + text);
    }
    return {
      title: this.#title,
      lines,
      beforeCursor,
      cursorLine: this.#isCursorHidden ? undefined : cursorLine,
    };
  }

  // ── What is printed ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** From now on what is printed is noted down. */
  record(): void {
    this.#recording?.close();
    this.#recording = new Recording(this.#terminal);
  }

  /** All that was printed since then; noting goes on until the next record. */
  recorded(): Printed {
    return this.#recording?.result() ?? { lines: [], isReprinted: false, isCursorLast: false };
  }

  stopRecording(): void {
    this.#recording?.close();
    this.#recording = undefined;
  }

  dispose(): void {
    this.stopRecording();
    this.#terminal.dispose();
  }
}

const newline = 0x0a;
/** Of a window's title, which only tells something by how it begins. */
const titleCharsMax = 200;

const rowTexts = (buffer: IBuffer, start: number, end: number): string[] => {
  const texts: string[] = [];
  for (let row = start; row < end; row++) texts.push(buffer.getLine(row)?.translateToString(true) ?? "");
  return texts;
};

/**
 * Everything that a terminal shows from one moment on. On the normal screen, lines that scroll away are noted as they go, and the rest is
 * read in the end; only where an agent clears the screen to paint it anew are looks stitched together. The alternate screen keeps
 * nothing, so it is looked at again and again.
 */
class Recording {
  readonly #terminal: Terminal;
  readonly #scrolled: Scrolled;
  /** Of the normal screen, when it was cleared meanwhile. */
  #cleared: Stitching | undefined;
  readonly #before: readonly string[];
  #alternate: Stitching | undefined;
  #isReprinted = false;

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
    const { buffer } = terminal;
    this.#scrolled = new Scrolled(terminal);
    this.#before = this.#scrolled.all();
    if (buffer.active.type === "alternate")
      this.#alternate = new Stitching(this.#alternateLines(), responseCharsMax);
  }

  /** After each portion: no more can have scrolled away since the last one than the terminal keeps. */
  printed(isWhole: boolean): void {
    if (this.#terminal.buffer.active.type === "normal") {
      this.#scrolled.note();
      return;
    }
    this.#alternate ??= new Stitching([], responseCharsMax);
    if (isWhole) this.#alternate.look(this.#alternateLines());
  }

  /** Before it is done. `isWiped`: what had scrolled away goes, too, and whoever does that prints everything again. */
  cleared(isWiped: boolean): void {
    if (this.#terminal.buffer.active.type === "alternate") return;
    this.#scrolled.note();
    this.#cleared ??= new Stitching(this.#before, responseCharsMax);
    this.#cleared.look(this.#scrolled.all());
    this.#scrolled.forget(isWiped);
    if (isWiped) this.#isReprinted = true;
  }

  result(): Printed {
    const { active } = this.#terminal.buffer;
    const isCursorLast = isBlankBelowCursor(active, this.#terminal.rows);
    if (active.type === "alternate") {
      this.printed(true);
      return { lines: this.#alternate?.news() ?? [], isReprinted: false, isCursorLast: false };
    }
    this.#scrolled.note();
    const lines = this.#scrolled.all();
    if (this.#cleared !== undefined) {
      this.#cleared.look(lines);
      return { lines: this.#cleared.news(), isReprinted: this.#isReprinted, isCursorLast };
    }
    return { lines: newIn(this.#before, lines), isReprinted: false, isCursorLast };
  }

  close(): void {
    this.#scrolled.close();
  }

  #alternateLines(): string[] {
    const { alternate } = this.#terminal.buffer;
    return rowTexts(alternate, alternate.baseY, alternate.baseY + this.#terminal.rows);
  }
}

/**
 * What stood at the top already goes, and what stands at the bottom as it did before: a prompt, the frame of an input. Only what has not
 * kept its place can be such a bottom.
 */
function newIn(before: readonly string[], lines: readonly string[]): string[] {
  let start = 0;
  while (start < before.length && start < lines.length && before[start] === lines[start]) start++;
  const trailing = (texts: readonly string[]): number => texts.findLastIndex((text) => text !== "") + 1;
  let [beforeEnd, end] = [trailing(before), trailing(lines)];
  while (beforeEnd > start && end > start && before[beforeEnd - 1] === lines[end - 1]) {
    beforeEnd--;
    end--;
  }
  return lines.slice(start, end);
}

function isBlankBelowCursor(buffer: IBuffer, rows: number): boolean {
  for (let row = buffer.cursorY + 1; row < rows; row++) {
    if (buffer.getLine(buffer.baseY + row)?.translateToString(true)) return false;
  }
  return true;
}

/** The lines of the normal screen from a certain row on: those that have scrolled away as text, the others as they are now. */
class Scrolled {
  readonly #terminal: Terminal;
  readonly #lines: string[] = [];
  #chars = 0;
  /** The last one goes on in the next row. */
  #isOpen = false;
  #isTooMuch = false;
  /**
   * The last row that is in `#lines` or came before; "top" when there is none. Not the first that is not, for xterm.js drops the
   * markers of rows on the screen that are cleared. Undefined as long as the alternate screen has not been left.
   */
  #noted: IMarker | "top" | undefined;

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
    this.#mark();
  }

  note(): void {
    if (this.#isTooMuch) return;
    const { normal } = this.#terminal.buffer;
    if (this.#noted !== undefined) {
      const from = this.#firstRow();
      if (from >= normal.baseY) return;
      for (let row = from; row < normal.baseY && !this.#isTooMuch; row++) this.#append(normal, row);
    }
    this.#mark();
  }

  /** Those that scrolled away, and those of the screen. */
  all(): string[] {
    const { normal } = this.#terminal.buffer;
    const lines = [...this.#lines];
    if (this.#isTooMuch) lines.push(leftOut);
    let isOpen = this.#isOpen && !this.#isTooMuch;
    const end = normal.baseY + this.#terminal.rows;
    for (let row = this.#isTooMuch ? 0 : this.#firstRow(); row < end; row++) {
      const { text, goesOn } = rowOf(normal, row);
      if (isOpen) lines.push((lines.pop() ?? "") + text);
      else lines.push(text);
      isOpen = goesOn && row + 1 < end;
    }
    return lines.map((line) => line.trimEnd());
  }

  /** What was noted so far is no longer wanted; with `isWiped`, what had scrolled away before is about to be gone. */
  forget(isWiped: boolean): void {
    this.#lines.length = 0;
    this.#chars = 0;
    this.#isOpen = false;
    this.#isTooMuch = false;
    this.#mark();
    if (isWiped) this.#noted = "top";
  }

  close(): void {
    if (typeof this.#noted === "object") this.#noted.dispose();
  }

  #firstRow(): number {
    const { normal } = this.#terminal.buffer;
    let row = normal.baseY;
    if (this.#noted === "top") row = 0;
    // A change of the terminal's width can take a marker away.
    else if (this.#noted !== undefined && !this.#noted.isDisposed) row = this.#noted.line + 1;
    // Or it breaks what is noted already into more rows than it had.
    while (!this.#isOpen && row < normal.length && normal.getLine(row)?.isWrapped) row++;
    return row;
  }

  #append(buffer: IBuffer, row: number): void {
    const { text, goesOn } = rowOf(buffer, row);
    if (this.#isOpen) this.#lines.push((this.#lines.pop() ?? "") + text);
    else this.#lines.push(text);
    this.#isOpen = goesOn;
    this.#chars += text.length + 1;
    if (this.#chars > responseCharsMax) this.#isTooMuch = true;
  }

  #mark(): void {
    this.close();
    const { active } = this.#terminal.buffer;
    if (active.type !== "normal") this.#noted = undefined;
    else if (active.baseY === 0) this.#noted = "top";
    else this.#noted = this.#terminal.registerMarker(-active.cursorY - 1) ?? undefined;
  }
}

/** A row goes on in the next one when the terminal's edge broke it; then its end is text, too. */
function rowOf(buffer: IBuffer, row: number): { text: string; goesOn: boolean } {
  const goesOn = buffer.getLine(row + 1)?.isWrapped ?? false;
  return { text: buffer.getLine(row)?.translateToString(!goesOn) ?? "", goesOn };
}
