/** From the queue to the recipient: order, leases, acknowledgements, lapses, takeovers, restarts. */
import { beforeEach, describe, expect, test } from "bun:test";
import type { ConnectionId } from "~/broker/connections";
import { sendOf, type TestMember } from "../../support/broker-client";
import { Bench, type Message } from "./bench";

let bench: Bench;
let bob: TestMember;
let carol: TestMember;
let alice: ConnectionId;

const leaseMs = 30_000;

beforeEach(() => {
  bench = new Bench({ leaseMs, leasesPerConnectionMax: 4, leaseBytesPerConnectionMax: 10_000 });
  bob = bench.addMember("bob");
  carol = bench.addMember("carol");
  alice = bench.connect(bench.mesh.owner);
});

/** Sends these ids to bob, each in a batch of its own. */
const sendToBob = (...ids: string[]): void => {
  for (const id of ids) expect(bench.ackOf(alice, sendOf(bob.keys.publicKey, { id })).code).toBe("created");
};

const lapse = (): void => bench.record(bench.core.lapse(bench.at));

describe("a push", () => {
  test("carries all that the recipient needs, and who sent it as the broker knows it", () => {
    const fromBob = bench.connect(bob);
    const frame = sendOf(bob.keys.publicKey, { id: "m1", priority: "now", replyToId: "r1" });
    const { messageId } = bench.ackOf(alice, frame);
    const owner = bench.mesh.owner;
    expect(bench.messages(fromBob)).toEqual([
      {
        type: "push",
        messageId: messageId ?? "",
        meshId: bench.mesh.meshId,
        senderPubkey: owner.keys.publicKey,
        senderMemberPubkey: owner.keys.publicKey,
        senderMemberId: owner.memberId,
        senderName: "owner",
        replyToId: "r1",
        priority: "now",
        nonce: frame.nonce,
        ciphertext: frame.ciphertext,
        createdAt: new Date(bench.clock.now()).toISOString(),
        client_message_id: "m1",
        request_fingerprint: frame.request_fingerprint ?? "",
        bodyVersion: 2,
      },
    ]);
  });

  test("leaves out what the sender did not give", () => {
    const fromBob = bench.connect(bob);
    const { bodyVersion: _version, request_fingerprint: _fingerprint, ...bare } = sendOf(bob.keys.publicKey);
    bench.send(alice, bare);
    const [push] = bench.messages(fromBob);
    for (const field of ["bodyVersion", "request_fingerprint", "replyToId"])
      expect(push).not.toHaveProperty(field);
  });

  test("goes to nobody else, and not to a connection that only sends", () => {
    const fromBob = bench.connect(bob, { capabilities: ["send_only"] });
    const fromCarol = bench.connect(carol);
    sendToBob("m1");
    expect([bench.messages(fromBob), bench.messages(fromCarol), bench.messages(alice)]).toEqual([[], [], []]);
    expect(bench.pushedIds(bench.connect(bob))).toEqual(["m1"]);
  });
});

