import { defineCommand } from "~/cli/command";
import { daemonClient } from "~/cli/daemon-client";
import { columns, printableLine } from "~/cli/text";

export const daemonVersion = defineCommand({
  name: "daemon version",
  description: "the running daemon's version and what it can do",
  args: {},
  exits: [3, 4, 7],
  examples: ["claudemesh daemon version"],
  async run(_args, host) {
    const reply = await daemonClient(host).call("version");
    await host.out.answer(reply, () =>
      columns([
        ["daemon", reply.daemon_version],
        ["api", [reply.ipc_api, ...reply.ipc_features].join(", ")],
        ["schema", String(reply.schema_version)],
        ...Object.entries(reply.meshes).map(([slug, { broker_features }]) => [
          `mesh ${printableLine(slug)}`,
          broker_features === null
            ? "not connected yet"
            : Object.keys(broker_features).join(", ") || "version 1 broker",
        ]),
      ]),
    );
  },
});
