/**
 * Every answer of the broker has a code, and every code that stands in its sources is driven here: whoever adds a refusal adds a
 * row. What matters to a client is that it never has to read a sentence to know what to do.
 */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { ConnectionId } from "~/broker/connections";
import { createMesh } from "~/broker/membership";
import type { Settings } from "~/broker/settings";
import { MeshError } from "~/errors";
import { generateKeyPair } from "~/identity/keys";
import { ackCodes, type ClientFrameInput } from "~/wire/broker";
import type { InviteV3 } from "~/wire/membership";
import { inviteTo, registrationOf } from "../../support/broker";
import { helloOf, sendOf, strangerTo, type TestMember } from "../../support/broker-client";
import { arrivalOf, Bench, type SentFrame } from "./bench";

/** A mesh of alice and dave, an admin, who are connected, and bob, who is not. Limits are small enough to be met. */
class Stage {
  readonly bench: Bench;
  readonly bob: TestMember;
  readonly dave: TestMember;
  readonly alice: ConnectionId;

  constructor(settings: Partial<Settings>) {
    this.bench = new Bench(
      {
        inlineBytes: 64,
        queuedPerRecipientMax: 1,
        sendsPerRateWindowMax: 2,
        sendOnlyPerMemberMax: 1,
        concurrentPerMemberMax: 1,
        connectionsPerBrokerMax: 6,
        hellosRememberedPerMemberMax: 3,
        openInvitesPerMeshMax: 2,
        meshesPerBrokerMax: 1,
        membersPerMeshMax: 4,
      },
      settings,
    );
    this.bob = this.bench.addMember("bob");
    this.dave = this.bench.addMember("dave", "admin");
    this.bench.clock.advance(600_000);
    this.alice = this.bench.connect(this.bench.mesh.owner);
  }

  get bobKey(): string {
    return this.bob.keys.publicKey;
  }

  /** What alice is answered to the last of these. */
  asAlice(...frames: (ClientFrameInput | string)[]): SentFrame[] {
    let answers: SentFrame[] = [];
    for (const frame of frames) answers = this.bench.send(this.alice, frame);
    return answers;
  }

  as(member: TestMember, ...frames: ClientFrameInput[]): SentFrame[] {
    return this.bench.send(this.bench.connect(member), ...frames);
  }

  /** What a new connection is answered that says this first. */
  first(...frames: (ClientFrameInput | string)[]): SentFrame[] {
    return this.bench.send(this.bench.open(), ...frames);
  }

  greet(member: TestMember, changes = {}): SentFrame[] {
    return this.first(this.bench.hello(member, changes));
  }

  /** What alice is answered when the batch with these could not be stored. */
  lost(...frames: ClientFrameInput[]): SentFrame[] {
    this.bench.lose(frames.map((frame) => arrivalOf(this.alice, frame)));
    return this.bench.taken(this.alice);
  }

  invite(changes = {}): InviteV3 {
    const expires_at = Math.floor(this.bench.clock.now() / 1000) + 3600;
    return inviteTo(this.bench.mesh, { expires_at, ...changes });
  }

  /** Why nobody joins with this invite. */
  refusedJoin(invite: InviteV3, timestamp?: number): MeshError {
    const joined = this.bench.join(invite, "eve", this.bench.mesh, generateKeyPair(), timestamp);
    if (joined instanceof MeshError) return joined;
    throw new Error("eve joined");
  }
}

const bytes = (count: number) => ({ ciphertext: Buffer.alloc(count).toString("base64") });
const cold = { capabilities: ["send_only"] };

type Row = [
  code: string,
  what: string,
  drive: (stage: Stage) => SentFrame[] | MeshError,
  settings?: Partial<Settings>,
];

