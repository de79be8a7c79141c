/**
 * What holds for each knob, and who says so. Flags of the command that starts the daemon go before `config.toml`, that before
 * what the surroundings suggest, and that before the built-in default. There are no environment variables for knobs.
 */
import { basename } from "node:path";
import { type FileValues, readSettingsFile } from "~/settings/file";
import { type KnobName, type KnobValue, knobNames, knobOf, type Settings } from "~/settings/knobs";
import { type Surroundings, type SurroundingWhy, surroundingDefaults } from "~/settings/surroundings";

/** What the flags of a command say. */
export type Flags = Partial<Settings>;

export type Source =
  | { from: "flag" }
  | { from: "file"; line: number }
  | { from: "default" }
  | SurroundingSource;
interface SurroundingSource {
  from: "surroundings";
  why: SurroundingWhy;
}

export interface Resolved {
  settings: Settings;
  sources: Readonly<Record<KnobName, Source>>;
}

export interface Layers {
  flags: Flags;
  file: FileValues | undefined;
  surroundings: Surroundings;
}

export function resolveSettings({ flags, file, surroundings }: Layers): Resolved {
  const suggested = surroundingDefaults(surroundings);
  const pick = (name: KnobName): { value: KnobValue; source: Source } => {
    const flag: KnobValue | undefined = flags[name];
    if (flag !== undefined) return { value: flag, source: { from: "flag" } };
    const set = file?.get(name);
    if (set !== undefined) return { value: set.value, source: { from: "file", line: set.line } };
    const around = suggested.get(name);
    if (around !== undefined)
      return { value: around.value, source: { from: "surroundings", why: around.why } };
    return { value: knobOf(name).default, source: { from: "default" } };
  };
  const picked = knobNames.map((name) => [name, pick(name)] as const);
  const settings: Record<string, unknown> = Object.fromEntries(
    picked.map(([name, { value }]) => [name, value]),
  );
  return {
    // Every name once, with a value that its knob takes: the flags are typed, the file was checked, the rest is our own.
    settings: settings as Settings,
    sources: Object.fromEntries(picked.map(([name, { source }]) => [name, source])) as Record<
      KnobName,
      Source
    >,
  };
}

/** The settings of a host as they are now. Throws what reading the file throws. */
export async function loadSettings(
  settingsFile: string,
  flags: Flags,
  surroundings: Surroundings,
): Promise<Resolved> {
  return resolveSettings({ flags, file: await readSettingsFile(settingsFile), surroundings });
}

/** `config.toml:4`, `container (/.dockerenv)`, `CI (GITHUB_ACTIONS)`, `flag`, `default`. */
export function sourceText(source: Source, settingsFile: string): string {
  switch (source.from) {
    case "file":
      return `${basename(settingsFile)}:${source.line}`;
    case "surroundings":
      return `${source.why.kind} (${source.why.evidence})`;
    default:
      return source.from;
  }
}
