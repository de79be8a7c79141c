/** `config.toml` and what a container or a CI job changes about the defaults. */
import type { Host } from "~/cli/command";
import { type Finding, fail, pass } from "~/cli/doctor/finding";
import { MeshError } from "~/errors";
import { knobNames, type Settings } from "~/settings/knobs";
import { loadSettings } from "~/settings/resolve";
import { type Surroundings, surroundingsOf } from "~/settings/surroundings";

export interface ChangedDefault {
  name: string;
  value: string;
  why: string;
}

export type SettingsFacts =
  | { kind: "broken"; message: string; hint: string | undefined; surroundings: Surroundings }
  | {
      kind: "valid";
      settings: Settings;
      /** How many are set in the file. */
      set: number;
      changed: readonly ChangedDefault[];
      surroundings: Surroundings;
    };

export async function gatherSettings({ env, paths }: Pick<Host, "env" | "paths">): Promise<SettingsFacts> {
  const surroundings = surroundingsOf(env);
  try {
    const { settings, sources } = await loadSettings(paths.settingsFile, {}, surroundings);
    const changed = knobNames.flatMap((name) => {
      const source = sources[name];
      if (source.from !== "surroundings") return [];
      return [{ name, value: String(settings[name]), why: `${source.why.kind} (${source.why.evidence})` }];
    });
    const set = knobNames.filter((name) => sources[name].from === "file").length;
    return { kind: "valid", settings, set, changed, surroundings };
  } catch (error) {
    if (!(error instanceof MeshError)) throw error;
    return { kind: "broken", message: error.message, hint: error.hint, surroundings };
  }
}

export function judgeSettings(facts: SettingsFacts): Finding[] {
  if (facts.kind === "broken")
    return [fail("settings", facts.message, facts.hint ?? "claudemesh config show")];
  const count =
    facts.set === 0
      ? "config.toml sets nothing, or is not there: all settings have their defaults"
      : `config.toml is valid and sets ${facts.set} of the settings`;
  return [
    pass("settings", count),
    ...facts.changed.map(({ name, value, why }) =>
      pass(
        "settings",
        `${name} is ${value} by default here because of ${why}; to decide it yourself: claudemesh config set ${name} ${value === "false" ? "true" : "VALUE"}`,
      ),
    ),
  ];
}
