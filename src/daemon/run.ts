/**
 * The daemon as a process: takes the lock, opens what it keeps, listens, and runs until it is told to stop. Wiring only;
 * each part says itself what it does.
 */
import { monotonicFactory } from "ulidx";
import { isoTime, systemClock } from "~/clock";
import { assemble } from "~/daemon/assemble";
import { type Databases, openDatabases } from "~/daemon/databases";
import { leaveMeshes, settle, Term } from "~/daemon/ending";
import { claimEphemeralDirectory } from "~/daemon/ephemeral";
import { endRecord, findHolder, heldByOther, writeRecord } from "~/daemon/holder";
import { watchHome } from "~/daemon/home";
import { listen } from "~/daemon/ipc/listen";
import { clearStaleSocket } from "~/daemon/ipc/stale";
import { openLocalToken } from "~/daemon/local-token";
import type { Meshes } from "~/daemon/meshes";
import { findManager, type Origin } from "~/daemon/origin";
import type { DaemonParts } from "~/daemon/parts";
import { finishInterrupted } from "~/daemon/stopped";
import { removeHalfWritten, removeOldDatabases } from "~/daemon/tidying";
import { ensureOwnDirectory, ensurePrivateDirectory, storageError } from "~/disk/file";
import { tryLock } from "~/disk/lock";
import { type LogLimits, openStderrLog } from "~/disk/log-file";
import { MeshError, messageOf } from "~/errors";
import { checkHost } from "~/identity/host";
import { remintProblems } from "~/identity/remint-plan";
import { openSealer } from "~/identity/sealer";
import { connectWebSocket } from "~/link/socket";
import { jsonLog, type Log } from "~/log";
import type { Settings } from "~/settings/knobs";
import { LiveSettings } from "~/settings/live";
import { type Flags, sourceText } from "~/settings/resolve";
import type { Surroundings } from "~/settings/surroundings";
import { version } from "~/version";
import type { Problem } from "~/wire/ipc";
import { lockLookMsMax } from "~/wire/limits";
import { checkSocketPath, type DaemonPaths, daemonPaths, type HostPaths } from "~/wire/paths";
import type { Ephemeral } from "~/wire/reply";

export interface DaemonReady {
  pid: number;
  socket: string;
  /** Null without TCP. */
  tcpPort: number | null;
  /** Nothing outlives it, if this is set. */
  ephemeral: Ephemeral | undefined;
}

export interface DaemonOptions {
  paths: HostPaths;
  /** Settings by the flags of the command: they go before config.toml. */
  flags: Flags;
  surroundings: Surroundings;
  /** The flags of `daemon up`, for a restart with the same. */
  startedWith?: readonly string[];
  /** Everything is in this directory, and goes with the daemon: by itself after `ttlMs`, if there is one. */
  ephemeral?: { dir: string; ttlMs: number | undefined } | undefined;
  /** Called before what may take long, with what that is, and with nothing when it is over. */
  onWork?: (what: string | undefined) => Promise<void>;
  onReady?: (ready: DaemonReady) => void;
}

/** Runs until `signal` is aborted, or its time is up, or its directory is gone. Throws `already_running`, `host_changed`, `path_unsafe`, `socket_path_too_long`, `database_*`, `storage_*`. */
export async function runDaemon(options: DaemonOptions, signal: AbortSignal): Promise<void> {
  const paths = daemonPaths(options.paths.daemonDir);
  checkSocketPath(paths.socket);
  const belongings =
    options.ephemeral === undefined ? undefined : claimEphemeralDirectory(options.ephemeral.dir);
  ensureOwnDirectory(options.paths.configDir);
  ensurePrivateDirectory(paths.dir);
  let lock = tryLock(paths.lock, lockLookMsMax);
  if (lock === undefined) throw runsAlready(paths);
  const keeper: LockKeeper = {
    restore: () => {
      lock?.release();
      lock = tryLock(paths.lock);
      return lock !== undefined;
    },
    abandon: () => {
      lock = undefined;
    },
  };
  // However this process ends, as long as it is told.
  if (belongings !== undefined) process.once("exit", belongings.remove);
  try {
    await serve(options, paths, signal, keeper);
  } finally {
    belongings?.remove();
    lock?.release();
  }
}

interface LockKeeper {
  /** Takes a new lock where the file was lost; false when somebody else was quicker. */
  restore(): boolean;
  /** Leaves its release to the end of the process: nothing is to be touched in a directory that is no longer ours. */
  abandon(): void;
}

