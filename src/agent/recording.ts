/**
 * Everything that a terminal shows from one moment on. On the normal screen, lines that scroll away are noted as they go, and the rest is
 * read in the end, until an agent paints there: clears it, or goes to its top. From then on, and on the alternate screen, which keeps
 * nothing, it is followed picture by picture.
 */
import type { IBuffer, IDisposable, Terminal } from "@xterm/headless";
import type { Margins } from "~/agent/margins";
import { Painting } from "~/agent/painting";
import { readRows } from "~/agent/rows";
import { Scrolled } from "~/agent/scrolled";
import { Stitching } from "~/agent/stitching";
import { responseCharsMax } from "~/wire/limits";

export interface Printed {
  lines: string[];
  isReprinted: boolean;
  isCursorLast: boolean;
}

type Params = readonly (number | number[])[];

/** `before`: as it is before what the sequence says is done. */
interface Watched {
  prefix?: string;
  intermediates?: string;
  final: string;
  before(params: Params): void;
}

export class Recording {
  readonly #terminal: Terminal;
  readonly #margins: Margins;
  readonly #listeners: readonly IDisposable[];
  readonly #scrolled: Scrolled;
  readonly #before: readonly string[];
  /** Of the normal screen, once something is painted there. */
  #normal: Painting | undefined;
  #alternate: Painting | undefined;

