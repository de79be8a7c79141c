import { seconds } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { askHealth, daemonClient } from "~/cli/daemon-client";
import { askToEnd, becomesTrue, isAlive } from "~/cli/server-process";
import { MeshError } from "~/errors";

const timeoutMsMax = 3600_000;

export const daemonDown = defineCommand({
  name: "daemon down",
  description: "stop the daemon cleanly",
  args: {
    timeout: {
      type: "string",
      valueHint: "S",
      default: "15",
      description: "seconds to wait for its end",
      parse: seconds(timeoutMsMax),
    },
  },
  notes:
    "What is in flight is settled or put back; nothing is lost. When no daemon runs the command says so and ends with 0.",
  exits: [4, 7],
  examples: ["claudemesh daemon down"],
  async run({ timeout }, host) {
    const { out } = host;
    const client = daemonClient(host);
    const health = await askHealth(client, timeout);
    if (health === undefined) {
      await out.answer({ stopped: false, pid: null }, () => "no daemon is running");
      return;
    }
    const { pid } = health;
    askToEnd(pid);
    const isGone = async (): Promise<boolean> => !isAlive(pid) && (await askHealth(client)) === undefined;
    if (!(await becomesTrue(isGone, timeout))) {
      throw new MeshError("timed_out", `the daemon (pid ${pid}) has not ended within ${timeout / 1000} s`, {
        hint: `Wait longer (--timeout), or end it the hard way, which loses nothing that was accepted: kill -9 ${pid}`,
        details: { pid },
      });
    }
    await out.answer({ stopped: true, pid }, () => `the daemon (pid ${pid}) has stopped`);
  },
});
