/**
 * Arguments are checked here, strictly: unknown, repeated, valueless and stray ones are refused with what was probably
 * meant. `node:util` splits the words (POSIX.1 XBD 12.2 with GNU long options); nothing is guessed beyond that.
 */
import { parseArgs } from "node:util";
import type { Arg, Args, Values } from "~/cli/command";
import { MeshError } from "~/errors";
import { closest } from "~/wire/suggestion";

export const usageError = (message: string, hint?: string): MeshError =>
  new MeshError("usage", message, { hint });

/** The values of `args` in `argv`. Throws `usage`. */
export function parseArgv<T extends Args>(args: T, argv: readonly string[], commandName: string): Values<T> {
  const given = new Map<string, string[]>();
  const positionals: string[] = [];
  const rest = restOf(args);
  const end = rest === undefined ? -1 : argv.indexOf("--");
  const options = Object.fromEntries(
    Object.entries(args).flatMap(([name, arg]) =>
      arg.type === "positional" ? [] : [[name, parserOption(arg)] as const],
    ),
  );
  const { tokens } = parseArgs({
    args: end === -1 ? [...argv] : argv.slice(0, end),
    options,
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  for (const token of tokens) {
    if (token.kind === "positional") positionals.push(token.value);
    if (token.kind !== "option") continue;
    const arg = Object.hasOwn(args, token.name) ? args[token.name] : undefined;
    if (arg === undefined || arg.type === "positional") {
      throw unknownFlag(argv[token.index] ?? token.rawName, args, commandName);
    }
    const flag = `--${token.name}`;
    const values = given.get(token.name) ?? [];
    if (values.length > 0 && !("multiple" in arg)) throw usageError(`${flag} was given twice`);
    values.push(flagText(flag, arg, token.value, token.inlineValue));
    given.set(token.name, values);
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

function parserOption(arg: Exclude<Arg, { type: "positional" }>): {
  type: "boolean" | "string";
  multiple: boolean;
  short?: string;
} {
  const short = typeof arg.alias === "string" ? arg.alias : undefined;
  return {
    type: arg.type === "boolean" ? "boolean" : "string",
    multiple: true,
    ...(short === undefined ? {} : { short }),
  };
}

function flagText(flag: string, arg: Arg, value: string | undefined, isInline: boolean | undefined): string {
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

function durationMs(text: string, maxMs: number, pattern: RegExp, forms: string): number {
  const [, digits = "", unit] = pattern.exec(text) ?? [];
  const value = digits === "" ? Number.NaN : Number(digits) * (unitMs[unit || "s"] ?? Number.NaN);
  if (value > 0 && value <= maxMs) return value;
  const why =
    value > maxMs ? `at most ${maxMs >= 86_400_000 ? `${maxMs / 86_400_000}d` : `${maxMs / 1000}s`}` : forms;
  throw usageError(`${why} expected, not ${JSON.stringify(text)}`);
}

/** A time span with its unit (`90s`, `30m`, `2h`, `7d`), in milliseconds. */
export const duration = (maxMs: number) => (text: string) =>
  durationMs(text, maxMs, /^(\d{1,9})([smhd])$/, "a time such as 90s, 30m, 2h or 7d");

/** A time span in seconds (`30`) or with its unit (`30s`, `2m`), in milliseconds. */
export const seconds = (maxMs: number) => (text: string) =>
  durationMs(text, maxMs, /^(\d{1,9})([smhd]?)$/, "a time such as 30 (seconds) or 2m");
