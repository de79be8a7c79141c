/** The lasting link against a broker that does as it is told: greeting, losing, finding again, and telling its owner the truth. */
import { beforeEach, describe, expect, test } from "bun:test";
import { MeshError } from "~/errors";
import type { MeshEntry } from "~/identity/config";
import { verifyText } from "~/identity/keys";
import { Link, type LinkStatus } from "~/link/link";
import type { BrokerTerms } from "~/link/negotiate";
import { type Connect, connectWebSocket, type SocketHandlers } from "~/link/socket";
import type { ClientFrame, ParsedBrokerFrame } from "~/wire/broker";
import { frameBytesMax } from "~/wire/limits";
import { helloText } from "~/wire/signed";
import { cutToBytes } from "~/wire/text";
import { cleanup } from "../../support/cleanup";
import { FakeClock } from "../../support/fake-clock";
import { waitFor } from "../../support/wait-for";
import {
  type Connection,
  claudemeshFeatures,
  deadUrl,
  greeting,
  membership,
  type ScriptedBroker,
  startBroker,
} from "./scripted-broker";

let broker: ScriptedBroker;
let clock: FakeClock;
/** What the owner was told, in order: `opened`, `closed`, and the names of the statuses. */
let told: string[];
let received: ParsedBrokerFrame[];
let terms: BrokerTerms | undefined;

beforeEach(() => {
  broker = startBroker(greeting(claudemeshFeatures));
  clock = new FakeClock();
  told = [];
  received = [];
  terms = undefined;
});

function newLink(mesh: MeshEntry = membership(broker.url), connect: Connect = connectWebSocket): Link {
  const link = new Link({
    mesh,
    sessionId: "session-1",
    connect,
    clock,
    chance: () => 0.5,
    owner: {
      opened: (agreed) => {
        terms = agreed;
        told.push("opened");
      },
      closed: () => told.push("closed"),
      received: (parsed) => received.push(parsed),
      statusChanged: (status) => told.push(status.name),
    },
  });
  cleanup(() => link.stop());
  return link;
}

async function openLink(mesh?: MeshEntry): Promise<{ link: Link; connection: Connection }> {
  const link = newLink(mesh);
  link.start();
  await waitFor(() => link.isOpen, { what: "the link to open" });
  return { link, connection: connectionAt(-1) };
}

function connectionAt(index: number): Connection {
  const connection = broker.connections.at(index);
  if (connection === undefined) throw new Error(`there is no connection ${index}`);
  return connection;
}

const untilStatus = (link: Link, name: LinkStatus["name"]) =>
  waitFor(() => link.status.name === name, { what: `the link to be ${name}` });
const untilConnections = (count: number) =>
  waitFor(() => broker.connections.length === count, { what: `connection number ${count}` });
const untilClosed = async (connection: Connection) => {
  await waitFor(() => connection.closed, { what: "the client to close the connection" });
  return connection.closed;
};
/** Every `opened` is followed by one `closed` before the next. */
const pairs = () => told.filter((what) => what === "opened" || what === "closed");

