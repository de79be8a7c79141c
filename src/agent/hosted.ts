/**
 * The agents that run on this host by a name, each in a detached shim of its own, with its sockets in the daemon's directory. No list
 * of them is kept anywhere: what listens there is there, and a socket that nobody listens on is left over from a shim that was killed.
 */
import { spawn } from "node:child_process";
import { closeSync, constants, openSync, readdirSync } from "node:fs";
import { attachShim, connectionFailure, type ShimClient } from "~/agent/client";
import { type Clock, pause, systemClock } from "~/clock";
import { ensurePrivateDirectory, removeFile, storageError } from "~/disk/file";
import { type Lock, tryLock } from "~/disk/lock";
import { isErrorCode, MeshError, systemCodeOf } from "~/errors";
import {
  type AgentDescription,
  encodeTerminalWord,
  type RuntimeName,
  readShimFrame,
} from "~/wire/attachment";
import { FrameDecoder } from "~/wire/frame";
import { agentStopMsMax, attachmentFrameBytesMax, shimStartMsMax } from "~/wire/limits";
import {
  type AgentPaths,
  agentNamePattern,
  agentNamesIn,
  agentPaths,
  agentsDir,
  attachmentSocket,
  checkSocketPath,
} from "~/wire/paths";
import type { ShimEvent, ShimStateName } from "~/wire/shim";

const pollEveryMs = 25;
/** What one that is asked for its state in a list may take. */
const listAnswerMsMax = 3_000;
const lockMsMax = 5_000;

/** Throws `invalid_request` for a name that would be no good as a file name, in a shell or in an address. */
export function checkAgentName(name: string): void {
  if (agentNamePattern.test(name)) return;
  throw new MeshError("invalid_request", `${JSON.stringify(name)} is no name for an agent`, {
    hint: "Letters, digits, - and _, at most 32, beginning with a letter or digit.",
  });
}

// ── Starting ────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface AgentStart {
  daemonDir: string;
  name: string;
  command: readonly string[];
  profile: string | undefined;
  runtime: RuntimeName | undefined;
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
  const lock = await lockName(paths, name, clock);
  try {
    await makeWay(paths, name, clock);
    await spawnShim(start, paths);
    return paths;
  } finally {
    lock.release();
  }
}

/** Two that start an agent of the same name at the same moment take their turns; the second one finds it in use. */
async function lockName({ lock: path }: AgentPaths, name: string, clock: Clock): Promise<Lock> {
  const deadlineMs = clock.monotonicMs() + lockMsMax;
  for (;;) {
    const lock = tryLock(path);
    if (lock !== undefined) return lock;
    if (clock.monotonicMs() > deadlineMs) {
      throw new MeshError("agent_busy", `somebody else is starting or stopping ${name}`, {
        hint: "Try again in a moment.",
      });
    }
    await wait(clock, pollEveryMs);
  }
}

/** The name is free, or belongs to a shim whose agent is dead, or to one that was killed and left its socket. */
async function makeWay(paths: AgentPaths, name: string, clock: Clock): Promise<void> {
  const client = await attachIfThere(paths.socket, clock);
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
      await gone(paths.socket, clock, agentStopMsMax);
    } finally {
      client.close();
    }
  }
  // Nobody listens, so whatever is there is nobody's; the name's lock keeps others from putting something new there.
  removeFile(paths.socket);
  removeFile(attachmentSocket(paths.socket));
}

