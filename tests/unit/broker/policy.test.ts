/** A member that is connected and connects again: what each policy makes of it, and where its deliveries go. */
import { beforeEach, describe, expect, test } from "bun:test";
import * as v from "valibot";
import type { ConnectionId } from "~/broker/connections";
import { type ConnectionPolicy, Features } from "~/wire/broker";
import { sendOf, type TestMember } from "../../support/broker-client";
import { arrivalOf, Bench } from "./bench";

let bench: Bench;
let bob: TestMember;
let alice: ConnectionId;

/** A mesh of alice, who is connected, and bob, who is not yet. */
function begin(connectionPolicy: ConnectionPolicy): void {
  bench = new Bench(
    { leasesPerConnectionMax: 4, concurrentPerMemberMax: 3, sendOnlyPerMemberMax: 1 },
    { connectionPolicy },
  );
  bob = bench.addMember("bob");
  alice = bench.connect(bench.mesh.owner);
  bench.events(alice);
}

const sendToBob = (...ids: string[]): void => {
  for (const id of ids) expect(bench.ackOf(alice, sendOf(bob.keys.publicKey, { id })).code).toBe("created");
};

/** Greets as bob; how the broker answered. */
function greet(changes = {}): { id: ConnectionId; answer: string } {
  const id = bench.open();
  bench.commit([arrivalOf(id, bench.hello(bob, changes))]);
  const [frame] = bench.taken(id, ({ type }) => type !== "push");
  return { id, answer: frame?.type === "error" ? frame.code : (frame?.type ?? "nothing") };
}

const peersOf = (id: ConnectionId) => {
  const [list] = bench.send(id, { type: "list_peers" });
  if (list?.type !== "peers_list") throw new Error("no list");
  return list.peers;
};

/** What everybody is told that bob's daemon can do. */
function capabilitiesOfBob(): string[] | undefined {
  const [list] = bench.send(alice, { type: "list_members" });
  if (list?.type !== "members_list") throw new Error("no list");
  return list.members.find((member) => member.display_name === "bob")?.capabilities;
}

test.each(["prefer_newest", "prefer_oldest", "allow_concurrent"] as const)("%s is advertised", (policy) => {
  begin(policy);
  const id = bench.open();
  const [ack] = bench.send(id, bench.hello(bob));
  const features = v.parse(Features, ack?.type === "hello_ack" ? ack.features : undefined);
  expect(features.concurrent_connection_policy).toEqual({ version: 1, default_policy: policy });
});

describe.each(["prefer_newest", "prefer_oldest", "allow_concurrent"] as const)(
  "whatever the policy (%s)",
  (policy) => {
    beforeEach(() => begin(policy));

    test("a daemon that comes back takes its own place, and gets what the dead connection had not acknowledged", () => {
      const dead = greet({ sessionId: "process-1" }).id;
      sendToBob("a", "b");
      bench.acknowledge(dead, ...bench.messages(dead).slice(0, 1));
      const back = greet({ sessionId: "process-1" });
      expect([back.answer, bench.closes.get(dead)?.code]).toEqual(["hello_ack", 4003]);
      expect(bench.pushedIds(back.id)).toEqual(["b"]);
      expect(bench.events(alice)).toEqual(["peer_joined bob"]);
    });

    test.each(["before", "after"])(
      "who greets in the turn in which the one before goes, %s it, is let in",
      (when) => {
        const before = bench.connect(bob);
        const next = bench.open();
        const gone = { connection: before, input: { type: "gone" as const } };
        const hello = arrivalOf(next, bench.hello(bob, { capabilities: ["body2", "receipts"] }));
        bench.commit(when === "before" ? [hello, gone] : [gone, hello]);
        sendToBob("a");
        expect([bench.closes.get(next), bench.pushedIds(next)]).toEqual([undefined, ["a"]]);
        expect(capabilitiesOfBob()).toEqual(["body2", "receipts"]);
        expect(bench.core.connections.allOf(2)).toHaveLength(1);
      },
    );

    test("connections that only send meet nobody, and are bounded", () => {
      const full = greet().id;
      expect(greet({ capabilities: ["send_only"] }).answer).toBe("hello_ack");
      expect(greet({ capabilities: ["send_only"] }).answer).toBe("too_many_connections");
      sendToBob("a");
      expect(bench.pushedIds(full)).toEqual(["a"]);
    });
  },
);

