/** What is refused before anything is written: every kind of address, text that cannot be sealed, meta that is too much. */
import { describe, expect, test } from "bun:test";
import { MeshError } from "~/errors";
import {
  type Address,
  checkClientMessageId,
  checkMessageText,
  checkMeta,
  checkNoZeroByte,
  memberOf,
  parseAddress,
} from "~/wire/outgoing";

/** The code and the details of the MeshError that `action` throws; anything else thrown fails the test. */
function refusal(action: () => unknown): { code: string; message: string; details: Record<string, unknown> } {
  try {
    action();
  } catch (error) {
    if (!(error instanceof MeshError)) throw error;
    return { code: error.code, message: error.message, details: error.details };
  }
  throw new Error("nothing was refused");
}

describe("an address", () => {
  const key = "ab".repeat(32);
  const addresses: [to: string, address: Address][] = [
    ["bob", { kind: "member", text: "bob" }],
    ["  bob ", { kind: "member", text: "bob" }],
    ["Bob Smith", { kind: "member", text: "Bob Smith" }],
    [key, { kind: "member", text: key }],
    ["abababab", { kind: "member", text: "abababab" }],
    ["queue", { kind: "member", text: "queue" }],
    ["**", { kind: "member", text: "**" }],
    ["a@b", { kind: "member", text: "a@b" }],
    ["bob/planner", { kind: "agent", member: "bob", agent: "planner" }],
    ["bob/a/b", { kind: "agent", member: "bob", agent: "a/b" }],
    ["bob/", { kind: "agent", member: "bob", agent: "" }],
    ["/planner", { kind: "agent", member: "", agent: "planner" }],
    ["@alerts", { kind: "topic", name: "alerts" }],
    ["@a/b", { kind: "topic", name: "a/b" }],
    ["@", { kind: "topic", name: "" }],
    ["#01JC", { kind: "topic", name: "01JC" }],
    ["*", { kind: "everyone" }],
    [" * ", { kind: "everyone" }],
    ["queue:builds", { kind: "queue", name: "builds" }],
    ["queue:a/b", { kind: "queue", name: "a/b" }],
    ["queue:", { kind: "queue", name: "" }],
  ];
  test.each(addresses)("%j", (to, address) => {
    expect(parseAddress(to)).toEqual(address);
    if (address.kind === "member") expect(memberOf(to)).toBe(address.text);
    else expect(refusal(() => memberOf(to)).code).toBe("unsupported_destination");
  });

  test.each(["", " ", "\n"])("%j is none", (to) => {
    expect(refusal(() => parseAddress(to))).toMatchObject({
      code: "invalid_request",
      message: "to: must not be empty",
    });
  });

  const refused: [to: string, what: string][] = [
    ["bob/planner", "bob/planner is an agent;"],
    ["@alerts", "@alerts is a topic;"],
    ["#01JC", "#01JC is a topic;"],
    ["*", "* is everyone;"],
    ["queue:builds", "queue:builds is a queue;"],
  ];
  test.each(refused)("%j is refused by what it is", (to, what) => {
    expect(refusal(() => memberOf(to)).message).toStartWith(what);
  });
});

describe("a message", () => {
  test.each(["a", " ", "\n", "\0", "🙂", "\ufffd", "naïve — 日本語"])("may be %j", (text) => {
    expect(() => checkMessageText(text)).not.toThrow();
  });
  test("may not be empty", () => {
    expect(refusal(() => checkMessageText("")).code).toBe("message_empty");
  });
  test.each(["\ud83d", "a\ude42b", "\ude42\ud83d"])("may not be %j, which has no form in UTF-8", (text) => {
    expect(refusal(() => checkMessageText(text)).code).toBe("invalid_message");
  });
});

describe("meta", () => {
  const nested = (levels: number): Record<string, unknown> =>
    Array.from({ length: levels - 1 }).reduce<Record<string, unknown>>((inner) => ({ a: inner }), {});
  const ofBytes = (bytes: number): Record<string, unknown> => ({ a: "x".repeat(bytes - '{"a":""}'.length) });

  const good: [what: string, meta: Record<string, unknown> | null | undefined][] = [
    ["absent", undefined],
    ["null", null],
    ["empty", {}],
    ["flat", { a: 1, b: "c", d: null, e: true }],
    ["with a zero byte, which JSON escapes", { a: "\0" }],
    ["as deep as it may be", nested(16)],
    ["as deep as it may be in lists", { a: [[[[[[[[[[[[[[[1]]]]]]]]]]]]]]] }],
    ["as large as it may be", ofBytes(16 * 1024)],
    ["with the largest number", { a: Number.MAX_VALUE }],
  ];
  test.each(good)("%s is taken", (_, meta) => {
    expect(() => checkMeta(meta)).not.toThrow();
  });

  const bad: [what: string, meta: Record<string, unknown>][] = [
    ["a level too deep", nested(17)],
    ["a level too deep in lists", { a: [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]] }],
    ["a level too deep beside a flat one", { a: 1, b: nested(16) }],
    ["a byte too large", ofBytes(16 * 1024 + 1)],
    ["too large in bytes though not in characters", { a: "é".repeat(8 * 1024) }],
    ["with half a surrogate pair as a value", { a: "\ud83d" }],
    ["with half a surrogate pair as a key", { "\ude42": 1 }],
    ["with no number", { a: Number.NaN }],
    ["with an infinite number", { a: Number.POSITIVE_INFINITY }],
    ["with a big integer", { a: 1n }],
  ];
  test.each(bad)("%s is refused", (_, meta) => {
    expect(refusal(() => checkMeta(meta)).code).toBe("invalid_meta");
  });

  test("that is too large is refused with both sizes", () => {
    expect(refusal(() => checkMeta(ofBytes(20_000))).details).toEqual({
      size_bytes: 20_000,
      limit_bytes: 16 * 1024,
    });
  });

  test("that is as deep as a request has room for is refused like any other", () => {
    const levels = 400_000;
    const meta: Record<string, unknown> = { a: JSON.parse("[".repeat(levels) + "]".repeat(levels)) };
    expect(refusal(() => checkMeta(meta)).code).toBe("invalid_meta");
  });

  test("that contains itself is refused", () => {
    const meta: Record<string, unknown> = {};
    meta.self = meta;
    expect(refusal(() => checkMeta(meta)).code).toBe("invalid_meta");
  });
});

test("a zero byte is refused by the name of its field", () => {
  expect(() => checkNoZeroByte("to", "bob")).not.toThrow();
  expect(() => checkNoZeroByte("to", "")).not.toThrow();
  expect(() => checkNoZeroByte("to", null)).not.toThrow();
  expect(() => checkNoZeroByte("to", undefined)).not.toThrow();
  expect(refusal(() => checkNoZeroByte("to", "b\0b"))).toMatchObject({
    code: "invalid_request",
    message: "to: must not contain a zero byte",
  });
});

test("an id that is none is refused with what an id looks like", () => {
  expect(() => checkClientMessageId("deploy-42")).not.toThrow();
  const { code, message } = refusal(() => checkClientMessageId("-x"));
  expect([code, message]).toEqual(["invalid_id", expect.stringContaining("A-Z a-z 0-9 . _ : -")]);
});
