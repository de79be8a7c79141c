import { detachKeyArg, detachKeyOf, showAgent, terminalOf } from "~/cli/agent/attached";
import { defineCommand } from "~/cli/command";
import { systemClock } from "~/clock";

export const agentAttach = defineCommand({
  name: "agent attach",
  description: "show a running agent in this terminal",
  args: {
    name: { type: "positional", required: true, completes: "agent", description: "which agent" },
    ...detachKeyArg,
  },
  notes:
    "It shows the screen as it is now and goes on from there. Several terminals can be attached to one agent: all see the same and all can type; the agent has the size of the terminal that attached, was resized or typed last. Closing the terminal leaves the agent running, unless it is the one that it was started in.",
  exits: [3, 4, 5, 7, 130],
  examples: ["claudemesh agent attach helper", "claudemesh agent attach helper --detach-key ctrl-b"],
  async run({ name, "detach-key": keyText }, host) {
    const detachKey = await detachKeyOf(keyText);
    const terminal = terminalOf(
      host,
      `What it shows, without one: claudemesh agent capture ${name}; and to type: claudemesh agent send ${name} TEXT`,
    );
    const { describeAgent, refuseOwnTerminal } = await import("~/agent/hosted");
    const description = await describeAgent(host.paths.daemonDir, name, systemClock);
    refuseOwnTerminal(description, name);
    const { terminals } = description;
    const others = terminals === 0 ? "" : `, ${terminals} attached already`;
    const leave = detachKey === undefined ? "" : `: ${detachKey.name} leaves it running`;
    await host.out.note(`[${name}${leave}${others}]`);
    return await showAgent(host, { name, terminal, isOwner: false, detachKey });
  },
});
