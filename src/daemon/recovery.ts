/**
 * `daemon recover`: looks closely at the daemon's databases and puts a new one in the place of each that is damaged. The outbox
 * is salvaged row by row, of the directory what cannot be asked for again, and the inbox begins afresh. The damaged files stay
 * beside the new ones, byte for byte. Everything is prepared before anything is changed, and then changed as one step.
 */
import { directorySchemaVersion, migrateDirectory } from "~/daemon/db/directory";
import { salvageDirectory } from "~/daemon/db/directory-salvage";
import { Inbox, inboxSchemaVersion, migrateInbox } from "~/daemon/db/inbox";
import { migrateOutbox, outboxSchemaVersion } from "~/daemon/db/outbox";
import { type SalvageKeys, salvageOutbox } from "~/daemon/db/outbox-salvage";
import { recoveringPath, withDaemonStopped } from "~/daemon/stopped";
import { fileBytes, fileExists, removeFile, storageError } from "~/disk/file";
import { type Move, moveTogether } from "~/disk/moves";
import { DamagedFile, losesCommits } from "~/disk/pages";
import { closeSqlite, findDamage, openReadOnly, openSqlite, schemaVersionOf } from "~/disk/sqlite";
import { MeshError, systemCodeOf } from "~/errors";
import { readConfig } from "~/identity/config";
import { openSealer } from "~/identity/sealer";
import { outboxStatuses } from "~/wire/ipc";
import type { DaemonPaths, HostPaths } from "~/wire/paths";
import type { Recovered, RecoveredFile } from "~/wire/recovered";
import { Priority } from "~/wire/text";

export interface RecoverOptions {
  paths: HostPaths;
  /** Only tells what would be done. */
  dryRun: boolean;
  nowMs: number;
}

type Database = ReturnType<typeof openSqlite>;

/** Throws `already_running`, `database_newer` (nothing is changed) or `storage_*` (nothing is changed, or all of it). */
export async function recoverDatabases({ paths: host, dryRun, nowMs }: RecoverOptions): Promise<Recovered> {
  return await withDaemonStopped(host, "recovering", async (paths) => {
    const keys = await salvageKeys(host.configFile);
    const recovery = new Recovery(nowMs);
    try {
      const outbox = recovery.recover(paths.outbox, examineOutbox(paths), (file, db) => {
        migrateOutbox(db);
        return salvageOutbox(file, db, keys, nowMs);
      });
      const inboxDamage = examine(paths.inbox, { table: "inbox", versionMax: inboxSchemaVersion });
      const inbox = recovery.recover(paths.inbox, inboxDamage, (_, db) => {
        migrateInbox(db);
        // Readers go on from places in the old one.
        new Inbox(db).beginAfter(nowMs);
      });
      const directoryDamage = examine(paths.directory, {
        table: "first_keys",
        versionMax: directorySchemaVersion,
      });
      const directory = recovery.recover(paths.directory, directoryDamage, (file, db) => {
        migrateDirectory(db);
        return salvageDirectory(file, db);
      });
      if (!dryRun && recovery.moves.length > 0) moveTogether(paths.moves, recovery.moves);
      return { dry_run: dryRun, outbox, inbox, directory };
    } finally {
      // What is still to be moved is carried to its end by whoever comes next.
      if (!fileExists(paths.moves)) recovery.cleanUp();
    }
  });
}

type Examined = { state: "sound" | "missing" } | { state: "damaged"; damage: string };

interface Expected {
  table: string;
  versionMax: number;
  /** Finds rows that cannot be: SQLite checks no CHECK of a database that is only read. */
  garbledRow?: string;
}

