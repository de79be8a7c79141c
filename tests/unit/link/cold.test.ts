/** A send without a daemon: one message, sealed for one member, and the broker's word for what became of it. */
import { beforeEach, describe, expect, test } from "bun:test";
import { MeshError } from "~/errors";
import type { Config, MeshEntry } from "~/identity/config";
import { openLetter } from "~/identity/envelope";
import { generateKeyPair } from "~/identity/keys";
import { openSealer } from "~/identity/sealer";
import { sendCold } from "~/link/cold";
import type { MemberEntry, SendFrame } from "~/wire/broker";
import { envelopeVersion, requestFingerprint, wireFingerprint } from "~/wire/fingerprint";
import type { SendRequestInput } from "~/wire/ipc";
import { waitFor } from "../../support/wait-for";
import { cryptoVectors } from "../../vectors/vectors";
import {
  claudemeshFeatures,
  deadUrl,
  greeting,
  membership,
  type ScriptedBroker,
  startBroker,
} from "./scripted-broker";

const { alice, bob, invite_v3 } = cryptoVectors;
const mallory = generateKeyPair();

const member = (change: Partial<MemberEntry> = {}): MemberEntry => ({
  member_id: "member-2",
  pubkey: bob.public_hex,
  display_name: "Bob",
  role: "member",
  capabilities: ["body2"],
  joined_at: "2025-06-15T15:06:40.000Z",
  online: true,
  admission: {
    invite: invite_v3.owner_signature.canonical,
    signature: invite_v3.owner_signature.signature_hex,
    join: invite_v3.join_proof.canonical,
    proof: invite_v3.join_proof.signature_hex,
  },
  ...change,
});
const self = member({
  member_id: "member-1",
  pubkey: alice.public_hex,
  display_name: "alice",
  role: "owner",
});

let broker: ScriptedBroker;
let members: MemberEntry[];
/** What the broker answers a send with, besides its id; undefined for nothing. */
let ack: Record<string, unknown> | undefined;
let sends: SendFrame[];

beforeEach(() => {
  members = [self, member()];
  ack = { code: "created", messageId: "m-1" };
  sends = [];
  broker = startBroker(
    greeting(claudemeshFeatures, (frame, connection) => {
      if (frame.type === "list_members")
        connection.send({ type: "members_list", _reqId: frame._reqId, members });
      if (frame.type !== "send") return;
      sends.push(frame);
      if (ack !== undefined)
        connection.send({ type: "ack", id: frame.id, client_message_id: frame.id, ...ack });
    }),
  );
});

const configOf = (...meshes: MeshEntry[]): Config => ({ version: 1, meshes });
const cold = (
  request: Partial<SendRequestInput> = {},
  config = configOf(membership(broker.url)),
  timeoutMs = 10_000,
) => sendCold({ config, request: { to: "bob", message: "hello", ...request }, timeoutMs });

async function errorOf(work: Promise<unknown>): Promise<MeshError> {
  const thrown = await work.then(
    () => new Error("it did not fail"),
    (error: unknown) => error,
  );
  if (thrown instanceof MeshError) return thrown;
  throw thrown;
}

/** The message as bob reads it. */
async function opened(frame: SendFrame | undefined, pubkey = bob.public_hex, secretKey = bob.secret_hex) {
  if (frame === undefined) throw new Error("nothing was sent");
  const push = {
    type: "push",
    messageId: "m-1",
    meshId: "mesh-1",
    senderPubkey: alice.public_hex,
    priority: "next",
    nonce: frame.nonce,
    ciphertext: frame.ciphertext,
    ...(frame.id === undefined ? {} : { client_message_id: frame.id }),
    ...(frame.bodyVersion === undefined ? {} : { bodyVersion: frame.bodyVersion }),
  } as const;
  return openLetter(push, { meshId: "mesh-1", publicKey: pubkey, secretKey }, await openSealer(), 0);
}

