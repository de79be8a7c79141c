import { defineCommand } from "~/cli/command";
import { columns, printableLine, shortKey } from "~/cli/text";
import { type MeshEntry, readConfig } from "~/identity/config";

export const meshList = defineCommand({
  name: "mesh list",
  description: "the meshes that this host is in",
  args: {},
  exits: [4],
  examples: ["claudemesh mesh list"],
  async run(_args, { paths, out }) {
    const { meshes } = readConfig(paths.configFile);
    await out.answer({ meshes: meshes.map(describe) }, () =>
      columns(
        meshes.map((mesh) => [
          printableLine(mesh.slug),
          isOwner(mesh) ? "owner" : "member",
          shortKey(mesh.pubkey),
          printableLine(mesh.brokerUrl),
        ]),
      ),
    );
    if (meshes.length === 0) {
      await out.note("none yet: claudemesh mesh create NAME, or claudemesh join LINK");
    }
  },
});

const isOwner = (mesh: MeshEntry): boolean => mesh.ownerPubkey === mesh.pubkey;

/** Without the keys that are secret. */
const describe = (mesh: MeshEntry): Record<string, unknown> => ({
  slug: mesh.slug,
  name: mesh.name,
  mesh_id: mesh.meshId,
  member_id: mesh.memberId,
  pubkey: mesh.pubkey,
  ...(mesh.ownerPubkey === undefined ? {} : { owner_pubkey: mesh.ownerPubkey }),
  is_owner: isOwner(mesh),
  broker_url: mesh.brokerUrl,
  joined_at: mesh.joinedAt,
});
