/** How the outbox empties: in order within a lane, within the window, and whatever the broker answers or does not. */
import { describe, expect, spyOn, test } from "bun:test";
import { migrateOutbox, Outbox, type OutboxRow } from "~/daemon/db/outbox";
import { Drain, type Port } from "~/daemon/drain";
import { applySend, prepareSend } from "~/daemon/ipc/handlers/send";
import { openSqlite } from "~/disk/sqlite";
import { Writer } from "~/disk/writer";
import type { BrokerTerms } from "~/link/negotiate";
import { defaultSettings, type Settings } from "~/settings/knobs";
import type { AckFrame, ClientFrameInput } from "~/wire/broker";
import { answerTimeoutMs, retryAfterMsMax, retryDelayMsMax, sendWindowMessagesMax } from "~/wire/limits";
import type { Priority } from "~/wire/text";
import { FakeClock } from "../../support/fake-clock";
import { waitFor } from "../../support/wait-for";

const mesh = "mesh-1";
const bob = "b0".repeat(32);
const carol = "c0".repeat(32);

const terms: BrokerTerms = {
  features: undefined,
  inlineBytes: 65_536,
  maxAgeMs: 7 * 24 * 3600 * 1000,
  lanes: true,
  members: true,
  missing: [],
};

function openDrain(settings: { current: Settings } = { current: defaultSettings }) {
  const clock = new FakeClock();
  const db = openSqlite(":memory:");
  migrateOutbox(db);
  const outbox = new Outbox(db);
  const writer = new Writer(db, clock);
  const changes: string[] = [];
  const drain = new Drain({
    outbox,
    writer,
    clock,
    chance: () => 0,
    log: () => undefined,
    settings: () => settings.current,
    changed: (id) => void changes.push(id),
  });
  let rows = 0;
  const newId = () => `row-${rows++}`;
  const sent: string[] = [];
  const ends: string[] = [];
  const port: Port & { bufferedBytes: number } = {
    bufferedBytes: 0,
    send(frame: ClientFrameInput) {
      if (frame.type === "send") sent.push(frame.id ?? "");
      return true;
    },
    reconnect: (why) => void ends.push(`reconnect: ${why}`),
    drop: (why) => void ends.push(`drop: ${why}`),
  };

  /** Lets everything that is due happen, answers to promises included. */
  async function settle(ms = 0): Promise<void> {
    clock.advance(ms);
    for (let turn = 0; turn < 20; turn++) {
      await Promise.resolve();
      clock.advance(0);
    }
  }

  const accept = (id: string, { to = bob, priority = "next" as Priority } = {}) =>
    writer.submit(() => {
      const request = {
        to,
        message: id,
        mesh,
        priority,
        client_message_id: id,
        destination_kind: "dm" as const,
        destination_ref: to,
      };
      const seal = () => ({
        target_spec: to,
        sender_pubkey: "a0".repeat(32),
        body_version: 2,
        nonce: new Uint8Array(24),
        ciphertext: new Uint8Array(16),
        wire_fingerprint: "f",
      });
      const applied = applySend(prepareSend(request, newId), { db, now: () => clock.now(), newId, seal });
      if (applied.insertedSeq !== undefined) drain.inserted(mesh, to, priority);
      return applied;
    });

  const answer = (id: string, code: string, extra: Partial<AckFrame> = {}) =>
    drain.answered(mesh, {
      type: "ack",
      id,
      client_message_id: id,
      code,
      ...(code === "created" || code === "duplicate" ? { messageId: `m-${id}` } : { error: code }),
      ...extra,
    });

  const row = (id: string): OutboxRow => {
    const found = outbox.byClientMessageId(id);
    if (found === null) throw new Error(`no row ${id}`);
    return found;
  };
  /** What left since the last look. */
  const left = () => sent.splice(0);
  const attach = (with_: Partial<BrokerTerms> = {}) => drain.attach(mesh, port, { ...terms, ...with_ });
  return { clock, db, outbox, writer, drain, port, ends, changes, settle, accept, answer, row, left, attach };
}

