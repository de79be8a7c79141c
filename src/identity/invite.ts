/** Invites: made and signed by the mesh's owner, read and checked by whoever joins. The link is a secret. */
import { createHash, randomBytes } from "node:crypto";
import { ulid } from "ulidx";
import * as v from "valibot";
import { MeshError } from "~/errors";
import type { MeshEntry } from "~/identity/config";
import { keyPairFromSeed, signText, verifyText } from "~/identity/keys";
import { type Invite, Invite as InviteSchema, type InviteV3, inviteLinkPrefix } from "~/wire/membership";
import { inviteTextV1, inviteTextV3, joinText } from "~/wire/signed";
import { explainIssues, type InviteRole } from "~/wire/text";

export const rootKeySha256 = (rootKeyBase64Url: string): string =>
  createHash("sha256").update(Buffer.from(rootKeyBase64Url, "base64url")).digest("hex");

export type InviteDraft = Omit<InviteV3, "v" | "signature">;

/** The text that the owner signs, with the invite's public half in place of its secret. */
export function signedInviteText(invite: InviteDraft): string {
  return inviteTextV3({
    ...invite,
    root_key_sha256: rootKeySha256(invite.mesh_root_key),
    invite_public_key: keyPairFromSeed(invite.invite_secret).publicKey,
  });
}

export const signInvite = (draft: InviteDraft, ownerSecretKey: string): InviteV3 => ({
  ...draft,
  v: 3,
  signature: signText(signedInviteText(draft), ownerSecretKey),
});

/** A new invite to a mesh that this host owns, which the broker is still to hear of. Throws `not_allowed`. */
export const newInvite = (mesh: MeshEntry, role: InviteRole, expiresAtMs: number): InviteV3 =>
  signInvite(
    {
      mesh_id: mesh.meshId,
      mesh_slug: mesh.slug,
      broker_url: mesh.brokerUrl,
      expires_at: Math.floor(expiresAtMs / 1000),
      mesh_root_key: ownerRootKey(mesh),
      role,
      owner_pubkey: mesh.pubkey,
      invite_id: ulid(),
      invite_secret: randomBytes(32).toString("hex"),
    },
    mesh.secretKey,
  );

function ownerRootKey(mesh: MeshEntry): string {
  if (mesh.ownerPubkey !== mesh.pubkey || mesh.rootKey === undefined) {
    throw new MeshError("not_allowed", `only the owner of ${mesh.slug} can invite: its key signs the link`, {
      hint: "Ask whoever created the mesh for a link.",
    });
  }
  if (mesh.inviteVersion !== 3) {
    throw new MeshError(
      "not_allowed",
      `${mesh.slug} is a mesh of a version-1 broker; this version makes no invites for those`,
    );
  }
  return mesh.rootKey;
}

/**
 * Reads a link and checks the owner's signature and the expiry. Throws `invite_invalid` or `invite_expired`.
 * `nowMs` is this host's clock.
 */
export function parseInviteLink(link: string, nowMs: number): Invite {
  const invalid = (why: string) =>
    new MeshError("invite_invalid", `this invite link ${why}`, {
      hint: "Ask for a fresh one: claudemesh mesh invite",
    });
  const trimmed = link.trim();
  if (!trimmed.startsWith(inviteLinkPrefix)) throw invalid(`does not start with ${inviteLinkPrefix}`);
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(trimmed.slice(inviteLinkPrefix.length), "base64url").toString("utf8"));
  } catch {
    throw invalid("is damaged: part of it is missing or changed");
  }
  const parsed = v.safeParse(InviteSchema, value);
  if (!parsed.success) throw invalid(`is damaged (${explainIssues(parsed.issues)})`);
  const invite = parsed.output;
  const text = invite.v === 3 ? signedInviteText(invite) : inviteTextV1(invite);
  if (!verifyText(text, invite.signature, invite.owner_pubkey))
    throw invalid("was tampered with: its signature does not verify");
  if (nowMs > invite.expires_at * 1000) {
    throw new MeshError(
      "invite_expired",
      `this invite expired on ${new Date(invite.expires_at * 1000).toISOString()}`,
      {
        hint: "Ask for a fresh one: claudemesh mesh invite. If it should still be valid, check this host's clock.",
      },
    );
  }
  return invite;
}

/** What a host that joins with a version-3 invite posts to the broker. `timestamp` in milliseconds. */
export const joinProof = (invite: InviteV3, peerPubkey: string, timestamp: number): string =>
  signText(joinText(invite.mesh_id, invite.invite_id, peerPubkey, timestamp), invite.invite_secret);