const acks: Row[] = [
  ["created", "a message", (s) => s.asAlice(sendOf(s.bobKey))],
  [
    "duplicate",
    "the same again",
    (s) => {
      const frame = sendOf(s.bobKey);
      return s.asAlice(frame, frame);
    },
  ],
  [
    "idempotency_key_reused",
    "another",
    (s) => s.asAlice(sendOf(s.bobKey, { id: "x" }), sendOf(s.bobKey, { id: "x" })),
  ],
  [
    "unauthorized",
    "one who was removed in the same batch",
    (s) => {
      const dave = s.bench.connect(s.dave);
      s.bench.commit([
        arrivalOf(s.alice, { type: "remove_member", pubkey: s.dave.keys.publicKey }),
        arrivalOf(dave, sendOf(s.bobKey)),
      ]);
      return s.bench.taken(dave, ({ type }) => type === "ack");
    },
  ],
  ["malformed", "no base64", (s) => s.asAlice(sendOf(s.bobKey, { ciphertext: "abc" }))],
  ["malformed", "two ids", (s) => s.asAlice({ ...sendOf(s.bobKey), id: "one", client_message_id: "two" })],
  ["malformed", "a field that does not fit", (s) => s.asAlice(sendOf(s.bobKey, { nonce: "x" }))],
  ["too_large", "a large one", (s) => s.asAlice(sendOf(s.bobKey, bytes(65)))],
  ["busy", "a full queue", (s) => s.asAlice(sendOf(s.bobKey), sendOf(s.bobKey))],
  ["held", "behind a refused one", (s) => s.asAlice(...[1, 2, 3].map(() => sendOf(s.bobKey)))],
  ["rate_limited", "too many", (s) => s.asAlice(sendOf("*"), sendOf("*"), sendOf(s.bobKey))],
  ...["*", "@topic", "#id", "queue:q", "f".repeat(64)].map(
    (target): Row => ["unknown_destination", target, (s) => s.asAlice(sendOf(target))],
  ),
  ["unknown_destination", "oneself", (s) => s.asAlice(sendOf(s.bench.mesh.owner.keys.publicKey))],
  [
    "unknown_destination",
    "one who was removed",
    (s) => s.asAlice({ type: "remove_member", pubkey: s.bobKey }, sendOf(s.bobKey)),
  ],
  ["internal", "a lost batch", (s) => s.lost(sendOf(s.bobKey))],
  [
    "malformed",
    "a faulty one in a lost batch",
    (s) => s.lost({ ...sendOf(s.bobKey), id: "one", client_message_id: "two" }),
  ],
  [
    "internal",
    "a fault of the broker's own",
    (s) => {
      s.bench.store.acceptedBefore = () => {
        throw new Error("a bug");
      };
      return s.asAlice(sendOf(s.bobKey));
    },
  ],
];

const helloErrors: Row[] = [
  ["malformed", "garbage", (s) => s.first("garbage")],
  ["malformed", "another frame", (s) => s.first({ type: "list_peers" })],
  ["unknown_message_type", "an unknown frame", (s) => s.first('{"type":"greetings"}')],
  ["unsupported_hello", "a session's", (s) => s.first(sessionHello(s))],
  ["unsupported_protocol", "another version", (s) => s.greet(s.bob, { protocolVersion: 2 })],
  ["unknown_mesh", "another mesh", (s) => s.greet({ ...s.bob, meshId: "elsewhere" })],
  ["not_a_member", "a stranger", (s) => s.greet(strangerTo(s.bench.mesh.meshId))],
  [
    "removed",
    "one who was removed",
    (s) => {
      s.asAlice({ type: "remove_member", pubkey: s.bobKey });
      return s.greet(s.bob);
    },
  ],
  ["clock_skew", "another time", (s) => s.first(helloOf(s.bob, { timestamp: 1 }))],
  ["bad_signature", "another's signature", (s) => s.greet(s.bob, { signature: "0".repeat(128) })],
  [
    "replayed",
    "a hello again",
    (s) => {
      const hello = s.bench.hello(s.bob);
      s.first(hello);
      return s.first(hello);
    },
  ],
  [
    "too_many_connections",
    "too many hellos",
    (s) => {
      for (let n = 0; n < 3; n++) s.bench.gone(s.bench.connect(s.bob));
      return s.greet(s.bob);
    },
  ],
  [
    "too_many_connections",
    "too many that only send",
    (s) => {
      s.bench.connect(s.bob, cold);
      return s.greet(s.bob, cold);
    },
  ],
  [
    "too_many_connections",
    "too many of one member",
    (s) => {
      s.bench.connect(s.bob);
      return s.greet(s.bob);
    },
    { connectionPolicy: "allow_concurrent" },
  ],
  [
    "too_many_connections",
    "too many altogether",
    (s) => {
      for (let n = 1; n < 6; n++) s.bench.open();
      return s.bench.taken(s.bench.open());
    },
  ],
  [
    "identity_in_use",
    "one too late",
    (s) => {
      s.bench.connect(s.bob);
      return s.greet(s.bob);
    },
    { connectionPolicy: "prefer_oldest" },
  ],
  [
    "hello_timeout",
    "no hello",
    (s) => {
      const id = s.bench.open();
      s.bench.record(s.bench.core.helloDue(id));
      return s.bench.taken(id);
    },
  ],
  [
    "internal",
    "a hello in a lost batch",
    (s) => {
      const id = s.bench.open();
      s.bench.lose([arrivalOf(id, s.bench.hello(s.bob))]);
      return s.bench.taken(id);
    },
  ],
];

