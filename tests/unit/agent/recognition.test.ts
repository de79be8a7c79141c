/** What screens say, by the rules of each profile; and what they do not say, because somebody else did. */
import { describe, expect, test } from "bun:test";
import { coverEchoes, echoOf, findEchoes, typeable } from "~/agent/echo";
import { loadProfile, type Profile } from "~/agent/profile";
import { couldMislead, draftIn, isUnsubmitted, keysFor, recognise, type View } from "~/agent/recognition";

const nowhere = "/nonexistent";
const profiles = {
  generic: loadProfile("generic", nowhere),
  claude: loadProfile("claude", nowhere),
  codex: loadProfile("codex", nowhere),
  kiro: loadProfile("kiro", nowhere),
};

const screen = (text: string, cursorLine?: number, title = ""): View => {
  const lines = text.split("\n");
  const line = cursorLine ?? lines.length - 1;
  const isCursorShown = cursorLine !== undefined;
  return { title, lines, beforeCursor: lines[line] ?? "", cursorLine: line, isCursorShown };
};

const seen = (profile: Profile, view: View, texts: readonly string[] = [], wasIdle = true): string => {
  const { sight, exhausted, approaching } = recognise(profile, view, texts.map(echoOf), wasIdle);
  return [sight ?? "-", exhausted && "exhausted", approaching && "approaching"].filter(Boolean).join(" ");
};

const box = (input: string) => `╭────╮\n│ > ${input}\n╰────╯`;
/** The bottom of Claude Code since it has no box any more, and of Codex. */
const field = (input: string, hint: string) => `────\n❯ ${input}\n────\n  ${hint}`;
const codexField = (input: string) =>
  ` \n › ${input}\n \n  gpt-5.4 default · ~/project\n  ? for shortcuts`.replace(" ›", "›");

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
  ["claude", `esc to interrupt\n1\n2\n3\n4\n5\n6\n7\n⏵⏵ bypass permissions on`, "idle"],
  ["claude", field("", "⏸ manual mode on · ? for shortcuts · ← for agents"), "idle"],
  ["claude", field("", "⏵⏵ auto mode on (shift+tab to cycle) · ← for agents"), "idle"],
  ["claude", field('Try "fix the tests"', "⏸ plan mode on (shift+tab to cycle)"), "idle"],
  ["claude", field("", "paste again to expand"), "idle"],
  ["claude", field("1", "my own status line"), "idle"],
  ["claude", field("", "⏸ manual mode on · esc to interrupt · ← for agents"), "working"],
  [
    "claude",
    `${field("", "⏸ manual mode on · esc to interrupt · ← for agents")}\n        ◐ medium · /effort`,
    "working",
  ],
  ["claude", `✶ Shimmying… \n\n${field("a draft", "⏸ manual mode on")}`, "working"],
  ["claude", `· Fixing the tests… (1m 3s · ↓ 2.1k tokens)\n\n${field("", "⏸ manual mode on")}`, "working"],
  ["claude", `✻ Baked for 4s · done 6:44 PM\n\n${field("", "⏸ manual mode on")}`, "idle"],
  ["claude", `● Press esc to interrupt it.\n\n${field("", "⏸ manual mode on")}`, "idle"],
  ["claude", "Loading…", "-"],
  ["claude", `${box("")}\n  shift+tab\n\n\n\n\n\n\n\n`, "idle"],
  ["codex", "› Ask Codex to do anything\n\n  98% context left", "idle"],
  ["codex", "• Working (3s • esc to interrupt)\n\n› Ask Codex", "working"],
  ["codex", "Starting MCP servers (1/2)\n› ", "working"],
  ["codex", "• Executing ls\n› ", "working"],
  [
    "codex",
    "│ model:     loading   /model to change │\n╰──╯\n\n› Improve this\n\n  100% context left",
    "working",
  ],
  ["codex", "  ↳ a message that waits\n    alt + ↑ edit\n\n› Improve this\n\n  100% context left", "working"],
  ["codex", `• I was executing it.\n${codexField("Ask Codex to do anything")}`, "idle"],
  ["codex", `◦ Working (0s • esc to interrupt)\n${codexField("Ask Codex to do anything")}`, "working"],
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

const titled: [profile: keyof typeof profiles, title: string, sight: "idle" | "working"][] = [
  ["claude", "◐ Claude Code", "working"],
  ["claude", "◑ Claude Code", "working"],
  ["claude", "✳ Claude Code", "idle"],
  ["claude", "", "idle"],
  ["codex", "⠹ project", "working"],
  ["codex", "project", "idle"],
  ["codex", "[ ! ] Action Required | project", "idle"],
];
test.each(titled)("%s entitled %j is %s, whatever else it shows", (name, title, sight) => {
  const bottom = name === "claude" ? field("a draft", "⏸ manual mode on") : codexField("Ask Codex");
  const recognised = recognise(profiles[name], screen(`● answer\n${bottom}`, 1, title), [], true);
  expect([recognised.sight, recognised.isIdleToo]).toEqual([sight, sight === "working"]);
});

