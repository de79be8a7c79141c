/** The frames between daemon and broker: every type in both directions, and what becomes of everything else. */
import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import {
  ackCodes,
  ClientFrame,
  type ClientFrameInput,
  Features,
  type ParsedBrokerFrame,
  parseBrokerFrame,
  SealedBody,
} from "~/wire/broker";
import { encodeInviteLink, httpUrlOf, inviteLinkPrefix, JoinRequestV3 } from "~/wire/membership";
import { cryptoVectors } from "../../vectors/vectors";

const alice = cryptoVectors.alice.public_hex;
const bob = cryptoVectors.bob.public_hex;
const signature = cryptoVectors.hello.signature_hex;
const nonce = "A".repeat(32);
const [box] = cryptoVectors.box_alice_to_bob;
const ciphertext = box?.ciphertext_base64 ?? "";

const parse = (frame: unknown): ParsedBrokerFrame => parseBrokerFrame(JSON.stringify(frame));

const attestation = {
  sessionPubkey: bob,
  parentMemberPubkey: alice,
  expiresAt: 1_750_000_000_000,
  signature,
};
const push = {
  type: "push",
  messageId: "01JC0000000000000000000001",
  meshId: "mesh-1",
  senderPubkey: alice,
  nonce,
  ciphertext,
};

