/**
 * The three databases of a daemon, opened as each deserves. A damaged outbox holds messages that somebody was told are safe: it
 * keeps the daemon from starting, and is never replaced behind anybody's back. A damaged inbox is moved aside, for it must not keep
 * new messages out. The directory holds the keys that names were first seen with, and is never begun anew unasked.
 */
import { renameSync, statSync } from "node:fs";
import { DirectoryStore, migrateDirectory } from "~/daemon/db/directory";
import { Inbox, migrateInbox } from "~/daemon/db/inbox";
import { migrateOutbox, Outbox } from "~/daemon/db/outbox";
import { wasEmptied } from "~/daemon/emptied";
import { fileBytes, storageError } from "~/disk/file";
import { losesCommits } from "~/disk/pages";
import {
  abandonSqlite,
  closeSqlite,
  findDamage,
  openSqlite,
  slowToOpen,
  wasStoppedUncleanly,
} from "~/disk/sqlite";
import { MeshError, messageOf, systemCodeOf } from "~/errors";
import type { Log } from "~/log";
import type { Problem } from "~/wire/ipc";
import type { DaemonPaths } from "~/wire/paths";

export interface Databases {
  outbox: Outbox;
  inbox: Inbox;
  directoryStore: DirectoryStore;
  /** How many rows a crash had left as on the wire; they wait again. */
  putBack: number;
  close(): void;
  /** Lets go of files that are no longer ours, and leaves them as they are. */
  abandon(): void;
}

export interface Opening {
  nowMs: number;
  log: Log;
  /** What went wrong and does not keep the daemon from starting. */
  problems: Problem[];
  /** Told before what may take long, and with undefined when that is over. */
  onWork: ((what: string | undefined) => Promise<void>) | undefined;
}

/** Throws `database_*` and `storage_*`. */
export async function openDatabases(paths: DaemonPaths, opening: Opening): Promise<Databases> {
  const open = async <T>(path: string, how: () => T): Promise<T> => {
    await opening.onWork?.(slowToOpen(path));
    return how();
  };
  const outbox = await open(paths.outbox, () => openOutbox(paths));
  const inbox = await open(paths.inbox, () => openInbox(paths, opening));
  const directoryStore = await open(paths.directory, () => openDirectory(paths, () => isUsed(outbox, inbox)));
  await opening.onWork?.(undefined);
  const all = [outbox, inbox, directoryStore].map(({ db }) => db);
  return {
    outbox,
    inbox,
    directoryStore,
    putBack: putBackInflight(outbox, paths),
    close() {
      for (const database of all) closeSqlite(database);
    },
    abandon() {
      for (const database of all) abandonSqlite(database);
    },
  };
}

function openOutbox(paths: DaemonPaths): Outbox {
  if (wasEmptied(paths)) throw damagedOutbox(paths, "it is empty");
  const unclean = wasStoppedUncleanly(paths.outbox);
  // SQLite would take the log up to there for all of it, and go on.
  if (unclean && losesCommits(paths.outbox))
    throw damagedOutbox(paths, "its log is damaged, and what follows there would be passed over");
  return orExplain(outboxHint, () => {
    const db = openSqlite(paths.outbox);
    const [damage] = unclean ? findDamage(db) : [];
    if (damage !== undefined) throw damagedOutbox(paths, damage);
    migrateOutbox(db);
    return new Outbox(db);
  });
}

const damagedOutbox = ({ outbox }: DaemonPaths, damage: string): MeshError =>
  new MeshError("database_corrupt", `${outbox} is damaged: ${damage}`, { hint: outboxHint });

const outboxHint =
  "claudemesh daemon recover salvages what can be read into a new file and keeps this one; --dry-run says what it would find.";

/** Damage that shows on opening is told with the way out of it. */
function orExplain<T>(hint: string, open: () => T): T {
  try {
    return open();
  } catch (error) {
    // What SQLite itself calls a mistake is a schema that is not what its version says.
    const isDamage =
      error instanceof MeshError &&
      (error.code === "database_corrupt" || systemCodeOf(error.cause) === "SQLITE_ERROR");
    if (!isDamage) throw error;
    throw new MeshError(error.code, error.message, { hint, cause: error });
  }
}

/**
 * A crash leaves rows marked as on the wire; whether they got through, the broker knows. This is also the first look at the
 * table: damage that came after a clean stop, which nobody searches for, may show here.
 */
function putBackInflight(outbox: Outbox, paths: DaemonPaths): number {
  try {
    outbox.list({ limit: 1 });
    return outbox.putBackInflight();
  } catch (error) {
    const failure = storageError(`cannot write to ${paths.outbox}`, error);
    throw failure.code === "database_corrupt" ? damagedOutbox(paths, messageOf(error)) : failure;
  }
}

function openInbox(paths: DaemonPaths, { nowMs, log, problems }: Opening): Inbox {
  const unclean = wasStoppedUncleanly(paths.inbox);
  if (unclean && losesCommits(paths.inbox)) {
    const message = "the inbox's log was damaged: what arrived just before the last stop may be missing";
    log("error", "inbox_log_damaged", { error: message });
    problems.push({ code: "inbox_log_damaged", message, hint: "Ask whoever wrote then to send it again." });
  }
  try {
    // Begun before the directory, it cannot be empty after it.
    if (fileBytes(paths.inbox) === 0 && (fileBytes(paths.directory) ?? 0) > 0)
      throw new MeshError("database_corrupt", `${paths.inbox} is empty`);
    const db = openSqlite(paths.inbox);
    const damage = unclean ? findDamage(db) : [];
    if (damage.length > 0) {
      db.close();
      throw new MeshError("database_corrupt", damage.join("; "));
    }
    migrateInbox(db);
    return new Inbox(db);
  } catch (error) {
    if (!(error instanceof MeshError) || error.code !== "database_corrupt") throw error;
    const aside = `${paths.inbox}.corrupt-${nowMs}`;
    for (const suffix of ["", "-wal", "-shm"]) moveIfThere(paths.inbox + suffix, aside + suffix);
    const message = `the inbox was damaged; it was moved to ${aside} and a new one begun`;
    log("error", "inbox_damaged", { moved_to: aside, error: error.message });
    problems.push({
      code: "inbox_damaged",
      message,
      hint: `Nothing is to be done. sqlite3 '${aside}' .recover may show what it held.`,
    });
    const db = openSqlite(paths.inbox);
    migrateInbox(db);
    const inbox = new Inbox(db);
    // Readers go on from places in the old one, and would miss everything until the new one had come as far.
    inbox.beginAfter(nowMs);
    return inbox;
  }
}

const isUsed = (outbox: Outbox, inbox: Inbox): boolean =>
  inbox.lastSeq() > 0 || outbox.list({ limit: 1 }).length > 0;

function openDirectory(paths: DaemonPaths, wasUsed: () => boolean): DirectoryStore {
  const hint =
    "It holds the keys that names were first seen with. claudemesh daemon recover salvages them into a new file and keeps this one.";
  return orExplain(hint, () => {
    // Names would be trusted anew, whoever has them now.
    if (fileBytes(paths.directory) === 0 && wasUsed())
      throw new MeshError("database_corrupt", `${paths.directory} is empty`);
    const db = openSqlite(paths.directory);
    migrateDirectory(db);
    return new DirectoryStore(db);
  });
}

function moveIfThere(from: string, to: string): void {
  if (statSync(from, { throwIfNoEntry: false }) !== undefined) renameSync(from, to);
}
