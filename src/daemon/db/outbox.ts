/**
 * The outbox table: every message that this host accepted for sending, and what became of it. An id once written is
 * never released and no row is ever deleted. Order is `seq`; ids only name. Functions here keep, they do not decide.
 */
import type { Database } from "bun:sqlite";
import { type Pruned, pruneEach } from "~/daemon/db/pruned";
import { RowCount } from "~/daemon/db/row-count";
import { migrate, type SchemaStep } from "~/disk/sqlite";
import type { OutboxCounts, OutboxStatus } from "~/wire/ipc";
import { decodeSealed, type Sealed, type SealedText } from "~/wire/sealed";
import type { Priority } from "~/wire/text";

const schema = [
  `CREATE TABLE outbox (
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
  CREATE INDEX outbox_superseded ON outbox (superseded_by) WHERE superseded_by IS NOT NULL;`,
  // Most rows are done: those are found by their ids or the newest first, and need no index by status.
  `DROP INDEX outbox_status;
  DROP INDEX outbox_pending;
  CREATE INDEX outbox_pending ON outbox (mesh, target_spec, seq) WHERE status = 'pending';
  CREATE INDEX outbox_dead ON outbox (seq) WHERE status = 'dead';
  CREATE INDEX outbox_aborted ON outbox (seq) WHERE status = 'aborted';`,
  storeSealedAsBytes,
  // What has ended and still has its contents, by when it ended. A row enters with the answer to it, not when it is accepted.
  `CREATE INDEX outbox_whole ON outbox (coalesce(aborted_at, delivered_at))
   WHERE status IN ('done', 'aborted') AND payload IS NOT NULL`,
] as const satisfies SchemaStep[];

/** What was sealed used to be kept as it goes on the wire, in base64, a third longer than its bytes. */
function storeSealedAsBytes(db: Database): void {
  const texts = db.query<{ seq: number } & SealedText, []>(
    "SELECT seq, nonce, ciphertext FROM outbox WHERE typeof(ciphertext) = 'text' LIMIT 1000",
  );
  const update = db.query("UPDATE outbox SET nonce = ?, ciphertext = ? WHERE seq = ?");
  for (let rows = texts.all(); rows.length > 0; rows = texts.all()) {
    for (const row of rows) {
      const { nonce, ciphertext } = decodeSealed(row);
      update.run(nonce, ciphertext, row.seq);
    }
  }
}

export const migrateOutbox = (db: Database): void => migrate(db, schema);
export const outboxSchemaVersion = schema.length;

export interface OutboxRow {
  seq: number;
  id: string;
  client_message_id: string;
  request_fingerprint: Uint8Array;
  /** The message text; cleared some time after the row has ended, with meta, nonce and ciphertext. */
  payload: string | null;
  enqueued_at: number;
  attempts: number;
  next_attempt_at: number;
  status: OutboxStatus;
  last_error: string | null;
  first_sent_at: number | null;
  /** When the broker's acceptance was learnt. */
  delivered_at: number | null;
  broker_message_id: string | null;
  aborted_at: number | null;
  aborted_by: string | null;
  superseded_by: string | null;
  mesh: string | null;
  /** The mesh as the caller named it; null when it named none. */
  mesh_text: string | null;
  to_text: string | null;
  destination_kind: string | null;
  destination_ref: string | null;
  target_spec: string | null;
  priority: Priority;
  sender_pubkey: string | null;
  body_version: number | null;
  nonce: Uint8Array | null;
  ciphertext: Uint8Array | null;
  wire_fingerprint: string | null;
  reply_to_id: string | null;
  reply_to_sender: string | null;
  meta: string | null;
  agent: string | null;
  expects_reply: number;
}

export type NewOutboxRow = Pick<
  OutboxRow,
  | "id"
  | "client_message_id"
  | "request_fingerprint"
  | "payload"
  | "enqueued_at"
  | "mesh"
  | "mesh_text"
  | "to_text"
  | "destination_kind"
  | "destination_ref"
  | "target_spec"
  | "priority"
  | "sender_pubkey"
  | "body_version"
  | "nonce"
  | "ciphertext"
  | "wire_fingerprint"
  | "reply_to_id"
  | "reply_to_sender"
  | "meta"
  | "agent"
  | "expects_reply"
