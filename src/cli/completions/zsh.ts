/** zsh unquotes what is typed, chooses what fits, and quotes what it inserts; it is only told what there is, with descriptions. */
import type { Candidate, Place } from "~/cli/completions/place";
import { renderReply, shortDescription } from "~/cli/completions/reply";

export const zshScript = `#compdef claudemesh
# claudemesh completions for zsh. They ask the executable, so they need not be renewed after an upgrade.
_claudemesh() {
  local -a reply described
  reply=("\${(@f)$(command claudemesh complete zsh -- "\${(@Q)words[2,CURRENT-1]}" "\${(Q)PREFIX}" 2>/dev/null)}")
  case $reply[1] in
    words)
      described=("\${(@)reply[2,-1]}")
      _describe -V -t claudemesh claudemesh described
      ;;
    files) compset -P '--*='; _files ;;
    directories) compset -P '--*='; _files -/ ;;
    *) return 1 ;;
  esac
}
if [ "$funcstack[1]" = _claudemesh ]; then _claudemesh "$@"; else compdef _claudemesh claudemesh; fi
`;

/** As _describe takes it (zshcompsys(1)): a colon parts the word from what it means, and a backslash takes either as it is. */
export const renderZshReply = (place: Place, candidates: readonly Candidate[]): string =>
  renderReply(place, candidates, (candidate) => {
    const word = (place.before + candidate.value).replace(/[\\:]/g, "\\$&");
    const description = shortDescription(candidate);
    return description === "" ? word : `${word}:${description}`;
  });
