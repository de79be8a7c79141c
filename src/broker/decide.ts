/**
 * What each frame leads to. Called in the order of arrival, inside the batch's transaction, with the sessions as they were before
 * the batch. What later frames of the same batch must see at once (lanes, rate, presence, who is leaving) changes here; everything else is an effect.
 */
import type { Bounds } from "~/broker/bounds";
import {
  type Connection,
  type ConnectionId,
  type Connections,
  isSendOnly,
  type Session,
} from "~/broker/connections";
import { membersFor, peersFor } from "~/broker/directory";
import {
  type Arrival,
  closeCodeInternal,
  type Decision,
  type Effect,
  errorTo,
  type Output,
  peerEvent,
  refuseConnection,
  refuseHello,
} from "~/broker/effects";
import type { Misfit, Received } from "~/broker/frames";
import { judgeHello } from "~/broker/hello";
import type { Instant } from "~/broker/instant";
import { createInvite, removeMember, revokeInvite } from "~/broker/membership";
import { meet } from "~/broker/policy";
import type { MemberRow } from "~/broker/rows";
import { decideSend, refusalAck, type SendContext, sendIdOf } from "~/broker/sends";
import type { Store } from "~/broker/sqlite";
import type { Tallies } from "~/broker/tallies";
import { MeshError } from "~/errors";
import {
  type BrokerFrameInput,
  type ClientFrame,
  type ConnectionPolicy,
  closeCode,
  type Hello,
  type SendFrame,
} from "~/wire/broker";

/** Frames that did not count, since the start. */
export interface Counters {
  malformed: number;
  unknownType: number;
  /** Acknowledgements of messages that the member does not have waiting. */
  ignoredAcks: number;
}

export interface DecideContext {
  store: Store;
  bounds: Bounds;
  connections: Connections;
  counters: Counters;
  tallies: Tallies;
  sends: SendContext;
  connectionPolicy: ConnectionPolicy;
}

/** A frame that takes a session and has an answer of its own. */
type Request = Exclude<ClientFrame, { type: "hello" | "session_hello" | "send" }>;
type PresenceFrame = Extract<Request, { type: "set_status" | "set_summary" | "set_visible" | "set_profile" }>;

type Answer = Extract<
  BrokerFrameInput,
  { type: "ok" | "peers_list" | "members_list" | "invite_created" | "invite_revoked" | "member_removed" }
>;

export function decideArrival(
  { connection: id, input }: Arrival,
  context: DecideContext,
  at: Instant,
): Decision {
  const connection = context.connections.get(id);
  if (input.type === "gone") {
    if (connection !== undefined) connection.leaving = true;
    const session = connection?.session;
    if (session !== undefined) context.store.noteSeen(session.identity.member, at.wallMs);
    return { effects: [{ do: "leave", connection: id }] };
  }
  if (input.type === "misfit") {
    if (input.code === "malformed") context.counters.malformed++;
    else context.counters.unknownType++;
  }
  // Closed by us meanwhile: what its member had still under way comes again on the next connection.
  if (connection === undefined) return { effects: [] };
  const { session } = connection;
  if (session === undefined) return { effects: decideGreeting(connection, input, context, at) };
  switch (input.type) {
    case "misfit":
      return { effects: [answerMisfit(id, input)] };
    case "hello":
    case "session_hello":
      return { effects: [errorTo(id, "unexpected_hello", "this connection has greeted already")] };
    case "send":
      return decideSendFrame(input, session, context, at);
    default:
      return { effects: decideRequest(input, session, context, at) };
  }
}

