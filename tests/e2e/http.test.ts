/** The daemon's local API as any client meets it: bytes on a socket in, status and JSON out. */
import { describe, expect, test } from "bun:test";
import { createHmac, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import type { OutboxStatus } from "~/wire/ipc";
import { ErrorReply } from "~/wire/reply";
import { ask, type HttpAnswer, type Member, newMember, openRaw, startMesh } from "../support/mesh";
import { waitFor } from "../support/wait-for";
import { openWireTap } from "./wire-tap";

function refusalOf({ status, body, text }: HttpAnswer): ErrorReply {
  if (v.is(ErrorReply, body)) return body;
  throw new Error(`no refusal: ${status} ${text.slice(0, 500)}`);
}

describe("a send whose id has a row already", () => {
  interface Case {
    status: OutboxStatus;
    same: boolean;
    http: number;
    answer: Record<string, unknown>;
  }
  const prefix = expect.stringMatching(/^[0-9a-f]{16}$/);
  const conflict = (name: string, more: Record<string, unknown> = {}) => ({
    error: "idempotency_key_reused",
    conflict: name,
    daemon_fingerprint_prefix: prefix,
    ...more,
  });
  const cases: Case[] = [
    { status: "pending", same: true, http: 202, answer: { status: "queued", duplicate: true } },
    {
      status: "pending",
      same: false,
      http: 409,
      answer: conflict("outbox_pending_fingerprint_mismatch"),
    },
    { status: "inflight", same: true, http: 202, answer: { status: "inflight", duplicate: true } },
    {
      status: "inflight",
      same: false,
      http: 409,
      answer: conflict("outbox_inflight_fingerprint_mismatch"),
    },
    {
      status: "done",
      same: true,
      http: 200,
      answer: { status: "accepted", duplicate: true, broker_message_id: "01BROKER" },
    },
    {
      status: "done",
      same: false,
      http: 409,
      answer: conflict("outbox_done_fingerprint_mismatch", { broker_message_id: "01BROKER" }),
    },
    {
      status: "dead",
      same: true,
      http: 409,
      answer: conflict("outbox_dead_fingerprint_match", { reason: "too_large: for a reason" }),
    },
    { status: "dead", same: false, http: 409, answer: conflict("outbox_dead_fingerprint_mismatch") },
    { status: "aborted", same: true, http: 409, answer: conflict("outbox_aborted_fingerprint_match") },
    {
      status: "aborted",
      same: false,
      http: 409,
      answer: conflict("outbox_aborted_fingerprint_mismatch"),
    },
  ];

  test("every row of the table, whichever way the id is given", async () => {
    const tap = openWireTap();
    const { alice } = await startMesh({
      members: ["alice", "bob"],
      daemons: ["alice"],
      brokerUrl: tap.urlFor,
    });
    tap.shut();
    await waitFor(async () => (await alice.link()) !== "open", { what: "alice to be alone" });
    const idOf = ({ status, same }: Case): string => `${status}.${same ? "same" : "other"}`;
    const message = { to: "bob", message: "the first", meta: { b: 1, a: { d: [1, 2], c: null } } };
    for (const one of cases) {
      const first = await alice.post("bob", "the first", {
        client_message_id: idOf(one),
        meta: message.meta,
      });
      expect(first).toMatchObject({ status: 202, body: { status: "queued", duplicate: false } });
    }
    await alice.down();
    const db = alice.database("outbox");
    for (const one of cases) {
      db.query(
        `UPDATE outbox SET status = ?1, broker_message_id = iif(?1 = 'done', '01BROKER', NULL),
           last_error = iif(?1 = 'dead', 'too_large: for a reason', NULL) WHERE client_message_id = ?2`,
      ).run(one.status === "inflight" ? "pending" : one.status, idOf(one));
    }
    db.close();
    await alice.up();
    // A daemon that starts has nothing in flight: those rows get there by the wire, on which nobody answers.
    tap.onFrame = ({ frame, text }) => (frame.type === "send" ? undefined : text);
    tap.open();
    await waitFor(async () => (await alice.message("inflight.same")).status === "inflight", {
      what: "rows to be in flight",
    });
    await waitFor(async () => (await alice.message("pending.other")).status === "inflight", {
      what: "pending rows to be in flight as well",
    });

    const check = async (one: Case): Promise<void> => {
      const id = idOf(one);
      // Another order of the meta's keys is the same request; another text, priority or destination is not.
      const same = { ...message, meta: { a: { c: null, d: [1, 2] }, b: 1 } };
      const requests: Record<string, unknown>[] = one.same
        ? [same]
        : [
            { ...message, message: "the second" },
            { ...message, priority: "now" },
            { ...message, meta: { b: 2 } },
            { ...message, meta: null },
          ];
      for (const request of requests) {
        const inBody = await alice.request("/v1/send", {
          method: "POST",
          body: { ...request, client_message_id: id },
        });
        const inHeader = await alice.request("/v1/send", {
          method: "POST",
          body: request,
          headers: { "idempotency-key": id },
        });
        for (const { status, body } of [inBody, inHeader]) {
          expect({ id, status, body }).toEqual({
            id,
            status: one.http,
            body: expect.objectContaining(one.answer),
          });
        }
      }
    };
    for (const one of cases) if (one.status !== "pending") await check(one);

    // Without the link the same rows are pending.
    tap.shut();
    await waitFor(async () => (await alice.message("pending.other")).status === "pending", {
      what: "what was in flight to be put back",
    });
    for (const one of cases) if (one.status === "pending") await check(one);
    const { counts } = await alice.outbox();
    expect(counts).toEqual({ pending: 4, inflight: 0, done: 2, dead: 2, aborted: 2 });
  });

  test("the id may stand in the header, in the body, or in both when they agree", async () => {
    const { alice } = await startMesh({ members: ["alice", "bob"], daemons: ["alice"] });
    const post = (body: unknown, key?: string): Promise<HttpAnswer> =>
      alice.request("/v1/send", {
        method: "POST",
        body,
        ...(key === undefined ? {} : { headers: { "Idempotency-Key": key } }),
      });
    const body = { to: "bob", message: "hi" };
    expect((await post(body, "by-header")).body).toMatchObject({ client_message_id: "by-header" });
    expect((await post({ ...body, client_message_id: "both" }, "both")).status).toBe(202);
    const different = await post({ ...body, client_message_id: "one" }, "two");
    expect([different.status, refusalOf(different).error]).toEqual([400, "idempotency_key_mismatch"]);
    const faulty = await post(body, "with space");
    expect([faulty.status, refusalOf(faulty).error]).toEqual([400, "invalid_id"]);
    for (const id of ["", " ", "-starts-wrong", "a b", "ä", "a".repeat(129), "a/b", "a\u0000b"]) {
      const answer = await post({ ...body, client_message_id: id });
      expect([id, answer.status, refusalOf(answer).error]).toEqual([id, 400, "invalid_id"]);
    }
    expect((await post({ ...body, client_message_id: "a".repeat(128) })).status).toBe(202);
    // What was refused consumed nothing.
    expect((await post({ ...body, client_message_id: "one" })).body).toMatchObject({ duplicate: false });
    const minted = await post(body);
    expect(minted.body).toMatchObject({ client_message_id: expect.stringMatching(/^[0-9A-Z]{26}$/) });
  });

  test("an honest retry is honoured after the recipient has left; anything else is not", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"], daemons: ["alice"] });
    await alice.send("bob", "hi", { client_message_id: "kept" });
    await alice.reaches("kept", "done");
    await alice.run(["mesh", "remove", bob.pubkey]);
    await waitFor(async () => (await alice.post("bob", "new")).status === 404, { what: "bob to be unknown" });
    expect(await alice.post("bob", "hi", { client_message_id: "kept" })).toMatchObject({ status: 200 });
    expect(await alice.post("bob", "ho", { client_message_id: "kept" })).toMatchObject({ status: 409 });
    const byKey = await alice.post(bob.pubkey, "hi", { client_message_id: "kept" });
    expect([byKey.status, refusalOf(byKey).error]).toEqual([404, "unknown_peer"]);
  });
});

