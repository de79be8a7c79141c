/**
 * What a screen says about the agent, by the rules of its profile. Pure: lines in, sight out. Whole lines, that is, rows that were
 * broken by the terminal's edge joined again.
 */
import { coverEchoes, type Echo, pieceOf } from "~/agent/echo";
import type { Profile } from "~/agent/profile";

export interface View {
  /** Of the window. */
  title: string;
  /** Of the screen, from the top. */
  lines: readonly string[];
  /** The line in which the cursor is, as far as the cursor. */
  beforeCursor: string;
  cursorLine: number;
  /** Some hide it and paint one of their own, in the same place as a rule. */
  isCursorShown: boolean;
}

export interface Recognised {
  sight: "idle" | "working" | undefined;
  /** It looks idle as well. */
  isIdleToo: boolean;
  /** What it asks of a person. Meanwhile it counts as working: nothing may be typed. */
  question: string | undefined;
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
  const isTitled = profile.working_titles.some((pattern) => pattern.test(view.title));
  const working = findLine(lines, profile.working) ?? (isTitled ? view.title : undefined);
  const idle = profile.idle_at_cursor
    ? findLine([view.beforeCursor], profile.idle)
    : findLine(lines, profile.idle);
  const question = questionIn(profile, all);
  const isBusy = working !== undefined || (profile.working.length === 0 && wasIdle && idle === undefined);
  const said = sayings(profile, all);
  const base = {
    question,
    exhausted: findPhrase(said, profile.exhausted),
    approaching: findPhrase(said, profile.approaching),
  };
  // One at the start is no work.
  if (question !== undefined)
    return { ...base, sight: wasIdle ? "working" : undefined, isIdleToo: false, text: question };
  return {
    ...base,
    sight: isBusy ? "working" : idle === undefined ? undefined : "idle",
    isIdleToo: isBusy && idle !== undefined,
    text: (working ?? idle ?? "").trim(),
  };
}

/** Whether a text could be taken for something that the agent says: only such texts need to be looked for on the screen. */
export function couldMislead(profile: Profile, { text }: Echo): boolean {
  const lines = text.split("\n");
  const said = lines.map((line) => ({ text: line, isTalk: false, mark: 0 }));
  return (
    findLine(lines, [...profile.working, ...profile.idle, ...profile.questions]) !== undefined ||
    findPhrase(said, [...profile.exhausted, ...profile.approaching]) !== undefined
  );
}

/** The last lines, those that are empty below everything else not counted. */
export function bottom(lines: readonly string[], count: number): readonly string[] {
  const end = endOf(lines);
  return lines.slice(Math.max(0, end - count), end);
}

const endOf = (lines: readonly string[]): number => lines.findLastIndex((line) => line.trim() !== "") + 1;

const findLine = (lines: readonly string[], patterns: readonly RegExp[]): string | undefined =>
  lines.findLast((line) => patterns.some((pattern) => pattern.test(line)));

// ── Questions ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** How to answer stands at the very end. */
const questionLines = 2;
/** Above it what is asked, and what it is about. */
const askedLines = 16;
const askedCharsMax = 200;

/** What the agent asks, in its own words as far as these can be told. */
function questionIn(profile: Profile, all: readonly string[]): string | undefined {
  if (profile.questions.length === 0) return undefined;
  if (findLine(bottom(all, questionLines), profile.questions) === undefined) return undefined;
  const asked = bottom(all, askedLines);
  const sentence = asked
    .flatMap((line) => line.trim().split(/(?<=[.!?])\s+/u))
    .findLast((part) => part.endsWith("?"));
  return (sentence ?? asked.find((line) => /\p{L}/u.test(line)) ?? "").trim().slice(0, askedCharsMax);
}

/** Which one of a list is chosen, and what stands before a choice. */
const choiceSign = /^[\s│┃|]*[❯›▶>]\s/u;
const choiceHead = /^[\s│┃|]*([❯›▶>]\s+)?(\d+\.\s+)?/u;
const [keyUp, keyDown, keyEnter] = ["\x1b[A", "\x1b[B", "\r"];

/** What is to be typed next to answer a question; undefined when its choices cannot be told. */
export function keysFor(dialog: Profile["dialogs"][number], lines: readonly string[]): string | undefined {
  if ("keys" in dialog) return dialog.keys;
  const chosen = lines.findLastIndex((line) => choiceSign.test(line));
  const wanted = lines.findLastIndex((line) => dialog.choose.test(line.replace(choiceHead, "")));
  if (chosen === -1 || wanted === -1) return undefined;
  if (chosen === wanted) return keyEnter;
  return wanted > chosen ? keyDown : keyUp;
}

