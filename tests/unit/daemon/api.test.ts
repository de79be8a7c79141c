/** The routes of the local API, by `app.request()`: what they answer, and that every answer fits the table they are made from. */
import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { type RouteName, routes } from "~/wire/ipc";
import { ErrorReply } from "~/wire/reply";
import { openTestDaemon, type TestDaemon, testToken } from "../../support/daemon-parts";

const empty = new Uint8Array(0);

async function withBob(): Promise<TestDaemon & { bobKey: string }> {
  const daemon = await openTestDaemon();
  const bob = daemon.member("bob");
  daemon.list(bob);
  return { ...daemon, bobKey: bob.keys.publicKey };
}

/** The JSON of an answer, after checking that it fits the table. */
async function fitting(name: RouteName, response: Response): Promise<Record<string, unknown>> {
  const json: unknown = await response.json();
  const responses: Readonly<Record<number, v.GenericSchema>> = routes[name].responses;
  v.parse(responses[response.status] ?? ErrorReply, json);
  return v.parse(v.record(v.string(), v.unknown()), json);
}

const send = async (daemon: TestDaemon, body: unknown, headers?: Record<string, string>) => {
  const response = await daemon.request("POST", "/v1/send", body, headers);
  return { status: response.status, json: await fitting("send", response) };
};

describe("every route", () => {
  test("that takes no path parameter answers what the table says", async () => {
    const daemon = await withBob();
    const asked: [RouteName, string][] = [
      ["version", ""],
      ["health", ""],
      ["inbox", "?limit=3"],
      ["peers", "?all=1"],
      ["profile", ""],
      ["outbox", "?status=retrying"],
      ["openapi", ""],
      ["challenge", `?nonce=${"0a".repeat(16)}`],
    ];
    for (const [name, query] of asked) {
      const response = await daemon.request("GET", routes[name].path + query);
      expect([name, response.status]).toEqual([name, 200]);
      await fitting(name, response);
    }
  });

  test("is in the OpenAPI document, with its method", async () => {
    const daemon = await openTestDaemon();
    const document = await fitting("openapi", await daemon.request("GET", "/v1/openapi.json"));
    const paths = v.parse(v.record(v.string(), v.record(v.string(), v.unknown())), document.paths);
    for (const route of Object.values(routes)) {
      const path = route.path.replace(/:(\w+)/g, "{$1}");
      expect(Object.keys(paths[path] ?? {})).toContain(route.method.toLowerCase());
    }
  });
});

