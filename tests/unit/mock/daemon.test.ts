/** The mock of the daemon without a script: every route of the table, what it lets in, and what it takes over from a request. */
import { describe, expect, test } from "bun:test";
import { lstatSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { openClient } from "~/client/client";
import { systemClock } from "~/clock";
import { runMockDaemon, usualToken } from "~/mock/daemon/run";
import { version } from "~/version";
import { challengeProof } from "~/wire/challenge";
import { type RouteName, routes } from "~/wire/ipc";
import { ipcBodyBytesMax, ipcStreamsMax } from "~/wire/limits";
import { versionHeader } from "~/wire/place";
import { openTestDaemon, testToken } from "../../support/daemon-parts";
import { FakeClock } from "../../support/fake-clock";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";
import { httpRequest, startMock } from "./daemon-harness";

/** One good request for each route; a new one needs its own here. */
const requests: Record<RouteName, { target: string; body?: unknown }> = {
  challenge: { target: `/v1/challenge?nonce=${"0a".repeat(16)}` },
  version: { target: "/v1/version" },
  health: { target: "/v1/health" },
  send: { target: "/v1/send", body: { to: "bob", message: "hi" } },
  message: { target: "/v1/messages/key-1?wait=delivered" },
  inbox: { target: "/v1/inbox" },
  inboxAck: { target: "/v1/inbox/ack", body: { ids: ["1"] } },
  events: { target: "/v1/events" },
  peers: { target: "/v1/peers?all=1" },
  profile: { target: "/v1/profile" },
  setProfile: { target: "/v1/profile", body: { status: "dnd" } },
  outbox: { target: "/v1/outbox" },
  outboxRow: { target: "/v1/outbox/row-1" },
  requeue: { target: "/v1/outbox/requeue", body: { id: "row-1" } },
  metrics: { target: "/v1/metrics" },
  rotateToken: { target: "/v1/token/rotate" },
  openapi: { target: "/v1/openapi.json" },
};
const routeNames = Object.keys(routes) as RouteName[];

const asked = (name: RouteName) => {
  const { target, body } = requests[name];
  return {
    target,
    init: { method: routes[name].method, ...(body === undefined ? {} : { body: JSON.stringify(body) }) },
  };
};

describe("every route of the table", () => {
  test.each(routeNames)("%s answers what its schema says, and the same at every start", async (name) => {
    const [mock, another] = [await startMock(), await startMock()];
    const { target, init } = asked(name);
    if (name === "events") {
      const { text } = await mock.talk(httpRequest("GET", target), (got) => got.includes(": open"));
      expect(text).toContain("content-type: text/event-stream");
      return;
    }
    const responses = [await mock.fetch(target, init), await another.fetch(target, init)];
    const texts = await Promise.all(responses.map((response) => response.text()));
    expect(texts[0]).toBe(texts[1] ?? "");
    const [response] = responses;
    expect(response?.headers.get(versionHeader)).toBe(version);
    const route: { responses: Readonly<Record<number, v.GenericSchema>>; contentType?: string } =
      routes[name];
    const schema = route.responses[response?.status ?? 0];
    if (schema === undefined) throw new Error(`${name} answered ${response?.status}`);
    const text = texts[0] ?? "";
    v.parse(schema, route.contentType === undefined ? JSON.parse(text) : text);
    expect(response?.headers.get("content-type")).toStartWith(route.contentType ?? "application/json");
  });
});

describe("requests are let in and refused as by the daemon", () => {
  const unix: [
    what: string,
    method: string,
    target: string,
    headers: Record<string, string>,
    body?: string,
  ][] = [
    ["another host", "GET", "/v1/health", { host: "example.com" }],
    ["a web page", "GET", "/v1/health", { origin: "http://example.com" }],
    ["a preflight", "OPTIONS", "/v1/send", {}],
    ["a token in the query", "GET", "/v1/health?token=x", {}],
    ["no such route", "GET", "/v1/nothing", {}],
    ["another method", "DELETE", "/v1/send", {}],
    ["HEAD", "HEAD", "/v1/health", {}],
    ["an unknown query", "GET", "/v1/inbox?colour=red", {}],
    ["a query twice", "GET", "/v1/inbox?limit=1&limit=2", {}],
    ["a limit that is too high", "GET", "/v1/inbox?limit=100000", {}],
    ["two ways to page", "GET", "/v1/inbox?after=1&last=1", {}],
    ["a cursor that is none", "GET", "/v1/inbox?after=nothing", {}],
    ["an event that is none", "GET", "/v1/events?since=nothing", {}],
    ["a nonce that is none", "GET", "/v1/challenge?nonce=x", {}],
    ["no JSON", "POST", "/v1/send", {}, "{"],
    ["no UTF-8", "POST", "/v1/send", {}, "\xff"],
    ["no body", "POST", "/v1/send", {}],
    ["an unknown field", "POST", "/v1/send", {}, '{"to":"bob","message":"hi","colour":"red"}'],
    ["a bad id", "POST", "/v1/send", {}, '{"to":"bob","message":"hi","client_message_id":"a b"}'],
    [
      "two ids",
      "POST",
      "/v1/send",
      { "idempotency-key": "a" },
      '{"to":"bob","message":"hi","client_message_id":"b"}',
    ],
    ["an empty message", "POST", "/v1/send", {}, '{"to":"bob","message":""}'],
    [
      "a body that is too large",
      "POST",
      "/v1/send",
      {},
      `{"to":"bob","message":"${"x".repeat(ipcBodyBytesMax)}"}`,
    ],
  ];
  // A table's row that is short would be filled up with the callback of the test.
  const rows = unix.map(([what, method, target, headers, body]) => ({ what, method, target, headers, body }));
  test.each(rows)("$what", async ({ method, target, headers, body }) => {
    const daemon = await openTestDaemon();
    daemon.list(daemon.member("bob"));
    const bytes = body === undefined ? undefined : Buffer.from(body, "latin1");
    const due = await daemon.until(
      Promise.resolve(
        daemon.app().request(`http://localhost${target}`, {
          method,
          headers: { host: "localhost", ...headers },
          ...(bytes === undefined ? {} : { body: bytes }),
        }),
      ),
    );
    const mock = await startMock();
    const given = await mock.fetch(target, {
      method,
      headers,
      ...(bytes === undefined ? {} : { body: bytes }),
    });
    expect(given.status).toBe(due.status);
    expect(given.status).toBeGreaterThanOrEqual(400);
    const dueText = await due.text();
    if (method !== "HEAD") expect(await given.json()).toEqual(JSON.parse(dueText));
  });

  const tcp: [what: string, target: string, headers: Record<string, string>][] = [
    ["no token", "/v1/health", {}],
    ["a wrong token", "/v1/health", { authorization: "Bearer wrong-wrong-wrong-wrong" }],
    ["the right token", "/v1/health", { authorization: `Bearer ${testToken}` }],
    ["another port", "/v1/health", { host: "127.0.0.1:1" }],
    ["a challenge without a token", `/v1/challenge?nonce=${"0a".repeat(16)}`, {}],
  ];
  test.each(tcp)("over TCP: %s", async (_, target, headers) => {
    const mock = await startMock({ tcp: 0, token: testToken });
    const port = mock.place.tcp_port ?? 0;
    const daemon = await openTestDaemon();
    const due = await daemon.until(
      Promise.resolve(
        daemon.app({ kind: "tcp", port }).request(`http://127.0.0.1:${port}${target}`, {
          headers: { host: `127.0.0.1:${port}`, ...headers },
        }),
      ),
    );
    const given = await fetch(`http://127.0.0.1:${port}${target}`, { headers });
    expect(given.status).toBe(due.status);
    if (due.status !== 200) expect(await given.json()).toEqual(await due.json());
  });

  test("the token of TCP is always the same unless it is given, is told at the start, and is proved", async () => {
    const mock = await startMock({ tcp: 0 });
    expect(mock.place.token).toBe(usualToken);
    const nonce = "0b".repeat(32);
    const reply = await fetch(`http://127.0.0.1:${mock.place.tcp_port}/v1/challenge?nonce=${nonce}`);
    expect(await reply.json()).toEqual({ proof: challengeProof(usualToken, nonce) });
  });
});

describe("what the request names is in the answer", () => {
  const json = async (response: Promise<Response>): Promise<unknown> => (await response).json();

  test("ids that are given, and counted ones otherwise", async () => {
    const mock = await startMock();
    const message = { to: "bob", message: "hi" };
    expect(await json(mock.post("/v1/send", { ...message, client_message_id: "mine" }))).toMatchObject({
      client_message_id: "mine",
      status: "queued",
      duplicate: false,
    });
    const keyed = mock.fetch("/v1/send", {
      method: "POST",
      body: JSON.stringify(message),
      headers: { "idempotency-key": "by-header" },
    });
    expect(await json(keyed)).toMatchObject({ client_message_id: "by-header" });
    expect(await json(mock.post("/v1/send", message))).toMatchObject({
      client_message_id: "01M0CKMS000000000000000001",
    });
    expect(await json(mock.post("/v1/send", message))).toMatchObject({
      client_message_id: "01M0CKMS000000000000000002",
    });
    expect(await json(mock.fetch("/v1/messages/mine"))).toMatchObject({
      client_message_id: "mine",
      status: "done",
    });
    expect(
      await json(mock.post("/v1/outbox/requeue", { id: "row", new_client_message_id: "anew" })),
    ).toMatchObject({
      aborted_row_id: "row",
      new_client_message_id: "anew",
    });
    expect(await json(mock.fetch("/v1/outbox/row"))).toMatchObject({ id: "row", status: "dead" });
    expect(await json(mock.fetch("/v1/outbox/to-bob-1"))).toMatchObject({
      client_message_id: "to-bob-1",
      status: "done",
    });
    expect(await json(mock.post("/v1/inbox/ack", { ids: ["a", "b"] }))).toEqual({
      acknowledged: 2,
      unknown: [],
    });
    expect(await json(mock.post("/v1/profile", { summary: "other", capabilities: ["x"] }))).toMatchObject({
      summary: "other",
      capabilities: ["x"],
      status: "working",
    });
  });

  test("pages and filters", async () => {
    const mock = await startMock();
    const ids = async (target: string): Promise<[string[], string | undefined]> => {
      const page = v.parse(
        v.object({
          items: v.array(v.object({ client_message_id: v.string() })),
          next_cursor: v.exactOptional(v.string()),
        }),
        await json(mock.fetch(target)),
      );
      return [page.items.map((item) => item.client_message_id), page.next_cursor];
    };
    expect(await ids("/v1/inbox?limit=2")).toEqual([["from-bob-1", "from-carol-1"], "2"]);
    expect(await ids("/v1/inbox?after=2")).toEqual([["from-bob-2"], undefined]);
    expect(await ids("/v1/inbox?after=from-bob-1&limit=1")).toEqual([["from-carol-1"], "2"]);
    expect(await ids("/v1/inbox?last=1")).toEqual([["from-bob-2"], undefined]);
    expect(await ids("/v1/inbox?unread=1")).toEqual([["from-carol-1", "from-bob-2"], undefined]);
    expect(await ids("/v1/inbox?unread=0")).toEqual([["from-bob-1"], undefined]);
    expect(await ids("/v1/inbox?from=carol")).toEqual([["from-carol-1"], undefined]);
    expect(await ids("/v1/inbox?topic=builds")).toEqual([["from-carol-1"], undefined]);
    expect(await ids("/v1/inbox?mesh=other")).toEqual([[], undefined]);
    expect(await ids("/v1/outbox?limit=2")).toEqual([["to-bob-5", "to-bob-4"], "4"]);
    expect(await ids("/v1/outbox?limit=2&after=4")).toEqual([["to-bob-3", "to-bob-2"], "2"]);
    expect(await ids("/v1/outbox?status=failed")).toEqual([["to-bob-3"], undefined]);
    expect(await ids("/v1/outbox?lane=nobody")).toEqual([[], undefined]);
    const { problems } = v.parse(
      v.looseObject({ problems: v.array(v.unknown()) }),
      await json(mock.fetch("/v1/inbox?problems=1")),
    );
    expect(problems).toHaveLength(1);
    const names = async (target: string) =>
      v
        .parse(v.object({ peers: v.array(v.object({ name: v.string() })) }), await json(mock.fetch(target)))
        .peers.map(({ name }) => name);
    expect(await names("/v1/peers")).toEqual(["bob"]);
    expect(await names("/v1/peers?all=1")).toEqual(["bob", "carol"]);
    expect(await names("/v1/peers?all=1&mesh=other")).toEqual([]);
  });

  test.each(["the socket", "TCP, after it has proved itself"])(
    "the client of this project calls it over %s",
    async (way) => {
      const mock = await startMock({ tcp: 0 });
      const dir = tempDir();
      const files = { port: join(dir, "http.port"), token: join(dir, "local_token") };
      writeFileSync(files.port, `${mock.place.tcp_port}\n`);
      writeFileSync(files.token, `${mock.place.token}\n`);
      const client = openClient({
        socketPath: mock.place.socket,
        tcp: files,
        fetch: async (url, init) => {
          if (way !== "the socket" && "unix" in init)
            throw Object.assign(new Error("forbidden"), { code: "EPERM" });
          return await fetch(url, init);
        },
      });
      expect(
        await client.call("send", { body: { to: "bob", message: "hi", client_message_id: "x" } }),
      ).toMatchObject({ status: "queued" });
      expect((await client.call("inbox", { query: { limit: 1 } })).items).toHaveLength(1);
    },
  );
});

describe("what a client may do wrong", () => {
  const head = "GET /v1/health HTTP/1.1\r\nhost: localhost\r\n";
  test.each([
    ["nonsense", "nonsense\r\n\r\n", "400 Bad Request"],
    ["half a length", `${head}content-length: x\r\n\r\n`, "400 Bad Request"],
    [
      "a header without end",
      `${head}x: ${"x".repeat(70_000)}\r\n\r\n`,
      "431 Request Header Fields Too Large",
    ],
    ["headers without end", `${head}${"x: y\r\n".repeat(9_000)}\r\n`, "431 Request Header Fields Too Large"],
    [
      "HTTP of another age",
      "GET /v1/health HTTP/2.0\r\nhost: localhost\r\n\r\n",
      "505 HTTP Version Not Supported",
    ],
    [
      "a call for a tunnel",
      "CONNECT localhost:1 HTTP/1.1\r\nhost: localhost\r\n\r\n",
      "405 Method Not Allowed",
    ],
  ])("%s is refused, as by the daemon", async (_, sent, status) => {
    const mock = await startMock();
    const { text, hasEnded } = await mock.talk(sent);
    expect([text.split("\r\n")[0], hasEnded]).toEqual([`HTTP/1.1 ${status}`, true]);
    expect((await mock.fetch("/v1/health")).status).toBe(200);
  });

  test("what a client expects besides is passed over, as by the daemon", async () => {
    const mock = await startMock();
    const { text } = await mock.talk(
      httpRequest("GET", "/v1/profile", undefined, "expect: much\r\n"),
      (got) => got.includes("Stand-in"),
    );
    expect(text).toStartWith("HTTP/1.1 200 ");
  });

  test("a path is not put in order for a client", async () => {
    const mock = await startMock();
    const { text } = await mock.talk(httpRequest("GET", "//v1/health"), (got) =>
      got.includes("no_such_route"),
    );
    expect(text).toStartWith("HTTP/1.1 404 ");
  });

  test("a body without a length is refused as soon as it is too large, and what follows on the connection is heard", async () => {
    const mock = await startMock();
    const chunk = `10000\r\n${"x".repeat(0x10000)}\r\n`;
    const head = "POST /v1/send HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    const talk = mock.open(head + chunk.repeat(ipcBodyBytesMax / 0x10000 + 2));
    expect(await talk.waitForText("body_too_large")).toStartWith("HTTP/1.1 413 ");
    talk.write(`${chunk.repeat(20)}0\r\n\r\n${httpRequest("GET", "/v1/profile")}`);
    await talk.waitForText("Stand-in");
  });

  test("a body that is announced too large is refused before it came", async () => {
    const mock = await startMock();
    const talk = mock.open(
      `POST /v1/send HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${ipcBodyBytesMax + 1}\r\n\r\n`,
    );
    expect(await talk.waitForText("body_too_large")).toStartWith("HTTP/1.1 413 ");
  });

  test("a body that does not come is waited for ten seconds", async () => {
    const clock = new FakeClock();
    const mock = await startMock({ clock });
    const talk = mock.open("POST /v1/send HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{");
    await waitFor(() => clock.delaysMs.includes(10_000), { what: "the request to be waited for" });
    clock.advance(10_000);
    expect(await talk.waitForText("did not arrive within 10 s")).toStartWith("HTTP/1.1 400 ");
  });

  test("one that comes byte by byte is heard", async () => {
    const mock = await startMock();
    const talk = mock.open("");
    for (const byte of httpRequest("POST", "/v1/send", {
      to: "bob",
      message: "hi",
      client_message_id: "slow",
    }))
      talk.write(byte);
    expect(await talk.waitForText('"client_message_id":"slow"')).toStartWith("HTTP/1.1 202 ");
  });

  test("clients that vanish anywhere in a request disturb nobody", async () => {
    const mock = await startMock();
    const whole = httpRequest("POST", "/v1/send", { to: "bob", message: "hi" });
    for (let cut = 1; cut < whole.length; cut += 7) mock.open(whole.slice(0, cut)).leave();
    mock.open(httpRequest("GET", "/v1/events")).leave();
    expect((await mock.fetch("/v1/health")).status).toBe(200);
    expect(mock.logged.filter(({ level }) => level === "error")).toEqual([]);
  });

  test("only so many streams are open at a time, and one that is left makes room", async () => {
    const mock = await startMock();
    const streams = Array.from({ length: ipcStreamsMax }, () => mock.open(httpRequest("GET", "/v1/events")));
    for (const stream of streams) await stream.waitForText(": open");
    expect((await mock.fetch("/v1/events")).status).toBe(429);
    streams[0]?.leave();
    const isOpen = async () =>
      (
        await mock.talk(httpRequest("GET", "/v1/events"), (text) => text.includes("\r\n\r\n"))
      ).text.startsWith("HTTP/1.1 200");
    await waitFor(isOpen, { what: "room for another stream" });
  });
});

describe("where it listens", () => {
  const run = (socket: string, more: { tcp?: number; script?: string; record?: string } = {}) =>
    runMockDaemon(
      {
        socket,
        tcp: more.tcp,
        token: undefined,
        script: more.script,
        record: more.record,
        clock: systemClock,
        log: () => undefined,
        onReady: () => undefined,
      },
      AbortSignal.timeout(10_000),
    );

  test("the socket is its owner's alone, and goes when the mock ends, streams or not", async () => {
    const mock = await startMock();
    expect(lstatSync(mock.place.socket).mode & 0o777).toBe(0o600);
    await mock.open(httpRequest("GET", "/v1/events")).waitForText(": open");
    await mock.stop();
    expect(() => lstatSync(mock.place.socket)).toThrow("ENOENT");
  });

  test("a live socket and a directory are refused, a port that is taken too, and nothing is left behind", async () => {
    const mock = await startMock({ tcp: 0 });
    await expect(run(mock.place.socket)).rejects.toMatchObject({ code: "already_running" });
    const dir = tempDir();
    mkdirSync(join(dir, "a"));
    await expect(run(join(dir, "a"))).rejects.toMatchObject({ code: "path_unsafe" });
    await expect(run(join(dir, "b"), { tcp: mock.place.tcp_port ?? 0 })).rejects.toMatchObject({
      code: "port_in_use",
    });
    expect(() => lstatSync(join(dir, "b"))).toThrow("ENOENT");
    await expect(run(join(dir, "x".repeat(200)))).rejects.toMatchObject({ code: "socket_path_too_long" });
    expect((await mock.fetch("/v1/health")).status).toBe(200);
  });

  test("a mock that cannot have its socket lets go of its port", async () => {
    const before = await startMock({ tcp: 0 });
    const port = before.place.tcp_port ?? 0;
    await before.stop();
    const nowhere = join(tempDir(), "missing/s");
    await expect(run(nowhere, { tcp: port })).rejects.toMatchObject({ code: "storage_failed" });
    expect((await startMock({ tcp: port })).place.tcp_port).toBe(port);
  });

  test("a recording is not begun anew by a mock that is refused, and one that cannot be written is told", async () => {
    const mock = await startMock({ record: true });
    await (await mock.fetch("/v1/health")).text();
    const before = mock.recording().entries.length;
    await expect(run(mock.place.socket, { record: mock.recordFile })).rejects.toMatchObject({
      code: "already_running",
    });
    expect(mock.recording().entries.length).toBeGreaterThanOrEqual(before);
    expect(before).toBeGreaterThan(0);
    const dir = tempDir();
    await expect(run(join(dir, "s"), { record: join(dir, "missing/r") })).rejects.toMatchObject({
      code: "storage_failed",
    });
    expect(() => lstatSync(join(dir, "s"))).toThrow("ENOENT");
  });
});
