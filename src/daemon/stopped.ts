/** The daemon's files while no daemon runs: who works on them holds the daemon's own lock. */
import { rmSync } from "node:fs";
import { findHolder, heldByOther } from "~/daemon/holder";
import {
  ensureOwnDirectory,
  ensurePrivateDirectory,
  fileExists,
  removeFile,
  storageError,
} from "~/disk/file";
import { removeLeftBehind } from "~/disk/left-behind";
import { tryLock } from "~/disk/lock";
import { finishMoves } from "~/disk/moves";
import { MeshError } from "~/errors";
import { type DaemonPaths, daemonPaths, type HostPaths } from "~/wire/paths";

/**
 * What was killed: a recovery or a restore that had set out to change something, and so had prepared it in full, is brought to its
 * end; of others, and of a backup, what they had prepared goes, since it holds messages. To be called by the holder of the lock.
 */
export function finishInterrupted(paths: DaemonPaths): void {
  finishMoves(paths.moves);
  try {
    removeLeftBehind(paths.dir);
    rmSync(paths.restoring, { recursive: true, force: true });
    for (const path of [paths.outbox, paths.inbox, paths.directory])
      for (const suffix of ["", "-wal", "-shm"]) removeFile(recoveringPath(path) + suffix);
    // A backup may be under way beside the daemon.
    const backup = fileExists(paths.staging) ? tryLock(`${paths.staging}.lock`) : undefined;
    if (backup === undefined) return;
    rmSync(paths.staging, { recursive: true, force: true });
    backup.release();
  } catch (error) {
    throw storageError(`cannot remove what was left behind in ${paths.dir}`, error);
  }
}

/** Where a database is made that is to take the place of the one at `path`. */
export const recoveringPath = (path: string): string => `${path}.recovering`;

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
    const holder = findHolder(paths);
    if (holder.kind === "other") throw heldByOther("storage_failed", paths, holder);
    throw new MeshError(
      "already_running",
      `a daemon runs with ${paths.dir}: ${what} needs its files for itself`,
      {
        hint: "Stop it first: claudemesh daemon down",
      },
    );
  }
  try {
    finishInterrupted(paths);
    return await work(paths);
  } finally {
    lock.release();
  }
}
