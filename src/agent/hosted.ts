/**
 * The agents that run on this host by a name, each in a detached shim of its own, with its sockets in the daemon's directory. No list
 * of them is kept anywhere: what listens there is there, and a socket that nobody listens on is left over from a shim that was killed.
 * Whoever asks here only passes by: what an agent has to say to its orchestrator is kept for that one.
 */
import { attachShim, connectionFailure, type ShimClient } from "~/agent/client";
import { typeable } from "~/agent/echo";
import {
  agentNames,
  checkAgentName,
  isAlive,
  lockAgent,
  readAgentRecord,
  removeSockets,
} from "~/agent/hosted-files";
import { isDescendant } from "~/agent/process-table";
import { type Clock, pause, systemClock } from "~/clock";
import { fileExists } from "~/disk/file";
import { MeshError } from "~/errors";
import { type AgentDescription, encodeTerminalWord, readShimFrame } from "~/wire/attachment";
import { FrameDecoder } from "~/wire/frame";
import {
  agentAnswerMsMax,
  agentLookEveryMs,
  agentStopIdleMsDefault,
  agentStopMsDefault,
  agentStopMsMax,
  attachmentFrameBytesMax,
  shimFrameBytesMax,
} from "~/wire/limits";
import { type AgentPaths, agentPaths, attachmentSocket } from "~/wire/paths";
import type { ShimEvent, ShimStateName } from "~/wire/shim";

// ── Finding ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A connection to the agent of this name. Throws `no_such_agent` when it does not run, and `timed_out`. */
export async function attachAgent(
  daemonDir: string,
  name: string,
  clock: Clock,
  event: (event: ShimEvent) => void = quiet,
): Promise<ShimClient> {
  checkAgentName(name);
  try {
    return await attachPassing(agentPaths(daemonDir, name).socket, clock, event);
  } catch (error) {
    throw await explained(error, name, daemonDir);
  }
}

/** What is to be known of the agent. Throws as `attachAgent` does. */
export async function describeAgent(
  daemonDir: string,
  name: string,
  clock: Clock,
): Promise<AgentDescription> {
  checkAgentName(name);
  try {
    return await describeAt(attachmentSocket(agentPaths(daemonDir, name).socket), clock);
  } catch (error) {
    throw await explained(error, name, daemonDir);
  }
}

/** Throws `invalid_request` when this process runs in the agent's own terminal, which would be shown in itself without end. */
export function refuseOwnTerminal({ shim_pid }: AgentDescription, name: string): void {
  if (!isDescendant(process.pid, shim_pid)) return;
  throw new MeshError(
    "invalid_request",
    `this is agent ${name}'s own terminal, which cannot be shown in itself`,
    {
      hint: "Attach in another terminal window.",
    },
  );
}

const attachPassing = (socket: string, clock: Clock, event: (event: ShimEvent) => void = quiet) =>
  attachShim(socket, { clock, event, warning: quiet, dead: quiet }, { isLasting: false, isPassing: true });

function quiet(): void {
  // Whoever asks one thing needs no news.
}

/** Undefined when no terminal could attach there. Throws `timed_out`. */
export async function attachIfThere(
  socket: string,
  name: string,
  clock: Clock,
): Promise<ShimClient | undefined> {
  try {
    return await attachPassing(socket, clock);
  } catch (error) {
    if (!(error instanceof MeshError)) throw error;
    if (error.code === "no_such_agent") return undefined;
    throw error.code === "timed_out" ? unresponsive(name, error) : error;
  }
}

