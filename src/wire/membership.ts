/**
 * How a host becomes a member: the broker's HTTP routes, and invites with their links. What members then say to each other
 * is in broker.ts.
 */
import * as v from "valibot";
import { inviteDaysMax } from "~/wire/limits";
import {
  BrokerUrl,
  DisplayName,
  InviteRole,
  JsonObject,
  OpaqueId,
  PublicKey,
  Signature,
  Slug,
  TimeMs,
} from "~/wire/text";

// ── HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────────

export const CreateMeshRequest = v.strictObject({
  slug: Slug,
  name: DisplayName,
  owner_pubkey: PublicKey,
  display_name: DisplayName,
});
export const CreateMeshReply = v.object({ mesh_id: OpaqueId, member_id: OpaqueId });

export const JoinRequestV3 = v.strictObject({
  v: v.literal(3),
  invite_id: OpaqueId,
  peer_pubkey: PublicKey,
  display_name: DisplayName,
  timestamp: TimeMs,
  proof: Signature,
});
/** What a host with a version-1 invite posts to a version-1 broker. */
export const JoinRequestV1 = v.strictObject({
  invite_token: v.string(),
  invite_payload: JsonObject,
  peer_pubkey: PublicKey,
  display_name: DisplayName,
});
export const JoinReply = v.object({
  ok: v.literal(true),
  memberId: OpaqueId,
  alreadyMember: v.exactOptional(v.boolean()),
});

/** The broker's HTTP errors have the same shape as the daemon's. */
export const HttpError = v.object({
  error: v.string(),
  message: v.exactOptional(v.string()),
  hint: v.exactOptional(v.string()),
});

export const BrokerHealth = v.object({
  ok: v.boolean(),
  version: v.string(),
  uptime_s: v.number(),
  /** Names this run of the broker, as its record does. */
  run_id: v.exactOptional(v.string()),
  connections: v.number(),
  /** How many it has. */
  meshes: v.exactOptional(v.number()),
  /** What somebody should look at; a broker that has some serves all the same. */
  problems: v.exactOptional(v.array(v.object({ code: v.string(), message: v.string() })), []),
});
export type BrokerHealth = v.InferOutput<typeof BrokerHealth>;

/** `broker.json` in the data directory: which process serves it, and where. */
export const BrokerRecord = v.object({
  pid: v.pipe(v.number(), v.integer(), v.minValue(1)),
  url: BrokerUrl,
  started_at: v.string(),
  run_id: v.string(),
});
export type BrokerRecord = v.InferOutput<typeof BrokerRecord>;

/** Where the broker's HTTP routes are: on the origin of its WebSocket URL. */
export function httpUrlOf(brokerUrl: string, path: string): string {
  const url = new URL(path, brokerUrl.replace(/^ws/, "http"));
  return url.href;
}

// ── Invite links ────────────────────────────────────────────────────────────────────────────────────────────────────

const inviteFields = {
  mesh_id: OpaqueId,
  mesh_slug: OpaqueId,
  broker_url: BrokerUrl,
  /** Seconds since 1970. */
  expires_at: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
  mesh_root_key: v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{43}$/, "32 bytes of base64url expected")),
  role: InviteRole,
  owner_pubkey: PublicKey,
  signature: Signature,
};

export const InviteV1 = v.object({ v: v.literal(1), ...inviteFields });
export const InviteV3 = v.object({
  v: v.literal(3),
  ...inviteFields,
  invite_id: OpaqueId,
  /** The seed of the invite's own key pair: whoever has it may join. */
  invite_secret: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
});
export const Invite = v.variant("v", [InviteV1, InviteV3]);
export type Invite = v.InferOutput<typeof Invite>;
export type InviteV3 = v.InferOutput<typeof InviteV3>;

export const inviteLinkPrefix = "ic://join/";
export const inviteExpiryMsMax = inviteDaysMax * 24 * 3600 * 1000;

export const encodeInviteLink = (invite: Invite): string =>
  inviteLinkPrefix + Buffer.from(JSON.stringify(invite), "utf8").toString("base64url");
