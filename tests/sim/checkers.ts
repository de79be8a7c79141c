/**
 * What must hold whatever happens. Each checker looks from outside: at frames, at answers, at what the databases hold. None
 * uses the code that it judges.
 */
import type { SimBroker, SimDaemon } from "./actors";

export class Violation extends Error {}

/** Occurs in every body and nowhere else. */
export const marker = "PLAINTEXT";

/** What a caller asked for under one id, and what it was told. */
interface Claim {
  /** The contents that may hold the id: one, once somebody was told "accepted"; several while an answer is missing. */
  contents: Map<string, Content>;
  settled: boolean;
  retired: boolean;
}

export interface Content {
  to: string;
  body: string;
  priority: string;
}

export const contentKey = (content: Content): string =>
  JSON.stringify([content.to, content.body, content.priority]);

export type Told =
  | { kind: "accepted" }
  | { kind: "conflict"; reason: string }
  | { kind: "failed"; code: string }
  | { kind: "nothing" };

/** Refusals that a fault of the world explains; every other refusal of a well-formed send is a violation. */
const excusable = new Set([
  "storage_full",
  "storage_failed",
  "directory_unavailable",
  "daemon_stopping",
  "daemon_busy",
]);

export class Checkers {
  /** By daemon and id. */
  readonly claims = new Map<string, Claim>();
  readonly #fingerprints = new Map<string, string>();
  readonly #messageIds = new Map<string, string>();
  readonly #secrets: readonly string[];
  frames = 0;
  answers = 0;

  constructor(secrets: readonly string[]) {
    this.#secrets = secrets;
  }

  // ── Frames: one fingerprint per id, one acceptance per id, nothing readable ───────────────────────────────────────

  frame(text: string, from: "daemon" | "broker", daemon: string): void {
    this.frames++;
    if (text.includes(marker)) throw new Violation(`a frame of ${daemon} holds plaintext`);
    for (const secret of this.#secrets)
      if (text.includes(secret)) throw new Violation(`a frame of ${daemon} holds a secret key`);
    const frame: Record<string, unknown> = JSON.parse(text);
    if (typeof frame.ciphertext === "string" && Buffer.from(frame.ciphertext, "base64").includes(marker)) {
      throw new Violation(`a frame of ${daemon} holds plaintext in base64`);
    }
    if (from === "daemon" && frame.type === "send") {
      this.#mustStay(
        this.#fingerprints,
        `${daemon} ${frame.id}`,
        String(frame.request_fingerprint),
        "fingerprint",
      );
    }
    if (
      from === "broker" &&
      frame.type === "ack" &&
      (frame.code === "created" || frame.code === "duplicate")
    ) {
      this.#mustStay(this.#messageIds, `${daemon} ${frame.id}`, String(frame.messageId), "acceptance");
    }
  }

