/** Where things are on a host, as every process agrees on it: directories from the environment, names inside them. */
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { MeshError } from "~/errors";
import { socketPathBytesMax } from "~/wire/limits";

export interface HostPaths {
  configDir: string;
  configFile: string;
  daemonDir: string;
  brokerDir: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** `CLAUDEMESH_CONFIG_DIR`, `CLAUDEMESH_DAEMON_DIR` and `CLAUDEMESH_BROKER_DATA` move everything; empty counts as unset. */
export function hostPaths(env: Environment): HostPaths {
  const configDir = resolve(env.CLAUDEMESH_CONFIG_DIR || join(env.HOME || homedir(), ".claudemesh"));
  return {
    configDir,
    configFile: join(configDir, "config.json"),
    daemonDir: resolve(env.CLAUDEMESH_DAEMON_DIR || join(configDir, "daemon")),
    brokerDir: resolve(env.CLAUDEMESH_BROKER_DATA || join(configDir, "broker")),
  };
}

export interface DaemonPaths {
  dir: string;
  socket: string;
  lock: string;
  outbox: string;
  inbox: string;
  directory: string;
  token: string;
  httpPort: string;
  log: string;
}

export const daemonPaths = (dir: string): DaemonPaths => ({
  dir,
  socket: join(dir, "daemon.sock"),
  lock: join(dir, "daemon.lock"),
  outbox: join(dir, "outbox.db"),
  inbox: join(dir, "inbox.db"),
  directory: join(dir, "directory.db"),
  token: join(dir, "local_token"),
  httpPort: join(dir, "http.port"),
  log: join(dir, "daemon.log"),
});

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

/** Throws `socket_path_too_long` when the operating system could not bind or connect to this path. */
export function checkSocketPath(path: string): void {
  const max = process.platform === "darwin" ? socketPathBytesMax.darwin : socketPathBytesMax.linux;
  const length = Buffer.byteLength(path);
  if (length <= max) return;
  throw new MeshError(
    "socket_path_too_long",
    `the socket path ${path} has ${length} bytes; this system allows ${max}`,
    {
      hint: "Choose a shorter directory: export CLAUDEMESH_DAEMON_DIR=/tmp/cm-$USER (or another short path).",
    },
  );
}