/** What is wrong with a database, found without changing it or its log. */
function examine(path: string, { table, versionMax, garbledRow }: Expected): Examined {
  const bytes = fileBytes(path);
  if (bytes === undefined) return { state: "missing" };
  // To SQLite that is a new one.
  if (bytes === 0) return { state: "damaged", damage: "it is empty" };
  let db: Database | undefined;
  try {
    db = openReadOnly(path);
    const version = schemaVersionOf(db);
    if (version > versionMax) {
      throw new MeshError(
        "database_newer",
        `${path} has schema version ${version}; this binary knows up to ${versionMax}`,
        { hint: "Recover it with the newer claudemesh that wrote it. Nothing was changed." },
      );
    }
    const [damage] = findDamage(db, "integrity_check");
    if (damage !== undefined) return { state: "damaged", damage: firstFinding(damage) };
    // A file that a start was cut off at has neither yet, and a later start goes on with it.
    const hasTable =
      db.query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?").get(table) !== null;
    if (hasTable !== version > 0)
      return {
        state: "damaged",
        damage: `it is of version ${version} and has ${hasTable ? "a" : "no"} table ${table}`,
      };
    if (garbledRow !== undefined && hasTable && db.query(garbledRow).get() !== null)
      return { state: "damaged", damage: `values in ${table} cannot be` };
    return { state: "sound" };
  } catch (error) {
    const failure = storageError(`cannot read ${path}`, error);
    // What SQLite calls a mistake of ours ("unsupported file format") is in the file: the question is sound.
    if (failure.code !== "database_corrupt" && systemCodeOf(failure.cause) !== "SQLITE_ERROR") throw failure;
    return { state: "damaged", damage: failure.message };
  } finally {
    db?.close();
  }
}

/** SQLite puts many findings into one text, under a heading. */
const firstFinding = (damage: string): string =>
  damage.split("\n").find((line) => line !== "" && !line.startsWith("***")) ?? damage;

const quoted = (words: readonly string[]): string => words.map((word) => `'${word}'`).join(", ");
const garbledOutboxRow = `SELECT 1 FROM outbox NOT INDEXED
  WHERE status NOT IN (${quoted(outboxStatuses)}) OR priority NOT IN (${quoted(Priority.options)}) LIMIT 1`;

function examineOutbox(paths: DaemonPaths): Examined {
  const examined = examine(paths.outbox, {
    table: "outbox",
    versionMax: outboxSchemaVersion,
    garbledRow: garbledOutboxRow,
  });
  if (examined.state !== "sound" || !losesCommits(paths.outbox)) return examined;
  return { state: "damaged", damage: "its log is damaged, and what follows there would be passed over" };
}

class Recovery {
  readonly #nowMs: number;
  readonly #staged: string[] = [];
  readonly moves: Move[] = [];

  constructor(nowMs: number) {
    this.#nowMs = nowMs;
  }

  /** Prepares a new database in the place of a damaged one. */
  recover<Salvage>(
    path: string,
    examined: Examined,
    salvage: (file: DamagedFile, db: Database) => Salvage,
  ): RecoveredFile<Salvage> {
    if (examined.state !== "damaged") return examined;
    const staged = recoveringPath(path);
    this.#staged.push(staged);
    const file = new DamagedFile(path);
    let result: Salvage;
    try {
      result = this.#fill(staged, (db) => salvage(file, db));
    } finally {
      file.close();
    }
    const keptAs = `${path}.damaged-${this.#nowMs}`;
    for (const suffix of ["", "-wal", "-shm"]) this.moves.push({ from: path + suffix, to: keptAs + suffix });
    this.moves.push({ from: staged, to: path });
    return { state: "damaged", damage: examined.damage, kept_as: keptAs, ...result };
  }

  #fill<Salvage>(staged: string, salvage: (db: Database) => Salvage): Salvage {
    const db = openSqlite(staged);
    try {
      const result = salvage(db);
      const [damage] = findDamage(db);
      if (damage !== undefined) throw new Error(`what was salvaged is damaged: ${damage}`);
      return result;
    } catch (error) {
      if (systemCodeOf(error) === undefined) throw error;
      throw storageError(`cannot write what was salvaged to ${staged}; nothing was changed`, error);
    } finally {
      closeSqlite(db);
    }
  }

  /** Removes what was prepared and not put in its place. */
  cleanUp(): void {
    for (const staged of this.#staged) removeDatabase(staged);
  }
}

function removeDatabase(path: string): void {
  for (const suffix of ["", "-wal", "-shm"]) removeFile(path + suffix);
}

/** Without the keys rows are taken over, too; only whether their seals are whole cannot be told. */
async function salvageKeys(configFile: string): Promise<SalvageKeys> {
  const sealer = await openSealer();
  try {
    const { meshes } = readConfig(configFile);
    return { sealer, meshes: new Map(meshes.map((mesh) => [mesh.meshId, mesh])) };
  } catch (error) {
    if (!(error instanceof MeshError)) throw error;
    return { sealer, meshes: new Map() };
  }
}
