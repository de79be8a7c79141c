/**
 * How to deal with one kind of agent in a terminal, as data: how it is started, what its screen says, how it is handed a text, which
 * questions at its start may be answered, what of its output is decoration. Four are built in; a person adds more, or replaces these, with
 * a file `profiles/NAME.toml` in the config directory. Recognition itself is in recognition.ts and response.ts.
 */
import { existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import * as v from "valibot";
import { MeshError, messageOf, systemCodeOf } from "~/errors";
import { profileFileBytesMax } from "~/wire/limits";
import { closest } from "~/wire/suggestion";
import { explainIssues } from "~/wire/text";

const Expression = v.pipe(
  v.string(),
  v.minLength(1),
  v.rawTransform(({ dataset, addIssue, NEVER }) => {
    try {
      return new RegExp(dataset.value, "iu");
    } catch (error) {
      addIssue({ message: `not a regular expression: ${messageOf(error)}` });
      return NEVER;
    }
  }),
);
const Expressions = v.optional(v.array(Expression), []);
const Phrases = v.optional(v.array(v.pipe(v.string(), v.minLength(3))), []);
const Milliseconds = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(60_000));
const VariableName = v.pipe(v.string(), v.regex(/^[A-Za-z_][A-Za-z0-9_]*$/, "not the name of a variable"));

const Profile = v.strictObject({
  /** Words that go before its other arguments, where the program is called as the profile is. */
  args: v.optional(v.array(v.string()), []),
  /** Variables for its environment, where there is none of the name. */
  env: v.optional(v.record(VariableName, v.string()), {}),
  /** How many of the last lines of the screen tell what the agent does; the lines below the last text do not count. */
  lines: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(200)), 12),
  /** It asks something that a person has to answer, in the very last lines. Goes before all else: nothing may be typed then. */
  questions: Expressions,
  /** At work. Goes before idle. With none, whatever is not idle is at work, once the agent was idle for the first time. */
  working: Expressions,
  /** The same, by the title that it gives its window. */
  working_titles: Expressions,
  /** Waits for input. */
  idle: v.pipe(v.array(Expression), v.minLength(1)),
  /** Whether `idle` is only looked for in the line of the cursor, as far as the cursor. */
  idle_at_cursor: v.optional(v.boolean(), false),
  /** Phrases, in any case, wherever a line breaks, of an agent whose context is full, or soon will be. */
  exhausted: Phrases,
  approaching: Phrases,
  /** For how long no output may have come before an agent counts as done. */
  settle_ms: v.optional(Milliseconds, 500),
  /** As a bracketed paste and Enter, confirmed by the screen; otherwise the text itself and a newline. */
  paste: v.optional(v.boolean(), true),
  /** Where the agent's input begins: the prompt, matched at the beginning of a line. Needed to see whether a paste was taken. */
  prompt: v.optional(Expression),
  /**
   * What stands between the prompt and the cursor was typed by somebody, and a message would become a part of it: so messages wait for
   * whoever types, and it is deleted where nobody is there.
   */
  drafts: v.optional(v.boolean(), false),
  /** What the agent shows in its input in place of a long paste. */
  placeholder: v.optional(Expression),
  /** Questions before the first prompt, and what answers them: keys, or one of a list of choices, by what it says. */
  dialogs: v.optional(
    v.array(
      v.union([
        v.strictObject({ when: Expression, keys: v.pipe(v.string(), v.minLength(1), v.maxLength(64)) }),
        v.strictObject({ when: Expression, choose: Expression }),
      ]),
    ),
    [],
  ),
  /** How often Ctrl-C is pressed for it to end: some take the first as a wish to stop what they do, and ask for another. */
  interrupts: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(10)), 1),
  /** With the stream-json runtime: tools that it may use without being asked, and what fits into a context, by part of a model's name. */
  allowed_tools: v.optional(v.array(v.string()), []),
  models: v.optional(
    v.array(
      v.strictObject({
        model: v.pipe(v.string(), v.minLength(1)),
        tokens: v.pipe(v.number(), v.integer(), v.minValue(1)),
      }),
    ),
    [],
  ),
  /** Lines that are no part of an answer: spinners, frames, hints. */
  drop: Expressions,
  /** Signs before the text of a line that are no part of an answer. */
  strip: Expressions,
  /** How an answer begins, at the beginning of a line. What the model says is not what the program says of its context. */
  answer: v.optional(Expression),
});
export type ProfileData = v.InferInput<typeof Profile>;
export type Profile = v.InferOutput<typeof Profile> & { name: string };

