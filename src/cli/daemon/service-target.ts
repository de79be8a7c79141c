/** Which service is meant: whose, with which directories, of which manager. Shared by the commands that install and remove it. */
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { usageError } from "~/cli/argv";
import type { Host } from "~/cli/command";
import { refuseStranger } from "~/cli/daemon/running";
import { askHealth } from "~/cli/daemon-client";
import { askToEnd, becomesTrue, isAlive, selfCommand } from "~/cli/server-process";
import { openClient } from "~/client/client";
import { MeshError } from "~/errors";
import { type Account, findAccount } from "~/service/account";
import { quoteForShell } from "~/service/cron";
import { defineService, type ServiceDefinition, type ServiceScope } from "~/service/definition";
import { stableExecutable } from "~/service/executable";
import type { RunningDaemon } from "~/service/install";
import { type Programs, runProgram } from "~/service/program";
import { type ServiceManager, serviceManager } from "~/service/service-manager";
import { serviceStopMsMax } from "~/wire/limits";
import { daemonPaths, hostPaths } from "~/wire/paths";

/** Flags of both commands. */
export const serviceArgs = {
  system: {
    type: "boolean",
    description: "a service of the system: runs from boot on, without a login; needs root",
  },
  user: {
    type: "string",
    valueHint: "NAME",
    description: "with --system, whose daemon it is (default: who called sudo)",
  },
} as const;

export interface ServiceTarget {
  service: ServiceDefinition;
  manager: ServiceManager;
  programs: Programs;
  daemon: RunningDaemon;
}

interface TargetOptions {
  system: boolean;
  user: string | undefined;
  /** As the command was typed, for hints. */
  command: string;
  /** What is there is found without knowing what would be written now. */
  purpose: "install" | "print" | "remove";
}

/** Throws `usage`, `not_allowed` (root is needed), `no_service_manager` (no such platform), `path_unsafe`, `service_failed`. */
export async function serviceTarget(host: Host, options: TargetOptions): Promise<ServiceTarget> {
  const isRemoval = options.purpose === "remove";
  if (!isRemoval) refuseUninstallable(host);
  const programs: Programs = { platform: process.platform, env: host.env };
  const scope: ServiceScope = options.system ? "system" : "user";
  const account = await chooseAccount(host, options, programs);
  // Behind sudo, HOME is root's.
  const paths = options.system ? hostPaths({ ...host.env, HOME: account.home }) : host.paths;
  const { execPath } = process;
  const executable = isRemoval ? execPath : stableExecutable({ execPath, pathVariable: host.env.PATH });
  const env = isRemoval ? {} : host.env;
  const service = defineService({ scope, account, executable, paths, env });
  const home = options.system ? account.home : host.env.HOME || homedir();
  const manager = serviceManager({ service, programs, home });
  if (manager === undefined) {
    throw new MeshError("no_service_manager", `there is no service manager on ${process.platform}`, {
      hint: "Start the daemon by hand: claudemesh daemon up",
    });
  }
  return { service, manager, programs, daemon: runningDaemon(paths.daemonDir, account, programs) };
}

/** A daemon never becomes root's because somebody typed sudo. */
async function chooseAccount({ env }: Host, options: TargetOptions, programs: Programs): Promise<Account> {
  const uid = process.getuid?.() ?? 0;
  const sudoUser = env.SUDO_USER && env.SUDO_USER !== "root" ? env.SUDO_USER : undefined;
  if (!options.system) {
    if (options.user !== undefined) throw usageError("--user goes with --system");
    if (uid === 0 && sudoUser !== undefined) {
      throw usageError(
        "behind sudo this would be a service of root",
        `Without sudo it is one of ${sudoUser}; a service of the system, for ${sudoUser}, is claudemesh ${options.command} --system`,
      );
    }
    const own = await findAccount(programs, String(uid));
    // In some containers a user id has no account.
    const home = env.HOME || homedir();
    return own ?? { name: env.USER || String(uid), uid, gid: process.getgid?.() ?? 0, home };
  }
  if (uid !== 0 && options.purpose !== "print") {
    throw new MeshError("not_allowed", "a service of the system needs root", {
      hint: `sudo ${quoteForShell(process.execPath)} ${options.command} --system`,
    });
  }
  const name = options.user ?? (uid === 0 ? sudoUser : String(uid));
  if (name === undefined) {
    throw usageError(
      "--system does not say whose daemon it is",
      `Name the account that it shall run as: claudemesh ${options.command} --system --user NAME`,
    );
  }
  const account = await findAccount(programs, name);
  if (account === undefined) throw usageError(`there is no account ${JSON.stringify(name)} on this host`);
  return account;
}

function runningDaemon(daemonDir: string, account: Account, programs: Programs): RunningDaemon {
  const client = openClient({ socketPath: daemonPaths(daemonDir).socket });
  const pid = async (): Promise<number | undefined> => (await askHealth(client))?.pid;
  return {
    pid,
    async stop(running) {
      await refuseStranger(daemonDir, running);
      if (process.getuid?.() === 0) await askAs(account, running, programs);
      else askToEnd(running);
      const isGone = async (): Promise<boolean> => !isAlive(running) && (await pid()) === undefined;
      if (await becomesTrue(isGone, serviceStopMsMax)) return;
      throw new MeshError("timed_out", `the daemon that runs (pid ${running}) does not end`, {
        hint: `End it the hard way, which loses nothing that was accepted, and try again: kill -9 ${running}`,
      });
    },
  };
}

/** Which process it is says somebody else, in a directory of his own: root must not end for him what he could not end himself. */
async function askAs({ name, uid, gid }: Account, pid: number, programs: Programs): Promise<void> {
  const end = await runProgram(programs, "sh", ["-c", 'kill -TERM "$1"', "sh", String(pid)], { uid, gid });
  if (end?.status === 0 || !isAlive(pid)) return;
  throw new MeshError(
    "not_allowed",
    `the daemon that answers says that it is process ${pid}, which ${name} may not end`,
    {
      hint: `Nothing was ended. See what it is: ps -fp ${pid}`,
      details: { pid },
    },
  );
}

/** Only an executable of its own can be started by a service, and only with files that are there. */
function refuseUninstallable({ env }: Pick<Host, "env">): void {
  if (selfCommand().length > 1) {
    throw usageError(
      "a service needs the compiled executable, and this is claudemesh run from its sources",
      "Build it (bun run build), put dist/claudemesh on your PATH, and use that one.",
    );
  }
  const authorities = env.NODE_EXTRA_CA_CERTS;
  if (authorities && !existsSync(authorities)) {
    throw new MeshError("config_invalid", `NODE_EXTRA_CA_CERTS names ${authorities}, which is not there`, {
      hint: "The service would be started with it too. Correct the variable, or unset it.",
    });
  }
}
