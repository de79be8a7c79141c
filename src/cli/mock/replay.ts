import { resolve } from "node:path";
import { usageError } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { socketArgs, socketOf, tcpArgs } from "~/cli/mock/args";
import { serve } from "~/cli/mock/serve";
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
    ...socketArgs,
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
    const socket = socketOf(args, "claudemesh mock replay FILE --socket PATH [--tcp PORT]");
    const { tcp, token } = args;
    const { readRecording } = await import("~/mock/recording");
    const { ended } = host;
    const { head, entries } = readRecording(resolve(args.file));
    if (head.recording === "daemon") {
      const { replayDaemon } = await import("~/mock/daemon/run");
      await serve(host, (told) =>
        replayDaemon({ ...told, socket, tcp, token, clock: systemClock }, entries, ended),
      );
      return;
    }
    if (tcp !== undefined)
      throw usageError("--tcp is for recordings of mock daemon; this is one of mock pilot");
    const { replayPilot } = await import("~/mock/pilot/run");
    await serve(host, ({ log, onReady }) =>
      replayPilot({ socket, log, onReady: () => onReady({ socket }) }, entries, ended),
    );
  },
});