describe("POST /v1/send", () => {
  test("queues under the caller's id, resolves names in any case, keys and prefixes", async () => {
    const daemon = await withBob();
    for (const to of ["bob", "BOB", daemon.bobKey, daemon.bobKey.slice(0, 8)]) {
      const { status, json } = await send(daemon, {
        to,
        message: "hi",
        client_message_id: `to-${to.slice(0, 8)}-${to.length}`,
      });
      expect(status).toBe(202);
      expect(json).toMatchObject({ status: "queued", duplicate: false });
    }
    expect(daemon.parts.outbox.list({ limit: 10 }).map((row) => row.destination_ref)).toEqual(
      Array(4).fill(daemon.bobKey),
    );
  });

  test("seals what it stores: the row can be opened by the recipient alone, and holds the wire's fingerprint", async () => {
    const daemon = await openTestDaemon();
    const bob = daemon.member("bob");
    daemon.list(bob);
    await send(daemon, { to: "bob", message: "for bob's eyes", meta: { n: 1 }, client_message_id: "key-1" });
    const row = daemon.parts.outbox.byClientMessageId("key-1");
    const sealed = { nonce: row?.nonce ?? empty, ciphertext: row?.ciphertext ?? empty };
    const opened = daemon.sealer.open(sealed, bob.keys.secretKey, daemon.owner.publicKey) ?? "";
    expect(JSON.parse(opened)).toMatchObject({
      v: 2,
      id: "key-1",
      body: "for bob's eyes",
      meta: { n: 1 },
      to: bob.keys.publicKey,
    });
    expect(row?.wire_fingerprint).toMatch(/^[0-9a-f]{64}$/);
    expect(row?.wire_fingerprint).not.toBe(Buffer.from(row?.request_fingerprint ?? []).toString("hex"));
  });

  test("the id may come in the header, and in both when they agree", async () => {
    const daemon = await withBob();
    const header = { "idempotency-key": "key-1" };
    expect((await send(daemon, { to: "bob", message: "hi" }, header)).json).toMatchObject({
      client_message_id: "key-1",
    });
    const again = await send(daemon, { to: "bob", message: "hi", client_message_id: "key-1" }, header);
    expect(again).toMatchObject({ status: 202, json: { duplicate: true } });
    const differing = await send(daemon, { to: "bob", message: "hi", client_message_id: "key-2" }, header);
    expect(differing).toMatchObject({ status: 400, json: { error: "idempotency_key_mismatch" } });
  });

  test("a conflict tells the reason of the table and the prefix of what is held", async () => {
    const daemon = await withBob();
    await send(daemon, { to: "bob", message: "hi", client_message_id: "key-1" });
    const { status, json } = await send(daemon, { to: "bob", message: "ho", client_message_id: "key-1" });
    expect(status).toBe(409);
    expect(json).toMatchObject({
      error: "idempotency_key_reused",
      conflict: "outbox_pending_fingerprint_mismatch",
    });
    expect(json.daemon_fingerprint_prefix).toMatch(/^[0-9a-f]{16}$/);
  });

  test("an honest retry succeeds though the peer was renamed or left", async () => {
    const daemon = await withBob();
    await send(daemon, { to: "bob", message: "hi", client_message_id: "key-1" });
    daemon.list();
    expect(await send(daemon, { to: "bob", message: "hi", client_message_id: "key-1" })).toMatchObject({
      status: 202,
      json: { duplicate: true },
    });
    expect(await send(daemon, { to: "bob", message: "hi", client_message_id: "key-2" })).toMatchObject({
      status: 404,
      json: { error: "unknown_peer" },
    });
  });

  const refusals: [string, object | string, number, string][] = [
    ["nobody of that name", { to: "carol", message: "hi" }, 404, "unknown_peer"],
    ["itself", { to: "alice", message: "hi" }, 400, "self_destination"],
    ["a topic", { to: "@news", message: "hi" }, 400, "unsupported_destination"],
    ["everyone", { to: "*", message: "hi" }, 400, "unsupported_destination"],
    ["a queue", { to: "queue:builds", message: "hi" }, 400, "unsupported_destination"],
    ["an agent", { to: "bob/reviewer", message: "hi" }, 400, "unsupported_destination"],
    ["an empty message", { to: "bob", message: "" }, 400, "message_empty"],
    ["an empty address", { to: "", message: "hi" }, 400, "invalid_request"],
    ["an id with a space", { to: "bob", message: "hi", client_message_id: "a b" }, 400, "invalid_id"],
    ["a field that is unknown", { to: "bob", message: "hi", mesage: "x" }, 400, "invalid_request"],
    ["a mesh that is unknown", { to: "bob", message: "hi", mesh: "other" }, 404, "no_such_mesh"],
    ["an answer to nothing", { to: "bob", message: "hi", reply_to_id: "nothing" }, 404, "no_such_message"],
    [
      "a message above what the broker takes",
      { to: "bob", message: "x".repeat(65_600) },
      413,
      "message_too_large",
    ],
    ["what is not JSON", "{", 400, "invalid_json"],
    ["a list", "[]", 400, "invalid_request"],
    ["a body above the limit", `{"to":"bob","message":"${"x".repeat(1024 * 1024)}"}`, 413, "body_too_large"],
  ];
  test.each(refusals)("refuses %s and stores nothing", async (_what, body, status, error) => {
    const daemon = await withBob();
    const refused = await send(daemon, body);
    expect(refused).toMatchObject({ status, json: { error } });
    expect(String(refused.json.message).length).toBeGreaterThan(10);
    expect(daemon.parts.outbox.list({ limit: 10 })).toEqual([]);
  });

  test("a message that is too large is told both sizes, and the largest that fits is taken", async () => {
    const daemon = await withBob();
    const { json } = await send(daemon, { to: "bob", message: "x".repeat(65_536) });
    expect(json).toMatchObject({ limit_bytes: 65_536 });
    const overhead = Number(json.size_bytes) - 65_536;
    expect((await send(daemon, { to: "bob", message: "x".repeat(65_536 - overhead) })).status).toBe(202);
    expect((await send(daemon, { to: "bob", message: "x".repeat(65_536 - overhead + 1) })).status).toBe(413);
  });

  test("a name that two members have is refused with both keys", async () => {
    const daemon = await openTestDaemon();
    const [one, two] = [daemon.member("bob"), daemon.member("Bob")];
    daemon.list(one, two);
    const { status, json } = await send(daemon, { to: "bob", message: "hi" });
    expect(status).toBe(400);
    expect(json.error).toBe("ambiguous_peer");
    expect(JSON.stringify(json.candidates)).toContain(one.keys.publicKey);
    expect(JSON.stringify(json.candidates)).toContain(two.keys.publicKey);
  });

  test("a member whom nothing proves is refused until the user trusts the key", async () => {
    const daemon = await openTestDaemon();
    const mallory = daemon.member("mallory");
    const { admission: _, ...unproven } = mallory.entry;
    daemon.list({ ...mallory, entry: unproven });
    expect(await send(daemon, { to: "mallory", message: "hi" })).toMatchObject({
      status: 403,
      json: { error: "peer_untrusted", reason: "admission" },
    });
    daemon.parts.meshes
      .byId("mesh-1")
      ?.reconfigure({ ...daemon.mesh, trustedKeys: [mallory.keys.publicKey] });
    expect((await send(daemon, { to: "mallory", message: "hi" })).status).toBe(202);
  });

  test("a name that came back with another key is refused, by key it can be reached", async () => {
    const daemon = await openTestDaemon();
    daemon.list(daemon.member("bob"));
    const impostor = daemon.member("bob");
    daemon.list(impostor);
    expect(await send(daemon, { to: "bob", message: "hi" })).toMatchObject({
      status: 403,
      json: { reason: "name_changed" },
    });
    expect((await send(daemon, { to: impostor.keys.publicKey, message: "hi" })).status).toBe(202);
  });

  test("a peer that knows only version 1 gets plain text, and nothing that would be lost on the way", async () => {
    const daemon = await openTestDaemon();
    const old = daemon.member("old", { capabilities: ["something"] });
    daemon.list(old);
    expect((await send(daemon, { to: "old", message: "hi", client_message_id: "key-1" })).status).toBe(202);
    const row = daemon.parts.outbox.byClientMessageId("key-1");
    expect(row?.body_version).toBe(1);
    const sealed = { nonce: row?.nonce ?? empty, ciphertext: row?.ciphertext ?? empty };
    expect(daemon.sealer.open(sealed, old.keys.secretKey, daemon.owner.publicKey)).toBe("hi");
    expect(await send(daemon, { to: "old", message: "hi", meta: { a: 1 } })).toMatchObject({
      status: 400,
      json: { error: "peer_too_old" },
    });
  });
});

