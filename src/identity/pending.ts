/**
 * Keys of a membership that is being obtained. They are on disk before the broker hears of them, so that a crash between
 * its answer and our config.json loses nothing, and the same attempt made again is the same member.
 */
import { createHash, randomBytes } from "node:crypto";
import { readdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import {
  ensureOwnDirectory,
  ensurePrivateDirectory,
  fileExists,
  readTextFile,
  removeFile,
  storageError,
  writeFileAtomic,
} from "~/disk/file";
import { lockToChange } from "~/disk/lock";
import { MeshError } from "~/errors";
import { generateKeyPair, isConsistentSecretKey, publicKeyOf } from "~/identity/keys";
import { Base64Url, SecretKey } from "~/wire/text";

const Attempt = v.object({
  secretKey: v.pipe(SecretKey, v.check(isConsistentSecretKey, "its halves do not belong together")),
  /** 32 bytes; used only by whoever creates the mesh. */
  rootKey: Base64Url,
});

export interface Attempt {
  pubkey: string;
  secretKey: string;
  rootKey: string;
  /** True when an earlier run began it: the broker may know the key already. */
  isResumed: boolean;
  /** To be called when config.json holds the keys, or when the broker refused them for good. */
  end(): void;
}

export const attemptsDir = (configDir: string): string => join(configDir, "pending");

/** The attempt with this subject (what is created or which invite is used), begun now or by an earlier run. */
export function beginAttempt(configDir: string, subject: readonly string[]): Attempt {
  ensureOwnDirectory(configDir);
  const directory = attemptsDir(configDir);
  ensurePrivateDirectory(directory);
  const name = createHash("sha256").update(JSON.stringify(subject)).digest("hex").slice(0, 32);
  const path = join(directory, `${name}.json`);
  // Two runs at once must not make two keys.
  const lock = lockToChange(join(directory, "lock"));
  try {
    const earlier = readAttempt(path);
    const keys = earlier ?? {
      secretKey: generateKeyPair().secretKey,
      rootKey: randomBytes(32).toString("base64url"),
    };
    if (earlier === undefined) writeFileAtomic(path, `${JSON.stringify(keys)}\n`);
    return {
      ...keys,
      pubkey: publicKeyOf(keys.secretKey),
      isResumed: earlier !== undefined,
      end: () => removeFile(path),
    };
  } finally {
    lock.release();
  }
}

/** Puts attempts aside that are another host's: these keys may be known to a broker as that host's. */
export function setAttemptsAside(configDir: string, suffix: string): void {
  const directory = attemptsDir(configDir);
  if (!fileExists(directory) || !readdirSync(directory).some((name) => name.endsWith(".json"))) return;
  try {
    renameSync(directory, `${directory}.${suffix}`);
  } catch (error) {
    throw storageError(`cannot move ${directory} aside`, error);
  }
}

function readAttempt(path: string): v.InferOutput<typeof Attempt> | undefined {
  const text = readTextFile(path);
  if (text === undefined) return undefined;
  const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), Attempt), text);
  if (parsed.success) return parsed.output;
  throw new MeshError("config_invalid", `${path} is damaged`, {
    hint: "It holds keys of a join or a mesh create that did not finish. Move it aside to begin anew.",
  });
}
