/** `POST /v1/send`: resolves the destination, then accepts in the writer's next batch; the answer leaves after its commit. */
import { resolveDestination } from "~/daemon/destination";
import {
  applySend,
  conflictError,
  prepareSend,
  type Seal,
  type SendOutcome,
  type SendRequest,
} from "~/daemon/ipc/handlers/send";
import type { Answer, Call } from "~/daemon/ipc/server";
import type { DaemonParts } from "~/daemon/parts";
import { MeshError } from "~/errors";
import { checkMessageText, checkMeta, idempotencyKey } from "~/wire/outgoing";
import type { SendReply } from "~/wire/reply";

const statusOf = {
  accepted_pending: "queued",
  accepted_inflight: "inflight",
  accepted_done: "accepted",
} as const;

export const postSend =
  (parts: DaemonParts) =>
  async ({ body, headers }: Call<"send">): Promise<Answer<"send">> => {
    checkMessageText(body.message);
    checkMeta(body.meta);
    const clientMessageId = idempotencyKey(body.client_message_id, headers.get("idempotency-key"));
    const asked = { ...body, client_message_id: clientMessageId };
    const { request, seal } = await withDestination(asked, parts);
    const prepared = prepareSend(request, parts.newId);
    const applied = await parts.outboxWriter.submitOneWrite(() => {
      const result = applySend(prepared, {
        db: parts.outbox.db,
        now: () => parts.clock.now(),
        newId: parts.newId,
        seal,
      });
      if (result.insertedSeq !== undefined && request.mesh) {
        parts.drain.inserted(request.mesh, request.destination_ref, prepared.priority);
      }
      return result;
    });
    if (applied.outcome.kind !== "conflict") {
      parts.tallies.sends.add(applied.outcome.duplicate ? "duplicate" : "accepted");
    }
    if (applied.insertedSeq !== undefined)
      parts.hub.announce({ kind: "outbox", clientMessageId: prepared.clientMessageId });
    return answerOf(applied.outcome);
  };

function answerOf(outcome: SendOutcome): Answer<"send"> {
  if (outcome.kind === "conflict") throw conflictError(outcome);
  const json: SendReply = {
    client_message_id: outcome.client_message_id,
    status: statusOf[outcome.kind],
    duplicate: outcome.duplicate,
    ...(outcome.broker_message_id === null ? {} : { broker_message_id: outcome.broker_message_id }),
  };
  return { status: outcome.status, json };
}

type Asked = Omit<Call<"send">["body"], "client_message_id"> & { client_message_id: string | undefined };

async function withDestination(
  asked: Asked,
  parts: DaemonParts,
): Promise<{ request: SendRequest; seal: Seal | undefined }> {
  const base = {
    to: asked.to,
    message: asked.message,
    priority: asked.priority,
    meta: asked.meta,
    reply_to_id: asked.reply_to_id,
    client_message_id: asked.client_message_id,
    mesh_text: asked.mesh,
    destination_kind: "dm",
  } as const;
  const known =
    asked.client_message_id === undefined ? null : parts.outbox.byClientMessageId(asked.client_message_id);
  // An honest retry goes where it went before, though the peer was renamed, re-keyed or left meanwhile.
  if (
    known !== null &&
    known.to_text === asked.to &&
    known.mesh_text === (asked.mesh ?? null) &&
    known.destination_ref !== null
  ) {
    const stored = {
      mesh: known.mesh,
      destination_ref: known.destination_ref,
      reply_to_sender: known.reply_to_sender,
    };
    return { request: { ...base, ...stored }, seal: undefined };
  }
  const { session, member } = await resolveDestination(asked.to, asked.mesh, parts.meshes);
  const request: SendRequest = {
    ...base,
    mesh: session.mesh.meshId,
    destination_ref: member.pubkey,
    reply_to_sender:
      asked.reply_to_id === undefined
        ? null
        : senderOf(asked.reply_to_id, session.mesh.meshId, member.pubkey, parts),
  };
  return { request, seal: sealNow(session.mesh.meshId, member.pubkey, parts) };
}

/** Seals with what the mesh is when the row is written: it may have been left, or joined anew with another key, meanwhile. */
const sealNow =
  (meshId: string, recipientPubkey: string, { meshes }: DaemonParts): Seal =>
  (draft) => {
    const session = meshes.byId(meshId);
    if (session === undefined) {
      throw new MeshError(
        "no_such_mesh",
        "this host left the mesh before the message was taken; nothing was written",
      );
    }
    const bodyVersion = session.bodyVersionFor(session.directory.byKey(recipientPubkey));
    return session.sealFor(recipientPubkey, bodyVersion)(draft);
  };

/** Who sent the message that is answered; when several senders used its id, the one that the answer goes to. */
function senderOf(replyToId: string, mesh: string, recipient: string, parts: DaemonParts): string {
  const candidates = parts.inbox.byClientMessageId(replyToId).filter((row) => row.mesh === mesh);
  const answered = candidates.find((row) => row.sender_member_pubkey === recipient) ?? candidates[0];
  if (answered !== undefined) return answered.sender_member_pubkey;
  throw new MeshError("no_such_message", `the inbox has no message ${replyToId} to answer`, {
    hint: "reply_to_id is the client_message_id of a message that arrived: claudemesh inbox --json shows it.",
  });
}
