import { resolve } from "node:path";
import { usageError } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { serverLog } from "~/cli/mock/server-log";
import { systemClock } from "~/clock";

export const mockPilot = defineCommand({
  name: "mock pilot",
  description: "stand in for a Pilot daemon",
  args: {
    socket: {
      type: "string",
      valueHint: "PATH",
      completes: "file",
      description: "listen on a Unix socket there; the file appears once it listens",
    },
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
      description: "write every frame there, both ways; claudemesh mock replay answers from it",
    },
  },
  takesSingleDash: true,
  notes:
    "It answers every command with what docs/mocks.md lists, and needs no network, keys or database. The flags may have one dash (-socket PATH). Its log goes to standard error. SIGTERM and SIGINT end it at once, with status 0.",
  exits: [4],
  examples: [
    "claudemesh mock pilot -socket /tmp/pilot.sock",
    "claudemesh mock pilot --socket p.sock --script faults.json",
  ],
  async run({ socket, script, record }, host) {
    if (socket === undefined) {
      throw usageError(
        "usage: claudemesh mock pilot -socket PATH [--script FILE] [--record FILE]",
        "PATH is the Unix socket to listen on.",
      );
    }
    const { runMockPilot } = await import("~/mock/pilot-server");
    const path = resolve(socket);
    const { log, tellReady } = serverLog(host);
    const run = {
      socket: path,
      script: script === undefined ? undefined : resolve(script),
      record: record === undefined ? undefined : resolve(record),
      clock: systemClock,
      log,
      onReady: () => tellReady({ socket: path }),
    };
    await runMockPilot(run, host.ended);
  },
});
