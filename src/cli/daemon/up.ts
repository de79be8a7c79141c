import { duration, usageError, wholeNumber } from "~/cli/argv";
import { defineCommand, type Host } from "~/cli/command";
import { type EphemeralHome, openEphemeralHome } from "~/cli/daemon/ephemeral-home";
import { startByService } from "~/cli/daemon/installed-service";
import { findSilentDaemon } from "~/cli/daemon/running";
import { surroundingsNote } from "~/cli/daemon/surroundings-note";
import { askHealth, daemonClient } from "~/cli/daemon-client";
import { unlessClosed } from "~/cli/output";
import { eventually, startDetached, tellWork } from "~/cli/server-process";
import { localTime } from "~/cli/text";
import { MeshError } from "~/errors";
import { type Flags, loadSettings } from "~/settings/resolve";
import { surroundingsOf } from "~/settings/surroundings";
import type { HealthReply } from "~/wire/ipc";
import { ttlMsMax } from "~/wire/limits";
import { daemonPaths } from "~/wire/paths";
import type { Ephemeral } from "~/wire/reply";

const readyTimeoutMs = 15_000;

export const daemonUp = defineCommand({
  name: "daemon up",
  description: "start the daemon; returns when it answers",
  args: {
    foreground: { type: "boolean", description: "stay in this terminal, log to standard error" },
    "no-tcp": { type: "boolean", description: "serve the Unix socket only" },
    "tcp-port": {
      type: "string",
      valueHint: "N",
      description: "port on 127.0.0.1; 0 takes any free one (default: 47823, or any if that is taken)",
      parse: wholeNumber(0, 65_535),
    },
    "public-health": { type: "boolean", description: 'show {"ok": true} over TCP without a token' },
    ephemeral: {
      type: "boolean",
      description: "keep everything in a new directory that goes with the daemon; prints what to export",
    },
    ttl: {
      type: "string",
      valueHint: "D",
      description: "with --ephemeral: end by itself after this time (90s, 10m, 2h)",
      parse: duration(ttlMsMax),
    },
  },
  notes:
    'A daemon that already runs is left as it is: the command says so and ends with 0. Flags go before config.toml (claudemesh config show). In containers and CI jobs TCP is off unless it is asked for.\n\nAn ephemeral daemon leaves nothing behind: when it ends it waits a moment for what is still to be sent, leaves its meshes, and removes keys and messages with its directory. eval "$(claudemesh daemon up --ephemeral)" has the commands that follow use it.',
  exits: [3, 4, 7, 130],
  examples: [
    "claudemesh daemon up",
    "claudemesh daemon up --foreground --no-tcp",
    "claudemesh daemon up --ephemeral --ttl 2h",
  ],
  async run(args, host) {
    if (args["no-tcp"] && (args["tcp-port"] !== undefined || args["public-health"])) {
      throw usageError("--no-tcp contradicts --tcp-port and --public-health");
    }
    if (args.ttl !== undefined && !args.ephemeral) {
      throw usageError("--ttl needs --ephemeral", "A daemon that keeps its messages does not end by itself.");
    }
    if (!args.ephemeral) return await up(args, host, undefined);
    const home = await openEphemeralHome(host);
    try {
      await up(args, home.host, home);
    } catch (error) {
      home.discard();
      throw error;
    }
  },
});

interface UpArgs {
  foreground: boolean;
  "no-tcp": boolean;
  "tcp-port": number | undefined;
  "public-health": boolean;
  ephemeral: boolean;
  ttl: number | undefined;
}

async function up(args: UpArgs, host: Host, home: EphemeralHome | undefined): Promise<void> {
  const running = await askHealth(daemonClient(host));
  if (running !== undefined) return await sayRunning(host, running.pid);
  const flags = flagsOf(args);
  const surroundings = surroundingsOf(host.env);
  const resolved = await loadSettings(host.paths.settingsFile, flags, surroundings);
  if (args["public-health"] && !resolved.settings["daemon.tcp"]) {
    throw usageError(
      "--public-health shows health over TCP, which is off here",
      "Add --tcp-port N, or: claudemesh config set daemon.tcp true",
    );
  }
  // A server whose standard error is its log has nothing but log lines there.
  const note =
    args.foreground && host.out.json ? undefined : surroundingsNote(resolved, surroundings, args.ephemeral);
  if (note !== undefined) await host.out.note(note);
  if (!args.foreground) {
    const { health, started } = await startDaemon(host, passedOn(args));
    home?.handOver();
    if (!started) return await sayRunning(host, health.pid);
    const { log, socket } = daemonPaths(host.paths.daemonDir);
    const how = health.managed_by ? `by ${health.managed_by}` : `log: ${log}`;
    return await sayStarted(host, { pid: health.pid, socket, ephemeral: health.ephemeral }, how);
  }
  const { runDaemon } = await import("~/daemon/run");
  await runDaemon(
    {
      paths: host.paths,
      flags,
      surroundings,
      startedWith: passedOn(args),
      ephemeral: home && { dir: home.dir, ttlMs: args.ttl },
      onWork: tellWork(host),
      onReady: (ready) => {
        home?.handOver();
        void unlessClosed(sayStarted(host, ready, "in the foreground"));
      },
    },
    host.interrupted,
  );
}