/** What is wrong, in terms of names, and what to type. */
async function explained(error: unknown, name: string, daemonDir: string): Promise<unknown> {
  if (!(error instanceof MeshError)) return error;
  if (error.code === "timed_out") return unresponsive(name, error);
  if (error.code !== "no_such_agent") return error;
  const start = `claudemesh agent run ${name} -- COMMAND`;
  const extras = { details: { name }, cause: error };
  if (fileExists(agentPaths(daemonDir, name).socket)) {
    return new MeshError(
      "no_such_agent",
      `agent ${name} was ended together with its shim, which was killed`,
      {
        ...extras,
        hint: `What it had printed: claudemesh agent logs ${name}. Start it again: ${start}`,
      },
    );
  }
  const others = await namesOfThoseThere(daemonDir);
  const shown = others.length === 0 ? "" : `There is ${others.slice(0, 10).join(", ")}. `;
  return new MeshError("no_such_agent", `no agent ${name} runs here`, {
    ...extras,
    hint: `${shown}Start one: ${start}`,
  });
}

const unresponsive = (name: string, cause: unknown): MeshError =>
  new MeshError("timed_out", `the shim of agent ${name} does not answer`, {
    hint: `It is stopped, or the host is overloaded. To end it all the same: claudemesh agent stop ${name}`,
    details: { name },
    cause,
  });

async function namesOfThoseThere(daemonDir: string): Promise<string[]> {
  const names = agentNames(daemonDir);
  const isThere = await Promise.all(
    names.map((name) => canConnect(attachmentSocket(agentPaths(daemonDir, name).socket))),
  );
  return names.filter((_, index) => isThere[index]);
}

async function canConnect(path: string): Promise<boolean> {
  try {
    const socket = await Bun.connect({ unix: path, socket: { data: quiet } });
    socket.end();
    return true;
  } catch {
    return false; // For whatever reason, it is not to be offered.
  }
}

export interface ListedAgent {
  name: string;
  /** `unresponsive`: its shim listens and does not answer. */
  state: ShimStateName | "unresponsive";
  /** How long it has been in this state. */
  since_s: number | null;
  description: AgentDescription | null;
  /** Null where that is not known. */
  shim_pid: number | null;
}

/** Those that run, and those that have died in a shim that is still there; all are asked at the same time. */
export async function listAgents(daemonDir: string, clock: Clock): Promise<ListedAgent[]> {
  const found = await Promise.all(agentNames(daemonDir).map((name) => listed(daemonDir, name, clock)));
  return found.filter((agent) => agent !== undefined);
}

