/**
 * The daemon as a process: takes the lock, opens what it keeps, listens, and runs until it is told to stop. Wiring only;
 * each part says itself what it does.
 */
import { randomBytes } from "node:crypto";
import { chmodSync, renameSync, statSync } from "node:fs";
import { monotonicFactory } from "ulidx";
import { systemClock } from "~/clock";
import { assemble } from "~/daemon/assemble";
import { DirectoryStore, migrateDirectory } from "~/daemon/db/directory";
import { Inbox, migrateInbox } from "~/daemon/db/inbox";
import { migrateOutbox, Outbox } from "~/daemon/db/outbox";
import { listen } from "~/daemon/ipc/listen";
import {
  ensureOwnDirectory,
  ensurePrivateDirectory,
  readTextFile,
  removeFile,
  storageError,
  writeFileAtomic,
} from "~/disk/file";
import { tryLock } from "~/disk/lock";
import { closeSqlite, findDamage, openSqlite, wasStoppedUncleanly } from "~/disk/sqlite";
import { MeshError, messageOf } from "~/errors";
import { openSealer } from "~/identity/sealer";
import { connectWebSocket } from "~/link/socket";
import { type Log, stderrLog } from "~/log";
import { defaultSettings } from "~/settings/knobs";
import { version } from "~/version";
import type { Problem } from "~/wire/ipc";
import { checkSocketPath, type DaemonPaths, daemonPaths, type HostPaths } from "~/wire/paths";

export interface DaemonReady {
  pid: number;
  socket: string;
  /** Null without TCP. */
  tcpPort: number | null;
}

export interface DaemonOptions {
  paths: HostPaths;
  /** `port` undefined: the usual one, or any that is free when it is taken. */
  tcp: false | { port: number | undefined };
  publicHealth: boolean;
  onReady?: (ready: DaemonReady) => void;
}

/** Runs until `signal` is aborted. Throws `already_running`, `path_unsafe`, `socket_path_too_long`, `database_*`, `storage_*`. */
export async function runDaemon(options: DaemonOptions, signal: AbortSignal): Promise<void> {
  const paths = daemonPaths(options.paths.daemonDir);
  checkSocketPath(paths.socket);
  ensureOwnDirectory(options.paths.configDir);
  ensurePrivateDirectory(paths.dir);
  const lock = tryLock(paths.lock);
  if (lock === undefined) {
    throw new MeshError("already_running", `a daemon runs already with ${paths.dir}`, {
      hint: "claudemesh daemon status shows it; claudemesh daemon down stops it.",
    });
  }
  try {
    await serve(options, paths, signal);
  } finally {
    lock.release();
  }
}

async function serve(options: DaemonOptions, paths: DaemonPaths, signal: AbortSignal): Promise<void> {
  const clock = systemClock;
  const log = stderrLog(clock);
  const startProblems: Problem[] = [];
  const outbox = openOutbox(paths);
  const inbox = openInbox(paths, clock.now(), log, startProblems);
  const directoryStore = openDirectory(paths);
  const parts = assemble({
    clock,
    chance: Math.random,
    newId: monotonicFactory(),
    log,
    sealer: await openSealer(),
    connect: connectWebSocket,
    outbox,
    inbox,
    directoryStore,
    configFile: options.paths.configFile,
    token: ensureToken(paths),
    sessionId: crypto.randomUUID(),
    settings: () => defaultSettings,
    startProblems,
  });
  const { meshes, hub } = parts;
  const putBack = putBackInflight(outbox, paths);
  const listeners = listen({ parts, paths, tcp: options.tcp, publicHealth: options.publicHealth, log });
  meshes.start();
  log("info", "daemon_started", {
    version,
    pid: process.pid,
    socket: paths.socket,
    tcp_port: listeners.tcpPort,
    put_back: putBack,
  });
  options.onReady?.({ pid: process.pid, socket: paths.socket, tcpPort: listeners.tcpPort });

  await aborted(signal);
  log("info", "daemon_stopping");
  hub.announce({ kind: "stopping" });
  await listeners.stop();
  meshes.stop();
  parts.outboxWriter.close();
  parts.inboxWriter.close();
  outbox.putBackInflight();
  for (const { db } of [outbox, inbox, directoryStore]) closeSqlite(db);
  log("info", "daemon_stopped");
}

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });

/** A damaged outbox holds messages that somebody was told are safe: it is never replaced behind their back. */
function openOutbox(paths: DaemonPaths): Outbox {
  const unclean = wasStoppedUncleanly(paths.outbox);
  const db = openOrExplain(paths.outbox, outboxHint(paths));
  const [damage] = unclean ? findDamage(db) : [];
  if (damage !== undefined) throw damagedOutbox(paths, damage);
  migrateOutbox(db);
  return new Outbox(db);
}

const damagedOutbox = ({ outbox }: DaemonPaths, damage: string): MeshError =>
  new MeshError("database_corrupt", `${outbox} is damaged: ${damage}`, { hint: outboxHint({ outbox }) });

const outboxHint = ({ outbox }: Pick<DaemonPaths, "outbox">): string =>
  `Copy it away first. sqlite3 '${outbox}' .recover salvages what can be read into a new file.`;

/** Damage that shows on opening is told with the way out of it. */
function openOrExplain(path: string, hint: string): ReturnType<typeof openSqlite> {
  try {
    return openSqlite(path);
  } catch (error) {
    if (!(error instanceof MeshError) || error.code !== "database_corrupt") throw error;
    throw new MeshError(error.code, error.message, { hint, cause: error });
  }
}

/**
 * A crash leaves rows marked as on the wire; whether they got through, the broker knows. This is also the first look at the
 * table: damage that came after a clean stop, which nobody searches for, may show here.
 */
function putBackInflight(outbox: Outbox, paths: DaemonPaths): number {
  try {
    return outbox.putBackInflight();
  } catch (error) {
    const failure = storageError(`cannot write to ${paths.outbox}`, error);
    throw failure.code === "database_corrupt" ? damagedOutbox(paths, messageOf(error)) : failure;
  }
}

/** What arrived can be asked for again only by people, but a damaged inbox must not keep new messages out. */
function openInbox(paths: DaemonPaths, nowMs: number, log: Log, problems: Problem[]): Inbox {
  const unclean = wasStoppedUncleanly(paths.inbox);
  try {
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
      hint: `sqlite3 '${aside}' .recover may show what it held.`,
    });
    const db = openSqlite(paths.inbox);
    migrateInbox(db);
    const inbox = new Inbox(db);
    // Readers go on from places in the old one, and would miss everything until the new one had come as far.
    inbox.beginAfter(nowMs);
    return inbox;
  }
}

function openDirectory(paths: DaemonPaths): DirectoryStore {
  const hint = `It holds the keys that names were first seen with. To begin without them, move it aside with its -wal and -shm: the broker lists the members again.`;
  const db = openOrExplain(paths.directory, hint);
  migrateDirectory(db);
  return new DirectoryStore(db);
}

function moveIfThere(from: string, to: string): void {
  if (statSync(from, { throwIfNoEntry: false }) !== undefined) renameSync(from, to);
}

/** The token of the TCP listener: made once, for the owner's eyes only. */
function ensureToken(paths: DaemonPaths): string {
  const present = readTextFile(paths.token)?.trim();
  if (present !== undefined && /^[A-Za-z0-9_-]{43}$/.test(present)) {
    chmodSync(paths.token, 0o600);
    return present;
  }
  removeFile(paths.token);
  const token = randomBytes(32).toString("base64url");
  writeFileAtomic(paths.token, `${token}\n`);
  return token;
}
