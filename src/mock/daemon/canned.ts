/**
 * What the mock of the daemon has to show: a small mesh, three messages that arrived, five that were sent. Made up, plausible, and the
 * same at every start, so that a harness can compare what it gets; and fit for the schemas of wire/ipc.ts.
 */
import { isoTime } from "~/clock";
import type { ErrorCode } from "~/errors";
import type {
  HealthReply,
  InboxItem,
  InboxProblem,
  OutboxCounts,
  OutboxItem,
  OutboxRowReply,
  PeerItem,
  ProfileReply,
  SentMessage,
} from "~/wire/ipc";
import { ipcBodyBytesMax } from "~/wire/limits";
import type { Priority } from "~/wire/text";

const beganMs = Date.UTC(2026, 0, 2, 3, 4, 5);
/** So many minutes after everything began. */
const at = (minutes: number): string => isoTime(beganMs + minutes * 60_000);

/** Like a ULID; `kind` is two of its characters. */
const cannedId = (kind: string, number: number): string => `01M0CK${kind}${String(number).padStart(18, "0")}`;
/** Of what a client sends without naming an id for it. */
export const messageId = (number: number): string => cannedId("MS", number);
const inboxId = (place: number): string => cannedId("NB", place);
const rowId = (number: number): string => cannedId("RW", number);
const brokerMessageId = (number: number): string => cannedId("BR", number);

export const mesh = "team";
const key = (digits: string): string => digits.padEnd(64, "0");
const alice = { name: "alice", pubkey: key("a11ce") };
export const bob = { name: "bob", pubkey: key("b0b") };
export const carol = { name: "carol", pubkey: key("ca401") };

// ── About the daemon ────────────────────────────────────────────────────────────────────────────────────────────────

export const brokerFeatures = {
  client_message_id_dedupe: { version: 1, mode: "permanent" },
  max_payload: { version: 1, inline_bytes: 65_536 },
  lanes: { version: 1 },
  members: { version: 1 },
};

const counts: OutboxCounts = { pending: 1, inflight: 1, done: 1, dead: 1, aborted: 1 };

export const health: HealthReply = {
  ok: true,
  pid: process.pid,
  uptime_s: 3600,
  meshes: { [mesh]: { link: "open", since: at(0), rtt_ms: 12.5 } },
  outbox: { counts, oldest_pending_s: 90 },
  inbox: { unread: 2 },
  problems: [],
  started_with: [],
  managed_by: null,
};

export const profile: ProfileReply = {
  summary: "testing",
  status: "working",
  visible: true,
  avatar: "",
  title: "Stand-in",
  bio: "",
  capabilities: ["chat"],
};

export const rotation = { rotated_at: at(60), grace_until: at(61) };

export const metrics = `# HELP claudemesh_link_up 1 while the connection to the mesh's broker is open.
# TYPE claudemesh_link_up gauge
claudemesh_link_up{mesh="${mesh}"} 1

# HELP claudemesh_outbox_messages Messages in the outbox.
# TYPE claudemesh_outbox_messages gauge
${Object.entries(counts)
  .map(([status, count]) => `claudemesh_outbox_messages{status="${status}"} ${count}`)
  .join("\n")}

# HELP claudemesh_inbox_messages Messages in the inbox.
# TYPE claudemesh_inbox_messages gauge
claudemesh_inbox_messages{state="unread"} 2
claudemesh_inbox_messages{state="read"} 1

# HELP claudemesh_sends_total Requests to send a message, by what came of them: refused for a reason of the caller's, failed for one of the daemon's.
# TYPE claudemesh_sends_total counter
claudemesh_sends_total{outcome="accepted"} 5
`;

// ── Members ─────────────────────────────────────────────────────────────────────────────────────────────────────────

export const peers: readonly PeerItem[] = [
  {
    ...bob,
    mesh,
    online: true,
    status: "idle",
    summary: "reviewing",
    last_seen_at: at(59),
    capabilities: ["chat", "review"],
    profile: { title: "Reviewer", capabilities: ["chat", "review"] },
  },
  { ...carol, mesh, online: false, status: "away", last_seen_at: at(5), capabilities: [] },
];

// ── What arrived ────────────────────────────────────────────────────────────────────────────────────────────────────

/** Oldest first: the place of each is its index and one. */
export const inbox: readonly InboxItem[] = [
  {
    id: inboxId(1),
    client_message_id: "from-bob-1",
    mesh,
    from: bob,
    body: "hello",
    priority: "next",
    sent_at: at(10),
    received_at: at(10),
    read_at: at(11),
  },
  {
    id: inboxId(2),
    client_message_id: "from-carol-1",
    mesh,
    from: carol,
    topic: "builds",
    body: "the build is green",
    meta: { branch: "main" },
    priority: "low",
    sent_at: at(20),
    received_at: at(21),
  },
  {
    id: inboxId(3),
    client_message_id: "from-bob-2",
    mesh,
    from: bob,
    body: "thanks, got it",
    reply_to: { id: "to-bob-1", sender: alice.pubkey },
    priority: "now",
    sent_at: at(30),
    received_at: at(30),
  },
];

/** One that arrives while the mock runs, at this place; `answered`: the request that it seems to answer. */
export const arrival = (place: number, answered?: { id: string; to: string; text: string }): InboxItem => ({
  id: inboxId(place),
  client_message_id: `from-bob-${place}`,
  mesh,
  from: answered === undefined ? bob : { ...bob, name: answered.to },
  body: answered === undefined ? `message ${place}` : `re: ${answered.text}`,
  ...(answered === undefined ? {} : { reply_to: { id: answered.id, sender: alice.pubkey } }),
  priority: "next",
  sent_at: at(60),
  received_at: at(60),
});