>;

/** A row as it goes on the wire. */
export type SendableRow = Pick<
  OutboxRow,
  "seq" | "client_message_id" | "enqueued_at" | "attempts" | "next_attempt_at" | "first_sent_at" | "priority"
> &
  Sealed & {
    target_spec: string;
    wire_fingerprint: string | null;
    body_version: number;
    reply_to_id: string | null;
  };

const newColumns = [
  "id",
  "client_message_id",
  "request_fingerprint",
  "payload",
  "enqueued_at",
  "mesh",
  "mesh_text",
  "to_text",
  "destination_kind",
  "destination_ref",
  "target_spec",
  "priority",
  "sender_pubkey",
  "body_version",
  "nonce",
  "ciphertext",
  "wire_fingerprint",
  "reply_to_id",
  "reply_to_sender",
  "meta",
  "agent",
  "expects_reply",
] as const satisfies (keyof NewOutboxRow)[];

const insertSql = `INSERT INTO outbox (${newColumns.join(", ")}, status) VALUES (${newColumns.map(() => "?").join(", ")}, 'pending')
  ON CONFLICT (client_message_id) DO NOTHING`;
const sendableColumns =
  "seq, client_message_id, enqueued_at, attempts, next_attempt_at, first_sent_at, priority, target_spec, nonce, ciphertext, wire_fingerprint, body_version, reply_to_id";

/** What a mesh has still to send, each status by the index that it has. */
const unfinished = `SELECT * FROM outbox WHERE mesh = ?1 AND status = 'pending'
  UNION ALL SELECT * FROM outbox WHERE mesh = ?1 AND status = 'inflight'`;

/** How the last error of a message begins that ended because its row was damaged. */
export const damagedMark = "damaged";

type Bound = string | number | bigint | boolean | null | Uint8Array;

export interface OutboxFilter {
  statuses?: readonly OutboxStatus[];
  /** Pending rows that were tried before. */
  retrying?: boolean;
  destination?: string;
  /** Rows before this place: the list runs from the newest to the oldest. */
  beforeSeq?: number;
  limit: number;
}

export class Outbox {
  readonly db: Database;
  readonly #rows: RowCount;

  constructor(db: Database) {
    this.db = db;
    this.#rows = new RowCount(db, "outbox");
  }

  /** Returns the row's place, or undefined when its client_message_id is taken. */
  insert(row: NewOutboxRow): number | undefined {
    const values = newColumns.map((column): Bound => row[column]);
    const { changes, lastInsertRowid } = this.db.query<unknown, Bound[]>(insertSql).run(...values);
    return changes === 0 ? undefined : Number(lastInsertRowid);
  }

  byClientMessageId(id: string): OutboxRow | null {
    return this.db.query<OutboxRow, [string]>("SELECT * FROM outbox WHERE client_message_id = ?").get(id);
  }

  byId(id: string): OutboxRow | null {
    return this.db.query<OutboxRow, [string]>("SELECT * FROM outbox WHERE id = ?").get(id);
  }

  /** The first rows of a lane that wait to be sent, oldest first. */
  pendingOfLane(mesh: string, targetSpec: string, limit: number): SendableRow[] {
    return this.db
      .query<SendableRow, [string, string, number]>(
        `SELECT ${sendableColumns} FROM outbox
         WHERE mesh = ? AND target_spec = ? AND status = 'pending' ORDER BY seq LIMIT ?`,
      )
      .all(mesh, targetSpec, limit);
  }

  /** Every lane of a mesh that has rows waiting. */
  lanesWithPending(mesh: string): string[] {
    return this.db
      .query<{ target_spec: string }, [string]>(
        `SELECT target_spec FROM outbox WHERE mesh = ? AND status = 'pending' AND target_spec IS NOT NULL
         GROUP BY target_spec ORDER BY MIN(seq)`,
      )
      .all(mesh)
      .map((row) => row.target_spec);
  }

