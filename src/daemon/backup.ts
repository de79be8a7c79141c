/**
 * `daemon backup`: everything of this host that cannot be made again, in one file that only a passphrase opens. Each database is
 * copied as it is at one moment, whether or not a daemon works with it. Inside the vault (identity/vault.ts) stands: the length of
 * a manifest in 4 bytes (big-endian), the manifest (JSON), and the files that it lists, one after the other.
 */
import { constants, linkSync, mkdirSync, renameSync, rmSync, statSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import * as v from "valibot";
import { isoTime } from "~/clock";
import { wasEmptied } from "~/daemon/emptied";
import { withDaemonStopped } from "~/daemon/stopped";
import {
  ensureOwnDirectory,
  ensurePrivateDirectory,
  fileExists,
  readTextFile,
  removeFile,
  storageError,
  syncDirectory,
} from "~/disk/file";
import { tryLock } from "~/disk/lock";
import { openReadOnly, snapshot } from "~/disk/sqlite";
import { MeshError, systemCodeOf } from "~/errors";
import { parseConfig } from "~/identity/config";
import { type KeyCost, sealVault } from "~/identity/vault";
import { version } from "~/version";
import { type DaemonPaths, daemonPaths, type HostPaths } from "~/wire/paths";

/** Everything that a backup may hold, by the name that it has in there. */
export const backupNames = ["config.json", "config.toml", "outbox.db", "inbox.db", "directory.db"] as const;
export type BackupName = (typeof backupNames)[number];

const FileSize = v.pipe(v.number(), v.integer(), v.minValue(0));
export const BackupManifest = v.strictObject({
  version: v.literal(1),
  made_at: v.pipe(v.string(), v.isoTimestamp()),
  claudemesh_version: v.string(),
  files: v.pipe(
    v.array(v.strictObject({ name: v.picklist(backupNames), bytes: FileSize })),
    v.check(
      (files) => new Set(files.map(({ name }) => name)).size === files.length,
      "a file is listed twice",
    ),
  ),
});
export type BackupManifest = v.InferOutput<typeof BackupManifest>;

export interface BackupOptions {
  paths: HostPaths;
  file: string;
  passphrase: string;
  /** Replace what is at `file`. */
  force: boolean;
  nowMs: number;
  signal: AbortSignal;
  /** For tests: less than usual. */
  cost?: KeyCost;
}

export interface BackedUp {
  file: string;
  bytes: number;
  made_at: string;
  contents: BackupManifest["files"];
}

/** Throws `already_exists`, `no_mesh` (there is nothing to back up), `config_*`, `database_*` or `storage_*`. */
export async function backUpHost(options: BackupOptions): Promise<BackedUp> {
  const { paths: host, nowMs } = options;
  const target = resolve(options.file);
  if (!options.force && fileExists(target)) throw alreadyThere(target);
  const paths = daemonPaths(host.daemonDir);
  if (!fileExists(host.configFile) && !fileExists(paths.outbox)) {
    throw new MeshError(
      "no_mesh",
      `there is nothing to back up: neither ${host.configFile} nor ${paths.outbox}`,
      {
        hint: "CLAUDEMESH_CONFIG_DIR and CLAUDEMESH_DAEMON_DIR say where to look.",
      },
    );
  }
  ensureOwnDirectory(host.configDir);
  ensurePrivateDirectory(paths.dir);
  // Half of a recovery or a restore is nothing to keep.
  if (fileExists(paths.moves))
    await withDaemonStopped(host, "finishing what was cut off", async () => undefined);
  // Not the daemon's lock, which a running one holds.
  const lock = tryLock(`${paths.staging}.lock`);
  if (lock === undefined)
    throw new MeshError("already_running", `another backup of ${paths.dir} is being made`, {
      hint: "Wait for its end.",
    });
  try {
    emptyDirectory(paths.staging);
    const parts = gather(host, paths);
    const made_at = isoTime(nowMs);
    const files = parts.map(({ name, bytes }) => ({ name, bytes }));
    const manifest: BackupManifest = { version: 1, made_at, claudemesh_version: version, files };
    const bytes = await writeTarget(target, options, contentOf(manifest, parts, options.signal));
    return { file: target, bytes, made_at, contents: files };
  } finally {
    rmSync(paths.staging, { recursive: true, force: true });
    lock.release();
  }
}

const alreadyThere = (target: string): MeshError =>
  new MeshError("already_exists", `${target} is there already`, {
    hint: "Choose another name, or replace it with --force.",
  });

/** A new directory; what a run left behind that was killed goes first. */
export function emptyDirectory(path: string): void {
  try {
    rmSync(path, { recursive: true, force: true });
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    throw storageError(`cannot make ${path}`, error);
  }
}

interface Part {
  name: BackupName;
  bytes: number;
  content: Uint8Array | { path: string };
}

function gather(host: HostPaths, paths: DaemonPaths): Part[] {
  const parts: Part[] = [];
  const config = readTextFile(host.configFile);
  if (config !== undefined) {
    // What could not be restored is better known now.
    parseConfig(config, host.configFile);
    parts.push(partOf("config.json", config));
  }
  const settings = readTextFile(host.settingsFile);
  if (settings !== undefined) parts.push(partOf("config.toml", settings));
  if (wasEmptied(paths)) throw damagedDatabase(paths.outbox, "it is empty");
  const databases = {
    "outbox.db": paths.outbox,
    "inbox.db": paths.inbox,
    "directory.db": paths.directory,
  } as const;
  for (const name of ["outbox.db", "inbox.db", "directory.db"] as const) {
    if (!fileExists(databases[name])) continue;
    const path = join(paths.staging, name);
    copyDatabase(databases[name], path);
    parts.push({ name, bytes: statSync(path).size, content: { path } });
  }
  return parts;
}

const partOf = (name: BackupName, text: string): Part => {
  const content = Buffer.from(text);
  return { name, bytes: content.length, content };
};

function copyDatabase(path: string, copy: string): void {
  try {
    const db = openReadOnly(path);
    try {
      snapshot(db, copy);
    } finally {
      db.close();
    }
  } catch (error) {
    const failure = storageError(`cannot copy ${path}`, error);
    throw failure.code === "database_corrupt" ? damagedDatabase(path, failure.message) : failure;
  }
}

const damagedDatabase = (path: string, why: string): MeshError =>
  new MeshError("database_corrupt", `${path} is damaged: ${why}`, {
    hint: "Mend it first: claudemesh daemon down, then claudemesh daemon recover",
  });

async function* contentOf(
  manifest: BackupManifest,
  parts: readonly Part[],
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const text = Buffer.from(JSON.stringify(manifest));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(text.length);
  yield Buffer.concat([length, text]);
  for (const { content } of parts) {
    if (!("path" in content)) {
      yield content;
      continue;
    }
    for await (const piece of Bun.file(content.path).stream()) {
      signal.throwIfAborted();
      yield piece;
    }
  }
}

/** Written beside its place and then put there whole. Returns its size. */
async function writeTarget(
  target: string,
  { passphrase, cost, force }: BackupOptions,
  content: AsyncIterable<Uint8Array>,
): Promise<number> {
  const temporary = join(
    dirname(target),
    `.${basename(target)}.${process.pid}.${crypto.randomUUID().slice(0, 8)}.tmp`,
  );
  let bytes = 0;
  try {
    const file = await open(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
    try {
      for await (const piece of sealVault(content, passphrase, cost)) {
        await writeWhole(file, piece);
        bytes += piece.length;
      }
      await file.sync();
    } finally {
      await file.close();
    }
    if (force) renameSync(temporary, target);
    else putNew(temporary, target);
    syncDirectory(dirname(target));
    return bytes;
  } catch (error) {
    if (systemCodeOf(error) === "EEXIST") throw alreadyThere(target);
    if (systemCodeOf(error) === undefined) throw error;
    throw storageError(`cannot write ${target}`, error);
  } finally {
    removeFile(temporary);
  }
}

async function writeWhole(file: FileHandle, piece: Uint8Array): Promise<void> {
  for (let at = 0; at < piece.length; ) at += (await file.write(piece, at)).bytesWritten;
}

/** Never over a file that came meanwhile, where the file system can tell. */
function putNew(temporary: string, target: string): void {
  try {
    linkSync(temporary, target);
  } catch (error) {
    if (systemCodeOf(error) === "EEXIST" || fileExists(target)) throw error;
    renameSync(temporary, target);
  }
}