describe("from the broker", () => {
  const frames: Record<string, unknown>[] = [
    { type: "hello_ack" },
    { type: "hello_ack", presenceId: "p", memberDisplayName: "bob", features: { lanes: { version: 1 } } },
    { type: "hello_ack", features: { from_the_future: [1, 2, { deep: true }] } },
    { type: "error", code: "clock_skew", message: "your clock is wrong" },
    { type: "error", code: "what_is_this", message: "", _reqId: "7" },
    { type: "ack", id: "a", messageId: "m", queued: true },
    { type: "ack", id: "a", messageId: null, queued: false, error: "rate_limit exceeded" },
    { type: "ack", id: "a", messageId: "m", error: null },
    ...ackCodes.map((code) => ({ type: "ack", id: "a", client_message_id: "a", code })),
    { type: "ack", client_message_id: "a", code: "a code of tomorrow", retry_after_ms: 1500 },
    {
      type: "ack",
      id: "a",
      messageId: "m",
      duplicate: true,
      history_available: false,
      first_seen_at: "2025-06-15T15:06:40.000Z",
      broker_fingerprint_prefix: "0011223344556677",
    },
    { type: "members_list", members: [] },
    {
      type: "members_list",
      _reqId: "1",
      members: [
        {
          member_id: "member-1",
          pubkey: alice,
          display_name: "alice",
          role: "owner",
          capabilities: ["body2"],
          joined_at: "2025-06-15T15:06:40.000Z",
          online: true,
        },
        {
          member_id: "member-2",
          pubkey: bob,
          display_name: "bob",
          role: "member",
          capabilities: [],
          joined_at: "2025-06-15T15:06:40.000Z",
          last_seen_at: "2025-06-15T15:06:40.000Z",
          online: false,
          admission: { invite: "3|…", signature, join: "claudemesh-join|…", proof: signature },
        },
      ],
      next: "member-2",
    },
    { type: "invite_created", _reqId: "1", invite_id: "i" },
    { type: "invite_revoked", _reqId: "1", invite_id: "i" },
    { type: "member_removed", _reqId: "1", pubkey: bob, revoked_invites: 3 },
    { type: "ok" },
    { type: "ok", _reqId: "1" },
    { type: "peers_list", peers: [] },
    { ...push, priority: "now" },
    {
      ...push,
      priority: "low",
      subtype: "reminder",
      senderMemberPubkey: bob,
      senderMemberId: "member-2",
      senderName: "bob",
      topic: "alerts",
      replyToId: "r",
      createdAt: "2025-06-15T15:06:40.000Z",
      client_message_id: "key-1",
      request_fingerprint: "ab".repeat(32),
      bodyVersion: 2,
      senderAttestation: attestation,
    },
    { ...push, priority: "next", replyToId: null, bodyVersion: 99 },
    { type: "push", subtype: "system", event: "peer_joined" },
    { type: "push", subtype: "system", meshId: "mesh-1", event: "peer_left", eventData: { pubkey: bob } },
  ];
  test.each(frames.map((frame) => [frame.type, frame] as const))("%s is read as it is", (_, frame) => {
    const parsed = parse(frame);
    if (parsed.kind !== "frame") throw new Error(JSON.stringify(parsed));
    // A null says nothing that its absence does not.
    const present = Object.fromEntries(Object.entries(frame).filter(([, field]) => field !== null));
    expect<unknown>(parsed.frame).toEqual(present);
  });

  test("fields that nobody knows are ignored, wherever they stand", () => {
    expect(parse({ type: "ok", _reqId: "1", tomorrow: { a: 1 } })).toEqual({
      kind: "frame",
      frame: { type: "ok", _reqId: "1" },
    });
    const list = parse({
      type: "peers_list",
      peers: [{ pubkey: bob, displayName: "bob", tomorrow: 1, groups: ["a", { name: "b" }] }],
    });
    expect(list).toEqual({
      kind: "frame",
      frame: {
        type: "peers_list",
        peers: [{ pubkey: bob, displayName: "bob", status: "idle", groups: ["a", { name: "b" }] }],
      },
    });
  });

  test("what an older broker leaves out is filled in", () => {
    expect(parse(push)).toEqual({ kind: "frame", frame: expect.objectContaining({ priority: "next" }) });
    const odd = { ...push, priority: "high", senderName: null, topic: null };
    expect(parse(odd)).toEqual({ kind: "frame", frame: expect.objectContaining({ priority: "next" }) });
    expect(parse({ type: "member_removed", pubkey: bob })).toEqual({
      kind: "frame",
      frame: { type: "member_removed", pubkey: bob, revoked_invites: 0 },
    });
  });

  test("a type that nobody knows is told apart from a mistake", () => {
    expect(parse({ type: "from_the_future", messageId: 1 })).toEqual({
      kind: "unknown",
      type: "from_the_future",
    });
    // The daemon's own frames are none of the broker's.
    for (const type of ["hello", "send", "client_ack", "list_members"])
      expect(parse({ type }).kind).toBe("unknown");
    for (const type of ["__proto__", "constructor", "toString", "hasOwnProperty", "", "PUSH", "push "])
      expect(parse({ type })).toEqual({ kind: "unknown", type });
  });

  const garbage: Record<string, string> = {
    "nothing at all": "",
    "no JSON": "hello",
    "half of a frame": '{"type":"ok"',
    "two frames": '{"type":"ok"}{"type":"ok"}',
    "a number": "1",
    null: "null",
    text: '"ok"',
    "a list": '[{"type":"ok"}]',
    "an object without a type": "{}",
    "a type that is no text": '{"type":1}',
    "a type that is null": '{"type":null}',
    "a type in a list": '{"type":["ok"]}',
    "a type that only the prototype has": '{"__proto__":{"type":"ok"}}',
    "a million brackets": "[".repeat(1_000_000),
    "an ack whose id is a number": '{"type":"ack","id":1}',
    "an ack whose error is an object": '{"type":"ack","id":"a","error":{}}',
    "an ack that asks to wait a negative time": '{"type":"ack","id":"a","retry_after_ms":-1}',
    "an error without a code": '{"type":"error","message":"x"}',
    "a list of members that is no list": '{"type":"members_list","members":{}}',
    "a count with lost digits": `{"type":"member_removed","pubkey":"${bob}","revoked_invites":9007199254740993}`,
    "an answer to an overlong request": JSON.stringify({ type: "ok", _reqId: "a".repeat(129) }),
    "a push without anything": '{"type":"push"}',
    "a push whose message has no name": JSON.stringify({ ...push, messageId: undefined }),
    "a push whose message has an empty name": JSON.stringify({ ...push, messageId: "" }),
    "a push whose message is named by a number": JSON.stringify({ ...push, messageId: 1 }),
    "a push whose message has an overlong name": JSON.stringify({ ...push, messageId: "a".repeat(129) }),
    "a push whose message has a name that cannot be signed": JSON.stringify({ ...push, messageId: "a|b" }),
    "a push without a mesh": JSON.stringify({ ...push, meshId: undefined }),
    "a push with a time that is no text": JSON.stringify({ ...push, createdAt: 1 }),
    "a system push without an event": '{"type":"push","subtype":"system"}',
    "a system push with data that is no object":
      '{"type":"push","subtype":"system","event":"a","eventData":1}',
  };
  test.each(Object.entries(garbage))("%s is bad, and says why", (_, text) => {
    const parsed = parseBrokerFrame(text);
    if (parsed.kind !== "bad") throw new Error(`it is ${JSON.stringify(parsed)}`);
    expect(parsed.why).not.toBe("");
  });

  test("a list goes without the entries that do not fit, and with all the others", () => {
    const fits = { pubkey: bob, displayName: "bob" };
    const peers = [{ pubkey: "ab", displayName: "x" }, fits, null, 7, { ...fits, displayName: undefined }];
    expect(parse({ type: "peers_list", peers })).toEqual({
      kind: "frame",
      frame: { type: "peers_list", peers: [{ ...fits, status: "idle" }] },
    });
    const member = {
      member_id: "m",
      pubkey: bob,
      display_name: "b",
      role: "member",
      capabilities: [],
      joined_at: "",
      online: true,
    };
    const members = [{ ...member, role: "god" }, member];
    expect<unknown>(parse({ type: "members_list", members })).toEqual({
      kind: "frame",
      frame: { type: "members_list", members: [member] },
    });
  });

  test("what is wrong is said with the frame and the field", () => {
    expect(parse({ type: "ack", id: 1 })).toEqual({
      kind: "bad",
      why: expect.stringMatching(/^ack: id: /),
    });
  });

  const badPushes: Record<string, Record<string, unknown>> = {
    "no sender": { senderPubkey: undefined },
    "a sender that is no key": { senderPubkey: "bob" },
    "a sender in capitals": { senderPubkey: alice.toUpperCase() },
    "a member key that is none": { senderMemberPubkey: "x" },
    "no nonce": { nonce: undefined },
    "a nonce that is no text": { nonce: 1 },
    "no ciphertext": { ciphertext: undefined },
    "a kind of push that nobody knows": { subtype: "tomorrow" },
    "an id that is none": { client_message_id: "-x" },
    "a body version that is text": { bodyVersion: "2" },
    "an attestation without a signature": { senderAttestation: { ...attestation, signature: undefined } },
    "an attestation that never ends": { senderAttestation: { ...attestation, expiresAt: 1e300 } },
  };
  test.each(Object.entries(badPushes))("a push with %s keeps the name of its message", (_, change) => {
    const parsed = parse({ ...push, ...change });
    expect(parsed).toEqual({
      kind: "bad_push",
      // All of it, so that a later version may open it.
      push: JSON.parse(JSON.stringify({ ...push, ...change })),
      why: expect.stringMatching(/^push: \S/),
    });
  });

  test("nothing in a frame reaches a prototype", () => {
    const parsed = parseBrokerFrame(
      '{"type":"hello_ack","__proto__":{"evil":1},"constructor":{"prototype":{"evil":1}},' +
        '"features":{"__proto__":{"evil":1},"lanes":{"version":1}}}',
    );
    if (parsed.kind !== "frame" || parsed.frame.type !== "hello_ack") throw new Error(parsed.kind);
    expect(Reflect.get(parsed.frame, "evil")).toBeUndefined();
    expect(Reflect.get(parsed.frame.features ?? {}, "evil")).toBeUndefined();
    expect(v.parse(Features, parsed.frame.features)).toEqual({ lanes: { version: 1 } });
    expect(Reflect.get({}, "evil")).toBeUndefined();
  });

  test("numbers that JSON has and we do not", () => {
    const parsed = parseBrokerFrame('{"type":"ack","id":"a","code":"busy","retry_after_ms":1e400}');
    // Infinity is a number; whoever waits has a bound of its own.
    expect(parsed).toMatchObject({ kind: "frame", frame: { retry_after_ms: Number.POSITIVE_INFINITY } });
    expect(parse({ ...push, bodyVersion: 1e300 })).toMatchObject({ kind: "frame" });
  });
});

