import { defineCommand } from "~/cli/command";
import { appliesShown, settingsOf, valueShown } from "~/cli/config/knob";
import { columns, printableLine } from "~/cli/text";
import { expectationOf, type KnobName, knobNames, knobOf, unitOf } from "~/settings/knobs";
import { type Resolved, resolveSettings, sourceText } from "~/settings/resolve";
import { nowhereSpecial } from "~/settings/surroundings";

export const configShow = defineCommand({
  name: "config show",
  description: "every setting, its value, and where that comes from",
  args: {
    defaults: { type: "boolean", description: "what holds without config.toml, and the bounds of each" },
  },
  notes:
    "Shown is what a daemon started here and now without flags would run with. Flags of daemon up go before config.toml, that before what a container or a CI job suggests, and that before the built-in default.",
  exits: [4],
  examples: ["claudemesh config show", "claudemesh config show --defaults", "claudemesh config show --json"],
  async run({ defaults }, host) {
    const { out, paths } = host;
    const resolved = defaults
      ? resolveSettings({ flags: {}, file: undefined, surroundings: nowhereSpecial })
      : await settingsOf(host);
    const sourceOf = (name: KnobName) => sourceText(resolved.sources[name], paths.settingsFile);
    const settings = Object.fromEntries(
      knobNames.map((name) => [name, describe(name, resolved, sourceOf(name))]),
    );
    await out.answer({ file: paths.settingsFile, settings }, () =>
      columns(
        knobNames.map((name) => [
          name,
          printableLine(valueShown(name, resolved.settings[name])),
          defaults ? expectationOf(knobOf(name)) : sourceOf(name),
        ]),
      ),
    );
  },
});

function describe(name: KnobName, { settings }: Resolved, source: string): Record<string, unknown> {
  const knob = knobOf(name);
  const unit = unitOf(knob);
  return {
    value: settings[name],
    source,
    default: knob.default,
    ...(unit === undefined ? {} : { unit }),
    ...(knob.kind === "number" ? { min: knob.min, max: knob.max } : {}),
    ...(knob.kind === "choice" ? { options: knob.options } : {}),
    ...(knob.kind === "list" ? { entries_max: knob.entriesMax } : {}),
    applies: appliesShown(name),
    about: knob.about,
  };
}
