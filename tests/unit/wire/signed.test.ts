/** Every text that somebody signs, byte for byte as the contract's vectors have it, and what is no such text. */
import { describe, expect, test } from "bun:test";
import {
  helloText,
  inviteTextV1,
  inviteTextV3,
  joinText,
  parseInviteTextV3,
  parseJoinText,
  sessionAttestationText,
  sessionHelloText,
} from "~/wire/signed";
import { cryptoVectors } from "../../vectors/vectors";

const { alice, bob, hello, session_attest, session_hello, invite_v3 } = cryptoVectors;
const timestamp = 1_750_000_000_000;

const invite = {
  mesh_id: "mesh-1",
  mesh_slug: "team",
  broker_url: "ws://127.0.0.1:7900/ws",
  expires_at: 1_800_000_000,
  root_key_sha256: "ed2566b625829d7ef7af613a3987e35034e8287590b5f98887afd66c7fc35013",
  role: "member",
  owner_pubkey: alice.public_hex,
  invite_id: "01JC0000000000000000000001",
  invite_public_key: invite_v3.invite_public_hex,
};
const join = {
  mesh_id: "mesh-1",
  invite_id: invite.invite_id,
  peer_pubkey: bob.public_hex,
  timestamp,
};

describe("made as in the vectors", () => {
  test("hello", () => {
    const made = helloText({ meshId: "mesh-1", memberId: "member-1", pubkey: alice.public_hex, timestamp });
    expect(made).toBe(hello.canonical);
  });

  test("session attestation", () => {
    expect(sessionAttestationText(alice.public_hex, bob.public_hex, timestamp)).toBe(
      session_attest.canonical,
    );
  });

  test("session hello", () => {
    expect(sessionHelloText("mesh-1", alice.public_hex, bob.public_hex, timestamp)).toBe(
      session_hello.canonical,
    );
  });

  test("invite of version 3", () => {
    expect(inviteTextV3(invite)).toBe(invite_v3.owner_signature.canonical);
  });

  test("request to join", () => {
    expect(joinText(join.mesh_id, join.invite_id, join.peer_pubkey, timestamp)).toBe(
      invite_v3.join_proof.canonical,
    );
  });

  test("invite of version 1, as the contract spells it", () => {
    const text = inviteTextV1({
      mesh_id: "mesh-1",
      mesh_slug: "team",
      broker_url: "ws://h/ws",
      expires_at: 1_800_000_000,
      mesh_root_key: invite_v3.root_key_base64url,
      role: "admin",
      owner_pubkey: alice.public_hex,
    });
    expect(text).toBe(
      `1|mesh-1|team|ws://h/ws|1800000000|${invite_v3.root_key_base64url}|admin|${alice.public_hex}`,
    );
  });
});

describe("an invite text is read back", () => {
  const text = inviteTextV3(invite);

  test("into its parts", () => {
    expect(parseInviteTextV3(text)).toEqual(invite);
  });

  test("with empty parts, which no signature will cover", () => {
    expect(parseInviteTextV3("3|||||||||")).toBeUndefined();
    expect(parseInviteTextV3("3||||0|||||")).toEqual({
      mesh_id: "",
      mesh_slug: "",
      broker_url: "",
      expires_at: 0,
      root_key_sha256: "",
      role: "",
      owner_pubkey: "",
      invite_id: "",
      invite_public_key: "",
    });
  });

  const malformed: [what: string, text: string][] = [
    ["nothing", ""],
    ["another version", text.replace(/^3/, "2")],
    ["version 1", text.replace(/^3/, "1")],
    ["a version with a zero before it", `0${text}`],
    ["a part too few", text.slice(0, text.lastIndexOf("|"))],
    ["a part too many", `${text}|`],
    ["a part more in the middle", text.replace("|team|", "|te|am|")],
    ["no expiry", text.replace("1800000000", "")],
    ["an expiry with a zero before it", text.replace("1800000000", "01800000000")],
    ["an expiry with a sign", text.replace("1800000000", "+1800000000")],
    ["a negative expiry", text.replace("1800000000", "-1800000000")],
    ["a fraction", text.replace("1800000000", "1800000000.5")],
    ["an exponent", text.replace("1800000000", "18e8")],
    ["an expiry in hex", text.replace("1800000000", "0x6b49d200")],
    ["an expiry of other digits", text.replace("1800000000", "١٨٠٠٠٠٠٠٠٠")],
    ["an expiry with a space", text.replace("1800000000", " 1800000000")],
    ["an expiry beyond any date", text.replace("1800000000", "1".repeat(16))],
    ["a request to join", joinText("m", "i", bob.public_hex, timestamp)],
  ];
  test.each(malformed)("but not from %s", (_, malformedText) => {
    expect(malformedText).not.toBe(text);
    expect(parseInviteTextV3(malformedText)).toBeUndefined();
  });
});

describe("a text that asks to join is read back", () => {
  const text = invite_v3.join_proof.canonical;

  test("into its parts", () => {
    expect(parseJoinText(text)).toEqual(join);
  });

  const malformed: [what: string, text: string][] = [
    ["nothing", ""],
    ["another purpose", text.replace("claudemesh-join", "claudemesh-leave")],
    ["something before it", ` ${text}`],
    ["something after it", `${text} `],
    ["a line after it", `${text}\n`],
    ["a part too few", text.slice(0, text.lastIndexOf("|"))],
    ["a part too many", `${text}|1`],
    ["no mesh", text.replace("mesh-1", "")],
    ["no invite", text.replace(invite.invite_id, "")],
    ["a key that is too short", text.replace(bob.public_hex, bob.public_hex.slice(1))],
    ["a key that is too long", text.replace(bob.public_hex, `${bob.public_hex}0`)],
    ["a key in capitals", text.replace(bob.public_hex, bob.public_hex.toUpperCase())],
    ["no time", text.replace(String(timestamp), "")],
    ["a negative time", text.replace(String(timestamp), `-${timestamp}`)],
    ["a fraction", text.replace(String(timestamp), `${timestamp}.5`)],
    ["a time beyond any date", text.replace(String(timestamp), "1".repeat(16))],
    ["a time with a zero before it", text.replace(String(timestamp), `0${timestamp}`)],
    ["an invite", inviteTextV3(invite)],
  ];
  test.each(malformed)("but not from %s", (_, malformedText) => {
    expect(malformedText).not.toBe(text);
    expect(parseJoinText(malformedText)).toBeUndefined();
  });
});