describe("from the member", () => {
  const hello = {
    type: "hello",
    meshId: "mesh-1",
    memberId: "member-1",
    pubkey: alice,
    timestamp: 1_750_000_000_000,
    signature,
  } as const;
  const send = { type: "send", id: "key-1", targetSpec: bob, nonce, ciphertext } as const;
  const invite = {
    type: "create_invite",
    invite_id: "i",
    invite_public_key: bob,
    role: "member",
    expires_at: 1_800_000_000,
    max_uses: 1,
    mesh_slug: "team",
    broker_url: "ws://h/ws",
    root_key_sha256: "ab".repeat(32),
    signature,
  } as const;

  const whole: ClientFrameInput[] = [
    {
      ...hello,
      protocolVersion: 1,
      capabilities: ["body2"],
      displayName: "alice",
      sessionId: "s",
      pid: 1,
      cwd: "/",
      hostname: "h",
      peerType: "connector",
      channel: "claudemesh-daemon",
      model: "m",
      groups: [{ name: "g", role: "r" }, { name: "h" }],
    },
    { type: "session_hello", ...sessionHello() },
    {
      ...send,
      client_message_id: "key-1",
      request_fingerprint: "ab".repeat(32),
      priority: "now",
      replyToId: "r",
      bodyVersion: 2,
    },
    { type: "client_ack", clientMessageId: "a", brokerMessageId: "m" },
    { type: "list_peers", _reqId: "1" },
    { type: "list_members", _reqId: "1", after: "member-1" },
    { type: "set_status", _reqId: "1", status: "dnd" },
    { type: "set_summary", _reqId: "1", summary: "" },
    { type: "set_visible", _reqId: "1", visible: false },
    {
      type: "set_profile",
      _reqId: "1",
      avatar: "a",
      title: "t",
      bio: "multi\nline",
      capabilities: ["review"],
    },
    { ...invite, _reqId: "1" },
    { type: "revoke_invite", _reqId: "1", invite_id: "i" },
    { type: "remove_member", _reqId: "1", pubkey: bob },
  ];

  function sessionHello() {
    return {
      protocolVersion: 1,
      capabilities: [],
      meshId: "mesh-1",
      parentAttestation: attestation,
      timestamp: 1_750_000_000_000,
      signature,
    };
  }

  test("there is an example of every type here", () => {
    const known = ClientFrame.options.map((option) => option.entries.type.literal);
    expect<string[]>(whole.map((frame) => frame.type).sort()).toEqual([...known].sort());
  });

  for (const frame of whole) {
    test(`${frame.type} comes out of the wire as it went in`, () => {
      expect<unknown>(v.parse(ClientFrame, JSON.parse(JSON.stringify(frame)))).toEqual(frame);
    });
    test(`${frame.type} may hold fields that nobody knows`, () => {
      expect<unknown>(v.parse(ClientFrame, { ...frame, tomorrow: 1 })).toEqual(frame);
    });
  }

  test("what an older host leaves out is filled in", () => {
    expect(v.parse(ClientFrame, hello)).toMatchObject({ capabilities: [] });
    expect(v.parse(ClientFrame, send)).toMatchObject({ priority: "next" });
  });

  const refused: Record<string, unknown> = {
    "no type": {},
    "a type of the broker": { type: "hello_ack" },
    "a type that nobody knows": { type: "dance" },
    "a hello without a key": { ...hello, pubkey: undefined },
    "a hello in another mesh's spelling": { ...hello, meshId: "a|b" },
    "a hello with a member id that cannot be signed": { ...hello, memberId: "a\nb" },
    "a hello at no time": { ...hello, timestamp: -1 },
    "a hello at a time of lost digits": { ...hello, timestamp: 2 ** 53 },
    "a hello at a time in text": { ...hello, timestamp: "1750000000000" },
    "a hello without a signature": { ...hello, signature: undefined },
    "a hello with a name that looks like an address": { ...hello, displayName: "@all" },
    "a hello of nobody's kind": { ...hello, peerType: "robot" },
    "a hello with a path without end": { ...hello, cwd: "a".repeat(4097) },
    "a hello with too many groups": { ...hello, groups: Array(33).fill({ name: "g" }) },
    "a hello with too many capabilities": { ...hello, capabilities: Array(33).fill("c") },
    "a hello with half a process": { ...hello, pid: 1.5 },
    "a session without its parent": { type: "session_hello", ...sessionHello(), parentAttestation: null },
    "a send to nobody": { ...send, targetSpec: "" },
    "a send to somebody without end": { ...send, targetSpec: "a".repeat(257) },
    "a send under a name that is none": { ...send, id: "a b" },
    "a send with a short nonce": { ...send, nonce: "AAAA" },
    "a send with a ciphertext in base64url": { ...send, ciphertext: "-_" },
    "a send of a body that nobody knows": { ...send, bodyVersion: 3 },
    "a send with a priority that is none": { ...send, priority: "urgent" },
    "a send with half a fingerprint": { ...send, request_fingerprint: "ab".repeat(16) },
    "a reply to what cannot be named": { ...send, replyToId: "a|b" },
    "an acknowledgement of nothing": { type: "client_ack" },
    "an acknowledgement of a number": { type: "client_ack", brokerMessageId: 1 },
    "a status that is none": { type: "set_status", status: "away" },
    "a summary that is too long": { type: "set_summary", summary: "a".repeat(501) },
    "a visibility in text": { type: "set_visible", visible: "yes" },
    "a profile with a title that is too long": { type: "set_profile", title: "a".repeat(101) },
    "a profile with a life that is too long": { type: "set_profile", bio: "a".repeat(2001) },
    "a profile with a picture that is too long": { type: "set_profile", avatar: "a".repeat(501) },
    "an invite for an owner": { ...invite, role: "owner" },
    "an invite for nobody": { ...invite, max_uses: 0 },
    "an invite for half of somebody": { ...invite, max_uses: 1.5 },
    "an invite for everybody": { ...invite, max_uses: 10_001 },
    "an invite with a slug that cannot be signed": { ...invite, mesh_slug: "a|b" },
    "an invite to a page": { ...invite, broker_url: "http://h/" },
    "an invite that ended before 1970": { ...invite, expires_at: -1 },
    "a member that is no key": { type: "remove_member", pubkey: "bob" },
    "an overlong request id": { type: "list_peers", _reqId: "a".repeat(129) },
    "a request id that is a number": { type: "list_peers", _reqId: 1 },
  };
  test.each(Object.entries(refused))("%s is refused", (_, frame) => {
    expect(v.safeParse(ClientFrame, frame).success).toBe(false);
  });

  test("the ends of every range are taken", () => {
    const taken: unknown[] = [
      { ...hello, cwd: "a".repeat(4096), groups: Array(32).fill({ name: "g" }) },
      { ...hello, capabilities: Array(32).fill("c"), timestamp: 0 },
      { ...send, targetSpec: "a".repeat(256), bodyVersion: 1 },
      { type: "set_summary", summary: "a".repeat(500) },
      { ...invite, max_uses: 10_000, expires_at: 0 },
    ];
    for (const frame of taken) expect(v.safeParse(ClientFrame, frame).success).toBe(true);
  });
});

