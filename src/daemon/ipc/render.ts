/** Rows of the databases as the API shows them. */
import * as v from "valibot";
import { isoTime } from "~/clock";
import type { InboxRow, ProblemRow } from "~/daemon/db/inbox";
import type { OutboxRow } from "~/daemon/db/outbox";
import type { InboxItem, InboxProblem, OutboxItem, SentMessage } from "~/wire/ipc";
import { JsonObjectText } from "~/wire/text";

/** Ids of meshes as people know them. */
export type SlugOf = (meshId: string) => string;

const present = <K extends string, T>(key: K, value: T | null): { [P in K]?: T } =>
  // The computed key has exactly the type that the caller asked for.
  (value === null ? {} : { [key]: value }) as { [P in K]?: T };

const time = <K extends string>(key: K, ms: number | null) => present(key, ms === null ? null : isoTime(ms));

/** Sent once, and neither confirmed nor refused since: nobody but the broker knows. */
export const mayHaveBeenSent = (row: OutboxRow): boolean =>
  row.first_sent_at !== null && row.broker_message_id === null;

export const renderOutboxItem = (row: OutboxRow, slugOf: SlugOf): OutboxItem => ({
  id: row.id,
  client_message_id: row.client_message_id,
  mesh: row.mesh === null ? null : slugOf(row.mesh),
  to: row.to_text,
  destination: row.destination_ref,
  priority: row.priority,
  status: row.status,
  attempts: row.attempts,
  enqueued_at: isoTime(row.enqueued_at),
  ...(row.status === "pending" && row.next_attempt_at > 0
    ? { next_attempt_at: isoTime(row.next_attempt_at) }
    : {}),
  ...time("first_sent_at", row.first_sent_at),
  ...time("accepted_at", row.delivered_at),
  ...time("aborted_at", row.aborted_at),
  ...present("aborted_by", row.aborted_by),
  ...present("superseded_by", row.superseded_by),
  ...present("broker_message_id", row.broker_message_id),
  ...present("last_error", row.last_error),
  may_have_been_sent: mayHaveBeenSent(row),
});

export const renderSentMessage = (row: OutboxRow, slugOf: SlugOf): SentMessage => ({
  client_message_id: row.client_message_id,
  mesh: row.mesh === null ? null : slugOf(row.mesh),
  to: row.to_text,
  status: row.status,
  enqueued_at: isoTime(row.enqueued_at),
  ...time("first_sent_at", row.first_sent_at),
  ...time("accepted_at", row.delivered_at),
  ...present("broker_message_id", row.broker_message_id),
  ...present("last_error", row.last_error),
  ...present("superseded_by", row.superseded_by),
  receipts: [],
});

export const renderInboxItem = (row: InboxRow, slugOf: SlugOf): InboxItem => ({
  id: row.id,
  client_message_id: row.client_message_id,
  mesh: slugOf(row.mesh),
  from: { name: row.sender_name, pubkey: row.sender_member_pubkey },
  ...present("topic", row.topic),
  body: row.body,
  ...(row.meta === null ? {} : { meta: v.parse(JsonObjectText, row.meta) }),
  ...(row.reply_to_id === null || row.reply_to_sender === null
    ? {}
    : { reply_to: { id: row.reply_to_id, sender: row.reply_to_sender } }),
  priority: row.priority,
  ...(row.sent_at === "" ? {} : { sent_at: row.sent_at }),
  received_at: isoTime(row.received_at),
  ...time("read_at", row.read_at),
});

export const renderInboxProblem = (row: ProblemRow, slugOf: SlugOf): InboxProblem => ({
  id: row.id,
  mesh: slugOf(row.mesh),
  from: { name: row.sender_name ?? "unknown", pubkey: row.sender_pubkey },
  broker_message_id: row.broker_message_id,
  ...present("client_message_id", row.client_message_id),
  reason: row.reason,
  received_at: isoTime(row.received_at),
});
