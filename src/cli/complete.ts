/**
 * What the completion scripts call: `complete bash TYPE BREAKS -- LINE`, `complete zsh|fish -- WORD…`, the last word being the one
 * with the cursor. Its answer is for the script of the same version or an older one, and for nobody else. It never complains:
 * whatever fails, the shell completes nothing.
 */
import type { Command, Group, Host } from "~/cli/command";
import { readBashLine, renderBashReply } from "~/cli/completions/bash";
import { candidatesFor } from "~/cli/completions/candidates";
import { renderFishReply } from "~/cli/completions/fish";
import { findPlace, type Place } from "~/cli/completions/place";
import { renderZshReply } from "~/cli/completions/zsh";
import { OutputClosed } from "~/cli/output";

/** `tree`: every command there is. */
export const completeIn = (tree: Group): Command => ({
  name: "complete",
  description: "what the completion scripts call",
  args: {},
  exits: [],
  examples: ["claudemesh complete fish -- send ''"],
  async execute(argv, host) {
    try {
      const reply = await replyTo(argv, tree, host);
      if (reply !== "") await host.out.text(reply);
    } catch (error) {
      // Somebody is typing: anything said here would stand in the middle of their line. Whoever looks for the reason asks for it.
      if (host.env.CLAUDEMESH_DEBUG === "1" && !(error instanceof OutputClosed)) {
        await host.out.note(Bun.inspect(error));
      }
    }
    return 0;
  },
});

async function replyTo(argv: readonly string[], tree: Group, host: Host): Promise<string> {
  const end = argv.indexOf("--");
  const [shell, ...options] = argv.slice(0, end);
  const words = argv.slice(end + 1);
  switch (shell) {
    case "bash": {
      const [completionType = "", wordBreaks = ""] = options;
      const { words: before, current, isRedirection } = readBashLine(words[0] ?? "", wordBreaks);
      if (isRedirection) return "files";
      const place = await findPlace(tree, before, current.text);
      return renderBashReply(place, await lookUp(place, host), { current, completionType });
    }
    case "zsh":
    case "fish": {
      const place = await findPlace(tree, words.slice(0, -1), words.at(-1) ?? "");
      const render = shell === "zsh" ? renderZshReply : renderFishReply;
      return render(place, await lookUp(place, host));
    }
    default:
      return "";
  }
}

const lookUp = (place: Place, host: Host) => candidatesFor(place.wanted, host);
