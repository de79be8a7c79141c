/** The client of this host's daemon, and what several commands ask it. */
import type { Host } from "~/cli/command";
import { type Client, openClient } from "~/client/client";
import { MeshError } from "~/errors";
import type { HealthReply } from "~/wire/ipc";
import { daemonPaths } from "~/wire/paths";

export const daemonClient = ({ paths }: Host): Client =>
  openClient({ socketPath: daemonPaths(paths.daemonDir).socket });

const healthTimeoutMs = 5_000;

/** How the daemon is; undefined when none answers. Any other failure is thrown. */
export async function askHealth(
  client: Client,
  timeoutMs = healthTimeoutMs,
): Promise<HealthReply | undefined> {
  for (let attempt = 1; ; attempt++) {
    try {
      const health = await client.call("health", { timeoutMs });
      if ("pid" in health) return health;
      throw new MeshError("incompatible_daemon", "the daemon does not show its health on its own socket", {
        hint: "Restart it: claudemesh daemon down && claudemesh daemon up",
      });
    } catch (error) {
      if (!(error instanceof MeshError)) throw error;
      if (error.code === "daemon_unreachable") return undefined;
      // A daemon that died while it was asked refuses the next question; whoever answers like that again is no daemon.
      if (error.code !== "answer_lost" || attempt > 1) throw error;
    }
  }
}