describe("recovery", () => {
  test("requeue retires the old row and sends its content afresh, at the end of the lane", async () => {
    const daemon = await withBob();
    await send(daemon, {
      to: "bob",
      message: "hi",
      meta: { a: 1 },
      priority: "now",
      client_message_id: "key-1",
    });
    const before = daemon.parts.outbox.byClientMessageId("key-1");
    daemon.parts.outbox.markDead(before?.seq ?? 0, "unknown_destination");
    const response = await daemon.request("POST", "/v1/outbox/requeue", {
      id: "key-1",
      new_client_message_id: "key-2",
    });
    expect(response.status).toBe(200);
    const reply = await fitting("requeue", response);
    expect(reply).toMatchObject({
      aborted_row_id: before?.id,
      new_client_message_id: "key-2",
      may_have_been_sent: false,
    });
    const [old, fresh] = ["key-1", "key-2"].map((id) => daemon.parts.outbox.byClientMessageId(id));
    expect(old).toMatchObject({ status: "aborted", aborted_by: "operator", superseded_by: fresh?.id });
    expect(fresh).toMatchObject({
      status: "pending",
      payload: "hi",
      meta: '{"a":1}',
      priority: "now",
      destination_ref: daemon.bobKey,
    });
    expect(fresh?.ciphertext).not.toBe(before?.ciphertext);
    const shown = await fitting("outboxRow", await daemon.request("GET", `/v1/outbox/${fresh?.id}`));
    expect(shown.requeue_chain).toMatchObject([
      { client_message_id: "key-1" },
      { client_message_id: "key-2" },
    ]);
  });

  test.each([
    ["done", "not_requeueable"],
    ["inflight", "not_requeueable"],
    ["aborted", "not_requeueable"],
  ])("a row that is %s cannot be requeued", async (status, error) => {
    const daemon = await withBob();
    await send(daemon, { to: "bob", message: "hi", client_message_id: "key-1" });
    daemon.parts.outbox.db.query("UPDATE outbox SET status = ?").run(status);
    const before = daemon.parts.outbox.list({ limit: 10 });
    const response = await daemon.request("POST", "/v1/outbox/requeue", { id: "key-1" });
    expect([response.status, (await fitting("requeue", response)).error]).toEqual([409, error]);
    expect(daemon.parts.outbox.list({ limit: 10 })).toEqual(before);
  });

  test("an id that is used already changes nothing", async () => {
    const daemon = await withBob();
    for (const id of ["key-1", "key-2"])
      await send(daemon, { to: "bob", message: "hi", client_message_id: id });
    const before = daemon.parts.outbox.list({ limit: 10 });
    const response = await daemon.request("POST", "/v1/outbox/requeue", {
      id: "key-1",
      new_client_message_id: "key-2",
    });
    expect([response.status, (await fitting("requeue", response)).error]).toEqual([409, "id_in_use"]);
    expect(daemon.parts.outbox.list({ limit: 10 })).toEqual(before);
  });
});

