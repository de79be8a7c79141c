/**
 * The protocol between daemon and broker: JSON text frames on one WebSocket. How a host becomes a member is in membership.ts.
 * Version 1 is what existing brokers and peers speak; everything that claudemesh adds is optional in these schemas and
 * used only towards a party that advertises it. Unknown fields are ignored on both sides.
 */
import * as v from "valibot";
import { groupsMax, inviteUsesMax, nameCharsMax, pathCharsMax, summaryCharsMax } from "~/wire/limits";
import { Profile } from "~/wire/profile";
import {
  Base64,
  BrokerUrl,
  Capabilities,
  ClientMessageId,
  DisplayName,
  explainIssues,
  InviteRole,
  JsonObject,
  Line,
  Nonce,
  OpaqueId,
  Priority,
  PublicKey,
  Role,
  Sha256Hex,
  Signature,
  Status,
  TimeMs,
} from "~/wire/text";

const ReqId = v.exactOptional(v.pipe(v.string(), v.maxLength(128)));
const Count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

/** What a connection says it can do, in `hello.capabilities`. */
export const capability = { body2: "body2", receipts: "receipts", sendOnly: "send_only" } as const;

/** WebSocket close codes of the protocol; 1008 and 1009 are those of RFC 6455 §7.4.1. */
export const closeCode = {
  normal: 1000,
  goingAway: 1001,
  refused: 1008,
  tooBig: 1009,
  removed: 4002,
  replaced: 4003,
  featureMissing: 4010,
} as const;

/** What becomes of a member's connection when the same member connects again. */
export const connectionPolicies = ["prefer_newest", "prefer_oldest", "allow_concurrent"] as const;
export type ConnectionPolicy = (typeof connectionPolicies)[number];

// ── Features ────────────────────────────────────────────────────────────────────────────────────────────────────────

export const Features = v.object({
  client_message_id_dedupe: v.exactOptional(
    v.object({
      version: v.literal(1),
      mode: v.picklist(["permanent", "retention_scoped"]),
      dedupe_retention_days: v.exactOptional(v.pipe(v.number(), v.integer(), v.minValue(1))),
      request_fingerprint: v.literal(true),
    }),
  ),
  max_payload: v.exactOptional(
    v.object({ version: v.literal(1), inline_bytes: v.pipe(v.number(), v.integer(), v.minValue(1)) }),
  ),
  lanes: v.exactOptional(v.object({ version: v.literal(1) })),
  members: v.exactOptional(v.object({ version: v.literal(1) })),
  receipts: v.exactOptional(v.object({ version: v.literal(1) })),
  queues: v.exactOptional(v.object({ version: v.literal(1) })),
  concurrent_connection_policy: v.exactOptional(
    v.object({
      version: v.literal(1),
      default_policy: v.picklist(connectionPolicies),
    }),
  ),
});
export type Features = v.InferOutput<typeof Features>;

// ── From the member ─────────────────────────────────────────────────────────────────────────────────────────────────

const Attestation = v.object({
  sessionPubkey: PublicKey,
  parentMemberPubkey: PublicKey,
  expiresAt: TimeMs,
  signature: Signature,
});
export type Attestation = v.InferOutput<typeof Attestation>;

const Groups = v.pipe(
  v.array(v.object({ name: Line(nameCharsMax), role: v.exactOptional(Line(nameCharsMax)) })),
  v.maxLength(groupsMax),
);

const helloDetails = {
  displayName: v.exactOptional(DisplayName),
  sessionId: v.exactOptional(Line(256)),
  pid: v.exactOptional(Count),
  cwd: v.exactOptional(Line(pathCharsMax)),
  hostname: v.exactOptional(Line(256)),
  peerType: v.exactOptional(v.picklist(["ai", "human", "connector"])),
  channel: v.exactOptional(Line(64)),
  model: v.exactOptional(Line(128)),
  groups: v.exactOptional(Groups),
};

export const Hello = v.object({
  type: v.literal("hello"),
  protocolVersion: v.exactOptional(v.number()),
  capabilities: v.exactOptional(Capabilities, []),
  meshId: OpaqueId,
  memberId: OpaqueId,
  pubkey: PublicKey,
  ...helloDetails,
  timestamp: TimeMs,
  signature: Signature,
});
export type Hello = v.InferOutput<typeof Hello>;

