/** Looks at everything, each group on its own and bounded in time, and puts together what is judged of it. */
import type { Host } from "~/cli/command";
import { gatherBrokers, judgeBroker } from "~/cli/doctor/broker";
import { judgeClock } from "~/cli/doctor/clock";
import { gatherDaemon, judgeDaemon, judgeLinks, judgeProblems, judgeTcp } from "~/cli/doctor/daemon";
import { gatherDatabase, judgeDatabase } from "~/cli/doctor/database";
import { gatherDisk, judgeDisk } from "~/cli/doctor/disk";
import { gatherFiles, judgeFiles } from "~/cli/doctor/files";
import { type Finding, fail } from "~/cli/doctor/finding";
import { gatherHost, judgeHostIdentity } from "~/cli/doctor/host-identity";
import { gatherLog, judgeLog } from "~/cli/doctor/log";
import { gatherMembership, judgeMembership, meshesOf } from "~/cli/doctor/membership";
import { within } from "~/cli/doctor/probe";
import { gatherPutAside, judgePutAside } from "~/cli/doctor/put-aside";
import { gatherService, judgeService, type ServiceFacts } from "~/cli/doctor/service";
import { gatherSettings, judgeSettings } from "~/cli/doctor/settings";
import { systemClock } from "~/clock";
import { MeshError, systemCodeOf } from "~/errors";
import { defaultSettings } from "~/settings/knobs";
import { nowhereSpecial } from "~/settings/surroundings";
import { faultOf } from "~/wire/fault";
import { doctorServiceMsMax } from "~/wire/limits";
import { daemonPaths } from "~/wire/paths";

export async function examine(host: Host): Promise<Finding[]> {
  const { paths } = host;
  const { hostRecord, log } = daemonPaths(paths.daemonDir);
  const unseen: Finding[] = [];
  /** What cannot be looked at is a finding as well, and keeps nothing else from being looked at. */
  const look = async <T>(check: string, gather: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await gather();
    } catch (error) {
      if (!(error instanceof MeshError) && systemCodeOf(error) === undefined) throw error;
      const hint = error instanceof MeshError ? error.hint : undefined;
      unseen.push(
        fail(
          check,
          `it could not be looked at: ${faultOf(error)}`,
          hint ?? "CLAUDEMESH_DEBUG=1 claudemesh doctor",
        ),
      );
      return undefined;
    }
  };
  const [files = [], membership, settings, disk, logFacts, putAside = []] = await Promise.all([
    look("permissions", () => gatherFiles(paths)),
    look("keys", () => gatherMembership(paths.configFile)),
    look("settings", () => gatherSettings(host)),
    look("disk", () => gatherDisk(paths.daemonDir)),
    look("log", () => gatherLog(log)),
    look("kept", () => gatherPutAside(paths.daemonDir)),
  ]);
  const meshes = membership === undefined ? [] : meshesOf(membership);
  const values = settings?.kind === "valid" ? settings.settings : undefined;
  const late = (): ServiceFacts => ({
    kind: "unknown",
    why: `the service manager did not answer within ${doctorServiceMsMax / 1000} s`,
  });
  const [daemon, brokers = [], service, hostFacts] = await Promise.all([
    look("daemon", () => gatherDaemon(host)),
    look("broker", () => gatherBrokers(meshes)),
    look("service", () => within(doctorServiceMsMax, () => gatherService(host), late)),
    look("host", () => gatherHost(hostRecord, values?.["daemon.host_policy"] ?? "refuse")),
  ]);
  const database =
    daemon === undefined ? undefined : await look("database", () => gatherDatabase(host, daemon, files));

  const nowMs = systemClock.now();
  const health = daemon?.answer.kind === "health" ? daemon.answer.health : undefined;
  const hasMeshes = meshes.length > 0;
  const surroundings = settings?.surroundings ?? nowhereSpecial;
  const openMeshes = new Set(
    Object.entries(health?.meshes ?? {}).flatMap(([slug, { link }]) => (link === "open" ? [slug] : [])),
  );
  return unique([
    ...(membership === undefined ? [] : judgeMembership(membership)),
    ...judgeFiles(files, process.getuid?.()),
    ...(settings === undefined ? [] : judgeSettings(settings)),
    ...(hostFacts === undefined ? [] : judgeHostIdentity(hostFacts)),
    ...judgeClock({ nowMs, platform: process.platform, files, brokers }),
    ...judgeDisk(disk),
    ...(daemon === undefined ? [] : judgeDaemon(daemon, { files, hasMeshes })),
    ...(database === undefined ? [] : judgeDatabase(database)),
    ...judgePutAside(putAside, nowMs, (values ?? defaultSettings)["storage.retention_days"]),
    ...(daemon === undefined ? [] : judgeTcp(daemon, values)),
    ...judgeLog(logFacts, values),
    ...(service === undefined ? [] : judgeService(service, { health, hasMeshes, surroundings })),
    ...brokers.flatMap((broker) => judgeBroker(broker, { nowMs, openMeshes })),
    ...judgeLinks(health?.meshes ?? {}),
    ...judgeProblems(health?.problems ?? []),
    ...unseen,
  ]);
}

/** The daemon says some things that were found here as well: then the closer look, which comes first, stands for both. */
export function unique(findings: readonly Finding[]): Finding[] {
  const said = new Set<string>();
  return findings.filter(({ message }) => {
    const key = message.replace(/ \([a-z_]+\)$/, "");
    if (said.has(key)) return false;
    said.add(key);
    return true;
  });
}