  constructor(terminal: Terminal, margins: Margins) {
    this.#terminal = terminal;
    this.#margins = margins;
    this.#scrolled = new Scrolled(terminal);
    this.#before = this.#scrolled.all().map((line) => line.trimEnd());
    this.#changedScreen();
    const { parser, buffer } = terminal;
    this.#listeners = [
      ...this.#controls().map(({ before, ...id }) =>
        parser.registerCsiHandler(id, (params) => {
          before(params);
          return false;
        }),
      ),
      ...this.#escapes().map(({ before, ...id }) =>
        parser.registerEscHandler(id, () => {
          before([]);
          return false;
        }),
      ),
      buffer.onBufferChange(() => this.#changedScreen()),
    ];
  }

  /**
   * So many characters may be written at once: no more than it takes to push out, with nothing but text, the row at the top of what scrolls
   * after the cursor has left it.
   */
  get portionCharsMax(): number {
    const { top, bottom } = this.#margins.region;
    return Math.max(1, (bottom - top - 1) * this.#terminal.cols);
  }

  /** After each portion. */
  tookIn(): void {
    const painting = this.#painting;
    if (painting === undefined) this.#scrolled.note();
    else painting.tookIn();
  }

  resizes(): void {
    this.#painting?.bounds();
  }

  resized(): void {
    this.#painting?.resized();
  }

  result(): Printed {
    const { active } = this.#terminal.buffer;
    const painting = this.#painting;
    const isCursorLast = active.type === "normal" && isBlankBelowCursor(active, this.#terminal.rows);
    if (painting !== undefined) return { ...painting.result(), isCursorLast };
    this.#scrolled.note();
    const lines = this.#scrolled.all().map((line) => line.trimEnd());
    const { start, end } = newIn(this.#before, lines);
    return { lines: lines.slice(start, end), isReprinted: false, isCursorLast };
  }

  close(): void {
    for (const listener of this.#listeners) listener.dispose();
    this.#scrolled.close();
    this.#normal?.close();
    this.#alternate?.close();
  }

  /** Of the screen that is shown; none where nothing is painted. */
  get #painting(): Painting | undefined {
    return this.#terminal.buffer.active.type === "normal" ? this.#normal : this.#alternate;
  }

  /** Follows what is painted on the normal screen from now on. */
  #paint(): void {
    if (this.#terminal.buffer.active.type === "normal") this.#normal ??= this.#paintingOfNormal();
  }

  #paintingOfNormal(): Painting {
    this.#scrolled.note();
    const { normal } = this.#terminal.buffer;
    const rows = readRows(normal, normal.baseY, normal.baseY + this.#terminal.rows);
    const lines = this.#scrolled.all().map((line) => line.trimEnd());
    const above = this.#scrolled.all(false);
    const { start, end } = newIn(this.#before, lines);
    const isOld = (line: number): boolean => line < start || line >= end;
    // A line that has begun above goes on in the first row.
    let line = above.length - 1;
    const lineAt = rows.map(({ isWrapped }, row) =>
      row === 0 && !isWrapped ? ++line : isWrapped ? line : ++line,
    );
    const stitching = new Stitching(rows, responseCharsMax, (row) => isOld(lineAt[row] ?? 0));
    stitching.precede(above.map((text, at) => ({ text, isOld: isOld(at) })));
    return new Painting(this.#terminal, this.#margins, stitching, "normal");
  }

  #changedScreen(): void {
    if (this.#terminal.buffer.active.type === "normal") {
      if (this.#normal === undefined) this.#scrolled.note();
      else this.#normal.comesBack();
      return;
    }
    if (this.#alternate !== undefined) {
      this.#alternate.comesBack();
      return;
    }
    const { alternate } = this.#terminal.buffer;
    const rows = readRows(alternate, alternate.baseY, alternate.baseY + this.#terminal.rows);
    this.#alternate = new Painting(
      this.#terminal,
      this.#margins,
      new Stitching(rows, responseCharsMax),
      "alternate",
    );
  }

  // ── What is looked out for ────────────────────────────────────────────────────────────────────────────────────────────

  #controls(): Watched[] {
    const up = ([count]: Params): void => this.#painting?.movesBy(-numberOf(count));
    const down = ([count]: Params): void => this.#painting?.movesBy(numberOf(count));
    const to = ([row, column]: Params): void => {
      this.#paint();
      this.#painting?.movesTo(numberOf(row) - 1, numberOf(column) - 1);
    };
    const toRow = ([row]: Params): void => {
      this.#paint();
      this.#painting?.movesTo(numberOf(row) - 1);
    };
    const changes = (): void => this.#painting?.changes();
    return [
      ...["A", "F"].map((final) => ({ final, before: up })),
      ...["B", "E", "e"].map((final) => ({ final, before: down })),
      ...["H", "f"].map((final) => ({ final, before: to })),
      { final: "d", before: toRow },
      { final: "u", before: () => this.#painting?.movesTo(0) },
      {
        final: "r",
        before: ([top]) => {
          if (numberOf(top) > 1) this.#paint();
          this.#painting?.movesTo(0);
        },
      },
      { final: "J", before: ([kind]) => this.#erases(numberOf(kind, 0)) },
      { prefix: "?", final: "J", before: changes },
      {
        final: "S",
        before: (params) => this.#scrolls(params, (painting, count) => painting.scrollsUp(count)),
      },
      {
        final: "T",
        before: (params) => this.#scrolls(params, (painting, count) => painting.scrollsDown(count)),
      },
      {
        final: "L",
        before: (params) => this.#scrolls(params, (painting, count) => painting.insertsLines(count)),
      },
      {
        final: "M",
        before: (params) => this.#scrolls(params, (painting, count) => painting.deletesLines(count)),
      },
      ...["@", "A"].map((final) => ({ intermediates: " ", final, before: changes })),
      ...["}", "~"].map((final) => ({ intermediates: "'", final, before: changes })),
      { prefix: "?", final: "h", before: (modes) => this.#switches(modes, true) },
      { prefix: "?", final: "l", before: (modes) => this.#switches(modes, false) },
    ];
  }

  #escapes(): Watched[] {
    return [
      ...["D", "E"].map((final) => ({ final, before: () => this.#painting?.indexes() })),
      { final: "M", before: () => this.#painting?.reverseIndexes() },
      { final: "8", before: () => this.#painting?.movesTo(0) },
      { intermediates: "#", final: "8", before: () => this.#painting?.changes() },
      {
        final: "c",
        before: () => {
          // Both screens go.
          this.#normal ??= this.#paintingOfNormal();
          this.#painting?.leaves();
        },
      },
    ];
  }

  /** Where it is done at all: screen.ts passes over more than there are rows. */
  #scrolls([param]: Params, tell: (painting: Painting, count: number) => void): void {
    const count = numberOf(param);
    if (count > this.#terminal.rows) return;
    this.#paint();
    if (this.#painting !== undefined) tell(this.#painting, count);
  }

  /** Below the cursor, above it, all of the screen, or what has scrolled away. */
  #erases(kind: number): void {
    const { cursorX, cursorY } = this.#terminal.buffer.active;
    const isAll = kind >= 2 || (kind === 0 && cursorX === 0 && cursorY === 0);
    if (isAll) this.#paint();
    const painting = this.#painting;
    if (kind === 3) painting?.wipes();
    else if (isAll) painting?.clears();
    else if (kind === 1) painting?.erases(0, cursorY - 1);
    else painting?.erases(cursorY + (cursorX === 0 ? 0 : 1), this.#terminal.rows - 1);
  }

  #switches(modes: Params, isOn: boolean): void {
    const painting = this.#painting;
    if (modes.includes(2026)) painting?.bounds(true);
    if (modes.includes(25)) painting?.bounds();
    if ([6, 1048, 1049].some((mode) => modes.includes(mode))) painting?.movesTo(0);
    const isOther = (this.#terminal.buffer.active.type === "alternate") !== isOn;
    if (isOther && [47, 1047, 1049].some((mode) => modes.includes(mode))) painting?.leaves();
  }
}

const numberOf = (param: number | number[] | undefined, otherwise = 1): number =>
  typeof param === "number" && param > 0 ? param : otherwise;

/**
 * What stood at the top already goes, and what stands at the bottom as it did before: a prompt, the frame of an input. Only what has not
 * kept its place can be such a bottom.
 */
function newIn(before: readonly string[], lines: readonly string[]): { start: number; end: number } {
  let start = 0;
  while (start < before.length && start < lines.length && before[start] === lines[start]) start++;
  const trailing = (texts: readonly string[]): number => texts.findLastIndex((text) => text !== "") + 1;
  let [beforeEnd, end] = [trailing(before), trailing(lines)];
  while (beforeEnd > start && end > start && before[beforeEnd - 1] === lines[end - 1]) {
    beforeEnd--;
    end--;
  }
  return { start, end: Math.max(start, end) };
}

function isBlankBelowCursor(buffer: IBuffer, rows: number): boolean {
  for (let row = buffer.cursorY + 1; row < rows; row++) {
    if (buffer.getLine(buffer.baseY + row)?.translateToString(true)) return false;
  }
  return true;
}