export const SessionHello = v.object({
  type: v.literal("session_hello"),
  protocolVersion: v.exactOptional(v.number()),
  capabilities: v.exactOptional(Capabilities, []),
  meshId: OpaqueId,
  parentAttestation: Attestation,
  ...helloDetails,
  timestamp: TimeMs,
  signature: Signature,
});

/** A member's or session's key, `@topic`, `#topicId`, `*` or `queue:name`. */
const TargetSpec = v.pipe(v.string(), v.nonEmpty(), v.maxLength(256));

export const SendFrame = v.object({
  type: v.literal("send"),
  id: v.exactOptional(ClientMessageId),
  client_message_id: v.exactOptional(ClientMessageId),
  request_fingerprint: v.exactOptional(Sha256Hex),
  targetSpec: TargetSpec,
  priority: v.exactOptional(Priority, "next"),
  nonce: Nonce,
  ciphertext: Base64,
  replyToId: v.exactOptional(OpaqueId),
  bodyVersion: v.exactOptional(v.picklist([1, 2])),
});
export type SendFrame = v.InferOutput<typeof SendFrame>;

export const ClientAck = v.object({
  type: v.literal("client_ack"),
  clientMessageId: v.exactOptional(v.string()),
  brokerMessageId: OpaqueId,
});

export const CreateInvite = v.object({
  type: v.literal("create_invite"),
  _reqId: ReqId,
  invite_id: OpaqueId,
  invite_public_key: PublicKey,
  role: InviteRole,
  /** Seconds since 1970. */
  expires_at: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
  max_uses: v.pipe(
    v.number(),
    v.integer(),
    v.minValue(1),
    v.maxValue(inviteUsesMax, `an invite has at most ${inviteUsesMax} uses`),
  ),
  mesh_slug: OpaqueId,
  broker_url: BrokerUrl,
  root_key_sha256: Sha256Hex,
  signature: Signature,
});
export type CreateInvite = v.InferOutput<typeof CreateInvite>;

export const ClientFrame = v.variant("type", [
  Hello,
  SessionHello,
  SendFrame,
  ClientAck,
  v.object({ type: v.literal("list_peers"), _reqId: ReqId }),
  /** A mesh that is too large for one frame is listed in pages: each after the `next` of the one before. */
  v.object({ type: v.literal("list_members"), _reqId: ReqId, after: v.exactOptional(OpaqueId) }),
  v.object({ type: v.literal("set_status"), _reqId: ReqId, status: Status }),
  v.object({ type: v.literal("set_summary"), _reqId: ReqId, summary: Line(summaryCharsMax) }),
  v.object({ type: v.literal("set_visible"), _reqId: ReqId, visible: v.boolean() }),
  v.object({ type: v.literal("set_profile"), _reqId: ReqId, ...Profile.entries }),
  CreateInvite,
  v.object({ type: v.literal("revoke_invite"), _reqId: ReqId, invite_id: OpaqueId }),
  v.object({ type: v.literal("remove_member"), _reqId: ReqId, pubkey: PublicKey }),
]);
export type ClientFrame = v.InferOutput<typeof ClientFrame>;
export type ClientFrameInput = v.InferInput<typeof ClientFrame>;
/** Frames that the broker answers by `_reqId`. */
export type RequestFrame = Exclude<
  ClientFrameInput,
  { type: "hello" | "session_hello" | "send" | "client_ack" }
>;

// ── From the broker ─────────────────────────────────────────────────────────────────────────────────────────────────

export const ackCodes = [
  "created",
  "duplicate",
  "idempotency_key_reused",
  "rate_limited",
  "held",
  "busy",
  "internal",
  "too_large",
  "malformed",
  "unauthorized",
  "unknown_destination",
  "refused",
] as const;
export type AckCode = (typeof ackCodes)[number];

export const HelloAck = v.object({
  type: v.literal("hello_ack"),
  presenceId: v.exactOptional(v.string()),
  memberDisplayName: v.exactOptional(v.string()),
  /** Validated apart (`Features`), so that one bad feature is named instead of failing the whole frame. */
  features: v.exactOptional(JsonObject),
});
export type HelloAck = v.InferOutput<typeof HelloAck>;

export const ErrorFrame = v.object({
  type: v.literal("error"),
  code: v.string(),
  message: v.string(),
  _reqId: ReqId,
});
export type ErrorFrame = v.InferOutput<typeof ErrorFrame>;

