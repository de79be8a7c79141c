/**
 * Where an ephemeral daemon keeps everything: a directory of its own, for its owner only, that goes with it. One that was
 * left over by a killed daemon is removed by the next start; the lock tells whether it is.
 */
import { lstatSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { systemClock } from "~/clock";
import { storageError } from "~/disk/file";
import { tryLock } from "~/disk/lock";
import { MeshError, systemCodeOf } from "~/errors";
import { ephemeralLockSettleMs, ephemeralSettleMs } from "~/wire/limits";
import { checkSocketPath, daemonPaths, hostPaths } from "~/wire/paths";

const prefix = "claudemesh-eph-";
const namePattern = /^claudemesh-eph-[A-Za-z0-9]{6}$/;

type Environment = Readonly<Record<string, string | undefined>>;

/** Where to put it: in memory where the system has such a place for the user, else among the temporary files. */
const candidates = (env: Environment): string[] =>
  [env.XDG_RUNTIME_DIR, env.TMPDIR, "/tmp"].filter((base): base is string => base?.startsWith("/") === true);

/** A new directory, mode 0700, in the first place that takes it and whose path is short enough for a socket. */
export function makeEphemeralDirectory(env: Environment): string {
  let failure: unknown;
  for (const base of candidates(env)) {
    try {
      checkSocketPath(daemonPaths(join(base, `${prefix}XXXXXX`, "daemon")).socket);
      return mkdtempSync(join(base, prefix));
    } catch (error) {
      failure = error;
    }
  }
  if (failure instanceof MeshError) throw failure;
  throw storageError(`cannot make a directory in any of ${candidates(env).join(", ")}`, failure);
}

/** Removes what killed ephemeral daemons of this user left. Returns what it removed. */
export function removeLeftOvers(env: Environment): string[] {
  const removed: string[] = [];
  for (const base of new Set(candidates(env))) {
    for (const name of namesIn(base)) {
      const dir = join(base, name);
      if (namePattern.test(name) && removeIfLeftOver(dir)) removed.push(dir);
    }
  }
  return removed;
}

function namesIn(base: string): string[] {
  try {
    return readdirSync(base);
  } catch (error) {
    if (systemCodeOf(error) === undefined) throw error;
    return []; // Whether it can be used, making the directory will tell.
  }
}

function removeIfLeftOver(dir: string): boolean {
  try {
    const status = lstatSync(dir);
    const isOurs = status.isDirectory() && status.uid === process.getuid?.() && (status.mode & 0o077) === 0;
    if (!isOurs) return false;
    const { lock: lockPath } = daemonPaths(hostPaths({ CLAUDEMESH_CONFIG_DIR: dir }).daemonDir);
    const lockStatus = lstatSync(lockPath, { throwIfNoEntry: false });
    // One that is starting has made its directory, and takes the lock right after making its file.
    const [madeMs, settleMs] =
      lockStatus === undefined
        ? [status.mtimeMs, ephemeralSettleMs]
        : [lockStatus.mtimeMs, ephemeralLockSettleMs];
    if (systemClock.now() - madeMs < settleMs) return false;
    const lock = lockStatus === undefined ? undefined : tryLock(lockPath);
    if (lockStatus !== undefined && lock === undefined) return false;
    try {
      removeEphemeralDirectory(dir);
    } finally {
      lock?.release();
    }
    return true;
  } catch (error) {
    // It is being removed by somebody else, or cannot be by us: either way it does not keep a new one from starting.
    if (error instanceof MeshError || systemCodeOf(error) !== undefined) return false;
    throw error;
  }
}

/** With everything in it. Throws `storage_*`. */
export function removeEphemeralDirectory(dir: string): void {
  try {
    rmSync(dir, { recursive: true, force: true });
  } catch (error) {
    throw storageError(`cannot remove ${dir}`, error);
  }
}

export interface EphemeralDirectory {
  /** Removes it, if it is still the one that was claimed; a second time does nothing. */
  readonly remove: () => void;
}

/** For the daemon that lives in it. Throws `path_unsafe` for one that was not made for this: it goes with everything in it. */
export function claimEphemeralDirectory(dir: string): EphemeralDirectory {
  if (!namePattern.test(basename(dir)) || !lstatSync(dir, { throwIfNoEntry: false })?.isDirectory()) {
    throw new MeshError("path_unsafe", `${dir} was not made for an ephemeral daemon, which would remove it`, {
      hint: "unset CLAUDEMESH_EPHEMERAL_DIR CLAUDEMESH_CONFIG_DIR; claudemesh daemon up --ephemeral makes a directory of its own.",
    });
  }
  const idOf = (): string | undefined => {
    const status = lstatSync(dir, { throwIfNoEntry: false });
    return status && `${status.dev}:${status.ino}`;
  };
  const claimed = idOf();
  return {
    remove: () => {
      try {
        if (claimed !== undefined && idOf() === claimed) removeEphemeralDirectory(dir);
      } catch (error) {
        // What cannot be removed now is a left-over, which the next start tries to remove; the end must not fail by it.
        if (!(error instanceof MeshError) && systemCodeOf(error) === undefined) throw error;
      }
    },
  };
}
