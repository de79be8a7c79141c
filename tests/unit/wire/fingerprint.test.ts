/** The request fingerprint, held against the vectors of the contract and against its own promises. */
import { describe, expect, test } from "bun:test";
import {
  canonicalMeta,
  envelopeVersion,
  type FingerprintInput,
  fingerprintPrefix,
  requestFingerprint,
  wireFingerprint,
} from "~/wire/fingerprint";
import { cryptoVectors, fingerprintCases } from "../../vectors/vectors";

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

describe("the vectors of the contract", () => {
  test("are all there", () => {
    expect(fingerprintCases.length).toBe(15);
  });

  for (const { name, input, canonical_meta, fingerprint_hex } of fingerprintCases) {
    test(name, () => {
      expect(canonicalMeta(input.meta)).toBe(canonical_meta);
      const fingerprint = requestFingerprint({
        envelopeVersion: input.envelope_version,
        destinationKind: input.destination_kind,
        destinationRef: input.destination_ref,
        replyToId: input.reply_to_id,
        priority: input.priority,
        meta: input.meta,
        body: input.body_utf8,
      });
      expect(hex(fingerprint)).toBe(fingerprint_hex);
    });
  }

  test("on the wire it is under the sender's own key", () => {
    const { request_fingerprint_hex, sender_seed_hex, wire_fingerprint_hex } = cryptoVectors.wire_fingerprint;
    const fingerprint = Buffer.from(request_fingerprint_hex, "hex");
    expect(wireFingerprint(fingerprint, sender_seed_hex)).toBe(wire_fingerprint_hex);
    // Asked again it comes from the kept key, which must be the same one.
    expect(wireFingerprint(fingerprint, sender_seed_hex)).toBe(wire_fingerprint_hex);
    expect(wireFingerprint(fingerprint, cryptoVectors.bob.seed_hex)).not.toBe(wire_fingerprint_hex);
  });
});

test("the prefix that people compare is the first eight bytes", () => {
  const fingerprint = Uint8Array.from({ length: 32 }, (_, index) => index * 8);
  expect(fingerprintPrefix(fingerprint)).toBe("0008101820283038");
});

test("what our rows carry is version 1", () => {
  expect(envelopeVersion).toBe(1);
});

describe("a part that differs makes another request", () => {
  const base: FingerprintInput = {
    envelopeVersion: 1,
    destinationKind: "dm",
    destinationRef: "ab".repeat(32),
    replyToId: null,
    priority: "next",
    meta: { a: 1 },
    body: "hello",
  };
  const others: Partial<FingerprintInput>[] = [
    { envelopeVersion: 2 },
    { destinationKind: "topic" },
    { destinationKind: "queue" },
    { destinationRef: "cd".repeat(32) },
    { replyToId: "a" },
    { priority: "now" },
    { priority: "low" },
    { meta: null },
    { meta: { a: 2 } },
    { meta: { a: "1" } },
    { meta: { b: 1 } },
    { body: "hello " },
    { body: "" },
  ];
  test("from the first one and from all the others", () => {
    const all = [base, ...others.map((other) => ({ ...base, ...other }))].map((one) =>
      hex(requestFingerprint(one)),
    );
    expect(new Set(all).size).toBe(all.length);
  });

  test("and text does not slide from one part into the next", () => {
    const left = requestFingerprint({ ...base, destinationRef: "a", replyToId: "bc" });
    const right = requestFingerprint({ ...base, destinationRef: "ab", replyToId: "c" });
    expect(hex(left)).not.toBe(hex(right));
  });
});

describe("canonical meta", () => {
  const cases: [meta: Record<string, unknown> | null | undefined, text: string][] = [
    [undefined, ""],
    [null, ""],
    [{}, ""],
    [{ a: {} }, '{"a":{}}'],
    [{ a: null }, '{"a":null}'],
    [{ b: [], a: "" }, '{"a":"","b":[]}'],
    [{ a: -0 }, '{"a":0}'],
    [{ a: 1e21 }, '{"a":1e+21}'],
    [{ a: "\u0000\u001f\u007f/" }, '{"a":"\\u0000\\u001f\u007f/"}'],
  ];
  test("is the shortest form, and nothing at all when there is nothing to say", () => {
    expect(cases.map(([meta]) => canonicalMeta(meta))).toEqual(cases.map(([, text]) => text));
  });
});