async function listed(daemonDir: string, name: string, clock: Clock): Promise<ListedAgent | undefined> {
  const paths = agentPaths(daemonDir, name);
  try {
    const description = await describeAt(attachmentSocket(paths.socket), clock);
    const client = await attachPassing(paths.socket, clock);
    try {
      const { state, since_secs } = await client.state(agentAnswerMsMax);
      return { name, state, since_s: since_secs, description, shim_pid: description.shim_pid };
    } finally {
      client.close();
    }
  } catch (error) {
    // Gone while it was asked, or it does not answer. What nobody may connect to is told as an error, where it is named.
    if (error instanceof MeshError && error.code === "no_such_agent") return undefined;
    const shim_pid = readAgentRecord(paths)?.shim.pid ?? null;
    return { name, state: "unresponsive", since_s: null, description: null, shim_pid };
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

/**
 * Throws `no_such_agent`, `message_empty`, `message_too_large`, `agent_failed` when the agent will never have it, `timed_out`, or what
 * interrupted it.
 */
export async function sendToAgent(message: AgentMessage): Promise<SentToAgent> {
  const { daemonDir, name, from, body, isAnswerWanted, timeoutMs, clock, signal } = message;
  checkBody(body);
  const client = await attachAgent(daemonDir, name, clock);
  const message_id = crypto.randomUUID();
  const interrupted = Promise.withResolvers<never>();
  // Nobody waits for it any more when the answer was quicker.
  interrupted.promise.catch(quiet);
  const interrupt = (): void => interrupted.reject(signal.reason);
  signal.addEventListener("abort", interrupt);
  try {
    const outcome = client.next((event) => outcomeOf(event, message, message_id), timeoutMs);
    outcome.catch(quiet);
    await client.send({ cmd: "SendMessage", from, body, message_id });
    return { message_id, ...(await Promise.race([outcome, interrupted.promise])) };
  } catch (error) {
    if (!(error instanceof MeshError)) throw error;
    if (error.code === "frame_too_large") throw tooLarge(body);
    if (error.code === "timed_out") throw notInTime(name, isAnswerWanted, timeoutMs, error);
    throw error;
  } finally {
    signal.removeEventListener("abort", interrupt);
    client.close();
  }
}

function checkBody(body: string): void {
  if (typeable(body).trim() !== "") return;
  throw new MeshError("message_empty", "there is nothing in it that could be typed", {
    hint: "Give the text as one argument, or - and the text on standard input.",
  });
}

const tooLarge = (body: string): MeshError =>
  new MeshError(
    "message_too_large",
    `the text has ${Buffer.byteLength(body)} bytes; about ${shimFrameBytesMax} are the most that can be handed over at once`,
    { hint: "Write it to a file, and tell the agent to read that." },
  );

const notInTime = (name: string, isAnswerWanted: boolean, timeoutMs: number, cause: unknown): MeshError =>
  new MeshError(
    "timed_out",
    isAnswerWanted
      ? `${name} has not answered within ${timeoutMs / 1000} s; it keeps the text, and its answer is not lost`
      : `${name} has not taken the text within ${timeoutMs / 1000} s; it may still do so`,
    { hint: `See what it does: claudemesh agent capture ${name}; or wait longer: --timeout.`, cause },
  );

function outcomeOf(
  event: ShimEvent,
  { name, from, isAnswerWanted }: AgentMessage,
  id: string,
): Omit<SentToAgent, "message_id"> | undefined {
  const failed = (why: string): MeshError =>
    new MeshError("agent_failed", why, {
      hint: `See what it shows: claudemesh agent capture ${name}; and how it is: claudemesh agent list`,
    });
  switch (event.event) {
    case "DeliveryFailed":
      if (event.id === id) throw failed(`${name} will not get it: ${event.reason}`);
      return undefined;
    case "Died":
      throw failed(`${name} ended before it answered`);
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
  /** One of the two is null; both are when that is not known. */
  exit_code: number | null;
  signal: string | null;
  /** It had ended before. */
  was_dead: boolean;
  /** Its shim did not answer, and was killed. */
  was_unresponsive: boolean;
}

/**
 * Has the agent end, the hard way after `timeoutMs`, and waits until its shim is gone. Without a time, an agent that is at work has longer
 * than one that waits at its prompt, as it may do after Ctrl-C. Throws `no_such_agent`, or `timed_out` when the shim does not end.
 */
export async function stopAgent(
  daemonDir: string,
  name: string,
  timeoutMs: number | undefined,
  clock: Clock,
): Promise<StoppedAgent> {
  let died: Extract<ShimEvent, { event: "Died" }> | undefined;
  let exit: AgentDescription["exit"];
  let client: ShimClient | undefined;
  const paths = agentPaths(daemonDir, name);
  try {
    ({ exit } = await describeAgent(daemonDir, name, clock));
    client = await attachAgent(daemonDir, name, clock, (event) => {
      if (event.event === "Died") died = event;
      const isIdleNow = event.event === "StateChanged" && event.to === "idle";
      // Should the connection be gone by now, so is the shim, which is waited for below.
      if (isIdleNow && timeoutMs === undefined)
        client?.shutdown(seconds(agentStopIdleMsDefault)).catch(quiet);
    });
    const { state } = await client.state();
    const givenMs = timeoutMs ?? (state === "idle" ? agentStopIdleMsDefault : agentStopMsDefault);
    await client.shutdown(seconds(givenMs));
    await gone(paths.socket, name, clock, givenMs + agentStopMsMax);
    const { code = died?.exit_code ?? null, signal = null } = exit ?? {};
    return { exit_code: code, signal, was_dead: state === "dead", was_unresponsive: false };
  } catch (error) {
    if (!(error instanceof MeshError) || error.code !== "timed_out") throw error;
    await endUnresponsive(paths, name, clock, error);
    return { exit_code: null, signal: null, was_dead: false, was_unresponsive: true };
  } finally {
    client?.close();
  }
}

const seconds = (ms: number): number => Math.ceil(ms / 1000);

/** A shim that does not answer is killed, and its watchdog ends the agent. */
async function endUnresponsive(paths: AgentPaths, name: string, clock: Clock, cause: unknown): Promise<void> {
  const lock = await lockAgent(paths, name, clock);
  try {
    const record = readAgentRecord(paths);
    if (record === undefined || !isAlive(record.shim)) {
      throw new MeshError(
        "timed_out",
        `the shim of agent ${name} does not answer, and which process it is is not known`,
        {
          hint: `See who has its socket, and kill that: lsof '${paths.socket}'`,
          cause,
        },
      );
    }
    process.kill(record.shim.pid, "SIGKILL");
    const untilMs = clock.monotonicMs() + agentStopMsMax;
    while (isAlive(record.shim) || isAlive(record.agent)) {
      if (clock.monotonicMs() > untilMs) {
        throw new MeshError("timed_out", `process ${record.agent.pid} of agent ${name} does not end`, {
          hint: `See what it is: ps -fp ${record.agent.pid}`,
          cause,
        });
      }
      await pause(clock, agentLookEveryMs, never);
    }
    removeSockets(paths);
  } finally {
    lock.release();
  }
}

/** Has the shim of an agent end that is dead; one that is gone already is fine, and so is one whose name is used anew. */
export async function releaseAgent(
  daemonDir: string,
  name: string,
  clock: Clock = systemClock,
): Promise<void> {
  const { socket } = agentPaths(daemonDir, name);
  const client = await attachIfThere(socket, name, clock);
  if (client === undefined) return;
  try {
    if ((await client.state()).state !== "dead") return;
    await client.kill();
    await gone(socket, name, clock, agentStopMsMax);
  } catch (error) {
    // Somebody else had it end at the same moment.
    if (!(error instanceof MeshError) || error.code !== "answer_lost") throw error;
  } finally {
    client.close();
  }
}

/** Resolves when the shim, which was told to end, has removed its control socket, or was killed meanwhile. Throws `timed_out`. */
export async function gone(socket: string, name: string, clock: Clock, timeoutMs: number): Promise<void> {
  const untilMs = clock.monotonicMs() + timeoutMs;
  while (fileExists(socket)) {
    // Terminals are let go first: from then on nobody is there for anybody but an orchestrator.
    const isLeaving = !(await canConnect(attachmentSocket(socket)));
    if (isLeaving && !(await canConnect(socket))) return;
    if (clock.monotonicMs() > untilMs) {
      throw new MeshError(
        "timed_out",
        `the shim of agent ${name} has not ended within ${timeoutMs / 1000} s`,
        {
          hint: "See which process it is: claudemesh agent list --json",
          details: { name },
        },
      );
    }
    await pause(clock, agentLookEveryMs, never);
  }
}

const never = new AbortController().signal;

// ── The attachment socket, asked one thing ───────────────────────────────────────────────────────────────────────────

/** Throws `no_such_agent`, `timed_out`, and what `connectionFailure` tells. */
export async function describeAt(path: string, clock: Clock): Promise<AgentDescription> {
  const { promise, resolve, reject } = Promise.withResolvers<AgentDescription>();
  const decoder = new FrameDecoder(attachmentFrameBytesMax);
  const lost = (): void => reject(new MeshError("no_such_agent", `nobody answers on ${path} any more`));
  const timer = clock.after(agentAnswerMsMax, () =>
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
