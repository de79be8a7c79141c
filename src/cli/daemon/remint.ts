import { defineCommand, type Host } from "~/cli/command";
import { defaultDisplayName, displayName } from "~/cli/mesh/membership";
import { counted, printableLine, shortKey } from "~/cli/text";
import { systemClock } from "~/clock";
import { readConfig } from "~/identity/config";
import type { Reminted } from "~/identity/remint-plan";

export const daemonRemint = defineCommand({
  name: "daemon remint",
  description: "give a copy of a host new keys, as a new member",
  args: {
    invite: {
      type: "string",
      multiple: true,
      valueHint: "LINK",
      description: "join its mesh with this invite; once for each mesh",
    },
    forget: {
      type: "string",
      multiple: true,
      valueHint: "MESH",
      completes: "mesh",
      description: "take this mesh out instead of joining it",
    },
    name: {
      type: "string",
      valueHint: "N",
      description: "what this host is called (default: its host name; with a number where that is taken)",
      parse: displayName,
    },
    force: {
      type: "boolean",
      description: "although these files seem to be this host's own (clones that share a host id)",
    },
  },
  notes:
    "For a copy (a cloned machine, a restored image) of a host that goes on: the original and what others see of it are not touched. A mesh whose owner was copied is joined with an invite that the copied keys make, as an ordinary member; the others with --invite, or they are taken out and joined later (claudemesh join LINK). What the copied outbox has still to send is retired here, since the original sends it. The old config.json is kept beside the new one. What is cut off can be repeated.",
  exits: [3, 4, 5, 7],
  examples: [
    "claudemesh daemon remint",
    "claudemesh daemon remint --invite ic://join/eyJ2Ijoz… --name web-2",
  ],
  async run({ invite, forget, name, force }, host) {
    const { paths, out } = host;
    const { remint } = await import("~/daemon/recover");
    const done = await remint({
      paths,
      links: invite,
      forget,
      force,
      ownName: () => name ?? defaultDisplayName(readConfig(paths.configFile)),
      nowMs: () => systemClock.now(),
    });
    await out.answer(done, () => rendered(done).join("\n"));
    if (done.backup !== null) {
      await out.note(
        `config.json as it was: ${done.backup}. It holds the copied keys; remove it when all is well.`,
      );
    }
    await sayWhatIsLeft(done, host);
  },
});

function rendered({ meshes, retired_messages, resumed }: Reminted): string[] {
  const retired =
    retired_messages === 0
      ? []
      : [`${counted(retired_messages, "unsent message")} of the original retired here; it sends them itself`];
  return [
    resumed ? "this host has finished what it had begun:" : "this host is one of its own now:",
    ...meshes.map((mesh) => {
      const slug = printableLine(mesh.slug);
      if (mesh.outcome === "taken_out") return `  ${slug}: no longer in it`;
      const called = mesh.name === undefined ? "" : ` as ${printableLine(mesh.name)}`;
      return `  ${slug}: a new member${called}, key ${shortKey(mesh.pubkey)}`;
    }),
    ...retired,
  ];
}

async function sayWhatIsLeft({ meshes, retired_messages }: Reminted, { out }: Host): Promise<void> {
  const out_of = meshes
    .filter((mesh) => mesh.outcome === "taken_out")
    .map((mesh) => printableLine(mesh.slug));
  if (out_of.length > 0) {
    await out.note(
      `To be in ${out_of.join(", ")} again, ask for an invite (claudemesh mesh invite) and type: claudemesh join LINK`,
    );
  }
  if (retired_messages > 0) {
    await out.note(
      "If this copy had taken messages of its own, they are among the retired ones: claudemesh daemon outbox list --aborted",
    );
  }
  await out.note("Start the daemon: claudemesh daemon up");
}
