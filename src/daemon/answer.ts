/**
 * What the broker's answer to a send does with the outbox row: a pure table (delivery contract, "What the broker's
 * answer does"). A late answer still counts; a refusal that comes late does not, since the row has moved on.
 */
import type { Verdict } from "~/link/answer";
import type { OutboxStatus } from "~/wire/ipc";
import { retryAfterMsMax } from "~/wire/limits";

export type RowChange =
  | { to: "done"; brokerMessageId: string }
  | { to: "dead"; lastError: string }
  /** `retryAtMs` is when the lane may go on; 0: as soon as the row before it did. */
  | { to: "pending"; attempts: number; retryAtMs: number; lastError: string | null }
  /** An aborted row learns under which id the broker has it, and stays aborted. */
  | { to: "aborted"; brokerMessageId: string }
  | { to: "unchanged" };

export interface AnsweredRow {
  status: OutboxStatus;
  attempts: number;
  last_error: string | null;
  first_sent_at: number | null;
}

/** What the settings and the broker say of how a message is tried again. */
export interface RetryPolicy {
  /** How long this broker's memory lets a message be tried, or less. */
  maxAgeMs: number;
  delayMsMin: number;
  delayMsMax: number;
  unrecognisedAttemptsMax: number;
}

/**
 * Whether the broker may have forgotten a row that it once got. Age counts from the first time on the wire: how long a row
 * waited for the broker to come back is not its fault, and no broker knows of it before then.
 */
export const isOlderThan = (
  maxAgeMs: number,
  row: Pick<AnsweredRow, "first_sent_at">,
  nowMs: number,
): boolean => row.first_sent_at !== null && nowMs - row.first_sent_at > maxAgeMs;

/** `chance` is uniform in [0, 1). */
export function stepAnswered(
  row: AnsweredRow,
  verdict: Verdict,
  nowMs: number,
  policy: RetryPolicy,
  chance: number,
): RowChange {
  if (verdict.kind === "accepted") {
    if (row.status === "done") return { to: "unchanged" };
    if (row.status === "aborted") return { to: "aborted", brokerMessageId: verdict.messageId };
    return { to: "done", brokerMessageId: verdict.messageId };
  }
  if (row.status !== "inflight") return { to: "unchanged" };
  switch (verdict.kind) {
    case "reused":
      return { to: "dead", lastError: "idempotency_key_reused" };
    case "permanent":
      return { to: "dead", lastError: verdict.why };
    case "held":
      return { to: "pending", attempts: row.attempts, retryAtMs: 0, lastError: row.last_error };
    case "transient":
    case "unrecognised": {
      const attempts = row.attempts + 1;
      if (verdict.kind === "unrecognised" && attempts >= policy.unrecognisedAttemptsMax)
        return { to: "dead", lastError: verdict.why };
      if (isOlderThan(policy.maxAgeMs, row, nowMs)) return { to: "dead", lastError: "expired" };
      const asked = verdict.kind === "transient" ? (verdict.retryAfterMs ?? 0) : 0;
      const delayMs = Math.max(Math.min(asked, retryAfterMsMax), retryDelayMs(attempts, policy, chance));
      return { to: "pending", attempts, retryAtMs: nowMs + delayMs, lastError: verdict.why };
    }
  }
}

/**
 * Exponential backoff with full jitter
 * (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), never under the smallest delay.
 */
export function retryDelayMs(
  attempts: number,
  { delayMsMin, delayMsMax }: Pick<RetryPolicy, "delayMsMin" | "delayMsMax">,
  chance: number,
): number {
  const ceiling = Math.min(delayMsMax, delayMsMin * 2 ** Math.min(attempts, 20));
  return Math.round(delayMsMin + (ceiling - delayMsMin) * chance);
}
