/**
 * What a command prints. Standard output is for the answer: one JSON value a line with `--json`, text without; everything
 * else goes to standard error. No answer has colour but that of the doctor, on a terminal. Writes are awaited: a slow reader slows the
 * command down, and nothing is lost when the process ends.
 */
import { printable } from "~/cli/text";
import { systemCodeOf } from "~/errors";

/** The reader of our standard output has gone away (`| head`): no failure, but nothing more to do. */
export class OutputClosed extends Error {
  override readonly name = "OutputClosed";
}

/** For a server's own words: that nobody hears them any more must not end it. */
export async function unlessClosed(printing: Promise<void>): Promise<void> {
  try {
    await printing;
  } catch (error) {
    if (!(error instanceof OutputClosed)) throw error;
  }
}

export interface Output {
  readonly json: boolean;
  /** The answer: the JSON value, or the text that a person reads (no trailing newline; an empty one prints nothing). */
  answer(value: unknown, text: () => string): Promise<void>;
  /** A sentence for the person, on standard error. What it quotes of others cannot steer the terminal. */
  note(text: string): Promise<void>;
  /** Text on standard output that was asked for as text, `--json` or not: help. */
  text(text: string): Promise<void>;
}

export function openOutput(json: boolean): Output {
  return {
    json,
    async answer(value, text) {
      const shown = json ? jsonText(value) : text();
      if (shown !== "") await write(Bun.stdout, `${shown}\n`);
    },
    async note(text) {
      await write(Bun.stderr, `${printable(text)}\n`);
    },
    async text(text) {
      await write(Bun.stdout, `${text}\n`);
    },
  };
}

async function write(to: typeof Bun.stdout, text: string): Promise<void> {
  try {
    await Bun.write(to, text);
  } catch (error) {
    const code = systemCodeOf(error);
    // Nobody reads our complaints, or the disk that their file is on is full: that must not change what the command does.
    if (to === Bun.stderr && code !== undefined) return;
    if (code !== "EPIPE" && code !== "EBADF") throw error;
    throw new OutputClosed("standard output was closed");
  }
}

/** Characters that JSON allows unescaped but that can steer a terminal. */
const steering = /[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** One line of JSON, safe to show on a terminal whatever strings it holds. */
export const jsonText = (value: unknown): string =>
  JSON.stringify(value).replace(
    steering,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