/** Said by all three; a full context looks alike everywhere. */
const exhausted = [
  "context window exceeded",
  "context window is full",
  "conversation is too long",
  "maximum context length",
  "context limit reached",
  "prompt is too long",
];
const approaching = [
  "approaching context limit",
  "running low on context",
  "nearing the context limit",
  "context window is approaching",
];
/** Frames of boxes and rules, with nothing in them. Those of an answer's own tables are indented. */
const frames = "^[─━═│┃║╭╮╰╯┌┐└┘├┤┬┴┼╔╗╚╝▔▁▀▄][\\s─━═│┃║╭╮╰╯┌┐└┘├┤┬┴┼╔╗╚╝▔▁▀▄]*$";
/** What an agent does at the moment, with how to stop it. From the first parenthesis on: a line may be long, and have many. */
const activity = "^[^(]*\\(.*\\besc to interrupt\\)\\s*$";
const spinner = "^\\s*[✻✽✶✳✢·∗⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏⣾⣽⣻⢿⡿⣟⣯⣷◐◓◑◒]\\s+\\S+(…|\\.\\.\\.)";
/** Below a question: `Enter to confirm · Esc to cancel`. */
const howToAnswer = "(^|[·•|])[\\s│]*(press )?(enter|esc) to (?!interrupt)\\w";
/** Not the mark of the chosen one in a list of answers. */
const noChoice = "(?!\\s+\\d+\\.\\s)";

/**
 * The screens of Claude Code 2.1.329 and Codex 0.169.0, and what is known of older ones. Both paint the whole screen where they are let, and
 * then never show more of an answer than fits; so they are told to leave what they have said in the terminal.
 */
const builtIn: Readonly<Record<string, ProfileData>> = {
  generic: {
    lines: 1,
    idle: ["[$%#>]\\s*$"],
    idle_at_cursor: true,
    exhausted,
    approaching,
    settle_ms: 200,
    paste: false,
  },
  claude: {
    env: { CLAUDE_CODE_DISABLE_ALTERNATE_SCREEN: "1" },
    lines: 8,
    questions: [howToAnswer, "^[\\s│]*(❯\\s)?\\d\\. no\\b.*\\(esc\\)"],
    working: ["(^|[(·•])\\s*esc to interrupt", "ctrl\\+b to run in background", "^[✻✽✶✳✢·∗*]\\s[^(]*…"],
    working_titles: ["^[◐◑◒◓⠂⠐]\\s"],
    idle: [`^(│\\s)?[>❯]${noChoice}(\\s|$)`, "^\\s*[⏵⏸]", "^\\s*ctrl\\+g to edit"],
    exhausted: [...exhausted, "context low · run /compact"],
    approaching: [...approaching, "context low (", "until auto-compact"],
    settle_ms: 500,
    prompt: `^(│\\s)?[>❯]${noChoice}(?=\\s|$)`,
    drafts: true,
    placeholder: "\\[(Pasted text|Image) #\\d+",
    dialogs: [
      {
        when: "do you trust (the files in )?this folder|is this a project you created or one you trust",
        choose: "^yes, (i trust|proceed|continue)",
      },
    ],
    interrupts: 4,
    drop: [
      frames,
      activity,
      "^[✻✽✶✳✢·∗*]\\s",
      "^\\s*[⏵⏸]",
      "^\\s*⎿\\s+tip: ",
      "^\\s*\\? for shortcuts",
      "^\\s*ctrl\\+g to edit",
      "^\\s{8}.*/effort$",
      "^[\\s│]*[>❯]\\s*(│\\s*)?$",
    ],
    strip: ["^[⏺●]\\s", "^ {2}"],
    answer: "^[⏺●]\\s",
  },
  codex: {
    args: ["-c", 'tui.alternate_screen="never"'],
    lines: 12,
    questions: [howToAnswer, "^\\s*enter continue\\b"],
    working: [
      "[(•·]\\s*esc to interrupt",
      "^[\\s•◦]*(starting mcp|executing)",
      "^│ model:\\s+loading",
      "^\\s*alt \\+ ↑ edit",
    ],
    working_titles: ["^[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]\\s"],
    idle: [`^›${noChoice}`],
    exhausted: [...exhausted, "ran out of room in the model's context window"],
    approaching,
    settle_ms: 500,
    prompt: `^›${noChoice}(?=\\s|$)`,
    drafts: true,
    placeholder: "\\[Pasted Content \\d+ chars",
    dialogs: [
      { when: "do you trust the contents of this directory|trust this folder\\?", choose: "^(yes|trust)\\b" },
      { when: "you are running codex in", choose: "^require approval" },
    ],
    interrupts: 4,
    drop: [
      frames,
      activity,
      "^\\s*(─\\s*)?worked for (<?\\d+[hms]\\s?)+(•|─|$)",
      "^›",
      "^\\s*└\\s+tip: ",
      "^\\s*\\d+% context left",
      "^\\s*(\\S+ for agents · )?\\? for shortcuts",
    ],
    strip: ["^[•◦]\\s", "^ {2}"],
    answer: "^[•◦]\\s",
  },
  kiro: {
    lines: 12,
    working: ["initializing", "esc to interrupt", "thinking", "planning", "applying"],
    idle: ["ask a question", "describe a task", "^[\\s│┃|]*(kiro)?>[\\s│┃|]*$"],
    exhausted,
    approaching,
    settle_ms: 500,
    prompt: "^[\\s│┃|]*(kiro)?>(?=\\s|$)",
    dialogs: [{ when: "press enter to continue", keys: "\r" }],
    interrupts: 2,
    drop: [
      frames,
      spinner,
      activity,
      "^[\\s│┃|]*(kiro)?>\\s+(ask a question|describe a task)",
      "^\\W*(initializing|thinking|planning|applying)(…|\\.\\.\\.)?\\W*$",
      "^[\\s│┃|]*(kiro)?>[\\s│┃|]*$",
    ],
    strip: ["^\\s*[●•]\\s", "^> (?=\\S)"],
    answer: "^\\s*[●•]\\s",
  },
};