describe("order and window", () => {
  test("who was away gets everything, in the order of acceptance, as acknowledgements make room", () => {
    const ids = Array.from({ length: 11 }, (_, n) => `m${n}`);
    sendToBob(...ids);
    const fromBob = bench.connect(bob);
    const received: string[] = [];
    for (;;) {
      const pushes = bench.messages(fromBob);
      if (pushes.length === 0) break;
      expect(pushes.length).toBeLessThanOrEqual(4);
      received.push(...pushes.map((push) => push.client_message_id ?? ""));
      bench.acknowledge(fromBob, ...pushes);
    }
    expect(received).toEqual(ids);
    expect(bench.pushedIds(bench.connect(bob))).toEqual([]);
  });

  test("a batch of sends is pushed in its order, once", () => {
    const fromBob = bench.connect(bob);
    bench.send(alice, ...["a", "b", "c"].map((id) => sendOf(bob.keys.publicKey, { id })));
    expect(bench.pushedIds(fromBob)).toEqual(["a", "b", "c"]);
  });

  test("bytes bound the window as well", () => {
    const big = { ciphertext: Buffer.alloc(4_400).toString("base64") };
    const fromBob = bench.connect(bob);
    for (const id of ["a", "b", "c"]) bench.send(alice, sendOf(bob.keys.publicKey, { id, ...big }));
    const pushes = bench.messages(fromBob);
    expect(pushes.map((push) => push.client_message_id)).toEqual(["a", "b"]);
    bench.acknowledge(fromBob, ...pushes.slice(0, 1));
    expect(bench.pushedIds(fromBob)).toEqual(["c"]);
  });

  test("one acknowledgement lets one more go", () => {
    sendToBob("a", "b", "c", "d", "e", "f");
    const fromBob = bench.connect(bob);
    const [first] = bench.messages(fromBob);
    if (first === undefined) throw new Error("nothing was pushed");
    bench.acknowledge(fromBob, first);
    expect(bench.pushedIds(fromBob)).toEqual(["e"]);
    bench.acknowledge(fromBob, first);
    expect(bench.pushedIds(fromBob)).toEqual([]);
    expect(bench.core.counters.ignoredAcks).toBe(1);
  });

  test("nothing is pushed while the socket is backed up, and all of it after", () => {
    const fromBob = bench.connect(bob);
    bench.core.backlogged(fromBob);
    sendToBob("a", "b");
    expect(bench.pushedIds(fromBob)).toEqual([]);
    bench.record(bench.core.drained(fromBob, bench.at));
    expect(bench.pushedIds(fromBob)).toEqual(["a", "b"]);
    bench.record(bench.core.drained(fromBob, bench.at));
    expect(bench.pushedIds(fromBob)).toEqual([]);
  });
});

describe("acknowledgements", () => {
  test("of what is unknown, or somebody else's, change nothing", () => {
    const [fromBob, fromCarol] = [bench.connect(bob), bench.connect(carol)];
    sendToBob("a");
    const [push] = bench.messages(fromBob);
    if (push === undefined) throw new Error("nothing was pushed");
    expect(bench.send(fromCarol, { type: "client_ack", brokerMessageId: push.messageId })).toEqual([]);
    expect(bench.send(fromBob, { type: "client_ack", brokerMessageId: "nonsense" })).toEqual([]);
    const cold = bench.connect(bob, { capabilities: ["send_only"] });
    expect(bench.send(cold, { type: "client_ack", brokerMessageId: push.messageId })).toEqual([]);
    expect(bench.core.counters.ignoredAcks).toBe(3);
    expect(bench.pushedIds(bench.connect(bob))).toEqual(["a"]);
  });

  test("late ones count: after the lease lapsed, and on a newer connection", () => {
    const fromBob = bench.connect(bob);
    sendToBob("a", "b");
    const pushes = bench.messages(fromBob);
    bench.core.backlogged(fromBob);
    bench.clock.advance(leaseMs);
    lapse();
    bench.acknowledge(fromBob, ...pushes.slice(0, 1));
    bench.record(bench.core.drained(fromBob, bench.at));
    expect(bench.pushedIds(fromBob)).toEqual(["b"]);
    const newer = bench.connect(bob);
    bench.acknowledge(newer, ...pushes);
    expect(bench.pushedIds(bench.connect(bob))).toEqual([]);
  });
});

