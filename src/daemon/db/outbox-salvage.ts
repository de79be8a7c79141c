/**
 * Takes the rows of a damaged outbox over into a new one. A row is taken over as it is when every column fits; the fingerprint of
 * the request tells whether its text is the one that was accepted, and the seal whether it can still be opened at the other end. Of
 * a row that is lost otherwise, the id often stands in an index or in what is left of the row: it is kept, as a message that
 * failed, so that it stays used. Ids of which nothing is left can only be counted.
 */
import type { Database } from "bun:sqlite";
import { decodeTime } from "ulidx";
import * as v from "valibot";
import { damagedMark } from "~/daemon/db/outbox";
import type { DamagedFile, Found, PageImage, Value } from "~/disk/pages";
import { seedOf } from "~/identity/keys";
import type { Sealer } from "~/identity/sealer";
import { canonicalMeta, envelopeVersion, requestFingerprint, wireFingerprint } from "~/wire/fingerprint";
import { type OutboxStatus, outboxStatuses } from "~/wire/ipc";
import type { OutboxSalvage } from "~/wire/recovered";
import { decodeSealed } from "~/wire/sealed";
import { ClientMessageId, JsonObjectText, Priority } from "~/wire/text";

export interface SalvageKeys {
  sealer: Sealer;
  /** By mesh id. */
  meshes: ReadonlyMap<string, { pubkey: string; secretKey: string }>;
}

const Int = v.pipe(v.number(), v.integer());
const Time = v.pipe(v.number(), v.integer(), v.minValue(0));
const RowId = v.pipe(v.string(), v.regex(/^[0-9A-Za-z._:-]{1,64}$/));
const Fingerprint = v.pipe(v.instance(Uint8Array), v.length(32));
/** Bytes; text in base64 in files of schema version 2 and before. */
const Bytes = v.nullable(v.union([v.instance(Uint8Array), v.string()]));
const text = v.nullable(v.string());

/** A row as it must be; undefined text is text that cannot be read. */
const SalvagedRow = v.object({
  id: RowId,
  client_message_id: ClientMessageId,
  request_fingerprint: Fingerprint,
  payload: v.optional(text),
  enqueued_at: Time,
  attempts: Time,
  next_attempt_at: Time,
  status: v.picklist(outboxStatuses),
  last_error: text,
  first_sent_at: v.nullable(Time),
  delivered_at: v.nullable(Time),
  broker_message_id: text,
  aborted_at: v.nullable(Time),
  aborted_by: text,
  superseded_by: text,
  mesh: text,
  mesh_text: text,
  to_text: text,
  destination_kind: text,
  destination_ref: text,
  target_spec: text,
  priority: Priority,
  sender_pubkey: text,
  body_version: v.nullable(Int),
  nonce: Bytes,
  ciphertext: Bytes,
  wire_fingerprint: text,
  reply_to_id: text,
  reply_to_sender: text,
  meta: v.optional(text),
  agent: text,
  expects_reply: v.picklist([0, 1]),
});
type SalvagedRow = v.InferOutput<typeof SalvagedRow>;

/** What is left of a row whose other columns cannot be read. */
const Remains = v.object({ id: RowId, client_message_id: ClientMessageId, request_fingerprint: Fingerprint });

/** The name of a row and its place. */
const IndexEntry = v.tuple([ClientMessageId, Time]);

const rowsPerCommit = 500;
const rowBytesMin = 100;
/** Places that were given out and stayed without a row. */
const placesSpare = 1000;

export function salvageOutbox(
  file: DamagedFile,
  target: Database,
  keys: SalvageKeys,
  nowMs: number,
): OutboxSalvage {
  const salvage = new Salvage(target, keys, nowMs, file.bytes);
  const committing = <T>(items: Iterable<T>, take: (item: T) => void): void => {
    let batch: T[] = [];
    const commit = target.transaction(() => batch.forEach(take));
    for (const item of items) {
      batch.push(item);
      if (batch.length < rowsPerCommit) continue;
      commit.immediate();
      batch = [];
    }
    commit.immediate();
  };
  committing(foundRows(file), ({ kind, row }) => salvage.takeRow(kind, row));
  for (const image of file.images()) salvage.noteEntries([...file.entries(image)]);
  salvage.endRows();
  committing(salvage.misplacedRows(), (row) => salvage.keepMisplaced(row));
  committing(salvage.idsWithoutRow(), (id) => salvage.keepId(id));
  return salvage.finish();
}