describe("leaving", () => {
  test("a row leaves at once when the link is open, marked before its frame is handed over", async () => {
    const d = openDrain();
    d.attach();
    await d.settle();
    let statusWhenSent = "";
    const send = d.port.send;
    d.port.send = (frame) => {
      statusWhenSent = d.row("one").status;
      return send(frame);
    };
    const accepted = d.accept("one");
    await d.settle();
    await accepted;
    expect(d.left()).toEqual(["one"]);
    expect(statusWhenSent).toBe("inflight");
    expect(d.row("one").first_sent_at).toBe(d.clock.now());
  });

  test("a row leaves after its sender was answered, who waits for that", async () => {
    const d = openDrain();
    d.attach();
    await d.settle();
    spyOn(d.clock, "soon").mockImplementation((action) => void setImmediate(action));
    const order: string[] = [];
    d.port.send = () => order.push("left") > 0;
    void d.accept("one").then(() => order.push("answered"));
    await waitFor(() => order.length === 2, { what: "the answer and the frame" });
    expect(order).toEqual(["answered", "left"]);
  });

  test("rows that waited leave in the order they were accepted when the link opens", async () => {
    const d = openDrain();
    for (let n = 0; n < 100; n++) void d.accept(`m${n}`);
    await d.settle();
    expect(d.left()).toEqual([]);
    d.attach();
    await d.settle();
    expect(d.left()).toEqual(Array.from({ length: 100 }, (_, n) => `m${n}`));
  });

  test("no more than the window is on the wire; each answer makes room", async () => {
    const d = openDrain();
    d.attach();
    for (let n = 0; n < sendWindowMessagesMax + 10; n++) void d.accept(`m${n}`);
    await d.settle();
    expect(d.left()).toHaveLength(sendWindowMessagesMax);
    d.answer("m0", "created");
    d.answer("m1", "created");
    await d.settle();
    expect(d.left()).toEqual([`m${sendWindowMessagesMax}`, `m${sendWindowMessagesMax + 1}`]);
  });

  test("a slow socket closes the window too", async () => {
    const d = openDrain();
    d.attach();
    await d.settle();
    d.port.bufferedBytes = 2 * 1024 * 1024;
    void d.accept("one");
    await d.settle();
    expect(d.left()).toEqual([]);
  });

  test("now goes before next before low, among lanes and not within one", async () => {
    const d = openDrain();
    const dave = "d0".repeat(32);
    void d.accept("low", { to: bob, priority: "low" });
    void d.accept("now-behind-low", { to: bob, priority: "now" });
    void d.accept("next", { to: carol });
    void d.accept("now", { to: dave, priority: "now" });
    await d.settle();
    d.attach();
    await d.settle();
    expect(d.left()).toEqual(["now", "next", "low", "now-behind-low"]);
  });

  test("towards a version-1 broker a lane has one on the wire; lanes do not wait for each other", async () => {
    const d = openDrain();
    d.attach({ lanes: false });
    for (const id of ["b1", "b2", "b3"]) void d.accept(id, { to: bob });
    void d.accept("c1", { to: carol });
    await d.settle();
    expect(d.left()).toEqual(["b1", "c1"]);
    d.answer("b1", "created");
    await d.settle();
    expect(d.left()).toEqual(["b2"]);
  });
});

test("a drain that is held lets nothing leave any more, and takes the answers to what has left", async () => {
  const d = openDrain();
  d.attach();
  void d.accept("one");
  void d.accept("two");
  await d.settle();
  expect([d.left(), d.drain.onTheWire]).toEqual([["one", "two"], 2]);
  d.drain.hold();
  void d.accept("three");
  d.answer("one", "created");
  await d.settle();
  expect([d.left(), d.drain.onTheWire]).toEqual([[], 1]);
  d.answer("two", "created");
  await d.settle();
  expect(d.drain.onTheWire).toBe(0);
  expect(["one", "two", "three"].map((id) => d.row(id).status)).toEqual(["done", "done", "pending"]);
});

