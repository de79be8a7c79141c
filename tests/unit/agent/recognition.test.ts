/** What screens say, by the rules of each profile; and what they do not say, because somebody else did. */
import { describe, expect, test } from "bun:test";
import { coverEchoes, echoOf, findEchoes, typeable } from "~/agent/echo";
import { loadProfile, type Profile } from "~/agent/profile";
import { couldMislead, isUnsubmitted, recognise, type View } from "~/agent/recognition";

const nowhere = "/nonexistent";
const profiles = {
  generic: loadProfile("generic", nowhere),
  claude: loadProfile("claude", nowhere),
  codex: loadProfile("codex", nowhere),
  kiro: loadProfile("kiro", nowhere),
};

const screen = (text: string, cursorLine?: number): View => {
  const lines = text.split("\n");
  return { lines, beforeCursor: lines[cursorLine ?? lines.length - 1] ?? "", cursorLine };
};

const seen = (profile: Profile, view: View, texts: readonly string[] = [], wasIdle = true): string => {
  const { sight, exhausted, approaching } = recognise(profile, view, texts.map(echoOf), wasIdle);
  return [sight ?? "-", exhausted && "exhausted", approaching && "approaching"].filter(Boolean).join(" ");
};

const box = (input: string) => `╭────╮\n│ > ${input}\n╰────╯`;

const looks: [profile: keyof typeof profiles, screen: string, sight: string][] = [
  ["generic", "user@host:~$ ", "idle"],
  ["generic", "host% ", "idle"],
  ["generic", "root#", "idle"],
  ["generic", ">>> ", "idle"],
  ["generic", "", "working"],
  ["generic", "Password: ", "working"],
  ["generic", "$ make", "working"],
  ["generic", "done 100%\n", "working"],
  ["claude", `${box("")}\n  ⏵⏵ bypass permissions on (shift+tab to cycle)`, "idle"],
  ["claude", `${box("")}\n  ctrl+g to edit in vim`, "idle"],
  [
    "claude",
    `✻ Pondering… (3s · ESC TO INTERRUPT)\n${box("")}\n  ⏵⏵ bypass permissions on (shift+tab to cycle)`,
    "working",
  ],
  ["claude", `ctrl+b to run in background\n${box("")}\n  ⏵⏵ bypass permissions on`, "working"],
  ["claude", `esc to interrupt\n1\n2\n3\n4\n5\n⏵⏵ bypass permissions on`, "idle"],
  ["claude", "Loading…", "-"],
  ["claude", `${box("")}\n  shift+tab\n\n\n\n\n\n\n\n`, "idle"],
  ["codex", "› Ask Codex to do anything\n\n  98% context left", "idle"],
  ["codex", "• Working (3s • esc to interrupt)\n\n› Ask Codex", "working"],
  ["codex", "Starting MCP servers (1/2)\n› ", "working"],
  ["codex", "• Executing ls\n› ", "working"],
  ["kiro", "> ", "idle"],
  ["kiro", "Kiro>", "idle"],
  ["kiro", "│ ask a question or describe a task", "idle"],
  ["kiro", "⠋ Thinking...\n", "working"],
  ["kiro", "Initializing", "working"],
  ["kiro", "> hello", "-"],
];

test.each(looks)("%s: %j is %s", (name, text, sight) => {
  expect(seen(profiles[name], screen(text))).toBe(sight);
});

test("before the first prompt, what is no prompt may still be starting", () => {
  expect(seen(profiles.generic, screen(""), [], false)).toBe("-");
});

describe("a full context", () => {
  const phrases: [text: string, sight: string][] = [
    ["Context window exceeded", "- exhausted"],
    ["the CONTEXT WINDOW IS FULL", "- exhausted"],
    ["Your conversation is too long; start anew", "- exhausted"],
    ["This model's maximum context length is 8", "- exhausted"],
    ["  ⎿  Context limit reached · /compact", "- exhausted"],
    ["prompt is too long: 200001 tokens > 200000 maximum", "- exhausted"],
    ["● Prompt is too long", "- exhausted"],
    ["│ the context   │\n│ window is full │", "- exhausted"],
    ["approaching context limit", "- approaching"],
    ["You are running low on context", "- approaching"],
    ["nearing the context limit", "- approaching"],
    ["Your context window is approaching its end", "- approaching"],
    ["context window", "-"],
    ["they wrote “context window is full”", "-"],
    ["grep 'prompt is too long' log", "-"],
    ["● It says that the context window is full when\n  the prompt is too long for it.", "-"],
    ["● It works.\n\nThe context window is full.", "- exhausted"],
    ["● It works.\n  ⎿  Context limit reached", "- exhausted"],
    [`the context window is full${"\nx".repeat(12)}`, "-"],
  ];
  test.each(phrases)("%j is %s", (text, sight) => {
    expect(seen(profiles.claude, screen(text))).toBe(sight);
  });
});

