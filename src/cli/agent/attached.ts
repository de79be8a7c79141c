/** A command whose standard input and output are a terminal that shows an agent, until the agent ends or the person leaves. */
import { constants } from "node:os";
import { usageError } from "~/cli/argv";
import type { Args, Host } from "~/cli/command";
import { MeshError } from "~/errors";
import { agentPaths, attachmentSocket } from "~/wire/paths";

export const detachKeyArg = {
  "detach-key": {
    type: "string",
    valueHint: "KEY",
    default: "ctrl-]",
    description: "leaves the agent running and gives the terminal back; none switches it off",
  },
} as const satisfies Args;

/** Of `--detach-key`. Throws `usage`. */
export async function detachKeyOf(text: string) {
  if (text === "none") return undefined;
  const { parseDetachKey } = await import("~/agent/detach-key");
  const key = parseDetachKey(text);
  if (key !== undefined) return key;
  throw usageError(
    `--detach-key: ${JSON.stringify(text)} is no such key`,
    "Ctrl with a letter or one of ] \\ ^ _, such as ctrl-] or ctrl-b; or none.",
  );
}

/**
 * Where an agent is shown: standard output, or with `--json`, whose answer goes there, standard error. Throws `not_a_terminal` for
 * anything but a terminal, saying what can be done without one.
 */
export function terminalOf({ out }: Host, hint: string) {
  const output = out.json ? process.stderr : process.stdout;
  if (process.stdin.isTTY && output.isTTY) return { input: process.stdin, output };
  throw new MeshError("not_a_terminal", "an agent is shown in a terminal, and this is none", { hint });
}

export interface Shown {
  name: string;
  terminal: ReturnType<typeof terminalOf>;
  isOwner: boolean;
  detachKey: Awaited<ReturnType<typeof detachKeyOf>>;
}

/** Shows it. Resolves with the exit status: the agent's own where it ended, as a shell would tell it. */
export async function showAgent(host: Host, shown: Shown): Promise<number> {
  const { name, isOwner, detachKey } = shown;
  const { input, output } = shown.terminal;
  const { socket } = agentPaths(host.paths.daemonDir, name);
  const { attachTerminal } = await import("~/agent/terminal");
  const path = attachmentSocket(socket);
  const { interrupted: signal } = host;
  const end = await attachTerminal({ path, input, output, isOwner, detachKey, signal }).catch(
    (error: unknown) => {
      throw shimGone(error, name);
    },
  );
  switch (end.kind) {
    case "ended": {
      await clearAway(host, name);
      const status = end.code ?? 128 + signalNumber(end.signal);
      await host.out.answer(
        { name, exit_code: end.code, signal: end.signal, detached: false },
        // As if it had been started without us.
        () => "",
      );
      return status;
    }
    case "detached":
      await host.out.note(`[${name} goes on; to come back: claudemesh agent attach ${name}]`);
      await host.out.answer({ name, exit_code: null, signal: null, detached: true }, () => "");
      return 0;
    case "hung_up":
      // Told to end, or the terminal has gone without a word.
      host.interrupted.throwIfAborted();
      return 128 + constants.signals.SIGHUP;
  }
}

function shimGone(error: unknown, name: string): unknown {
  if (!(error instanceof MeshError) || error.code !== "answer_lost") return error;
  return new MeshError("answer_lost", `the shim of agent ${name} was killed, and the agent ends with it`, {
    hint: `What it had printed: claudemesh agent logs ${name}`,
    cause: error,
  });
}

/** Who saw the agent's end has its shim end, too: nobody else has to. */
async function clearAway({ paths }: Host, name: string): Promise<void> {
  const { releaseAgent } = await import("~/agent/hosted");
  await releaseAgent(paths.daemonDir, name);
}

function signalNumber(name: string | null): number {
  const known: Readonly<Record<string, number>> = constants.signals;
  return known[name ?? ""] ?? 0;
}
