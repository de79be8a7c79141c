/** `GET /v1/messages/:client_message_id`: what became of a sent message, now or when it got as far as asked. */
import type { OutboxRow } from "~/daemon/db/outbox";
import { renderSentMessage } from "~/daemon/ipc/render";
import type { Answer, Call } from "~/daemon/ipc/server";
import type { DaemonParts } from "~/daemon/parts";
import { MeshError } from "~/errors";

export const getMessage =
  (parts: DaemonParts) =>
  async (call: Call<"message">): Promise<Answer<"message">> => {
    const { wait, timeout_ms } = call.query;
    if (wait !== undefined && wait !== "accepted") {
      throw new MeshError("unsupported_wait", `this version can wait for accepted, not for ${wait}`, {
        hint: "Receipts of delivery and reading come with a later version.",
      });
    }
    let row = find(call.param, parts);
    if (wait !== undefined && !isSettled(row)) {
      call.beginWaiting();
      row = await settled(call, parts, timeout_ms);
    }
    return { json: renderSentMessage(row, (meshId) => parts.meshes.slugOf(meshId)) };
  };

function find(clientMessageId: string, parts: DaemonParts): OutboxRow {
  const row = parts.outbox.byClientMessageId(clientMessageId);
  if (row !== null) return row;
  throw new MeshError("no_such_message", `no message ${clientMessageId} was sent from this host`, {
    hint: "claudemesh daemon outbox list shows what was.",
  });
}

/** Nothing more will happen by itself. */
const isSettled = (row: OutboxRow): boolean =>
  row.status === "done" || row.status === "dead" || row.status === "aborted";

/** The row as soon as it is settled; as it is when the time is up or the daemon stops, since that is an answer too. */
function settled(call: Call<"message">, parts: DaemonParts, timeoutMs: number): Promise<OutboxRow> {
  return new Promise((resolve) => {
    const finish = () => {
      timer.cancel();
      stopListening();
      call.signal.removeEventListener("abort", finish);
      resolve(find(call.param, parts));
    };
    const timer = parts.clock.after(timeoutMs, finish);
    const stopListening = parts.hub.listen((signal) => {
      if (signal.kind === "stopping") finish();
      if (
        signal.kind === "outbox" &&
        signal.clientMessageId === call.param &&
        isSettled(find(call.param, parts))
      )
        finish();
    });
    call.signal.addEventListener("abort", finish);
  });
}
