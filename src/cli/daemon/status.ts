import { defineCommand, type Host } from "~/cli/command";
import { findSilentDaemon } from "~/cli/daemon/running";
import { daemonClient } from "~/cli/daemon-client";
import { columns, counted, localTime, printableLine, spanText } from "~/cli/text";
import { MeshError } from "~/errors";
import type { HealthReply } from "~/wire/ipc";
import { homeCheckEveryMs } from "~/wire/limits";
import type { Ephemeral } from "~/wire/reply";

const answerMsMax = 10_000;

export const daemonStatus = defineCommand({
  name: "daemon status",
  description: "how the daemon is, what is wrong, and what to type",
  args: {},
  exits: [3, 4, 7],
  examples: ["claudemesh daemon status", "claudemesh daemon status --json"],
  async run(_args, host) {
    const client = daemonClient(host);
    const health = await client.call("health", { timeoutMs: answerMsMax }).catch(async (error: unknown) => {
      throw await explained(error, host);
    });
    if (!("pid" in health)) throw new MeshError("incompatible_daemon", "the daemon hides its health");
    await host.out.answer(health, () => renderHealth(health, client.socketPath));
  },
});

/** That nobody answers is not yet that nobody is there. */
async function explained(error: unknown, host: Host): Promise<unknown> {
  if (!(error instanceof MeshError)) return error;
  if (error.code !== "daemon_unreachable" && error.code !== "timed_out") return error;
  const silent = await findSilentDaemon(host);
  if (silent === undefined) return error;
  const { pid } = silent;
  return new MeshError(error.code, `${error.message}, and yet one runs: pid ${pid} holds its lock`, {
    hint: `One that has only lost its socket puts it back within ${homeCheckEveryMs / 1000} s. Otherwise: claudemesh daemon restart, which ends it first.`,
    details: { ...error.details, pid },
    cause: error,
  });
}

function renderHealth(health: HealthReply, socket: string): string {
  const { counts, oldest_pending_s } = health.outbox;
  const waiting = oldest_pending_s === undefined ? "" : `, the oldest for ${spanText(oldest_pending_s)}`;
  const meshes = Object.entries(health.meshes).map(([slug, mesh]) => [
    `mesh ${printableLine(slug)}`,
    [
      `${mesh.link} since ${localTime(mesh.since)}`,
      ...(mesh.rtt_ms === undefined ? [] : [`round trip ${Math.round(mesh.rtt_ms)} ms`]),
      ...(mesh.error === undefined ? [] : [printableLine(mesh.error)]),
    ].join(", "),
  ]);
  return [
    columns([
      ["daemon", `up for ${spanText(health.uptime_s)}, pid ${health.pid}`],
      ["socket", socket],
      ...(health.managed_by ? [["managed by", `${health.managed_by} (${health.managed_unit ?? "?"})`]] : []),
      ...(health.ephemeral === undefined ? [] : [["ephemeral", ephemeralText(health.ephemeral)]]),
      ...(meshes.length > 0
        ? meshes
        : [["mesh", "none yet: claudemesh mesh create NAME, or claudemesh join LINK"]]),
      [
        "outbox",
        `${counts.pending} pending${waiting}, ${counts.inflight} in flight, ${counts.done} done, ${counts.dead} failed, ${counts.aborted} aborted`,
      ],
      ["inbox", `${health.inbox.unread} unread`],
    ]),
    ...(health.problems.length === 0 ? [] : ["", `${counted(health.problems.length, "problem")}:`]),
    ...health.problems.flatMap(({ code, message, hint }) => [
      `- ${printableLine(message)} (${code})`,
      ...(hint === undefined ? [] : [`  hint: ${printableLine(hint)}`]),
    ]),
  ].join("\n");
}

const ephemeralText = ({ until }: Ephemeral): string =>
  `nothing outlives it${until === undefined ? "" : `; it ends at ${localTime(until)}`}`;