export const AckFrame = v.object({
  type: v.literal("ack"),
  id: v.exactOptional(v.string()),
  client_message_id: v.exactOptional(v.string()),
  messageId: v.exactOptional(v.nullable(v.string())),
  queued: v.exactOptional(v.boolean()),
  error: v.exactOptional(v.nullable(v.string())),
  /** Any text: a code that this version does not know is a refusal that nobody recognises. */
  code: v.exactOptional(v.string()),
  duplicate: v.exactOptional(v.boolean()),
  history_available: v.exactOptional(v.boolean()),
  first_seen_at: v.exactOptional(v.string()),
  broker_fingerprint_prefix: v.exactOptional(v.string()),
  retry_after_ms: v.exactOptional(v.pipe(v.number(), v.minValue(0))),
});
export type AckFrame = v.InferOutput<typeof AckFrame>;

const pushEnvelope = {
  type: v.literal("push"),
  messageId: OpaqueId,
  meshId: OpaqueId,
  createdAt: v.exactOptional(v.string()),
};

/** Proof that the owner let a member in: the signed invite, and the join request signed with the invite's key. */
export const Admission = v.object({
  invite: v.string(),
  signature: Signature,
  join: v.string(),
  proof: Signature,
});
export type Admission = v.InferOutput<typeof Admission>;

export const PushFrame = v.object({
  ...pushEnvelope,
  subtype: v.exactOptional(v.literal("reminder")),
  senderPubkey: PublicKey,
  senderMemberPubkey: v.exactOptional(PublicKey),
  senderMemberId: v.exactOptional(v.string()),
  senderName: v.exactOptional(v.string()),
  topic: v.exactOptional(v.string()),
  replyToId: v.exactOptional(v.nullable(v.string())),
  /** Of no consequence to a recipient: one that we do not know is no reason not to read the message. */
  priority: v.exactOptional(v.fallback(Priority, "next"), "next"),
  nonce: v.string(),
  ciphertext: v.string(),
  client_message_id: v.exactOptional(ClientMessageId),
  request_fingerprint: v.exactOptional(v.string()),
  bodyVersion: v.exactOptional(v.number()),
  senderAttestation: v.exactOptional(Attestation),
  /** Of a sender that the recipient may not find among the members: it has left since, or has just joined. */
  senderAdmission: v.exactOptional(Admission),
});
export type PushFrame = v.InferOutput<typeof PushFrame>;

export const SystemPush = v.object({
  type: v.literal("push"),
  subtype: v.literal("system"),
  meshId: v.exactOptional(OpaqueId),
  event: v.string(),
  eventData: v.exactOptional(JsonObject),
});

/** A list without the entries that do not fit: one odd member must not hide all the others. */
const EachThatFits = <S extends v.GenericSchema>(entry: S) =>
  v.pipe(
    v.custom<v.InferInput<S>[]>(Array.isArray, "a list expected"),
    v.transform((entries) =>
      entries.flatMap((value): v.InferOutput<S>[] => {
        const parsed = v.safeParse(entry, value);
        return parsed.success ? [parsed.output] : [];
      }),
    ),
  );

export const PeerEntry = v.object({
  pubkey: PublicKey,
  memberPubkey: v.exactOptional(PublicKey),
  displayName: v.string(),
  status: v.exactOptional(v.string(), "idle"),
  summary: v.exactOptional(v.nullable(v.string())),
  /** As the peer gave them; nothing here depends on their form. */
  groups: v.exactOptional(v.unknown()),
  sessionId: v.exactOptional(v.nullable(v.string())),
  connectedAt: v.exactOptional(v.string()),
  cwd: v.exactOptional(v.nullable(v.string())),
  hostname: v.exactOptional(v.nullable(v.string())),
  peerType: v.exactOptional(v.nullable(v.string())),
  channel: v.exactOptional(v.nullable(v.string())),
  model: v.exactOptional(v.nullable(v.string())),
  visible: v.exactOptional(v.boolean()),
  profile: v.exactOptional(v.nullable(Profile)),
});
export type PeerEntry = v.InferOutput<typeof PeerEntry>;

export const PeersList = v.object({
  type: v.literal("peers_list"),
  _reqId: ReqId,
  peers: EachThatFits(PeerEntry),
});

export const MemberEntry = v.object({
  member_id: OpaqueId,
  pubkey: PublicKey,
  display_name: v.string(),
  role: Role,
  /** Of its latest connection; empty when it never connected. */
  capabilities: v.array(v.string()),
  joined_at: v.string(),
  last_seen_at: v.exactOptional(v.string()),
  online: v.boolean(),
  admission: v.exactOptional(Admission),
});
export type MemberEntry = v.InferOutput<typeof MemberEntry>;

