/**
 * Finds the key that detaches a terminal in what is typed: as its control byte, and as terminals send it when the agent has asked for
 * the kitty keyboard protocol or for xterm's modifyOtherKeys. What is pasted is no key.
 */

export interface DetachKey {
  /** As a person reads it: `Ctrl-]`. */
  name: string;
  byte: number;
  /** The character that is pressed together with Ctrl, in lower case. */
  character: string;
}

/** `ctrl-a` to `ctrl-z`, `ctrl-]`, `ctrl-\`, `ctrl-^`, `ctrl-_`; undefined for anything else. Ctrl-[ is Escape, so it is not among them. */
export function parseDetachKey(text: string): DetachKey | undefined {
  const character = /^(?:ctrl|control|c)[-+]([a-z\]\\^_])$/.exec(text.toLowerCase())?.[1];
  if (character === undefined) return undefined;
  return {
    name: `Ctrl-${character.toUpperCase()}`,
    byte: character.toUpperCase().charCodeAt(0) & 0x1f,
    character,
  };
}

const pasteBegins = "\x1b[200~";
const pasteEnds = "\x1b[201~";

/** Bits of the kitty protocol's modifiers, of which the number is one more: Ctrl; Caps Lock and Num Lock do not matter. */
const ctrl = 4;
const locks = 64 | 128;

export interface Typed {
  /** For the agent. */
  bytes: Uint8Array;
  /** The key was pressed after these bytes; whatever came after it is dropped. */
  isDetach: boolean;
}

export class DetachKeyFinder {
  readonly #pattern: RegExp | undefined;
  #isPasting = false;
  /** The beginning of a marker, at the end of what came last. */
  #begun = "";

  /** Without a key it finds none. */
  constructor(key: DetachKey | undefined) {
    if (key === undefined) return;
    const code = key.character.charCodeAt(0);
    const parts = [
      `(?<paste>\\x1b\\[20[01]~)`,
      `(?<plain>${escapeRegExp(String.fromCharCode(key.byte))})`,
      // Pressed (1) or repeated (2); a release (3) is not the key.
      `\\x1b\\[${code}(?::\\d*)*;(?<kitty>\\d+)(?::[12])?u`,
      `(?<other>\\x1b\\[27;5;${code}~)`,
    ];
    this.#pattern = new RegExp(parts.join("|"), "g");
  }

  feed(bytes: Uint8Array): Typed {
    if (this.#pattern === undefined) return { bytes, isDetach: false };
    const before = this.#begun.length;
    const text = this.#begun + Buffer.from(bytes).toString("latin1");
    for (const match of text.matchAll(this.#pattern)) {
      const { paste, kitty } = match.groups ?? {};
      if (paste !== undefined) this.#isPasting = paste === pasteBegins;
      else if (!this.#isPasting && (kitty === undefined || isCtrl(Number(kitty)))) {
        return { bytes: bytes.subarray(0, Math.max(0, match.index - before)), isDetach: true };
      }
    }
    this.#begun = beginningOfMarker(text);
    return { bytes, isDetach: false };
  }
}

const isCtrl = (modifiers: number): boolean => ((modifiers - 1) & ~locks) === ctrl;

/** The longest end of `text` with which a marker may begin. */
function beginningOfMarker(text: string): string {
  for (let length = Math.min(text.length, pasteEnds.length - 1); length > 0; length--) {
    const end = text.slice(-length);
    if (pasteBegins.startsWith(end) || pasteEnds.startsWith(end)) return end;
  }
  return "";
}

const escapeRegExp = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
