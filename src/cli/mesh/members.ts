import { defineCommand } from "~/cli/command";
import { type KnownMember, listMembers, ownMesh, withBroker } from "~/cli/mesh/membership";
import { columns, localTime, printableLine, shortKey } from "~/cli/text";

export const meshMembers = defineCommand({
  name: "mesh members",
  description: "who belongs to a mesh, as its broker says and their admissions prove",
  args: {
    mesh: {
      type: "string",
      valueHint: "MESH",
      completes: "mesh",
      description: "which mesh, if this host is in several",
    },
  },
  exits: [3, 4, 5, 7],
  examples: ["claudemesh mesh members", "claudemesh mesh members --mesh team --json"],
  async run({ mesh: wanted }, host) {
    const mesh = ownMesh(host, wanted);
    const members = await withBroker(mesh, (connection) => listMembers(connection, mesh));
    await host.out.answer(
      { mesh: mesh.slug, members: members.map((member) => describe(member, mesh.pubkey)) },
      () => columns(members.map((member) => render(member, mesh.pubkey))),
    );
  },
});

const describe = ({ entry, standing }: KnownMember, ownKey: string): Record<string, unknown> => ({
  name: entry.display_name,
  pubkey: entry.pubkey,
  member_id: entry.member_id,
  role: entry.role,
  online: entry.online,
  standing,
  is_self: entry.pubkey === ownKey,
  capabilities: entry.capabilities,
  joined_at: entry.joined_at,
  ...(entry.last_seen_at === undefined ? {} : { last_seen_at: entry.last_seen_at }),
});

const standings = {
  verified: "",
  trusted_by_hand: "trusted by hand",
  unproven: "unproven: a version-1 mesh has no proofs",
  refused: "UNTRUSTED: nothing proves that the owner let it in",
} as const;

function render({ entry, standing }: KnownMember, ownKey: string): string[] {
  const seen =
    entry.last_seen_at === undefined ? "never seen" : `away since ${localTime(entry.last_seen_at)}`;
  return [
    printableLine(entry.display_name) + (entry.pubkey === ownKey ? " (this host)" : ""),
    entry.role,
    shortKey(entry.pubkey),
    entry.online ? "online" : seen,
    standings[standing],
  ];
}
