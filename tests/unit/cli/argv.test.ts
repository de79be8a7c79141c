/** What the command line takes and what it refuses, and with which words. */
import { describe, expect, test } from "bun:test";
import { parseArgs } from "node:util";
import { duration, parseArgv, seconds, splitWords, usageError, wholeNumber } from "~/cli/argv";
import type { Arg, Args } from "~/cli/command";
import { MeshError } from "~/errors";

const args = {
  to: { type: "positional", required: true, description: "who" },
  message: { type: "positional", required: false },
  file: { type: "string" },
  meta: { type: "string", multiple: true },
  limit: { type: "string", parse: wholeNumber(1, 500) },
  timeout: { type: "string", default: "15", parse: seconds(600_000) },
  expires: { type: "string", parse: duration(7 * 86_400_000) },
  priority: { type: "enum", options: ["now", "next", "low"], default: "next" },
  wait: { type: "enum", options: ["accepted"] },
  "no-tcp": { type: "boolean" },
  follow: { type: "boolean", alias: "f" },
  json: { type: "boolean" },
  help: { type: "boolean", alias: "h" },
} as const satisfies Args;

const parse = (...argv: string[]) => parseArgv(args, argv, "try");

const nothing: Record<string, unknown> = {
  to: "bob",
  message: undefined,
  file: undefined,
  meta: [],
  limit: undefined,
  timeout: 15_000,
  expires: undefined,
  priority: "next",
  wait: undefined,
  "no-tcp": false,
  follow: false,
  json: false,
  help: false,
};

describe("taken", () => {
  const taken: [argv: string[], values: Record<string, unknown>][] = [
    [["bob"], {}],
    [["bob", "hi"], { message: "hi" }],
    [["bob", "-"], { message: "-" }],
    [["bob", ""], { message: "" }],
    [["bob", "--", "--json"], { message: "--json" }],
    [["bob", "--json", "--", "-x"], { message: "-x", json: true }],
    [["--file", "a", "bob"], { file: "a" }],
    [["--file=a", "bob"], { file: "a" }],
    [["--file=-a", "bob"], { file: "-a" }],
    [["--file=--json", "bob"], { file: "--json" }],
    [["--file", "-", "bob"], { file: "-" }],
    [["--file=", "bob"], { file: "" }],
    [["--meta", "a=1", "bob", "--meta=b=2=3"], { meta: ["a=1", "b=2=3"] }],
    [["bob", "--no-tcp"], { "no-tcp": true }],
    [["bob", "-f"], { follow: true }],
    [["bob", "--limit", "500"], { limit: 500 }],
    [["bob", "--timeout", "30"], { timeout: 30_000 }],
    [["bob", "--timeout", "2m"], { timeout: 120_000 }],
    [["bob", "--expires", "90s"], { expires: 90_000 }],
    [["bob", "--expires", "2h"], { expires: 7_200_000 }],
    [["bob", "--expires", "7d"], { expires: 604_800_000 }],
    [["bob", "--priority", "low"], { priority: "low" }],
  ];
  test.each(taken)("%j", (argv, values) => {
    expect<unknown>(parse(...argv)).toEqual({ ...nothing, ...values });
  });
});

describe("refused", () => {
  const refused: [argv: string[], message: string, hint?: string][] = [
    [[], "TO is missing"],
    [["bob", "--jsno"], "unknown flag --jsno", "Did you mean --json?"],
    [["bob", "--tmeout=3"], "unknown flag --tmeout", "Did you mean --timeout?"],
    [["bob", "--tcp"], "unknown flag --tcp", "claudemesh try --help"],
    [["bob", "-socket"], "unknown flag -socket"],
    [["bob", "-x"], "unknown flag -x"],
    [["bob", "--no-json"], "unknown flag --no-json", "Did you mean --json?"],
    [["bob", "--to", "alice"], "unknown flag --to"],
    [["bob", "--constructor"], "unknown flag --constructor"],
    [["bob", "--__proto__"], "unknown flag --__proto__"],
    [["bob", "hi", "there"], 'unexpected argument "there"', "quotes"],
    [["bob", "hi", "--", "there"], 'unexpected argument "there"'],
    [["bob", "--file", "a", "--file", "b"], "--file was given twice"],
    [["bob", "--json", "--json"], "--json was given twice"],
    [["bob", "--priority", "low", "--priority=now"], "--priority was given twice"],
    [["bob", "--file"], "--file needs a value"],
    [["bob", "--file", "--json"], "--file needs a value", "--file=--json"],
    [["bob", "--json=yes"], "--json takes no value"],
    [["bob", "--no-tcp=false"], "--no-tcp takes no value"],
    [["bob", "--limit", "0"], "--limit: a whole number from 1 to 500 expected"],
    [["bob", "--limit", "501"], "--limit: a whole number from 1 to 500 expected"],
    [["bob", "--limit", "1e2"], "--limit: a whole number"],
    [["bob", "--limit", " 1"], "--limit: a whole number"],
    [["bob", "--limit=-1"], "--limit: a whole number"],
    [["bob", "--limit="], "--limit: a whole number"],
    [["bob", "--timeout", "0"], "--timeout: a time such as 30"],
    [["bob", "--timeout", "1.5"], "--timeout: a time such as 30"],
    [["bob", "--timeout", "11m"], "--timeout: at most 600s expected"],
    [["bob", "--expires", "7"], "--expires: a time such as 90s"],
    [["bob", "--expires", "8d"], "--expires: at most 7d expected"],
    [["bob", "--expires", "1w"], "--expires: a time such as 90s"],
    [["bob", "--priority", "lwo"], '--priority must be now or next or low, not "lwo"', "--priority low"],
    [["bob", "--wait", "delivered"], '--wait must be accepted, not "delivered"'],
  ];
  test.each(refused)("%j: %s", (argv, message, hint = "") => {
    const error = failureOf(() => parse(...argv));
    expect(error.code).toBe("usage");
    expect(error.message).toContain(message);
    expect(error.hint ?? "").toContain(hint);
  });
});