describe("prefer_oldest", () => {
  beforeEach(() => begin("prefer_oldest"));

  test("refuses the newer one, and the older keeps what it has in flight", () => {
    const older = bench.connect(bob);
    sendToBob("a", "b", "c", "d", "e");
    const pushes = bench.messages(older);
    const id = bench.open();
    const [error] = bench.send(id, bench.hello(bob, { capabilities: ["receipts"] }));
    expect(error).toEqual({
      type: "error",
      code: "identity_in_use",
      message: expect.stringContaining("prefers the oldest"),
    });
    expect(bench.closes.get(id)).toEqual({ code: 4003, reason: expect.stringContaining("identity_in_use") });
    expect([bench.closes.get(older), bench.messages(id), bench.pushedIds(older)]).toEqual([
      undefined,
      [],
      [],
    ]);
    bench.acknowledge(older, ...pushes);
    expect(bench.pushedIds(older)).toEqual(["e"]);
    expect(bench.core.counters.ignoredAcks).toBe(0);
  });

  test("what the refused one can do is not taken for what the member can", () => {
    bench.connect(bob, { capabilities: ["body2"] });
    expect(greet({ capabilities: [] }).answer).toBe("identity_in_use");
    expect([capabilitiesOfBob(), bench.store.listMembers(1)[1]?.capabilities]).toEqual([
      ["body2"],
      ["body2"],
    ]);
  });

  test("a refused hello cannot be replayed when the older one has gone", () => {
    const older = bench.connect(bob);
    const hello = bench.hello(bob);
    bench.send(bench.open(), hello);
    bench.gone(older);
    expect(bench.send(bench.open(), hello)).toMatchObject([{ type: "error", code: "replayed" }]);
    expect(greet().answer).toBe("hello_ack");
  });

  test("of two in one batch the first is let in", () => {
    const [one, two] = [bench.open(), bench.open()];
    bench.commit([arrivalOf(one, bench.hello(bob)), arrivalOf(two, bench.hello(bob))]);
    expect([bench.closes.get(one), bench.closes.get(two)?.code]).toEqual([undefined, 4003]);
    expect(bench.events(alice)).toEqual(["peer_joined bob"]);
  });

  test("nobody hears of the one that was refused, not when its socket ends either", () => {
    bench.connect(bob);
    bench.events(alice);
    const { id } = greet();
    bench.gone(id);
    expect([bench.events(alice), peersOf(alice).length]).toEqual([[], 2]);
  });
});

