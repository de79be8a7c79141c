/**
 * From the words of the command line to an exit status: finds the command, answers `--help`, turns errors into one clear
 * form. Failures of `--json` commands are JSON on standard output too, since that is where the caller reads.
 */
import { usageError } from "~/cli/argv";
import { type Command, type Group, type Host, isGroup } from "~/cli/command";
import { OutputClosed, openOutput } from "~/cli/output";
import { printable } from "~/cli/text";
import { tree } from "~/cli/tree";
import { asMeshError, errorBody, exitStatusOf, MeshError } from "~/errors";
import { hostPaths } from "~/wire/paths";
import { closest } from "~/wire/suggestion";

type Environment = Readonly<Record<string, string | undefined>>;
type EndingSignal = "SIGINT" | "SIGTERM" | "SIGHUP";

/** As shells report it: 128 and the signal's number. */
const signalStatus: Readonly<Record<EndingSignal, number>> = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 };

/** Runs one command line and resolves with the exit status. `leave` ends the process at once. */
export async function runCommandLine(
  argv: readonly string[],
  env: Environment,
  leave: (status: number) => void,
): Promise<number> {
  const interruption = listenForSignals(leave);
  const host: Host = {
    env,
    paths: hostPaths(env),
    out: openOutput(asksFor(argv, "--json")),
    get interrupted() {
      return interruption.signal();
    },
    get ended() {
      return interruption.signal("meant");
    },
  };
  let status: number;
  try {
    status = await dispatch(argv, host);
  } catch (thrown) {
    // What fails because it was interrupted is no failure to report.
    status = interruption.received() === undefined ? await report(thrown, host) : signalStatus.SIGTERM;
  }
  return interruption.received() === "SIGINT" && !interruption.isMeant() ? signalStatus.SIGINT : status;
}

async function dispatch(argv: readonly string[], host: Host): Promise<number> {
  const { node, rest: given } = await find(tree, argv);
  const rest = !isGroup(node) && node.takesSingleDash ? withTwoDashes(given) : given;
  if (!host.out.json && asksFor(rest, "--json")) host.out = openOutput(true);
  if (asksFor(rest, "--help") || asksFor(rest, "-h")) {
    await host.out.text(await renderHelp(node));
    return 0;
  }
  if (!isGroup(node)) return await node.execute(rest, host);
  await host.out.note(`${await renderHelp(node)}\n`);
  throw usageError(`claudemesh${node.name === "claudemesh" ? "" : ` ${node.name}`} needs a command`);
}

/** Walks down the tree by the leading words. */
async function find(
  group: Group,
  argv: readonly string[],
): Promise<{ node: Command | Group; rest: readonly string[] }> {
  const [word, ...rest] = argv;
  const hasNoCommand = argv.every((given) => given === "--json" || given === "--help" || given === "-h");
  if (word === undefined || hasNoCommand) return { node: group, rest: argv };
  const prefix = group.name === "claudemesh" ? "claudemesh" : `claudemesh ${group.name}`;
  if (word.startsWith("-")) {
    throw usageError(`unknown flag ${word}`, `Flags come after the command: ${prefix} COMMAND [FLAGS]`);
  }
  const known = { ...group.hidden, ...group.commands };
  const load = Object.hasOwn(known, word) ? known[word] : undefined;
  if (load === undefined) {
    const guess = closest(word, Object.keys(group.commands));
    throw usageError(
      `unknown command ${JSON.stringify(word)}`,
      guess === undefined ? `See ${prefix} --help` : `Did you mean ${prefix} ${guess}?`,
    );
  }
  const node = await load();
  return isGroup(node) ? await find(node, rest) : { node, rest };
}

async function renderHelp(node: Command | Group): Promise<string> {
  const { renderCommandHelp, renderGroupHelp } = await import("~/cli/help");
  return isGroup(node) ? await renderGroupHelp(node) : await renderCommandHelp(node);
}

/** Whether `flag` stands among the words before `--`. */
const asksFor = (argv: readonly string[], flag: string): boolean =>
  argv.slice(0, endOfFlags(argv)).includes(flag);

/** `-socket` as `--socket`; what comes after `--` stays as it is. */
const withTwoDashes = (argv: readonly string[]): readonly string[] =>
  argv.map((word, at) => (at < endOfFlags(argv) ? word.replace(/^-(?=[a-z]{2})/, "--") : word));

const endOfFlags = (argv: readonly string[]): number => {
  const end = argv.indexOf("--");
  return end === -1 ? argv.length : end;
};

/** Prints the error and returns its exit status. */
async function report(thrown: unknown, { out, env }: Host): Promise<number> {
  if (thrown instanceof OutputClosed) return 0;
  const error = asMeshError(thrown);
  try {
    await out.note(renderError(error));
    if (env.CLAUDEMESH_DEBUG === "1") {
      const { traceOf } = await import("~/wire/fault");
      await out.note(traceOf(thrown));
    }
    if (out.json) await out.answer(errorBody(error), () => "");
  } catch (writing) {
    if (!(writing instanceof OutputClosed)) throw writing;
  }
  return exitStatusOf(error.code);
}

function renderError(error: MeshError): string {
  const isBug = error.code === "internal" && error.hint === undefined;
  const hint = isBug
    ? "This is a bug in claudemesh. CLAUDEMESH_DEBUG=1 shows where it happened."
    : error.hint;
  return [
    `claudemesh: ${printable(error.message)}`,
    ...(hint === undefined ? [] : [`  hint: ${printable(hint)}`]),
  ].join("\n");
}

/**
 * Until somebody reads the signal, an interrupt ends the process at once; afterwards the second one does. Where the first one is
 * meant, more of them mean the same.
 */
function listenForSignals(leave: (status: number) => void): {
  /** `meant`: the command's ordinary end. */
  signal(kind?: "meant"): AbortSignal;
  isMeant(): boolean;
  received(): EndingSignal | undefined;
} {
  let controller: AbortController | undefined;
  let isMeant = false;
  let received: EndingSignal | undefined;
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(name, () => {
      if (controller === undefined || received !== undefined) return leave(isMeant ? 0 : signalStatus[name]);
      received = name;
      controller.abort(new MeshError("interrupted", `interrupted by ${name}`));
    });
  }
  return {
    signal(kind) {
      controller ??= new AbortController();
      isMeant = kind === "meant";
      return controller.signal;
    },
    isMeant: () => isMeant,
    received: () => received,
  };
}
