/**
 * Arguments are checked here, strictly: unknown, repeated, valueless and stray ones are refused with what was probably
 * meant. The words are split as `node:util` would (POSIX.1 XBD 12.2 with GNU long options), which takes longer to load than a
 * command to run; nothing is guessed beyond that.
 */
import type { Arg, Args, Values } from "~/cli/command";
import { MeshError } from "~/errors";
import { closest } from "~/wire/suggestion";

export const usageError = (message: string, hint?: string): MeshError =>
  new MeshError("usage", message, { hint });

/** The values of `args` in `argv`. Throws `usage`. */
export function parseArgv<T extends Args>(args: T, argv: readonly string[], commandName: string): Values<T> {
  const given = new Map<string, string[]>();
  const rest = restOf(args);
  const end = rest === undefined ? -1 : argv.indexOf("--");
  const { flags, positionals } = splitWords(args, end === -1 ? argv : argv.slice(0, end));
  for (const { name, value, isInline, written } of flags) {
    const arg = Object.hasOwn(args, name) ? args[name] : undefined;
    if (arg === undefined || arg.type === "positional") throw unknownFlag(written, args, commandName);
    const flag = `--${name}`;
    const values = given.get(name) ?? [];
    if (values.length > 0 && !("multiple" in arg)) throw usageError(`${flag} was given twice`);
    values.push(flagText(flag, arg, value, isInline));
    given.set(name, values);
  }
  assignPositionals(args, positionals, given, commandName);
  if (rest !== undefined && end !== -1) given.set(rest, argv.slice(end + 1));

  const values: Record<string, unknown> = {};
  for (const [name, arg] of Object.entries(args)) values[name] = finalValue(name, arg, given.get(name));
  // Built from `args` name by name; the type says the same about each kind of argument as `finalValue` does.
  return values as Values<T>;
}

/** Whose words follow `--`, if the command has such an argument. */
const restOf = (args: Args): string | undefined => Object.keys(args).find((name) => isRest(args[name]));

const isRest = (arg: Arg | undefined): boolean => arg?.type === "positional" && arg.rest === true;

interface GivenFlag {
  name: string;
  value: string | undefined;
  /** The value stood in the same word, as in `--file=a`. */
  isInline: boolean;
  /** The word as it was given. */
  written: string;
}

/** Which words are flags, which are their values, and which stand for themselves. Whether a flag may be given is not asked here. */
export function splitWords(
  args: Args,
  words: readonly string[],
): { flags: GivenFlag[]; positionals: string[] } {
  const flags: GivenFlag[] = [];
  const positionals: string[] = [];
  for (let at = 0; at < words.length; at++) {
    const written = words[at] ?? "";
    if (written === "--") return { flags, positionals: [...positionals, ...words.slice(at + 1)] };
    if (written === "-" || !written.startsWith("-")) {
      positionals.push(written);
      continue;
    }
    for (const { name, inline } of written.startsWith("--") ? longFlag(written) : shortFlags(args, written)) {
      const takesNext = inline === undefined && takesValue(args, name);
      if (takesNext) at++;
      flags.push({ name, value: takesNext ? words[at] : inline, isInline: inline !== undefined, written });
    }
  }
  return { flags, positionals };
}

interface WrittenFlag {
  name: string;
  inline?: string;
}

/** `--name` or `--name=value` */
function longFlag(word: string): WrittenFlag[] {
  const equals = word.indexOf("=", "--n".length);
  return equals === -1
    ? [{ name: word.slice(2) }]
    : [{ name: word.slice(2, equals), inline: word.slice(equals + 1) }];
}

/** `-f`, several as `-fh`, the last of them with its value as `-n5`. */
function shortFlags(args: Args, word: string): WrittenFlag[] {
  const flags: WrittenFlag[] = [];
  for (let at = 1; at < word.length; at++) {
    const letter = word[at] ?? "";
    const name = Object.keys(args).find((known) => aliasOf(args[known]) === letter) ?? letter;
    const after = word.slice(at + 1);
    if (after !== "" && takesValue(args, name)) return [...flags, { name, inline: after }];
    flags.push({ name });
  }
  return flags;
}

const aliasOf = (arg: Arg | undefined): unknown => (arg?.type === "positional" ? undefined : arg?.alias);

function takesValue(args: Args, name: string): boolean {
  const type = Object.hasOwn(args, name) ? args[name]?.type : undefined;
  return type === "string" || type === "enum";
}

function flagText(flag: string, arg: Arg, value: string | undefined, isInline: boolean): string {
  if (arg.type === "boolean") {
    if (value === undefined) return "";
    throw usageError(`${flag} takes no value`, `Write ${flag} to switch it on, or leave it out.`);
  }
  if (value === undefined) throw usageError(`${flag} needs a value`);
  // `--to --json` is far more often a forgotten value than a value that looks like a flag.
  if (!isInline && value.startsWith("-") && value !== "-") {
    throw usageError(`${flag} needs a value`, `If the value is ${value}, write ${flag}=${value}`);
  }
  return value;
}

