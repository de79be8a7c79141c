/** Who counts as a member, whom an address means, and when neither the broker nor a name is believed. */
import { describe, expect, test } from "bun:test";
import { MeshError } from "~/errors";
import type { MeshEntry } from "~/identity/config";
import { type InviteDraft, joinProof, signedInviteText, signInvite } from "~/identity/invite";
import { generateKeyPair, keyPairFromSeed, signText } from "~/identity/keys";
import {
  type Addressee,
  isAdmitted,
  memberFound,
  peerTooOld,
  type Resolution,
  resolveMember,
  type Standing,
  speaksBody2,
  standingOf,
  trustOf,
} from "~/identity/members";
import type { Admission } from "~/wire/broker";
import { inviteTextV3, joinText } from "~/wire/signed";
import { cryptoVectors } from "../../vectors/vectors";

const { alice, bob, invite_v3 } = cryptoVectors;
const mallory = generateKeyPair();
const meshId = "mesh-1";

const admission: Admission = {
  invite: invite_v3.owner_signature.canonical,
  signature: invite_v3.owner_signature.signature_hex,
  join: invite_v3.join_proof.canonical,
  proof: invite_v3.join_proof.signature_hex,
};

const draft: InviteDraft = {
  mesh_id: meshId,
  mesh_slug: "team",
  broker_url: "ws://127.0.0.1:7900/ws",
  expires_at: 1_800_000_000,
  mesh_root_key: invite_v3.root_key_base64url,
  role: "member",
  owner_pubkey: alice.public_hex,
  invite_id: "01JC0000000000000000000001",
  invite_secret: invite_v3.invite_seed_hex,
};

/** An admission in which everything is signed as it should be, whatever it says. */
function admissionOf(
  change: Partial<InviteDraft> = {},
  join: { pubkey?: string; timestamp?: number; meshId?: string; inviteId?: string } = {},
  ownerSecretKey = alice.secret_hex,
): Admission {
  const invite = signInvite({ ...draft, ...change }, ownerSecretKey);
  const text = joinText(
    join.meshId ?? invite.mesh_id,
    join.inviteId ?? invite.invite_id,
    join.pubkey ?? bob.public_hex,
    join.timestamp ?? 1_750_000_000_000,
  );
  return {
    invite: signedInviteText(invite),
    signature: invite.signature,
    join: text,
    proof: signText(text, invite.invite_secret),
  };
}

describe("an admission", () => {
  const admits = (given: Admission | undefined) =>
    isAdmitted(bob.public_hex, given, meshId, alice.public_hex);

  test("of the vectors is good", () => {
    expect(admits(admission)).toBe(true);
  });
  test("made here is the same", () => {
    expect(admissionOf()).toEqual(admission);
    expect(joinProof(signInvite(draft, alice.secret_hex), bob.public_hex, 1_750_000_000_000)).toBe(
      admission.proof,
    );
  });
  test("for an admin is good", () => {
    expect(admits(admissionOf({ role: "admin" }))).toBe(true);
  });
  test("made in the last millisecond of the invite is good, and not after it", () => {
    expect(admits(admissionOf({}, { timestamp: draft.expires_at * 1000 }))).toBe(true);
    expect(admits(admissionOf({}, { timestamp: draft.expires_at * 1000 + 1 }))).toBe(false);
  });

  const text = admission.invite;
  const bad: Record<string, Admission | undefined> = {
    "there is none": undefined,
    "the invite is no text of an invite": { ...admission, invite: "hello" },
    "the invite is of version 1": { ...admission, invite: text.replace(/^3/, "1") },
    "the invite's signature is another's": { ...admission, signature: admission.proof },
    "the invite's signature is no signature": { ...admission, signature: "00".repeat(64) },
    "the invite was changed: slug": { ...admission, invite: text.replace("|team|", "|teem|") },
    "the invite was changed: broker": { ...admission, invite: text.replace(":7900", ":7901") },
    "the invite was changed: expiry": { ...admission, invite: text.replace("1800000000", "1900000000") },
    "the invite was changed: root key": { ...admission, invite: text.replace("|ed25", "|fd25") },
    "the invite was changed: role": { ...admission, invite: text.replace("|member|", "|admin|") },
    "the invite was changed: its key": {
      ...admission,
      invite: text.replace(invite_v3.invite_public_hex, mallory.publicKey),
    },
    "the invite was signed by somebody who is not the owner": admissionOf({}, {}, mallory.secretKey),
    "the invite names another owner, who signed it": admissionOf(
      { owner_pubkey: mallory.publicKey },
      {},
      mallory.secretKey,
    ),
    "the invite names another owner, but ours signed it": admissionOf({ owner_pubkey: mallory.publicKey }),
    "the invite is for another mesh": admissionOf({ mesh_id: "mesh-2" }),
    "the invite is for another mesh, the request for ours": admissionOf({ mesh_id: "mesh-2" }, { meshId }),
    "the request is no text of a request": { ...admission, join: "hello" },
    "the request is for another mesh": admissionOf({}, { meshId: "mesh-2" }),
    "the request is for another invite": admissionOf({}, { inviteId: "01JC0000000000000000000009" }),
    "the request is of another member": admissionOf({}, { pubkey: mallory.publicKey }),
    "the proof is another's": { ...admission, proof: admission.signature },
    "the proof is for another request": {
      ...admission,
      join: admission.join.replace("1750000000000", "1750000000001"),
    },
    "the proof was made with the joiner's own key": {
      ...admission,
      proof: signText(admission.join, bob.secret_hex),
    },
    "the proof was made with a key that the owner never saw": {
      ...admission,
      proof: signText(admission.join, mallory.secretKey),
    },
    "the request has a time that is spelled in another way": {
      ...admission,
      join: admission.join.replace("|1750000000000", "|01750000000000"),
    },
  };
  test.each(Object.entries(bad))("does not count when %s", (_, given) => {
    expect(given).not.toEqual(admission);
    expect(admits(given)).toBe(false);
  });

  test("admits whom it names and nobody else", () => {
    expect(isAdmitted(mallory.publicKey, admission, meshId, alice.public_hex)).toBe(false);
    expect(isAdmitted(alice.public_hex, admission, meshId, alice.public_hex)).toBe(false);
  });
  test("admits to its own mesh, by its own owner", () => {
    expect(isAdmitted(bob.public_hex, admission, "mesh-2", alice.public_hex)).toBe(false);
    expect(isAdmitted(bob.public_hex, admission, meshId, bob.public_hex)).toBe(false);
    expect(isAdmitted(bob.public_hex, admission, meshId, "")).toBe(false);
  });
  test("with an invite whose key is no point admits nobody, and throws nothing", () => {
    const invite = inviteTextV3({
      ...draft,
      root_key_sha256: "ab".repeat(32),
      invite_public_key: "ff".repeat(32),
    });
    const given = { ...admission, invite, signature: signText(invite, alice.secret_hex) };
    expect(admits(given)).toBe(false);
  });
});

