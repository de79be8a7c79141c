/**
 * The shim as a whole, from its options to its end: takes the connection or the socket, starts the agent, and sees to it that nothing
 * of the agent is left when it goes.
 */
import { type Attachments, openAttachments } from "~/agent/attachment";
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
import { asMeshError } from "~/errors";
import type { RuntimeName } from "~/wire/attachment";
import { shimLogBytesMax } from "~/wire/limits";
import { attachmentSocket } from "~/wire/paths";
import type { ShimEvent } from "~/wire/shim";

export type Way =
  /** A connected socket that was inherited. */
  | { kind: "fd"; fd: number }
  /** Listens there. Detached, the agent goes on when the last orchestrator has gone. */
  | { kind: "socket"; path: string; isDetached: boolean };

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
  const profile =
    run.profile === undefined
      ? profileFor(run.command[0] ?? "", run.configDir)
      : loadProfile(run.profile, run.configDir);
  const early: ShimEvent[] = [];
  let shim: Shim | undefined;
  const orchestrators: Orchestrators = new Orchestrators({
    clock,
    command: (peer, parsed) => shim?.command(peer, parsed),
    allGone: () => {
      if (way.kind === "fd" || !way.isDetached) shim?.abandoned();
    },
  });
  const warn = (message: string): void => {
    const warning: ShimEvent = { event: "Warning", message, idle_secs: null };
    if (shim === undefined) early.push(warning);
    else shim.happened({ kind: "warned", message });
  };
  let log: OutputLog | undefined;
  let tree: AgentTree | undefined;
  let attachments: Attachments | undefined;
  let entrance: Entrance | undefined;
  let runtime: Runtime | undefined;
  try {
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
    shim = new Shim({
      clock,
      tree,
      orchestrators,
      output(bytes) {
        log?.write(bytes);
        attachments?.output(bytes);
      },
      ended: (exit) => attachments?.ended(exit),
      isAttended: () => (attachments?.terminals ?? 0) > 0,
    });
    const hosted = shim;
    entrance =
      way.kind === "fd"
        ? await connectInherited(way.fd, orchestrators)
        : await listenForOrchestrators(way.path, orchestrators);
    for (const event of early) orchestrators.tell(event);
    runtime = await startRuntime(run, profile, tree, hosted, () => attachments?.terminals ?? 0);
    const { pid } = runtime;
    const startedAt = isoTime(clock.now());
    if (way.kind === "socket" && way.isDetached) {
      const { interrupt, resize, snapshot, type } = runtime;
      attachments = openAttachments({
        path: attachmentSocket(way.path),
        clock,
        describe: () => ({
          profile: profile.name,
          runtime: run.runtime,
          pid,
          shim_pid: process.pid,
          command: [...run.command],
          cwd: run.cwd,
          started_at: startedAt,
          log: run.log ?? null,
        }),
        snapshot: snapshot.bind(runtime),
        type: type.bind(runtime),
        interrupt: interrupt.bind(runtime),
        resize: resize.bind(runtime),
        abandoned: () => hosted.abandoned(),
      });
    }
    hosted.started(runtime);
    run.onReady(pid);
    interrupted.addEventListener("abort", () => hosted.abandoned(), { once: true });
    if (interrupted.aborted) hosted.abandoned();
    await hosted.left;
  } catch (error) {
    orchestrators.tell({ event: "Error", command: "startup", reason: asMeshError(error).message });
    throw error;
  } finally {
    await attachments?.close();
    await tree?.end();
    runtime?.close();
    await tree?.close();
    await orchestrators.close();
    entrance?.close();
    log?.close();
  }
}

async function startRuntime(
  run: ShimRun,
  profile: Profile,
  tree: AgentTree,
  { events }: Shim,
  terminals: () => number,
): Promise<Runtime> {
  const { command, cwd, clock, rows, cols } = run;
  const env = { ...definedOf(run.env), ...tree.env };
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
    answersQueries: () => terminals() === 0,
  });
}

const definedOf = (env: ShimRun["env"]): Record<string, string> =>
  Object.fromEntries(
    Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
