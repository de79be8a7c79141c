import { resolve } from "node:path";
import { usageError } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { serverLog } from "~/cli/mock/server-log";
import { checkTcpArgs, tcpArgs } from "~/cli/mock/tcp-args";
import { systemClock } from "~/clock";

export const mockDaemon = defineCommand({
  name: "mock daemon",
  description: "stand in for the claudemesh daemon",
  args: {
    socket: {
      type: "string",
      valueHint: "PATH",
      completes: "file",
      description: "listen on a Unix socket there; the file appears once everything is served",
    },
    ...tcpArgs,
    script: {
      type: "string",
      valueHint: "FILE",
      completes: "file",
      description: "what to do otherwise than usual; claudemesh mock schema says what it may hold",
    },
    record: {
      type: "string",
      valueHint: "FILE",
      completes: "file",
      description: "write every request and answer there; claudemesh mock replay answers from it",
    },
  },
  takesSingleDash: true,
  notes:
    "It serves every route of the daemon's API with made-up answers that are always the same, and needs no network, keys or database. Requests are let in and refused as by the daemon. Its log goes to standard error; with --json, where it listens goes to standard output, as one line. SIGTERM and SIGINT end it at once, with status 0.\n\nTo have claudemesh itself talk to it: let PATH be DIR/daemon.sock, and set CLAUDEMESH_DAEMON_DIR to DIR.",
  exits: [4],
  examples: [
    "claudemesh mock daemon --socket /tmp/mock/daemon.sock",
    "claudemesh mock daemon --socket d.sock --tcp 0 --json --script faults.json",
  ],
  async run({ socket, tcp, token, script, record }, host) {
    if (socket === undefined) {
      throw usageError(
        "usage: claudemesh mock daemon --socket PATH [--tcp PORT] [--script FILE] [--record FILE]",
        "PATH is the Unix socket to listen on.",
      );
    }
    checkTcpArgs({ tcp, token });
    const { runMockDaemon } = await import("~/mock/daemon");
    const { log, tellReady } = serverLog(host);
    const run = {
      socket: resolve(socket),
      tcp,
      token,
      script: script === undefined ? undefined : resolve(script),
      record: record === undefined ? undefined : resolve(record),
      clock: systemClock,
      log,
      onReady: tellReady,
    };
    await runMockDaemon(run, host.ended);
  },
});
