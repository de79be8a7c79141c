/** The phases of a send, B0 to B3 (delivery.md §7), and the lanes that hold what follows a refusal. */
import { beforeEach, describe, expect, test } from "bun:test";
import type { ConnectionId } from "~/broker/connections";
import type { AckCode } from "~/wire/broker";
import { sendOf, type TestMember } from "../../support/broker-client";
import { type Ack, arrivalOf, Bench } from "./bench";

let bench: Bench;
let bob: TestMember;
let carol: TestMember;
let alice: ConnectionId;

/** Small limits, so that a test reaches them. */
const bounds = {
  inlineBytes: 64,
  queuedPerRecipientMax: 3,
  sendsPerRateWindowMax: 6,
  lanesHeldPerConnectionMax: 4,
};

beforeEach(() => {
  bench = new Bench(bounds);
  bob = bench.addMember("bob");
  carol = bench.addMember("carol");
  alice = bench.connect(bench.mesh.owner);
});

const toBob = (id: string, changes = {}) => sendOf(bob.keys.publicKey, { id, ...changes });
const toCarol = (id: string, changes = {}) => sendOf(carol.keys.publicKey, { id, ...changes });

/** `id code` for each ack, in order. */
const codesOf = (acks: readonly object[]): string[] =>
  acks.map((ack) => ("code" in ack && "id" in ack ? `${ack.id} ${ack.code}` : "no ack"));

/** Sends that are charged and refused for good. */
const useUpRate = (count: number): void => {
  for (let n = 0; n < count; n++) bench.send(alice, sendOf("*"));
};

/** Another member's messages to this one, which nobody acknowledges. */
const fillQueueOf = (recipient: TestMember, count: number): void => {
  const filler = bench.connect(bench.addMember("filler"));
  for (let n = 0; n < count; n++)
    expect(bench.ackOf(filler, sendOf(recipient.keys.publicKey)).code).toBe("created");
};

describe("accepted", () => {
  test("answers with a message id of its own, and stores record, message and delivery", () => {
    const ack = bench.ackOf(alice, toBob("m1"));
    expect(ack).toEqual({
      type: "ack",
      id: "m1",
      client_message_id: "m1",
      messageId: expect.stringMatching(/^ID/),
      queued: true,
      code: "created",
      duplicate: false,
      history_available: true,
    });
    expect([bench.count("dedupe"), bench.count("messages"), bench.count("deliveries")]).toEqual([1, 1, 1]);
  });

  test("queued says whether the recipient is away", () => {
    bench.connect(carol);
    bench.connect(bob, { capabilities: ["send_only"] });
    expect([bench.ackOf(alice, toBob("m1")).queued, bench.ackOf(alice, toCarol("m2")).queued]).toEqual([
      true,
      false,
    ]);
  });

  test("either id alone will do; both must agree; none is malformed", () => {
    const { id: _id, client_message_id: _cmid, ...bare } = toBob("x");
    expect(bench.ackOf(alice, { ...bare, id: "only-id" }).client_message_id).toBe("only-id");
    expect(bench.ackOf(alice, { ...bare, client_message_id: "only-cmid" }).id).toBe("only-cmid");
    expect(bench.ackOf(alice, { ...bare, id: "one", client_message_id: "two" })).toMatchObject({
      id: "one",
      code: "malformed",
      error: expect.stringContaining("client_message_id"),
    });
    expect(bench.send(alice, bare)).toEqual([
      { type: "error", code: "malformed", message: "send: client_message_id: missing" },
    ]);
    expect(bench.count("dedupe")).toBe(2);
  });
});

