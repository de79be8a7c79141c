/**
 * What any answer of the local API may say, what an error is, and the answer to a send. Apart from the schemas of everything else
 * (wire/ipc.ts), which take longer to make than a message to be queued: `claudemesh send` does without them.
 */
import * as v from "valibot";

const Text = v.string();

/** Nothing outlives the daemon that says this: not the messages, not the keys, not the memberships. */
export const Ephemeral = v.object({
  /** When it ends by itself at the latest. */
  until: v.exactOptional(v.pipe(v.string(), v.isoTimestamp())),
});
export type Ephemeral = v.InferOutput<typeof Ephemeral>;

/** What any answer may say besides its own fields. */
export const everyAnswer = { ephemeral: v.exactOptional(Ephemeral) };

export const ErrorReply = v.looseObject({
  ...everyAnswer,
  error: Text,
  message: Text,
  hint: v.exactOptional(Text),
});
export type ErrorReply = v.InferOutput<typeof ErrorReply>;

export const SendReply = v.object({
  ...everyAnswer,
  client_message_id: Text,
  status: v.picklist(["queued", "inflight", "accepted"]),
  duplicate: v.boolean(),
  broker_message_id: v.exactOptional(Text),
});
export type SendReply = v.InferOutput<typeof SendReply>;
