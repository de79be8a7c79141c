/** What a broker forgets and what it keeps, step by step and day by day; and the check that says when its tables disagree. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { ConnectionId } from "~/broker/connections";
import { schemaSteps } from "~/broker/schema";
import { defaultSettings, type Settings, settingsOf } from "~/broker/settings";
import { Store } from "~/broker/sqlite";
import { Upkeep } from "~/broker/upkeep";
import { findDamage, migrate, openSqlite, schemaVersionOf } from "~/disk/sqlite";
import { Writer } from "~/disk/writer";
import type { LogFields } from "~/log";
import { retentionDaysMax } from "~/wire/limits";
import { sendOf, type TestMember } from "../../support/broker-client";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";
import { type Ack, Bench } from "./bench";

const dayMs = 24 * 3600 * 1000;
/** Small pages, so that everything takes several steps. */
const bounds = {
  upkeepWrittenRowsMax: 2,
  upkeepReadRowsMax: 2,
  upkeepPauseMs: 50,
  leasesPerConnectionMax: 100,
};

let bench: Bench;
let bob: TestMember;
let alice: ConnectionId;
let upkeep: Upkeep;
let logs: { level: string; message: string; fields: LogFields }[];
/** Before when copies of the database were to be removed, each time; and the names of those that there are. */
let tidied: number[];
let copies: string[];
let stop: () => Promise<void>;

/** A mesh of alice, who is connected, and bob, who is not. */
function begin(settings: Partial<Settings> = {}): void {
  bench = new Bench(bounds, settings);
  bob = bench.addMember("bob");
  alice = bench.connect(bench.mesh.owner);
  logs = [];
  tidied = [];
  copies = [];
  stop = async () => undefined;
}

beforeEach(() => begin());
afterEach(() => stop());

/** Starts the upkeep on what is stored now. */
function start(isSuspect = false): void {
  const { store, db, clock, settings } = bench;
  const log = (level: string, message: string, fields: LogFields = {}) =>
    void logs.push({ level, message, fields });
  const writer = new Writer(db, clock);
  const tidy = (beforeMs: number): string[] => {
    tidied.push(beforeMs);
    return copies.splice(0);
  };
  upkeep = new Upkeep({ store, writer, clock, bounds: bench.bounds, settings, log, tidy });
  const ending = new AbortController();
  const running = upkeep.run(isSuspect, ending.signal);
  stop = async () => {
    ending.abort();
    await running;
    writer.close();
  };
}

/** Lets the pauses between steps pass until the condition holds. */
const until = (condition: () => boolean, what: string): Promise<boolean> =>
  waitFor(
    () => {
      if (condition()) return true;
      bench.clock.advance(bounds.upkeepPauseMs);
      return false;
    },
    { what },
  );

/** One whole time of upkeep, from the start to the pause of a day. */
async function runOnce(isSuspect = false): Promise<void> {
  start(isSuspect);
  await untilResting();
  await stop();
}

/** Nothing but the timer for the next day is left, for a while. */
async function untilResting(): Promise<void> {
  for (let quiet = 0; quiet < 5; ) {
    await new Promise((resolve) => setImmediate(resolve));
    const before = bench.clock.timers;
    const isResting = before.length === 1 && (before[0] ?? 0) > dayMs / 2;
    quiet = isResting ? quiet + 1 : 0;
    if (!isResting) bench.clock.advance(bounds.upkeepPauseMs);
  }
}

const toBob = (id: string) => ({
  ...sendOf(bob.keys.publicKey, { id }),
  request_fingerprint: "f".repeat(64),
});
const sendToBob = (...ids: string[]): Ack[] => ids.map((id) => bench.ackOf(alice, toBob(id)));

/** Bob comes, takes what waits, and goes. */
function deliver(): string[] {
  const id = bench.connect(bob);
  const pushes = bench.messages(id);
  bench.acknowledge(id, ...pushes);
  bench.gone(id);
  return pushes.map((push) => push.client_message_id ?? "");
}

