/** What arrives: stored once, acknowledged after the commit and in order, and kept apart when it cannot be believed. */
import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { Inbound } from "~/daemon/inbound";
import { letterContent, type ProblemReason } from "~/identity/envelope";
import { generateKeyPair, type KeyPair, signText } from "~/identity/keys";
import { type ClientFrameInput, PushFrame, parseBrokerFrame } from "~/wire/broker";
import { problemRetriesMax } from "~/wire/limits";
import { encodeSealed } from "~/wire/sealed";
import { sessionAttestationText } from "~/wire/signed";
import { admit, openTestDaemon } from "../../support/daemon-parts";

async function openInbound() {
  const daemon = await openTestDaemon();
  const { parts, mesh, clock } = daemon;
  const session = parts.meshes.byId(mesh.meshId);
  if (session === undefined) throw new Error("no session");
  const bob = daemon.member("bob");
  daemon.list(bob);
  const frames: ClientFrameInput[] = [];
  const drops: string[] = [];
  let unknownSenders = 0;
  let storedSignals = 0;
  let ids = 0;
  const inbound = new Inbound({
    mesh,
    inbox: parts.inbox,
    writer: parts.inboxWriter,
    directory: session.directory,
    sealer: daemon.sealer,
    clock,
    newId: () => `in-${ids++}`,
    log: () => undefined,
    stored: () => storedSignals++,
    senderUnknown: () => unknownSenders++,
  });
  const connect = () =>
    inbound.open({ send: (frame) => frames.push(frame) > 0, drop: (why) => void drops.push(why) });

  /** A push as a broker that is honest would make it; `changes` make it lie. */
  function push(
    id: string,
    from: KeyPair = bob.keys,
    changes: Partial<PushFrame> = {},
    inside: Record<string, unknown> = {},
  ): PushFrame {
    const letter = {
      id,
      meshId: mesh.meshId,
      from: from.publicKey,
      to: mesh.pubkey,
      body: `body of ${id}`,
      meta: null,
      replyTo: null,
      agent: null,
      sentAt: "2025-06-15T15:06:40.000Z",
      expectsReply: false,
      ...inside,
    };
    const sealed = encodeSealed(daemon.sealer.seal(letterContent(letter, 2), from.secretKey, mesh.pubkey));
    return v.parse(PushFrame, {
      type: "push",
      messageId: `m-${id}`,
      meshId: mesh.meshId,
      senderPubkey: from.publicKey,
      senderMemberPubkey: from.publicKey,
      senderName: "whatever the broker says",
      priority: "next",
      ...sealed,
      createdAt: "2025-06-15T15:06:40.000Z",
      client_message_id: id,
      bodyVersion: 2,
      ...changes,
    });
  }
  async function settle(): Promise<void> {
    for (let turn = 0; turn < 10; turn++) {
      clock.advance(0);
      await Promise.resolve();
    }
  }
  const acked = () =>
    frames.map((frame) => (frame.type === "client_ack" ? frame.brokerMessageId : frame.type));
  const bodies = () => parts.inbox.list({ limit: 100 }).map((row) => row.body);
  const reasons = () => parts.inbox.problems(100).map((row) => row.reason);
  return {
    ...daemon,
    session,
    bob,
    inbound,
    connect,
    push,
    settle,
    acked,
    bodies,
    reasons,
    drops,
    counts: () => ({ unknownSenders, storedSignals }),
  };
}

type TestInbound = Awaited<ReturnType<typeof openInbound>>;

/** That `owner` let `who` in, as the broker shows it beside what somebody sent. */
const admitted = (d: TestInbound, who: KeyPair, owner = d.owner, meshId = d.mesh.meshId) =>
  admit(who.publicKey, { ...d.mesh, meshId }, owner, "A".repeat(43), d.clock.now());

test("a message of somebody who is in no list any more is mail when its admission proves that it was a member", async () => {
  const d = await openInbound();
  const former = generateKeyPair();
  const intake = d.connect();
  intake.take(d.push("x", former, { senderName: "carol", senderAdmission: admitted(d, former) }));
  await d.settle();
  expect([d.bodies(), d.reasons(), d.acked()]).toEqual([["body of x"], [], ["m-x"]]);
  expect(d.parts.inbox.list({ limit: 1 })[0]?.sender_name).toBe("carol");
  // To write to, it is nobody.
  expect(d.session.directory.resolve(former.publicKey)).toMatchObject({ kind: "unknown" });
});

