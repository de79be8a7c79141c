/**
 * A lock that lives exactly as long as its process: an exclusive SQLite transaction on a file of its own, held open.
 * The kernel drops it when the process ends, however it ends, so there is no stale lock to clean up.
 * Nothing else in this process may open the file: closing any descriptor of it would release the lock (fcntl(2)).
 */
import { Database } from "bun:sqlite";
import { closeSync, openSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { basename } from "node:path";
import { fileExists, storageError } from "~/disk/file";
import { MeshError, systemCodeOf } from "~/errors";

/** Held locks must stay reachable: a collected Database closes its file and with it drops the lock. */
const held = new Map<string, Database>();

export interface Lock {
  release(): void;
}

/** Takes the lock, waiting at most `waitMs` (blocking) for its holder; undefined when somebody else still has it. */
export function tryLock(path: string, waitMs = 0): Lock | undefined {
  if (held.has(path)) return undefined;
  let db: Database | undefined;
  try {
    // For its owner only: whoever can read it could hold a lock on it, and so keep us out.
    if (!fileExists(path)) closeSync(openSync(path, "a", 0o600));
    db = new Database(path, { create: true, readwrite: true });
    db.run(`PRAGMA busy_timeout = ${waitMs}`);
    // Nothing is ever written, so the journal need not be a file, which would be removed by its name at the end.
    db.run("PRAGMA journal_mode = MEMORY");
    db.run("BEGIN EXCLUSIVE");
  } catch (error) {
    db?.close();
    if (systemCodeOf(error)?.startsWith("SQLITE_BUSY")) return undefined;
    const failure = storageError(`cannot lock ${path}`, error);
    if (failure.code !== "database_corrupt") throw failure;
    throw new MeshError("storage_failed", `${path} is no lock of claudemesh: there is something in it`, {
      hint: `Look at what it is, and move it away: mv '${path}' '${path}.old'`,
      cause: error,
    });
  }
  const taken = db;
  held.set(path, taken);
  return {
    release() {
      // Released already; what is held under this path now would be somebody else's.
      if (held.get(path) !== taken) return;
      held.delete(path);
      taken.run("ROLLBACK");
      taken.close();
    },
  };
}

const changeWaitMs = 5_000;

/** The lock of whoever reads, changes and writes a file as one step. Throws `storage_failed` when somebody else keeps it. */
export function lockToChange(path: string): Lock {
  const lock = tryLock(path, changeWaitMs);
  if (lock !== undefined) return lock;
  const holder = lockHolder(path);
  const who = holder === undefined ? "" : ` (pid ${holder.pid}, ${holder.program})`;
  throw new MeshError(
    "storage_failed",
    `another process${who} has held ${path} for ${changeWaitMs / 1000} s`,
    {
      hint: "See which claudemesh command is still running, end it, and try again.",
    },
  );
}

/** Whether some process holds the lock right now; must not be asked by the holder itself. */
export function isLocked(path: string): boolean {
  const lock = tryLock(path);
  lock?.release();
  return lock === undefined;
}

export interface LockHolder {
  pid: number;
  /** The name of its executable. */
  program: string;
  /** The same as that of this process. */
  isOurs: boolean;
}

/**
 * Which other process has a lock on this file, of whatever kind, as the kernel tells (proc_locks(5)). Undefined when nobody has, and
 * where that cannot be told: not on Linux, in another container, on file systems of several layers.
 */
export function lockHolder(path: string): LockHolder | undefined {
  if (process.platform !== "linux") return undefined;
  try {
    const { dev, ino } = statSync(path, { bigint: true });
    const hex = (number: bigint): string => number.toString(16).padStart(2, "0");
    const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & ~0xfffn);
    const minor = (dev & 0xffn) | ((dev >> 12n) & ~0xffn);
    const file = `${hex(major)}:${hex(minor)}:${ino}`;
    // `1: POSIX  ADVISORY  WRITE 4711 fe:00:12345 0 EOF`; one that only waits for it has an arrow after its number.
    const pid = readFileSync("/proc/locks", "latin1")
      .split("\n")
      .map((line) => line.split(/\s+/))
      .filter(([, kind, , , , place]) => kind !== "->" && place === file)
      .map(([, , , , id]) => Number(id))
      .find((id) => id > 0 && id !== process.pid);
    if (pid === undefined) return undefined;
    const program = programOf(pid);
    return { pid, program, isOurs: program === programOf(process.pid) };
  } catch (error) {
    if (systemCodeOf(error) === undefined) throw error;
    return undefined; // It has just ended, or /proc is hidden from us.
  }
}

function programOf(pid: number): string {
  try {
    // An upgrade may have removed it meanwhile.
    return basename(readlinkSync(`/proc/${pid}/exe`).replace(/ \(deleted\)$/, ""));
  } catch (error) {
    if (!["EACCES", "EPERM"].includes(systemCodeOf(error) ?? "")) throw error;
    // Somebody else's process: what it calls itself, then.
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  }
}
