/** Who is let in, and what becomes of the member's other connections. */
import { beforeEach, describe, expect, test } from "bun:test";
import * as v from "valibot";
import type { ConnectionId } from "~/broker/connections";
import { signText } from "~/identity/keys";
import { Features } from "~/wire/broker";
import { helloText } from "~/wire/signed";
import { type HelloFrame, helloOf, sendOf, strangerTo, type TestMember } from "../../support/broker-client";
import { arrivalOf, Bench } from "./bench";

let bench: Bench;
let bob: TestMember;

beforeEach(() => {
  bench = new Bench({
    sendOnlyPerMemberMax: 2,
    connectionsPerBrokerMax: 5,
    hellosRememberedPerMemberMax: 10,
  });
  bob = bench.addMember("bob");
});

/** Says this first on a new connection; the error that it got, and how it was closed. */
function refusalOf(first: HelloFrame | string): { code: string; message: string; closeCode: number } {
  const id = bench.open();
  const [error] = bench.send(id, first);
  const closed = bench.closes.get(id);
  if (error?.type !== "error" || closed === undefined)
    throw new Error(`not refused but ${JSON.stringify(error)}`);
  expect(closed.reason).toContain(error.code);
  expect(bench.send(id, { type: "list_peers" })).toEqual([]);
  return { code: error.code, message: error.message, closeCode: closed.code };
}

describe("refused", () => {
  const cases: [what: string, hello: () => HelloFrame | string, code: string, message: string][] = [
    ["a frame without fields", () => '{"type":"hello"}', "malformed", "hello: meshId"],
    ["garbage", () => "garbage", "malformed", "not JSON"],
    ["an unknown type", () => '{"type":"greetings"}', "unknown_message_type", "greetings"],
    ["another frame", () => '{"type":"list_peers"}', "malformed", "must be a hello, not list_peers"],
    [
      "a protocol of the future",
      () => bench.hello(bob, { protocolVersion: 2 }),
      "unsupported_protocol",
      "not 2",
    ],
    [
      "a mesh that is not here",
      () => bench.hello({ ...bob, meshId: "elsewhere" }),
      "unknown_mesh",
      "no mesh",
    ],
    ["a stranger", () => bench.hello(strangerTo(bench.mesh.meshId)), "not_a_member", "no member"],
    [
      "another member's id",
      () => bench.hello({ ...bob, memberId: bench.mesh.owner.memberId }),
      "not_a_member",
      "no member with this id and key",
    ],
    [
      "a signature of something else",
      () => bench.hello(bob, { signature: signText("something else", bob.keys.secretKey) }),
      "bad_signature",
      "does not verify",
    ],
    [
      "another member's signature",
      () => {
        const hello = bench.hello(bob);
        return { ...hello, signature: signText(helloText(hello), bench.mesh.owner.keys.secretKey) };
      },
      "bad_signature",
      "does not verify",
    ],
    [
      "a signed time that was changed",
      () => ({ ...bench.hello(bob), timestamp: bench.clock.now() + 5 }),
      "bad_signature",
      "does not verify",
    ],
  ];
  test.each(cases)("%s", (_what, hello, code, message) => {
    const refusal = refusalOf(hello());
    expect(refusal).toEqual({ code, message: expect.stringContaining(message), closeCode: 1008 });
    expect(
      bench.store
        .listMembers(1)
        .every((member) => member.member_id !== bob.memberId || member.last_seen_at === undefined),
    ).toBe(true);
  });

  test("a removed member is told so", () => {
    const owner = bench.connect(bench.mesh.owner);
    bench.send(owner, { type: "remove_member", pubkey: bob.keys.publicKey });
    expect(refusalOf(bench.hello(bob))).toMatchObject({ code: "removed", closeCode: 4002 });
  });

  const skews: [skewMs: number, isFine: boolean][] = [
    [60_000, true],
    [-60_000, true],
    [60_001, false],
    [-60_001, false],
    [3_600_000, false],
    [Number.MAX_SAFE_INTEGER - Date.UTC(2040, 0), false],
  ];
  test.each(skews)("a clock that is %d ms off", (skewMs, isFine) => {
    const hello = bench.hello(bob, { timestamp: bench.clock.now() + 1 + skewMs });
    if (isFine) {
      expect(bench.send(bench.open(), hello)[0]?.type).toBe("hello_ack");
      return;
    }
    const { code, message } = refusalOf(hello);
    expect(code).toBe("clock_skew");
    expect(message).toContain(new Date(bench.clock.now()).toISOString());
    expect(message).toContain(
      `${Math.round(Math.abs(skewMs) / 1000)} s ${skewMs > 0 ? "ahead of" : "behind"}`,
    );
  });

  test("a session's hello", () => {
    const hello = bench.hello(bob);
    const attested = {
      sessionPubkey: bob.keys.publicKey,
      parentMemberPubkey: bob.keys.publicKey,
      expiresAt: 1,
      signature: hello.signature,
    };
    const frame = { ...hello, type: "session_hello", parentAttestation: attested };
    expect(refusalOf(JSON.stringify(frame))).toEqual({
      code: "unsupported_hello",
      message: "this broker takes member connections only",
      closeCode: 1008,
    });
  });

  test("none within the time", () => {
    const silent = bench.open();
    const greeted = bench.connect(bob);
    bench.record([...bench.core.helloDue(silent), ...bench.core.helloDue(greeted)]);
    expect(bench.taken(silent)).toEqual([
      { type: "error", code: "hello_timeout", message: "no hello came within 10 s" },
    ]);
    expect([bench.closes.get(silent)?.code, bench.closes.get(greeted)?.code]).toEqual([1008, undefined]);
  });

  test("more connections than the broker takes", () => {
    for (let n = 0; n < 5; n++) bench.open();
    const sixth = bench.open();
    expect(bench.taken(sixth)).toMatchObject([{ type: "error", code: "too_many_connections" }]);
    expect(bench.closes.get(sixth)?.code).toBe(1008);
  });
});