describe("answers", () => {
  test("created ends the row with the broker's id for it", async () => {
    const d = openDrain();
    d.attach();
    void d.accept("one");
    await d.settle();
    d.answer("one", "created");
    await d.settle();
    expect(d.row("one")).toMatchObject({ status: "done", broker_message_id: "m-one", attempts: 0 });
    expect(d.changes).toContain("one");
  });

  test("an answer twice, and one to a message that never was, change nothing", async () => {
    const d = openDrain();
    d.attach();
    void d.accept("one");
    await d.settle();
    d.answer("one", "created");
    d.answer("one", "created", { messageId: "m-other" });
    d.answer("one", "too_large");
    d.answer("nobody", "created");
    await d.settle();
    expect(d.row("one")).toMatchObject({ status: "done", broker_message_id: "m-one" });
    void d.accept("two");
    await d.settle();
    expect(d.left()).toEqual(["one", "two"]);
  });

  test("answers in any order settle each their own row", async () => {
    const d = openDrain();
    d.attach();
    for (const id of ["a", "b", "c"]) void d.accept(id);
    await d.settle();
    for (const id of ["c", "a", "b"]) d.answer(id, "created");
    await d.settle();
    for (const id of ["a", "b", "c"])
      expect(d.row(id)).toMatchObject({ status: "done", broker_message_id: `m-${id}` });
  });

  test("an answer from another mesh's broker does not touch the row", async () => {
    const d = openDrain();
    d.attach();
    d.drain.attach("mesh-2", d.port, terms);
    void d.accept("one");
    await d.settle();
    d.drain.answered("mesh-2", {
      type: "ack",
      client_message_id: "one",
      code: "created",
      messageId: "forged",
    });
    await d.settle();
    expect(d.row("one").status).toBe("inflight");
  });

  test("after a transient refusal the lane goes back to that row, and only then on, in order", async () => {
    const d = openDrain();
    d.attach();
    for (const id of ["a", "b", "c"]) void d.accept(id);
    await d.settle();
    d.left();
    d.answer("a", "rate_limited", { retry_after_ms: 3_000 });
    await d.settle();
    void d.accept("d");
    d.answer("b", "held");
    await d.settle();
    expect(d.left()).toEqual([]);
    d.answer("c", "held");
    await d.settle(2_999);
    expect(d.left()).toEqual([]);
    await d.settle(1);
    expect(d.left()).toEqual(["a", "b", "c", "d"]);
    expect(d.row("a").attempts).toBe(1);
    expect(d.row("b").attempts).toBe(0);
  });

  test("nothing new of a lane leaves before everything refused with it is answered", async () => {
    const d = openDrain();
    d.attach();
    for (const id of ["a", "b"]) void d.accept(id);
    await d.settle();
    d.left();
    d.answer("a", "busy");
    await d.settle(120_000);
    // "b" is still unanswered: were "a" sent now, a row after "b" could get ahead of it.
    expect(d.left()).toEqual([]);
  });

  test("a row that is refused in the batch that accepts another of its lane is not sent again at once", async () => {
    const d = openDrain();
    d.attach();
    void d.accept("a");
    await d.settle();
    d.left();
    // Both wait for the same transaction: at its end the drain looks for rows, and "a" is pending by then.
    d.answer("a", "rate_limited", { retry_after_ms: 3_000 });
    void d.accept("b");
    await d.settle(2_999);
    expect(d.left()).toEqual([]);
    await d.settle(1);
    expect(d.left()).toEqual(["a", "b"]);
    d.answer("a", "created");
    d.answer("b", "created");
    await d.settle();
    expect([d.row("a").status, d.row("b").status, d.row("a").attempts]).toEqual(["done", "done", 1]);
  });

  test("one lane's refusal does not hold another lane", async () => {
    const d = openDrain();
    d.attach();
    void d.accept("to-bob");
    await d.settle();
    d.answer("to-bob", "busy", { retry_after_ms: 60_000 });
    await d.settle();
    d.left();
    void d.accept("to-carol", { to: carol });
    await d.settle();
    expect(d.left()).toEqual(["to-carol"]);
  });

  test("a lane that is held for nothing we know of goes on after a pause, not in a circle", async () => {
    const d = openDrain();
    d.attach();
    void d.accept("a");
    await d.settle();
    d.left();
    d.answer("a", "held");
    await d.settle();
    expect(d.left()).toEqual([]);
    await d.settle(1_000);
    expect(d.left()).toEqual(["a"]);
  });

  test("a permanent refusal ends one row; the lane goes on", async () => {
    const d = openDrain();
    d.attach();
    for (const id of ["a", "b"]) void d.accept(id);
    await d.settle();
    d.answer("a", "unknown_destination");
    d.answer("b", "created");
    await d.settle();
    expect(d.row("a")).toMatchObject({
      status: "dead",
      last_error: "unknown_destination: unknown_destination",
    });
    expect(d.row("b").status).toBe("done");
  });

  test("when the row that the broker waits for is withdrawn, a new connection frees the lane", async () => {
    const d = openDrain();
    d.attach();
    for (const id of ["a", "b"]) void d.accept(id);
    await d.settle();
    d.answer("a", "busy");
    d.answer("b", "held");
    await d.settle();
    d.outbox.markAborted(d.row("a").seq, "operator", "row-x", 0);
    await d.settle(1_000);
    expect(d.ends).toEqual(["reconnect: the row that the broker holds a lane for was withdrawn"]);
  });
});

