import { seconds, usageError } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { daemonClient } from "~/cli/daemon-client";
import { columns, localTime, printableLine } from "~/cli/text";
import type { Client } from "~/client/client";
import { MeshError } from "~/errors";
import type { OutboxStatus, SentMessage } from "~/wire/ipc";
import { waitMsDefault, waitMsMax } from "~/wire/limits";

export const track = defineCommand({
  name: "track",
  description: "what became of a sent message",
  args: {
    id: { type: "positional", required: true, completes: "sent_id", description: "the id that send printed" },
    wait: {
      type: "enum",
      options: ["accepted"],
      description: "return when the broker has it on its disk",
    },
    timeout: {
      type: "string",
      valueHint: "S",
      description: "how long --wait waits, in seconds (default: 30)",
      parse: seconds(waitMsMax),
    },
  },
  exits: [3, 4, 5, 7],
  examples: ["claudemesh track 01JD3WQ4M6Y6V1Q1C8H9GQK3ZR --wait accepted"],
  async run({ id, wait, timeout }, host) {
    if (timeout !== undefined && wait === undefined) throw usageError("--timeout needs --wait");
    const client = daemonClient(host);
    const message =
      wait === undefined
        ? await client.call("message", { params: { client_message_id: id } })
        : await acceptedMessage(client, id, timeout ?? waitMsDefault);
    await host.out.answer(message, () => renderMessage(message));
  },
});

const answerMarginMs = 5_000;

/**
 * The message once the broker has it. Throws `timed_out` when that takes longer, `broker_refused` when it never will; both
 * with what is known about the message.
 */
async function acceptedMessage(client: Client, id: string, timeoutMs: number): Promise<SentMessage> {
  const wholeMs = Math.round(Math.min(timeoutMs, waitMsMax));
  const message = await client.call("message", {
    params: { client_message_id: id },
    query: { wait: "accepted", timeout_ms: wholeMs },
    timeoutMs: wholeMs + answerMarginMs,
  });
  if (message.status === "done") return message;
  const { status, last_error } = message;
  const because = last_error === undefined ? "" : `: ${last_error}`;
  const details = { client_message_id: id, status, ...(last_error === undefined ? {} : { last_error }) };
  if (status === "dead" || status === "aborted") {
    throw new MeshError(
      "broker_refused",
      `the message ${id} will not be sent (${meaning[status]})${because}`,
      {
        hint: "See claudemesh daemon outbox list --failed; what can be sent again, claudemesh daemon outbox requeue sends.",
        details,
      },
    );
  }
  throw new MeshError(
    "timed_out",
    `the broker has not confirmed ${id} within ${Math.max(0.1, Math.round(wholeMs / 100) / 10)} s${because}`,
    {
      hint: `It is on this disk and goes on being tried. Look again: claudemesh track ${id}`,
      details,
    },
  );
}

/** What `send --wait accepted` learns about its message. Throws as `track --wait accepted` does. */
export async function waitForAcceptance(
  client: Client,
  id: string,
  timeoutMs: number,
): Promise<{ status: "accepted"; broker_message_id?: string }> {
  const { broker_message_id } = await acceptedMessage(client, id, timeoutMs);
  return { status: "accepted", ...(broker_message_id === undefined ? {} : { broker_message_id }) };
}

const meaning: Readonly<Record<OutboxStatus, string>> = {
  pending: "on this disk, waiting to be sent",
  inflight: "sent, not confirmed by the broker yet",
  done: "accepted: on the broker's disk",
  dead: "failed: it is not tried any more",
  aborted: "retired by hand",
};

function renderMessage(message: SentMessage): string {
  const optional = (label: string, value: string | undefined): string[][] =>
    value === undefined ? [] : [[label, printableLine(value)]];
  const time = (iso: string | undefined): string | undefined => iso && localTime(iso);
  return columns([
    ["message", message.client_message_id],
    ["to", printableLine(`${message.to ?? "?"}${message.mesh === null ? "" : ` in ${message.mesh}`}`)],
    ["status", `${message.status} (${meaning[message.status]})`],
    ["queued", localTime(message.enqueued_at)],
    ...optional("first sent", time(message.first_sent_at)),
    ...optional("accepted", time(message.accepted_at)),
    ...optional("broker's id", message.broker_message_id),
    ...optional("last error", message.last_error),
    ...optional("replaced by", message.superseded_by),
    ...message.receipts.map(({ recipient, stage, at, reason }) => [
      stage,
      printableLine(`by ${recipient.name} ${localTime(at)}${reason === undefined ? "" : `: ${reason}`}`),
    ]),
  ]);
}
