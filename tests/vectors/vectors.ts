/**
 * The test vectors of the contract, parsed. They were made by another implementation: what agrees with them is compatible with
 * every other claudemesh, which no round trip through our own code can show.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";

const load = <S extends v.GenericSchema>(name: string, schema: S): v.InferOutput<S> =>
  v.parse(schema, JSON.parse(readFileSync(join(import.meta.dir, name), "utf8")));

const Text = v.string();
const Signed = v.object({ canonical: Text, signer_public_hex: Text, signature_hex: Text });
const Boxed = v.object({ plaintext_utf8: Text, nonce_base64: Text, ciphertext_base64: Text });
const Keys = v.object({ seed_hex: Text, public_hex: Text, secret_hex: Text });

export const fingerprintCases = load(
  "fingerprint.json",
  v.array(
    v.object({
      name: Text,
      input: v.object({
        envelope_version: v.number(),
        destination_kind: v.picklist(["dm", "topic", "queue"]),
        destination_ref: Text,
        reply_to_id: v.nullable(Text),
        priority: v.picklist(["now", "next", "low"]),
        meta: v.nullable(v.record(Text, v.unknown())),
        body_utf8: Text,
      }),
      canonical_meta: Text,
      fingerprint_hex: Text,
    }),
  ),
);

export const cryptoVectors = load(
  "crypto.json",
  v.object({
    wire_fingerprint: v.object({
      request_fingerprint_hex: Text,
      sender_seed_hex: Text,
      wire_fingerprint_hex: Text,
    }),
    invite_v3: v.object({
      root_key_base64url: Text,
      invite_seed_hex: Text,
      invite_public_hex: Text,
      owner_signature: Signed,
      join_proof: Signed,
    }),
    body2_alice_to_bob: v.object({ plaintext_json: Text, nonce_base64: Text, ciphertext_base64: Text }),
    alice: Keys,
    bob: Keys,
    hello: Signed,
    session_attest: Signed,
    session_hello: Signed,
    receipt: Signed,
    box_alice_to_bob: v.array(Boxed),
  }),
);
