/** How a broker that refuses, or cannot be reached, is told to a person. */
import { isErrorCode, MeshError, messageOf } from "~/errors";
import type { BrokerFrame, ErrorFrame } from "~/wire/broker";
import { shownUrl } from "~/wire/fault";

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
    `cannot reach the broker at ${shownUrl(brokerUrl)}${reason === "" ? "" : `: ${reason}`}`,
    {
      hint: isCertificate
        ? "Its certificate is not trusted here. For one of your own: export NODE_EXTRA_CA_CERTS=/path/to/ca.pem, for the daemon too."
        : "Is it running (claudemesh broker status), and is the address right?",
      cause,
    },
  );
}

/** Whether an answer leaves nothing open: the broker refused, and will refuse the same keys again. */
export const isFinal = (error: unknown): boolean =>
  error instanceof MeshError &&
  [
    "broker_refused",
    "invite_expired",
    "invite_invalid",
    "invite_revoked",
    "invite_used_up",
    "mesh_exists",
    "not_allowed",
    "unauthorized",
  ].includes(error.code);

/** The answer if it is of the type that was asked for. Throws `bad_gateway`. */
export function expectFrame<T extends BrokerFrame["type"]>(
  frame: BrokerFrame,
  type: T,
): Extract<BrokerFrame, { type: T }> {
  if (isFrame(frame, type)) return frame;
  throw new MeshError("bad_gateway", `the broker answered ${frame.type} where ${type} was due`);
}

const isFrame = <T extends BrokerFrame["type"]>(
  frame: BrokerFrame,
  type: T,
): frame is Extract<BrokerFrame, { type: T }> => frame.type === type;
