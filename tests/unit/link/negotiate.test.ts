/** What a broker's features come to: the terms of working with it, or why there are none. */
import { describe, expect, test } from "bun:test";
import { type BrokerTerms, type Demands, maxAgeHours, negotiate, noDemands } from "~/link/negotiate";
import { frameBytesMax } from "~/wire/limits";

const hourMs = 3600 * 1000;
const dedupe = (days?: number) => ({
  version: 1 as const,
  request_fingerprint: true as const,
  ...(days === undefined
    ? { mode: "permanent" as const }
    : { mode: "retention_scoped" as const, dedupe_retention_days: days }),
});
const members = { version: 1 as const };
const lanes = { version: 1 as const };

const version1: BrokerTerms = {
  features: undefined,
  inlineBytes: 65_536,
  maxAgeMs: 168 * hourMs,
  lanes: false,
  members: false,
  missing: ["client_message_id_dedupe", "members"],
};

describe("terms", () => {
  const cases: [what: string, advertised: Record<string, unknown> | undefined, terms: BrokerTerms][] = [
    ["of a version-1 broker", undefined, version1],
    ["of one that advertises nothing", {}, { ...version1, features: {} }],
    ["of one from the future", { teleport: { version: 7 } }, { ...version1, features: {} }],
    [
      "of a claudemesh broker",
      { client_message_id_dedupe: dedupe(), members, lanes, max_payload: { version: 1, inline_bytes: 1000 } },
      {
        features: {
          client_message_id_dedupe: dedupe(),
          members,
          lanes,
          max_payload: { version: 1, inline_bytes: 1000 },
        },
        inlineBytes: 1000,
        maxAgeMs: 168 * hourMs,
        lanes: true,
        members: true,
        missing: [],
      },
    ],
    [
      "of one that forgets",
      { client_message_id_dedupe: dedupe(30), members },
      {
        ...version1,
        features: { client_message_id_dedupe: dedupe(30), members },
        maxAgeMs: 648 * hourMs,
        maxAgeMsMax: 648 * hourMs,
        members: true,
        missing: [],
      },
    ],
    [
      "of one without members",
      { client_message_id_dedupe: dedupe() },
      { ...version1, features: { client_message_id_dedupe: dedupe() }, missing: ["members"] },
    ],
    [
      "of one whose lanes are of no use, since it does not know an id again",
      { lanes, members },
      {
        ...version1,
        features: { lanes, members },
        members: true,
        missing: ["client_message_id_dedupe"],
      },
    ],
  ];
  test.each(cases)("%s", (_, advertised, terms) => {
    expect(negotiate(advertised, false)).toEqual({ ok: true, terms });
    // A mesh of claudemesh's own takes the same terms when nothing that it needs is missing, and none otherwise.
    const [missing] = terms.missing;
    expect<unknown>(negotiate(advertised, true)).toEqual(
      missing === undefined
        ? { ok: true, terms }
        : { ok: false, kind: "feature_unavailable", feature: missing },
    );
  });
});

test("a broker's promise to take more than a frame holds is not believed", () => {
  const frameWith = (inlineBytes: number) => {
    const sealed = "A".repeat(Math.ceil(inlineBytes / 3) * 4);
    return JSON.stringify({
      type: "push",
      messageId: "m".repeat(128),
      meshId: "m".repeat(128),
      senderPubkey: "ab".repeat(32),
      senderMemberPubkey: "ab".repeat(32),
      senderMemberId: "m".repeat(128),
      senderName: "é".repeat(64),
      priority: "next",
      nonce: "A".repeat(32),
      ciphertext: sealed,
      createdAt: "2025-06-15T15:06:40.000Z",
      client_message_id: "c".repeat(128),
      request_fingerprint: "ab".repeat(32),
      bodyVersion: 2,
    });
  };
  for (const promised of [1_000_000, 10_000_000, Number.MAX_SAFE_INTEGER]) {
    const agreed = negotiate({ max_payload: { version: 1, inline_bytes: promised } }, false);
    if (!agreed.ok) throw new Error(agreed.kind);
    expect(agreed.terms.inlineBytes).toBeGreaterThan(500_000);
    expect(Buffer.byteLength(frameWith(agreed.terms.inlineBytes))).toBeLessThanOrEqual(frameBytesMax);
  }
});