describe("a question that a person has to answer", () => {
  const questions: [profile: keyof typeof profiles, screen: string, question: string][] = [
    [
      "claude",
      "● Bash(touch x)\n  ⎿  Waiting…\n\n────\n Bash command\n touch x\n╌╌╌\n Do you want to proceed?\n ❯ 1. Yes\n   2. No\n\n Esc to cancel · Tab to amend",
      "Do you want to proceed?",
    ],
    [
      "claude",
      "────\n Edit file\n Do you want to make this edit to a.ts?\n ❯ 1. Yes\n   2. Yes, allow all edits during this session (shift+tab)\n   3. No\n\n Esc to cancel · Tab to amend",
      "Do you want to make this edit to a.ts?",
    ],
    [
      "claude",
      "────\n Bash command\n\n   touch x\n\n Do you want to proceed?\n ❯ 1. Yes\n   2. No, and tell Claude what to do differently (esc)",
      "Do you want to proceed?",
    ],
    [
      "claude",
      "────\n  WARNING: Claude Code running in Bypass Permissions mode\n\n  By proceeding, you accept.\n\n  ❯ No, exit\n    Yes, I accept\n\n  Enter to confirm · Esc to cancel",
      "WARNING: Claude Code running in Bypass Permissions mode",
    ],
    [
      "claude",
      "────\n  Detected a custom API key\n\n  Do you want to use this API key?\n\n    Yes\n  ❯ No (recommended)\n\n  Enter to confirm · Esc to cancel",
      "Do you want to use this API key?",
    ],
    [
      "codex",
      "  Would you like to run the following command?\n\n  $ touch x\n\n› 1. Yes, proceed (y)\n  2. No, and tell Codex what to do differently (esc)\n\n  Press enter to confirm or esc to cancel",
      "Would you like to run the following command?",
    ],
    [
      "codex",
      "  Trust this folder? Codex can read.\n\n› 1. Trust and continue\n  2. Back\n\n  enter continue · esc back",
      "Trust this folder?",
    ],
  ];
  test.each(questions)("%s: %j", (name, text, question) => {
    const recognised = recognise(profiles[name], screen(text), [], true);
    expect(recognised).toMatchObject({ question, sight: "working", isIdleToo: false });
    expect(recognise(profiles[name], screen(text), [], false)).toMatchObject({ question, sight: undefined });
  });

  const none: [profile: keyof typeof profiles, screen: string][] = [
    ["claude", `● Enter to confirm · Esc to cancel\n\n${field("", "⏸ manual mode on")}`],
    ["claude", field("Enter to confirm", "⏸ manual mode on · esc to interrupt")],
    ["codex", `• Press enter to confirm.\n${codexField("Press enter to confirm")}`],
    ["generic", "Enter to confirm"],
  ];
  test.each(none)("%s: %j is none", (name, text) => {
    expect(recognise(profiles[name], screen(text), [], true).question).toBeUndefined();
  });
});