function runsAlready(paths: DaemonPaths): MeshError {
  const holder = findHolder(paths);
  // One of ours may be a daemon that begins at this very moment.
  if (holder.kind === "other" && !holder.isOurs) return heldByOther("storage_failed", paths, holder);
  const { pid, who } =
    holder.kind === "process"
      ? { pid: holder.pid, who: ` (pid ${holder.pid}, since ${holder.startedAt})` }
      : { pid: undefined, who: "" };
  return new MeshError("already_running", `a daemon runs already with ${paths.dir}${who}`, {
    hint: "claudemesh daemon status shows it; claudemesh daemon down stops it, even when it does not answer.",
    details: pid === undefined ? {} : { pid },
  });
}

async function serve(
  options: DaemonOptions,
  paths: DaemonPaths,
  signal: AbortSignal,
  lock: LockKeeper,
): Promise<void> {
  const clock = systemClock;
  finishInterrupted(paths);
  writeRecord(paths, isoTime(clock.now()), options.startedWith ?? []);
  const live = await LiveSettings.open({
    file: options.paths.settingsFile,
    flags: options.flags,
    surroundings: options.surroundings,
    log: (level, message, fields) => log(level, message, fields),
  });
  const settings = (): Settings => live.current;
  const logSink = openStderrLog({ path: paths.log, clock, limits: () => logLimitsOf(settings()) });
  const log = jsonLog(
    clock,
    (line) => logSink.write(line),
    () => settings()["log.level"],
  );
  if (live.sources["daemon.tcp"].from === "surroundings") {
    const why = sourceText(live.sources["daemon.tcp"], options.paths.settingsFile);
    log("info", "tcp_off_by_default", {
      why,
      hint: "claudemesh daemon up --tcp-port N, or claudemesh config set daemon.tcp true",
    });
  }
  removeHalfWritten(options.paths, log);
  const startProblems = hostProblems(options.paths, paths, settings(), clock.now(), log);
  const databases = await openDatabases(paths, {
    nowMs: clock.now(),
    log,
    problems: startProblems,
    onWork: options.onWork,
  });
  const parts = assemble({
    clock,
    chance: Math.random,
    newId: monotonicFactory(),
    log,
    sealer: await openSealer(),
    connect: connectWebSocket,
    outbox: databases.outbox,
    inbox: databases.inbox,
    directoryStore: databases.directoryStore,
    configFile: options.paths.configFile,
    token: openLocalToken(paths.token, { clock, graceS: () => settings()["api.token_grace_s"], log }),
    logProblems: () => (logSink.problem === undefined ? [] : [logSink.problem]),
    tidy(beforeMs) {
      // What a crash left just before this start was too young to go at that.
      removeHalfWritten(options.paths, log);
      return removeOldDatabases(paths, beforeMs);
    },
    sessionId: crypto.randomUUID(),
    settings,
    settingsProblems: () => live.problems,
    settingsFile: { path: options.paths.settingsFile, mayHaveChanged: () => void live.reload() },
    startProblems,
    origin: originOf(options, clock.now()),
  });
  live.onChange((changed) => {
    if (signal.aborted) return;
    parts.drain.settingsChanged();
    if (changed.some((name) => name === "link.required_features" || name === "delivery.max_age_h")) {
      parts.meshes.demandsChanged();
    }
  });
  await clearStaleSocket(paths.socket);
  const listeners = listen({ parts, paths, tcp: tcpOf(live), log });
  const { ephemeral } = parts.origin;
  const term = new Term(clock, ephemeral);
  const home = watchHome({
    paths,
    clock,
    log,
    restoreSocket: () => listeners.restoreSocket(),
    restoreLock: () => lock.restore(),
    looked: () => term.look(),
  });
  startMeshes(parts.meshes, paths);
  const upkeep = new AbortController();
  void parts.retention.run(upkeep.signal);
  log("info", "daemon_started", {
    version,
    pid: process.pid,
    socket: paths.socket,
    tcp_port: listeners.tcpPort,
    put_back: databases.putBack,
  });
  options.onReady?.({ pid: process.pid, socket: paths.socket, tcpPort: listeners.tcpPort, ephemeral });

  const ending = await Promise.race([
    aborted(signal).then(() => "asked" as const),
    term.isOver.then(() => "time_is_up" as const),
    home.orphaned,
  ]);
  const isOurs = home.isOurs();
  home.stop();
  term.stop();
  upkeep.abort();
  log(isOurs ? "info" : "error", "daemon_stopping", { why: ending });
  parts.hub.announce({ kind: "stopping" });
  await listeners.stop(isOurs);
  const unsent = await end(parts, databases, isOurs ? paths : undefined, log);
  if (!isOurs) lock.abandon();
  log(ephemeral !== undefined && unsent > 0 ? "warn" : "info", "daemon_stopped", { unsent });
  if (ending === "directory_replaced" || ending === "taken_over") throw replaced(ending, paths);
}

