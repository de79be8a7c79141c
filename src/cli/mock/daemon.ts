import { defineCommand } from "~/cli/command";
import { scriptArgs, socketArgs, socketOf, tcpArgs } from "~/cli/mock/args";
import { serve } from "~/cli/mock/serve";
import { systemClock } from "~/clock";

export const mockDaemon = defineCommand({
  name: "mock daemon",
  description: "stand in for the claudemesh daemon",
  args: { ...socketArgs, ...tcpArgs, ...scriptArgs },
  takesSingleDash: true,
  notes:
    "It serves every route of the daemon's API with made-up answers that are always the same, and needs no network, keys or database. Requests are let in and refused as by the daemon. Its log goes to standard error; with --json, where it listens goes to standard output, as one line. SIGTERM and SIGINT end it at once, with status 0.\n\nTo have claudemesh itself talk to it: let PATH be DIR/daemon.sock, and set CLAUDEMESH_DAEMON_DIR to DIR.",
  exits: [4],
  examples: [
    "claudemesh mock daemon --socket /tmp/mock/daemon.sock",
    "claudemesh mock daemon --socket d.sock --tcp 0 --json --script faults.json",
  ],
  async run(args, host) {
    const usage = "claudemesh mock daemon --socket PATH [--tcp PORT] [--script FILE] [--record FILE]";
    const socket = socketOf(args, usage);
    const { tcp, token, script, record } = args;
    const { runMockDaemon } = await import("~/mock/daemon/run");
    const { ended } = host;
    await serve(host, (told) =>
      runMockDaemon({ ...told, socket, tcp, token, script, record, clock: systemClock }, ended),
    );
  },
});
