/**
 * What becomes of a `send` (delivery.md §7). B0: an id that was accepted before is answered from the record, free of every limit.
 * B1: membership, size, lane, rate. B2: the destination. B3: dedupe record, message and delivery, all or none.
 * A refusal leaves no trace of the id; a transient one holds the lane until the id comes again.
 */
import type { Bounds } from "~/broker/bounds";
import type { Session } from "~/broker/connections";
import type { Ack } from "~/broker/effects";
import type { Instant } from "~/broker/instant";
import type { Rate } from "~/broker/rate";
import type { Accepted, Member, MemberRow } from "~/broker/rows";
import type { Store } from "~/broker/sqlite";
import { isoTime } from "~/clock";
import type { AckCode, SendFrame } from "~/wire/broker";
import { decodeSealed } from "~/wire/sealed";

export interface SendContext {
  store: Store;
  rate: Rate;
  bounds: Bounds;
  newId: (wallMs: number) => string;
  /** Whether the member has a session that takes deliveries. */
  isConnected: (member: MemberRow) => boolean;
}

export interface SendOutcome {
  ack: Ack;
  /** Has something new in its queue. */
  recipient?: MemberRow;
}

/** The id that a send goes by, or what is wrong with the ones it has. */
export function sendIdOf(frame: SendFrame): { id: string } | { fault: string } {
  const id = frame.client_message_id ?? frame.id;
  if (id === undefined) return { fault: "send: client_message_id: missing" };
  if (frame.id !== undefined && frame.id !== id)
    return { fault: "send: id: must equal client_message_id when both are given" };
  return { id };
}

/** Decides a send of this session. Writes when it accepts; call inside a transaction. */
export function decideSend(
  frame: SendFrame,
  id: string,
  session: Session,
  context: SendContext,
  at: Instant,
): SendOutcome {
  const outcome = judge(frame, id, session, context, at);
  const { lanes } = session;
  const { code } = outcome.ack;
  if (code === "rate_limited" || code === "busy") lanes.hold(frame.targetSpec, id);
  else if (code !== "held") lanes.settle(frame.targetSpec, id);
  return outcome;
}

function judge(
  frame: SendFrame,
  id: string,
  session: Session,
  context: SendContext,
  at: Instant,
): SendOutcome {
  const { store, rate, bounds } = context;
  const { identity } = session;
  const known = store.acceptedBefore(identity.member, id);
  if (known !== undefined) return { ack: ackKnown(frame, id, known) };

  const refuse = (code: AckCode, error: string, retryAfterMs?: number): SendOutcome => ({
    ack: refusalAck(id, code, error, retryAfterMs),
  });
  if (store.currentRole(identity.member) === undefined)
    return refuse("unauthorized", "this member was removed from the mesh");
  const bytes = decodedBytes(frame.ciphertext);
  if (bytes === undefined) return refuse("malformed", "send: ciphertext: standard base64 expected");
  if (bytes > bounds.inlineBytes) {
    return refuse(
      "too_large",
      `payload too large: ${bytes} bytes of ciphertext; this broker takes ${bounds.inlineBytes}`,
    );
  }
  const holder = session.lanes.heldBy(frame.targetSpec);
  if (holder !== undefined && holder !== id)
    return refuse("held", `waits until ${holder}, refused earlier in this lane, comes again`);
  const waitMs = rate.charge(identity.member, id, at);
  if (waitMs !== undefined) {
    const seconds = bounds.rateWindowMs / 1000;
    return refuse(
      "rate_limited",
      `rate_limited: a member may send ${bounds.sendsPerRateWindowMax} messages in ${seconds} s`,
      waitMs,
    );
  }

  const recipient = destinationOf(frame.targetSpec, session, store);
  if (typeof recipient === "string") return refuse("unknown_destination", recipient);
  if (store.waitingFor(recipient.member) >= bounds.queuedPerRecipientMax) {
    return refuse(
      "busy",
      `the recipient has ${bounds.queuedPerRecipientMax} messages waiting, which is the most a queue holds`,
      bounds.queueFullRetryAfterMs,
    );
  }

  const messageId = context.newId(at.wallMs);
  store.accept({
    message_id: messageId,
    mesh: identity.mesh,
    sender: identity.member,
    recipient: recipient.member,
    client_message_id: id,
    request_fingerprint: frame.request_fingerprint ?? null,
    target_spec: frame.targetSpec,
    priority: frame.priority,
    ...decodeSealed(frame),
    reply_to_id: frame.replyToId ?? null,
    body_version: frame.bodyVersion ?? null,
    created_at: at.wallMs,
  });
  return {
    ack: {
      type: "ack",
      id,
      client_message_id: id,
      messageId,
      queued: !context.isConnected(recipient.member),
      code: "created",
      duplicate: false,
      history_available: true,
    },
    recipient: recipient.member,
  };
}

/** "The same request" means an equal fingerprint, or none both times. */
function ackKnown(frame: SendFrame, id: string, known: Accepted): Ack {
  const common = {
    type: "ack" as const,
    id,
    client_message_id: id,
    duplicate: true,
    history_available: known.has_contents === 1,
    first_seen_at: isoTime(known.first_seen_at),
  };
  if (known.request_fingerprint === (frame.request_fingerprint ?? null))
    return { ...common, code: "duplicate", messageId: known.message_id };
  return {
    ...common,
    code: "idempotency_key_reused",
    error: "this id was accepted before for another request",
    ...(known.request_fingerprint === null
      ? {}
      : { broker_fingerprint_prefix: known.request_fingerprint.slice(0, 16) }),
  };
}

export const refusalAck = (id: string, code: AckCode, error: string, retryAfterMs?: number): Ack => ({
  type: "ack",
  id,
  client_message_id: id,
  queued: false,
  error,
  code,
  duplicate: false,
  ...(retryAfterMs === undefined ? {} : { retry_after_ms: retryAfterMs }),
});

/** The member that a target names, or a sentence that says why there is none. */
function destinationOf(target: string, session: Session, store: Store): Member | string {
  const { identity } = session;
  if (target === "*") return "this broker does not take broadcasts yet";
  if (target.startsWith("@") || target.startsWith("#")) return "this broker does not take topics yet";
  if (target.startsWith("queue:")) return "this broker does not take queues yet";
  if (target === identity.pubkey) return "a member does not send to itself";
  const member = store.memberByKey(identity.mesh, target);
  if (member === undefined) return "no member of this mesh has this key";
  return member.removed_at === null ? member : "the member with this key was removed from the mesh";
}

/** How many bytes a text of padded standard base64 stands for (RFC 4648 §4); undefined when it is none. */
function decodedBytes(text: string): number | undefined {
  if (text.length % 4 !== 0) return undefined;
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  return (text.length / 4) * 3 - padding;
}