/** What an arrival leads to when the broker could not store it. A send holds its lane, unless an earlier one does. */
export function decideLost({ connection: id, input }: Arrival, context: DecideContext): Effect[] {
  if (input.type === "gone") return [{ do: "leave", connection: id }];
  const session = context.connections.get(id)?.session;
  if (session === undefined)
    return context.connections.get(id) === undefined
      ? []
      : refuseConnection(id, "internal", notStored, closeCodeInternal);
  switch (input.type) {
    case "misfit":
      return [answerMisfit(id, input)];
    case "client_ack":
      // Its lease stays, and lapses: then the message is pushed again, and acknowledged again.
      return [];
    case "send": {
      const sendId = sendIdOf(input);
      if ("fault" in sendId) return [answerFaultySend(id, input, sendId.fault)];
      const { lanes } = session;
      if (lanes.heldBy(input.targetSpec) === undefined) lanes.hold(input.targetSpec, sendId.id);
      const ack = refusalAck(sendId.id, "internal", notStored);
      return [{ do: "send", to: id, frame: ack }, ...tooManyLanes(session, context)];
    }
    default:
      return [errorTo(id, "internal", notStored, "_reqId" in input ? input._reqId : undefined)];
  }
}

const notStored = "the broker could not store it just now; nothing was half-done, and it can be sent again";

// ── Before the session ──────────────────────────────────────────────────────────────────────────────────────────────

function decideGreeting({ id }: Connection, input: Received, context: DecideContext, at: Instant): Effect[] {
  switch (input.type) {
    case "hello": {
      const verdict = judgeHello(input, context.store, context.bounds, at);
      if ("refused" in verdict) {
        context.tallies.hellos.add(verdict.refused.code);
        return refuseHello(id, verdict.refused);
      }
      const { admitted } = verdict;
      noteCapabilities(input, admitted.member, context);
      return [{ do: "admit", connection: id, hello: input, identity: admitted }];
    }
    case "session_hello":
      return refuseConnection(id, "unsupported_hello", "this broker takes member connections only");
    case "misfit":
      return refuseConnection(id, input.code, input.message);
    default:
      context.counters.malformed++;
      return refuseConnection(id, "malformed", `the first frame must be a hello, not ${input.type}`);
  }
}

/** What a daemon can do is what the one that takes the deliveries can: one that will be turned away says nothing of it. */
function noteCapabilities(hello: Hello, member: MemberRow, context: DecideContext): void {
  const { store, bounds, connections, connectionPolicy } = context;
  if (isSendOnly(hello)) return;
  const meeting = meet(hello, connections.presentOf(member), connectionPolicy, bounds);
  if ("replaces" in meeting) store.noteCapabilities(member, hello.capabilities);
}

// ── Sends ───────────────────────────────────────────────────────────────────────────────────────────────────────────

function decideSendFrame(frame: SendFrame, session: Session, context: DecideContext, at: Instant): Decision {
  const sendId = sendIdOf(frame);
  const to = session.connection;
  if ("fault" in sendId) {
    context.counters.malformed++;
    return { effects: [answerFaultySend(to, frame, sendId.fault)] };
  }
  const lane = { session, target: frame.targetSpec, heldBefore: session.lanes.heldBy(frame.targetSpec) };
  const { ack, recipient } = decideSend(frame, sendId.id, session, context.sends, at);
  const effects: Effect[] = [{ do: "send", to, frame: ack }, ...tooManyLanes(session, context)];
  if (recipient !== undefined) effects.push({ do: "wake", member: recipient });
  return { effects, lane };
}

const answerFaultySend = (to: ConnectionId, frame: SendFrame, fault: string): Output =>
  frame.id === undefined
    ? errorTo(to, "malformed", fault)
    : { do: "send", to, frame: refusalAck(frame.id, "malformed", fault) };

/** A lane whose hold could not be kept would let messages overtake each other: a sender with so many must start anew. */
function tooManyLanes(session: Session, { bounds }: DecideContext): Effect[] {
  if (session.lanes.heldCount <= bounds.lanesHeldPerConnectionMax) return [];
  const reason = `more than ${bounds.lanesHeldPerConnectionMax} lanes wait for a refused message`;
  return [{ do: "close", connection: session.connection, code: closeCode.refused, reason }];
}

