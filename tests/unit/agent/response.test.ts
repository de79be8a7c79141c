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
  options: { isReprinted?: boolean; prompt?: string; input?: string[] } = {},
): string =>
  answerOf(
    loadProfile(profile, "/nonexistent"),
    {
      lines: printed.split("\n"),
      isReprinted: false,
      isCursorLast: true,
      prompt: "$ ",
      input: [],
      ...options,
    },
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
    "claude",
    "code, lists and a table, as indented as they were",
    "code",
    "❯ code    \n\n● Here:\n\n  for (;;) {\n    if (a) {\n\n      b();\n    }\n  }\n\n  - one\n    - two\n\n  ┌───┬───┐\n  │ a │ b │\n  └───┴───┘\n\n  ---\n\n✻ Baked for 1m 4s · done 6:44 PM\n\n────\n❯ \n────\n  ⏸ manual mode on",
    "Here:\n\nfor (;;) {\n  if (a) {\n\n    b();\n  }\n}\n\n- one\n  - two\n\n┌───┬───┐\n│ a │ b │\n└───┴───┘\n\n---",
  ],
  [
    "claude",
    "a heading that is shown as one",
    "# remember this\nand that",
    "❯ remember this     \n\n  and that    \n  \n● I will.\n\n✻ Worked for 0s · done 6:43 PM",
    "I will.",
  ],
  [
    "claude",
    "a long text of which some is not shown",
    Array.from({ length: 99 }, (_, index) => `row ${index} of many`).join("\n"),
    "❯ row 0 of many\n  row 1 of many\n  row 2 of many\n  ──── (95 lines hidden) ────\n  row 98 of many\n  \n● row 3 of many",
    "row 3 of many",
  ],
  [
    "claude",
    "a command of its own",
    "!echo bang",
    "❯ !echo bang\n  ⎿  bang\n\n● It said so.",
    "⎿  bang\n\nIt said so.",
  ],
  [
    "claude",
    "a command that it shows no more",
    "/nothing",
    "● Unknown command: /nothing",
    "Unknown command: /nothing",
  ],
  [
    "claude",
    "an answer to a text with joined characters",
    "families 👩‍👩‍👧‍👦 are large",
    "❯ families 👩‍  are large\n  \n● Some.",
    "Some.",
  ],
  [
    "codex",
    "a list and a table, as indented as they were",
    "code",
    "› code\n\n\n• Here:\n\n  • one\n      • two\n\n   name\n  ━━━━━━\n   a\n\n  > quoted\n\n  Worked for 1m 02s • 19:06\n \n \n› Ask Codex to do anything",
    "Here:\n\n• one\n    • two\n\n name\n━━━━━━\n a\n\n> quoted",
  ],
  [
    "codex",
    "what it says itself",
    "full",
    "› full\n\n\n■ Codex ran out of room.",
    "■ Codex ran out of room.",
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

test("the input, and all that stands below it, is no answer, as far as it was printed anew", () => {
  const input = ["❯ ", "────", "  my own status: 12 k", "     ◐ medium · /effort"];
  const printed = "❯ go on\n\n● yes";
  for (const below of [
    "",
    "\n\n  my own status: 12 k",
    "\n\n  my own status: 12 k\n     ◐ medium · /effort",
    "\n\n────\n❯ \n────\n  my own status: 12 k\n     ◐ medium · /effort\n",
  ]) {
    expect(answer("claude", "go on", printed + below, { input })).toBe("yes");
  }
  expect(answer("claude", "go on", `${printed}\n  no`, { input })).toBe("yes\nno");
});

test("where everything was printed again and the echo looks otherwise, what was said last counts", () => {
  const printed = "Claude Code\n\n❯ before\n\n● first\n\n❯ heading\n\n● second";
  expect(answer("claude", "# heading", printed, { isReprinted: true })).toBe("second");
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
