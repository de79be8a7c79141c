/** What a sealed letter may claim: everything outside the seal that contradicts what is inside is refused. */
import { beforeAll, describe, expect, test } from "bun:test";
import { MeshError } from "~/errors";
import {
  type Letter,
  letterContent,
  type OpenedLetter,
  openLetter,
  type Recipient,
  sealLetter,
} from "~/identity/envelope";
import { generateKeyPair, signText } from "~/identity/keys";
import { openSealer, type Sealer, sealOverheadBytes } from "~/identity/sealer";
import type { Attestation, PushFrame } from "~/wire/broker";
import { encodeSealed } from "~/wire/sealed";
import { sessionAttestationText } from "~/wire/signed";
import { cryptoVectors } from "../../vectors/vectors";

const { alice, bob, body2_alice_to_bob } = cryptoVectors;
const carol = generateKeyPair();
const nowMs = 1_750_000_000_000;
const dayMs = 24 * 3600 * 1000;
const toBob: Recipient = { meshId: "mesh-1", publicKey: bob.public_hex, secretKey: bob.secret_hex };

/** The letter of the vectors. */
const letter: Letter = {
  id: "key-1",
  meshId: "mesh-1",
  from: alice.public_hex,
  to: bob.public_hex,
  body: "hello",
  meta: { a: 1 },
  replyTo: null,
  agent: null,
  sentAt: "2025-06-15T15:06:40.000Z",
  expectsReply: false,
};

let sealer: Sealer;
beforeAll(async () => {
  sealer = await openSealer();
});

/** A push from alice to bob as an honest broker makes it, but for what `change` changes. */
function pushOf(
  content: string,
  bodyVersion: number | undefined,
  change: Partial<PushFrame> = {},
): PushFrame {
  return {
    type: "push",
    messageId: "01JC0000000000000000000001",
    meshId: "mesh-1",
    senderPubkey: alice.public_hex,
    senderMemberPubkey: alice.public_hex,
    priority: "next",
    createdAt: "2025-06-15T15:06:41.000Z",
    client_message_id: "key-1",
    ...encodeSealed(sealer.seal(content, alice.secret_hex, bob.public_hex)),
    ...(bodyVersion === undefined ? {} : { bodyVersion }),
    ...change,
  };
}

const open = (push: PushFrame, recipient = toBob): OpenedLetter => openLetter(push, recipient, sealer, nowMs);
const without = (push: PushFrame, field: keyof PushFrame): PushFrame => {
  const { [field]: _, ...rest } = push;
  return rest as PushFrame;
};

describe("the text inside", () => {
  test("of version 2 is that of the vectors", () => {
    expect(letterContent(letter, 2)).toBe(body2_alice_to_bob.plaintext_json);
  });
  test("of version 1 is the message and nothing else", () => {
    expect(letterContent({ ...letter, expectsReply: true, agent: "a" }, 1)).toBe("hello");
  });
  test("of version 2 has what is there and no more", () => {
    const full: Letter = {
      ...letter,
      replyTo: { id: "r", sender: alice.public_hex },
      agent: "planner",
      expectsReply: true,
    };
    expect(JSON.parse(letterContent(full, 2))).toEqual({
      ...JSON.parse(body2_alice_to_bob.plaintext_json),
      reply_to: { id: "r", sender: alice.public_hex },
      agent: "planner",
      expects_reply: true,
    });
    const bare = JSON.parse(letterContent({ ...letter, meta: null }, 2));
    expect(Object.keys(bare).sort()).toEqual(["body", "from", "id", "mesh", "sent_at", "to", "v"]);
  });
});

