/** Whether launchd or systemd runs the daemon: its unit, whether it is started at boot, and what it starts. */
import { spawn } from "node:child_process";
import { constants } from "node:fs";
import { access, lstat, readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Host } from "~/cli/command";
import { serviceTarget } from "~/cli/daemon/service-target";
import { type Finding, fail, pass, warn } from "~/cli/doctor/finding";
import { systemClock } from "~/clock";
import { MeshError, systemCodeOf } from "~/errors";
import type { Surroundings } from "~/settings/surroundings";
import { version } from "~/version";
import type { HealthReply } from "~/wire/ipc";
import { doctorProbeMsMax } from "~/wire/limits";

export type ServiceFacts =
  /** Why it cannot be said. */
  { kind: "unknown"; why: string } | { kind: "none"; hasManager: boolean } | InstalledService;

export interface InstalledService {
  kind: "installed";
  unitPath: string;
  /** The manager of the whole system runs it. */
  isSystem: boolean;
  /** Other units for the same daemon, with what removes each. */
  rivals: readonly { path: string; remove: string }[];
  /** Started at boot or login; undefined when that cannot be seen. */
  isEnabled: boolean | undefined;
  /** What it starts; undefined when the unit is not one of ours. */
  executable: string | undefined;
  /** What that says of itself; undefined when it is missing or says nothing. */
  executableVersion: string | undefined;
  /** Undefined for a service of the system, which is not asked. */
  state: { pid: number | undefined; text: string; givenUp: boolean } | undefined;
  bootCommand: string;
  logCommand: string;
}

export async function gatherService(host: Host): Promise<ServiceFacts> {
  try {
    const { manager } = await serviceTarget(host, {
      system: false,
      user: undefined,
      command: "doctor",
      purpose: "remove",
    });
    const others = await Promise.all(
      manager.rivals.map(async (rival) => ((await readUnit(rival.path)) === undefined ? [] : [rival])),
    );
    const rivals = others.flat();
    const own = await readUnit(manager.unitPath);
    const [rival, ...moreRivals] = rivals;
    if (own === undefined && rival === undefined)
      return { kind: "none", hasManager: await answers(manager.check()) };
    const unitPath = own === undefined ? (rival?.path ?? "") : manager.unitPath;
    const executable = unitExecutable(own ?? (await readUnit(unitPath)) ?? "");
    return {
      kind: "installed",
      unitPath,
      isSystem: own === undefined,
      rivals: own === undefined ? moreRivals : rivals,
      isEnabled: await isEnabled(unitPath),
      executable,
      executableVersion: executable === undefined ? undefined : await versionOf(executable, host.env),
      state: own === undefined ? undefined : await manager.state(),
      bootCommand: manager.bootCommand,
      logCommand: manager.logCommand,
    };
  } catch (error) {
    if (error instanceof MeshError) return { kind: "unknown", why: error.message };
    throw error;
  }
}

async function answers(check: Promise<void>): Promise<boolean> {
  try {
    await check;
    return true;
  } catch (error) {
    if (error instanceof MeshError) return false;
    throw error;
  }
}

async function readUnit(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    const code = systemCodeOf(error);
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw new MeshError("service_failed", `${path} cannot be read (${code ?? error})`, { cause: error });
  }
}

/** systemd keeps a link for every unit that is started with a target; launchd goes by the files themselves. */
async function isEnabled(unitPath: string): Promise<boolean | undefined> {
  if (!unitPath.endsWith(".service")) return undefined;
  const links = ["default.target.wants", "multi-user.target.wants"].map((target) =>
    join(dirname(unitPath), target, basename(unitPath)),
  );
  const found = await Promise.all(links.map(isThere));
  return found.includes(true);
}

async function isThere(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (systemCodeOf(error) === undefined) throw error;
    return false; // Not there, or not to be seen: systemd, which runs as somebody else, is asked by the state.
  }
}

/** The program that a unit starts, from its text: systemd's `ExecStart=`, or the first of launchd's `ProgramArguments`. */
export function unitExecutable(unit: string): string | undefined {
  const plist = /<key>ProgramArguments<\/key>\s*<array>\s*<string>([^<]*)<\/string>/.exec(unit)?.[1];
  if (plist !== undefined) {
    const entities: Readonly<Record<string, string>> = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&" };
    return plist.replace(/&(lt|gt|quot|apos|amp);/g, (_, name: string) => entities[name] ?? "");
  }
  const line = /^ExecStart=(.*)$/m.exec(unit)?.[1];
  if (line === undefined) return undefined;
  const words = [...line.matchAll(/"((?:\\.|[^"\\])*)"|(\S+)/g)].map(([, quoted, plain = ""]) =>
    (quoted === undefined ? plain : quoted.replace(/\\(.)/g, "$1")).replaceAll("%%", "%"),
  );
  // A path with quotes in it goes through a shell, as an argument (service/systemd.ts), where a dollar is written twice.
  return words[0] === "/bin/sh" && words[1] === "-c" ? words[3]?.replaceAll("$$", "$") : words[0];
}

