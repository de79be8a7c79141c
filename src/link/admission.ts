/** Letting a host into a mesh: the owner registers an invite, and whoever has its link joins with it. */
import { isoTime } from "~/clock";
import type { MeshEntry } from "~/identity/config";
import { joinProof, rootKeySha256 } from "~/identity/invite";
import { keyPairFromSeed } from "~/identity/keys";
import { expectFrame } from "~/link/failure";
import { joinMesh } from "~/link/http";
import type { BrokerConnection } from "~/link/once";
import { type Invite, type InviteV3, inviteLinkPrefix } from "~/wire/membership";

/** Tells the broker of an invite that the owner signed; the identical one may be told again. */
export async function registerInvite(
  connection: BrokerConnection,
  invite: InviteV3,
  maxUses: number,
): Promise<void> {
  const answer = await connection.request({
    type: "create_invite",
    invite_id: invite.invite_id,
    invite_public_key: keyPairFromSeed(invite.invite_secret).publicKey,
    role: invite.role,
    expires_at: invite.expires_at,
    max_uses: maxUses,
    mesh_slug: invite.mesh_slug,
    broker_url: invite.broker_url,
    root_key_sha256: rootKeySha256(invite.mesh_root_key),
    signature: invite.signature,
  });
  expectFrame(answer, "invite_created");
}

/** The link without its prefix, which a version-1 broker is shown. */
const tokenOf = (link: string): string => link.trim().slice(inviteLinkPrefix.length);

/** What tells one invite from another. */
export const inviteName = (invite: Invite, link: string): string =>
  invite.v === 3 ? invite.invite_id : tokenOf(link);

/** Joins with these keys and returns the membership. Asking again with the same invite and keys is the same member. */
export async function joinWith(
  invite: Invite,
  link: string,
  { pubkey, secretKey }: { pubkey: string; secretKey: string },
  ownName: string,
  nowMs: number,
): Promise<MeshEntry> {
  const { memberId } = await joinMesh(
    invite.broker_url,
    invite.v === 3
      ? {
          v: 3,
          invite_id: invite.invite_id,
          peer_pubkey: pubkey,
          display_name: ownName,
          timestamp: nowMs,
          proof: joinProof(invite, pubkey, nowMs),
        }
      : {
          invite_token: tokenOf(link),
          invite_payload: { ...invite },
          peer_pubkey: pubkey,
          display_name: ownName,
        },
  );
  return {
    meshId: invite.mesh_id,
    memberId,
    slug: invite.mesh_slug,
    name: invite.mesh_slug,
    pubkey,
    secretKey,
    brokerUrl: invite.broker_url,
    joinedAt: isoTime(nowMs),
    rootKey: invite.mesh_root_key,
    inviteVersion: invite.v,
    ownerPubkey: invite.owner_pubkey,
  };
}
