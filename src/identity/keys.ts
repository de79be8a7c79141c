/**
 * ed25519 keys (RFC 8032) in the forms of the wire: a public key is 64 hex digits, a secret key 128 (seed, then public
 * key). Signing and verifying go through the platform's own implementation, so that a client command need not load
 * libsodium.
 */
import { createPrivateKey, createPublicKey, type KeyObject, randomBytes, sign, verify } from "node:crypto";

export interface KeyPair {
  publicKey: string;
  secretKey: string;
}

/** DER prefixes of RFC 8410 §4 and §7: what follows is the raw 32-byte key. */
const publicKeyDerPrefix = Buffer.from("302a300506032b6570032100", "hex");
const privateKeyDerPrefix = Buffer.from("302e020100300506032b657004220420", "hex");

const keyObjects = new Map<string, KeyObject>();
const keyObjectsMax = 2048;

export const generateKeyPair = (): KeyPair => keyPairFromSeed(randomBytes(32).toString("hex"));

export function keyPairFromSeed(seedHex: string): KeyPair {
  const der = createPublicKey(privateKeyObject(seedHex)).export({ format: "der", type: "spki" });
  const publicKey = der.subarray(publicKeyDerPrefix.length).toString("hex");
  return { publicKey, secretKey: seedHex + publicKey };
}

export const seedOf = (secretKey: string): string => secretKey.slice(0, 64);

export const publicKeyOf = (secretKey: string): string => secretKey.slice(64);

/** True when the public half belongs to the seed: a pasted or damaged key, whatever it looks like, is caught before it is used. */
export const isConsistentSecretKey = (secretKey: string): boolean =>
  /^[0-9a-f]{128}$/.test(secretKey) && keyPairFromSeed(seedOf(secretKey)).secretKey === secretKey;

/** Signature in lower-case hex over the UTF-8 bytes of `text`. `secretKey` may also be the bare seed. */
export function signText(text: string, secretKey: string): string {
  return sign(null, Buffer.from(text, "utf8"), privateKeyObject(seedOf(secretKey))).toString("hex");
}

/** False for a signature that does not verify and for keys or signatures that are not hex of the right length. */
export function verifyText(text: string, signatureHex: string, publicKeyHex: string): boolean {
  if (!/^[0-9a-f]{128}$/.test(signatureHex) || !/^[0-9a-f]{64}$/.test(publicKeyHex)) return false;
  return verify(
    null,
    Buffer.from(text, "utf8"),
    publicKeyObject(publicKeyHex),
    Buffer.from(signatureHex, "hex"),
  );
}

function privateKeyObject(seedHex: string): KeyObject {
  return cached(`s${seedHex}`, () =>
    createPrivateKey({
      key: Buffer.concat([privateKeyDerPrefix, Buffer.from(seedHex, "hex")]),
      format: "der",
      type: "pkcs8",
    }),
  );
}

function publicKeyObject(publicKeyHex: string): KeyObject {
  return cached(`p${publicKeyHex}`, () =>
    createPublicKey({
      key: Buffer.concat([publicKeyDerPrefix, Buffer.from(publicKeyHex, "hex")]),
      format: "der",
      type: "spki",
    }),
  );
}

function cached(name: string, make: () => KeyObject): KeyObject {
  const known = keyObjects.get(name);
  if (known !== undefined) return known;
  if (keyObjects.size >= keyObjectsMax) keyObjects.clear();
  const made = make();
  keyObjects.set(name, made);
  return made;
}