describe("the standing of a member", () => {
  const stranger = mallory.publicKey;
  const trust = (change: { ownerPubkey?: string | undefined; trustedKeys?: string[] } = {}) => ({
    meshId,
    ownerPubkey: "ownerPubkey" in change ? change.ownerPubkey : alice.public_hex,
    ownPubkey: "cc".repeat(32),
    trustedKeys: new Set(change.trustedKeys ?? []),
  });
  const cases: [
    what: string,
    member: { pubkey: string; admission?: Admission },
    trust: ReturnType<typeof trust>,
    standing: Standing,
  ][] = [
    ["this host itself", { pubkey: "cc".repeat(32) }, trust(), "verified"],
    [
      "this host itself, where nobody proves anything",
      { pubkey: "cc".repeat(32) },
      trust({ ownerPubkey: undefined }),
      "verified",
    ],
    ["the owner", { pubkey: alice.public_hex }, trust(), "verified"],
    ["one who was let in", { pubkey: bob.public_hex, admission }, trust(), "verified"],
    ["one without an admission", { pubkey: stranger }, trust(), "refused"],
    ["one with another's admission", { pubkey: stranger, admission }, trust(), "refused"],
    [
      "one who was let in by another owner",
      { pubkey: bob.public_hex, admission },
      trust({ ownerPubkey: stranger }),
      "refused",
    ],
    ["one whom the user trusts", { pubkey: stranger }, trust({ trustedKeys: [stranger] }), "trusted_by_hand"],
    [
      "one who was let in and whom the user trusts",
      { pubkey: bob.public_hex, admission },
      trust({ trustedKeys: [bob.public_hex] }),
      "trusted_by_hand",
    ],
    [
      "one, when the user trusts another",
      { pubkey: stranger },
      trust({ trustedKeys: [bob.public_hex] }),
      "refused",
    ],
    [
      "anyone, where nobody proves anything",
      { pubkey: stranger },
      trust({ ownerPubkey: undefined }),
      "unproven",
    ],
    [
      "one whom the user trusts, where nobody proves anything",
      { pubkey: stranger },
      trust({ ownerPubkey: undefined, trustedKeys: [stranger] }),
      "trusted_by_hand",
    ],
  ];
  test.each(cases)("%s", (_, member, trusting, standing) => {
    expect(standingOf(member, trusting)).toBe(standing);
  });
});

