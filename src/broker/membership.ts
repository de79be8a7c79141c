/**
 * Who belongs to a mesh: making one, inviting, joining, removing. The broker keeps what the owner signed and the joiner proved, so
 * that every member can check every other without believing the broker. A refusal is a value, as an error that names its reason.
 * Everything here writes to the store and must be called inside a transaction.
 */
import type { InferOutput } from "valibot";
import type { Bounds } from "~/broker/bounds";
import type { Identity } from "~/broker/connections";
import { skewText } from "~/broker/hello";
import type { Instant } from "~/broker/instant";
import type { Invite, Member, MeshRow } from "~/broker/rows";
import type { Store } from "~/broker/sqlite";
import { isoTime } from "~/clock";
import { MeshError } from "~/errors";
import { verifyText } from "~/identity/keys";
import type { CreateInvite } from "~/wire/broker";
import { helloSkewMsMax } from "~/wire/limits";
import type { CreateMeshRequest, JoinRequestV3 } from "~/wire/membership";
import { inviteTextV3, joinText } from "~/wire/signed";

export type NewId = (wallMs: number) => string;

const dayMs = 24 * 3600 * 1000;

// ── Meshes ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Idempotent on (slug, owner's key): a caller that never saw the first answer gets it again. */
export function createMesh(
  request: InferOutput<typeof CreateMeshRequest>,
  store: Store,
  bounds: Bounds,
  newId: NewId,
  at: Instant,
): { meshId: string; memberId: string } | MeshError {
  const present = store.meshBySlug(request.slug);
  if (present !== undefined) {
    const owner = store.memberByKey(present.mesh, request.owner_pubkey);
    if (owner?.role === "owner") return { meshId: present.mesh_id, memberId: owner.member_id };
    return new MeshError("mesh_exists", `this broker already has a mesh named ${request.slug}`, {
      hint: "Choose another name.",
    });
  }
  if (store.countMeshes() >= bounds.meshesPerBrokerMax)
    return new MeshError(
      "limit_reached",
      `this broker has ${bounds.meshesPerBrokerMax} meshes, the most it takes`,
    );
  const meshId = newId(at.wallMs);
  const memberId = newId(at.wallMs);
  const mesh = store.addMesh({
    mesh_id: meshId,
    slug: request.slug,
    name: request.name,
    owner_pubkey: request.owner_pubkey,
    at: at.wallMs,
  });
  store.addMember({
    member_id: memberId,
    mesh,
    pubkey: request.owner_pubkey,
    display_name: request.display_name,
    role: "owner",
    at: at.wallMs,
  });
  return { meshId, memberId };
}

// ── Invites ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Registers an invite that the owner signed. Idempotent for the identical invite. */
export function createInvite(
  frame: CreateInvite,
  sender: Identity,
  store: Store,
  bounds: Bounds,
  at: Instant,
): MeshError | undefined {
  const ownersOnly = new MeshError("not_allowed", "only the owner's signature makes an invite");
  if (store.currentRole(sender.member) !== "owner") return ownersOnly;
  const text = inviteTextV3({ ...frame, mesh_id: sender.meshId, owner_pubkey: sender.pubkey });
  if (!verifyText(text, frame.signature, sender.pubkey)) return ownersOnly;

  const present = store.inviteById(frame.invite_id);
  if (present !== undefined) {
    const same = present.mesh === sender.mesh && present.text === text && present.max_uses === frame.max_uses;
    if (!same) return new MeshError("id_in_use", "another invite has this id");
    return present.revoked_at === null ? undefined : revokedError(present.revoked_at);
  }
  if (at.wallMs > frame.expires_at * 1000) {
    return new MeshError("invite_expired", "the invite would have expired before it was made", {
      hint: `Check this host's clock; the broker's says ${isoTime(at.wallMs)}.`,
    });
  }
  if (frame.expires_at * 1000 > at.wallMs + bounds.inviteDaysMax * dayMs + helloSkewMsMax)
    return new MeshError("limit_reached", `an invite lasts at most ${bounds.inviteDaysMax} days`);
  if (store.countOpenInvites(sender.mesh, Math.floor(at.wallMs / 1000)) >= bounds.openInvitesPerMeshMax) {
    return new MeshError(
      "limit_reached",
      `this mesh has ${bounds.openInvitesPerMeshMax} open invites, the most it takes`,
      {
        hint: "Revoke some, or wait until they expire.",
      },
    );
  }
  store.addInvite({
    invite_id: frame.invite_id,
    mesh: sender.mesh,
    public_key: frame.invite_public_key,
    role: frame.role,
    expires_at: frame.expires_at,
    max_uses: frame.max_uses,
    text,
    signature: frame.signature,
    at: at.wallMs,
  });
  return undefined;
}

/** Idempotent: an invite that was revoked stays so. */
export function revokeInvite(
  inviteId: string,
  sender: Identity,
  store: Store,
  at: Instant,
): MeshError | undefined {
  const role = store.currentRole(sender.member);
  if (role !== "owner" && role !== "admin")
    return new MeshError("not_allowed", "only the owner and admins revoke invites");
  const invite = store.inviteById(inviteId);
  if (invite === undefined || invite.mesh !== sender.mesh)
    return new MeshError("invite_invalid", "this mesh has no invite with this id");
  store.revokeInvite(invite.invite, at.wallMs);
  return undefined;
}

