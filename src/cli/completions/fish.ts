/** fish unquotes what is typed, chooses what fits, and quotes what it inserts; it is only told what there is, with descriptions. */
import type { Candidate, Place } from "~/cli/completions/place";
import { renderReply, shortDescription } from "~/cli/completions/reply";

export const fishScript = `# claudemesh completions for fish. They ask the executable, so they need not be renewed after an upgrade.
function __claudemesh_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l reply (command claudemesh complete fish -- $words[2..-1] "$current" 2>/dev/null)
    switch "$reply[1]"
        case words
            printf '%s\\n' $reply[2..-1]
        case files directories
            set -l before (string match -r -- '^--[^=]*=' $current)
            set -l typed (string replace -r -- '^--[^=]*=' '' $current)
            # fish completes paths after a command that it knows nothing of.
            set -l paths (complete -C "__claudemesh_no_such_command $typed")
            test $reply[1] = directories; and set paths (string match -r -- '.*/$' $paths)
            test (count $paths) -gt 0; and printf "$before%s\\n" $paths
    end
end
complete -c claudemesh -f -k -a '(__claudemesh_complete)'
`;

/** A tab parts the word from what it means. */
export const renderFishReply = (place: Place, candidates: readonly Candidate[]): string =>
  renderReply(place, candidates, (candidate) => {
    const word = place.before + candidate.value;
    const description = shortDescription(candidate);
    return description === "" ? word : `${word}\t${description}`;
  });
