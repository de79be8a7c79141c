/** One connection for one errand: it greets as one that only sends, and every way in which it can fail has a code. */
import { beforeEach, describe, expect, test } from "bun:test";
import { MeshError } from "~/errors";
import { verifyText } from "~/identity/keys";
import { fetchMembers } from "~/link/members";
import { type BrokerConnection, connectOnce } from "~/link/once";
import type { BrokerFrame, MemberEntry, RequestFrame } from "~/wire/broker";
import { helloText } from "~/wire/signed";
import { cleanup } from "../../support/cleanup";
import { FakeClock } from "../../support/fake-clock";
import { waitFor } from "../../support/wait-for";
import {
  claudemeshFeatures,
  deadUrl,
  greeting,
  membership,
  type ScriptedBroker,
  startBroker,
} from "./scripted-broker";

let broker: ScriptedBroker;
let clock: FakeClock;
let closed: MeshError[];

beforeEach(() => {
  broker = startBroker(greeting(claudemeshFeatures));
  clock = new FakeClock();
  closed = [];
});

const connect = async (url = broker.url): Promise<BrokerConnection> => {
  const connection = await connectOnce(membership(url), { clock, onClosed: (error) => closed.push(error) });
  cleanup(() => connection.close());
  return connection;
};
const errorOf = async (work: Promise<unknown>): Promise<MeshError> => {
  const thrown = await work.then(
    () => new Error("it did not fail"),
    (error: unknown) => error,
  );
  if (thrown instanceof MeshError) return thrown;
  throw thrown;
};
const ending = () => waitFor(() => broker.connections[0]?.closed, { what: "the client to close" });

describe("the greeting", () => {
  test("says that it only sends, signed", async () => {
    const connection = await connect();
    const hello = broker.connections[0]?.frames[0];
    if (hello?.type !== "hello") throw new Error("it did not begin with a hello");
    expect(hello.capabilities).toEqual(["body2", "send_only"]);
    expect(hello.timestamp).toBe(clock.now());
    expect(verifyText(helloText(hello), hello.signature, hello.pubkey)).toBe(true);
    expect(connection.terms).toMatchObject({ members: true, inlineBytes: 65_536 });
    expect(clock.delaysMs).toEqual([]);
  });

  test("names its session anew each time", async () => {
    await connect();
    await connect();
    const sessions = broker.connections.map(
      ({ frames: [hello] }) => hello?.type === "hello" && hello.sessionId,
    );
    expect(sessions).toEqual([expect.any(String), expect.any(String)]);
    expect(sessions[0]).not.toBe(sessions[1] ?? false);
  });

  test.each(["", "closing"])("is not answered: the broker hangs up with %j", async (reason) => {
    broker.script = (_, connection) => connection.close(1008, reason);
    const error = await errorOf(connect());
    expect(error.code).toBe("broker_unreachable");
    expect(error.message).toBe(
      reason === ""
        ? `cannot reach the broker at ${broker.url}`
        : `cannot reach the broker at ${broker.url}: ${reason}`,
    );
    expect([closed, clock.delaysMs]).toEqual([[], []]);
  });

  test("is not answered in time", async () => {
    broker.script = () => undefined;
    const waiting = errorOf(connect());
    await waitFor(() => broker.connections[0]?.frames.length === 1, { what: "the hello" });
    clock.advance(10_000);
    const error = await waiting;
    expect(error.code).toBe("timed_out");
    expect(error.message).toContain(`${broker.url} did not answer within 10 s`);
    await ending();
    expect(closed).toEqual([]);
  });

  test("is answered by nobody: there is no broker", async () => {
    const url = await deadUrl();
    const error = await errorOf(connect(url));
    expect(error.code).toBe("broker_unreachable");
    expect(error.message).toStartWith(`cannot reach the broker at ${url}`);
    expect(error.hint).toContain("claudemesh broker status");
    expect(clock.delaysMs).toEqual([]);
  });

  test("is answered by something that is no broker", async () => {
    const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("hello") });
    cleanup(() => server.stop(true));
    expect((await errorOf(connect(`ws://127.0.0.1:${server.port}/ws`))).code).toBe("broker_unreachable");
  });

  const refusals: [code: string, as: string, hint: string | undefined][] = [
    ["clock_skew", "clock_skew", "Set this host's clock"],
    ["not_a_member", "broker_refused", "claudemesh mesh leave"],
    ["removed", "broker_refused", "claudemesh mesh leave"],
    ["unknown_mesh", "broker_refused", "claudemesh mesh leave"],
    ["unauthorized", "unauthorized", undefined],
    ["limit_reached", "limit_reached", undefined],
    ["on_strike", "broker_refused", undefined],
  ];
  test.each(refusals)("is refused with %s", async (code, as, hint) => {
    broker.script = (_, connection) => connection.send({ type: "error", code, message: "no" });
    const error = await errorOf(connect());
    expect<string>(error.code).toBe(as);
    expect(error.message).toBe("the broker refused: no");
    expect(error.details).toEqual({ broker_code: code });
    if (hint === undefined) expect(error.hint).toBeUndefined();
    else expect(error.hint).toContain(hint);
    await ending();
    expect([closed, clock.delaysMs]).toEqual([[], []]);
  });

  test("is accepted by a broker that lacks what the mesh needs: refused here", async () => {
    broker.script = greeting();
    const error = await errorOf(connect());
    expect(error.code).toBe("broker_refused");
    expect(error.message).toContain("feature_unavailable: client_message_id_dedupe");
    await ending();
  });

  test("may be accepted after other frames, which are nobody's", async () => {
    broker.script = (_, connection) => {
      connection.sendText("garbage");
      connection.send({ type: "push", subtype: "system", event: "peer_joined" }, { type: "ok" });
      connection.send({ type: "hello_ack", features: claudemeshFeatures });
    };
    expect((await connect()).terms.members).toBe(true);
  });
});