  markInflight(seq: number, nowMs: number): void {
    this.db
      .query(
        "UPDATE outbox SET status = 'inflight', first_sent_at = coalesce(first_sent_at, ?) WHERE seq = ?",
      )
      .run(nowMs, seq);
  }

  markDone(seq: number, brokerMessageId: string, nowMs: number): void {
    this.db
      .query(
        "UPDATE outbox SET status = 'done', broker_message_id = ?, delivered_at = ?, last_error = NULL WHERE seq = ?",
      )
      .run(brokerMessageId, nowMs, seq);
  }

  markDead(seq: number, lastError: string): void {
    this.db.query("UPDATE outbox SET status = 'dead', last_error = ? WHERE seq = ?").run(lastError, seq);
  }

  /** Back in the queue, to be tried again at `nextAttemptAt`. */
  markPending(seq: number, attempts: number, nextAttemptAt: number, lastError: string | null): void {
    this.db
      .query(
        "UPDATE outbox SET status = 'pending', attempts = ?, next_attempt_at = ?, last_error = ? WHERE seq = ?",
      )
      .run(attempts, nextAttemptAt, lastError, seq);
  }

  noteBrokerMessageId(seq: number, brokerMessageId: string): void {
    this.db.query("UPDATE outbox SET broker_message_id = ? WHERE seq = ?").run(brokerMessageId, seq);
  }

  markAborted(seq: number, by: string, supersededBy: string, nowMs: number): void {
    this.db
      .query(
        "UPDATE outbox SET status = 'aborted', aborted_at = ?, aborted_by = ?, superseded_by = ? WHERE seq = ?",
      )
      .run(nowMs, by, supersededBy, seq);
  }

  /** Retires what waits or is on its way, except what the keys in `except` sealed. Returns how many rows that were. */
  abortUnfinished(by: string, except: readonly string[], nowMs: number): number {
    return this.db
      .query(
        `UPDATE outbox SET status = 'aborted', aborted_at = ?1, aborted_by = ?2
         WHERE status IN ('pending', 'inflight')
           AND (sender_pubkey IS NULL OR sender_pubkey NOT IN (SELECT value FROM json_each(?3)))`,
      )
      .run(nowMs, by, JSON.stringify(except)).changes;
  }

  /** What was in flight goes back in the queue: of one mesh when its link closed, of all after a crash. */
  putBackInflight(mesh?: string): number {
    if (mesh === undefined)
      return this.db.query("UPDATE outbox SET status = 'pending' WHERE status = 'inflight'").run().changes;
    return this.db
      .query("UPDATE outbox SET status = 'pending' WHERE mesh = ? AND status = 'inflight'")
      .run(mesh).changes;
  }

  /** Unfinished rows of a mesh that were sealed with another key than `pubkey`. */
  sealedByOtherKey(mesh: string, pubkey: string): OutboxRow[] {
    return this.db
      .query<OutboxRow, [string, string]>(
        `SELECT * FROM (${unfinished}) WHERE sender_pubkey <> ?2 ORDER BY seq`,
      )
      .all(mesh, pubkey);
  }

  replaceSeal(
    seq: number,
    seal: Pick<OutboxRow, "sender_pubkey" | "body_version" | "nonce" | "ciphertext" | "wire_fingerprint">,
  ): void {
    this.db
      .query(
        "UPDATE outbox SET sender_pubkey = ?, body_version = ?, nonce = ?, ciphertext = ?, wire_fingerprint = ? WHERE seq = ?",
      )
      .run(seal.sender_pubkey, seal.body_version, seal.nonce, seal.ciphertext, seal.wire_fingerprint, seq);
  }

