/** The daemon's files while no daemon runs: who works on them holds the daemon's own lock. */
import { ensureOwnDirectory, ensurePrivateDirectory } from "~/disk/file";
import { tryLock } from "~/disk/lock";
import { finishMoves } from "~/disk/moves";
import { MeshError } from "~/errors";
import { type DaemonPaths, daemonPaths, type HostPaths } from "~/wire/paths";

/**
 * Runs `work` while no daemon can start, after what an earlier run was killed at was brought to its end. Throws
 * `already_running`, `path_unsafe` or `storage_*`.
 */
export async function withDaemonStopped<T>(
  host: HostPaths,
  what: string,
  work: (paths: DaemonPaths) => Promise<T>,
): Promise<T> {
  const paths = daemonPaths(host.daemonDir);
  ensureOwnDirectory(host.configDir);
  ensurePrivateDirectory(paths.dir);
  const lock = tryLock(paths.lock);
  if (lock === undefined) {
    throw new MeshError(
      "already_running",
      `a daemon runs with ${paths.dir}: ${what} needs its files for itself`,
      {
        hint: "Stop it first: claudemesh daemon down",
      },
    );
  }
  try {
    finishMoves(paths.moves);
    return await work(paths);
  } finally {
    lock.release();
  }
}
