/**
 * The daemon's local API as one table: method, path, request and the response of each status. The server validates
 * requests by it, the client validates responses by it, and the OpenAPI document is made from it.
 */
import * as v from "valibot";
import {
  challengeNonceCharsMax,
  ipcPageDefault,
  ipcPageMax,
  summaryCharsMax,
  waitMsDefault,
  waitMsMax,
} from "~/wire/limits";
import { places } from "~/wire/place";
import { Profile } from "~/wire/profile";
import { everyAnswer, SendReply } from "~/wire/reply";
import { ClientMessageId, JsonObject, Priority, Status } from "~/wire/text";

const Time = v.pipe(v.string(), v.isoTimestamp());
const Text = v.string();
const Count = v.pipe(v.number(), v.integer(), v.minValue(0));

/** A whole number in a query string. */
const WholeNumber = (min: number, max: number) =>
  v.pipe(
    v.string(),
    v.regex(/^\d{1,15}$/, "a whole number expected"),
    v.transform(Number),
    v.minValue(min, `at least ${min}`),
    v.maxValue(max, `at most ${max}`),
  );
const Flag = v.pipe(
  v.picklist(["0", "1", "true", "false"]),
  v.transform((text) => text === "1" || text === "true"),
);
const Page = v.exactOptional(WholeNumber(1, ipcPageMax), String(ipcPageDefault));

// ── Answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

export const ConflictReply = v.looseObject({
  ...everyAnswer,
  error: v.picklist(["idempotency_key_reused", "id_in_use", "not_requeueable"]),
  message: Text,
  hint: v.exactOptional(Text),
  conflict: v.exactOptional(Text),
  daemon_fingerprint_prefix: v.exactOptional(Text),
  broker_message_id: v.exactOptional(Text),
  reason: v.exactOptional(Text),
});

export const ChallengeReply = v.object({ ...everyAnswer, proof: Text });

/** What a client may rely on beyond the first version of this API. */
export const ipcFeatures = [
  "idempotency_key_header",
  "wait_accepted",
  "events_replay",
  "requeue",
  "token_rotate",
] as const;

export const VersionReply = v.object({
  ...everyAnswer,
  daemon_version: Text,
  ipc_api: v.literal("v1"),
  ipc_features: v.array(Text),
  schema_version: Count,
  meshes: v.record(Text, v.object({ broker_features: v.nullable(JsonObject) })),
});
export type VersionReply = v.InferOutput<typeof VersionReply>;

export const linkStates = ["connecting", "open", "waiting", "identity_in_use", "refused", "removed"] as const;
export const LinkState = v.picklist(linkStates);
export type LinkState = v.InferOutput<typeof LinkState>;

export const outboxStatuses = ["pending", "inflight", "done", "dead", "aborted"] as const;
export const OutboxStatus = v.picklist(outboxStatuses);
export type OutboxStatus = v.InferOutput<typeof OutboxStatus>;

const OutboxCounts = v.object({ pending: Count, inflight: Count, done: Count, dead: Count, aborted: Count });
export type OutboxCounts = v.InferOutput<typeof OutboxCounts>;

export const Problem = v.object({ code: Text, message: Text, hint: v.exactOptional(Text) });
export type Problem = v.InferOutput<typeof Problem>;

export const HealthReply = v.object({
  ...everyAnswer,
  ok: v.boolean(),
  pid: Count,
  uptime_s: v.number(),
  meshes: v.record(
    Text,
    v.object({
      link: LinkState,
      since: Time,
      rtt_ms: v.exactOptional(v.number()),
      error: v.exactOptional(Text),
    }),
  ),
  outbox: v.object({ counts: OutboxCounts, oldest_pending_s: v.exactOptional(v.number()) }),
  inbox: v.object({ unread: Count }),
  problems: v.array(Problem),
  /** The flags of `daemon up` that it was started with; a restart starts it with the same. */
  started_with: v.exactOptional(v.array(Text)),
  /** Who starts it anew when it ends: `systemd` or `launchd`, and null when nobody does. */
  managed_by: v.exactOptional(v.nullable(Text)),
  /** What the manager calls it: the systemd unit or the launchd label. */
  managed_unit: v.exactOptional(Text),
  /** Whether it is the manager of one user or of the whole system. */
  managed_scope: v.exactOptional(v.picklist(["user", "system"])),
});
export type HealthReply = v.InferOutput<typeof HealthReply>;

/** What `--public-health` shows to a caller without a token. */
export const PublicHealthReply = v.strictObject({ ok: v.literal(true) });