describe("the link", () => {
  test("closing puts back what was on the wire, its attempts unchanged; the next one sends it again in order", async () => {
    const d = openDrain();
    d.attach();
    for (const id of ["a", "b", "c"]) void d.accept(id);
    await d.settle();
    d.left();
    d.answer("a", "created");
    await d.settle();
    d.drain.detach(mesh);
    await d.settle();
    expect(d.row("b")).toMatchObject({ status: "pending", attempts: 0, next_attempt_at: 0 });
    void d.accept("d");
    await d.settle();
    d.attach();
    await d.settle();
    expect(d.left()).toEqual(["b", "c", "d"]);
  });

  test("no answer for as long as a broker may take ends the connection, not the message", async () => {
    const d = openDrain();
    d.attach();
    void d.accept("a");
    await d.settle();
    await d.settle(answerTimeoutMs - 1);
    expect(d.ends).toEqual([]);
    await d.settle(1);
    expect(d.ends).toEqual([`drop: no answer to a message in ${answerTimeoutMs / 1000} s`]);
    expect(d.row("a")).toMatchObject({ status: "inflight", attempts: 0 });
  });

  test("a row that waits for its time is not sent before it, after a new connection either", async () => {
    const d = openDrain();
    d.attach();
    void d.accept("a");
    await d.settle();
    d.answer("a", "rate_limited", { retry_after_ms: 30_000 });
    await d.settle();
    d.left();
    d.drain.detach(mesh);
    d.attach();
    await d.settle(29_000);
    expect(d.left()).toEqual([]);
    await d.settle(1_000);
    expect(d.left()).toEqual(["a"]);
  });

  test("a late acceptance counts: it turns a dead row into a done one", async () => {
    const d = openDrain();
    d.attach();
    void d.accept("a");
    await d.settle();
    d.db.run("UPDATE outbox SET status = 'dead', last_error = 'expired'");
    d.answer("a", "created");
    await d.settle();
    expect(d.row("a")).toMatchObject({ status: "done", last_error: null });
  });
});

