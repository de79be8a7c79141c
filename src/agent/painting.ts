/**
 * Follows an agent that paints the whole screen, and says what it has shown in all. When a picture is whole, the output itself tells: before
 * the cursor goes up again, at the end of a synchronised update, when the cursor is shown. What the terminal scrolls is noted row by row.
 * So nothing depends on how the output was cut on its way here.
 */
import type { IBuffer, IBufferNamespace, IDisposable, Terminal } from "@xterm/headless";
import type { Margins } from "~/agent/margins";
import { blankRow, type Row, readRow, readRows } from "~/agent/rows";
import type { Stitching } from "~/agent/stitching";

export class Painting {
  readonly #terminal: Terminal;
  readonly #margins: Margins;
  readonly #buffers: IBufferNamespace;
  readonly #type: "normal" | "alternate";
  readonly #stitching: Stitching;
  readonly #listeners: readonly IDisposable[];
  /** The screen, as far as it was read. */
  #rows: Row[];
  /** The rows from the first to the last may have changed since they were read; none where the first is after the last. */
  #changedFirst = Number.POSITIVE_INFINITY;
  #changedLast = Number.NEGATIVE_INFINITY;
  /** The cursor has not been above this row since it was last asked for. */
  #cursorFrom: number;
  /** What the screen shows was not looked at yet. */
  #isNew = false;
  /** Nothing was done since the last look but to print, downwards. */
  #isPlain = false;
  #isCleared = false;
  /** From this row on everything was erased since the last look, though not all of the screen. */
  #erasedFrom: number | undefined;
  #isWiped = false;
  /** Another screen is shown. */
  #isLeft = false;

  constructor(terminal: Terminal, margins: Margins, stitching: Stitching, type: "normal" | "alternate") {
    this.#terminal = terminal;
    this.#margins = margins;
    this.#stitching = stitching;
    this.#buffers = terminal.buffer;
    this.#type = type;
    this.#isLeft = this.#buffers.active.type !== type;
    this.#rows = this.#readAll();
    this.#cursorFrom = this.#buffer.cursorY;
    this.#listeners = [terminal.onScroll(() => this.#scrolled()), terminal.onLineFeed(() => this.#lineFed())];
  }

