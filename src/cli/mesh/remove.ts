import { usageError } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { foundMember, listMembers, ownMesh, withBroker } from "~/cli/mesh/membership";
import { counted, printableLine, shortKey } from "~/cli/text";
import { expectFrame } from "~/link/failure";

export const meshRemove = defineCommand({
  name: "mesh remove",
  description: "remove a member and revoke all open invites",
  args: {
    member: {
      type: "positional",
      required: true,
      completes: "member",
      description: "its name, its key, or the first 8 or more digits",
    },
    mesh: {
      type: "string",
      valueHint: "MESH",
      completes: "mesh",
      description: "which mesh, if this host is in several",
    },
  },
  notes:
    "For the owner and admins. It is done without asking, and the removed key cannot come back. Every invite that is still open is revoked, so that whoever was removed has no way in.",
  exits: [3, 4, 5, 7],
  examples: ["claudemesh mesh remove bob"],
  async run({ member: wanted, mesh: wantedMesh }, host) {
    const mesh = ownMesh(host, wantedMesh);
    const { name, pubkey, revoked } = await withBroker(mesh, async (connection) => {
      const members = await listMembers(connection, mesh);
      const member = foundMember(wanted, members, mesh.slug);
      if (member.pubkey === mesh.pubkey) {
        throw usageError("that is this host itself", "To leave: claudemesh mesh leave");
      }
      const answer = await connection.request({ type: "remove_member", pubkey: member.pubkey });
      const { revoked_invites } = expectFrame(answer, "member_removed");
      return { name: member.name, pubkey: member.pubkey, revoked: revoked_invites };
    });
    await host.out.answer({ mesh: mesh.slug, removed: { name, pubkey }, revoked_invites: revoked }, () => {
      const invites = revoked === 0 ? "no invite was open" : `${counted(revoked, "open invite")} revoked`;
      return `${printableLine(name)} (${shortKey(pubkey)}) is removed from ${mesh.slug}; ${invites}`;
    });
  },
});
