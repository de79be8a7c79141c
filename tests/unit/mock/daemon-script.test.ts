/** What a script can have the mock of the daemon do, each over a real socket, and the scripts that are refused. */
import { describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { systemClock } from "~/clock";
import { type MeshError, MeshError as Refusal } from "~/errors";
import { runMockDaemon } from "~/mock/daemon/run";
import { mergePatch } from "~/mock/daemon/script";
import { eventNames, InboxItem, MeshEvent, OutboxItem } from "~/wire/ipc";
import { ipcStreamsMax } from "~/wire/limits";
import { FakeClock } from "../../support/fake-clock";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";
import {
  bodyOf,
  httpRequest,
  type MockOptions,
  type OpenTalk,
  type RunningMock,
  startMock,
} from "./daemon-harness";

const send = { to: "bob", message: "hi", client_message_id: "key-1" };

const withRules = (rules: object[], options: MockOptions = {}): Promise<RunningMock> =>
  startMock({ ...options, script: { rules } });
const withEvents = (events: object[], options: MockOptions = {}): Promise<RunningMock> =>
  startMock({ ...options, script: { events } });

async function answer(response: Response): Promise<{ status: number; text: string }> {
  return { status: response.status, text: await response.text() };
}

describe("reply", () => {
  test("puts another body, status and headers in the place of the usual ones", async () => {
    const mock = await withRules([
      { on: "GET /v1/health", reply: { status: 503, headers: { "X-One": "1" }, json: { ok: false } } },
    ]);
    const response = await mock.fetch("/v1/health");
    expect(response.headers.get("x-one")).toBe("1");
    expect(response.headers.get("content-type")).toStartWith("application/json");
    expect(await answer(response)).toEqual({ status: 503, text: '{"ok":false}' });
  });

  test("keeps what it does not name: the usual status, the usual body", async () => {
    const mock = await withRules([
      { on: "POST /v1/send", reply: { json: {} } },
      { on: "GET /v1/profile", reply: { status: 203 } },
    ]);
    expect(await answer(await mock.post("/v1/send", send))).toEqual({ status: 202, text: "{}" });
    const { status, text } = await answer(await mock.fetch("/v1/profile"));
    expect([status, JSON.parse(text)]).toMatchObject([203, { title: "Stand-in" }]);
  });

  test("merges into the usual body", async () => {
    const mock = await withRules([
      { on: "POST /v1/send", reply: { status: 200, merge: { status: "accepted", broker_message_id: "b1" } } },
      {
        on: "GET /v1/health",
        reply: { merge: { inbox: { unread: 9 }, outbox: { oldest_pending_s: null } } },
      },
    ]);
    const sent = await answer(await mock.post("/v1/send", send));
    expect([sent.status, JSON.parse(sent.text)]).toEqual([
      200,
      { client_message_id: "key-1", status: "accepted", duplicate: false, broker_message_id: "b1" },
    ]);
    const health = JSON.parse((await answer(await mock.fetch("/v1/health"))).text);
    expect(health).toMatchObject({ ok: true, inbox: { unread: 9 } });
    expect(health.outbox).toEqual({ counts: { pending: 1, inflight: 1, done: 1, dead: 1, aborted: 1 } });
  });

  test("writes a body that is no JSON under the usual type, text or bytes", async () => {
    const mock = await withRules([
      { on: "GET /v1/health", reply: { body: '{"ok": tru' } },
      { on: "GET /v1/peers", reply: { body: { hex: "00ff" } } },
    ]);
    const response = await mock.fetch("/v1/health");
    expect(response.headers.get("content-type")).toStartWith("application/json");
    expect(await response.text()).toBe('{"ok": tru');
    expect(new Uint8Array(await (await mock.fetch("/v1/peers")).arrayBuffer())).toEqual(
      new Uint8Array([0, 255]),
    );
  });

  test("leaves headers out, those of the daemon too, and takes them as they are written", async () => {
    const mock = await withRules([
      { on: "GET /v1/health", reply: { headers: { "Content-Type": null, "Claudemesh-Version": "0.0.1" } } },
    ]);
    const { text } = await mock.talk(httpRequest("GET", "/v1/health"), (got) => got.includes("}}"));
    expect(text).not.toMatch(/content-type/i);
    expect(text).toContain("claudemesh-version: 0.0.1\r\n");
  });

  test("with a status that has no body has none", async () => {
    const mock = await withRules([{ on: "GET /v1/health", reply: { status: 204 } }]);
    const talk = mock.open(httpRequest("GET", "/v1/health"));
    await talk.waitForText("\r\n\r\n");
    talk.write(httpRequest("GET", "/v1/peers"));
    await talk.waitForText('"peers"');
    expect(talk.text()).toStartWith("HTTP/1.1 204 ");
    expect(talk.text().slice(0, talk.text().indexOf("HTTP/1.1 200"))).not.toMatch(/\r\n\r\n./s);
  });

  test("an answer in place of the events is no stream", async () => {
    const mock = await withRules([{ on: "GET /v1/events", reply: { json: { not: "a stream" } } }]);
    expect(await answer(await mock.fetch("/v1/events"))).toEqual({ status: 200, text: '{"not":"a stream"}' });
  });
});

describe("error", () => {
  test("by its code has the status of the code and what clients read of it", async () => {
    const mock = await withRules([
      { on: "GET /v1/health", error: "daemon_stopping" },
      { on: "POST /v1/send", error: "idempotency_key_reused" },
    ]);
    const stopping = await answer(await mock.fetch("/v1/health"));
    expect([stopping.status, JSON.parse(stopping.text)]).toMatchObject([503, { error: "daemon_stopping" }]);
    const reused = await answer(await mock.post("/v1/send", send));
    expect([reused.status, JSON.parse(reused.text)]).toMatchObject([
      409,
      { error: "idempotency_key_reused", conflict: "outbox_done_fingerprint_mismatch" },
    ]);
  });

  test("as a whole is what it says", async () => {
    const error = {
      error: "new_in_v2",
      message: "later",
      hint: "wait",
      details: { candidates: [1] },
      status: 418,
    };
    const mock = await withRules([{ on: "GET /v1/peers", error }]);
    const { status, text } = await answer(await mock.fetch("/v1/peers"));
    expect([status, JSON.parse(text)]).toEqual([
      418,
      { error: "new_in_v2", message: "later", hint: "wait", candidates: [1] },
    ]);
  });

  test("in place of the events", async () => {
    const mock = await withRules([{ on: "GET /v1/events", error: "unauthorized" }]);
    expect((await mock.fetch("/v1/events")).status).toBe(401);
  });
});

describe("times, order and where", () => {
  const statuses = async (mock: RunningMock, targets: string[]): Promise<number[]> => {
    const answers: number[] = [];
    for (const target of targets) answers.push((await mock.fetch(target)).status);
    return answers;
  };

  test("a rule that is used up leaves the request to the next one, and one without an effect lets it pass", async () => {
    const mock = await withRules([
      { on: "GET /v1/health", times: 1 },
      { on: "GET /v1/health", times: 2, reply: { status: 503 } },
      { on: "*", times: 1, reply: { status: 500 } },
    ]);
    expect(await statuses(mock, Array(5).fill("/v1/health"))).toEqual([200, 503, 503, 500, 200]);
  });

  test("the first rule that fits is the one, of all routes or of one", async () => {
    const mock = await withRules([
      { on: "GET /v1/peers", reply: { status: 201 } },
      { on: "*", reply: { status: 202 } },
      { on: "GET /v1/health", reply: { status: 203 } },
    ]);
    expect(await statuses(mock, ["/v1/peers", "/v1/health", "/v1/outbox/x"])).toEqual([201, 202, 202]);
  });

  test("only requests with these values count: path, query, headers", async () => {
    const mock = await withRules([
      { on: "GET /v1/messages/:client_message_id", where: { param: "a" }, reply: { status: 201 } },
      { on: "GET /v1/inbox", where: { query: { unread: true, limit: 5 } }, reply: { status: 202 } },
      { on: "*", where: { headers: { "X-Try": "2" } }, reply: { status: 203 } },
    ]);
    expect(await statuses(mock, ["/v1/messages/a", "/v1/messages/b"])).toEqual([201, 200]);
    expect(await statuses(mock, ["/v1/inbox?unread=1&limit=5", "/v1/inbox?unread=true&limit=05"])).toEqual([
      202, 202,
    ]);
    expect(await statuses(mock, ["/v1/inbox?unread=0&limit=5", "/v1/inbox?limit=5"])).toEqual([200, 200]);
    expect((await mock.fetch("/v1/peers", { headers: { "x-try": "2" } })).status).toBe(203);
    expect((await mock.fetch("/v1/peers", { headers: { "x-try": "3" } })).status).toBe(200);
  });

  test("of an object in the body only what is named counts, of a list all of it", async () => {
    const mock = await withRules([
      {
        on: "POST /v1/send",
        where: { body: { to: "bob", meta: { deep: { a: 1 } } } },
        reply: { status: 201 },
      },
      { on: "POST /v1/inbox/ack", where: { body: { ids: ["a"] } }, reply: { status: 201 } },
    ]);
    const sendWith = async (meta: unknown) =>
      (await mock.post("/v1/send", { to: "bob", message: "x", meta })).status;
    expect(await sendWith({ deep: { a: 1, b: 2 }, other: 3 })).toBe(201);
    expect(await sendWith({ deep: { a: 2 } })).toBe(202);
    expect(await sendWith({})).toBe(202);
    expect((await mock.post("/v1/inbox/ack", { ids: ["a"] })).status).toBe(201);
    expect((await mock.post("/v1/inbox/ack", { ids: ["a", "b"] })).status).toBe(200);
  });

  test("a request that is refused uses no rule up", async () => {
    const mock = await withRules([{ on: "POST /v1/send", times: 1, reply: { status: 201 } }]);
    expect((await mock.post("/v1/send", { to: "bob" })).status).toBe(400);
    expect((await mock.post("/v1/send", send)).status).toBe(201);
  });
});

describe("faults of the connection", () => {
  test("delay_ms holds one answer back and no other", async () => {
    const clock = new FakeClock();
    const mock = await withRules([{ on: "GET /v1/health", delay_ms: 5_000 }], { clock });
    const held = mock.open(httpRequest("GET", "/v1/health"));
    await waitFor(() => clock.delaysMs.includes(5_000), { what: "the answer to be held back" });
    expect((await mock.fetch("/v1/peers")).status).toBe(200);
    clock.advance(4_999);
    expect((await mock.fetch("/v1/peers")).status).toBe(200);
    expect(held.text()).toBe("");
    clock.advance(1);
    await held.waitForText('"ok":true');
  });

  test("a client that goes while its answer is held back sets the place free", async () => {
    const clock = new FakeClock();
    const mock = await withRules([{ on: "GET /v1/health", delay_ms: 5_000 }], { clock });
    const held = mock.open(httpRequest("GET", "/v1/health"));
    await waitFor(() => clock.delaysMs.includes(5_000), { what: "the answer to be held back" });
    held.leave();
    await waitFor(() => !clock.delaysMs.includes(5_000), { what: "it to be given up" });
  });

  test("clients that go while their streams are held back leave none open", async () => {
    const clock = new FakeClock();
    const mock = await withRules([{ on: "GET /v1/events", times: ipcStreamsMax, delay_ms: 5_000 }], {
      clock,
    });
    const held = Array.from({ length: ipcStreamsMax }, () => mock.open(httpRequest("GET", "/v1/events")));
    const isHeld = () => clock.delaysMs.filter((delayMs) => delayMs === 5_000).length;
    await waitFor(() => isHeld() === ipcStreamsMax, { what: "the streams to be held back" });
    for (const client of held) client.leave();
    await waitFor(() => isHeld() === 0, { what: "them to be given up" });
    await mock.open(httpRequest("GET", "/v1/events")).waitForText(": open");
  });

  test("drop never answers, and leaves the connection open", async () => {
    const mock = await withRules([{ on: "GET /v1/health", drop: true }]);
    const dropped = mock.open(httpRequest("GET", "/v1/health"));
    for (let other = 0; other < 3; other++) expect((await mock.fetch("/v1/peers")).status).toBe(200);
    expect([dropped.text(), dropped.hasEnded()]).toEqual(["", false]);
  });

  test("drop after some bytes falls silent in the middle of the body", async () => {
    const mock = await withRules([
      { on: "GET /v1/health", drop: { after_bytes: 5 } },
      { on: "GET /v1/profile", drop: { after_bytes: 0 } },
    ]);
    const silent = mock.open(httpRequest("GET", "/v1/health"));
    const text = await silent.waitForText('\r\n\r\n{"ok"');
    expect(Number(/content-length: (\d+)/i.exec(text)?.[1])).toBeGreaterThan(100);
    const headOnly = mock.open(httpRequest("GET", "/v1/profile"));
    await headOnly.waitForText("\r\n\r\n");
    expect((await mock.fetch("/v1/peers")).status).toBe(200);
    expect([bodyOf(silent.text()), silent.hasEnded()]).toEqual(['{"ok"', false]);
    expect([bodyOf(headOnly.text()), headOnly.hasEnded()]).toEqual(["", false]);
  });

  test("cut closes the connection without a word, or after some bytes of the body", async () => {
    const mock = await withRules([
      { on: "GET /v1/health", cut: true },
      { on: "GET /v1/profile", cut: { after_bytes: 7 } },
      { on: "GET /v1/peers", cut: { after_bytes: 0 } },
      { on: "GET /v1/outbox", cut: { after_bytes: 1_000_000 } },
    ]);
    expect(await mock.talk(httpRequest("GET", "/v1/health"))).toEqual({ text: "", hasEnded: true });
    const profile = await mock.talk(httpRequest("GET", "/v1/profile"));
    expect([bodyOf(profile.text), profile.hasEnded]).toEqual(['{"summa', true]);
    const peers = await mock.talk(httpRequest("GET", "/v1/peers"));
    expect(peers.text).toStartWith("HTTP/1.1 200 OK\r\n");
    expect([bodyOf(peers.text), peers.hasEnded]).toEqual(["", true]);
    const outbox = await mock.talk(httpRequest("GET", "/v1/outbox"));
    expect(JSON.parse(bodyOf(outbox.text))).toHaveProperty("counts");
  });

  test("what goes out before a cut arrives, however large it is and however slowly it is read", async () => {
    const body = "x".repeat(2_000_000);
    const mock = await withRules([
      { on: "GET /v1/health", reply: { body } },
      { on: "GET /v1/openapi.json", bytes: `HTTP/1.1 200 OK\r\n\r\n${body}` },
      { on: "GET /v1/peers", times: 1, cut: { after_bytes: 4 } },
    ]);
    expect((await (await mock.fetch("/v1/health")).text()).length).toBe(body.length);
    const raw = mock.open(httpRequest("GET", "/v1/openapi.json"));
    raw.pause();
    expect(bodyOf((await mock.talk(httpRequest("GET", "/v1/peers"))).text)).toBe('{"pe');
    raw.resume();
    expect(bodyOf(await raw.waitForEnd()).length).toBe(body.length);
  });

  test("bytes go out as they are, and the connection is closed", async () => {
    const mock = await withRules([
      { on: "GET /v1/health", bytes: "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc" },
      { on: "GET /v1/peers", bytes: { hex: "ff00fe" } },
    ]);
    expect(await mock.talk(httpRequest("GET", "/v1/health"))).toEqual({
      text: "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
      hasEnded: true,
    });
    expect(await mock.talk(httpRequest("GET", "/v1/peers"))).toEqual({
      text: "\xff\x00\xfe",
      hasEnded: true,
    });
  });

  test("a stream of events can be cut and fall silent too", async () => {
    const mock = await startMock({
      script: {
        rules: [
          { on: "GET /v1/events", times: 1, cut: { after_bytes: 10 } },
          { on: "GET /v1/events", times: 1, drop: { after_bytes: 0 } },
        ],
        events: [{ after: "GET /v1/events", event: "peer_join" }],
      },
    });
    const cut = await mock.talk(httpRequest("GET", "/v1/events"));
    expect([bodyOf(cut.text), cut.hasEnded]).toEqual([": open\n\nev", true]);
    const silent = mock.open(httpRequest("GET", "/v1/events"));
    await silent.waitForText("\r\n\r\n");
    expect((await mock.fetch("/v1/peers")).status).toBe(200);
    expect([bodyOf(silent.text()), silent.hasEnded()]).toEqual(["", false]);
  });
});

describe("events", () => {
  const stream = async (mock: RunningMock, query = "", headers = ""): Promise<OpenTalk> => {
    const talk = mock.open(httpRequest("GET", `/v1/events${query}`, undefined, headers));
    await talk.waitForText(": open");
    return talk;
  };
  const eventsOf = (talk: OpenTalk): { id?: string; event?: string; data: unknown }[] =>
    bodyOf(talk.text())
      .split("\n\n")
      .filter((block) => block.includes("data:"))
      .map((block) => {
        const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s)));
        return { id: fields.id, event: fields.event, data: JSON.parse(fields.data) };
      });

  test("without a script a stream has an opening comment, and one every fifteen seconds", async () => {
    const clock = new FakeClock();
    const mock = await startMock({ clock });
    const talk = await stream(mock);
    expect(bodyOf(talk.text())).toBe(": open\n\n");
    clock.advance(15_000);
    await talk.waitForText(": still here");
  });

  test("each kind has something plausible to say, that its schema accepts; stored ones count their ids", async () => {
    const mock = await withEvents([
      ...eventNames.map((event) => ({ after: "GET /v1/events", event })),
      { after: "GET /v1/events", event: "message" },
      { after: "GET /v1/events", event: "of_tomorrow" },
    ]);
    const talk = await stream(mock);
    await talk.waitForText("of_tomorrow");
    const events = eventsOf(talk);
    expect(events.map(({ event }) => event)).toEqual([...eventNames, "message", "of_tomorrow"]);
    for (const event of events)
      if (event.event !== "receipt" && event.event !== "of_tomorrow") v.parse(MeshEvent, event);
    expect(events.map(({ id }) => id)).toEqual([
      "4",
      "5",
      undefined,
      undefined,
      undefined,
      undefined,
      "6",
      undefined,
    ]);
  });

  test("after a request all streams hear what it was about", async () => {
    const mock = await withEvents([
      { after: "POST /v1/send", event: "outbox" },
      { after: "POST /v1/send", event: "message" },
      { after: "POST /v1/send", event: "receipt", where: { body: { to: "bob" } } },
    ]);
    const streams = [await stream(mock), await stream(mock)];
    await mock.post("/v1/send", { ...send, to: "carol" });
    await mock.post("/v1/send", { to: "bob", message: "second" });
    for (const talk of streams) {
      await talk.waitForText("receipt");
      const [outbox, message, , reply, receipt] = eventsOf(talk);
      expect(v.parse(OutboxItem, outbox?.data)).toMatchObject({ client_message_id: "key-1", to: "carol" });
      expect(v.parse(InboxItem, message?.data)).toMatchObject({
        body: "re: hi",
        from: { name: "carol" },
        reply_to: { id: "key-1" },
      });
      expect(reply?.data).toMatchObject({
        body: "re: second",
        reply_to: { id: "01M0CKMS000000000000000001" },
      });
      expect(receipt?.data).toMatchObject({
        client_message_id: "01M0CKMS000000000000000001",
        stage: "delivered",
      });
      expect(eventsOf(talk)).toHaveLength(5);
    }
  });

  test("after the opening of a stream only that one hears", async () => {
    const mock = await withEvents([{ after: "GET /v1/events", times: 1, event: "peer_join" }]);
    const first = await stream(mock);
    await first.waitForText("peer_join");
    const second = await stream(mock);
    expect((await mock.fetch("/v1/peers")).status).toBe(200);
    expect(eventsOf(second)).toEqual([]);
  });

  test("an event may be held back", async () => {
    const clock = new FakeClock();
    const mock = await withEvents(
      [
        { after: "GET /v1/peers", delay_ms: 500, event: "peer_leave" },
        { after: "GET /v1/peers", event: "peer_join" },
      ],
      { clock },
    );
    const talk = await stream(mock);
    await (await mock.fetch("/v1/peers")).text();
    await talk.waitForText("peer_join");
    await waitFor(() => clock.delaysMs.includes(500), { what: "the event to be held back" });
    expect(talk.text()).not.toContain("peer_leave");
    clock.advance(500);
    await talk.waitForText("peer_leave");
  });

  test("data, what differs from it, and the id are the script's", async () => {
    const mock = await withEvents([
      { after: "GET /v1/events", event: "message", id: "x-7", merge: { body: "changed", topic: "t" } },
      { after: "GET /v1/events", event: "peer_join", id: "with", data: { any: ["thing"] } },
    ]);
    const talk = await stream(mock);
    await talk.waitForText("thing");
    expect(eventsOf(talk)).toMatchObject([
      { id: "x-7", event: "message", data: { body: "changed", topic: "t", from: { name: "bob" } } },
      { id: "with", event: "peer_join", data: { any: ["thing"] } },
    ]);
  });

  test("bytes go into the stream as they are; end and cut end it, in good order or not", async () => {
    const bytes = "data: {\nevent: \u00e4\n\n";
    const mock = await withEvents([
      { after: "GET /v1/events", times: 1, bytes },
      { after: "GET /v1/peers", end: true },
      { after: "GET /v1/profile", cut: true },
    ]);
    const ended = await stream(mock);
    await ended.waitForText("event:");
    expect(Buffer.from(bodyOf(ended.text()), "latin1").toString()).toBe(`: open\n\n${bytes}`);
    await mock.fetch("/v1/peers");
    await ended.waitForText(/\r\n0\r\n\r\n$/);
    expect(ended.hasEnded()).toBe(false);
    const cut = await stream(mock);
    await mock.fetch("/v1/profile");
    expect(await cut.waitForEnd()).not.toMatch(/\r\n0\r\n\r\n$/);
  });

  test("an event follows whatever became of the answer, but not when the request was refused", async () => {
    const mock = await startMock({
      script: {
        rules: [
          { on: "POST /v1/send", times: 1, error: "daemon_busy" },
          { on: "POST /v1/send", times: 1, reply: { status: 500 } },
          { on: "POST /v1/send", times: 1, cut: true },
          { on: "POST /v1/send", times: 1, drop: true },
          { on: "POST /v1/send", times: 1, bytes: "x" },
        ],
        events: [{ after: "POST /v1/send", event: "outbox" }],
      },
    });
    const talk = await stream(mock);
    for (const status of [429, 500]) expect((await mock.post("/v1/send", send)).status).toBe(status);
    for (let count = 1; count <= 4; count++) {
      expect((await mock.post("/v1/send", { ...send, to: "" })).status).toBe(400);
      const body = { ...send, client_message_id: `key-${count}` };
      const asked = mock.open(httpRequest("POST", "/v1/send", body));
      await waitFor(() => eventsOf(talk).length === count, { what: `event ${count}` });
      asked.leave();
    }
    const ids = eventsOf(talk).map(({ data }) => v.parse(OutboxItem, data).client_message_id);
    expect(ids).toEqual(["key-1", "key-2", "key-3", "key-4"]);
  });

  test("messages that a client missed come when it names the last it saw", async () => {
    const mock = await withEvents([{ after: "POST /v1/send", event: "message" }]);
    for (const id of ["a", "b"]) await mock.post("/v1/send", { ...send, client_message_id: id });
    const idsAfter = async (query: string, headers = ""): Promise<(string | undefined)[]> => {
      const talk = await stream(mock, query, headers);
      // What comes of this request follows what was missed.
      const message = `the last ${query} ${headers.trim()}`;
      await mock.post("/v1/send", { ...send, message });
      await talk.waitForText(message);
      talk.leave();
      return eventsOf(talk).map(({ id }) => id);
    };
    expect(await idsAfter("?since=2")).toEqual(["3", "4", "5", "6"]);
    expect(await idsAfter("", "last-event-id: 5\r\n")).toEqual(["6", "7"]);
    expect(await idsAfter("?since=from-bob-2")).toEqual(["4", "5", "6", "7", "8"]);
    expect(await idsAfter("")).toEqual(["9"]);
  });

  test("a stream that is not read is cut off at a bounded buffer", async () => {
    const large = "x".repeat(1_000_000);
    const mock = await withEvents([{ after: "GET /v1/peers", event: "peer_join", data: large }]);
    const talk = mock.open(httpRequest("GET", "/v1/events"));
    talk.pause();
    const probe = await stream(mock);
    for (let count = 1; count <= 20; count++) {
      await (await mock.fetch("/v1/peers")).text();
      await waitFor(() => probe.text().length > count * large.length, { what: "those who read to hear it" });
    }
    talk.resume();
    expect((await talk.waitForEnd()).length).toBeLessThan(12 * large.length);
    expect((await mock.fetch("/v1/health")).status).toBe(200);
  });
});