export const MembersList = v.object({
  type: v.literal("members_list"),
  _reqId: ReqId,
  members: EachThatFits(MemberEntry),
  /** The last member on this page, when there are more. */
  next: v.exactOptional(OpaqueId),
});

export const InviteCreated = v.object({
  type: v.literal("invite_created"),
  _reqId: ReqId,
  invite_id: OpaqueId,
});
export const InviteRevoked = v.object({
  type: v.literal("invite_revoked"),
  _reqId: ReqId,
  invite_id: OpaqueId,
});
export const MemberRemoved = v.object({
  type: v.literal("member_removed"),
  _reqId: ReqId,
  pubkey: PublicKey,
  revoked_invites: v.exactOptional(Count, 0),
});

/** Everything but pushes, which share a `type` and differ by `subtype`. */
const BrokerControl = v.variant("type", [
  HelloAck,
  ErrorFrame,
  AckFrame,
  PeersList,
  MembersList,
  InviteCreated,
  InviteRevoked,
  MemberRemoved,
  // Confirmation of set_status, set_summary, set_visible, set_profile.
  v.object({ type: v.literal("ok"), _reqId: ReqId }),
]);
export type BrokerFrame =
  | v.InferOutput<typeof BrokerControl>
  | v.InferOutput<typeof SystemPush>
  | v.InferOutput<typeof PushFrame>;
export type BrokerFrameInput =
  | v.InferInput<typeof BrokerControl>
  | v.InferInput<typeof SystemPush>
  | v.InferInput<typeof PushFrame>;

/** What a push must at least have to be acknowledged and kept as a problem when the rest does not fit. */
const PushIdentity = v.looseObject(pushEnvelope);

export type ParsedBrokerFrame =
  | { kind: "frame"; frame: BrokerFrame }
  /** A push that names its message but does not fit otherwise: it is stored as a problem, so that it blocks nothing. */
  | { kind: "bad_push"; push: v.InferOutput<typeof PushIdentity>; why: string }
  /** A type that this version does not know; a newer broker may use it. */
  | { kind: "unknown"; type: string }
  | { kind: "bad"; why: string };

const controlTypes: ReadonlySet<string> = new Set(
  BrokerControl.options.map((option) => option.entries.type.literal),
);

/** A frame as the daemon received it: never throws, whatever the broker sends. */
export function parseBrokerFrame(text: string): ParsedBrokerFrame {
  let value: unknown;
  try {
    value = withoutNulls(JSON.parse(text));
  } catch {
    return { kind: "bad", why: "not JSON" };
  }
  const type = typeOf(value);
  if (typeof type !== "string") return { kind: "bad", why: "no type" };
  if (type === "push") return parsePush(value);
  if (!controlTypes.has(type)) return { kind: "unknown", type };
  const parsed = v.safeParse(BrokerControl, value);
  return parsed.success
    ? { kind: "frame", frame: parsed.output }
    : { kind: "bad", why: `${type}: ${explainIssues(parsed.issues)}` };
}

/** Older brokers write null where there is nothing: in a frame's own fields the two mean the same. */
function withoutNulls(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== null));
}

function parsePush(value: unknown): ParsedBrokerFrame {
  const parsed = v.safeParse(isSystemPush(value) ? SystemPush : PushFrame, value);
  if (parsed.success) return { kind: "frame", frame: parsed.output };
  const why = `push: ${explainIssues(parsed.issues)}`;
  const identity = v.safeParse(PushIdentity, value);
  return identity.success ? { kind: "bad_push", push: identity.output, why } : { kind: "bad", why };
}

const typeOf = (value: unknown): unknown =>
  typeof value === "object" && value !== null && "type" in value ? value.type : undefined;

const isSystemPush = (value: unknown): boolean =>
  typeof value === "object" && value !== null && "subtype" in value && value.subtype === "system";

// ── Sealed content ──────────────────────────────────────────────────────────────────────────────────────────────────

export const SealedBody = v.object({
  v: v.literal(2),
  id: ClientMessageId,
  mesh: OpaqueId,
  from: PublicKey,
  to: v.string(),
  body: v.string(),
  meta: v.exactOptional(JsonObject),
  reply_to: v.exactOptional(v.object({ id: v.string(), sender: PublicKey })),
  agent: v.exactOptional(v.string()),
  sent_at: v.string(),
  expects_reply: v.exactOptional(v.boolean()),
});
export type SealedBody = v.InferOutput<typeof SealedBody>;
