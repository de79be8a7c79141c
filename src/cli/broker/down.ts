import { resolve } from "node:path";
import { seconds } from "~/cli/argv";
import { findBroker } from "~/cli/broker/record";
import { defineCommand } from "~/cli/command";
import { askToEnd, becomesTrue, isAlive } from "~/cli/server-process";
import { MeshError } from "~/errors";

const timeoutMsMax = 3600_000;

export const brokerDown = defineCommand({
  name: "broker down",
  description: "stop the embedded broker cleanly",
  args: {
    data: {
      type: "string",
      valueHint: "DIR",
      completes: "directory",
      description: "its data directory (default: CLAUDEMESH_BROKER_DATA, else broker/ beside config.json)",
    },
    timeout: {
      type: "string",
      valueHint: "S",
      default: "15",
      description: "seconds to wait for its end",
      parse: seconds(timeoutMsMax),
    },
  },
  notes: "What members sent is kept. When no broker runs the command says so and ends with 0.",
  exits: [4, 7],
  examples: ["claudemesh broker down"],
  async run({ data, timeout }, { paths, out }) {
    const dataDir = resolve(data ?? paths.brokerDir);
    const running = await findBroker(dataDir);
    if (running === undefined) {
      await out.answer({ stopped: false, pid: null }, () => `no broker is running on ${dataDir}`);
      return;
    }
    const { pid } = running;
    askToEnd(pid);
    if (!(await becomesTrue(() => !isAlive(pid), timeout))) {
      throw new MeshError("timed_out", `the broker (pid ${pid}) has not ended within ${timeout / 1000} s`, {
        hint: `Wait longer (--timeout), or end it the hard way, which loses nothing that was accepted: kill -9 ${pid}`,
        details: { pid },
      });
    }
    await out.answer({ stopped: true, pid }, () => `the broker (pid ${pid}) has stopped`);
  },
});