describe("the greeting", () => {
  test("says who we are, signed, as a member that takes mail", async () => {
    const mesh = membership(broker.url);
    const { connection } = await openLink(mesh);
    const [hello] = connection.frames;
    if (hello?.type !== "hello") throw new Error(`it began with ${hello?.type}`);
    expect(hello).toMatchObject({
      protocolVersion: 1,
      capabilities: ["body2"],
      meshId: mesh.meshId,
      memberId: mesh.memberId,
      pubkey: mesh.pubkey,
      sessionId: "session-1",
      pid: process.pid,
      peerType: "connector",
      channel: "claudemesh-daemon",
      timestamp: clock.now(),
    });
    expect(verifyText(helloText(hello), hello.signature, mesh.pubkey)).toBe(true);
    expect(connection.frames.length).toBe(1);
  });

  test("is signed anew each time, with the time that it is then", async () => {
    const { link } = await openLink();
    clock.advance(1_234);
    link.reconnect("asked");
    await untilConnections(2);
    await waitFor(() => link.isOpen, { what: "the link to open again" });
    const [first, second] = broker.connections.map(({ frames }) => frames[0]);
    if (first?.type !== "hello" || second?.type !== "hello") throw new Error("there were no two hellos");
    expect(second.timestamp - first.timestamp).toBe(1_234);
    expect(second.signature).not.toBe(first.signature);
    expect(verifyText(helloText(second), second.signature, second.pubkey)).toBe(true);
  });

  test("is followed by the terms of the broker", async () => {
    const { link } = await openLink();
    expect(told).toEqual(["open", "opened"]);
    expect(terms).toMatchObject({ lanes: true, members: true, inlineBytes: 65_536, missing: [] });
    expect(link.status).toMatchObject({ name: "open", why: undefined, sinceMs: clock.now() });
  });

  test("may be answered by a version-1 broker where the mesh is one of version 1", async () => {
    broker.script = greeting();
    await openLink(membership(broker.url, { inviteVersion: 1 }));
    expect(terms).toMatchObject({
      features: undefined,
      members: false,
      missing: ["client_message_id_dedupe", "members"],
    });
  });

  test("that is not answered within ten seconds is given up", async () => {
    broker.script = () => undefined;
    const link = newLink();
    link.start();
    await waitFor(() => broker.connections[0]?.frames.length === 1, { what: "the hello" });
    clock.advance(9_999);
    expect(link.status.name).toBe("connecting");
    clock.advance(1);
    expect(link.status).toMatchObject({ name: "waiting", why: "the broker did not answer our hello" });
    expect(await untilClosed(connectionAt(0))).toEqual({
      code: 1001,
      reason: "the broker did not answer our hello",
    });
    expect(pairs()).toEqual([]);
  });

  test("what comes before its answer is nobody's", async () => {
    broker.script = (_, connection) => {
      connection.send({ type: "ok" }, { type: "push", subtype: "system", event: "peer_joined" });
      connection.sendText("garbage");
      connection.send({ type: "hello_ack", features: claudemeshFeatures }, { type: "ok", _reqId: "later" });
    };
    await openLink();
    await waitFor(() => received.length > 0, { what: "the frame after the answer" });
    expect(received).toEqual([{ kind: "frame", frame: { type: "ok", _reqId: "later" } }]);
  });
});

describe("a broker that will not have us", () => {
  test("is told goodbye, and asked again after a while", async () => {
    broker.script = (_, connection) =>
      connection.send({ type: "error", code: "clock_skew", message: "your clock is wrong" });
    const link = newLink();
    link.start();
    await untilStatus(link, "refused");
    expect(link.status.why).toBe("clock_skew: your clock is wrong");
    expect(await untilClosed(connectionAt(0))).toEqual({ code: 1000, reason: "refused" });
    expect([pairs(), clock.delaysMs]).toEqual([[], [750]]);

    clock.advance(750);
    await untilConnections(2);
    await waitFor(() => clock.delaysMs.includes(1_500), { what: "the second refusal" });
    broker.script = greeting(claudemeshFeatures);
    clock.advance(1_500);
    await waitFor(() => link.isOpen, { what: "the link to open" });
    expect(pairs()).toEqual(["opened"]);
  });

  test("is one that lacks what a mesh of ours needs: told which, in a reason that fits into a close frame", async () => {
    broker.script = greeting();
    const link = newLink();
    link.start();
    await untilStatus(link, "refused");
    const closed = await untilClosed(connectionAt(0));
    expect(closed?.code).toBe(4010);
    expect(JSON.parse(closed?.reason ?? "")).toEqual({
      kind: "feature_unavailable",
      feature: "client_message_id_dedupe",
    });
    expect(Buffer.byteLength(closed?.reason ?? "")).toBeLessThanOrEqual(123);
    expect(link.status.why).toBe("feature_unavailable: client_message_id_dedupe");
    expect([pairs(), clock.delaysMs]).toEqual([[], [750]]);
  });

  test.each([
    ["feature_param_invalid", { lanes: { version: 2 } }, "lanes"],
    [
      "feature_param_below_floor",
      {
        client_message_id_dedupe: {
          version: 1,
          mode: "retention_scoped",
          dedupe_retention_days: 2,
          request_fingerprint: true,
        },
      },
      "client_message_id_dedupe",
    ],
  ])("is one with a feature that will not do: %s", async (kind, change, feature) => {
    broker.script = greeting({ ...claudemeshFeatures, ...change });
    const link = newLink();
    link.start();
    await untilStatus(link, "refused");
    const closed = await untilClosed(connectionAt(0));
    expect(closed?.code).toBe(4010);
    expect(JSON.parse(closed?.reason ?? "")).toEqual({ kind, feature });
  });

  test("is one that says that we were removed: asked again after ten minutes", async () => {
    broker.script = (_, connection) =>
      connection.send({ type: "error", code: "removed", message: "alice removed you" });
    const link = newLink();
    link.start();
    await untilStatus(link, "removed");
    expect([link.status.why, clock.delaysMs]).toEqual(["alice removed you", [600_000]]);
  });

  test("is one that closes at once", async () => {
    broker.script = (_, connection) => connection.close(1008, "no");
    const link = newLink();
    link.start();
    await untilStatus(link, "waiting");
    expect([link.status.why, pairs()]).toEqual(["no", []]);
  });
});

