import { defineCommand } from "~/cli/command";
import { appliesShown, appliesText, settingsOf, unknownKey, valueShown } from "~/cli/config/knob";
import { printableLine } from "~/cli/text";
import { unsetInFile } from "~/settings/edit";
import { isKnobName } from "~/settings/knobs";
import { sourceText } from "~/settings/resolve";

export const configUnset = defineCommand({
  name: "config unset",
  description: "take one setting out of config.toml: the default holds again",
  args: {
    key: {
      type: "positional",
      required: true,
      completes: "setting",
      description: "which one: section.key, or a key that should not be there",
    },
  },
  exits: [4],
  examples: ["claudemesh config unset daemon.tcp"],
  async run({ key }, host) {
    const { out, paths } = host;
    const removed = await unsetInFile(paths.settingsFile, key);
    if (!isKnobName(key)) {
      if (!removed) throw unknownKey(key);
      await out.answer({ key, removed }, () => `${printableLine(key)} is gone from ${paths.settingsFile}`);
      return;
    }
    const { settings, sources } = await settingsOf(host).catch(async (wrongAsWell: unknown) => {
      if (removed) await out.note(`${key} is gone from ${paths.settingsFile}, but:`);
      throw wrongAsWell;
    });
    const value = settings[key];
    const source = sourceText(sources[key], paths.settingsFile);
    await out.answer({ key, removed, value, source, applies: appliesShown(key) }, () =>
      removed
        ? `${key} = ${printableLine(valueShown(key, value))} (${source}); ${appliesText(key)}`
        : `${key} was not set: ${printableLine(valueShown(key, value))} (${source})`,
    );
  },
});
