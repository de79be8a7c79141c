import { defineCommand } from "~/cli/command";
import { daemonClient } from "~/cli/daemon-client";
import { localTime } from "~/cli/text";
import { systemClock } from "~/clock";
import { MeshError } from "~/errors";
import type { ReplyOf } from "~/wire/ipc";
import { daemonPaths } from "~/wire/paths";

export const rotateToken = defineCommand({
  name: "daemon rotate-token",
  description: "renew the token of the local API over TCP",
  args: {},
  notes:
    "The new token is written to local_token in the daemon's directory and is never printed. A running daemon takes the old one for api.token_grace_s (60 s) more, unless it is restarted; programs that keep a token read the file again when they are refused.",
  exits: [4, 7],
  examples: ["claudemesh daemon rotate-token"],
  async run(_args, host) {
    const { token: file } = daemonPaths(host.paths.daemonDir);
    let renewed: ReplyOf<"rotateToken">;
    try {
      renewed = await daemonClient(host).call("rotateToken");
    } catch (error) {
      if (!(error instanceof MeshError) || error.code !== "daemon_unreachable") throw error;
      const { renewStoredToken } = await import("~/daemon/local-token");
      const stored = { ...renewStoredToken(host.paths, systemClock), grace_until: null, file };
      await host.out.answer(
        stored,
        () =>
          `the token in ${file} is a new one; no daemon is running, so nothing takes the old one any more`,
      );
      return;
    }
    await host.out.answer(
      { ...renewed, file },
      () =>
        `the token in ${file} is a new one; the daemon takes the old one until ${localTime(renewed.grace_until)}`,
    );
  },
});
