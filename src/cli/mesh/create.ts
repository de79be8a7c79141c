import { readFileSync } from "node:fs";
import * as v from "valibot";
import { usageError } from "~/cli/argv";
import { defineCommand, type Host } from "~/cli/command";
import { brokerUrl, brokerUrlDefault, defaultDisplayName, displayName } from "~/cli/mesh/membership";
import { sayHowToReceive } from "~/cli/next-step";
import { isoTime, systemClock } from "~/clock";
import { MeshError, systemCodeOf } from "~/errors";
import { type MeshEntry, readConfig, updateConfig, withMesh } from "~/identity/config";
import { beginAttempt } from "~/identity/pending";
import { isFinal } from "~/link/failure";
import { createMesh } from "~/link/http";
import { brokerPaths } from "~/wire/paths";
import { Slug } from "~/wire/text";

export const meshCreate = defineCommand({
  name: "mesh create",
  description: "a new mesh, owned by this host",
  args: {
    name: { type: "positional", required: true, description: "what it is called" },
    broker: {
      type: "string",
      valueHint: "URL",
      default: brokerUrlDefault,
      description: "the broker's WebSocket address, as all members reach it",
      parse: brokerUrl,
    },
    "display-name": {
      type: "string",
      valueHint: "N",
      description: "what this host is called in it (default: its host name)",
      parse: displayName,
    },
  },
  notes:
    "The broker's admin token comes from CLAUDEMESH_BROKER_TOKEN, else from the data directory of this host's own broker. A create that was cut off can be repeated: it finishes what it began.",
  exits: [3, 4, 6, 7],
  examples: ["claudemesh mesh create team", "claudemesh mesh create team --broker wss://mesh.example.org/ws"],
  async run(args, host) {
    const name = displayName(args.name);
    const slug = slugOf(name);
    const config = readConfig(host.paths.configFile);
    const present = config.meshes.find((mesh) => mesh.slug === slug && mesh.brokerUrl === args.broker);
    const attempt = beginAttempt(host.paths.configDir, ["create", args.broker, slug]);
    if (present !== undefined && present.pubkey !== attempt.pubkey) {
      attempt.end();
      throw new MeshError("mesh_exists", `this host is in a mesh called ${slug} on that broker already`, {
        hint: "See claudemesh mesh list, or choose another name.",
      });
    }
    const mesh =
      present ??
      (await create(
        {
          slug,
          name,
          brokerUrl: args.broker,
          pubkey: attempt.pubkey,
          secretKey: attempt.secretKey,
          rootKey: attempt.rootKey,
          ownerPubkey: attempt.pubkey,
          inviteVersion: 3,
        },
        args["display-name"] ?? defaultDisplayName(config),
        host,
      ).catch((error: unknown) => {
        if (isFinal(error)) attempt.end();
        throw error;
      }));
    attempt.end();
    await host.out.answer(
      { mesh_id: mesh.meshId, slug },
      () => `the mesh ${slug} exists, and this host is its owner (${mesh.brokerUrl})`,
    );
    await sayHowToReceive(host);
    await host.out.note(`to let others in: claudemesh mesh invite --mesh ${slug}`);
  },
});

interface Draft {
  slug: string;
  name: string;
  brokerUrl: string;
  pubkey: string;
  secretKey: string;
  rootKey: string;
  ownerPubkey: string;
  inviteVersion: 3;
}

async function create(draft: Draft, ownName: string, { env, paths }: Host): Promise<MeshEntry> {
  const { mesh_id, member_id } = await createMesh(draft.brokerUrl, adminToken(env, paths.brokerDir), {
    slug: draft.slug,
    name: draft.name,
    owner_pubkey: draft.pubkey,
    display_name: ownName,
  });
  const mesh: MeshEntry = {
    ...draft,
    meshId: mesh_id,
    memberId: member_id,
    joinedAt: isoTime(systemClock.now()),
  };
  updateConfig(paths.configFile, (config) => withMesh(config, mesh));
  return mesh;
}

function slugOf(name: string): string {
  const slug = name
    .normalize("NFKD")
    .replace(/\p{Mark}/gu, "")
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "");
  if (v.is(Slug, slug)) return slug;
  throw usageError(`no short name can be made of ${JSON.stringify(name)}`, "Use 1 to 64 letters and digits.");
}

function adminToken(env: Host["env"], brokerDir: string): string {
  if (env.CLAUDEMESH_BROKER_TOKEN) return env.CLAUDEMESH_BROKER_TOKEN;
  const path = brokerPaths(brokerDir).adminToken;
  try {
    return readFileSync(path, "utf8").trim();
  } catch (error) {
    throw new MeshError(
      "unauthorized",
      `creating a mesh takes the broker's admin token (${path}: ${systemCodeOf(error)})`,
      {
        hint: "Start a broker here (claudemesh broker up), or set CLAUDEMESH_BROKER_TOKEN to what stands in admin-token on the broker's host.",
        cause: error,
      },
    );
  }
}
