/**
 * What the broker keeps. Every method is one step inside the caller's transaction; what belongs together (dedupe record,
 * message, delivery) is written by one method. Ids on the wire are text (`mesh_id`, `member_id`, `message_id`); inside, a
 * row number stands for them, which names one thing for good.
 */
import type { Database, SQLQueryBindings } from "bun:sqlite";
import * as v from "valibot";
import type {
  Accepted,
  Checked,
  DedupeKey,
  Delivery,
  DeliveryKey,
  Invite,
  ListedMember,
  Member,
  MemberRow,
  Mesh,
  MeshRow,
  NewMessage,
  OldMessage,
  Pruned,
  Role,
} from "~/broker/rows";
import { schemaSteps } from "~/broker/schema";
import { migrate } from "~/disk/sqlite";
import { type Admission, MemberEntry } from "~/wire/broker";
import type { InviteRole, Priority } from "~/wire/text";

interface MemberListRow extends AdmissionColumns {
  member: MemberRow;
  member_id: string;
  pubkey: string;
  display_name: string;
  role: Role;
  capabilities: string;
  joined_at: number;
  last_seen_at: number | null;
}

/** Null where a member came without an invite. */
interface AdmissionColumns {
  text: string | null;
  signature: string | null;
  join_text: string | null;
  join_proof: string | null;
}

const memberColumns = "member, member_id, mesh, pubkey, display_name, role, removed_at, invite";
const inviteColumns =
  "invite, invite_id, mesh, public_key, role, expires_at, max_uses, uses, text, signature, revoked_at";

export interface Totals {
  meshes: number;
  /** Present ones. */
  members: number;
  /** Deliveries that are not acknowledged. */
  queued: number;
  /** When the message was accepted that has waited longest. */
  oldestQueuedAt: number | undefined;
}

/** A sender that joined no longer before its message than this may not be in a recipient's list yet, and may leave before it is. */
const justJoinedMs = 24 * 3600 * 1000;

/** How many recipients' queue lengths are remembered before all are counted anew. */
const queueLengthsMax = 100_000;

export class Store {
  readonly #db: Database;
  readonly #statements: ReturnType<typeof prepareStatements>;
  /** Queue lengths, counted when first asked for and kept up from then on; forgotten whenever something was undone. */
  readonly #waiting = new Map<MemberRow, number>();

  /** Brings the schema up to date. The database stays the caller's, who closes it after `close`. */
  constructor(db: Database) {
    migrate(db, schemaSteps);
    this.#db = db;
    this.#statements = prepareStatements(db);
  }