// ── Joining ─────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface Joined {
  memberId: string;
  mesh: MeshRow;
  meshId: string;
  pubkey: string;
  displayName: string;
  alreadyMember: boolean;
}

/** Idempotent on (invite, key): a host that crashed before it saw the answer gets it, whatever became of the invite since. */
export function joinMesh(
  request: InferOutput<typeof JoinRequestV3>,
  store: Store,
  bounds: Bounds,
  newId: NewId,
  at: Instant,
): Joined | MeshError {
  const invite = store.inviteById(request.invite_id);
  if (invite === undefined) return invalidInvite("this broker does not know this invite");
  const mesh = store.meshByRow(invite.mesh);
  const text = joinText(mesh.mesh_id, invite.invite_id, request.peer_pubkey, request.timestamp);
  const isProven = verifyText(text, request.proof, invite.public_key);
  const present = store.memberByKey(mesh.mesh, request.peer_pubkey);
  const asMember = (member: Member): Joined | MeshError => {
    if (member.removed_at !== null) {
      return new MeshError("not_allowed", "the member with this key was removed from the mesh", {
        hint: "A removed key cannot come back: join with a new one.",
      });
    }
    return {
      memberId: member.member_id,
      mesh: mesh.mesh,
      meshId: mesh.mesh_id,
      pubkey: member.pubkey,
      displayName: member.display_name,
      alreadyMember: true,
    };
  };

  if (present !== undefined && present.invite === invite.invite && isProven) return asMember(present);
  const closed = whyClosed(invite, request.timestamp, at);
  if (closed !== undefined) return closed;
  if (Math.abs(at.wallMs - request.timestamp) > helloSkewMsMax)
    return new MeshError("clock_skew", skewText(request.timestamp, at.wallMs));
  if (!isProven) return invalidInvite("the proof was not made with this invite's key");
  if (present !== undefined) return asMember(present);
  if (store.countMembers(mesh.mesh) >= bounds.membersPerMeshMax)
    return new MeshError(
      "limit_reached",
      `this mesh has ${bounds.membersPerMeshMax} members, the most it takes`,
    );

  const memberId = newId(at.wallMs);
  store.useInvite(invite.invite);
  store.addMember({
    member_id: memberId,
    mesh: mesh.mesh,
    pubkey: request.peer_pubkey,
    display_name: request.display_name,
    role: invite.role,
    at: at.wallMs,
    admission: { invite: invite.invite, join: text, proof: request.proof },
  });
  return {
    memberId,
    mesh: mesh.mesh,
    meshId: mesh.mesh_id,
    pubkey: request.peer_pubkey,
    displayName: request.display_name,
    alreadyMember: false,
  };
}

/** Members check that the join was signed before the invite ran out, so the joiner's own time counts as well as ours. */
function whyClosed(invite: Invite, joinedAtMs: number, at: Instant): MeshError | undefined {
  if (invite.revoked_at !== null) return revokedError(invite.revoked_at);
  const expiresMs = invite.expires_at * 1000;
  if (at.wallMs > expiresMs || joinedAtMs > expiresMs) {
    return new MeshError("invite_expired", `this invite expired on ${isoTime(expiresMs)}`, {
      hint: freshInviteHint,
    });
  }
  if (invite.uses < invite.max_uses) return undefined;
  return new MeshError("invite_used_up", `this invite was used ${invite.uses} times, the most it allows`, {
    hint: freshInviteHint,
  });
}

const freshInviteHint = "Ask for a fresh one: claudemesh mesh invite";

const invalidInvite = (why: string) => new MeshError("invite_invalid", why, { hint: freshInviteHint });

const revokedError = (revokedAtMs: number) =>
  new MeshError("invite_revoked", `this invite was revoked on ${isoTime(revokedAtMs)}`, {
    hint: freshInviteHint,
  });

// ── Removing ────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface Removal {
  /** As it was before. */
  member: Member;
  meshId: string;
  revokedInvites: number;
}

/**
 * Removes a member, and what waits for it. With a removal by somebody else every open invite is revoked, so that the removed
 * person has no way back in; asking again for a member that is gone already does so again. Who leaves revokes nothing.
 */
export function removeMember(
  pubkey: string,
  sender: Identity,
  store: Store,
  at: Instant,
): Removal | MeshError {
  const role = store.currentRole(sender.member);
  if (role === undefined) return new MeshError("not_allowed", "you are not a member any more");
  const member = store.memberByKey(sender.mesh, pubkey);
  const isLeaving = pubkey === sender.pubkey;
  if (role === "member" && !isLeaving)
    return new MeshError("not_allowed", "only the owner and admins remove other members");
  if (member === undefined) return new MeshError("no_such_member", "no member of this mesh has this key");
  if (member.role === "owner")
    return new MeshError("not_allowed", "the owner of a mesh cannot be removed and cannot leave it");
  if (member.role === "admin" && role !== "owner" && !isLeaving)
    return new MeshError("not_allowed", "only the owner removes an admin");
  if (member.removed_at === null) store.removeMember(member.member, at.wallMs);
  const revokedInvites = isLeaving ? 0 : store.revokeOpenInvites(sender.mesh, at.wallMs);
  return { member, meshId: sender.meshId, revokedInvites };
}
