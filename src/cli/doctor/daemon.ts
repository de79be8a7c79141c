/** The daemon as a process: who holds the lock, who answers on the socket, which version, and what it says is wrong. */
import type { Host } from "~/cli/command";
import type { FileFact } from "~/cli/doctor/files";
import { type Finding, fail, pass, warn } from "~/cli/doctor/finding";
import { spanText } from "~/cli/text";
import { openClient } from "~/client/client";
import { findTcpWay } from "~/client/tcp";
import { versionSkew } from "~/client/way";
import { type ErrorCode, MeshError, systemCodeOf } from "~/errors";
import { quoteForShell } from "~/service/cron";
import type { Settings } from "~/settings/knobs";
import type { HealthReply, Problem } from "~/wire/ipc";
import { doctorProbeMsMax } from "~/wire/limits";
import { daemonPaths } from "~/wire/paths";

export type HolderFact =
  | { kind: "none" }
  | { kind: "process"; pid: number }
  | { kind: "other"; pid: number; program: string }
  | { kind: "hidden"; why: string }
  | { kind: "unknown"; message: string; hint: string | undefined };

export type AnswerFact =
  | { kind: "health"; health: HealthReply; version: string | undefined; schema: number | undefined }
  | { kind: "failed"; code: ErrorCode; message: string; hint: string | undefined };

export interface DaemonFacts {
  socket: string;
  lock: string;
  holder: HolderFact;
  answer: AnswerFact;
  /** Set when this process may not use the socket and went by TCP. */
  detour: string | undefined;
  tcp: TcpFact;
}

export type TcpFact =
  | { kind: "not_asked" }
  | { kind: "serves"; origin: string }
  | { kind: "failed"; message: string; hint: string | undefined };

export async function gatherDaemon({ paths }: Pick<Host, "paths">): Promise<DaemonFacts> {
  const { socket, lock, httpPort, token } = daemonPaths(paths.daemonDir);
  const files = { port: httpPort, token };
  let detour: string | undefined;
  const tell = (text: string): void => {
    if (text.startsWith("note: ")) detour = text.slice("note: ".length);
  };
  const answer = await ask(() => openClient({ socketPath: socket, tcp: files, tell }));
  // The lock is looked at afterwards: to see whether somebody holds it, one has to take it for a moment.
  const holder = await findHolderOf(paths.daemonDir);
  const tcp: TcpFact = answer.kind === "health" ? await tryTcp(files) : { kind: "not_asked" };
  return { socket, lock, holder, answer, detour, tcp };
}

async function ask(open: () => ReturnType<typeof openClient>): Promise<AnswerFact> {
  try {
    const client = open();
    const health = await client.call("health", { timeoutMs: doctorProbeMsMax });
    if (!("pid" in health))
      throw new MeshError("incompatible_daemon", "the daemon hides its health on its own socket");
    return { kind: "health", health, ...(await askVersion(client)) };
  } catch (error) {
    if (!(error instanceof MeshError)) throw error;
    return { kind: "failed", code: error.code, message: error.message, hint: error.hint };
  }
}

async function askVersion(
  client: ReturnType<typeof openClient>,
): Promise<{ version: string | undefined; schema: number | undefined }> {
  try {
    const reply = await client.call("version", { timeoutMs: doctorProbeMsMax });
    return { version: reply.daemon_version, schema: reply.schema_version };
  } catch (error) {
    if (!(error instanceof MeshError)) throw error;
    return { version: undefined, schema: undefined }; // The judgement says that it could not be learnt.
  }
}

async function findHolderOf(directory: string): Promise<HolderFact> {
  try {
    const { findHolder } = await import("~/daemon/holder");
    const holder = findHolder(daemonPaths(directory));
    return holder.kind === "process" ? { kind: "process", pid: holder.pid } : holder;
  } catch (error) {
    if (error instanceof MeshError) return { kind: "unknown", message: error.message, hint: error.hint };
    const code = systemCodeOf(error);
    if (code === undefined) throw error;
    const { lock } = daemonPaths(directory);
    return {
      kind: "unknown",
      message: `${lock} cannot be looked at (${code})`,
      hint: `ls -l ${quoteForShell(lock)}`,
    };
  }
}

