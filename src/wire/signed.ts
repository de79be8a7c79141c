/**
 * Every text that somebody signs, byte for byte. Fields contain no `|` (the schemas in text.ts refuse it), so no two
 * different things share a text.
 */

export interface HelloText {
  meshId: string;
  memberId: string;
  pubkey: string;
  timestamp: number;
}

export const helloText = (hello: HelloText): string =>
  [hello.meshId, hello.memberId, hello.pubkey, hello.timestamp].join("|");

export const sessionAttestationText = (
  parentPubkey: string,
  sessionPubkey: string,
  expiresAt: number,
): string => ["claudemesh-session-attest", parentPubkey, sessionPubkey, expiresAt].join("|");

export const sessionHelloText = (
  meshId: string,
  parentPubkey: string,
  sessionPubkey: string,
  timestamp: number,
): string => ["claudemesh-session-hello", meshId, parentPubkey, sessionPubkey, timestamp].join("|");

export interface InviteTextV1 {
  mesh_id: string;
  mesh_slug: string;
  broker_url: string;
  /** Seconds since 1970. */
  expires_at: number;
  mesh_root_key: string;
  role: string;
  owner_pubkey: string;
}

export const inviteTextV1 = (invite: InviteTextV1): string =>
  [
    1,
    invite.mesh_id,
    invite.mesh_slug,
    invite.broker_url,
    invite.expires_at,
    invite.mesh_root_key,
    invite.role,
    invite.owner_pubkey,
  ].join("|");

export interface InviteTextV3 {
  mesh_id: string;
  mesh_slug: string;
  broker_url: string;
  /** Seconds since 1970. */
  expires_at: number;
  root_key_sha256: string;
  role: string;
  owner_pubkey: string;
  invite_id: string;
  invite_public_key: string;
}

export const inviteTextV3 = (invite: InviteTextV3): string =>
  [
    3,
    invite.mesh_id,
    invite.mesh_slug,
    invite.broker_url,
    invite.expires_at,
    invite.root_key_sha256,
    invite.role,
    invite.owner_pubkey,
    invite.invite_id,
    invite.invite_public_key,
  ].join("|");

/** The parts of a version-3 invite text, or undefined when it is not one. */
export function parseInviteTextV3(text: string): InviteTextV3 | undefined {
  const parts = text.split("|");
  if (parts.length !== 10 || parts[0] !== "3") return undefined;
  const [
    ,
    mesh_id,
    mesh_slug,
    broker_url,
    expires,
    root_key_sha256,
    role,
    owner_pubkey,
    invite_id,
    invite_public_key,
  ] = parts as [string, string, string, string, string, string, string, string, string, string];
  if (!/^\d{1,15}$/.test(expires)) return undefined;
  const invite = {
    mesh_id,
    mesh_slug,
    broker_url,
    expires_at: Number(expires),
    root_key_sha256,
    role,
    owner_pubkey,
    invite_id,
    invite_public_key,
  };
  return inviteTextV3(invite) === text ? invite : undefined;
}

/** `timestamp` in milliseconds. */
export const joinText = (meshId: string, inviteId: string, peerPubkey: string, timestamp: number): string =>
  ["claudemesh-join", meshId, inviteId, peerPubkey, timestamp].join("|");

export interface JoinText {
  mesh_id: string;
  invite_id: string;
  peer_pubkey: string;
  timestamp: number;
}

export function parseJoinText(text: string): JoinText | undefined {
  const match = /^claudemesh-join\|([^|]+)\|([^|]+)\|([0-9a-f]{64})\|(\d{1,15})$/.exec(text);
  if (match === null) return undefined;
  const [, mesh_id = "", invite_id = "", peer_pubkey = "", timestamp = ""] = match;
  const join = { mesh_id, invite_id, peer_pubkey, timestamp: Number(timestamp) };
  return joinText(mesh_id, invite_id, peer_pubkey, join.timestamp) === text ? join : undefined;
}