describe("B0: a known id", () => {
  test("the same request gets the first answer's message id and time", () => {
    const frame = toBob("m1");
    const first = bench.ackOf(alice, frame);
    const acceptedAt = new Date(bench.clock.now()).toISOString();
    bench.clock.advance(86_400_000);
    const again = bench.ackOf(alice, frame);
    expect(again).toEqual({
      type: "ack",
      id: "m1",
      client_message_id: "m1",
      messageId: first.messageId ?? "",
      code: "duplicate",
      duplicate: true,
      history_available: true,
      first_seen_at: acceptedAt,
    });
    expect(bench.count("messages")).toBe(1);
  });

  const fingerprint = "f".repeat(64);
  const other = "0123456789abcdef".padEnd(64, "0");
  const cases: [
    first: string | undefined,
    again: string | undefined,
    code: AckCode,
    prefix: string | undefined,
  ][] = [
    [fingerprint, fingerprint, "duplicate", undefined],
    [undefined, undefined, "duplicate", undefined],
    [other, fingerprint, "idempotency_key_reused", "0123456789abcdef"],
    [other, undefined, "idempotency_key_reused", "0123456789abcdef"],
    [undefined, fingerprint, "idempotency_key_reused", undefined],
  ];
  test.each(cases)("fingerprint %s, then %s: %s", (first, again, code, prefix) => {
    const { request_fingerprint: _fingerprint, ...bare } = toBob("m1");
    const frameWith = (value: string | undefined) =>
      value === undefined ? bare : { ...bare, request_fingerprint: value };
    bench.send(alice, frameWith(first));
    const ack = bench.ackOf(alice, frameWith(again));
    expect(ack.code).toBe(code);
    expect(ack.broker_fingerprint_prefix).toBe(prefix);
    expect(ack.messageId === undefined).toBe(code === "idempotency_key_reused");
    expect(bench.count("messages")).toBe(1);
  });

  test("twice in one batch is accepted once", () => {
    const frame = toBob("m1");
    expect(codesOf(bench.send(alice, frame, frame))).toEqual(["m1 created", "m1 duplicate"]);
  });

  test("another member's id is another id", () => {
    const fromBob = bench.connect(bob);
    const frame = toCarol("m1");
    expect(bench.ackOf(alice, frame).code).toBe("created");
    expect(bench.ackOf(fromBob, frame).code).toBe("created");
    expect(bench.count("messages")).toBe(2);
  });

  test("is answered before every limit: size, rate, queue, a recipient that left, a lane that is held", () => {
    const frame = toBob("known");
    bench.send(alice, frame);
    useUpRate(5);
    expect(bench.ackOf(alice, toBob("holder")).code).toBe("rate_limited");
    expect(bench.ackOf(alice, toBob("behind")).code).toBe("held");
    const huge = Buffer.alloc(100).toString("base64");
    bench.send(alice, { type: "remove_member", pubkey: bob.keys.publicKey });
    expect(bench.ackOf(alice, { ...frame, ciphertext: huge }).code).toBe("duplicate");
    expect(bench.ackOf(alice, toBob("behind")).code).toBe("held");
  });
});

