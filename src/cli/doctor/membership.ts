/** `config.json`: whether it can be read, and whether its keys belong together. Nothing of a key leaves this file. */
import { readFile, stat } from "node:fs/promises";
import { type Finding, fail, pass, warn } from "~/cli/doctor/finding";
import { counted } from "~/cli/text";
import { MeshError, systemCodeOf } from "~/errors";
import { parseConfig } from "~/identity/config";

export interface MeshFact {
  slug: string;
  brokerUrl: string;
}

export type MembershipFacts =
  | { kind: "none" }
  | { kind: "meshes"; meshes: readonly MeshFact[] }
  | { kind: "broken"; message: string; path: string; isUnreadable: boolean };

export async function gatherMembership(path: string): Promise<MembershipFacts> {
  try {
    // To read a pipe could take for ever.
    if ((await stat(path)).isFIFO())
      return { kind: "broken", message: `${path} is a pipe`, path, isUnreadable: true };
    const { meshes } = parseConfig(await readFile(path, "utf8"), path);
    return { kind: "meshes", meshes: meshes.map(({ slug, brokerUrl }) => ({ slug, brokerUrl })) };
  } catch (error) {
    if (error instanceof MeshError)
      return { kind: "broken", message: error.message, path, isUnreadable: false };
    const code = systemCodeOf(error);
    if (code === "ENOENT" || code === "ENOTDIR") return { kind: "none" };
    if (code === undefined) throw error;
    return { kind: "broken", message: `${path} cannot be read (${code})`, path, isUnreadable: true };
  }
}

export const meshesOf = (facts: MembershipFacts): readonly MeshFact[] =>
  facts.kind === "meshes" ? facts.meshes : [];

const firstSteps =
  "claudemesh mesh create NAME, for a mesh of your own; or claudemesh join LINK, with an invite";

export function judgeMembership(facts: MembershipFacts): Finding[] {
  switch (facts.kind) {
    case "none":
      return [warn("keys", "this host is in no mesh yet: there is no config.json", firstSteps)];
    case "broken":
      return [
        fail(
          "keys",
          facts.message,
          facts.isUnreadable
            ? `ls -l '${facts.path}'`
            : `Mend the file, or begin afresh: mv '${facts.path}' '${facts.path}.broken'`,
        ),
      ];
    case "meshes":
      if (facts.meshes.length === 0) return [warn("keys", "this host is in no mesh yet", firstSteps)];
      return [
        pass(
          "keys",
          `config.json is sound: ${counted(facts.meshes.length, "mesh").replace(/meshs$/, "meshes")} (${facts.meshes.map(({ slug }) => slug).join(", ")}), keys consistent`,
        ),
      ];
  }
}