describe("a connection that ends", () => {
  test("because another one has our identity is not fought for", async () => {
    const { link, connection } = await openLink();
    connection.close(4003, "replaced");
    await untilStatus(link, "identity_in_use");
    expect([pairs(), clock.delaysMs]).toEqual([["opened", "closed"], [600_000]]);
    clock.advance(599_999);
    expect(broker.connections.length).toBe(1);
    clock.advance(1);
    await untilConnections(2);
    await untilStatus(link, "open");
  });

  test("because we were removed says so, and is tried again after ten minutes", async () => {
    const { link, connection } = await openLink();
    connection.close(4002, "removed by alice");
    await untilStatus(link, "removed");
    expect([link.status.why, clock.delaysMs]).toEqual(["removed by alice", [600_000]]);
  });

  test("may be asked for again at once, whatever ended it", async () => {
    const { link, connection } = await openLink();
    connection.close(4003);
    await untilStatus(link, "identity_in_use");
    link.reconnect("asked");
    await untilStatus(link, "open");
    expect([broker.connections.length, pairs()]).toEqual([2, ["opened", "closed", "opened"]]);
  });

  test("without a word comes back after a pause", async () => {
    const { link, connection } = await openLink();
    connection.cut();
    await untilStatus(link, "waiting");
    expect(pairs()).toEqual(["opened", "closed"]);
    clock.advance(749);
    expect(broker.connections.length).toBe(1);
    clock.advance(1);
    await untilStatus(link, "open");
    expect(pairs()).toEqual(["opened", "closed", "opened"]);
  });

  test("with its broker comes back when the broker does, each try later than the one before", async () => {
    const { link } = await openLink();
    await broker.stop();
    await untilStatus(link, "waiting");
    for (const delayMs of [750, 1_500, 3_000]) {
      await waitFor(() => clock.delaysMs.includes(delayMs), { what: `the pause of ${delayMs} ms` });
      expect(clock.delaysMs).toEqual([delayMs]);
      clock.advance(delayMs);
      // It goes on showing what is wrong, not that it is trying.
      expect(link.status.name).toBe("waiting");
    }
    await waitFor(() => clock.delaysMs.includes(6_000), { what: "the fourth pause" });
    broker.start();
    clock.advance(6_000);
    await untilStatus(link, "open");
    expect(pairs()).toEqual(["opened", "closed", "opened"]);
    expect(told.filter((what) => what === "waiting").length).toBeLessThanOrEqual(2);
  });

  test("was never made when nobody listens", async () => {
    const link = newLink(membership(await deadUrl()));
    link.start();
    await untilStatus(link, "waiting");
    expect(link.status.why).not.toBe("");
    expect([pairs(), clock.delaysMs]).toEqual([[], [750]]);
  });

  test("is told of once, whatever ends it and however often", async () => {
    const { link } = await openLink();
    const ends: ((connection: Connection) => void)[] = [
      () => link.drop("silence"),
      () => link.reconnect("asked"),
      (connection) => connection.close(1001, "restarting"),
      (connection) => connection.cut(),
      () => {
        link.drop("once");
        link.drop("twice");
      },
      (connection) => {
        connection.close(1001);
        link.drop("at the same time");
      },
      () => {
        link.stop();
        link.stop();
        link.start();
      },
    ];
    for (const [index, end] of ends.entries()) {
      end(connectionAt(-1));
      await waitFor(() => pairs().length === 2 * index + 2 || pairs().length === 2 * index + 3, {
        what: `the end of connection ${index}`,
      });
      await waitFor(
        () => {
          if (link.status.name === "waiting") clock.advance(1_000);
          return link.isOpen;
        },
        { what: `connection ${index + 1}` },
      );
    }
    const wanted = Array.from({ length: ends.length * 2 + 1 }, (_, nth) =>
      nth % 2 === 0 ? "opened" : "closed",
    );
    expect(pairs()).toEqual(wanted);
  });
});

