/** The exchange between sockets and the core: batches, failing commits, full queues, slow and silent sockets, stopping. */
import type { Database } from "bun:sqlite";
import { beforeEach, describe, expect, spyOn, test } from "bun:test";
import { join } from "node:path";
import { monotonicFactory } from "ulidx";
import { type Bounds, defaultBounds } from "~/broker/bounds";
import { Core } from "~/broker/core";
import { Exchange, type Socket } from "~/broker/exchange";
import { instantOf } from "~/broker/instant";
import { createMesh } from "~/broker/membership";
import { Store } from "~/broker/sqlite";
import { openSqlite } from "~/disk/sqlite";
import { Writer } from "~/disk/writer";
import { generateKeyPair } from "~/identity/keys";
import { type BrokerFrame, type ClientFrameInput, parseBrokerFrame } from "~/wire/broker";
import { FakeClock } from "../../support/broker";
import { helloOf, sendOf, type TestMember } from "../../support/broker-client";
import { cleanup } from "../../support/cleanup";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";

/** The types of all frames that were written, to whomever, in order. */
const written: string[] = [];

class FakeSocket implements Socket {
  readonly frames: BrokerFrame[] = [];
  readonly events: string[] = [];
  /** What `send` returns instead of the number of bytes. */
  sends: "all" | "buffered" | "dropped" = "all";
  buffered = 0;
  closed: { code: number; reason: string } | undefined;
  readonly id: number;
  readonly #exchange: Exchange;

  constructor(exchange: Exchange) {
    this.#exchange = exchange;
    this.id = exchange.newId();
    exchange.open(this.id, this);
  }

  say(...frames: (ClientFrameInput | string)[]): void {
    for (const frame of frames)
      this.#exchange.receive(this.id, typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  send(text: string): number {
    if (this.sends === "dropped") return 0;
    const parsed = parseBrokerFrame(text);
    if (parsed.kind !== "frame") throw new Error(`a frame that fits no schema: ${text}`);
    this.frames.push(parsed.frame);
    written.push(parsed.frame.type);
    if (this.sends === "all") return text.length;
    this.buffered += text.length;
    return -1;
  }

  cork(action: () => void): void {
    action();
  }

  close(code: number, reason: string): void {
    this.closed ??= { code, reason };
    this.#exchange.closed(this.id);
  }

  terminate(): void {
    this.events.push("terminate");
    this.close(1006, "");
  }

  ping(): void {
    this.events.push("ping");
  }

  pause(): void {
    this.events.push("pause");
  }

  resume(): void {
    this.events.push("resume");
  }

  getBufferedAmount(): number {
    return this.buffered;
  }

  /** `code id` of every ack so far. */
  get acks(): string[] {
    return this.frames.flatMap((frame) => (frame.type === "ack" ? [`${frame.code} ${frame.id}`] : []));
  }

  get pushed(): string[] {
    return this.frames.flatMap((frame) =>
      frame.type === "push" && "ciphertext" in frame ? [frame.client_message_id ?? ""] : [],
    );
  }
}

let clock: FakeClock;
let db: Database;
let store: Store;
let core: Core;
let exchange: Exchange;
let alice: TestMember;
let bob: TestMember;
let logs: string[];

const small: Partial<Bounds> = { framesWaitingPerConnectionMax: 8, socketBacklogBytesMax: 5_000 };

beforeEach(() => {
  clock = new FakeClock();
  logs = [];
  db = openSqlite(join(tempDir(), "broker.db"));
  cleanup(() => db.close());
  store = new Store(db);
  const bounds = { ...defaultBounds, ...small };
  const ulid = monotonicFactory();
  const newId = (wallMs: number) => ulid(wallMs);
  const keys = { alice: generateKeyPair(), bob: generateKeyPair() };
  const request = { slug: "team", name: "team", owner_pubkey: keys.alice.publicKey, display_name: "alice" };
  const made = createMesh(request, store, bounds, newId, instantOf(clock));
  if (made instanceof Error) throw made;
  alice = { ...made, keys: keys.alice, displayName: "alice" };
  bob = { meshId: made.meshId, memberId: "bob", keys: keys.bob, displayName: "bob" };
  store.addMember({
    member_id: "bob",
    mesh: 1,
    pubkey: keys.bob.publicKey,
    display_name: "bob",
    role: "member",
    at: 1,
  });
  core = new Core(store, bounds, newId);
  exchange = new Exchange({
    core,
    writer: new Writer(db, clock),
    clock,
    bounds,
    log: (level, message) => void logs.push(`${level} ${message}`),
  });
  exchange.start();
  cleanup(() => exchange.stop());
});

