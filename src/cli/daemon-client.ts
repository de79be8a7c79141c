/** The client of this host's daemon, and what several commands ask it. */
import type { Host } from "~/cli/command";
import { type Client, openClient } from "~/client/client";
import { MeshError } from "~/errors";
import type { HealthReply } from "~/wire/ipc";
import { daemonPaths } from "~/wire/paths";

/** What each run of a command was told already: a command may open several clients. */
const toldTo = new WeakMap<Host, Set<string>>();

export const daemonClient = (host: Host, { endsSkew = false } = {}): Client => {
  const { socket, httpPort, token } = daemonPaths(host.paths.daemonDir);
  return openClient({
    socketPath: socket,
    tcp: { port: httpPort, token },
    endsSkew,
    tell: async (text) => {
      const told = toldTo.get(host) ?? new Set<string>();
      toldTo.set(host, told);
      if (told.has(text)) return;
      told.add(text);
      await host.out.note(text);
    },
  });
};

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
        hint: "Restart it: claudemesh daemon restart",
      });
    } catch (error) {
      if (!(error instanceof MeshError)) throw error;
      if (error.code === "daemon_unreachable") return undefined;
      // A daemon that died while it was asked refuses the next question; whoever answers like that again is no daemon.
      if (error.code !== "answer_lost" || attempt > 1) throw error;
    }
  }
}
