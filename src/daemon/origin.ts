/**
 * How this daemon came to be: the flags that it was started with, the service manager that would start it anew, and whether
 * everything of it ends with it. It tells whoever asks, so that a restart leads to the same daemon.
 */
import { fileExists, readTextFile } from "~/disk/file";
import type { Ephemeral } from "~/wire/reply";

/** Who starts this process anew when it ends. */
export interface Manager {
  kind: "systemd" | "launchd";
  /** The systemd unit or the launchd label. */
  unit: string;
  scope: "user" | "system";
}

export interface Origin {
  /** The flags of `daemon up`, without those that only say where its words go. */
  startedWith: readonly string[];
  manager: Manager | null;
  ephemeral: Ephemeral | undefined;
}

/** A daemon that nobody manages and that was started with no flags. */
export const plainOrigin: Origin = { startedWith: [], manager: null, ephemeral: undefined };

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The manager that this very process belongs to. Their variables are inherited by everything that is started below one of
 * their services (a terminal, an editor), so more than their presence is asked for: of systemd, that it executed this process
 * itself; of launchd, that the label is one of ours.
 */
export function managerOf(
  env: Environment,
  process: { pid: number; cgroup: string | undefined; isSystemLabel: (label: string) => boolean },
): Manager | null {
  if (env.INVOCATION_ID) {
    const [, unit] = /\/([^/\n]+\.service)\s*$/m.exec(process.cgroup ?? "") ?? [];
    const executed = env.SYSTEMD_EXEC_PID;
    const isOurs = executed ? executed === String(process.pid) : unit?.includes("claudemesh");
    if (unit !== undefined && isOurs) {
      const scope = /\/user@\d+\.service\//.test(process.cgroup ?? "") ? "user" : "system";
      return { kind: "systemd", unit, scope };
    }
  }
  const label = env.XPC_SERVICE_NAME;
  if (label !== undefined && /^[\w.-]*claudemesh[\w.-]*$/i.test(label)) {
    return { kind: "launchd", unit: label, scope: process.isSystemLabel(label) ? "system" : "user" };
  }
  return null;
}

/** `managerOf` this process. */
export function findManager(): Manager | null {
  return managerOf(process.env, {
    pid: process.pid,
    cgroup: process.platform === "linux" ? readTextFile("/proc/self/cgroup") : undefined,
    isSystemLabel: (label) => fileExists(`/Library/LaunchDaemons/${label}.plist`),
  });
}