describe("what a membership says of whom to believe", () => {
  const mesh: MeshEntry = {
    meshId,
    memberId: "member-2",
    slug: "team",
    name: "Team",
    pubkey: bob.public_hex,
    secretKey: bob.secret_hex,
    brokerUrl: "ws://h/ws",
    joinedAt: "",
    ownerPubkey: alice.public_hex,
    trustedKeys: [mallory.publicKey],
  };
  test("in a mesh of ours, the owner", () => {
    expect(trustOf({ ...mesh, inviteVersion: 3 })).toEqual({
      meshId,
      ownerPubkey: alice.public_hex,
      ownPubkey: bob.public_hex,
      trustedKeys: new Set([mallory.publicKey]),
    });
  });
  test("in one of version 1, nobody, whoever owns it", () => {
    for (const version1 of [mesh, { ...mesh, inviteVersion: 1 }, { ...mesh, inviteVersion: 2 }])
      expect(trustOf(version1).ownerPubkey).toBeUndefined();
  });
  test("nobody by hand, when there is no list", () => {
    const { trustedKeys: _, ...without } = mesh;
    expect(trustOf(without).trustedKeys.size).toBe(0);
  });
});

describe("who understands body version 2", () => {
  const standings: Standing[] = ["verified", "trusted_by_hand", "unproven", "refused"];
  test.each(standings)("one who says so (%s)", (standing) => {
    expect(speaksBody2(["body2"], standing)).toBe(true);
    expect(speaksBody2(["receipts", "body2"], standing)).toBe(true);
  });
  test.each(standings)("not one who says what else it can do (%s)", (standing) => {
    expect(speaksBody2(["receipts"], standing)).toBe(false);
    expect(speaksBody2(["body22", "BODY2"], standing)).toBe(false);
  });
  test("one who never said anything, only where members prove their admission", () => {
    expect(standings.map((standing) => speaksBody2([], standing))).toEqual([true, true, false, true]);
  });
});

