/**
 * An agent's answer, from the lines that it printed: without the echo of what it was given, its decoration, and its next prompt. Pure.
 */
import { type Echo, findEchoes, pieceOf, type Region } from "~/agent/echo";
import type { Profile } from "~/agent/profile";
import { outcome } from "~/agent/recognition";

export interface Printed {
  /** Whole lines, all that came since the text was handed over. */
  lines: readonly string[];
  /** Whether what was there before was printed again with it, so that the last echo counts and not the first. */
  isReprinted: boolean;
  /** The line of the cursor is the last one. */
  isCursorLast: boolean;
  /** Behind which the text was typed. */
  prompt: string;
  /** What the screen shows now from the agent's input on. */
  input: readonly string[];
}

export function answerOf(profile: Profile, printed: Printed, echo: Echo): string {
  const lines = withoutInput(printed.lines, printed.input);
  if (profile.idle_at_cursor && printed.isCursorLast && matches(profile.idle, lines.at(-1))) {
    lines.push(...withoutPrompt(lines.pop() ?? "", printed.prompt.trimEnd()));
  }
  const own = profile.paste
    ? behindEcho(profile, lines, echo, printed.isReprinted)
    : withoutTyped(profile, lines, echo);
  const kept = own.filter((line) => !matches(profile.drop, line)).map((line) => stripped(profile, line));
  return trimmed(kept).join("\n");
}

/** Not all of the input and of what stands below it need have been printed anew, but what was stands at the end. */
function withoutInput(lines: readonly string[], input: readonly string[]): string[] {
  let [end, inputEnd] = [lines.length, input.length];
  for (; end > 0; end--) {
    const line = lines[end - 1]?.trimEnd();
    if (line === "") continue;
    const at = input.slice(0, inputEnd).findLastIndex((shown) => shown.trimEnd() === line);
    if (at === -1) break;
    inputEnd = at;
  }
  return lines.slice(0, end);
}

/** Nothing, unless something stands before the prompt: output that did not end with a newline. */
function withoutPrompt(line: string, prompt: string): string[] {
  const shown = line.trimEnd();
  return prompt !== "" && shown.endsWith(prompt) && shown !== prompt ? [shown.slice(0, -prompt.length)] : [];
}

const matches = (patterns: readonly RegExp[], line: string | undefined): boolean =>
  line !== undefined && patterns.some((pattern) => pattern.test(line));

function stripped(profile: Profile, line: string): string {
  for (const pattern of profile.strip) {
    const shorter = line.replace(pattern, "");
    if (shorter !== line) return shorter.trimEnd();
  }
  return line.trimEnd();
}

function trimmed(lines: readonly string[]): readonly string[] {
  const start = lines.findIndex((line) => line.trim() !== "");
  return start === -1 ? [] : lines.slice(start, lines.findLastIndex((line) => line.trim() !== "") + 1);
}

/** What comes after the text as the agent's history shows it. */
function behindEcho(
  profile: Profile,
  lines: readonly string[],
  echo: Echo,
  isReprinted: boolean,
): readonly string[] {
  const regions = findEchoes(lines, echo, false).filter((region, index) =>
    isTheirs(profile, lines[region.start] ?? "", region.prefix, index === 0),
  );
  const region = isReprinted ? regions.at(-1) : lastOfFirst(profile, lines, regions);
  if (region !== undefined)
    return lines.slice(region.isWhole ? region.end : endOfSaid(profile, lines, region.end));
  const { placeholder } = profile;
  const at = placeholder === undefined ? -1 : lines.findIndex((line) => placeholder.test(line));
  if (at !== -1) return lines.slice(at + 1);
  const isSaid = (line: string): boolean => (profile.prompt?.test(line) ?? false) && pieceOf(line) !== "";
  const lastSaid = isReprinted ? lines.findLastIndex(isSaid) : -1;
  if (lastSaid !== -1) return lines.slice(endOfSaid(profile, lines, lastSaid + 1));
  // Too short to be looked for everywhere, or shown otherwise than it was written: what stands at the top.
  let top = 0;
  for (const [index, line] of lines.entries()) {
    if (line.trim() === "") continue;
    if (pieceOf(line) === echo.compact && !profile.answer?.test(line)) top = index + 1;
    else if (top === 0 && isSaid(line)) return lines.slice(endOfSaid(profile, lines, index + 1));
    else if (!matches(profile.drop, line)) break;
  }
  return lines.slice(top);
}

/** Where the lines end that go on with what somebody said: they are indented, and begin with no sign of the agent's. */
function endOfSaid(profile: Profile, lines: readonly string[], from: number): number {
  if (profile.answer === undefined) return from;
  const isMore = (line: string): boolean =>
    line.trim() === "" || (/^\s{2}/u.test(line) && !profile.answer?.test(line) && !outcome.test(line));
  const end = lines.findIndex((line, index) => index >= from && !isMore(line));
  return end === -1 ? lines.length : end;
}

/** Whether a line shows the text as the agent's input or history does, and is not an answer that ends in the same words. */
function isTheirs(profile: Profile, line: string, prefix: number, isFirst: boolean): boolean {
  if (!isFirst && profile.answer?.test(line)) return false;
  const [prompt = ""] = profile.prompt?.exec(line) ?? [];
  return pieceOf(line.slice(0, prefix)) === "" || prompt.length >= line.slice(0, prefix).trimEnd().length;
}

/** First in the input, then in the history, where both were seen; with nothing but decoration between them. */
function lastOfFirst(
  profile: Profile,
  lines: readonly string[],
  regions: readonly Region[],
): Region | undefined {
  let last: Region | undefined;
  for (const region of regions) {
    const between = lines.slice(last?.end ?? region.start, region.start);
    if (between.some((line) => line.trim() !== "" && !matches(profile.drop, line))) break;
    last = region;
  }
  return last;
}

/** Each line of the text stands behind a prompt, or, typed before the prompt was there, alone; what it printed comes after it. */
function withoutTyped(profile: Profile, lines: readonly string[], { text }: Echo): readonly string[] {
  const kept = [...lines];
  let at = 0;
  for (const [index, typed] of text.split("\n").entries()) {
    const wanted = typed.trimEnd();
    if (wanted === "") continue;
    const found = kept.findIndex((line, place) => place >= at && isTyped(profile, line, wanted));
    // The first is where it was typed, or was not shown at all.
    if (found === -1 || (index === 0 && kept.slice(0, found).some((line) => line.trim() !== ""))) continue;
    kept.splice(found, 1);
    at = found;
  }
  // A prompt between two commands with nothing typed behind it: an empty line was entered.
  return text.trimEnd().includes("\n") ? kept.filter((line) => !isPromptAlone(profile, line)) : kept;
}

function isTyped(profile: Profile, line: string, wanted: string): boolean {
  const shown = line.trimEnd();
  if (!shown.endsWith(wanted)) return false;
  const before = shown.slice(0, shown.length - wanted.length);
  return before === "" || matches(profile.idle, before);
}

const isPromptAlone = (profile: Profile, line: string): boolean =>
  /^\s*[$%#>]\s*$/.test(line) && matches(profile.idle, line);
