/**
 * How every database here is opened: WAL with `synchronous=FULL`, so that a commit is on disk when it returns
 * (https://www.sqlite.org/pragma.html#pragma_synchronous), owner-only files, and forward-only schema steps counted in
 * `user_version`. Before an older database is brought forward, a copy of it is kept beside it. A database from a newer version is
 * refused and left as it is.
 */
import { Database, SQLiteError, constants as sqliteConstants } from "bun:sqlite";
import {
  chmodSync,
  closeSync,
  constants,
  fsyncSync,
  openSync,
  readdirSync,
  renameSync,
  statSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileBytes, removeFile, storageError, syncDirectory, temporaryPath } from "~/disk/file";
import { removeLeftBehind } from "~/disk/left-behind";
import { MeshError, messageOf, systemCodeOf } from "~/errors";

const busyTimeoutMs = 5_000;
const walAttemptsMax = 100;
const walPauseMs = 10;
/** Far beyond any that there will be. */
const schemaVersionMax = 500;
/** Less than this is opened at once, even from a slow disk. */
const slowBytes = 32 * 1024 * 1024;
/** Of the copies that are made before a database is brought forward, so many stay. */
const copiesKept = 2;

/** Opens or creates the database at `path` (`:memory:` works). Throws `storage_*` or `database_corrupt`. */
export function openSqlite(path: string): Database {
  let db: Database | undefined;
  try {
    if (path !== ":memory:" && fileBytes(path) === undefined) closeSync(openSync(path, "a", 0o600));
    db = new Database(path, { create: true, readwrite: true, strict: true });
    db.run(`PRAGMA busy_timeout = ${busyTimeoutMs}`);
    beginWal(db);
    db.run("PRAGMA synchronous = FULL");
    if (process.platform === "darwin") db.run("PRAGMA fullfsync = ON");
    db.run("PRAGMA foreign_keys = ON");
    if (path !== ":memory:") chmodSync(path, 0o600);
    return db;
  } catch (error) {
    db?.close();
    throw storageError(`cannot open the database ${path}`, error);
  }
}

/** Opens a database that is there, for looking only: neither it nor its log is changed, not even by closing it. */
export function openReadOnly(path: string): Database {
  let db: Database | undefined;
  try {
    const logBytes = fileBytes(`${path}-wal`) ?? 0;
    // SQLite would take it for a new one, and remove the log, which is all that is left of it.
    if (fileBytes(path) === 0 && logBytes > 0)
      throw new MeshError("database_corrupt", `${path} is empty, and its log is not`);
    db = new Database(path, { readonly: true, strict: true });
    db.run(`PRAGMA busy_timeout = ${busyTimeoutMs}`);
    schemaVersionOf(db);
    return db;
  } catch (error) {
    db?.close();
    throw storageError(`cannot open the database ${path}`, error);
  }
}

/**
 * Processes that make a new database at the same moment meet here: to the one that comes while another changes the journal
 * SQLite says "busy" at once, whatever the timeout (https://www.sqlite.org/c3ref/busy_handler.html, "deadlock").
 */
function beginWal(db: Database): void {
  for (let attempt = 1; ; attempt++) {
    try {
      db.run("PRAGMA journal_mode = WAL");
      return;
    } catch (error) {
      const isBusy = systemCodeOf(error)?.startsWith("SQLITE_BUSY") === true;
      if (!isBusy || attempt >= walAttemptsMax) throw error;
      Bun.sleepSync(walPauseMs);
    }
  }
}

/** SQL, or what SQL cannot say. */
export type SchemaStep = string | ((db: Database) => void);

/**
 * Brings the schema up to date: `steps[n]` takes version n to n + 1, each in its own transaction. What is there already is copied
 * first, to `<file>.before-v<n + 1>`. Throws `database_newer` when the file is ahead of `steps`, and `storage_*` or
 * `database_corrupt` when the copy or a step fails, which leaves the version before it.
 */
export function migrate(db: Database, steps: readonly SchemaStep[]): void {
  const present = presentVersionOf(db);
  if (present > steps.length) {
    throw new MeshError(
      "database_newer",
      `${db.filename} has schema version ${present}; this binary knows up to ${steps.length}`,
      { hint: "Run the newer claudemesh that wrote it. The file was left untouched." },
    );
  }
  if (present > 0 && present < steps.length) keepCopy(db, present);
  for (let version = present; version < steps.length; version++) {
    const step = steps[version];
    if (step === undefined) throw new Error(`no step leads on from schema version ${version}`);
    try {
      takeStep(db, version, step);
    } catch (error) {
      throw storageError(`cannot bring ${db.filename} from schema version ${version} to the next`, error);
    }
  }
}

function presentVersionOf(db: Database): number {
  try {
    return schemaVersionOf(db);
  } catch (error) {
    throw storageError(`cannot read ${db.filename}`, error);
  }
}

function takeStep(db: Database, version: number, step: SchemaStep): void {
  db.transaction(() => {
    // Looked up again inside the transaction: another process may have taken the same step meanwhile.
    if (schemaVersionOf(db) !== version) return;
    if (typeof step === "string") db.run(step);
    else step(db);
    db.run(`PRAGMA user_version = ${version + 1}`);
  }).immediate();
}