describe("B1 and B2: refusals leave no trace", () => {
  const refused = (ack: Ack, code: AckCode, error: string) => {
    expect(ack).toMatchObject({
      code,
      duplicate: false,
      queued: false,
      error: expect.stringContaining(error),
    });
    expect(ack.messageId).toBeUndefined();
    expect([bench.count("dedupe"), bench.count("messages"), bench.count("deliveries")]).toEqual([0, 0, 0]);
  };
  const bytes = (count: number) => ({ ciphertext: Buffer.alloc(count).toString("base64") });

  test("the size that counts is that of the decoded ciphertext", () => {
    refused(
      bench.ackOf(alice, toBob("m1", bytes(65))),
      "too_large",
      "65 bytes of ciphertext; this broker takes 64",
    );
    for (const count of [0, 1, 62, 63, 64])
      expect(bench.ackOf(alice, toCarol(`${count}`, bytes(count))).code).not.toBe("too_large");
  });

  test("ciphertext that is no padded base64", () => {
    refused(bench.ackOf(alice, toBob("m1", { ciphertext: "abc" })), "malformed", "ciphertext");
  });

  const fields: [object, string][] = [
    [{ nonce: "AAAA" }, "nonce"],
    [{ ciphertext: "!!!!" }, "ciphertext"],
    [{ priority: "asap" }, "priority"],
    [{ request_fingerprint: "xyz" }, "request_fingerprint"],
    [{ targetSpec: "" }, "targetSpec"],
    [{ bodyVersion: 3 }, "bodyVersion"],
    [{ replyToId: 7 }, "replyToId"],
  ];
  test.each(fields)("%j is malformed, and the ack names the field", (changes, field) => {
    const [ack] = bench.send(alice, JSON.stringify({ ...toBob("m1"), ...changes }));
    if (ack?.type !== "ack") throw new Error("no ack");
    expect(ack.id).toBe("m1");
    refused(ack, "malformed", field);
    expect(bench.core.counters.malformed).toBe(1);
  });

  const destinations: [target: string, why: string][] = [
    ["@alerts", "topics"],
    ["#01TOPIC", "topics"],
    ["*", "broadcasts"],
    ["queue:work", "queues"],
    ["f".repeat(64), "no member"],
    ["bob", "no member"],
  ];
  test.each(destinations)("%s is no destination", (target, why) => {
    refused(bench.ackOf(alice, { ...toBob("m1"), targetSpec: target }), "unknown_destination", why);
  });

  test("nor is oneself, a member of another mesh, or one that was removed", () => {
    const own = bench.mesh.owner.keys.publicKey;
    refused(bench.ackOf(alice, { ...toBob("m1"), targetSpec: own }), "unknown_destination", "itself");
    const stranger = bench.addMember("stranger", "member", bench.addMesh());
    refused(
      bench.ackOf(alice, { ...toBob("m1"), targetSpec: stranger.keys.publicKey }),
      "unknown_destination",
      "no member",
    );
    bench.send(alice, { type: "remove_member", pubkey: bob.keys.publicKey });
    refused(bench.ackOf(alice, toBob("m1")), "unknown_destination", "removed");
  });

  test("a member that is removed in the same batch sends nothing after it", () => {
    const fromBob = bench.connect(bob);
    bench.commit([
      arrivalOf(fromBob, toCarol("before")),
      arrivalOf(alice, { type: "remove_member", pubkey: bob.keys.publicKey }),
      arrivalOf(fromBob, toCarol("after")),
    ]);
    const acks = bench.taken(fromBob, (frame) => frame.type === "ack");
    expect(codesOf(acks)).toEqual(["before created", "after unauthorized"]);
    expect(bench.count("messages")).toBe(1);
  });

  test("a permanent refusal holds no lane", () => {
    expect(codesOf(bench.send(alice, toBob("big", bytes(65)), toBob("next")))).toEqual([
      "big too_large",
      "next created",
    ]);
  });
});

describe("the rate limit", () => {
  test("names itself and the time to wait, and ends with the window", () => {
    for (let n = 0; n < 6; n++)
      bench.send(alice, sendOf(n % 2 === 0 ? bob.keys.publicKey : carol.keys.publicKey));
    const ack = bench.ackOf(alice, toBob("late"));
    expect(ack).toMatchObject({ code: "rate_limited", error: expect.stringMatching(/^rate_limit/) });
    expect(ack.retry_after_ms).toBeGreaterThan(0);
    bench.clock.advance(ack.retry_after_ms ?? 0);
    bench.acknowledge(bench.connect(bob), ...[]);
    expect(bench.ackOf(alice, toBob("late")).code).not.toBe("rate_limited");
  });

  test("an id that is refused for another reason is charged once however often it comes", () => {
    for (let n = 0; n < 20; n++)
      expect(bench.ackOf(alice, { ...toBob("m1"), targetSpec: "*" }).code).toBe("unknown_destination");
    for (let n = 0; n < 5; n++)
      expect(bench.ackOf(alice, toCarol(`m${n + 2}`)).code).toBe(
        n < 3 ? "created" : n === 3 ? "busy" : "held",
      );
  });

  test("is each member's own, over all its connections", () => {
    const second = bench.connect(bench.mesh.owner, { capabilities: ["send_only"] });
    for (let n = 0; n < 3; n++) {
      bench.send(alice, toBob(`a${n}`));
      bench.send(second, toCarol(`b${n}`));
    }
    expect(bench.ackOf(second, toBob("x")).code).toBe("rate_limited");
    expect(bench.ackOf(bench.connect(bob), toCarol("x")).code).toBe("busy");
  });
});

