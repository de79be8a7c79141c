/** The outbox table: what an older file becomes, what the counts and lists say, and that no lane is found by reading all rows. */
import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { migrateOutbox, Outbox, outboxSchemaVersion } from "~/daemon/db/outbox";
import { openSqlite } from "~/daemon/db/sqlite";
import { schemaVersionOf } from "~/disk/sqlite";
import type { OutboxStatus } from "~/wire/ipc";
import { cleanup } from "../../support/cleanup";
import { tempDir } from "../../support/temp-dir";

/** As the first version of the file was made. */
const schemaVersion1 = `CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    client_message_id TEXT NOT NULL UNIQUE,
    request_fingerprint BLOB NOT NULL,
    payload TEXT,
    enqueued_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt_at INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL CHECK (status IN ('pending', 'inflight', 'done', 'dead', 'aborted')),
    last_error TEXT,
    first_sent_at INTEGER,
    delivered_at INTEGER,
    broker_message_id TEXT,
    aborted_at INTEGER,
    aborted_by TEXT,
    superseded_by TEXT,
    mesh TEXT,
    mesh_text TEXT,
    to_text TEXT,
    destination_kind TEXT,
    destination_ref TEXT,
    target_spec TEXT,
    priority TEXT NOT NULL DEFAULT 'next' CHECK (priority IN ('now', 'next', 'low')),
    sender_pubkey TEXT,
    body_version INTEGER,
    nonce TEXT,
    ciphertext TEXT,
    wire_fingerprint TEXT,
    reply_to_id TEXT,
    reply_to_sender TEXT,
    meta TEXT,
    agent TEXT,
    expects_reply INTEGER NOT NULL DEFAULT 0
  );
  CREATE INDEX outbox_pending ON outbox (mesh, target_spec, seq) WHERE status = 'pending' AND ciphertext IS NOT NULL;
  CREATE INDEX outbox_inflight ON outbox (mesh, seq) WHERE status = 'inflight';
  CREATE INDEX outbox_status ON outbox (status, seq);
  CREATE INDEX outbox_superseded ON outbox (superseded_by) WHERE superseded_by IS NOT NULL;`;

const statuses: OutboxStatus[] = ["pending", "inflight", "done", "dead", "aborted"];

function openOutbox(path = ":memory:"): Outbox {
  const db = openSqlite(path);
  cleanup(() => db.close());
  migrateOutbox(db);
  return new Outbox(db);
}

/** `statuses[n]` becomes row n + 1, each in a lane of its own. */
function fill(outbox: Outbox, rows: readonly OutboxStatus[]): void {
  for (const [n, status] of rows.entries()) {
    const seq = outbox.insert({
      id: `id-${n}`,
      client_message_id: `key-${n}`,
      request_fingerprint: new Uint8Array(32),
      payload: "hi",
      enqueued_at: n,
      mesh: "m",
      mesh_text: null,
      to_text: "bob",
      destination_kind: "dm",
      destination_ref: "bob",
      target_spec: `lane-${n % 3}`,
      priority: "next",
      sender_pubkey: "alice",
      body_version: 2,
      nonce: new Uint8Array(24),
      ciphertext: new Uint8Array(16),
      wire_fingerprint: null,
      reply_to_id: null,
      reply_to_sender: null,
      meta: null,
      agent: null,
      expects_reply: 0,
    });
    outbox.db.query("UPDATE outbox SET status = ? WHERE seq = ?").run(status, seq ?? 0);
  }
}

