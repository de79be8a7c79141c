/** What a copy is called beside its original, and which rows of a copied outbox are retired. */
import { describe, expect, test } from "bun:test";
import { migrateOutbox, Outbox } from "~/daemon/db/outbox";
import { freeName } from "~/daemon/remint";
import { openSqlite } from "~/disk/sqlite";
import { nameCharsMax } from "~/wire/limits";

describe("a name", () => {
  const own = "abcdef0123456789".repeat(4);
  const member = (name: string, pubkey = "1".repeat(64)) => ({ name, pubkey });
  const long = "x".repeat(nameCharsMax);
  const cases: [what: string, wanted: string, members: Parameters<typeof freeName>[1], name: string][] = [
    ["that nobody has stays", "web", [member("db")], "web"],
    ["that somebody has gets a number", "web", [member("web")], "web-2"],
    ["is compared in any case", "web", [member("WEB")], "web-2"],
    [
      "gets the first number that is free",
      "web",
      ["web", "web-2", "web-4"].map((name) => member(name)),
      "web-3",
    ],
    ["that this very key has stays, when a run is repeated", "web", [member("web", own)], "web"],
    ["keeps its number then", "web", [member("web"), member("web-2", own)], "web-2"],
    ["of full length is cut", long, [member(long)], `${long.slice(0, -2)}-2`],
    ["gets a part of the key when nobody knows who is there", "web", undefined, "web-abcdef"],
    ["of full length is cut for it", long, undefined, `${long.slice(0, -7)}-abcdef`],
  ];
  test.each(cases)("%s", (_, wanted, members, name) => {
    expect(freeName(wanted, members, own)).toBe(name);
    expect(name.length).toBeLessThanOrEqual(nameCharsMax);
  });
});

test("every unfinished row is retired, except what the new keys sealed", () => {
  const db = openSqlite(":memory:");
  migrateOutbox(db);
  const outbox = new Outbox(db);
  const add = (id: string, status: string, senderPubkey: string | null): void => {
    db.query(
      `INSERT INTO outbox (id, client_message_id, request_fingerprint, enqueued_at, status, sender_pubkey, payload)
       VALUES (?, ?, x'00', 1, ?, ?, 'text')`,
    ).run(id, id, status, senderPubkey);
  };
  for (const status of ["pending", "inflight", "done", "dead", "aborted"]) {
    for (const key of ["old", "older", "new", null]) add(`${status} ${key}`, status, key);
  }
  const statuses = () =>
    Object.fromEntries(
      outbox.list({ limit: 100 }).map(({ id, status, aborted_by }) => [id, aborted_by ?? status]),
    );
  const before = statuses();
  expect(outbox.abortUnfinished("remint", ["new", "other"], 7)).toBe(6);
  const retired = ["pending", "inflight"].flatMap((status) =>
    ["old", "older", "null"].map((key) => `${status} ${key}`),
  );
  expect(statuses()).toEqual({ ...before, ...Object.fromEntries(retired.map((id) => [id, "remint"])) });
  // What it said can still be read.
  expect(outbox.byId("pending old")).toMatchObject({ aborted_at: 7, payload: "text", superseded_by: null });
  expect(outbox.abortUnfinished("remint", ["new", "other"], 8)).toBe(0);
  expect(outbox.abortUnfinished("remint", [], 9)).toBe(2);
  db.close();
});
