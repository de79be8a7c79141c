/**
 * An agent and everything that it started: telling it from all other processes, and ending it. What belongs is the agent's process
 * group and its session; on Linux also whatever carries the mark that the agent was started with in its environment, the orphans that
 * came to this process, and the descendants of all these. A process is known by its number and the time of its start, so that a later
 * one with the same number is left alone; so is everything that is older than the agent.
 */
import { randomBytes } from "node:crypto";
import { constants } from "node:os";
import {
  checkProcesses,
  childrenOf,
  environmentOf,
  findProcess,
  ignoredSignalsOf,
  listProcesses,
  type ProcessEntry,
  type ProcessTable,
} from "~/agent/process-table";
import { becomeSubreaper, type Subreaper } from "~/agent/subreaper";
import { startWatchdog, type Watchdog } from "~/agent/watchdog";
import type { Clock, Timer } from "~/clock";
import { messageOf, systemCodeOf } from "~/errors";
import { agentKillMs, agentTermMs, orphanLookEveryMs, orphansToldMax } from "~/wire/limits";

// ── For the shim ────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface TreeOptions {
  clock: Clock;
  /** The words that run this executable's hidden command `end-agent`; the watchdog adds its arguments. */
  endCommand: readonly string[];
  /**
   * Whether orphans of the agent are to become children of this process (Linux). Only for a process that hosts one agent and starts
   * nothing else: all other children but the watchdog then count as the agent's.
   */
  adoptsOrphans: boolean;
  /** The environment of this process, which may itself run within an agent. */
  env: Readonly<Record<string, string | undefined>>;
  /** What keeps the promise from being kept in full, for people. */
  warn(message: string): void;
}

export interface AgentTree {
  /** To be added to the agent's environment. */
  readonly env: Readonly<Record<string, string>>;
  /** Must be told as soon as the agent runs, before anything is awaited. */
  started(pid: number): void;
  /**
   * Ends the agent, if it still runs, and all that it started: SIGTERM, up to `termMs` (by default 2 s), SIGKILL. Resolves, when nothing is
   * left, with []; otherwise, some seconds later, with the pids that would not go: another user's, or stuck in the kernel. Asked again
   * meanwhile, gives the same answer.
   */
  end(termMs?: number): Promise<readonly number[]>;
  /** Lets the watchdog go, and waits for that. For when the agent has ended, and all that it started. */
  close(): Promise<void>;
}

/**
 * To be called before the agent is started: from then on, when this process is killed, the watchdog ends what carries the mark.
 * Throws `internal` where processes cannot be seen, since no agent could be ended there.
 */
export function openTree(options: TreeOptions): AgentTree {
  checkProcesses();
  return new Tree(options);
}

class Tree implements AgentTree {
  readonly env: Readonly<Record<string, string>>;
  readonly #options: TreeOptions;
  readonly #mark = randomBytes(16).toString("hex");
  readonly #watchdog: Watchdog;
  readonly #subreaper: Subreaper | undefined;
  #root: Root | undefined;
  #orphans: readonly Orphan[] = [];
  #look: Timer | undefined;
  #isBlind = false;
  #ending: Promise<readonly number[]> | undefined;

  constructor(options: TreeOptions) {
    this.#options = options;
    const { clock, endCommand, adoptsOrphans, env, warn } = options;
    // Within another agent, what we start still belongs to that one too.
    this.env = { [markName]: env[markName] ? `${env[markName]}:${this.#mark}` : this.#mark };
    this.#watchdog = startWatchdog({ command: [...endCommand, this.#mark], clock, env, warn });
    if (adoptsOrphans && process.platform === "linux") this.#subreaper = this.#becomeSubreaper();
    if (this.#subreaper !== undefined) this.#lookLater(this.#subreaper);
  }

  started(pid: number): void {
    this.#root = rootOf(findProcess(pid));
    this.#tellWatchdog();
  }

  end(termMs = agentTermMs): Promise<readonly number[]> {
    const { clock } = this.#options;
    this.#ending ??= endTree(() => this.#facts(), { clock, termMs }).finally(() => {
      this.#ending = undefined;
    });
    return this.#ending;
  }

