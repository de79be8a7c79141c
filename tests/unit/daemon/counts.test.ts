/** How many messages there are: right whatever becomes of a transaction, and not counted one by one each time somebody asks. */
import type { Database } from "bun:sqlite";
import { beforeEach, expect, test } from "bun:test";
import { Inbox, migrateInbox } from "~/daemon/db/inbox";
import { migrateOutbox, Outbox } from "~/daemon/db/outbox";
import { openSqlite } from "~/disk/sqlite";
import { Writer } from "~/disk/writer";
import { cleanup } from "../../support/cleanup";
import { FakeClock } from "../../support/fake-clock";

let inbox: Inbox;
beforeEach(() => {
  inbox = new Inbox(open(migrateInbox));
});

function open(migrate: (db: Database) => void): Database {
  const db = openSqlite(":memory:");
  cleanup(() => db.close());
  migrate(db);
  return db;
}

const receive = (id: string): number | undefined =>
  inbox.insert({
    id,
    letter: {
      id,
      meshId: "mesh-1",
      from: "b0",
      to: "a0",
      body: "hi",
      meta: null,
      replyTo: null,
      agent: null,
      sentAt: "2025-06-15T15:06:40.000Z",
      expectsReply: false,
    },
    bodyVersion: 2,
    senderName: "bob",
    brokerMessageId: `m-${id}`,
    priority: "next",
    receivedAt: 1,
  });

const counts = (): { unread: number; all: number } => ({ unread: inbox.unreadCount(), all: inbox.count() });

test("a message counts once, as unread until it is read for the first time", () => {
  expect(counts()).toEqual({ unread: 0, all: 0 });
  for (const id of ["a", "b", "c", "a"]) receive(id);
  expect(counts()).toEqual({ unread: 3, all: 3 });
  for (const id of ["a", "a", "nowhere"]) inbox.markRead(id, 5);
  expect(counts()).toEqual({ unread: 2, all: 3 });
  inbox.prune(10, 10, () => false);
  receive("d");
  expect(counts()).toEqual({ unread: 3, all: 4 });
});

test("what was undone does not count, alone or with its batch", async () => {
  receive("a");
  const clock = new FakeClock();
  const writer = new Writer(inbox.db, clock);
  const fails = (work: () => void): Promise<unknown> =>
    writer
      .submit(() => {
        work();
        throw new Error("undone");
      })
      .catch(() => undefined);
  const jobs = [
    fails(() => receive("b")),
    fails(() => inbox.markRead("a", 5)),
    writer.submit(() => receive("c")),
  ];
  clock.advance(0);
  await Promise.all(jobs);
  expect(counts()).toEqual({ unread: 2, all: 2 });

  writer.addTail(() => {
    throw new Error("the whole batch");
  });
  const undone = [writer.submit(() => receive("d")), writer.submit(() => inbox.markRead("a", 5))];
  clock.advance(0);
  await Promise.allSettled(undone);
  expect(counts()).toEqual({ unread: 2, all: 2 });
});

test("an inbox of an earlier version is counted when it is brought forward", () => {
  const { db } = inbox;
  db.run(
    "DROP TRIGGER message_arrived; DROP TRIGGER message_read; DROP TABLE tally; PRAGMA user_version = 2",
  );
  for (const id of ["a", "b", "c"]) receive(id);
  inbox.markRead("b", 5);
  migrateInbox(db);
  expect(inbox.unreadCount()).toBe(2);
  receive("d");
  inbox.markRead("a", 6);
  expect(inbox.unreadCount()).toBe(2);
});

/** How SQLite finds the answers to what `ask` asks. */
function plansOf(db: Database, ask: () => unknown): string[] {
  const query = db.query.bind(db);
  const asked: string[] = [];
  db.query = ((sql: string) => {
    asked.push(sql);
    return query(sql);
  }) as typeof db.query;
  ask();
  return asked.flatMap((sql) =>
    query<{ detail: string }, []>(`EXPLAIN QUERY PLAN ${sql}`)
      .all()
      .map(({ detail }) => detail),
  );
}

test("asked for the second time, neither messages that arrived nor those that were sent are counted one by one", () => {
  const outbox = new Outbox(open(migrateOutbox));
  const ask = (): void => {
    outbox.counts();
    inbox.unreadCount();
    inbox.count();
  };
  receive("a");
  ask();
  const plans = [...plansOf(outbox.db, ask), ...plansOf(inbox.db, ask)];
  const few =
    /INDEX outbox_(pending|inflight|dead|aborted)$|^SEARCH (in|out)box USING INTEGER PRIMARY KEY \(rowid>\?\)$|^SCAN tally$|^SCAN CONSTANT ROW$|^SCALAR SUBQUERY/;
  expect(plans.filter((plan) => !few.test(plan))).toEqual([]);
});
