/** Reading what arrived: what is shown, in which order things happen, and following through a daemon's restart. */
import { describe, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { inbox } from "~/cli/inbox";
import { OutputClosed } from "~/cli/output";
import { waitFor } from "../../support/wait-for";
import { type FakeDaemon, fakeDaemon, json, type Seen } from "../client/fake-daemon";
import { type CapturedHost, type CaptureOptions, capturedHost } from "./captured-host";

const item = (seq: number, more: Record<string, unknown> = {}) => ({
  id: `row${seq}`,
  client_message_id: `id${seq}`,
  mesh: "team",
  from: { name: "alice", pubkey: "a".repeat(64) },
  body: `text ${seq}`,
  priority: "next",
  received_at: "2026-01-01T00:00:00.000Z",
  ...more,
});

/** An inbox with pages, marks and a stream that says when something comes. */
class Store {
  readonly items: ReturnType<typeof item>[] = [];
  readonly acknowledged: string[] = [];
  readonly #streams = new Set<ReadableStreamDefaultController<Uint8Array>>();

  add(count = 1, more: Record<string, unknown> = {}): void {
    for (let added = 0; added < count; added++) this.items.push(item(this.items.length + 1, more));
    const newest = this.items.at(-1);
    const event = `id: ${this.items.length}\nevent: message\ndata: ${JSON.stringify(newest)}\n\n`;
    for (const stream of this.#streams) stream.enqueue(Buffer.from(event));
  }

  readonly answer = ({ target, body }: Seen): Response => {
    const url = new URL(target, "http://localhost");
    if (url.pathname === "/v1/inbox/ack") {
      const ids =
        typeof body === "object" && body !== null && "ids" in body && Array.isArray(body.ids) ? body.ids : [];
      this.acknowledged.push(...ids.map(String));
      return json({ acknowledged: ids.length, unknown: [] });
    }
    if (url.pathname === "/v1/events") return this.#stream();
    const after = url.searchParams.get("after");
    const last = url.searchParams.get("last");
    const limit = Number(url.searchParams.get("limit") ?? 50);
    const start = after === null ? 0 : this.items.findIndex(({ id }) => id === after) + 1;
    const rest = last === null ? this.items.slice(start) : this.items.slice(-Number(last));
    const page = last === null ? rest.slice(0, limit) : rest;
    const cursor = page.length < rest.length ? page.at(-1)?.id : undefined;
    return json({ items: page, ...(cursor === undefined ? {} : { next_cursor: cursor }) });
  };

  get isFollowed(): boolean {
    return this.#streams.size > 0;
  }

  #stream(): Response {
    let controller: ReadableStreamDefaultController<Uint8Array>;
    return new Response(
      new ReadableStream<Uint8Array>({
        start: (opened) => {
          controller = opened;
          this.#streams.add(opened);
          opened.enqueue(Buffer.from(": open\n\n"));
        },
        cancel: () => void this.#streams.delete(controller),
      }),
      { headers: { "content-type": "text/event-stream" } },
    );
  }

  /** What a daemon that ends does to its streams. */
  hangUp(): void {
    for (const stream of this.#streams) stream.close();
    this.#streams.clear();
  }
}

function hostWith(store: Store, options: CaptureOptions = {}): { host: CapturedHost; daemon: FakeDaemon } {
  const host = capturedHost(options);
  mkdirSync(dirname(host.socketPath), { recursive: true });
  return { host, daemon: fakeDaemon(store.answer, host.socketPath) };
}

const paths = (daemon: FakeDaemon): string[] => daemon.seen.map(({ target }) => target);

describe("a page", () => {
  test("is the newest, in order; with --after the oldest after that", async () => {
    const store = new Store();
    store.add(60);
    const { host, daemon } = hostWith(store, { json: true });
    await inbox.execute(["--json"], host);
    await inbox.execute(["--json", "--limit", "2", "--unread", "--from", "alice", "--mesh", "team"], host);
    await inbox.execute(["--json", "--limit", "2", "--after", "row5"], host);
    expect(paths(daemon)).toEqual([
      "/v1/inbox?last=50",
      "/v1/inbox?from=alice&mesh=team&unread=true&last=2",
      "/v1/inbox?after=row5&limit=2",
    ]);
    expect(host.answers[2]).toEqual({ items: [item(6), item(7)], next_cursor: "row7" });
    expect(host.notes).toEqual(["for what came next: claudemesh inbox --after row7"]);
  });

  test("shows time, id, name and text, and nothing that steers the terminal", async () => {
    const store = new Store();
    store.add(1, {
      client_message_id: "k",
      from: { name: "ali\u001bce", pubkey: "a".repeat(64) },
      body: "one\n\n\u001b[2Jtwo\r\n",
      priority: "now",
      reply_to: { id: "q", sender: "b".repeat(64) },
      meta: { branch: "ma\nin", count: 2 },
    });
    store.add(1, { body: null, read_at: "2026-01-01T00:00:01.000Z" });
    const { host } = hostWith(store);
    await inbox.execute([], host);
    const [text] = host.answers;
    expect(String(text).replace(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, "TIME")).toBe(
      [
        "TIME  k  ali\\x1bce  (unread)  (now)",
        "  [answers q]",
        "  [branch=ma\\nin]",
        "  [count=2]",
        "  one",
        "",
        "  \\x1b[2Jtwo",
        "",
        "TIME  id2  alice",
        "  (its text was pruned)",
      ].join("\n"),
    );
  });

  test("an empty one is said to be empty, on standard error", async () => {
    const { host } = hostWith(new Store());
    await inbox.execute([], host);
    await inbox.execute(["--unread"], host);
    expect(host.notes).toEqual(["nothing here", "nothing unread"]);
    expect(host.answers.join("")).toBe("");
  });

  test("is marked as read after it was printed, and only what was unread", async () => {
    const store = new Store();
    store.add(2);
    store.add(1, { read_at: "2026-01-01T00:00:01.000Z" });
    const { host } = hostWith(store);
    await inbox.execute(["--ack"], host);
    expect(store.acknowledged).toEqual(["row1", "row2"]);
    const deaf = hostWith(store, { answersMax: 0 });
    await expect(inbox.execute(["--ack"], deaf.host)).rejects.toThrow(OutputClosed);
    expect(store.acknowledged.length).toBe(2);
  });
});

test("problems are shown apart from messages", async () => {
  const host = capturedHost();
  mkdirSync(dirname(host.socketPath), { recursive: true });
  const problem = {
    id: "p",
    mesh: "team",
    from: { name: "mal\u0007lory", pubkey: null },
    broker_message_id: "B",
    reason: "does_not_open",
    received_at: "2026-01-01T00:00:00.000Z",
  };
  fakeDaemon(() => json({ items: [], problems: [problem] }), host.socketPath);
  await inbox.execute(["--problems"], host);
  expect(host.answers).toEqual([expect.stringMatching(/ {2}team {2}mal\\x07lory {2}does_not_open {2}B$/)]);
});

describe("--follow", () => {
  const bodies = (host: CapturedHost): string[] =>
    host.answers.map((answer) =>
      typeof answer === "object" && answer !== null && "body" in answer ? String(answer.body) : "?",
    );
  const texts = (from: number, to: number): string[] =>
    Array.from({ length: to - from + 1 }, (_, index) => `text ${from + index}`);
  const shows = (host: CapturedHost, count: number): Promise<boolean> =>
    waitFor(() => host.answers.length >= count, { what: `${count} messages` });

  test("goes on from the page, each message once, whatever arrives in between", async () => {
    const store = new Store();
    store.add(3);
    const { host } = hostWith(store, { json: true });
    const following = inbox.execute(["--follow", "--json", "--limit", "2"], host);
    await shows(host, 2);
    store.add(2);
    await shows(host, 4);
    await waitFor(() => store.isFollowed, { what: "the stream" });
    store.add(1);
    store.add(1);
    await shows(host, 6);
    host.interrupt();
    await following;
    expect(bodies(host)).toEqual(texts(2, 7));
  });

  test("begins with an empty inbox too", async () => {
    const store = new Store();
    const { host } = hostWith(store, { json: true });
    const following = inbox.execute(["--follow", "--json"], host);
    await waitFor(() => store.isFollowed, { what: "the stream" });
    store.add(1);
    await shows(host, 1);
    host.interrupt();
    await following;
    expect(bodies(host)).toEqual(texts(1, 1));
  });

  test("reads on for as many pages as there are", async () => {
    const store = new Store();
    store.add(1203);
    const { host } = hostWith(store, { json: true });
    const following = inbox.execute(["--follow", "--json", "--after", "row1"], host);
    await shows(host, 1202);
    host.interrupt();
    await following;
    expect(bodies(host)).toEqual(texts(2, 1203));
  });

  test("survives a restart of the daemon: says so, misses none, repeats none, marks all", async () => {
    const store = new Store();
    store.add(1);
    const { host, daemon } = hostWith(store, { json: true });
    const following = inbox.execute(["--follow", "--json", "--ack"], host);
    await waitFor(() => store.isFollowed, { what: "the stream" });
    store.add(1);
    await shows(host, 2);
    store.hangUp();
    await daemon.stop();
    store.add(2);
    await waitFor(() => host.notes.length > 0, { what: "the loss to be noticed" });
    fakeDaemon(store.answer, host.socketPath);
    await shows(host, 4);
    await waitFor(() => store.isFollowed, { what: "the stream" });
    store.add(1);
    await shows(host, 5);
    await waitFor(() => store.acknowledged.length >= 5, { what: "the marks" });
    host.interrupt();
    await following;
    expect(bodies(host)).toEqual(texts(1, 5));
    expect(store.acknowledged).toEqual(["row1", "row2", "row3", "row4", "row5"]);
    expect(host.notes).toEqual([expect.stringContaining("the daemon is away"), "the daemon is back"]);
  });
});
