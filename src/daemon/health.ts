/** How the daemon is, in words that say what to do. */
import { isoTime } from "~/clock";
import type { Outbox } from "~/daemon/db/outbox";
import type { MeshSession } from "~/daemon/mesh-session";
import type { Manager } from "~/daemon/origin";
import type { DaemonParts } from "~/daemon/parts";
import type { Writer } from "~/disk/writer";
import type { HealthReply, Problem } from "~/wire/ipc";
import { lanesInHealthMax } from "~/wire/limits";

export function healthOf(parts: DaemonParts): HealthReply {
  const nowMs = parts.clock.now();
  const lanes = parts.outbox.laneHeads();
  const [oldest] = lanes;
  return {
    ok: true,
    pid: process.pid,
    uptime_s: Math.round(parts.started.agoMs / 1000),
    meshes: Object.fromEntries(
      parts.meshes.sessions.map((session) => [parts.meshes.slugOf(session.mesh.meshId), linkHealth(session)]),
    ),
    outbox: {
      counts: parts.outbox.counts(),
      ...(oldest === undefined
        ? {}
        : { oldest_pending_s: Math.max(0, Math.round((nowMs - oldest.enqueued_at) / 1000)) }),
    },
    inbox: { unread: parts.inbox.unreadCount() },
    problems: [
      ...parts.startProblems,
      ...(parts.meshes.problem === undefined ? [] : [parts.meshes.problem]),
      ...parts.settingsProblems(),
      ...parts.meshes.sessions.flatMap(linkProblems),
      ...[parts.outboxWriter, parts.inboxWriter].flatMap(storageProblems),
      ...waitingProblems(lanes, nowMs, parts.settings()["delivery.waiting_warning_minutes"] * 60_000),
      ...inboxProblems(parts),
      ...parts.logProblems(),
      ...parts.retention.problems,
    ],
    started_with: [...parts.origin.startedWith],
    managed_by: parts.origin.manager?.kind ?? null,
    ...managed(parts.origin.manager),
  };
}

const managed = (manager: Manager | null): Pick<HealthReply, "managed_unit" | "managed_scope"> =>
  manager === null ? {} : { managed_unit: manager.unit, managed_scope: manager.scope };

function linkHealth({ status }: MeshSession): HealthReply["meshes"][string] {
  return {
    link: status.name,
    since: isoTime(status.sinceMs),
    ...(status.rttMs === undefined ? {} : { rtt_ms: Math.round(status.rttMs * 100) / 100 }),
    ...(status.why === undefined ? {} : { error: status.why }),
  };
}

function linkProblems(session: MeshSession): Problem[] {
  const { slug } = session.mesh;
  const { name, why = "" } = session.status;
  const missing = session.isOpen ? (session.terms?.missing ?? []) : [];
  const lacking: Problem[] =
    missing.length === 0
      ? []
      : [
          {
            code: "broker_lacks_features",
            message: `the broker of ${slug} does not offer ${missing.join(", ")}: messages may arrive twice, and members prove nothing`,
            hint: "Upgrade the broker to a claudemesh broker.",
          },
        ];
  switch (name) {
    case "identity_in_use":
      return [
        {
          code: "identity_in_use",
          message: `${slug}: ${why}`,
          hint: "If this is a copy of another host: claudemesh daemon down, then claudemesh daemon remint --force. If it is the original, do that on the copy, then here: claudemesh daemon restart",
        },
      ];
    case "removed":
      return [
        {
          code: "removed_from_mesh",
          message: `${slug}: ${why}`,
          hint: `claudemesh mesh leave --mesh ${slug}, then join with a new invite.`,
        },
      ];
    case "refused":
      return [
        {
          code: "broker_refuses",
          message: `the broker of ${slug} refuses this host: ${why}`,
          hint: hintForRefusal(why),
        },
      ];
    case "waiting":
      return [
        {
          code: "broker_unreachable",
          message: `the broker of ${slug} is out of reach: ${why}`,
          hint: /certificate/i.test(why)
            ? "Its certificate is not trusted here: export NODE_EXTRA_CA_CERTS=/path/to/ca.pem; claudemesh daemon restart"
            : "Messages wait on this disk and leave when it is back.",
        },
      ];
    default:
      return lacking;
  }
}

function hintForRefusal(why: string): string {
  if (why.startsWith("clock_skew")) return "Set this host's clock: timedatectl set-ntp true";
  const own = ["delivery.max_age_h", "link.required_features"].find((name) => why.includes(name));
  if (own !== undefined && why.startsWith("feature_"))
    return `Upgrade the broker, or ask less of it: claudemesh config unset ${own}`;
  if (why.startsWith("feature_"))
    return "The mesh was made with a claudemesh broker; put one back, or upgrade it.";
  return "claudemesh mesh list shows the membership; ask the mesh's owner.";
}

function storageProblems({ trouble }: Writer): Problem[] {
  if (trouble === undefined) return [];
  const { code, message, hint } = trouble;
  return [{ code, message, ...(hint === undefined ? {} : { hint }) }];
}

function waitingProblems(lanes: ReturnType<Outbox["laneHeads"]>, nowMs: number, longMs: number): Problem[] {
  return lanes
    .filter((row) => nowMs - row.enqueued_at > longMs)
    .slice(0, lanesInHealthMax)
    .map((row) => ({
      code: "message_waits_long",
      message: `a message to ${row.to_text ?? "?"} has waited ${Math.round((nowMs - row.enqueued_at) / 60_000)} minutes: ${row.last_error ?? "the broker was not reached"}`,
      hint: "claudemesh daemon outbox list --pending",
    }));
}

function inboxProblems(parts: DaemonParts): Problem[] {
  const count = parts.inbox.problemCount();
  if (count === 0) return [];
  return [
    {
      code: "undecryptable",
      message: `${count} arrived messages could not be opened or believed`,
      hint: "claudemesh inbox --problems",
    },
  ];
}
