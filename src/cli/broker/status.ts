import { resolve } from "node:path";
import { findBroker } from "~/cli/broker/record";
import { defineCommand } from "~/cli/command";
import { counted, printableLine, spanText } from "~/cli/text";
import { MeshError } from "~/errors";

export const brokerStatus = defineCommand({
  name: "broker status",
  description: "whether the embedded broker serves, and where",
  args: {
    data: {
      type: "string",
      valueHint: "DIR",
      completes: "directory",
      description: "its data directory (default: CLAUDEMESH_BROKER_DATA, else broker/ beside config.json)",
    },
  },
  exits: [3],
  examples: ["claudemesh broker status --json"],
  async run({ data }, { paths, out }) {
    const dataDir = resolve(data ?? paths.brokerDir);
    const running = await findBroker(dataDir);
    if (running === undefined) {
      throw new MeshError("broker_unreachable", `no broker is running on ${dataDir}`, {
        hint: "Start it: claudemesh broker up",
      });
    }
    const { pid, url, health } = running;
    await out.answer({ pid, url, data: dataDir, ...health }, () => {
      const connections = counted(health.connections, "connection");
      const problems = health.problems.map(({ message }) => `\nproblem: ${printableLine(message)}`).join("");
      return `${url}: up for ${spanText(health.uptime_s)}, pid ${pid}, version ${printableLine(health.version)}, ${connections}${problems}`;
    });
  },
});