  /** Lets go of the database: a statement that is still prepared would keep it open, with its log, past its closing. */
  close(): void {
    for (const statement of Object.values(this.#statements)) statement.finalize();
  }

  /** Runs `step` so that it happens whole or, when it throws, not at all. Must be called inside a transaction. */
  whole<T>(step: () => T): T {
    this.#statements.savepoint.run();
    try {
      const value = step();
      this.#statements.release.run();
      return value;
    } catch (error) {
      this.forgetCounts();
      // After some errors (a full disk) SQLite has ended the whole transaction: then there is nothing left to go back to.
      if (this.#db.inTransaction) {
        this.#statements.rollback.run();
        this.#statements.release.run();
      }
      throw error;
    }
  }

  /** Whether the transaction that a failed step belonged to can still be committed. */
  get canGoOn(): boolean {
    return this.#db.inTransaction;
  }

  /** To be called when a transaction was undone: what was counted in it may not be so. */
  forgetCounts(): void {
    this.#waiting.clear();
  }

  // ── Meshes ────────────────────────────────────────────────────────────────────────────────────────────────────────

  meshById(meshId: string): Mesh | undefined {
    return this.#statements.meshById.get(meshId) ?? undefined;
  }

  meshBySlug(slug: string): Mesh | undefined {
    return this.#statements.meshBySlug.get(slug) ?? undefined;
  }

  meshByRow(mesh: MeshRow): Mesh {
    const found = this.#statements.meshByRow.get(mesh);
    if (found === null) throw new Error(`no mesh has row ${mesh}`);
    return found;
  }

  countMeshes(): number {
    return this.#statements.countMeshes.get()?.n ?? 0;
  }

  addMesh(mesh: Omit<Mesh, "mesh"> & { name: string; at: number }): MeshRow {
    const { lastInsertRowid } = this.#statements.addMesh.run(
      mesh.mesh_id,
      mesh.slug,
      mesh.name,
      mesh.owner_pubkey,
      mesh.at,
    );
    return Number(lastInsertRowid);
  }

  // ── Members ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Removed ones too. */
  memberById(mesh: MeshRow, memberId: string): Member | undefined {
    return this.#statements.memberById.get(mesh, memberId) ?? undefined;
  }

  /** Removed ones too. */
  memberByKey(mesh: MeshRow, pubkey: string): Member | undefined {
    return this.#statements.memberByKey.get(mesh, pubkey) ?? undefined;
  }

  /** The member's role, or undefined when it has been removed. */
  currentRole(member: MemberRow): Role | undefined {
    return this.#statements.currentRole.get(member)?.role;
  }

  countMembers(mesh: MeshRow): number {
    return this.#statements.countMembers.get(mesh)?.n ?? 0;
  }

  addMember(member: {
    member_id: string;
    mesh: MeshRow;
    pubkey: string;
    display_name: string;
    role: Role;
    at: number;
    admission?: { invite: number; join: string; proof: string };
  }): void {
    this.#statements.addMember.run(
      member.member_id,
      member.mesh,
      member.pubkey,
      member.display_name,
      member.role,
      member.at,
      member.admission?.invite ?? null,
      member.admission?.join ?? null,
      member.admission?.proof ?? null,
    );
  }

