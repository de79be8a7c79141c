/**
 * What lies in the agents' directory beside their sockets: their names, a lock for each, which processes an agent is, for when its shim
 * does not answer any more, and what those that have ended left behind.
 */
import { lstatSync, readdirSync } from "node:fs";
import * as v from "valibot";
import { findProcess } from "~/agent/process-table";
import { type Clock, pause } from "~/clock";
import { readTextFile, removeFile, storageError, writeFileAtomic } from "~/disk/file";
import { type Lock, tryLock } from "~/disk/lock";
import { MeshError, systemCodeOf } from "~/errors";
import { agentLockMsMax, agentLogsKept, agentLogsKeptDays, agentLookEveryMs } from "~/wire/limits";
import {
  type AgentPaths,
  agentNamePattern,
  agentNamesIn,
  agentNamesOfLogsIn,
  agentPaths,
  agentsDir,
  attachmentSocket,
} from "~/wire/paths";

/** Throws `invalid_request` for a name that would be no good as a file name, in a shell or in an address. */
export function checkAgentName(name: string): void {
  if (agentNamePattern.test(name)) return;
  throw new MeshError("invalid_request", `${JSON.stringify(name)} is no name for an agent`, {
    hint: "Letters, digits, - and _, at most 32, beginning with a letter or digit.",
  });
}

/** Two that start an agent of the same name at the same moment take their turns; the second one finds it in use. */
export async function lockAgent({ lock: path }: AgentPaths, name: string, clock: Clock): Promise<Lock> {
  const deadlineMs = clock.monotonicMs() + agentLockMsMax;
  for (;;) {
    const lock = tryLock(path);
    if (lock !== undefined) return lock;
    if (clock.monotonicMs() > deadlineMs) {
      throw new MeshError("agent_busy", `somebody else is starting or stopping ${name}`, {
        hint: "Try again in a moment.",
      });
    }
    await pause(clock, agentLookEveryMs, never);
  }
}

const never = new AbortController().signal;

// ── Processes ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** As process-table.ts tells a process from a later one with the same number. */
const Process = v.object({ pid: v.pipe(v.number(), v.integer(), v.minValue(2)), started: v.number() });
type Process = v.InferOutput<typeof Process>;

const AgentRecord = v.object({ agent: Process, shim: Process });
export type AgentRecord = v.InferOutput<typeof AgentRecord>;

/** Writes down who they are, where that is possible. Nothing when one of them has ended already. */
export function recordAgent({ record }: AgentPaths, agentPid: number, shimPid: number): void {
  const [agent, shim] = [findProcess(agentPid), findProcess(shimPid)];
  if (agent === undefined || shim === undefined) return;
  const known: AgentRecord = { agent: processOf(agent), shim: processOf(shim) };
  try {
    writeFileAtomic(record, `${JSON.stringify(known)}\n`);
  } catch (error) {
    // The agent runs all the same; should its shim ever hang, it has to be found by hand, and is said to.
    if (!(error instanceof MeshError)) throw error;
  }
}

const processOf = ({ pid, started }: Process): Process => ({ pid, started });

/** Undefined when there is none that can be read. */
export function readAgentRecord({ record }: AgentPaths): AgentRecord | undefined {
  const text = readTextFile(record);
  if (text === undefined) return undefined;
  const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), AgentRecord), text);
  return parsed.success ? parsed.output : undefined;
}

export function isAlive({ pid, started }: Process): boolean {
  const entry = findProcess(pid);
  return entry !== undefined && entry.started === started && !entry.isZombie;
}

// ── What is left over ───────────────────────────────────────────────────────────────────────────────────────────────

/** Names with a socket, in order; whether anybody listens there is another matter. */
export const agentNames = (daemonDir: string): string[] => agentNamesIn(namesIn(agentsDir(daemonDir)));

/**
 * Removes the logs of agents that have ended (those without a socket) and that are old or too many, with what lies beside them. Their
 * locks stay: who is about to take one would hold a file that is not there.
 */
export function removeOldLogs(daemonDir: string, nowMs: number): void {
  const names = namesIn(agentsDir(daemonDir));
  const inUse = new Set(agentNamesIn(names));
  const ended = agentNamesOfLogsIn(names)
    .filter((name) => !inUse.has(name))
    .map((name) => ({ name, writtenMs: writtenMsOf(agentPaths(daemonDir, name).log) }))
    .sort((a, b) => b.writtenMs - a.writtenMs);
  for (const [index, { name, writtenMs }] of ended.entries()) {
    if (index < agentLogsKept && nowMs - writtenMs < agentLogsKeptDays * dayMs) continue;
    const { log, shimLog, record } = agentPaths(daemonDir, name);
    for (const path of [log, shimLog, record]) removeFile(path);
  }
}

const dayMs = 24 * 3600_000;

const writtenMsOf = (path: string): number => lstatSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return [];
    throw storageError(`cannot look into ${dir}`, error);
  }
}

/** Nobody listens there, and whoever holds the name's lock keeps others from putting something new there. */
export function removeSockets({ socket }: AgentPaths): void {
  removeFile(socket);
  removeFile(attachmentSocket(socket));
}
