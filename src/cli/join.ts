import { defineCommand } from "~/cli/command";
import { defaultDisplayName, displayName } from "~/cli/mesh/membership";
import { sayHowToReceive } from "~/cli/next-step";
import { printableLine } from "~/cli/text";
import { systemClock } from "~/clock";
import { type MeshEntry, readConfig, updateConfig, withMesh } from "~/identity/config";
import { parseInviteLink } from "~/identity/invite";
import { beginAttempt } from "~/identity/pending";
import { inviteName, joinWith } from "~/link/admission";
import { isFinal } from "~/link/failure";
import { inviteLinkPrefix } from "~/wire/membership";

export const join = defineCommand({
  name: "join",
  description: "join a mesh with an invite link",
  args: {
    link: {
      type: "positional",
      required: true,
      description: `what mesh invite printed: ${inviteLinkPrefix}…`,
    },
    name: {
      type: "string",
      valueHint: "N",
      description: "what this host is called in the mesh (default: its host name)",
      parse: displayName,
    },
  },
  notes: "A join that was cut off can be repeated with the same link: it uses the invite up only once.",
  exits: [3, 4, 5, 7],
  examples: ["claudemesh join ic://join/eyJ2Ijoz… --name laptop"],
  async run({ link, name }, host) {
    // Read without regard to its expiry: a join that was cut off may be finished later.
    const invite = parseInviteLink(link, 0);
    const config = readConfig(host.paths.configFile);
    const present = config.meshes.find((mesh) => mesh.meshId === invite.mesh_id);
    if (present !== undefined) {
      await host.out.answer(
        answerOf(present),
        () => `this host is in ${printableLine(present.slug)} already`,
      );
      return;
    }
    const attempt = beginAttempt(host.paths.configDir, ["join", inviteName(invite, link)]);
    let mesh: MeshEntry;
    try {
      if (!attempt.isResumed) parseInviteLink(link, systemClock.now());
      mesh = await joinWith(invite, link, attempt, name ?? defaultDisplayName(config), systemClock.now());
    } catch (error) {
      if (isFinal(error)) attempt.end();
      throw error;
    }
    updateConfig(host.paths.configFile, (current) => withMesh(current, mesh));
    attempt.end();
    await host.out.answer(
      answerOf(mesh),
      () => `this host is in ${printableLine(mesh.slug)} now (${mesh.brokerUrl})`,
    );
    await sayHowToReceive(host);
  },
});

const answerOf = (mesh: MeshEntry): Record<string, unknown> => ({
  mesh_id: mesh.meshId,
  slug: mesh.slug,
  member_id: mesh.memberId,
});
