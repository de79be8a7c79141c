/**
 * Who is who in a mesh, without believing the broker: a member counts when the mesh's owner let it in, which its
 * admission proves, and a name stands for the key it was first seen with. Resolving an address is pure; where the
 * members and the first-seen keys are kept is the caller's business.
 */
import { MeshError } from "~/errors";
import { isClaudemeshMesh, type MeshEntry } from "~/identity/config";
import { verifyText } from "~/identity/keys";
import { type Admission, capability } from "~/wire/broker";
import { inviteTextV3, joinText, parseInviteTextV3, parseJoinText } from "~/wire/signed";

export interface MeshTrust {
  meshId: string;
  /** Undefined for a mesh of a version-1 broker, whose members prove nothing: keys are then only pinned. */
  ownerPubkey: string | undefined;
  ownPubkey: string;
  /** Keys that the user trusts by hand. */
  trustedKeys: ReadonlySet<string>;
}

/** What one membership says of whom to believe. */
export const trustOf = (mesh: MeshEntry): MeshTrust => ({
  meshId: mesh.meshId,
  ownerPubkey: isClaudemeshMesh(mesh) ? mesh.ownerPubkey : undefined,
  ownPubkey: mesh.pubkey,
  trustedKeys: new Set(mesh.trustedKeys ?? []),
});

export type Standing = "verified" | "trusted_by_hand" | "unproven" | "refused";

/** Whether a member may be believed to be one. `unproven`: the mesh offers no proofs. */
export function standingOf(
  member: { pubkey: string; admission?: Admission | undefined },
  trust: MeshTrust,
): Standing {
  if (member.pubkey === trust.ownPubkey || member.pubkey === trust.ownerPubkey) return "verified";
  if (trust.trustedKeys.has(member.pubkey)) return "trusted_by_hand";
  if (trust.ownerPubkey === undefined) return "unproven";
  return isAdmitted(member.pubkey, member.admission, trust.meshId, trust.ownerPubkey)
    ? "verified"
    : "refused";
}

/** Checks the owner's signature on the invite, and the invite key's on the request to join with it. */
export function isAdmitted(
  pubkey: string,
  admission: Admission | undefined,
  meshId: string,
  ownerPubkey: string,
): boolean {
  if (admission === undefined) return false;
  const invite = parseInviteTextV3(admission.invite);
  const join = parseJoinText(admission.join);
  if (invite === undefined || join === undefined) return false;
  return (
    invite.mesh_id === meshId &&
    invite.owner_pubkey === ownerPubkey &&
    join.mesh_id === meshId &&
    join.invite_id === invite.invite_id &&
    join.peer_pubkey === pubkey &&
    join.timestamp <= invite.expires_at * 1000 &&
    verifyText(inviteTextV3(invite), admission.signature, ownerPubkey) &&
    verifyText(
      joinText(join.mesh_id, join.invite_id, join.peer_pubkey, join.timestamp),
      admission.proof,
      invite.invite_public_key,
    )
  );
}

/**
 * Whether a member understands body version 2. One that never connected has told nobody what it can do; where members
 * prove their admission it has claudemesh's kind of invite, and with it claudemesh.
 */
export const speaksBody2 = (capabilities: readonly string[], standing: Standing): boolean =>
  capabilities.includes(capability.body2) || (capabilities.length === 0 && standing !== "unproven");

export interface Addressee {
  pubkey: string;
  name: string;
  /** The newest key that this name was pinned to, when it is another one. */
  nameChangedFrom?: string | undefined;
  standing: Standing;
}

export type Resolution<A extends Addressee> =
  | { kind: "found"; member: A }
  | { kind: "unknown"; similar: string[] }
  | { kind: "ambiguous"; candidates: A[] }
  | { kind: "untrusted"; member: A; why: "admission" | "name_changed" };

export const keyPrefixCharsMin = 8;

