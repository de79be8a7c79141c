/** Called by the watchdog of a shim that was killed: ends the agent that it hosted. For nobody else, so that it is listed nowhere. */
import type { Command } from "~/cli/command";

export const endAgentCommand: Command = {
  name: "end-agent",
  description: "what the watchdog of a shim calls",
  args: {},
  exits: [],
  examples: ["claudemesh end-agent 0123456789abcdef0123456789abcdef agent=123:456:123:123"],
  async execute(argv) {
    const { endAgent } = await import("~/agent/end-agent");
    const left = await endAgent(argv);
    return left.length === 0 ? 0 : 1;
  },
};