describe("what is sent", () => {
  test("opens for the member that was meant, and says what was said", async () => {
    const reply = await cold({ client_message_id: "deploy-42", meta: { a: 1 }, priority: "now" });
    expect(reply).toEqual({
      client_message_id: "deploy-42",
      status: "accepted",
      duplicate: false,
      broker_message_id: "m-1",
    });
    const [frame] = sends;
    expect(frame).toMatchObject({
      id: "deploy-42",
      client_message_id: "deploy-42",
      targetSpec: bob.public_hex,
      priority: "now",
      bodyVersion: 2,
    });
    expect(await opened(frame)).toMatchObject({
      ok: true,
      bodyVersion: 2,
      letter: { id: "deploy-42", from: alice.public_hex, body: "hello", meta: { a: 1 }, replyTo: null },
    });
  });

  test("carries the fingerprint that the daemon would make of it", async () => {
    await cold({ client_message_id: "deploy-42", meta: { a: 1 }, priority: "low" });
    const fingerprint = requestFingerprint({
      envelopeVersion,
      destinationKind: "dm",
      destinationRef: bob.public_hex,
      replyToId: null,
      priority: "low",
      meta: { a: 1 },
      body: "hello",
    });
    expect(sends[0]?.request_fingerprint).toBe(wireFingerprint(fingerprint, alice.seed_hex));
  });

  test("a second time under the same id is sealed anew, and the same to the broker", async () => {
    await cold({ client_message_id: "deploy-42" });
    await cold({ client_message_id: "deploy-42" });
    const [first, second] = sends;
    expect(second?.request_fingerprint).toBe(first?.request_fingerprint ?? "");
    expect(second?.ciphertext).not.toBe(first?.ciphertext ?? "");
  });

  test("without an id has one of its own", async () => {
    const replies = [await cold(), await cold()];
    const ids = replies.map(({ client_message_id }) => client_message_id);
    expect(ids[0]).toMatch(/^[0-9A-HJKMNP-TV-Z]{26}$/);
    expect(ids[1]).not.toBe(ids[0] ?? "");
    expect(sends.map(({ id }) => id)).toEqual(ids);
  });

  test("leaves nothing of the text on the wire", async () => {
    await cold({ message: "the launch code is 1234", meta: { secret: "five six" } });
    const wire = JSON.stringify(broker.connections[0]?.frames);
    expect(wire).not.toContain("launch");
    expect(wire).not.toContain("five six");
  });

  test("is over when the answer is there", async () => {
    await cold();
    await waitFor(() => broker.connections[0]?.closed, { what: "the connection to close" });
    expect(broker.connections.map(({ closed }) => closed)).toEqual([{ code: 1000, reason: "done" }]);
  });

  test("to a member that never connected is of version 2, as its admission promises", async () => {
    members = [self, member({ capabilities: [] })];
    await cold({ meta: { a: 1 } });
    expect(sends[0]?.bodyVersion).toBe(2);
  });

  test("to an old member is the text alone, or nothing when that is not enough", async () => {
    members = [self, member({ capabilities: ["receipts"] })];
    await cold();
    expect(sends[0]?.bodyVersion).toBe(1);
    expect(await opened(sends[0])).toMatchObject({ ok: true, bodyVersion: 1, letter: { body: "hello" } });
    expect((await errorOf(cold({ meta: { a: 1 } }))).code).toBe("peer_too_old");
    expect(sends.length).toBe(1);
    // No meta is no need for more.
    await cold({ meta: {} });
    expect(sends.length).toBe(2);
  });
});

describe("through a version-1 broker", () => {
  const version1 = () => configOf(membership(broker.url, { inviteVersion: 1 }));
  beforeEach(() => {
    broker.script = greeting(undefined, (frame, connection) => {
      if (frame.type === "list_peers") {
        connection.send({
          type: "peers_list",
          _reqId: frame._reqId,
          peers: [{ pubkey: mallory.publicKey, memberPubkey: bob.public_hex, displayName: "Bob" }],
        });
      }
      if (frame.type !== "send") return;
      sends.push(frame);
      connection.send({ type: "ack", id: frame.id, ...ack });
    });
  });

  test("goes to the member and not to its session, as plain text", async () => {
    ack = { messageId: "m-1", queued: true };
    expect(await cold({}, version1())).toMatchObject({ status: "accepted", broker_message_id: "m-1" });
    expect(sends[0]).toMatchObject({ targetSpec: bob.public_hex, bodyVersion: 1 });
    expect(await opened(sends[0])).toMatchObject({ ok: true, letter: { body: "hello" } });
  });
  test("is refused in its own words", async () => {
    ack = { messageId: null, queued: false, error: "no connected peer for target" };
    const error = await errorOf(cold({}, version1()));
    expect(error.code).toBe("broker_refused");
    expect(error.message).toContain("no connected peer for target");
  });
});

