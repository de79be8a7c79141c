/**
 * `crypto_box` (X25519, XSalsa20-Poly1305; https://doc.libsodium.org/public-key_cryptography/authenticated_encryption)
 * between two members, with their ed25519 keys converted to curve25519. The key shared by a pair is computed once and
 * kept: that is most of the cost.
 */
import { randomBytes } from "node:crypto";
import sodium from "libsodium-wrappers";
import { MeshError } from "~/errors";
import type { Sealed } from "~/wire/sealed";

/** Bytes that sealing adds to the content. */
export const sealOverheadBytes = 16;

const sharedKeysMax = 2048;

/** Loads libsodium (about 10 ms); only the daemon and a cold send need it. */
export async function openSealer(): Promise<Sealer> {
  await sodium.ready;
  return new Sealer();
}

export class Sealer {
  readonly #sharedKeys = new Map<string, Uint8Array>();

  /** Throws `peer_untrusted` when the recipient's key is no valid curve point. */
  seal(content: string, senderSecretKey: string, recipientPublicKey: string): Sealed {
    const nonce = randomBytes(sodium.crypto_box_NONCEBYTES);
    const key = this.#sharedKey(senderSecretKey, recipientPublicKey);
    return { nonce, ciphertext: sodium.crypto_box_easy_afternm(Buffer.from(content, "utf8"), nonce, key) };
  }

  /** The content as UTF-8 text; undefined when it was not sealed by this sender for this key, was changed, or is no UTF-8. */
  open(
    { nonce, ciphertext }: Sealed,
    recipientSecretKey: string,
    senderPublicKey: string,
  ): string | undefined {
    if (nonce.length !== sodium.crypto_box_NONCEBYTES || ciphertext.length < sealOverheadBytes)
      return undefined;
    try {
      const key = this.#sharedKey(recipientSecretKey, senderPublicKey);
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(
        sodium.crypto_box_open_easy_afternm(ciphertext, nonce, key),
      );
    } catch {
      return undefined;
    }
  }

  #sharedKey(secretKey: string, publicKey: string): Uint8Array {
    const name = secretKey + publicKey;
    const known = this.#sharedKeys.get(name);
    if (known !== undefined) return known;
    if (this.#sharedKeys.size >= sharedKeysMax) this.#sharedKeys.clear();
    const key = sodium.crypto_box_beforenm(
      curvePoint(publicKey),
      sodium.crypto_sign_ed25519_sk_to_curve25519(Buffer.from(secretKey, "hex")),
    );
    this.#sharedKeys.set(name, key);
    return key;
  }
}

function curvePoint(publicKey: string): Uint8Array {
  try {
    return sodium.crypto_sign_ed25519_pk_to_curve25519(Buffer.from(publicKey, "hex"));
  } catch (error) {
    throw new MeshError(
      "peer_untrusted",
      `${publicKey.slice(0, 16)}… is no valid key: nothing can be sealed for it`,
      {
        cause: error,
      },
    );
  }
}