const rowsOf = (sql: string): string[] =>
  bench.db
    .query<{ id: string }, []>(sql)
    .all()
    .map(({ id }) => id);
const known = (): string[] => rowsOf("SELECT client_message_id AS id FROM dedupe ORDER BY 1");
const whole = (): string[] =>
  rowsOf("SELECT client_message_id AS id FROM messages WHERE length(ciphertext) > 0 ORDER BY 1");
const kept = (): string[] => rowsOf("SELECT client_message_id AS id FROM messages ORDER BY 1");

describe("history", () => {
  test("messages lose their contents after thirty days, and stay known", async () => {
    const [first] = sendToBob("a", "b", "c");
    deliver();
    bench.clock.advance(30 * dayMs - 1000);
    await runOnce();
    expect(whole()).toEqual(["a", "b", "c"]);
    bench.clock.advance(2000);
    sendToBob("young");
    deliver();
    await runOnce();
    expect([whole(), known(), kept()]).toEqual([
      ["young"],
      ["a", "b", "c", "young"],
      ["a", "b", "c", "young"],
    ]);
    expect(logs.at(-1)).toMatchObject({ level: "info", fields: { pruned: 3, forgotten: 0 } });
    expect(
      bench.db.query("SELECT nonce, ciphertext FROM messages WHERE client_message_id = 'a'").get(),
    ).toEqual({
      nonce: new Uint8Array(),
      ciphertext: new Uint8Array(),
    });

    const { messageId } = first ?? {};
    expect(bench.ackOf(alice, toBob("a"))).toMatchObject({
      code: "duplicate",
      messageId: messageId ?? "",
      history_available: false,
      first_seen_at: expect.any(String),
    });
    expect(bench.ackOf(alice, { ...toBob("a"), request_fingerprint: "0".repeat(64) })).toMatchObject({
      code: "idempotency_key_reused",
      history_available: false,
    });
    expect(bench.ackOf(alice, toBob("young")).history_available).toBe(true);
  });

  test("what still waits for its recipient is kept, however old, and delivered whole", async () => {
    sendToBob("a", "b", "c", "d", "e");
    const fromBob = bench.connect(bob);
    const pushes = bench.messages(fromBob);
    bench.acknowledge(fromBob, ...pushes.filter((push) => "bd".includes(push.client_message_id ?? "")));
    bench.gone(fromBob);
    bench.clock.advance(400 * dayMs);
    await runOnce();
    expect([whole(), known()]).toEqual([
      ["a", "c", "e"],
      ["a", "b", "c", "d", "e"],
    ]);
    const again = bench.messages(bench.connect(bob));
    expect(again.map(({ client_message_id, ciphertext }) => [client_message_id, ciphertext])).toEqual(
      pushes
        .filter((push) => "ace".includes(push.client_message_id ?? ""))
        .map(({ client_message_id, ciphertext }) => [client_message_id, ciphertext]),
    );
  });

  test("it goes once nobody waits any more: acknowledged later, or the recipient removed", async () => {
    const carol = bench.addMember("carol");
    sendToBob("a");
    bench.send(alice, sendOf(carol.keys.publicKey, { id: "to-carol" }));
    bench.clock.advance(31 * dayMs);
    await runOnce();
    expect(whole()).toEqual(["a", "to-carol"]);
    deliver();
    bench.send(alice, { type: "remove_member", pubkey: carol.keys.publicKey });
    await runOnce();
    expect([whole(), known()]).toEqual([[], ["a", "to-carol"]]);
  });

  test("the days are the operator's", async () => {
    begin({ historyDays: 1 });
    sendToBob("a");
    deliver();
    bench.clock.advance(dayMs + 1000);
    await runOnce();
    expect(whole()).toEqual([]);
  });
});

