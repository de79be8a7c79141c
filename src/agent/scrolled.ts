/** The lines of the normal screen from a certain row on: those that have scrolled away as text, the others as they are now. */
import type { IBuffer, IMarker, Terminal } from "@xterm/headless";
import { rowText } from "~/agent/rows";
import { leftOut } from "~/agent/stitching";
import { responseCharsMax } from "~/wire/limits";

export class Scrolled {
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

  /** There was more than is kept. */
  get isTooMuch(): boolean {
    return this.#isTooMuch;
  }

  /** After each portion: no more can have scrolled away since the last one than the terminal keeps. */
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

  /** Those that scrolled away, and with `isWithScreen` those of the screen. */
  all(isWithScreen = true): string[] {
    const { normal } = this.#terminal.buffer;
    const lines = [...this.#lines];
    if (this.#isTooMuch) lines.push(leftOut);
    let isOpen = this.#isOpen && !this.#isTooMuch;
    const end = normal.baseY + (isWithScreen ? this.#terminal.rows : 0);
    for (let row = this.#isTooMuch ? 0 : this.#firstRow(); row < end; row++) {
      const { text, goesOn } = rowText(normal, row);
      if (isOpen) lines.push((lines.pop() ?? "") + text);
      else lines.push(text);
      isOpen = goesOn && row + 1 < end;
    }
    return lines;
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
    const { text, goesOn } = rowText(buffer, row);
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