describe("a replay", () => {
  test("is refused, in the same batch and later", () => {
    const hello = bench.hello(bob);
    const [first, second] = [bench.open(), bench.open()];
    bench.commit([arrivalOf(first, hello), arrivalOf(second, hello)]);
    expect(bench.taken(first)[0]?.type).toBe("hello_ack");
    expect(bench.taken(second)).toMatchObject([{ type: "error", code: "replayed" }]);
    bench.clock.advance(59_000);
    expect(refusalOf(hello).code).toBe("replayed");
    bench.clock.advance(2_000);
    expect(refusalOf(hello).code).toBe("clock_skew");
  });

  test("is refused after a restart, too", () => {
    const hello = bench.hello(bob);
    bench.send(bench.open(), hello);
    bench.restart();
    expect(refusalOf(hello).code).toBe("replayed");
  });

  test("a refused hello can be said again", () => {
    const hello = helloOf(bob, { timestamp: bench.clock.now() + 61_000 });
    expect(refusalOf(hello).code).toBe("clock_skew");
    bench.clock.advance(10_000);
    expect(bench.send(bench.open(), hello)[0]?.type).toBe("hello_ack");
  });

  test("what is remembered is bounded, for each member, and forgotten in time", () => {
    for (let n = 0; n < 10; n++) bench.gone(bench.connect(bob));
    expect(refusalOf(bench.hello(bob)).code).toBe("too_many_connections");
    bench.gone(bench.connect(bench.mesh.owner));
    bench.clock.advance(120_000);
    bench.gone(bench.connect(bob));
    expect(bench.count("hellos")).toBe(1);
  });
});