test("the end of a connection that was replaced is not taken for that of the next one", () => {
  const sockets: SocketHandlers[] = [];
  const link = newLink(undefined, (_, handlers) => {
    sockets.push(handlers);
    return { bufferedBytes: 7, send: () => true, ping: () => undefined, close: () => undefined };
  });
  expect(link.bufferedBytes).toBe(0);
  link.start();
  expect(link.bufferedBytes).toBe(7);
  link.reconnect("asked");
  const [first, second] = sockets;
  second?.opened();
  second?.received({ kind: "frame", frame: { type: "hello_ack", features: claudemeshFeatures } });
  first?.closed(1006, "late");
  expect([link.isOpen, pairs(), clock.delaysMs]).toEqual([true, ["opened"], [30_000, 30_000]]);
  second?.closed(1006, "gone");
  expect([link.isOpen, pairs(), link.status.why]).toEqual([false, ["opened", "closed"], "gone"]);
});

test("an owner that has enough as soon as it hears of the connection is told of none", async () => {
  const what: string[] = [];
  const link: Link = new Link({
    mesh: membership(broker.url),
    sessionId: "session-1",
    connect: connectWebSocket,
    clock,
    chance: () => 0.5,
    owner: {
      opened: () => what.push("opened"),
      closed: () => what.push("closed"),
      received: () => undefined,
      statusChanged: ({ name }) => {
        what.push(name);
        if (name === "open") link.stop();
      },
    },
  });
  cleanup(() => link.stop());
  link.start();
  await waitFor(() => broker.connections[0]?.closed, { what: "the client to close" });
  expect([what, link.isOpen, clock.delaysMs]).toEqual([["open", "waiting"], false, []]);
});

describe("stopping", () => {
  test("closes the connection, and leaves no timer behind", async () => {
    const { link, connection } = await openLink();
    link.stop();
    expect([link.isOpen, pairs(), clock.delaysMs]).toEqual([false, ["opened", "closed"], []]);
    expect(await untilClosed(connection)).toEqual({ code: 1000, reason: "stopping" });
    clock.advance(3_600_000);
    expect(broker.connections.length).toBe(1);
  });

  test("while it connects leaves nothing behind either", async () => {
    broker.script = () => undefined;
    const link = newLink();
    link.start();
    link.stop();
    expect(clock.delaysMs).toEqual([]);
    link.reconnect("asked");
    link.drop("asked");
    expect([clock.delaysMs, pairs()]).toEqual([[], []]);
  });

  test("while it waits leaves nothing behind either", async () => {
    const { link, connection } = await openLink();
    connection.cut();
    await untilStatus(link, "waiting");
    link.stop();
    expect(clock.delaysMs).toEqual([]);
  });

  test("is not for ever", async () => {
    const { link } = await openLink();
    link.stop();
    link.start();
    await waitFor(() => link.isOpen, { what: "the link to open again" });
    expect(pairs()).toEqual(["opened", "closed", "opened"]);
  });
});

