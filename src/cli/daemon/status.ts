import { defineCommand } from "~/cli/command";
import { daemonClient } from "~/cli/daemon-client";
import { columns, counted, localTime, printableLine, spanText } from "~/cli/text";
import { versionSkew } from "~/client/client";
import { MeshError } from "~/errors";
import type { HealthReply } from "~/wire/ipc";

export const daemonStatus = defineCommand({
  name: "daemon status",
  description: "how the daemon is, and what is wrong with a way out",
  args: {},
  exits: [3, 4, 7],
  examples: ["claudemesh daemon status", "claudemesh daemon status --json"],
  async run(_args, host) {
    const client = daemonClient(host);
    const health = await client.call("health");
    if (!("pid" in health)) throw new MeshError("incompatible_daemon", "the daemon hides its health");
    const skew = versionSkew((await client.call("version")).daemon_version);
    if (skew !== undefined) await host.out.note(`warning: ${skew}`);
    await host.out.answer(health, () => renderHealth(health, client.socketPath));
  },
});

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
