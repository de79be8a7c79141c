/** Signing and verifying, held against signatures that another implementation made. ed25519 is deterministic (RFC 8032 §5.1.6). */
import { describe, expect, test } from "bun:test";
import {
  generateKeyPair,
  isConsistentSecretKey,
  keyPairFromSeed,
  publicKeyOf,
  seedOf,
  signText,
  verifyText,
} from "~/identity/keys";
import { cryptoVectors } from "../../vectors/vectors";

const { alice, bob, hello, session_attest, session_hello, invite_v3, receipt } = cryptoVectors;

describe.each([
  ["alice", alice],
  ["bob", bob],
])("the key pair of %s", (_, keys) => {
  test("comes from its seed", () => {
    expect(keyPairFromSeed(keys.seed_hex)).toEqual({
      publicKey: keys.public_hex,
      secretKey: keys.secret_hex,
    });
  });
  test("comes apart again", () => {
    expect(seedOf(keys.secret_hex)).toBe(keys.seed_hex);
    expect(publicKeyOf(keys.secret_hex)).toBe(keys.public_hex);
  });
});

test("the key of an invite comes from its seed", () => {
  expect(keyPairFromSeed(invite_v3.invite_seed_hex).publicKey).toBe(invite_v3.invite_public_hex);
});

describe.each([
  ["hello", hello, alice.secret_hex],
  ["session attestation", session_attest, alice.secret_hex],
  ["session hello", session_hello, bob.secret_hex],
  ["invite", invite_v3.owner_signature, alice.secret_hex],
  ["request to join", invite_v3.join_proof, invite_v3.invite_seed_hex],
  ["receipt", receipt, bob.secret_hex],
])("the %s of the vectors", (_, { canonical, signature_hex, signer_public_hex }, secretKey) => {
  test("is signed the same way here", () => {
    expect(signText(canonical, secretKey)).toBe(signature_hex);
  });
  test("verifies", () => {
    expect(verifyText(canonical, signature_hex, signer_public_hex)).toBe(true);
  });

  const flipped = (hex: string, at: number) =>
    hex.slice(0, at) + (hex[at] === "0" ? "1" : "0") + hex.slice(at + 1);
  const others: [what: string, text: string, signature: string, key: string][] = [
    ["another text", `${canonical} `, signature_hex, signer_public_hex],
    ["an empty text", "", signature_hex, signer_public_hex],
    ["a changed first half", canonical, flipped(signature_hex, 0), signer_public_hex],
    ["a changed second half", canonical, flipped(signature_hex, 100), signer_public_hex],
    ["another key", canonical, signature_hex, keyPairFromSeed("77".repeat(32)).publicKey],
    ["a signature in capitals", canonical, signature_hex.toUpperCase(), signer_public_hex],
    ["a key in capitals", canonical, signature_hex, signer_public_hex.toUpperCase()],
    ["a short signature", canonical, signature_hex.slice(2), signer_public_hex],
    ["a long signature", canonical, `${signature_hex}00`, signer_public_hex],
    ["no signature", canonical, "", signer_public_hex],
    ["a short key", canonical, signature_hex, signer_public_hex.slice(2)],
    ["no key", canonical, signature_hex, ""],
    ["a key that is no point", canonical, signature_hex, `02${"00".repeat(31)}`],
    ["a key beyond the field", canonical, signature_hex, "ff".repeat(32)],
  ];
  test.each(others)("does not verify with %s", (_, text, signature, key) => {
    expect(verifyText(text, signature, key)).toBe(false);
  });
});

test("text is signed as UTF-8", () => {
  const text = "naïve — 日本語 🙂";
  const signature = signText(text, alice.secret_hex);
  expect(verifyText(text, signature, alice.public_hex)).toBe(true);
  expect(verifyText(Buffer.from(text, "utf8").toString("latin1"), signature, alice.public_hex)).toBe(false);
});

test("a fresh pair is consistent, and no two are the same", () => {
  const pairs = Array.from({ length: 20 }, generateKeyPair);
  expect(new Set(pairs.map(({ publicKey }) => publicKey)).size).toBe(20);
  for (const { publicKey, secretKey } of pairs) {
    expect(secretKey).toMatch(/^[0-9a-f]{128}$/);
    expect(isConsistentSecretKey(secretKey)).toBe(true);
    expect(publicKeyOf(secretKey)).toBe(publicKey);
  }
});

describe("a damaged secret key", () => {
  const damaged: Record<string, string> = {
    "another seed": bob.seed_hex + alice.public_hex,
    "another public half": alice.seed_hex + bob.public_hex,
    "a changed digit in the seed": `${alice.secret_hex.slice(0, 10)}0${alice.secret_hex.slice(11)}`,
    "a changed last digit": alice.secret_hex.slice(0, -1) + (alice.secret_hex.endsWith("0") ? "1" : "0"),
    capitals: alice.secret_hex.toUpperCase(),
    "a seed alone": alice.seed_hex,
    nothing: "",
    "no hex": "zz",
    "a digit that is no hex": `g${alice.secret_hex.slice(1)}`,
    "something after it": `${alice.secret_hex}0`,
    "a line feed after it": `${alice.secret_hex}\n`,
  };
  test.each(Object.entries(damaged))("%s is found out, and never thrown about", (_, secretKey) => {
    expect(secretKey).not.toBe(alice.secret_hex);
    expect(isConsistentSecretKey(secretKey)).toBe(false);
  });
  test("a whole one is not", () => {
    expect(isConsistentSecretKey(alice.secret_hex)).toBe(true);
  });
});