describe("keeping alive", () => {
  test("pings at once and every thirty seconds, and measures the way there and back", async () => {
    const { link, connection } = await openLink();
    await waitFor(() => link.status.rttMs !== undefined, { what: "the first pong" });
    expect(link.status.rttMs).toBe(0);
    // One for the next ping, one that takes the connection for a lasting one.
    expect(clock.delaysMs).toEqual([30_000, 30_000]);
    clock.advance(30_000);
    await waitFor(() => connection.pings === 2, { what: "the second ping" });
  });

  test("goes on as long as the broker answers", async () => {
    // What follows a pong is there when the pong was.
    broker.pinged = (connection) => connection.send({ type: "ok", _reqId: `pong ${connection.pings}` });
    const { link } = await openLink();
    for (let round = 1; round <= 8; round++) {
      await waitFor(() => received.length === round, { what: `pong ${round}` });
      clock.advance(30_000);
      expect(link.isOpen).toBe(true);
    }
    expect(pairs()).toEqual(["opened"]);
  });

  test("gives a broker up that was not heard for 75 seconds, and no sooner", async () => {
    const { link, connection } = await openLink();
    // Nothing that comes in is handled before the next await: to the link it is silence.
    clock.advance(30_000);
    clock.advance(30_000);
    clock.advance(14_999);
    expect(link.isOpen).toBe(true);
    clock.advance(1);
    expect(link.status).toMatchObject({ name: "waiting", why: "the broker fell silent" });
    expect(pairs()).toEqual(["opened", "closed"]);
    expect(await untilClosed(connection)).toEqual({ code: 1001, reason: "the broker fell silent" });
  });

  test("counts any frame as a sign of life", async () => {
    const { link, connection } = await openLink();
    clock.advance(60_000);
    connection.send({ type: "ok", _reqId: "alive" });
    await waitFor(() => received.length === 1, { what: "the frame" });
    clock.advance(60_000);
    expect(link.isOpen).toBe(true);
    clock.advance(30_000);
    expect(link.isOpen).toBe(false);
  });

  test("does not mind a clock that is set back or forward", async () => {
    const { link } = await openLink();
    clock.setWall(0);
    clock.advance(60_000);
    clock.setWall(4_000_000_000_000);
    clock.advance(1);
    expect(link.isOpen).toBe(true);
  });
});

describe("frames", () => {
  test("come in the order in which they were sent, whatever they are", async () => {
    const { connection } = await openLink();
    for (let index = 0; index < 500; index++) {
      if (index % 3 === 0) connection.send({ type: "ack", id: `${index}`, messageId: "m" });
      else if (index % 3 === 1) connection.send({ type: "tomorrow", index });
      else connection.sendText(`{"type":"push","index":${index}`);
    }
    await waitFor(() => received.length === 500, { what: "all of them" });
    expect(received.map(({ kind }) => kind)).toEqual(
      Array.from({ length: 500 }, (_, index) => (["frame", "unknown", "bad"] as const)[index % 3] ?? "bad"),
    );
    const ids = received.flatMap((parsed) =>
      parsed.kind === "frame" && parsed.frame.type === "ack" ? [Number(parsed.frame.id)] : [],
    );
    expect(ids).toEqual(Array.from({ length: 167 }, (_, index) => index * 3));
  });

  test("in bytes are bad, and cost nothing but themselves", async () => {
    const { link, connection } = await openLink();
    connection.sendBytes(new TextEncoder().encode('{"type":"ok"}'));
    connection.send({ type: "ok", _reqId: "after" });
    await waitFor(() => received.length === 2, { what: "both frames" });
    expect(received.map(({ kind }) => kind)).toEqual(["bad", "frame"]);
    expect(link.isOpen).toBe(true);
  });

  test("as large as may be are taken, and a byte larger they end the connection with 1009", async () => {
    const frameOf = (bytes: number) =>
      `{"type":"ok","pad":"${"x".repeat(bytes - '{"type":"ok","pad":""}'.length)}"}`;
    const { link, connection } = await openLink();
    connection.sendText(frameOf(frameBytesMax));
    await waitFor(() => received.length === 1, { what: "the large frame" });
    expect(received).toEqual([{ kind: "frame", frame: { type: "ok" } }]);

    connection.sendText(frameOf(frameBytesMax + 1));
    connection.send({ type: "ok", _reqId: "never seen" });
    await untilStatus(link, "waiting");
    expect(link.status.why).toBe("the broker sent a frame above the limit");
    expect((await untilClosed(connection))?.code).toBe(1009);
    expect([received.length, pairs()]).toEqual([1, ["opened", "closed"]]);
  });

  test("are measured in bytes, not in characters", async () => {
    const { link, connection } = await openLink();
    connection.sendText(`{"type":"ok","pad":"${"é".repeat(frameBytesMax / 2)}"}`);
    await untilStatus(link, "waiting");
    expect((await untilClosed(connection))?.code).toBe(1009);
  });

  test("go out when the link is open, and otherwise nowhere", async () => {
    const link = newLink();
    const ack = { type: "client_ack", brokerMessageId: "m" } as const;
    expect(link.send(ack)).toBe(false);
    link.start();
    expect(link.send(ack)).toBe(false);
    await waitFor(() => link.isOpen, { what: "the link to open" });
    expect(link.send(ack)).toBe(true);
    await waitFor(() => connectionAt(0).frames.length === 2, { what: "the frame" });
    expect(connectionAt(0).frames[1]).toEqual(ack);
    link.drop("asked");
    expect(link.send(ack)).toBe(false);
  });

  test("of a connection that was given up are nobody's", async () => {
    const { link, connection } = await openLink();
    connection.send({ type: "ok", _reqId: "late" });
    link.drop("asked");
    await untilClosed(connection);
    expect(received).toEqual([]);
  });
});

