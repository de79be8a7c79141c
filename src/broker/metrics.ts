/**
 * Every metric of the broker, and where its numbers are. All of it is read when somebody asks, and costs nothing before then.
 * docs/monitoring.md lists them for people; a test holds the two against each other.
 */
import type { Core } from "~/broker/core";
import type { Store, Totals } from "~/broker/sqlite";
import { diskUsage, freeBytes } from "~/disk/usage";
import type { Writer } from "~/disk/writer";
import { Exposition, type Family, type Sample, samplesOf } from "~/metrics/exposition";
import { processFamilies } from "~/metrics/process";
import { commit, version } from "~/version";

export interface WatchedBroker {
  core: Core;
  store: Store;
  writer: Writer;
  /** The data directory. */
  dir: string;
  startedAtMs: number;
  nowMs: number;
  problems: readonly { code: string }[];
}

/** The broker at the moment of the question; what costs a query is asked once. */
type World = WatchedBroker & { totals: Totals };

/** Files of the data directory that are shown by their own names; old logs and copies are one. */
const namedFiles = ["broker.db", "broker.db-wal", "broker.db-shm", "broker.log"];

let exposition: Exposition<World> | undefined;

export function answerMetrics(broker: WatchedBroker): Promise<Response> {
  exposition ??= new Exposition(brokerFamilies);
  return exposition.answer({ ...broker, totals: broker.store.totals() });
}

const always = (value: number): Sample[] => [[value]];

const members: Family<World>[] = [
  {
    name: "claudemesh_broker_connections",
    type: "gauge",
    help: "Connections: full ones, those that only send, and those that have not greeted yet.",
    labels: ["kind"],
    read: ({ core }) => samplesOf("kind", { entries: () => Object.entries(core.connections.countByKind()) }),
  },
  {
    name: "claudemesh_broker_meshes",
    type: "gauge",
    help: "Meshes that this broker has.",
    labels: [],
    read: ({ totals }) => always(totals.meshes),
  },
  {
    name: "claudemesh_broker_members",
    type: "gauge",
    help: "Members of all meshes, without those that left or were removed.",
    labels: [],
    read: ({ totals }) => always(totals.members),
  },
  {
    name: "claudemesh_broker_hellos_total",
    type: "counter",
    help: "Greetings: admitted, or the code that they were refused with.",
    labels: ["outcome"],
    read: ({ core }) => samplesOf("outcome", core.tallies.hellos),
  },
  {
    name: "claudemesh_broker_joins_total",
    type: "counter",
    help: "Attempts to join a mesh: joined, already_member, or the code that they were refused with.",
    labels: ["outcome"],
    read: ({ core }) => samplesOf("outcome", core.tallies.joins),
  },
  {
    name: "claudemesh_broker_closes_total",
    type: "counter",
    help: "Connections that ended: by whom, and with which code, or why the broker cut it off (backlog, silence).",
    labels: ["by", "code"],
    read: ({ core }) => [
      ...samplesOf("code", core.tallies.closedByBroker, { by: "broker" }),
      ...samplesOf("code", core.tallies.closedByPeer, { by: "peer" }),
    ],
  },
];