/** As a client in a sandbox would: whoever sits on the port has to prove that it knows the token. */
async function tryTcp(files: { port: string; token: string }): Promise<TcpFact> {
  const nobody = new MeshError("sandboxed", "the TCP listener was tried");
  try {
    const signal = AbortSignal.timeout(doctorProbeMsMax);
    return { kind: "serves", origin: (await findTcpWay(files, nobody, globalThis.fetch, signal)).origin };
  } catch (error) {
    if (error instanceof MeshError) {
      const message = error.message.replace(`${nobody.message}; and TCP on 127.0.0.1 is no way either: `, "");
      return { kind: "failed", message, hint: error.code === "unauthorized" ? error.hint : undefined };
    }
    return {
      kind: "failed",
      message: `it did not answer within ${doctorProbeMsMax / 1000} s`,
      hint: undefined,
    };
  }
}

// ── Judgement ───────────────────────────────────────────────────────────────────────────────────────────────────────

export interface DaemonContext {
  files: readonly FileFact[];
  hasMeshes: boolean;
}

export function judgeDaemon(facts: DaemonFacts, context: DaemonContext): Finding[] {
  return facts.answer.kind === "health"
    ? judgeAnswering(facts, facts.answer)
    : judgeSilent(facts, facts.answer, context);
}

function judgeAnswering(
  { holder, socket, detour }: DaemonFacts,
  answer: AnswerFact & { kind: "health" },
): Finding[] {
  const { health, version } = answer;
  const ending = health.ephemeral?.until === undefined ? "" : `, ends at ${health.ephemeral.until}`;
  const kind = health.ephemeral === undefined ? "" : `; it is ephemeral, nothing outlives it${ending}`;
  const skew = version === undefined ? undefined : versionSkew(version);
  return [
    pass("daemon", `it answers: pid ${health.pid}, up for ${spanText(health.uptime_s)}${kind}`),
    judgeHolder(holder, health.pid),
    detour === undefined
      ? pass("socket", `this process can use ${socket}`)
      : warn("socket", detour, "Allow the socket in the sandbox, or leave it: TCP serves just as well."),
    version === undefined
      ? warn("version", "the daemon did not say which version it is", "claudemesh daemon version")
      : skew === undefined
        ? pass("version", `the daemon and this command are both ${version}`)
        : warn("version", skew.split(". ")[0] ?? skew, "claudemesh daemon restart"),
  ];
}

function judgeHolder(holder: HolderFact, pid: number): Finding {
  switch (holder.kind) {
    case "process":
      if (holder.pid === pid)
        return pass("lock", "one daemon holds the lock, and it is the one that answers");
      return fail(
        "lock",
        `process ${holder.pid} holds the lock, and process ${pid} answers on the socket: two daemons`,
        `kill ${pid}; claudemesh daemon restart`,
      );
    case "none":
      return fail(
        "lock",
        `process ${pid} answers and does not hold the lock: that was removed, or the directory replaced under it`,
        `kill ${pid}; claudemesh daemon up`,
      );
    case "other":
      if (holder.pid === pid)
        return pass("lock", "one daemon holds the lock, and it is the one that answers");
      return fail(
        "lock",
        `process ${holder.pid} (${holder.program}) holds the lock, and not the daemon that answers (pid ${pid})`,
        `ps -fp ${holder.pid} shows what it is; end it, then: claudemesh daemon restart`,
      );
    case "hidden":
      return warn(
        "lock",
        `the lock is held, but whether by the daemon that answers is unknown: ${holder.why}`,
        "claudemesh daemon restart",
      );
    case "unknown":
      return fail("lock", holder.message, holder.hint);
  }
}