export const inboxProblems: readonly InboxProblem[] = [
  {
    id: cannedId("PR", 1),
    mesh,
    from: { name: "carol", pubkey: carol.pubkey },
    broker_message_id: brokerMessageId(90),
    reason: "does_not_open",
    received_at: at(25),
  },
];

// ── What was sent ───────────────────────────────────────────────────────────────────────────────────────────────────

const toBob = { mesh, to: bob.name, destination: bob.pubkey, priority: "next" } as const;

/** Newest first, one of each status. */
export const outbox: readonly OutboxItem[] = [
  {
    ...toBob,
    id: rowId(5),
    client_message_id: "to-bob-5",
    status: "pending",
    attempts: 0,
    enqueued_at: at(58),
    may_have_been_sent: false,
  },
  {
    ...toBob,
    id: rowId(4),
    client_message_id: "to-bob-4",
    status: "inflight",
    attempts: 1,
    enqueued_at: at(57),
    first_sent_at: at(57),
    may_have_been_sent: true,
  },
  {
    ...toBob,
    id: rowId(3),
    client_message_id: "to-bob-3",
    status: "dead",
    attempts: 1,
    enqueued_at: at(40),
    first_sent_at: at(40),
    last_error: "expired",
    may_have_been_sent: false,
  },
  {
    ...toBob,
    id: rowId(2),
    client_message_id: "to-bob-2",
    status: "aborted",
    attempts: 2,
    enqueued_at: at(31),
    first_sent_at: at(31),
    aborted_at: at(39),
    aborted_by: "operator",
    superseded_by: rowId(3),
    may_have_been_sent: false,
  },
  {
    ...toBob,
    id: rowId(1),
    client_message_id: "to-bob-1",
    status: "done",
    attempts: 1,
    enqueued_at: at(29),
    first_sent_at: at(29),
    accepted_at: at(29),
    broker_message_id: brokerMessageId(1),
    may_have_been_sent: false,
  },
];
export const outboxCounts = counts;

/** What was just taken: pending, and new. */
export const newRow = ({
  id,
  to = toBob.to,
  priority = toBob.priority,
}: {
  id: string;
  to?: string;
  priority?: Priority;
}): OutboxItem => ({
  ...toBob,
  to,
  priority,
  id: rowId(6),
  client_message_id: id,
  status: "pending",
  attempts: 0,
  enqueued_at: at(60),
  may_have_been_sent: false,
});

export const isRow = (row: OutboxItem, id: string): boolean => row.id === id || row.client_message_id === id;

/** The row that is asked for; of what is not among ours, one with this id that has failed. */
export function outboxRow(id: string): OutboxRowReply {
  const known = outbox.find((row) => isRow(row, id));
  const row: OutboxItem = known ?? {
    ...newRow({ id }),
    id,
    status: "dead",
    attempts: 1,
    first_sent_at: at(60),
    last_error: "expired",
  };
  const chain = outbox
    .filter(({ status }) => status === "aborted" || status === "dead")
    .reverse()
    .map(({ id, client_message_id, status }) => ({ id, client_message_id, status }));
  const own = { id: row.id, client_message_id: row.client_message_id, status: row.status };
  return {
    ...row,
    message: "hi bob",
    requeue_chain: chain.some((link) => link.id === row.id) ? chain : [own],
  };
}

export const requeuedRowId = rowId(6);

/** The broker has it, and the recipient has read it. */
export const sentMessage = (clientMessageId: string): SentMessage => ({
  client_message_id: clientMessageId,
  mesh,
  to: bob.name,
  status: "done",
  enqueued_at: at(60),
  first_sent_at: at(60),
  accepted_at: at(60),
  broker_message_id: brokerMessageId(6),
  receipts: [
    { recipient: bob, stage: "delivered", at: at(61) },
    { recipient: bob, stage: "read", at: at(62) },
  ],
});

// ── Passing events ──────────────────────────────────────────────────────────────────────────────────────────────────

export const comingPeer = { mesh, ...carol };
export const leavingPeer = { mesh, ...bob };
export const brokerStatus = { mesh, link: "open", since: at(60) } as const;
export const receipt = (clientMessageId: string, to: string) => ({
  client_message_id: clientMessageId,
  recipient: { ...bob, name: to },
  stage: "delivered",
  at: at(61),
});

// ── Errors ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Those whose further fields clients read. */
export const plausibleErrors: {
  readonly [C in ErrorCode]?: { message: string; details: Readonly<Record<string, unknown>> };
} = {
  idempotency_key_reused: {
    message: "the id was already used for another message",
    details: {
      conflict: "outbox_done_fingerprint_mismatch",
      daemon_fingerprint_prefix: "0123456789abcdef",
      broker_message_id: brokerMessageId(1),
    },
  },
  unknown_peer: {
    message: `nobody in ${mesh} is called that`,
    details: { candidates: [bob.name, carol.name] },
  },
  ambiguous_peer: {
    message: `that could be 2 members of ${mesh}`,
    details: { candidates: [bob, { name: "bobby", pubkey: key("b0bb4") }] },
  },
  mesh_required: { message: `known in 2 meshes: ${mesh}, lab`, details: { meshes: [mesh, "lab"] } },
  message_too_large: {
    message: "the message has 70000 bytes when sealed; the broker takes 65536",
    details: { size_bytes: 70_000, limit_bytes: 65_536 },
  },
  body_too_large: {
    message: `a request body has at most ${ipcBodyBytesMax} bytes`,
    details: { limit_bytes: ipcBodyBytesMax },
  },
};