function assignPositionals(
  args: Args,
  positionals: readonly string[],
  given: Map<string, string[]>,
  commandName: string,
): void {
  const names = Object.keys(args).filter((name) => args[name]?.type === "positional" && !isRest(args[name]));
  for (const [index, text] of positionals.entries()) {
    const name = names[index];
    if (name === undefined && restOf(args) !== undefined) {
      throw usageError(
        `unexpected argument ${JSON.stringify(text)}`,
        `The command to run stands after "--": claudemesh ${commandName} … -- ${text} …`,
      );
    }
    if (name === undefined) {
      throw usageError(
        `unexpected argument ${JSON.stringify(text)}`,
        names.length === 0
          ? `claudemesh ${commandName} takes no arguments.`
          : `Text with spaces must stand in quotes. See claudemesh ${commandName} --help`,
      );
    }
    given.set(name, [text]);
  }
}

function finalValue(name: string, arg: Arg, texts: readonly string[] | undefined): unknown {
  if (arg.type === "boolean") return texts !== undefined;
  const parse = (text: string): unknown => parseText(name, arg, text);
  if ("multiple" in arg) return (texts ?? []).map(parse);
  if (isRest(arg)) {
    if (arg.required === true && (texts ?? []).length === 0) {
      throw usageError(`${name.toUpperCase()} is missing`, `Write it after "--": -- ${name.toUpperCase()} …`);
    }
    return [...(texts ?? [])];
  }
  const text = texts?.[0] ?? arg.default;
  if (text !== undefined) return parse(text);
  if (arg.required === true) {
    const shown = arg.type === "positional" ? name.toUpperCase() : `--${name}`;
    throw usageError(`${shown} is missing`, arg.description && `${shown}: ${arg.description}`);
  }
  return undefined;
}

function parseText(name: string, arg: Exclude<Arg, { type: "boolean" }>, text: string): unknown {
  if (arg.type === "enum") {
    if (arg.options.includes(text)) return text;
    const guess = closest(text, arg.options);
    throw usageError(
      `--${name} must be ${arg.options.join(" or ")}, not ${JSON.stringify(text)}`,
      guess && `Did you mean --${name} ${guess}?`,
    );
  }
  if (arg.parse === undefined) return text;
  try {
    return arg.parse(text);
  } catch (error) {
    if (error instanceof MeshError && error.code === "usage")
      throw usageError(`--${name}: ${error.message}`, error.hint);
    throw error;
  }
}

function unknownFlag(written: string, args: Args, commandName: string): MeshError {
  const flag = written.replace(/=.*/s, "");
  const known = Object.keys(args)
    .filter((name) => args[name]?.type !== "positional")
    .map((name) => `--${name}`);
  const guess = closest(flag.replace(/^-*/, "--"), known);
  return usageError(
    `unknown flag ${flag}`,
    guess === undefined ? `See claudemesh ${commandName} --help` : `Did you mean ${guess}?`,
  );
}

// ── Values ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A whole number from `min` to `max`. */
export const wholeNumber =
  (min: number, max: number) =>
  (text: string): number => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
    if (value >= min && value <= max) return value;
    throw usageError(`a whole number from ${min} to ${max} expected, not ${JSON.stringify(text)}`);
  };

const unitMs: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

function durationMs(text: string, minMs: number, maxMs: number, pattern: RegExp, forms: string): number {
  const [, digits = "", unit] = pattern.exec(text) ?? [];
  const value = digits === "" ? Number.NaN : Number(digits) * (unitMs[unit || "s"] ?? Number.NaN);
  if (value >= minMs && value <= maxMs) return value;
  const why =
    value > maxMs ? `at most ${maxMs >= 86_400_000 ? `${maxMs / 86_400_000}d` : `${maxMs / 1000}s`}` : forms;
  throw usageError(`${why} expected, not ${JSON.stringify(text)}`);
}

/** A time span with its unit (`90s`, `30m`, `2h`, `7d`), in milliseconds. */
export const duration = (maxMs: number) => (text: string) =>
  durationMs(text, 1, maxMs, /^(\d{1,9})([smhd])$/, "a time such as 90s, 30m, 2h or 7d");

/** A time span in seconds (`30`) or with its unit (`30s`, `2m`), in milliseconds. */
export const seconds =
  (maxMs: number, minMs = 1) =>
  (text: string) =>
    durationMs(text, minMs, maxMs, /^(\d{1,9})([smhd]?)$/, "a time such as 30 (seconds) or 2m");
