/** Where things are on a host, as every process agrees on it: directories from the environment, names inside them. */
import { MeshError } from "~/errors";
import { socketPathBytesMax } from "~/wire/limits";

export interface HostPaths {
  configDir: string;
  configFile: string;
  /** What a person may set: config.toml. */
  settingsFile: string;
  daemonDir: string;
  brokerDir: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

// Every command begins here, and node:path takes longer to load than a path takes to be put together: it is asked for what needs it.

/** `dir` is in its shortest form, or is made whole afterwards. */
const join = (dir: string, name: string): string => (dir.endsWith("/") ? dir + name : `${dir}/${name}`);

/** Absolute, and in its shortest form. */
function resolve(path: string): string {
  const isDone = path.startsWith("/") && !/\/\.{0,2}(?:\/|$)/.test(path);
  return isDone ? path : process.getBuiltinModule("node:path").resolve(path);
}

/** `CLAUDEMESH_CONFIG_DIR`, `CLAUDEMESH_DAEMON_DIR` and `CLAUDEMESH_BROKER_DATA` move everything; empty counts as unset. */
export function hostPaths(env: Environment): HostPaths {
  const configDir = resolve(
    env.CLAUDEMESH_CONFIG_DIR ||
      join(env.HOME || process.getBuiltinModule("node:os").homedir(), ".claudemesh"),
  );
  return {
    configDir,
    configFile: join(configDir, "config.json"),
    settingsFile: join(configDir, "config.toml"),
    daemonDir: resolve(env.CLAUDEMESH_DAEMON_DIR || join(configDir, "daemon")),
    brokerDir: resolve(env.CLAUDEMESH_BROKER_DATA || join(configDir, "broker")),
  };
}

export interface DaemonPaths {
  dir: string;
  socket: string;
  lock: string;
  /** Which process holds the lock: `DaemonRecord`. */
  record: string;
  outbox: string;
  inbox: string;
  directory: string;
  /** Which host these files belong to: `HostRecord`. */
  hostRecord: string;
  /** Files that are being put in the place of others: `Move`. */
  moves: string;
  /** Where a backup keeps its copies until it is written. */
  staging: string;
  /** Where a restore unpacks. */
  restoring: string;
  token: string;
  httpPort: string;
  log: string;
}

export const daemonPaths = (dir: string): DaemonPaths => ({
  dir,
  socket: join(dir, "daemon.sock"),
  lock: join(dir, "daemon.lock"),
  record: join(dir, "daemon.json"),
  outbox: join(dir, "outbox.db"),
  inbox: join(dir, "inbox.db"),
  directory: join(dir, "directory.db"),
  hostRecord: join(dir, "host_fingerprint.json"),
  moves: join(dir, "moves.json"),
  staging: join(dir, "backing-up"),
  restoring: join(dir, "restoring"),
  token: join(dir, "local_token"),
  httpPort: join(dir, "http.port"),
  log: join(dir, "daemon.log"),
});

/** Databases that were moved aside in the daemon's directory: by a recovery, a restore, or a start on a damaged inbox. */
export interface PutAside {
  name: string;
  atMs: number;
  /** All of it that could be read was taken over. Anything else may hold what is nowhere else: unread, or never sent. */
  isTakenOver: boolean;
}

/** Those among `names`, the entries of the daemon's directory. */
export const putAsideIn = (names: readonly string[]): PutAside[] =>
  names.flatMap((name) => {
    const takenOver = /^(?:outbox|directory)\.db\.damaged-(\d{1,15})(?:-wal|-shm)?$/.exec(name)?.[1];
    const at =
      takenOver ??
      /^(?:inbox\.db\.(?:damaged|corrupt)|before-restore)-(\d{1,15})(?:-wal|-shm)?$/.exec(name)?.[1];
    return at === undefined ? [] : [{ name, atMs: Number(at), isTakenOver: takenOver !== undefined }];
  });

/** What belongs to one hosted agent, in the daemon's directory. */
export interface AgentPaths {
  /** For its owner alone; the agents' sockets lie in it. */
  dir: string;
  /** Held while somebody starts or clears away the agent of this name. */
  lock: string;
  /** The shim's control socket. */
  socket: string;
  /** Raw output of the agent, cut by the shim. */
  log: string;
  /** What the shim itself had to say, when something went wrong. */
  shimLog: string;
  /** Which processes the agent and its shim are. */
  record: string;
}

export const agentsDir = (daemonDir: string): string => join(daemonDir, "agents");

export function agentPaths(daemonDir: string, name: string): AgentPaths {
  const dir = agentsDir(daemonDir);
  return {
    dir,
    lock: join(dir, `${name}.lock`),
    socket: join(dir, `${name}.sock`),
    log: join(dir, `${name}.log`),
    shimLog: join(dir, `${name}.shim.log`),
    record: join(dir, `${name}.json`),
  };
}

/** Where terminals attach to the agent of a detached shim, beside the shim's control socket. */
export const attachmentSocket = (controlSocket: string): string => `${controlSocket}.tty`;

/**
 * The agents' names whose sockets are among `names`, the entries of the agents' directory. One that crashed may have left its
 * socket behind.
 */
export const agentNamesIn = (names: readonly string[]): string[] => agentNamesWith(".sock", names);

/** The same of their logs, which stay when an agent has ended. */
export const agentNamesOfLogsIn = (names: readonly string[]): string[] => agentNamesWith(".log", names);

const agentNamesWith = (suffix: string, names: readonly string[]): string[] =>
  names
    .flatMap((name) => (name.endsWith(suffix) ? [name.slice(0, -suffix.length)] : []))
    // What a shim has to say for itself ends alike, and has a dot in its name.
    .filter((name) => agentNamePattern.test(name))
    .sort();

/** Safe as a file name, in a shell, and as the second part of an address (`me/NAME`). */
export const agentNamePattern = /^[a-z0-9][a-z0-9_-]{0,31}$/i;

export interface BrokerPaths {
  dir: string;
  lock: string;
  database: string;
  adminToken: string;
  /** Which process serves this directory, and where: `BrokerRecord`. */
  record: string;
  log: string;
}

export const brokerPaths = (dir: string): BrokerPaths => ({
  dir,
  lock: join(dir, "broker.lock"),
  database: join(dir, "broker.db"),
  adminToken: join(dir, "admin-token"),
  record: join(dir, "broker.json"),
  log: join(dir, "broker.log"),
});

/** The `number`th newest of the old files of a log. */
export const oldLog = (log: string, number: number): string => `${log}.${number}`;

/** Which of `names`, all in one directory, are old files of the log called `log`: their numbers, newest first. */
export function oldLogNumbers(log: string, names: readonly string[]): number[] {
  const numbers = names.flatMap((name) => {
    const suffix = name.startsWith(`${log}.`) ? name.slice(log.length + 1) : "";
    return /^[1-9]\d{0,2}$/.test(suffix) ? [Number(suffix)] : [];
  });
  return numbers.sort((a, b) => a - b);
}

const socketPathMax = (): number =>
  process.platform === "darwin" ? socketPathBytesMax.darwin : socketPathBytesMax.linux;

/** Whether the operating system could not bind or connect to this path. */
export const isSocketPathTooLong = (path: string): boolean => Buffer.byteLength(path) > socketPathMax();

/** Throws `socket_path_too_long`. */
export function checkSocketPath(
  path: string,
  hint = "Choose a shorter directory: export CLAUDEMESH_DAEMON_DIR=/tmp/cm-$USER (or another short path).",
): void {
  if (!isSocketPathTooLong(path)) return;
  throw new MeshError(
    "socket_path_too_long",
    `the socket path ${path} has ${Buffer.byteLength(path)} bytes; this system allows ${socketPathMax()}`,
    { hint },
  );
}