describe("age", () => {
  test("a row that was tried and is too old ends; one that was never tried gets its chance", async () => {
    const d = openDrain();
    void d.accept("tried");
    void d.accept("never-tried");
    await d.settle();
    d.db.run(`UPDATE outbox SET first_sent_at = enqueued_at WHERE client_message_id = 'tried'`);
    d.clock.setWall(d.clock.now() + terms.maxAgeMs + 1);
    d.attach();
    await d.settle();
    expect(d.row("tried")).toMatchObject({ status: "dead", last_error: "expired" });
    expect(d.left()).toEqual(["never-tried"]);
  });

  test("rows that waited out a long outage are not ended by the first thing that goes wrong afterwards", async () => {
    const d = openDrain();
    for (const id of ["a", "b", "c"]) void d.accept(id);
    await d.settle();
    d.clock.setWall(d.clock.now() + terms.maxAgeMs + 1);
    d.attach();
    await d.settle();
    d.answer("a", "rate_limited");
    d.answer("b", "held");
    d.answer("c", "held");
    await d.settle();
    d.drain.detach(mesh);
    d.attach();
    await d.settle(60_000);
    expect(d.left()).toEqual(["a", "b", "c", "a", "b", "c"]);
    for (const id of ["a", "b", "c"]) expect(d.row(id).status).toBe("inflight");
  });

  test("a row that was accepted while the clock was ahead is not tried for longer than the broker remembers it", async () => {
    const d = openDrain();
    const startMs = d.clock.now();
    d.clock.setWall(startMs + terms.maxAgeMs);
    void d.accept("early");
    await d.settle();
    d.clock.setWall(startMs);
    d.attach();
    await d.settle();
    expect(d.left()).toEqual(["early"]);
    d.drain.detach(mesh);
    d.clock.setWall(startMs + terms.maxAgeMs + 1);
    d.attach();
    await d.settle();
    expect(d.left()).toEqual([]);
    expect(d.row("early")).toMatchObject({ status: "dead", last_error: "expired" });
  });
});

test("a commit that fails sends nothing, and gives the connection up so that the disk decides anew", async () => {
  const d = openDrain();
  void d.accept("a");
  await d.settle();
  d.db.run(
    `CREATE TRIGGER full BEFORE UPDATE ON outbox WHEN NEW.status = 'inflight' BEGIN SELECT raise(ROLLBACK, 'disk full'); END`,
  );
  d.attach();
  await d.settle();
  expect(d.left()).toEqual([]);
  expect(d.row("a").status).toBe("pending");
  expect(d.ends).toEqual(["drop: the outbox could not be read"]);
});