describe("an honest letter opens", () => {
  test("from the vectors, sealed elsewhere", () => {
    const { nonce_base64: nonce, ciphertext_base64: ciphertext } = body2_alice_to_bob;
    expect(open(pushOf("", 2, { nonce, ciphertext }))).toEqual({ ok: true, letter, bodyVersion: 2 });
  });

  const letters: Record<string, Partial<Letter>> = {
    plain: {},
    "without meta": { meta: null },
    "with all there is": {
      meta: { constructor: "x", nested: [{ deep: null }] },
      replyTo: { id: "r", sender: carol.publicKey },
      agent: "planner",
      expectsReply: true,
    },
    empty: { body: "" },
    "whose body looks like a letter": { body: body2_alice_to_bob.plaintext_json },
    "in many scripts": { body: "naïve — 日本語 🙂 \0" },
  };
  test.each(Object.entries(letters))("%s, in version 2", (_, change) => {
    const sent = { ...letter, ...change };
    expect(open(pushOf(letterContent(sent, 2), 2))).toEqual({ ok: true, letter: sent, bodyVersion: 2 });
  });

  test("in version 2 without the sender's id outside: the one inside counts", () => {
    const push = without(pushOf(letterContent(letter, 2), 2), "client_message_id");
    expect(open(push)).toEqual({ ok: true, letter, bodyVersion: 2 });
  });

  test("in version 2 without the sender's member outside: the key that sealed it is the member's", () => {
    const push = without(pushOf(letterContent(letter, 2), 2), "senderMemberPubkey");
    expect(open(push)).toEqual({ ok: true, letter, bodyVersion: 2 });
  });

  const bare: Letter = { ...letter, meta: null, sentAt: "2025-06-15T15:06:41.000Z" };
  test.each([1, undefined])("in version 1 (bodyVersion %p)", (bodyVersion) => {
    expect(open(pushOf("hello", bodyVersion))).toEqual({ ok: true, letter: bare, bodyVersion: 1 });
  });
  test("in version 1 under the broker's name for it when the sender gave none", () => {
    const push = without(without(pushOf("hello", 1), "client_message_id"), "createdAt");
    expect(open(push)).toEqual({
      ok: true,
      letter: { ...bare, id: "01JC0000000000000000000001", sentAt: "" },
      bodyVersion: 1,
    });
  });
  test.each(["{", "{}", "[1]", '{"v":2}', '{"v":1,"id":"key-1"}', "null", ""])(
    "in version 1 with the text %j, which is no letter",
    (text) => {
      expect(open(pushOf(text, 1))).toMatchObject({ ok: true, letter: { body: text } });
    },
  );
});

