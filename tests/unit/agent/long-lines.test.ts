/**
 * A line may be as long as an answer: a file without newlines, white space that a program fills up with. Whatever looks at lines must do
 * so in one go; what goes back and forth in them takes minutes here, in which the shim would answer nobody.
 */
import { expect, test } from "bun:test";
import { echoOf } from "~/agent/echo";
import { builtInProfiles, loadProfile } from "~/agent/profile";
import { isUnsubmitted, recognise } from "~/agent/recognition";
import { answerOf } from "~/agent/response";

const chars = 1_000_000;
const echo = echoOf("yes, do the thing that was said yesterday");
const lines: [what: string, line: string][] = [
  ["white space", `z${" ".repeat(chars)}z`],
  ["white space behind a prompt", `>${" ".repeat(chars)}z`],
  ["white space in a frame", `│ >${" ".repeat(chars / 2)}│${" ".repeat(chars / 2)}z`],
  ["parentheses", `${"(".repeat(chars)} esc to interrupt`],
  ["hints", `${"(esc to interrupt) ".repeat(chars / 20)}z`],
  ["the letter that the message begins with", `${"y".repeat(chars)}z`],
  ["the beginning of the message", `${"yes, do ".repeat(chars / 8)}z`],
];

test.each(builtInProfiles.flatMap((name) => lines.map(([what, line]) => [name, what, line] as const)))(
  "%s: a long line of %s",
  (name, _, line) => {
    const profile = loadProfile(name, "/nonexistent");
    const printed = {
      lines: ["z", line, line],
      isReprinted: false,
      isCursorLast: true,
      prompt: "$ ",
      input: [],
    };
    expect(answerOf(profile, printed, echo).length).toBeGreaterThan(line.length);
    const part = line.slice(0, 11_000);
    const view = { title: "", lines: [part, "z"], beforeCursor: "z", cursorLine: 1, isCursorShown: true };
    expect(recognise(profile, view, [echo], false).exhausted).toBeUndefined();
    expect(isUnsubmitted(profile, view, echo)).toBe(false);
  },
);
