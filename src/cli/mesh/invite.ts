import { randomBytes } from "node:crypto";
import { ulid } from "ulidx";
import { duration, wholeNumber } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { expectFrame, ownMesh, withBroker } from "~/cli/mesh/membership";
import { counted, localTime } from "~/cli/text";
import { isoTime, systemClock } from "~/clock";
import { MeshError } from "~/errors";
import type { MeshEntry } from "~/identity/config";
import { rootKeySha256, signInvite } from "~/identity/invite";
import { keyPairFromSeed } from "~/identity/keys";
import { inviteUsesMax } from "~/wire/limits";
import { encodeInviteLink, inviteExpiryMsMax } from "~/wire/membership";

export const meshInvite = defineCommand({
  name: "mesh invite",
  description: "an invite link for others to join with",
  args: {
    mesh: { type: "string", valueHint: "MESH", description: "which mesh, if this host is in several" },
    role: {
      type: "enum",
      options: ["member", "admin"],
      default: "member",
      description: "an admin may also remove members",
    },
    expires: {
      type: "string",
      valueHint: "D",
      default: "7d",
      description: "how long it can be used: 30m, 12h, 7d",
      parse: duration(inviteExpiryMsMax),
    },
    uses: {
      type: "string",
      valueHint: "N",
      default: "1",
      description: "how many hosts can join with it",
      parse: wholeNumber(1, inviteUsesMax),
    },
  },
  notes:
    "The link is a secret: whoever has it can join. Only the mesh's owner can invite, since its key signs the link. mesh remove revokes every open invite.",
  exits: [3, 4, 5, 7],
  examples: ["claudemesh mesh invite", "claudemesh mesh invite --uses 5 --expires 12h --json"],
  async run({ mesh: wanted, role, expires, uses }, host) {
    const { out } = host;
    const mesh = ownMesh(host, wanted);
    const rootKey = ownerRootKey(mesh);
    const expiresAtMs = Math.floor((systemClock.now() + expires) / 1000) * 1000;
    const seed = randomBytes(32).toString("hex");
    const invite = signInvite(
      {
        mesh_id: mesh.meshId,
        mesh_slug: mesh.slug,
        broker_url: mesh.brokerUrl,
        expires_at: expiresAtMs / 1000,
        mesh_root_key: rootKey,
        role,
        owner_pubkey: mesh.pubkey,
        invite_id: ulid(),
        invite_secret: seed,
      },
      mesh.secretKey,
    );
    await withBroker(mesh, async (connection) =>
      expectFrame(
        await connection.request({
          type: "create_invite",
          invite_id: invite.invite_id,
          invite_public_key: keyPairFromSeed(seed).publicKey,
          role,
          expires_at: invite.expires_at,
          max_uses: uses,
          mesh_slug: mesh.slug,
          broker_url: mesh.brokerUrl,
          root_key_sha256: rootKeySha256(rootKey),
          signature: invite.signature,
        }),
        "invite_created",
      ),
    );
    const expires_at = isoTime(expiresAtMs);
    const link = encodeInviteLink(invite);
    await out.answer({ link, expires_at }, () => link);
    await out.note(
      `This link is a secret: whoever has it can join ${mesh.slug} as ${role}. It works ${counted(uses, "time")}, until ${localTime(expires_at)}.`,
    );
    if (isLoopback(mesh.brokerUrl)) {
      await out.note(`It leads to ${mesh.brokerUrl}, which only this host can reach.`);
    }
  },
});

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

const isLoopback = (url: string): boolean => /^(127\..*|localhost|\[::1\])$/.test(new URL(url).hostname);
