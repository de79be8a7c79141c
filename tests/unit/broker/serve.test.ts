/** A whole broker over real sockets: starting, greeting, messages from one member to another, stopping, and what must not hurt it. */
import { beforeEach, describe, expect, test } from "bun:test";
import { copyFileSync, existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { runBroker, startBroker } from "~/broker/serve";
import { systemClock } from "~/clock";
import { openSqlite } from "~/disk/sqlite";
import { MeshError } from "~/errors";
import { generateKeyPair, signText } from "~/identity/keys";
import { isAdmitted } from "~/identity/members";
import { Features } from "~/wire/broker";
import { BrokerHealth, BrokerRecord } from "~/wire/membership";
import { brokerPaths } from "~/wire/paths";
import {
  createTestMesh,
  inviteTo,
  joinTestMesh,
  postJoin,
  registrationOf,
  startTestBroker,
  type TestBroker,
  type TestMesh,
} from "../../support/broker";
import { BrokerClient, helloOf, sendOf, type TestMember } from "../../support/broker-client";
import { cleanup } from "../../support/cleanup";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";

const refusalOf = async (start: Promise<unknown>): Promise<MeshError> => {
  const error = await start.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (error instanceof MeshError) return error;
  throw new Error(`not refused but ${String(error)}`);
};

describe("starting and stopping", () => {
  test("leaves a token and a record, for their owner only, and answers", async () => {
    const broker = await startTestBroker();
    const paths = brokerPaths(broker.dataDir);
    expect(broker.adminToken).toMatch(/^[A-Za-z0-9_-]{43}$/);
    for (const path of [paths.adminToken, paths.record, paths.database])
      expect([path, statSync(path).mode & 0o777]).toEqual([path, 0o600]);
    const record = v.parse(BrokerRecord, JSON.parse(readFileSync(paths.record, "utf8")));
    expect(record).toMatchObject({ pid: process.pid, url: broker.url });
    expect([broker.url, broker.httpUrl]).toEqual([
      `ws://127.0.0.1:${broker.port}/ws`,
      `http://127.0.0.1:${broker.port}`,
    ]);
    const response = await fetch(`${broker.httpUrl}/health`);
    expect(v.parse(BrokerHealth, await response.json())).toMatchObject({ ok: true, connections: 0 });
  });

  test("says goodbye with 1001, removes the record, leaves the database clean, and can be done twice", async () => {
    const broker = await startTestBroker();
    const mesh = await createTestMesh(broker);
    const client = await BrokerClient.connect(broker.url, mesh.owner);
    const idle = await BrokerClient.open(broker.url);
    await Promise.all([broker.stop(), broker.stop()]);
    expect([(await client.waitForClose()).code, (await idle.waitForClose()).code]).toEqual([1001, 1001]);
    const paths = brokerPaths(broker.dataDir);
    expect([existsSync(paths.record), existsSync(`${paths.database}-wal`)]).toEqual([false, false]);
    const refused = await fetch(`${broker.httpUrl}/health`).then(
      () => false,
      () => true,
    );
    expect(refused).toBe(true);
  });

  test("is kept across a restart: token, mesh, members, messages", async () => {
    const broker = await startTestBroker();
    const mesh = await createTestMesh(broker);
    const bob = await joinTestMesh(mesh, "bob");
    const alice = await BrokerClient.connect(broker.url, mesh.owner);
    const frame = sendOf(bob.keys.publicKey);
    const first = await alice.sendAndWait(frame);
    await broker.stop();

    const again = await startTestBroker({ dataDir: broker.dataDir });
    expect(again.adminToken).toBe(broker.adminToken);
    const back = await BrokerClient.connect(again.url, mesh.owner);
    expect(await back.sendAndWait(frame)).toMatchObject({ code: "duplicate", messageId: first.messageId });
    const push = await (await BrokerClient.connect(again.url, bob)).nextPush();
    expect(push).toMatchObject({ messageId: first.messageId, ciphertext: frame.ciphertext });
  });

  test("refuses a directory that another broker serves, and says which", async () => {
    const broker = await startTestBroker();
    const error = await refusalOf(startBroker({ dataDir: broker.dataDir, port: 0 }));
    expect(error.code).toBe("already_running");
    expect(error.message).toContain(String(process.pid));
    expect(error.details).toEqual({ pid: process.pid, url: broker.url });
    expect((await fetch(`${broker.httpUrl}/health`)).status).toBe(200);
  });

  test("refuses a port that is taken, and lets go of the directory", async () => {
    const broker = await startTestBroker();
    const dataDir = tempDir();
    const error = await refusalOf(startBroker({ dataDir, port: broker.port, log: () => undefined }));
    expect([error.code, error.hint]).toEqual(["port_in_use", expect.stringContaining("--port")]);
    await startTestBroker({ dataDir });
  });

  test("off loopback it wants TLS, or a proxy that does it", async () => {
    for (const host of ["0.0.0.0", "::", "192.0.2.7", "example.org"]) {
      const error = await refusalOf(startBroker({ dataDir: tempDir(), port: 0, host }));
      expect([error.code, error.hint]).toEqual(["usage", expect.stringContaining("--behind-proxy")]);
    }
    const broker = await startTestBroker({ host: "0.0.0.0", behindProxy: true });
    expect(broker.url).toStartWith("ws://127.0.0.1:");
    expect((await fetch(`${broker.httpUrl}/health`)).status).toBe(200);
  });

  test("a certificate that is not there, or is none", async () => {
    const dataDir = tempDir();
    const tls = { certFile: join(dataDir, "cert.pem"), keyFile: join(dataDir, "key.pem") };
    expect(await refusalOf(startBroker({ dataDir, port: 0, tls }))).toMatchObject({ code: "config_invalid" });
    for (const path of [tls.certFile, tls.keyFile]) writeFileSync(path, "nonsense");
    expect((await refusalOf(startBroker({ dataDir, port: 0, tls }))).hint).toContain("certificate");
  });

  test("a token file without a token, and a directory that is open to others", async () => {
    const dataDir = tempDir();
    writeFileSync(brokerPaths(dataDir).adminToken, "\n");
    expect(await refusalOf(startBroker({ dataDir, port: 0 }))).toMatchObject({ code: "config_invalid" });
    expect(await refusalOf(startBroker({ dataDir: "/", port: 0 }))).toMatchObject({ code: "path_unsafe" });
  });

  test("runBroker runs until it is told to end", async () => {
    const ending = new AbortController();
    let url = "";
    const running = runBroker(
      { dataDir: tempDir(), port: 0, log: () => undefined },
      ending.signal,
      (broker) => {
        url = broker.httpUrl;
      },
    );
    await waitFor(() => url, { what: "the broker" });
    expect((await fetch(`${url}/health`)).status).toBe(200);
    ending.abort();
    await running;
    await runBroker({ dataDir: tempDir(), port: 0, log: () => undefined }, ending.signal);
  });
});

describe("what the operator chooses", () => {
  test("is told to every client", async () => {
    const broker = await startTestBroker({ connectionPolicy: "allow_concurrent", dedupeDays: 7 });
    const mesh = await createTestMesh(broker);
    const client = await BrokerClient.open(broker.url);
    client.send(helloOf(mesh.owner));
    const { features } = await client.next("hello_ack");
    expect(v.parse(Features, features)).toMatchObject({
      client_message_id_dedupe: {
        mode: "retention_scoped",
        dedupe_retention_days: 7,
        request_fingerprint: true,
      },
      concurrent_connection_policy: { default_policy: "allow_concurrent" },
    });
    const beside = await BrokerClient.connect(broker.url, mesh.owner);
    expect([client.closed, beside.closed]).toEqual([undefined, undefined]);
  });

  test("a newer connection is closed with 4003 and a reason where the oldest is preferred", async () => {
    const broker = await startTestBroker({ connectionPolicy: "prefer_oldest" });
    const mesh = await createTestMesh(broker);
    const older = await BrokerClient.connect(broker.url, mesh.owner);
    const newer = await BrokerClient.open(broker.url);
    newer.send(helloOf(mesh.owner));
    expect(await newer.next("error")).toMatchObject({ code: "identity_in_use" });
    expect(await newer.waitForClose()).toEqual({
      code: 4003,
      reason: expect.stringMatching(/^identity_in_use: /),
    });
    await older.close();
    await waitFor(
      async () => {
        const late = await BrokerClient.open(broker.url);
        late.send(helloOf(mesh.owner));
        await waitFor(() => late.frames.length > 0, { what: "an answer" });
        return late.frames[0]?.type === "hello_ack";
      },
      { what: "the next to be let in" },
    );
  });

  test.each([{ dedupeDays: 2 }, { historyDays: 0 }])(
    "is refused when it is out of bounds: %j",
    async (option) => {
      const dataDir = tempDir();
      expect(await refusalOf(startBroker({ dataDir, port: 0, ...option }))).toMatchObject({ code: "usage" });
      await startTestBroker({ dataDir });
    },
  );
});

describe("upkeep", () => {
  const monthMs = 31 * 24 * 3600 * 1000;
  const healthOf = async (broker: TestBroker) =>
    v.parse(BrokerHealth, await (await fetch(`${broker.httpUrl}/health`)).json());

  /** The directory of this broker as it would be found if the host lost power now, after `sql` was done to it. */
  function lostPower(broker: TestBroker, sql: string): string {
    const copy = (from: string) => {
      const to = tempDir();
      const [source, target] = [brokerPaths(from).database, brokerPaths(to).database];
      for (const suffix of ["", "-wal"]) copyFileSync(`${source}${suffix}`, `${target}${suffix}`);
      return to;
    };
    const between = copy(broker.dataDir);
    const db = openSqlite(brokerPaths(between).database);
    db.run("PRAGMA foreign_keys = OFF");
    db.run(sql);
    const left = copy(between);
    db.close();
    return left;
  }

  test("after an unclean stop the tables are held against each other: the broker serves, and says what is wrong", async () => {
    const broker = await startTestBroker();
    const mesh = await createTestMesh(broker);
    const bob = await joinTestMesh(mesh, "bob");
    const alice = await BrokerClient.connect(broker.url, mesh.owner);
    const frame = sendOf(bob.keys.publicKey);
    await alice.sendAndWait(frame);
    expect(await healthOf(broker)).toMatchObject({ ok: true, problems: [] });

    const logs: string[] = [];
    const log = (level: string, message: string) => void logs.push(`${level} ${message}`);
    const hurt = await startTestBroker({ dataDir: lostPower(broker, "DELETE FROM messages"), log });
    await waitFor(async () => (await healthOf(hurt)).problems.length > 0, { what: "the check" });
    expect(await healthOf(hurt)).toMatchObject({
      ok: true,
      problems: [
        { code: "dedupe_without_message", message: expect.stringMatching(/^1 /) },
        { code: "delivery_without_message", message: expect.stringMatching(/^1 /) },
      ],
    });
    expect(logs).toContain("error the broker's database contradicts itself");
    const back = await BrokerClient.connect(hurt.url, mesh.owner);
    expect(await back.sendAndWait(frame)).toMatchObject({ code: "duplicate", history_available: false });
    expect(await back.sendAndWait(sendOf(bob.keys.publicKey))).toMatchObject({ code: "created" });
  });

  test("at the start what is old goes, while the broker serves; a stop ends it between two steps, the next start goes on", async () => {
    const broker = await startTestBroker();
    const mesh = await createTestMesh(broker);
    const bob = await joinTestMesh(mesh, "bob");
    const [alice, client] = [
      await BrokerClient.connect(broker.url, mesh.owner),
      await BrokerClient.connect(broker.url, bob),
    ];
    client.acknowledges = true;
    const frames = Array.from({ length: 200 }, () => sendOf(bob.keys.publicKey));
    for (const frame of frames) alice.send(frame);
    await waitFor(() => client.pushes.length === 200, { what: "the messages" });
    client.send({ type: "list_peers" });
    await client.next("peers_list");
    await broker.stop();

    const logs: unknown[] = [];
    const later = {
      dataDir: broker.dataDir,
      clock: { ...systemClock, now: () => Date.now() + monthMs },
      log: (_level: string, message: string, fields: object = {}) => void logs.push({ message, ...fields }),
    };
    const slow = await startTestBroker({
      ...later,
      bounds: { upkeepWrittenRowsMax: 1, upkeepPauseMs: 60_000 },
    });
    const pruned = openSqlite(brokerPaths(broker.dataDir).database);
    cleanup(() => pruned.close());
    const sql = "SELECT count(*) AS n FROM messages WHERE pruned_at IS NOT NULL";
    await waitFor(() => pruned.query<{ n: number }, []>(sql).get()?.n === 1, { what: "the first step" });
    await slow.stop();
    expect(logs).toContainEqual({ message: "old messages were pruned", pruned: 1, forgotten: 0 });

    const again = await startTestBroker(later);
    await waitFor(() => pruned.query<{ n: number }, []>(sql).get()?.n === 200, { what: "the pruning" });
    const back = await BrokerClient.connect(again.url, mesh.owner, {
      ...helloOf(mesh.owner, { timestamp: Date.now() + monthMs }),
    });
    for (const frame of [frames[0], frames[199]]) {
      if (frame === undefined) throw new Error("no frame");
      expect(await back.sendAndWait(frame)).toMatchObject({ code: "duplicate", history_available: false });
    }
  });
});

describe("over the wire", () => {
  let broker: TestBroker;
  let mesh: TestMesh;
  let bob: TestMember;

  beforeEach(async () => {
    broker = await startTestBroker();
    mesh = await createTestMesh(broker);
    bob = await joinTestMesh(mesh, "bob");
  });

  const refusedHello = async (first: object | string) => {
    const client = await BrokerClient.open(broker.url);
    client.sendRaw(typeof first === "string" ? first : JSON.stringify(first));
    const error = await client.next("error");
    const closed = await client.waitForClose();
    return { code: error.code, closeCode: closed.code, reason: closed.reason };
  };

  test("a mesh is made with the token, once for each name", async () => {
    const body = { slug: mesh.slug, name: "x", owner_pubkey: mesh.owner.keys.publicKey, display_name: "y" };
    const post = (given: object, token = broker.adminToken) =>
      fetch(`${broker.httpUrl}/meshes`, {
        method: "POST",
        headers: { authorization: `Bearer ${token}` },
        body: JSON.stringify(given),
      });
    expect(await (await post(body)).json()).toEqual({ mesh_id: mesh.meshId, member_id: mesh.owner.memberId });
    expect((await post({ ...body, owner_pubkey: generateKeyPair().publicKey })).status).toBe(409);
    expect((await post(body, "wrong")).status).toBe(401);
  });

  test("an invite lets in as many as it says, and the others hear of it", async () => {
    const owner = await BrokerClient.connect(broker.url, mesh.owner);
    const invite = inviteTo(mesh);
    owner.send(registrationOf(invite));
    await owner.next("invite_created");
    const carol = { keys: generateKeyPair(), displayName: "carol" };
    const answers = await Promise.all(
      [carol, { keys: generateKeyPair(), displayName: "eve" }, carol].map((joiner) =>
        postJoin(mesh, invite, joiner),
      ),
    );
    expect(answers.map((answer) => answer.status).sort()).toEqual([200, 200, 410]);
    const event = await owner.next("push", (push) => "event" in push && push.event === "member_joined");
    expect(event).toMatchObject({ meshId: mesh.meshId });
    owner.send({ type: "list_members" });
    const { members } = await owner.next("members_list");
    const newest = members.at(-1);
    expect(isAdmitted(newest?.pubkey ?? "", newest?.admission, mesh.meshId, mesh.owner.keys.publicKey)).toBe(
      true,
    );
  });

  test("hello: a bad signature, a clock that is off, a replay, a removed member", async () => {
    const bad = helloOf(bob, { signature: signText("x", bob.keys.secretKey) });
    expect(await refusedHello(bad)).toMatchObject({
      code: "bad_signature",
      reason: expect.stringContaining("bad_signature"),
    });
    expect(await refusedHello(helloOf(bob, { timestamp: Date.now() - 61_000 }))).toMatchObject({
      code: "clock_skew",
    });
    const hello = helloOf(bob);
    const client = await BrokerClient.open(broker.url);
    client.send(hello);
    expect(await client.next("hello_ack")).toMatchObject({ memberDisplayName: "bob" });
    expect(await refusedHello(hello)).toMatchObject({ code: "replayed" });

    const owner = await BrokerClient.connect(broker.url, mesh.owner);
    owner.send({ type: "remove_member", pubkey: bob.keys.publicKey });
    expect((await client.waitForClose()).code).toBe(4002);
    expect(await refusedHello(helloOf(bob))).toMatchObject({ code: "removed", closeCode: 4002 });
  });

  test("a message goes from one to the other, and is gone once acknowledged", async () => {
    const alice = await BrokerClient.connect(broker.url, mesh.owner);
    const client = await BrokerClient.connect(broker.url, bob);
    const frame = sendOf(bob.keys.publicKey);
    expect(await alice.sendAndWait(frame)).toMatchObject({ code: "created", queued: false });
    const push = await client.nextPush();
    expect(push).toMatchObject({
      client_message_id: frame.id,
      nonce: frame.nonce,
      ciphertext: frame.ciphertext,
      senderPubkey: mesh.owner.keys.publicKey,
      senderName: "owner",
    });
    client.acknowledge(push);
    client.send({ type: "list_peers" });
    await client.next("peers_list");
    const next = await BrokerClient.connect(broker.url, bob);
    expect(await client.waitForClose()).toMatchObject({ code: 4003 });
    await alice.sendAndWait(sendOf(bob.keys.publicKey, { id: "second" }));
    await next.nextPush();
    expect(next.pushes.map((one) => one.client_message_id)).toEqual(["second"]);
  });

  test("a recipient whose host crashes in the middle gets the rest in order, nothing twice once acknowledged", async () => {
    const alice = await BrokerClient.connect(broker.url, mesh.owner);
    const first = await BrokerClient.connect(broker.url, bob);
    const ids = Array.from({ length: 600 }, (_, n) => `m${n}`);
    for (const id of ids) alice.send(sendOf(bob.keys.publicKey, { id }));
    await waitFor(() => first.pushes.length === 256, { what: "a full window" });
    for (const push of first.pushes.slice(0, 100)) first.acknowledge(push);
    await waitFor(() => first.pushes.length === 356, { what: "a window more" });
    await first.drop();
    const second = await BrokerClient.connect(broker.url, bob);
    second.acknowledges = true;
    for (const push of second.pushes) second.acknowledge(push);
    await waitFor(() => second.pushes.length === 500, { what: "the rest" });
    expect(second.pushes.map((push) => push.client_message_id)).toEqual(ids.slice(100));
    second.send({ type: "list_peers" });
    await second.next("peers_list");
    const third = await BrokerClient.connect(broker.url, bob);
    await alice.sendAndWait(sendOf(bob.keys.publicKey, { id: "last" }));
    await third.nextPush();
    expect(third.pushes.map((push) => push.client_message_id)).toEqual(["last"]);
  });

  test("a slow reader with large messages gets all of them, in order", async () => {
    const alice = await BrokerClient.connect(broker.url, mesh.owner);
    const ciphertext = Buffer.alloc(60_000, 7).toString("base64");
    const ids = Array.from({ length: 300 }, (_, n) => `m${n}`);
    for (const id of ids) alice.send(sendOf(bob.keys.publicKey, { id, ciphertext }));
    await waitFor(() => alice.frames.filter((frame) => frame.type === "ack").length === 300, {
      what: "the acks",
    });
    const client = await BrokerClient.open(broker.url);
    client.acknowledges = true;
    client.send(helloOf(bob));
    await waitFor(() => client.pushes.length === 300, { what: "the messages" });
    expect(client.pushes.map((push) => push.client_message_id)).toEqual(ids);
  });

  test("garbage is answered and hurts nobody", async () => {
    const alice = await BrokerClient.connect(broker.url, mesh.owner);
    const garbage = [
      "",
      "{",
      "null",
      "[[[[",
      '{"type":"dance","_reqId":"r1"}',
      '{"type":"client_ack"}',
      '{"type":"send"}',
      "\u0000",
    ];
    for (const text of garbage) alice.sendRaw(text);
    alice.sendRaw(new Uint8Array([0, 255, 1]));
    const codes: string[] = [];
    for (let n = 0; n <= garbage.length; n++) codes.push((await alice.next("error")).code);
    expect(codes.filter((code) => code === "unknown_message_type")).toHaveLength(1);
    expect(codes.filter((code) => code === "malformed")).toHaveLength(garbage.length);
    alice.sendRaw(JSON.stringify({ ...sendOf(bob.keys.publicKey, { id: "bad" }), nonce: "x" }));
    expect(await alice.next("ack")).toMatchObject({ id: "bad", code: "malformed" });
    expect(await alice.sendAndWait(sendOf(bob.keys.publicKey))).toMatchObject({ code: "created" });
    expect(alice.closed).toBeUndefined();
  });

  test("a frame above 1 MiB ends its connection with 1009, and no other", async () => {
    const alice = await BrokerClient.connect(broker.url, mesh.owner);
    const client = await BrokerClient.connect(broker.url, bob);
    const limit = 1024 * 1024;
    client.sendRaw(JSON.stringify({ type: "dance", filler: "" }).padEnd(limit, " "));
    expect(await client.next("error")).toMatchObject({ code: "unknown_message_type" });
    client.sendRaw(" ".repeat(limit + 1));
    expect((await client.waitForClose()).code).toBe(1009);
    expect(await alice.sendAndWait(sendOf(bob.keys.publicKey))).toMatchObject({
      code: "created",
      queued: true,
    });
  });

  test("a plain request to /ws, a broken handshake, and an unknown path", async () => {
    for (const [path, headers, status] of [
      ["/ws", {}, 400],
      ["/ws", { upgrade: "websocket", connection: "upgrade" }, 400],
      ["/nowhere", {}, 404],
    ] as const) {
      const response = await fetch(`${broker.httpUrl}${path}`, { headers });
      expect([path, response.status]).toEqual([path, status]);
      expect(await response.json()).toMatchObject({ error: expect.any(String) });
    }
  });

  test("a body that is too large is refused as such over the wire as well", async () => {
    const response = await fetch(`${broker.httpUrl}/join`, { method: "POST", body: "x".repeat(1024 * 1024) });
    expect(response.status).toBe(413);
    expect(await response.json()).toMatchObject({ error: "body_too_large" });
  });

  test("one connection more than the broker takes is refused, and taken when another has gone", async () => {
    const full = await startTestBroker({ bounds: { connectionsPerBrokerMax: 2 } });
    const open = await Promise.all([BrokerClient.open(full.url), BrokerClient.open(full.url)]);
    for (let n = 0; n < 3; n++) {
      const refused = await BrokerClient.open(full.url);
      expect(await refused.next("error")).toMatchObject({ code: "too_many_connections" });
      expect((await refused.waitForClose()).code).toBe(1008);
    }
    await open[0]?.close();
    await waitFor(
      async () => (await (await fetch(`${full.httpUrl}/health`)).text()).includes('"connections":1'),
      {
        what: "the broker to notice",
      },
    );
    const late = await BrokerClient.open(full.url);
    late.sendRaw("hello?");
    expect(await late.next("error")).toMatchObject({ code: "malformed" });
  });

  test("pings are answered", async () => {
    const socket = new WebSocket(broker.url);
    let pongs = 0;
    socket.addEventListener("pong", () => {
      pongs += 1;
    });
    await waitFor(() => socket.readyState === WebSocket.OPEN, { what: "the socket" });
    socket.ping();
    await waitFor(() => pongs === 1, { what: "the pong" });
    socket.close();
  });
});
