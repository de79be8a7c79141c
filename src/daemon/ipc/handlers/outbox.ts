/** `GET /v1/outbox`, `GET /v1/outbox/:id`, `POST /v1/outbox/requeue`: what was sent, and recovery by hand. */
import { damagedMark, type OutboxFilter, type OutboxRow } from "~/daemon/db/outbox";
import { applySend, prepareSend, type SendRequest } from "~/daemon/ipc/handlers/send";
import { mayHaveBeenSent, renderOutboxItem } from "~/daemon/ipc/render";
import type { Answer, Call } from "~/daemon/ipc/server";
import { sealDraftOf } from "~/daemon/meshes";
import type { DaemonParts } from "~/daemon/parts";
import { MeshError } from "~/errors";
import { memberFound } from "~/identity/members";
import { requeueChainMax } from "~/wire/limits";

export const getOutbox =
  (parts: DaemonParts) =>
  ({ query }: Call<"outbox">): Answer<"outbox"> => {
    const rows = parts.outbox.list({ ...filterOf(query, parts), limit: query.limit + 1 });
    const page = rows.slice(0, query.limit);
    const more = rows.length > query.limit ? page.at(-1) : undefined;
    return {
      json: {
        items: page.map((row) => renderOutboxItem(row, (meshId) => parts.meshes.slugOf(meshId))),
        counts: parts.outbox.counts(),
        ...(more === undefined ? {} : { next_cursor: String(more.seq) }),
      },
    };
  };

function filterOf(
  { status, after, lane }: Call<"outbox">["query"],
  parts: DaemonParts,
): Omit<OutboxFilter, "limit"> {
  return {
    ...(status === undefined || status === "retrying"
      ? {}
      : { statuses: [status === "failed" ? "dead" : status] }),
    ...(status === "retrying" ? { retrying: true } : {}),
    ...(lane === undefined ? {} : { destination: lane }),
    ...(after === undefined
      ? {}
      : { beforeSeq: /^\d{1,15}$/.test(after) ? Number(after) : find(after, parts).seq }),
  };
}

export const getOutboxRow =
  (parts: DaemonParts) =>
  ({ param }: Call<"outboxRow">): Answer<"outboxRow"> => {
    const row = find(param, parts);
    const chain = chainOf(row, parts).map(({ id, client_message_id, status }) => ({
      id,
      client_message_id,
      status,
    }));
    return {
      json: {
        ...renderOutboxItem(row, (meshId) => parts.meshes.slugOf(meshId)),
        message: row.payload,
        requeue_chain: chain,
      },
    };
  };

/** By the row's id or by its client_message_id: both are shown, so both are typed. */
function find(id: string, parts: DaemonParts): OutboxRow {
  const row = parts.outbox.byId(id) ?? parts.outbox.byClientMessageId(id);
  if (row !== null) return row;
  throw new MeshError("no_such_row", `the outbox has no row ${id}`, {
    hint: "claudemesh daemon outbox list shows the rows.",
  });
}

function chainOf(row: OutboxRow, parts: DaemonParts): OutboxRow[] {
  const chain = [row];
  for (let older = parts.outbox.supersededBy(row.id); older !== null && chain.length < requeueChainMax; ) {
    chain.unshift(older);
    older = parts.outbox.supersededBy(older.id);
  }
  let newer = row.superseded_by === null ? null : parts.outbox.byId(row.superseded_by);
  while (newer !== null && chain.length < requeueChainMax) {
    chain.push(newer);
    newer = newer.superseded_by === null ? null : parts.outbox.byId(newer.superseded_by);
  }
  return chain;
}

/** One transaction: the old row is retired and a new one takes its place, sealed afresh, at the end of its lane. */
export const postRequeue =
  (parts: DaemonParts) =>
  async ({ body }: Call<"requeue">): Promise<Answer<"requeue">> => {
    const json = await parts.outboxWriter.submit(() => requeue(body, parts));
    parts.hub.announce({ kind: "outbox", clientMessageId: json.old_client_message_id });
    parts.hub.announce({ kind: "outbox", clientMessageId: json.new_client_message_id });
    const { old_client_message_id: _, ...reply } = json;
    return { json: reply };
  };