/** `text` is a whole key, a unique prefix of one (8 hex digits or more), or a name in any case; a name wins over a prefix. */
export function resolveMember<A extends Addressee>(text: string, members: readonly A[]): Resolution<A> {
  const wanted = text.toLowerCase();
  const byKey = members.filter((member) => member.pubkey === wanted);
  // A key names its owner beyond doubt: only its admission counts, not what the broker calls it.
  if (byKey.length > 0)
    return settle(byKey, (member) => (member.standing === "refused" ? "admission" : undefined));
  const byName = members.filter((member) => member.name.toLowerCase() === wanted);
  const isPrefix = wanted.length >= keyPrefixCharsMin && /^[0-9a-f]+$/.test(wanted);
  const matches =
    byName.length > 0 || !isPrefix ? byName : members.filter((member) => member.pubkey.startsWith(wanted));
  if (matches.length === 0) {
    const similar = members
      .filter((member) => isSimilar(member.name.toLowerCase(), wanted))
      .map((member) => member.name);
    return { kind: "unknown", similar };
  }
  return settle(matches, (member) => {
    if (member.standing === "refused") return "admission";
    if (byName.length > 0 && member.nameChangedFrom !== undefined && member.standing !== "trusted_by_hand")
      return "name_changed";
    return undefined;
  });
}

function settle<A extends Addressee>(
  matches: A[],
  doubt: (member: A) => "admission" | "name_changed" | undefined,
): Resolution<A> {
  const [only] = matches;
  if (only === undefined || matches.length > 1) return { kind: "ambiguous", candidates: matches };
  const why = doubt(only);
  return why === undefined ? { kind: "found", member: only } : { kind: "untrusted", member: only, why };
}

/** The one member that an address means. Throws `unknown_peer`, `ambiguous_peer` or `peer_untrusted`. */
export function memberFound<A extends Addressee>(resolution: Resolution<A>, to: string, slug: string): A {
  switch (resolution.kind) {
    case "found":
      return resolution.member;
    case "unknown":
      throw new MeshError("unknown_peer", `nobody in ${slug} is called ${to}`, {
        hint:
          resolution.similar.length > 0
            ? `Did you mean ${resolution.similar.join(" or ")}?`
            : "claudemesh peers --all lists the members.",
        details: { candidates: resolution.similar },
      });
    case "ambiguous": {
      const candidates = resolution.candidates.map(({ name, pubkey }) => ({ name, pubkey }));
      throw new MeshError("ambiguous_peer", `${to} could be ${candidates.length} members of ${slug}`, {
        hint: `Use a key: ${candidates.map(({ name, pubkey }) => `${pubkey.slice(0, 16)} (${name})`).join(", ")}`,
        details: { candidates },
      });
    }
    case "untrusted":
      throw untrusted(resolution, to, slug);
  }
}

function untrusted<A extends Addressee>(
  { member, why }: Extract<Resolution<A>, { kind: "untrusted" }>,
  to: string,
  slug: string,
): MeshError {
  const reason =
    why === "admission"
      ? `nothing proves that the owner of ${slug} let this member in`
      : `the name had another key when it was first seen (${member.nameChangedFrom?.slice(0, 16)}…)`;
  return new MeshError("peer_untrusted", `${to} (${member.pubkey.slice(0, 16)}…) is not trusted: ${reason}`, {
    hint: `Ask its owner for the key by another way. If it is right: claudemesh mesh trust ${member.pubkey} --mesh ${slug}`,
    details: { pubkey: member.pubkey, reason: why },
  });
}

const isSimilar = (name: string, wanted: string): boolean =>
  name.startsWith(wanted) || wanted.startsWith(name) || (wanted.length > 3 && name.includes(wanted));

/** A message needs more than its recipient understands. */
export const peerTooOld = (name: string): MeshError =>
  new MeshError("peer_too_old", `${name} runs a version that understands only plain text messages`, {
    hint: "Send it without meta, or ask its owner to upgrade claudemesh.",
  });
