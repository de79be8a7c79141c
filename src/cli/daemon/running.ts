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
  /** Why this process cannot start another one in its place: a sandbox forbids it Unix sockets. */
  forbidden?: MeshError | undefined;
}

/**
 * The process that holds the lock, when the daemon itself does not say. Undefined when nobody holds it. Throws `daemon_unreachable`
 * when that is no daemon, or cannot be told from here.
 */
export async function findSilentDaemon(host: Host): Promise<RunningDaemon | undefined> {
  const { findHolder, heldByOther } = await import("~/daemon/holder");
  const paths = daemonPaths(host.paths.daemonDir);
  let holder = findHolder(paths);
  // One that has just begun has no record yet, and one that is about to end none any more.
  const isPlain = (): true | undefined => {
    holder = findHolder(paths);
    return holder.kind === "hidden" || (holder.kind === "other" && holder.isOurs) ? undefined : true;
  };
  await eventually(isPlain, holderMsMax);
  if (holder.kind === "none") return undefined;
  if (holder.kind === "process") {
    return { pid: holder.pid, startedWith: holder.startedWith, health: undefined };
  }
  if (holder.kind === "other") throw heldByOther("daemon_unreachable", paths, holder);
  throw new MeshError(
    "daemon_unreachable",
    `a daemon holds ${paths.lock} and does not answer, and its process is unknown: ${holder.why}`,
    {
      hint: `See who holds it: lsof '${paths.lock}'. End that process (kill), then: claudemesh daemon up`,
      details: { lock: paths.lock },
    },
  );
}

/** For who ends it. Asks it, and looks for its process where it does not answer within `timeoutMs`. Undefined when none runs. */
export async function findDaemon(host: Host, timeoutMs?: number): Promise<RunningDaemon | undefined> {
  const client = daemonClient(host, { endsSkew: true });
  try {
    const health = await askHealth(client, timeoutMs);
    if (health !== undefined) {
      const { forbidden } = client.way;
      return { pid: health.pid, startedWith: health.started_with ?? [], health, forbidden };
    }
  } catch (error) {
    const isSilent =
      error instanceof MeshError &&
      (error.code === "timed_out" || error.code === "answer_lost" || error.code === "incompatible_daemon");
    const silent = isSilent ? await findSilentDaemon(host) : undefined;
    if (silent === undefined) throw error;
    return { ...silent, forbidden: client.way.forbidden };
  }
  return await findSilentDaemon(host);
}

/**
 * For who is about to end the process that a daemon calls its own. Throws `daemon_unreachable` when that is another one here. The
 * daemon of an older version has no record: it is believed.
 */
export async function refuseStranger(daemonDir: string, pid: number): Promise<void> {
  const { isRecorded } = await import("~/daemon/holder");
  const paths = daemonPaths(daemonDir);
  if (pid > 0 && isRecorded(paths, pid) !== false) return;
  throw new MeshError(
    "daemon_unreachable",
    `a daemon answers and says that it is process ${pid}, which is not the one here that ${paths.record} names: it may run in another container`,
    {
      hint: `Nothing was ended. Stop it where it runs; lsof '${paths.socket}' shows who serves it, if it is on this host.`,
      details: { pid },
    },
  );
}
