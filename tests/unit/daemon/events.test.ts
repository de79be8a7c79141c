/** `GET /v1/events`: nothing missed, nothing twice, and a reader that does not read costs nobody else. */
import { expect, test } from "bun:test";
import { ipcStreamsMax, streamBufferBytesMax, streamCommentEveryMs, streamStallMs } from "~/wire/limits";
import { openTestDaemon, type TestDaemon } from "../../support/daemon-parts";

let arrivals = 0;

function arrive(daemon: TestDaemon, body: string, bytes = 0): void {
  const id = `arrived-${arrivals++}`;
  daemon.parts.inbox.insert({
    id,
    letter: {
      id,
      meshId: daemon.mesh.meshId,
      from: "b0".repeat(32),
      to: daemon.mesh.pubkey,
      body: body + "x".repeat(bytes),
      meta: null,
      replyTo: null,
      agent: null,
      sentAt: "",
      expectsReply: false,
    },
    bodyVersion: 2,
    senderName: "bob",
    brokerMessageId: `m-${id}`,
    priority: "next",
    receivedAt: daemon.clock.now(),
  });
  daemon.parts.hub.announce({ kind: "inbox" });
}

async function open(daemon: TestDaemon, headers: Record<string, string> = {}, query = "") {
  const response = await daemon.request("GET", `/v1/events${query}`, undefined, headers);
  const reader = response.body?.getReader();
  if (reader === undefined) throw new Error("no stream");
  let text = "";
  const decoder = new TextDecoder();
  return {
    response,
    /** Reads on until the text matches. */
    async until(pattern: RegExp): Promise<string> {
      while (!pattern.test(text)) {
        const { done, value } = await reader.read();
        if (done) throw new Error(`ended after ${text}`);
        text += decoder.decode(value, { stream: true });
      }
      return text;
    },
    async toEnd(): Promise<string> {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return text;
        text += decoder.decode(value, { stream: true });
      }
    },
    cancel: () => reader.cancel(),
  };
}

const ids = (text: string) => [...text.matchAll(/^id: (\d+)$/gm)].map(([, id]) => Number(id));

test("a stream without a place starts with what comes next", async () => {
  const daemon = await openTestDaemon();
  arrive(daemon, "before");
  const stream = await open(daemon);
  expect(stream.response.headers.get("content-type")).toBe("text/event-stream");
  arrive(daemon, "after");
  const text = await stream.until(/"body":"after"/);
  expect(text).not.toContain("before");
  expect(text).toMatch(/^id: 2\nevent: message\ndata: \{.*\}\n\n/m);
  await stream.cancel();
});

test.each([
  ["the header", { "last-event-id": "3" }, ""],
  ["the query", {}, "?since=3"],
  ["the header before the query", { "last-event-id": "3" }, "?since=0"],
])("a stream that goes on from a place misses none and repeats none, by %s", async (_how, headers, query) => {
  const daemon = await openTestDaemon();
  for (let n = 1; n <= 250; n++) arrive(daemon, `old ${n}`);
  const stream = await open(daemon, headers, query);
  for (let n = 251; n <= 260; n++) arrive(daemon, `new ${n}`);
  const text = await stream.until(/"body":"new 260"/);
  expect(ids(text)).toEqual(Array.from({ length: 257 }, (_, n) => n + 4));
  await stream.cancel();
});

test("a place may be named by a message's id; one that is not here is refused", async () => {
  const daemon = await openTestDaemon();
  arrive(daemon, "one");
  arrive(daemon, "two");
  const [first] = daemon.parts.inbox.list({ limit: 1 });
  const stream = await open(daemon, { "last-event-id": first?.id ?? "" });
  expect(ids(await stream.until(/"body":"two"/))).toEqual([2]);
  await stream.cancel();
  expect((await daemon.request("GET", "/v1/events?since=nowhere")).status).toBe(404);
});

test("passing events have no id", async () => {
  const daemon = await openTestDaemon();
  const stream = await open(daemon);
  daemon.parts.hub.announce({
    kind: "passing",
    event: { event: "peer_join", data: { mesh: "team", name: "bob", pubkey: "b0" } },
  });
  const text = await stream.until(/peer_join/);
  expect(ids(text)).toEqual([]);
  await stream.cancel();
});

test("a comment comes every 15 s, so that a dead connection is noticed", async () => {
  const daemon = await openTestDaemon();
  const stream = await open(daemon);
  await stream.until(/: open/);
  daemon.clock.advance(streamCommentEveryMs);
  await stream.until(/: still here/);
  await stream.cancel();
});

test("a reader that does not read is cut off after a while, and has not filled the memory", async () => {
  const daemon = await openTestDaemon();
  const stream = await open(daemon);
  const kib = 32 * 1024;
  const tooMany = (2 * streamBufferBytesMax) / kib;
  for (let n = 0; n < tooMany; n++) arrive(daemon, `m${n} `, kib);
  daemon.clock.advance(streamStallMs);
  const text = await stream.toEnd();
  expect(text.length).toBeLessThan(2 * streamBufferBytesMax);
  // It can come back and go on where it was.
  const last = ids(text).at(-1) ?? 0;
  const again = await open(daemon, { "last-event-id": String(last) });
  expect(ids(await again.until(/"body":"m\d+ /))[0]).toBe(last + 1);
  await again.cancel();
});

test("a slow reader that takes something in time stays", async () => {
  const daemon = await openTestDaemon();
  const stream = await open(daemon);
  for (let n = 0; n < 300; n++) arrive(daemon, `m${n} `, 32 * 1024);
  await stream.until(/"body":"m299 /);
  daemon.clock.advance(streamStallMs);
  arrive(daemon, "still listening");
  await stream.until(/still listening/);
  await stream.cancel();
});

test("one stream too many is refused; one that ends makes room", async () => {
  const daemon = await openTestDaemon();
  const streams = await Promise.all(Array.from({ length: ipcStreamsMax }, () => open(daemon)));
  expect((await daemon.request("GET", "/v1/events")).status).toBe(429);
  await streams[0]?.cancel();
  const another = await open(daemon);
  expect(another.response.status).toBe(200);
  for (const stream of [...streams.slice(1), another]) await stream.cancel();
});

test("stopping ends every stream", async () => {
  const daemon = await openTestDaemon();
  const stream = await open(daemon);
  daemon.parts.hub.announce({ kind: "stopping" });
  expect(await stream.toEnd()).toContain(": open");
});