describe("a script that cannot be", () => {
  const refusals: [what: string, script: unknown, place: string, reason: string][] = [
    ["a route that is none", { rules: [{ on: "GET /v1/sned" }] }, "rules[0].on", "is not known"],
    [
      "no path that varies",
      { rules: [{ on: "GET /v1/health", where: { param: "x" } }] },
      "rules[0].where.param",
      "nothing in the path of GET /v1/health varies",
    ],
    [
      "a query that is none",
      { rules: [{ on: "GET /v1/inbox", where: { query: { colour: 1 } } }] },
      "rules[0].where.query.colour",
      "the fields are after, limit",
    ],
    [
      "a query that cannot be",
      { rules: [{ on: "GET /v1/inbox", where: { query: { limit: 0 } } }] },
      "rules[0].where.query.limit",
      "at least 1",
    ],
    [
      "a body where there is none",
      { rules: [{ on: "GET /v1/inbox", where: { body: { a: 1 } } }] },
      "rules[0].where.body.a",
      "there are none",
    ],
    [
      "a body that cannot be",
      { rules: [{ on: "POST /v1/send", where: { body: { priority: "soon" } } }] },
      "rules[0].where.body.priority",
      "Expected",
    ],
    [
      "a body of all routes",
      { rules: [{ on: "*", where: { body: {} } }] },
      "rules[0].where.body",
      "name one route",
    ],
    [
      "a header that is none",
      { rules: [{ on: "*", where: { headers: { "a b": "" } } }] },
      "rules[0].where.headers.a b",
      "no name of a header",
    ],
    [
      "a body for a status without",
      { rules: [{ on: "*", reply: { status: 204, json: 1 } }] },
      "rules[0].reply.json",
      "has no body",
    ],
    [
      "a merge with what is no JSON",
      { rules: [{ on: "GET /v1/metrics", reply: { merge: {} } }] },
      "rules[0].reply.merge",
      "only the JSON of one route",
    ],
    [
      "a header of the mock's own",
      { rules: [{ on: "*", reply: { headers: { "Content-Length": "1" } } }] },
      "rules[0].reply.headers.Content-Length",
      "written with bytes",
    ],
    [
      "a header over two lines",
      { rules: [{ on: "*", reply: { headers: { a: "b\r\nc: d" } } }] },
      "rules[0].reply.headers.a",
      "printable ASCII",
    ],
    [
      "two bodies",
      { rules: [{ on: "*", reply: { json: 1, body: "1" } }] },
      "rules[0].reply",
      "only one of json, merge, body",
    ],
    [
      "two effects",
      { rules: [{ on: "*", drop: true, cut: true }] },
      "rules[0]",
      "only one of reply, error, drop, cut, bytes",
    ],
    [
      "an error without a status",
      { rules: [{ on: "*", error: { error: "of_tomorrow" } }] },
      "rules[0].error.status",
      "missing",
    ],
    [
      "an error code that is none",
      { rules: [{ on: "*", error: "of_tomorrow" }] },
      "rules[0].error",
      "is not known",
    ],
    [
      "an event of nothing",
      { events: [{ after: "*" }] },
      "events[0]",
      "one of event, bytes, end and cut is needed",
    ],
    [
      "data of nothing",
      { events: [{ after: "*", end: true, data: 1 }] },
      "events[0]",
      "may stand only beside event",
    ],
    [
      "an event over two lines",
      { events: [{ after: "*", event: "a\nb" }] },
      "events[0].event",
      "a single line",
    ],
    [
      "where an event cannot be",
      { events: [{ after: "GET /v1/peers", where: { query: { x: 1 } }, cut: true }] },
      "events[0].where.query.x",
      "no such field",
    ],
    [
      "a part that is below nothing",
      { rules: [{ on: "*", cut: { after_bytes: -1 } }] },
      "rules[0].cut.after_bytes",
      ">=0",
    ],
    [
      "a key in an error that means nothing",
      { rules: [{ on: "*", error: { error: "x", staus: 1 } }] },
      "rules[0].error.staus",
      "this key means nothing here",
    ],
    [
      "half a byte",
      { rules: [{ on: "*", bytes: { hex: "0" } }] },
      "rules[0].bytes.hex",
      "pairs of hex digits",
    ],
    ["a cut that is a number", { rules: [{ on: "*", cut: 5 }] }, "rules[0].cut", "received 5"],
    ["a script for the other mock", { mock: "pilot" }, "mock", "this script is for mock pilot"],
  ];
  test.each(refusals)("%s is refused, and the place is told", async (_, script, place, reason) => {
    const dir = tempDir();
    const file = join(dir, "script.json");
    writeFileSync(file, JSON.stringify({ mock: "daemon", ...(script as object) }, null, 2));
    const run = runMockDaemon(
      {
        socket: join(dir, "s"),
        tcp: undefined,
        token: undefined,
        script: file,
        record: undefined,
        clock: systemClock,
        log: () => undefined,
        onReady: () => undefined,
      },
      AbortSignal.timeout(5_000),
    );
    const error: MeshError = await run.then(
      () => Promise.reject(new Error("it was taken")),
      (refusal: unknown) => (refusal instanceof Refusal ? refusal : Promise.reject(refusal)),
    );
    expect(error.code).toBe("script_invalid");
    expect(error.message).toMatch(new RegExp(`^${file}:[0-9]+:[0-9]+: `));
    expect(error.message).toContain(`${place}: `);
    expect(error.message).toContain(reason);
  });
});

test("a merge patch is that of RFC 7396", () => {
  const cases: [target: unknown, patch: unknown, merged: unknown][] = [
    [{ a: "b" }, { a: "c" }, { a: "c" }],
    [{ a: "b" }, { b: "c" }, { a: "b", b: "c" }],
    [{ a: "b" }, { a: null }, {}],
    [{ a: ["b"] }, { a: "c" }, { a: "c" }],
    [{ a: "c" }, { a: ["b"] }, { a: ["b"] }],
    [{ a: { b: "c" } }, { a: { b: "d", c: null } }, { a: { b: "d" } }],
    [
      ["a", "b"],
      ["c", "d"],
      ["c", "d"],
    ],
    [{ a: "foo" }, null, null],
    [{ e: null }, { a: 1 }, { e: null, a: 1 }],
    [[1, 2], { a: "b", c: null }, { a: "b" }],
    [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
  ];
  for (const [target, patch, merged] of cases) expect(mergePatch(target, patch)).toEqual(merged);
});
