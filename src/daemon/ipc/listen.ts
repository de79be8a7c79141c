/**
 * The two ways in: a Unix socket that only its owner can open, and TCP on the loopback address behind a token. Each is a
 * server of its own, so that how a request came is known. A socket file is replaced only by the holder of the daemon's
 * lock, when nobody answers on it (stale.ts).
 */
import { chmodSync } from "node:fs";
import type { GateRules } from "~/daemon/ipc/gate";
import {
  getChallenge,
  getHealth,
  getOpenApi,
  getProfile,
  getVersion,
  postProfile,
  postTokenRotate,
} from "~/daemon/ipc/handlers/about";
import { getEvents } from "~/daemon/ipc/handlers/events";
import { getInbox, postInboxAck } from "~/daemon/ipc/handlers/inbox";
import { getMessage } from "~/daemon/ipc/handlers/messages";
import { getMetrics } from "~/daemon/ipc/handlers/metrics";
import { getOutbox, getOutboxRow, postRequeue } from "~/daemon/ipc/handlers/outbox";
import { getPeers } from "~/daemon/ipc/handlers/peers";
import { postSend } from "~/daemon/ipc/handlers/post-send";
import { buildApp, type Handlers, Load } from "~/daemon/ipc/server";
import { clearStaleSocket } from "~/daemon/ipc/stale";
import type { DaemonParts } from "~/daemon/parts";
import { removeFile, writeFileAtomic } from "~/disk/file";
import { MeshError, messageOf, systemCodeOf } from "~/errors";
import type { Log } from "~/log";
import { ipcBodyBytesMax, tcpPortDefault } from "~/wire/limits";
import type { DaemonPaths } from "~/wire/paths";

export interface ListenOptions {
  parts: DaemonParts;
  paths: DaemonPaths;
  /** `port` undefined: the usual one, or any that is free when it is taken. */
  tcp: false | { port: number | undefined };
  log: Log;
}

export interface Listeners {
  /** Null when TCP is off or no port could be had. */
  tcpPort: number | null;
  /** Listens anew where the socket file was lost. Throws what keeps it from that. */
  restoreSocket(): Promise<void>;
  /** Takes no new requests, lets those at work finish within a bounded time, and removes the files if they are ours. */
  stop(isOurs: boolean): Promise<void>;
}

type Server = ReturnType<typeof Bun.serve>;

export function listen(options: ListenOptions): Listeners {
  const { parts, paths, log } = options;
  const handlers = handlersOf(parts);
  const load = new Load(parts.settings);
  const { tallies } = parts;
  const rules = () => rulesOf(parts);
  const shared = {
    ephemeral: parts.origin.ephemeral,
    handlers,
    load,
    tallies,
    rules,
    clock: parts.clock,
    log,
    logPlace: paths.log,
    damaged: (error: MeshError) => noteDamage(error, options),
  };
  const unixFetch = buildApp({ ...shared, wayIn: { kind: "unix" } }).fetch;
  let unix = serveUnix(paths, unixFetch);
  /** Those whose socket file was lost: they go on with the connections that they have. */
  const servers: Server[] = [];
  const tcp = options.tcp === false ? undefined : serveTcp(options.tcp.port, options, shared);
  if (tcp !== undefined) servers.push(tcp);
  const tcpPort = tcp?.port ?? null;
  if (tcpPort === null) removeFile(paths.httpPort);
  else writeFileAtomic(paths.httpPort, `${tcpPort}\n`);
  return {
    tcpPort,
    async restoreSocket() {
      await clearStaleSocket(paths.socket);
      // Bun removes what is at the path of a server that begins to stop, so this one goes before the next one comes.
      servers.push(unix);
      void unix.stop(false);
      unix = serveUnix(paths, unixFetch);
    },
    async stop(isOurs) {
      // In a directory that is somebody else's by now, the socket and the port file are too.
      if (isOurs) {
        removeFile(paths.httpPort);
        servers.push(unix);
      }
      await Promise.all(servers.map((server) => stopServer(server, options)));
      if (isOurs) removeFile(paths.socket);
    },
  };
}