  /**
   * Takes the contents (text, meta, sealed form) from rows that ended before `beforeMs`, the oldest first: at most `limit` of them,
   * and none after `isOver` said so. The rows, their ids and fingerprints stay for good.
   */
  prune(beforeMs: number, limit: number, isOver: () => boolean): Pruned {
    const due = this.db
      .query<{ seq: number }, [number, number]>(
        `SELECT seq FROM outbox WHERE status IN ('done', 'aborted') AND payload IS NOT NULL
         AND coalesce(aborted_at, delivered_at) < ? ORDER BY coalesce(aborted_at, delivered_at) LIMIT ?`,
      )
      .all(beforeMs, limit);
    const clear = this.db.query(
      "UPDATE outbox SET payload = NULL, meta = NULL, nonce = NULL, ciphertext = NULL WHERE seq = ?",
    );
    return pruneEach(due, (seq) => clear.run(seq), limit, isOver);
  }

  /** Meshes that unfinished rows belong to. */
  meshesWithUnfinished(): string[] {
    return this.db
      .query<{ mesh: string }, []>(
        `SELECT mesh FROM outbox WHERE status = 'pending' AND mesh IS NOT NULL
         UNION SELECT mesh FROM outbox WHERE status = 'inflight' AND mesh IS NOT NULL`,
      )
      .all()
      .map((row) => row.mesh);
  }

  unfinishedOfMesh(mesh: string): OutboxRow[] {
    return this.db.query<OutboxRow, [string]>(`SELECT * FROM (${unfinished}) ORDER BY seq`).all(mesh);
  }

  /** Most rows are done, and those are not counted one by one. */
  counts(): OutboxCounts {
    const counted = this.db
      .query<Omit<OutboxCounts, "done">, []>(
        `SELECT (SELECT count(*) FROM outbox WHERE status = 'pending') AS pending,
                (SELECT count(*) FROM outbox WHERE status = 'inflight') AS inflight,
                (SELECT count(*) FROM outbox WHERE status = 'dead') AS dead,
                (SELECT count(*) FROM outbox WHERE status = 'aborted') AS aborted`,
      )
      .get();
    if (counted === null) throw new Error("a count has no row");
    const { pending, inflight, dead, aborted } = counted;
    return { pending, inflight, done: this.#rows.total - pending - inflight - dead - aborted, dead, aborted };
  }

  /** The first waiting row of each lane, the oldest first. */
  laneHeads(): Pick<OutboxRow, "mesh" | "to_text" | "enqueued_at" | "last_error">[] {
    // With min() the other columns are those of the row that has it (https://www.sqlite.org/lang_select.html#bareagg).
    return this.db
      .query<Pick<OutboxRow, "mesh" | "to_text" | "enqueued_at" | "last_error">, []>(
        `SELECT mesh, to_text, enqueued_at, last_error, min(seq) FROM outbox
         WHERE status = 'pending' AND target_spec IS NOT NULL GROUP BY mesh, target_spec ORDER BY enqueued_at`,
      )
      .all();
  }

  list(filter: OutboxFilter): OutboxRow[] {
    const conditions: string[] = [];
    const values: Bound[] = [];
    if (filter.statuses !== undefined) {
      // Literals, since an index of one status serves no parameter.
      conditions.push(`(${filter.statuses.map((status) => `status = '${status}'`).join(" OR ")})`);
    }
    if (filter.retrying === true) conditions.push("status = 'pending' AND attempts > 0");
    if (filter.destination !== undefined) {
      conditions.push("(destination_ref = ? OR to_text = ? COLLATE NOCASE)");
      values.push(filter.destination, filter.destination);
    }
    if (filter.beforeSeq !== undefined) {
      conditions.push("seq < ?");
      values.push(filter.beforeSeq);
    }
    const where = conditions.length === 0 ? "" : `WHERE ${conditions.join(" AND ")}`;
    return this.db
      .query<OutboxRow, Bound[]>(`SELECT * FROM outbox ${where} ORDER BY seq DESC LIMIT ?`)
      .all(...values, filter.limit);
  }

  /** The row that `id` replaced, if it came from a requeue. */
  supersededBy(id: string): OutboxRow | null {
    return this.db.query<OutboxRow, [string]>("SELECT * FROM outbox WHERE superseded_by = ?").get(id);
  }
}