describe("a batch that fails while the link is open leaves the lanes as they were", () => {
  const refuseToMark = `CREATE TRIGGER full BEFORE UPDATE ON outbox WHEN NEW.status = 'inflight'
    BEGIN SELECT raise(ABORT, 'disk full'); END`;

  test("what was not sent takes no room in the window and does not count as unanswered", async () => {
    const d = openDrain();
    d.attach();
    await d.settle();
    // The first of the two is taken before the second fails, and the first with it.
    d.db.run(refuseToMark.replace("'inflight'", "'inflight' AND NEW.client_message_id = 'b'"));
    const refused = [d.accept("a"), d.accept("b")].map((job) => job.catch((error: unknown) => error));
    await d.settle();
    for (const error of await Promise.all(refused)) expect(error).toBeInstanceOf(Error);
    expect(d.left()).toEqual([]);
    d.db.run("DROP TRIGGER full");
    void d.accept("c");
    await d.settle(1_000);
    expect(d.left()).toEqual(["c"]);
    d.answer("c", "busy");
    await d.settle(1_000);
    expect(d.left()).toEqual(["c"]);
    expect(d.ends).toEqual([]);
  });

  test("a row whose retry met a full disk goes when there is room again", async () => {
    const d = openDrain();
    d.attach();
    void d.accept("a");
    await d.settle();
    d.answer("a", "busy");
    await d.settle();
    d.left();
    d.db.run(refuseToMark);
    await d.settle(retryDelayMsMax);
    expect(d.left()).toEqual([]);
    d.db.run("DROP TRIGGER full");
    await d.settle(retryDelayMsMax);
    expect(d.left()).toEqual(["a"]);
  });

  test("a retry that fell due when no transaction could begin is made later", async () => {
    const d = openDrain();
    d.attach();
    void d.accept("a");
    await d.settle();
    d.answer("a", "busy");
    await d.settle();
    d.left();
    const run = d.db.run.bind(d.db);
    const broken = spyOn(d.db, "run").mockImplementation((sql, ...bindings) => {
      if (sql === "BEGIN IMMEDIATE") throw new Error("database is locked");
      return run(sql, ...bindings);
    });
    await d.settle(retryDelayMsMax);
    broken.mockRestore();
    expect(d.left()).toEqual([]);
    await d.settle(retryDelayMsMax);
    expect(d.left()).toEqual(["a"]);
  });

  test("the row that the broker waits for is still remembered", async () => {
    const d = openDrain();
    d.attach();
    for (const id of ["a", "b"]) void d.accept(id);
    await d.settle();
    d.answer("a", "busy");
    d.answer("b", "held");
    await d.settle();
    d.db.run(refuseToMark);
    await d.settle(1_000);
    d.db.run("DROP TRIGGER full");
    d.outbox.markAborted(d.row("a").seq, "operator", "row-x", 0);
    await d.settle(retryDelayMsMax);
    expect(d.ends).toEqual(["reconnect: the row that the broker holds a lane for was withdrawn"]);
  });
});

describe("what a broker holds a lane for", () => {
  test("a refused row that is too old to be tried again: a new connection frees the lane", async () => {
    const d = openDrain();
    d.attach({ maxAgeMs: 10_000 });
    void d.accept("a");
    await d.settle();
    await d.settle(10_001);
    void d.accept("b");
    await d.settle();
    d.answer("a", "busy");
    d.answer("b", "held");
    await d.settle();
    await d.settle(5_000);
    expect(d.row("a")).toMatchObject({ status: "dead", last_error: "expired" });
    expect(d.ends).toEqual(["reconnect: the row that the broker holds a lane for was withdrawn"]);
  });

  test("is the first that it refused, whatever it says of those behind it", async () => {
    const d = openDrain();
    d.attach();
    for (const id of ["a", "b"]) void d.accept(id);
    await d.settle();
    d.left();
    d.answer("a", "rate_limited");
    d.answer("b", "rate_limited");
    await d.settle();
    await d.settle(5_000);
    expect(d.left()).toEqual(["a", "b"]);
    expect(d.ends).toEqual([]);
  });
});

describe("the clock is set back", () => {
  const day = 24 * 3600 * 1000;

  test("while a lane waits: it waits no longer than it was to", async () => {
    const d = openDrain();
    d.attach();
    void d.accept("a");
    await d.settle();
    d.answer("a", "busy");
    await d.settle();
    d.left();
    d.clock.setWall(d.clock.now() - day);
    await d.settle(retryDelayMsMax);
    expect(d.left()).toEqual(["a"]);
  });

  test("while the daemon was down: a row waits no longer than a broker may ask", async () => {
    const d = openDrain();
    void d.accept("a");
    await d.settle();
    d.db.run("UPDATE outbox SET attempts = 1, next_attempt_at = ?", [d.clock.now() + 365 * day]);
    d.attach();
    await d.settle(retryAfterMsMax);
    expect(d.left()).toEqual(["a"]);
  });
});

test("rows wait for a socket's buffer to empty, though nothing of theirs is on the wire", async () => {
  const d = openDrain();
  d.attach();
  await d.settle();
  d.port.bufferedBytes = 2 * 1024 * 1024;
  void d.accept("one");
  await d.settle();
  d.port.bufferedBytes = 0;
  await d.settle(retryDelayMsMax);
  expect(d.left()).toEqual(["one"]);
});

