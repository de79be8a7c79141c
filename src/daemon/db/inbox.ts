/**
 * The inbox: every message that arrived, once per (mesh, sender, client_message_id), in the order of arrival (`seq`), and
 * apart from it the pushes that could not be opened or believed. Those take no dedupe key and are tried again later.
 */
import type { Database } from "bun:sqlite";
import { type Pruned, pruneEach } from "~/daemon/db/pruned";
import { RowCount } from "~/daemon/db/row-count";
import { migrate } from "~/disk/sqlite";
import type { Letter, ProblemReason } from "~/identity/envelope";
import { problemsMax } from "~/wire/limits";
import type { Priority } from "~/wire/text";

const schema = [
  `CREATE TABLE inbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    mesh TEXT NOT NULL,
    sender_member_pubkey TEXT NOT NULL,
    sender_name TEXT NOT NULL,
    client_message_id TEXT NOT NULL,
    broker_message_id TEXT NOT NULL,
    topic TEXT,
    body TEXT,
    body_version INTEGER NOT NULL,
    meta TEXT,
    reply_to_id TEXT,
    reply_to_sender TEXT,
    agent TEXT,
    expects_reply INTEGER NOT NULL DEFAULT 0,
    priority TEXT NOT NULL,
    sent_at TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    read_at INTEGER,
    UNIQUE (mesh, sender_member_pubkey, client_message_id)
  );
  CREATE INDEX inbox_unread ON inbox (seq) WHERE read_at IS NULL;
  CREATE INDEX inbox_client_message_id ON inbox (client_message_id);
  CREATE TABLE problems (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    mesh TEXT NOT NULL,
    broker_message_id TEXT NOT NULL,
    sender_pubkey TEXT,
    sender_name TEXT,
    client_message_id TEXT,
    reason TEXT NOT NULL,
    push TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    UNIQUE (mesh, broker_message_id)
  );
  CREATE INDEX problems_by_sender ON problems (mesh, sender_pubkey, seq) WHERE reason = 'sender_not_admitted';`,
  // What was read and still has its contents, by when it was read.
  "CREATE INDEX inbox_whole ON inbox (read_at) WHERE read_at IS NOT NULL AND body IS NOT NULL",
  // Where nobody ever marks a message as read, their number grows for years, and every look at the daemon's health asks for it.
  `CREATE TABLE tally (unread INTEGER NOT NULL);
  INSERT INTO tally SELECT count(*) FROM inbox WHERE read_at IS NULL;
  CREATE TRIGGER message_arrived AFTER INSERT ON inbox WHEN new.read_at IS NULL
  BEGIN UPDATE tally SET unread = unread + 1; END;
  CREATE TRIGGER message_read AFTER UPDATE OF read_at ON inbox WHEN old.read_at IS NULL AND new.read_at IS NOT NULL
  BEGIN UPDATE tally SET unread = unread - 1; END;`,
] as const;

export const migrateInbox = (db: Database): void => migrate(db, schema);
export const inboxSchemaVersion = schema.length;

export interface InboxRow {
  seq: number;
  id: string;
  mesh: string;
  sender_member_pubkey: string;
  sender_name: string;
  client_message_id: string;
  broker_message_id: string;
  topic: string | null;
  /** Cleared some time after the message was read, with meta. */
  body: string | null;
  body_version: number;
  meta: string | null;
  reply_to_id: string | null;
  reply_to_sender: string | null;
  agent: string | null;
  expects_reply: number;
  priority: Priority;
  sent_at: string;
  received_at: number;
  read_at: number | null;
}

export interface ProblemRow {
  seq: number;
  id: string;
  mesh: string;
  broker_message_id: string;
  sender_pubkey: string | null;
  sender_name: string | null;
  client_message_id: string | null;
  reason: ProblemReason;
  /** The frame as it came, ciphertext included: what a later try opens. */
  push: string;
  received_at: number;
}

