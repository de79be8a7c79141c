/**
 * What a command is: arguments in citty's vocabulary (https://github.com/unjs/citty), what it can end with, an example, and
 * a `run` that gets values of exactly the declared types. A command is a page: arguments, one client call, output.
 */
import type { BooleanArgDef, EnumArgDef, PositionalArgDef, StringArgDef } from "citty";
import { parseArgv } from "~/cli/argv";
import type { Output } from "~/cli/output";
import type { HostPaths } from "~/wire/paths";

/** What a text stands for, so that a shell can complete it. Where its candidates come from: cli/completions/candidates.ts. */
export type CompletionKind =
  | "agent"
  | "directory"
  | "file"
  | "inbox_id"
  | "inbox_place"
  | "member"
  | "mesh"
  | "outbox_id"
  | "peer"
  | "requeueable_id"
  | "sent_id"
  | "setting"
  | "setting_value";

type BooleanArg = BooleanArgDef & { type: "boolean" };
type StringArg = StringArgDef & {
  type: "string";
  /** May be given several times; the value is then a list. Any other flag is refused the second time. */
  multiple?: true;
  /** Throws `usage` saying what is wrong with the text, without naming the flag. */
  parse?: (text: string) => unknown;
  completes?: CompletionKind;
};
type EnumArg = Omit<EnumArgDef, "type" | "options"> & { type: "enum"; options: readonly string[] };
type PositionalArg = PositionalArgDef & {
  type: "positional";
  required: boolean;
  parse?: never;
  /** All the words after `--`, as they are: another program's command line. The last argument of a command. */
  rest?: true;
  completes?: CompletionKind;
};

export type Arg = BooleanArg | StringArg | EnumArg | PositionalArg;
export type Args = Readonly<Record<string, Arg>>;

type Single<A extends Arg> = A extends { options: readonly (infer Option)[] }
  ? Option
  : A extends { parse: (text: string) => infer Value }
    ? Value
    : string;

type ValueOf<A extends Arg> = A extends { type: "boolean" }
  ? boolean
  : A extends { multiple: true } | { rest: true }
    ? Single<A>[]
    : A extends { required: true } | { default: string }
      ? Single<A>
      : Single<A> | undefined;

export type Values<T extends Args> = { readonly [Name in keyof T]: ValueOf<T[Name]> };

/** Everything about the process that a command may know. */
export interface Host {
  env: Readonly<Record<string, string | undefined>>;
  paths: HostPaths;
  out: Output;
  /**
   * Aborted by the first SIGINT, SIGTERM or SIGHUP. Who reads it takes it upon itself to end soon after; a command that never
   * reads it is ended at once.
   */
  readonly interrupted: AbortSignal;
  /** The same, for a command that a signal is meant to end: the exit status is then its own. */
  readonly ended: AbortSignal;
}

/** Exit status; none means 0. */
// biome-ignore lint/suspicious/noConfusingVoidType: a `run` without a return statement is what most commands are
type Ending = number | void;

export interface CommandSpec<T extends Args> {
  /** As it is typed: `daemon outbox list`. */
  name: string;
  /** Half a sentence for lists of commands. */
  description: string;
  args: T;
  /** What one should know beyond the flags; plain paragraphs. */
  notes?: string;
  /** The statuses that this command can end with besides 0, 1 (failed) and 2 (wrong usage), which every command has. */
  exits: readonly ExitStatus[];
  examples: readonly string[];
  /** Long flags may have one dash, as Go's flag package has them (https://pkg.go.dev/flag): for harnesses that start its programs. */
  takesSingleDash?: true;
  run(args: Values<T>, host: Host): Promise<Ending>;
}

export type ExitStatus = 3 | 4 | 5 | 6 | 7 | 130;

export interface Command extends Omit<CommandSpec<Args>, "run"> {
  /** Checks `argv` (what follows the command's name) and runs; resolves with the exit status. */
  execute(argv: readonly string[], host: Host): Promise<number>;
}

export interface Group {
  name: string;
  description: string;
  commands: Readonly<Record<string, () => Promise<Command | Group>>>;
  /** Found when they are typed, and shown nowhere: what other programs call. */
  hidden?: Readonly<Record<string, () => Promise<Command>>>;
}

export const isGroup = (node: Command | Group): node is Group => "commands" in node;

/** On every command; `start.ts` acts on them before the command sees its arguments. */
const commonArgs = {
  json: { type: "boolean", description: "only JSON on standard output" },
  help: { type: "boolean", alias: "h", description: "this text" },
} as const satisfies Args;

export function defineCommand<const T extends Args>(spec: CommandSpec<T>): Command {
  const args = { ...spec.args, ...commonArgs };
  return {
    ...spec,
    args,
    async execute(argv, host) {
      return (await spec.run(parseArgv(args, argv, spec.name), host)) ?? 0;
    },
  };
}