describe("the same id at the same moment", () => {
  test("from many clients: one row, one insert, the same id for all", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
    const answers = await Promise.all(
      Array.from({ length: 40 }, () => alice.post("bob", "once", { client_message_id: "race" })),
    );
    const inserted = answers.filter(
      ({ body }) => v.parse(v.object({ duplicate: v.boolean() }), body).duplicate === false,
    );
    expect(inserted).toHaveLength(1);
    expect(new Set(answers.map(({ status }) => status)).size).toBeGreaterThan(0);
    for (const { status } of answers) expect([200, 202]).toContain(status);
    await alice.reaches("race", "done");
    await alice.send("bob", "last");
    expect((await bob.received(2)).map(({ body }) => body)).toEqual(["once", "last"]);
  });

  test("with different texts: one is taken, and all the others conflict with it", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
    const bodies = Array.from({ length: 20 }, (_, index) => `text ${index}`);
    const answers = await Promise.all(
      bodies.map((text) => alice.post("bob", text, { client_message_id: "race" })),
    );
    expect(answers.filter(({ status }) => status === 202)).toHaveLength(1);
    expect(answers.filter(({ status }) => status === 409)).toHaveLength(19);
    const [item] = await bob.received(1);
    expect(answers[bodies.indexOf(item?.body ?? "")]?.status).toBe(202);
  });

  test("from two processes on one database: exactly one of them inserts", async () => {
    const dir = newMember("database").configDir;
    const program = `
      import { openSqlite } from "~/daemon/db/sqlite";
      import { migrateOutbox } from "~/daemon/db/outbox";
      import { acceptSend } from "~/daemon/ipc/handlers/send";
      import { monotonicFactory } from "ulidx";
      const db = openSqlite(process.argv[2] + "/outbox.db");
      migrateOutbox(db);
      const newId = monotonicFactory();
      await Bun.stdin.text();
      const outcomes = [];
      for (let index = 0; index < 300; index++) {
        const outcome = acceptSend(
          { to: "bob", message: index % 3 === 0 ? process.argv[3] : "the same", client_message_id: "id-" + index,
            destination_kind: "dm", destination_ref: "ab".repeat(32) },
          { db, now: () => 1, newId },
        );
        outcomes.push(outcome.kind === "conflict" ? outcome.reason : outcome.kind + ":" + outcome.duplicate);
      }
      console.log(JSON.stringify(outcomes));`;
    const root = join(import.meta.dir, "../..");
    const script = join(root, "tests/e2e", `.accept-${randomBytes(4).toString("hex")}.ts`);
    await Bun.write(script, program);
    try {
      const children = ["left", "right"].map((text) =>
        Bun.spawn([process.execPath, script, dir, text], { cwd: root, stdin: "pipe", stdout: "pipe" }),
      );
      for (const child of children) await child.stdin.end();
      const [left = [], right = []] = await Promise.all(
        children.map(async (child) => v.parse(v.array(v.string()), JSON.parse(await child.stdout.text()))),
      );
      expect([left.length, right.length]).toEqual([300, 300]);
      for (const [index, first] of left.entries()) {
        const pair = [first, right[index]].sort();
        const lost = index % 3 === 0 ? "outbox_pending_fingerprint_mismatch" : "accepted_pending:true";
        expect({ index, pair }).toEqual({ index, pair: ["accepted_pending:false", lost].sort() });
      }
    } finally {
      await Bun.file(script).delete();
    }
  });
});