describe("an address", () => {
  const key = (start: string) => start.padEnd(64, "0");
  const member = (name: string, pubkey: string, change: Partial<Addressee> = {}): Addressee => ({
    name,
    pubkey,
    standing: "verified",
    ...change,
  });
  const bobby = member("Bob", key("b0b0b0b0"));
  const carol = member("carol", key("ca401ca401"));
  const twin = member("carol", key("ca401ca402"));
  const dora = member("deadbeef", key("d0"));
  const erin = member("erin", key("deadbeef"));
  const forged = member("frank", key("f0f0f0f0"), { standing: "refused" });
  const renamed = member("grace", key("9ace9ace"), { nameChangedFrom: key("0ace") });
  const forgiven = member("heidi", key("4e1d14e1d1"), {
    nameChangedFrom: key("0ace"),
    standing: "trusted_by_hand",
  });
  const unproven = member("ivan", key("1a1a1a1a"), { standing: "unproven" });
  const forgedAndRenamed = member("judy", key("5a5a5a5a"), {
    standing: "refused",
    nameChangedFrom: key("0ace"),
  });
  const everyone = [bobby, carol, twin, dora, erin, forged, renamed, forgiven, unproven, forgedAndRenamed];

  const found = (one: Addressee): Resolution<Addressee> => ({ kind: "found", member: one });
  const cases: [what: string, to: string, resolution: Resolution<Addressee>][] = [
    ["a name", "Bob", found(bobby)],
    ["a name in small letters", "bob", found(bobby)],
    ["a name in capitals", "BOB", found(bobby)],
    ["a whole key", bobby.pubkey, found(bobby)],
    ["a whole key in capitals", bobby.pubkey.toUpperCase(), found(bobby)],
    ["eight digits of a key", "b0b0b0b0", found(bobby)],
    ["eight digits in capitals", "B0B0B0B0", found(bobby)],
    ["nine digits of a key", "b0b0b0b00", found(bobby)],
    ["seven digits of a key, which is too few", "b0b0b0b", { kind: "unknown", similar: [] }],
    ["eight digits of nobody's key", "b0b0b0b1", { kind: "unknown", similar: [] }],
    ["eight digits and something that is none", "b0b0b0b0g", { kind: "unknown", similar: [] }],
    ["a whole key and one digit more", `${bobby.pubkey}0`, { kind: "unknown", similar: [] }],
    ["a name that two have", "carol", { kind: "ambiguous", candidates: [carol, twin] }],
    ["digits that two keys begin with", "ca401ca40", { kind: "ambiguous", candidates: [carol, twin] }],
    ["one digit more, which tells them apart", "ca401ca402", found(twin)],
    ["the key of one of two with the same name", twin.pubkey, found(twin)],
    ["a name that is another's digits: the name wins", "deadbeef", found(dora)],
    ["those digits and one more", "deadbeef0", found(erin)],
    ["the other's whole key", erin.pubkey, found(erin)],
    ["a name whose member is not admitted", "frank", { kind: "untrusted", member: forged, why: "admission" }],
    [
      "digits of one who is not admitted",
      "f0f0f0f0",
      { kind: "untrusted", member: forged, why: "admission" },
    ],
    [
      "the key of one who is not admitted",
      forged.pubkey,
      { kind: "untrusted", member: forged, why: "admission" },
    ],
    ["a name that had another key", "grace", { kind: "untrusted", member: renamed, why: "name_changed" }],
    ["digits of one whose name had another key", "9ace9ace", found(renamed)],
    ["the key of one whose name had another key", renamed.pubkey, found(renamed)],
    ["a name that had another key, trusted by hand", "heidi", found(forgiven)],
    ["a name where nobody proves anything", "ivan", found(unproven)],
    [
      "a name with both faults: the admission is said first",
      "judy",
      { kind: "untrusted", member: forgedAndRenamed, why: "admission" },
    ],
    ["a name that is nearly right", "eri", { kind: "unknown", similar: ["erin"] }],
    ["a name with something after it", "erin2", { kind: "unknown", similar: ["erin"] }],
    ["the middle of a name, when it is long enough", "adbe", { kind: "unknown", similar: ["deadbeef"] }],
    ["a name that is nobody's", "zoe", { kind: "unknown", similar: [] }],
  ];
  test.each(cases)("%s", (_, to, resolution) => {
    expect(resolveMember(to, everyone)).toEqual(resolution);
  });

  test("a name that is somebody's whole key means the key", () => {
    const impostor = member(bobby.pubkey, key("99"));
    expect(resolveMember(bobby.pubkey, [impostor, bobby])).toEqual(found(bobby));
    expect(resolveMember(bobby.pubkey, [impostor])).toEqual(found(impostor));
  });
  test("a forged member makes a name ambiguous and never stands in for the real one", () => {
    const real = member("kim", key("41"));
    const fake = member("Kim", key("42"), { standing: "refused" });
    expect(resolveMember("kim", [real, fake])).toEqual({ kind: "ambiguous", candidates: [real, fake] });
    expect(resolveMember(real.pubkey, [real, fake])).toEqual(found(real));
  });
  test("among nobody there is nobody", () => {
    expect(resolveMember("bob", [])).toEqual({ kind: "unknown", similar: [] });
  });

  const errorOf = (resolution: Resolution<Addressee>): MeshError => {
    try {
      memberFound(resolution, "bob", "team");
    } catch (error) {
      if (error instanceof MeshError) return error;
      throw error;
    }
    throw new Error("nothing was refused");
  };

  test("that is found is the member", () => {
    expect(memberFound(found(bobby), "bob", "team")).toBe(bobby);
  });
  test("that is unknown is refused with those it may mean", () => {
    const error = errorOf({ kind: "unknown", similar: ["bobby", "robob"] });
    expect(error).toMatchObject({
      code: "unknown_peer",
      details: { candidates: ["bobby", "robob"] },
      hint: expect.stringContaining("bobby or robob"),
    });
    expect(errorOf({ kind: "unknown", similar: [] }).hint).toContain("claudemesh peers --all");
  });
  test("that is ambiguous is refused with keys to choose from", () => {
    expect(errorOf({ kind: "ambiguous", candidates: [carol, twin] })).toMatchObject({
      code: "ambiguous_peer",
      message: expect.stringContaining("2 members of team"),
      details: {
        candidates: [
          { name: "carol", pubkey: carol.pubkey },
          { name: "carol", pubkey: twin.pubkey },
        ],
      },
      hint: expect.stringContaining(`${twin.pubkey.slice(0, 16)} (carol)`),
    });
  });
  test.each([
    ["admission", forged, "nothing proves"],
    ["name_changed", renamed, "another key when it was first seen (0ace000000000000…)"],
  ] as const)("that is untrusted (%s) is refused with the way to trust it", (why, one, because) => {
    expect(errorOf({ kind: "untrusted", member: one, why })).toMatchObject({
      code: "peer_untrusted",
      message: expect.stringContaining(because),
      details: { pubkey: one.pubkey, reason: why },
      hint: expect.stringContaining(`claudemesh mesh trust ${one.pubkey} --mesh team`),
    });
  });
});

test("the key of an invite is not that of the owner", () => {
  // What the tables above rely on.
  const inviteKey = keyPairFromSeed(draft.invite_secret).publicKey;
  expect([alice.public_hex, bob.public_hex, mallory.publicKey]).not.toContain(inviteKey);
});

test("a peer that is too old is named", () => {
  expect(peerTooOld("bob")).toMatchObject({ code: "peer_too_old", message: expect.stringContaining("bob") });
});
