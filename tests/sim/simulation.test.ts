/**
 * A fixed set of worlds must pass, and every checker must notice the engine that it is there for: each broken one below does
 * one thing wrong, now and then, and a few seeds are enough to catch it.
 */
import { describe, expect, test } from "bun:test";
import { Store } from "~/broker/sqlite";
import { type ArrivedLetter, Inbox } from "~/daemon/db/inbox";
import { Outbox, type SendableRow } from "~/daemon/db/outbox";
import type { Handlers } from "~/daemon/ipc/server";
import { MeshError } from "~/errors";
import { Sealer } from "~/identity/sealer";
import { type Engine, soundEngine } from "./actors";
import { SimulationFailure, simulate } from "./simulation";
import type { SimDatabase } from "./storage";

const seeds = Array.from({ length: 60 }, (_, index) => index + 1);

describe("whatever happens, nothing is lost, doubled or out of order", () => {
  test.each(seeds)("seed %d", async (seed) => {
    const { sends, frames } = await simulate(seed);
    expect(sends).toBeGreaterThan(0);
    expect(frames).toBeGreaterThan(0);
  });
});

test("the same seed does the same again", async () => {
  expect(await simulate(7)).toEqual(await simulate(7));
});

/** Every so often, in the same way for every run. */
function everyNth(n: number): () => boolean {
  let calls = 0;
  return () => ++calls % n === 0;
}

type Send = Handlers["send"];
const withSend = (change: (real: Send) => Send): Engine => ({
  ...soundEngine,
  handlers: (real) => ({ ...real, send: change(real.send) }),
});

class ForgetfulInbox extends Inbox {
  readonly #forgets = everyNth(20);

  override insert(arrived: ArrivedLetter): number | undefined {
    return this.#forgets() ? undefined : super.insert(arrived);
  }
}

/** Its table has no key that would refuse a second copy. */
class GullibleInbox extends Inbox {
  constructor(db: SimDatabase) {
    super(db);
    if (
      db
        .query("SELECT 1 FROM sqlite_master WHERE tbl_name = 'inbox' AND name LIKE 'sqlite_autoindex%'")
        .get() === null
    )
      return;
    db.run("DROP TABLE inbox");
    db.run(
      `CREATE TABLE inbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, id, mesh, sender_member_pubkey, sender_name, client_message_id,
         broker_message_id, topic, body, body_version, meta, reply_to_id, reply_to_sender, agent, expects_reply, priority, sent_at,
         received_at, read_at)`,
    );
  }

  override insert({ id, letter, brokerMessageId, receivedAt }: ArrivedLetter): number | undefined {
    return this.db
      .query<{ seq: number }, (string | number)[]>(
        `INSERT INTO inbox (id, mesh, sender_member_pubkey, client_message_id, broker_message_id, body, priority, received_at)
         VALUES (?, ?, ?, ?, ?, ?, 'next', ?) RETURNING seq`,
      )
      .get(id, letter.meshId, letter.from, letter.id, brokerMessageId, letter.body, receivedAt)?.seq;
  }
}

class HastyOutbox extends Outbox {
  override markInflight(seq: number, nowMs: number): void {
    super.markInflight(seq, nowMs);
    super.markDone(seq, "B-not-yet", nowMs);
  }
}

class UnorderedOutbox extends Outbox {
  override pendingOfLane(mesh: string, target: string, limit: number): SendableRow[] {
    return super.pendingOfLane(mesh, target, limit).reverse();
  }
}

class RecomputingOutbox extends Outbox {
  override pendingOfLane(mesh: string, target: string, limit: number): SendableRow[] {
    return super.pendingOfLane(mesh, target, limit).map((row) => ({
      ...row,
      wire_fingerprint: (row.attempts + (row.first_sent_at ?? 0)).toString(16).padStart(64, "0"),
    }));
  }
}

class StuckOutbox extends Outbox {
  override putBackInflight(): number {
    return 0;
  }
}

class RenamingStore extends Store {
  override acceptedBefore(sender: number, clientMessageId: string) {
    const known = super.acceptedBefore(sender, clientMessageId);
    return known === undefined ? undefined : { ...known, message_id: `${known.message_id}-again` };
  }
}

class OpenSealer extends Sealer {
  override seal(content: string) {
    return { nonce: new Uint8Array(24), ciphertext: Buffer.from(content) };
  }
}

class LeakySealer extends Sealer {
  override seal(content: string, senderSecretKey: string, recipient: string) {
    // Decoded first, so that what a frame shows in base64 is the key in hex.
    const nonce = Buffer.from(senderSecretKey, "base64");
    return { ...super.seal(content, senderSecretKey, recipient), nonce };
  }
}

const broken: [string, Engine, RegExp][] = [
  [
    "answers before it stores",
    withSend((real) => {
      const skips = everyNth(10);
      return (call) =>
        skips()
          ? { status: 202, json: { client_message_id: "", status: "queued", duplicate: false } }
          : real(call);
    }),
    /accepted, and there is no row/,
  ],
  [
    "takes another content under a used id",
    withSend((real) => async (call) => {
      try {
        return await real(call);
      } catch (error) {
        if (!(error instanceof MeshError) || error.code !== "idempotency_key_reused") throw error;
        return { status: 202, json: { client_message_id: "", status: "queued", duplicate: true } };
      }
    }),
    /held by another content|holds something else/,
  ],
  [
    "refuses an honest retry",
    withSend((real) => async (call) => {
      const answer = await real(call);
      if (!("json" in answer) || typeof answer.json === "function" || !answer.json.duplicate) return answer;
      throw new MeshError("idempotency_key_reused", "", {
        details: { conflict: "outbox_pending_fingerprint_mismatch" },
      });
    }),
    /honest retry .* was told/,
  ],
  [
    "calls a message done before the broker has it",
    { ...soundEngine, outbox: (db) => new HastyOutbox(db) },
    /is done, and the broker does not hold it/,
  ],
  [
    "sends the last first",
    { ...soundEngine, outbox: (db) => new UnorderedOutbox(db) },
    /arrived after one that was accepted later/,
  ],
  [
    "computes fingerprints anew",
    { ...soundEngine, outbox: (db) => new RecomputingOutbox(db) },
    /has a second fingerprint/,
  ],
  [
    "forgets what was on the wire",
    { ...soundEngine, outbox: (db) => new StuckOutbox(db) },
    /is still inflight/,
  ],
  [
    "accepts one id twice",
    { ...soundEngine, store: (db) => new RenamingStore(db) },
    /has a second acceptance/,
  ],
  [
    "acknowledges what it does not store",
    { ...soundEngine, inbox: (db) => new ForgetfulInbox(db) },
    /is done, and never arrived/,
  ],
  ["stores what it has already", { ...soundEngine, inbox: (db) => new GullibleInbox(db) }, /arrived twice/],
  ["does not seal", { ...soundEngine, sealer: () => new OpenSealer() }, /holds plaintext in base64/],
  ["gives its key away", { ...soundEngine, sealer: () => new LeakySealer() }, /holds a secret key/],
];

describe("an engine is caught that", () => {
  test.each(broken)("%s", async (_what, engine, complaint) => {
    const complaints: string[] = [];
    for (let seed = 1; seed <= 25 && complaints.length === 0; seed++) {
      await simulate(seed, engine).catch((error: unknown) => {
        if (!(error instanceof SimulationFailure)) throw error;
        complaints.push(error.message);
      });
    }
    expect(complaints.join("\n")).toMatch(complaint);
  });
});