export const builtInProfiles: readonly string[] = Object.keys(builtIn);

const namePattern = /^[a-z0-9][a-z0-9_-]{0,31}$/i;

/** `config dir/profiles/NAME.toml` before what is built in. Throws `config_invalid`, `storage_failed`, or `usage` when there is none. */
export function loadProfile(name: string, configDir: string): Profile {
  if (!namePattern.test(name)) throw noSuchProfile(name, configDir);
  const path = profilePath(name, configDir);
  const text = readProfileText(path);
  if (text !== undefined) return { ...parseProfile(text, path), name };
  const data = Object.hasOwn(builtIn, name) ? builtIn[name] : undefined;
  if (data === undefined) throw noSuchProfile(name, configDir);
  return { ...v.parse(Profile, data), name };
}

/** The profile for a program where none is named: by its name, and `generic` for what is not known. Throws as `loadProfile`. */
export function profileFor(program: string, configDir: string): Profile {
  const name = basename(program);
  const isOwn = namePattern.test(name) && existsSync(profilePath(name, configDir));
  if (isOwn || Object.hasOwn(builtIn, name)) return loadProfile(name, configDir);
  return loadProfile(otherNames.get(name) ?? "generic", configDir);
}

/** The command with the arguments of its profile. They go first, so that those that a person gave can overrule them. */
export function commandWith({ name, args }: Profile, command: readonly string[]): readonly string[] {
  const [program = "", ...others] = command;
  const called = basename(program);
  return name === called || name === otherNames.get(called) ? [program, ...args, ...others] : command;
}

/** Programs that are called otherwise than their profile. */
const otherNames = new Map([
  ["kiro-cli", "kiro"],
  ["kiro-cli-chat", "kiro"],
]);

const profilePath = (name: string, configDir: string): string => join(configDir, "profiles", `${name}.toml`);

function noSuchProfile(name: string, configDir: string): MeshError {
  const guess = closest(name, builtInProfiles);
  return new MeshError("usage", `there is no profile ${JSON.stringify(name)}`, {
    hint: `${guess === undefined ? "" : `Did you mean ${guess}? `}There are ${builtInProfiles.join(", ")}, and those of your own: ${join(configDir, "profiles")}/NAME.toml`,
  });
}

function readProfileText(path: string): string | undefined {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT" || systemCodeOf(error) === "ENOTDIR") return undefined;
    throw new MeshError(
      "storage_failed",
      `cannot read ${path} (${systemCodeOf(error) ?? messageOf(error)})`,
      {
        hint: "Check that it is a file, who owns it, and its permissions.",
        cause: error,
      },
    );
  }
  if (bytes.length > profileFileBytesMax) {
    throw invalid(path, `it has ${bytes.length} bytes; a profile has at most ${profileFileBytesMax}`);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw invalid(path, "it is not UTF-8");
  }
}

/** Throws `config_invalid`. `path` is for the message. */
export function parseProfile(text: string, path: string): Omit<Profile, "name"> {
  let data: unknown;
  try {
    data = Bun.TOML.parse(text);
  } catch (error) {
    throw invalid(path, messageOf(error));
  }
  const parsed = v.safeParse(Profile, data);
  if (!parsed.success) throw invalid(path, explainIssues(parsed.issues));
  return parsed.output;
}

const invalid = (path: string, message: string): MeshError =>
  new MeshError("config_invalid", `${path} is not a profile: ${message}`, {
    hint: "docs/shim.md says what stands in a profile. Regular expressions stand in single quotes.",
    details: { file: path },
  });