/** As the settings are now. */
export const rulesOf = ({ token, settings }: DaemonParts): GateRules => ({
  accepts: (text) => token.accepts(text),
  publicHealth: settings()["daemon.public_health"],
  allowedOrigins: settings()["daemon.allowed_origins"],
});

export const handlersOf = (parts: DaemonParts): Handlers => ({
  challenge: getChallenge(parts),
  version: getVersion(parts),
  health: getHealth(parts),
  send: postSend(parts),
  message: getMessage(parts),
  inbox: getInbox(parts),
  inboxAck: postInboxAck(parts),
  events: getEvents(parts),
  peers: getPeers(parts),
  profile: getProfile(parts),
  setProfile: postProfile(parts),
  outbox: getOutbox(parts),
  outboxRow: getOutboxRow(parts),
  requeue: postRequeue(parts),
  metrics: getMetrics(parts),
  rotateToken: postTokenRotate(parts),
  openapi: getOpenApi(),
});

type Fetch = ReturnType<typeof buildApp>["fetch"];

/** A little above the limit, so that our own answer names it; beyond that the server cuts the request off. */
const maxRequestBodySize = ipcBodyBytesMax + 64 * 1024;

/**
 * A long wait or an event stream is no idle connection. Typed loosely, since Bun's types do not know this option for Unix
 * sockets, where it takes effect all the same.
 */
const patient: object = { idleTimeout: 0 };

function serveUnix(paths: DaemonPaths, fetch: Fetch): Server {
  const umask = process.umask(0o177);
  try {
    const server = Bun.serve({
      unix: paths.socket,
      fetch: (request) => fetch(request),
      maxRequestBodySize,
      ...patient,
    });
    chmodSync(paths.socket, 0o600);
    return server;
  } catch (error) {
    throw new MeshError("storage_failed", `cannot listen on ${paths.socket}: ${messageOf(error)}`, {
      hint: "Choose another directory with CLAUDEMESH_DAEMON_DIR; some sandboxes and network file systems forbid Unix sockets.",
      cause: error,
    });
  } finally {
    process.umask(umask);
  }
}

/** A port that cannot be had is a warning: the socket serves. */
function serveTcp(
  wanted: number | undefined,
  { parts, log }: ListenOptions,
  shared: Omit<Parameters<typeof buildApp>[0], "wayIn">,
): Server | undefined {
  let fetch: Fetch | undefined;
  const bind = (port: number): Server => {
    const server = Bun.serve({
      hostname: "127.0.0.1",
      port,
      idleTimeout: 0,
      maxRequestBodySize,
      fetch: (request) => fetch?.(request) ?? new Response(null, { status: 503 }),
    });
    fetch = buildApp({ ...shared, wayIn: { kind: "tcp", port: server.port ?? 0 } }).fetch;
    return server;
  };
  try {
    return bind(wanted ?? tcpPortDefault);
  } catch (error) {
    if (wanted === undefined && systemCodeOf(error) === "EADDRINUSE") {
      log("info", "tcp_port_taken", { port: tcpPortDefault });
      return bind(0);
    }
    const message = `TCP port ${wanted ?? tcpPortDefault} cannot be had (${systemCodeOf(error) ?? messageOf(error)}); the socket serves`;
    log("warn", "no_tcp", { error: message });
    parts.startProblems.push({
      code: "port_in_use",
      message,
      hint: "Choose another with --tcp-port, or --no-tcp.",
    });
    return undefined;
  }
}

/** Waits for what is at work, but not for ever: an event stream or a long wait has been told to end already. */
async function stopServer(server: Server, { parts }: ListenOptions): Promise<void> {
  const graceful = server.stop(false);
  const { promise: timedOut, resolve } = Promise.withResolvers<void>();
  const timer = parts.clock.after(parts.settings()["daemon.stop_grace_s"] * 1000, resolve);
  await Promise.race([graceful, timedOut]);
  timer.cancel();
  await server.stop(true);
}

/** Nobody searches a sound-looking file for damage: whoever meets some first makes health say so from then on. */
function noteDamage({ code, message, hint }: MeshError, { parts, log }: ListenOptions): void {
  if (parts.startProblems.some((problem) => problem.code === code)) return;
  log("error", code, { error: message });
  parts.startProblems.push({ code, message, ...(hint === undefined ? {} : { hint }) });
}