const errors: Row[] = [
  ["unexpected_hello", "a second hello", (s) => s.asAlice(s.bench.hello(s.bench.mesh.owner))],
  ["unexpected_hello", "a session's hello", (s) => s.asAlice(sessionHello(s))],
  ["malformed", "garbage", (s) => s.asAlice("{")],
  [
    "malformed",
    "a send without an id",
    (s) => s.asAlice({ ...bytes(1), type: "send", targetSpec: "x", nonce: "A".repeat(32) }),
  ],
  ["malformed", "an acknowledgement of nothing", (s) => s.asAlice('{"type":"client_ack"}')],
  ["unknown_message_type", "a frame of the future", (s) => s.asAlice('{"type":"dance"}')],
  ["internal", "a request in a lost batch", (s) => s.lost({ type: "list_members" })],
  ["no_such_member", "a page after nobody", (s) => s.asAlice({ type: "list_members", after: "nobody" })],
  ["no_such_member", "to remove nobody", (s) => s.asAlice({ type: "remove_member", pubkey: "0".repeat(64) })],
  ["not_allowed", "presence of one that only sends", (s) => coldPresence(s)],
  [
    "not_allowed",
    "to remove as a member",
    (s) => s.as(s.bob, { type: "remove_member", pubkey: s.dave.keys.publicKey }),
  ],
  [
    "not_allowed",
    "to remove the owner",
    (s) => s.as(s.dave, { type: "remove_member", pubkey: s.bench.mesh.owner.keys.publicKey }),
  ],
  ["not_allowed", "to invite as a member", (s) => s.as(s.bob, registrationOf(s.invite()))],
  [
    "not_allowed",
    "an invite that the owner did not sign",
    (s) => s.asAlice({ ...registrationOf(s.invite()), role: "admin" }),
  ],
  ["not_allowed", "to revoke as a member", (s) => s.as(s.bob, { type: "revoke_invite", invite_id: "x" })],
  ["invite_invalid", "to revoke nothing", (s) => s.asAlice({ type: "revoke_invite", invite_id: "x" })],
  ["invite_expired", "an old invite", (s) => s.asAlice(registrationOf(s.invite({ expires_at: 1 })))],
  [
    "limit_reached",
    "an invite for too long",
    (s) => s.asAlice(registrationOf(s.invite({ expires_at: 9_999_999_999 }))),
  ],
  ["limit_reached", "too many invites", (s) => s.asAlice(...[1, 2, 3].map(() => registrationOf(s.invite())))],
  [
    "id_in_use",
    "another invite under the same id",
    (s) =>
      s.asAlice(...["a", "b"].map((mesh_slug) => registrationOf(s.invite({ invite_id: "same", mesh_slug })))),
  ],
  [
    "invite_revoked",
    "an invite that was revoked",
    (s) => {
      const frame = registrationOf(s.invite());
      return s.asAlice(frame, { type: "revoke_invite", invite_id: frame.invite_id }, frame);
    },
  ],
];