describe("features", () => {
  const good: Record<string, unknown> = {
    none: {},
    "permanent dedupe": {
      client_message_id_dedupe: { version: 1, mode: "permanent", request_fingerprint: true },
    },
    "dedupe for some days": {
      client_message_id_dedupe: {
        version: 1,
        mode: "retention_scoped",
        dedupe_retention_days: 30,
        request_fingerprint: true,
      },
    },
    "all the others": {
      max_payload: { version: 1, inline_bytes: 1 },
      lanes: { version: 1 },
      members: { version: 1 },
      receipts: { version: 1 },
      queues: { version: 1 },
      concurrent_connection_policy: { version: 1, default_policy: "prefer_newest" },
    },
  };
  test.each(Object.entries(good))("%s", (_, features) => {
    expect<unknown>(v.parse(Features, features)).toEqual(features);
  });

  const dedupe = { version: 1, mode: "permanent", request_fingerprint: true };
  const bad: Record<string, unknown> = {
    "another version": { lanes: { version: 2 } },
    "a version in text": { lanes: { version: "1" } },
    "no version": { lanes: {} },
    "a word instead": { lanes: true },
    "dedupe of another kind": { client_message_id_dedupe: { ...dedupe, mode: "sometimes" } },
    "dedupe without fingerprints": { client_message_id_dedupe: { ...dedupe, request_fingerprint: false } },
    "dedupe for half a day": { client_message_id_dedupe: { ...dedupe, dedupe_retention_days: 0.5 } },
    "dedupe for no day": { client_message_id_dedupe: { ...dedupe, dedupe_retention_days: 0 } },
    "no room at all": { max_payload: { version: 1, inline_bytes: 0 } },
    "room for half a byte": { max_payload: { version: 1, inline_bytes: 0.5 } },
    "a policy that is none": { concurrent_connection_policy: { version: 1, default_policy: "fight" } },
  };
  test.each(Object.entries(bad))("not %s", (_, features) => {
    expect(v.safeParse(Features, features).success).toBe(false);
  });
});

