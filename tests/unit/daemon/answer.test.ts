/** What a broker's answer does to a row: every verdict × every state of the row. */
import { describe, expect, test } from "bun:test";
import { type AnsweredRow, type RetryPolicy, retryDelayMs, stepAnswered } from "~/daemon/answer";
import type { Verdict } from "~/link/answer";
import { outboxStatuses } from "~/wire/ipc";
import { retryAfterMsMax, unrecognisedAttemptsMax } from "~/wire/limits";

const now = 1_000_000_000;
const maxAgeMs = 168 * 3600 * 1000;
const policy: RetryPolicy = { maxAgeMs, delayMsMin: 500, delayMsMax: 60_000, unrecognisedAttemptsMax };
const inflight: AnsweredRow = {
  status: "inflight",
  attempts: 0,
  last_error: null,
  first_sent_at: now,
};
const step = (row: Partial<AnsweredRow>, verdict: Verdict, chance = 0) =>
  stepAnswered({ ...inflight, ...row }, verdict, now, policy, chance);

const acceptance: Verdict = { kind: "accepted", messageId: "m-1", duplicate: false, historyGone: false };
const refusals: Verdict[] = [
  { kind: "reused" },
  { kind: "permanent", why: "too_large" },
  { kind: "transient", why: "busy", retryAfterMs: undefined },
  { kind: "held" },
  { kind: "unrecognised", why: "?" },
];

describe("an acceptance counts whenever it comes", () => {
  test.each([
    ["pending", { to: "done", brokerMessageId: "m-1" }],
    ["inflight", { to: "done", brokerMessageId: "m-1" }],
    ["dead", { to: "done", brokerMessageId: "m-1" }],
    ["aborted", { to: "aborted", brokerMessageId: "m-1" }],
    ["done", { to: "unchanged" }],
  ] as const)("%s", (status, change) => {
    expect(step({ status }, acceptance)).toEqual(change);
  });
});

describe("a refusal counts only for a row that is on the wire", () => {
  for (const status of outboxStatuses.filter((known) => known !== "inflight")) {
    test.each(refusals)(`${status}: $kind`, (verdict) => {
      expect(step({ status }, verdict)).toEqual({ to: "unchanged" });
    });
  }
});

test("a reused key and a permanent refusal end the row", () => {
  expect(step({}, { kind: "reused" })).toEqual({ to: "dead", lastError: "idempotency_key_reused" });
  expect(step({}, { kind: "permanent", why: "unknown_destination: gone" })).toEqual({
    to: "dead",
    lastError: "unknown_destination: gone",
  });
});

test("held is not the row's own failure: no attempt is counted and no delay is its own", () => {
  expect(step({ attempts: 3, last_error: "busy" }, { kind: "held" })).toEqual({
    to: "pending",
    attempts: 3,
    retryAtMs: 0,
    lastError: "busy",
  });
});

test("a transient refusal counts an attempt and waits, at least as long as the broker asks", () => {
  const transient = (retryAfterMs: number | undefined): Verdict => ({
    kind: "transient",
    why: "rate_limited",
    retryAfterMs,
  });
  expect(step({ attempts: 4 }, transient(undefined), 0)).toEqual({
    to: "pending",
    attempts: 5,
    retryAtMs: now + retryDelayMs(5, policy, 0),
    lastError: "rate_limited",
  });
  expect(step({}, transient(7_000), 0)).toMatchObject({ retryAtMs: now + 7_000 });
  expect(step({}, transient(1e15), 0)).toMatchObject({ retryAtMs: now + retryAfterMsMax });
});

test("a refusal that nobody recognises is tried a bounded number of times", () => {
  const verdict: Verdict = { kind: "unrecognised", why: "moon phase" };
  expect(step({ attempts: unrecognisedAttemptsMax - 2 }, verdict)).toMatchObject({ to: "pending" });
  expect(step({ attempts: unrecognisedAttemptsMax - 1 }, verdict)).toEqual({
    to: "dead",
    lastError: "moon phase",
  });
});

test("a row that was tried and is older than the broker remembers ids expires; exactly as old, it does not", () => {
  const verdict: Verdict = { kind: "transient", why: "busy", retryAfterMs: undefined };
  expect(step({ first_sent_at: now - maxAgeMs }, verdict)).toMatchObject({ to: "pending" });
  expect(step({ first_sent_at: now - maxAgeMs - 1 }, verdict)).toEqual({ to: "dead", lastError: "expired" });
});

test("the backoff doubles up to a minute, with full jitter above half a second", () => {
  for (const [attempts, ceiling] of [
    [1, 1_000],
    [2, 2_000],
    [6, 32_000],
    [7, 60_000],
    [1_000_000, 60_000],
  ] as const) {
    expect(retryDelayMs(attempts, policy, 0)).toBe(500);
    expect(retryDelayMs(attempts, policy, 1)).toBe(ceiling);
  }
});

test("the policy bounds the backoff, the attempts and the age", () => {
  const other: RetryPolicy = { maxAgeMs: 1_000, delayMsMin: 10, delayMsMax: 40, unrecognisedAttemptsMax: 2 };
  expect([1, 2, 3].map((attempts) => retryDelayMs(attempts, other, 1))).toEqual([20, 40, 40]);
  expect(retryDelayMs(9, { delayMsMin: 40, delayMsMax: 40 }, 0.5)).toBe(40);
  const odd: Verdict = { kind: "unrecognised", why: "?" };
  expect(stepAnswered(inflight, odd, now, other, 0)).toMatchObject({ to: "pending" });
  expect(stepAnswered({ ...inflight, attempts: 1 }, odd, now, other, 0)).toMatchObject({ to: "dead" });
  const busy: Verdict = { kind: "transient", why: "busy", retryAfterMs: undefined };
  const old = { ...inflight, first_sent_at: now - 1_001 };
  expect(stepAnswered(old, busy, now, other, 0)).toEqual({ to: "dead", lastError: "expired" });
});
