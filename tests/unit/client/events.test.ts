/** Watching events over connections that break: none missed, none twice, and the watcher is told. */
import { describe, expect, test } from "bun:test";
import { type Watched, watchEvents } from "~/client/events";
import { openWay } from "~/client/way";
import type { Clock } from "~/clock";
import { MeshError } from "~/errors";
import { fakeDaemon, json, newSocketPath } from "./fake-daemon";

/** Waiting takes no time; what was waited for is written down. The silence limit, which is long, never comes. */
function hastyClock(): Clock & { waits: number[] } {
  const waits: number[] = [];
  return {
    waits,
    now: () => 0,
    monotonicMs: () => 0,
    soon: (action) => action(),
    after(delayMs, action) {
      if (delayMs >= 10_000) return { cancel: () => undefined };
      waits.push(delayMs);
      const handle = setImmediate(action);
      return { cancel: () => clearImmediate(handle) };
    },
  };
}

const message = (id: string) => ({
  id: `row-${id}`,
  client_message_id: `id-${id}`,
  mesh: "team",
  from: { name: "alice", pubkey: "00" },
  body: "hi",
  priority: "next",
  received_at: "2026-01-01T00:00:00.000Z",
});
const messageEvent = (id: string): string =>
  `id: ${id}\nevent: message\ndata: ${JSON.stringify(message(id))}\n\n`;
const joinEvent = `event: peer_join\ndata: {"mesh":"team","name":"bob","pubkey":"11"}\n\n`;

const stream = (...chunks: string[]): Response =>
  new Response(chunks.join(""), { headers: { "content-type": "text/event-stream" } });

/** What is watched, in short, until `count` things were. */
async function watch(
  socketPath: string,
  count: number,
  options: { since?: string; clock?: Clock } = {},
): Promise<string[]> {
  const end = new AbortController();
  const told: string[] = [];
  for await (const watched of watchEvents({
    way: openWay({ socketPath }),
    signal: end.signal,
    clock: hastyClock(),
    ...options,
  })) {
    told.push(inShort(watched));
    if (told.length === count) end.abort();
  }
  return told;
}

function inShort(watched: Watched): string {
  if (watched.kind === "open") return watched.again ? "back" : "open";
  if (watched.kind === "lost") return `lost ${watched.error.code}`;
  return `${watched.event.event}${"id" in watched.event ? ` ${watched.event.id}` : ""}`;
}

test("events come as they are, unknown ones are passed over", async () => {
  const { socketPath } = fakeDaemon(() =>
    stream(": open\n\n", messageEvent("1"), "event: brand_new\ndata: ?\n\n", joinEvent, messageEvent("2")),
  );
  expect(await watch(socketPath, 4)).toEqual(["open", "message 1", "peer_join", "message 2"]);
});

test("after a break it goes on after the last stored event", async () => {
  const daemon = fakeDaemon(
    (_request, index) => [stream(messageEvent("1"), joinEvent), stream(messageEvent("2"))][index] ?? stream(),
  );
  expect(await watch(daemon.socketPath, 8)).toEqual([
    "open",
    "message 1",
    "peer_join",
    "lost answer_lost",
    "back",
    "message 2",
    "lost answer_lost",
    "back",
  ]);
  expect(daemon.seen.map(({ headers }) => headers.get("last-event-id"))).toEqual([null, "1", "2"]);
});

test("it begins after `since`", async () => {
  const daemon = fakeDaemon(() => stream(messageEvent("42")));
  await watch(daemon.socketPath, 2, { since: "41" });
  expect(daemon.seen[0]?.headers.get("last-event-id")).toBe("41");
});

