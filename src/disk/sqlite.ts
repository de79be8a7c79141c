/**
 * How every database here is opened: WAL with `synchronous=FULL`, so that a commit is on disk when it returns
 * (https://www.sqlite.org/pragma.html#pragma_synchronous), owner-only files, and forward-only schema steps counted in
 * `user_version`. A database from a newer version is refused and left as it is.
 */
import { Database, SQLiteError } from "bun:sqlite";
import { chmodSync, closeSync, openSync, statSync } from "node:fs";
import { fileExists, storageError } from "~/disk/file";
import { MeshError, messageOf, systemCodeOf } from "~/errors";

const busyTimeoutMs = 5_000;
const walAttemptsMax = 100;
const walPauseMs = 10;

/** Opens or creates the database at `path` (`:memory:` works). Throws `storage_*` or `database_corrupt`. */
export function openSqlite(path: string): Database {
  let db: Database | undefined;
  try {
    if (path !== ":memory:" && !fileExists(path)) closeSync(openSync(path, "a", 0o600));
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
 * Brings the schema up to date: `steps[n]` takes version n to n + 1, each in its own transaction.
 * Throws `database_newer` when the file is ahead of `steps`, and `storage_*` or `database_corrupt` when a step fails, which
 * leaves the version before it.
 */
export function migrate(db: Database, steps: readonly SchemaStep[]): void {
  const present = schemaVersionOf(db);
  if (present > steps.length) {
    throw new MeshError(
      "database_newer",
      `${db.filename} has schema version ${present}; this binary knows up to ${steps.length}`,
      { hint: "Run the newer claudemesh that wrote it. The file was left untouched." },
    );
  }
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

function takeStep(db: Database, version: number, step: SchemaStep): void {
  db.transaction(() => {
    // Looked up again inside the transaction: another process may have taken the same step meanwhile.
    if (schemaVersionOf(db) !== version) return;
    if (typeof step === "string") db.run(step);
    else step(db);
    db.run(`PRAGMA user_version = ${version + 1}`);
  }).immediate();
}

export function schemaVersionOf(db: Database): number {
  const row = db.query<{ user_version: number }, []>("PRAGMA user_version").get();
  return row?.user_version ?? 0;
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

/** True when the last process that had this database open did not get to `closeSqlite`. */
export const wasStoppedUncleanly = (path: string): boolean =>
  (statSync(`${path}-wal`, { throwIfNoEntry: false })?.size ?? 0) > 0;

/** What `PRAGMA quick_check` finds wrong, in SQLite's words, when it gets that far; empty when nothing is. */
export function findDamage(db: Database): string[] {
  try {
    const rows = db.query<{ quick_check: string }, []>("PRAGMA quick_check(10)").all();
    return rows.map((row) => row.quick_check).filter((text) => text !== "ok");
  } catch (error) {
    const failure = storageError(`cannot check ${db.filename}`, error);
    if (failure.code === "database_corrupt") return [messageOf(error)];
    throw failure;
  }
}
