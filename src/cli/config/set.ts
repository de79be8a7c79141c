import { defineCommand } from "~/cli/command";
import { appliesShown, appliesText, knobNamed, valueShown, valueTyped } from "~/cli/config/knob";
import { printableLine } from "~/cli/text";
import { setInFile } from "~/settings/edit";

export const configSet = defineCommand({
  name: "config set",
  description: "change one setting in config.toml",
  args: {
    key: {
      type: "positional",
      required: true,
      completes: "setting",
      description: "which one: section.key, as config show lists them",
    },
    value: {
      type: "positional",
      required: true,
      completes: "setting_value",
      description: "the new value; the entries of a list with commas",
    },
  },
  notes:
    "The value is checked first. Everything else in the file stays as it is, comments too. The file is made when there is none.",
  exits: [4],
  examples: [
    "claudemesh config set storage.retention_days 90",
    "claudemesh config set daemon.tcp false",
    "claudemesh config set daemon.allowed_origins http://localhost:3000,http://localhost:5173",
  ],
  async run({ key, value: typed }, { out, paths }) {
    const name = knobNamed(key);
    const value = valueTyped(name, typed);
    const line = (await setInFile(paths.settingsFile, name, value)).get(name)?.line;
    await out.answer(
      { key: name, value, file: paths.settingsFile, line, applies: appliesShown(name) },
      () =>
        `${name} = ${printableLine(valueShown(name, value))} (${paths.settingsFile}:${line}); ${appliesText(name)}`,
    );
  },
});