async function spawnShim(start: AgentStart, paths: AgentPaths): Promise<void> {
  const { clock, name, executable, env } = start;
  const [program = process.execPath, ...words] = executable;
  const stderr = openToWrite(paths.shimLog);
  const child = spawn(program, [...words, "shim", "--json", ...shimArgs(start, paths)], {
    detached: true,
    stdio: ["ignore", "pipe", stderr],
    env: { ...env },
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
    if ((await describeIfThere(attachmentSocket(paths.socket), clock)) !== undefined) break;
    if (clock.monotonicMs() > deadlineMs) {
      // Its watchdog ends what it may have started.
      child.kill("SIGKILL");
      throw new MeshError(
        "timed_out",
        `${name} was not ready within ${shimStartMsMax / 1000} s and was ended again`,
        {
          hint: `What its shim had to say, if anything: ${paths.shimLog}`,
        },
      );
    }
    await wait(clock, pollEveryMs);
  }
  child.stdout?.destroy();
  child.unref();
}

function shimArgs({ command, profile, runtime, cwd, size }: AgentStart, paths: AgentPaths): string[] {
  return [
    ...["--socket", paths.socket, "--detached", "--log", paths.log, `--cwd=${cwd}`],
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

// ── Finding ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A connection to the agent of this name. Throws `no_such_agent` when it does not run. */
export async function attachAgent(
  daemonDir: string,
  name: string,
  clock: Clock,
  event: (event: ShimEvent) => void = () => undefined,
): Promise<ShimClient> {
  checkAgentName(name);
  const { socket } = agentPaths(daemonDir, name);
  try {
    return await attachShim(socket, { clock, event, warning: quiet, dead: quiet }, { isLasting: false });
  } catch (error) {
    throw notThere(error, name, daemonDir);
  }
}

/** What terminals of the agent attach to. Throws `no_such_agent`. */
export async function describeAgent(
  daemonDir: string,
  name: string,
  clock: Clock,
): Promise<AgentDescription> {
  checkAgentName(name);
  try {
    return await describe(attachmentSocket(agentPaths(daemonDir, name).socket), clock);
  } catch (error) {
    throw notThere(error, name, daemonDir);
  }
}

const quiet = (): void => undefined;

function notThere(error: unknown, name: string, daemonDir: string): unknown {
  if (!(error instanceof MeshError) || error.code !== "no_such_agent") return error;
  const others = agentNames(daemonDir);
  return new MeshError("no_such_agent", `no agent ${name} runs here`, {
    hint: `${others.length === 0 ? "" : `There is ${others.slice(0, 10).join(", ")}. `}Start one: claudemesh agent run ${name} -- COMMAND`,
    details: { name },
    cause: error,
  });
}

export interface ListedAgent {
  name: string;
  /** `unresponsive`: its shim listens and does not answer. */
  state: ShimStateName | "unresponsive";
  /** How long it has been in this state. */
  since_s: number | null;
  description: AgentDescription | null;
}

/** Names with a socket, in order; whether anybody listens there is another matter. */
export function agentNames(daemonDir: string): string[] {
  try {
    return agentNamesIn(readdirSync(agentsDir(daemonDir)));
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return [];
    throw new MeshError("storage_failed", `cannot read ${agentsDir(daemonDir)} (${systemCodeOf(error)})`, {
      hint: "Check who owns the directory and its permissions.",
      cause: error,
    });
  }
}

/** Those that run, and those that have died in a shim that is still there; all are asked at the same time. */
export async function listAgents(daemonDir: string, clock: Clock): Promise<ListedAgent[]> {
  const found = await Promise.all(
    agentNames(daemonDir).map(async (name): Promise<ListedAgent | undefined> => {
      const { socket } = agentPaths(daemonDir, name);
      try {
        const client = await attachIfThere(socket, clock);
        if (client === undefined) return undefined;
        try {
          const [{ state, since_secs }, description] = await Promise.all([
            client.state(listAnswerMsMax),
            describe(attachmentSocket(socket), clock),
          ]);
          return { name, state, since_s: since_secs, description };
        } finally {
          client.close();
        }
      } catch (error) {
        // Gone while it was asked, or it does not answer. What nobody may connect to is told as an error, where it is named.
        if (error instanceof MeshError && error.code === "no_such_agent") return undefined;
        return { name, state: "unresponsive", since_s: null, description: null };
      }
    }),
  );
  return found.filter((agent) => agent !== undefined);
}

async function attachIfThere(socket: string, clock: Clock): Promise<ShimClient | undefined> {
  try {
    return await attachShim(
      socket,
      { clock, event: quiet, warning: quiet, dead: quiet },
      { isLasting: false },
    );
  } catch (error) {
    if (error instanceof MeshError && error.code === "no_such_agent") return undefined;
    throw error;
  }
}

// ── Sending ─────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface AgentMessage {
  daemonDir: string;
  name: string;
  from: string;
  body: string;
  /** Whether to wait for the completion. */
  isAnswerWanted: boolean;
  timeoutMs: number;
  clock: Clock;
  signal: AbortSignal;
}

export interface SentToAgent {
  message_id: string;
  status: "delivered" | "queued" | "answered";
  response?: string;
}

/** Throws `no_such_agent`, `agent_failed` when the agent will never have it, `timed_out`, or what interrupted it. */
export async function sendToAgent(message: AgentMessage): Promise<SentToAgent> {
  const { daemonDir, name, from, body, isAnswerWanted, timeoutMs, clock, signal } = message;
  const client = await attachAgent(daemonDir, name, clock);
  const message_id = crypto.randomUUID();
  const interrupted = Promise.withResolvers<never>();
  // Nobody waits for it any more when the answer was quicker.
  interrupted.promise.catch(quiet);
  const interrupt = (): void => interrupted.reject(signal.reason);
  signal.addEventListener("abort", interrupt);
  try {
    // What was said while nobody listened comes before this answer, and is not about our message.
    await client.state();
    const outcome = client.next((event) => outcomeOf(event, message_id, from, isAnswerWanted), timeoutMs);
    outcome.catch(quiet);
    await client.send({ cmd: "SendMessage", from, body, message_id });
    return { message_id, ...(await Promise.race([outcome, interrupted.promise])) };
  } finally {
    signal.removeEventListener("abort", interrupt);
    client.close();
  }
}

function outcomeOf(
  event: ShimEvent,
  id: string,
  from: string,
  isAnswerWanted: boolean,
): Omit<SentToAgent, "message_id"> | undefined {
  switch (event.event) {
    case "DeliveryFailed":
      if (event.id === id) throw new MeshError("agent_failed", `the agent will not get it: ${event.reason}`);
      return undefined;
    case "Died":
      throw new MeshError("agent_failed", "the agent ended before it answered");
    case "MessageDelivered":
      return !isAnswerWanted && event.id === id ? { status: "delivered" } : undefined;
    case "Warning":
      // What is queued is told without its id, at once; our own words are all that `from` says.
      return !isAnswerWanted && event.message.startsWith(`message from ${from} queued`)
        ? { status: "queued" }
        : undefined;
    case "Completion":
      return event.message_id === id ? { status: "answered", response: event.response } : undefined;
    default:
      return undefined;
  }
}

// ── Stopping ────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface StoppedAgent {
  exit_code: number | null;
  /** It had ended before. */
  was_dead: boolean;
}

/**
 * Has the agent end, the hard way after `timeoutMs`, and waits until its shim is gone. Throws `no_such_agent`, or `timed_out` when the
 * shim does not end.
 */
export async function stopAgent(
  daemonDir: string,
  name: string,
  timeoutMs: number,
  clock: Clock,
): Promise<StoppedAgent> {
  let died: Extract<ShimEvent, { event: "Died" }> | undefined;
  const client = await attachAgent(daemonDir, name, clock, (event) => {
    if (event.event === "Died") died = event;
  });
  const { socket } = agentPaths(daemonDir, name);
  try {
    const { state } = await client.state();
    await client.shutdown(Math.ceil(timeoutMs / 1000));
    await gone(socket, clock, timeoutMs + agentStopMsMax);
    return { exit_code: died?.exit_code ?? null, was_dead: state === "dead" };
  } finally {
    client.close();
  }
}

/** Has the shim of an agent end that is dead; one that is gone already is fine, and so is one whose name is used anew. */
export async function releaseAgent(
  daemonDir: string,
  name: string,
  clock: Clock = systemClock,
): Promise<void> {
  const { socket } = agentPaths(daemonDir, name);
  const client = await attachIfThere(socket, clock);
  if (client === undefined) return;
  try {
    if ((await client.state()).state !== "dead") return;
    await client.kill();
    await gone(socket, clock, agentStopMsMax);
  } catch (error) {
    // Somebody else had it end at the same moment.
    if (!(error instanceof MeshError) || error.code !== "answer_lost") throw error;
  } finally {
    client.close();
  }
}

/** Resolves when nobody listens at the socket any more. Throws `timed_out`. */
async function gone(socket: string, clock: Clock, timeoutMs: number): Promise<void> {
  const deadlineMs = clock.monotonicMs() + timeoutMs;
  for (;;) {
    const client = await attachIfThere(socket, clock);
    client?.close();
    if (client === undefined) return;
    if (clock.monotonicMs() > deadlineMs) {
      throw new MeshError("timed_out", `the shim on ${socket} has not ended within ${timeoutMs / 1000} s`, {
        hint: "See which process it is: claudemesh agent list --json",
      });
    }
    await wait(clock, pollEveryMs);
  }
}

// ── The attachment socket, asked one thing ───────────────────────────────────────────────────────────────────────────

async function describeIfThere(path: string, clock: Clock): Promise<AgentDescription | undefined> {
  try {
    return await describe(path, clock);
  } catch (error) {
    if (error instanceof MeshError && error.code === "no_such_agent") return undefined;
    throw error;
  }
}

async function describe(path: string, clock: Clock): Promise<AgentDescription> {
  const { promise, resolve, reject } = Promise.withResolvers<AgentDescription>();
  const decoder = new FrameDecoder(attachmentFrameBytesMax);
  const lost = (): void => reject(new MeshError("no_such_agent", `nobody answers on ${path} any more`));
  const timer = clock.after(listAnswerMsMax, () =>
    reject(new MeshError("timed_out", `the shim on ${path} does not answer`)),
  );
  let connection: { end(): void } | undefined;
  try {
    connection = await Bun.connect({
      unix: path,
      socket: {
        open: (socket) => void socket.write(encodeTerminalWord({ do: "describe" })),
        data(_, bytes) {
          for (const read of decoder.push(bytes)) {
            const frame = read.kind === "frame" ? readShimFrame(read.payload) : undefined;
            if (frame?.kind === "word" && frame.word.is === "description") resolve(frame.word.description);
          }
        },
        end: lost,
        close: lost,
        error: lost,
      },
    }).catch((error: unknown) => {
      throw connectionFailure(path, error);
    });
    return await promise;
  } finally {
    timer.cancel();
    connection?.end();
  }
}

const wait = (clock: Clock, ms: number): Promise<void> => pause(clock, ms, never);
const never = new AbortController().signal;
