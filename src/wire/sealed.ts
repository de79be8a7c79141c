/** Sealed content: bytes where it is kept, standard base64 (RFC 4648, section 4) where a frame carries it. */

export interface Sealed {
  /** 24 random bytes. */
  nonce: Uint8Array;
  /** The content, enciphered, and a tag of 16 bytes. */
  ciphertext: Uint8Array;
}

export interface SealedText {
  nonce: string;
  ciphertext: string;
}

export const encodeSealed = (sealed: Sealed): SealedText => ({
  nonce: base64Of(sealed.nonce),
  ciphertext: base64Of(sealed.ciphertext),
});

export const decodeSealed = (text: SealedText): Sealed => ({
  nonce: Buffer.from(text.nonce, "base64"),
  ciphertext: Buffer.from(text.ciphertext, "base64"),
});

const base64Of = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