export interface ArrivedLetter {
  id: string;
  letter: Letter;
  bodyVersion: number;
  senderName: string;
  brokerMessageId: string;
  priority: Priority;
  receivedAt: number;
}

export interface InboxFilter {
  afterSeq?: number;
  /** The newest rows instead of the oldest. */
  newest?: boolean;
  from?: readonly string[];
  topic?: string;
  mesh?: string;
  unread?: boolean;
  limit: number;
}

type Bound = string | number | null;

export class Inbox {
  readonly db: Database;
  readonly #rows: RowCount;

  constructor(db: Database) {
    this.db = db;
    this.#rows = new RowCount(db, "inbox");
  }

  /** For a store in the place of another one: the place of every row that comes is beyond `seq`. */
  beginAfter(seq: number): void {
    this.db.run("DELETE FROM sqlite_sequence WHERE name = 'inbox' AND seq < ?", [seq]);
    this.db.run(
      "INSERT INTO sqlite_sequence (name, seq) SELECT 'inbox', ? WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'inbox')",
      [seq],
    );
  }

  /** The place of the new row, or undefined when this message is here already. */
  insert(arrived: ArrivedLetter): number | undefined {
    const { letter } = arrived;
    const row = this.db
      .query<{ seq: number }, Bound[]>(
        `INSERT INTO inbox (id, mesh, sender_member_pubkey, sender_name, client_message_id, broker_message_id, body,
           body_version, meta, reply_to_id, reply_to_sender, agent, expects_reply, priority, sent_at, received_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (mesh, sender_member_pubkey, client_message_id) DO NOTHING RETURNING seq`,
      )
      .get(
        arrived.id,
        letter.meshId,
        letter.from,
        arrived.senderName,
        letter.id,
        arrived.brokerMessageId,
        letter.body,
        arrived.bodyVersion,
        letter.meta === null ? null : JSON.stringify(letter.meta),
        letter.replyTo?.id ?? null,
        letter.replyTo?.sender ?? null,
        letter.agent,
        letter.expectsReply ? 1 : 0,
        arrived.priority,
        letter.sentAt,
        arrived.receivedAt,
      );
    return row?.seq;
  }

  /** Keeps a push that could not become a message, within `problemsMax`; false when it is kept already. */
  insertProblem(problem: Omit<ProblemRow, "seq">): boolean {
    const { changes } = this.db
      .query(
        `INSERT INTO problems (id, mesh, broker_message_id, sender_pubkey, sender_name, client_message_id, reason, push, received_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (mesh, broker_message_id) DO UPDATE SET reason = excluded.reason
         WHERE reason <> excluded.reason`,
      )
      .run(
        problem.id,
        problem.mesh,
        problem.broker_message_id,
        problem.sender_pubkey,
        problem.sender_name,
        problem.client_message_id,
        problem.reason,
        problem.push,
        problem.received_at,
      );
    if (changes > 0)
      this.db.query("DELETE FROM problems WHERE seq <= (SELECT max(seq) FROM problems) - ?").run(problemsMax);
    return changes > 0;
  }

  problems(limit: number): ProblemRow[] {
    return this.db.query<ProblemRow, [number]>("SELECT * FROM problems ORDER BY seq LIMIT ?").all(limit);
  }

  problemsAfter(seq: number, mesh: string, limit: number): ProblemRow[] {
    return this.db
      .query<ProblemRow, [number, string, number]>(
        "SELECT * FROM problems WHERE seq > ? AND mesh = ? ORDER BY seq LIMIT ?",
      )
      .all(seq, mesh, limit);
  }

  /** What this key wrote while nothing proved it to be a member, oldest first. */
  waitingForSender(mesh: string, pubkey: string): ProblemRow[] {
    return this.db
      .query<ProblemRow, [string, string]>(
        "SELECT * FROM problems WHERE mesh = ? AND sender_pubkey = ? AND reason = 'sender_not_admitted' ORDER BY seq",
      )
      .all(mesh, pubkey);
  }

