import { PrintedLines } from "~/cli/agent/printed";
import { wholeNumber } from "~/cli/argv";
import { defineCommand, type Host } from "~/cli/command";
import { printableLine } from "~/cli/text";
import { pause, systemClock } from "~/clock";
import { MeshError } from "~/errors";
import { logLinesShownDefault, logLinesShownMax } from "~/wire/limits";
import { agentPaths } from "~/wire/paths";

const lookEveryMs = 250;

export const agentLogs = defineCommand({
  name: "agent logs",
  description: "what an agent has printed",
  args: {
    name: { type: "positional", required: true, completes: "agent", description: "which agent" },
    follow: { type: "boolean", alias: "f", description: "go on with what it prints from now on" },
    lines: {
      type: "string",
      alias: "n",
      valueHint: "N",
      default: String(logLinesShownDefault),
      description: "how many of the last lines",
      parse: wholeNumber(0, logLinesShownMax),
    },
  },
  notes:
    "Also when it has ended; agents of the same name go on in the same log. Lines as text, without colours; of a program that paints its screen claudemesh agent capture shows more. The bytes themselves are in agents/NAME.log in the daemon's directory, of which the older half goes at 50 MiB.",
  exits: [5, 130],
  examples: ["claudemesh agent logs helper", "claudemesh agent logs build -f -n 0"],
  async run({ name, follow, lines }, host) {
    const { checkAgentName } = await import("~/agent/hosted-files");
    checkAgentName(name);
    const printed = new PrintedLines(agentPaths(host.paths.daemonDir, name).log);
    const last = printed.last(lines);
    if (last === undefined) {
      throw new MeshError("no_log", `no agent ${name} has run here`, { hint: "See: claudemesh agent list" });
    }
    await show(host, last);
    if (!follow) return;
    const { interrupted } = host;
    while (!interrupted.aborted) {
      const more = printed.next();
      await show(host, more);
      if (more.length === 0) await pause(systemClock, lookEveryMs, interrupted);
    }
  },
});

async function show({ out }: Host, lines: readonly string[]): Promise<void> {
  // An answer without text prints nothing, and a line without text is one.
  for (const line of lines) await (out.json ? out.answer({ line }, () => "") : out.text(printableLine(line)));
}