const greet = (member: TestMember, changes = {}) => {
  clock.advance(1);
  return helloOf(member, { timestamp: clock.now(), ...changes });
};

async function connect(member: TestMember): Promise<FakeSocket> {
  const socket = new FakeSocket(exchange);
  socket.say(greet(member));
  await waitFor(() => socket.frames.some((frame) => frame.type === "hello_ack"), { what: "hello_ack" });
  return socket;
}

const acksOf = (socket: FakeSocket, count: number): Promise<string[]> =>
  waitFor(() => (socket.acks.length >= count ? socket.acks : undefined), { what: `${count} acks` });

const toBob = (id: string) => sendOf(bob.keys.publicKey, { id });
const toAlice = (id: string) => sendOf(alice.keys.publicKey, { id });

const countOf = (table: string): number =>
  db.query<{ n: number }, []>(`SELECT count(*) AS n FROM ${table}`).get()?.n ?? -1;

describe("a batch", () => {
  test("is what arrives in one turn, in one transaction, from all connections", async () => {
    const [fromAlice, fromBob] = [await connect(alice), await connect(bob)];
    const runs = spyOn(db, "run");
    fromAlice.say(toBob("a1"), toBob("a2"));
    fromBob.say(toAlice("b1"));
    fromAlice.say(toBob("a3"));
    await acksOf(fromAlice, 3);
    await acksOf(fromBob, 1);
    expect(runs.mock.calls.filter(([sql]) => sql === "COMMIT")).toHaveLength(1);
    expect(fromBob.pushed).toEqual(["a1", "a2", "a3"]);
    expect(fromAlice.pushed).toEqual(["b1"]);
    runs.mockRestore();
  });

  test("nothing is answered before the commit", async () => {
    const fromAlice = await connect(alice);
    let answeredAtCommit = -1;
    const run = db.run.bind(db);
    const runs = spyOn(db, "run").mockImplementation((sql: string) => {
      if (sql === "COMMIT") answeredAtCommit = fromAlice.acks.length;
      return run(sql);
    });
    fromAlice.say(toBob("a1"));
    await acksOf(fromAlice, 1);
    expect(answeredAtCommit).toBe(0);
    runs.mockRestore();
  });

  test("what follows a hello in the same turn is answered after it, in order", async () => {
    const socket = new FakeSocket(exchange);
    socket.say(
      greet(alice),
      toBob("a1"),
      { type: "list_peers" },
      toBob("a2"),
      { type: "set_status", status: "dnd" },
      { type: "list_peers" },
    );
    await waitFor(() => socket.frames.length === 6, { what: "all answers" });
    expect(socket.frames.map((frame) => frame.type)).toEqual([
      "hello_ack",
      "ack",
      "peers_list",
      "ack",
      "ok",
      "peers_list",
    ]);
    expect(socket.frames[5]).toMatchObject({ peers: [{ status: "dnd" }] });
  });

  test("one frame that cannot be handled is undone alone, and holds its lane", async () => {
    const fromAlice = await connect(alice);
    const look = store.acceptedBefore.bind(store);
    const looks = spyOn(store, "acceptedBefore").mockImplementation((sender, id) => {
      if (id === "poison") throw new Error("a bug");
      return look(sender, id);
    });
    fromAlice.say(toBob("a1"), toBob("poison"), toBob("a2"));
    expect(await acksOf(fromAlice, 3)).toEqual(["created a1", "internal poison", "held a2"]);
    looks.mockRestore();
    fromAlice.say(toBob("poison"), toBob("a2"));
    expect((await acksOf(fromAlice, 5)).slice(3)).toEqual(["created poison", "created a2"]);
    expect(logs).toContain("error a frame could not be handled");
  });

  test("a message that fails halfway leaves nothing behind", async () => {
    const fromAlice = await connect(alice);
    db.run("CREATE TRIGGER breaks BEFORE INSERT ON deliveries BEGIN SELECT RAISE(ABORT, 'no'); END");
    fromAlice.say(toBob("a1"));
    expect(await acksOf(fromAlice, 1)).toEqual(["internal a1"]);
    expect([countOf("messages"), countOf("dedupe"), countOf("deliveries")]).toEqual([0, 0, 0]);
    db.run("DROP TRIGGER breaks");
    fromAlice.say(toBob("a1"));
    expect((await acksOf(fromAlice, 2)).at(1)).toBe("created a1");
  });
});

