/** What the daemon clears and what it keeps, and when it does not trust the clock. */
import { beforeEach, describe, expect, test } from "bun:test";
import { Inbox, migrateInbox } from "~/daemon/db/inbox";
import { migrateOutbox, Outbox } from "~/daemon/db/outbox";
import { acceptSend } from "~/daemon/ipc/handlers/send";
import { Retention } from "~/daemon/retention";
import { openSqlite } from "~/disk/sqlite";
import { Writer } from "~/disk/writer";
import type { LogFields } from "~/log";
import { defaultSettings, type Settings } from "~/settings/knobs";
import { clockSettledMs, upkeepPauseMs, upkeepWrittenRowsMax } from "~/wire/limits";
import { cleanup } from "../../support/cleanup";
import { FakeClock } from "../../support/fake-clock";
import { waitFor } from "../../support/wait-for";

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;

let clock: FakeClock;
let outbox: Outbox;
let inbox: Inbox;
let writers: Writer[];
let settings: Settings;
let isClockDoubted: boolean;
let retention: Retention;
let logs: { message: string; fields: LogFields }[];
let ending: AbortController;
/** Before when old files were to be removed, each time; and the names of those that there are. */
let tidied: number[];
let files: string[];

beforeEach(() => {
  clock = new FakeClock();
  outbox = new Outbox(open(migrateOutbox));
  inbox = new Inbox(open(migrateInbox));
  writers = [new Writer(outbox.db, clock), new Writer(inbox.db, clock)];
  settings = defaultSettings;
  isClockDoubted = false;
  logs = [];
  tidied = [];
  files = [];
});

function open(migrate: (db: Outbox["db"]) => void): Outbox["db"] {
  const db = openSqlite(":memory:");
  cleanup(() => db.close());
  migrate(db);
  return db;
}

function start(): void {
  ending = new AbortController();
  const [outboxWriter, inboxWriter] = writers;
  if (outboxWriter === undefined || inboxWriter === undefined) throw new Error("no writers");
  retention = new Retention({
    outbox: { store: outbox, writer: outboxWriter },
    inbox: { store: inbox, writer: inboxWriter },
    clock,
    settings: () => settings,
    log: (_level, message, fields = {}) => void logs.push({ message, fields }),
    tidy(beforeMs) {
      tidied.push(beforeMs);
      return files.splice(0);
    },
    isClockDoubted: () => isClockDoubted,
  });
  const running = retention.run(ending.signal);
  cleanup(async () => {
    ending.abort();
    await running;
  });
}

/** Lets time pass in portions, with everything that comes of it. */
async function pass(ms: number, portionMs = 10 * 60_000): Promise<void> {
  for (let left = ms; left > 0; left -= portionMs) {
    clock.advance(Math.min(left, portionMs));
    await settle();
  }
}

/** Steps with their pauses, until nothing is waiting but the next look. */
async function settle(): Promise<void> {
  for (let round = 0; round < 200; round++) {
    clock.advance(0);
    await new Promise((resolve) => setImmediate(resolve));
    const [next] = clock.delaysMs;
    if (next !== undefined && next <= upkeepPauseMs) clock.advance(next);
    else if (round > 3) return;
  }
}

function send(id: string, message = `text of ${id}`): number {
  acceptSend(
    {
      to: "bob",
      message,
      meta: { of: id },
      destination_kind: "dm",
      destination_ref: "bob",
      client_message_id: id,
    },
    {
      db: outbox.db,
      now: () => clock.now(),
      newId: () => `row-${id}`,
      seal: () => ({
        target_spec: "bob",
        sender_pubkey: "alice",
        body_version: 2,
        nonce: new Uint8Array(24),
        ciphertext: new Uint8Array(100),
        wire_fingerprint: null,
      }),
    },
  );
  return outbox.byClientMessageId(id)?.seq ?? 0;
}

function receive(id: string): void {
  const letter = {
    meshId: "m",
    from: "carol",
    to: "alice",
    id,
    body: `body of ${id}`,
    meta: { of: id },
    replyTo: null,
    agent: null,
    expectsReply: false,
    sentAt: "",
  };
  inbox.insert({
    id: `in-${id}`,
    letter,
    bodyVersion: 2,
    senderName: "carol",
    brokerMessageId: `b-${id}`,
    priority: "next",
    receivedAt: clock.now(),
  });
}

const whole = (): string[] =>
  outbox.db
    .query<{ id: string }, []>(
      "SELECT client_message_id AS id FROM outbox WHERE payload IS NOT NULL ORDER BY seq",
    )
    .all()
    .map(({ id }) => id);
const readable = (): string[] =>
  inbox.db
    .query<{ id: string }, []>(
      "SELECT client_message_id AS id FROM inbox WHERE body IS NOT NULL ORDER BY seq",
    )
    .all()
    .map(({ id }) => id);