function* foundRows(file: DamagedFile): Generator<{ kind: PageImage["kind"]; row: Found }> {
  for (const image of file.images()) {
    for (const row of file.rows(image)) yield { kind: image.kind, row };
  }
}

interface LostRow {
  clientMessageId: string;
  seq: number | undefined;
  id: string | undefined;
  fingerprint: Uint8Array | undefined;
}

type StateOfRow = Pick<SalvagedRow, "status" | "attempts" | "first_sent_at" | "payload">;

/** A row as it can go on, and what the damage has cost it. */
interface Mended<Row = SalvagedRow> {
  row: Row;
  isTextLost: boolean;
  isEnded: boolean;
}

/** How far a row has come: of two states of one row, the further is the later (delivery contract, "Outbox"). */
const progress: Record<OutboxStatus, number> = { pending: 0, inflight: 0, dead: 1, done: 2, aborted: 3 };

/** Of two states of one row, the later; of two that may be the same, the one that the damage has spared. */
function isLater(one: Mended<StateOfRow>, other: Mended<StateOfRow>): boolean {
  const progressOf = ({ row, isEnded }: Mended<StateOfRow>): number => (isEnded ? 0 : progress[row.status]);
  const difference =
    progressOf(one) - progressOf(other) ||
    one.row.attempts - other.row.attempts ||
    Number(one.row.first_sent_at !== null) - Number(other.row.first_sent_at !== null) ||
    Number(other.isEnded) - Number(one.isEnded) ||
    Number(other.isTextLost) - Number(one.isTextLost) ||
    // Cleared by retention.
    Number(other.row.payload !== null) - Number(one.row.payload !== null);
  return difference > 0;
}

function mark(set: Set<string>, id: string, isMarked: boolean): void {
  if (isMarked) set.add(id);
  else set.delete(id);
}

class Salvage {
  readonly #target: Database;
  readonly #keys: SalvageKeys;
  readonly #nowMs: number;
  /** In the order in which the file has them. */
  readonly #columns: readonly string[];
  /** What is known of rows that could not be read, by client_message_id. */
  readonly #lost = new Map<string, LostRow>();
  /** Names from an index of which nothing says what they name, by the place of their row. */
  readonly #unnamed = new Map<number, Set<string>>();
  /** Rows whose place is taken or cannot be; by client_message_id. */
  readonly #misplaced = new Map<string, SalvagedRow>();
  /** How often each place was named: by a row, by the entries for it, as the last that was given out. */
  readonly #named = new Map<number, number>();
  /** Rows that the damage has cost their text, or ended; by client_message_id. */
  readonly #textsLost = new Set<string>();
  readonly #ended = new Set<string>();
  #idsOnly = 0;
  /** Every place that was given out has a row, and no row is smaller: what says that it stands further on is garbled. */
  readonly #placesMax: number;

  constructor(target: Database, keys: SalvageKeys, nowMs: number, fileBytes: number) {
    this.#target = target;
    this.#keys = keys;
    this.#nowMs = nowMs;
    this.#columns = target
      .query<{ name: string }, []>("PRAGMA table_info(outbox)")
      .all()
      .map(({ name }) => name);
    this.#placesMax = Math.ceil(fileBytes / rowBytesMin) + placesSpare;
  }

  // ── Rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  takeRow(kind: PageImage["kind"], { rowid, columns }: Found): void {
    this.#noteSequence(columns);
    // The first column is the place, which stands apart; a row that was written before a column was added has fewer.
    if (rowid < 1 || columns.length > this.#columns.length) return;
    const record = Object.fromEntries(
      this.#columns.map((name, at) => [name, at < columns.length ? columns[at] : null]),
    );
    const parsed = kind === "unused" ? undefined : v.safeParse(SalvagedRow, record);
    if (parsed?.success === true) this.#keep(rowid, parsed.output);
    else this.#noteRemains(rowid, record);
  }