describe("words are split as node:util splits them", () => {
  const letters = { ...args, lines: { type: "string", alias: "n" } } as const satisfies Args;
  const options = Object.fromEntries(
    Object.entries<Arg>(letters).flatMap(([name, arg]) =>
      arg.type === "positional"
        ? []
        : [
            [
              name,
              {
                type: arg.type === "boolean" ? ("boolean" as const) : ("string" as const),
                ...(typeof arg.alias === "string" ? { short: arg.alias } : {}),
                multiple: true,
              },
            ] as const,
          ],
    ),
  );
  function asNodeSplits(words: readonly string[]): ReturnType<typeof splitWords> {
    const { tokens } = parseArgs({
      args: [...words],
      options,
      strict: false,
      allowPositionals: true,
      tokens: true,
    });
    const split: ReturnType<typeof splitWords> = { flags: [], positionals: [] };
    for (const token of tokens) {
      if (token.kind === "positional") split.positionals.push(token.value);
      if (token.kind !== "option") continue;
      const { name, value, index } = token;
      split.flags.push({ name, value, isInline: token.inlineValue === true, written: words[index] ?? "" });
    }
    return split;
  }

  // Every flag in every form that it can be given in, right or wrong.
  const shapes = [
    "bob",
    "",
    "-",
    "--",
    "--file",
    "--file=",
    "--file=a=b",
    "--meta",
    "--json",
    "--json=",
    "-f",
  ];
  shapes.push(
    "-h",
    "-fh",
    "-n",
    "-n5",
    "-fn",
    "-fn5",
    "-f=1",
    "-n=5",
    "-x",
    "-xn5",
    "-5",
    "--x",
    "--x=1",
    "---",
  );
  shapes.push("--=a", "--a=", "-=", "--no-tcp", "--no-json", "--to", "--constructor", "--__proto__=1", "-é");

  test("one after the other, in pairs and in threes", () => {
    for (const first of shapes) {
      for (const second of shapes) {
        for (const third of [...shapes, undefined]) {
          const words = [first, second, ...(third === undefined ? [] : [third])];
          expect([words, splitWords(letters, words)]).toEqual([words, asNodeSplits(words)]);
        }
      }
    }
  });
});

describe("a command line of another program", () => {
  const running = {
    name: { type: "positional", required: true },
    command: { type: "positional", required: true, rest: true },
    cwd: { type: "string" },
    json: { type: "boolean" },
  } as const satisfies Args;

  const taken: [argv: string[], values: Record<string, unknown>][] = [
    [["x", "--", "bash"], { name: "x", command: ["bash"], cwd: undefined, json: false }],
    [
      ["x", "--json", "--", "bash", "--json", "-c", "", "--", "x"],
      { name: "x", command: ["bash", "--json", "-c", "", "--", "x"], cwd: undefined, json: true },
    ],
    [["--cwd", "/", "x", "--", "--"], { name: "x", command: ["--"], cwd: "/", json: false }],
  ];
  test.each(taken)("%j", (argv, values) => {
    expect<unknown>(parseArgv(running, argv, "run")).toEqual(values);
  });

  const refused: [argv: string[], message: string, hint: string][] = [
    [["x"], "COMMAND is missing", "-- COMMAND"],
    [["x", "--"], "COMMAND is missing", "-- COMMAND"],
    [["--", "bash"], "NAME is missing", ""],
    [["x", "bash"], 'unexpected argument "bash"', "claudemesh run … -- bash"],
    [["x", "bash", "--", "bash"], 'unexpected argument "bash"', "--"],
    [["x", "--cwd", "--", "bash"], "--cwd needs a value", ""],
  ];
  test.each(refused)("%j: %s", (argv, message, hint) => {
    const error = failureOf(() => parseArgv(running, argv, "run"));
    expect([error.code, error.message]).toEqual(["usage", expect.stringContaining(message)]);
    expect(error.hint ?? "").toContain(hint);
  });
});

test("an error of a value that is no usage error keeps its code", () => {
  const odd = {
    file: {
      type: "string",
      parse: (): string => {
        throw new MeshError("storage_failed", "cannot read it");
      },
    },
  } as const satisfies Args;
  expect(failureOf(() => parseArgv(odd, ["--file", "a"], "try")).code).toBe("storage_failed");
});

test("a required flag that is missing is named", () => {
  const strict = {
    key: { type: "string", required: true, description: "which key" },
  } as const satisfies Args;
  expect(failureOf(() => parseArgv(strict, [], "try"))).toMatchObject({
    message: "--key is missing",
    hint: "--key: which key",
  });
});

test("a usage error carries its hint", () => {
  expect(usageError("no", "do this")).toMatchObject({ code: "usage", message: "no", hint: "do this" });
});

function failureOf(action: () => unknown): MeshError {
  try {
    action();
  } catch (error) {
    if (error instanceof MeshError) return error;
    throw error;
  }
  throw new Error("it was taken");
}
