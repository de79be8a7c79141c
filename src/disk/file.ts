/**
 * Files that survive a crash: written whole beside their place, flushed, renamed over it, the directory flushed too.
 * A reader sees the old content or the new, never a part. Directories and files here are for their owner only.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  type Stats,
  statSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { MeshError, messageOf, systemCodeOf, worldHintOf } from "~/errors";
import { faultOf } from "~/wire/fault";

/** A file that is to take the place of `target` when it is whole. What a killed process leaves of it, disk/left-behind.ts removes. */
export const temporaryPath = (target: string): string =>
  `${target}.${process.pid}.${crypto.randomUUID().slice(0, 8)}.tmp`;

/** Replaces `path` with `content`; a symbolic link is followed, so that a link in a dotfiles tree stays one. */
export function writeFileAtomic(path: string, content: string | Uint8Array, mode = 0o600): void {
  const target = realPathOrSelf(path);
  const temporary = temporaryPath(target);
  const bytes = typeof content === "string" ? Buffer.from(content) : content;
  let isBegun = false;
  try {
    const fd = openSync(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, mode);
    isBegun = true;
    try {
      // The umask has taken from it what others may have.
      if ((mode & 0o077) !== 0) fchmodSync(fd, mode);
      for (let written = 0; written < bytes.length; ) written += writeSync(fd, bytes, written);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, target);
    syncDirectory(dirname(target));
  } catch (error) {
    if (isBegun) removeFile(temporary);
    throw storageError(`cannot write ${path}`, error);
  }
}

/** The file's text, or undefined when there is no such file. */
export function readTextFile(path: string): string | undefined {
  return readFileIfThere(path)?.toString("utf8");
}

/**
 * The file's bytes, or undefined when there is no such file. A pipe or a device is refused: reading one may never end, and nothing
 * else in this process would go on meanwhile. `check` sees the very file before it is read, and throws to have it left alone.
 */
export function readFileIfThere(path: string, check?: (status: Stats) => void): Buffer | undefined {
  try {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const status = fstatSync(fd);
      if (!status.isFile() && !status.isDirectory())
        throw new MeshError("storage_failed", `cannot read ${path}: it is no regular file`, {
          hint: "Look at what is there, and move it away.",
        });
      check?.(status);
      return readFileSync(fd);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    if (error instanceof MeshError) throw error;
    if (systemCodeOf(error) === "ENOENT") return undefined;
    throw new MeshError("storage_failed", `cannot read ${path}: ${systemCodeOf(error) ?? String(error)}`, {
      hint: "Check that it is a file, who owns it, and its permissions.",
      cause: error,
    });
  }
}

/** Removes a file; one that is already gone is fine. */
export function removeFile(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (systemCodeOf(error) !== "ENOENT") throw storageError(`cannot remove ${path}`, error);
  }
}

/** Makes sure that the directory exists (0700 when it has to be made) and that nobody else can write to it. */
export function ensureOwnDirectory(path: string): void {
  createDirectory(path);
  refuseIfOpen(path, statSync(path), 0o022);
}

/**
 * Makes `path` a directory that only its owner can enter, creating it (0700) when it is missing. One that is a symbolic
 * link, belongs to somebody else or is open to others is refused: `path_unsafe`.
 */
export function ensurePrivateDirectory(path: string): void {
  createDirectory(path);
  const status = lstatSync(path);
  if (!status.isDirectory()) {
    throw new MeshError(
      "path_unsafe",
      `${path} is ${status.isSymbolicLink() ? "a symbolic link" : "not a directory"}`,
      {
        hint: "Remove it, or choose another place with CLAUDEMESH_DAEMON_DIR (daemon) or --data (broker).",
      },
    );
  }
  refuseIfOpen(path, status, 0o077);
}

function createDirectory(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw storageError(`cannot create the directory ${path}`, error);
  }
}

function refuseIfOpen(path: string, status: Stats, forbidden: number): void {
  const uid = process.getuid?.();
  if (uid !== undefined && status.uid !== uid) {
    throw new MeshError("path_unsafe", `${path} belongs to user id ${status.uid}, not to you (${uid})`, {
      hint: `Change its owner (chown ${uid} '${path}'), or choose another directory.`,
    });
  }
  if ((status.mode & forbidden) !== 0) {
    throw new MeshError(
      "path_unsafe",
      `${path} is open to other users (mode ${(status.mode & 0o777).toString(8)})`,
      {
        hint: `chmod 700 '${path}'`,
      },
    );
  }
}

export function fileExists(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}

/** The size of a file; undefined when there is none. Something else that is there is refused: opening it may never end. */
export function fileBytes(path: string): number | undefined {
  const status = statSync(path, { throwIfNoEntry: false });
  if (status === undefined) return undefined;
  if (status.isFile()) return status.size;
  throw new MeshError("storage_failed", `${path} is no regular file`, {
    hint: "Look at what is there, and move it away.",
  });
}

/** A system or SQLite error as a MeshError that tells a full disk and a read-only one from the rest. */
export function storageError(what: string, error: unknown): MeshError {
  if (error instanceof MeshError) return error;
  const code = systemCodeOf(error) ?? "";
  // On a full disk SQLite cannot enlarge the file that its log is shared by either (https://www.sqlite.org/rescode.html).
  if (["SQLITE_FULL", "SQLITE_IOERR_SHMSIZE", "ENOSPC", "EDQUOT"].includes(code)) {
    return new MeshError("storage_full", `${what}: no space left on the disk`, {
      hint: "Free some space; nothing was half-written, and the same request can be made again.",
      cause: error,
    });
  }
  if (code.startsWith("SQLITE_READONLY") || code === "EROFS" || code === "EACCES" || code === "EPERM") {
    return new MeshError("storage_read_only", `${what}: it cannot be written (${code})`, {
      hint: "Check the owner and permissions of the file and its directory, and whether the disk is mounted read-only.",
      cause: error,
    });
  }
  if (code.startsWith("SQLITE_CORRUPT") || code === "SQLITE_NOTADB") {
    return new MeshError("database_corrupt", `${what}: the file is damaged or not a database (${code})`, {
      cause: error,
    });
  }
  const why = code.startsWith("SQLITE_")
    ? `${messageOf(error)} (${code})`
    : code === ""
      ? `${error instanceof Error ? `${error.name}: ` : ""}${faultOf(error)}`
      : code;
  const hint = code.startsWith("SQLITE_CANTOPEN")
    ? "Check that it is a file, who owns it, its permissions and its directory's, and whether new files can be made there (df -i)."
    : ["ENOTDIR", "EEXIST", "EISDIR", "ELOOP"].includes(code)
      ? "Look at what is there: a file may stand where a directory belongs, or the other way round."
      : worldHintOf(error);
  return new MeshError("storage_failed", `${what}: ${why}`, { hint, cause: error });
}

/** Where a symbolic link leads; the path itself when there is nothing yet. */
export function realPathOrSelf(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return path;
    throw storageError(`cannot resolve ${path}`, error);
  }
}

/** Makes what was created, renamed or removed in the directory last. */
export function syncDirectory(path: string): void {
  const fd = openSync(path, constants.O_RDONLY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
