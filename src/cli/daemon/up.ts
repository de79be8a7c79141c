import { usageError, wholeNumber } from "~/cli/argv";
import { defineCommand, type Host } from "~/cli/command";
import { askHealth, daemonClient } from "~/cli/daemon-client";
import { unlessClosed } from "~/cli/output";
import { eventually, startDetached } from "~/cli/server-process";
import { MeshError } from "~/errors";
import { daemonPaths } from "~/wire/paths";

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
  },
  notes: "A daemon that already runs is left as it is: the command says so and ends with 0.",
  exits: [3, 4, 7, 130],
  examples: ["claudemesh daemon up", "claudemesh daemon up --foreground --no-tcp"],
  async run(args, host) {
    if (args["no-tcp"] && (args["tcp-port"] !== undefined || args["public-health"])) {
      throw usageError("--no-tcp contradicts --tcp-port and --public-health");
    }
    const client = daemonClient(host);
    const running = await askHealth(client);
    if (running !== undefined) return await sayRunning(host, running.pid);
    if (args.foreground) {
      const { runDaemon } = await import("~/daemon/run");
      await runDaemon(
        {
          paths: host.paths,
          tcp: args["no-tcp"] ? false : { port: args["tcp-port"] },
          publicHealth: args["public-health"],
          onReady: ({ pid, socket }) => void unlessClosed(sayStarted(host, pid, socket, "in the foreground")),
        },
        host.interrupted,
      );
      return;
    }
    const { log, socket } = daemonPaths(host.paths.daemonDir);
    let pid: number;
    try {
      pid = await startDetached({
        what: "the daemon",
        args: ["daemon", "up", ...passedOn(args)],
        logFile: log,
        host,
        timeoutMs: readyTimeoutMs,
      });
    } catch (error) {
      if (!(error instanceof MeshError) || error.code !== "already_running") throw error;
      // Somebody else started one at the same moment; it may still be on its way up.
      const other = await eventually(() => askHealth(client), readyTimeoutMs);
      if (other === undefined) throw error;
      return await sayRunning(host, other.pid);
    }
    const health = await askHealth(client);
    if (health === undefined) {
      throw new MeshError("daemon_unreachable", "the daemon was ready and is gone again", {
        hint: `See its log: ${log}`,
      });
    }
    // What we started may itself have found one that was quicker.
    if (health.pid !== pid) return await sayRunning(host, health.pid);
    await sayStarted(host, pid, socket, `log: ${log}`);
  },
});

function passedOn(args: {
  "no-tcp": boolean;
  "tcp-port": number | undefined;
  "public-health": boolean;
}): string[] {
  return [
    ...(args["no-tcp"] ? ["--no-tcp"] : []),
    ...(args["tcp-port"] === undefined ? [] : ["--tcp-port", String(args["tcp-port"])]),
    ...(args["public-health"] ? ["--public-health"] : []),
  ];
}

const sayStarted = (host: Host, pid: number, socket: string, more: string): Promise<void> =>
  host.out.answer({ pid, socket, started: true }, () => `the daemon is up: pid ${pid}, ${socket} (${more})`);

function sayRunning(host: Host, pid: number): Promise<void> {
  const { socket } = daemonPaths(host.paths.daemonDir);
  return host.out.answer(
    { pid, socket, started: false },
    () => `the daemon is up already: pid ${pid}, ${socket}`,
  );
}
