import { exitText } from "~/cli/agent/exit-text";
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
      description: "seconds it has to end by itself after Ctrl-C (default: 5; 1 when it waits at its prompt)",
      parse: seconds(timeoutMsMax, 0),
    },
  },
  notes:
    "Ctrl-C, then after the timeout SIGTERM (and SIGHUP for what ignores that, such as a shell), and 2 seconds later SIGKILL. A shim that does not answer is killed, and the agent with it.",
  exits: [3, 4, 5, 7],
  examples: ["claudemesh agent stop helper", "claudemesh agent stop build --timeout 0"],
  async run({ name, timeout }, { paths, out }) {
    const { stopAgent } = await import("~/agent/hosted");
    const ended = await stopAgent(paths.daemonDir, name, timeout, systemClock);
    await out.answer({ name, stopped: true, ...ended }, () => {
      if (ended.was_unresponsive)
        return `the shim of ${name} did not answer; it was killed, and ${name} with it`;
      const how = exitText(ended.exit_code, ended.signal);
      return `${name} ${ended.was_dead ? "was dead; its shim has ended" : "has stopped"}${how && ` (${how})`}`;
    });
  },
});
