/** Sealing between two members: boxes made elsewhere open here, and nothing that was changed on its way does. */
import { beforeAll, describe, expect, test } from "bun:test";
import { generateKeyPair } from "~/identity/keys";
import { openSealer, Sealer, sealOverheadBytes } from "~/identity/sealer";
import { decodeSealed, encodeSealed, type Sealed } from "~/wire/sealed";
import { cryptoVectors } from "../../vectors/vectors";

const { alice, bob, box_alice_to_bob, body2_alice_to_bob } = cryptoVectors;
const carol = generateKeyPair();

let sealer: Sealer;
beforeAll(async () => {
  sealer = await openSealer();
});

const boxes: [what: string, sealed: Sealed, content: string][] = [
  ...box_alice_to_bob.map(({ plaintext_utf8, nonce_base64, ciphertext_base64 }): [string, Sealed, string] => [
    `${Buffer.byteLength(plaintext_utf8)} bytes`,
    decodeSealed({ nonce: nonce_base64, ciphertext: ciphertext_base64 }),
    plaintext_utf8,
  ]),
  [
    "body version 2",
    decodeSealed({
      nonce: body2_alice_to_bob.nonce_base64,
      ciphertext: body2_alice_to_bob.ciphertext_base64,
    }),
    body2_alice_to_bob.plaintext_json,
  ],
];

describe.each(boxes)("the vector of %s", (_, sealed, content) => {
  test("opens for bob", () => {
    expect(sealer.open(sealed, bob.secret_hex, alice.public_hex)).toBe(content);
  });
  test("opens for alice too, since a box belongs to both", () => {
    expect(sealer.open(sealed, alice.secret_hex, bob.public_hex)).toBe(content);
  });
  test("opens a second time, with the kept key, and with a fresh sealer", () => {
    expect(sealer.open(sealed, bob.secret_hex, alice.public_hex)).toBe(content);
    expect(new Sealer().open(sealed, bob.secret_hex, alice.public_hex)).toBe(content);
  });
  test("opens for nobody else and from nobody else", () => {
    expect(sealer.open(sealed, carol.secretKey, alice.public_hex)).toBeUndefined();
    expect(sealer.open(sealed, bob.secret_hex, carol.publicKey)).toBeUndefined();
    expect(sealer.open(sealed, bob.secret_hex, bob.public_hex)).toBeUndefined();
  });

  const change = (bytes: Uint8Array, at: number): Uint8Array =>
    bytes.map((byte, index) => (index === at ? byte ^ 1 : byte));

  test("does not open with any byte of its nonce changed", () => {
    for (let at = 0; at < 24; at++) {
      const tampered = { ...sealed, nonce: change(sealed.nonce, at) };
      expect(sealer.open(tampered, bob.secret_hex, alice.public_hex)).toBeUndefined();
    }
  });
  test("does not open with any byte of its ciphertext changed", () => {
    const { length } = sealed.ciphertext;
    expect(length).toBe(Buffer.byteLength(content) + sealOverheadBytes);
    for (let at = 0; at < length; at++) {
      const tampered = { ...sealed, ciphertext: change(sealed.ciphertext, at) };
      expect(sealer.open(tampered, bob.secret_hex, alice.public_hex)).toBeUndefined();
    }
  });
  test("does not open with a piece missing or added", () => {
    const { length } = sealed.ciphertext;
    const damaged: Sealed[] = [
      { ...sealed, ciphertext: new Uint8Array(0) },
      { ...sealed, ciphertext: sealed.ciphertext.subarray(0, 15) },
      { ...sealed, ciphertext: sealed.ciphertext.subarray(0, length - 1) },
      { ...sealed, ciphertext: Buffer.concat([sealed.ciphertext, Buffer.of(0)]) },
      { ...sealed, nonce: new Uint8Array(0) },
      { ...sealed, nonce: sealed.nonce.subarray(0, 23) },
      { ...sealed, nonce: Buffer.concat([sealed.nonce, Buffer.alloc(3)]) },
      decodeSealed({ ...encodeSealed(sealed), nonce: "not base64!" }),
      decodeSealed({ ...encodeSealed(sealed), ciphertext: "not base64!" }),
    ];
    for (const tampered of damaged)
      expect(sealer.open(tampered, bob.secret_hex, alice.public_hex)).toBeUndefined();
  });
});

describe("round trip", () => {
  test.each([
    "",
    "a",
    "\0",
    "\ufeffwith a byte order mark",
    "naïve — 日本語 🙂",
    "\ufffd",
    "x".repeat(100_000),
  ])("of case %#", (content) => {
    const sealed = sealer.seal(content, alice.secret_hex, carol.publicKey);
    expect(sealed.nonce).toHaveLength(24);
    expect(sealed.ciphertext).toHaveLength(Buffer.byteLength(content) + sealOverheadBytes);
    expect(sealer.open(decodeSealed(encodeSealed(sealed)), carol.secretKey, alice.public_hex)).toBe(content);
  });

  test("to oneself", () => {
    const sealed = sealer.seal("note", alice.secret_hex, alice.public_hex);
    expect(sealer.open(sealed, alice.secret_hex, alice.public_hex)).toBe("note");
  });

  test("the same content is never sealed twice the same way", () => {
    const sealed = Array.from({ length: 50 }, () => sealer.seal("hi", alice.secret_hex, bob.public_hex));
    expect(new Set(sealed.map((box) => encodeSealed(box).nonce)).size).toBe(50);
    expect(new Set(sealed.map((box) => encodeSealed(box).ciphertext)).size).toBe(50);
  });
});

test("content that is not UTF-8 is no text", async () => {
  const { default: sodium } = await import("libsodium-wrappers");
  await sodium.ready;
  for (const bytes of [[0xff], [0xc3], [0xed, 0xa0, 0x80], [0x61, 0x80], [0xf5, 0x80, 0x80, 0x80]]) {
    const nonce = sodium.randombytes_buf(sodium.crypto_box_NONCEBYTES);
    const ciphertext = sodium.crypto_box_easy(
      Uint8Array.from(bytes),
      nonce,
      sodium.crypto_sign_ed25519_pk_to_curve25519(Buffer.from(bob.public_hex, "hex")),
      sodium.crypto_sign_ed25519_sk_to_curve25519(Buffer.from(alice.secret_hex, "hex")),
    );
    expect(sealer.open({ nonce, ciphertext }, bob.secret_hex, alice.public_hex)).toBeUndefined();
  }
});

describe("a key that is no point on the curve", () => {
  const noPoints = [`02${"00".repeat(31)}`, "00".repeat(32), "ff".repeat(32), "ab"];
  test("cannot be sealed for", () => {
    for (const key of noPoints) expect(() => sealer.seal("hi", alice.secret_hex, key)).toThrow();
  });
  test("has sealed nothing", () => {
    const sealed = sealer.seal("hi", alice.secret_hex, bob.public_hex);
    for (const key of noPoints) expect(sealer.open(sealed, bob.secret_hex, key)).toBeUndefined();
  });
});
