/**
 * What a screen says about the agent, by the rules of its profile. Pure: lines in, sight out. Whole lines, that is, rows that were
 * broken by the terminal's edge joined again.
 */
import { coverEchoes, type Echo, pieceOf } from "~/agent/echo";
import type { Profile } from "~/agent/profile";

export interface View {
  /** Of the screen, from the top. */
  lines: readonly string[];
  /** The line in which the cursor is, as far as the cursor. */
  beforeCursor: string;
  /** Which line that is; undefined where the cursor is hidden. */
  cursorLine: number | undefined;
}

export interface Recognised {
  sight: "idle" | "working" | undefined;
  /** It looks idle as well. */
  isIdleToo: boolean;
  /** The lines that say that the context is full, or soon will be. */
  exhausted: string | undefined;
  approaching: string | undefined;
  /** The line that tells the sight. */
  text: string;
}

/** `wasIdle`: whether the agent was idle at any time before; `echoes`: of the texts that were handed over. */
export function recognise(
  profile: Profile,
  view: View,
  echoes: readonly Echo[],
  wasIdle: boolean,
): Recognised {
  const all = coverEchoes(view.lines, echoes);
  const lines = bottom(all, profile.lines);
  const working = findLine(lines, profile.working);
  const idle = profile.idle_at_cursor
    ? findLine([view.beforeCursor], profile.idle)
    : findLine(lines, profile.idle);
  const isBusy = working !== undefined || (profile.working.length === 0 && wasIdle && idle === undefined);
  // Phrases wrap, and a hint may stand below them: a few lines more.
  const said = bottom(all, Math.max(profile.lines, phraseLinesMin));
  return {
    sight: isBusy ? "working" : idle === undefined ? undefined : "idle",
    isIdleToo: isBusy && idle !== undefined,
    exhausted: findPhrase(said, profile.exhausted, profile.answer),
    approaching: findPhrase(said, profile.approaching, profile.answer),
    text: (working ?? idle ?? "").trim(),
  };
}

const phraseLinesMin = 12;

/** Whether a text could be taken for something that the agent says: only such texts need to be looked for on the screen. */
export function couldMislead(profile: Profile, { text }: Echo): boolean {
  const lines = text.split("\n");
  return (
    findLine(lines, profile.working) !== undefined ||
    findLine(lines, profile.idle) !== undefined ||
    findPhrase(lines, [...profile.exhausted, ...profile.approaching], undefined) !== undefined
  );
}

/** The last lines, those that are empty below everything else not counted. */
export function bottom(lines: readonly string[], count: number): readonly string[] {
  const end = lines.findLastIndex((line) => line.trim() !== "") + 1;
  return lines.slice(Math.max(0, end - count), end);
}

const findLine = (lines: readonly string[], patterns: readonly RegExp[]): string | undefined =>
  lines.findLast((line) => patterns.some((pattern) => pattern.test(line)));

const frame = /[│┃|║]/gu;
const quotes = `"'“‘«\``;

/**
 * The line or lines in which one of the phrases stands, wherever it is broken. In quotation marks it is only being talked about, and so
 * it is in an answer, unless that begins with it.
 */
function findPhrase(
  lines: readonly string[],
  phrases: readonly string[],
  answer: RegExp | undefined,
): string | undefined {
  if (phrases.length === 0) return undefined;
  const words = wordsOf(lines, answer);
  const starts: number[] = [];
  let joined = "";
  for (const { text } of words) {
    starts.push(joined.length);
    joined += `${text} `;
  }
  const wordAt = (offset: number): Word | undefined =>
    words[starts.findLastIndex((start) => start <= offset)];
  for (const phrase of phrases) {
    const wanted = phrase.toLowerCase();
    for (let at = joined.indexOf(wanted); at !== -1; at = joined.indexOf(wanted, at + 1)) {
      if (at > 0 && quotes.includes(joined[at - 1] ?? "")) continue;
      const [first, last] = [wordAt(at), wordAt(at + wanted.length - 1)];
      if (first === undefined || last === undefined || first.isTalk) continue;
      return lines
        .slice(first.line, last.line + 1)
        .map((line) => line.trim())
        .join(" ");
    }
  }
  return undefined;
}

interface Word {
  text: string;
  line: number;
  /** Within an answer. */
  isTalk: boolean;
}

function wordsOf(lines: readonly string[], answer: RegExp | undefined): Word[] {
  let isAnswer = false;
  return lines.flatMap((text, line) => {
    const [mark] = answer?.exec(text) ?? [];
    // An answer goes on in lines that are indented, until an empty one.
    isAnswer = mark !== undefined || (isAnswer && /^\s+[^\s⎿└]/u.test(text));
    const plain = text.slice(mark?.length ?? 0).replace(frame, " ");
    return plain
      .split(/\s+/u)
      .filter((word) => word !== "")
      .map((word, index) => ({
        text: word.toLowerCase(),
        line,
        isTalk: isAnswer && (mark === undefined || index > 0),
      }));
  });
}

/**
 * Whether the text that was pasted still stands in the agent's input, so that Enter was swallowed. Where the cursor can be seen, the
 * input ends at the cursor; elsewhere it is what stands from the last prompt on.
 */
export function isUnsubmitted(profile: Profile, view: View, { compact }: Echo): boolean {
  const { prompt, placeholder } = profile;
  if (prompt === undefined) return false;
  const start = view.lines.findLastIndex((line) => prompt.test(line));
  if (start === -1) return false;
  const { cursorLine, beforeCursor } = view;
  const input = view.lines.slice(start);
  if (placeholder !== undefined && input.some((line) => placeholder.test(line))) return true;
  if (cursorLine === undefined || cursorLine < start) {
    return input.map(pieceOf).join("").includes(compact.slice(0, comparedChars));
  }
  // The field may show only a part of the text.
  const piece = pieceOf(beforeCursor);
  return piece !== "" && compact.includes(piece);
}

/** So much of a text tells it from others. */
const comparedChars = 20;
