import { duration, wholeNumber } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { ownMesh, withBroker } from "~/cli/mesh/membership";
import { counted, localTime } from "~/cli/text";
import { isoTime, systemClock } from "~/clock";
import { newInvite } from "~/identity/invite";
import { registerInvite } from "~/link/admission";
import { inviteUsesMax } from "~/wire/limits";
import { encodeInviteLink, inviteExpiryMsMax } from "~/wire/membership";

export const meshInvite = defineCommand({
  name: "mesh invite",
  description: "an invite link for others to join with",
  args: {
    mesh: {
      type: "string",
      valueHint: "MESH",
      completes: "mesh",
      description: "which mesh, if this host is in several",
    },
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
    const expiresAtMs = Math.floor((systemClock.now() + expires) / 1000) * 1000;
    const invite = newInvite(mesh, role, expiresAtMs);
    await withBroker(mesh, (connection) => registerInvite(connection, invite, uses));
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

const isLoopback = (url: string): boolean => /^(127\..*|localhost|\[::1\])$/.test(new URL(url).hostname);