describe("GET /v1/messages/:id", () => {
  test("tells what became of a message, and waits for it", async () => {
    const daemon = await withBob();
    await send(daemon, { to: "bob", message: "hi", client_message_id: "key-1" });
    const waiting = daemon
      .app()
      .request("http://localhost/v1/messages/key-1?wait=accepted&timeout_ms=60000", {
        headers: { host: "localhost" },
      });
    const row = daemon.parts.outbox.byClientMessageId("key-1");
    daemon.parts.outbox.markDone(row?.seq ?? 0, "broker-1", daemon.clock.now());
    daemon.parts.hub.announce({ kind: "outbox", clientMessageId: "key-1" });
    const json = await fitting("message", await daemon.until(Promise.resolve(waiting)));
    expect(json).toMatchObject({ status: "done", broker_message_id: "broker-1", receipts: [] });
  });

  test("answers as it is when the time is up", async () => {
    const daemon = await withBob();
    await send(daemon, { to: "bob", message: "hi", client_message_id: "key-1" });
    const waiting = daemon.app().request("http://localhost/v1/messages/key-1?wait=accepted&timeout_ms=5000", {
      headers: { host: "localhost" },
    });
    await daemon.until(Promise.resolve());
    daemon.clock.advance(5_000);
    expect(await fitting("message", await daemon.until(Promise.resolve(waiting)))).toMatchObject({
      status: "pending",
    });
  });

  test.each(["delivered", "read", "reply"])("cannot wait for %s yet, and says so", async (wait) => {
    const daemon = await withBob();
    await send(daemon, { to: "bob", message: "hi", client_message_id: "key-1" });
    const response = await daemon.request("GET", `/v1/messages/key-1?wait=${wait}`);
    expect([response.status, (await fitting("message", response)).error]).toEqual([400, "unsupported_wait"]);
  });
});

