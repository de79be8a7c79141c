/**
 * What the mock of the daemon answers when no script says otherwise: what canned.ts has, with what the request itself names put
 * in its place. Nothing is kept between two requests. A route without an answer here does not compile.
 */
import * as v from "valibot";
import type { Answer, Call, Handlers } from "~/daemon/ipc/server";
import { MeshError } from "~/errors";
import * as canned from "~/mock/daemon/canned";
import type { DaemonRequest } from "~/mock/daemon/script";
import { version } from "~/version";
import { challengeProof } from "~/wire/challenge";
import { ipcFeatures, metricsContentType } from "~/wire/ipc";
import { checkMessageText, checkMeta, idempotencyKey } from "~/wire/outgoing";
import type { Priority } from "~/wire/text";

/** Of each route but the events, which are a stream. */
export type UsualAnswers = Omit<Handlers, "events">;

export function usualAnswers(token: string): UsualAnswers {
  let ids = 0;
  const newId = (): string => canned.messageId(++ids);
  return {
    challenge: ({ query }) => ({ json: { proof: challengeProof(token, query.nonce) } }),
    version: () => ({
      json: {
        daemon_version: version,
        ipc_api: "v1",
        ipc_features: [...ipcFeatures],
        schema_version: 1,
        meshes: { [canned.mesh]: { broker_features: canned.brokerFeatures } },
      },
    }),
    health: () => ({ json: canned.health }),
    send: ({ body, headers }) => {
      checkMessageText(body.message);
      checkMeta(body.meta);
      const id = idempotencyKey(body.client_message_id, headers.get("idempotency-key")) ?? newId();
      return { status: 202, json: { client_message_id: id, status: "queued", duplicate: false } };
    },
    message: ({ param }) => ({ json: canned.sentMessage(param) }),
    inbox: getInbox,
    inboxAck: ({ body }) => ({ json: { acknowledged: body.ids.length, unknown: [] } }),
    peers: ({ query }) => ({
      json: {
        peers: canned.peers.filter(
          (peer) => (peer.online || query.all === true) && (query.mesh ?? peer.mesh) === peer.mesh,
        ),
        stale: false,
      },
    }),
    profile: () => ({ json: canned.profile }),
    setProfile: ({ body }) => ({ json: { ...canned.profile, ...body } }),
    outbox: getOutbox,
    outboxRow: ({ param }) => ({ json: canned.outboxRow(param) }),
    requeue: ({ body }) => ({
      json: {
        aborted_row_id: body.id,
        new_row_id: canned.requeuedRowId,
        new_client_message_id: body.new_client_message_id ?? newId(),
        may_have_been_sent: false,
      },
    }),
    metrics: () => new Response(canned.metrics, { headers: { "content-type": metricsContentType } }),
    rotateToken: () => ({ json: canned.rotation }),
    openapi: async () => {
      const { openApiDocument } = await import("~/daemon/ipc/openapi");
      return { json: openApiDocument(version) };
    },
  };
}

function getInbox({ query }: Call<"inbox">): Answer<"inbox"> {
  if (query.after !== undefined && query.last !== undefined) {
    throw new MeshError(
      "invalid_request",
      "after and last exclude each other: one pages on from a place, the other starts at the end",
    );
  }
  if (query.problems === true) {
    return { json: { items: [], problems: canned.inboxProblems.slice(0, query.limit) } };
  }
  const places = canned.inbox.map((item, index) => ({ item, place: index + 1 }));
  const after = query.after === undefined ? 0 : placeOf(query.after);
  const wanted = places.filter(
    ({ item, place }) =>
      place > after &&
      (query.from === undefined || isSender(item.from, query.from)) &&
      (query.topic ?? item.topic) === item.topic &&
      (query.mesh ?? item.mesh) === item.mesh &&
      (query.unread === undefined || (item.read_at === undefined) === query.unread),
  );
  const page = query.last === undefined ? wanted.slice(0, query.limit) : wanted.slice(-query.last);
  const more = query.last === undefined && wanted.length > page.length ? page.at(-1) : undefined;
  return {
    json: {
      items: page.map(({ item }) => item),
      ...(more === undefined ? {} : { next_cursor: String(more.place) }),
    },
  };
}

