/**
 * Which lines of one picture of a screen are lines of the picture before: pairs of equal ones, in order, such that as much as possible of
 * what is rare agrees. Of several ways the one in which old lines go at the top, and new ones come at the bottom. Pure.
 */

export type Match = readonly [at: number, to: number];

/** What all lines with the same text weigh together; a sum over all of a screen's fits into 32 bits. */
const weight = 2 ** 20;

/**
 * The rows from `top` on further up, some new ones below them, and the bottom of the screen as it was but for what counts there
 * (`isAlike`). Undefined unless that explains `count` rows.
 */
export function alignScrolled(
  before: readonly (string | undefined)[],
  now: readonly string[],
  { top, count, isAlike }: { top: number; count: number; isAlike(before: string, now: string): boolean },
): Match[] | undefined {
  const { length } = now;
  if (before.length !== length) return undefined;
  const stays = (at: number): boolean => before[at] === now[at] || isAlike(before[at] ?? "", now[at] ?? "");
  if (range(top).some((at) => !stays(at))) return undefined;
  let bottom = length;
  while (bottom > top && stays(bottom - 1)) bottom--;
  let best: { score: number; by: number; end: number } | undefined;
  for (let by = 1; by < length - top; by++) {
    let end = top + by;
    while (end < length && before[end] !== undefined && before[end] === now[end - by]) end++;
    // Empty rows that stay empty have not moved.
    if (end < bottom || end === top + by || before.slice(top, end).every((text) => !text)) continue;
    const same = range(length).filter((at) => (at < top || at >= end) && before[at] === now[at]).length;
    const changed = length - end + top - same;
    // Of two ways to explain as many rows, the one that leaves fewer of the others.
    const score = end - top - by + same - changed / (length + 1);
    if (best === undefined || score > best.score) best = { score, by, end };
  }
  if (best === undefined || Math.ceil(best.score) < count) return undefined;
  const { by, end } = best;
  return range(length).flatMap((at) => {
    if (at >= top && at < end) return at < top + by ? [] : [[at, at - by] as const];
    return before[at] === now[at] ? [[at, at] as const] : [];
  });
}

/** `before` has undefined where there is nothing that could come again. */
export function align(before: readonly (string | undefined)[], now: readonly string[]): Match[] {
  if (isChangedInPlace(before, now)) {
    return now.flatMap((text, at) => (text === before[at] ? [[at, at] as const] : []));
  }
  const counts = countTexts(before, now);
  const start = lengthOfEnd(before, now, counts, (length) => length - 1);
  const end = lengthOfEnd(before.slice(start), now.slice(start), counts, (length, count) => count - length);
  const [beforeEnd, nowEnd] = [before.length - end, now.length - end];
  const head = range(start).map((at) => [at, at] as const);
  const tail = range(end).map((at) => [beforeEnd + at, nowEnd + at] as const);
  return [...head, ...heaviest(before, now, { start, beforeEnd, nowEnd }), ...tail];
}

const range = (length: number): number[] => Array.from({ length }, (_, index) => index);

/** Nothing can have moved where what has come and what has gone stand nowhere else: a counter, a spinner, a line that grows. */
function isChangedInPlace(before: readonly (string | undefined)[], now: readonly string[]): boolean {
  if (before.length !== now.length) return false;
  return now.every(
    (text, at) => text === before[at] || (!before.includes(text) && !now.includes(before[at] ?? "")),
  );
}

interface Counts {
  before: number;
  now: number;
}

function countTexts(
  before: readonly (string | undefined)[],
  now: readonly string[],
): ReadonlyMap<string, Counts> {
  const counts = new Map<string, Counts>();
  const count = (text: string, which: keyof Counts): void => {
    const found = counts.get(text);
    if (found === undefined) counts.set(text, { before: 0, now: 0, [which]: 1 });
    else found[which]++;
  };
  for (const text of before) if (text !== undefined) count(text, "before");
  for (const text of now) count(text, "now");
  return counts;
}

/**
 * What is equal at an end stays where it is, as far as there is a line in it that stands nowhere else: how many lines. `place`: of the
 * nth line from that end.
 */
function lengthOfEnd(
  before: readonly (string | undefined)[],
  now: readonly string[],
  counts: ReadonlyMap<string, Counts>,
  place: (nth: number, count: number) => number,
): number {
  let length = 0;
  for (let nth = 1; nth <= Math.min(before.length, now.length); nth++) {
    const text = now[place(nth, now.length)] ?? "";
    if (before[place(nth, before.length)] !== text) break;
    const { before: often = 0, now: oftenNow = 0 } = counts.get(text) ?? {};
    if (often === 1 && oftenNow === 1) length = nth;
  }
  return length;
}

/** The longest common subsequence, by the usual table, with weights. */
function heaviest(
  before: readonly (string | undefined)[],
  now: readonly string[],
  { start, beforeEnd, nowEnd }: { start: number; beforeEnd: number; nowEnd: number },
): Match[] {
  const [rows, cols] = [beforeEnd - start, nowEnd - start];
  if (rows <= 0 || cols <= 0) return [];
  const counts = countTexts(before.slice(start, beforeEnd), now.slice(start, nowEnd));
  const weights = now.slice(start, nowEnd).map((text) => {
    const { before: often = 0, now: oftenNow = 0 } = counts.get(text) ?? {};
    return Math.floor(weight / Math.max(often, oftenNow));
  });
  /** Zero where they differ. Empty lines look alike anywhere: those that stay where they are weigh a little more. */
  const weigh = (row: number, col: number): number => {
    const text = now[start + col];
    if (before[start + row] !== text) return 0;
    return (weights[col] ?? 0) + (text === "" && row === col ? 1 : 0);
  };
  const width = cols + 1;
  const sums = new Int32Array((rows + 1) * width);
  const sum = (row: number, col: number): number => sums[row * width + col] ?? 0;
  for (let row = rows - 1; row >= 0; row--) {
    for (let col = cols - 1; col >= 0; col--) {
      const own = weigh(row, col);
      const without = Math.max(sum(row + 1, col), sum(row, col + 1));
      sums[row * width + col] = own === 0 ? without : Math.max(without, own + sum(row + 1, col + 1));
    }
  }
  const matches: Match[] = [];
  for (let [row, col] = [0, 0]; row < rows && col < cols; ) {
    const best = sum(row, col);
    const own = weigh(row, col);
    if (sum(row + 1, col) === best) row++;
    else if (own > 0 && own + sum(row + 1, col + 1) === best) matches.push([start + row++, start + col++]);
    else col++;
  }
  return matches;
}
