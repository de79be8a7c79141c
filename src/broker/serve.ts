/**
 * The broker as a process: it holds its data directory's lock for life, keeps one database in it, and has one listener that
 * speaks WebSocket at `/ws` and HTTP beside it. Off loopback it insists on TLS, its own or a proxy's.
 */
import { randomBytes } from "node:crypto";
import { basename } from "node:path";
import type { Server } from "bun";
import { monotonicFactory } from "ulidx";
import * as v from "valibot";
import { type Bounds, defaultBounds } from "~/broker/bounds";
import type { ConnectionId } from "~/broker/connections";
import { Core } from "~/broker/core";
import type { Counters } from "~/broker/decide";
import { Exchange } from "~/broker/exchange";
import { createApp } from "~/broker/http";
import { type Instant, instantOf } from "~/broker/instant";
import { createMesh, joinMesh } from "~/broker/membership";
import { type Settings, settingsOf } from "~/broker/settings";
import { Store } from "~/broker/sqlite";
import { Upkeep } from "~/broker/upkeep";
import { Beginning, type Clock, isoTime, systemClock } from "~/clock";
import { ensurePrivateDirectory, readTextFile, removeFile, writeFileAtomic } from "~/disk/file";
import { removeLeftBehind } from "~/disk/left-behind";
import { type Lock, lockHolder, tryLock } from "~/disk/lock";
import { type LogSink, openStderrLog } from "~/disk/log-file";
import {
  closeSqlite,
  findDamage,
  openSqlite,
  removeCopies,
  slowToOpen,
  wasStoppedUncleanly,
} from "~/disk/sqlite";
import { Writer } from "~/disk/writer";
import { errorBody, httpStatusOf, MeshError, messageOf, systemCodeOf } from "~/errors";
import { jsonLog, type Log } from "~/log";
import { version } from "~/version";
import type { ConnectionPolicy } from "~/wire/broker";
import { faultOf } from "~/wire/fault";
import { brokerPortDefault, frameBytesMax, httpBodyBytesMax, httpStopGraceMs } from "~/wire/limits";
import { BrokerRecord } from "~/wire/membership";
import { type BrokerPaths, brokerPaths } from "~/wire/paths";

export interface BrokerOptions {
  dataDir: string;
  /** Default 127.0.0.1. Anything off loopback needs `tls` or `behindProxy`. */
  host?: string;
  /** Default 7900; 0 takes any free one. */
  port?: number;
  tls?: { certFile: string; keyFile: string };
  /** A proxy in front does TLS. */
  behindProxy?: boolean;
  /** What becomes of a member that is connected and connects again. Default prefer_newest. */
  connectionPolicy?: ConnectionPolicy;
  /** For how many days the ids of messages are remembered, 3 at least. Default: for good. */
  dedupeDays?: number;
  /** For how many days the contents of messages are kept that nobody waits for. Default 30. */
  historyDays?: number;
  /** Called before what may take long, with what that is, and with nothing when it is over. */
  onWork?: (what: string | undefined) => Promise<void>;
  clock?: Clock;
  /** Default: JSON lines on standard error. */
  log?: Log;
  /** Other limits than the usual ones, for tests. */
  bounds?: Partial<Bounds>;
}

export interface RunningBroker {
  /** What clients connect to: `ws://127.0.0.1:7900/ws`. */
  url: string;
  /** The origin of the HTTP routes: `http://127.0.0.1:7900`. */
  httpUrl: string;
  port: number;
  /** Finishes what it has begun, closes every connection with 1001, and the database. Safe to call twice. */
  stop(): Promise<void>;
}

/**
 * Starts a broker and resolves once it listens. Throws `already_running`, `port_in_use`, `path_unsafe`, `usage`, `config_invalid`,
 * `database_newer`, `database_corrupt` or `storage_*`; what was opened until then is closed again.
 */
