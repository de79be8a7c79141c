import { seconds } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { systemClock } from "~/clock";

const timeoutMsMax = 3600_000;

export const agentStop = defineCommand({
  name: "agent stop",
  description: "end an agent of this host and everything that it started",
  args: {
    name: { type: "positional", required: true, completes: "agent", description: "which agent" },
    timeout: {
      type: "string",
      valueHint: "S",
      default: "5",
      description: "seconds it has to end by itself after Ctrl-C",
      parse: seconds(timeoutMsMax),
    },
  },
  notes: "Ctrl-C, then after the timeout SIGTERM, and 2 seconds later SIGKILL.",
  exits: [3, 4, 5, 7],
  examples: ["claudemesh agent stop helper", "claudemesh agent stop build --timeout 60"],
  async run({ name, timeout }, { paths, out }) {
    const { stopAgent } = await import("~/agent/hosted");
    const ended = await stopAgent(paths.daemonDir, name, timeout, systemClock);
    await out.answer({ name, stopped: true, ...ended }, () =>
      ended.was_dead
        ? `${name} was dead; its shim has ended`
        : `${name} has stopped${statusText(ended.exit_code)}`,
    );
  },
});

const statusText = (exitCode: number | null): string =>
  exitCode === null ? "" : ` (exit status ${exitCode})`;