describe("what is too much, or makes no sense", () => {
  test("is refused with a code, a sentence and the limit, never with a 500", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"], daemons: ["alice"] });
    const send = (body: unknown, headers: Record<string, string> = {}): Promise<HttpAnswer> =>
      alice.request("/v1/send", { method: "POST", body, headers });
    const cases: [what: string, answer: HttpAnswer, status: number, error: string, message: RegExp][] = [
      ["no JSON", await send("{"), 400, "invalid_json", /not JSON/],
      ["no body", await send(""), 400, "invalid_json", /not JSON/],
      ["null", await send("null"), 400, "invalid_request", /./],
      ["a list", await send("[]"), 400, "invalid_request", /./],
      ["no fields", await send({}), 400, "invalid_request", /to|message/],
      [
        "no UTF-8",
        await send(
          new Uint8Array([...Buffer.from('{"to":"bob","message":"'), 0xff, 0xfe, ...Buffer.from('"}')]),
        ),
        400,
        "invalid_json",
        /UTF-8/,
      ],
      [
        "an unknown field",
        await send({ to: "bob", message: "x", urgent: 1 }),
        400,
        "invalid_request",
        /urgent/,
      ],
      ["a wrong type", await send({ to: "bob", message: 7 }), 400, "invalid_request", /message/],
      [
        "a wrong priority",
        await send({ to: "bob", message: "x", priority: "high" }),
        400,
        "invalid_request",
        /priority/,
      ],
      ["empty", await send({ to: "bob", message: "" }), 400, "message_empty", /empty/],
      [
        "half a character",
        await send('{"to":"bob","message":"\\ud800"}'),
        400,
        "invalid_message",
        /surrogate/,
      ],
      ["nobody", await send({ to: "", message: "x" }), 400, "invalid_request", /to/],
      ["unknown", await send({ to: "zoe", message: "x" }), 404, "unknown_peer", /zoe/],
      ["itself", await send({ to: "ALICE", message: "x" }), 400, "self_destination", /alice/i],
      ["a topic", await send({ to: "@news", message: "x" }), 400, "unsupported_destination", /topic/],
      ["everyone", await send({ to: "*", message: "x" }), 400, "unsupported_destination", /everyone/],
      ["an agent", await send({ to: "bob/x", message: "x" }), 400, "unsupported_destination", /agent/],
      ["a queue", await send({ to: "queue:q", message: "x" }), 400, "unsupported_destination", /queue/],
      ["an unknown mesh", await send({ to: "bob", message: "x", mesh: "no" }), 404, "no_such_mesh", /no/],
      [
        "an answer to nothing",
        await send({ to: "bob", message: "x", reply_to_id: "no" }),
        404,
        "no_such_message",
        /no/,
      ],
      [
        "meta too deep",
        await send({ to: "bob", message: "x", meta: { a: deep(20) } }),
        400,
        "invalid_meta",
        /16/,
      ],
      [
        "meta too large",
        await send({ to: "bob", message: "x", meta: { a: "x".repeat(17_000) } }),
        400,
        "invalid_meta",
        /16384/,
      ],
      [
        "meta that is none",
        await send({ to: "bob", message: "x", meta: [1] }),
        400,
        "invalid_request",
        /meta/,
      ],
      [
        "too large a message",
        await send({ to: "bob", message: "x".repeat(70_000) }),
        413,
        "message_too_large",
        /7\d\d\d\d bytes.*65536/,
      ],
      ["too large a body", await send(`"${"x".repeat(1024 * 1024)}"`), 413, "body_too_large", /1048576/],
      ["much too large a body", await send("x".repeat(3 * 1024 * 1024)), 413, "", /^/],
      ["no such route", await alice.request("/v1/nothing"), 404, "no_such_route", /nothing/],
      ["a wrong method", await alice.request("/v1/send"), 405, "method_not_allowed", /POST/],
      ["a wrong page", await alice.request("/v1/inbox?limit=501"), 400, "invalid_request", /500/],
      ["an unknown question", await alice.request("/v1/inbox?colour=red"), 400, "invalid_request", /colour/],
      ["the same twice", await alice.request("/v1/inbox?limit=1&limit=2"), 400, "invalid_request", /limit/],
      ["a place nowhere", await alice.request("/v1/inbox?after=nowhere"), 404, "no_such_message", /nowhere/],
      ["a bad escape", await alice.request("/v1/inbox?after=%E0%A4%A"), 404, "no_such_message", /./],
      ["a bad escape in the path", await alice.request("/v1/messages/%E0%A4%A"), 404, "no_such_message", /./],
      ["a zero byte in the path", await alice.request("/v1/outbox/%00"), 404, "no_such_row", /./],
      [
        "too many ids",
        await alice.request("/v1/inbox/ack", {
          method: "POST",
          body: { ids: Array.from({ length: 501 }, () => "x") },
        }),
        400,
        "invalid_request",
        /500/,
      ],
      ["a wrong wait", await alice.request("/v1/messages/x?wait=forever"), 400, "invalid_request", /wait/],
      [
        "a profile too long",
        await alice.request("/v1/profile", { method: "POST", body: { bio: "x".repeat(2001) } }),
        400,
        "invalid_request",
        /bio/,
      ],
      [
        "an unknown row",
        await alice.request("/v1/outbox/requeue", { method: "POST", body: { id: "no" } }),
        404,
        "no_such_row",
        /no/,
      ],
    ];
    for (const [what, answer, status, error, message] of cases) {
      if (error === "") {
        expect([what, answer.status]).toEqual([what, status]);
        continue;
      }
      const refusal = refusalOf(answer);
      expect([what, answer.status, refusal.error]).toEqual([what, status, error]);
      expect(refusal.message).toMatch(message);
    }
    // Both sizes are there for programs, too; exactly at the limit is not too large.
    const [, tooLarge] = cases.find(([what]) => what === "too large a message") ?? [];
    const Sizes = v.object({ limit_bytes: v.literal(65_536), size_bytes: v.number() });
    const { size_bytes } = v.parse(Sizes, tooLarge?.body);
    const overhead = size_bytes - 70_000;
    const id = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    const fits = "x".repeat(65_536 - overhead);
    expect((await alice.post("bob", `${fits}y`, { client_message_id: id })).status).toBe(413);
    expect((await alice.post("bob", fits, { client_message_id: id })).status).toBe(202);
    await alice.reaches(id, "done");
    expect((await alice.outbox()).items).toHaveLength(1);
    await bob.up();
    expect((await bob.received(1))[0]?.body).toBe(fits);
  });

  const deep = (levels: number): unknown => (levels === 0 ? 1 : { a: deep(levels - 1) });

  test("text arrives as it was given, whatever is in it", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
    const bodies = [
      " ",
      "\n",
      "\u0000",
      "before\u0000after",
      "\ufeffwith a mark",
      "\u001b[31mred\u001b[0m",
      "𝕏 é e\u0301 \u202e abc",
      "\r\n\t\\\"'`$(date) $HOME %s",
      '{"v":2,"id":"x"}',
      "x".repeat(60_000),
      "\u2028\u2029",
      "\uffff",
    ];
    for (const body of bodies) await alice.send("bob", body);
    expect((await bob.received(bodies.length)).map(({ body }) => body)).toEqual(bodies);
    expect((await bob.health()).problems).toEqual([]);
  });

  test("meta arrives as it was given, whatever its names are", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
    const metas = [
      '{"constructor":"acme","prototype":[1],"toString":{"x":null}}',
      '{"deep":{"constructor":1,"__proto__":2},"":0,"ä\\u0000":true}',
      '{"n":1e21,"f":0.1,"neg":-0.0,"big":9007199254740991}',
    ];
    for (const meta of metas) {
      const body = `{"to":"bob","message":"m","meta":${meta}}`;
      const { status, text } = await alice.request("/v1/send", { method: "POST", body });
      expect([meta, status, text]).toEqual([meta, 202, expect.any(String)]);
    }
    const items = await bob.received(metas.length);
    expect(items.map(({ meta }) => JSON.stringify(meta))).toEqual(
      metas.map((meta) => JSON.stringify(JSON.parse(meta))),
    );
  });
});