describe("a contradiction is a problem, not mail", () => {
  const content2 = (change: Partial<Letter> = {}) => letterContent({ ...letter, ...change }, 2);
  const changed = (change: Record<string, unknown>) =>
    JSON.stringify({ ...JSON.parse(content2()), ...change });
  const other = generateKeyPair();

  const cases: [what: string, reason: string, push: () => PushFrame][] = [
    [
      "the frame is of another mesh",
      "content_contradicts_frame",
      () => pushOf(content2(), 2, { meshId: "mesh-2" }),
    ],
    [
      "the frame of version 1 is of another mesh",
      "content_contradicts_frame",
      () => pushOf("hello", 1, { meshId: "mesh-2" }),
    ],
    [
      "the letter is of another mesh",
      "content_contradicts_frame",
      () => pushOf(content2({ meshId: "mesh-2" }), 2),
    ],
    [
      "both are of another mesh",
      "content_contradicts_frame",
      () => pushOf(content2({ meshId: "mesh-2" }), 2, { meshId: "mesh-2" }),
    ],
    [
      "the letter is from another",
      "content_contradicts_frame",
      () => pushOf(content2({ from: other.publicKey }), 2),
    ],
    [
      "the letter is from its recipient",
      "content_contradicts_frame",
      () => pushOf(content2({ from: bob.public_hex }), 2),
    ],
    [
      "the letter is to another",
      "content_contradicts_frame",
      () => pushOf(content2({ to: other.publicKey }), 2),
    ],
    [
      "the letter is to its sender",
      "content_contradicts_frame",
      () => pushOf(content2({ to: alice.public_hex }), 2),
    ],
    ["the letter is to a topic", "content_contradicts_frame", () => pushOf(content2({ to: "alerts" }), 2)],
    ["the letter has another id", "content_contradicts_frame", () => pushOf(content2({ id: "key-2" }), 2)],
    [
      "the frame has another id",
      "content_contradicts_frame",
      () => pushOf(content2(), 2, { client_message_id: "key-2" }),
    ],
    ["version 2 is relabelled 1", "content_contradicts_frame", () => pushOf(content2(), 1)],
    ["version 2 lost its label", "content_contradicts_frame", () => pushOf(content2(), undefined)],
    [
      "version 2 of another mesh is relabelled 1",
      "content_contradicts_frame",
      () => pushOf(content2({ meshId: "mesh-2" }), 1),
    ],
    ["version 1 is relabelled 2", "content_malformed", () => pushOf("hello", 2)],
    ["version 1 with JSON is relabelled 2", "content_malformed", () => pushOf('{"a":1}', 2)],
    ["version 1 with nothing is relabelled 2", "content_malformed", () => pushOf("", 2)],
    ["version 2 holds a list", "content_malformed", () => pushOf("[]", 2)],
    ["version 2 holds half of itself", "content_malformed", () => pushOf(content2().slice(0, -1), 2)],
    ["version 2 has no body", "content_malformed", () => pushOf(changed({ body: undefined }), 2)],
    ["version 2 has a body that is no text", "content_malformed", () => pushOf(changed({ body: 1 }), 2)],
    ["version 2 has no id", "content_malformed", () => pushOf(changed({ id: undefined }), 2)],
    ["version 2 says inside that it is 3", "content_malformed", () => pushOf(changed({ v: 3 }), 2)],
    ["version 2 has meta that is a list", "content_malformed", () => pushOf(changed({ meta: ["a"] }), 2)],
    ["version 3", "unknown_body_version", () => pushOf(content2(), 3)],
    ["version 0", "unknown_body_version", () => pushOf(content2(), 0)],
    ["version 1.5", "unknown_body_version", () => pushOf("hello", 1.5)],
    ["version 1 and a bit, with a letter inside", "unknown_body_version", () => pushOf(content2(), 2.000001)],
    ["a topic, which is not carried yet", "unsupported_kind", () => pushOf("hello", 1, { topic: "alerts" })],
    ["a topic without a name", "unsupported_kind", () => pushOf(content2(), 2, { topic: "" })],
    [
      "sealed by another than the frame says",
      "does_not_open",
      () => pushOf(content2(), 2, { senderPubkey: carol.publicKey, senderMemberPubkey: carol.publicKey }),
    ],
    [
      "sealed for another",
      "does_not_open",
      () => pushOf(content2(), 2, encodeSealed(sealer.seal(content2(), alice.secret_hex, carol.publicKey))),
    ],
    ["a ciphertext that is none", "does_not_open", () => pushOf("", 2, { ciphertext: "AAAA" })],
    ["a nonce that is none", "does_not_open", () => pushOf("", 2, { nonce: "" })],
    [
      "a sender whose key is no point",
      "does_not_open",
      () => pushOf("", 2, { senderPubkey: "ff".repeat(32), senderMemberPubkey: "ff".repeat(32) }),
    ],
  ];
  test.each(cases)("%s: %s", (_, reason, push) => {
    expect<unknown>(open(push())).toEqual({ ok: false, reason });
  });

  test("opened by another: does_not_open", () => {
    const opened = open(pushOf(content2(), 2), { meshId: "mesh-1", ...carol });
    expect(opened).toEqual({ ok: false, reason: "does_not_open" });
  });
});