/** Starts a daemon in the background with these flags, and resolves when it answers, or when one that was quicker does. */
export async function startDaemon(
  host: Host,
  flags: readonly string[],
): Promise<{ health: HealthReply; started: boolean }> {
  const client = daemonClient(host);
  const { log } = daemonPaths(host.paths.daemonDir);
  // A service starts it as its unit says, so only where nothing else is asked for.
  if (flags.length === 0 && (await startByService(host))) {
    const health = await askHealth(client);
    if (health !== undefined) return { health, started: true };
  }
  let pid: number;
  try {
    pid = await startDetached({
      what: "the daemon",
      args: ["daemon", "up", ...flags],
      logFile: log,
      host,
      timeoutMs: readyTimeoutMs,
    });
  } catch (error) {
    if (!(error instanceof MeshError) || error.code !== "already_running") throw error;
    // Somebody else started one at the same moment, or one has lost its socket: it may answer soon.
    const other = await eventually(() => askHealth(client), readyTimeoutMs);
    if (other === undefined) {
      // Throws where it is not known whom to end.
      await findSilentDaemon(host);
      throw doesNotAnswer(error);
    }
    return { health: other, started: false };
  }
  const health = await askHealth(client);
  if (health === undefined) {
    throw new MeshError("daemon_unreachable", "the daemon was ready and is gone again", {
      hint: `See its log: ${log}`,
    });
  }
  // What was asked for and is not, although it runs.
  for (const { code, message } of health.problems) {
    if (code === "port_in_use") await host.out.note(`warning: ${message}`);
  }
  // What we started may itself have found one that was quicker.
  return { health, started: health.pid === pid };
}

const doesNotAnswer = ({ message, details }: MeshError): MeshError =>
  new MeshError("already_running", `${message}, but it does not answer`, {
    hint: "It may still be opening large databases: try again in a while. claudemesh daemon restart ends it all the same, and starts another.",
    details,
  });

/** Asking for a port is asking for TCP. */
const flagsOf = (args: UpArgs): Flags => ({
  ...(args["no-tcp"] ? { "daemon.tcp": false } : {}),
  ...(args["tcp-port"] === undefined ? {} : { "daemon.tcp": true, "daemon.tcp_port": args["tcp-port"] }),
  ...(args["public-health"] ? { "daemon.public_health": true } : {}),
});

/** What a daemon in the background is told, and what a restart repeats. */
const passedOn = (args: UpArgs): string[] => [
  ...(args["no-tcp"] ? ["--no-tcp"] : []),
  ...(args["tcp-port"] === undefined ? [] : ["--tcp-port", String(args["tcp-port"])]),
  ...(args["public-health"] ? ["--public-health"] : []),
  ...(args.ephemeral ? ["--ephemeral"] : []),
  ...(args.ttl === undefined ? [] : ["--ttl", `${args.ttl / 1000}s`]),
];

interface Started {
  pid: number;
  socket: string;
  ephemeral: Ephemeral | undefined;
}

async function sayStarted(host: Host, { pid, socket, ephemeral }: Started, more: string): Promise<void> {
  if (ephemeral === undefined) {
    const text = `the daemon is up: pid ${pid}, ${socket} (${more})`;
    return await host.out.answer({ pid, socket, started: true }, () => text);
  }
  const dir = host.paths.configDir;
  // Alone on standard output, so that a shell can evaluate it.
  await host.out.answer(
    { pid, socket, started: true, ephemeral, config_dir: dir },
    () => `export CLAUDEMESH_CONFIG_DIR='${dir.replaceAll("'", "'\\''")}'`,
  );
  const until = ephemeral.until === undefined ? "" : ` at ${localTime(ephemeral.until)} at the latest`;
  await host.out.note(
    `the daemon is up: pid ${pid} (${more}). It is ephemeral: messages, keys and memberships end with it${until}`,
  );
}

function sayRunning(host: Host, pid: number): Promise<void> {
  const { socket } = daemonPaths(host.paths.daemonDir);
  return host.out.answer(
    { pid, socket, started: false },
    () => `the daemon is up already: pid ${pid}, ${socket}`,
  );
}
