/** A whole daemon against a broker that a test scripts, under a fake clock: an old one, one that fails, one that is left. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import * as v from "valibot";
import { assemble } from "~/daemon/assemble";
import { DirectoryStore, migrateDirectory } from "~/daemon/db/directory";
import { Inbox, migrateInbox } from "~/daemon/db/inbox";
import { migrateOutbox, Outbox } from "~/daemon/db/outbox";
import { handlersOf, rulesOf } from "~/daemon/ipc/listen";
import { buildApp, Load } from "~/daemon/ipc/server";
import { writeFileAtomic } from "~/disk/file";
import { openSqlite } from "~/disk/sqlite";
import type { MeshEntry } from "~/identity/config";
import { generateKeyPair, type KeyPair } from "~/identity/keys";
import { openSealer } from "~/identity/sealer";
import type { Connect, SocketHandlers } from "~/link/socket";
import { defaultSettings } from "~/settings/knobs";
import type { ClientFrameInput } from "~/wire/broker";
import { parseBrokerFrame } from "~/wire/broker";
import { HealthReply, InboxReply, OutboxRowReply, PeersReply } from "~/wire/ipc";
import {
  answerTimeoutMs,
  configCheckEveryMs,
  directoryWaitMs,
  frameBytesMax,
  ipcBodyMsMax,
  ipcRequestsAtWorkMax,
  ipcStreamsMax,
  retryDelayMsMax,
} from "~/wire/limits";
import { decodeSealed, encodeSealed } from "~/wire/sealed";
import { cleanup } from "../../support/cleanup";
import { admit, testLocalToken } from "../../support/daemon-parts";
import { FakeClock } from "../../support/fake-clock";
import { tempDir } from "../../support/temp-dir";

type Sent = Extract<ClientFrameInput, { type: "send" }>;

/** Takes one connection at a time; `on` answers a frame, with nothing when it is not told how. */
class ScriptedBroker {
  readonly frames: ClientFrameInput[] = [];
  readonly on: Partial<Record<ClientFrameInput["type"], (frame: ClientFrameInput) => object | undefined>> =
    {};
  readonly #clock: FakeClock;
  #handlers: SocketHandlers | undefined;

  constructor(clock: FakeClock) {
    this.#clock = clock;
  }