  #mustStay(known: Map<string, string>, key: string, value: string, what: string): void {
    const before = known.get(key);
    if (before !== undefined && before !== value)
      throw new Violation(`${key} has a second ${what}: ${before}, then ${value}`);
    known.set(key, value);
  }

  // ── Answers: only what the table allows ───────────────────────────────────────────────────────────────────────────

  /** A caller asks: from now on the id may be taken by this content. */
  asked(daemon: string, id: string, content: Content): void {
    const key = `${daemon} ${id}`;
    const claim = this.claims.get(key) ?? { contents: new Map(), settled: false, retired: false };
    if (!claim.settled) claim.contents.set(contentKey(content), content);
    this.claims.set(key, claim);
  }

  told(daemon: SimDaemon, id: string, content: Content, told: Told): void {
    this.answers++;
    const name = daemon.person.name;
    const claim = this.claims.get(`${name} ${id}`);
    if (claim === undefined) throw new Violation(`an answer to a send that nobody made: ${name} ${id}`);
    const key = contentKey(content);
    const mine = claim.contents.has(key);
    switch (told.kind) {
      case "nothing":
        return;
      case "failed":
        if (!excusable.has(told.code)) throw new Violation(`${name} ${id} was refused with ${told.code}`);
        return;
      case "accepted": {
        if (!mine) throw new Violation(`${name} ${id} is held by another content, and this one was accepted`);
        claim.contents = new Map([[key, content]]);
        claim.settled = true;
        this.isHeld(daemon, id, content);
        return;
      }
      case "conflict": {
        const match = told.reason.endsWith("_fingerprint_match");
        if (match) {
          if (!/^outbox_(dead|aborted)_/.test(told.reason) || !mine)
            throw new Violation(`${name} ${id} was told ${told.reason}`);
          return;
        }
        if (mine && claim.contents.size === 1)
          throw new Violation(`an honest retry of ${name} ${id} was told ${told.reason}`);
      }
    }
  }

  /** An operator requeued: the new id stands for the old content. */
  requeued(daemon: SimDaemon, oldId: string, newId: string): void {
    const name = daemon.person.name;
    const row = daemon.outbox.byClientMessageId(newId);
    const claim = this.claims.get(`${name} ${oldId}`);
    if (row === null) throw new Violation(`the requeue of ${name} ${oldId} left no row ${newId}`);
    if (claim !== undefined) claim.retired = true;
    const content = { to: row.to_text ?? "", body: row.payload ?? "", priority: row.priority };
    this.claims.set(`${name} ${newId}`, {
      contents: new Map([[contentKey(content), content]]),
      settled: true,
      retired: false,
    });
  }

  // ── Stores ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** An accepted message is on disk with what was asked. */
  isHeld(daemon: SimDaemon, id: string, content: Content): void {
    const row = daemon.outbox.byClientMessageId(id);
    const where = `${daemon.person.name} ${id}`;
    if (row === null) throw new Violation(`${where} was accepted, and there is no row`);
    if (row.payload !== content.body || row.to_text !== content.to || row.priority !== content.priority) {
      throw new Violation(`${where} was accepted, and its row holds something else`);
    }
  }

  /** May be asked at any time: whoever says `done` has a broker that holds it, and arrivals are single and in order. */
  always(daemons: readonly SimDaemon[], broker: SimBroker): void {
    for (const daemon of daemons) {
      this.#doneIsHeldByBroker(daemon, broker);
      this.#arrivals(daemon, daemons);
    }
  }

  #doneIsHeldByBroker(daemon: SimDaemon, broker: SimBroker): void {
    const done = daemon.outboxDb
      .query<{ client_message_id: string; broker_message_id: string | null }, []>(
        "SELECT client_message_id, broker_message_id FROM outbox WHERE status = 'done'",
      )
      .all();
    const held = broker.db.query<{ client_message_id: string }, [string]>(
      "SELECT client_message_id FROM messages WHERE message_id = ?",
    );
    for (const row of done) {
      const found = held.get(row.broker_message_id ?? "");
      if (found?.client_message_id !== row.client_message_id) {
        throw new Violation(
          `${daemon.person.name} ${row.client_message_id} is done, and the broker does not hold it`,
        );
      }
    }
  }

  #arrivals(recipient: SimDaemon, daemons: readonly SimDaemon[]): void {
    const rows = recipient.inboxDb
      .query<{ sender_member_pubkey: string; client_message_id: string; body: string }, []>(
        "SELECT sender_member_pubkey, client_message_id, body FROM inbox ORDER BY seq",
      )
      .all();
    const seen = new Set<string>();
    const lastSeq = new Map<string, number>();
    for (const row of rows) {
      const sender = daemons.find((daemon) => daemon.person.keys.publicKey === row.sender_member_pubkey);
      if (sender === undefined) throw new Violation("a message arrived from nobody");
      const where = `${sender.person.name} ${row.client_message_id} at ${recipient.person.name}`;
      const origin = sender.outboxDb
        .query<{ seq: number; payload: string }, [string]>(
          "SELECT seq, payload FROM outbox WHERE client_message_id = ?",
        )
        .get(row.client_message_id);
      if (origin === null) throw new Violation(`${where} arrived, and was never accepted`);
      if (origin.payload !== row.body) throw new Violation(`${where} arrived with another content`);
      const key = `${sender.person.name} ${row.client_message_id}`;
      if (seen.has(key)) throw new Violation(`${where} arrived twice`);
      seen.add(key);
      const before = lastSeq.get(sender.person.name) ?? 0;
      if (origin.seq < before) throw new Violation(`${where} arrived after one that was accepted later`);
      lastSeq.set(sender.person.name, origin.seq);
    }
  }

  /** When every fault has healed and time has passed: nothing waits, nothing is missing. */
  finally(daemons: readonly SimDaemon[], broker: SimBroker, removed: ReadonlySet<string>): void {
    this.always(daemons, broker);
    for (const daemon of daemons) {
      if (removed.has(daemon.person.name)) continue;
      const name = daemon.person.name;
      for (const row of daemon.outbox.list({ limit: 1_000_000 })) {
        const where = `${name} ${row.client_message_id}`;
        if (row.status === "pending" || row.status === "inflight")
          throw new Violation(`${where} is still ${row.status}`);
        if (row.status === "dead" && !removed.has(row.to_text ?? ""))
          throw new Violation(`${where} ended as dead: ${row.last_error}`);
        if (row.status !== "done" || removed.has(row.to_text ?? "")) continue;
        const recipient = daemons.find((other) => other.person.name === row.to_text);
        const arrived = recipient?.inbox.byClientMessageId(row.client_message_id) ?? [];
        if (!arrived.some((copy) => copy.sender_member_pubkey === daemon.person.keys.publicKey)) {
          throw new Violation(`${where} is done, and never arrived at ${row.to_text}`);
        }
      }
    }
    for (const [key, claim] of this.claims) {
      const [name, id] = key.split(" ");
      const daemon = daemons.find((other) => other.person.name === name);
      const [content] = claim.contents.values();
      if (claim.settled && daemon !== undefined && id !== undefined && content !== undefined)
        this.isHeld(daemon, id, content);
    }
  }
}
