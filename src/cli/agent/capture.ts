import { wholeNumber } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { printable } from "~/cli/text";
import { systemClock } from "~/clock";

export const agentCapture = defineCommand({
  name: "agent capture",
  description: "what stands on an agent's screen now",
  args: {
    name: { type: "positional", required: true, completes: "agent", description: "which agent" },
    lines: {
      type: "string",
      alias: "n",
      valueHint: "N",
      description: "only the last lines (default: all of the screen)",
      parse: wholeNumber(1, 100_000),
    },
  },
  exits: [3, 4, 5, 7],
  examples: ["claudemesh agent capture helper", "claudemesh agent capture helper -n 5 --json"],
  async run({ name, lines }, { paths, out }) {
    const { attachAgent } = await import("~/agent/hosted");
    const client = await attachAgent(paths.daemonDir, name, systemClock);
    try {
      const { content, cursor_row, cursor_col } = await client.capture(lines ?? null);
      await out.answer({ name, content, cursor_row, cursor_col }, () => printable(content.trimEnd()));
    } finally {
      client.close();
    }
  },
});
