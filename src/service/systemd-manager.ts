/** systemd, by systemctl and loginctl: the manager of the system, or the one that every logged-in user has. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { MeshError } from "~/errors";
import { cronLine } from "~/service/cron";
import type { ServiceDefinition } from "~/service/definition";
import { mustRun, type Programs, type RunOptions, runProgram, said } from "~/service/program";
import type { ManagerOptions, ServiceManager, ServiceState } from "~/service/service-manager";
import { renderSystemdUnit, systemdUnitName } from "~/service/systemd";
import { placeUnit } from "~/service/unit-place";

export class SystemdManager implements ServiceManager {
  readonly unitPath: string;
  readonly unit: string;
  readonly bootCommand: string;
  readonly logCommand: string;
  readonly rivals: ServiceManager["rivals"];
  readonly #service: ServiceDefinition;
  readonly #programs: Programs;
  readonly #name: string;
  /** What tells systemctl which manager is meant. */
  readonly #scope: readonly string[];

  constructor({ service, programs, home, root = "/" }: ManagerOptions) {
    this.#service = service;
    this.#programs = programs;
    this.#name = systemdUnitName(service);
    const isSystem = service.scope === "system";
    // Root's own variable says nothing about the user whom a system service is for.
    const configHome = isSystem ? undefined : programs.env.XDG_CONFIG_HOME;
    const { unitPath, rivals } = placeUnit(service, {
      directories: {
        user: join(configHome || join(home, ".config"), "systemd/user"),
        system: join(root, "etc/systemd/system"),
      },
      fileOf: systemdUnitName,
      startSystem: (named) => `sudo systemctl restart ${systemdUnitName(named)}`,
      homebrewFile: "homebrew.claudemesh.service",
    });
    this.unitPath = unitPath;
    this.rivals = rivals;
    this.unit = renderSystemdUnit(service);
    this.#scope = isSystem ? [] : ["--user"];
    this.bootCommand = ["systemctl", ...this.#scope, "enable", "--now", this.#name].join(" ");
    this.logCommand = ["journalctl", ...this.#scope, "-u", this.#name, "-n 50"].join(" ");
  }

  async check(): Promise<void> {
    const answer = await this.#ask("show", "--property=Version", "--value");
    if (answer?.status === 0) return;
    if (answer === undefined) throw this.#absent("there is no systemctl on PATH");
    const why = said(answer);
    const isSystem = this.#scope.length === 0;
    if (isSystem) throw this.#absent(`systemd does not answer: ${why}`);
    const system = await runProgram(this.#programs, "systemctl", ["show", "--property=Version"]);
    if (system?.status !== 0) throw this.#absent(`systemd does not answer: ${why}`);
    throw new MeshError("no_service_manager", `your own systemd does not answer: ${why}`, {
      hint:
        "It runs for whoever has logged in, not behind su or sudo -u: log in as this user (ssh will do), or run " +
        `loginctl enable-linger ${this.#service.account.name} once. ` +
        "Or have the system run the daemon: sudo claudemesh daemon install-service --system",
    });
  }

  async state(): Promise<ServiceState> {
    const properties = ["LoadState", "ActiveState", "SubState", "MainPID", "Result", "ExecMainStatus"];
    const answer = await this.#ask("show", `--property=${properties.join(",")}`, this.#name);
    const values = new Map(
      (answer?.status === 0 ? answer.stdout : "").split("\n").map((line): [string, string] => {
        const end = line.indexOf("=");
        return [line.slice(0, end), line.slice(end + 1)];
      }),
    );
    const active = values.get("ActiveState") ?? "inactive";
    const status = values.get("ExecMainStatus") ?? "0";
    const pid = Number(values.get("MainPID") ?? 0);
    return {
      loaded: (values.get("LoadState") ?? "not-found") !== "not-found" || active !== "inactive",
      pid: pid > 0 ? pid : undefined,
      text:
        `${active} (${values.get("SubState") ?? "unknown"})` +
        `${values.get("Result") === "success" ? "" : `, ${values.get("Result")}`}` +
        `${status === "0" ? "" : `, its last exit status was ${status}`}`,
      hasFailed: active === "failed",
      givenUp: active === "failed" || (active === "inactive" && values.get("SubState") === "dead"),
    };
  }

  async enable(): Promise<void> {
    await this.#must("daemon-reload");
    await this.#must("enable", this.#name);
  }

  async disable(): Promise<void> {
    // Also of a unit whose file somebody removed: it may still run.
    if ((await this.state()).loaded) await this.#must("stop", this.#name);
    if (existsSync(this.unitPath)) await this.#must("disable", this.#name);
  }

  async reload(): Promise<void> {
    await this.#must("daemon-reload");
    // What it remembers of past failures would show it as failed for good; there may be none to forget.
    await this.#ask("reset-failed", this.#name);
  }

  async restart(): Promise<void> {
    await this.#ask("reset-failed", this.#name);
    await this.#must("restart", this.#name);
  }

  async #ask(...args: string[]): ReturnType<typeof runProgram> {
    return await runProgram(this.#programs, "systemctl", [...this.#scope, ...args], this.#options());
  }

  async #must(...args: string[]): Promise<void> {
    const hint = `${["systemctl", ...this.#scope, "status", this.#name].join(" ")}; ${this.logCommand}`;
    await mustRun(this.#programs, "systemctl", [...this.#scope, ...args], { ...this.#options(), hint });
  }

  #options(): RunOptions {
    return this.#scope.length === 0 ? {} : toUserManager(this.#programs, this.#service.account.uid);
  }

  #absent(message: string): MeshError {
    return new MeshError("no_service_manager", message, {
      hint:
        "Without systemd, start the daemon by hand: claudemesh daemon up. Or let cron do it at every boot, with this line in " +
        `crontab -e:\n${cronLine(this.#service)}`,
    });
  }
}

/** Where a user's manager listens is lost on the way through su and cron, but is always the same place. */
export function toUserManager({ env }: Programs, uid: number, root = "/"): RunOptions {
  const runtimeDir = join(root, `run/user/${uid}`);
  return env.XDG_RUNTIME_DIR || !existsSync(runtimeDir) ? {} : { env: { XDG_RUNTIME_DIR: runtimeDir } };
}

/** Whether the user's services run without a login, from boot on; undefined when that could not be found out. */
export async function lingers(programs: Programs, user: string): Promise<boolean | undefined> {
  const answer = await runProgram(programs, "loginctl", ["show-user", user, "--property=Linger", "--value"]);
  if (answer?.status === 0) return answer.stdout.trim() === "yes";
  return undefined;
}