function answerMisfit(to: ConnectionId, misfit: Misfit): Output {
  if (misfit.sendId === undefined) return errorTo(to, misfit.code, misfit.message, misfit.reqId);
  return { do: "send", to, frame: refusalAck(misfit.sendId, "malformed", misfit.message) };
}

// ── Requests ────────────────────────────────────────────────────────────────────────────────────────────────────────

function decideRequest(frame: Request, session: Session, context: DecideContext, at: Instant): Effect[] {
  const { store, bounds, connections } = context;
  const { identity } = session;
  const refuse = (error: MeshError, request: { _reqId?: string }) => [
    errorTo(session.connection, error.code, error.message, request._reqId),
  ];
  switch (frame.type) {
    case "client_ack":
      return acknowledge(frame.brokerMessageId, session, context, at);
    case "list_peers":
      return [answer(session, frame, { type: "peers_list", peers: peersFor(session, connections) })];
    case "list_members": {
      const after = frame.after === undefined ? undefined : store.memberById(identity.mesh, frame.after);
      if (frame.after !== undefined && after === undefined)
        return refuse(new MeshError("no_such_member", "after: this mesh never had such a member"), frame);
      const listed = store.listMembers(identity.mesh, after?.member ?? 0);
      return [answer(session, frame, { type: "members_list", ...membersFor(session, listed, connections) })];
    }
    case "set_status":
    case "set_summary":
    case "set_visible":
    case "set_profile":
      return setPresence(frame, session);
    case "create_invite": {
      const error = createInvite(frame, identity, store, bounds, at);
      if (error !== undefined) return refuse(error, frame);
      return [answer(session, frame, { type: "invite_created", invite_id: frame.invite_id })];
    }
    case "revoke_invite": {
      const error = revokeInvite(frame.invite_id, identity, store, at);
      if (error !== undefined) return refuse(error, frame);
      return [answer(session, frame, { type: "invite_revoked", invite_id: frame.invite_id })];
    }
    case "remove_member": {
      const removal = removeMember(frame.pubkey, identity, store, at);
      if (removal instanceof MeshError) return refuse(removal, frame);
      const { revokedInvites: revoked_invites } = removal;
      return [
        answer(session, frame, { type: "member_removed", pubkey: frame.pubkey, revoked_invites }),
        { do: "expel", removal },
        {
          do: "log",
          level: "info",
          message: "a member was removed",
          fields: { mesh: removal.meshId, member: removal.member.member_id, revoked_invites },
        },
      ];
    }
  }
}

function acknowledge(messageId: string, session: Session, context: DecideContext, at: Instant): Effect[] {
  const { member } = session.identity;
  const isMarked = !session.sendOnly && context.store.markDelivered(member, messageId, at.wallMs);
  if (!isMarked) context.counters.ignoredAcks++;
  return session.sendOnly ? [] : [{ do: "settle_lease", member, messageId, isNew: isMarked }];
}

function setPresence(frame: PresenceFrame, session: Session): Effect[] {
  const { identity, presence } = session;
  if (session.sendOnly) {
    const message = "a connection that only sends shows no presence";
    return [errorTo(session.connection, "not_allowed", message, frame._reqId)];
  }
  const done = answer(session, frame, { type: "ok" });
  switch (frame.type) {
    case "set_status":
      presence.status = frame.status;
      return [done];
    case "set_summary":
      presence.summary = frame.summary;
      return [done];
    case "set_profile": {
      const { type: _type, _reqId, ...profile } = frame;
      presence.profile = profile;
      return [done];
    }
    case "set_visible": {
      if (presence.visible === frame.visible) return [done];
      presence.visible = frame.visible;
      const event = peerEvent(identity, frame.visible ? "peer_joined" : "peer_left");
      return [done, { do: "announce", mesh: identity.mesh, event, except: identity.member }];
    }
  }
}

function answer(session: Session, request: { _reqId?: string }, frame: Answer): Output {
  const { _reqId } = request;
  return { do: "send", to: session.connection, frame: _reqId === undefined ? frame : { ...frame, _reqId } };
}