describe("a disk that is full", () => {
  /** Bytes of a message that surely needs new pages. */
  const large = { ciphertext: Buffer.alloc(40_000).toString("base64") };
  const fill = () => {
    const pages = db.query<{ page_count: number }, []>("PRAGMA page_count").get()?.page_count ?? 0;
    db.run(`PRAGMA max_page_count = ${pages}`);
  };
  const free = () => db.run("PRAGMA max_page_count = 1000000");
  const largeToBob = (id: string) => sendOf(bob.keys.publicKey, { id, ...large });

  test("every send of the batch is internal, nothing is stored, and all goes well when there is room again", async () => {
    const [fromAlice, fromBob] = [await connect(alice), await connect(bob)];
    fill();
    fromAlice.say(toBob("a1"), largeToBob("a2"), toBob("a3"));
    fromBob.say(toAlice("b1"), { type: "list_members", _reqId: "r" });
    expect(await acksOf(fromAlice, 3)).toEqual(["internal a1", "internal a2", "internal a3"]);
    await acksOf(fromBob, 1);
    expect(fromBob.frames.at(-1)).toMatchObject({ type: "error", code: "internal", _reqId: "r" });
    expect([countOf("messages"), countOf("dedupe"), countOf("deliveries")]).toEqual([0, 0, 0]);
    expect([fromAlice.pushed, fromBob.pushed]).toEqual([[], []]);

    free();
    fromAlice.say(toBob("a3"), toBob("a4"));
    expect((await acksOf(fromAlice, 5)).slice(3)).toEqual(["held a3", "held a4"]);
    fromAlice.say(toBob("a1"), largeToBob("a2"), toBob("a3"), toBob("a4"));
    expect((await acksOf(fromAlice, 9)).slice(5)).toEqual([
      "created a1",
      "created a2",
      "created a3",
      "created a4",
    ]);
    await waitFor(() => fromBob.pushed.length === 4, { what: "the pushes" });
    expect(fromBob.pushed).toEqual(["a1", "a2", "a3", "a4"]);
  });

  test("a lane that was held before the batch is held by the same id after it", async () => {
    const fromAlice = await connect(alice);
    fill();
    fromAlice.say(largeToBob("a1"));
    await acksOf(fromAlice, 1);
    fromAlice.say(toBob("a2"), largeToBob("a1"), toBob("a3"));
    await acksOf(fromAlice, 4);
    free();
    fromAlice.say(toBob("a2"), toBob("a3"), toBob("a1"), toBob("a2"));
    expect((await acksOf(fromAlice, 8)).slice(4)).toEqual(["held a2", "held a3", "created a1", "created a2"]);
  });

  test("an id that was accepted twice in a lost batch is no duplicate", async () => {
    const fromAlice = await connect(alice);
    fill();
    const frame = largeToBob("a1");
    fromAlice.say(frame, frame);
    expect(await acksOf(fromAlice, 2)).toEqual(["internal a1", "internal a1"]);
    free();
    fromAlice.say(frame);
    expect((await acksOf(fromAlice, 3)).at(2)).toBe("created a1");
  });

  test("an acknowledgement that was lost leaves the message to be pushed again", async () => {
    const [fromAlice, fromBob] = [await connect(alice), await connect(bob)];
    fromAlice.say(toBob("a1"));
    const push = await waitFor(
      () => fromBob.frames.find((frame) => frame.type === "push" && "ciphertext" in frame),
      { what: "the push" },
    );
    if (push.type !== "push" || !("messageId" in push)) throw new Error("no message");
    fill();
    fromBob.say({ type: "client_ack", brokerMessageId: push.messageId });
    fromAlice.say(largeToBob("a2"));
    await acksOf(fromAlice, 2);
    free();
    expect(countOf("deliveries WHERE delivered_at IS NULL")).toBe(1);
    clock.advance(defaultBounds.leaseMs);
    expect(fromBob.pushed).toEqual(["a1", "a1"]);
    fromBob.say({ type: "client_ack", brokerMessageId: push.messageId });
    await waitFor(() => countOf("deliveries WHERE delivered_at IS NULL") === 0, {
      what: "the acknowledgement",
    });
  });

  test("the queue's length is what is stored, after batches that were lost", async () => {
    const fromAlice = await connect(alice);
    fromAlice.say(toBob("a1"));
    await acksOf(fromAlice, 1);
    fill();
    fromAlice.say(toBob("a2"), largeToBob("a3"));
    await acksOf(fromAlice, 3);
    expect(store.waitingFor(2)).toBe(1);
  });

  test("a hello is refused as internal, and the member can come back", async () => {
    const fromAlice = await connect(alice);
    const socket = new FakeSocket(exchange);
    fill();
    socket.say(greet(bob));
    fromAlice.say(largeToBob("a1"));
    await waitFor(() => socket.closed, { what: "the close" });
    expect(socket.frames).toMatchObject([{ type: "error", code: "internal" }]);
    expect(socket.closed?.code).toBe(1011);
    free();
    await connect(bob);
  });

  test("a database that somebody else has locked is answered for, and recovers", async () => {
    const fromAlice = await connect(alice);
    db.run("PRAGMA busy_timeout = 0");
    const other = openSqlite(db.filename);
    cleanup(() => other.close());
    other.run("BEGIN IMMEDIATE");
    fromAlice.say(toBob("a1"), toBob("a2"));
    expect(await acksOf(fromAlice, 2)).toEqual(["internal a1", "internal a2"]);
    other.run("ROLLBACK");
    fromAlice.say(toBob("a2"), toBob("a1"), toBob("a2"));
    expect((await acksOf(fromAlice, 5)).slice(2)).toEqual(["held a2", "created a1", "created a2"]);
  });
});