describe("what answers a question at the start", () => {
  const [up, down, enter] = ["\x1b[A", "\x1b[B", "\r"];
  const cases: [profile: keyof typeof profiles, screen: string, keys: string | undefined][] = [
    [
      "claude",
      "Is this a project you created or one you trust?\n\n ❯ No, exit\n   Yes, I trust this folder\n\n Enter to confirm",
      down,
    ],
    [
      "claude",
      "Is this a project you created or one you trust?\n\n   No, exit\n ❯ Yes, I trust this folder\n\n Enter to confirm",
      enter,
    ],
    [
      "claude",
      "Is this a project you created or one you trust?\n\n   Yes, I trust this folder\n ❯ No, exit\n\n Enter to confirm",
      up,
    ],
    ["claude", "Do you trust the files in this folder?\n\n❯ 1. Yes, proceed\n  2. No, exit", enter],
    ["claude", "│ Do you trust this folder?   │\n│   1. No, exit  │\n│ ❯ 2. Yes, proceed │", enter],
    ["claude", "Is this a project you created or one you trust?\n\n ❯ No, exit", undefined],
    ["claude", "Is this a project you created or one you trust?", undefined],
    ["codex", "  Trust this folder?\n\n› 1. Trust and continue\n  2. Back to Agent Command Center", enter],
    ["codex", "  Do you trust the contents of this directory?\n\n  1. Yes, continue\n› 2. No, quit", up],
    [
      "codex",
      "> You are running Codex in ~/project\n\n› 1. Allow Codex to work without asking\n  2. Require approval of edits",
      down,
    ],
    ["kiro", "Press enter to continue", enter],
  ];
  test.each(cases)("%s: %j", (name, text, keys) => {
    const dialog = profiles[name].dialogs.find(({ when }) => when.test(text.replace(/\s+/g, " ")));
    if (dialog === undefined) throw new Error("it has no such dialog");
    expect(keysFor(dialog, text.split("\n"))).toBe(keys);
  });
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
    ["● It says:\n\n  prompt is too long\n\n    Context window exceeded\n  more", "-"],
    ["  of an answer that began above, the context window is full\n\n  prompt is too long", "-"],
    ["● Prompt is too long: that is what the log says.", "-"],
    ["❯ what does it mean that the\n  prompt is too long\n\n  and the context window is full?", "idle"],
    ["● Bash(cat log)\n  ⎿  prompt is too long\n     context limit reached", "-"],
    ["● Bash(cat log)\n  ⎿  hi\n  ⎿  Prompt is too long · /clear to start fresh", "- exhausted"],
    ["● github - search (MCP)(query: x)\n  ⎿  the context window is full", "-"],
    ["❯ go\n  ⎿  Prompt is too long · the request is ~215000 tokens\n     (limit 200000)", "idle exhausted"],
    ["● API Error: 400 it is broken\n\n  ⎿  Prompt is too long", "- exhausted"],
    ["✻ Conversation is too long", "- exhausted"],
    ["> full\n  ⎿  Context low · Run /compact to compact & continue", "idle exhausted"],
    ["  ⎿  Context low (8% remaining) · Run /compact to compact & continue", "- approaching"],
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
  const quoting = "what does it mean when the context window is full, or near it? (esc to interrupt)";
  const cases: [what: string, lines: string[], text?: string][] = [
    ["in the input", [`│ > ${quoting} │`, hint]],
    ["in the history", [`> ${quoting}`, "", "│ > │", hint]],
    [
      "wrapped by the agent, with an indent",
      [
        "> what does it mean when the context window",
        "  is full, or near it? (esc to",
        "  interrupt)",
        "",
        hint,
      ],
    ],
    [
      "wrapped in the middle of a word",
      [
        "> what do",
        "  es it mean when the context window is full, or ne",
        "  ar it? (esc to interrupt)",
        hint,
      ],
    ],
    ["in both", [`> ${quoting}`, "", `│ > ${quoting}`, hint]],
    ["with its beginning scrolled away", ["  is full, or near it? (esc to interrupt)", "", hint]],
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
    // Also where nothing but the echo tells it from what the agent says.
    const plain = { ...profiles.claude, prompt: undefined, answer: undefined };
    expect(seen(plain, view, [text])).toBe("idle");
    expect(seen(plain, view)).not.toBe("idle");
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
    { start: 1, end: 3, prefix: 2, isWhole: true },
    { start: 4, end: 5, prefix: 2, isWhole: true },
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

describe("what somebody has typed and not entered", () => {
  const at = (lines: string[], cursorLine: number, column: number): View => ({
    ...screen(lines.join("\n"), cursorLine),
    beforeCursor: (lines[cursorLine] ?? "").slice(0, column),
  });
  const rule = "────";
  const cases: [what: string, profile: keyof typeof profiles, view: View, draft: string][] = [
    ["a line", "claude", at(["● yes", "", rule, "❯ a draft", rule, "  hint"], 3, 9), "a draft"],
    ["two", "claude", at([rule, "❯ a draft", "  of mine", rule, "  hint"], 2, 9), "a draft\n  of mine"],
    ["none", "claude", at(["❯ said before", "", rule, "❯ ", rule, "  hint"], 3, 2), ""],
    ["a proposal of its own", "claude", at([rule, "❯ Try this one", rule, "  hint"], 1, 2), ""],
    [
      "a proposal above the cursor",
      "claude",
      at([rule, '> Try "this"', rule, "  ? for shortcuts", ""], 4, 0),
      "",
    ],
    ["a hint", "codex", at(["› Ask Codex to do anything", "", "  gpt"], 0, 2), ""],
    ["a word", "codex", at(["› said", "", "› x", "", "  gpt"], 2, 3), "x"],
    ["where that cannot be told", "kiro", at(["> ask a question"], 0, 16), ""],
    ["no input", "claude", at(["Loading…"], 0, 8), ""],
  ];
  test.each(cases)("%s", (_, name, view, draft) => {
    expect(draftIn(profiles[name], view)).toBe(draft);
    // Hidden or not.
    expect(draftIn(profiles[name], { ...view, isCursorShown: false })).toBe(draft);
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
