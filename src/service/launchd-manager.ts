/** launchd, by launchctl: the agents of whoever is logged in at the screen, or the daemons of the system. */
import { join } from "node:path";
import { systemClock } from "~/clock";
import { MeshError } from "~/errors";
import { quoteForShell } from "~/service/cron";
import type { ServiceDefinition } from "~/service/definition";
import { launchdLabel, renderLaunchdPlist } from "~/service/launchd";
import { mustRun, type ProgramEnd, type Programs, runProgram, said } from "~/service/program";
import type { ManagerOptions, ServiceManager, ServiceState } from "~/service/service-manager";
import { placeUnit } from "~/service/unit-place";
import { serviceCommandMsMax } from "~/wire/limits";

const pollEveryMs = 100;

export class LaunchdManager implements ServiceManager {
  readonly unitPath: string;
  readonly unit: string;
  readonly bootCommand: string;
  readonly logCommand: string;
  readonly rivals: ServiceManager["rivals"];
  readonly #service: ServiceDefinition;
  readonly #programs: Programs;
  readonly #domain: string;
  readonly #target: string;

  constructor({ service, programs, home, root = "/" }: ManagerOptions) {
    this.#service = service;
    this.#programs = programs;
    const isSystem = service.scope === "system";
    const label = launchdLabel(service);
    const { unitPath, rivals } = placeUnit(service, {
      directories: { user: join(home, "Library/LaunchAgents"), system: join(root, "Library/LaunchDaemons") },
      fileOf: (named) => `${launchdLabel(named)}.plist`,
      startSystem: (named) => `sudo launchctl kickstart -k system/${launchdLabel(named)}`,
      homebrewFile: "homebrew.mxcl.claudemesh.plist",
    });
    this.unitPath = unitPath;
    this.rivals = rivals;
    this.unit = renderLaunchdPlist(service);
    this.#domain = isSystem ? "system" : `gui/${service.account.uid}`;
    this.#target = `${this.#domain}/${label}`;
    this.bootCommand = `launchctl bootstrap ${this.#domain} ${quoteForShell(this.unitPath)}`;
    this.logCommand = `tail -n 50 ${quoteForShell(service.logFile)}`;
  }

  async check(): Promise<void> {
    const answer = await this.#ask("print", this.#domain);
    if (answer?.status === 0) return;
    if (answer === undefined || this.#service.scope === "system") {
      const why = answer === undefined ? "there is no launchctl on PATH" : said(answer);
      throw new MeshError("no_service_manager", `launchd does not answer: ${why}`, {
        hint: "Start the daemon by hand: claudemesh daemon up",
      });
    }
    throw new MeshError("no_service_manager", `launchd has no ${this.#domain}: ${said(answer)}`, {
      hint:
        "It is there for whoever is logged in at the screen of this Mac. Log in there, or have the system run the daemon: " +
        "sudo claudemesh daemon install-service --system",
    });
  }

  async state(): Promise<ServiceState> {
    const answer = await this.#ask("print", this.#target);
    const text = answer?.status === 0 ? answer.stdout : "";
    // Top-level lines only: what stands deeper is about something else.
    const field = (name: string): string | undefined =>
      new RegExp(`^\\t${name} = (.*)$`, "m").exec(text)?.[1]?.trim();
    const pid = /^\d+$/.test(field("pid") ?? "") ? Number(field("pid")) : undefined;
    const lastExit = field("last exit code");
    return {
      loaded: answer?.status === 0,
      pid,
      text: `${field("state") ?? "not loaded"}${lastExit === undefined ? "" : `, its last exit code: ${lastExit}`}`,
      givenUp: false,
      hasFailed: false,
    };
  }

  async enable(): Promise<void> {
    await this.#makeLog();
    // One that was disabled by hand would not be started, whatever its file says.
    await this.#must("enable", this.#target);
  }

  async disable(): Promise<void> {
    if (!(await this.state()).loaded) return;
    const end = await this.#ask("bootout", this.#target);
    // It answers before the daemon has ended, and with an error when that takes a moment; what counts is that it is gone.
    const deadline = systemClock.monotonicMs() + serviceCommandMsMax;
    while ((await this.state()).loaded) {
      if (systemClock.monotonicMs() > deadline) throw failed(`launchctl bootout ${this.#target}`, end);
      await new Promise<void>((resolve) => void systemClock.after(pollEveryMs, resolve));
    }
  }

  /** launchd looks at the file when it is told to load it, and at the next login or boot. */
  async reload(): Promise<void> {
    await this.check();
  }

  async restart(): Promise<void> {
    await this.disable();
    await this.#must("bootstrap", this.#domain, this.unitPath);
  }

  /** launchd makes no directory for a log, and gives up on a job whose log it cannot open. */
  async #makeLog(): Promise<void> {
    const { daemonDir, logFile, account, scope } = this.#service;
    // As the user: root must not be led astray by links that the user may have put there.
    const identity = scope === "system" ? { uid: account.uid, gid: account.gid } : {};
    const script = 'umask 077; mkdir -p "$1" && : >> "$2"';
    await mustRun(this.#programs, "sh", ["-c", script, "sh", daemonDir, logFile], identity);
  }

  async #ask(...args: string[]): Promise<ProgramEnd | undefined> {
    return await runProgram(this.#programs, "launchctl", args);
  }

  async #must(...args: string[]): Promise<void> {
    const hint = `launchctl print ${this.#target}; ${this.logCommand}`;
    await mustRun(this.#programs, "launchctl", args, { hint });
  }
}

const failed = (what: string, end: ProgramEnd | undefined): MeshError =>
  new MeshError("service_failed", `${what} did not remove it: ${end === undefined ? "" : said(end)}`, {
    hint: "Try the same by hand to see more.",
  });