const httpErrors: Row[] = [
  ["mesh_exists", "a mesh's name", (s) => refusedMesh(s, s.bench.mesh.slug)],
  ["limit_reached", "too many meshes", (s) => refusedMesh(s, "another")],
  ["invite_invalid", "an unknown invite", (s) => s.refusedJoin(s.invite())],
  ["clock_skew", "another time", (s) => s.refusedJoin(s.bench.registered(), 1)],
  [
    "invite_used_up",
    "an invite that was used",
    (s) => {
      const invite = s.bench.registered();
      s.bench.join(invite, "carol");
      return s.refusedJoin(invite);
    },
  ],
  [
    "limit_reached",
    "a mesh that is full",
    (s) => {
      s.bench.addMember("carol");
      return s.refusedJoin(s.bench.registered());
    },
  ],
];

function sessionHello(s: Stage): ClientFrameInput {
  const [parent, session] = [s.bobKey, s.dave.keys.publicKey];
  const signature = "0".repeat(128);
  return {
    type: "session_hello",
    meshId: s.bench.mesh.meshId,
    parentAttestation: { sessionPubkey: session, parentMemberPubkey: parent, expiresAt: 1, signature },
    timestamp: s.bench.clock.now(),
    signature,
  };
}

const coldPresence = (s: Stage): SentFrame[] =>
  s.bench.send(s.bench.connect(s.bob, cold), { type: "set_visible", visible: true });

function refusedMesh({ bench }: Stage, slug: string): MeshError {
  const request = { slug, name: slug, owner_pubkey: generateKeyPair().publicKey, display_name: "x" };
  const made = createMesh(request, bench.store, bench.bounds, bench.newId, bench.at);
  if (made instanceof MeshError) return made;
  throw new Error("it was made");
}

/** For `test.each`: what a row is called, and the row. */
const named = (rows: readonly Row[]) => rows.map((row) => [row[0], row[1], row] as const);

/** Runs a row; the last thing that it was answered. */
function drive([, , run, settings]: Row): SentFrame | MeshError | undefined {
  const answer = run(new Stage(settings ?? {}));
  return Array.isArray(answer) ? answer.at(-1) : answer;
}

describe("an ack has the code", () => {
  test.each(named(acks))("%s: %s", (code, _what, row) => {
    const frame = drive(row);
    if (frame === undefined || !("type" in frame) || frame.type !== "ack")
      throw new Error(JSON.stringify(frame));
    expect(frame.code).toBe(code);
    expect<readonly string[]>(ackCodes).toContain(code);
    // Whoever is refused also gets a sentence, and nobody else does.
    const isGood = code === "created" || code === "duplicate";
    expect([typeof frame.error, frame.id, frame.client_message_id]).toEqual([
      isGood ? "undefined" : "string",
      expect.any(String),
      frame.id,
    ]);
  });
});

describe("an error has the code", () => {
  test.each(named([...helloErrors, ...errors]))("%s: %s", (code, _what, row) => {
    expect(drive(row)).toMatchObject({ type: "error", code, message: expect.stringMatching(/../) });
  });

  test.each(named(httpErrors))("over HTTP, too: %s: %s", (code, _what, row) => {
    expect(drive(row)).toMatchObject({ code, message: expect.stringMatching(/../) });
  });
});

test("every code in the sources is driven here, and no other", async () => {
  const files = ["core", "decide", "effects", "frames", "hello", "membership", "policy", "sends"];
  const found = new Set<string>();
  for (const file of files) {
    const source = await Bun.file(join(import.meta.dir, `../../../src/broker/${file}.ts`)).text();
    const givers =
      /\b(?:refuse|refuseConnection|errorTo|refusalAck|MeshError)\(\s*(?:[\w.]+,\s*)?"([a-z_]+)"/g;
    const fields = /\bcode: (?:Misfit\["code"\] = )?"([a-z_]+)"/g;
    const misfits = /\bmisfit\([^"]*?, "([a-z_]+)"\)/g;
    for (const pattern of [givers, fields, misfits])
      for (const [, code] of source.matchAll(pattern)) if (code !== undefined) found.add(code);
  }
  const driven = new Set([...acks, ...helloErrors, ...errors, ...httpErrors].map(([code]) => code));
  expect([...found].sort()).toEqual([...driven].sort());
});