test("messages are stored and acknowledged in the order of the pushes, after the commit", async () => {
  const d = await openInbound();
  const intake = d.connect();
  for (const id of ["a", "b", "c"]) intake.take(d.push(id));
  expect(d.acked()).toEqual([]);
  await d.settle();
  expect(d.acked()).toEqual(["m-a", "m-b", "m-c"]);
  expect(d.bodies()).toEqual(["body of a", "body of b", "body of c"]);
  expect(d.parts.inbox.list({ limit: 1 })[0]).toMatchObject({
    sender_name: "bob",
    broker_message_id: "m-a",
    read_at: null,
  });
});

test("the same message a hundred times is one row and a hundred acknowledgements", async () => {
  const d = await openInbound();
  const intake = d.connect();
  for (let n = 0; n < 100; n++) intake.take(d.push("a", d.bob.keys, { messageId: `m-${n}` }));
  await d.settle();
  expect(d.bodies()).toEqual(["body of a"]);
  expect(d.acked()).toHaveLength(100);
  expect(d.counts().storedSignals).toBe(1);
});

test("two senders may use the same id", async () => {
  const d = await openInbound();
  const carol = d.member("carol");
  d.list(d.bob, carol);
  const intake = d.connect();
  intake.take(d.push("deploy-42", d.bob.keys));
  intake.take(d.push("deploy-42", carol.keys, { messageId: "m-carol" }));
  await d.settle();
  expect(d.parts.inbox.list({ limit: 10 }).map((row) => row.sender_name)).toEqual(["bob", "carol"]);
});

describe("what cannot be believed is kept apart, acknowledged, and blocks nothing", () => {
  const stranger = generateKeyPair();
  const session = generateKeyPair();
  const attestation = (parent: KeyPair, expiresAt: number) => ({
    sessionPubkey: session.publicKey,
    parentMemberPubkey: parent.publicKey,
    expiresAt,
    signature: signText(
      sessionAttestationText(parent.publicKey, session.publicKey, expiresAt),
      parent.secretKey,
    ),
  });
  type Lie = (d: Awaited<ReturnType<typeof openInbound>>) => PushFrame;
  const lies: [string, ProblemReason, Lie][] = [
    ["sealed for somebody else", "does_not_open", (d) => d.push("x", d.bob.keys, { nonce: "A".repeat(32) })],
    [
      "said to come from another member",
      "does_not_open",
      (d) =>
        d.push("x", d.bob.keys, { senderPubkey: stranger.publicKey, senderMemberPubkey: stranger.publicKey }),
    ],
    [
      "renamed: another id outside than inside",
      "content_contradicts_frame",
      (d) => d.push("x", d.bob.keys, { client_message_id: "y" }),
    ],
    [
      "redirected: meant for somebody else",
      "content_contradicts_frame",
      (d) => d.push("x", d.bob.keys, {}, { to: stranger.publicKey }),
    ],
    [
      "carried over from another mesh",
      "content_contradicts_frame",
      (d) => d.push("x", d.bob.keys, {}, { meshId: "mesh-2" }),
    ],
    [
      "signed over to another sender inside",
      "content_contradicts_frame",
      (d) => d.push("x", d.bob.keys, {}, { from: stranger.publicKey }),
    ],
    [
      "relabelled as version 1",
      "content_contradicts_frame",
      (d) => d.push("x", d.bob.keys, { bodyVersion: 1 }),
    ],
    ["of a version to come", "unknown_body_version", (d) => d.push("x", d.bob.keys, { bodyVersion: 3 })],
    ["from a key that nobody let in", "sender_not_admitted", (d) => d.push("x", stranger)],
    [
      "from a key that nobody let in, with another one's admission",
      "sender_not_admitted",
      (d) => d.push("x", stranger, { senderAdmission: admitted(d, d.bob.keys) }),
    ],
    [
      "from a key that somebody else than the owner let in",
      "sender_not_admitted",
      (d) => d.push("x", stranger, { senderAdmission: admitted(d, stranger, stranger) }),
    ],
    [
      "from a key that was let into another mesh",
      "sender_not_admitted",
      (d) => d.push("x", stranger, { senderAdmission: admitted(d, stranger, d.owner, "another-mesh") }),
    ],
    [
      "from a session that no member vouches for",
      "session_not_attested",
      (d) => d.push("x", session, { senderMemberPubkey: d.bob.keys.publicKey }),
    ],
    [
      "from a session that somebody else vouches for",
      "session_not_attested",
      (d) =>
        d.push("x", session, {
          senderMemberPubkey: d.bob.keys.publicKey,
          senderAttestation: attestation(stranger, d.clock.now() + 1000),
        }),
    ],
    ["no base64 at all", "does_not_open", (d) => d.push("x", d.bob.keys, { ciphertext: "%%%" })],
    [
      "to a topic, which this version does not take",
      "unsupported_kind",
      (d) => d.push("x", d.bob.keys, { topic: "news" }),
    ],
  ];
  test.each(lies)("%s", async (_what, reason, lie) => {
    const d = await openInbound();
    const intake = d.connect();
    intake.take(lie(d));
    intake.take(d.push("honest"));
    await d.settle();
    expect(d.reasons()).toEqual([reason]);
    expect(d.acked()).toEqual(["m-x", "m-honest"]);
    expect(d.bodies()).toEqual(["body of honest"]);
    expect(d.drops).toEqual([]);
  });

  test("a message from an attested session counts as its member's", async () => {
    const d = await openInbound();
    const intake = d.connect();
    const vouched = {
      senderMemberPubkey: d.bob.keys.publicKey,
      senderAttestation: attestation(d.bob.keys, d.clock.now() + 1000),
    };
    intake.take(d.push("x", session, vouched, { from: d.bob.keys.publicKey }));
    await d.settle();
    expect(d.bodies()).toEqual(["body of x"]);
  });

  test("it does not take the id away from the message that it pretends to be", async () => {
    const d = await openInbound();
    const intake = d.connect();
    intake.take(d.push("x", d.bob.keys, { messageId: "m-forged", nonce: "A".repeat(32) }));
    intake.take(d.push("x"));
    await d.settle();
    expect(d.bodies()).toEqual(["body of x"]);
  });

  test("a frame of which only the message's name can be read is kept and acknowledged", async () => {
    const d = await openInbound();
    const parsed = parseBrokerFrame(
      JSON.stringify({ type: "push", messageId: "m-odd", meshId: "mesh-1", nonce: 7 }),
    );
    if (parsed.kind !== "bad_push") throw new Error(`parsed as ${parsed.kind}`);
    d.connect().takeMalformed(parsed.push.messageId, parsed.push);
    await d.settle();
    expect(d.reasons()).toEqual(["frame_malformed"]);
    expect(d.acked()).toEqual(["m-odd"]);
  });
});

