/**
 * The screen of an agent's terminal, and what was printed on it while a text was being worked on. Output is taken in bit by bit, so that
 * everything else has its turn; who writes more than that is told to wait (`isFull`). Rows that the terminal's edge broke are one line.
 */
import type { IBuffer, Terminal } from "@xterm/headless";
import { characterEnd, unfinishedBytes } from "~/agent/characters";
import { Margins } from "~/agent/margins";
import type { View } from "~/agent/recognition";
import { type Printed, Recording } from "~/agent/recording";
import type { Capture } from "~/agent/runtime";
import { openSnapshots, type Snapshots } from "~/agent/snapshot";
import { StringLimit } from "~/agent/string-limit";
import { terminalPortionBytes, terminalScrollbackLines, terminalStringBytesMax } from "~/wire/limits";

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

export class Screen {
  readonly #terminal: Terminal;
  readonly #options: ScreenOptions;
  readonly #snapshots: Snapshots;
  readonly #margins: Margins;
  #waitingBytes = 0;
  #unfinished: Uint8Array = new Uint8Array();
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
    this.#margins = new Margins(terminal);
    terminal.onData((text) => void (this.#isAnswered && options.answer(text)));
    terminal.onTitleChange((title) => {
      this.#title = title.slice(0, titleCharsMax);
    });
    const { parser } = terminal;
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
    // The emulator throws when all up to the very last cell is to be erased; so it is left there.
    parser.registerCsiHandler({ final: "J" }, ([kind]) => kind === 1 && this.#isAtLastCell);
    parser.registerCsiHandler({ prefix: "?", final: "J" }, ([kind]) => kind === 1 && this.#isAtLastCell);
    for (const final of ["h", "l"]) {
      parser.registerCsiHandler({ prefix: "?", final }, (modes) => {
        if (modes.includes(25)) this.#isCursorHidden = final === "l";
        return false;
      });
    }
  }

  get #isAtLastCell(): boolean {
    const { rows, cols } = this.#terminal;
    const { baseY, cursorX, cursorY } = this.#terminal.buffer.active;
    return baseY === 0 && cursorY === rows - 1 && cursorX >= cols - 1;
  }

  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** `isAnswered`: whether what is asked in it is for us to answer. */
  write(output: Uint8Array, isAnswered = true): void {
    const bytes = this.#whole(this.#strings.take(output));
    if (isAnswered !== this.#willBeAnswered) {
      this.#willBeAnswered = isAnswered;
      this.#terminal.write("", () => {
        this.#isAnswered = isAnswered;
      });
    }
    this.#waitingBytes += bytes.length;
    for (let at = 0; at < bytes.length; ) {
      const portion = bytes.subarray(at, characterEnd(bytes, at + this.#portionBytes()));
      at += portion.length;
      this.#terminal.write(portion, () => {
        this.#waitingBytes -= portion.length;
        this.#recording?.tookIn();
        this.#options.tookIn(this.#waitingBytes);
      });
    }
  }

  /** Up to the last character that is there as a whole. */
  #whole(bytes: Uint8Array): Uint8Array {
    const all = this.#unfinished.length === 0 ? bytes : Buffer.concat([this.#unfinished, bytes]);
    const end = all.length - unfinishedBytes(all);
    this.#unfinished = Uint8Array.from(all.subarray(end));
    return all.subarray(0, end);
  }

  /** No more than the screen keeps, when what scrolls away has to be noted. */
  #portionBytes(): number {
    return Math.min(terminalPortionBytes, this.#recording?.portionCharsMax ?? terminalPortionBytes);
  }

  /** Resolves when all that was written before is on the screen. */
  settled(): Promise<void> {
    return new Promise((resolve) => this.#terminal.write("", resolve));
  }

  resize(rows: number, cols: number): void {
    if (rows === this.#terminal.rows && cols === this.#terminal.cols) return;
    this.#recording?.resizes();
    this.#terminal.resize(cols, rows);
    this.#margins.reset();
    this.#recording?.resized();
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
      cursorLine,
      isCursorShown: !this.#isCursorHidden,
    };
  }

  // ── What is printed ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** From now on what is printed is noted down. */
  record(): void {
    this.#recording?.close();
    this.#recording = new Recording(this.#terminal, this.#margins);
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

/** Of a window's title, which only tells something by how it begins. */
const titleCharsMax = 200;

const rowTexts = (buffer: IBuffer, start: number, end: number): string[] => {
  const texts: string[] = [];
  for (let row = start; row < end; row++) texts.push(buffer.getLine(row)?.translateToString(true) ?? "");
  return texts;
};