export async function startBroker(options: BrokerOptions): Promise<RunningBroker> {
  const host = options.host ?? "127.0.0.1";
  refuseOpenHost(host, options);
  const settings = settingsOf(options);
  const clock = options.clock ?? systemClock;
  const paths = brokerPaths(options.dataDir);
  ensurePrivateDirectory(paths.dir);
  const lock = takeLock(paths);
  // Only now: who has the lock is alone in rotating the log.
  const logSink = options.log === undefined ? openStderrLog({ path: paths.log, clock }) : undefined;
  const log = options.log ?? jsonLog(clock, (line) => logSink?.write(line));
  /** Undone newest first, by `stop` or when the start fails. */
  const undo: (() => void | Promise<void>)[] = [() => lock.release()];
  try {
    const adminToken = adminTokenIn(paths);
    await options.onWork?.(slowToOpen(paths.database));
    const store = openStore(paths, log, undo);
    await options.onWork?.(undefined);
    const broker = assemble({ ...store, options, settings, clock, log, logSink, adminToken, undo });
    const server = listen(broker, host, options, log);
    undo.push(() => stopServer(server, clock));
    const port = server.port ?? 0;
    const scheme = options.tls === undefined ? "" : "s";
    const origin = `${reachableHost(host)}:${port}`;
    const url = `ws${scheme}://${origin}/ws`;
    undo.push(() => broker.exchange.stop());
    broker.exchange.start();
    writeRecord(paths, url, clock, broker.runId);
    undo.push(() => removeFile(paths.record));
    undo.push(startUpkeep(broker.upkeep, store.isSuspect));
    log("info", "listening", { url, version, pid: process.pid });
    let stopped: Promise<void> | undefined;
    return {
      url,
      httpUrl: `http${scheme}://${origin}`,
      port,
      stop() {
        stopped ??= unwind(undo).then(() => log("info", "stopped", { ...broker.counters }));
        return stopped;
      },
    };
  } catch (error) {
    await unwind(undo);
    throw error;
  }
}

/** Runs a broker until `signal` is aborted. `onReady` is told where it listens. */
export async function runBroker(
  options: BrokerOptions,
  signal: AbortSignal,
  onReady?: (broker: RunningBroker) => void,
): Promise<void> {
  const broker = await startBroker(options);
  try {
    onReady?.(broker);
    if (!signal.aborted)
      await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
  } finally {
    await broker.stop();
  }
}

// ── Parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────

type Undo = (() => void | Promise<void>)[];