  readonly connect: Connect = (_url, handlers) => {
    this.#handlers = handlers;
    this.#clock.soon(() => this.#to(handlers, () => handlers.opened()));
    return {
      bufferedBytes: 0,
      send: (frame) => {
        if (this.#handlers !== handlers) return false;
        // What goes on the wire is JSON.
        const said: ClientFrameInput = JSON.parse(JSON.stringify(frame));
        this.frames.push(said);
        const answer = this.on[said.type]?.(said);
        if (answer !== undefined) this.#clock.soon(() => this.#to(handlers, () => this.say(answer)));
        return true;
      },
      ping: () => undefined,
      close: () => {
        if (this.#handlers === handlers) this.#handlers = undefined;
      },
    };
  };

  say(frame: object): void {
    this.#handlers?.heard();
    this.#handlers?.received(parseBrokerFrame(JSON.stringify(frame)));
  }

  /** As when the network goes. */
  drop(): void {
    const handlers = this.#handlers;
    this.#handlers = undefined;
    handlers?.closed(1006, "");
  }

  sends(): Sent[] {
    return this.frames.filter((frame) => frame.type === "send");
  }

  of(type: ClientFrameInput["type"]): ClientFrameInput[] {
    return this.frames.filter((frame) => frame.type === type);
  }

  #to(handlers: SocketHandlers, action: () => void): void {
    if (this.#handlers === handlers) action();
  }
}

const meshId = "mesh-1";

function entryOf(keys: KeyPair, changes: Partial<MeshEntry> = {}): MeshEntry {
  return {
    meshId,
    memberId: "member-alice",
    slug: "team",
    name: "Team",
    pubkey: keys.publicKey,
    secretKey: keys.secretKey,
    brokerUrl: "ws://broker.test/ws",
    joinedAt: "2025-06-15T15:06:40.000Z",
    ...changes,
  };
}

async function openHost(entry: MeshEntry) {
  const clock = new FakeClock();
  const broker = new ScriptedBroker(clock);
  const configFile = join(tempDir(), "config.json");
  const configure = (...meshes: MeshEntry[]) =>
    writeFileAtomic(configFile, JSON.stringify({ version: 1, meshes }));
  configure(entry);
  const open = (migrate: (db: ReturnType<typeof openSqlite>) => void) => {
    const db = openSqlite(":memory:");
    migrate(db);
    return db;
  };
  const directoryDb = open(migrateDirectory);
  let ids = 0;
  const parts = assemble({
    clock,
    chance: () => 0,
    newId: () => `ID${String(ids++).padStart(24, "0")}`,
    log: () => undefined,
    sealer: await openSealer(),
    connect: broker.connect,
    outbox: new Outbox(open(migrateOutbox)),
    inbox: new Inbox(open(migrateInbox)),
    directoryStore: new DirectoryStore(directoryDb),
    configFile,
    token: testLocalToken(clock),
    sessionId: "test",
    settings: () => defaultSettings,
    startProblems: [],
  });
  cleanup(() => parts.meshes.stop());
  const app = buildApp({
    handlers: handlersOf(parts),
    wayIn: { kind: "unix" },
    rules: () => rulesOf(parts),
    load: new Load(),
    tallies: parts.tallies,
    clock,
    log: () => undefined,
    logPlace: "daemon.log",
  });

  /** Moves time on, and lets everything happen that then is due. */
  async function settle(ms = 0): Promise<void> {
    for (let turn = 0; turn < 30; turn++) {
      clock.advance(turn === 0 ? ms : 0);
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  const ask = (path: string, body?: unknown) =>
    Promise.resolve(
      app.request(`http://localhost${path}`, {
        headers: { host: "localhost" },
        ...(body === undefined ? {} : { method: "POST", body: JSON.stringify(body) }),
      }),
    ).then(async (response) => {
      const json: unknown = await response.json();
      return { status: response.status, json };
    });
  /** An answer that waits for nothing but what is at hand. */
  async function now(path: string, body?: unknown) {
    const answer = ask(path, body);
    await settle();
    return await answer;
  }
  return { parts, clock, broker, directoryDb, app, configure, settle, ask, now };
}

describe("a version-1 broker", () => {
  const alice = generateKeyPair();
  const bob = generateKeyPair();
  const bobOnline = {
    pubkey: bob.publicKey,
    displayName: "bob",
    status: "working",
    summary: null,
    groups: [],
    sessionId: "s-1",
    connectedAt: "2025-06-15T15:06:40.000Z",
  };

  async function openOldMesh() {
    const host = await openHost(entryOf(alice));
    const { broker } = host;
    const sealer = await openSealer();
    let peers: object[] = [bobOnline];
    // Presence and profile are taken without an answer.
    broker.on.hello = () => ({ type: "hello_ack", presenceId: "p-1", memberDisplayName: "alice" });
    broker.on.list_peers = (frame) => ({
      type: "peers_list",
      peers,
      ...("_reqId" in frame ? { _reqId: frame._reqId } : {}),
    });
    host.parts.meshes.start();
    await host.settle();
    return {
      ...host,
      setPeers(...next: object[]) {
        peers = next;
        broker.say({ type: "push", subtype: "system", event: "peer_left" });
      },
      textOf: (frame: Sent | undefined) =>
        frame === undefined ? undefined : sealer.open(decodeSealed(frame), bob.secretKey, alice.publicKey),
      push: (messageId: string, text: string, changes: object = {}) =>
        broker.say({
          type: "push",
          messageId,
          meshId,
          senderPubkey: bob.publicKey,
          priority: "next",
          ...encodeSealed(sealer.seal(text, bob.secretKey, alice.publicKey)),
          createdAt: "2025-06-15T15:06:40.000Z",
          ...changes,
        }),
    };
  }

  test("is worked with, and health says what it lacks", async () => {
    const d = await openOldMesh();
    const health = v.parse(HealthReply, (await d.now("/v1/health")).json);
    expect(health.meshes.team?.link).toBe("open");
    expect(health.problems.map(({ code }) => code)).toEqual(["broker_lacks_features"]);
    expect(d.broker.of("list_members")).toEqual([]);
    const { peers } = v.parse(PeersReply, (await d.now("/v1/peers")).json);
    expect(peers).toMatchObject([{ name: "bob", pubkey: bob.publicKey, online: true, status: "working" }]);
  });

  test("gets the bare text sealed, one message of a lane at a time, each after the answer to the one before", async () => {
    const d = await openOldMesh();
    for (const id of ["one", "two", "three"]) {
      const answer = await d.now("/v1/send", { to: "bob", message: `text ${id}`, client_message_id: id });
      expect(answer.status).toBe(202);
    }
    expect(d.broker.sends()).toMatchObject([{ id: "one", targetSpec: bob.publicKey, bodyVersion: 1 }]);
    expect(d.textOf(d.broker.sends()[0])).toBe("text one");
    d.broker.say({ type: "ack", id: "one", messageId: "m-1", queued: false });
    await d.settle();
    expect(d.broker.sends().map(({ id }) => id)).toEqual(["one", "two"]);
    d.broker.say({ type: "ack", id: "two", messageId: "m-2", queued: true });
    await d.settle();
    d.broker.say({ type: "ack", id: "three", messageId: "m-3", queued: true });
    await d.settle();
    for (const [n, id] of ["one", "two", "three"].entries()) {
      const { json } = await d.now(`/v1/messages/${id}`);
      expect(json).toMatchObject({ status: "done", broker_message_id: `m-${n + 1}` });
    }
  });

  test("that has no peer for it now is asked again, in order; what it refuses for good ends", async () => {
    const d = await openOldMesh();
    for (const id of ["one", "two"])
      await d.now("/v1/send", { to: "bob", message: id, client_message_id: id });
    d.broker.say({
      type: "ack",
      id: "one",
      messageId: "",
      queued: false,
      error: "no connected peer for target",
    });
    await d.settle();
    expect(d.broker.sends().map(({ id }) => id)).toEqual(["one"]);
    await d.settle(1_000);
    expect(d.broker.sends().map(({ id }) => id)).toEqual(["one", "one"]);
    d.broker.say({
      type: "ack",
      id: "one",
      messageId: "",
      queued: false,
      error: "payload too large (70000)",
    });
    await d.settle();
    expect(d.broker.sends().map(({ id }) => id)).toEqual(["one", "one", "two"]);
    const row = v.parse(OutboxRowReply, (await d.now("/v1/outbox/one")).json);
    expect(row).toMatchObject({ status: "dead", attempts: 1, last_error: "payload too large (70000)" });
  });

  test("whose words nobody knows is asked twenty times, and then the message ends", async () => {
    const d = await openOldMesh();
    d.broker.on.send = (frame) => ({
      type: "ack",
      id: "id" in frame ? frame.id : "",
      messageId: null,
      queued: false,
      error: "computer says no",
    });
    await d.now("/v1/send", { to: "bob", message: "hi", client_message_id: "one" });
    for (let n = 0; n < 40; n++) await d.settle(retryDelayMsMax);
    expect(d.broker.sends()).toHaveLength(20);
    const row = v.parse(OutboxRowReply, (await d.now("/v1/outbox/one")).json);
    expect(row).toMatchObject({ status: "dead", last_error: "computer says no" });
  });

  test("cannot carry meta to a peer that reads plain text only", async () => {
    const d = await openOldMesh();
    const answer = await d.now("/v1/send", { to: "bob", message: "hi", meta: { a: 1 } });
    expect(answer).toMatchObject({ status: 400, json: { error: "peer_too_old" } });
    expect(d.broker.sends()).toEqual([]);
  });

  test("pushes without the sender's id: the message is named after the broker's, and shown once", async () => {
    const d = await openOldMesh();
    d.push("m-1", "first");
    d.push("m-2", '{"v":1,"like":"json"}');
    d.push("m-1", "first");
    await d.settle();
    const { items } = v.parse(InboxReply, (await d.now("/v1/inbox")).json);
    expect(items).toMatchObject([
      { client_message_id: "m-1", body: "first", from: { name: "bob", pubkey: bob.publicKey } },
      { client_message_id: "m-2", body: '{"v":1,"like":"json"}' },
    ]);
    expect(d.broker.of("client_ack")).toEqual([
      { type: "client_ack", brokerMessageId: "m-1" },
      { type: "client_ack", brokerMessageId: "m-2" },
      { type: "client_ack", brokerMessageId: "m-1" },
    ]);
  });

  test("lists only who is online: a peer that left can still be written to", async () => {
    const d = await openOldMesh();
    d.setPeers();
    await d.settle(1_000);
    const { peers } = v.parse(PeersReply, (await d.now("/v1/peers?all=1")).json);
    expect(peers).toMatchObject([{ name: "bob", online: false }]);
    expect(await d.now("/v1/send", { to: "bob", message: "later" })).toMatchObject({ status: 202 });
  });
});

describe("a claudemesh broker", () => {
  const alice = generateKeyPair();
  const bob = generateKeyPair();
  const rootKey = Buffer.alloc(32, 7).toString("base64url");
  const mesh = entryOf(alice, { inviteVersion: 3, ownerPubkey: alice.publicKey, rootKey });
  const features = {
    client_message_id_dedupe: { version: 1, mode: "permanent", request_fingerprint: true },
    members: { version: 1 },
    lanes: { version: 1 },
  };

  async function openMesh() {
    const host = await openHost(mesh);
    const { broker, clock } = host;
    const listing = (keys: KeyPair, name: string) => ({
      member_id: `member-${name}`,
      pubkey: keys.publicKey,
      display_name: name,
      role: "member",
      capabilities: ["body2"],
      joined_at: "2025-06-15T15:06:40.000Z",
      online: false,
      admission: admit(keys.publicKey, mesh, alice, rootKey, clock.now()),
    });
    const reqId = (frame: ClientFrameInput) => ("_reqId" in frame ? { _reqId: frame._reqId } : {});
    broker.on.hello = () => ({ type: "hello_ack", presenceId: "p-1", features });
    broker.on.list_peers = (frame) => ({ type: "peers_list", peers: [], ...reqId(frame) });
    const listMembers = (frame: ClientFrameInput) => ({
      type: "members_list",
      members: [listing(bob, "bob")],
      ...reqId(frame),
    });
    broker.on.list_members = listMembers;
    broker.on.send = (frame) => ({
      type: "ack",
      id: "id" in frame ? frame.id : "",
      code: "created",
      messageId: "m-1",
      queued: true,
    });
    return { ...host, listMembers };
  }

  test("that did not list the members the first time is asked again when somebody sends", async () => {
    const d = await openMesh();
    d.broker.on.list_members = () => undefined;
    d.parts.meshes.start();
    await d.settle();
    await d.settle(answerTimeoutMs);
    d.broker.on.list_members = d.listMembers;
    const answer = d.ask("/v1/send", { to: "bob", message: "hi" });
    await d.settle();
    await d.settle(directoryWaitMs);
    expect(await answer).toMatchObject({ status: 202 });
  });

  test("gets no row under a new key that the old one sealed, though sealing it anew met a full disk at first", async () => {
    const d = await openMesh();
    d.parts.meshes.start();
    await d.settle();
    // A daemon that could not reach its broker: the row was never sent.
    d.broker.on.hello = () => undefined;
    d.broker.drop();
    await d.settle();
    await d.now("/v1/send", { to: "bob", message: "hi", client_message_id: "one" });
    d.parts.outbox.db.run(
      "CREATE TRIGGER full BEFORE UPDATE OF sender_pubkey ON outbox BEGIN SELECT raise(ROLLBACK, 'disk full'); END",
    );
    d.broker.on.hello = () => ({ type: "hello_ack", presenceId: "p-2", features });
    const again = generateKeyPair();
    d.configure({ ...mesh, memberId: "member-again", pubkey: again.publicKey, secretKey: again.secretKey });
    d.parts.meshes.reload();
    await d.settle();
    await d.settle(1_000);
    expect(d.broker.sends()).toEqual([]);
    d.parts.outbox.db.run("DROP TRIGGER full");
    await d.settle(configCheckEveryMs);
    await d.settle(1_000);
    const [frame] = d.broker.sends();
    const sealer = await openSealer();
    if (frame === undefined) throw new Error("nothing was sent");
    expect(sealer.open(decodeSealed(frame), bob.secretKey, again.publicKey)).toContain('"body":"hi"');
  });

  test("that takes more than a frame holds gets no message that its own limit would cut the connection for", async () => {
    const d = await openMesh();
    const roomy = { ...features, max_payload: { version: 1, inline_bytes: 4 * 1024 * 1024 } };
    d.broker.on.hello = () => ({ type: "hello_ack", presenceId: "p-1", features: roomy });
    d.parts.meshes.start();
    await d.settle();
    const tooLarge = await d.now("/v1/send", { to: "bob", message: "x".repeat(900_000) });
    expect(tooLarge).toMatchObject({ status: 413, json: { error: "message_too_large" } });
    expect(await d.now("/v1/send", { to: "bob", message: "x".repeat(780_000) })).toMatchObject({
      status: 202,
    });
    const sizes = d.broker.sends().map((frame) => Buffer.byteLength(JSON.stringify(frame)));
    expect(sizes).toHaveLength(1);
    expect(Math.max(...sizes)).toBeLessThan(frameBytesMax);
  });

  test("is not connected to by a configuration that changed as the daemon stopped", async () => {
    const d = await openMesh();
    d.parts.meshes.start();
    await d.settle();
    d.parts.meshes.stop();
    const greeted = d.broker.of("hello").length;
    d.configure({ ...mesh, meshId: "mesh-2" });
    d.parts.meshes.reload();
    await d.settle();
    expect(d.broker.of("hello")).toHaveLength(greeted);
  });

  test("whose mesh is joined anew while a send waits for the members: it is sealed with the key of now", async () => {
    const d = await openMesh();
    d.broker.on.list_members = () => undefined;
    d.parts.meshes.start();
    await d.settle();
    const answer = d.ask("/v1/send", { to: "bob", message: "hi", client_message_id: "one" });
    await d.settle(100);
    // The old session's question is answered at last, after the host came back under another key.
    const asked = d.broker.of("list_members")[0];
    if (asked === undefined) throw new Error("nobody asked for the members");
    d.broker.say(d.listMembers(asked));
    const again = generateKeyPair();
    d.configure({ ...mesh, memberId: "member-again", pubkey: again.publicKey, secretKey: again.secretKey });
    d.broker.on.list_members = d.listMembers;
    d.parts.meshes.reload();
    await d.settle();
    await answer;
    await d.settle();
    const [frame] = d.broker.sends();
    const sealer = await openSealer();
    if (frame === undefined) throw new Error("nothing was sent");
    const opened = sealer.open(decodeSealed(frame), bob.secretKey, again.publicKey);
    expect(opened).toContain('"body":"hi"');
  });
});

describe("what a caller can do to the others", () => {
  const local = { host: "localhost" };

  test("a HEAD request opens no event stream", async () => {
    const d = await openHost(entryOf(generateKeyPair()));
    for (let n = 0; n <= ipcStreamsMax; n++) {
      const head = await d.app.request("http://localhost/v1/events", { method: "HEAD", headers: local });
      expect(head.status).toBe(405);
    }
    const stream = await d.app.request("http://localhost/v1/events", { headers: local });
    expect(stream.status).toBe(200);
    await stream.body?.cancel();
  });

  test("bodies that never end keep the daemon busy for a bounded time", async () => {
    const d = await openHost(entryOf(generateKeyPair()));
    const endless = Array.from({ length: ipcRequestsAtWorkMax }, () =>
      d.app.request("http://localhost/v1/send", {
        method: "POST",
        headers: local,
        body: new ReadableStream({
          start: (controller) => controller.enqueue(new TextEncoder().encode("{")),
        }),
      }),
    );
    expect(await d.now("/v1/version")).toMatchObject({ status: 429 });
    await d.settle(ipcBodyMsMax);
    for (const answer of endless) expect((await answer).status).toBe(400);
    expect(await d.now("/v1/version")).toMatchObject({ status: 200 });
  });

  test("a query that a route does not take is refused by name, whatever its method", async () => {
    const d = await openHost(entryOf(generateKeyPair()));
    const answer = await d.now("/v1/send?priority=now", { to: "bob", message: "hi" });
    expect(answer).toMatchObject({ status: 400, json: { message: "unknown field: priority" } });
  });
});

test("a full disk is no bug of the daemon, wherever it is met", async () => {
  const d = await openHost(entryOf(generateKeyPair()));
  const [pages] = d.directoryDb.query<{ page_count: number }, []>("PRAGMA page_count").all();
  d.directoryDb.run(`PRAGMA max_page_count = ${pages?.page_count ?? 0}`);
  const capabilities = Array.from({ length: 32 }, (_, n) => `${n}`.padEnd(64, "x"));
  const answer = await d.now("/v1/profile", { bio: "x".repeat(2000), capabilities });
  expect(answer).toMatchObject({ status: 507, json: { error: "storage_full" } });
  expect((await d.now("/v1/profile")).json).toMatchObject({ bio: "" });
});

test("health names the disk that cannot be written, until it can", async () => {
  const d = await openHost(entryOf(generateKeyPair()));
  const codes = async () =>
    v.parse(HealthReply, (await d.now("/v1/health")).json).problems.map((problem) => problem.code);
  const write = () => d.parts.inboxWriter.submit(() => d.parts.inbox.db.run("CREATE TABLE more (a)"));
  const [pages] = d.parts.inbox.db.query<{ page_count: number }, []>("PRAGMA page_count").all();
  d.parts.inbox.db.run(`PRAGMA max_page_count = ${pages?.page_count ?? 0}`);
  const refused = write().catch((error: unknown) => error);
  await d.settle();
  expect(await refused).toMatchObject({ code: "storage_full" });
  expect(await codes()).toEqual(["storage_full"]);
  d.parts.inbox.db.run("PRAGMA max_page_count = 1000");
  void write();
  await d.settle();
  expect(await codes()).toEqual([]);
});

describe("what waits long", () => {
  async function withWaiting() {
    const d = await openHost(entryOf(generateKeyPair()));
    const { db } = d.parts.outbox;
    const add = (id: string, mesh: string, target: string, minutesAgo: number) =>
      db
        .query(
          `INSERT INTO outbox (id, client_message_id, request_fingerprint, enqueued_at, status, mesh, to_text, target_spec, ciphertext)
           VALUES (?1, ?1, x'00', ?2, 'pending', ?3, ?4, ?4, 'c')`,
        )
        .run(id, d.clock.now() - minutesAgo * 60_000, mesh, target);
    const health = async () => v.parse(HealthReply, (await d.now("/v1/health")).json);
    return { ...d, db, add, health };
  }

  test("is told of each lane, oldest first, and not only of the first of a mesh", async () => {
    const d = await withWaiting();
    d.add("1", meshId, "bob", 20);
    d.add("2", meshId, "bob", 15);
    d.add("3", meshId, "carol", 30);
    d.add("4", "mesh-2", "dave", 5);
    const { problems, outbox } = await d.health();
    expect(problems.map(({ message }) => message.replace(/:.*/, ""))).toEqual([
      "a message to carol has waited 30 minutes",
      "a message to bob has waited 20 minutes",
    ]);
    expect(outbox.oldest_pending_s).toBe(30 * 60);
  });

  test("is found quickly among many", async () => {
    const d = await withWaiting();
    d.db.transaction(() => {
      for (let n = 0; n < 20_000; n++) d.add(`${n}`, n < 10_000 ? "mesh-1" : "mesh-2", `peer-${n % 5}`, 20);
    })();
    const began = performance.now();
    expect((await d.health()).problems).toHaveLength(10);
    expect(performance.now() - began).toBeLessThan(1_000);
  });
});