const messages: Family<World>[] = [
  {
    name: "claudemesh_broker_sends_total",
    type: "counter",
    help: "Messages that members sent, by the code of the answer.",
    labels: ["code"],
    read: ({ core }) => samplesOf("code", core.tallies.sends),
  },
  {
    name: "claudemesh_broker_pushes_total",
    type: "counter",
    help: "Messages that were handed to a recipient's connection, repeated ones included.",
    labels: [],
    read: ({ core }) => always(core.tallies.pushes),
  },
  {
    name: "claudemesh_broker_acknowledged_total",
    type: "counter",
    help: "Messages that their recipient has on its disk.",
    labels: [],
    read: ({ core }) => always(core.tallies.acknowledged),
  },
  {
    name: "claudemesh_broker_redeliveries_total",
    type: "counter",
    help: "Messages that were pushed and not acknowledged, and go out again: the time for it lapsed, or the connection closed.",
    labels: ["reason"],
    read: ({ core }) => samplesOf("reason", core.tallies.redeliveries),
  },
  {
    name: "claudemesh_broker_leases",
    type: "gauge",
    help: "Messages that were pushed and are not acknowledged yet.",
    labels: [],
    read({ core }) {
      let leases = 0;
      for (const session of core.connections.takers()) leases += session.leases.count;
      return always(leases);
    },
  },
  {
    name: "claudemesh_broker_queued_deliveries",
    type: "gauge",
    help: "Messages that wait for their recipient, those under way included.",
    labels: [],
    read: ({ totals }) => always(totals.queued),
  },
  {
    name: "claudemesh_broker_queued_oldest_seconds",
    type: "gauge",
    help: "How long the message has waited that has waited longest; 0 when none waits.",
    labels: [],
    read: ({ totals: { oldestQueuedAt }, nowMs }) =>
      always(oldestQueuedAt === undefined ? 0 : Math.max(0, nowMs - oldestQueuedAt) / 1000),
  },
  {
    name: "claudemesh_broker_frames_ignored_total",
    type: "counter",
    help: "Frames that did not count: malformed, of an unknown type, or acknowledging what does not wait.",
    labels: ["reason"],
    read: ({ core: { counters } }) => [
      [counters.malformed, { reason: "malformed" }],
      [counters.unknownType, { reason: "unknown_type" }],
      [counters.ignoredAcks, { reason: "not_waiting" }],
    ],
  },
];

const server: Family<World>[] = [
  {
    name: "claudemesh_broker_http_requests_total",
    type: "counter",
    help: "HTTP requests, without those that became a connection; those for a path that it does not have are of the path none.",
    labels: ["path", "status"],
    *read({ core }) {
      for (const [path, statuses] of core.tallies.http)
        for (const [status, count] of statuses) yield [count, { path, status: String(status) }];
    },
  },
  {
    name: "claudemesh_broker_commits_total",
    type: "counter",
    help: "Transactions that were flushed to the disk.",
    labels: [],
    read: ({ writer }) => always(writer.stats.commits),
  },
  {
    name: "claudemesh_broker_commit_jobs_total",
    type: "counter",
    help: "Writes that shared them; all frames of one turn are one.",
    labels: [],
    read: ({ writer }) => always(writer.stats.jobs),
  },
  {
    name: "claudemesh_broker_commit_failures_total",
    type: "counter",
    help: "Transactions that the disk did not take.",
    labels: [],
    read: ({ writer }) => always(writer.stats.failures),
  },
  {
    name: "claudemesh_broker_storage_trouble",
    type: "gauge",
    help: "1 while nothing can be written to the database.",
    labels: [],
    read: ({ writer }) => always(writer.trouble === undefined ? 0 : 1),
  },
  {
    name: "claudemesh_broker_disk_bytes",
    type: "gauge",
    help: "The size of each file in the data directory; those that are not listed by name are other.",
    labels: ["file"],
    read: ({ dir }) => samplesOf("file", { entries: () => [...diskUsage(dir, namedFiles)] }),
  },
  {
    name: "claudemesh_broker_disk_free_bytes",
    type: "gauge",
    help: "What may still be written where the data directory is.",
    labels: [],
    read({ dir }) {
      const bytes = freeBytes(dir);
      return bytes === undefined ? [] : always(bytes);
    },
  },
  {
    name: "claudemesh_broker_problems",
    type: "gauge",
    help: "What claudemesh broker status would tell of, by its code.",
    labels: ["code"],
    read({ problems }) {
      const counts = new Map<string, number>();
      for (const { code } of problems) counts.set(code, (counts.get(code) ?? 0) + 1);
      return samplesOf("code", { entries: () => [...counts] });
    },
  },
];

export const brokerFamilies: readonly Family<World>[] = [
  {
    name: "claudemesh_broker_build_info",
    type: "gauge",
    help: "Always 1; its labels say which build it is.",
    labels: ["version", "commit"],
    read: () => [[1, { version, commit }]],
  },
  ...processFamilies,
  ...members,
  ...messages,
  ...server,
];