describe("who may call", () => {
  const get = (path: string, headers: Record<string, string>) =>
    new Request(`http://localhost${path}`, { headers });
  const tcp = { kind: "tcp", port: 47_823 } as const;
  const bearer = { authorization: `Bearer ${testToken}` };
  const onTcp = { host: "127.0.0.1:47823", ...bearer };

  test.each([
    ["the Unix socket needs no token", "unix", "/v1/version", { host: "localhost" }, 200],
    ["TCP needs one", "tcp", "/v1/version", { host: "localhost:47823" }, 401],
    ["TCP with the token", "tcp", "/v1/version", onTcp, 200],
    ["TCP by IPv6 name", "tcp", "/v1/version", { ...onTcp, host: "[::1]:47823" }, 200],
    ["a wrong token", "tcp", "/v1/version", { ...onTcp, authorization: "Bearer nope" }, 401],
    [
      "a token of the right length",
      "tcp",
      "/v1/version",
      { ...onTcp, authorization: `Bearer ${"u".repeat(43)}` },
      401,
    ],
    ["another scheme", "tcp", "/v1/version", { ...onTcp, authorization: `Basic ${testToken}` }, 401],
    ["a name that was rebound to us", "tcp", "/v1/version", { ...onTcp, host: "evil.example:47823" }, 403],
    [
      "a name that only begins like ours",
      "tcp",
      "/v1/version",
      { ...onTcp, host: "localhost.evil.example:47823" },
      403,
    ],
    ["another port", "tcp", "/v1/version", { ...onTcp, host: "127.0.0.1:80" }, 403],
    ["no port over TCP", "tcp", "/v1/version", { ...onTcp, host: "127.0.0.1" }, 403],
    ["a port over the Unix socket", "unix", "/v1/version", { host: "localhost:80" }, 403],
    ["a rebound name over the Unix socket", "unix", "/v1/version", { host: "evil.example" }, 403],
    ["a web page", "tcp", "/v1/version", { ...onTcp, origin: "http://localhost:47823" }, 403],
    ["a page that hides its origin", "tcp", "/v1/version", { ...onTcp, origin: "null" }, 403],
    ["a link on a page", "unix", "/v1/version", { host: "localhost", referer: "http://localhost/" }, 403],
    ["a token in the query, right or wrong", "tcp", `/v1/version?token=${testToken}`, onTcp, 400],
    [
      "the challenge is for whoever does not trust the port yet",
      "tcp",
      `/v1/challenge?nonce=${"0a".repeat(16)}`,
      { host: "localhost:47823" },
      200,
    ],
    ["health is not public unless asked for", "tcp", "/v1/health", { host: "localhost:47823" }, 401],
  ] as const)("%s", async (_what, way, path, headers, status) => {
    const daemon = await openTestDaemon();
    const response = await daemon.until(
      Promise.resolve(daemon.app(way === "tcp" ? tcp : { kind: "unix" }).request(get(path, headers))),
    );
    expect(response.status).toBe(status);
    expect(response.headers.get("access-control-allow-origin")).toBeNull();
  });

  test("a preflight is refused, whatever it asks for", async () => {
    const daemon = await openTestDaemon();
    const request = new Request("http://localhost/v1/send", { method: "OPTIONS", headers: onTcp });
    expect((await daemon.until(Promise.resolve(daemon.app(tcp).request(request)))).status).toBe(403);
  });

  test("public health shows a stranger only that the daemon serves", async () => {
    const daemon = await openTestDaemon();
    const app = daemon.app(tcp, true);
    const ask = (headers: Record<string, string>) =>
      daemon.until(Promise.resolve(app.request(get("/v1/health", headers))));
    expect(await (await ask({ host: "localhost:47823" })).json()).toEqual({ ok: true });
    expect(
      Object.keys(v.parse(v.record(v.string(), v.unknown()), await (await ask(onTcp)).json())),
    ).toContain("pid");
    expect((await ask({ ...onTcp, authorization: "Bearer nope" })).status).toBe(401);
  });
});
