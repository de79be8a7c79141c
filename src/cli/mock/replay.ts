import { resolve } from "node:path";
import { usageError } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { serverLog } from "~/cli/mock/server-log";

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
  },
  takesSingleDash: true,
  notes:
    "A request is answered with what followed from the same bytes when they were recorded. What is not in the recording is answered with an error, and told on standard error. SIGTERM and SIGINT end it at once, with status 0.",
  exits: [4],
  examples: ["claudemesh mock replay session.jsonl --socket /tmp/pilot.sock"],
  async run(args, host) {
    if (args.socket === undefined) {
      throw usageError(
        "usage: claudemesh mock replay FILE --socket PATH",
        "PATH is the Unix socket to listen on.",
      );
    }
    const { readRecording } = await import("~/mock/recording");
    const socket = resolve(args.socket);
    const { log, tellReady } = serverLog(host);
    const { head, entries } = readRecording(resolve(args.file));
    if (head.recording !== "pilot") throw usageError("TODO");
    const { replayPilot } = await import("~/mock/pilot-server");
    await replayPilot({ socket, entries, log, onReady: () => tellReady({ socket }) }, host.ended);
  },
});