  close(): void {
    for (const listener of this.#listeners) listener.dispose();
  }

  /** After each portion. */
  tookIn(): void {
    if (this.#isLeft) return;
    this.#touch();
    this.#readTop();
  }

  /** What is new of all that was shown. */
  result(): { lines: string[]; isReprinted: boolean } {
    if (!this.#isLeft) {
      this.#rows = this.#readAll();
      this.#stitching.look(this.#rows, { isLast: true });
    }
    return this.#stitching.news();
  }

  // ── Before something is done ──────────────────────────────────────────────────────────────────────────────────────────

  /** The cursor goes to this row, or to one below it: back to where it has been, if what is there is to be painted over. */
  movesTo(row: number, column = Number.POSITIVE_INFINITY): void {
    this.#touch();
    this.#readTop(true);
    const { cursorX, cursorY } = this.#buffer;
    if (row < cursorY || (row === cursorY && column < cursorX)) this.#look();
    this.#cursorFrom = Math.max(0, row);
    this.#isPlain = false;
  }

  movesBy(rows: number): void {
    this.movesTo(this.#buffer.cursorY + rows);
  }

  /** A frame ends, or begins. `isForced`: so does a synchronised update. */
  bounds(isForced = false): void {
    this.#touch();
    this.#look(isForced);
    this.#isPlain = false;
  }

  /** One down, or one line further at the bottom. */
  indexes(): void {
    this.#touch();
    this.#readTop(true);
  }

  /** The rows from the first to the last are erased; of the cursor's own row, a part. */
  erases(first: number, last: number): void {
    this.#touch();
    if (first < this.#buffer.cursorY) this.#look();
    for (let row = first; row <= last; row++) this.#rows[row] = blankRow;
    if (last === this.#terminal.rows - 1) this.#erasedFrom = Math.min(first, this.#erasedFrom ?? first);
    this.#isNew = true;
    this.#isPlain = false;
  }

  /** All of the screen is erased, to be painted anew. */
  clears(): void {
    this.#touch();
    this.#look(true);
    if (this.#isWiped) this.#startAgain();
    this.#isCleared = true;
    this.erases(0, this.#terminal.rows - 1);
    this.#erasedFrom = undefined;
  }

  /** Throws away what has scrolled away, and whoever does that prints everything again. */
  wipes(): void {
    if (this.#type === "alternate") return;
    this.#touch();
    this.#look(true);
    this.#isWiped = true;
    if (this.#rows.every(({ text }) => text === "")) this.#startAgain();
  }

  /** Anything may have changed anywhere. */
  changes(): void {
    this.#touch();
    this.#look();
    this.#mark(0, this.#terminal.rows - 1);
    this.#isPlain = false;
  }

  scrollsUp(count: number): void {
    const { top, bottom } = this.#margins.region;
    this.#deletes(top, bottom, count, (rows) => {
      for (const row of rows) this.#stitching.scrolledUp(top, bottom, row);
    });
  }

  scrollsDown(count: number): void {
    const { top, bottom } = this.#margins.region;
    this.#inserts(top, bottom, count);
  }

  deletesLines(count: number): void {
    const [at, { top, bottom }] = [this.#buffer.cursorY, this.#margins.region];
    if (at < top || at > bottom) return;
    this.#deletes(at, bottom, count, (rows) => this.#stitching.deleted(at, bottom, rows, at === top));
  }

  insertsLines(count: number): void {
    const [at, { top, bottom }] = [this.#buffer.cursorY, this.#margins.region];
    if (at >= top && at <= bottom) this.#inserts(at, bottom, count);
  }

  /** One up, or room at the top. */
  reverseIndexes(): void {
    const { cursorY } = this.#buffer;
    if (cursorY === this.#margins.region.top) this.scrollsDown(1);
    else this.movesTo(cursorY - 1);
  }

  /** Another screen is shown, and later this one again, as it was or empty. */
  leaves(): void {
    this.#touch();
    this.#look(true);
    this.#isLeft = true;
  }

  // ── After it was done ─────────────────────────────────────────────────────────────────────────────────────────────────

  /** This screen is shown again. */
  comesBack(): void {
    this.#isLeft = false;
    this.#rows = this.#readAll();
    this.#cursorFrom = 0;
    this.#isNew = true;
    this.#isPlain = false;
  }

  /** The terminal has another size; its agent paints everything anew, and until it does there is nothing new. */
  resized(): void {
    if (this.#isLeft) return;
    this.#rows = this.#readAll();
    this.#cursorFrom = 0;
    this.#isNew = false;
    this.#isPlain = false;
  }

  /** By one, since something was printed at the bottom. */
  #scrolled(): void {
    if (this.#isLeft || this.#stitching.isTooMuch) return;
    const { top, bottom } = this.#margins.region;
    this.#touch();
    const row = this.#isKept ? readRow(this.#buffer, this.#buffer.baseY - 1) : (this.#rows[top] ?? blankRow);
    this.#shift(top, bottom);
    if (this.#changedFirst > top && this.#changedFirst <= bottom) this.#changedFirst--;
    if (this.#changedLast > top && this.#changedLast <= bottom) this.#changedLast--;
    if (this.#isPlain) this.#readTop();
    else {
      this.#read();
      const picture = this.#rows.toSpliced(bottom, 1).toSpliced(top, 0, row);
      if (this.#isCleared && !this.#stitching.continues(picture)) this.#startAgain();
      this.#stitching.look(picture, { erasedFrom: this.#isCleared ? 0 : this.#erasedFrom });
      this.#isCleared = false;
      this.#erasedFrom = undefined;
      this.#isPlain = true;
    }
    this.#stitching.scrolledUp(top, bottom, row);
    this.#isNew = true;
    // Where the edge has broken a line, its end is about to be seen to.
    this.#cursorFrom = Math.max(top, bottom - 1);
  }

  #lineFed(): void {
    const { top } = this.#margins.region;
    if (this.#isLeft || this.#isKept || (this.#cursorFrom > top && this.#changedFirst > top)) return;
    this.#touch();
    this.#readTop();
  }

  // ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  get #buffer(): IBuffer {
    return this.#type === "normal" ? this.#buffers.normal : this.#buffers.alternate;
  }

  /** Whether the terminal keeps what scrolls away. */
  get #isKept(): boolean {
    return this.#type === "normal" && this.#margins.region.top === 0;
  }

  #readAll(): Row[] {
    const { baseY } = this.#buffer;
    this.#changedFirst = Number.POSITIVE_INFINITY;
    this.#changedLast = Number.NEGATIVE_INFINITY;
    return readRows(this.#buffer, baseY, baseY + this.#terminal.rows);
  }

  /** Where the cursor has been may have changed. It only ever goes down, unless it was said. */
  #touch(): void {
    const { cursorY } = this.#buffer;
    this.#mark(Math.min(this.#cursorFrom, cursorY), cursorY);
    this.#cursorFrom = cursorY;
  }

  #mark(first: number, last: number): void {
    this.#changedFirst = Math.min(this.#changedFirst, first);
    this.#changedLast = Math.max(this.#changedLast, last);
  }

  #read(): void {
    const last = Math.min(this.#changedLast, this.#terminal.rows - 1);
    for (let row = this.#changedFirst; row <= last; row++) this.#readAt(row);
    this.#changedFirst = Number.POSITIVE_INFINITY;
    this.#changedLast = Number.NEGATIVE_INFINITY;
  }

  #readAt(row: number): void {
    const now = readRow(this.#buffer, this.#buffer.baseY + row);
    if (now.text !== this.#rows[row]?.text) this.#isNew = true;
    this.#rows[row] = now;
  }

  /** When it leaves the terminal, it is too late. As long as the cursor is there, unless it `isLeaving`, it is too early. */
  #readTop(isLeaving = false): void {
    if (this.#isKept) return;
    const { top, bottom } = this.#margins.region;
    if (this.#changedFirst > top || this.#changedLast < top) return;
    if (!isLeaving && this.#buffer.cursorY === top && top !== bottom) return;
    this.#readAt(top);
    if (this.#changedFirst === top) this.#changedFirst++;
  }

  /** `isForced`: also in the midst of a synchronised update, since what is there will be lost. */
  #look(isForced = false): void {
    this.#read();
    if (!this.#isNew || this.#stitching.isTooMuch) return;
    if (!isForced && this.#terminal.modes.synchronizedOutputMode) return;
    if (!this.#stitching.look(this.#rows)) return;
    this.#isNew = false;
    this.#isCleared = false;
    this.#erasedFrom = undefined;
  }

  #startAgain(): void {
    this.#stitching.startAgain();
    this.#isWiped = false;
    this.#isNew = true;
  }

  #shift(top: number, bottom: number): void {
    this.#rows.splice(top, 1);
    this.#rows.splice(bottom, 0, blankRow);
  }

  #deletes(top: number, bottom: number, count: number, tell: (rows: readonly Row[]) => void): void {
    this.#touch();
    this.#look(true);
    const end = top + Math.min(count, bottom - top + 1);
    tell(this.#rows.slice(top, end));
    for (let row = top; row < end; row++) this.#shift(top, bottom);
    this.#isNew = true;
    this.#isPlain = false;
  }

  #inserts(top: number, bottom: number, count: number): void {
    this.#touch();
    this.#look(true);
    for (let n = Math.min(count, bottom - top + 1); n > 0; n--) {
      this.#rows.splice(bottom, 1);
      this.#rows.splice(top, 0, blankRow);
      this.#stitching.inserted(top, bottom, top === this.#margins.region.top);
    }
    this.#isNew = true;
    this.#isPlain = false;
  }
}
