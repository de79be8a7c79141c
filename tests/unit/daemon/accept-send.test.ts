/** The table of "Accepting a send": every state a row can be in × the same or another request, and what phase A refuses. */

import type { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { migrateOutbox } from "~/daemon/db/outbox";
import { openSqlite } from "~/daemon/db/sqlite";
import { acceptSend, type SendRequest } from "~/daemon/ipc/handlers/send";
import { MeshError } from "~/errors";

const bob = "ab".repeat(32);

function openOutbox(): Database {
  const db = openSqlite(":memory:");
  migrateOutbox(db);
  return db;
}

function counter(prefix: string): () => string {
  let next = 0;
  return () => `${prefix}${next++}`;
}

const request: SendRequest = {
  to: "bob",
  message: "hello",
  priority: "next",
  meta: { z: 1, a: { y: 2, x: 3 } },
  client_message_id: "key-1",
  destination_kind: "dm",
  destination_ref: bob,
};

const accept = (db: Database, changes: Partial<SendRequest> = {}) =>
  acceptSend({ ...request, ...changes }, { db, now: () => 1_750_000_000_000, newId: counter("id-") });

const rows = (db: Database) =>
  db.query<Record<string, unknown>, []>("SELECT * FROM outbox ORDER BY seq").all();

function put(db: Database, status: string): void {
  accept(db);
  db.query("UPDATE outbox SET status = ?, broker_message_id = ?, last_error = ?").run(
    status,
    status === "done" ? "broker-1" : null,
    status === "dead" ? "too_large: 70000 bytes" : null,
  );
}

describe("a new id", () => {
  test("becomes a pending row that holds everything a later retry is compared with", () => {
    const db = openOutbox();
    const outcome = accept(db, { reply_to_id: "question-1", reply_to_sender: bob });
    expect(outcome).toEqual({
      kind: "accepted_pending",
      status: 202,
      client_message_id: "key-1",
      broker_message_id: null,
      duplicate: false,
    });
    const [row] = rows(db);
    expect(row).toMatchObject({
      id: "id-0",
      client_message_id: "key-1",
      status: "pending",
      payload: "hello",
      enqueued_at: 1_750_000_000_000,
      attempts: 0,
      first_sent_at: null,
      meta: '{"a":{"x":3,"y":2},"z":1}',
      destination_ref: bob,
      to_text: "bob",
      reply_to_id: "question-1",
    });
    expect(row?.request_fingerprint).toHaveLength(32);
  });

  test("without seal the routing columns stay empty, so the row can never leave", () => {
    const db = openOutbox();
    accept(db);
    expect(rows(db)[0]).toMatchObject({
      mesh: null,
      target_spec: null,
      nonce: null,
      ciphertext: null,
      wire_fingerprint: null,
    });
  });

  test("without an id in the request the first new one becomes it", () => {
    const db = openOutbox();
    const outcome = accept(db, { client_message_id: undefined });
    expect(outcome).toMatchObject({ kind: "accepted_pending", client_message_id: "id-0" });
    expect(rows(db)[0]).toMatchObject({ client_message_id: "id-0", id: "id-1" });
  });

  test("an id of our own making that is taken all the same is answered by the table, like any other", () => {
    const db = openOutbox();
    accept(db, { client_message_id: "id-0" });
    expect(accept(db, { client_message_id: undefined })).toMatchObject({
      kind: "accepted_pending",
      duplicate: true,
    });
    expect(accept(db, { client_message_id: undefined, message: "other" })).toMatchObject({
      kind: "conflict",
    });
    expect(rows(db)).toHaveLength(1);
  });

  test("is sealed inside the transaction: a seal that fails leaves nothing behind", () => {
    const db = openOutbox();
    const seal = () => {
      throw new MeshError("message_too_large", "70000 bytes");
    };
    expect(() => acceptSend(request, { db, now: () => 0, newId: counter("id-"), seal })).toThrow(
      "70000 bytes",
    );
    expect(rows(db)).toEqual([]);
    expect(accept(db).kind).toBe("accepted_pending");
  });
});

const same: [string, Partial<SendRequest>][] = [
  ["the same request", {}],
  ["meta in another key order", { meta: { a: { x: 3, y: 2 }, z: 1 } }],
  ["another `to` text for the same destination", { to: bob }],
];
const other: [string, Partial<SendRequest>][] = [
  ["another message", { message: "hello!" }],
  ["another destination", { destination_ref: "cd".repeat(32) }],
  ["another kind of destination", { destination_kind: "topic" }],
  ["another priority", { priority: "now" }],
  ["other meta", { meta: { z: 2 } }],
  ["no meta", { meta: undefined }],
  ["an answer to something", { reply_to_id: "question-1" }],
  ["another mesh", { mesh: "mesh-2" }],
  ["an agent", { agent: "reviewer" }],
  ["a reply expected", { expects_reply: true }],
];

const accepted = {
  pending: { kind: "accepted_pending", status: 202 },
  inflight: { kind: "accepted_inflight", status: 202 },
  done: { kind: "accepted_done", status: 200, broker_message_id: "broker-1" },
} as const;

describe.each(["pending", "inflight", "done", "dead", "aborted"] as const)(
  "an id held by a row that is %s",
  (status) => {
    test.each(same)("asked for with %s", (_name, changes) => {
      const db = openOutbox();
      put(db, status);
      const before = rows(db);
      const outcome = accept(db, changes);
      if (status === "dead" || status === "aborted") {
        expect(outcome).toMatchObject({
          kind: "conflict",
          status: 409,
          reason: `outbox_${status}_fingerprint_match`,
          last_error: status === "dead" ? "too_large: 70000 bytes" : null,
        });
      } else {
        expect(outcome).toMatchObject({ ...accepted[status], client_message_id: "key-1", duplicate: true });
      }
      expect(rows(db)).toEqual(before);
    });

    test.each(other)("asked for with %s", (_name, changes) => {
      const db = openOutbox();
      put(db, status);
      const before = rows(db);
      const outcome = accept(db, changes);
      const fingerprint = before[0]?.request_fingerprint as Uint8Array;
      expect(outcome).toEqual({
        kind: "conflict",
        status: 409,
        client_message_id: "key-1",
        broker_message_id: status === "done" ? "broker-1" : null,
        reason: `outbox_${status}_fingerprint_mismatch`,
        daemon_fingerprint_prefix: Buffer.from(fingerprint).toString("hex").slice(0, 16),
        last_error: status === "dead" ? "too_large: 70000 bytes" : null,
      });
      expect(rows(db)).toEqual(before);
    });
  },
);

test("absent, null and empty meta are the same request", () => {
  for (const meta of [undefined, null, {}]) {
    const db = openOutbox();
    accept(db, { meta: {} });
    expect(accept(db, { meta }).kind).toBe("accepted_pending");
    expect(rows(db)).toHaveLength(1);
  }
});

describe("phase A refuses and writes nothing", () => {
  test.each([
    ["an empty message", { message: "" }, "message_empty"],
    ["a lone surrogate", { message: "a\uD800b" }, "invalid_message"],
    ["an id with a space", { client_message_id: "a b" }, "invalid_id"],
    ["an empty id", { client_message_id: "" }, "invalid_id"],
    ["an id of 129 characters", { client_message_id: "a".repeat(129) }, "invalid_id"],
    ["an id that starts with a dot", { client_message_id: ".a" }, "invalid_id"],
    ["a zero byte in the destination", { destination_ref: "a\0b" }, "invalid_request"],
    ["a reply id with a zero byte", { reply_to_id: "a\0b" }, "invalid_id"],
    ["meta above its limit", { meta: { a: "x".repeat(17_000) } }, "invalid_meta"],
  ] as const)("%s", (_name, changes, code) => {
    const db = openOutbox();
    let thrown: unknown;
    try {
      accept(db, changes);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(MeshError);
    expect(thrown).toMatchObject({ code });
    expect(rows(db)).toEqual([]);
  });

  test("an id of 128 characters is fine, and so is a zero byte inside the message", () => {
    const db = openOutbox();
    expect(accept(db, { client_message_id: "a".repeat(128), message: "a\0b" }).kind).toBe("accepted_pending");
  });
});

test("the states of a row are held by the database itself", () => {
  const db = openOutbox();
  accept(db);
  expect(() => db.run("UPDATE outbox SET status = 'sent'")).toThrow("CHECK");
});