describe("after the days of retention", () => {
  test("messages that ended lose text, meta and sealed form, and nothing else; all others keep everything", async () => {
    outbox.markDone(send("done"), "b1", clock.now());
    outbox.markAborted(send("aborted"), "operator", "other", clock.now());
    outbox.markDead(send("dead"), "too_large");
    send("pending");
    outbox.markInflight(send("inflight"), clock.now());
    const before = outbox.list({ limit: 10 });
    start();
    await pass(30 * dayMs - hourMs);
    expect(outbox.list({ limit: 10 })).toEqual(before);
    await pass(2 * dayMs);
    const cleared = { payload: null, meta: null, nonce: null, ciphertext: null };
    expect(outbox.list({ limit: 10 })).toEqual(
      before.map((row) => (row.status === "done" || row.status === "aborted" ? { ...row, ...cleared } : row)),
    );
    expect(logs).toEqual([{ message: "old_contents_cleared", fields: { sent: 2, read: 0, days: 30 } }]);
  });

  test("an honest retry of a message that was cleared is still the same message, and another is not", async () => {
    const request = {
      to: "bob",
      destination_kind: "dm",
      destination_ref: "bob",
      client_message_id: "job",
    } as const;
    outbox.markDone(send("job"), "b1", clock.now());
    start();
    await pass(32 * dayMs);
    expect(whole()).toEqual([]);
    const again = (message: string) =>
      acceptSend(
        { ...request, message, meta: { of: "job" } },
        { db: outbox.db, now: () => clock.now(), newId: () => "x" },
      );
    expect(again("text of job")).toMatchObject({ kind: "accepted_done", broker_message_id: "b1" });
    expect(again("other")).toMatchObject({ kind: "conflict", reason: "outbox_done_fingerprint_mismatch" });
  });

  test("messages that were read lose body and meta; unread ones stay, and none is taken a second time", async () => {
    for (const id of ["read", "late", "unread"]) receive(id);
    inbox.markRead("in-read", clock.now());
    start();
    await pass(20 * dayMs);
    inbox.markRead("in-late", clock.now());
    await pass(12 * dayMs);
    expect(readable()).toEqual(["late", "unread"]);
    expect(inbox.list({ limit: 10 })[0]).toMatchObject({ id: "in-read", body: null, meta: null });
    receive("read");
    expect(inbox.list({ limit: 10 })).toHaveLength(3);
    await pass(20 * dayMs);
    expect(readable()).toEqual(["unread"]);
  });

  test("the days and the pause are settings, and may change while the daemon runs", async () => {
    settings = { ...defaultSettings, "storage.upkeep_every_h": 720 };
    outbox.markDone(send("a"), "b1", clock.now());
    start();
    await pass(10 * dayMs);
    expect(whole()).toEqual(["a"]);
    settings = { ...settings, "storage.retention_days": 1, "storage.upkeep_every_h": 1 };
    await pass(hourMs);
    expect(whole()).toEqual([]);
  });
});

describe("files that hold old contents", () => {
  test("go when the contents themselves do, and by the same days", async () => {
    files = ["outbox.db.before-v4"];
    settings = { ...defaultSettings, "storage.retention_days": 7 };
    start();
    await pass(clockSettledMs);
    expect(tidied).toEqual([clock.now() - 7 * dayMs]);
    expect(logs).toEqual([
      { message: "old_databases_removed", fields: { files: ["outbox.db.before-v4"], days: 7 } },
    ]);
    await pass(25 * hourMs);
    expect([tidied.length, logs.length]).toEqual([2, 1]);
  });

  test("stay as long as the clock is not believed", async () => {
    isClockDoubted = true;
    start();
    await pass(3 * dayMs);
    expect(tidied).toEqual([]);
  });

  test("that cannot be removed are a problem until the next time", async () => {
    files = Object.assign(["x"], {
      splice() {
        throw new Error("EACCES");
      },
    });
    start();
    await pass(clockSettledMs);
    expect(retention.problems).toMatchObject([
      { code: "retention_failed", message: expect.stringContaining("EACCES") },
    ]);
    files = [];
    await pass(25 * hourMs);
    expect(retention.problems).toEqual([]);
  });
});

