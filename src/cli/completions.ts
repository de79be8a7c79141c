/** The completion scripts of the shells, on standard output: one command for each shell. */
import { type Command, defineCommand, type Group } from "~/cli/command";
import { bashScript } from "~/cli/completions/bash";
import { fishScript } from "~/cli/completions/fish";
import type { Shell } from "~/cli/completions/reply";
import { zshScript } from "~/cli/completions/zsh";

const what =
  "Commands, flags, their values and file names are completed, and from the running daemon peers, meshes, and the ids of messages. Nothing is asked over the network.";

const printing = (shell: Shell, script: string, install: string, examples: readonly string[]): Command =>
  defineCommand({
    name: `completions ${shell}`,
    description: `the script that makes ${shell} complete claudemesh commands`,
    args: {},
    notes: `${what}\n\n${install}`,
    exits: [],
    examples,
    async run(_args, { out }) {
      await out.answer({ shell, script }, () => script.trimEnd());
    },
  });

export const completions: Group = {
  name: "completions",
  description: "make a shell complete claudemesh commands",
  commands: {
    bash: async () =>
      printing(
        "bash",
        bashScript,
        "To install it for good, put the second line of the examples into ~/.bashrc, or, where the package bash-completion is installed, write the script to the file of the third.",
        [
          "claudemesh completions bash",
          'eval "$(claudemesh completions bash)"',
          "claudemesh completions bash > ~/.local/share/bash-completion/completions/claudemesh",
        ],
      ),
    zsh: async () =>
      printing(
        "zsh",
        zshScript,
        "To install it for good, put the second line of the examples into ~/.zshrc, after compinit, or write the script to a directory of $fpath as in the third.",
        [
          "claudemesh completions zsh",
          "source <(claudemesh completions zsh)",
          'claudemesh completions zsh > "$fpath[1]/_claudemesh"',
        ],
      ),
    fish: async () =>
      printing(
        "fish",
        fishScript,
        "To install it for good, write the script to the file of the second example; fish finds it there.",
        [
          "claudemesh completions fish",
          "claudemesh completions fish > ~/.config/fish/completions/claudemesh.fish",
        ],
      ),
  },
};
