import { defineCommand } from "~/cli/command";
import { expectFrame, ownMesh, withBroker } from "~/cli/mesh/membership";
import { MeshError } from "~/errors";
import { type MeshEntry, updateConfig, withoutMesh } from "~/identity/config";

export const meshLeave = defineCommand({
  name: "mesh leave",
  description: "leave a mesh and forget its keys",
  args: {
    mesh: { type: "string", valueHint: "MESH", description: "which mesh, if this host is in several" },
    force: { type: "boolean", description: "forget it here although the broker does not take part" },
  },
  notes:
    "What still waits to be sent in this mesh fails with mesh_left. Without the broker's knowledge (--force) the others go on seeing this host as a member.",
  exits: [3, 4, 5, 7],
  examples: ["claudemesh mesh leave --mesh team"],
  async run({ mesh: wanted, force }, host) {
    const mesh = ownMesh(host, wanted);
    const told = await tellBroker(mesh).catch((error: unknown) => {
      if (!(error instanceof MeshError)) throw error;
      if (force) return error;
      throw new MeshError(error.code, error.message, {
        hint: `${error.hint === undefined ? "" : `${error.hint} `}To forget the mesh here all the same, keys included: claudemesh mesh leave --mesh ${mesh.slug} --force`,
        details: error.details,
        cause: error,
      });
    });
    updateConfig(host.paths.configFile, (config) => withoutMesh(config, mesh.meshId));
    await host.out.answer({ mesh_id: mesh.meshId, slug: mesh.slug, broker_told: told === undefined }, () =>
      told === undefined ? `this host has left ${mesh.slug}` : `${mesh.slug} is forgotten here`,
    );
    if (told !== undefined) {
      await host.out.note(`the broker still counts this host as a member: ${told.message}`);
    }
  },
});

/** Nothing on success, also when the broker removed us before. */
async function tellBroker(mesh: MeshEntry): Promise<undefined> {
  try {
    await withBroker(mesh, async (connection) =>
      expectFrame(await connection.request({ type: "remove_member", pubkey: mesh.pubkey }), "member_removed"),
    );
  } catch (error) {
    const code = error instanceof MeshError ? (error.details.broker_code ?? error.code) : undefined;
    if (code !== "not_a_member" && code !== "removed" && code !== "unknown_mesh") throw error;
  }
  return undefined;
}