describe("requests", () => {
  const codeOf = (request: Promise<unknown>) =>
    request.then(
      () => "answered",
      (error: unknown) => (error instanceof MeshError ? error.code : error),
    );
  const answering = (frame: ClientFrame, connection: Connection) => {
    if (frame.type === "list_peers") connection.send({ type: "peers_list", _reqId: frame._reqId, peers: [] });
    if (frame.type === "remove_member")
      connection.send({ type: "error", code: "not_allowed", message: "owners only", _reqId: frame._reqId });
  };

  test("get the answer that is theirs, and the owner does not see it", async () => {
    broker.script = greeting(claudemeshFeatures, answering);
    const { link } = await openLink();
    const [answer, refusal] = await Promise.all([
      link.request({ type: "list_peers" }),
      codeOf(link.request({ type: "remove_member", pubkey: "ab".repeat(32) })),
    ]);
    expect(answer).toMatchObject({ type: "peers_list", peers: [] });
    expect(refusal).toBe("not_allowed");
    expect(received).toEqual([]);
  });

  test("end with the connection, at once", async () => {
    const { link, connection } = await openLink();
    const waiting = [
      codeOf(link.request({ type: "list_peers" })),
      codeOf(link.request({ type: "list_members" })),
    ];
    connection.cut();
    expect(await Promise.all(waiting)).toEqual(["broker_unreachable", "broker_unreachable"]);
  });

  test("end after fifteen seconds without an answer, and the link does not", async () => {
    const { link } = await openLink();
    const waiting = codeOf(link.request({ type: "list_peers" }));
    clock.advance(15_000);
    expect([await waiting, link.isOpen]).toEqual(["timed_out", true]);
  });

  test("are refused while there is no connection", async () => {
    expect(await codeOf(newLink().request({ type: "list_peers" }))).toBe("broker_unreachable");
  });

  test("of one connection are not answered on the next", async () => {
    const { link } = await openLink();
    const waiting = codeOf(link.request({ type: "list_peers" }));
    link.reconnect("asked");
    expect(await waiting).toBe("broker_unreachable");
    await waitFor(() => link.isOpen, { what: "the link to open again" });
    connectionAt(-1).send({ type: "peers_list", _reqId: "1", peers: [] });
    await waitFor(() => received.length === 1, { what: "an answer that nobody waits for" });
  });
});

describe("a reason for closing", () => {
  const cases: [what: string, text: string, bytes: number, cut: string][] = [
    ["fits", "short", 123, "short"],
    ["just fits", "abc", 3, "abc"],
    ["is cut", "abcd", 3, "abc"],
    ["is not cut through a letter of two bytes", "aéé", 4, "aé"],
    ["is not cut through a letter of three bytes", "日本", 5, "日"],
    ["is not cut through a letter of four bytes", "🙂🙂", 7, "🙂"],
    ["is nothing when there is no room", "é", 1, ""],
    ["is nothing when it was", "", 0, ""],
  ];
  test.each(cases)("%s", (_, text, bytes, cut) => {
    expect(cutToBytes(text, bytes)).toBe(cut);
  });

  test("that is too long reaches the broker as much as fits", async () => {
    const { link, connection } = await openLink();
    link.reconnect("é".repeat(200));
    expect(await untilClosed(connection)).toEqual({ code: 1000, reason: "é".repeat(61) });
    await waitFor(() => link.isOpen, { what: "the link to open again" });
  });
});