describe("sealed content", () => {
  const content = JSON.parse(cryptoVectors.body2_alice_to_bob.plaintext_json);

  test("as in the vectors", () => {
    expect(v.parse(SealedBody, content)).toEqual(content);
  });
  test.each(["v", "id", "mesh", "from", "to", "body", "sent_at"])("is nothing without %s", (field) => {
    expect(v.safeParse(SealedBody, { ...content, [field]: undefined }).success).toBe(false);
  });
  const bad: Record<string, unknown> = {
    "another version": { v: 3 },
    "a version in text": { v: "2" },
    "an id that is none": { id: "-" },
    "a sender that is no key": { from: "alice" },
    "meta that is a list": { meta: [] },
    "a reply to nobody": { reply_to: { id: "a" } },
    "an agent that is no name": { agent: 1 },
    "a wish for an answer that is no yes or no": { expects_reply: "yes" },
  };
  test.each(Object.entries(bad))("not with %s", (_, change) => {
    expect(v.safeParse(SealedBody, { ...content, ...(change as object) }).success).toBe(false);
  });
});

describe("over HTTP", () => {
  test("the routes are on the origin of the WebSocket", () => {
    expect(httpUrlOf("ws://h:7900/ws", "/join")).toBe("http://h:7900/join");
    expect(httpUrlOf("wss://h/deep/path?x=1", "/meshes")).toBe("https://h/meshes");
    expect(httpUrlOf("ws://[::1]:7900", "/health")).toBe("http://[::1]:7900/health");
  });

  test("a request to join names what it does not know", () => {
    const join = {
      v: 3,
      invite_id: "i",
      peer_pubkey: bob,
      display_name: "bob",
      timestamp: 1,
      proof: signature,
    };
    expect(v.safeParse(JoinRequestV3, join).success).toBe(true);
    expect(v.safeParse(JoinRequestV3, { ...join, role: "owner" }).success).toBe(false);
    expect(v.safeParse(JoinRequestV3, { ...join, v: 1 }).success).toBe(false);
  });

  test("an invite link is the invite in base64url", () => {
    const invite = {
      v: 1,
      mesh_id: "m",
      mesh_slug: "é",
      broker_url: "ws://h/ws",
      expires_at: 1,
      mesh_root_key: "A".repeat(43),
      role: "member",
      owner_pubkey: alice,
      signature,
    } as const;
    const link = encodeInviteLink(invite);
    expect(link).toMatch(/^ic:\/\/join\/[A-Za-z0-9_-]+$/);
    expect(
      JSON.parse(Buffer.from(link.slice(inviteLinkPrefix.length), "base64url").toString("utf8")),
    ).toEqual(invite);
  });
});
