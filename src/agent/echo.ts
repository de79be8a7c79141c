/**
 * Texts that are handed to an agent, and where the agent's screen shows them again: in its input, in its history. What stands there was
 * said by somebody else, and tells nothing about the agent.
 */

/** Carriage returns and their kind are newlines. */
const newlines = /\r\n?|[\u0085\u2028\u2029]/g;
/** The marks of a bracketed paste (xterm's ctlseqs), in both forms of CSI. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences begin with one
const pasteMarks = /(?:\x1b\[|\u009b)20[01]~/g;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it is for
const controls = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g;

/**
 * The text as it may be typed into a terminal: no control characters but newline and tab, and none of the marks of a paste, so that
 * nothing in it ends the paste or is a key.
 */
export function typeable(body: string): string {
  return body.toWellFormed().replace(pasteMarks, "").replace(newlines, "\n").replace(controls, "");
}

/** The same as a paste that Enter follows: space at its end says nothing, and behind a backslash Enter would be a newline. */
export const pasteable = (text: string): string => text.trimEnd().replace(/\\$/u, "\\ ");

export interface Echo {
  text: string;
  /** Without white space, which agents change when they wrap. */
  compact: string;
}

export const echoOf = (text: string): Echo => ({ text, compact: compacted(text) });

const compacted = (text: string): string => text.replace(/\s+/gu, "");

/** What agents put before and behind a line of their input or history. */
const before = /^[\s│┃|▌▏>❯›●⏺•]+/u;
const behind = /[\s│┃|▐▕]/u;
const space = /\s/u;

/** Where what stands behind the text begins. Looked for from the end, since a line may be as long as an answer. */
function endOfText(line: string): number {
  let end = line.length;
  while (end > 0 && behind.test(line[end - 1] ?? "")) end--;
  return end;
}

const withoutBehind = (line: string): string => line.slice(0, endOfText(line));

/** As much of the beginning of a text must be there to be known for its echo, where the rest is not shown. */
const recognisedCharsMin = 24;
/** Such short texts are never looked for: they might be a prompt. */
const echoCharsMin = 4;

export interface Region {
  /** Lines from `start` to `end`, which is not one of them any more. */
  start: number;
  end: number;
  /** Characters of the first line that come before it. */
  prefix: number;
  /** Up to the end of the text; otherwise something else is shown in place of the rest. */
  isWhole: boolean;
}

/**
 * Where `lines` (whole lines, not rows) show the text, from the top. With `isCutOff` the first may begin in the midst of it: its top has
 * scrolled away.
 */
export function findEchoes(lines: readonly string[], { compact }: Echo, isCutOff: boolean): Region[] {
  if (compact.length < echoCharsMin) return [];
  const regions: Region[] = [];
  for (let start = 0; start < lines.length; ) {
    const region = echoFrom(lines, start, compact, isCutOff);
    if (region === undefined) start++;
    else {
      regions.push(region);
      start = region.end;
    }
  }
  return regions;
}

function echoFrom(
  lines: readonly string[],
  start: number,
  compact: string,
  isCutOff: boolean,
): Region | undefined {
  const line = lines[start] ?? "";
  const first = beginningIn(line, compact);
  if (first !== undefined) return follow(lines, start, first.prefix, first.length, compact);
  if (start !== 0 || !isCutOff) return undefined;
  // Cut off at the top: from anywhere in the text to its very end.
  const piece = pieceOf(line);
  if (piece.length < echoCharsMin) return undefined;
  for (let at = compact.indexOf(piece); at !== -1; at = compact.indexOf(piece, at + 1)) {
    const region = follow(lines, start, 0, at + piece.length, compact);
    if (region !== undefined && (at + piece.length === compact.length || region.end > 1)) return region;
  }
  return undefined;
}

/** The rest of the text in the lines that follow. */
function follow(
  lines: readonly string[],
  start: number,
  prefix: number,
  matched: number,
  compact: string,
): Region | undefined {
  let end = start + 1;
  let length = matched;
  while (length < compact.length && end < lines.length) {
    const line = lines[end] ?? "";
    // A line of the text may itself begin or end with what looks like decoration. Most lines have nothing of it at all.
    const piece = line.includes(compact[length] ?? "")
      ? readings(line).find((read) => read !== "" && compact.startsWith(read, length))
      : undefined;
    if (piece === undefined && line.trim() !== "") break;
    length += piece?.length ?? 0;
    end++;
  }
  if (length < compact.length && length < recognisedCharsMin) return undefined;
  return { start, end, prefix, isWhole: length >= compact.length };
}

/** What a line says, without white space and what stands around it. */
export const pieceOf = (line: string): string => compacted(withoutBehind(line.replace(before, "")));

/** Where in the line the text begins, such that it goes on to the end of the line. */
function beginningIn(line: string, compact: string): { prefix: number; length: number } | undefined {
  const [head = ""] = compact;
  let end: number | undefined;
  for (let prefix = line.indexOf(head); prefix !== -1; prefix = line.indexOf(head, prefix + 1)) {
    end ??= endOfText(line);
    const length = lengthFrom(line, prefix, end, compact);
    if (length !== undefined) return { prefix, length };
  }
  return undefined;
}

/** How much of the text the line shows from `start` to its end, or at least to `end`, behind which there may be something else. */
function lengthFrom(line: string, start: number, end: number, compact: string): number | undefined {
  let [length, lengthAtEnd] = [0, 0];
  for (let at = start; at < line.length; at++) {
    const char = line[at] ?? "";
    if (!space.test(char)) {
      if (char !== compact[length]) break;
      length++;
    }
    if (at + 1 === end) lengthAtEnd = length;
    if (at + 1 === line.length) return length;
  }
  return lengthAtEnd === 0 ? undefined : lengthAtEnd;
}

/** A line as it is, without what stands behind it, before it, and both. */
const readings = (line: string): string[] => [
  compacted(line),
  compacted(withoutBehind(line)),
  compacted(line.replace(before, "")),
  pieceOf(line),
];

/** Stands for what was taken out: not nothing, for a prompt with a text behind it is not an empty one. */
const cover = "□";

/** `lines` with the echoes of all `echoes` covered. */
export function coverEchoes(lines: readonly string[], echoes: readonly Echo[]): readonly string[] {
  let covered: string[] | undefined;
  for (const echo of echoes) {
    for (const { start, end, prefix } of findEchoes(covered ?? lines, echo, true)) {
      covered ??= [...lines];
      for (let at = start; at < end; at++) {
        covered[at] = at === start ? (covered[at] ?? "").slice(0, prefix) + cover : cover;
      }
    }
  }
  return covered ?? lines;
}
