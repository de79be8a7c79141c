import { defineCommand } from "~/cli/command";
import { scriptArgs, socketArgs, socketOf } from "~/cli/mock/args";
import { serve } from "~/cli/mock/serve";
import { systemClock } from "~/clock";

export const mockPilot = defineCommand({
  name: "mock pilot",
  description: "stand in for a Pilot daemon",
  args: { ...socketArgs, ...scriptArgs },
  takesSingleDash: true,
  notes:
    "It answers every command with what docs/mocks.md lists, and needs no network, keys or database. The flags may have one dash (-socket PATH). Its log goes to standard error; with --json, where it listens goes to standard output, as one line. SIGTERM and SIGINT end it at once, with status 0.",
  exits: [4],
  examples: [
    "claudemesh mock pilot -socket /tmp/pilot.sock",
    "claudemesh mock pilot --socket p.sock --script faults.json",
  ],
  async run(args, host) {
    const socket = socketOf(args, "claudemesh mock pilot -socket PATH [--script FILE] [--record FILE]");
    const { script, record } = args;
    const { runMockPilot } = await import("~/mock/pilot/run");
    const { ended } = host;
    await serve(host, ({ log, onReady }) => {
      const run = { socket, script, record, clock: systemClock, log, onReady: () => onReady({ socket }) };
      return runMockPilot(run, ended);
    });
  },
});
