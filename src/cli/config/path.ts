import { defineCommand } from "~/cli/command";
import { readSettingsText } from "~/settings/file";

export const configPath = defineCommand({
  name: "config path",
  description: "where config.toml is, or would be",
  args: {},
  exits: [4],
  examples: ["claudemesh config path", '"$EDITOR" "$(claudemesh config path)"'],
  async run(_args, { out, paths }) {
    const exists = readSettingsText(paths.settingsFile) !== undefined;
    await out.answer({ path: paths.settingsFile, exists }, () => paths.settingsFile);
    if (!exists && !out.json) await out.note("there is none yet; claudemesh config set makes it");
  },
});