export const SendRequest = v.strictObject({
  to: v.pipe(v.string(), v.nonEmpty("must not be empty"), v.maxLength(256)),
  message: v.string(),
  mesh: v.exactOptional(v.string()),
  priority: v.exactOptional(Priority, "next"),
  meta: v.exactOptional(v.nullable(JsonObject)),
  reply_to_id: v.exactOptional(ClientMessageId),
  client_message_id: v.exactOptional(ClientMessageId),
});
export type SendRequest = v.InferOutput<typeof SendRequest>;
export type SendRequestInput = v.InferInput<typeof SendRequest>;

const Receipt = v.object({
  recipient: v.object({ name: Text, pubkey: Text }),
  stage: v.picklist(["delivered", "read", "refused"]),
  at: Time,
  reason: v.exactOptional(Text),
});

export const SentMessage = v.object({
  ...everyAnswer,
  client_message_id: Text,
  mesh: v.nullable(Text),
  to: v.nullable(Text),
  status: OutboxStatus,
  enqueued_at: Time,
  first_sent_at: v.exactOptional(Time),
  accepted_at: v.exactOptional(Time),
  broker_message_id: v.exactOptional(Text),
  last_error: v.exactOptional(Text),
  superseded_by: v.exactOptional(Text),
  receipts: v.array(Receipt),
});
export type SentMessage = v.InferOutput<typeof SentMessage>;

export const InboxItem = v.object({
  id: Text,
  client_message_id: Text,
  mesh: Text,
  from: v.object({ name: Text, pubkey: Text }),
  topic: v.exactOptional(Text),
  /** Null once a read message is older than the retention and its body was pruned. */
  body: v.nullable(Text),
  meta: v.exactOptional(JsonObject),
  reply_to: v.exactOptional(v.object({ id: Text, sender: Text })),
  priority: Priority,
  sent_at: v.exactOptional(Text),
  received_at: Time,
  read_at: v.exactOptional(Time),
});
export type InboxItem = v.InferOutput<typeof InboxItem>;

/** A push that could not be opened or believed: never shown as text, kept to be tried again. */
export const InboxProblem = v.object({
  id: Text,
  mesh: Text,
  from: v.object({ name: Text, pubkey: v.nullable(Text) }),
  broker_message_id: Text,
  client_message_id: v.exactOptional(Text),
  reason: Text,
  received_at: Time,
});
export type InboxProblem = v.InferOutput<typeof InboxProblem>;

export const InboxReply = v.object({
  ...everyAnswer,
  items: v.array(InboxItem),
  next_cursor: v.exactOptional(Text),
  problems: v.exactOptional(v.array(InboxProblem)),
});
export type InboxReply = v.InferOutput<typeof InboxReply>;

export const PeerItem = v.object({
  name: Text,
  pubkey: Text,
  mesh: Text,
  online: v.boolean(),
  status: Text,
  summary: v.exactOptional(Text),
  last_seen_at: v.exactOptional(Text),
  capabilities: v.array(Text),
  profile: v.exactOptional(Profile),
  /** Why a send to this member is refused: its admission does not verify, or its name had another key before. */
  untrusted: v.exactOptional(v.picklist(["admission", "name_changed"])),
});
export type PeerItem = v.InferOutput<typeof PeerItem>;
export const PeersReply = v.object({ ...everyAnswer, peers: v.array(PeerItem), stale: v.boolean() });
export type PeersReply = v.InferOutput<typeof PeersReply>;

export const ProfileReply = v.object({
  ...everyAnswer,
  summary: Text,
  status: Status,
  visible: v.boolean(),
  avatar: Text,
  title: Text,
  bio: Text,
  capabilities: v.array(Text),
});
export type ProfileReply = v.InferOutput<typeof ProfileReply>;
export const ProfileRequest = v.strictObject({
  summary: v.exactOptional(v.pipe(v.string(), v.maxLength(summaryCharsMax))),
  status: v.exactOptional(Status),
  visible: v.exactOptional(v.boolean()),
  ...Profile.entries,
});
export type ProfileRequest = v.InferOutput<typeof ProfileRequest>;