function judgeSilent(
  { holder, socket, lock, answer: _ }: DaemonFacts,
  { code, message, hint }: AnswerFact & { kind: "failed" },
  { files, hasMeshes }: DaemonContext,
): Finding[] {
  const socketKind = files.find(({ role }) => role === "socket")?.kind ?? "missing";
  if (code === "sandboxed" || code === "path_unsafe" || code === "socket_path_too_long") {
    return [fail("socket", message, hint), ...(holder.kind === "unknown" ? [judgeHolder(holder, 0)] : [])];
  }
  if (holder.kind === "unknown") return [fail("lock", holder.message, holder.hint)];
  if (code === "daemon_unreachable") {
    if (holder.kind === "process") {
      return [
        fail(
          "socket",
          `the daemon (pid ${holder.pid}) runs, but nothing listens on ${socket}: it is starting, or its socket was removed`,
          "claudemesh daemon restart",
        ),
      ];
    }
    if (holder.kind === "other") {
      return [
        fail(
          "lock",
          `process ${holder.pid} (${holder.program}) holds ${lock} and is no daemon that answers; as long as it does, none can start`,
          `ps -fp ${holder.pid} shows what it is; when it has ended: claudemesh daemon up`,
        ),
      ];
    }
    if (holder.kind === "hidden") {
      return [
        fail(
          "lock",
          `somebody holds ${lock}, and no daemon answers: ${holder.why}`,
          `lsof ${quoteForShell(lock)} shows who, if it is on this host; end that process, then: claudemesh daemon up`,
        ),
      ];
    }
    const left =
      socketKind === "socket"
        ? [
            warn(
              "socket",
              `${socket} is left over from a daemon that died; the next one replaces it`,
              "claudemesh daemon up",
            ),
          ]
        : [];
    const say = hasMeshes ? fail : warn;
    return [
      ...left,
      say(
        "daemon",
        `no daemon runs${hasMeshes ? ": nothing is received, and what waits is not sent" : ""}`,
        "claudemesh daemon up",
      ),
    ];
  }
  const who = holder.kind === "process" ? ` (pid ${holder.pid})` : "";
  const what =
    code === "timed_out"
      ? `the daemon${who} has taken the connection and not answered within ${doctorProbeMsMax / 1000} s: it hangs`
      : message;
  // One that does not even hear that it shall end is ended the hard way, which loses nothing that was accepted.
  const mend =
    holder.kind === "process"
      ? `claudemesh daemon restart || kill -9 ${holder.pid}; claudemesh daemon up`
      : `lsof ${quoteForShell(socket)} shows who answers there; end that process, then: claudemesh daemon up`;
  return [fail("daemon", what, mend)];
}

// ── What the daemon itself says ─────────────────────────────────────────────────────────────────────────────────────

/** Problems that belong to another check than `problem`. */
const checkOfProblem: Readonly<Record<string, string>> = {
  broker_lacks_features: "link",
  broker_refuses: "link",
  broker_unreachable: "link",
  identity_in_use: "link",
  removed_from_mesh: "link",
  config_unsafe: "permissions",
  config_missing: "keys",
  database_corrupt: "database",
  inbox_damaged: "database",
  storage_failed: "disk",
  storage_full: "disk",
  storage_read_only: "disk",
  retention_failed: "database",
  host_changed: "host",
  host_id_unreadable: "host",
  host_network_changed: "host",
  host_record_newer: "host",
  host_unidentifiable: "host",
  host_unverified: "host",
  log_not_rotated: "log",
  log_not_written: "log",
  port_in_use: "tcp",
  restart_needed: "settings",
};

/** What keeps messages from moving until a person does something. */
const severe = new Set([
  "broker_refuses",
  "config_invalid",
  "config_missing",
  "config_unsafe",
  "database_corrupt",
  "identity_in_use",
  "removed_from_mesh",
  "storage_failed",
  "storage_full",
  "storage_read_only",
]);

/** Two files can be invalid: config.json holds the keys, config.toml the settings. */
const checkOf = ({ code, message }: Problem): string =>
  code === "config_invalid"
    ? message.includes("config.toml")
      ? "settings"
      : "keys"
    : (checkOfProblem[code] ?? "problem");

export const judgeProblems = (problems: readonly Problem[]): Finding[] =>
  problems.map((problem) => {
    const { code, message, hint } = problem;
    return (severe.has(code) ? fail : warn)(
      checkOf(problem),
      `${message} (${code})`,
      hint ?? "claudemesh daemon status",
    );
  });

/** Links that are not open are told by a problem each, which says why. */
export const judgeLinks = (meshes: HealthReply["meshes"]): Finding[] =>
  Object.entries(meshes).flatMap(([slug, { link, rtt_ms }]) => {
    const trip = rtt_ms === undefined ? "" : `, round trip ${Math.round(rtt_ms)} ms`;
    if (link === "open") return [pass("link", `${slug}: connected to its broker${trip}`)];
    if (link === "connecting") return [warn("link", `${slug}: connecting`, "claudemesh daemon status")];
    return [];
  });

// ── TCP on the loopback address ─────────────────────────────────────────────────────────────────────────────────────

export function judgeTcp(
  { tcp, answer }: Pick<DaemonFacts, "tcp" | "answer">,
  settings: Settings | undefined,
): Finding[] {
  if (tcp.kind === "serves") {
    return [pass("tcp", `the daemon serves ${tcp.origin} as well, and proves that it knows the token`)];
  }
  if (tcp.kind === "not_asked" || answer.kind !== "health") return [];
  const isOff =
    answer.health.started_with?.includes("--no-tcp") === true || settings?.["daemon.tcp"] === false;
  if (isOff) return [pass("tcp", "the daemon serves the Unix socket only")];
  return [warn("tcp", `there is no way in by TCP: ${tcp.message}`, tcp.hint ?? "claudemesh daemon restart")];
}
