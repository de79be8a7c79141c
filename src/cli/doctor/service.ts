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
import type { ServiceScope } from "~/service/definition";
import type { RivalUnit, ServiceState } from "~/service/service-manager";
import type { Surroundings } from "~/settings/surroundings";
import { version } from "~/version";
import type { HealthReply } from "~/wire/ipc";
import { doctorProbeMsMax } from "~/wire/limits";

const install = "claudemesh daemon install-service";

export type ServiceFacts =
  /** Why it cannot be said. */
  { kind: "unknown"; why: string } | { kind: "none"; hasManager: boolean } | InstalledService;

export interface InstalledService {
  kind: "installed";
  unitPath: string;
  scope: ServiceScope;
  /** Other units for the same daemon, with what removes each. */
  rivals: readonly Pick<RivalUnit, "path" | "remove">[];
  /** Started at boot or login; undefined when that cannot be seen. */
  isEnabled: boolean | undefined;
  /** What it starts; undefined when the unit is not one of ours. */
  executable: string | undefined;
  /** What that says of itself; undefined when it is missing or says nothing. */
  executableVersion: string | undefined;
  /** What its manager says of it; undefined when that does not answer, and is not asked about what root or Homebrew installed. */
  state: Pick<ServiceState, "pid" | "text" | "givenUp" | "hasFailed"> | undefined;
  /** What has it run the daemon now; from the next boot on; and what makes its unit anew. */
  startCommand: string;
  bootCommand: string;
  installCommand: string;
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
    if (own !== undefined) {
      return {
        kind: "installed",
        unitPath: manager.unitPath,
        scope: "user",
        rivals,
        state: (await answers(manager.check())) ? await manager.state() : undefined,
        startCommand: "claudemesh daemon up",
        bootCommand: manager.bootCommand,
        installCommand: install,
        logCommand: manager.logCommand,
        ...(await whatStarts(manager.unitPath, own, host)),
      };
    }
    const [rival, ...moreRivals] = rivals;
    if (rival === undefined) return { kind: "none", hasManager: await answers(manager.check()) };
    const again = rival.scope === "system" ? `sudo ${install} --system` : rival.start;
    return {
      kind: "installed",
      unitPath: rival.path,
      scope: rival.scope,
      rivals: moreRivals,
      state: undefined,
      startCommand: rival.start,
      bootCommand: again,
      installCommand: again,
      logCommand: manager.logCommand,
      ...(await whatStarts(rival.path, (await readUnit(rival.path)) ?? "", host)),
    };
  } catch (error) {
    if (error instanceof MeshError) return { kind: "unknown", why: error.message };
    throw error;
  }
}

async function whatStarts(
  unitPath: string,
  unit: string,
  { env }: Host,
): Promise<Pick<InstalledService, "isEnabled" | "executable" | "executableVersion">> {
  const executable = unitExecutable(unit);
  return {
    isEnabled: await isEnabled(unitPath),
    executable,
    executableVersion: executable === undefined ? undefined : await versionOf(executable, env),
  };
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
  const { unitPath, executable, executableVersion, installCommand } = facts;
  const findings = facts.rivals.map(({ path, remove }) =>
    warn("service", `${path} would run the same daemon as ${unitPath}`, remove),
  );
  if (executable === undefined) {
    findings.push(
      warn("service", `${unitPath} does not say in a way known here what it starts`, installCommand),
    );
  } else if (executableVersion === undefined) {
    findings.push(
      fail("service", `${unitPath} starts ${executable}, which is not there or does not run`, installCommand),
    );
  } else if (executableVersion !== version) {
    findings.push(
      warn(
        "service",
        `the service starts version ${executableVersion} (${executable}), this command is ${version}`,
        installCommand,
      ),
    );
  }
  if (facts.isEnabled === false)
    findings.push(warn("service", `${unitPath} is there, but not started at boot`, facts.bootCommand));
  const unwell = health === undefined ? judgeIdle(facts) : judgeRunning(facts, health);
  if (unwell !== undefined) findings.push(unwell);
  if (findings.length > 0) return findings;
  const does =
    health === undefined ? "starts the daemon at boot or login" : "runs the daemon, from boot or login on";
  return [pass("service", `${unitPath} ${does}`)];
}

/** Whether the daemon that answers is the service's own. It says itself who started it; its manager may not be to be asked. */
function judgeRunning(facts: InstalledService, health: HealthReply): Finding | undefined {
  const { unitPath, scope, state, startCommand } = facts;
  const isOwn = health.managed_unit === unitName(unitPath) && (health.managed_scope ?? scope) === scope;
  if (isOwn || state?.pid === health.pid) return undefined;
  const fix = `claudemesh daemon down; ${startCommand}`;
  if (state?.pid !== undefined) {
    return fail("service", `the service runs process ${state.pid}, but process ${health.pid} answers`, fix);
  }
  const instead = `${unitPath}${state === undefined ? "" : `, which is ${state.text}`}`;
  if (health.managed_by) {
    const unit = health.managed_unit ?? "another unit";
    return warn(
      "service",
      `the daemon that answers (pid ${health.pid}) is run by ${health.managed_by} as ${unit}, and not by ${instead}`,
      fix,
    );
  }
  const flags = health.started_with ?? [];
  const [how, next] =
    flags.length === 0
      ? ["", "starts another one"]
      : [` (${flags.join(" ")})`, "starts one without these flags, which config.toml can hold"];
  return warn(
    "service",
    `the daemon that answers (pid ${health.pid}) was started by hand${how}, and not by ${instead}: nobody starts it again when it fails, and the next boot or login ${next}`,
    fix,
  );
}

/** Where no daemon answers. That this is so is told by the check of the daemon. */
function judgeIdle({ unitPath, scope, state, ...facts }: InstalledService): Finding | undefined {
  if (state?.hasFailed === true) {
    const fix = `${facts.logCommand}; then: ${facts.installCommand}`;
    return fail("service", `the service does not run: ${state.text}`, fix);
  }
  if (state === undefined && scope === "system")
    return warn("service", `${unitPath} runs no daemon that answers`, facts.startCommand);
  if (state === undefined || state.pid !== undefined) return undefined;
  return state.givenUp
    ? warn(
        "service",
        `the service is ${state.text}; it starts the daemon at the next boot or login`,
        facts.startCommand,
      )
    : warn(
        "service",
        `the service is ${state.text}, and runs no daemon at this moment`,
        `${facts.logCommand} shows why; ${facts.startCommand}`,
      );
}

/** As the manager calls it: systemd by the name of its file, launchd by its label, which the file is named after. */
const unitName = (unitPath: string): string => basename(unitPath, ".plist");