  #keep(seq: number, row: SalvagedRow): void {
    const mended = this.#mend(row);
    const id = row.client_message_id;
    const held = this.#target
      .query<StateOfRow & { seq: number }, [string]>(
        "SELECT seq, status, attempts, first_sent_at, payload FROM outbox WHERE client_message_id = ?",
      )
      .get(id);
    if (held !== null) {
      const isHeldRight = { isTextLost: this.#textsLost.has(id), isEnded: this.#ended.has(id) };
      if (held.seq !== seq || !isLater(mended, { row: held, ...isHeldRight })) return;
      this.#target.query("DELETE FROM outbox WHERE seq = ?").run(seq);
    }
    // A place that cannot be its own.
    if (seq > this.#placesMax || !this.#insert(seq, mended.row)) this.#misplaced.set(id, mended.row);
    mark(this.#textsLost, id, mended.isTextLost);
    mark(this.#ended, id, mended.isEnded);
  }

  #insert(seq: number | null, row: SalvagedRow): boolean {
    const names = Object.keys(row);
    const marks = names.map(() => "?").join(", ");
    const { changes } = this.#target
      .query(`INSERT INTO outbox (seq, ${names.join(", ")}) VALUES (?, ${marks}) ON CONFLICT DO NOTHING`)
      .run(seq, ...Object.values(row).map((value) => value ?? null));
    if (changes > 0 && seq !== null) this.#notePlace(seq);
    return changes > 0;
  }

  /** From here on, what is added has its place behind every one that was ever given out. */
  endRows(): void {
    const db = this.#target;
    db.run("DELETE FROM sqlite_sequence WHERE name = 'outbox'");
    db.run("INSERT INTO sqlite_sequence (name, seq) VALUES ('outbox', ?)", [this.#lastPlace()]);
  }

  misplacedRows(): Iterable<SalvagedRow> {
    return this.#misplaced.values();
  }

  keepMisplaced(row: SalvagedRow): void {
    if (!this.#insert(null, row)) this.#insert(null, { ...row, id: crypto.randomUUID() });
  }

  /** The row as it can go on: what was on the wire waits again, and what the damage has spoilt is cleared or ended. */
  #mend(found: SalvagedRow): Mended {
    const row = withSealAsBytes({ ...found, status: found.status === "inflight" ? "pending" : found.status });
    const isTextRight = this.#isTextRight(row);
    const isTextLost = !isTextRight;
    const hasEnded = row.status === "done" || row.status === "aborted";
    if (isTextLost) {
      row.payload = null;
      row.meta = null;
      if (hasEnded) row.nonce = row.ciphertext = null;
    }
    // The fingerprint speaks for the destination, too.
    else if (row.payload !== null && row.target_spec !== null) row.target_spec = row.destination_ref;
    if (row.status !== "pending") return { row, isTextLost, isEnded: false };
    const seal = this.#judgeSeal(row, isTextRight);
    if (seal === "right" || (seal === "unknown" && isTextRight)) return { row, isTextLost, isEnded: false };
    // Nothing but the text is needed to seal what has never been sent: the next start does so.
    if (isTextRight && row.first_sent_at === null)
      return { row: { ...row, sender_pubkey: "" }, isTextLost, isEnded: false };
    const why = isTextRight
      ? "its sealed form could not be read; requeue it"
      : "neither its text nor its sealed form could be read";
    const ended: SalvagedRow = { ...row, status: "dead", last_error: `${damagedMark}: ${why}` };
    return { row: ended, isTextLost, isEnded: true };
  }

  /** A text that was cleared before is right, too. */
  #isTextRight(row: SalvagedRow): boolean {
    if (row.payload === undefined || row.meta === undefined) return false;
    if (row.payload === null) return true;
    const kind = row.destination_kind;
    if ((kind !== "dm" && kind !== "topic" && kind !== "queue") || row.destination_ref === null) return false;
    const meta = row.meta === null ? undefined : v.safeParse(JsonObjectText, row.meta);
    if (meta?.success === false) return false;
    const expected = requestFingerprint({
      envelopeVersion,
      destinationKind: kind,
      destinationRef: row.destination_ref,
      replyToId: row.reply_to_id,
      priority: row.priority,
      meta: canonicalMeta(meta?.output) === "" ? null : (meta?.output ?? null),
      body: row.payload,
    });
    return Buffer.compare(expected, row.request_fingerprint) === 0;
  }

  /** Whether the recipient could open it. Unknown without a key for that, and for what was never sealed. */
  #judgeSeal(row: SalvagedRow, isTextRight: boolean): "right" | "wrong" | "unknown" {
    if (row.ciphertext === null && row.nonce === null && row.target_spec === null) return "unknown";
    const { nonce, ciphertext, destination_ref } = row;
    if (!(nonce instanceof Uint8Array) || !(ciphertext instanceof Uint8Array)) return "wrong";
    if (nonce.length !== 24 || destination_ref === null || row.target_spec !== destination_ref)
      return "wrong";
    const mesh = row.mesh === null ? undefined : this.#keys.meshes.get(row.mesh);
    if (mesh === undefined || mesh.pubkey !== row.sender_pubkey) return "unknown";
    if (isTextRight && row.wire_fingerprint !== null) {
      const expected = wireFingerprint(row.request_fingerprint, seedOf(mesh.secretKey));
      if (row.wire_fingerprint !== expected) return "wrong";
    }
    try {
      // The two ends share one key: who sealed it can open it as well.
      const content = this.#keys.sealer.open({ nonce, ciphertext }, mesh.secretKey, destination_ref);
      if (content === undefined) return "wrong";
      // It says which message it is; under another id the recipient would not believe it.
      return row.body_version !== 2 || sealedIdOf(content) === row.client_message_id ? "right" : "wrong";
    } catch {
      return "wrong"; // The recipient's key is no key.
    }
  }

  // ── Ids ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  #notePlace(seq: number): void {
    if (Number.isSafeInteger(seq) && seq >= 1 && seq <= this.#placesMax)
      this.#named.set(seq, (this.#named.get(seq) ?? 0) + 1);
  }

  /** The last place that was given out. What is named only once may be garbled. */
  #lastPlace(): number {
    let [once, twice] = [0, 0];
    for (const [seq, count] of this.#named) {
      once = Math.max(once, seq);
      if (count > 1) twice = Math.max(twice, seq);
    }
    return twice > 0 ? twice : once;
  }

  #noteRemains(seq: number, record: Record<string, Value>): void {
    const remains = v.safeParse(Remains, record);
    if (!remains.success) return;
    const { id, client_message_id, request_fingerprint } = remains.output;
    this.#notePlace(seq);
    this.#lost.set(client_message_id, {
      clientMessageId: client_message_id,
      seq,
      id,
      fingerprint: request_fingerprint,
    });
  }

  /** `sqlite_sequence` knows the last place that was given out: it counts for two. */
  #noteSequence([name, last]: readonly Value[]): void {
    if (name !== "outbox" || typeof last !== "number") return;
    this.#notePlace(last);
    this.#notePlace(last);
  }

  /**
   * The entries of one page of an index. Three indexes pair a name with a row's place: by the row's id, by its client_message_id
   * and by the row that replaced it. Which one this is, the entries tell whose rows are there.
   */
  noteEntries(entries: readonly Value[][]): void {
    const named = entries.flatMap((entry) => {
      const parsed = v.safeParse(IndexEntry, entry);
      return entry.length === 2 && parsed.success ? [parsed.output] : [];
    });
    const missing: [string, number][] = [];
    const differing: [string, number][] = [];
    const votes = { id: 0, client_message_id: 0, superseded_by: 0 };
    for (const [name, seq] of named) {
      const row = this.#target
        .query<Record<keyof typeof votes, string | null>, [number]>(
          "SELECT id, client_message_id, superseded_by FROM outbox WHERE seq = ?",
        )
        .get(seq);
      if (row === null) missing.push([name, seq]);
      else {
        if (row.client_message_id !== name) differing.push([name, seq]);
        for (const column of ["id", "client_message_id", "superseded_by"] as const)
          if (row[column] === name) votes[column]++;
      }
    }
    const most = Math.max(votes.id, votes.client_message_id, votes.superseded_by);
    if (most > 0 && most === votes.superseded_by) return;
    if (most > 0) for (const [, seq] of named) this.#notePlace(seq);
    const isOfIds = most > 0 && most === votes.client_message_id;
    for (const [name, seq] of missing) {
      if (seq < 1 || seq > this.#placesMax) continue;
      if (isOfIds) this.#noteId(name, seq);
      else this.#unnamed.set(seq, (this.#unnamed.get(seq) ?? new Set()).add(name));
    }
    // Where the index and its row differ, one of them is garbled: neither's id is given up.
    if (isOfIds) for (const [name, seq] of differing) this.#noteId(name, seq);
  }

  #noteId(clientMessageId: string, seq: number): void {
    if (!this.#lost.has(clientMessageId))
      this.#lost.set(clientMessageId, { clientMessageId, seq, id: undefined, fingerprint: undefined });
  }

  /** Every id that is known and that no row holds. To be asked when all rows and entries were looked at. */
  *idsWithoutRow(): Generator<LostRow> {
    const isUsed = this.#target.query<unknown, [string]>("SELECT 1 FROM outbox WHERE client_message_id = ?");
    const isTaken = this.#target.query<unknown, [number]>("SELECT 1 FROM outbox WHERE seq = ?");
    const placesNamed = new Set([...this.#lost.values()].map(({ seq }) => seq));
    for (const [seq, names] of this.#unnamed) {
      // Where the index by client_message_id is lost as well, one name is left: it is at least one that was used.
      if (placesNamed.has(seq) || isTaken.get(seq) !== null) continue;
      const [first] = [...names].sort(byLikelihood);
      if (first !== undefined) this.#noteId(first, seq);
    }
    for (const lost of this.#lost.values()) {
      if (isUsed.get(lost.clientMessageId) !== null) continue;
      const ids = lost.seq === undefined ? [] : [...(this.#unnamed.get(lost.seq) ?? [])];
      yield { ...lost, id: lost.id ?? ids.find((name) => name !== lost.clientMessageId) };
    }
  }

  /** A row that says what is known: the id is used, and what became of the message is not known. */
  keepId({ clientMessageId, seq, id, fingerprint }: LostRow): void {
    const at = timeOfUlid(id, this.#nowMs) ?? timeOfUlid(clientMessageId, this.#nowMs) ?? this.#nowMs;
    const insert = this.#target.query(
      `INSERT INTO outbox (seq, id, client_message_id, request_fingerprint, enqueued_at, first_sent_at, status, last_error)
       VALUES (?, ?, ?, ?, ?, ?, 'dead', ?) ON CONFLICT DO NOTHING`,
    );
    const why = `${damagedMark}: only its id could be read; whether it was sent is not known`;
    const rest = [clientMessageId, fingerprint ?? new Uint8Array(32), at, at, why] as const;
    const ownId = `recovered-${clientMessageId}`.slice(0, 64);
    this.#idsOnly++;
    if (seq !== undefined && seq <= this.#placesMax && insert.run(seq, id ?? ownId, ...rest).changes > 0)
      return;
    // Its place or its row's id may have been taken by what was garbled: the id that counts is kept all the same.
    insert.run(null, crypto.randomUUID(), ...rest);
  }

  finish(): OutboxSalvage {
    const count = (condition: string): number =>
      this.#target.query<{ n: number }, []>(`SELECT count(*) AS n FROM outbox WHERE ${condition}`).get()?.n ??
      0;
    const rows = count("true");
    return {
      rows,
      unfinished: count("status = 'pending'"),
      texts_lost: this.#textsLost.size,
      ended: this.#ended.size,
      ids_only: this.#idsOnly,
      lost: Math.max(0, this.#lastPlace() - rows),
    };
  }
}

/** The id that a message of body version 2 repeats inside its seal. */
function sealedIdOf(content: string): string | undefined {
  const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), v.object({ id: v.string() })), content);
  return parsed.success ? parsed.output.id : undefined;
}

function withSealAsBytes(row: SalvagedRow): SalvagedRow {
  const { nonce, ciphertext } = row;
  if (typeof nonce !== "string" || typeof ciphertext !== "string") return row;
  const sealed = decodeSealed({ nonce, ciphertext });
  return { ...row, nonce: Uint8Array.from(sealed.nonce), ciphertext: Uint8Array.from(sealed.ciphertext) };
}

const ulid = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/;

/** Who gives an id of its own gives no ULID; of two ULIDs of ours, that of the message was made before that of its row. */
const byLikelihood = (a: string, b: string): number =>
  Number(ulid.test(a)) - Number(ulid.test(b)) || (a < b ? -1 : 1);

/** When a ULID was made; undefined for what is none, or is from the future. */
function timeOfUlid(text: string | undefined, nowMs: number): number | undefined {
  if (text === undefined || !ulid.test(text)) return undefined;
  const ms = decodeTime(text);
  return ms <= nowMs ? ms : undefined;
}