async function unwind(undo: Undo): Promise<void> {
  const errors: unknown[] = [];
  for (const step of undo.splice(0).reverse()) {
    try {
      await step();
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0)
    throw new MeshError("internal", `the broker did not stop cleanly: ${errors.map(messageOf).join("; ")}`, {
      cause: errors[0],
    });
}

function takeLock(paths: BrokerPaths): Lock {
  const lock = tryLock(paths.lock);
  if (lock !== undefined) return lock;
  const holder = lockHolder(paths.lock);
  if (holder !== undefined && !holder.isOurs) {
    throw new MeshError(
      "storage_failed",
      `process ${holder.pid} (${holder.program}) holds ${paths.lock} and is no broker; as long as it does, none can start`,
      {
        hint: `See what it is (ps -fp ${holder.pid}), end it, and try again.`,
        details: { pid: holder.pid, lock: paths.lock },
      },
    );
  }
  const record = readRecord(paths);
  const where = record === undefined ? "" : ` (pid ${record.pid}, ${record.url})`;
  throw new MeshError("already_running", `a broker already serves ${paths.dir}${where}`, {
    hint: "Stop it with: claudemesh broker down, or choose another directory with --data.",
    details: record === undefined ? {} : { pid: record.pid, url: record.url },
  });
}

/** The broker that the record names; undefined when it is missing or damaged, which proves nothing. */
function readRecord(paths: BrokerPaths): BrokerRecord | undefined {
  const parsed = v.safeParse(
    v.pipe(v.string(), v.parseJson(), BrokerRecord),
    readTextFile(paths.record) ?? "",
  );
  return parsed.success ? parsed.output : undefined;
}

function writeRecord(paths: BrokerPaths, url: string, clock: Clock, runId: string): void {
  const record: BrokerRecord = {
    pid: process.pid,
    url,
    started_at: isoTime(clock.now()),
    run_id: runId,
  };
  writeFileAtomic(paths.record, `${JSON.stringify(record)}\n`);
}

/** The token that makes meshes: 32 random bytes, made at the first start and kept. */
function adminTokenIn(paths: BrokerPaths): string {
  const present = readTextFile(paths.adminToken);
  if (present === undefined) {
    const token = randomBytes(32).toString("base64url");
    writeFileAtomic(paths.adminToken, token);
    return token;
  }
  const token = present.trim();
  if (/^[A-Za-z0-9_-]{43,}$/.test(token)) return token;
  throw new MeshError("config_invalid", `${paths.adminToken} does not hold a token`, {
    hint: "Remove the file: the next start makes a new one.",
  });
}

function openStore(paths: BrokerPaths, log: Log, undo: Undo) {
  const isSuspect = wasStoppedUncleanly(paths.database);
  const db = openSqlite(paths.database);
  undo.push(() => closeSqlite(db));
  if (isSuspect) {
    const damage = findDamage(db);
    if (damage.length > 0) {
      throw new MeshError("database_corrupt", `${paths.database} is damaged: ${damage[0]}`, {
        hint: "Put a backup in its place, or move it aside to begin with an empty broker.",
      });
    }
    log("warn", "the broker was not stopped cleanly; its database was checked and is sound");
  }
  const store = new Store(db);
  undo.push(() => store.close());
  return { db, store, isSuspect };
}

interface Broker {
  runId: string;
  exchange: Exchange;
  counters: Counters;
  upkeep: Upkeep;
  fetch: (request: Request) => Response | Promise<Response>;
}

function assemble(
  parts: ReturnType<typeof openStore> & {
    options: BrokerOptions;
    settings: Settings;
    clock: Clock;
    log: Log;
    /** Undefined when the log is somebody else's. */
    logSink: LogSink | undefined;
    adminToken: string;
    undo: Undo;
  },
): Broker {
  const { db, store, settings, clock, log } = parts;
  const bounds: Bounds = { ...defaultBounds, ...parts.options.bounds };
  const writer = new Writer(db, clock);
  parts.undo.push(() => writer.close());
  const ulid = monotonicFactory();
  const newId = (wallMs: number) => ulid(wallMs);
  const core = new Core(store, bounds, newId, settings);
  const exchange = new Exchange({ core, writer, clock, bounds, log });
  const { dir, database } = brokerPaths(parts.options.dataDir);
  const upkeep = new Upkeep({
    store,
    writer,
    clock,
    bounds,
    settings,
    log,
    tidy(beforeMs) {
      removeLeftBehind(dir);
      return removeCopies(database, beforeMs).map((path) => basename(path));
    },
  });
  const started = new Beginning(clock);
  const runId = crypto.randomUUID();
  let meshes = store.countMeshes();
  const problems = () => [...upkeep.problems, ...logProblems(parts.logSink)];
  /** Runs a decision in the next batch; one that is a refusal is thrown once the batch is through. */
  const decide = async <T>(step: (at: Instant) => T | MeshError): Promise<T> => {
    const outcome = await writer.submit(() => step(instantOf(clock)));
    if (outcome instanceof MeshError) throw outcome;
    return outcome;
  };
  const app = createApp({
    adminToken: parts.adminToken,
    health: () => ({
      ok: true,
      version,
      uptime_s: Math.floor(started.agoMs / 1000),
      run_id: runId,
      connections: exchange.connectionCount,
      meshes,
      problems: problems(),
    }),
    async createMesh(request) {
      const made = await decide((at) => createMesh(request, store, bounds, newId, at));
      meshes = store.countMeshes();
      log("info", "a mesh was made, or asked for again", { mesh: made.meshId });
      return made;
    },
    async joinMesh(request) {
      const joined = await decide((at) => joinMesh(request, store, bounds, newId, at));
      if (!joined.alreadyMember)
        log("info", "a member joined", { mesh: joined.meshId, member: joined.memberId });
      exchange.perform(core.joined(joined));
      return joined;
    },
    tallies: core.tallies,
    async metrics() {
      const { answerMetrics } = await import("~/broker/metrics");
      return await answerMetrics({
        core,
        store,
        writer,
        dir,
        startedAtMs: started.atMs,
        nowMs: clock.now(),
        problems: problems(),
      });
    },
    onFault: (error) => log("error", "a request failed", { code: error.code, error: faultOf(error) }),
  });
  const fetch = async (request: Request): Promise<Response> => {
    const response = await app.fetch(request);
    core.tallies.requestEnded(new URL(request.url).pathname, response.status);
    return response;
  };
  return { runId, exchange, counters: core.counters, upkeep, fetch };
}

function logProblems(sink: LogSink | undefined): { code: string; message: string }[] {
  if (sink?.problem === undefined) return [];
  const { code, message, hint } = sink.problem;
  return [{ code, message: `${message}. ${hint}` }];
}

/** Begins; what is returned ends it, and resolves when it has ended. */
function startUpkeep(upkeep: Upkeep, isSuspect: boolean): () => Promise<void> {
  const ending = new AbortController();
  const running = upkeep.run(isSuspect, ending.signal);
  return () => {
    ending.abort();
    return running;
  };
}

// ── The listener ────────────────────────────────────────────────────────────────────────────────────────────────────

interface SocketData {
  id: ConnectionId;
}

function listen(
  { exchange, fetch }: Broker,
  host: string,
  options: BrokerOptions,
  log: Log,
): Server<SocketData> {
  const port = options.port ?? brokerPortDefault;
  try {
    return Bun.serve<SocketData>({
      hostname: host,
      port,
      ...(options.tls === undefined ? {} : { tls: readTls(options.tls) }),
      // A body that is somewhat too large still gets its answer in JSON, from http.ts.
      maxRequestBodySize: 32 * httpBodyBytesMax,
      fetch(request, server) {
        const isWebSocket =
          new URL(request.url).pathname === "/ws" &&
          request.headers.get("upgrade")?.toLowerCase() === "websocket";
        if (!isWebSocket) return fetch(request);
        if (server.upgrade(request, { data: { id: exchange.newId() } })) return undefined;
        const error = new MeshError("invalid_request", "this is not a valid WebSocket handshake");
        return Response.json(errorBody(error), { status: httpStatusOf(error.code) });
      },
      websocket: {
        maxPayloadLength: frameBytesMax,
        backpressureLimit: 2 * (options.bounds?.socketBacklogBytesMax ?? defaultBounds.socketBacklogBytesMax),
        // The exchange pings, and closes what falls silent.
        idleTimeout: 0,
        sendPings: false,
        open(ws) {
          exchange.open(ws.data.id, ws);
        },
        message(ws, message) {
          exchange.receive(ws.data.id, typeof message === "string" ? message : undefined);
        },
        ping: (ws) => exchange.heard(ws.data.id),
        pong: (ws) => exchange.heard(ws.data.id),
        drain: (ws) => exchange.drained(ws.data.id),
        close: (ws, code) => exchange.closed(ws.data.id, code),
        error(error, ws) {
          log("error", "a connection could not be handled", { error: faultOf(error) });
          ws.terminate();
        },
      },
    });
  } catch (error) {
    throw listenError(error, host, port);
  }
}

function listenError(error: unknown, host: string, port: number): Error {
  if (error instanceof MeshError) return error;
  const code = systemCodeOf(error);
  if (code === "EADDRINUSE") {
    return new MeshError("port_in_use", `port ${port} on ${host} is taken by another process`, {
      hint: "Choose another with --port, or --port 0 for any free one.",
      cause: error,
    });
  }
  return new MeshError("usage", `cannot listen on ${host} port ${port}: ${messageOf(error)}`, {
    hint: "Check --host, --port and the certificate.",
    cause: error,
  });
}

/** Requests that are being answered may finish, but not for ever. */
async function stopServer(server: Server<SocketData>, clock: Clock): Promise<void> {
  const timer = clock.after(httpStopGraceMs, () => void server.stop(true));
  await server.stop();
  timer.cancel();
}

function readTls({ certFile, keyFile }: { certFile: string; keyFile: string }) {
  const read = (path: string): string => {
    const text = readTextFile(path);
    if (text !== undefined) return text;
    throw new MeshError("config_invalid", `there is no file ${path}`, {
      hint: "--tls-cert and --tls-key name PEM files.",
    });
  };
  return { cert: read(certFile), key: read(keyFile) };
}

function refuseOpenHost(host: string, options: BrokerOptions): void {
  if (isLoopback(host) || options.tls !== undefined || options.behindProxy === true) return;
  throw new MeshError("usage", `a broker on ${host} would speak to other hosts without TLS`, {
    hint: "Give it a certificate (--tls-cert, --tls-key), say that a proxy does TLS (--behind-proxy), or keep it on 127.0.0.1.",
  });
}

const isLoopback = (host: string): boolean =>
  host === "localhost" || host === "::1" || /^127(\.\d{1,3}){3}$/.test(host);

/** A host's form in a URL; "any address" is reached on this host by its loopback address. */
function reachableHost(host: string): string {
  if (host === "0.0.0.0") return "127.0.0.1";
  if (host === "::") return "[::1]";
  return host.includes(":") ? `[${host}]` : host;
}
