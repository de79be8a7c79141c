/** Starts an agent by a name: a detached shim of its own, with its sockets in the daemon's directory. */
import { spawn } from "node:child_process";
import { closeSync, constants, openSync } from "node:fs";
import { withRareHeapChecks } from "~/agent/heap-checks";
import { attachIfThere, describeAt, gone } from "~/agent/hosted";
import { checkAgentName, lockAgent, recordAgent, removeOldLogs, removeSockets } from "~/agent/hosted-files";
import { type Clock, pause } from "~/clock";
import { ensurePrivateDirectory, storageError } from "~/disk/file";
import { isErrorCode, MeshError } from "~/errors";
import type { AgentDescription, RuntimeName } from "~/wire/attachment";
import { agentLookEveryMs, agentStopMsMax, shimStartMsMax } from "~/wire/limits";
import { type AgentPaths, agentPaths, attachmentSocket, checkSocketPath } from "~/wire/paths";

export interface AgentStart {
  daemonDir: string;
  name: string;
  command: readonly string[];
  profile: string | undefined;
  runtime: RuntimeName | undefined;
  /** It is started in a terminal that attaches next. */
  isOwned: boolean;
  cwd: string;
  size: { rows: number; cols: number };
  env: Readonly<Record<string, string | undefined>>;
  /** The words that run this executable. */
  executable: readonly string[];
  clock: Clock;
}

/**
 * Starts a shim in a session of its own and resolves when terminals can attach. Throws the shim's own error, `already_exists` when an
 * agent of this name lives, `timed_out` when the shim does not answer (it was ended again), and what `checkAgentName` throws.
 */
export async function startAgent(start: AgentStart): Promise<AgentPaths> {
  const { daemonDir, name, clock } = start;
  checkAgentName(name);
  const paths = agentPaths(daemonDir, name);
  checkSocketPath(attachmentSocket(paths.socket));
  ensurePrivateDirectory(daemonDir);
  ensurePrivateDirectory(paths.dir);
  removeOldLogs(daemonDir, clock.now());
  const lock = await lockAgent(paths, name, clock);
  try {
    await makeWay(paths, name, clock);
    await spawnShim(start, paths);
    return paths;
  } finally {
    lock.release();
  }
}

/** The name is free, or belongs to a shim whose agent is dead, to one that is about to end, or to one that was killed and left its socket. */
async function makeWay(paths: AgentPaths, name: string, clock: Clock): Promise<void> {
  const client = await attachIfThere(paths.socket, name, clock);
  if (client !== undefined) {
    try {
      const { state } = await client.state();
      if (state !== "dead") {
        throw new MeshError("already_exists", `there is an agent ${name} already (it is ${state})`, {
          hint: `Attach to it: claudemesh agent attach ${name}; or end it first: claudemesh agent stop ${name}`,
          details: { name, state },
        });
      }
      await client.kill();
    } finally {
      client.close();
    }
  }
  // One that still ends what its agent has started would take our socket away with its own.
  await gone(paths.socket, name, clock, agentStopMsMax);
  removeSockets(paths);
}

async function spawnShim(start: AgentStart, paths: AgentPaths): Promise<void> {
  const { clock, name, executable, env } = start;
  const [program = process.execPath, ...words] = executable;
  const stderr = openToWrite(paths.shimLog);
  const child = spawn(program, [...words, "shim", "--json", ...shimArgs(start, paths)], {
    detached: true,
    stdio: ["ignore", "pipe", stderr],
    env: withRareHeapChecks(env),
    // The shim keeps no directory busy; the agent has its own.
    cwd: "/",
  });
  closeSync(stderr);
  const said: Buffer[] = [];
  child.stdout?.on("data", (bytes: Buffer) => said.push(bytes));
  let ended: { status: number | null } | undefined;
  child.once("error", () => {
    ended ??= { status: null };
  });
  child.once("close", (status) => {
    ended ??= { status };
  });
  const deadlineMs = clock.monotonicMs() + shimStartMsMax;
  for (;;) {
    if (ended !== undefined) throw startFailure(Buffer.concat(said).toString("utf8"), ended.status, paths);
    const description = await describeIfReady(attachmentSocket(paths.socket), clock);
    if (description !== undefined) {
      recordAgent(paths, description.pid, description.shim_pid);
      break;
    }
    if (clock.monotonicMs() > deadlineMs) {
      // Its watchdog ends what it may have started.
      child.kill("SIGKILL");
      throw new MeshError(
        "timed_out",
        `${name} was not ready within ${shimStartMsMax / 1000} s and was ended again`,
        {
          hint: `Is the host overloaded? Try again. What its shim had to say, if anything: ${paths.shimLog}`,
        },
      );
    }
    await pause(clock, agentLookEveryMs, never);
  }
  child.stdout?.destroy();
  child.unref();
}

function shimArgs(start: AgentStart, paths: AgentPaths): string[] {
  const { command, profile, runtime, cwd, size, isOwned } = start;
  return [
    ...["--socket", paths.socket, "--detached", "--log", paths.log, `--cwd=${cwd}`],
    ...(isOwned ? ["--owned"] : []),
    ...["--rows", String(size.rows), "--cols", String(size.cols)],
    ...(profile === undefined ? [] : [`--profile=${profile}`]),
    ...(runtime === undefined ? [] : ["--runtime", runtime]),
    ...["--", ...command],
  ];
}

/** For its owner only, begun anew, never through a symbolic link. */
function openToWrite(path: string): number {
  const { O_CREAT, O_NOFOLLOW, O_TRUNC, O_WRONLY, O_APPEND } = constants;
  try {
    return openSync(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW, 0o600);
  } catch (error) {
    throw storageError(`cannot write ${path}`, error);
  }
}

/** What a shim prints with `--json` when it cannot start: `{error, message, hint?, …}`. */
function startFailure(said: string, status: number | null, { shimLog }: AgentPaths): MeshError {
  const body = parseObject(said.trim().split("\n").at(-1) ?? "");
  if (typeof body?.error === "string" && isErrorCode(body.error)) {
    const { error, message, hint, ...details } = body;
    return new MeshError(body.error, typeof message === "string" ? message : body.error, {
      hint: typeof hint === "string" ? hint : undefined,
      details,
    });
  }
  const how = status === null ? "a signal" : `status ${status}`;
  return new MeshError("agent_failed", `the agent's shim ended with ${how} before it was ready`, {
    hint: `What it had to say, if anything: ${shimLog}`,
  });
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? { ...value } : undefined;
  } catch {
    return undefined; // It said nothing, or nothing whole.
  }
}

/** One that is slow to answer is not ready yet. */
async function describeIfReady(path: string, clock: Clock): Promise<AgentDescription | undefined> {
  try {
    return await describeAt(path, clock);
  } catch (error) {
    const isNotYet =
      error instanceof MeshError && (error.code === "no_such_agent" || error.code === "timed_out");
    if (!isNotYet) throw error;
    return undefined;
  }
}

const never = new AbortController().signal;
