/** How a server proves over TCP that it is the daemon: by knowing the local token, without showing it. */
import { createHmac } from "node:crypto";

/** HMAC-SHA-256(token, nonce) in hex; `nonceHex` are bytes in hex. */
export const challengeProof = (token: string, nonceHex: string): string =>
  createHmac("sha256", token).update(Buffer.from(nonceHex, "hex")).digest("hex");