test("a daemon that goes away and comes back is waited for, ever more patiently", async () => {
  const socketPath = newSocketPath();
  const clock = hastyClock();
  const end = new AbortController();
  const first = fakeDaemon(() => stream(messageEvent("1")), socketPath);
  const told: string[] = [];
  for await (const watched of watchEvents({ way: openWay({ socketPath }), signal: end.signal, clock })) {
    told.push(inShort(watched));
    if (told.length === 3) await first.stop();
    if (told.length === 9) fakeDaemon(() => stream(messageEvent("2")), socketPath);
    if (told.at(-1) === "message 2") end.abort();
  }
  expect(told.filter((text) => !text.startsWith("lost"))).toEqual(["open", "message 1", "back", "message 2"]);
  expect(clock.waits.slice(0, 6)).toEqual([100, 250, 500, 1000, 2000, 5000]);
  expect(clock.waits.at(-1)).toBe(5000);
});

describe("it ends with an error", () => {
  const failing = async (promise: Promise<unknown>): Promise<string> => {
    const error = await promise.catch((thrown: unknown) => thrown);
    return error instanceof MeshError ? error.code : String(error);
  };

  test("when there is no daemon to begin with", async () => {
    expect(await failing(watch(newSocketPath(), 1))).toBe("daemon_unreachable");
  });

  test("when the first answer is a refusal", async () => {
    const { socketPath } = fakeDaemon(() => json({ error: "too_many_streams", message: "32 are open" }, 429));
    expect(await failing(watch(socketPath, 1))).toBe("too_many_streams");
  });

  test("when a later answer is one that trying again cannot change", async () => {
    const { socketPath } = fakeDaemon((_request, index) =>
      index === 0 ? stream() : json({ error: "no_such_message", message: "what cursor?" }, 404),
    );
    expect(await failing(watch(socketPath, 9))).toBe("no_such_message");
  });

  test.each([
    ["no JSON", "event: message\nid: 1\ndata: {\n\n"],
    ["another shape", "event: peer_join\ndata: {}\n\n"],
  ])("when an event that it knows has %s", async (_what, chunk) => {
    const { socketPath } = fakeDaemon(() => stream(chunk));
    expect(await failing(watch(socketPath, 9))).toBe("incompatible_daemon");
  });
});

test("a later refusal that passes is only a loss", async () => {
  const { socketPath } = fakeDaemon((_request, index) =>
    index === 1 ? json({ error: "too_many_streams", message: "32 are open" }, 429) : stream(),
  );
  expect(await watch(socketPath, 5)).toEqual([
    "open",
    "lost answer_lost",
    "lost too_many_streams",
    "back",
    "lost answer_lost",
  ]);
});

test("silence for three comments' time is a dead connection", async () => {
  const silences: (() => void)[] = [];
  const hasty = hastyClock();
  const clock: Clock = {
    ...hasty,
    after(delayMs, action) {
      if (delayMs < 10_000) return hasty.after(delayMs, action);
      silences.push(action);
      return { cancel: () => undefined };
    },
  };
  const { socketPath } = fakeDaemon(
    () => new Response(new ReadableStream({ start: (controller) => controller.enqueue(": open\n\n") })),
  );
  const end = new AbortController();
  const told: string[] = [];
  for await (const watched of watchEvents({ way: openWay({ socketPath }), signal: end.signal, clock })) {
    told.push(inShort(watched));
    if (told.length === 1) silences.at(-1)?.();
    if (told.length === 3) end.abort();
  }
  expect(told).toEqual(["open", "lost timed_out", "back"]);
});

test("an interrupt ends it without an error, in the middle of a stream and of a pause", async () => {
  const end = new AbortController();
  const { socketPath } = fakeDaemon(
    () => new Response(new ReadableStream({ start: (c) => c.enqueue(": open\n\n") })),
  );
  for await (const watched of watchEvents({ way: openWay({ socketPath }), signal: end.signal })) {
    expect(watched.kind).toBe("open");
    end.abort();
  }
  const other = new AbortController();
  const short = fakeDaemon(() => stream());
  const frozen: Clock = { ...hastyClock(), after: () => ({ cancel: () => undefined }) };
  for await (const watched of watchEvents({
    way: openWay({ socketPath: short.socketPath }),
    signal: other.signal,
    clock: frozen,
  })) {
    if (watched.kind === "lost") queueMicrotask(() => other.abort());
  }
});
