/** What was said lately, for people, by an agent that has no screen: lines of plain text, so many and so long at most. */
import type { Capture } from "~/agent/runtime";
import { transcriptLineCharsMax, transcriptLinesMax, transcriptScreenLines } from "~/wire/limits";

const u16Max = 0xffff;

export class Transcript {
  #lines: string[] = [];

  /** `text` may be of several lines. Escape sequences and control characters are left out. */
  add(text: string): void {
    // Of a long text only the end would be kept.
    const tail = text.slice(-transcriptLinesMax * transcriptLineCharsMax);
    for (const line of Bun.stripANSI(tail).split(/\r?\n/))
      this.#lines.push(shortened(line.replace(controls, "")));
    // Not at each line, since that would move all others.
    if (this.#lines.length > 2 * transcriptLinesMax) this.#lines = this.#lines.slice(-transcriptLinesMax);
  }

  /** Null: as many as a screen would show. The cursor stands where the text ends. */
  capture(lastLines: number | null): Capture {
    const wanted = Math.min(lastLines ?? transcriptScreenLines, transcriptLinesMax);
    const lines = wanted === 0 ? [] : this.#lines.slice(-wanted);
    return {
      content: lines.join("\n"),
      cursorRow: Math.max(0, lines.length - 1),
      cursorCol: Math.min(Bun.stringWidth(lines.at(-1) ?? ""), u16Max),
    };
  }

  snapshot(isComplete: boolean): string {
    const { content } = this.capture(isComplete ? transcriptLinesMax : null);
    return content === "" ? "" : `${content.replaceAll("\n", "\r\n")}\r\n`;
  }
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
const controls = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g;

const shortened = (line: string): string =>
  line.length <= transcriptLineCharsMax ? line : `${line.slice(0, transcriptLineCharsMax).toWellFormed()}…`;
