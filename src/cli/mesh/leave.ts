import { defineCommand } from "~/cli/command";
import { ownMesh } from "~/cli/mesh/membership";
import { MeshError } from "~/errors";
import { updateConfig, withoutMesh } from "~/identity/config";

export const meshLeave = defineCommand({
  name: "mesh leave",
  description: "leave a mesh and forget its keys",
  args: {
    mesh: {
      type: "string",
      valueHint: "MESH",
      completes: "mesh",
      description: "which mesh, if this host is in several",
    },
    force: { type: "boolean", description: "forget it here although the broker does not take part" },
  },
  notes:
    "What still waits to be sent in this mesh fails with mesh_left. Without the broker's knowledge (--force) the others go on seeing this host as a member.",
  exits: [3, 4, 5, 7],
  examples: ["claudemesh mesh leave --mesh team"],
  async run({ mesh: wanted, force }, host) {
    const mesh = ownMesh(host, wanted);
    const { leaveMesh } = await import("~/link/leave");
    const told = await leaveMesh(mesh).catch((error: unknown) => {
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