describe("what is asked", () => {
  test("is answered to whoever asked", async () => {
    broker.script = greeting(claudemeshFeatures, (frame, connection) => {
      if (frame.type === "list_peers")
        connection.send({ type: "peers_list", _reqId: frame._reqId, peers: [] });
    });
    const connection = await connect();
    const answers = await Promise.all([
      connection.request({ type: "list_peers" }),
      connection.request({ type: "list_peers" }),
    ]);
    expect(answers.map(({ type }) => type)).toEqual(["peers_list", "peers_list"]);
  });

  const send = {
    type: "send",
    targetSpec: "ab".repeat(32),
    nonce: "A".repeat(32),
    ciphertext: "AAAA",
  } as const;

  test("a delivery is answered by its id, in whatever order and field", async () => {
    broker.script = greeting(claudemeshFeatures, (frame, connection) => {
      if (frame.type !== "send" || frame.id !== "b") return;
      connection.send(
        { type: "ack", messageId: "nobody's" },
        { type: "ack", id: "c", messageId: "nobody's" },
        { type: "ack", id: "b", messageId: "for b" },
        { type: "ack", id: "x", client_message_id: "a", messageId: "for a" },
        { type: "ack", id: "a", messageId: "too late" },
      );
    });
    const connection = await connect();
    const acks = await Promise.all([
      connection.deliver({ ...send, id: "a" }),
      connection.deliver({ ...send, id: "b" }),
    ]);
    expect(acks.map(({ messageId }) => messageId)).toEqual(["for a", "for b"]);
  });

  test("ends with the connection, and whoever holds it is told once", async () => {
    const connection = await connect();
    const waiting = errorOf(connection.request({ type: "list_peers" }));
    broker.connections[0]?.close(1001, "restarting");
    expect((await waiting).code).toBe("broker_unreachable");
    expect(closed.map(({ code, message }) => [code, message])).toEqual([
      ["broker_unreachable", `cannot reach the broker at ${broker.url}: restarting`],
    ]);
    expect((await errorOf(connection.request({ type: "list_peers" }))).code).toBe("broker_unreachable");
    expect((await errorOf(connection.deliver({ ...send, id: "a" }))).code).toBe("broker_unreachable");
    expect(closed.length).toBe(1);
  });

  test("ends when whoever holds it has enough, and then nobody is told", async () => {
    const connection = await connect();
    const waiting = errorOf(connection.request({ type: "list_peers" }));
    connection.close();
    expect((await waiting).code).toBe("broker_unreachable");
    expect(await ending()).toEqual({ code: 1000, reason: "done" });
    connection.close();
    expect([closed, clock.delaysMs]).toEqual([[], []]);
  });
});

describe("the list of members", () => {
  const member = (nth: number): MemberEntry => ({
    member_id: `member-${nth}`,
    pubkey: nth.toString(16).padStart(64, "0"),
    display_name: `m${nth}`,
    role: "member",
    capabilities: [],
    joined_at: "",
    online: false,
  });
  const asked: RequestFrame[] = [];
  const paging =
    (pages: ((after: string | undefined) => BrokerFrame)[]) =>
    (frame: RequestFrame): Promise<BrokerFrame> => {
      asked.push(frame);
      const page = pages[asked.length - 1] ?? pages.at(-1);
      if (frame.type !== "list_members" || page === undefined) throw new Error(`asked for ${frame.type}`);
      return Promise.resolve(page(frame.after));
    };
  const list = (members: MemberEntry[], next?: string): BrokerFrame => ({
    type: "members_list",
    members,
    ...(next === undefined ? {} : { next }),
  });
  beforeEach(() => {
    asked.length = 0;
  });

  test("is put together from its pages", async () => {
    const members = await fetchMembers(
      paging([
        () => list([member(1), member(2)], "member-2"),
        (after) => list([member(3)], after === "member-2" ? "member-3" : "wrong"),
        (after) => list(after === "member-3" ? [member(4)] : []),
      ]),
    );
    expect(members.map(({ member_id }) => member_id)).toEqual([
      "member-1",
      "member-2",
      "member-3",
      "member-4",
    ]);
    expect(asked).toEqual([
      { type: "list_members" },
      { type: "list_members", after: "member-2" },
      { type: "list_members", after: "member-3" },
    ]);
  });
  test("may be empty, and is over when a page is, whatever that says", async () => {
    expect(await fetchMembers(paging([() => list([])]))).toEqual([]);
    expect(await fetchMembers(paging([() => list([], "more")]))).toEqual([]);
  });
  test("that has no end is given up", async () => {
    const endless = fetchMembers(paging([() => list([member(1)], "member-1")]));
    expect((await errorOf(endless)).code).toBe("bad_gateway");
    expect(asked.length).toBeLessThan(2_000);
  });
  test("that is something else is refused", async () => {
    const error = await errorOf(fetchMembers(paging([() => ({ type: "ok" })])));
    expect(error.code).toBe("bad_gateway");
  });
});