describe("a file of schema version 1", () => {
  test("keeps every row, and what was sealed turns from base64 into bytes", () => {
    const path = join(tempDir(), "outbox.db");
    const old = new Database(path);
    old.run(schemaVersion1);
    old.run("PRAGMA user_version = 1");
    const insert = old.query(
      `INSERT INTO outbox (id, client_message_id, request_fingerprint, enqueued_at, status, target_spec, mesh, nonce, ciphertext)
       VALUES (?, ?, x'00', 0, 'pending', 'lane', 'm', ?, ?)`,
    );
    const sealed = Array.from({ length: 2_500 }, (_, n) => ({
      nonce: Buffer.alloc(24, n),
      ciphertext: Buffer.from(`sealed ${n}`),
    }));
    for (const [n, { nonce, ciphertext }] of sealed.entries()) {
      insert.run(`id-${n}`, `key-${n}`, nonce.toString("base64"), ciphertext.toString("base64"));
    }
    insert.run("unsealed", "unsealed", null, null);
    old.close();

    const outbox = openOutbox(path);
    expect(schemaVersionOf(outbox.db)).toBe(outboxSchemaVersion);
    const kept = outbox.unfinishedOfMesh("m");
    expect(kept).toHaveLength(2_501);
    for (const [n, row] of kept.slice(0, 2_500).entries()) {
      expect(row.client_message_id).toBe(`key-${n}`);
      const hexOf = (bytes: Uint8Array | null | undefined) => Buffer.from(bytes ?? []).toString("hex");
      expect(hexOf(row.nonce)).toBe(hexOf(sealed[n]?.nonce));
      expect(hexOf(row.ciphertext)).toBe(hexOf(sealed[n]?.ciphertext));
    }
    expect(kept.at(-1)).toMatchObject({ client_message_id: "unsealed", nonce: null, ciphertext: null });
  });
});

describe("counts and lists", () => {
  test("tell of every status", () => {
    const outbox = openOutbox();
    fill(outbox, [...statuses, "done", "done", "dead"]);
    expect(outbox.counts()).toEqual({ pending: 1, inflight: 1, done: 3, dead: 2, aborted: 1 });
    for (const status of statuses) {
      const listed = outbox.list({ statuses: [status], limit: 10 });
      expect(listed.length).toBe(outbox.counts()[status]);
      expect(new Set(listed.map((row) => row.status))).toEqual(new Set([status]));
    }
    expect(outbox.list({ statuses: ["dead", "aborted"], limit: 10 }).map((row) => row.seq)).toEqual([
      8, 5, 4,
    ]);
    expect(outbox.list({ limit: 2 }).map((row) => row.seq)).toEqual([8, 7]);
    expect(outbox.meshesWithUnfinished()).toEqual(["m"]);
    expect(outbox.unfinishedOfMesh("m").map((row) => row.status)).toEqual(["pending", "inflight"]);
    expect(outbox.sealedByOtherKey("m", "alice")).toEqual([]);
    expect(outbox.sealedByOtherKey("m", "a new key").map((row) => row.seq)).toEqual([1, 2]);
  });

  test("of nothing are zeros", () => {
    expect(openOutbox().counts()).toEqual({ pending: 0, inflight: 0, done: 0, dead: 0, aborted: 0 });
  });
});

test("what the drain, a restart and a list of the failed ask for is found by an index, never by reading every row", () => {
  const outbox = openOutbox();
  const asked: string[] = [];
  const { db } = outbox;
  const query = db.query.bind(db);
  db.query = ((sql: string) => {
    asked.push(sql);
    return query(sql);
  }) as typeof db.query;
  outbox.pendingOfLane("m", "lane", 10);
  outbox.lanesWithPending("m");
  outbox.laneHeads();
  outbox.putBackInflight();
  outbox.putBackInflight("m");
  outbox.sealedByOtherKey("m", "key");
  outbox.meshesWithUnfinished();
  outbox.unfinishedOfMesh("m");
  outbox.list({ statuses: ["dead"], limit: 1 });
  outbox.byId("id");
  outbox.byClientMessageId("key");
  outbox.supersededBy("id");
  for (const sql of asked) {
    const plan = query<{ detail: string }, []>(`EXPLAIN QUERY PLAN ${sql}`).all();
    for (const { detail } of plan)
      expect(`${detail} | ${sql}`).not.toMatch(/^SCAN outbox(?! USING (COVERING )?INDEX)/);
  }
  expect(asked).toHaveLength(12);
});
