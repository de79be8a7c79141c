/** Answers out of what was printed, and what was printed out of looks at a screen. */
import { describe, expect, test } from "bun:test";
import { echoOf } from "~/agent/echo";
import { loadProfile } from "~/agent/profile";
import { answerOf } from "~/agent/response";
import { leftOut, Stitching } from "~/agent/stitching";

const answer = (
  profile: string,
  text: string,
  printed: string,
  options: { isReprinted?: boolean; prompt?: string } = {},
): string =>
  answerOf(
    loadProfile(profile, "/nonexistent"),
    { lines: printed.split("\n"), isReprinted: false, isCursorLast: true, prompt: "$ ", ...options },
    echoOf(text),
  );

const shell: [what: string, text: string, printed: string, answer: string][] = [
  ["one line", "echo hi", "$ echo hi\nhi\n$ ", "hi"],
  ["no output", "true", "$ true\n$ ", ""],
  ["output without a newline", "printf x", "$ printf x\nx$ ", "x"],
  ["several commands", "echo 1\necho 2", "$ echo 1\n1\n$ echo 2\n2\n$ ", "1\n2"],
  ["a continued one", "for i in a\ndo echo $i\ndone", "$ for i in a\n> do echo $i\n> done\na\n$ ", "a"],
  ["output that looks like the command", "cat f", "$ cat f\ncat f\n$ cat f\n$ ", "cat f\n$ cat f"],
  ["empty lines inside", "x", "$ x\n\na\n\n\nb\n\n$ ", "a\n\n\nb"],
  ["no echo at all", "secret", "thanks\n$ ", "thanks"],
  ["an indent is part of it", "x", "$ x\n  a\n    b\n$ ", "  a\n    b"],
];
test.each(shell)("shell: %s", (_, text, printed, expected) => {
  expect(answer("generic", text, printed)).toBe(expected);
});

test("shell: another prompt than the one before", () => {
  const printed = "user@host:~$ cd /tmp\nuser@host:/tmp$ ";
  expect(answer("generic", "cd /tmp", printed, { prompt: "user@host:~$ " })).toBe("");
});

const agents: [profile: string, what: string, text: string, printed: string, answer: string][] = [
  [
    "claude",
    "an answer of several lines",
    "go",
    "> go\n\n● one\n  two\n\n  three\n\n╭──╮\n│ > \n╰──╯\n  ⏵⏵ bypass permissions on",
    "one\ntwo\n\nthree",
  ],
  [
    "claude",
    "a spinner that was left",
    "do it",
    "> do it\n✻ Pondering… (3s · esc to interrupt)\n● done",
    "done",
  ],
  [
    "claude",
    "an answer that talks of the hints",
    "what now",
    "> what now\n● press esc to interrupt, or\n  shift+tab to cycle",
    "press esc to interrupt, or\nshift+tab to cycle",
  ],
  ["claude", "a long paste", "x".repeat(900), "> [Pasted text #1 +1 lines]\n● read", "read"],
  [
    "claude",
    "the text quoted in the answer",
    "say hello",
    "> say hello\n● You said:\n  say hello",
    "You said:\nsay hello",
  ],
  [
    "claude",
    "first in the input, then in the history",
    "lines 60",
    "│ > lines 60 │\n╰──╯\n> lines 60\n● line 1",
    "line 1",
  ],
  [
    "codex",
    "an answer",
    "go on",
    "› go on\n\n• yes\n  more\n\n› Ask Codex\n  98% context left · ? for shortcuts",
    "yes\nmore",
  ],
  [
    "kiro",
    "an answer",
    "go on",
    "> go on\n\n⠋ Thinking... (esc to interrupt)\n● yes\n\n> ask a question or describe a task ↵",
    "yes",
  ],
  ["kiro", "an answer behind a prompt's sign", "go on", "> go on\n> yes, I will\n>", "yes, I will"],
];
test.each(agents)("%s: %s", (profile, _, text, printed, expected) => {
  expect(answer(profile, text, printed)).toBe(expected);
});

const alike: [text: string, answer: string][] = [
  ["hello", "Why, hello"],
  ["hello", "hello"],
  ["hello there, everybody", "hello there, everybody"],
  ["hello there, everybody", "You said hello there, everybody"],
  ["go", "go"],
];
test.each(alike)("an answer to %j that is %j", (text, expected) => {
  for (const [profile, echoed, mark] of [
    ["claude", "> ", "● "],
    ["codex", "› ", "• "],
    ["kiro", "> ", "● "],
  ] as const) {
    const printed = `${echoed}${text}\n${mark}${expected}`;
    expect([profile, answer(profile, text, printed)]).toEqual([profile, expected]);
    expect([profile, answer(profile, text, `│ ${echoed}${text} │\n${printed}`)]).toEqual([profile, expected]);
  }
});

test("where everything was printed again, the last echo counts", () => {
  const printed = "> continue\n● first\n> continue\n● second";
  expect(answer("claude", "continue", printed, { isReprinted: true })).toBe("second");
});

describe("looks at a screen that is painted anew", () => {
  const news = (...looks: string[]): string => {
    const [first = "", ...others] = looks;
    const stitching = new Stitching(first.split("|"), 10_000);
    for (const look of others) stitching.look(look.split("|"));
    return stitching.news().join("|");
  };
  const cases: [what: string, looks: string[], news: string][] = [
    ["nothing happens", ["a|b|c", "a|b|c"], ""],
    ["lines are added", ["a| | ", "a|b| ", "a|b|c"], "b|c"],
    ["it scrolls line by line", ["a|b|c", "b|c|d", "c|d|e", "d|e|f", "e|f|g"], "d|e|f|g"],
    ["it scrolls by more", ["a|b|c|d", "c|d|e|f", "e|f|g|h", "g|h|i|j"], "e|f|g|h|i|j"],
    ["below a fixed head", ["H|a|b|c|F", "H|b|c|d|F", "H|c|d|e|F", "H|d|e|f|F"], "d|e|f"],
    ["a line grows", ["a| ", "a|hel", "a|hello", "a|hello you"], "hello you"],
    ["a counter counts", ["a|1%  of it", "a|20% of it", "a|99% of it"], "99% of it"],
    ["a page is turned", [" | ", "one|two", "three|four", "five|six"], "one|two|three|four|five|six"],
    ["it is cleared and painted again", ["a|b| ", " | | ", "a|b|c"], "c"],
    ["empty lines between new ones stay", ["a| | | ", "a|b| |c"], "b||c"],
  ];
  test.each(cases)("%s", (_, looks, expected) => {
    expect(news(...looks).replace(/^\|+|\|+$/g, "")).toBe(expected);
  });

  test("a thousand lines through a small window are all there", () => {
    const lines = Array.from({ length: 1_000 }, (_, index) => `line ${index}`);
    const stitching = new Stitching(["", "", "", ""], 1_000_000);
    for (let at = 0; at + 4 <= lines.length; at += 2) stitching.look(lines.slice(at, at + 4));
    expect(stitching.news()).toEqual(lines);
  });

  test("what is too much is left out, and said to be", () => {
    const stitching = new Stitching([""], 100);
    for (let at = 0; at < 1_000; at++) stitching.look([`line ${at}`, `line ${at + 1}`]);
    const news = stitching.news();
    expect(news.length).toBeLessThan(30);
    expect(news.slice(-3)).toEqual([leftOut, "line 999", "line 1000"]);
  });
});