  async close(): Promise<void> {
    this.#look?.cancel();
    this.#look = undefined;
    await this.#watchdog.close();
  }

  #facts(): TreeFacts {
    return {
      mark: this.#mark,
      root: this.#root,
      orphans: this.#orphans,
      adopter: this.#subreaper === undefined ? undefined : process.pid,
      spared: [process.pid, ...this.#watchdog.pids()],
    };
  }

  #tellWatchdog(): void {
    this.#watchdog.tell(encodeKnown({ root: this.#root, orphans: this.#orphans }));
  }

  #becomeSubreaper(): Subreaper | undefined {
    const subreaper = becomeSubreaper();
    if ("collect" in subreaper) return subreaper;
    this.#options.warn(
      `orphans of the agent that leave its session and clear their environment cannot be followed: ${subreaper.unavailable}`,
    );
    return undefined;
  }

  #lookLater(subreaper: Subreaper): void {
    this.#look = this.#options.clock.after(orphanLookEveryMs, () => {
      this.#lookNow(subreaper);
      this.#lookLater(subreaper);
    });
  }

  #lookNow(subreaper: Subreaper): void {
    try {
      this.#continueAgent();
      this.#lookAtOrphans(subreaper);
      this.#isBlind = false;
    } catch (error) {
      // Such as one file too many; that may pass.
      if (!this.#isBlind)
        this.#options.warn(`what the agent starts cannot be followed now: ${messageOf(error)}`);
      this.#isBlind = true;
    }
  }

  /** One that has stopped itself, as Ctrl-Z has many do: no shell is there that would have it go on. */
  #continueAgent(): void {
    if (this.#root === undefined) return;
    const agent = findProcess(this.#root.pid);
    if (agent?.isStopped && agent.started === this.#root.started) signal(agent, "SIGCONT");
  }

  /**
   * Collects those that have ended, since nobody else does. Those that have lost the mark are told to the watchdog: to this process
   * they are its children, but once it is killed nothing would tell them from others.
   */
  #lookAtOrphans(subreaper: Subreaper): void {
    const ours = new Set([this.#root?.pid, ...this.#watchdog.pids()]);
    const adopted = childrenOf(process.pid).filter(({ pid }) => !ours.has(pid));
    // Before the agent's number is known, its end is not ours to collect.
    if (this.#root !== undefined) {
      for (const { pid, isZombie } of adopted) if (isZombie) subreaper.collect(pid);
    }
    const unmarked = adopted
      .filter(({ pid, isZombie }) => !isZombie && !carriesMark(pid, this.#mark))
      .slice(0, orphansToldMax);
    if (isSame(unmarked, this.#orphans)) return;
    this.#orphans = unmarked.map(({ pid, started }) => ({ pid, started }));
    this.#tellWatchdog();
  }
}

const isSame = (some: readonly Orphan[], others: readonly Orphan[]): boolean =>
  some.length === others.length &&
  some.every(({ pid, started }, index) => others[index]?.pid === pid && others[index].started === started);

// ── What belongs ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** In the environment of an agent: the marks of the trees that it belongs to, the outermost first, with colons between them. */
const markName = "CLAUDEMESH_AGENT_TREE";

interface Orphan {
  pid: number;
  started: number;
}

export interface Root {
  pid: number;
  started: number;
  /** Undefined when it shares that with this process, which is then no sign of anything. */
  group: number | undefined;
  session: string | undefined;
}

/** What is known of a tree besides its mark. */
export interface Known {
  root: Root | undefined;
  /** Processes that nothing but their number and start would tell. */
  orphans: readonly Orphan[];
}

export interface TreeFacts extends Known {
  mark: string;
  /** The process whose children belong to the agent, except those that are spared. */
  adopter: number | undefined;
  spared: readonly number[];
}

function rootOf(entry: ProcessEntry | undefined): Root | undefined {
  if (entry === undefined) return undefined;
  const own = findProcess(process.pid);
  return {
    pid: entry.pid,
    started: entry.started,
    group: entry.group === own?.group ? undefined : entry.group,
    session: entry.session === "" || entry.session === own?.session ? undefined : entry.session,
  };
}

const carriesMark = (pid: number, mark: string): boolean =>
  environmentOf(pid)?.some(
    (entry) =>
      entry.startsWith(`${markName}=`) &&
      entry
        .slice(markName.length + 1)
        .split(":")
        .includes(mark),
  ) ?? false;

/** All processes in the table that belong and have not ended. `isMarked` is asked only of those that nothing else tells. */
export function membersOf(
  table: ProcessTable,
  { root, orphans, adopter, spared }: Omit<TreeFacts, "mark">,
  isMarked: (pid: number) => boolean,
): ProcessEntry[] {
  const isCandidate = (entry: ProcessEntry): boolean =>
    entry.pid > 1 && !spared.includes(entry.pid) && (root === undefined || entry.started >= root.started);
  const candidates = [...table.values()].filter(isCandidate);
  const members = new Map<number, ProcessEntry>();
  const add = (entry: ProcessEntry): void => void members.set(entry.pid, entry);

  // The number of a group or session is that of its leader, and is not given to another process as long as it has any member. Whoever
  // has the number now and is not the one that we know has got it after all of ours had gone.
  const isStillOurs = (leader: number): boolean => {
    const holder = table.get(leader);
    return holder === undefined || leader !== root?.pid || holder.started === root.started;
  };
  for (const entry of candidates) {
    const isRoot = entry.pid === root?.pid && entry.started === root.started;
    const inGroup = root?.group !== undefined && entry.group === root.group && isStillOurs(root.group);
    const inSession = root?.session !== undefined && entry.session === root.session && isStillOurs(root.pid);
    const isOrphan = orphans.some(({ pid, started }) => pid === entry.pid && started === entry.started);
    const isAdopted = adopter !== undefined && entry.parent === adopter;
    if (isRoot || inGroup || inSession || isOrphan || isAdopted || isMarked(entry.pid)) add(entry);
  }
  addDescendants(members, candidates);
  return [...members.values()].filter(({ isZombie }) => !isZombie);
}

function addDescendants(members: Map<number, ProcessEntry>, candidates: readonly ProcessEntry[]): void {
  const byParent = Map.groupBy(candidates, ({ parent }) => parent);
  const toVisit = [...members.keys()];
  for (let pid = toVisit.pop(); pid !== undefined; pid = toVisit.pop()) {
    for (const child of byParent.get(pid) ?? []) {
      if (members.has(child.pid)) continue;
      members.set(child.pid, child);
      toVisit.push(child.pid);
    }
  }
}

// ── As arguments of the watchdog ────────────────────────────────────────────────────────────────────────────────────────

/** One word for the agent, `agent=PID:START:GROUP:SESSION`, and one for each orphan, `orphan=PID:START`. */
export function encodeKnown({ root, orphans }: Known): string {
  const agent =
    root === undefined ? [] : [`agent=${root.pid}:${root.started}:${root.group ?? ""}:${root.session ?? ""}`];
  return [...agent, ...orphans.map(({ pid, started }) => `orphan=${pid}:${started}`)].join(" ");
}

/** Undefined when some word is none of these. */
export function parseKnown(words: readonly string[]): Known | undefined {
  let root: Root | undefined;
  const orphans: Orphan[] = [];
  for (const word of words) {
    const agent = word.match(/^agent=(\d+):(\d+):(\d*):([\w/.-]*)$/);
    const orphan = word.match(/^orphan=(\d+):(\d+)$/);
    if (agent !== null) {
      const [, pid, started, group, session] = agent;
      root = {
        pid: Number(pid),
        started: Number(started),
        group: group ? Number(group) : undefined,
        session: session || undefined,
      };
    } else if (orphan !== null) orphans.push({ pid: Number(orphan[1]), started: Number(orphan[2]) });
    else return undefined;
  }
  return { root, orphans };
}

// ── Ending ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface EndOptions {
  clock: Clock;
  /** Between SIGTERM and SIGKILL. */
  termMs: number;
}

const pollMs = 20;

/** Ends what belongs, and whatever it starts meanwhile; resolves with the pids that would not go. */
export async function endTree(
  facts: () => TreeFacts,
  { clock, termMs }: EndOptions,
): Promise<readonly number[]> {
  const look = (): ProcessEntry[] => {
    const known = facts();
    return membersOf(listProcesses(), known, (pid) => carriesMark(pid, known.mark));
  };
  const asked = new Set<string>();
  const termUntil = clock.monotonicMs() + termMs;
  for (let members = look(); members.length > 0; members = look()) {
    const unasked = members.filter((member) => !asked.has(keyOf(member)));
    askToEnd(unasked, asked.size === 0 ? facts().root?.group : undefined);
    for (const member of unasked) asked.add(keyOf(member));
    await untilGone(members, termUntil, clock);
    if (clock.monotonicMs() >= termUntil) break;
  }
  const killUntil = clock.monotonicMs() + agentKillMs;
  for (let members = look(); members.length > 0; members = look()) {
    // All of them, again and again: one that starts others as fast as it can is stopped with them sooner or later.
    const refused = members.filter((member) => signal(member, "SIGKILL") === "refused");
    if (refused.length === members.length || clock.monotonicMs() >= killUntil) {
      return members.map(({ pid }) => pid);
    }
    await untilGone(members, Math.min(killUntil, clock.monotonicMs() + pollMs), clock);
  }
  return [];
}

const keyOf = ({ pid, started }: ProcessEntry): string => `${pid}:${started}`;

/**
 * SIGTERM once for each, and SIGCONT, without which a stopped process would not notice. A shell at its prompt ignores SIGTERM, and ends on
 * SIGHUP, as when its terminal is closed.
 */
function askToEnd(members: readonly ProcessEntry[], group: number | undefined): void {
  const shells = members.filter(({ pid }) => needsHangup(ignoredSignalsOf(pid)));
  // The whole group at once, so that none of it sees another one end and starts it again.
  const isInGroup = (member: ProcessEntry): boolean => member.group === group;
  if (group !== undefined && members.some(isInGroup)) {
    signalPid(-group, "SIGTERM");
    signalPid(-group, "SIGCONT");
  }
  for (const member of members) {
    if (isInGroup(member)) continue;
    signal(member, "SIGTERM");
    signal(member, "SIGCONT");
  }
  for (const shell of shells) signal(shell, "SIGHUP");
}

const isAmong = (mask: bigint, name: "SIGHUP" | "SIGTERM"): boolean =>
  ((mask >> BigInt(constants.signals[name] - 1)) & 1n) === 1n;

const needsHangup = (ignored: bigint): boolean => isAmong(ignored, "SIGTERM") && !isAmong(ignored, "SIGHUP");

/** Looks once more whether the number still stands for the same process. */
const signal = (member: ProcessEntry, name: NodeJS.Signals): "sent" | "gone" | "refused" =>
  isStillThere(member) ? signalPid(member.pid, name) : "gone";

function signalPid(pid: number, name: NodeJS.Signals | 0): "sent" | "gone" | "refused" {
  try {
    process.kill(pid, name);
    return "sent";
  } catch (error) {
    const code = systemCodeOf(error);
    if (code === "ESRCH") return "gone";
    if (code === "EPERM") return "refused";
    throw error;
  }
}

/** Where looking closely means running `ps`, the number alone must do: it was looked up a moment ago. */
function isStillThere({ pid, started }: ProcessEntry): boolean {
  if (process.platform !== "linux") return signalPid(pid, 0) !== "gone";
  const now = findProcess(pid);
  return now !== undefined && now.started === started && !now.isZombie;
}

/** Returns when all have gone, or at the deadline. */
async function untilGone(members: readonly ProcessEntry[], untilMs: number, clock: Clock): Promise<void> {
  while (clock.monotonicMs() < untilMs && members.some(isStillThere)) {
    await new Promise<void>((resolve) => void clock.after(pollMs, resolve));
  }
}