describe("a connection that sends too fast", () => {
  test("is not read from until what it sent is handled, and loses nothing", async () => {
    const fromAlice = await connect(alice);
    for (let n = 0; n < 20; n++) fromAlice.say(toBob(`a${n}`));
    expect(fromAlice.events).toEqual(["pause"]);
    await acksOf(fromAlice, 20);
    expect(fromAlice.events).toEqual(["pause", "resume"]);
    expect(fromAlice.acks).toEqual(Array.from({ length: 20 }, (_, n) => `created a${n}`));
  });
});

test("what costs much takes turns: one connection cannot fill a batch with it", async () => {
  const [fromAlice, fromBob] = [await connect(alice), await connect(bob)];
  written.length = 0;
  const list = { type: "list_members" } as const;
  fromAlice.say(list, list, toBob("a1"));
  fromBob.say({ type: "set_status", status: "dnd" });
  await acksOf(fromAlice, 1);
  expect(written).toEqual(["members_list", "ok", "members_list", "ack", "push"]);
});

describe("a socket that does not drain", () => {
  test("gets no pushes until it has", async () => {
    const [fromAlice, fromBob] = [await connect(alice), await connect(bob)];
    fromBob.sends = "buffered";
    fromAlice.say(toBob("a1"));
    await acksOf(fromAlice, 1);
    fromAlice.say(toBob("a2"), toBob("a3"));
    await acksOf(fromAlice, 3);
    expect(fromBob.pushed).toEqual(["a1"]);
    fromBob.sends = "all";
    fromBob.buffered = 0;
    exchange.drained(fromBob.id);
    expect(fromBob.pushed).toEqual(["a1", "a2", "a3"]);
  });

  test("goes on even when it never says that it has drained", async () => {
    const [fromAlice, fromBob] = [await connect(alice), await connect(bob)];
    fromBob.sends = "buffered";
    fromAlice.say(toBob("a1"));
    await acksOf(fromAlice, 1);
    fromAlice.say(toBob("a2"));
    await acksOf(fromAlice, 2);
    fromBob.sends = "all";
    fromBob.buffered = 0;
    clock.advance(defaultBounds.pingEveryMs / 2);
    expect(fromBob.pushed).toEqual(["a1", "a2"]);
  });

  test("is cut off when it holds too much, or drops what it is given", async () => {
    for (const how of ["buffered", "dropped"] as const) {
      const fromAlice = await connect(alice);
      fromAlice.sends = how;
      for (let n = 0; n < 60 && fromAlice.closed === undefined; n++) {
        fromAlice.say({ type: "list_peers" });
        await waitFor(() => fromAlice.frames.length > n + 1 || fromAlice.closed, {
          what: "an answer or the end",
        });
      }
      expect(fromAlice.events).toContain("terminate");
    }
    expect(core.tallies.closedByBroker.get("backlog")).toBe(2);
  });
});