describe("admitted", () => {
  const hello_ack = (id: ConnectionId) => {
    const [ack] = bench.taken(id);
    if (ack?.type !== "hello_ack") throw new Error("no hello_ack");
    return ack;
  };

  test("is told its name and what the broker can do", () => {
    const id = bench.open();
    bench.commit([arrivalOf(id, bench.hello(bob, { displayName: "somebody else" }))]);
    const ack = hello_ack(id);
    expect(ack.memberDisplayName).toBe("bob");
    expect(ack.presenceId).toMatch(/^ID/);
    expect(v.parse(Features, ack.features)).toEqual({
      client_message_id_dedupe: { version: 1, mode: "permanent", request_fingerprint: true },
      max_payload: { version: 1, inline_bytes: 65_536 },
      lanes: { version: 1 },
      members: { version: 1 },
      concurrent_connection_policy: { version: 1, default_policy: "prefer_newest" },
    });
    expect(Object.keys(ack.features ?? {})).not.toContain("receipts");
  });

  test("a protocol version is not needed", () => {
    const { protocolVersion: _version, ...hello } = bench.hello(bob);
    expect(bench.send(bench.open(), hello)[0]?.type).toBe("hello_ack");
  });

  test("its capabilities and the time are kept, but a connection that only sends says nothing of the daemon", () => {
    bench.connect(bob, { capabilities: ["body2", "receipts"] });
    const seenAt = bench.clock.now();
    bench.connect(bob, { capabilities: ["send_only"] });
    const [, row] = bench.store.listMembers(1);
    expect(row?.capabilities).toEqual(["body2", "receipts"]);
    expect(row?.last_seen_at).toBe(seenAt + 1);
  });

  test("a second hello is an error, not the end", () => {
    const id = bench.connect(bob);
    expect(bench.send(id, bench.hello(bob))).toMatchObject([{ type: "error", code: "unexpected_hello" }]);
    expect(bench.closes.get(id)).toBeUndefined();
    expect(bench.send(id, { type: "list_peers" })).toHaveLength(1);
  });

  test("a newer connection replaces the older one", () => {
    const older = bench.connect(bob);
    const newer = bench.connect(bob);
    expect([bench.closes.get(older)?.code, bench.closes.get(newer)]).toEqual([4003, undefined]);
    expect(bench.send(older, { type: "list_peers" })).toEqual([]);
    bench.gone(older);
    expect(bench.core.connections.fullOf(2)?.connection).toBe(newer);
  });

  test("so it is in one batch", () => {
    const [one, two] = [bench.open(), bench.open()];
    bench.commit([arrivalOf(one, bench.hello(bob)), arrivalOf(two, bench.hello(bob))]);
    expect([bench.closes.get(one)?.code, bench.closes.get(two)]).toEqual([4003, undefined]);
    expect(hello_ack(two).memberDisplayName).toBe("bob");
  });

  test("those that only send replace nobody, are replaced by nobody, and are bounded", () => {
    const full = bench.connect(bob);
    const cold = bench.connect(bob, { capabilities: ["send_only"] });
    const colder = bench.connect(bob, { capabilities: ["send_only", "body2"] });
    const newer = bench.connect(bob);
    expect([full, cold, colder, newer].map((id) => bench.closes.get(id)?.code)).toEqual([
      4003,
      undefined,
      undefined,
      undefined,
    ]);
    bench.gone(full);
    expect(refusalOf(bench.hello(bob, { capabilities: ["send_only"] })).code).toBe("too_many_connections");
    bench.gone(cold);
    bench.connect(bob, { capabilities: ["send_only"] });
  });

  test("a connection that is gone before its hello was stored is nobody's", () => {
    const id = bench.open();
    bench.commit([arrivalOf(id, bench.hello(bob)), { connection: id, input: { type: "gone" } }]);
    expect(bench.core.connections.fullOf(2)).toBeUndefined();
    expect(bench.core.connections.count).toBe(0);
    const owner = bench.connect(bench.mesh.owner);
    expect(bench.ackOf(owner, sendOf(bob.keys.publicKey)).queued).toBe(true);
  });
});
