import { defineCommand } from "~/cli/command";
import { daemonClient } from "~/cli/daemon-client";
import { columns, localTime, printableLine } from "~/cli/text";
import type { OutboxRowReply } from "~/wire/ipc";

export const outboxShow = defineCommand({
  name: "daemon outbox show",
  description: "one sent message, its errors, its requeue chain",
  args: {
    id: {
      type: "positional",
      required: true,
      completes: "outbox_id",
      description: "the id that send printed, or the row's own",
    },
  },
  exits: [3, 4, 5, 7],
  examples: ["claudemesh daemon outbox show 01JD3WQ4M6Y6V1Q1C8H9GQK3ZR"],
  async run({ id }, host) {
    const row = await daemonClient(host).call("outboxRow", { params: { id } });
    await host.out.answer(row, () => renderRow(row));
  },
});

function renderRow(row: OutboxRowReply): string {
  const optional = (label: string, value: string | undefined): string[][] =>
    value === undefined ? [] : [[label, printableLine(value)]];
  const time = (iso: string | undefined): string | undefined => iso && localTime(iso);
  return columns([
    ["row", row.id],
    ["message", row.client_message_id],
    ["to", printableLine(`${row.to ?? "?"}${row.mesh === null ? "" : ` in ${row.mesh}`}`)],
    ...optional("destination", row.destination ?? undefined),
    ["priority", row.priority],
    ["status", row.status === "dead" ? "failed (dead): it is not tried any more" : row.status],
    ["attempts", String(row.attempts)],
    ["queued", localTime(row.enqueued_at)],
    ...optional("next attempt", time(row.next_attempt_at)),
    ...optional("first sent", time(row.first_sent_at)),
    ...optional("accepted", time(row.accepted_at)),
    ...optional("aborted", time(row.aborted_at)),
    ...optional("aborted by", row.aborted_by),
    ...optional("replaced by", row.superseded_by),
    ...optional("broker's id", row.broker_message_id),
    ...optional("last error", row.last_error),
    ...(row.may_have_been_sent ? [["note", "it was on the wire once: the recipient may have it"]] : []),
    ["text", row.message === null ? "not kept any more" : printableLine(row.message)],
    ...(row.requeue_chain.length > 1
      ? row.requeue_chain.map((link, index) => [
          index === 0 ? "chain" : "",
          `${link.client_message_id} (${link.status})`,
        ])
      : []),
  ]);
}