describe("time", () => {
  test("no hello: refused after ten seconds", async () => {
    const socket = new FakeSocket(exchange);
    clock.advance(9_999);
    expect(socket.closed).toBeUndefined();
    clock.advance(1);
    expect(socket.closed).toMatchObject({ code: 1008, reason: expect.stringContaining("hello_timeout") });
    expect(exchange.connectionCount).toBe(0);
  });

  test("a ping every 30 s, and the end after 75 s of silence", async () => {
    const [silent, alive] = [await connect(alice), await connect(bob)];
    for (let second = 0; second < 120; second += 5) {
      clock.advance(5_000);
      if (second % 30 === 0) exchange.heard(alive.id);
    }
    expect(alive.events.filter((event) => event === "ping").length).toBe(4);
    expect(alive.closed).toBeUndefined();
    expect(silent.events).toEqual(["ping", "ping", "terminate"]);
    expect(core.tallies.closedByBroker.get("silence")).toBe(1);
  });

  test("leases lapse by themselves, again and again", async () => {
    const [fromAlice, fromBob] = [await connect(alice), await connect(bob)];
    fromAlice.say(toBob("a1"), toBob("a2"));
    await acksOf(fromAlice, 2);
    for (let round = 0; round < 2; round++) {
      clock.advance(20_000);
      exchange.heard(fromBob.id);
      clock.advance(10_000);
    }
    expect(fromBob.pushed).toEqual(["a1", "a2", "a1", "a2", "a1", "a2"]);
    expect(logs.filter((line) => line.includes("pushed again"))).toHaveLength(2);
  });
});

describe("closing", () => {
  test("a reason is cut to what a close frame holds, between characters", async () => {
    const socket = new FakeSocket(exchange);
    socket.say(JSON.stringify({ type: "é".repeat(100) }));
    const { reason } = await waitFor(() => socket.closed, { what: "the close" });
    expect(Buffer.byteLength(reason)).toBeLessThanOrEqual(123);
    expect(reason).toContain("éé");
    expect(reason).not.toContain("�");
  });

  test("what was sent before the end still counts", async () => {
    const fromAlice = await connect(alice);
    fromAlice.say(toBob("a1"));
    fromAlice.close(1000, "");
    await waitFor(() => countOf("messages") === 1, { what: "the message" });
    await waitFor(() => exchange.connectionCount === 0, { what: "the end" });
  });

  test("stop finishes what it began, says goodbye, and takes nothing more", async () => {
    const [fromAlice, fromBob] = [await connect(alice), await connect(bob)];
    fromAlice.say(toBob("a1"), toBob("a2"));
    const stopped = exchange.stop();
    fromAlice.say(toBob("a3"));
    await stopped;
    expect(fromAlice.acks).toEqual(["created a1", "created a2"]);
    expect([fromAlice.closed?.code, fromBob.closed?.code]).toEqual([1001, 1001]);
    expect(countOf("messages")).toBe(2);
    expect(new FakeSocket(exchange).closed?.code).toBe(1001);
  });
});
