/**
 * What was shown in all, from pictures of a screen that is painted anew again and again, and from what the terminal itself scrolled in
 * between: each picture is laid over the one before, what has moved out at the top is kept, what was changed in place is replaced. Lines
 * that were there from the beginning stay marked as such. Only whole pictures make sense here; painting.ts knows when one is.
 */
import { align, alignScrolled, type Match } from "~/agent/alignment";
import { blankRow, type Row } from "~/agent/rows";

/** A row that is on the screen, or has left it. */
interface Line extends Row {
  /** Was there before anything was printed. */
  isOld: boolean;
  /** Stands where it stood in the first picture: perhaps a heading below which everything scrolls. */
  isFixed: boolean;
  /** The terminal made room here, and nothing was written into it yet. */
  isRoom: boolean;
}

/** A whole line. */
export interface ShownLine {
  text: string;
  isOld: boolean;
}

interface Shown {
  lines: readonly ShownLine[];
  isReprinted: boolean;
}

export const leftOut = "[… lines left out …]";

/** Lines that have left the screen and may come back to it, when what is below them takes less room. */
const returningMax = 1_000;

/** Rows of a screen that count up at the same time. */
const countersMax = 4;

const isBlank = ({ text }: Row): boolean => text === "";
const lineOf = (row: Row, isOld: boolean, isFixed = false): Line => ({
  ...row,
  isOld,
  isFixed,
  isRoom: false,
});
const emptyLine = lineOf(blankRow, false);
const room: Line = { ...emptyLine, isRoom: true };

export class Stitching {
  /** Whole lines, for good. */
  #done = new LineList();
  /** The last ones that have left the screen. */
  #gone: Line[] = [];
  /** The picture before. */
  #screen: Line[];
  /** The row at which lines leave, below a heading if there is one. */
  #top = 0;
  #goneChars = 0;
  readonly #charsMax: number;
  #isTooMuch = false;
  /** There was nothing on the screen yet. */
  #isUntouched: boolean;
  /** What was there before anything was printed. */
  readonly #first: readonly string[];
  /** What was shown until everything was wiped away, to be printed once more. */
  #earlier: Shown | undefined;

  /** `first`: what the screen shows, and how much of it was there before anything was printed. Keeps about `charsMax` characters beyond it. */
  constructor(first: readonly Row[], charsMax: number, isOld: (at: number) => boolean = () => true) {
    this.#screen = first.map((row, at) => lineOf(row, isOld(at), isOld(at)));
    this.#isUntouched = first.every(isBlank);
    this.#first = this.#screen.filter((line) => line.isOld).map((line) => line.text);
    this.#charsMax = charsMax;
  }

  /** Nothing more needs to be told than the last picture. */
  get isTooMuch(): boolean {
    return this.#isTooMuch;
  }

