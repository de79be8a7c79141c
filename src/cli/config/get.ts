import { defineCommand } from "~/cli/command";
import { knobNamed, settingsOf } from "~/cli/config/knob";
import { printableLine } from "~/cli/text";
import { knobOf, unitOf } from "~/settings/knobs";
import { sourceText } from "~/settings/resolve";

export const configGet = defineCommand({
  name: "config get",
  description: "the value of one setting",
  args: {
    key: {
      type: "positional",
      required: true,
      completes: "setting",
      description: "which one: section.key, as config show lists them",
    },
  },
  notes:
    "Prints the bare value, a list with one entry a line, and nothing for a setting that has none. --json says where it comes from as well.",
  exits: [4],
  examples: ["claudemesh config get storage.retention_days", "claudemesh config get daemon.tcp --json"],
  async run({ key }, host) {
    const name = knobNamed(key);
    const { settings, sources } = await settingsOf(host);
    const value = settings[name];
    const unit = unitOf(knobOf(name));
    await host.out.answer(
      {
        key: name,
        value,
        ...(unit === undefined ? {} : { unit }),
        source: sourceText(sources[name], host.paths.settingsFile),
      },
      () => printableLines(Array.isArray(value) ? value : value === null ? [] : [String(value)]),
    );
  },
});

const printableLines = (lines: readonly string[]): string => lines.map(printableLine).join("\n");
