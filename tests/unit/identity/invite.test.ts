/** Invites: the vectors' one verifies, and a link in which anything was changed does not. */
import { describe, expect, test } from "bun:test";
import { MeshError } from "~/errors";
import {
  type InviteDraft,
  joinProof,
  parseInviteLink,
  rootKeySha256,
  signedInviteText,
  signInvite,
} from "~/identity/invite";
import { generateKeyPair, signText } from "~/identity/keys";
import { encodeInviteLink, type Invite, inviteLinkPrefix } from "~/wire/membership";
import { inviteTextV1 } from "~/wire/signed";
import { cryptoVectors } from "../../vectors/vectors";

const { alice, bob, invite_v3 } = cryptoVectors;
const expiresAt = 1_800_000_000;
const beforeMs = expiresAt * 1000 - 1;

const draft: InviteDraft = {
  mesh_id: "mesh-1",
  mesh_slug: "team",
  broker_url: "ws://127.0.0.1:7900/ws",
  expires_at: expiresAt,
  mesh_root_key: invite_v3.root_key_base64url,
  role: "member",
  owner_pubkey: alice.public_hex,
  invite_id: "01JC0000000000000000000001",
  invite_secret: invite_v3.invite_seed_hex,
};
const v3 = signInvite(draft, alice.secret_hex);

const { invite_id: _id, invite_secret: _secret, ...draftV1 } = draft;
const v1 = { ...draftV1, v: 1 as const, signature: signText(inviteTextV1(draftV1), alice.secret_hex) };

const linkOf = (value: unknown): string =>
  inviteLinkPrefix + Buffer.from(JSON.stringify(value), "utf8").toString("base64url");

function codeOf(link: string, nowMs = beforeMs): string {
  try {
    parseInviteLink(link, nowMs);
  } catch (error) {
    if (!(error instanceof MeshError)) throw error;
    return error.code;
  }
  return "good";
}

describe("made as in the vectors", () => {
  test("the hash of the root key stands in for it", () => {
    expect(invite_v3.owner_signature.canonical.split("|")[5]).toBe(rootKeySha256(draft.mesh_root_key));
  });
  test("the text that the owner signs, and the signature", () => {
    expect(signedInviteText(draft)).toBe(invite_v3.owner_signature.canonical);
    expect(v3).toEqual({ ...draft, v: 3, signature: invite_v3.owner_signature.signature_hex });
  });
  test("the proof of whoever joins", () => {
    expect(joinProof(v3, bob.public_hex, 1_750_000_000_000)).toBe(invite_v3.join_proof.signature_hex);
  });
});