/** The database as it is, in a file beside it; what an older claudemesh can be given back. */
function keepCopy(db: Database, version: number): void {
  const path = db.filename;
  if (path === "" || path === ":memory:") return;
  try {
    // Each is as large as the database.
    removeLeftBehind(dirname(path), (name) => name.startsWith(copyPrefix(path)));
    snapshot(db, `${path}.before-v${version + 1}`);
    const versionOf = (copy: string): number => Number(copy.slice(copy.lastIndexOf("v") + 1));
    const copies = copiesOf(path).sort((a, b) => versionOf(b) - versionOf(a));
    for (const copy of copies.slice(copiesKept)) removeFile(copy);
  } catch (error) {
    const needed = Math.ceil(statSync(path).size / 1e6);
    const failure = storageError(`cannot keep a copy of ${path} before its schema is brought forward`, error);
    if (failure.code !== "storage_full") throw failure;
    throw new MeshError(failure.code, failure.message, {
      hint: `Free about ${needed} MB there. The database was left untouched.`,
      cause: error,
    });
  }
}

/** Removes the copies of the database at `path` that were made before `beforeMs`, and returns their paths. */
export function removeCopies(path: string, beforeMs: number): string[] {
  const old = copiesOf(path).filter((copy) => {
    const status = statSync(copy, { throwIfNoEntry: false });
    return status?.isFile() === true && status.mtimeMs < beforeMs;
  });
  for (const copy of old) removeFile(copy);
  return old;
}

const copyPrefix = (path: string): string => `${basename(path)}.before-v`;

function copiesOf(path: string): string[] {
  const prefix = copyPrefix(path);
  return readdirSync(dirname(path))
    .filter((name) => name.startsWith(prefix) && /^\d+$/.test(name.slice(prefix.length)))
    .map((name) => join(dirname(path), name));
}

/**
 * Writes the database as it is at this moment, whoever is working with it, to a file for its owner only: whole, flushed and
 * without unused pages, or not at all. An older file at `target` is replaced.
 */
export function snapshot(db: Database, target: string): void {
  const temporary = temporaryPath(target);
  try {
    // SQLite takes an empty file for one that is not there, and leaves its permissions as they are.
    closeSync(openSync(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600));
    db.run("VACUUM INTO ?", [temporary]);
    const fd = openSync(temporary, "r+");
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, target);
    syncDirectory(dirname(target));
  } catch (error) {
    removeFile(temporary);
    throw error;
  }
}

/** Throws `database_corrupt` for a number that no version has. */
export function schemaVersionOf(db: Database): number {
  const row = db.query<{ user_version: number }, []>("PRAGMA user_version").get();
  const version = row?.user_version ?? 0;
  if (version >= 0 && version <= schemaVersionMax) return version;
  throw new MeshError("database_corrupt", `${db.filename} has schema version ${version}, which cannot be`);
}

/** Moves what is in the log file into the database, so that the next start finds the log empty, and closes it. */
export function closeSqlite(db: Database): void {
  try {
    db.run("PRAGMA wal_checkpoint(TRUNCATE)");
  } catch (error) {
    // A log that stays makes the next start check the whole file, which is what a failure here calls for.
    if (!(error instanceof SQLiteError)) throw error;
  } finally {
    db.close();
  }
}

/** What a start says before it opens a database that may take long: one that is large is checked after a crash, and copied before an upgrade. */
export function slowToOpen(path: string): string | undefined {
  const bytes = (fileBytes(path) ?? 0) + (fileBytes(`${path}-wal`) ?? 0);
  return bytes < slowBytes ? undefined : `opening ${path} (${Math.round(bytes / 1e6)} MB)`;
}

/** True when the last process that had this database open did not get to `closeSqlite`. */
export const wasStoppedUncleanly = (path: string): boolean =>
  (statSync(`${path}-wal`, { throwIfNoEntry: false })?.size ?? 0) > 0;

/**
 * What `PRAGMA quick_check` finds wrong, in SQLite's words, when it gets that far; empty when nothing is. `integrity_check` takes
 * longer and compares the indexes with their tables, too.
 */
export function findDamage(db: Database, check: "quick_check" | "integrity_check" = "quick_check"): string[] {
  try {
    const rows = db.query<Record<string, string>, []>(`PRAGMA ${check}(10)`).all();
    return rows.map((row) => row[check] ?? "").filter((text) => text !== "ok");
  } catch (error) {
    const failure = storageError(`cannot check ${db.filename}`, error);
    if (failure.code === "database_corrupt") return [messageOf(error)];
    throw failure;
  }
}

/** Databases that must stay reachable: a collected one is closed. */
const abandoned: Database[] = [];

/**
 * Leaves a database to the end of the process, as one does whose directory has become somebody else's: closing removes the log by
 * its name, which is the name of theirs.
 */
export function abandonSqlite(db: Database): void {
  // The runtime closes what is open when the process ends.
  db.fileControl(sqliteConstants.SQLITE_FCNTL_PERSIST_WAL, 1);
  abandoned.push(db);
}