describe("a lapse", () => {
  test("comes when the oldest lease runs out, and not before", () => {
    const fromBob = bench.connect(bob);
    expect(bench.core.nextLapseMs()).toBeUndefined();
    sendToBob("a");
    expect(bench.core.nextLapseMs()).toBe(bench.clock.monotonicMs() + leaseMs);
    bench.pushedIds(fromBob);
    bench.clock.advance(leaseMs - 1);
    lapse();
    expect(bench.pushedIds(fromBob)).toEqual([]);
    bench.clock.advance(1);
    lapse();
    expect(bench.pushedIds(fromBob)).toEqual(["a"]);
    expect(bench.core.nextLapseMs()).toBe(bench.clock.monotonicMs() + leaseMs);
  });

  test("goes back to the oldest that was not acknowledged, and pushes all after it again in order", () => {
    const fromBob = bench.connect(bob);
    sendToBob("a");
    bench.clock.advance(leaseMs / 2);
    sendToBob("b", "c", "d", "e");
    const pushes = bench.messages(fromBob);
    expect(pushes.map((push) => push.client_message_id)).toEqual(["a", "b", "c", "d"]);
    bench.acknowledge(fromBob, ...pushes.slice(2, 3));
    expect(bench.pushedIds(fromBob)).toEqual(["e"]);
    bench.clock.advance(leaseMs / 2);
    lapse();
    expect(bench.pushedIds(fromBob)).toEqual(["a", "b", "d", "e"]);
  });

  test("of one member is nothing to another, and a wall clock that is set is nothing to either", () => {
    const [fromBob, fromCarol] = [bench.connect(bob), bench.connect(carol)];
    sendToBob("a");
    bench.clock.advance(leaseMs / 2);
    bench.send(alice, sendOf(carol.keys.publicKey, { id: "c" }));
    bench.clock.setWall(bench.clock.now() - 86_400_000);
    expect([bench.pushedIds(fromBob), bench.pushedIds(fromCarol)]).toEqual([["a"], ["c"]]);
    bench.clock.advance(leaseMs / 2);
    lapse();
    expect([bench.pushedIds(fromBob), bench.pushedIds(fromCarol)]).toEqual([["a"], []]);
  });
});

describe("a connection ends", () => {
  const pushTo = (id: ConnectionId): Message[] => {
    sendToBob("a", "b", "c");
    const pushes = bench.messages(id);
    bench.acknowledge(id, ...pushes.slice(0, 1));
    return pushes;
  };

  test("its leases lapse at once, and the next one gets the rest in order", () => {
    const first = bench.connect(bob);
    pushTo(first);
    bench.gone(first);
    expect(bench.core.nextLapseMs()).toBeUndefined();
    expect(bench.ackOf(alice, sendOf(bob.keys.publicKey, { id: "d" })).queued).toBe(true);
    expect(bench.pushedIds(bench.connect(bob))).toEqual(["b", "c", "d"]);
  });

  test("by being replaced: the same", () => {
    const first = bench.connect(bob);
    pushTo(first);
    const second = bench.connect(bob);
    expect(bench.pushedIds(second)).toEqual(["b", "c"]);
    sendToBob("d");
    expect([bench.pushedIds(first), bench.pushedIds(second)]).toEqual([[], ["d"]]);
  });

  test("by the broker's crash: the same", () => {
    pushTo(bench.connect(bob));
    bench.restart();
    expect(bench.pushedIds(bench.connect(bob))).toEqual(["b", "c"]);
  });
});

test("what a sender sent before it was removed still arrives; what waits for a removed member does not", () => {
  const fromCarol = bench.connect(carol);
  bench.send(fromCarol, sendOf(bob.keys.publicKey, { id: "from-carol" }));
  bench.send(alice, sendOf(carol.keys.publicKey, { id: "to-carol" }));
  bench.send(alice, { type: "remove_member", pubkey: carol.keys.publicKey });
  expect(bench.pushedIds(bench.connect(bob))).toEqual(["from-carol"]);
  expect([bench.count("messages"), bench.count("dedupe"), bench.count("deliveries")]).toEqual([2, 2, 1]);
});

describe("the admission of a sender comes with what it sent", () => {
  const sentBy = (member: TestMember) =>
    bench.ackOf(bench.connect(member), sendOf(bob.keys.publicKey, { id: "x" }));
  const shown = () =>
    bench.messages(bench.connect(bob)).map(({ senderAdmission }) => senderAdmission !== undefined);

  test("when it had joined within the day", () => {
    sentBy(carol);
    expect(shown()).toEqual([true]);
  });

  test("not when it has been a member for longer: it is in everybody's list", () => {
    bench.clock.advance(25 * 3600 * 1000);
    sentBy(carol);
    expect(shown()).toEqual([false]);
  });

  test("when it has left since, however long it was a member", () => {
    bench.clock.advance(25 * 3600 * 1000);
    sentBy(carol);
    bench.send(bench.connect(bench.mesh.owner), { type: "remove_member", pubkey: carol.keys.publicKey });
    expect(shown()).toEqual([true]);
  });
});