/** Undefined when it cannot be run, or does not say in time. */
async function versionOf(executable: string, env: Host["env"]): Promise<string | undefined> {
  try {
    await access(executable, constants.X_OK);
  } catch (error) {
    if (systemCodeOf(error) === undefined) throw error;
    return undefined;
  }
  return await new Promise((resolve) => {
    const child = spawn(executable, ["--version"], { stdio: ["ignore", "pipe", "ignore"], env: { ...env } });
    const timer = systemClock.after(doctorProbeMsMax, () => child.kill("SIGKILL"));
    let text = "";
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
    });
    const end = (said: string | undefined): void => {
      timer.cancel();
      resolve(said);
    };
    child.once("error", () => end(undefined));
    child.once("close", (status) =>
      end(status === 0 && /^\S{1,100}\s*$/.test(text) ? text.trim() : undefined),
    );
  });
}

// ── Judgement ───────────────────────────────────────────────────────────────────────────────────────────────────────

export interface ServiceContext {
  /** The daemon that answers. */
  health: HealthReply | undefined;
  hasMeshes: boolean;
  surroundings: Surroundings;
}

const install = "claudemesh daemon install-service";

export function judgeService(facts: ServiceFacts, context: ServiceContext): Finding[] {
  switch (facts.kind) {
    case "unknown":
      return [
        warn(
          "service",
          `whether a service runs the daemon cannot be told: ${facts.why}`,
          `${install} --print`,
        ),
      ];
    case "none":
      return [judgeAbsence(facts.hasManager, context)];
    case "installed":
      return judgeInstalled(facts, context);
  }
}

function judgeAbsence(hasManager: boolean, { health, hasMeshes, surroundings }: ServiceContext): Finding {
  const place =
    surroundings.container !== undefined
      ? "a container"
      : surroundings.ci !== undefined
        ? "a CI job"
        : undefined;
  if (place !== undefined) return pass("service", `no service is installed, and ${place} needs none`);
  if (health?.ephemeral !== undefined)
    return pass("service", "no service is installed, and an ephemeral daemon needs none");
  if (!hasManager) return pass("service", "there is no service manager here; the daemon is started by hand");
  const message = "no service is installed: after a restart of this host somebody has to start the daemon";
  return hasMeshes ? warn("service", message, install) : pass("service", message);
}

function judgeInstalled(facts: InstalledService, { health }: ServiceContext): Finding[] {
  const { unitPath, isSystem, executable, executableVersion, state } = facts;
  const again = isSystem ? `sudo ${install} --system` : install;
  const findings = facts.rivals.map(({ path, remove }) =>
    warn("service", `${path} would run the same daemon as ${unitPath}`, remove),
  );
  if (executable === undefined) {
    findings.push(warn("service", `${unitPath} does not say in a way known here what it starts`, again));
  } else if (executableVersion === undefined) {
    findings.push(
      fail("service", `${unitPath} starts ${executable}, which is not there or does not run`, again),
    );
  } else if (executableVersion !== version) {
    findings.push(
      warn(
        "service",
        `the service starts version ${executableVersion} (${executable}), this command is ${version}`,
        again,
      ),
    );
  }
  if (facts.isEnabled === false) {
    findings.push(
      warn("service", `${unitPath} is there, but not started at boot`, isSystem ? again : facts.bootCommand),
    );
  }
  if (state !== undefined && state.pid === undefined && state.givenUp) {
    findings.push(
      fail("service", `the service does not run: ${state.text}`, `${facts.logCommand}; then: ${again}`),
    );
  } else if (state?.pid !== undefined && health !== undefined && state.pid !== health.pid) {
    findings.push(
      fail(
        "service",
        `the service runs process ${state.pid}, but process ${health.pid} answers`,
        `kill ${health.pid}; ${again}`,
      ),
    );
  } else if (state !== undefined && state.pid === undefined && health !== undefined) {
    findings.push(
      warn(
        "service",
        `the daemon that answers (pid ${health.pid}) was started by hand beside the service (${state.text})`,
        again,
      ),
    );
  }
  return findings.length > 0
    ? findings
    : [pass("service", `${unitPath} runs the daemon, from boot or login on`)];
}