test("a sender who was let in a moment ago: the message waits for the new list of members, in order", async () => {
  const d = await openInbound();
  const carol = d.member("carol");
  const intake = d.connect();
  intake.take(d.push("first", carol.keys));
  intake.take(d.push("second", carol.keys));
  await d.settle();
  expect(d.bodies()).toEqual([]);
  expect(d.counts().unknownSenders).toBe(2);
  d.list(d.bob, carol);
  const retried = d.inbound.retryProblems();
  await d.settle();
  expect(await retried).toBe(2);
  expect(d.bodies()).toEqual(["body of first", "body of second"]);
  expect(d.reasons()).toEqual([]);
});

test("a later message of a sender that is known by now does not overtake the ones that wait for it", async () => {
  const d = await openInbound();
  const carol = d.member("carol");
  const intake = d.connect();
  intake.take(d.push("first", carol.keys));
  await d.settle();
  d.list(d.bob, carol);
  // Nobody has tried the stored ones again yet: that may fail, or come too late.
  intake.take(d.push("second", carol.keys));
  await d.settle();
  expect(d.bodies()).toEqual(["body of first", "body of second"]);
});

test("readers are told of a message that was kept as a problem and comes again when its sender is known", async () => {
  const d = await openInbound();
  const carol = d.member("carol");
  const intake = d.connect();
  const push = d.push("first", carol.keys);
  intake.take(push);
  await d.settle();
  d.list(d.bob, carol);
  intake.take(push);
  await d.settle();
  expect(d.bodies()).toEqual(["body of first"]);
  expect(d.counts().storedSignals).toBe(1);
});

