import { resolve } from "node:path";
import { usageError } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { serverLog } from "~/cli/mock/server-log";
import { checkTcpArgs, tcpArgs } from "~/cli/mock/tcp-args";
import { systemClock } from "~/clock";

export const mockReplay = defineCommand({
  name: "mock replay",
  description: "answer from what a mock has recorded",
  args: {
    file: {
      type: "positional",
      required: true,
      completes: "file",
      description: "what mock pilot or mock daemon wrote with --record",
    },
    socket: {
      type: "string",
      valueHint: "PATH",
      completes: "file",
      description: "listen on a Unix socket there; the file appears once it listens",
    },
    ...tcpArgs,
  },
  takesSingleDash: true,
  notes:
    "A request is answered with what followed from the same request when it was recorded. What is not in the recording is answered with an error, and told on standard error. SIGTERM and SIGINT end it at once, with status 0.\n\n--tcp is for recordings of mock daemon. Those are answered whatever token is shown; the one of --token is proved to clients that ask for a proof.",
  exits: [4],
  examples: [
    "claudemesh mock replay session.jsonl --socket /tmp/pilot.sock",
    "claudemesh mock replay api.jsonl --socket /tmp/mock/daemon.sock --tcp 0 --json",
  ],
  async run(args, host) {
    if (args.socket === undefined) {
      throw usageError(
        "usage: claudemesh mock replay FILE --socket PATH [--tcp PORT]",
        "PATH is the Unix socket to listen on.",
      );
    }
    checkTcpArgs(args);
    const { readRecording } = await import("~/mock/recording");
    const socket = resolve(args.socket);
    const { log, tellReady } = serverLog(host);
    const { head, entries } = readRecording(resolve(args.file));
    if (head.recording === "pilot") {
      if (args.tcp !== undefined)
        throw usageError("--tcp is for recordings of mock daemon; this is one of mock pilot");
      const { replayPilot } = await import("~/mock/pilot-server");
      await replayPilot({ socket, entries, log, onReady: () => tellReady({ socket }) }, host.ended);
      return;
    }
    const { replayDaemon } = await import("~/mock/daemon");
    const { tcp, token } = args;
    const run = { socket, tcp, token, entries, clock: systemClock, log, onReady: tellReady };
    await replayDaemon(run, host.ended);
  },
});
