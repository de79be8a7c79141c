/**
 * `daemon restore`: puts back what a backup holds, all of it or nothing. It is unpacked and checked beside its place; what was there
 * before is moved aside, never removed. This host is accepted as the one that the files belong to.
 */
import {
  closeSync,
  constants,
  fsyncSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import * as v from "valibot";
import { BackupManifest, type BackupName, emptyDirectory } from "~/daemon/backup";
import { directorySchemaVersion } from "~/daemon/db/directory";
import { Inbox, inboxSchemaVersion } from "~/daemon/db/inbox";
import { outboxSchemaVersion } from "~/daemon/db/outbox";
import { withDaemonStopped } from "~/daemon/stopped";
import { fileBytes, fileExists, realPathOrSelf, removeFile, storageError, syncDirectory } from "~/disk/file";
import { lockToChange } from "~/disk/lock";
import { type Move, moveTogether } from "~/disk/moves";
import { closeSqlite, findDamage, openReadOnly, openSqlite, schemaVersionOf } from "~/disk/sqlite";
import { MeshError, systemCodeOf } from "~/errors";
import { parseConfig } from "~/identity/config";
import { acceptHost } from "~/identity/host";
import { remintPlanFile } from "~/identity/remint-plan";
import { openVault, type VaultSource } from "~/identity/vault";
import { backupConfigBytesMax, backupManifestBytesMax } from "~/wire/limits";
import type { DaemonPaths, HostPaths } from "~/wire/paths";

export interface RestoreOptions {
  paths: HostPaths;
  file: string;
  passphrase: string;
  /** Move what is there aside. */
  replace: boolean;
  nowMs: number;
  signal: AbortSignal;
}

export interface Restored {
  made_at: string;
  claudemesh_version: string;
  contents: BackupManifest["files"];
  /** Where what was there before is now. */
  moved_aside: string[];
}

/** Throws `already_exists`, `already_running`, `wrong_passphrase`, `backup_damaged`, `database_newer` or `storage_*`; then nothing was changed. */
export async function restoreHost(options: RestoreOptions): Promise<Restored> {
  const source = openSource(resolve(options.file));
  try {
    const content = new Content(openVault(source, options.passphrase), source.name, options.signal);
    // Read before anything is made here: a wrong passphrase leaves no trace.
    const manifest = await readManifest(content);
    return await withDaemonStopped(options.paths, "restoring", (paths) =>
      restore(options, paths, manifest, content),
    );
  } finally {
    source.close();
  }
}

async function restore(
  { paths: host, replace, nowMs }: RestoreOptions,
  paths: DaemonPaths,
  manifest: BackupManifest,
  content: Content,
): Promise<Restored> {
  const places = placesOf(host, paths);
  const present = [
    // A log that was left behind would be taken for that of the database which is put there.
    ...places.flatMap(({ name, path }) =>
      name.endsWith(".db") ? [path, `${path}-wal`, `${path}-shm`] : [path],
    ),
    paths.hostRecord,
    remintPlanFile(host.configDir),
  ].filter(fileExists);
  const first = present.find(
    (path) => path !== paths.hostRecord && !path.endsWith("-shm") && fileBytes(path) !== 0,
  );
  if (first !== undefined && !replace) {
    throw new MeshError("already_exists", `there is something here already: ${first}`, {
      hint: "claudemesh daemon restore --replace moves it aside. Or set CLAUDEMESH_CONFIG_DIR to restore into another directory.",
    });
  }
  const lock = lockToChange(`${host.configFile}.lock`);
  const staged = places.map((place) => place.staged);
  try {
    emptyDirectory(paths.restoring);
    for (const path of staged) removeFile(path);
    for (const { name, bytes } of manifest.files) {
      const place = places.find((candidate) => candidate.name === name);
      if (place === undefined) throw new Error(`${name} has no place`);
      await unpack(content, place.staged, bytes);
      place.check?.(place.staged);
    }
    await content.expectEnd();
    passPlaces(join(paths.restoring, "inbox.db"), nowMs);
    for (const directory of new Set(staged.map(dirname))) syncDirectory(directory);
    const aside = movesAside(present, paths, nowMs);
    const moves = places.map(({ path, staged }) => ({ from: staged, to: path }));
    moveTogether(paths.moves, [...aside, ...moves]);
    acceptHost(paths.hostRecord, nowMs);
    const { made_at, claudemesh_version, files } = manifest;
    return { made_at, claudemesh_version, contents: files, moved_aside: movedAside(aside) };
  } finally {
    // What is still to be moved is carried to its end by whoever comes next.
    if (!fileExists(paths.moves)) {
      for (const path of staged) removeFile(path);
      rmSync(paths.restoring, { recursive: true, force: true });
    }
    lock.release();
  }
}

// ── Places ──────────────────────────────────────────────────────────────────────────────────────────────────────────

interface Place {
  name: BackupName;
  path: string;
  /** On the same file system. */
  staged: string;
  check?: (staged: string) => void;
}

function placesOf(host: HostPaths, paths: DaemonPaths): Place[] {
  // A link in a dotfiles tree stays one.
  const configFile = realPathOrSelf(host.configFile);
  const settingsFile = realPathOrSelf(host.settingsFile);
  const database = (name: BackupName, path: string, table: string, versionMax: number): Place => ({
    name,
    path,
    staged: join(paths.restoring, name),
    check: (staged) => checkDatabase(staged, name, table, versionMax),
  });
  return [
    {
      name: "config.json",
      path: configFile,
      staged: `${configFile}.restoring`,
      check: (staged) => void parseConfig(readFileSync(staged, "utf8"), "config.json in the backup"),
    },
    { name: "config.toml", path: settingsFile, staged: `${settingsFile}.restoring` },
    database("outbox.db", paths.outbox, "outbox", outboxSchemaVersion),
    database("inbox.db", paths.inbox, "inbox", inboxSchemaVersion),
    database("directory.db", paths.directory, "first_keys", directorySchemaVersion),
  ];
}

function checkDatabase(path: string, name: BackupName, table: string, versionMax: number): void {
  const db = openStaged(path, name);
  try {
    const version = schemaVersionOf(db);
    if (version > versionMax) {
      throw new MeshError(
        "database_newer",
        `${name} in the backup has schema version ${version}; this binary knows up to ${versionMax}`,
        {
          hint: "Restore it with the newer claudemesh that made it. Nothing was changed.",
        },
      );
    }
    const [damage] = findDamage(db);
    const hasTable =
      db.query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?").get(table) !== null;
    const why = damage ?? (hasTable || version === 0 ? undefined : `there is no table ${table} in it`);
    if (why !== undefined) throw unusable(`${name} in the backup is damaged: ${why}`);
  } finally {
    db.close();
  }
}

/** Readers go on from places that were given out since the backup was made, and would miss what comes until it had come as far. */
function passPlaces(path: string, nowMs: number): void {
  if (fileBytes(path) === undefined) return;
  const db = openSqlite(path);
  try {
    if (schemaVersionOf(db) > 0) new Inbox(db).beginAfter(nowMs);
  } catch (error) {
    throw storageError(`cannot write ${path}; nothing was changed`, error);
  } finally {
    closeSqlite(db);
  }
}

function openStaged(path: string, name: BackupName): ReturnType<typeof openReadOnly> {
  try {
    return openReadOnly(path);
  } catch (error) {
    if (!(error instanceof MeshError) || error.code !== "database_corrupt") throw error;
    throw unusable(`${name} in the backup is no database`);
  }
}

function movesAside(present: readonly string[], paths: DaemonPaths, nowMs: number): Move[] {
  const mark = `before-restore-${nowMs}`;
  return present.map((from) => ({
    from,
    to: dirname(from) === paths.dir ? join(paths.dir, mark, basename(from)) : `${from}.${mark}`,
  }));
}

const movedAside = (moves: readonly Move[]): string[] => moves.map(({ to }) => to).filter(fileExists);

// ── Content ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const unusable = (message: string): MeshError =>
  new MeshError("backup_damaged", message, { hint: "Use another backup. Nothing was changed." });

/** The content of a vault, taken in portions of a given size. */
class Content {
  readonly #pieces: AsyncIterator<Uint8Array>;
  readonly #name: string;
  readonly #signal: AbortSignal;
  #rest: Uint8Array = new Uint8Array();

  constructor(pieces: AsyncIterator<Uint8Array>, name: string, signal: AbortSignal) {
    this.#pieces = pieces;
    this.#name = name;
    this.#signal = signal;
  }

  async *take(bytes: number): AsyncGenerator<Uint8Array> {
    for (let left = bytes; left > 0; ) {
      if (this.#rest.length === 0 && !(await this.#next()))
        throw unusable(`${this.#name} holds less than it lists`);
      const portion = this.#rest.subarray(0, left);
      this.#rest = this.#rest.subarray(portion.length);
      left -= portion.length;
      yield portion;
    }
  }

  /** Reads on to the end, where the vault says whether it is the right one. */
  async expectEnd(): Promise<void> {
    while (this.#rest.length === 0) if (!(await this.#next())) return;
    throw unusable(`${this.#name} holds more than it lists`);
  }

  async #next(): Promise<boolean> {
    this.#signal.throwIfAborted();
    const { done, value } = await this.#pieces.next();
    if (done === true) return false;
    this.#rest = value;
    return true;
  }
}

async function readManifest(content: Content): Promise<BackupManifest> {
  const length = (await collected(content.take(4))).readUInt32BE(0);
  if (length > backupManifestBytesMax) throw unusable("the list of contents is too long");
  const text = (await collected(content.take(length))).toString("utf8");
  const manifest = v.safeParse(v.pipe(v.string(), v.parseJson(), BackupManifest), text);
  if (!manifest.success) throw unusable("the list of contents cannot be understood");
  return manifest.output;
}

async function collected(pieces: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const piece of pieces) parts.push(piece);
  return Buffer.concat(parts);
}

async function unpack(content: Content, path: string, bytes: number): Promise<void> {
  if (!path.endsWith(".db") && bytes > backupConfigBytesMax)
    throw unusable(`${path} would have ${bytes} bytes`);
  try {
    const fd = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
    try {
      for await (const piece of content.take(bytes))
        for (let at = 0; at < piece.length; ) at += writeSync(fd, piece, at);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    if (systemCodeOf(error) === undefined) throw error;
    throw storageError(`cannot write ${path}; nothing was changed`, error);
  }
}

function openSource(path: string): VaultSource & { close(): void } {
  let fd: number;
  let bytes: number | undefined;
  try {
    bytes = fileBytes(path);
    fd = openSync(path, "r");
  } catch (error) {
    if (error instanceof MeshError) throw error;
    throw new MeshError("storage_failed", `cannot read ${path}: ${systemCodeOf(error) ?? String(error)}`, {
      hint: "Check the name of the file, who owns it and its permissions.",
      cause: error,
    });
  }
  return {
    name: path,
    bytes: bytes ?? 0,
    async read(offset, length) {
      const bytes = Buffer.alloc(length);
      try {
        return bytes.subarray(0, readSync(fd, bytes, 0, length, offset));
      } catch (error) {
        throw storageError(`cannot read ${path}`, error);
      }
    },
    close: () => closeSync(fd),
  };
}