test("problems that nothing will ever solve do not keep one from its turn", async () => {
  const d = await openInbound();
  const carol = d.member("carol");
  for (let n = 0; n < problemRetriesMax + 10; n++) {
    const { messageId, ...push } = d.push("x", d.bob.keys, { messageId: `m-topic-${n}`, topic: "news" });
    d.parts.inbox.insertProblem({
      id: `p-${n}`,
      mesh: d.mesh.meshId,
      broker_message_id: messageId,
      sender_pubkey: d.bob.keys.publicKey,
      sender_name: null,
      client_message_id: null,
      reason: "unsupported_kind",
      push: JSON.stringify({ ...push, messageId }),
      received_at: 0,
    });
  }
  d.connect().take(d.push("first", carol.keys));
  await d.settle();
  d.list(d.bob, carol);
  expect(await d.until(d.inbound.retryProblems())).toBe(1);
  expect(d.bodies()).toEqual(["body of first"]);
});

describe("a push that cannot be stored", () => {
  const failOn =
    "CREATE TRIGGER full BEFORE INSERT ON inbox WHEN NEW.client_message_id = 'b' BEGIN SELECT raise(ABORT, 'disk full'); END";

  test("ends the connection, and none after it is taken: nothing overtakes it", async () => {
    const d = await openInbound();
    d.parts.inbox.db.run(failOn);
    const intake = d.connect();
    for (const id of ["a", "b", "c"]) intake.take(d.push(id));
    await d.settle();
    intake.take(d.push("d"));
    await d.settle();
    expect(d.acked()).toEqual(["m-a"]);
    expect(d.bodies()).toEqual(["body of a"]);
    expect(d.drops).toEqual(["an arriving message could not be stored"]);
  });

  test("comes again on the next connection", async () => {
    const d = await openInbound();
    d.parts.inbox.db.run(failOn);
    const first = d.connect();
    first.take(d.push("b"));
    await d.settle();
    d.parts.inbox.db.run("DROP TRIGGER full");
    const second = d.connect();
    for (const id of ["b", "c"]) second.take(d.push(id));
    await d.settle();
    expect(d.bodies()).toEqual(["body of b", "body of c"]);
  });
});

test("what is still on its way when the connection closes is neither stored nor acknowledged", async () => {
  const d = await openInbound();
  const intake = d.connect();
  intake.take(d.push("a"));
  intake.close();
  await d.settle();
  expect(d.acked()).toEqual([]);
  expect(d.bodies()).toEqual([]);
});

test("a broker that pushes without end is cut off", async () => {
  const d = await openInbound();
  const intake = d.connect();
  const push = d.push("a");
  for (let n = 0; n < 1100; n++) intake.take(push);
  expect(d.drops).toHaveLength(1);
  await d.settle();
});

describe("what arrived is counted", () => {
  const countsOf = ({ inbound: { arrivals } }: Awaited<ReturnType<typeof openInbound>>) =>
    Object.fromEntries(
      [...arrivals.messages.entries(), ...arrivals.problems.entries()].filter(([, count]) => count > 0),
    );

  test("once it is on disk: new messages, known ones, and each problem by its reason", async () => {
    const d = await openInbound();
    const intake = d.connect();
    const stranger = d.member("stranger");
    const problem = d.push("b", d.bob.keys, { bodyVersion: 9 });
    intake.take(d.push("a"));
    expect(countsOf(d)).toEqual({});
    await d.settle();
    expect(countsOf(d)).toEqual({ new: 1 });
    intake.take(d.push("a", d.bob.keys, { messageId: "m-again" }));
    for (const push of [problem, problem]) intake.take(push);
    intake.take(d.push("c", stranger.keys));
    intake.takeMalformed("m-x", {});
    await d.settle();
    const problems = { unknown_body_version: 1, sender_not_admitted: 1, frame_malformed: 1 };
    expect(countsOf(d)).toEqual({ new: 1, duplicate: 1, ...problems });
    d.list(d.bob, stranger);
    expect(await d.until(d.inbound.retryProblems())).toBe(1);
    expect(countsOf(d)).toEqual({ new: 2, duplicate: 1, ...problems });
  });

  test("and not what the disk did not take", async () => {
    const d = await openInbound();
    d.parts.inbox.db.run("PRAGMA query_only = 1");
    d.connect().take(d.push("a"));
    await d.settle();
    expect(countsOf(d)).toEqual({});
    d.parts.inbox.db.run("PRAGMA query_only = 0");
    d.connect().take(d.push("a"));
    await d.settle();
    expect(countsOf(d)).toEqual({ new: 1 });
  });
});
