/**
 * Every metric of the daemon, and where its numbers are. All of it is read when somebody asks, and costs nothing before then.
 * docs/monitoring.md lists them for people; a test holds the two against each other.
 */
import { dirname } from "node:path";
import { healthOf } from "~/daemon/health";
import type { MeshSession } from "~/daemon/mesh-session";
import type { DaemonParts } from "~/daemon/parts";
import { diskUsage, freeBytes } from "~/disk/usage";
import type { Writer } from "~/disk/writer";
import { linkEnds } from "~/link/state";
import { Exposition, type Family, type Labels, type Sample, samplesOf } from "~/metrics/exposition";
import { processFamilies } from "~/metrics/process";
import { commit, version } from "~/version";
import { type HealthReply, linkStates, outboxStatuses } from "~/wire/ipc";

/** The daemon at the moment of the question; what costs a query is asked once. */
interface World {
  parts: DaemonParts;
  startedAtMs: number;
  health: HealthReply;
  dir: string | undefined;
}

/** Files of the daemon's directory that are shown by their own names; old logs, copies and what was put aside are one. */
const namedFiles = ["outbox.db", "inbox.db", "directory.db"]
  .flatMap((name) => [name, `${name}-wal`, `${name}-shm`])
  .concat("daemon.log");

let exposition: Exposition<World> | undefined;

export function answerMetrics(parts: DaemonParts): Promise<Response> {
  exposition ??= new Exposition(daemonFamilies);
  const { filename } = parts.outbox.db;
  return exposition.answer({
    parts,
    startedAtMs: parts.started.atMs,
    health: healthOf(parts),
    dir: filename === ":memory:" ? undefined : dirname(filename),
  });
}

const always = (value: number): Sample[] => [[value]];

function* ofSessions(
  { parts }: World,
  read: (session: MeshSession, labels: Labels) => Iterable<Sample>,
): Iterable<Sample> {
  for (const session of parts.meshes.sessions)
    yield* read(session, { mesh: parts.meshes.slugOf(session.mesh.meshId) });
}

const ofWriters = ({ parts }: World, read: (writer: Writer) => number): Sample[] => [
  [read(parts.outboxWriter), { database: "outbox" }],
  [read(parts.inboxWriter), { database: "inbox" }],
];

const links: Family<World>[] = [
  {
    name: "claudemesh_link_up",
    type: "gauge",
    help: "1 while the connection to the mesh's broker is open.",
    labels: ["mesh"],
    read: (world) => ofSessions(world, ({ isOpen }, labels) => [[isOpen ? 1 : 0, labels]]),
  },
  {
    name: "claudemesh_link_state",
    type: "gauge",
    help: "1 for the state that the link is in.",
    labels: ["mesh", "state"],
    read: (world) =>
      ofSessions(world, ({ status }, labels) =>
        linkStates.map((state): Sample => [state === status.name ? 1 : 0, { ...labels, state }]),
      ),
  },
  {
    name: "claudemesh_link_reconnects_total",
    type: "counter",
    help: "Connections, and attempts at one, that ended, by why; after each of them comes another attempt.",
    labels: ["mesh", "reason"],
    read: (world) =>
      ofSessions(world, (session, labels) =>
        linkEnds.map((reason): Sample => [session.linkEnds.get(reason) ?? 0, { ...labels, reason }]),
      ),
  },
  {
    name: "claudemesh_link_round_trip_seconds",
    type: "gauge",
    help: "What the last ping to the broker took; none before the first of a connection is answered.",
    labels: ["mesh"],
    read: (world) =>
      ofSessions(world, ({ status: { rttMs } }, labels) =>
        rttMs === undefined ? [] : [[rttMs / 1000, labels]],
      ),
  },
];

const outgoing: Family<World>[] = [
  {
    name: "claudemesh_outbox_messages",
    type: "gauge",
    help: "Messages in the outbox.",
    labels: ["status"],
    read: ({ health: { outbox } }) =>
      outboxStatuses.map((status): Sample => [outbox.counts[status], { status }]),
  },
  {
    name: "claudemesh_outbox_oldest_seconds",
    type: "gauge",
    help: "How long the message has waited that has waited longest; 0 when none waits.",
    labels: ["status"],
    read: ({ health: { outbox } }) => [[outbox.oldest_pending_s ?? 0, { status: "pending" }]],
  },
  {
    name: "claudemesh_sends_total",
    type: "counter",
    help: "Requests to send a message, by what came of them: refused for a reason of the caller's, failed for one of the daemon's.",
    labels: ["outcome"],
    read: ({ parts }) => samplesOf("outcome", parts.tallies.sends),
  },
  {
    name: "claudemesh_send_refusals_total",
    type: "counter",
    help: "Those that were refused or failed, by the code of the error.",
    labels: ["code"],
    read: ({ parts }) => samplesOf("code", parts.tallies.sendRefusals),
  },
  {
    name: "claudemesh_broker_answers_total",
    type: "counter",
    help: "What brokers answered to messages; none when the connection ended before they did.",
    labels: ["outcome"],
    read: ({ parts }) => samplesOf("outcome", parts.drain.answers),
  },
];