export const OutboxItem = v.object({
  id: Text,
  client_message_id: Text,
  mesh: v.nullable(Text),
  to: v.nullable(Text),
  destination: v.nullable(Text),
  priority: Priority,
  status: OutboxStatus,
  attempts: Count,
  enqueued_at: Time,
  next_attempt_at: v.exactOptional(Time),
  first_sent_at: v.exactOptional(Time),
  accepted_at: v.exactOptional(Time),
  aborted_at: v.exactOptional(Time),
  aborted_by: v.exactOptional(Text),
  superseded_by: v.exactOptional(Text),
  broker_message_id: v.exactOptional(Text),
  last_error: v.exactOptional(Text),
  /** It was on the wire once, and nobody said what became of it: the recipient may have it. */
  may_have_been_sent: v.boolean(),
});
export type OutboxItem = v.InferOutput<typeof OutboxItem>;
export const OutboxReply = v.object({
  ...everyAnswer,
  items: v.array(OutboxItem),
  counts: OutboxCounts,
  next_cursor: v.exactOptional(Text),
});
export type OutboxReply = v.InferOutput<typeof OutboxReply>;
export const OutboxRowReply = v.object({
  ...everyAnswer,
  ...OutboxItem.entries,
  /** The text; null once it is older than the retention. */
  message: v.nullable(Text),
  /** Oldest first: the rows that this one replaced and those that replaced it, itself included. */
  requeue_chain: v.array(v.object({ id: Text, client_message_id: Text, status: OutboxStatus })),
});
export type OutboxRowReply = v.InferOutput<typeof OutboxRowReply>;

export const RequeueRequest = v.strictObject({
  id: v.pipe(v.string(), v.nonEmpty()),
  new_client_message_id: v.exactOptional(ClientMessageId),
  message: v.exactOptional(v.string()),
});
export type RequeueRequest = v.InferOutput<typeof RequeueRequest>;
export const RequeueReply = v.object({
  ...everyAnswer,
  aborted_row_id: Text,
  new_row_id: Text,
  new_client_message_id: Text,
  may_have_been_sent: v.boolean(),
});
export type RequeueReply = v.InferOutput<typeof RequeueReply>;

// ── Events ──────────────────────────────────────────────────────────────────────────────────────────────────────────

export const eventNames = [
  "message",
  "receipt",
  "peer_join",
  "peer_leave",
  "broker_status",
  "outbox",
] as const;
export type EventName = (typeof eventNames)[number];

export const MeshEvent = v.variant("event", [
  v.object({ event: v.literal("message"), id: Text, data: InboxItem }),
  v.object({ event: v.literal("peer_join"), data: v.object({ mesh: Text, name: Text, pubkey: Text }) }),
  v.object({ event: v.literal("peer_leave"), data: v.object({ mesh: Text, name: Text, pubkey: Text }) }),
  v.object({
    event: v.literal("broker_status"),
    data: v.object({ mesh: Text, link: LinkState, since: Time, error: v.exactOptional(Text) }),
  }),
  v.object({ event: v.literal("outbox"), data: OutboxItem }),
]);
export type MeshEvent = v.InferOutput<typeof MeshEvent>;

// ── The table ───────────────────────────────────────────────────────────────────────────────────────────────────────

type AnySchema = v.GenericSchema<unknown, unknown>;

/** https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format */
export const metricsContentType = "text/plain; version=0.0.4; charset=utf-8";

export interface Route {
  method: "GET" | "POST";
  path: `/v1/${string}`;
  summary: string;
  query?: v.GenericSchema<Record<string, string>, unknown>;
  body?: AnySchema;
  /** By HTTP status; every other status is an `ErrorReply`. */
  responses: Readonly<Record<number, AnySchema>>;
  /** Anything but JSON. */
  contentType?: "text/event-stream" | typeof metricsContentType;
}

const route = <R extends Route>(definition: R): R => definition;
const NoQuery = v.strictObject({});