  /**
   * A whole picture. `isLast`: what is empty in it is to be empty. Otherwise that may be about to be painted, and a picture in which
   * nothing else has changed is passed over: false. `erasedFrom`: from this row on everything was erased before it was painted.
   */
  look(rows: readonly Row[], { isLast = false, erasedFrom = rows.length } = {}): boolean {
    if (this.#isTooMuch) {
      this.#screen = rows.map((row) => lineOf(row, false));
      return true;
    }
    if (rows.every(isBlank) || (!isLast && isOnlyErased(this.#screen, rows))) return false;
    if (isSame(this.#screen, rows)) {
      this.#screen = this.#screen.map((line, at) => ({ ...line, ...rows[at] }));
      return true;
    }
    if (this.#isCountedUp(rows)) return true;
    const matches = this.#align(rows);
    const moved = this.#movedOut(matches, rows, erasedFrom);
    const returned = moved === undefined ? this.#returned(rows) : [];
    const before = this.#screen;
    this.#screen = laidOver(before, rows, matches, this.#isUntouched);
    this.#isUntouched = false;
    if (moved !== undefined) {
      this.#top = moved.at;
      for (const line of before.slice(moved.at, moved.at + moved.count)) if (!line.isRoom) this.#leave(line);
    }
    for (const [at, isOld] of returned) this.#screen[at] = lineOf(rows[at] ?? blankRow, isOld);
    return true;
  }

  /**
   * Most pictures are the one before, but for a spinner and a clock: what stands there now stands nowhere else, nor does what stood there.
   * Anything else is left to be looked at closely: false.
   */
  #isCountedUp(rows: readonly Row[]): boolean {
    if (rows.length !== this.#screen.length) return false;
    const changed = rows.flatMap((row, at) => (row.text === this.#screen[at]?.text ? [] : [at]));
    if (changed.length > countersMax) return false;
    for (const at of changed) {
      const [line, row] = [this.#screen[at], rows[at]];
      if (line === undefined || row === undefined || line.isRoom || !isAlike(line.text, row.text))
        return false;
      if (rows.some(({ text }, other) => text === line.text || (text === row.text && other !== at)))
        return false;
    }
    for (const at of changed) {
      const line = this.#screen[at];
      if (line !== undefined) this.#screen[at] = lineOf(rows[at] ?? blankRow, false, line.isFixed);
    }
    return true;
  }

  /** Whether the picture shows enough of the one before to be the same, further scrolled. */
  continues(rows: readonly Row[]): boolean {
    const filled = (lines: readonly Row[]): number => lines.filter((line) => !isBlank(line)).length;
    const same = this.#align(rows).filter(([, to]) => rows[to]?.text !== "").length;
    return same * 2 >= Math.min(filled(this.#screen), filled(rows));
  }

  /** The terminal has moved the rows from `top` to `bottom` up by one, and `row` has left at the top. */
  scrolledUp(top: number, bottom: number, row: Row): void {
    if (this.#isTooMuch) return;
    this.#isUntouched = false;
    const [line] = this.#screen.splice(top, 1);
    this.#screen.splice(bottom, 0, emptyLine);
    this.#top = top;
    this.#leave(lineOf(row, line?.isOld === true && line.text === row.text));
  }

  /**
   * The terminal deletes `rows` at `at`, and moves up those below them, down to `bottom`: scrolls them away, under a heading or at the top of
   * what scrolls (`isTop`), or takes them away.
   */
  deleted(at: number, bottom: number, rows: readonly Row[], isTop: boolean): void {
    if (this.#isTooMuch) return;
    const isScroll =
      (isTop || this.#isHeadingAbove(at)) && !this.#screen.slice(at + rows.length, bottom + 1).every(isBlank);
    for (const row of rows) {
      if (isScroll) this.scrolledUp(at, bottom, row);
      else {
        this.#screen.splice(at, 1);
        this.#screen.splice(bottom, 0, emptyLine);
      }
    }
  }

  /** The terminal has made room at the row `at`, at the top of what scrolls or somewhere, and what stood at `bottom` has gone. */
  inserted(at: number, bottom: number, isTop: boolean): void {
    if (this.#isTooMuch) return;
    this.#screen.splice(bottom, 1);
    this.#screen.splice(at, 0, isTop || at === this.#top ? room : emptyLine);
  }

  /** Everything was wiped away, and is probably printed once more, from its beginning. */
  startAgain(): void {
    if (this.#isTooMuch) return;
    this.#earlier = this.#shown();
    this.#done = new LineList();
    this.#gone = [];
    this.#screen = this.#screen.map(() => room);
    this.#goneChars = 0;
    this.#top = 0;
  }

  /** Adds what has left the screen before the first picture. */
  precede(lines: readonly ShownLine[]): void {
    for (const { text, isOld } of lines) {
      this.#done.add({ ...blankRow, text }, isOld);
      this.#goneChars += text.length + 1;
    }
  }

  /** All that is new, in order. `isReprinted`: what is old may be there once more, and cannot be told from it. */
  news(): { lines: string[]; isReprinted: boolean } {
    const { lines, isReprinted } = this.#shown();
    return { lines: newOf(lines), isReprinted };
  }

  #shown(): Shown {
    const all = new LineList();
    for (const line of this.#screen.slice(0, this.#top)) all.add(line, line.isOld);
    all.append(this.#done);
    for (const line of this.#gone) all.add(line, line.isOld);
    if (this.#isTooMuch) all.add({ ...blankRow, text: leftOut }, false);
    for (const line of this.#screen.slice(this.#top)) all.add(line, line.isOld);
    return this.#earlier === undefined
      ? { lines: withOldBottom(this.#first, all.lines()), isReprinted: false }
      : rejoined(this.#earlier, all.lines());
  }

  #align(rows: readonly Row[]): Match[] {
    const before = this.#screen.map((line) => (line.isRoom ? undefined : line.text));
    const now = rows.map((row) => row.text);
    const matches = align(before, now);
    // Nobody puts something new above what there is.
    const isAbove = matches.some(
      ([at, to], index) => to > at && at >= this.#top && (matches[index - 1]?.[0] ?? 0) < this.#top,
    );
    const count = isAbove && this.#returnedBy(rows) === 0 ? 0 : matches.length;
    for (const top of new Set([this.#top, 0, this.#headingOf(rows)])) {
      const scrolled = alignScrolled(before, now, { top, count, isAlike });
      if (scrolled !== undefined) return scrolled;
    }
    return matches;
  }

  /** How many rows at the top have never changed. */
  #headingOf(rows: readonly Row[]): number {
    const end = this.#screen.findIndex((line, at) => !line.isFixed || line.text !== rows[at]?.text);
    return this.#screen.slice(0, Math.max(0, end)).findLastIndex((line) => !isBlank(line)) + 1;
  }

  #leave(line: Line): void {
    this.#gone.push(line);
    this.#goneChars += line.text.length + line.space.length + 1;
    if (this.#goneChars > this.#charsMax) this.#isTooMuch = true;
    if (this.#gone.length < 2 * returningMax && !this.#isTooMuch) return;
    for (const each of this.#gone.splice(0, this.#gone.length - returningMax))
      this.#done.add(each, each.isOld);
  }

  #isHeadingAbove(at: number): boolean {
    return (
      at === this.#top ||
      this.#screen.slice(0, at).every((line) => line.isFixed || line.isRoom || isBlank(line))
    );
  }

  /** What stood before the first place where lines have come closer to the top, or what was replaced as a page. */
  #movedOut(
    matches: readonly Match[],
    rows: readonly Row[],
    erasedFrom: number,
  ): { at: number; count: number } | undefined {
    let [at, to] = [0, 0];
    for (const [index, [nextAt, nextTo]] of matches.entries()) {
      // What counts in a heading.
      const excess = nextAt - at - (nextTo - to);
      while (excess > 0 && at === to && to < nextTo && isAlike(this.#screen[at]?.text, rows[to]?.text))
        [at, to] = [at + 1, to + 1];
      if (excess > 0 && at < erasedFrom && this.#isHeadingAbove(at)) {
        const gap = this.#screen.slice(at, nextAt);
        const isSure = isBlockWithText(matches, index, rows) || at === this.#top || !gap.every(isBlank);
        const isRest = gap
          .slice(excess)
          .every((line, order) => isBlank(line) || isAlike(line.text, rows[to + order]?.text));
        const count = isRest ? excess : nextAt - at;
        if (isSure) return { at: this.#firstOf(at, count), count };
      }
      [at, to] = [nextAt + 1, nextTo + 1];
    }
    return this.#turned(matches, rows, erasedFrom);
  }

  /** A page that was turned, as against lines that were written on, or counted up in place. */
  #turned(
    matches: readonly Match[],
    rows: readonly Row[],
    erasedFrom: number,
  ): { at: number; count: number } | undefined {
    const kept = new Set(matches.map(([at]) => at));
    const isReplaced = (line: Line, at: number): boolean =>
      !isBlank(line) && !kept.has(at) && at < erasedFrom && !isAlike(line.text, rows[at]?.text);
    const first = this.#screen.findIndex(isReplaced);
    const last = this.#screen.findLastIndex(isReplaced);
    if (first === last || !this.#isHeadingAbove(first)) return undefined;
    const page = this.#screen.slice(first, last + 1);
    if (page.some((line, order) => !isBlank(line) && kept.has(first + order))) return undefined;
    const isNew = rows.some(
      (row, at) => !isBlank(row) && at >= first && !matches.some(([, to]) => to === at),
    );
    return isNew ? { at: first, count: page.length } : undefined;
  }

  /** Where lines are alike, those that go are the first ones of them. */
  #firstOf(at: number, count: number): number {
    let first = at;
    while (first > 0 && this.#screen[first - 1]?.text === this.#screen[first + count - 1]?.text) first--;
    return first;
  }

  /** Rows that have come in at the top and show what has left there last: takes that back. */
  #returned(rows: readonly Row[]): [at: number, isOld: boolean][] {
    const down = this.#returnedBy(rows);
    if (down === 0) return [];
    const back = this.#gone.splice(-down);
    for (const line of back) this.#goneChars -= line.text.length + line.space.length + 1;
    return back.map((line, order) => [this.#top + down - back.length + order, line.isOld]);
  }

  /** How far down what stood there is now. */
  #returnedBy(rows: readonly Row[]): number {
    if (this.#gone.length === 0) return 0;
    const all = this.#screen.slice(this.#top);
    // The terminal may have made room for it.
    const rooms = all.findIndex((line) => !line.isRoom);
    const own = all.slice(Math.max(0, rooms));
    let [best, bestRun] = [0, rooms > 0 ? 0 : this.#runOf(own, rows, 0)];
    for (let down = 1; this.#top + down < rows.length; down++) {
      const run = this.#runOf(own, rows, down);
      if (run > bestRun && this.#isAbove(rows, down) && own.slice(0, run).some((line) => !isBlank(line)))
        [best, bestRun] = [down, run];
    }
    return best;
  }

  /** How many rows of `own` stand so far below the first row at which lines leave. */
  #runOf(own: readonly Line[], rows: readonly Row[], down: number): number {
    let run = 0;
    while (run < own.length && own[run]?.text === rows[this.#top + down + run]?.text) run++;
    return run;
  }

  /** Whether what has left last stands right above them. */
  #isAbove(rows: readonly Row[], down: number): boolean {
    const last = this.#gone.slice(-down);
    return last.every((line, order) => line.text === rows[this.#top + down - last.length + order]?.text);
  }
}

const isSame = (before: readonly Line[], rows: readonly Row[]): boolean =>
  before.length === rows.length && rows.every((row, at) => row.text === before[at]?.text);

/** Empty where there was something, and nothing else has changed. */
const isOnlyErased = (before: readonly Line[], rows: readonly Row[]): boolean =>
  before.length === rows.length &&
  rows.every((row, at) => isBlank(row) || row.text === before[at]?.text) &&
  !isSame(before, rows);

/** `isFirst`: nothing was there before. */
function laidOver(
  before: readonly Line[],
  rows: readonly Row[],
  matches: readonly Match[],
  isFirst: boolean,
): Line[] {
  const now = rows.map((row, at) => {
    const isSame = isAlike(before[at]?.text ?? "", row.text) && (before[at]?.isFixed ?? false);
    return lineOf(row, false, isFirst || isSame);
  });
  for (const [at, to] of matches) {
    const line = before[at];
    if (line !== undefined)
      now[to] = lineOf(rows[to] ?? blankRow, line.isOld, isFirst || (line.isFixed && at === to));
  }
  return now;
}

/** Whether the lines from this pair on that have moved by as much are more than empty ones. */
function isBlockWithText(matches: readonly Match[], index: number, rows: readonly Row[]): boolean {
  const [first, second] = matches[index] ?? [];
  if (first === undefined || second === undefined) return false;
  for (let next = index; next < matches.length; next++) {
    const [at, to] = matches[next] ?? [];
    if (at !== first + next - index || to !== second + next - index) return false;
    if (rows[to]?.text !== "") return true;
  }
  return false;
}

function isAlike(before = "", now = ""): boolean {
  const [a, b] = [before.trim(), now.trim()];
  if (a === b || (b !== "" && a.startsWith(b)) || (a !== "" && b.startsWith(a))) return true;
  const length = Math.min(a.length, b.length);
  let same = 0;
  for (let at = 0; at < length; at++) if (a[at] === b[at]) same++;
  return same * 2 > Math.max(a.length, b.length);
}

/** Whole lines, out of rows in order. */
class LineList {
  #texts: string[] = [];
  #olds: boolean[] = [];

  add({ text, space, isWrapped }: Row, isOld: boolean): void {
    const before = isWrapped ? this.#texts.pop() : undefined;
    this.#texts.push(before === undefined ? text + space : before + text + space);
    if (before === undefined) this.#olds.push(isOld);
  }

  append(more: LineList): void {
    this.#texts = [...this.#texts, ...more.#texts];
    this.#olds = [...this.#olds, ...more.#olds];
  }

  lines(): ShownLine[] {
    return this.#texts.map((text, at) => ({ text: text.trimEnd(), isOld: this.#olds[at] ?? false }));
  }
}

/**
 * An input at the bottom that was erased and painted again is what it was. Only what of `first` is not known to be somewhere else can be
 * such a bottom.
 */
function withOldBottom(first: readonly string[], lines: readonly ShownLine[]): readonly ShownLine[] {
  const missing = new Map<string, number>();
  const count = (text: string, more: number): void => void missing.set(text, (missing.get(text) ?? 0) + more);
  for (const text of first) count(text, 1);
  for (const { text, isOld } of lines) if (isOld) count(text, -1);
  const marked = [...lines];
  let back = first.findLastIndex((text) => text !== "");
  for (let at = lines.findLastIndex(({ text }) => text !== ""); at >= 0 && back >= 0; at--, back--) {
    const { text, isOld } = lines[at] ?? { text: "", isOld: false };
    const isMissing = text === "" || isOld || (missing.get(text) ?? 0) > 0;
    if (text !== first[back] || !isMissing) break;
    if (!isOld) count(text, -1);
    marked[at] = { text, isOld: true };
  }
  return marked;
}

/** Empty lines all look alike: they are as new as what stands on both sides of them. */
function newOf(lines: readonly ShownLine[]): string[] {
  const texts: string[] = [];
  let blanks = 0;
  for (const { text, isOld } of lines) {
    if (text === "") blanks++;
    else {
      if (!isOld) texts.push(...Array.from({ length: texts.length === 0 ? 0 : blanks }, () => ""), text);
      blanks = 0;
    }
  }
  return texts;
}

/** Lines that must agree on where what is printed once more begins. */
const agreeingMin = 2;

/**
 * What was shown before everything was wiped away, and after it. An agent that prints all of it once more has the last word on what it was,
 * and what it prints before what is known here was there before; one that does not has gone on to something else.
 */
function rejoined({ lines: earlier, isReprinted }: Shown, later: readonly ShownLine[]): Shown {
  const texts = new Set(later.map(({ text }) => text));
  const news = earlier.filter(({ text, isOld }) => !isOld && text !== "");
  const again = news.filter(({ text }) => texts.has(text)).length;
  const { above, laterAbove } = withoutBottom(earlier, later);
  const offset = again * 2 >= news.length ? offsetOf(above, laterAbove) : undefined;
  const all = later.map(({ text }, at) => {
    const before = offset === undefined ? undefined : earlier[at + offset];
    const isBefore = offset !== undefined && at + offset < 0;
    return { text, isOld: isBefore || (before?.isOld === true && before.text === text) };
  });
  // An input at the bottom is what it was, too, unless that was found elsewhere.
  const bottom = earlier.slice(above.length).filter(({ text, isOld }, order) => {
    const at = laterAbove.length + order;
    const place = offset === undefined ? -1 : above.length + order - offset;
    const isElsewhere = place >= 0 && place !== at && later[place]?.text === text;
    const line = all[at];
    if (line !== undefined && isOld && !isElsewhere) line.isOld = true;
    return !isOld;
  });
  if (offset === undefined) return { lines: [...above, ...bottom, ...all], isReprinted: true };
  return { lines: [...earlier.slice(0, Math.max(0, offset)), ...all], isReprinted };
}

/** Without what is the same at the bottom of both: an input, which tells nothing. */
function withoutBottom(
  earlier: readonly ShownLine[],
  later: readonly ShownLine[],
): { above: readonly ShownLine[]; laterAbove: readonly ShownLine[] } {
  let end = earlier.findLastIndex(({ text }) => text !== "") + 1;
  let laterEnd = later.findLastIndex(({ text }) => text !== "") + 1;
  while (end > 0 && laterEnd > 0 && earlier[end - 1]?.text === later[laterEnd - 1]?.text) {
    end--;
    laterEnd--;
  }
  return { above: earlier.slice(0, end), laterAbove: later.slice(0, laterEnd) };
}

/**
 * Where in `earlier` the first line of `later` stands, by the lines that stand only once in each; before it where that is negative. Of
 * several places the last, so that nothing is taken for what it is not.
 */
function offsetOf(earlier: readonly ShownLine[], later: readonly ShownLine[]): number | undefined {
  const places = placesOf(earlier);
  const votes = new Map<number, number>();
  for (const [text, at] of placesOf(later)) {
    const place = places.get(text);
    if (place !== undefined) votes.set(place - at, (votes.get(place - at) ?? 0) + 1);
  }
  const all = [...votes.values()].reduce((sum, count) => sum + count, 0);
  const enough = Math.max(Math.min(agreeingMin, all), all / 4);
  const offsets = [...votes].filter(([, count]) => count >= enough).map(([offset]) => offset);
  return offsets.length === 0 ? undefined : Math.max(...offsets);
}

function placesOf(lines: readonly ShownLine[]): ReadonlyMap<string, number> {
  const places = new Map<string, number>();
  const several = new Set<string>();
  for (const [at, { text }] of lines.entries()) {
    if (places.has(text)) several.add(text);
    places.set(text, at);
  }
  for (const text of ["", ...several]) places.delete(text);
  return places;
}
