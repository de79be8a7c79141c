/**
 * The shim as a whole, from its options to its end: takes the connection or the socket, starts the agent, and sees to it that nothing
 * of the agent is left when it goes.
 */
import { Attachments } from "~/agent/attachment";
import { withoutRareHeapChecks } from "~/agent/heap-checks";
import {
  connectInherited,
  type Entrance,
  listenForOrchestrators,
  Orchestrators,
} from "~/agent/orchestrators";
import { OutputLog } from "~/agent/output-log";
import { type AgentTree, openTree } from "~/agent/process-tree";
import { loadProfile, type Profile, profileFor } from "~/agent/profile";
import type { Runtime } from "~/agent/runtime";
import { Shim } from "~/agent/shim";
import { type Clock, isoTime } from "~/clock";
import { asMeshError, messageOf } from "~/errors";
import type { RuntimeName } from "~/wire/attachment";
import { shimLogBytesMax } from "~/wire/limits";
import { attachmentSocket } from "~/wire/paths";

export type Way =
  /** A connected socket that was inherited. */
  | { kind: "fd"; fd: number }
  /**
   * Listens there. Detached, the agent goes on when the last orchestrator has gone. Owned, it was started in a terminal, which is about to
   * attach.
   */
  | { kind: "socket"; path: string; isDetached: boolean; isOwned: boolean };

export interface ShimRun {
  way: Way;
  command: readonly string[];
  /** Undefined: by the program's name. */
  profile: string | undefined;
  runtime: RuntimeName;
  cwd: string;
  rows: number;
  cols: number;
  /** Where the agent's raw output goes; nowhere when undefined. */
  log: string | undefined;
  clock: Clock;
  configDir: string;
  env: Readonly<Record<string, string | undefined>>;
  /** The words that run this executable. */
  executable: readonly string[];
  /** When the agent runs. */
  onReady(pid: number): void;
}

/** Runs until the shim is ended by its orchestrator or `interrupted`. Throws what keeps it from starting, after telling who drives it. */
export async function runShim(run: ShimRun, interrupted: AbortSignal): Promise<void> {
  const { clock, way } = run;
  const orchestrators: Orchestrators = new Orchestrators({
    clock,
    endsWithLast: way.kind === "fd" || !way.isDetached,
    command: (peer, parsed) => shim.command(peer, parsed),
    abandoned: () => shim.abandoned(),
  });
  const shim: Shim = new Shim({
    clock,
    orchestrators,
    endTree: () => tree?.end() ?? Promise.resolve([]),
    output(bytes) {
      log?.write(bytes);
      attachments?.output(bytes);
    },
    ended: (exit) => attachments?.ended(exit),
    isAttended: () => attachments?.wasAttended ?? false,
  });
  const warn = (message: string): void => shim.happened({ kind: "warned", message });
  let log: OutputLog | undefined;
  let tree: AgentTree | undefined;
  let attachments: Attachments | undefined;
  let entrance: Entrance | undefined;
  let runtime: Runtime | undefined;
  try {
    // First of all, so that whoever drives us is told what keeps the agent from starting, and his descriptor is not one of ours.
    entrance =
      way.kind === "fd"
        ? await connectInherited(way.fd, orchestrators)
        : await listenForOrchestrators(way.path, orchestrators);
    const profile =
      run.profile === undefined
        ? profileFor(run.command[0] ?? "", run.configDir)
        : loadProfile(run.profile, run.configDir);
    log =
      run.log === undefined
        ? undefined
        : new OutputLog({ path: run.log, bytesMax: shimLogBytesMax, clock, warn });
    tree = openTree({
      clock,
      endCommand: [...run.executable, "end-agent"],
      adoptsOrphans: true,
      env: run.env,
      warn,
    });
    if (way.kind === "socket" && way.isDetached) {
      attachments = attachmentsOf(run, way, profile, orchestrators, {
        runtime: () => runtime,
        abandoned: () => shim.abandoned(),
      });
    }
    runtime = await startRuntime(run, profile, tree, shim, {
      answersQueries: () => !attachments?.answersQueries,
      isAttended: () => attachments !== undefined && (attachments.wasAttended || attachments.answersQueries),
    });
    await attachments?.listen();
    shim.started(runtime);
    run.onReady(runtime.pid);
    interrupted.addEventListener("abort", () => shim.abandoned(), { once: true });
    if (interrupted.aborted) shim.abandoned();
    await shim.left;
  } catch (error) {
    shim.notStarted(asMeshError(error).message);
    throw error;
  } finally {
    await attachments?.close();
    const couldLook = await tree?.end().then(
      () => true,
      (error: unknown) => warn(`what the agent started is left to the watchdog: ${messageOf(error)}`),
    );
    runtime?.close();
    // Otherwise the watchdog ends it, as soon as this process has gone.
    if (couldLook) await tree?.close();
    await orchestrators.close();
    entrance?.close();
    log?.close();
  }
}

/** The runtime is there when anybody comes. */
function attachmentsOf(
  { clock, command, cwd, log, runtime: kind }: ShimRun,
  { path, isOwned }: Way & { kind: "socket" },
  profile: Profile,
  orchestrators: Orchestrators,
  { runtime, abandoned }: { runtime: () => Runtime | undefined; abandoned: () => void },
): Attachments {
  const startedAt = isoTime(clock.now());
  return new Attachments({
    path: attachmentSocket(path),
    clock,
    isTerminal: kind === "pty",
    isOwned,
    describe: () => ({
      profile: profile.name,
      runtime: kind,
      pid: runtime()?.pid ?? 0,
      shim_pid: process.pid,
      command: [...command],
      cwd,
      started_at: startedAt,
      log: log ?? null,
    }),
    snapshot: async (isComplete) => (await runtime()?.snapshot(isComplete)) ?? "",
    type: (bytes) => runtime()?.type(bytes) ?? false,
    whenRead: () => runtime()?.whenRead(),
    interrupt: () => runtime()?.interrupt(),
    resize: (rows, cols) => runtime()?.resize(rows, cols),
    hold: (isHeld) => runtime()?.hold(isHeld),
    drive: (socket) => orchestrators.admit(socket, { isPassing: true }),
    abandoned,
  });
}

async function startRuntime(
  run: ShimRun,
  profile: Profile,
  tree: AgentTree,
  { events }: Shim,
  people: { answersQueries: () => boolean; isAttended: () => boolean },
): Promise<Runtime> {
  const { command, cwd, clock, rows, cols } = run;
  const env = { ...inheritedOf(withoutRareHeapChecks(run.env)), ...tree.env };
  if (run.runtime === "stream-json") {
    const { startStreamJson } = await import("~/agent/stream-json");
    const { exhausted, approaching, allowed_tools: allowedTools, models: modelLimits } = profile;
    const runtime = startStreamJson({
      ...{ command, cwd, env, clock, events, exhausted, approaching, allowedTools, modelLimits },
    });
    tree.started(runtime.pid);
    return runtime;
  }
  const { startPty } = await import("~/agent/pty");
  return await startPty({
    ...{ command, cwd, env, rows, cols, profile, clock, events },
    started: (pid) => tree.started(pid),
    ...people,
  });
}

/**
 * What Claude Code says of a session to all that is started within it. An agent in a terminal of its own is no part of that session, and
 * Claude Code itself refuses to start where the first is set.
 */
const outerSession: ReadonlySet<string> = new Set(["CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT"]);

const inheritedOf = (env: ShimRun["env"]): Record<string, string> =>
  Object.fromEntries(
    Object.entries(env).filter(
      (entry): entry is [string, string] => entry[1] !== undefined && !outerSession.has(entry[0]),
    ),
  );