describe("too many at once", () => {
  /** A request that never sends the rest of its body. */
  const openSlow = async (member: Member) => {
    const raw = await openRaw({ path: member.socket });
    raw.write('POST /v1/send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"to":');
    return raw;
  };

  test("65 requests at work are one too many, and it passes", async () => {
    const { alice } = await startMesh({ members: ["alice", "bob"], daemons: ["alice"] });
    const slow = await Promise.all(Array.from({ length: 64 }, () => openSlow(alice)));
    const busy = await waitFor(
      async () => {
        const answer = await alice.request("/v1/version");
        return answer.status === 429 ? answer : undefined;
      },
      { what: "the daemon to be busy" },
    );
    expect(refusalOf(busy)).toMatchObject({ error: "daemon_busy", message: expect.stringContaining("64") });
    for (const raw of slow) raw.end();
    await waitFor(async () => (await alice.request("/v1/version")).status === 200, { what: "it to pass" });
  });

  test("waiting requests do not count as work; 257 of them are one too many", async () => {
    const { alice, broker } = await startMesh({ members: ["alice", "bob"], daemons: ["alice"] });
    await broker.kill();
    const { client_message_id: id } = await alice.send("bob", "slow");
    const answers = Array.from({ length: 256 }, async () => {
      const raw = await openRaw({ path: alice.socket });
      raw.write(`GET /v1/messages/${id}?wait=accepted&timeout_ms=600000 HTTP/1.1\r\nHost: localhost\r\n\r\n`);
      return raw;
    });
    const raws = await Promise.all(answers);
    const oneMore = await waitFor(
      async () => {
        const answer = await alice.request(`/v1/messages/${id}?wait=accepted&timeout_ms=10`);
        return answer.status === 429 ? answer : undefined;
      },
      { what: "one more to be too many" },
    );
    expect(refusalOf(oneMore)).toMatchObject({
      error: "daemon_busy",
      message: expect.stringContaining("256"),
    });
    expect((await alice.request("/v1/version")).status).toBe(200);
    // Who goes away makes room.
    raws.pop()?.end();
    await waitFor(
      async () => (await alice.request(`/v1/messages/${id}?wait=accepted&timeout_ms=1`)).status === 200,
      {
        what: "the place to be free again",
      },
    );
    // All of them are answered once the message is through.
    await broker.up();
    await waitFor(() => raws.every((raw) => raw.received().includes('"status":"done"')), {
      what: "all who wait to be answered",
    });
    expect((await alice.request(`/v1/messages/${id}?wait=accepted`)).status).toBe(200);
  });

  test("33 event streams are one too many", async () => {
    const { alice } = await startMesh({ members: ["alice"] });
    const streams = await Promise.all(
      Array.from({ length: 32 }, async () => {
        const raw = await openRaw({ path: alice.socket });
        raw.write("GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
        return raw;
      }),
    );
    await waitFor(() => streams.every((raw) => raw.received().includes(": open")), {
      what: "all to be open",
    });
    const answer = await alice.request("/v1/events");
    expect([answer.status, refusalOf(answer).error]).toEqual([429, "too_many_streams"]);
    expect(refusalOf(answer).message).toContain("32");
    streams[0]?.end();
    await waitFor(
      async () => {
        const raw = await openRaw({ path: alice.socket });
        raw.write("GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
        const status = await waitFor(() => /^HTTP\/1.1 (\d+)/.exec(raw.received())?.[1], {
          what: "an answer",
        });
        if (status !== "200") raw.end();
        return status === "200";
      },
      { what: "the place to be free again" },
    );
  });
});

describe("web pages and strangers", () => {
  const headers: [what: string, headers: Record<string, string>, error: string, status: number][] = [
    ["a page's origin", { origin: "https://evil.example" }, "forbidden_origin", 403],
    ["a null origin", { origin: "null" }, "forbidden_origin", 403],
    ["an origin on this host", { origin: "http://localhost" }, "forbidden_origin", 403],
    ["a referer", { referer: "https://evil.example/page" }, "forbidden_origin", 403],
    ["a rebound name", { host: "evil.example" }, "forbidden_host", 403],
    ["a rebound name that looks right", { host: "localhost.evil.example" }, "forbidden_host", 403],
    ["another address of this host", { host: "127.0.0.2" }, "forbidden_host", 403],
    ["every address", { host: "0.0.0.0" }, "forbidden_host", 403],
  ];

  test("are refused on the socket, whatever they ask for", async () => {
    const { alice } = await startMesh({ members: ["alice"] });
    for (const [what, more, error, status] of headers) {
      for (const [method, path] of [
        ["GET", "/v1/health"],
        ["GET", "/v1/nothing"],
        ["POST", "/v1/send"],
        ["GET", "/v1/events"],
      ] as const) {
        const answer = await alice.request(path, {
          method,
          headers: more,
          ...(method === "POST" ? { body: "{}" } : {}),
        });
        expect([what, path, answer.status, refusalOf(answer).error]).toEqual([what, path, status, error]);
        expect(answer.headers.get("access-control-allow-origin")).toBeNull();
      }
    }
    const preflight = await alice.request("/v1/send", {
      method: "OPTIONS",
      headers: { "access-control-request-method": "POST" },
    });
    expect([preflight.status, refusalOf(preflight).error]).toEqual([403, "forbidden_origin"]);
    for (const path of ["/v1/health?token=x", "/v1/inbox?limit=1&token=", "/v1/health?%74oken=x"]) {
      const answer = await alice.request(path);
      expect([path, answer.status, refusalOf(answer).error]).toEqual([path, 400, "token_in_query"]);
    }
    await waitFor(() => alice.log.includes("security_refusal"), { what: "the log to tell" });
    expect(alice.log).not.toContain("token=x");
    for (const host of ["localhost", "127.0.0.1", "[::1]"])
      expect((await alice.request("/v1/health", { headers: { host } })).status).toBe(200);
  });

  test("TCP takes the token, the right name and the right port, and proves that it knows the token", async () => {
    const { alice } = await startMesh({ members: ["alice"], daemons: [] });
    await alice.up(["--tcp-port", "0"]);
    const port = readFileSync(join(alice.daemonDir, "http.port"), "utf8").trim();
    const token = readFileSync(join(alice.daemonDir, "local_token"), "utf8").trim();
    const call = (path: string, more: Record<string, string> = {}, method = "GET"): Promise<HttpAnswer> =>
      ask(`http://127.0.0.1:${port}${path}`, {}, { method, headers: more });
    const good = { authorization: `Bearer ${token}` };
    expect((await call("/v1/health", good)).status).toBe(200);
    const faulty: [Record<string, string>, number, string][] = [
      [{}, 401, "unauthorized"],
      [{ authorization: `Bearer ${token}x` }, 401, "unauthorized"],
      [{ authorization: `Bearer ${token.slice(1)}` }, 401, "unauthorized"],
      [{ authorization: "Bearer" }, 401, "unauthorized"],
      [{ authorization: `Basic ${token}` }, 401, "unauthorized"],
      [{ ...good, host: "127.0.0.1" }, 403, "forbidden_host"],
      [{ ...good, host: `127.0.0.1:${Number(port) ^ 1}` }, 403, "forbidden_host"],
      [{ ...good, host: `evil.example:${port}` }, 403, "forbidden_host"],
      [{ ...good, origin: `http://127.0.0.1:${port}` }, 403, "forbidden_origin"],
      [{ ...good, referer: `http://127.0.0.1:${port}/` }, 403, "forbidden_origin"],
    ];
    for (const [more, status, error] of faulty) {
      for (const path of ["/v1/health", "/v1/peers", "/v1/nothing", "/v1/openapi.json"]) {
        const answer = await call(path, more);
        expect([more, path, answer.status, refusalOf(answer).error]).toEqual([more, path, status, error]);
      }
    }
    expect((await call("/v1/health", { ...good, host: `localhost:${port}` })).status).toBe(200);
    const inQuery = await call(`/v1/health?token=${token}`, good);
    expect([inQuery.status, refusalOf(inQuery).error]).toEqual([400, "token_in_query"]);
    expect((await call("/v1/send", good, "OPTIONS")).status).toBe(403);

    const nonce = randomBytes(24).toString("hex");
    const proof = createHmac("sha256", token).update(Buffer.from(nonce, "hex")).digest("hex");
    expect(await call(`/v1/challenge?nonce=${nonce}`)).toMatchObject({ status: 200, body: { proof } });
    for (const bad of ["", "00", "zz".repeat(16), "AB".repeat(16), "ab".repeat(65)])
      expect([bad, (await call(`/v1/challenge?nonce=${bad}`)).status]).toEqual([bad, 400]);
    expect((await call(`/v1/challenge?nonce=${nonce}`, { origin: "http://x" })).status).toBe(403);
    expect(alice.log).not.toContain(token);

    await alice.down();
    await alice.up(["--tcp-port", "0", "--public-health"]);
    const open = readFileSync(join(alice.daemonDir, "http.port"), "utf8").trim();
    const health = await ask(`http://127.0.0.1:${open}/v1/health`, {}, {});
    expect([health.status, health.body]).toEqual([200, { ok: true }]);
    const withWrong = { headers: { authorization: "Bearer wrong" } };
    expect((await ask(`http://127.0.0.1:${open}/v1/health`, {}, withWrong)).status).toBe(401);
    expect((await ask(`http://127.0.0.1:${open}/v1/version`, {}, {})).status).toBe(401);
    // The token stays what it was.
    expect(readFileSync(join(alice.daemonDir, "local_token"), "utf8").trim()).toBe(token);
  });
});

test("the API describes itself", async () => {
  const { alice } = await startMesh({ members: ["alice"] });
  const document = v.parse(
    v.object({ openapi: v.literal("3.1.0"), paths: v.record(v.string(), v.record(v.string(), v.unknown())) }),
    await alice.get("/v1/openapi.json"),
  );
  expect(Object.keys(document.paths)).toContain("/v1/messages/{client_message_id}");
  expect(Object.keys(document.paths["/v1/send"] ?? {})).toEqual(["post"]);
});