describe("allow_concurrent", () => {
  let oldest: ConnectionId;
  let second: ConnectionId;

  beforeEach(() => {
    begin("allow_concurrent");
    oldest = bench.connect(bob, { sessionId: "s1", cwd: "/one" });
    second = bench.connect(bob, { sessionId: "s2", cwd: "/two" });
  });

  test("keeps both, up to a limit that it names", () => {
    bench.connect(bob);
    const fourth = bench.open();
    expect(bench.send(fourth, bench.hello(bob))).toMatchObject([
      { type: "error", code: "too_many_connections", message: expect.stringContaining("3 connections") },
    ]);
    expect(bench.closes.get(fourth)?.code).toBe(1008);
    expect([oldest, second].map((id) => bench.closes.get(id))).toEqual([undefined, undefined]);
    bench.gone(second);
    expect(greet().answer).toBe("hello_ack");
  });

  test("each message goes to the oldest alone, and waits for it", () => {
    sendToBob("a", "b", "c", "d", "e", "f");
    const pushes = bench.messages(oldest);
    expect(pushes.map((push) => push.client_message_id)).toEqual(["a", "b", "c", "d"]);
    expect(bench.pushedIds(second)).toEqual([]);
    bench.acknowledge(oldest, ...pushes.slice(0, 2));
    expect([bench.pushedIds(oldest), bench.pushedIds(second)]).toEqual([["e", "f"], []]);
  });

  test("when it goes, the next takes over from the oldest unacknowledged, in order", () => {
    sendToBob("a", "b", "c");
    const pushes = bench.messages(oldest);
    bench.acknowledge(oldest, ...pushes.slice(0, 1), ...pushes.slice(2));
    const third = bench.connect(bob);
    bench.gone(oldest);
    sendToBob("d");
    expect([bench.pushedIds(second), bench.pushedIds(third)]).toEqual([["b", "d"], []]);
    bench.gone(second);
    expect(bench.pushedIds(third)).toEqual(["b", "d"]);
  });

  test("that one of the others goes changes nothing", () => {
    sendToBob("a");
    bench.gone(second);
    sendToBob("b");
    expect(bench.pushedIds(oldest)).toEqual(["a", "b"]);
  });

  test("a lapse goes back to the same connection, and only its leases are waited for", () => {
    sendToBob("a");
    bench.clock.advance(bench.bounds.leaseMs);
    bench.record(bench.core.lapse(bench.at));
    expect([bench.pushedIds(oldest), bench.pushedIds(second)]).toEqual([["a", "a"], []]);
    bench.gone(oldest);
    expect(bench.core.nextLapseMs()).toBe(bench.clock.monotonicMs() + bench.bounds.leaseMs);
    expect(bench.pushedIds(second)).toEqual(["a"]);
  });

  test("the others get nothing when their sockets drain", () => {
    bench.core.backlogged(second);
    sendToBob("a");
    bench.record(bench.core.drained(second, bench.at));
    expect([bench.pushedIds(oldest), bench.pushedIds(second)]).toEqual([["a"], []]);
  });

  test("what another of its connections acknowledges is off the oldest one's window", () => {
    sendToBob("a", "b", "c", "d", "e");
    const [first] = bench.messages(oldest);
    if (first === undefined) throw new Error("nothing was pushed");
    bench.acknowledge(second, first);
    expect([bench.pushedIds(oldest), bench.pushedIds(second)]).toEqual([["e"], []]);
  });

  test("one that takes over and cannot be served leaves it to the next", () => {
    const third = bench.connect(bob);
    sendToBob("a");
    const read = bench.store.undelivered.bind(bench.store);
    let failures = 1;
    bench.store.undelivered = (...given) => {
      if (failures-- > 0) throw new Error("the disk is gone");
      return read(...given);
    };
    bench.gone(oldest);
    expect(bench.closes.get(second)?.code).toBe(1011);
    expect(bench.pushedIds(third)).toEqual(["a"]);
  });

  test("the member is shown once, as its oldest connection tells, and comes and goes once", () => {
    expect(bench.events(alice)).toEqual(["peer_joined bob"]);
    expect(peersOf(alice).map((peer) => `${peer.displayName} ${peer.cwd}`)).toEqual([
      "owner null",
      "bob /one",
    ]);
    expect(peersOf(second).map((peer) => peer.displayName)).toEqual(["owner", "bob"]);
    bench.gone(oldest);
    expect([bench.events(alice), peersOf(alice)[1]?.cwd]).toEqual([[], "/two"]);
    bench.gone(second);
    expect([bench.events(alice), peersOf(alice).length]).toEqual([["peer_left bob"], 1]);
  });

  test("its presence is one, whichever connection sets it, and lasts as long as any of them", () => {
    bench.events(alice);
    bench.send(second, { type: "set_status", status: "working" }, { type: "set_visible", visible: false });
    expect([bench.events(alice), peersOf(alice).length]).toEqual([["peer_left bob"], 1]);
    expect(peersOf(oldest)[1]).toMatchObject({ status: "working", visible: false });
    bench.gone(oldest);
    const third = bench.connect(bob);
    expect([bench.events(alice), peersOf(third)[1]?.status]).toEqual([[], "working"]);
    bench.send(third, { type: "set_visible", visible: true });
    expect(bench.events(alice)).toEqual(["peer_joined bob"]);
    bench.gone(second);
    bench.gone(third);
    expect(bench.events(alice)).toEqual(["peer_left bob"]);
    bench.connect(bob);
    expect(peersOf(alice)[1]?.status).toBe("idle");
  });

  test("what it can do is what the connection can that gets its deliveries", () => {
    const third = bench.connect(bob, { capabilities: [] });
    expect(capabilitiesOfBob()).toEqual(["body2"]);
    bench.gone(oldest);
    bench.gone(second);
    expect([capabilitiesOfBob(), bench.closes.get(third)]).toEqual([[], undefined]);
  });

  test("each hears of the others in the mesh", () => {
    bench.connect(bench.addMember("carol"));
    for (const id of [oldest, second])
      expect(bench.events(id)).toEqual(["member_joined carol", "peer_joined carol"]);
  });

  test("a daemon that comes back goes to the end of the line", () => {
    sendToBob("a");
    const back = greet({ sessionId: "s1" });
    expect(bench.closes.get(oldest)?.code).toBe(4003);
    sendToBob("b");
    expect([bench.pushedIds(second), bench.pushedIds(back.id)]).toEqual([["a", "b"], []]);
  });

  test("with the member all of its connections are removed, and it leaves once", () => {
    bench.events(alice);
    bench.send(alice, { type: "remove_member", pubkey: bob.keys.publicKey });
    expect([oldest, second].map((id) => bench.closes.get(id)?.code)).toEqual([4002, 4002]);
    expect(bench.events(alice)).toEqual(["peer_left bob", "member_removed bob"]);
    expect(bench.core.connections.fullOf(2)).toBeUndefined();
  });
});

test("a connection that only sends gets nothing when its socket drains", () => {
  begin("prefer_newest");
  const cold = bench.connect(bob, { capabilities: ["send_only"] });
  bench.core.backlogged(cold);
  sendToBob("a");
  bench.record(bench.core.drained(cold, bench.at));
  expect(bench.pushedIds(cold)).toEqual([]);
});
