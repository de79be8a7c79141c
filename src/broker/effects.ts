/** What the broker's decisions are made of: outputs for the shell to perform, and changes of memory that wait for the commit. */
import type { ConnectionId, Identity, Session } from "~/broker/connections";
import type { Received } from "~/broker/frames";
import type { HelloRefusal } from "~/broker/hello";
import type { Removal } from "~/broker/membership";
import type { MemberRow, MeshRow } from "~/broker/rows";
import type { LogFields, LogLevel } from "~/log";
import { type AckCode, type BrokerFrameInput, closeCode, type Hello } from "~/wire/broker";

/** What arrived on a connection; `gone` is its end, after everything that it sent. */
export interface Arrival {
  connection: ConnectionId;
  input: Received | { type: "gone" };
}

/** On the wire an ack's code is optional, for brokers of version 1; this broker gives one always. */
export type Ack = Extract<BrokerFrameInput, { type: "ack" }> & { id: string; code: AckCode };
export type OutgoingFrame = Exclude<BrokerFrameInput, { type: "ack" }> | Ack;

export type Output =
  | { do: "send"; to: ConnectionId; frame: OutgoingFrame }
  | { do: "close"; connection: ConnectionId; code: number; reason: string }
  | { do: "log"; level: LogLevel; message: string; fields: LogFields };

export type Effect =
  | Output
  | { do: "admit"; connection: ConnectionId; hello: Hello; identity: Identity }
  /** `isNew`: it was not acknowledged before. */
  | { do: "settle_lease"; member: MemberRow; messageId: string; isNew: boolean }
  | { do: "wake"; member: MemberRow }
  | { do: "announce"; mesh: MeshRow; event: SystemEvent; except: MemberRow | undefined }
  | { do: "expel"; removal: Removal }
  | { do: "leave"; connection: ConnectionId };

export interface SystemEvent {
  meshId: string;
  event: "peer_joined" | "peer_left" | "member_joined" | "member_removed";
  pubkey: string;
  displayName: string;
}

export interface Decision {
  /** To be performed in this order, once the transaction is committed. */
  effects: Effect[];
  /** The lane of a send, as it was before. */
  lane?: { session: Session; target: string; heldBefore: string | undefined };
}

/** RFC 6455 §7.4.1: the server met a condition that kept it from going on. */
export const closeCodeInternal = 1011;

export function errorTo(to: ConnectionId, code: string, message: string, reqId?: string): Output {
  const frame = { type: "error" as const, code, message, ...(reqId === undefined ? {} : { _reqId: reqId }) };
  return { do: "send", to, frame };
}

/** Says why, then closes for the same reason. */
export const refuseConnection = (
  id: ConnectionId,
  code: string,
  message: string,
  closing: number = closeCode.refused,
): Extract<Output, { do: "send" | "close" }>[] => [
  { do: "send", to: id, frame: { type: "error", code, message } },
  { do: "close", connection: id, code: closing, reason: `${code}: ${message}` },
];

export const refuseHello = (
  id: ConnectionId,
  refused: HelloRefusal,
): Extract<Output, { do: "send" | "close" | "log" }>[] => [
  { do: "log", level: "info", message: "refused a hello", fields: { code: refused.code } },
  ...refuseConnection(id, refused.code, refused.message, refused.closeCode),
];

export const peerEvent = (identity: Identity, event: "peer_joined" | "peer_left"): SystemEvent => ({
  meshId: identity.meshId,
  event,
  pubkey: identity.pubkey,
  displayName: identity.displayName,
});
