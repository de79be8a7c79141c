import { seconds } from "~/cli/argv";
import { defineCommand, type Host } from "~/cli/command";
import { findDaemon, type RunningDaemon, refuseStranger } from "~/cli/daemon/running";
import { askHealth, daemonClient } from "~/cli/daemon-client";
import { askToEnd, becomesTrue, isAlive } from "~/cli/server-process";
import { counted } from "~/cli/text";
import { systemClock } from "~/clock";
import { MeshError } from "~/errors";
import type { HealthReply } from "~/wire/ipc";
import { daemonPaths } from "~/wire/paths";

const timeoutMsMax = 3600_000;
/** Of the time that a daemon has to end, what it may take to say how it is. */
const answerMsMax = 5_000;

export const daemonDown = defineCommand({
  name: "daemon down",
  description: "stop the daemon cleanly",
  args: {
    timeout: {
      type: "string",
      valueHint: "S",
      default: "15",
      description: "seconds to wait for its end",
      parse: seconds(timeoutMsMax),
    },
  },
  notes:
    "What is in flight is settled or put back; nothing is lost, except by an ephemeral daemon (daemon up --ephemeral), whose unsent messages end with it: their number is in the answer (unsent). A daemon that does not answer is found by its lock. When no daemon runs the command says so and ends with 0.",
  exits: [3, 4, 7],
  examples: ["claudemesh daemon down"],
  async run({ timeout }, host) {
    const { out } = host;
    const deadlineMs = systemClock.monotonicMs() + timeout;
    const running = await findDaemon(host, Math.min(answerMsMax, timeout / 2));
    if (running === undefined) {
      await out.answer({ stopped: false, pid: null }, () => "no daemon is running");
      return;
    }
    const { pid, health } = running;
    const { unsent, not_left = [] } =
      (await endDaemon(host, running, deadlineMs - systemClock.monotonicMs())) ?? {};
    const said = {
      ...(unsent === undefined ? {} : { unsent }),
      ...(not_left.length === 0 ? {} : { not_left }),
    };
    await out.answer({ stopped: true, pid, ...said }, () =>
      [`the daemon (pid ${pid}) has stopped`, ...unsentText(unsent, health)].join("; "),
    );
    for (const slug of not_left) {
      await out.note(
        `note: the broker of ${slug} could not be told, and goes on counting this host as a member. To remove it there: claudemesh mesh remove MEMBER, by the owner`,
      );
    }
    const manager = health === undefined ? undefined : managerText(health);
    if (manager !== undefined) await out.note(manager);
  },
});

interface LastWord {
  unsent: number;
  not_left: readonly string[];
}

/** Has it end, and waits until it has. Resolves with its last word, if it had one. Throws `timed_out`. */
export async function endDaemon(
  host: Host,
  { pid, health }: RunningDaemon,
  timeoutMs: number,
): Promise<LastWord | undefined> {
  const { listenForLastWord } = await import("~/daemon/holder");
  if (health !== undefined) await refuseStranger(host.paths.daemonDir, pid);
  const listening = listenForLastWord(daemonPaths(host.paths.daemonDir));
  const client = daemonClient(host, { endsSkew: true });
  const answers = async (): Promise<boolean> => {
    try {
      return (await askHealth(client))?.pid === pid;
    } catch (error) {
      // Where only TCP is open to us, it closes that way when it ends.
      if (error instanceof MeshError && error.code === "sandboxed") return false;
      throw error;
    }
  };
  // One that answers may live where its process is not to be seen (another container): its silence counts too.
  const isGone = async (): Promise<boolean> => !isAlive(pid) && (health === undefined || !(await answers()));
  try {
    askToEnd(pid);
    if (!(await becomesTrue(isGone, timeoutMs))) {
      throw new MeshError("timed_out", `the daemon (pid ${pid}) has not ended in time`, {
        hint: `Wait longer (--timeout), or end it the hard way, which loses nothing that was accepted: kill -9 ${pid}`,
        details: { pid },
      });
    }
    return listening.lastWord();
  } finally {
    listening.close();
  }
}

function unsentText(unsent: number | undefined, health: HealthReply | undefined): string[] {
  if (unsent === undefined || unsent === 0) return [];
  const messages = counted(unsent, "message");
  return health?.ephemeral === undefined
    ? [`${messages} to be sent wait on this disk for the next start`]
    : [`${messages} had not been sent and went with it`];
}

/** A clean end is final for the managers' own restarts, but not for the next boot or login. */
export function managerText({
  managed_by,
  managed_unit,
  managed_scope,
}: Pick<HealthReply, "managed_by" | "managed_unit" | "managed_scope">): string | undefined {
  if (!managed_by) return undefined;
  const isSystem = managed_scope === "system";
  const sudo = isSystem ? "sudo " : "";
  const own =
    managed_by === "systemd"
      ? `systemctl ${isSystem ? "" : "--user "}disable --now ${managed_unit}`
      : `launchctl bootout ${isSystem ? "system" : "gui/$(id -u)"}/${managed_unit}`;
  return `note: ${managed_by} manages this daemon (${managed_unit}) and starts it again at the next ${isSystem ? "boot" : "login"}. To keep it down: ${sudo}claudemesh daemon uninstall-service${isSystem ? " --system" : ""}, or ${sudo}${own}`;
}