const isSender = ({ name, pubkey }: { name: string; pubkey: string }, text: string): boolean =>
  name === text.toLowerCase() || (text.length >= 8 && pubkey.startsWith(text.toLowerCase()));

/** A cursor of an earlier answer, or a message by either of its ids. */
export function placeOf(cursor: string): number {
  if (/^\d{1,15}$/.test(cursor)) return Number(cursor);
  const index = canned.inbox.findIndex(
    ({ id, client_message_id }) => id === cursor || client_message_id === cursor,
  );
  if (index >= 0) return index + 1;
  throw new MeshError("no_such_message", `the inbox has no message ${cursor} to go on from`, {
    hint: "Use next_cursor of an earlier answer, or the id of a message in the inbox.",
  });
}

function getOutbox({ query: { status, limit, after, lane } }: Call<"outbox">): Answer<"outbox"> {
  const rows = canned.outbox.map((row, index) => ({ row, place: canned.outbox.length - index }));
  const before = after === undefined ? Number.POSITIVE_INFINITY : placeInOutbox(after);
  const wanted = rows.filter(
    ({ row, place }) =>
      place < before && isOfStatus(row, status) && (lane ?? row.destination) === row.destination,
  );
  const page = wanted.slice(0, limit);
  const more = wanted.length > page.length ? page.at(-1) : undefined;
  return {
    json: {
      items: page.map(({ row }) => row),
      counts: canned.outboxCounts,
      ...(more === undefined ? {} : { next_cursor: String(more.place) }),
    },
  };
}

function placeInOutbox(after: string): number {
  if (/^\d{1,15}$/.test(after)) return Number(after);
  const index = canned.outbox.findIndex((row) => canned.isRow(row, after));
  if (index >= 0) return canned.outbox.length - index;
  throw new MeshError("no_such_row", `the outbox has no row ${after}`, {
    hint: "claudemesh daemon outbox list shows the rows.",
  });
}

function isOfStatus(row: (typeof canned.outbox)[number], wanted: Call<"outbox">["query"]["status"]): boolean {
  if (wanted === undefined) return true;
  if (wanted === "retrying") return row.status === "pending" && row.attempts > 0;
  return row.status === (wanted === "failed" ? "dead" : wanted);
}

// ── Events ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A request that was answered, as far as an event that follows from it may tell of it. */
export type Occasion = { sent?: { id: string; to: string; text: string; priority: Priority } };

/** The message that was sent, if one was. */
export function occasionOf(request: DaemonRequest, answer: unknown): Occasion {
  if (request.route !== "send") return {};
  // The request went through the schema of this route.
  const { to, message, priority, client_message_id } = request.body as Call<"send">["body"];
  const named = v.safeParse(v.object({ client_message_id: v.string() }), answer);
  const id = named.success ? named.output.client_message_id : client_message_id;
  return { sent: { id: id ?? canned.messageId(1), to, text: message, priority } };
}

/** What an event of this name tells when no script says it. `place` is its number, where it has one. */
export function usualEvent(name: string, place: number, { sent }: Occasion): unknown {
  switch (name) {
    case "message":
      return canned.arrival(place, sent);
    case "receipt":
      return canned.receipt(sent?.id ?? canned.messageId(1), sent?.to ?? canned.bob.name);
    case "outbox":
      return canned.newRow(sent ?? { id: canned.messageId(1) });
    case "peer_join":
      return canned.comingPeer;
    case "peer_leave":
      return canned.leavingPeer;
    case "broker_status":
      return canned.brokerStatus;
    default:
      return {};
  }
}
