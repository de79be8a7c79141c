/**
 * What a broker's answer to a send says, whichever way an older or newer broker says it. What that does with the message
 * is the sender's business.
 */
import type { AckFrame } from "~/wire/broker";

export type Verdict =
  | { kind: "accepted"; messageId: string; duplicate: boolean; historyGone: boolean }
  | { kind: "reused" }
  | { kind: "permanent"; why: string }
  | { kind: "transient"; why: string; retryAfterMs: number | undefined }
  /** Not this row's fault: the one before it in its lane was refused. */
  | { kind: "held" }
  | { kind: "unrecognised"; why: string };

const permanentCodes: ReadonlySet<string> = new Set([
  "too_large",
  "malformed",
  "unauthorized",
  "unknown_destination",
  "refused",
]);
const transientCodes: ReadonlySet<string> = new Set(["rate_limited", "busy", "internal"]);

/** A version-1 broker gives only text. */
const transientTexts = [/^rate_limit/i, /^no connected peer/i];
const permanentTexts = [/^payload too large/i, /^blocked by recipient/i];

export function readAnswer(ack: AckFrame): Verdict {
  const { code } = ack;
  const text = ack.error ?? "";
  if (code === undefined ? text === "" : code === "created" || code === "duplicate")
    return readAcceptance(ack);
  const why = code === undefined ? text : text === "" ? code : `${code}: ${text}`;
  if (code === "held") return { kind: "held" };
  if (code === "idempotency_key_reused") return { kind: "reused" };
  if (code === undefined ? permanentTexts.some((known) => known.test(text)) : permanentCodes.has(code)) {
    return { kind: "permanent", why };
  }
  if (code === undefined ? transientTexts.some((known) => known.test(text)) : transientCodes.has(code)) {
    return { kind: "transient", why, retryAfterMs: ack.retry_after_ms };
  }
  return { kind: "unrecognised", why };
}

function readAcceptance(ack: AckFrame): Verdict {
  if (ack.messageId === undefined || ack.messageId === null || ack.messageId === "") {
    return { kind: "unrecognised", why: "the broker accepted it without naming the message" };
  }
  return {
    kind: "accepted",
    messageId: ack.messageId,
    duplicate: ack.duplicate === true || ack.code === "duplicate",
    historyGone: ack.history_available === false,
  };
}
