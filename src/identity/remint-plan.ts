/**
 * `remint.json`: what a remint has set out to do, from before its first change until it is complete. With it a run that was cut
 * off is finished by the next one: each mesh is joined once, and keys that are new already are not taken for copied ones.
 */
import { join } from "node:path";
import * as v from "valibot";
import { readTextFile, removeFile, writeFileAtomic } from "~/disk/file";
import { MeshError } from "~/errors";
import type { Problem } from "~/wire/ipc";
import { explainIssues, OpaqueId, PublicKey, Sha256Hex } from "~/wire/text";

const PlannedMesh = v.object({
  mesh_id: OpaqueId,
  slug: v.string(),
  copied_pubkey: PublicKey,
  /** The invite that the copied keys made, which are the owner's; noted before the broker hears of it. */
  own_link: v.exactOptional(v.string()),
});
export type PlannedMesh = v.InferOutput<typeof PlannedMesh>;

const RemintPlan = v.object({
  version: v.literal(1),
  /** Names the keys that this remint makes. */
  id: v.pipe(v.string(), v.regex(/^[0-9a-f]{32}$/)),
  started_at: v.string(),
  /** The id of the host that began it: what was copied in the middle of a remint begins one of its own. Null without an id. */
  host: v.nullable(Sha256Hex),
  /** Where config.json as it was is kept. */
  backup: v.string(),
  meshes: v.array(PlannedMesh),
});
export type RemintPlan = v.InferOutput<typeof RemintPlan>;

export type RemintedMesh = { mesh_id: string; slug: string } & (
  | { outcome: "joined"; member_id: string; pubkey: string; name?: string }
  /** Out of config.json; an invite leads back in. */
  | { outcome: "taken_out" }
);

export interface Reminted {
  /** Whether an earlier run had begun it. */
  resumed: boolean;
  /** Null when there was no config.json. */
  backup: string | null;
  retired_messages: number;
  meshes: RemintedMesh[];
}

export const remintPlanFile = (configDir: string): string => join(configDir, "remint.json");

/** Undefined when there is none. Throws `config_invalid` for one that cannot be understood. */
export function readRemintPlan(configDir: string): RemintPlan | undefined {
  const path = remintPlanFile(configDir);
  const text = readTextFile(path);
  if (text === undefined) return undefined;
  const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), RemintPlan), text);
  if (parsed.success) return parsed.output;
  throw new MeshError("config_invalid", `${path} is damaged: ${explainIssues(parsed.issues)}`, {
    hint: "It is the plan of a remint that did not finish. Move it aside; the next remint then gives every mesh new keys.",
  });
}

export const writeRemintPlan = (configDir: string, plan: RemintPlan): void =>
  writeFileAtomic(remintPlanFile(configDir), `${JSON.stringify(plan, null, 2)}\n`);

export const removeRemintPlan = (configDir: string): void => removeFile(remintPlanFile(configDir));

/** What health says of a remint that did not finish. */
export function remintProblems(configDir: string): Problem[] {
  if (readTextFile(remintPlanFile(configDir)) === undefined) return [];
  return [
    {
      code: "remint_unfinished",
      message: "a remint of this host did not finish: some meshes may still have the copied keys",
      hint: "claudemesh daemon down, then claudemesh daemon remint, which goes on where it stopped.",
    },
  ];
}