describe("ids that are remembered for some days", () => {
  beforeEach(() => begin({ dedupeDays: 3 }));

  test("are forgotten after them, each with its message and deliveries, and may come again", async () => {
    sendToBob("a", "b", "c");
    deliver();
    bench.clock.advance(3 * dayMs - 60_000);
    await runOnce();
    expect([known(), whole()]).toEqual([
      ["a", "b", "c"],
      ["a", "b", "c"],
    ]);
    sendToBob("young");
    deliver();
    // A day longer than is advertised, for daemons whose clocks are not ours.
    bench.clock.advance(dayMs + 59_000);
    await runOnce();
    expect(known()).toEqual(["a", "b", "c", "young"]);
    bench.clock.advance(2_000);
    expect(bench.ackOf(alice, toBob("a")).code).toBe("duplicate");
    await runOnce();
    expect([known(), kept(), bench.count("deliveries")]).toEqual([["young"], ["young"], 1]);
    expect(logs.at(-1)?.fields).toEqual({ pruned: 0, forgotten: 3 });
    expect(bench.ackOf(alice, toBob("a"))).toMatchObject({ code: "created", duplicate: false });
    expect(deliver()).toEqual(["a"]);
  });

  test("stay while their message waits", async () => {
    sendToBob("a", "b");
    bench.clock.advance(100 * dayMs);
    await runOnce();
    expect(bench.ackOf(alice, toBob("a"))).toMatchObject({ code: "duplicate", history_available: true });
    expect(deliver()).toEqual(["a", "b"]);
    await runOnce();
    expect([known(), kept()]).toEqual([[], []]);
  });

  test("and contents for fewer: first the one, then the other", async () => {
    begin({ dedupeDays: 10, historyDays: 2 });
    sendToBob("a");
    deliver();
    bench.clock.advance(2 * dayMs + 1000);
    await runOnce();
    expect([known(), whole()]).toEqual([["a"], []]);
    expect(bench.ackOf(alice, toBob("a"))).toMatchObject({ code: "duplicate", history_available: false });
    bench.clock.advance(9 * dayMs);
    await runOnce();
    expect([known(), kept()]).toEqual([[], []]);
  });

  test("copies of the database go when contents do", async () => {
    begin({ historyDays: 2 });
    copies = ["broker.db.before-v3"];
    await runOnce();
    expect(tidied).toEqual([bench.clock.now() - 2 * dayMs]);
    expect(logs).toMatchObject([
      { message: "old copies of the database were removed", fields: { files: ["broker.db.before-v3"] } },
    ]);
    await runOnce();
    expect([tidied.length, logs.length]).toEqual([2, 1]);
  });

  test("a clock that was set back forgets nothing", async () => {
    sendToBob("a");
    deliver();
    bench.clock.setWall(0);
    await runOnce();
    expect([known(), whole()]).toEqual([["a"], ["a"]]);
  });

  test("a clock that jumps ahead while the broker runs is believed only when it has kept right for a day", async () => {
    sendToBob("a");
    deliver();
    start();
    await untilResting();
    bench.clock.setWall(bench.clock.now() + 30 * dayMs);
    bench.clock.advance(dayMs);
    await untilResting();
    expect([known(), upkeep.problems.map(({ code }) => code)]).toEqual([["a"], ["clock_jumped"]]);
    bench.clock.advance(dayMs);
    await untilResting();
    expect([known(), upkeep.problems]).toEqual([[], []]);
  });

  test("a jump that is taken back within the day costs nothing but a day of waiting", async () => {
    sendToBob("a");
    deliver();
    start();
    await untilResting();
    bench.clock.setWall(bench.clock.now() + 30 * dayMs);
    bench.clock.advance(dayMs);
    await untilResting();
    bench.clock.setWall(bench.clock.now() - 30 * dayMs);
    bench.clock.advance(dayMs);
    await untilResting();
    expect([known(), upkeep.problems.map(({ code }) => code)]).toEqual([["a"], ["clock_jumped"]]);
    bench.clock.advance(3 * dayMs);
    await untilResting();
    expect([known(), upkeep.problems]).toEqual([[], []]);
  });

  test("a message with a number of its own is never given that of one that was forgotten", async () => {
    sendToBob("a");
    deliver();
    bench.clock.advance(5 * dayMs);
    await runOnce();
    sendToBob("b");
    expect(bench.db.query("SELECT seq FROM messages").get()).toEqual({ seq: 2 });
  });
});

