import { usageError, wholeNumber } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { daemonClient } from "~/cli/daemon-client";
import { columns, localTime, printableLine } from "~/cli/text";
import type { OutboxItem } from "~/wire/ipc";
import { ipcPageDefault, ipcPageMax } from "~/wire/limits";

/** Each is a flag, and the status that the API filters by. */
const filters = ["pending", "inflight", "done", "failed", "aborted", "retrying"] as const;

export const outboxList = defineCommand({
  name: "daemon outbox list",
  description: "sent messages, newest first",
  args: {
    pending: { type: "boolean", description: "only what waits to be sent" },
    inflight: { type: "boolean", description: "only what was sent and is not confirmed" },
    done: { type: "boolean", description: "only what the broker has" },
    failed: { type: "boolean", description: "only what is not tried any more" },
    aborted: { type: "boolean", description: "only what was retired by hand" },
    retrying: { type: "boolean", description: "only what was refused and is tried again" },
    limit: {
      type: "string",
      valueHint: "N",
      description: `at most this many (default: ${ipcPageDefault})`,
      parse: wholeNumber(1, ipcPageMax),
    },
  },
  exits: [3, 4, 7],
  examples: ["claudemesh daemon outbox list --failed", "claudemesh daemon outbox list --limit 5 --json"],
  async run({ limit, ...flags }, host) {
    const chosen = filters.filter((name) => flags[name]);
    if (chosen.length > 1)
      throw usageError(`${chosen.map((name) => `--${name}`).join(" and ")} exclude each other`);
    const [status] = chosen;
    const reply = await daemonClient(host).call("outbox", {
      query: { ...(status === undefined ? {} : { status }), ...(limit === undefined ? {} : { limit }) },
    });
    const { items, counts } = reply;
    await host.out.answer({ items, counts }, () => columns(items.map(renderRow)));
    const totals = Object.entries(counts).map(
      ([name, count]) => `${count} ${name === "dead" ? "failed" : name}`,
    );
    if (!host.out.json) await host.out.note(totals.join(", "));
  },
});

const renderRow = (row: OutboxItem): string[] => [
  localTime(row.enqueued_at),
  row.client_message_id,
  printableLine(row.to ?? row.destination ?? "?"),
  row.status === "dead" ? "failed" : row.status,
  [
    ...(row.last_error === undefined ? [] : [printableLine(row.last_error)]),
    ...(row.may_have_been_sent ? ["(may have been sent)"] : []),
  ].join(" "),
];
