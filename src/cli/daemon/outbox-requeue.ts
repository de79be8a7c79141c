import { usageError } from "~/cli/argv";
import { defineCommand, type Host } from "~/cli/command";
import { daemonClient } from "~/cli/daemon-client";
import { readMessageText } from "~/cli/message-text";
import { counted } from "~/cli/text";
import type { Client } from "~/client/client";
import { errorBody, exitStatusOf, MeshError } from "~/errors";
import type { RequeueReply } from "~/wire/ipc";
import { ipcPageMax } from "~/wire/limits";

export const outboxRequeue = defineCommand({
  name: "daemon outbox requeue",
  description: "retire a failed or waiting row and send its content under a new id",
  args: {
    id: {
      type: "positional",
      required: false,
      completes: "requeueable_id",
      description: "which row: the id that send printed, or the row's own",
    },
    "all-failed": { type: "boolean", description: "every failed row, oldest first" },
    "new-client-id": {
      type: "string",
      valueHint: "ID",
      description: "the new message's id (default: a new ULID)",
    },
    "patch-payload": {
      type: "string",
      valueHint: "FILE",
      completes: "file",
      description: "send this text instead; - reads standard input",
    },
  },
  notes:
    "A row that was on the wire may have arrived although it failed: the recipient then gets the content twice, and the command says so.",
  exits: [3, 4, 5, 6, 7],
  examples: [
    "claudemesh daemon outbox requeue 01JD3WQ4M6Y6V1Q1C8H9GQK3ZR",
    "claudemesh daemon outbox requeue --all-failed",
  ],
  async run(args, host) {
    const client = daemonClient(host);
    const newId = args["new-client-id"];
    const patch = args["patch-payload"];
    if (args["all-failed"]) {
      if (args.id !== undefined || newId !== undefined || patch !== undefined) {
        throw usageError("--all-failed goes with neither a row, --new-client-id nor --patch-payload");
      }
      return await requeueAll(client, host);
    }
    if (args.id === undefined) throw usageError("which row? Give its id, or --all-failed");
    const reply = await client.call("requeue", {
      body: {
        id: args.id,
        ...(newId === undefined ? {} : { new_client_message_id: newId }),
        ...(patch === undefined
          ? {}
          : { message: await readMessageText({ message: undefined, file: patch }) }),
      },
    });
    await host.out.answer(reply, () => renderRequeued(args.id ?? "", reply));
    return 0;
  },
});

/** Goes on after a row that cannot be requeued, and ends with the first such row's status. */
async function requeueAll(client: Client, { out }: Host): Promise<number> {
  const failed = await failedRows(client);
  const requeued: RequeueReply[] = [];
  const refused: ({ id: string } & Record<string, unknown>)[] = [];
  let status = 0;
  for (const id of failed) {
    try {
      const reply = await client.call("requeue", { body: { id } });
      requeued.push(reply);
      if (!out.json) await out.answer(undefined, () => renderRequeued(id, reply));
    } catch (error) {
      // A row of its own can be refused; without the daemon nothing more can be done.
      if (!(error instanceof MeshError)) throw error;
      if (exitStatusOf(error.code) === 3) {
        const { code, message, hint, details } = error;
        throw new MeshError(code, message, {
          hint,
          details: { ...details, requeued, refused },
          cause: error,
        });
      }
      refused.push({ id, ...errorBody(error) });
      status ||= exitStatusOf(error.code);
      await out.note(`claudemesh: ${id}: ${error.message}`);
    }
  }
  if (out.json) await out.answer({ requeued, refused }, () => "");
  else await out.note(`${counted(requeued.length, "message")} requeued, ${refused.length} refused`);
  return status;
}

/** Ids of all failed rows, oldest first, so that what is sent again keeps its order. */
async function failedRows(client: Client): Promise<string[]> {
  const ids: string[] = [];
  let after: string | undefined;
  do {
    const page = await client.call("outbox", {
      query: { status: "failed", limit: ipcPageMax, ...(after === undefined ? {} : { after }) },
    });
    ids.push(...page.items.map((row) => row.id));
    after = page.next_cursor;
  } while (after !== undefined);
  return ids.reverse();
}

function renderRequeued(id: string, reply: RequeueReply): string {
  const twice = reply.may_have_been_sent ? "; the old one may have arrived all the same" : "";
  return `requeued ${id} as ${reply.new_client_message_id}${twice}`;
}