describe("in steps", () => {
  const ids = ["a", "b", "c", "d", "e", "f", "g"];

  test("of few rows, with a pause between, in which others are served", async () => {
    sendToBob(...ids);
    deliver();
    bench.clock.advance(31 * dayMs);
    start();
    for (const left of [5, 3, 1]) {
      await waitFor(() => whole().length === left, { what: `${left} to be left` });
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
      expect(whole()).toHaveLength(left);
      expect(bench.ackOf(alice, toBob(`meanwhile-${left}`)).code).toBe("created");
      bench.clock.advance(bounds.upkeepPauseMs - 1);
      expect(whole()).toHaveLength(left + 1);
      deliver();
      bench.db.run("UPDATE messages SET ciphertext = x'' WHERE client_message_id LIKE 'meanwhile%'");
      bench.clock.advance(1);
    }
    await until(() => whole().length === 0, "the last");
  });

  test("an end between two steps leaves things in order, and the next start goes on", async () => {
    begin({ dedupeDays: 3 });
    sendToBob(...ids);
    deliver();
    bench.clock.advance(4 * dayMs);
    start();
    await until(() => known().length === 5, "the first to be forgotten");
    await stop();
    expect(kept()).toEqual(known());
    bench.restart();
    alice = bench.connect(bench.mesh.owner);
    await runOnce();
    expect([known(), kept(), bench.count("deliveries")]).toEqual([[], [], 0]);
  });

  test("a step that fails is undone whole, told, and made good the next day", async () => {
    begin({ dedupeDays: 3 });
    sendToBob(...ids);
    deliver();
    bench.clock.advance(4 * dayMs);
    bench.db.run("CREATE TRIGGER breaks BEFORE DELETE ON messages BEGIN SELECT RAISE(ABORT, 'no'); END");
    start();
    await until(() => upkeep.problems.length > 0, "the problem");
    expect(upkeep.problems).toEqual([{ code: "retention_failed", message: expect.stringContaining("no") }]);
    expect(logs.at(-1)).toMatchObject({
      level: "error",
      message: "the broker's retention could not be finished",
    });
    expect([known(), bench.count("deliveries")]).toEqual([ids, 7]);
    bench.db.run("DROP TRIGGER breaks");
    bench.clock.advance(dayMs);
    await until(() => known().length === 0, "the next day's retention");
    await until(() => upkeep.problems.length === 0, "the problem to be gone");
  });

  test("every day, by the clock", async () => {
    begin({ historyDays: 1 });
    start();
    await untilResting();
    for (const id of ["a", "b", "c"]) {
      bench.clock.advance(dayMs / 3);
      sendToBob(id);
      deliver();
      bench.clock.advance((dayMs * 2) / 3);
      await untilResting();
      expect(whole()).toEqual([id]);
      bench.clock.advance(dayMs);
      await untilResting();
      expect(whole()).toEqual([]);
    }
  });
});

