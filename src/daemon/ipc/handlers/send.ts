/**
 * Accepting a send: everything that leaves this host goes through here. First what can be refused without writing
 * anything, then one transaction that looks the id up and applies the table of the delivery contract. An id is consumed
 * by the row that holds it, and the outcome depends on that row alone.
 */
import { type NewOutboxRow, Outbox, type OutboxRow } from "~/daemon/db/outbox";
import { MeshError } from "~/errors";
import type { ReplyReference } from "~/identity/envelope";
import {
  canonicalMeta,
  type DestinationKind,
  envelopeVersion,
  fingerprintPrefix,
  requestFingerprint,
} from "~/wire/fingerprint";
import type { OutboxStatus } from "~/wire/ipc";
import { checkClientMessageId, checkMessageText, checkMeta, checkNoZeroByte } from "~/wire/outgoing";
import type { Priority } from "~/wire/text";

export interface SendRequest {
  to: string;
  message: string;
  /** Id of the mesh that it goes to. */
  mesh?: string | null | undefined;
  /** The mesh as the caller named it; absent when it named none. */
  mesh_text?: string | null | undefined;
  /** Default `next`. */
  priority?: Priority | undefined;
  meta?: Record<string, unknown> | null | undefined;
  /** `client_message_id` of the message that this one answers. */
  reply_to_id?: string | null | undefined;
  /** Member key of whoever sent that message. */
  reply_to_sender?: string | null | undefined;
  /** The idempotency key; without one the daemon makes it. */
  client_message_id?: string | null | undefined;
  destination_kind: DestinationKind;
  /** The resolved destination: recipient public key in hex, topic name or queue name. */
  destination_ref: string;
  agent?: string | null | undefined;
  expects_reply?: boolean | undefined;
}

/** What sealing needs to know of a message that is about to become a row. */
export interface SealDraft {
  clientMessageId: string;
  fingerprint: Uint8Array;
  body: string;
  meta: Record<string, unknown> | null;
  replyTo: ReplyReference | null;
  agent: string | null;
  expectsReply: boolean;
  nowMs: number;
}

export type SealedColumns = Pick<
  NewOutboxRow,
  "target_spec" | "sender_pubkey" | "body_version" | "nonce" | "ciphertext" | "wire_fingerprint"
>;

/** Seals for the destination of the request. Throws `message_too_large` or `peer_too_old`; then nothing is written. */
export type Seal = (draft: SealDraft) => SealedColumns;

export interface AcceptOptions {
  /** An outbox database, migrated. */
  db: Outbox["db"];
  /** Milliseconds since 1970. */
  now: () => number;
  /** A new ULID; the first becomes the `client_message_id` when the request has none. */
  newId: () => string;
  /** Without it the routing columns stay empty and the row is never sent. */
  seal?: Seal | undefined;
}

export type ConflictReason = `outbox_${OutboxStatus}_fingerprint_${"match" | "mismatch"}`;

interface Accepted<Kind extends string, Status extends number> {
  kind: Kind;
  /** HTTP status. */
  status: Status;
  client_message_id: string;
  broker_message_id: string | null;
  /** A row held this id already: nothing was written. */
  duplicate: boolean;
}

export type SendOutcome =
  | Accepted<"accepted_pending", 202>
  | Accepted<"accepted_inflight", 202>
  | Accepted<"accepted_done", 200>
  | {
      kind: "conflict";
      status: 409;
      client_message_id: string;
      broker_message_id: string | null;
      reason: ConflictReason;
      /** The first 8 bytes, in hex, of the fingerprint that the daemon holds for this id. */
      daemon_fingerprint_prefix: string;
      last_error: string | null;
    };

/** Accepts one send in a transaction of its own. Throws what phase A refuses (4xx codes) and errors of the disk. */
export function acceptSend(request: SendRequest, options: AcceptOptions): SendOutcome {
  const prepared = prepareSend(request, options.newId);
  return options.db.transaction(() => applySend(prepared, options).outcome).immediate();
}

export interface PreparedSend {
  request: SendRequest;
  clientMessageId: string;
  /** The caller gave none. */
  isOwnId: boolean;
  priority: Priority;
  meta: Record<string, unknown> | null;
  fingerprint: Uint8Array;
}

/** Phase A of what concerns the request alone, and its fingerprint. Writes nothing, consumes nothing. */
export function prepareSend(request: SendRequest, newId: () => string): PreparedSend {
  checkMessageText(request.message);
  checkMeta(request.meta);
  checkNoZeroByte("to", request.to);
  checkNoZeroByte("destination_ref", request.destination_ref);
  if (request.reply_to_id !== null && request.reply_to_id !== undefined)
    checkClientMessageId(request.reply_to_id);
  const isOwnId = request.client_message_id === undefined || request.client_message_id === null;
  const clientMessageId = request.client_message_id ?? newId();
  checkClientMessageId(clientMessageId);
  const priority = request.priority ?? "next";
  const meta = canonicalMeta(request.meta) === "" ? null : (request.meta ?? null);
  const fingerprint = requestFingerprint({
    envelopeVersion,
    destinationKind: request.destination_kind,
    destinationRef: request.destination_ref,
    replyToId: request.reply_to_id ?? null,
    priority,
    meta,
    body: request.message,
  });
  return { request, clientMessageId, isOwnId, priority, meta, fingerprint };
}