// ── Phrases ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A line, and whether it is what a model, a tool or a person says, and not the program about itself. */
interface Saying {
  text: string;
  isTalk: boolean;
  /** Characters of the sign that an answer begins with. */
  mark: number;
}

const phraseLinesMin = 12;
/** An answer that is a call of a tool: `Bash(ls)`, `github - search (MCP)(…)`. */
const call = /^\w[\w.:-]*( - [\w.:-]+ \(MCP\))?\(/u;
/** What came of something: of a tool below its call, else what the program has to say. */
export const outcome = /^\s+⎿/u;

/** Phrases wrap, and a hint may stand below them: a few lines more. */
function sayings(profile: Profile, lines: readonly string[]): readonly Saying[] {
  // The top may be in the midst of an answer.
  let isTalk = profile.answer !== undefined;
  let isCall = false;
  const all = lines.map((text) => {
    const [sign = ""] = profile.answer?.exec(text) ?? [];
    if (sign !== "" || profile.prompt?.test(text)) {
      isTalk = true;
      isCall = call.test(text.slice(sign.length));
    } else if (outcome.test(text)) {
      isTalk &&= isCall;
      isCall = false;
    } else if (/^\S/u.test(text)) isTalk = false;
    return { text, isTalk, mark: sign.length };
  });
  const end = endOf(lines);
  return all.slice(Math.max(0, end - Math.max(profile.lines, phraseLinesMin)), end);
}

const frame = /[│┃|║]/gu;
const quotes = `"'“‘«\``;

/**
 * The line or lines in which one of the phrases stands, wherever it is broken. In quotation marks it is only being talked about, and so
 * it is in talk, unless it is all that an answer says.
 */
function findPhrase(said: readonly Saying[], phrases: readonly string[]): string | undefined {
  if (phrases.length === 0) return undefined;
  const words = said.flatMap(wordsOf);
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
      if (first === undefined || last === undefined) continue;
      if (first.isTalk && !(first.isFirst && last.isLast)) continue;
      return said
        .slice(first.line, last.line + 1)
        .map(({ text }) => text.trim())
        .join(" ");
    }
  }
  return undefined;
}

interface Word {
  text: string;
  line: number;
  isTalk: boolean;
  /** Of an answer. */
  isFirst: boolean;
  /** Of a line. */
  isLast: boolean;
}

function wordsOf({ text, isTalk, mark }: Saying, line: number): Word[] {
  const words = text
    .slice(mark)
    .replace(frame, " ")
    .split(/\s+/u)
    .filter((word) => word !== "");
  return words.map((word, index) => ({
    text: word.toLowerCase(),
    line,
    isTalk,
    isFirst: mark > 0 && index === 0,
    isLast: index === words.length - 1,
  }));
}

// ── The input ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Whether the text that was pasted still stands in the agent's input, so that Enter was swallowed. Where the cursor can be seen, the
 * input ends at the cursor; elsewhere it is what stands from the last prompt on.
 */
export function isUnsubmitted(profile: Profile, view: View, { compact }: Echo): boolean {
  const { prompt, placeholder } = profile;
  if (prompt === undefined) return false;
  const start = view.lines.findLastIndex((line) => prompt.test(line));
  if (start === -1) return false;
  const { cursorLine, isCursorShown, beforeCursor } = view;
  const input = view.lines.slice(start);
  if (placeholder !== undefined && input.some((line) => placeholder.test(line))) return true;
  if (!isCursorShown || cursorLine < start) {
    return input.map(pieceOf).join("").includes(compact.slice(0, comparedChars));
  }
  // The field may show only a part of the text.
  const piece = pieceOf(beforeCursor);
  return piece !== "" && compact.includes(piece);
}

/** What somebody has typed into the agent's input and not entered. */
export function draftIn({ prompt, drafts }: Profile, { lines, beforeCursor, cursorLine }: View): string {
  if (!drafts || prompt === undefined) return "";
  const start = lines.findLastIndex((line) => prompt.test(line));
  if (start === -1 || cursorLine < start) return "";
  const shown = [...lines.slice(start, cursorLine), beforeCursor];
  // Its lines are indented; what is not stands below it already, where some leave the cursor.
  if (shown.slice(1).some((line) => /^\S/u.test(line))) return "";
  // As far as the cursor, with the empty lines before it.
  return shown.join("\n").replace(prompt, "").trimStart();
}

/** The lines of the screen from the agent's input on: what it is about to be given, and what stands below. */
export function inputOf({ prompt }: Profile, { lines }: View): readonly string[] {
  const start = prompt === undefined ? -1 : lines.findLastIndex((line) => prompt.test(line));
  return start === -1 ? [] : lines.slice(start);
}

/** So much of a text tells it from others. */
const comparedChars = 20;