describe("a full queue", () => {
  test("is busy, names its limit, and takes again once something was acknowledged", () => {
    fillQueueOf(bob, 3);
    const ack = bench.ackOf(alice, toBob("m1"));
    expect(ack).toMatchObject({
      code: "busy",
      retry_after_ms: 30_000,
      error: expect.stringContaining("3 messages"),
    });
    const fromBob = bench.connect(bob);
    bench.acknowledge(fromBob, ...bench.messages(fromBob).slice(0, 1));
    expect(codesOf(bench.send(alice, toBob("m1"), toBob("m2")))).toEqual(["m1 created", "m2 busy"]);
  });

  test("of one recipient is nothing to another", () => {
    fillQueueOf(bob, 3);
    expect(codesOf(bench.send(alice, toBob("b1"), toCarol("c1")))).toEqual(["b1 busy", "c1 created"]);
  });
});

describe("lanes", () => {
  /** Bob's queue is full; carol's has room. */
  beforeEach(() => fillQueueOf(bob, 3));
  const makeRoom = () => {
    const fromBob = bench.connect(bob);
    bench.acknowledge(fromBob, ...bench.messages(fromBob));
  };

  test("after a transient refusal the rest of the lane is held until that id comes again", () => {
    expect(codesOf(bench.send(alice, toBob("b1"), toBob("b2"), toCarol("c1"), toBob("b3")))).toEqual([
      "b1 busy",
      "b2 held",
      "c1 created",
      "b3 held",
    ]);
    makeRoom();
    expect(bench.ackOf(alice, toBob("b2"))).toMatchObject({
      code: "held",
      error: expect.stringContaining("b1"),
    });
    expect(codesOf(bench.send(alice, toBob("b1"), toBob("b2"), toBob("b3")))).toEqual([
      "b1 created",
      "b2 created",
      "b3 created",
    ]);
  });

  test("refused again, it holds on", () => {
    bench.send(alice, toBob("b1"));
    expect(codesOf(bench.send(alice, toBob("b1"), toBob("b2")))).toEqual(["b1 busy", "b2 held"]);
  });

  test("the holder's return frees the lane also when it is a duplicate or refused for good", () => {
    const cold = bench.connect(bench.mesh.owner, { capabilities: ["send_only"] });
    const frame = toBob("b1");
    bench.send(alice, frame);
    makeRoom();
    bench.send(cold, frame);
    expect(codesOf(bench.send(alice, frame, toBob("b2")))).toEqual(["b1 duplicate", "b2 created"]);

    fillQueueOf(carol, 3);
    expect(bench.ackOf(alice, toCarol("c1")).code).toBe("busy");
    const huge = { ciphertext: Buffer.alloc(100).toString("base64") };
    bench.acknowledge(bench.connect(carol));
    expect(codesOf(bench.send(alice, toCarol("c1", huge), toCarol("c2")))).toEqual([
      "c1 too_large",
      "c2 busy",
    ]);
  });

  test("a held id is not charged to the rate limit", () => {
    bench.send(alice, toBob("b1"));
    for (let n = 0; n < 20; n++) expect(bench.ackOf(alice, toBob(`held-${n}`)).code).toBe("held");
    expect(bench.ackOf(alice, toCarol("c1")).code).toBe("created");
  });

  test("belong to one connection", () => {
    const cold = bench.connect(bench.mesh.owner, { capabilities: ["send_only"] });
    bench.send(alice, toBob("b1"));
    makeRoom();
    expect(bench.ackOf(cold, toBob("b2")).code).toBe("created");
    expect(bench.ackOf(alice, toBob("b3")).code).toBe("held");
    const anew = bench.connect(bench.mesh.owner);
    expect(bench.ackOf(anew, toBob("b3")).code).toBe("created");
  });

  test("too many that are held end the connection, since one that is forgotten would let messages overtake", () => {
    bench.clock.advance(10_000);
    useUpRate(6);
    for (let n = 0; n < 4; n++) bench.send(alice, { ...toBob(`x${n}`), targetSpec: `nobody-${n}` });
    expect(bench.closes.get(alice)).toBeUndefined();
    bench.send(alice, { ...toBob("x4"), targetSpec: "nobody-4" });
    expect(bench.closes.get(alice)?.code).toBe(1008);
  });
});
