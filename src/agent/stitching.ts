/**
 * What was shown in all, from looks at a screen that is painted anew again and again: each look is laid over the one before, what has
 * moved out at the top is kept, what was changed in place is replaced. Lines that were there from the beginning stay marked as such.
 */

export interface Line {
  text: string;
  /** Was on the screen already when looking began. */
  isOld: boolean;
}

/** Lines of a look that are compared with the one before, at most; beyond it, those at the bottom. */
const comparedMax = 400;

export class Stitching {
  readonly #kept: Line[] = [];
  #keptChars = 0;
  #last: readonly Line[];
  readonly #charsMax: number;
  #isTooMuch = false;

  /** `first`: what is there before anything is printed. Keeps about `charsMax` characters beyond the last look. */
  constructor(first: readonly string[], charsMax: number) {
    this.#last = first.map((text) => ({ text, isOld: true }));
    this.#charsMax = charsMax;
  }

  look(texts: readonly string[]): void {
    // Cleared, to be painted again.
    if (texts.every((text) => text.trim() === "")) return;
    const { moved, now } = layOver(this.#last, texts);
    this.#last = now;
    for (const line of moved) {
      if (this.#keptChars > this.#charsMax) {
        this.#isTooMuch = true;
        return;
      }
      this.#kept.push(line);
      this.#keptChars += line.text.length + 1;
    }
  }

  /** All that is new. */
  news(): string[] {
    const lines = this.#isTooMuch
      ? [...this.#kept, { text: leftOut, isOld: false }, ...this.#last]
      : [...this.#kept, ...this.#last];
    return newOf(lines);
  }
}

/** Empty lines all look alike: they are as new as what stands on both sides of them. */
function newOf(lines: readonly Line[]): string[] {
  const texts: string[] = [];
  let blanks = 0;
  for (const { text, isOld } of lines) {
    if (text.trim() === "") blanks++;
    else {
      if (!isOld) texts.push(...Array.from({ length: texts.length === 0 ? 0 : blanks }, () => ""), text);
      blanks = 0;
    }
  }
  return texts;
}

export const leftOut = "[… lines left out …]";

/** `moved`: lines of `before` that went out at the top. */
export function layOver(
  before: readonly Line[],
  texts: readonly string[],
): { moved: readonly Line[]; now: readonly Line[] } {
  const skipped = Math.max(0, before.length - comparedMax);
  const old = before.slice(skipped);
  const matches = matchLines(old, texts.slice(0, comparedMax));
  const now: Line[] = texts.map((text) => ({ text, isOld: false }));
  for (const [at, to] of matches) now[to] = { text: texts[to] ?? "", isOld: old[at]?.isOld ?? false };
  const moved = [...before.slice(0, skipped), ...movedOut(old, texts, matches)];
  return { moved, now };
}

type Match = readonly [at: number, to: number];

/** What stood before the first place where the lines have come closer to the top, or was replaced as a whole. */
function movedOut(
  old: readonly Line[],
  texts: readonly string[],
  matches: readonly Match[],
): readonly Line[] {
  let [at, to] = [0, 0];
  for (const [nextAt, nextTo] of [...matches, [old.length, texts.length] as const]) {
    const isLast = nextAt === old.length;
    const excess = nextAt - at - (nextTo - to);
    const gap = old.slice(at, nextAt);
    if (!isLast && excess > 0 && gap.some(({ text }) => text.trim() !== "")) return gap.slice(0, excess);
    if (isReplaced(gap, texts.slice(to, nextTo))) return gap;
    [at, to] = [nextAt + 1, nextTo + 1];
  }
  return [];
}

/** A page that was turned, as against lines that were written on or counted up in place. */
function isReplaced(gap: readonly Line[], texts: readonly string[]): boolean {
  const filled = gap.filter(({ text }) => text.trim() !== "");
  if (filled.length < 2 || texts.filter((text) => text.trim() !== "").length < 2) return false;
  const changed = gap.filter(({ text }, index) => text.trim() !== "" && !isAlike(text, texts[index] ?? ""));
  return changed.length * 2 > filled.length;
}

function isAlike(before: string, now: string): boolean {
  const [a, b] = [before.trim(), now.trim()];
  if (a === b || (b !== "" && a.startsWith(b)) || b.startsWith(a)) return true;
  const length = Math.min(a.length, b.length);
  let same = 0;
  for (let at = 0; at < length; at++) if (a[at] === b[at]) same++;
  return same * 2 > Math.max(a.length, b.length);
}

/** Pairs of equal lines in order: the longest row of them that there is. Empty lines only between or beside others. */
function matchLines(old: readonly Line[], texts: readonly string[]): Match[] {
  const isSame = (at: number, to: number): boolean => old[at]?.text === texts[to];
  let start = 0;
  while (start < old.length && start < texts.length && isSame(start, start)) start++;
  const head: Match[] = Array.from({ length: start }, (_, at) => [at, at] as const);
  let tail = 0;
  while (
    tail < old.length - start &&
    tail < texts.length - start &&
    isSame(old.length - 1 - tail, texts.length - 1 - tail)
  ) {
    tail++;
  }
  const [oldEnd, textsEnd] = [old.length - tail, texts.length - tail];
  const middle = longestRow(
    start,
    oldEnd,
    start,
    textsEnd,
    (at, to) => isSame(at, to) && texts[to]?.trim() !== "",
  );
  const end: Match[] = Array.from({ length: tail }, (_, at) => [oldEnd + at, textsEnd + at] as const);
  return [...head, ...middle, ...end];
}

/** The longest common subsequence, by the usual table. */
function longestRow(
  atStart: number,
  atEnd: number,
  toStart: number,
  toEnd: number,
  isSame: (at: number, to: number) => boolean,
): Match[] {
  const [rows, cols] = [atEnd - atStart, toEnd - toStart];
  if (rows <= 0 || cols <= 0) return [];
  const width = cols + 1;
  const lengths = new Uint16Array((rows + 1) * width);
  const length = (row: number, col: number): number => lengths[row * width + col] ?? 0;
  for (let row = rows - 1; row >= 0; row--) {
    for (let col = cols - 1; col >= 0; col--) {
      lengths[row * width + col] = isSame(atStart + row, toStart + col)
        ? length(row + 1, col + 1) + 1
        : Math.max(length(row + 1, col), length(row, col + 1));
    }
  }
  const matches: Match[] = [];
  for (let [row, col] = [0, 0]; row < rows && col < cols; ) {
    if (isSame(atStart + row, toStart + col)) matches.push([atStart + row++, toStart + col++]);
    else if (length(row + 1, col) >= length(row, col + 1)) row++;
    else col++;
  }
  return matches;
}
