/**
 * Bash hands over the line as it was typed and takes words as they are to stand there, so that the rules of its quoting
 * (bash(1), QUOTING) and of what readline replaces are kept here, where they can be tested, and not in the script.
 */
import type { Candidate, Place } from "~/cli/completions/place";
import { renderReply, shortDescription } from "~/cli/completions/reply";

export const bashScript = `# claudemesh completions for bash. They ask the executable, so they need not be renewed after an upgrade.
_claudemesh() {
  local reply line
  COMPREPLY=()
  reply=$(command claudemesh complete bash "\${COMP_TYPE:-9}" "$COMP_WORDBREAKS" -- "\${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
  case "\${reply%%$'\\n'*}" in
    words)
      compopt -o nosort 2>/dev/null
      while IFS= read -r line; do COMPREPLY+=("$line"); done <<<"\${reply#*$'\\n'}"
      ;;
    files) compopt -o default 2>/dev/null || _claudemesh_paths -f ;;
    directories) compopt -o dirnames 2>/dev/null || _claudemesh_paths -d ;;
  esac
}
# Before bash 4 a function could not say that file names fit after all.
_claudemesh_paths() {
  local path typed=\${COMP_WORDS[COMP_CWORD]}
  [ "$typed" = "=" ] && typed=
  while IFS= read -r path; do COMPREPLY+=("$(printf %q "$path")"); done < <(compgen "$1" -- "$typed")
}
complete -F _claudemesh claudemesh
`;

export interface BashLine {
  /** Before the word with the cursor, unquoted; without the command itself. */
  words: readonly string[];
  current: BashWord;
  /** The word with the cursor is the file of a redirection. */
  isRedirection: boolean;
}

export interface BashWord {
  /** Without its quotes. */
  text: string;
  /** The quote that is open at its end. */
  quote: "" | "'" | '"';
  /** How much of `text` stands before what readline replaces: up to the last of `COMP_WORDBREAKS`, or the open quote. */
  kept: number;
}

/** Splits a line as bash does: blanks and redirections part words. Nothing is expanded. */
export function readBashLine(line: string, wordBreaks: string): BashLine {
  const reader = new LineReader(wordBreaks);
  for (const character of line) reader.read(character);
  return reader.end();
}

class LineReader {
  readonly #wordBreaks: string;
  readonly #words: string[] = [];
  #text = "";
  /** An empty word is one too: `''`. */
  #isInWord = false;
  #isEscaped = false;
  #quote: BashWord["quote"] = "";
  #breakAt = 0;
  #quoteAt = 0;
  #isRedirection = false;

  constructor(wordBreaks: string) {
    this.#wordBreaks = wordBreaks;
  }

  read(character: string): void {
    if (this.#isEscaped) {
      this.#isEscaped = false;
      // Between double quotes a backslash before anything else is itself.
      if (this.#quote === '"' && !'"\\$`'.includes(character)) this.#text += "\\";
      this.#text += character;
    } else if (this.#quote === "") {
      this.#readPlain(character);
    } else if (character === this.#quote) {
      this.#quote = "";
    } else if (character === "\\" && this.#quote === '"') {
      this.#isEscaped = true;
    } else {
      this.#text += character;
    }
  }

  #readPlain(character: string): void {
    if (character === " " || character === "\t" || character === "\n") {
      this.#endWord();
    } else if (character === "<" || character === ">") {
      this.#beginRedirection();
    } else if (this.#isInWord || !this.#isRedirection || (character !== "&" && character !== "|")) {
      this.#readOfWord(character);
    } // Else it is the second half of `>&` or `>|`.
  }

  #readOfWord(character: string): void {
    this.#isInWord = true;
    if (character === "\\") {
      this.#isEscaped = true;
    } else if (character === "'" || character === '"') {
      this.#quote = character;
      this.#quoteAt = this.#text.length;
    } else {
      this.#text += character;
      if (this.#wordBreaks.includes(character)) this.#breakAt = this.#text.length;
    }
  }

  #beginRedirection(): void {
    // `2>` names a descriptor.
    if (/^\d+$/.test(this.#text)) this.#clearWord();
    this.#endWord();
    this.#isRedirection = true;
  }

  #endWord(): void {
    if (!this.#isInWord) return;
    if (!this.#isRedirection) this.#words.push(this.#text);
    this.#isRedirection = false;
    this.#clearWord();
  }

  #clearWord(): void {
    this.#text = "";
    this.#isInWord = false;
    this.#breakAt = 0;
  }

  end(): BashLine {
    const kept = this.#quote === "" ? this.#breakAt : this.#quoteAt;
    return {
      words: this.#words.slice(1),
      current: { text: this.#text, quote: this.#quote, kept },
      isRedirection: this.#isRedirection,
    };
  }
}

/** As bash says in COMP_TYPE: a TAB that lists what there is and inserts no more than what all of it begins with. */
const listingTypes = ["?", "!", "@"].map((character) => String(character.charCodeAt(0)));

/**
 * Bash inserts what it is given, so only what goes on from the typed text is given; when nothing does, what does but for upper
 * and lower case. Descriptions stand beside several candidates that are only listed.
 */
export function renderBashReply(
  place: Place,
  candidates: readonly Candidate[],
  { current, completionType }: { current: BashWord; completionType: string },
): string {
  // Two that are the same word would have the beginning of their descriptions put into the line.
  const words = [...new Map(candidates.map((candidate) => [candidate.value, candidate])).values()];
  const goesOn = (fold: (text: string) => string) =>
    words.filter(({ value }) => fold(value).startsWith(fold(place.text)));
  const exact = goesOn((text) => text);
  const fitting = exact.length > 0 ? exact : goesOn((text) => text.toLowerCase());
  const isListed = listingTypes.includes(completionType) && fitting.length > 1;
  return renderReply(place, fitting, (candidate) => {
    const whole = place.before + candidate.value;
    // What stands before is not replaced, so it must be the same to the letter.
    if (!whole.startsWith(current.text.slice(0, current.kept))) return undefined;
    const word = quoted(whole.slice(current.kept), current.quote);
    const description = shortDescription(candidate);
    return isListed && description !== "" ? `${word}  (${description})` : word;
  });
}

function quoted(text: string, quote: BashWord["quote"]): string {
  if (quote === "") return text.replace(/[^\w@%+=:,./\u0080-\u{10ffff}-]/gu, "\\$&");
  const inside =
    quote === "'"
      ? text.replaceAll("'", "'\\''")
      : // Of all signs the one for the history keeps its backslash between double quotes.
        text.replace(/["\\$`]/g, "\\$&").replace(/!+/g, `"'$&'"`);
  // Readline closes the quote, but not after what looks as if it were closed already.
  return inside.endsWith(quote) ? inside + quote : inside;
}
