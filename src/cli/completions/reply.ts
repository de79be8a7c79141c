/** What the shells have in common about an answer: which of them there are, and what may be shown on a terminal. */
import type { Candidate, Place } from "~/cli/completions/place";
import { printableLine } from "~/cli/text";

export const shells = ["bash", "zsh", "fish"] as const;
export type Shell = (typeof shells)[number];

const descriptionCharsMax = 60;

/**
 * The first line of an answer says what is to be done: `words` (the other lines are candidates), `files` or `directories` (the
 * shell knows them better). No line at all: nothing fits.
 */
export function renderReply(
  { wanted }: Place,
  candidates: readonly Candidate[],
  line: (candidate: Candidate) => string | undefined,
): string {
  if (wanted.kind === "file") return "files";
  if (wanted.kind === "directory") return "directories";
  const lines = candidates.filter(({ value }) => isSafe(value)).flatMap((candidate) => line(candidate) ?? []);
  return lines.length === 0 ? "" : ["words", ...new Set(lines)].join("\n");
}

/** A line break or a character that steers the terminal cannot be typed either. */
const isSafe = (value: string): boolean => value !== "" && printableLine(value) === value;

/** On one line, harmless, and not too long to stand beside others. */
export function shortDescription({ description }: Candidate): string {
  const text = printableLine(description).trim();
  const characters = [...text];
  return characters.length <= descriptionCharsMax
    ? text
    : `${characters.slice(0, descriptionCharsMax - 1).join("")}…`;
}
