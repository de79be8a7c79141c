/**
 * Where in a command line the cursor stands, and what fits there: a command, a flag, or the value of an argument. Read off the
 * same tree and the same argument definitions that run the command, so nothing about a command is written down again here.
 */
import { type Arg, type Args, type CompletionKind, type Group, isGroup } from "~/cli/command";

export interface Candidate {
  value: string;
  /** Half a sentence; empty when there is nothing to say. */
  description: string;
}

/** What fits: words known beforehand, or something that has to be looked up. */
export type Wanted =
  | { kind: "words"; candidates: readonly Candidate[] }
  | { kind: CompletionKind; given: Given; afterDashes: boolean };

/** What the words before the cursor say, by argument. */
export type Given = ReadonlyMap<string, string>;

export interface Place {
  /** What stands before the text in the same word: `--mesh=`, or nothing. */
  before: string;
  /** What is typed of it so far. */
  text: string;
  wanted: Wanted;
}

const noWords: Wanted = { kind: "words", candidates: [] };

/** `words`: those before the word with the cursor, without `claudemesh`; `current`: that one, up to the cursor. */
export async function findPlace(group: Group, words: readonly string[], current: string): Promise<Place> {
  const [word, ...rest] = words;
  if (word === undefined) {
    return {
      before: "",
      text: current,
      wanted: { kind: "words", candidates: await inGroup(group, current) },
    };
  }
  const load = Object.hasOwn(group.commands, word) ? group.commands[word] : undefined;
  if (load === undefined) return { before: "", text: current, wanted: noWords };
  const node = await load();
  return isGroup(node) ? await findPlace(node, rest, current) : placeInCommand(node.args, rest, current);
}

async function inGroup(group: Group, current: string): Promise<Candidate[]> {
  if (current.startsWith("-")) {
    const version = group.name === "claudemesh" ? [{ value: "--version", description: "its version" }] : [];
    return [{ value: "--help", description: "what there is" }, ...version];
  }
  const named = Object.entries(group.commands).map(async ([value, load]) => {
    return { value, description: (await load()).description };
  });
  return await Promise.all(named);
}

/** The same among the arguments of one command. */
export function placeInCommand(args: Args, words: readonly string[], current: string): Place {
  const { given, waiting, positionals, afterDashes } = readWords(args, words);
  const whole = (wanted: Wanted): Place => ({ before: "", text: current, wanted });
  if (waiting !== undefined) return whole(wantedFor(args, waiting, given, afterDashes));
  if (!afterDashes && current.startsWith("-") && current !== "-") {
    const at = current.indexOf("=");
    if (at === -1) return whole({ kind: "words", candidates: flagsLeft(args, given) });
    const name = current.slice(2, at);
    const isFlag = current.startsWith("--") && !isPositional(args, name);
    return {
      before: current.slice(0, at + 1),
      text: current.slice(at + 1),
      wanted: isFlag ? wantedFor(args, name, given, afterDashes) : noWords,
    };
  }
  const names = Object.keys(args).filter((known) => isPositional(args, known));
  const name =
    names[positionals] ?? (afterDashes ? names.findLast((known) => isRest(args[known])) : undefined);
  if (name !== undefined && isRest(args[name]) && !afterDashes) {
    const flags = current === "-" ? flagsLeft(args, given) : [];
    return whole({
      kind: "words",
      candidates: [{ value: "--", description: "the command to run follows" }, ...flags],
    });
  }
  if (name !== undefined && current !== "-") return whole(wantedFor(args, name, given, afterDashes));
  // Nothing else fits here: then the flags are what one may be looking for.
  return whole(afterDashes ? noWords : { kind: "words", candidates: flagsLeft(args, given) });
}

interface Read {
  given: Map<string, string>;
  /** The flag whose value comes next. */
  waiting: string | undefined;
  /** How many arguments without a flag there were. */
  positionals: number;
  afterDashes: boolean;
}

function readWords(args: Args, words: readonly string[]): Read {
  const read: Read = { given: new Map(), waiting: undefined, positionals: 0, afterDashes: false };
  const names = Object.keys(args).filter((name) => isPositional(args, name));
  for (const word of words) {
    if (read.waiting !== undefined) {
      read.given.set(read.waiting, word);
      read.waiting = undefined;
    } else if (!read.afterDashes && word === "--") {
      read.afterDashes = true;
    } else if (!read.afterDashes && word.startsWith("-") && word !== "-") {
      readFlag(args, word, read);
    } else {
      const name = names[read.positionals];
      if (name !== undefined) read.given.set(name, word);
      read.positionals += 1;
    }
  }
  return read;
}

function readFlag(args: Args, word: string, read: Read): void {
  if (word.startsWith("--")) {
    const at = word.indexOf("=");
    const name = word.slice(2, at === -1 ? undefined : at);
    read.given.set(name, at === -1 ? "" : word.slice(at + 1));
    if (at === -1 && takesValue(args, name)) read.waiting = name;
    return;
  }
  // `-fn5` and `-fn 5`: letters that take no value, and at most one that does, at the end.
  for (let index = 1; index < word.length; index++) {
    const name = Object.keys(args).find((known) => aliasOf(args[known]) === word[index]);
    if (name === undefined) continue;
    const value = word.slice(index + 1);
    const takes = takesValue(args, name);
    read.given.set(name, takes ? value : "");
    if (!takes) continue;
    if (value === "") read.waiting = name;
    return;
  }
}

const aliasOf = (arg: Arg | undefined): unknown =>
  arg === undefined || arg.type === "positional" ? undefined : arg.alias;

const isRest = (arg: Arg | undefined): boolean => arg?.type === "positional" && arg.rest === true;

const isPositional = (args: Args, name: string): boolean =>
  Object.hasOwn(args, name) && args[name]?.type === "positional";

function takesValue(args: Args, name: string): boolean {
  const type = Object.hasOwn(args, name) ? args[name]?.type : undefined;
  return type === "string" || type === "enum";
}

function wantedFor(args: Args, name: string, given: Given, afterDashes: boolean): Wanted {
  const arg = Object.hasOwn(args, name) ? args[name] : undefined;
  if (arg === undefined || arg.type === "boolean") return noWords;
  if (arg.type === "enum") {
    return { kind: "words", candidates: arg.options.map((value) => ({ value, description: "" })) };
  }
  return arg.completes === undefined ? noWords : { kind: arg.completes, given, afterDashes };
}

/** Without those that are there already and would be refused the second time. */
function flagsLeft(args: Args, given: Given): Candidate[] {
  return Object.entries(args).flatMap(([name, arg]) =>
    arg.type === "positional" || (given.has(name) && !("multiple" in arg))
      ? []
      : [{ value: `--${name}`, description: arg.description ?? "" }],
  );
}
