/**
 * Which processes there are, as far as it matters for telling an agent's from all others: from /proc on Linux, from `ps` elsewhere.
 * It only looks. A process that ends while we look is simply not in the answer.
 */
import { readdirSync, readFileSync } from "node:fs";
import { MeshError, systemCodeOf } from "~/errors";

export interface ProcessEntry {
  pid: number;
  parent: number;
  group: number;
  /** What all processes of a session share: its number on Linux, its terminal elsewhere; "" when it has none that can be told. */
  session: string;
  /** Tells a process from a later one with the same number, and grows: ticks since boot on Linux, seconds since 1970 elsewhere. */
  started: number;
  /** It has ended, and waits for its parent to notice. */
  isZombie: boolean;
  /** By a signal, until another one has it go on. */
  isStopped: boolean;
}

export type ProcessTable = ReadonlyMap<number, ProcessEntry>;

const hasProc = process.platform === "linux";

/** All that the system shows us. Throws `internal` when it shows nothing at all. */
export function listProcesses(): ProcessTable {
  const table = hasProc ? listProc() : listPs(["-ax"]);
  if (!table.has(process.pid)) throw invisible();
  return table;
}

/** Throws `internal` where processes cannot be seen at all. */
export function checkProcesses(): void {
  if (findProcess(process.pid) === undefined) throw invisible();
}

const invisible = (): MeshError =>
  new MeshError("internal", "the processes of this system cannot be listed", {
    hint: hasProc ? "Is /proc mounted?" : "Does /bin/ps work?",
  });

/** Undefined when there is no such process. */
export const findProcess = (pid: number): ProcessEntry | undefined =>
  hasProc ? readStat(pid) : listPs(["-p", String(pid)]).get(pid);

/** The processes whose parent is this one. Quick on Linux, where it is asked every second; nowhere else is it asked. */
export function childrenOf(parent: number): ProcessEntry[] {
  const pids = readChildren(parent);
  if (pids === undefined) return [...listProc().values()].filter((entry) => entry.parent === parent);
  return pids.flatMap((pid) => readStat(pid) ?? []);
}

/** Whether a process was started by that one, or by what that one has started. */
export function isDescendant(pid: number, ancestor: number): boolean {
  for (let at = pid; at > 1; at = findProcess(at)?.parent ?? 0) if (at === ancestor) return true;
  return false;
}

/** The environment that a process was started with; undefined where that cannot be seen: another user's, or not on Linux. */
export function environmentOf(pid: number): string[] | undefined {
  if (!hasProc) return undefined;
  return readProc(`/proc/${pid}/environ`)?.split("\0");
}

/** Which signals a process ignores, the first in the lowest bit; none where that cannot be seen. */
export function ignoredSignalsOf(pid: number): bigint {
  const mask = hasProc ? readProc(`/proc/${pid}/status`)?.match(/^SigIgn:\s*([0-9a-f]+)$/m)?.[1] : undefined;
  return mask === undefined ? 0n : BigInt(`0x${mask}`);
}

// ── Linux: proc(5) ──────────────────────────────────────────────────────────────────────────────────────────────────────

function listProc(): ProcessTable {
  const entries = readdirSync("/proc").flatMap((name) =>
    /^[1-9]\d*$/.test(name) ? (readStat(Number(name)) ?? []) : [],
  );
  return new Map(entries.map((entry) => [entry.pid, entry]));
}

function readStat(pid: number): ProcessEntry | undefined {
  const stat = readProc(`/proc/${pid}/stat`);
  return stat === undefined ? undefined : parseStat(stat);
}

/** The second field is the program's own name, in parentheses, and may hold anything, so that the last one is what counts. */
export function parseStat(stat: string): ProcessEntry {
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const [state = "", parent, group, session = ""] = fields;
  return {
    pid: Number.parseInt(stat, 10),
    parent: Number(parent),
    group: Number(group),
    session: session === "0" ? "" : session,
    started: Number(fields[19]),
    isZombie: state === "Z" || state === "X",
    isStopped: state === "T",
  };
}

/** Undefined where the kernel was built without these lists. */
function readChildren(parent: number): number[] | undefined {
  let threads: string[];
  try {
    threads = readdirSync(`/proc/${parent}/task`);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
  const lists = threads.map((thread) => readProc(`/proc/${parent}/task/${thread}/children`));
  if (lists.every((list) => list === undefined)) return undefined;
  return lists.flatMap((list) => list?.match(/\d+/g) ?? []).map(Number);
}

/** Undefined when the process has gone, or is not for us to look at. */
function readProc(path: string): string | undefined {
  try {
    return readFileSync(path, "latin1");
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

const isGone = (error: unknown): boolean =>
  ["ENOENT", "ESRCH", "EACCES", "EPERM"].includes(systemCodeOf(error) ?? "");

// ── Elsewhere: ps(1) ────────────────────────────────────────────────────────────────────────────────────────────────────

/** In English and in UTC. An option for each, since what follows a `=` may be taken for a heading, commas and all. */
export const psColumns = ["pid=", "ppid=", "pgid=", "tty=", "stat=", "lstart="].flatMap((name) => [
  "-o",
  name,
]);

function listPs(which: readonly string[]): ProcessTable {
  const { stdout } = Bun.spawnSync(["/bin/ps", ...which, ...psColumns], { env: { LC_ALL: "C", TZ: "UTC" } });
  return parsePs(stdout.toString());
}

/** One line a process; its last column is a date such as `Mon Nov 20 17:00:05 2028`. */
export function parsePs(text: string): ProcessTable {
  const entries = text.split("\n").flatMap((line) => {
    const match = line.match(/^\s*(\d+)\s+(\d+)\s+(\d+)\s+(\S+)\s+(\S+)\s+(\S.*\S)\s*$/);
    if (match === null) return [];
    const [, pid, parent, group, terminal = "", state = "", started = ""] = match;
    return {
      pid: Number(pid),
      parent: Number(parent),
      group: Number(group),
      session: /^[?-]/.test(terminal) ? "" : terminal,
      started: Date.parse(`${started} UTC`) / 1000,
      isZombie: state.startsWith("Z"),
      isStopped: state.startsWith("T"),
    };
  });
  return new Map(entries.map((entry) => [entry.pid, entry]));
}
