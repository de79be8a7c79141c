import { defineCommand } from "~/cli/command";
import { commit, version } from "~/version";

export const versionCommand = defineCommand({
  name: "version",
  description: "the version of this executable",
  args: {},
  exits: [],
  examples: ["claudemesh version", "claudemesh --version"],
  run: async (_args, { out }) =>
    await out.answer(
      { version, commit, bun: Bun.version, platform: process.platform, arch: process.arch },
      () => {
        return `claudemesh ${version} (${commit}, Bun ${Bun.version}, ${process.platform} ${process.arch})`;
      },
    ),
});
