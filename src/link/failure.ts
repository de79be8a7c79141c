/** How a broker that refuses, or cannot be reached, is told to a person. */
import { isErrorCode, MeshError, messageOf } from "~/errors";
import type { ErrorFrame } from "~/wire/broker";

/** What a broker refused, under its own code where we have the same one. */
export function brokerError(code: ErrorFrame["code"], message: string, hint?: string): MeshError {
  return new MeshError(isErrorCode(code) ? code : "broker_refused", `the broker refused: ${message}`, {
    hint,
    details: { broker_code: code },
  });
}

/** `cause` is what the platform said. */
export function unreachable(brokerUrl: string, cause: unknown): MeshError {
  const reason = messageOf(cause);
  const isCertificate = /certificate|TLS/i.test(reason);
  return new MeshError(
    "broker_unreachable",
    `cannot reach the broker at ${brokerUrl}${reason === "" ? "" : `: ${reason}`}`,
    {
      hint: isCertificate
        ? "Its certificate is not trusted here. For one of your own: export NODE_EXTRA_CA_CERTS=/path/to/ca.pem, for the daemon too."
        : "Is it running (claudemesh broker status), and is the address right?",
      cause,
    },
  );
}