describe("what is refused before anything is sent", () => {
  const requests: [what: string, request: Partial<SendRequestInput>, code: string][] = [
    ["an empty message", { message: "" }, "message_empty"],
    ["half a surrogate pair", { message: "\ud83d" }, "invalid_message"],
    ["meta without end", { meta: { a: "x".repeat(17_000) } }, "invalid_meta"],
    ["an id that is none", { client_message_id: "-x" }, "invalid_id"],
    ["a topic", { to: "@alerts" }, "unsupported_destination"],
    ["nobody", { to: " " }, "invalid_request"],
    ["an answer, which needs the inbox", { reply_to_id: "a" }, "daemon_unreachable"],
    ["a mesh that this host is not in", { mesh: "nope" }, "no_such_mesh"],
  ];
  test.each(requests)("%s: without a connection", async (_, request, code) => {
    expect<string>((await errorOf(cold(request))).code).toBe(code);
    expect(broker.connections).toEqual([]);
  });
  test("no mesh, or one of several: without a connection", async () => {
    expect((await errorOf(cold({}, configOf()))).code).toBe("no_mesh");
    const two = configOf(membership(broker.url), membership(broker.url, { meshId: "mesh-2", slug: "other" }));
    expect((await errorOf(cold({}, two))).code).toBe("mesh_required");
    expect(broker.connections).toEqual([]);
  });

  const addressees: [what: string, to: string, change: Partial<MemberEntry>, code: string][] = [
    ["a name that nobody has", "zoe", {}, "unknown_peer"],
    ["this host itself", "alice", {}, "self_destination"],
    ["this host's own key", alice.public_hex, {}, "self_destination"],
    ["a name that two have", "bob", { display_name: "bob" }, "ambiguous_peer"],
    ["a member whom nothing admits", "mallory", {}, "peer_untrusted"],
    ["the key of one", mallory.publicKey, {}, "peer_untrusted"],
  ];
  test.each(addressees)("%s: without a send", async (_, to, change, code) => {
    const { admission: _admission, ...stranger } = member({
      member_id: "member-3",
      pubkey: mallory.publicKey,
    });
    members.push({ ...stranger, display_name: "Mallory", ...change });
    expect<string>((await errorOf(cold({ to }))).code).toBe(code);
    expect(sends).toEqual([]);
  });

  test("a member whom the user trusts by hand is no stranger", async () => {
    const { admission: _, ...stranger } = member({ pubkey: mallory.publicKey, display_name: "Mallory" });
    members.push(stranger);
    await cold({ to: "mallory" }, configOf(membership(broker.url, { trustedKeys: [mallory.publicKey] })));
    expect(await opened(sends[0], mallory.publicKey, mallory.secretKey)).toMatchObject({ ok: true });
  });

  test("a message larger than the broker takes: with both sizes", async () => {
    const error = await errorOf(cold({ message: "x".repeat(70_000) }));
    expect(error).toMatchObject({ code: "message_too_large", details: { limit_bytes: 65_536 } });
    expect(sends).toEqual([]);
  });
});

describe("what the broker says", () => {
  test("a duplicate is accepted, and said to be one", async () => {
    ack = { code: "duplicate", messageId: "m-0", duplicate: true };
    expect(await cold({ client_message_id: "deploy-42" })).toMatchObject({
      duplicate: true,
      broker_message_id: "m-0",
    });
  });

  const refusals: [ack: Record<string, unknown>, code: string, message: string][] = [
    [{ code: "idempotency_key_reused" }, "idempotency_key_reused", "the id deploy-42 was already used"],
    [{ code: "held" }, "broker_refused", "it holds this destination"],
    [{ code: "rate_limited", error: "slow down" }, "broker_refused", "rate_limited: slow down"],
    [{ code: "busy" }, "broker_refused", "busy"],
    [{ code: "too_large" }, "broker_refused", "too_large"],
    [{ code: "refused", error: "blocked" }, "broker_refused", "refused: blocked"],
    [{ code: "quantum" }, "broker_refused", "quantum"],
    [{ code: "created" }, "broker_refused", "without naming the message"],
  ];
  test.each(refusals)("%j", async (answer, code, message) => {
    ack = answer;
    const error = await errorOf(cold({ client_message_id: "deploy-42" }));
    expect<string>(error.code).toBe(code);
    expect(error.message).toContain(message);
  });

  test("nothing, in time: the id is named, so that it can be repeated", async () => {
    ack = undefined;
    const error = await errorOf(cold({ client_message_id: "deploy-42" }, undefined, 200));
    expect(error.code).toBe("timed_out");
    expect(error.message).toContain("within 0.2 s; it may have it");
    expect(error.hint).toContain("--id deploy-42");
    await waitFor(() => broker.connections[0]?.closed, { what: "the connection to close" });
  });

  test("nothing, in time, of a message whose id nobody gave: the id that it had is named", async () => {
    ack = undefined;
    const error = await errorOf(cold({}, undefined, 200));
    expect(error.hint).toContain(`--id ${sends[0]?.id}`);
  });

  test("nothing, not even to the greeting", async () => {
    broker.script = () => undefined;
    expect((await errorOf(cold({}, undefined, 100))).code).toBe("timed_out");
    expect(sends).toEqual([]);
  });

  test("goodbye, in the middle", async () => {
    broker.script = greeting(claudemeshFeatures, (frame, connection) => {
      if (frame.type === "list_members")
        connection.send({ type: "members_list", _reqId: frame._reqId, members });
      if (frame.type === "send") connection.close(1001, "restarting");
    });
    const error = await errorOf(cold());
    expect(error.code).toBe("broker_unreachable");
    expect(error.message).toContain("restarting");
  });

  test("something else when asked for members", async () => {
    broker.script = greeting(claudemeshFeatures, (frame, connection) => {
      if (frame.type === "list_members") connection.send({ type: "ok", _reqId: frame._reqId });
    });
    expect((await errorOf(cold())).code).toBe("bad_gateway");
  });

  test("nothing at all: it is not there", async () => {
    const error = await errorOf(cold({}, configOf(membership(await deadUrl()))));
    expect(error.code).toBe("broker_unreachable");
  });
});
