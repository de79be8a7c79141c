import { defineCommand, type Host } from "~/cli/command";
import { askHealth, daemonClient } from "~/cli/daemon-client";
import { foundMember, listMembers, ownMesh, withBroker } from "~/cli/mesh/membership";
import { printableLine } from "~/cli/text";
import { MeshError } from "~/errors";
import { type MeshEntry, updateConfig, withMesh } from "~/identity/config";
import type { Addressee } from "~/identity/members";

type Doubt = "admission" | "name_changed";
type Candidate = Addressee & { doubt: Doubt | undefined };

export const meshTrust = defineCommand({
  name: "mesh trust",
  description: "trust a member's key that was refused",
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
    "A member is refused when nothing proves that the owner let it in, or when its name had another key before. Compare the whole key with its owner over another channel first: this command believes it from then on.",
  exits: [3, 4, 5, 7],
  examples: ["claudemesh mesh trust bob"],
  async run({ member: wanted, mesh: wantedMesh }, host) {
    const mesh = ownMesh(host, wantedMesh);
    const member = foundMember(wanted, await candidates(mesh, host), mesh.slug);
    const { name, pubkey, doubt } = member;
    if (pubkey === mesh.pubkey) throw new MeshError("self_destination", "that is this host itself");
    updateConfig(host.paths.configFile, (config) => {
      const present = config.meshes.find((known) => known.meshId === mesh.meshId);
      if (present === undefined) throw new MeshError("no_such_mesh", `this host has just left ${mesh.slug}`);
      const trustedKeys = [...new Set([...(present.trustedKeys ?? []), pubkey])];
      return withMesh(config, { ...present, trustedKeys });
    });
    await host.out.answer(
      { mesh: mesh.slug, trusted: { name, pubkey }, was_refused_for: doubt ?? null },
      () =>
        [
          `trusted in ${mesh.slug}: ${printableLine(name)}`,
          `  key ${pubkey}`,
          `  ${reasons[doubt ?? "none"]}`,
        ].join("\n"),
    );
  },
});

const reasons = {
  admission: "it was refused because nothing proves that the mesh's owner let it in",
  name_changed: "it was refused because its name had another key before",
  none: "it was not refused; from now on it is trusted whatever its admission says",
} as const;

/** The daemon knows what names stood for before; without one the broker's list must do. */
async function candidates(mesh: MeshEntry, host: Host): Promise<Candidate[]> {
  const client = daemonClient(host);
  if ((await askHealth(client)) !== undefined) {
    const { peers } = await client.call("peers", { query: { all: true, mesh: mesh.slug } });
    return peers.map(({ name, pubkey, untrusted }) => ({
      name,
      pubkey,
      standing: untrusted === "admission" ? "refused" : "verified",
      doubt: untrusted,
    }));
  }
  const members = await withBroker(mesh, (connection) => listMembers(connection, mesh));
  return members.map(({ name, pubkey, standing }) => ({
    name,
    pubkey,
    standing,
    doubt: standing === "refused" ? "admission" : undefined,
  }));
}