test("a new connection sends nothing before what the old one left behind is back in its place", async () => {
  const d = openDrain();
  d.attach();
  void d.accept("old");
  await d.settle();
  expect(d.left()).toEqual(["old"]);
  void d.accept("new");
  // More than one batch holds.
  for (let n = 0; n < 600; n++) void d.writer.submit(() => undefined);
  d.drain.detach(mesh);
  d.attach();
  await d.settle();
  await d.settle();
  expect(d.left()).toEqual(["old", "new"]);
});

describe("settings", () => {
  const open = (changes: Partial<Settings>) => {
    const settings = { current: { ...defaultSettings, ...changes } };
    const d = openDrain(settings);
    const set = (more: Partial<Settings>) => {
      settings.current = { ...settings.current, ...more };
      d.drain.settingsChanged();
    };
    return { ...d, set };
  };

  test("bound the messages on the wire, and a wider window is used at once", async () => {
    const d = open({ "delivery.window_messages_max": 2 });
    d.attach();
    for (const id of ["a", "b", "c", "d", "e"]) void d.accept(id);
    await d.settle();
    expect(d.left()).toEqual(["a", "b"]);
    d.set({ "delivery.window_messages_max": 3 });
    await d.settle();
    expect(d.left()).toEqual(["c"]);
    d.set({ "delivery.window_messages_max": 1 });
    d.answer("a", "created");
    d.answer("b", "created");
    await d.settle();
    expect(d.left()).toEqual([]);
    d.answer("c", "created");
    await d.settle();
    expect(d.left()).toEqual(["d"]);
  });

  test("bound the bytes on the wire", async () => {
    // What the tests accept is sealed to 16 bytes.
    const d = open({ "delivery.window_bytes_max": 17 });
    d.attach();
    for (const id of ["a", "b", "c"]) void d.accept(id);
    await d.settle();
    expect(d.left()).toEqual(["a", "b"]);
  });

  test("say how long a broker may take to answer, for what is on the wire already too", async () => {
    const d = open({});
    d.attach();
    void d.accept("a");
    await d.settle(2_000);
    d.set({ "delivery.answer_timeout_s": 3 });
    await d.settle(999);
    expect(d.ends).toEqual([]);
    await d.settle(1);
    expect(d.ends).toEqual(["drop: no answer to a message in 3 s"]);
  });

  test("bound the backoff after a refusal", async () => {
    const d = open({ "delivery.retry_delay_ms_min": 10, "delivery.retry_delay_s_max": 1 });
    d.attach();
    void d.accept("a");
    await d.settle();
    d.left();
    d.answer("a", "internal");
    await d.settle(9);
    expect(d.left()).toEqual([]);
    await d.settle(1);
    expect(d.left()).toEqual(["a"]);
  });

  test("end a message sooner or later than the broker's memory suggests, but never later than it allows", async () => {
    const hourMs = 3600 * 1000;
    const endOf = async (hours: number | null, terms_: Partial<BrokerTerms>, afterMs: number) => {
      const d = open({ "delivery.max_age_h": hours });
      d.attach(terms_);
      void d.accept("a");
      await d.settle();
      d.clock.setWall(d.clock.now() + afterMs);
      d.answer("a", "internal");
      await d.settle();
      return d.row("a").status;
    };
    const forgetful = { maxAgeMs: 648 * hourMs, maxAgeMsMax: 648 * hourMs };
    expect(await endOf(1, {}, hourMs)).not.toBe("dead");
    expect(await endOf(1, {}, hourMs + 1)).toBe("dead");
    expect(await endOf(1000, {}, 1000 * hourMs)).not.toBe("dead");
    expect(await endOf(1000, {}, 1000 * hourMs + 1)).toBe("dead");
    expect(await endOf(1000, forgetful, 648 * hourMs + 1)).toBe("dead");
    expect(await endOf(null, forgetful, 648 * hourMs)).not.toBe("dead");
  });
});
