/**
 * A passphrase, from a file, from standard input, from the environment, or typed where it cannot be seen. Never from an argument,
 * which everybody on the host can read.
 */
import { usageError } from "~/cli/argv";
import type { Args, Host } from "~/cli/command";
import { MeshError, systemCodeOf } from "~/errors";
import { passphraseBytesMax, passphraseCharsMin } from "~/wire/limits";

export const passphraseArgs = {
  "passphrase-file": {
    type: "string",
    valueHint: "F",
    completes: "file",
    description: "read the passphrase from this file; - reads standard input",
  },
} as const satisfies Args;

export const passphraseNotes =
  "The passphrase comes from --passphrase-file or CLAUDEMESH_PASSPHRASE; on a terminal it is asked for.";

export interface PassphraseOptions {
  file: string | undefined;
  /** It is to be made up now: asked for twice, and not too short. */
  isNew: boolean;
}

/** Throws `usage` when there is none, and `interrupted`. */
export async function readPassphrase({ file, isNew }: PassphraseOptions, host: Host): Promise<string> {
  const given = file === undefined ? host.env.CLAUDEMESH_PASSPHRASE : await readGiven(file);
  const passphrase = given === undefined || given === "" ? await ask(file, isNew, host) : given;
  if (isNew && [...passphrase].length < passphraseCharsMin) {
    throw usageError(
      `a passphrase has at least ${passphraseCharsMin} characters`,
      "Whoever has the backup can try as many as they like: several words are a good one.",
    );
  }
  return passphrase;
}

async function readGiven(file: string): Promise<string> {
  const name = file === "-" ? "standard input" : file;
  let text = "";
  try {
    const source = file === "-" ? Bun.stdin : Bun.file(file);
    const decoder = new TextDecoder("utf-8", { fatal: true });
    let bytes = 0;
    for await (const piece of source.stream()) {
      bytes += piece.length;
      if (bytes > passphraseBytesMax)
        throw usageError(`${name} has more than ${passphraseBytesMax} bytes: that is no passphrase`);
      text += decoder.decode(piece, { stream: true });
    }
    text += decoder.decode();
  } catch (error) {
    if (error instanceof MeshError) throw error;
    if (error instanceof TypeError && systemCodeOf(error) === "ERR_ENCODING_INVALID_ENCODED_DATA")
      throw usageError(`${name} is not valid UTF-8: that is no passphrase`);
    throw new MeshError("storage_failed", `cannot read ${name} (${systemCodeOf(error) ?? String(error)})`, {
      cause: error,
    });
  }
  const passphrase = text.replace(/\r?\n$/, "");
  if (passphrase === "") throw usageError(`${name} is empty: there is no passphrase in it`);
  return passphrase;
}

async function ask(file: string | undefined, isNew: boolean, host: Host): Promise<string> {
  if (file !== undefined || !process.stdin.isTTY) {
    throw usageError(
      "there is no passphrase",
      "Give it with --passphrase-file FILE (- reads standard input) or in CLAUDEMESH_PASSPHRASE.",
    );
  }
  const [typed = "", again] = await typedUnseen(
    isNew ? ["new passphrase: ", "again: "] : ["passphrase: "],
    host,
  );
  if (again !== undefined && again !== typed)
    throw usageError("the two passphrases differ", "Nothing was written. Try again.");
  if (typed === "") throw usageError("there is no passphrase");
  return typed;
}

/** A line for each prompt, from the terminal, which shows nothing of them. */
async function typedUnseen(prompts: readonly string[], host: Host): Promise<string[]> {
  const { stdin, stderr } = process;
  const { interrupted } = host;
  const decoder = new TextDecoder();
  const lines: string[] = [];
  let line: string[] = [];
  // Before anything is asked: what is typed from now on must not be seen.
  stdin.setRawMode(true);
  stdin.resume();
  let end = (): void => undefined;
  try {
    await new Promise<void>((resolve, reject) => {
      const stop = () => reject(new MeshError("interrupted", "interrupted"));
      const take = (bytes: Uint8Array) => {
        for (const character of decoder.decode(bytes, { stream: true })) {
          if (character === "\u0003") return stop();
          // Enter; and the end of the input, as in any shell.
          if (character === "\r" || character === "\n" || character === "\u0004") {
            lines.push(line.join(""));
            line = [];
            const next = prompts[lines.length];
            if (next === undefined) return resolve();
            stderr.write(`\n${next}`);
          } else if (character === "\u007f" || character === "\b") line.pop();
          else if (character === "\u0015") line = [];
          else if (character >= " ") line.push(character);
        }
      };
      end = () => {
        stdin.off("data", take);
        interrupted.removeEventListener("abort", stop);
      };
      interrupted.addEventListener("abort", stop);
      stdin.on("data", take);
      stderr.write(prompts[0] ?? "");
      if (interrupted.aborted) stop();
    });
    return lines;
  } finally {
    end();
    stdin.setRawMode(false);
    stdin.pause();
    stderr.write("\n");
  }
}