const incoming: Family<World>[] = [
  {
    name: "claudemesh_inbox_messages",
    type: "gauge",
    help: "Messages in the inbox.",
    labels: ["state"],
    read: ({ parts, health: { inbox } }) => [
      [inbox.unread, { state: "unread" }],
      [parts.inbox.count() - inbox.unread, { state: "read" }],
    ],
  },
  {
    name: "claudemesh_inbox_received_total",
    type: "counter",
    help: "Messages that arrived and could be opened: new ones, and those that were there already.",
    labels: ["mesh", "outcome"],
    read: (world) =>
      ofSessions(world, ({ arrivals }, labels) => samplesOf("outcome", arrivals.messages, labels)),
  },
  {
    name: "claudemesh_undecryptable_total",
    type: "counter",
    help: "Messages that arrived and could not be opened or believed.",
    labels: ["mesh", "reason"],
    read: (world) =>
      ofSessions(world, ({ arrivals }, labels) => samplesOf("reason", arrivals.problems, labels)),
  },
  {
    name: "claudemesh_undecryptable_messages",
    type: "gauge",
    help: "Those of them that are kept, to be tried again when keys change.",
    labels: [],
    read: ({ parts }) => always(parts.inbox.problemCount()),
  },
];

const api: Family<World>[] = [
  {
    name: "claudemesh_ipc_requests_total",
    type: "counter",
    help: "Requests to the local API; those for a path that it does not have are of the route none.",
    labels: ["route", "way_in", "status"],
    *read({ parts }) {
      for (const [route, { statuses }] of parts.tallies.routes) {
        for (const way_in of ["unix", "tcp"] as const) {
          for (const [status, count] of statuses[way_in])
            yield [count, { route, way_in, status: String(status) }];
        }
      }
    },
  },
  {
    name: "claudemesh_ipc_request_duration_seconds",
    type: "histogram",
    help: "How long requests took until the answer began, what was waited for by request (?wait=) included.",
    labels: ["route"],
    *read({ parts }) {
      for (const [route, { durations }] of parts.tallies.routes) yield [durations, { route }];
    },
  },
  {
    name: "claudemesh_ipc_at_work",
    type: "gauge",
    help: "Requests that are at work, this one included.",
    labels: [],
    read: ({ parts }) => always(parts.tallies.load.atWork),
  },
  {
    name: "claudemesh_ipc_waiting",
    type: "gauge",
    help: "Requests that wait for something to happen (?wait=).",
    labels: [],
    read: ({ parts }) => always(parts.tallies.load.waiting),
  },
  {
    name: "claudemesh_ipc_streams",
    type: "gauge",
    help: "Event streams that are open.",
    labels: [],
    read: ({ parts }) => always(parts.tallies.streams),
  },
  {
    name: "claudemesh_security_refusals_total",
    type: "counter",
    help: "Requests that were kept out before anything was read: a wrong token or host, a web page.",
    labels: ["code"],
    read: ({ parts }) => samplesOf("code", parts.tallies.securityRefusals),
  },
];

const storage: Family<World>[] = [
  {
    name: "claudemesh_disk_bytes",
    type: "gauge",
    help: "The size of each file in the daemon's directory; those that are not listed by name are other.",
    labels: ["file"],
    read: ({ dir }) =>
      dir === undefined
        ? []
        : [...diskUsage(dir, namedFiles)].map(([file, bytes]): Sample => [bytes, { file }]),
  },
  {
    name: "claudemesh_disk_free_bytes",
    type: "gauge",
    help: "What may still be written where the daemon's directory is.",
    labels: [],
    read({ dir }) {
      const bytes = dir === undefined ? undefined : freeBytes(dir);
      return bytes === undefined ? [] : always(bytes);
    },
  },
  {
    name: "claudemesh_storage_trouble",
    type: "gauge",
    help: "1 while nothing can be written to the database.",
    labels: ["database"],
    read: (world) => ofWriters(world, ({ trouble }) => (trouble === undefined ? 0 : 1)),
  },
  {
    name: "claudemesh_commits_total",
    type: "counter",
    help: "Transactions that were flushed to the disk.",
    labels: ["database"],
    read: (world) => ofWriters(world, ({ stats }) => stats.commits),
  },
  {
    name: "claudemesh_commit_jobs_total",
    type: "counter",
    help: "Writes that shared them: divided by the commits, how many one flush serves.",
    labels: ["database"],
    read: (world) => ofWriters(world, ({ stats }) => stats.jobs),
  },
  {
    name: "claudemesh_commit_failures_total",
    type: "counter",
    help: "Transactions that the disk did not take.",
    labels: ["database"],
    read: (world) => ofWriters(world, ({ stats }) => stats.failures),
  },
];

export const daemonFamilies: readonly Family<World>[] = [
  {
    name: "claudemesh_build_info",
    type: "gauge",
    help: "Always 1; its labels say which build it is.",
    labels: ["version", "commit"],
    read: () => [[1, { version, commit }]],
  },
  ...processFamilies,
  ...links,
  ...outgoing,
  ...incoming,
  ...api,
  ...storage,
  {
    name: "claudemesh_problems",
    type: "gauge",
    help: "What claudemesh daemon status would tell of, by its code.",
    labels: ["code"],
    read({ health }) {
      const counts = new Map<string, number>();
      for (const { code } of health.problems) counts.set(code, (counts.get(code) ?? 0) + 1);
      return samplesOf("code", { entries: () => [...counts] });
    },
  },
];
