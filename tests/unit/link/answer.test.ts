/** What a broker's answer to a send says: every code of ours, every text of version 1, and what is neither. */
import { describe, expect, test } from "bun:test";
import { readAnswer, type Verdict } from "~/link/answer";
import { type AckCode, type AckFrame, ackCodes } from "~/wire/broker";

const ack = (fields: Partial<AckFrame>): AckFrame => ({ type: "ack", id: "key-1", ...fields });
const accepted = { kind: "accepted", messageId: "m", duplicate: false, historyGone: false } as const;

/** Each code with everything that an acceptance and a refusal may bring along. */
const byCode: Record<AckCode, Verdict> = {
  created: accepted,
  duplicate: { ...accepted, duplicate: true },
  idempotency_key_reused: { kind: "reused" },
  rate_limited: { kind: "transient", why: "rate_limited: said", retryAfterMs: 1500 },
  held: { kind: "held" },
  busy: { kind: "transient", why: "busy: said", retryAfterMs: 1500 },
  internal: { kind: "transient", why: "internal: said", retryAfterMs: 1500 },
  too_large: { kind: "permanent", why: "too_large: said" },
  malformed: { kind: "permanent", why: "malformed: said" },
  unauthorized: { kind: "permanent", why: "unauthorized: said" },
  unknown_destination: { kind: "permanent", why: "unknown_destination: said" },
  refused: { kind: "permanent", why: "refused: said" },
};

test("every code of the contract is here", () => {
  expect<string[]>(Object.keys(byCode).sort()).toEqual([...ackCodes].sort());
});

test.each(Object.entries(byCode))("code %s", (code, verdict) => {
  const answer = ack({ code, messageId: "m", error: "said", retry_after_ms: 1500 });
  expect(readAnswer(answer)).toEqual(verdict);
});

test.each(Object.entries(byCode))("code %s without a text", (code, verdict) => {
  const expected = "why" in verdict ? { ...verdict, why: code } : verdict;
  expect(readAnswer(ack({ code, messageId: "m", retry_after_ms: 1500 }))).toEqual(expected);
});

const other: [what: string, fields: Partial<AckFrame>, verdict: Verdict][] = [
  ["version 1 accepts", { messageId: "m", queued: true }, accepted],
  ["version 1 accepts without queueing", { messageId: "m", queued: false }, accepted],
  ["version 1 accepts with no error, said in so many words", { messageId: "m", error: null }, accepted],
  ["version 1 accepts with an empty error", { messageId: "m", error: "" }, accepted],
  [
    "accepted as a duplicate by the flag",
    { code: "created", messageId: "m", duplicate: true },
    { ...accepted, duplicate: true },
  ],
  [
    "not a duplicate by the flag alone being there",
    { code: "created", messageId: "m", duplicate: false },
    accepted,
  ],
  [
    "a duplicate whose history is gone",
    { code: "duplicate", messageId: "m", history_available: false },
    { ...accepted, duplicate: true, historyGone: true },
  ],
  [
    "a duplicate whose history is there",
    { code: "duplicate", messageId: "m", history_available: true },
    { ...accepted, duplicate: true },
  ],
  ...(["created", "duplicate", undefined] as const).flatMap((code) =>
    [undefined, null, ""].map((messageId): [string, Partial<AckFrame>, Verdict] => [
      `${code ?? "version 1"} without a name for the message (${JSON.stringify(messageId)})`,
      { ...(code === undefined ? {} : { code }), ...(messageId === undefined ? {} : { messageId }) },
      { kind: "unrecognised", why: "the broker accepted it without naming the message" },
    ]),
  ),
  [
    "version 1 is at its rate limit",
    { error: "rate_limit exceeded" },
    { kind: "transient", why: "rate_limit exceeded", retryAfterMs: undefined },
  ],
  [
    "version 1 is at its rate limit, in capitals",
    { error: "RATE_LIMITED: wait" },
    { kind: "transient", why: "RATE_LIMITED: wait", retryAfterMs: undefined },
  ],
  [
    "version 1 says how long to wait",
    { error: "rate_limit", retry_after_ms: 7 },
    { kind: "transient", why: "rate_limit", retryAfterMs: 7 },
  ],
  [
    "version 1 finds nobody there",
    { error: "no connected peer for target" },
    { kind: "transient", why: "no connected peer for target", retryAfterMs: undefined },
  ],
  [
    "version 1 finds it too large",
    { error: "payload too large (70000 > 65536)" },
    { kind: "permanent", why: "payload too large (70000 > 65536)" },
  ],
  [
    "version 1 was told not to",
    { error: "blocked by recipient: dnd" },
    { kind: "permanent", why: "blocked by recipient: dnd" },
  ],
  [
    "version 1 refuses with a name for the message",
    { messageId: "m", error: "payload too large" },
    { kind: "permanent", why: "payload too large" },
  ],
  [
    "version 1 says something else",
    { error: "database on fire" },
    { kind: "unrecognised", why: "database on fire" },
  ],
  [
    "version 1 says it in the middle",
    { error: "sorry: rate_limit" },
    { kind: "unrecognised", why: "sorry: rate_limit" },
  ],
  ["version 1 says one of our codes", { error: "held" }, { kind: "unrecognised", why: "held" }],
  [
    "a code of tomorrow",
    { code: "quantum", error: "decohered" },
    { kind: "unrecognised", why: "quantum: decohered" },
  ],
  [
    "a code of tomorrow, with a name for the message",
    { code: "stored", messageId: "m" },
    { kind: "unrecognised", why: "stored" },
  ],
  [
    "a code of tomorrow with a text of version 1",
    { code: "quantum", error: "rate_limit" },
    { kind: "unrecognised", why: "quantum: rate_limit" },
  ],
  ["a code that only a prototype has", { code: "constructor" }, { kind: "unrecognised", why: "constructor" }],
  ["an empty code", { code: "", messageId: "m" }, { kind: "unrecognised", why: "" }],
  [
    "a code wins over an error that is accepted",
    { code: "created", messageId: "m", error: "rate_limit" },
    accepted,
  ],
];
describe("what else may be answered", () => {
  test.each(other)("%s", (_, fields, verdict) => {
    expect(readAnswer(ack(fields))).toEqual(verdict);
  });
});
