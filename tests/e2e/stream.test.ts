/** Event streams over HTTP: what a client may rely on when it comes and goes, and what it cannot do to the others. */
import { expect, test } from "bun:test";
import * as v from "valibot";
import { MeshEvent } from "~/wire/ipc";
import { type Member, openRaw, startMesh } from "../support/mesh";
import { waitFor } from "../support/wait-for";

/** Reads events until `enough` says so, and hangs up in the middle of whatever comes next. */
async function readEvents(
  member: Member,
  lastEventId: string | undefined,
  enough: (event: MeshEvent) => boolean,
): Promise<MeshEvent[]> {
  const hangUp = new AbortController();
  const response = await fetch("http://localhost/v1/events", {
    unix: member.socket,
    headers: lastEventId === undefined ? {} : { "last-event-id": lastEventId },
    signal: hangUp.signal,
    keepalive: false,
  });
  expect(response.status).toBe(200);
  expect(response.headers.get("content-type")).toBe("text/event-stream");
  const events: MeshEvent[] = [];
  let rest = "";
  const decoder = new TextDecoder();
  try {
    for await (const chunk of response.body ?? []) {
      rest += decoder.decode(chunk, { stream: true });
      const blocks = rest.split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        if (block.startsWith(":")) continue;
        const fields = new Map(
          block.split("\n").map((line) => [line.split(": ")[0], line.replace(/^\w+: /, "")]),
        );
        const event = v.parse(MeshEvent, {
          event: fields.get("event"),
          id: fields.get("id"),
          data: JSON.parse(fields.get("data") ?? ""),
        });
        // Only what is stored has a place.
        expect(fields.has("id")).toBe(event.event === "message");
        events.push(event);
        if (enough(event)) return events;
      }
    }
  } finally {
    hangUp.abort();
  }
  throw new Error("the stream ended");
}

const messagesIn = (events: readonly MeshEvent[]) =>
  events.flatMap((event) => (event.event === "message" ? [event] : []));

test("a client that comes and goes while messages arrive misses none and gets none twice", async () => {
  const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
  const count = 400;
  const sendAll = async (): Promise<void> => {
    for (let index = 0; index < count; index++) await alice.send("bob", `message ${index}`);
  };
  const readAll = async (): Promise<string[]> => {
    const bodies: string[] = [];
    let lastId = "0";
    for (let visits = 1; bodies.length < count; visits++) {
      let left = 1 + ((visits * 37) % 90);
      const events = await readEvents(bob, lastId, (event) => {
        if (event.event === "message") left -= 1;
        return left === 0 || (event.event === "message" && event.data.body === `message ${count - 1}`);
      });
      for (const { id, data } of messagesIn(events)) {
        lastId = id;
        bodies.push(data.body ?? "");
      }
    }
    return bodies;
  };
  const [, bodies] = await Promise.all([sendAll(), readAll()]);
  expect(bodies).toEqual(Array.from({ length: count }, (_, index) => `message ${index}`));
});

test("without a place to go on from, a stream begins with what comes next", async () => {
  const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
  await alice.send("bob", "old");
  await bob.received(1);
  const reading = readEvents(bob, undefined, ({ event }) => event === "message");
  await waitFor(
    async () => {
      await alice.send("bob", "new");
      return (await Promise.race([reading, Promise.resolve(undefined)])) !== undefined;
    },
    { what: "a new message to be told of" },
  );
  expect(messagesIn(await reading).map(({ data }) => data.body)).toEqual(["new"]);
  const unknown = await bob.request("/v1/events", { headers: { "last-event-id": "no-such-place" } });
  expect(unknown.status).toBe(404);
});

test("a stream ends when the daemon stops, and the next daemon goes on where it ended", async () => {
  const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
  await alice.send("bob", "one");
  const raw = await openRaw({ path: bob.socket });
  raw.write("GET /v1/events?since=0 HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await waitFor(() => raw.received().includes('"one"'), { what: "the first message" });
  const { exitCode } = await bob.down();
  expect(exitCode).toBe(0);
  await waitFor(() => raw.isClosed(), { what: "the stream to end" });
  await alice.send("bob", "two");
  await bob.up();
  const events = await readEvents(bob, "1", ({ event }) => event === "message");
  expect(messagesIn(events).map(({ id, data }) => [id, data.body])).toEqual([["2", "two"]]);
});

test("a reader that does not read is cut off, and holds nobody up meanwhile", async () => {
  const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
  // More than what a stream may have waiting: its reader gets no further than this.
  const large = "x".repeat(60_000);
  for (let index = 0; index < 150; index++) await alice.send("bob", large);
  await bob.received(150);
  const stalled = await openRaw({ path: bob.socket });
  stalled.pause();
  stalled.write("GET /v1/events?since=0 HTTP/1.1\r\nHost: localhost\r\n\r\n");

  // Somebody else sees everything at once.
  const reading = readEvents(bob, "150", (event) => event.event === "message" && event.data.body === "now");
  await alice.send("bob", "now");
  expect(messagesIn(await reading).map(({ data }) => data.body)).toEqual(["now"]);

  // Each send is an event three times over; what the stalled one does not take piles up to its bound.
  const manySends = 5_000;
  let sent = 0;
  const sendMany = async (): Promise<void> => {
    for (; sent < manySends; sent++) await bob.send("alice", "m");
  };
  await Promise.all(Array.from({ length: 32 }, sendMany));
  expect((await bob.request("/v1/version")).status).toBe(200);
  stalled.resume();
  await waitFor(() => stalled.received().endsWith("\r\n0\r\n\r\n"), {
    what: "the stream to have been ended",
  });
  // It was cut off before the end: its client comes back with the last id it saw, as after any other end.
  expect(stalled.received().match(/^event: outbox$/gm)?.length ?? 0).toBeLessThan(3 * manySends);
});