function requeue(body: Call<"requeue">["body"], parts: DaemonParts) {
  const { outbox, clock, newId, drain, meshes } = parts;
  const row = find(body.id, parts);
  if (row.status !== "dead" && row.status !== "pending") throw notRequeueable(row);
  if (row.mesh === null || row.destination_ref === null || row.to_text === null) throw notRequeueable(row);
  const session = meshes.byId(row.mesh);
  if (session === undefined) {
    throw new MeshError("no_such_mesh", "this host is no longer in the mesh that the message was for", {
      hint: "Join it again, then requeue.",
    });
  }
  const message = body.message ?? row.payload;
  if (message === null) {
    throw new MeshError("not_requeueable", `the text of ${row.client_message_id} is not kept any more`, {
      hint: "Give it anew: --patch-payload FILE",
    });
  }
  const resolution = session.directory.resolve(row.destination_ref);
  if (resolution.kind === "unknown") throw recipientGone(row.to_text, row.destination_ref, session.mesh.slug);
  const member = memberFound(resolution, row.to_text, session.mesh.slug);
  const newClientMessageId = body.new_client_message_id ?? newId();
  if (outbox.byClientMessageId(newClientMessageId) !== null) {
    throw new MeshError("id_in_use", `the id ${newClientMessageId} was already used; nothing was changed`, {
      hint: "Choose another, or give none: then the daemon makes one.",
    });
  }
  const draft = sealDraftOf(row, clock.now());
  const request: SendRequest = {
    to: row.to_text,
    message,
    mesh: row.mesh,
    mesh_text: row.mesh_text,
    priority: row.priority,
    meta: draft.meta,
    reply_to_id: row.reply_to_id,
    reply_to_sender: row.reply_to_sender,
    client_message_id: newClientMessageId,
    destination_kind: "dm",
    destination_ref: row.destination_ref,
    agent: row.agent,
    expects_reply: row.expects_reply === 1,
  };
  const prepared = prepareSend(request, newId);
  const seal = session.sealFor(row.destination_ref, session.bodyVersionFor(member));
  applySend(prepared, { db: outbox.db, now: () => clock.now(), newId, seal });
  const created = outbox.byClientMessageId(newClientMessageId);
  if (created === null) throw new Error("the row that was just inserted is not there");
  outbox.markAborted(row.seq, "operator", created.id, clock.now());
  drain.inserted(row.mesh, row.destination_ref, row.priority);
  return {
    aborted_row_id: row.id,
    new_row_id: created.id,
    old_client_message_id: row.client_message_id,
    new_client_message_id: newClientMessageId,
    may_have_been_sent: mayHaveBeenSent(row),
  };
}

/** Somebody may have the name by now, with another key: to send it there is for the user to say. */
const recipientGone = (to: string, pubkey: string, slug: string): MeshError =>
  new MeshError(
    "unknown_peer",
    `whom the message was for (${to}, key ${pubkey.slice(0, 16)}…) is not in ${slug} any more`,
    {
      hint: "If somebody else is meant by now, send it to them as a new message: claudemesh send.",
      details: { pubkey },
    },
  );

function notRequeueable(row: OutboxRow): MeshError {
  const why: Record<string, string> = {
    inflight: "it is on the wire at this moment; wait for the answer",
    done: "the broker has it already",
    aborted:
      row.aborted_by === "remint"
        ? "daemon remint retired it, since the original of this copy sends it; if only this copy had it, send it anew"
        : `it was requeued before${row.superseded_by === null ? "" : `, as ${row.superseded_by}`}`,
  };
  return new MeshError(
    "not_requeueable",
    `${row.client_message_id} is ${row.status}: ${why[row.status] ?? (row.last_error?.startsWith(damagedMark) ? row.last_error : "it was never routed")}`,
    {
      hint: "Only dead and pending rows can be requeued.",
    },
  );
}