  /** The current members of a mesh, in the order they joined; with `after`, those who joined after that one. */
  listMembers(mesh: MeshRow, after: MemberRow = 0): ListedMember[] {
    return this.#statements.listMembers.all(mesh, after).map((row) => ({
      member: row.member,
      member_id: row.member_id,
      pubkey: row.pubkey,
      display_name: row.display_name,
      role: row.role,
      capabilities: v.parse(MemberEntry.entries.capabilities, JSON.parse(row.capabilities)),
      joined_at: row.joined_at,
      last_seen_at: row.last_seen_at ?? undefined,
      admission: admissionOf(row),
    }));
  }

  noteSeen(member: MemberRow, at: number): void {
    this.#statements.noteSeen.run(at, member);
  }

  noteCapabilities(member: MemberRow, capabilities: readonly string[]): void {
    this.#statements.noteCapabilities.run(JSON.stringify(capabilities), member);
  }

  /** The member is none any more, and what waits for it is dropped. Its messages to others and its dedupe records stay. */
  removeMember(member: MemberRow, at: number): void {
    this.#statements.removeMember.run(at, member);
    this.#statements.dropDeliveries.run(member);
    this.#waiting.delete(member);
  }

  // ── Hellos ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Remembers a hello's signature; false when it is known already. */
  rememberHello(signature: string, member: MemberRow, signedAt: number): boolean {
    return this.#statements.rememberHello.run(signature, member, signedAt).changes > 0;
  }

  remembersHellos(member: MemberRow, atLeast: number): boolean {
    return this.#statements.nthHello.get(member, atLeast - 1) !== null;
  }

  forgetHellosBefore(signedAt: number): void {
    this.#statements.forgetHellos.run(signedAt);
  }

  // ── Invites ───────────────────────────────────────────────────────────────────────────────────────────────────────

  inviteById(inviteId: string): Invite | undefined {
    return this.#statements.inviteById.get(inviteId) ?? undefined;
  }

  /** Invites that would still let somebody in. */
  countOpenInvites(mesh: MeshRow, nowSeconds: number): number {
    return this.#statements.countOpenInvites.get(mesh, nowSeconds)?.n ?? 0;
  }

  addInvite(invite: Omit<Invite, "invite" | "uses" | "revoked_at"> & { at: number }): void {
    this.#statements.addInvite.run(
      invite.invite_id,
      invite.mesh,
      invite.public_key,
      invite.role,
      invite.expires_at,
      invite.max_uses,
      invite.text,
      invite.signature,
      invite.at,
    );
  }

  useInvite(invite: number): void {
    this.#statements.useInvite.run(invite);
  }

  revokeInvite(invite: number, at: number): void {
    this.#statements.revokeInvite.run(at, invite);
  }

  /** Revokes every invite that is still open; how many those were. */
  revokeOpenInvites(mesh: MeshRow, at: number): number {
    return this.#statements.revokeOpenInvites.run(at, mesh, Math.floor(at / 1000)).changes;
  }

  // ── Messages ──────────────────────────────────────────────────────────────────────────────────────────────────────

  acceptedBefore(sender: MemberRow, clientMessageId: string): Accepted | undefined {
    return this.#statements.acceptedBefore.get(sender, clientMessageId) ?? undefined;
  }

  /** Dedupe record, message and delivery, in one. */
  accept(message: NewMessage): void {
    const { lastInsertRowid } = this.#statements.addMessage.run(
      message.message_id,
      message.mesh,
      message.sender,
      message.client_message_id,
      message.request_fingerprint,
      message.target_spec,
      message.priority,
      message.nonce,
      message.ciphertext,
      message.reply_to_id,
      message.body_version,
      message.created_at,
    );
    this.#statements.addDedupe.run(
      message.sender,
      message.client_message_id,
      message.request_fingerprint,
      message.message_id,
      message.created_at,
    );
    this.#statements.addDelivery.run(message.recipient, Number(lastInsertRowid));
    this.#countWaiting(message.recipient, 1);
  }

  /** Messages that the recipient has not acknowledged. */
  waitingFor(recipient: MemberRow): number {
    const known = this.#waiting.get(recipient);
    if (known !== undefined) return known;
    const counted = this.#statements.countWaiting.get(recipient)?.n ?? 0;
    if (this.#waiting.size >= queueLengthsMax) this.#waiting.clear();
    this.#waiting.set(recipient, counted);
    return counted;
  }

  /** The oldest that the recipient has not acknowledged, after `seq`, in the order they were accepted. */
  undelivered(recipient: MemberRow, afterSeq: number, limit: number): Delivery[] {
    return this.#statements.undelivered.all(recipient, afterSeq, limit).map((row) => {
      const { text, signature, join_text, join_proof, ...delivery } = row;
      return { ...delivery, admission: admissionOf({ text, signature, join_text, join_proof }) };
    });
  }

  /** False when this recipient has no such message, or acknowledged it before. */
  markDelivered(recipient: MemberRow, messageId: string, at: number): boolean {
    if (this.#statements.markDelivered.run(at, recipient, messageId).changes === 0) return false;
    this.#countWaiting(recipient, -1);
    return true;
  }

  /** How many there are of everything, over all meshes. Looks at all that waits, and so is for whoever watches the broker. */
  totals(): Totals {
    const queued = this.#statements.countQueued.get();
    const oldestSeq = queued?.oldest_seq ?? undefined;
    return {
      meshes: this.countMeshes(),
      members: this.#statements.countAllMembers.get()?.n ?? 0,
      queued: queued?.n ?? 0,
      oldestQueuedAt:
        oldestSeq === undefined ? undefined : this.#statements.acceptedAt.get(oldestSeq)?.created_at,
    };
  }

  // ── Upkeep: each call looks at a page of rows, `limit` at most ────────────────────────────────────────────────────

  /**
   * Takes the contents from messages that were accepted before `before` and that nobody waits for. Goes on after the last row of
   * the page before; undefined when there is no more.
   */
  prune(before: number, after: OldMessage, limit: number, at: number): Pruned {
    const page = this.#statements.oldWhole.all(before, after.created_at, after.seq, limit);
    let count = 0;
    for (const { seq, waits } of page) {
      if (waits === 1) continue;
      this.#statements.prune.run(at, seq);
      count += 1;
    }
    return { count, next: page.length < limit ? undefined : page.at(-1) };
  }

  /** Forgets pruned messages that were accepted before `before`, with their dedupe records; how many. */
  expire(before: number, limit: number): number {
    const page = this.#statements.oldPruned.all(before, limit);
    for (const { seq, sender, client_message_id, message_id } of page) {
      this.#statements.forgetDeliveries.run(seq);
      this.#statements.forgetDedupe.run(sender, client_message_id, message_id);
      this.#statements.forgetMessage.run(seq);
    }
    return page.length;
  }

  /** Dedupe records after this one, and whether each has its message. */
  checkDedupe(after: DedupeKey, limit: number): (DedupeKey & Checked)[] {
    return this.#statements.checkDedupe.all(after.sender, after.client_message_id, limit);
  }

  /** Messages after `seq`, and whether each has its dedupe record. */
  checkMessages(after: { seq: number }, limit: number): ({ seq: number } & Checked)[] {
    return this.#statements.checkMessages.all(after.seq, limit);
  }

  /** Deliveries after this one, and whether each has its message. */
  checkDeliveries(after: DeliveryKey, limit: number): (DeliveryKey & Checked)[] {
    return this.#statements.checkDeliveries.all(after.seq, after.recipient, limit);
  }

  #countWaiting(recipient: MemberRow, change: number): void {
    const known = this.#waiting.get(recipient);
    if (known !== undefined) this.#waiting.set(recipient, known + change);
  }
}