export interface Applied {
  outcome: SendOutcome;
  /** The place of the row, when one was inserted. */
  insertedSeq: number | undefined;
}

/** Looks the id up and applies the table; the caller has opened the transaction. */
export function applySend(prepared: PreparedSend, options: AcceptOptions): Applied {
  const outbox = new Outbox(options.db);
  const { clientMessageId } = prepared;
  // Most ids that we made ourselves a moment ago are free: the insert itself finds out.
  const known = prepared.isOwnId ? null : outbox.byClientMessageId(clientMessageId);
  const insertedSeq = known === null ? outbox.insert(newRow(prepared, options)) : undefined;
  if (insertedSeq === undefined) {
    const held = known ?? outbox.byClientMessageId(clientMessageId);
    if (held === null) throw new Error(`the id ${clientMessageId} is taken, and nothing holds it`);
    return { outcome: outcomeOfKnown(held, isSame(held, prepared)), insertedSeq };
  }
  const outcome: SendOutcome = {
    kind: "accepted_pending",
    status: 202,
    client_message_id: prepared.clientMessageId,
    broker_message_id: null,
    duplicate: false,
  };
  return { outcome, insertedSeq };
}

/** Whether a retry asks for the same thing: the fingerprint, and what it does not cover. */
function isSame(row: OutboxRow, { request, fingerprint }: PreparedSend): boolean {
  return (
    Buffer.compare(row.request_fingerprint, fingerprint) === 0 &&
    row.mesh === (request.mesh ?? null) &&
    row.agent === (request.agent ?? null) &&
    (row.expects_reply === 1) === (request.expects_reply ?? false)
  );
}

function outcomeOfKnown(row: OutboxRow, same: boolean): SendOutcome {
  const ids = { client_message_id: row.client_message_id, broker_message_id: row.broker_message_id };
  if (same && row.status === "pending")
    return { kind: "accepted_pending", status: 202, ...ids, duplicate: true };
  if (same && row.status === "inflight")
    return { kind: "accepted_inflight", status: 202, ...ids, duplicate: true };
  if (same && row.status === "done") return { kind: "accepted_done", status: 200, ...ids, duplicate: true };
  return {
    kind: "conflict",
    status: 409,
    ...ids,
    reason: `outbox_${row.status}_fingerprint_${same ? "match" : "mismatch"}`,
    daemon_fingerprint_prefix: fingerprintPrefix(row.request_fingerprint),
    last_error: row.last_error,
  };
}

function newRow(prepared: PreparedSend, options: AcceptOptions): NewOutboxRow {
  const { request } = prepared;
  const nowMs = options.now();
  const replyTo =
    request.reply_to_id && request.reply_to_sender
      ? { id: request.reply_to_id, sender: request.reply_to_sender }
      : null;
  const sealed = options.seal?.({
    clientMessageId: prepared.clientMessageId,
    fingerprint: prepared.fingerprint,
    body: request.message,
    meta: prepared.meta,
    replyTo,
    agent: request.agent ?? null,
    expectsReply: request.expects_reply ?? false,
    nowMs,
  });
  return {
    ...(sealed ?? unsealed),
    id: options.newId(),
    client_message_id: prepared.clientMessageId,
    request_fingerprint: prepared.fingerprint,
    payload: request.message,
    enqueued_at: nowMs,
    mesh: request.mesh ?? null,
    mesh_text: request.mesh_text ?? null,
    to_text: request.to,
    destination_kind: request.destination_kind,
    destination_ref: request.destination_ref,
    priority: prepared.priority,
    reply_to_id: request.reply_to_id ?? null,
    reply_to_sender: request.reply_to_sender ?? null,
    meta: canonicalMeta(prepared.meta) || null,
    agent: request.agent ?? null,
    expects_reply: request.expects_reply ? 1 : 0,
  };
}

const unsealed: SealedColumns = {
  target_spec: null,
  sender_pubkey: null,
  body_version: null,
  nonce: null,
  ciphertext: null,
  wire_fingerprint: null,
};

/** The conflict as the API answers it. */
export function conflictError(outcome: Extract<SendOutcome, { kind: "conflict" }>): MeshError {
  const retired = outcome.reason.endsWith("_match");
  const message = retired
    ? `the message ${outcome.client_message_id} has ended (${outcome.reason}) and is not sent again under this id`
    : `the id ${outcome.client_message_id} was already used for another message`;
  // What was retired by hand has a successor already.
  const wayOn = outcome.reason.includes("aborted")
    ? "To send it once more, use a new id."
    : `Send it anew: claudemesh daemon outbox requeue ${outcome.client_message_id}`;
  const hint = retired
    ? `See why: claudemesh daemon outbox show ${outcome.client_message_id}. ${wayOn}`
    : "Use a new id for a new message; repeat an id only with exactly the same request.";
  return new MeshError("idempotency_key_reused", message, {
    hint,
    details: {
      conflict: outcome.reason,
      daemon_fingerprint_prefix: outcome.daemon_fingerprint_prefix,
      ...(outcome.broker_message_id === null ? {} : { broker_message_id: outcome.broker_message_id }),
      ...(outcome.last_error === null ? {} : { reason: outcome.last_error }),
    },
  });
}
