/** `GET /v1/inbox` and `POST /v1/inbox/ack`: read what arrived, page by place of arrival, and mark it as read. */

import type { InboxFilter } from "~/daemon/db/inbox";
import { renderInboxItem, renderInboxProblem } from "~/daemon/ipc/render";
import type { Answer, Call } from "~/daemon/ipc/server";
import type { DaemonParts } from "~/daemon/parts";
import { MeshError } from "~/errors";

export const getInbox =
  (parts: DaemonParts) =>
  ({ query }: Call<"inbox">): Answer<"inbox"> => {
    const slugOf = (meshId: string) => parts.meshes.slugOf(meshId);
    if (query.after !== undefined && query.last !== undefined) {
      throw new MeshError(
        "invalid_request",
        "after and last exclude each other: one pages on from a place, the other starts at the end",
      );
    }
    if (query.problems === true) {
      const problems = parts.inbox.problems(query.limit).map((row) => renderInboxProblem(row, slugOf));
      return { json: { items: [], problems } };
    }
    const limit = query.last ?? query.limit;
    // One more than asked tells whether there is a next page.
    const filter: InboxFilter = {
      ...filterOf(query, parts),
      limit: query.last === undefined ? limit + 1 : limit,
    };
    const rows = parts.inbox.list(filter);
    const page = rows.slice(0, limit);
    const more = rows.length > limit ? page.at(-1) : undefined;
    return {
      json: {
        items: page.map((row) => renderInboxItem(row, slugOf)),
        ...(more === undefined ? {} : { next_cursor: String(more.seq) }),
      },
    };
  };

export const postInboxAck =
  (parts: DaemonParts) =>
  async ({ body }: Call<"inboxAck">): Promise<Answer<"inboxAck">> => {
    const nowMs = parts.clock.now();
    const unknown = await parts.inboxWriter.submit(() =>
      body.ids.filter((id) => !parts.inbox.markRead(id, nowMs)),
    );
    return { json: { acknowledged: body.ids.length - unknown.length, unknown } };
  };

function filterOf(query: Call<"inbox">["query"], parts: DaemonParts): Omit<InboxFilter, "limit"> {
  return {
    ...(query.after === undefined ? {} : { afterSeq: placeOf(query.after, parts) }),
    ...(query.last === undefined ? {} : { newest: true }),
    ...(query.from === undefined ? {} : { from: keysOf(query.from, parts) }),
    ...(query.topic === undefined ? {} : { topic: query.topic }),
    ...(query.mesh === undefined ? {} : { mesh: parts.meshes.byText(query.mesh).mesh.meshId }),
    ...(query.unread === undefined ? {} : { unread: query.unread }),
  };
}

/** A cursor of an earlier answer, or a message by either of its ids: people copy the one they see. */
export function placeOf(cursor: string, parts: Pick<DaemonParts, "inbox">): number {
  if (/^\d{1,15}$/.test(cursor)) return Number(cursor);
  const seq = parts.inbox.seqOf(cursor);
  if (seq !== undefined) return seq;
  const [named, another] = parts.inbox.byClientMessageId(cursor);
  if (named !== undefined && another === undefined) return named.seq;
  if (another !== undefined) {
    throw new MeshError("ambiguous_message", `several senders used the id ${cursor}`, {
      hint: "Use the `id` of the message: claudemesh inbox --json shows it.",
    });
  }
  throw new MeshError("no_such_message", `the inbox has no message ${cursor} to go on from`, {
    hint: "Use next_cursor of an earlier answer, or the id of a message in the inbox.",
  });
}

/** Everyone that `text` may mean: who wrote a message may have left or share its name since. */
function keysOf(text: string, parts: DaemonParts): string[] {
  const wanted = text.toLowerCase();
  const members = parts.meshes.sessions.flatMap((session) => [...session.directory.members]);
  const isKey = /^[0-9a-f]{64}$/.test(wanted);
  const named = members
    .filter((member) => member.name.toLowerCase() === wanted)
    .map((member) => member.pubkey);
  const byPrefix = /^[0-9a-f]{8,}$/.test(wanted)
    ? members.filter((member) => member.pubkey.startsWith(wanted))
    : [];
  const keys = isKey
    ? [wanted]
    : [...named, ...byPrefix.map((member) => member.pubkey), ...parts.inbox.sendersNamed(text)];
  if (keys.length > 0) return [...new Set(keys)];
  throw new MeshError("unknown_peer", `nobody called ${text} is known here`, {
    hint: "claudemesh peers --all lists the members.",
  });
}
