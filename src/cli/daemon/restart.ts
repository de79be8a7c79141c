import { defineCommand, type Host } from "~/cli/command";
import { endDaemon } from "~/cli/daemon/down";
import { findDaemon, type RunningDaemon } from "~/cli/daemon/running";
import { startDaemon } from "~/cli/daemon/up";
import { askHealth, daemonClient } from "~/cli/daemon-client";
import { eventually } from "~/cli/server-process";
import { MeshError } from "~/errors";
import { mustRun } from "~/service/program";
import { toUserManager } from "~/service/systemd-manager";
import { readSettingsFile } from "~/settings/file";
import { version } from "~/version";
import type { HealthReply } from "~/wire/ipc";
import { daemonPaths } from "~/wire/paths";

const endMsMax = 20_000;
const readyMsMax = 30_000;
const versionMsMax = 5_000;

export const daemonRestart = defineCommand({
  name: "daemon restart",
  description: "stop the daemon and start it again, as this version and with the same flags",
  args: {},
  notes:
    "One that systemd or launchd manages is restarted by them. When no daemon runs, one is started. What is in flight is settled or put back; nothing is lost.",
  exits: [3, 4, 7],
  examples: ["claudemesh daemon restart"],
  async run(_args, host) {
    const running = await findDaemon(host);
    const health = running?.health;
    if (health?.ephemeral !== undefined) {
      throw new MeshError("usage", "this daemon is ephemeral: a restart would end its keys and messages", {
        hint: "claudemesh daemon down ends it; claudemesh daemon up --ephemeral starts another one.",
      });
    }
    if (running?.pid === 1) {
      throw new MeshError("usage", "the daemon is the first process of this container, which ends with it", {
        hint: "Restart the container.",
      });
    }
    // What would keep the next one from starting leaves this one running.
    await readSettingsFile(host.paths.settingsFile);
    if (running !== undefined && !health?.managed_by) await refuseLastEnd(host, running);
    const now = health?.managed_by ? await restartManaged(host, health) : await restartOurs(host, running);
    const { socket } = daemonPaths(host.paths.daemonDir);
    const before = running === undefined ? null : running.pid;
    const answer = { stopped: before !== null, pid: now.pid, socket, previous_pid: before };
    await host.out.answer(answer, () =>
      before === null
        ? `no daemon was running; one is up now: pid ${now.pid}, ${socket}`
        : `the daemon was restarted: pid ${now.pid} (before: ${before}), ${socket}`,
    );
  },
});

/** Throws when this command could end the daemon, and then start none in its place. */
async function refuseLastEnd(host: Host, { health, forbidden }: RunningDaemon): Promise<void> {
  if (forbidden !== undefined) {
    throw new MeshError(
      "sandboxed",
      "a daemon that is started from here may not use Unix sockets; the one that runs goes on",
      {
        hint: "Restart it outside of the sandbox: claudemesh daemon restart",
        details: forbidden.details,
        cause: forbidden,
      },
    );
  }
  if (health === undefined) return;
  const reply = await daemonClient(host, { endsSkew: true })
    .call("version", { timeoutMs: versionMsMax })
    .catch((error: unknown) => {
      // That its answers make no sense is a reason for a restart, not against it.
      if (!(error instanceof MeshError)) throw error;
      return undefined;
    });
  const { canOpenSchema } = await import("~/daemon/recover");
  if (reply === undefined || canOpenSchema(reply.schema_version)) return;
  throw new MeshError(
    "database_newer",
    `the daemon is of version ${reply.daemon_version}, and this one (${version}) could not open its databases; it goes on as it is`,
    { hint: "Use the newer claudemesh here too. claudemesh daemon down stops the daemon all the same." },
  );
}

async function restartOurs(host: Host, running: RunningDaemon | undefined): Promise<HealthReply> {
  if (running !== undefined) await endDaemon(host, running, endMsMax);
  return (await startDaemon(host, running?.startedWith ?? [])).health;
}

/** Beside its manager a daemon of ours would have to fight for the lock. */
async function restartManaged(
  host: Host,
  { pid, managed_by, managed_unit = "", managed_scope }: HealthReply,
): Promise<HealthReply> {
  const programs = { platform: process.platform, env: host.env };
  const isUsers = managed_scope !== "system";
  const uid = process.getuid?.() ?? 0;
  /** A service of the system is root's to restart. */
  const asRoot = (command: string): { hint?: string } => (isUsers ? {} : { hint: `sudo ${command}` });
  if (managed_by === "systemd") {
    const args = [...(isUsers ? ["--user"] : []), "restart", managed_unit];
    const options = isUsers ? toUserManager(programs, uid) : asRoot(["systemctl", ...args].join(" "));
    await mustRun(programs, "systemctl", args, options);
  } else if (managed_by === "launchd") {
    const args = ["kickstart", "-k", `${isUsers ? `gui/${uid}` : "system"}/${managed_unit}`];
    await mustRun(programs, "launchctl", args, asRoot(["launchctl", ...args].join(" ")));
  } else {
    throw new MeshError(
      "incompatible_daemon",
      `the daemon is managed by ${managed_by}, which this version does not know`,
      { hint: `Restart it there (${managed_unit}).` },
    );
  }
  const client = daemonClient(host);
  const next = await eventually(async () => {
    const health = await askHealth(client).catch((error: unknown) => {
      // On its way down or up it may hang up on us.
      if (error instanceof MeshError && error.code !== "sandboxed") return undefined;
      throw error;
    });
    return health === undefined || health.pid === pid ? undefined : health;
  }, readyMsMax);
  if (next !== undefined) return next;
  throw new MeshError("timed_out", `${managed_by} restarted ${managed_unit}, and no daemon answers`, {
    hint:
      managed_by === "systemd"
        ? `See why: journalctl ${isUsers ? "--user " : ""}-u ${managed_unit}`
        : `See its log: ${daemonPaths(host.paths.daemonDir).log}`,
  });
}
