import { defineCommand } from "~/cli/command";
import { askHealth, daemonClient } from "~/cli/daemon-client";
import { printableLine } from "~/cli/text";
import { systemClock } from "~/clock";
import { MeshError } from "~/errors";
import { acceptHost, type HostRecord } from "~/identity/host";
import { readRemintPlan, remintPlanFile } from "~/identity/remint-plan";
import { daemonPaths } from "~/wire/paths";

export const daemonAcceptHost = defineCommand({
  name: "daemon accept-host",
  description: "go on with the same keys on other hardware",
  args: {},
  notes:
    "For an installation that has moved: the original is gone, and this host takes its place. For a copy of a host that goes on, use claudemesh daemon remint: two hosts with the same keys take each other's messages away.",
  exits: [3, 4],
  examples: ["claudemesh daemon accept-host"],
  async run(_args, host) {
    const { paths, out } = host;
    refuseHalfReminted(paths.configDir, paths.configFile);
    const running = await askHealth(daemonClient(host));
    const file = daemonPaths(paths.daemonDir).hostRecord;
    const { before, now, changes } = acceptHost(file, systemClock.now());
    await out.answer(
      {
        record: file,
        changes,
        before: before === null ? null : summary(before),
        now: summary(now),
        daemon_pid: running?.pid ?? null,
      },
      () => [`this host is accepted; ${file} says so`, ...described(changes, now)].join("\n"),
    );
    if (running !== undefined) {
      await out.note(
        `The daemon (pid ${running.pid}) runs already; it compares the host only when it starts, so nothing changes for it.`,
      );
    }
  },
});

/** Some meshes have new keys already: with the copied ones in the others this would be half of two hosts. */
function refuseHalfReminted(configDir: string, configFile: string): void {
  const plan = readRemintPlan(configDir);
  if (plan === undefined) return;
  throw new MeshError("not_allowed", `a remint of this host began on ${plan.started_at} and did not finish`, {
    hint: `Finish it: claudemesh daemon remint. Or, to have the copied keys back: ${plan.backup === "" ? "" : `mv '${plan.backup}' '${configFile}' && `}rm '${remintPlanFile(configDir)}'`,
  });
}

/** Without the hashes: they serve nobody but the daemon. */
const summary = ({ recorded_at, host_id, mac, random_id }: HostRecord): Record<string, unknown> => ({
  recorded_at,
  host_id: host_id?.source ?? (random_id === undefined ? null : "random"),
  mac: mac?.interface ?? null,
});

function described(changes: readonly string[], { host_id, mac }: HostRecord): string[] {
  const sources = [host_id?.source, mac === null ? undefined : `the hardware address of ${mac.interface}`];
  const known = sources.filter((source) => source !== undefined).map(printableLine);
  return [
    ...(changes.length === 0 ? ["nothing had changed"] : changes),
    known.length === 0
      ? "nothing tells it from other hosts: a copy of these files would not be noticed"
      : `known by ${known.join(" and ")}`,
  ];
}