/**
 * Brings to an end what is under way, within the time that the settings give it, and lets go of the databases. `ours`: undefined when
 * the directory is somebody else's by now, where nothing may be written. Returns how many messages no broker has.
 */
async function end(
  parts: DaemonParts,
  databases: Databases,
  ours: DaemonPaths | undefined,
  log: Log,
): Promise<number> {
  const isEphemeral = parts.origin.ephemeral !== undefined;
  await settle(parts, isEphemeral, parts.settings()["daemon.stop_grace_s"] * 1000);
  const joined = parts.meshes.sessions.map(({ mesh }) => mesh);
  parts.meshes.stop();
  parts.outboxWriter.close();
  parts.inboxWriter.close();
  if (ours !== undefined) databases.outbox.putBackInflight();
  const { pending, inflight } = databases.outbox.counts();
  const unsent = pending + inflight;
  const notLeft = isEphemeral ? await leaveMeshes(joined, log) : [];
  if (ours === undefined) databases.abandon();
  else {
    databases.close();
    endRecord(ours, { unsent, not_left: notLeft });
  }
  return unsent;
}

const replaced = (why: "directory_replaced" | "taken_over", { dir }: DaemonPaths): MeshError =>
  why === "directory_replaced"
    ? new MeshError("storage_failed", `${dir} was replaced while the daemon ran; the daemon has stopped`, {
        hint: "claudemesh daemon up starts one on what is there now.",
      })
    : new MeshError(
        "already_running",
        `the lock of ${dir} was removed, and another daemon took it; this one has stopped`,
        {
          hint: "claudemesh daemon status shows the other one. Leave daemon.lock alone while a daemon runs.",
        },
      );

const originOf = ({ startedWith = [], ephemeral }: DaemonOptions, nowMs: number): Origin => ({
  startedWith,
  manager: findManager(),
  ephemeral:
    ephemeral === undefined
      ? undefined
      : ephemeral.ttlMs === undefined
        ? {}
        : { until: isoTime(nowMs + ephemeral.ttlMs) },
});

/** Before anything is opened or connected: whether these files are this host's. Throws `host_changed`. */
function hostProblems(
  host: HostPaths,
  paths: DaemonPaths,
  settings: Settings,
  nowMs: number,
  log: Log,
): Problem[] {
  const policy = settings["daemon.host_policy"];
  const problems = [...checkHost(paths.hostRecord, policy, nowMs), ...remintProblems(host.configDir)];
  for (const { code, message } of problems) log("warn", code, { error: message });
  return problems;
}

const logLimitsOf = (settings: Settings): LogLimits => ({
  bytesMax: settings["log.file_bytes_max"],
  daysMax: settings["log.file_days_max"],
  filesKept: settings["log.files_kept"],
});

/** The usual port gives way when it is taken; one that somebody asked for does not. */
function tcpOf({ current, sources }: LiveSettings): false | { port: number | undefined } {
  if (!current["daemon.tcp"]) return false;
  const isAsked = sources["daemon.tcp_port"].from !== "default";
  return { port: isAsked ? current["daemon.tcp_port"] : undefined };
}

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });

/** Here all that waits is read, and with it damage may show of which SQLite does not say which file it is in. */
function startMeshes(meshes: Meshes, { dir }: DaemonPaths): void {
  try {
    meshes.start();
  } catch (error) {
    const failure = storageError(`cannot read the databases in ${dir}`, error);
    if (failure.code !== "database_corrupt") throw error;
    throw new MeshError("database_corrupt", `a database in ${dir} is damaged: ${messageOf(error)}`, {
      hint: "claudemesh daemon recover finds which, and salvages what can be read.",
      cause: error,
    });
  }
}