describe("a message that quotes a phrase changes nothing", () => {
  const hint = "  ⏵⏵ bypass permissions on (shift+tab to cycle)";
  const quoting = "what does it mean when the context window is full, or near it? Press esc to interrupt.";
  const cases: [what: string, lines: string[], text?: string][] = [
    ["in the input", [`│ > ${quoting} │`, hint]],
    ["in the history", [`> ${quoting}`, "", "│ > │", hint]],
    [
      "wrapped by the agent, with an indent",
      [
        "> what does it mean when the context window",
        "  is full, or near it? Press esc to",
        "  interrupt.",
        "",
        hint,
      ],
    ],
    [
      "wrapped in the middle of a word",
      [
        "> what do",
        "  es it mean when the context window is full, or ne",
        "  ar it? Press esc to interrupt.",
        hint,
      ],
    ],
    ["in both", [`> ${quoting}`, "", `│ > ${quoting}`, hint]],
    ["with its beginning scrolled away", ["  is full, or near it? Press esc to interrupt.", "", hint]],
    [
      "cut off by the edge of the input",
      ["│ > what does it mean when the context window is full, or n", hint],
    ],
    [
      "of several lines",
      ["> one", "  esc to interrupt", "  the context window is full", hint],
      "one\nesc to interrupt\nthe context window is full",
    ],
    [
      "with lines that look like frames",
      ["> | esc to interrupt |", "  > the context window is full", hint],
      "| esc to interrupt |\n> the context window is full",
    ],
    [
      "with wide and combining characters",
      ["> 日本語 e\u0301 the context window", "  is full 😀 esc to interrupt", hint],
      "日本語 e\u0301 the context window is full 😀 esc to interrupt",
    ],
  ];
  test.each(cases)("%s", (_, lines, text = quoting) => {
    const view = screen(lines.join("\n"));
    expect(seen(profiles.claude, view, [text])).toBe("idle");
    // It is the echo that makes the difference.
    expect(seen(profiles.claude, view)).not.toBe("idle");
  });

  test("but what the agent says itself beside it counts", () => {
    const view = screen([`> ${quoting}`, "", "  ⎿  Context limit reached", hint].join("\n"));
    expect(seen(profiles.claude, view, [quoting])).toBe("idle exhausted");
    expect(seen(profiles.claude, screen(`> ${quoting}\n✻ Pondering (esc to interrupt)`), [quoting])).toBe(
      "working",
    );
  });

  test("a message that is a prompt does not hide the prompt", () => {
    expect(seen(profiles.kiro, screen("> >\n\n> "), [">"])).toBe("idle");
    expect(seen(profiles.generic, screen("echo $\n$ "), ["echo $"])).toBe("idle");
  });

  test("only what could be taken for something has to be remembered", () => {
    expect(couldMislead(profiles.claude, echoOf(quoting))).toBe(true);
    expect(couldMislead(profiles.claude, echoOf("the prompt is\n  too long"))).toBe(true);
    expect(couldMislead(profiles.claude, echoOf("hello"))).toBe(false);
  });
});

test("echoes are found whole, and short texts are never looked for", () => {
  const lines = ["", "> hello wor", "  ld", "hello", "> hello world"];
  expect(findEchoes(lines, echoOf("hello world"), false)).toEqual([
    { start: 1, end: 3, prefix: 2 },
    { start: 4, end: 5, prefix: 2 },
  ]);
  expect(findEchoes(["abc"], echoOf("abc"), true)).toEqual([]);
  expect(coverEchoes(lines, [echoOf("hello world")])).toEqual(["", "> □", "□", "hello", "> □"]);
});

describe("whether Enter was swallowed", () => {
  const text = "please do this";
  const cases: [what: string, view: View, isUnsubmitted: boolean][] = [
    ["the text is in the input", screen(`old\n${box(text)}`, 2), true],
    ["only its beginning is shown", screen("│ > please do", 0), true],
    ["the input is empty, the text in the history", screen(`> ${text}\n\n${box("")}`, 3), false],
    ["the cursor has gone on", screen(`> ${text}\n\nThinking`, 2), false],
    ["a placeholder stands for it", screen(box("[Pasted text #1 +12 lines]"), 1), true],
    ["no cursor, the text is in the input", screen(`${box(text)}\nhint`), true],
    ["no cursor, the input is empty", screen(`> ${text}\n${box("")}\nhint`), false],
    ["there is no input at all", screen("nothing"), false],
  ];
  test.each(cases)("%s", (_, view, expected) => {
    expect(isUnsubmitted(profiles.claude, view, echoOf(text))).toBe(expected);
  });
});

const typed: [text: string, typeable: string][] = [
  ["plain\ttext\nof two lines", "plain\ttext\nof two lines"],
  ["a\r\nb\rc", "a\nb\nc"],
  ["\x1b[201~rm -rf /\r", "rm -rf /\n"],
  ["\x1b[20\x1b[201~1~", "[201~"],
  ["\u009b201~x", "x"],
  ["\x03\x04\x1a\x00\x7f\x1b[A\x9b", "[A"],
  ["日本語 👩‍👩‍👧 e\u0301", "日本語 👩‍👩‍👧 e\u0301"],
  ["half \ud800", "half \ufffd"],
];
test.each(typed)("%j is typed as %j", (text, expected) => {
  expect(typeable(text)).toBe(expected);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that there are none is the point
  expect(typeable(text)).not.toMatch(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/);
});
