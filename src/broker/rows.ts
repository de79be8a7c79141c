/**
 * What the store takes and gives, in the spelling of its columns. Ids on the wire are text (`mesh_id`, `member_id`, `message_id`);
 * inside, a row number stands for them, which names one thing for good: meshes, members and invites are never deleted, and the
 * number of a message that was is never given again.
 */
import type { Admission, MemberEntry } from "~/wire/broker";
import type { InviteRole, Priority } from "~/wire/text";

export type MeshRow = number;
export type MemberRow = number;
export type Role = MemberEntry["role"];

export interface Mesh {
  mesh: MeshRow;
  mesh_id: string;
  slug: string;
  owner_pubkey: string;
}

export interface Member {
  member: MemberRow;
  member_id: string;
  mesh: MeshRow;
  pubkey: string;
  display_name: string;
  role: Role;
  /** A removed key stays on record: it cannot come back. */
  removed_at: number | null;
  /** The invite it joined with; the owner has none. */
  invite: number | null;
}

export interface Invite {
  invite: number;
  invite_id: string;
  mesh: MeshRow;
  public_key: string;
  role: InviteRole;
  /** Seconds since 1970, as it was signed. */
  expires_at: number;
  max_uses: number;
  uses: number;
  text: string;
  signature: string;
  revoked_at: number | null;
}

/** A message of this sender and id that was accepted before. */
export interface Accepted {
  message_id: string;
  request_fingerprint: string | null;
  first_seen_at: number;
  /** 0 once its nonce and ciphertext were pruned. */
  has_contents: 0 | 1;
}

export interface NewMessage {
  message_id: string;
  mesh: MeshRow;
  sender: MemberRow;
  recipient: MemberRow;
  client_message_id: string;
  request_fingerprint: string | null;
  target_spec: string;
  priority: Priority;
  nonce: Uint8Array;
  ciphertext: Uint8Array;
  reply_to_id: string | null;
  body_version: number | null;
  created_at: number;
}

/** A message on its way to one recipient, with what the recipient is told of its sender. */
export interface Delivery {
  seq: number;
  message_id: string;
  sender_pubkey: string;
  sender_id: string;
  sender_name: string;
  client_message_id: string;
  request_fingerprint: string | null;
  priority: Priority;
  nonce: Uint8Array;
  ciphertext: Uint8Array;
  reply_to_id: string | null;
  body_version: number | null;
  created_at: number;
  /** Of a sender that has left, or that had just joined when it sent this. */
  admission: Admission | undefined;
}

export interface ListedMember {
  member: MemberRow;
  member_id: string;
  pubkey: string;
  display_name: string;
  role: Role;
  capabilities: string[];
  joined_at: number;
  last_seen_at: number | undefined;
  admission: Admission | undefined;
}

// ── Upkeep ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A message's place among those that are looked at by age. */
export interface OldMessage {
  created_at: number;
  seq: number;
}

export interface Pruned {
  count: number;
  /** Where the next page begins; undefined when this was the last one. */
  next: OldMessage | undefined;
}

export interface DedupeKey {
  sender: MemberRow;
  client_message_id: string;
}

export interface DeliveryKey {
  seq: number;
  recipient: MemberRow;
}

export interface Checked {
  /** 0 when what belongs to the row is not there. */
  sound: 0 | 1;
}