describe.each<[name: string, invite: Invite]>([
  ["1", v1],
  ["3", v3],
])("a link of version %s", (_, invite) => {
  const link = encodeInviteLink(invite);

  test("is read", () => {
    expect(parseInviteLink(link, beforeMs)).toEqual(invite);
  });
  test("may have space around it, as pasted", () => {
    expect(parseInviteLink(`  ${link}\n`, beforeMs)).toEqual(invite);
  });
  test("may hold fields that nobody knows", () => {
    expect(parseInviteLink(linkOf({ ...invite, tomorrow: 1 }), beforeMs)).toEqual(invite);
  });

  test("is good until its last second is over, and not a millisecond longer", () => {
    expect(codeOf(link, expiresAt * 1000)).toBe("good");
    expect(codeOf(link, expiresAt * 1000 + 1)).toBe("invite_expired");
    expect(codeOf(link, 0)).toBe("good");
  });
  test("that has expired says when", () => {
    expect(() => parseInviteLink(link, expiresAt * 1000 + 1)).toThrow("2027-01-15T08:00:00.000Z");
  });

  // Another value for every field, each of which is a good one in itself.
  const others: Record<string, unknown> = {
    v: invite.v === 1 ? 3 : 1,
    mesh_id: "mesh-2",
    mesh_slug: "tean",
    broker_url: "ws://127.0.0.1:7901/ws",
    expires_at: expiresAt + 1,
    // Its first digit: the last one has two bits that stand for nothing.
    mesh_root_key: `A${invite.mesh_root_key.slice(1)}`,
    role: "admin",
    owner_pubkey: bob.public_hex,
    signature: `${invite.signature.startsWith("0") ? "1" : "0"}${invite.signature.slice(1)}`,
    invite_id: "01JC0000000000000000000002",
    invite_secret: bob.seed_hex,
  };
  test("has a test for every field", () => {
    expect(Object.keys(others)).toEqual(expect.arrayContaining(Object.keys(invite)));
  });
  test.each(Object.keys(invite))("with another %s is refused", (field) => {
    const tampered = { ...invite, [field]: others[field] };
    expect(tampered).not.toEqual(invite);
    expect(codeOf(linkOf(tampered))).toBe("invite_invalid");
  });
  test.each(Object.keys(invite))("without %s is refused", (field) => {
    expect(codeOf(linkOf({ ...invite, [field]: undefined }))).toBe("invite_invalid");
  });
  test.each(Object.keys(invite))("with a %s that is null is refused", (field) => {
    expect(codeOf(linkOf({ ...invite, [field]: null }))).toBe("invite_invalid");
  });

  test("signed by somebody else in the owner's name is refused", () => {
    const mallory = generateKeyPair();
    const text = invite.v === 3 ? signedInviteText(invite) : inviteTextV1(invite);
    expect(codeOf(linkOf({ ...invite, signature: signText(text, mallory.secretKey) }))).toBe(
      "invite_invalid",
    );
  });

  test("whose expiry was put off is refused as tampered, not as expired", () => {
    const tampered = linkOf({ ...invite, expires_at: expiresAt + 3600 });
    expect(codeOf(tampered, expiresAt * 1000 + 1)).toBe("invite_invalid");
  });

  test("that lost its end is refused, wherever it was cut", () => {
    for (let length = 0; length < link.length - 1; length += 7)
      expect(codeOf(link.slice(0, length))).toBe("invite_invalid");
    expect(codeOf(link.slice(0, -4))).toBe("invite_invalid");
  });
});

describe("what is no link", () => {
  const links: Record<string, string> = {
    nothing: "",
    "the beginning alone": inviteLinkPrefix,
    "another scheme": encodeInviteLink(v3).replace("ic://", "https://"),
    "another purpose": encodeInviteLink(v3).replace("/join/", "/leave/"),
    "the content alone": encodeInviteLink(v3).slice(inviteLinkPrefix.length),
    "no base64": `${inviteLinkPrefix}!!!`,
    "no JSON": inviteLinkPrefix + Buffer.from("hello").toString("base64url"),
    "a list": linkOf([v3]),
    null: linkOf(null),
    "no version": linkOf({ ...v3, v: undefined }),
    "version 2": linkOf({ ...v3, v: 2 }),
    "a version in text": linkOf({ ...v3, v: "3" }),
    "an owner's invite for another owner": linkOf(
      signInvite({ ...draft, role: "owner" as never }, alice.secret_hex),
    ),
    "a root key that is too short": linkOf(signInvite({ ...draft, mesh_root_key: "AAAA" }, alice.secret_hex)),
    "a broker that is a page": linkOf(signInvite({ ...draft, broker_url: "http://h/" }, alice.secret_hex)),
    "a slug that slides into the next field": linkOf(
      signInvite({ ...draft, mesh_slug: "a|b" }, alice.secret_hex),
    ),
  };
  test.each(Object.entries(links))("%s", (_, link) => {
    expect(codeOf(link)).toBe("invite_invalid");
  });
});

test("a version-1 invite with its text signed for version 3 counts for neither", () => {
  const signature = v3.signature;
  expect(codeOf(linkOf({ ...v1, signature }))).toBe("invite_invalid");
  expect(codeOf(linkOf({ ...v3, signature: v1.signature }))).toBe("invite_invalid");
});