describe("no terms", () => {
  const cases: [what: string, advertised: Record<string, unknown>, kind: string, feature: string][] = [
    ["lanes of another version", { lanes: { version: 2 } }, "feature_param_invalid", "lanes"],
    ["members that are a word", { members: "yes" }, "feature_param_invalid", "members"],
    ["no room", { max_payload: { version: 1, inline_bytes: 0 } }, "feature_param_invalid", "max_payload"],
    [
      "room in text",
      { max_payload: { version: 1, inline_bytes: "64" } },
      "feature_param_invalid",
      "max_payload",
    ],
    [
      "dedupe of another kind",
      { client_message_id_dedupe: { ...dedupe(), mode: "often" } },
      "feature_param_invalid",
      "client_message_id_dedupe",
    ],
    [
      "dedupe for a time that is not said",
      { client_message_id_dedupe: { ...dedupe(), mode: "retention_scoped" } },
      "feature_param_invalid",
      "client_message_id_dedupe",
    ],
    [
      "dedupe for two days and a half",
      { client_message_id_dedupe: dedupe(2.5) },
      "feature_param_invalid",
      "client_message_id_dedupe",
    ],
    [
      "dedupe without fingerprints",
      { client_message_id_dedupe: { ...dedupe(), request_fingerprint: false } },
      "feature_param_invalid",
      "client_message_id_dedupe",
    ],
    [
      "dedupe for two days",
      { client_message_id_dedupe: dedupe(2) },
      "feature_param_below_floor",
      "client_message_id_dedupe",
    ],
    [
      "dedupe for a day",
      { client_message_id_dedupe: dedupe(1) },
      "feature_param_below_floor",
      "client_message_id_dedupe",
    ],
  ];
  test.each(cases)("for %s", (_, advertised, kind, feature) => {
    for (const needsClaudemesh of [false, true]) {
      const sound = { client_message_id_dedupe: dedupe(), members, lanes };
      expect<unknown>(negotiate({ ...sound, ...advertised }, needsClaudemesh)).toEqual({
        ok: false,
        kind,
        feature,
      });
    }
  });

  test("three days are enough", () => {
    expect(negotiate({ client_message_id_dedupe: dedupe(3), members }, true)).toMatchObject({
      ok: true,
      terms: { maxAgeMs: 72 * hourMs },
    });
  });
  test("what permanent dedupe says of days is not held against it", () => {
    const odd = { ...dedupe(), dedupe_retention_days: 1 };
    expect(negotiate({ client_message_id_dedupe: odd, members }, true)).toMatchObject({
      ok: true,
      terms: { maxAgeMs: 168 * hourMs },
    });
  });
});

describe("how long a message may wait, in hours", () => {
  const hours: [days: number | undefined, hours: number][] = [
    [undefined, 168],
    [3, 72],
    [4, 72],
    [5, 96],
    [7, 144],
    [10, 216],
    [11, 237],
    [14, 302],
    [30, 648],
    [90, 1944],
    [365, 7884],
  ];
  test.each(hours)("%p days: %d", (days, expected) => {
    expect(maxAgeHours(days)).toBe(expected);
  });

  test("is max(72, 24 N − max(24, ⌈2.4 N⌉)) for every N, in whole numbers", () => {
    for (let days = 3; days <= 4000; days++) {
      const tenth = Math.floor((12 * days + 4) / 5);
      expect(maxAgeHours(days)).toBe(Math.max(72, 24 * days - Math.max(24, tenth)));
    }
  });
  test("never exceeds what the broker remembers, and never shrinks as that grows", () => {
    for (let days = 3; days <= 400; days++) {
      expect(maxAgeHours(days)).toBeLessThanOrEqual(24 * days);
      expect(maxAgeHours(days + 1)).toBeGreaterThanOrEqual(maxAgeHours(days));
    }
  });
});

describe("what this host's settings ask of a broker", () => {
  const ask = (demands: Partial<Demands>, advertised: Record<string, unknown> | undefined) =>
    negotiate(advertised, false, { ...noDemands, ...demands });
  const forgetful = { client_message_id_dedupe: dedupe(30), members };

  test.each([
    ["that it has", { members }, true],
    ["that it has and we know nothing of", { members: { version: 1 }, teleport: {} }, true],
    ["that it lacks", { lanes }, false],
    ["at all, of one that advertises nothing", undefined, false],
  ])("a feature %s", (_, advertised, ok) => {
    const feature = advertised !== undefined && "teleport" in advertised ? "teleport" : "members";
    expect(ask({ requiredFeatures: [feature] }, advertised)).toMatchObject(
      ok
        ? { ok }
        : {
            ok,
            kind: "feature_unavailable",
            feature,
            detail: expect.stringContaining("link.required_features"),
          },
    );
  });

  test.each([
    ["up to its window", 648, forgetful, true],
    ["above its window", 649, forgetful, false],
    [
      "of any length, when it remembers for good",
      87_600,
      { client_message_id_dedupe: dedupe(), members },
      true,
    ],
    ["of any length, when it knows no ids", 87_600, undefined, true],
  ])("an age %s", (_, maxAgeHours, advertised, ok) => {
    expect(ask({ maxAgeHours }, advertised)).toMatchObject(
      ok
        ? { ok }
        : {
            ok,
            kind: "feature_param_below_floor",
            feature: "client_message_id_dedupe",
            detail: "delivery.max_age_h is 649, and the broker remembers ids long enough for 648",
          },
    );
  });
});