  removeProblem(seq: number): void {
    this.db.query("DELETE FROM problems WHERE seq = ?").run(seq);
  }

  problemCount(): number {
    return this.db.query<{ n: number }, []>("SELECT count(*) AS n FROM problems").get()?.n ?? 0;
  }

  unreadCount(): number {
    const tally = this.db.query<{ unread: number }, []>("SELECT unread FROM tally").get();
    if (tally === null) throw new Error("the tally has no row");
    return tally.unread;
  }

  /** All messages, read ones and unread ones. */
  count(): number {
    return this.#rows.total;
  }

  lastSeq(): number {
    return this.db.query<{ seq: number | null }, []>("SELECT max(seq) AS seq FROM inbox").get()?.seq ?? 0;
  }

  /** The messages, from any sender, that have this client_message_id. */
  byClientMessageId(id: string): InboxRow[] {
    return this.db
      .query<InboxRow, [string]>("SELECT * FROM inbox WHERE client_message_id = ? ORDER BY seq")
      .all(id);
  }

  /** Keys that wrote under this name, in any case. */
  sendersNamed(name: string): string[] {
    return this.db
      .query<{ key: string }, [string]>(
        "SELECT DISTINCT sender_member_pubkey AS key FROM inbox WHERE sender_name = ? COLLATE NOCASE",
      )
      .all(name)
      .map((row) => row.key);
  }

  seqOf(id: string): number | undefined {
    return this.db.query<{ seq: number }, [string]>("SELECT seq FROM inbox WHERE id = ?").get(id)?.seq;
  }

  /** In order of arrival, whichever end of the store they come from. */
  list(filter: InboxFilter): InboxRow[] {
    const conditions: string[] = [];
    const values: Bound[] = [];
    const where = (condition: string, ...bound: Bound[]) => {
      conditions.push(condition);
      values.push(...bound);
    };
    if (filter.afterSeq !== undefined) where("seq > ?", filter.afterSeq);
    if (filter.from !== undefined)
      where(`sender_member_pubkey IN (${filter.from.map(() => "?").join(", ")})`, ...filter.from);
    if (filter.topic !== undefined) where("topic = ?", filter.topic);
    if (filter.mesh !== undefined) where("mesh = ?", filter.mesh);
    if (filter.unread !== undefined) where(filter.unread ? "read_at IS NULL" : "read_at IS NOT NULL");
    const condition = conditions.length === 0 ? "" : `WHERE ${conditions.join(" AND ")}`;
    const order = filter.newest === true ? "DESC" : "ASC";
    const rows = this.db
      .query<InboxRow, Bound[]>(`SELECT * FROM inbox ${condition} ORDER BY seq ${order} LIMIT ?`)
      .all(...values, filter.limit);
    return filter.newest === true ? rows.reverse() : rows;
  }

  /** True when the message exists; reading it twice keeps the first time. */
  markRead(id: string, nowMs: number): boolean {
    return (
      this.db.query("UPDATE inbox SET read_at = coalesce(read_at, ?) WHERE id = ?").run(nowMs, id).changes > 0
    );
  }

  /**
   * Takes the contents (body, meta) from messages that were read before `beforeMs`, as `Outbox.prune` does. What nobody has read
   * keeps its own, and every row stays: it is what keeps a message from being shown twice.
   */
  prune(beforeMs: number, limit: number, isOver: () => boolean): Pruned {
    const due = this.db
      .query<{ seq: number }, [number, number]>(
        "SELECT seq FROM inbox WHERE read_at IS NOT NULL AND body IS NOT NULL AND read_at < ? ORDER BY read_at LIMIT ?",
      )
      .all(beforeMs, limit);
    const clear = this.db.query("UPDATE inbox SET body = NULL, meta = NULL WHERE seq = ?");
    return pruneEach(due, (seq) => clear.run(seq), limit, isOver);
  }
}