export const routes = {
  challenge: route({
    ...places.challenge,
    summary: "Proof that this server knows the local token: HMAC-SHA-256(token, nonce) in hex",
    query: v.strictObject({
      nonce: v.pipe(
        v.string(),
        v.regex(/^(?:[0-9a-f]{2}){16,}$/, "at least 16 bytes of lower-case hex"),
        v.maxLength(challengeNonceCharsMax),
      ),
    }),
    responses: { 200: ChallengeReply },
  }),
  version: route({
    ...places.version,
    summary: "Versions and what each broker can do",
    query: NoQuery,
    responses: { 200: VersionReply },
  }),
  health: route({
    ...places.health,
    summary: "How the daemon is, what is wrong, and what to do about it",
    query: NoQuery,
    responses: { 200: v.union([HealthReply, PublicHealthReply]) },
  }),
  send: route({
    ...places.send,
    summary: "Queue a message; the answer leaves when it is on this disk",
    body: SendRequest,
    responses: { 200: SendReply, 202: SendReply, 409: ConflictReply },
  }),
  message: route({
    ...places.message,
    summary: "What became of a sent message; `wait` answers when it got that far",
    query: v.strictObject({
      wait: v.exactOptional(v.picklist(["accepted", "delivered", "read", "reply"])),
      timeout_ms: v.exactOptional(WholeNumber(0, waitMsMax), String(waitMsDefault)),
    }),
    responses: { 200: SentMessage },
  }),
  inbox: route({
    ...places.inbox,
    summary: "What arrived, oldest first after a cursor, or the newest",
    query: v.strictObject({
      after: v.exactOptional(v.string()),
      limit: Page,
      last: v.exactOptional(WholeNumber(1, ipcPageMax)),
      from: v.exactOptional(v.string()),
      topic: v.exactOptional(v.string()),
      mesh: v.exactOptional(v.string()),
      unread: v.exactOptional(Flag),
      problems: v.exactOptional(Flag),
    }),
    responses: { 200: InboxReply },
  }),
  inboxAck: route({
    ...places.inboxAck,
    summary: "Mark messages as read",
    body: v.strictObject({
      ids: v.pipe(v.array(v.string()), v.maxLength(ipcPageMax, `at most ${ipcPageMax} ids`)),
    }),
    responses: { 200: v.object({ ...everyAnswer, acknowledged: Count, unknown: v.array(Text) }) },
  }),
  events: route({
    ...places.events,
    summary: "Live events; stored ones are replayed after `Last-Event-ID` or `since`",
    query: v.strictObject({ since: v.exactOptional(v.string()) }),
    responses: { 200: Text },
    contentType: "text/event-stream",
  }),
  peers: route({
    ...places.peers,
    summary: "Who is there; `all=1` with members that are away",
    query: v.strictObject({ all: v.exactOptional(Flag), mesh: v.exactOptional(v.string()) }),
    responses: { 200: PeersReply },
  }),
  profile: route({
    ...places.profile,
    summary: "How this host presents itself",
    query: NoQuery,
    responses: { 200: ProfileReply },
  }),
  setProfile: route({
    ...places.setProfile,
    summary: "Change how this host presents itself",
    body: ProfileRequest,
    responses: { 200: ProfileReply },
  }),
  outbox: route({
    ...places.outbox,
    summary: "Sent messages, newest first, without bodies",
    query: v.strictObject({
      status: v.exactOptional(v.picklist([...outboxStatuses, "failed", "retrying"])),
      limit: Page,
      after: v.exactOptional(v.string()),
      lane: v.exactOptional(v.string()),
    }),
    responses: { 200: OutboxReply },
  }),
  outboxRow: route({
    ...places.outboxRow,
    summary: "One sent message with its requeue chain",
    query: NoQuery,
    responses: { 200: OutboxRowReply },
  }),
  requeue: route({
    ...places.requeue,
    summary: "Retire a dead or pending row and send its content under a new id",
    body: RequeueRequest,
    responses: { 200: RequeueReply, 409: ConflictReply },
  }),
  metrics: route({
    ...places.metrics,
    summary: "Counts, times and sizes for Prometheus",
    query: NoQuery,
    responses: { 200: Text },
    contentType: metricsContentType,
  }),
  rotateToken: route({
    ...places.rotateToken,
    summary: "Renew the local token in its file; the old one is taken until `grace_until`",
    query: NoQuery,
    responses: { 200: v.object({ ...everyAnswer, rotated_at: Time, grace_until: Time }) },
  }),
  openapi: route({
    ...places.openapi,
    summary: "This API as OpenAPI 3.1",
    query: NoQuery,
    responses: { 200: v.looseObject({ openapi: Text }) },
  }),
} as const;

export type RouteName = keyof typeof routes;

type Responses<R extends RouteName> = (typeof routes)[R]["responses"];
type OutputOf<S> = S extends AnySchema ? v.InferOutput<S> : never;
/** What a successful answer of a route holds. */
export type ReplyOf<R extends RouteName> = OutputOf<Responses<R>[keyof Responses<R> & (200 | 202)]>;
export type QueryOf<R extends RouteName> = (typeof routes)[R] extends { query: infer Q extends AnySchema }
  ? v.InferOutput<Q>
  : never;
export type BodyOf<R extends RouteName> = (typeof routes)[R] extends { body: infer B extends AnySchema }
  ? v.InferOutput<B>
  : never;
export type BodyInputOf<R extends RouteName> = (typeof routes)[R] extends { body: infer B extends AnySchema }
  ? v.InferInput<B>
  : never;
