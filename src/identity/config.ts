/**
 * `config.json`: which meshes this host is a member of, with the keys. The file is that of existing claudemesh installs,
 * read as it is and written back with every field that we do not know. A file that does not parse is never overwritten.
 */
import { statSync } from "node:fs";
import { dirname } from "node:path";
import * as v from "valibot";
import { ensureOwnDirectory, readTextFile, writeFileAtomic } from "~/disk/file";
import { lockToChange } from "~/disk/lock";
import { MeshError } from "~/errors";
import { isConsistentSecretKey, publicKeyOf } from "~/identity/keys";
import { jsonFault } from "~/wire/fault";
import { BrokerUrl, explainIssues, ForeignSlug, OpaqueId, PublicKey, SecretKey } from "~/wire/text";

const MeshEntry = v.pipe(
  v.looseObject({
    meshId: OpaqueId,
    memberId: OpaqueId,
    slug: ForeignSlug,
    name: v.string(),
    pubkey: PublicKey,
    secretKey: SecretKey,
    brokerUrl: BrokerUrl,
    joinedAt: v.string(),
    rootKey: v.exactOptional(v.string()),
    inviteVersion: v.exactOptional(v.number()),
    ownerPubkey: v.exactOptional(PublicKey),
    /** Keys that the user trusts although their admission does not verify or their name had another key. */
    trustedKeys: v.exactOptional(v.array(PublicKey)),
  }),
  v.check(
    (mesh) => publicKeyOf(mesh.secretKey) === mesh.pubkey,
    "pubkey and secretKey do not belong together",
  ),
  v.check(
    (mesh) => (mesh.inviteVersion ?? 1) < 3 || mesh.ownerPubkey !== undefined,
    "ownerPubkey is missing: without it no member could be believed",
  ),
  v.check(
    (mesh) => isConsistentSecretKey(mesh.secretKey),
    "secretKey is damaged: its halves do not belong together",
  ),
);
export type MeshEntry = v.InferOutput<typeof MeshEntry>;

/** A mesh whose members prove their admission: its broker must go on offering what that needs. */
export const isClaudemeshMesh = (mesh: MeshEntry): boolean => (mesh.inviteVersion ?? 1) >= 3;

const Config = v.looseObject({
  version: v.literal(1),
  displayName: v.exactOptional(v.string()),
  meshes: v.array(MeshEntry),
});
export type Config = v.InferOutput<typeof Config>;

/** The configuration, or an empty one when there is no file yet. Throws `config_invalid` or `config_unsafe`. */
export function readConfig(path: string): Config {
  const text = readTextFile(path);
  if (text === undefined) return { version: 1, meshes: [] };
  const mode = statSync(path).mode;
  if ((mode & 0o077) !== 0) {
    throw new MeshError(
      "config_unsafe",
      `${path} holds secret keys and is open to other users (mode ${(mode & 0o777).toString(8)})`,
      {
        hint: `chmod 600 '${path}'`,
      },
    );
  }
  return parseConfig(text, path);
}

export function parseConfig(text: string, path: string): Config {
  const invalid = (why: string) =>
    new MeshError("config_invalid", `${path} ${why}`, {
      hint: "Mend the file, or move it aside to start afresh. claudemesh does not write to it until it parses.",
    });
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw invalid(`is not JSON: ${jsonFault(error)}`);
  }
  const parsed = v.safeParse(Config, value);
  if (!parsed.success) throw invalid(`does not fit: ${explainIssues(parsed.issues)}`);
  return parsed.output;
}

/** Reads, changes and writes the file as one step, however many processes do so at once. Returns what was written. */
export function updateConfig(path: string, change: (config: Config) => Config): Config {
  ensureOwnDirectory(dirname(path));
  const lock = lockToChange(`${path}.lock`);
  try {
    const changed = change(readConfig(path));
    writeFileAtomic(path, `${JSON.stringify(changed, null, 2)}\n`);
    return changed;
  } finally {
    lock.release();
  }
}

/** Adds a mesh, or replaces the entry with the same mesh id. */
export const withMesh = (config: Config, mesh: MeshEntry): Config => ({
  ...config,
  meshes: [...config.meshes.filter((known) => known.meshId !== mesh.meshId), mesh],
});

export const withoutMesh = (config: Config, meshId: string): Config => ({
  ...config,
  meshes: config.meshes.filter((mesh) => mesh.meshId !== meshId),
});

/** The mesh with this id or slug, an id before a slug; the only one when `wanted` is undefined. */
export function chooseMesh(config: Config, wanted: string | undefined): MeshEntry {
  const slugs = config.meshes.map((mesh) => mesh.slug);
  if (wanted === undefined) {
    const [only, ...others] = config.meshes;
    if (only === undefined) {
      throw new MeshError("no_mesh", "this host is in no mesh yet", {
        hint: "Create one (claudemesh mesh create NAME) or join one (claudemesh join LINK).",
      });
    }
    if (others.length > 0) {
      throw new MeshError(
        "mesh_required",
        `this host is in ${config.meshes.length} meshes: ${slugs.join(", ")}`,
        {
          hint: "Say which one with --mesh.",
          details: { meshes: slugs },
        },
      );
    }
    return only;
  }
  const byId = config.meshes.filter((mesh) => mesh.meshId === wanted);
  const matches = byId.length > 0 ? byId : config.meshes.filter((mesh) => mesh.slug === wanted);
  const [found, second] = matches;
  if (found === undefined) {
    throw new MeshError("no_such_mesh", `this host is in no mesh called ${wanted}`, {
      hint: slugs.length === 0 ? "Join one: claudemesh join LINK" : `Known here: ${slugs.join(", ")}`,
      details: { meshes: slugs },
    });
  }
  if (second !== undefined) {
    throw new MeshError("mesh_required", `${matches.length} meshes are called ${wanted}`, {
      hint: `Say which one by its id: ${matches.map((mesh) => mesh.meshId).join(", ")}`,
      details: { meshes: matches.map((mesh) => mesh.meshId) },
    });
  }
  return found;
}
