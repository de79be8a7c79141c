/** What arrives on a connection, parsed by its schema. Anything can arrive: whatever it is, it has an answer. */
import * as v from "valibot";
import { ClientFrame } from "~/wire/broker";
import { jsonFault } from "~/wire/fault";
import { explainIssues } from "~/wire/text";

/** Something that is not a frame of the protocol, and what is wrong with it. */
export interface Misfit {
  type: "misfit";
  code: "malformed" | "unknown_message_type";
  message: string;
  /** Of a `send` that does not fit but can be answered with an ack, so that its sender is not left waiting. */
  sendId?: string;
  reqId?: string;
}

export type Received = ClientFrame | Misfit;

const knownTypes = new Set<string>(ClientFrame.options.map((option) => option.entries.type.literal));

/** Longer texts are not repeated in an answer. */
const echoCharsMax = 128;
/** What is wrong is told with a piece of what came, which may be as long as a frame. */
const messageCharsMax = 300;

const misfit = (message: string, code: Misfit["code"] = "malformed"): Misfit => ({
  type: "misfit",
  code,
  message: message.length <= messageCharsMax ? message : `${message.slice(0, messageCharsMax)}…`,
});

export const binaryMisfit = misfit("binary frames are not part of this protocol: send JSON as text");

export function parseFrame(text: string): Received {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return misfit(`not JSON: ${jsonFault(error)}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    return misfit("a frame is a JSON object");
  if (!("type" in value) || typeof value.type !== "string") return misfit("type: a text is expected");
  const reqId = "_reqId" in value ? echoOf(value._reqId) : undefined;
  const withReqId = reqId === undefined ? {} : { reqId };
  if (!knownTypes.has(value.type)) {
    const name = JSON.stringify(value.type.slice(0, echoCharsMax));
    return {
      ...misfit(`this broker does not know the frame type ${name}`, "unknown_message_type"),
      ...withReqId,
    };
  }
  const parsed = v.safeParse(ClientFrame, value, { abortEarly: true });
  if (parsed.success) return parsed.output;
  const fault = misfit(`${value.type}: ${explainIssues(parsed.issues)}`);
  const sendId = value.type === "send" ? sendIdOf(value) : undefined;
  return { ...fault, ...withReqId, ...(sendId === undefined ? {} : { sendId }) };
}

function sendIdOf(value: object): string | undefined {
  if ("id" in value && typeof value.id === "string") return echoOf(value.id);
  return "client_message_id" in value ? echoOf(value.client_message_id) : undefined;
}

/** A text to be repeated in the answer; one that is too long could not be matched to anything anyway. */
const echoOf = (value: unknown): string | undefined =>
  typeof value === "string" && value.length <= echoCharsMax ? value : undefined;
