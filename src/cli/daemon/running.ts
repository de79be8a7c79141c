/** The daemon of this host as a process: also when it does not answer, as long as its lock proves that it lives. */
import type { Host } from "~/cli/command";
import { askHealth, daemonClient } from "~/cli/daemon-client";
import { eventually } from "~/cli/server-process";
import { MeshError } from "~/errors";
import type { HealthReply } from "~/wire/ipc";
import { daemonPaths } from "~/wire/paths";

const holderMsMax = 2_000;

export interface RunningDaemon {
  pid: number;
  /** The flags of `daemon up`. */
  startedWith: readonly string[];
  /** Undefined when it did not say. */
  health: HealthReply | undefined;
}

/**
 * The process that holds the lock, when the daemon itself does not say. Undefined when nobody holds it. Throws
 * `daemon_unreachable` when somebody does who cannot be told from here.
 */
export async function findSilentDaemon(host: Host): Promise<RunningDaemon | undefined> {
  const { findHolder } = await import("~/daemon/holder");
  const paths = daemonPaths(host.paths.daemonDir);
  let holder = findHolder(paths);
  // One that has just begun has no record yet, and one that is about to end none any more.
  const isPlain = (): true | undefined => {
    holder = findHolder(paths);
    return holder.kind === "hidden" ? undefined : true;
  };
  if (holder.kind === "hidden") await eventually(isPlain, holderMsMax);
  if (holder.kind === "none") return undefined;
  if (holder.kind === "process") {
    return { pid: holder.pid, startedWith: holder.startedWith, health: undefined };
  }
  throw new MeshError(
    "daemon_unreachable",
    `a daemon holds ${paths.lock} and does not answer, and its process is unknown: ${holder.why}`,
    {
      hint: `See who holds it: lsof '${paths.lock}'. End that process (kill), then start the daemon anew.`,
      details: { lock: paths.lock },
    },
  );
}

/** For who ends it. Asks it, and looks for its process where it does not answer within `timeoutMs`. Undefined when none runs. */
export async function findDaemon(host: Host, timeoutMs?: number): Promise<RunningDaemon | undefined> {
  try {
    const health = await askHealth(daemonClient(host, { endsSkew: true }), timeoutMs);
    if (health !== undefined) return { pid: health.pid, startedWith: health.started_with ?? [], health };
  } catch (error) {
    const isSilent =
      error instanceof MeshError &&
      (error.code === "timed_out" || error.code === "answer_lost" || error.code === "incompatible_daemon");
    const silent = isSilent ? await findSilentDaemon(host) : undefined;
    if (silent === undefined) throw error;
    return silent;
  }
  return await findSilentDaemon(host);
}