describe("a session writes for its member", () => {
  const session = generateKeyPair();
  const attest = (change: Partial<Attestation> = {}, signer = alice.secret_hex): Attestation => {
    const claim = {
      parentMemberPubkey: alice.public_hex,
      sessionPubkey: session.publicKey,
      expiresAt: nowMs + 3600_000,
      ...change,
    };
    const text = sessionAttestationText(claim.parentMemberPubkey, claim.sessionPubkey, claim.expiresAt);
    return { ...claim, signature: signText(text, signer) };
  };
  const fromSession = (
    senderAttestation: Attestation | undefined,
    content = letterContent(letter, 2),
    change: Partial<PushFrame> = {},
  ): PushFrame =>
    pushOf(content, 2, {
      senderPubkey: session.publicKey,
      ...encodeSealed(sealer.seal(content, session.secretKey, bob.public_hex)),
      ...(senderAttestation === undefined ? {} : { senderAttestation }),
      ...change,
    });

  test("when the member signed for it", () => {
    expect(open(fromSession(attest()))).toEqual({ ok: true, letter, bodyVersion: 2 });
  });
  test("up to a day ahead, to the millisecond", () => {
    expect(open(fromSession(attest({ expiresAt: nowMs + dayMs }))).ok).toBe(true);
    expect(open(fromSession(attest({ expiresAt: nowMs + dayMs + 1 })))).toEqual({
      ok: false,
      reason: "session_not_attested",
    });
  });
  test("and it stays readable when the session has ended meanwhile", () => {
    expect(open(fromSession(attest({ expiresAt: nowMs - 30 * dayMs }))).ok).toBe(true);
  });
  test("in version 1 as well", () => {
    const sealed = encodeSealed(sealer.seal("hello", session.secretKey, bob.public_hex));
    const opened = open(fromSession(attest(), "", { ...sealed, bodyVersion: 1 }));
    expect(opened).toMatchObject({ ok: true, letter: { from: alice.public_hex, body: "hello" } });
  });

  const refused: [what: string, attestation: () => Attestation | undefined][] = [
    ["without an attestation", () => undefined],
    ["with one for another member", () => attest({ parentMemberPubkey: carol.publicKey }, carol.secretKey)],
    ["with one for another session", () => attest({ sessionPubkey: carol.publicKey })],
    ["with one that another signed", () => attest({}, carol.secretKey)],
    ["with one that the session signed itself", () => attest({}, session.secretKey)],
    ["with one whose end was put off", () => ({ ...attest(), expiresAt: nowMs + 7200_000 })],
    [
      "with one that the member signed for another purpose",
      () => ({ ...attest(), signature: cryptoVectors.hello.signature_hex }),
    ],
    [
      "with one that says another member than it was signed for",
      () => ({ ...attest(), parentMemberPubkey: carol.publicKey }),
    ],
    [
      "with one that says another session than it was signed for",
      () => ({ ...attest(), sessionPubkey: carol.publicKey }),
    ],
    ["with a signature that is none", () => ({ ...attest(), signature: "00".repeat(64) })],
  ];
  test.each(refused)("but not %s", (_, attestation) => {
    expect(open(fromSession(attestation()))).toEqual({ ok: false, reason: "session_not_attested" });
  });

  test("and the letter has to be from that member too", () => {
    const forged = letterContent({ ...letter, from: session.publicKey }, 2);
    expect(open(fromSession(attest(), forged))).toEqual({ ok: false, reason: "content_contradicts_frame" });
  });

  test("the vectors' own attestation counts", () => {
    const claim: Attestation = {
      parentMemberPubkey: alice.public_hex,
      sessionPubkey: bob.public_hex,
      expiresAt: nowMs,
      signature: cryptoVectors.session_attest.signature_hex,
    };
    const push = pushOf("", 1, {
      senderPubkey: bob.public_hex,
      senderAttestation: claim,
      ...encodeSealed(sealer.seal("hello", bob.secret_hex, carol.publicKey)),
    });
    expect(open(push, { meshId: "mesh-1", ...carol })).toMatchObject({
      ok: true,
      letter: { from: alice.public_hex },
    });
  });
});

describe("sealing", () => {
  const seal = (body: string, version: 1 | 2, inlineBytes: number) =>
    sealLetter({ ...letter, body }, version, alice.secret_hex, sealer, inlineBytes);
  const emptyLetterBytes = Buffer.byteLength(letterContent({ ...letter, body: "" }, 2));

  test.each([1, 2] as const)("gives what opens again, in version %d", (version) => {
    const opened = open(pushOf("", version, encodeSealed(seal("hello", version, 65_536))));
    expect(opened).toMatchObject({ ok: true, bodyVersion: version, letter: { body: "hello" } });
  });

  const limit = 1000;
  const rooms: [version: 1 | 2, body: (room: number) => string, room: number][] = [
    [1, (room) => "x".repeat(room), limit - sealOverheadBytes],
    [2, (room) => "x".repeat(room), limit - sealOverheadBytes - emptyLetterBytes],
    [1, (room) => "é".repeat(room / 2) + "x".repeat(room % 2), limit - sealOverheadBytes],
    // A quotation mark takes two bytes once it is JSON.
    [2, (room) => '"'.repeat(room / 2) + "x".repeat(room % 2), limit - sealOverheadBytes - emptyLetterBytes],
  ];
  test.each(rooms)(
    "fills the room to the last byte and not beyond (version %d, case %#)",
    (version, body, room) => {
      const sealed = seal(body(room), version, limit);
      expect(sealed.ciphertext).toHaveLength(limit);
      try {
        seal(body(room + 1), version, limit);
      } catch (error) {
        if (!(error instanceof MeshError)) throw error;
        expect(error.code).toBe("message_too_large");
        expect(error.details).toEqual({ size_bytes: limit + 1, limit_bytes: limit });
        return;
      }
      throw new Error("one byte too many was sealed");
    },
  );
});