function admissionOf(row: AdmissionColumns): Admission | undefined {
  const { text, signature, join_text, join_proof } = row;
  if (text === null || signature === null || join_text === null || join_proof === null) return undefined;
  return { invite: text, signature, join: join_text, proof: join_proof };
}

function prepareStatements(db: Database) {
  const query = <Row, Params extends SQLQueryBindings[]>(sql: string) => db.prepare<Row, Params>(sql);
  const command = <Params extends SQLQueryBindings[]>(sql: string) => query<never, Params>(sql);
  interface Count {
    n: number;
  }
  return {
    savepoint: command<[]>("SAVEPOINT step"),
    rollback: command<[]>("ROLLBACK TO step"),
    release: command<[]>("RELEASE step"),

    meshById: query<Mesh, [string]>(
      "SELECT mesh, mesh_id, slug, owner_pubkey FROM meshes WHERE mesh_id = ?1",
    ),
    meshBySlug: query<Mesh, [string]>("SELECT mesh, mesh_id, slug, owner_pubkey FROM meshes WHERE slug = ?1"),
    meshByRow: query<Mesh, [number]>("SELECT mesh, mesh_id, slug, owner_pubkey FROM meshes WHERE mesh = ?1"),
    countMeshes: query<Count, []>("SELECT count(*) AS n FROM meshes"),
    addMesh: command<[string, string, string, string, number]>(
      "INSERT INTO meshes (mesh_id, slug, name, owner_pubkey, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    ),

    memberById: query<Member, [number, string]>(
      `SELECT ${memberColumns} FROM members WHERE mesh = ?1 AND member_id = ?2`,
    ),
    memberByKey: query<Member, [number, string]>(
      `SELECT ${memberColumns} FROM members WHERE mesh = ?1 AND pubkey = ?2`,
    ),
    currentRole: query<{ role: Role }, [number]>(
      "SELECT role FROM members WHERE member = ?1 AND removed_at IS NULL",
    ),
    countMembers: query<Count, [number]>(
      "SELECT count(*) AS n FROM members WHERE mesh = ?1 AND removed_at IS NULL",
    ),
    addMember: command<
      [string, number, string, string, Role, number, number | null, string | null, string | null]
    >(
      `INSERT INTO members (member_id, mesh, pubkey, display_name, role, joined_at, invite, join_text, join_proof)
       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)`,
    ),
    listMembers: query<MemberListRow, [number, number]>(
      `SELECT member, member_id, pubkey, display_name, m.role, capabilities, joined_at, last_seen_at,
              text, signature, join_text, join_proof
       FROM members m LEFT JOIN invites USING (invite)
       WHERE m.mesh = ?1 AND member > ?2 AND removed_at IS NULL ORDER BY member`,
    ),
    noteSeen: command<[number, number]>("UPDATE members SET last_seen_at = ?1 WHERE member = ?2"),
    noteCapabilities: command<[string, number]>("UPDATE members SET capabilities = ?1 WHERE member = ?2"),
    removeMember: command<[number, number]>("UPDATE members SET removed_at = ?1 WHERE member = ?2"),

    rememberHello: command<[string, number, number]>(
      "INSERT INTO hellos (signature, member, signed_at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
    ),
    nthHello: query<{ found: 1 }, [number, number]>(
      "SELECT 1 AS found FROM hellos WHERE member = ?1 LIMIT 1 OFFSET ?2",
    ),
    forgetHellos: command<[number]>("DELETE FROM hellos WHERE signed_at < ?1"),

    inviteById: query<Invite, [string]>(`SELECT ${inviteColumns} FROM invites WHERE invite_id = ?1`),
    countOpenInvites: query<Count, [number, number]>(
      "SELECT count(*) AS n FROM invites WHERE mesh = ?1 AND revoked_at IS NULL AND uses < max_uses AND expires_at >= ?2",
    ),
    addInvite: command<[string, number, string, InviteRole, number, number, string, string, number]>(
      `INSERT INTO invites (invite_id, mesh, public_key, role, expires_at, max_uses, text, signature, created_at)
       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)`,
    ),
    useInvite: command<[number]>("UPDATE invites SET uses = uses + 1 WHERE invite = ?1"),
    revokeInvite: command<[number, number]>(
      "UPDATE invites SET revoked_at = ?1 WHERE invite = ?2 AND revoked_at IS NULL",
    ),
    revokeOpenInvites: command<[number, number, number]>(
      `UPDATE invites SET revoked_at = ?1
       WHERE mesh = ?2 AND revoked_at IS NULL AND uses < max_uses AND expires_at >= ?3`,
    ),

    acceptedBefore: query<Accepted, [number, string]>(
      `SELECT d.message_id, d.request_fingerprint, first_seen_at,
              seq IS NOT NULL AND pruned_at IS NULL AS has_contents
       FROM dedupe d LEFT JOIN messages USING (message_id)
       WHERE d.sender = ?1 AND d.client_message_id = ?2`,
    ),
    addMessage: command<
      [
        string,
        number,
        number,
        string,
        string | null,
        string,
        Priority,
        Uint8Array,
        Uint8Array,
        string | null,
        number | null,
        number,
      ]
    >(
      `INSERT INTO messages (message_id, mesh, sender, client_message_id, request_fingerprint, target_spec, priority,
                             nonce, ciphertext, reply_to_id, body_version, created_at)
       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)`,
    ),
    addDedupe: command<[number, string, string | null, string, number]>(
      `INSERT INTO dedupe (sender, client_message_id, request_fingerprint, message_id, first_seen_at)
       VALUES (?1, ?2, ?3, ?4, ?5)`,
    ),
    addDelivery: command<[number, number]>("INSERT INTO deliveries (recipient, seq) VALUES (?1, ?2)"),
    countWaiting: query<Count, [number]>(
      "SELECT count(*) AS n FROM deliveries WHERE recipient = ?1 AND delivered_at IS NULL",
    ),
    undelivered: query<Omit<Delivery, "admission"> & AdmissionColumns, [number, number, number]>(
      `SELECT d.seq, message_id, s.pubkey AS sender_pubkey, s.member_id AS sender_id, s.display_name AS sender_name,
              client_message_id, request_fingerprint, priority, nonce, ciphertext, reply_to_id, body_version, m.created_at,
              text, signature, join_text, join_proof
       FROM deliveries d CROSS JOIN messages m ON m.seq = d.seq CROSS JOIN members s ON s.member = m.sender
       LEFT JOIN invites i ON i.invite = s.invite
         AND (s.removed_at IS NOT NULL OR s.joined_at > m.created_at - ${justJoinedMs})
       WHERE d.recipient = ?1 AND d.seq > ?2 AND d.delivered_at IS NULL ORDER BY d.seq LIMIT ?3`,
    ),
    markDelivered: command<[number, number, string]>(
      `UPDATE deliveries SET delivered_at = ?1
       WHERE recipient = ?2 AND seq = (SELECT seq FROM messages WHERE message_id = ?3) AND delivered_at IS NULL`,
    ),
    countQueued: query<Count & { oldest_seq: number | null }, []>(
      "SELECT count(*) AS n, min(seq) AS oldest_seq FROM deliveries INDEXED BY undelivered WHERE delivered_at IS NULL",
    ),
    acceptedAt: query<{ created_at: number }, [number]>("SELECT created_at FROM messages WHERE seq = ?1"),
    countAllMembers: query<Count, []>("SELECT count(*) AS n FROM members WHERE removed_at IS NULL"),
    dropDeliveries: command<[number]>("DELETE FROM deliveries WHERE recipient = ?1 AND delivered_at IS NULL"),

    oldWhole: query<OldMessage & { waits: 0 | 1 }, [number, number, number, number]>(
      `SELECT created_at, seq,
              EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = m.seq AND delivered_at IS NULL) AS waits
       FROM messages m WHERE pruned_at IS NULL AND created_at < ?1 AND (created_at, seq) > (?2, ?3)
       ORDER BY created_at, seq LIMIT ?4`,
    ),
    prune: command<[number, number]>(
      "UPDATE messages SET pruned_at = ?1, nonce = x'', ciphertext = x'' WHERE seq = ?2",
    ),
    oldPruned: query<DedupeKey & { seq: number; message_id: string }, [number, number]>(
      `SELECT seq, sender, client_message_id, message_id FROM messages
       WHERE pruned_at IS NOT NULL AND created_at < ?1 ORDER BY created_at LIMIT ?2`,
    ),
    forgetDeliveries: command<[number]>("DELETE FROM deliveries WHERE seq = ?1"),
    forgetDedupe: command<[number, string, string]>(
      "DELETE FROM dedupe WHERE sender = ?1 AND client_message_id = ?2 AND message_id = ?3",
    ),
    forgetMessage: command<[number]>("DELETE FROM messages WHERE seq = ?1"),
    checkDedupe: query<DedupeKey & Checked, [number, string, number]>(
      `SELECT sender, client_message_id,
              EXISTS (SELECT 1 FROM messages m WHERE m.message_id = d.message_id
                      AND m.sender = d.sender AND m.client_message_id = d.client_message_id) AS sound
       FROM dedupe d WHERE (sender, client_message_id) > (?1, ?2) ORDER BY sender, client_message_id LIMIT ?3`,
    ),
    checkMessages: query<{ seq: number } & Checked, [number, number]>(
      `SELECT seq,
              EXISTS (SELECT 1 FROM dedupe d WHERE d.sender = m.sender
                      AND d.client_message_id = m.client_message_id AND d.message_id = m.message_id) AS sound
       FROM messages m WHERE seq > ?1 ORDER BY seq LIMIT ?2`,
    ),
    checkDeliveries: query<DeliveryKey & Checked, [number, number, number]>(
      `SELECT seq, recipient, EXISTS (SELECT 1 FROM messages m WHERE m.seq = d.seq) AS sound
       FROM deliveries d WHERE (seq, recipient) > (?1, ?2) ORDER BY seq, recipient LIMIT ?3`,
    ),
  };
}
