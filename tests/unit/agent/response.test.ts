/** Answers out of what was printed. */
import { expect, test } from "bun:test";
import { echoOf } from "~/agent/echo";
import { loadProfile } from "~/agent/profile";
import { answerOf } from "~/agent/response";

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
  ["codex", "a tip that was left", "go on", "› go on\n\n  └ Tip: Use /mcp to list tools.\n\n• yes", "yes"],
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