describe("the check", () => {
  const counts = (dedupe: number, messages: number, deliveries: number) => ({
    dedupe_without_message: dedupe,
    message_without_dedupe: messages,
    delivery_without_message: deliveries,
  });
  /** Does what no code here does. */
  const damage = (...sql: string[]) => {
    bench.db.run("PRAGMA foreign_keys = OFF");
    for (const statement of sql) bench.db.run(statement);
    bench.db.run("PRAGMA foreign_keys = ON");
  };

  test("finds nothing where nothing is wrong: waiting, delivered, pruned and forgotten messages, a removed member", async () => {
    begin({ dedupeDays: 10, historyDays: 3 });
    const carol = bench.addMember("carol");
    sendToBob("forgotten");
    deliver();
    bench.clock.advance(6 * dayMs);
    sendToBob("pruned");
    deliver();
    bench.clock.advance(5 * dayMs);
    sendToBob("delivered");
    deliver();
    sendToBob("waiting");
    bench.send(alice, sendOf(carol.keys.publicKey));
    bench.send(alice, { type: "remove_member", pubkey: carol.keys.publicKey });
    await runOnce();
    expect([kept().length, known().length, whole().length]).toEqual([4, 4, 3]);
    await runOnce(true);
    expect([upkeep.problems, logs.map(({ level }) => level).includes("error")]).toEqual([[], false]);
  });

  const wounds: [what: string, sql: string[], found: ReturnType<typeof counts>][] = [
    ["records without messages", ["DELETE FROM messages WHERE seq IN (2, 5)"], counts(2, 0, 2)],
    [
      "messages without records",
      ["DELETE FROM dedupe WHERE client_message_id IN ('a', 'd', 'e')"],
      counts(0, 3, 0),
    ],
    [
      "deliveries without messages",
      ["INSERT INTO deliveries (seq, recipient) VALUES (77, 1), (78, 1)"],
      counts(0, 0, 2),
    ],
    [
      "a record that names another's message",
      [
        "UPDATE dedupe SET message_id = (SELECT message_id FROM messages WHERE seq = 2) WHERE client_message_id = 'a'",
      ],
      counts(1, 1, 0),
    ],
  ];
  test.each(wounds)("finds %s, tells of them, and mends nothing", async (_what, sql, found) => {
    sendToBob("a", "b", "c", "d", "e");
    damage(...sql);
    const state = () => [known(), kept(), bench.count("deliveries")];
    const before = state();
    await runOnce(true);
    const codes = Object.entries(found).flatMap(([code, count]) => (count > 0 ? [code] : []));
    expect(upkeep.problems.map(({ code }) => code)).toEqual(codes);
    for (const { code, message } of upkeep.problems)
      expect(message).toStartWith(`${Object.entries(found).find(([name]) => name === code)?.[1]} `);
    expect(logs.filter(({ level }) => level === "error")).toEqual([
      { level: "error", message: "the broker's database contradicts itself", fields: found },
    ]);
    expect(state()).toEqual(before);
  });

  test("is made at the start only when the last stop was unclean, and then every day", async () => {
    sendToBob("a");
    damage("DELETE FROM dedupe");
    start(false);
    await untilResting();
    expect(upkeep.problems).toEqual([]);
    bench.clock.advance(dayMs);
    await until(() => upkeep.problems.length === 1, "the nightly check");
    await untilResting();
    damage("DELETE FROM deliveries", "DELETE FROM messages");
    bench.clock.advance(dayMs);
    await until(() => upkeep.problems.length === 0, "the problem to be gone");
  });

  test("goes on serving, and is not misled by what is sent meanwhile", async () => {
    sendToBob("a", "b", "c", "d", "e");
    start(true);
    for (let n = 0; n < 40; n++) {
      sendToBob(`z${n}`, `A${n}`);
      bench.clock.advance(bounds.upkeepPauseMs);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await untilResting();
    expect([upkeep.problems, logs.at(0)?.message]).toEqual([
      [],
      "the broker's database was checked and is consistent",
    ]);
  });

  test("one that cannot be finished is a problem of its own, not a clean result", async () => {
    sendToBob("a");
    bench.store.checkMessages = () => {
      throw new Error("the disk is gone");
    };
    await runOnce(true);
    expect(upkeep.problems).toEqual([
      { code: "check_failed", message: "the last check could not be finished: the disk is gone" },
    ]);
  });
});

describe("an older database", () => {
  /** As the first version left it. */
  function oldDatabase(path: string): void {
    const db = openSqlite(path);
    migrate(db, schemaSteps.slice(0, 1));
    db.run("INSERT INTO meshes VALUES (1, 'mesh', 'team', 'Team', 'k1', 1)");
    for (const member of [1, 2, 3])
      db.run(
        "INSERT INTO members (member, member_id, mesh, pubkey, display_name, role, joined_at) VALUES (?, ?, 1, ?, ?, 'member', 1)",
        [member, `m${member}`, `k${member}`, `n${member}`],
      );
    for (let n = 1; n <= 6; n++) {
      db.run(
        `INSERT INTO messages (message_id, mesh, sender, client_message_id, request_fingerprint, target_spec, priority, nonce, ciphertext, created_at)
         VALUES (?, 1, 1, ?, 'f', 'k2', 'next', x'01', ?, ?)`,
        [`M${n}`, `c${n}`, Buffer.alloc(20_000, n), 1000 + n],
      );
      db.run("INSERT INTO dedupe VALUES (1, ?, 'f', ?, ?)", [`c${n}`, `M${n}`, 1000 + n]);
      db.run("INSERT INTO deliveries VALUES (?, ?, ?)", [2 + (n % 2), n, n % 3 === 0 ? 5000 : null]);
    }
    db.close();
  }

  test("is brought forward with everything in it", () => {
    const path = `${tempDir()}/broker.db`;
    oldDatabase(path);
    const db = openSqlite(path);
    const store = new Store(db);
    expect([schemaVersionOf(db), findDamage(db)]).toEqual([schemaSteps.length, []]);
    expect(db.query("PRAGMA foreign_key_check").all()).toEqual([]);
    const waiting = (member: number) =>
      store
        .undelivered(member, 0, 100)
        .map(({ client_message_id, ciphertext }) => [client_message_id, ciphertext[0]]);
    expect([waiting(2), waiting(3)]).toEqual([
      [
        ["c2", 2],
        ["c4", 4],
      ],
      [
        ["c1", 1],
        ["c5", 5],
      ],
    ]);
    expect([store.waitingFor(2), store.waitingFor(3)]).toEqual([2, 2]);
    expect(store.acceptedBefore(1, "c3")).toEqual({
      message_id: "M3",
      request_fingerprint: "f",
      first_seen_at: 1003,
      has_contents: 1,
    });
    expect(store.markDelivered(2, "M2", 6000)).toBe(true);
    expect(store.markDelivered(2, "M6", 6000)).toBe(false);
    const first = { created_at: 0, seq: 0 };
    expect(store.prune(1006, first, 3, 7000)).toMatchObject({
      count: 2,
      next: { created_at: 1003, seq: 3 },
    });
    expect(store.expire(2000, 10)).toBe(2);
    for (const rows of [
      store.checkDedupe({ sender: 0, client_message_id: "" }, 10),
      store.checkMessages({ seq: 0 }, 10),
      store.checkDeliveries({ seq: 0, recipient: 0 }, 10),
    ])
      expect(rows.map(({ sound }) => sound)).toEqual([1, 1, 1, 1]);
    store.close();
    db.close();
  });

  test("is the same as a new one then", () => {
    const path = `${tempDir()}/broker.db`;
    oldDatabase(path);
    const tables = (db: ReturnType<typeof openSqlite>) =>
      db.query("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name").all();
    const [old, fresh] = [openSqlite(path), openSqlite(":memory:")];
    for (const db of [old, fresh]) migrate(db, schemaSteps);
    expect(tables(old)).toEqual(tables(fresh));
    old.close();
    fresh.close();
  });
});

describe("settings", () => {
  test("what is left out is as usual", () => {
    expect(settingsOf({})).toEqual(defaultSettings);
    expect(settingsOf({ dedupeDays: 3, historyDays: 1, connectionPolicy: "prefer_oldest" })).toEqual({
      connectionPolicy: "prefer_oldest",
      dedupeDays: 3,
      historyDays: 1,
    });
  });

  test.each([
    { dedupeDays: 2 },
    { dedupeDays: 3.5 },
    { dedupeDays: Number.NaN },
    { dedupeDays: retentionDaysMax + 1 },
    { historyDays: 0 },
    { historyDays: -1 },
    { historyDays: Number.POSITIVE_INFINITY },
  ])("%j is refused", (given) => {
    expect(() => settingsOf(given)).toThrow(/days/);
  });
});
