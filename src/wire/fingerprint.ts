/**
 * The request fingerprint: what "the same request" means when an id comes a second time. 32 bytes,
 * sha256(envelope_version 00 destination_kind 00 destination_ref 00 reply_to_id 00 priority 00 meta 00 body_hash) with
 * meta as RFC 8785 canonical JSON. Computed once, when a send is accepted, and stored; never recomputed from a row.
 */
import { createHash, createHmac, hkdfSync } from "node:crypto";
import canonicalize from "canonicalize";
import type { Priority } from "~/wire/text";

export type DestinationKind = "dm" | "topic" | "queue";

export interface FingerprintInput {
  envelopeVersion: number;
  destinationKind: DestinationKind;
  /** Recipient public key in hex, topic name or queue name. */
  destinationRef: string;
  replyToId: string | null;
  priority: Priority;
  meta: Record<string, unknown> | null;
  body: string;
}

/** Part of the fingerprint, and not what goes on the wire as `bodyVersion`. */
export const envelopeVersion = 1;

/** RFC 8785 JSON of `meta`; absent, null and `{}` are all the empty text. */
export function canonicalMeta(meta: Record<string, unknown> | null | undefined): string {
  if (meta === null || meta === undefined || Object.keys(meta).length === 0) return "";
  return canonicalize(meta) ?? "";
}

export function requestFingerprint(input: FingerprintInput): Uint8Array {
  const bodyHash = createHash("sha256").update(input.body, "utf8").digest("hex");
  const parts = [
    String(input.envelopeVersion),
    input.destinationKind,
    input.destinationRef,
    input.replyToId ?? "",
    input.priority,
    canonicalMeta(input.meta),
    bodyHash,
  ];
  return createHash("sha256").update(parts.join("\0"), "utf8").digest();
}

/** The first 8 bytes as 16 hex digits: enough to compare two answers by eye. */
export const fingerprintPrefix = (fingerprint: Uint8Array): string =>
  Buffer.from(fingerprint.subarray(0, 8)).toString("hex");

const wireKeys = new Map<string, Uint8Array>();
const wireKeysMax = 64;

/**
 * What the broker gets instead of the fingerprint, so that it cannot confirm guesses of short bodies:
 * HMAC-SHA-256 (RFC 2104) under a key derived by HKDF-SHA-256 (RFC 5869) from the sender's ed25519 seed. Lower-case hex.
 */
export function wireFingerprint(fingerprint: Uint8Array, senderSeedHex: string): string {
  let key = wireKeys.get(senderSeedHex);
  if (key === undefined) {
    const seed = Buffer.from(senderSeedHex, "hex");
    key = new Uint8Array(hkdfSync("sha256", seed, new Uint8Array(0), "claudemesh/wire-fingerprint/1", 32));
    if (wireKeys.size >= wireKeysMax) wireKeys.clear();
    wireKeys.set(senderSeedHex, key);
  }
  return createHmac("sha256", key).update(fingerprint).digest("hex");
}
