/**
 * A file that only a passphrase opens, written and read in pieces. All numbers are big-endian:
 *
 *      0  20  "claudemesh backup 1" and a newline; the digit is the version of the format
 *     20   4  memory of Argon2id in KiB
 *     24   4  passes of Argon2id (RFC 9106; one lane)
 *     28   4  bytes of content in each chunk but the last, which may have fewer, and none
 *     32  16  salt of Argon2id
 *     48  16  beginning of every nonce
 *     64  32  HMAC-SHA-256 of bytes 0 to 63 under the second half of the key: says whether the passphrase is right
 *     96   8  the beginning of the SHA-256 of bytes 0 to 95: says whether the header is as it was written
 *    104      the chunks, one after the other, each sealed by `crypto_secretbox` of libsodium (XSalsa20-Poly1305) under the first
 *             half of the key, with its tag of 16 bytes before it. The nonce ends with 8 bytes: twice the number of the chunk, from
 *             0, and 1 more for the last.
 *
 * The key is Argon2id of the passphrase (Unicode NFC, UTF-8), 64 bytes. The nonces bind every chunk to its place and the last
 * one to the end, so that none can be left out, repeated, exchanged or added, nor taken from another file.
 */
import { argon2, createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import sodium from "libsodium-wrappers";
import { MeshError } from "~/errors";
import { vaultChunkBytes, vaultChunkBytesMax, vaultMemoryKibMax, vaultPassesMax } from "~/wire/limits";

/** What opening costs, and with it guessing. */
export interface KeyCost {
  memoryKib: number;
  passes: number;
}

/** libsodium's `MODERATE`: about a second, once. */
export const usualKeyCost: KeyCost = { memoryKib: 256 * 1024, passes: 3 };

const magicStart = "claudemesh backup ";
const magic = `${magicStart}1\n`;
const authenticatedBytes = 64;
const checksumAt = 96;
const checksumBytes = 8;
export const vaultHeaderBytes = checksumAt + checksumBytes;
const saltBytes = 16;
const noncePrefixBytes = 16;
const tagBytes = 16;
/** Of one lane (RFC 9106, "m"). */
const argonMemoryKibMin = 8;

interface VaultKey {
  boxKey: Uint8Array;
  check: Uint8Array;
}

/** Seals the content, which comes in pieces of any size, piece by piece. */
export async function* sealVault(
  content: AsyncIterable<Uint8Array>,
  passphrase: string,
  cost: KeyCost = usualKeyCost,
): AsyncGenerator<Uint8Array> {
  await sodium.ready;
  const header = Buffer.alloc(vaultHeaderBytes);
  header.write(magic, 0, "latin1");
  header.writeUInt32BE(cost.memoryKib, 20);
  header.writeUInt32BE(cost.passes, 24);
  header.writeUInt32BE(vaultChunkBytes, 28);
  header.set(randomBytes(saltBytes), 32);
  header.set(randomBytes(noncePrefixBytes), 48);
  const { boxKey, check } = await deriveKey(header, passphrase);
  header.set(check, authenticatedBytes);
  header.set(checksumOf(header), checksumAt);
  yield header;

  let number = 0;
  const seal = (chunk: Uint8Array, isLast: boolean): Uint8Array =>
    sodium.crypto_secretbox_easy(chunk, nonceOf(header, number++, isLast), boxKey);
  let waiting = Buffer.alloc(0);
  for await (const piece of content) {
    waiting = Buffer.concat([waiting, piece]);
    // The last chunk is known only by the end: one is always held back.
    while (waiting.length > vaultChunkBytes) {
      yield seal(waiting.subarray(0, vaultChunkBytes), false);
      waiting = waiting.subarray(vaultChunkBytes);
    }
  }
  yield seal(waiting, true);
}

/** A file, or whatever else can be read from any place. */
export interface VaultSource {
  /** As errors call it. */
  name: string;
  bytes: number;
  read(offset: number, length: number): Promise<Buffer>;
}

/**
 * The content, piece by piece; each piece is what was sealed, and only when the last was given is it all of it. Throws
 * `wrong_passphrase`, `database_newer` (a later format) or `backup_damaged`.
 */
export async function* openVault(source: VaultSource, passphrase: string): AsyncGenerator<Uint8Array> {
  await sodium.ready;
  const header = await source.read(0, Math.min(vaultHeaderBytes, source.bytes));
  checkHeader(header, source);
  const { boxKey, check } = await deriveKey(header, passphrase);
  if (!timingSafeEqual(check, header.subarray(authenticatedBytes, checksumAt))) {
    throw new MeshError("wrong_passphrase", `this is not the passphrase of ${source.name}`, {
      hint: "Try another. The file itself is as it was written, as far as this can be told. Nothing was changed.",
    });
  }
  const sealedBytes = header.readUInt32BE(28) + tagBytes;
  let offset = vaultHeaderBytes;
  for (let number = 0; ; number++) {
    const left = source.bytes - offset;
    const isLast = left <= sealedBytes;
    const sealed = await source.read(offset, Math.min(left, sealedBytes));
    const chunk = openChunk(sealed, nonceOf(header, number, isLast), boxKey);
    if (chunk === undefined)
      throw damaged(
        source,
        `what stands from byte ${offset} on is not what was written, or its end is missing`,
      );
    yield chunk;
    if (isLast) return;
    offset += sealedBytes;
  }
}

function openChunk(sealed: Buffer, nonce: Uint8Array, key: Uint8Array): Uint8Array | undefined {
  if (sealed.length < tagBytes) return undefined;
  try {
    return sodium.crypto_secretbox_open_easy(sealed, nonce, key);
  } catch {
    return undefined; // As libsodium says that it does not open.
  }
}

function checkHeader(header: Buffer, source: VaultSource): void {
  const start = header.toString("latin1", 0, magic.length);
  if (!start.startsWith(magicStart)) throw damaged(source, "it does not begin like a backup of claudemesh");
  if (header.length < vaultHeaderBytes) throw damaged(source, "it ends within its header");
  if (!timingSafeEqual(checksumOf(header), header.subarray(checksumAt)))
    throw damaged(source, "its header is not as it was written");
  if (start !== magic) {
    throw new MeshError(
      "database_newer",
      `${source.name} is of format ${start.slice(magicStart.length).trim()}`,
      {
        hint: "This claudemesh reads format 1. Run the newer one that wrote it.",
      },
    );
  }
  const isWithin = (at: number, min: number, max: number): boolean => {
    const value = header.readUInt32BE(at);
    return value >= min && value <= max;
  };
  const isOurs =
    isWithin(20, argonMemoryKibMin, vaultMemoryKibMax) &&
    isWithin(24, 1, vaultPassesMax) &&
    isWithin(28, 1, vaultChunkBytesMax);
  if (!isOurs) throw damaged(source, "its header asks for what none asks for that claudemesh writes");
}

const damaged = ({ name }: VaultSource, why: string): MeshError =>
  new MeshError("backup_damaged", `${name} is damaged: ${why}`, {
    hint: "Use another copy of it. Nothing was changed.",
  });

const checksumOf = (header: Buffer): Buffer =>
  createHash("sha256").update(header.subarray(0, checksumAt)).digest().subarray(0, checksumBytes);

async function deriveKey(header: Buffer, passphrase: string): Promise<VaultKey> {
  const memory = header.readUInt32BE(20);
  const passes = header.readUInt32BE(24);
  const key = await new Promise<Buffer>((resolve, reject) => {
    argon2(
      "argon2id",
      {
        message: Buffer.from(passphrase.normalize("NFC"), "utf8"),
        nonce: header.subarray(32, 32 + saltBytes),
        parallelism: 1,
        tagLength: 64,
        memory,
        passes,
      },
      (error, derived) => (error === null ? resolve(derived) : reject(error)),
    );
  });
  const check = createHmac("sha256", key.subarray(32))
    .update(header.subarray(0, authenticatedBytes))
    .digest();
  return { boxKey: Uint8Array.from(key.subarray(0, 32)), check };
}

function nonceOf(header: Buffer, number: number, isLast: boolean): Uint8Array {
  const nonce = Buffer.alloc(sodium.crypto_secretbox_NONCEBYTES);
  nonce.set(header.subarray(48, 48 + noncePrefixBytes));
  nonce.writeBigUInt64BE(BigInt(number) * 2n + (isLast ? 1n : 0n), noncePrefixBytes);
  return nonce;
}