describe("in steps", () => {
  test("of few rows, with a pause between, in which others are served", async () => {
    const count = upkeepWrittenRowsMax * 3 + 1;
    for (let n = 0; n < count; n++) outbox.markDone(send(`m${n}`), "b", clock.now());
    clock.advance(40 * dayMs);
    start();
    clock.advance(clockSettledMs);
    for (const left of [3, 2, 1]) {
      for (let turn = 0; turn < 5; turn++) {
        clock.advance(0);
        await new Promise((resolve) => setImmediate(resolve));
      }
      expect(whole()).toHaveLength((left - 1) * upkeepWrittenRowsMax + 1);
      const meanwhile = writers[0]?.submit(() => left);
      clock.advance(0);
      expect(await meanwhile).toBe(left);
      clock.advance(upkeepPauseMs);
    }
    await settle();
    expect(whole()).toEqual([]);
  });

  test("a step that lasts long ends with the row that it is at", () => {
    for (const id of ["a", "b", "c"]) outbox.markDone(send(id), "b", clock.now());
    expect(outbox.prune(clock.now() + 1, 10, () => true)).toEqual({ count: 1, isMore: true });
    expect(outbox.prune(clock.now() + 1, 10, () => false)).toEqual({ count: 2, isMore: false });
    expect(outbox.prune(clock.now() + 1, 10, () => false)).toEqual({ count: 0, isMore: false });
  });

  test("a failure is a problem until the next time", async () => {
    outbox.markDone(send("a"), "b1", clock.now());
    outbox.db.run("CREATE TRIGGER breaks BEFORE UPDATE ON outbox BEGIN SELECT RAISE(ABORT, 'no'); END");
    clock.advance(40 * dayMs);
    start();
    await pass(clockSettledMs);
    expect(retention.problems).toMatchObject([
      { code: "retention_failed", message: expect.stringContaining("no") },
    ]);
    outbox.db.run("DROP TRIGGER breaks");
    await pass(25 * hourMs);
    expect([retention.problems, whole()]).toEqual([[], []]);
  });

  test("an end between two steps is no failure", async () => {
    for (let n = 0; n < upkeepWrittenRowsMax * 2; n++) outbox.markDone(send(`m${n}`), "b", clock.now());
    clock.advance(40 * dayMs);
    start();
    clock.advance(clockSettledMs);
    await waitFor(
      () => {
        clock.advance(0);
        return whole().length === upkeepWrittenRowsMax;
      },
      { what: "the first step" },
    );
    for (const writer of writers) writer.close();
    ending.abort();
    await settle();
    expect([retention.problems, logs.filter(({ message }) => message === "retention_failed")]).toEqual([
      [],
      [],
    ]);
    expect(whole()).toHaveLength(upkeepWrittenRowsMax);
  });
});

describe("a clock", () => {
  beforeEach(() => {
    outbox.markDone(send("a"), "b1", clock.now());
  });

  test("that jumps ahead is believed when it has kept right for a while, as after a machine's sleep", async () => {
    start();
    await pass(hourMs);
    clock.setWall(clock.now() + 40 * dayMs);
    // The jump is seen at the next look, and what follows it is waited for.
    await pass(24 * hourMs);
    expect(whole()).toEqual([]);
    expect(logs.map(({ message }) => message)).toEqual(["clock_jumped", "old_contents_cleared"]);
  });

  test("that jumps ahead and is set right again clears nothing", async () => {
    settings = { ...defaultSettings, "storage.upkeep_every_h": 1 };
    start();
    await pass(hourMs);
    for (let round = 0; round < 5; round++) {
      clock.setWall(clock.now() + 40 * dayMs);
      await pass(25 * 60_000);
      clock.setWall(clock.now() - 40 * dayMs);
      await pass(30 * 60_000);
    }
    expect(whole()).toEqual(["a"]);
  });

  test("that was wrong at the start and is set right soon clears nothing", async () => {
    clock.setWall(clock.now() + 400 * dayMs);
    start();
    await pass(clockSettledMs - 60_000, 60_000);
    clock.setWall(clock.now() - 400 * dayMs);
    await pass(10 * hourMs);
    expect(whole()).toEqual(["a"]);
  });

  test("that a broker calls wrong clears nothing", async () => {
    isClockDoubted = true;
    clock.setWall(clock.now() + 400 * dayMs);
    start();
    await pass(3 * dayMs);
    expect(whole()).toEqual(["a"]);
    isClockDoubted = false;
    await pass(hourMs);
    expect(whole()).toEqual([]);
  });

  test("that was set back clears nothing", async () => {
    start();
    clock.setWall(0);
    await pass(3 * dayMs);
    expect(whole()).toEqual(["a"]);
  });
});

test("what is due is found by an index in which only what can become due stands", () => {
  const { db } = outbox;
  const planOf = (database: typeof db, prune: () => void): string[] => {
    const asked: string[] = [];
    const query = database.query.bind(database);
    database.query = ((sql: string) => {
      asked.push(sql);
      return query(sql);
    }) as typeof database.query;
    prune();
    return asked.flatMap((sql) =>
      query<{ detail: string }, []>(`EXPLAIN QUERY PLAN ${sql}`)
        .all()
        .map(({ detail }) => detail),
    );
  };
  expect(planOf(db, () => outbox.prune(1, 10, () => false))).toEqual([
    expect.stringMatching(/^SEARCH outbox USING INDEX outbox_whole \(<expr><\?\)$/),
    "SEARCH outbox USING INTEGER PRIMARY KEY (rowid=?)",
  ]);
  expect(planOf(inbox.db, () => inbox.prune(1, 10, () => false))).toEqual([
    expect.stringMatching(/^SEARCH inbox USING INDEX inbox_whole \(read_at>\? AND read_at<\?\)$/),
    "SEARCH inbox USING INTEGER PRIMARY KEY (rowid=?)",
  ]);
});
