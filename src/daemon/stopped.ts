/** The daemon's files while no daemon runs: who works on them holds the daemon's own lock. */
import { lstatSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "~/clock";
import {
  ensureOwnDirectory,
  ensurePrivateDirectory,
  fileExists,
  removeFile,
  storageError,
  temporaryPattern,
} from "~/disk/file";
import { tryLock } from "~/disk/lock";
import { finishMoves } from "~/disk/moves";
import { MeshError } from "~/errors";
import { halfWrittenMs } from "~/wire/limits";
import { type DaemonPaths, daemonPaths, type HostPaths } from "~/wire/paths";

/**
 * What was killed: a recovery or a restore that had set out to change something, and so had prepared it in full, is brought to its
 * end; of others, and of a backup, what they had prepared goes, since it holds messages. To be called by the holder of the lock.
 */
export function finishInterrupted(paths: DaemonPaths): void {
  finishMoves(paths.moves);
  try {
    for (const path of halfWritten(paths.dir)) removeFile(path);
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

/** Files that were to take the place of others, too old for anybody to be still at work on them. */
const halfWritten = (dir: string): string[] =>
  readdirSync(dir)
    .filter((name) => temporaryPattern.test(name))
    .map((name) => join(dir, name))
    .filter(
      (path) =>
        systemClock.now() - (lstatSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0) > halfWrittenMs,
    );

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
