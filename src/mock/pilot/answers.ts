/**
 * What the Pilot mock answers when no script says otherwise, as docs/mocks.md has it. Its JSON has its keys in the order of the
 * alphabet, as Pilot's own daemon writes them. A command without an answer here does not compile.
 */
import { MeshError } from "~/errors";
import {
  encodePilotAnswer,
  type PilotAnswer,
  type PilotRead,
  type PilotRequest,
  type PilotRequestName,
  pilotRequests,
} from "~/wire/pilot";

export const usualErrorCode = 1;
const usualPort = 0xdead;
/** What every dialler is, to whoever accepts. */
export const dialler = { address: { network: 1, node: 0xaaaa_bbbb }, remote_port: usualPort };

/** Their answer needs something of the request, or no JSON. */
type Particular =
  | "bind"
  | "dial"
  | "send"
  | "close"
  | "send_to"
  | "resolve"
  | "set_hostname"
  | "set_visibility"
  | "set_webhook"
  | "broadcast";

/** The JSON of all others, whatever they ask. */
const bodies: Readonly<Record<Exclude<PilotRequestName, Particular>, string>> = {
  info: '{"hostname":"mock-daemon","node_id":305419896,"peers":[],"version":"mock-0.1.0"}',
  "handshake.send": '{"ok":true}',
  "handshake.approve": '{"ok":true}',
  "handshake.reject": '{"ok":true}',
  "handshake.pending": '{"pending":[]}',
  "handshake.trusted": '{"trusted":[]}',
  "handshake.revoke": '{"ok":true}',
  "handshake.wait": '{"ok":true}',
  deregister: '{"ok":true}',
  set_tags: '{"ok":true}',
  "network.list": '{"members":[],"ok":true}',
  "network.join": '{"members":[],"ok":true}',
  "network.leave": '{"members":[],"ok":true}',
  "network.members": '{"members":[],"ok":true}',
  "network.invite": '{"members":[],"ok":true}',
  "network.poll_invites": '{"members":[],"ok":true}',
  "network.respond_invite": '{"members":[],"ok":true}',
  health: '{"ok":true,"uptime_secs":0}',
  "managed.status": '{"ok":true,"status":"idle"}',
  "managed.cycle": '{"ok":true,"status":"idle"}',
  "managed.policy_get": '{"ok":true,"status":"idle"}',
  "managed.policy_set": '{"ok":true,"status":"idle"}',
  "managed.member_tags_get": '{"ok":true,"status":"idle"}',
  "managed.member_tags_set": '{"ok":true,"status":"idle"}',
  "managed.reconcile": '{"ok":true,"status":"idle"}',
  rotate_key: '{"rotated":true}',
};
type Fixed = keyof typeof bodies;
const isFixed = (name: string | undefined): name is Fixed =>
  name !== undefined && Object.hasOwn(bodies, name);

export function usualAnswer(request: PilotRequest, nextConnId: () => number): PilotAnswer {
  switch (request.name) {
    case "bind":
      return { name: "bind_ok", fields: { port: request.fields.port } };
    case "dial":
      return { name: "dial_ok", fields: { conn_id: nextConnId() } };
    case "send":
      return { name: "recv", fields: { ...request.fields } };
    case "close":
      return { name: "close_ok", fields: { conn_id: request.fields.conn_id } };
    case "send_to": {
      const { address, port, data } = request.fields;
      return { name: "recv_from", fields: { address, source_port: usualPort, port, data } };
    }
    case "resolve": {
      const body = { hostname: request.fields.hostname, node_id: 195948557 };
      return { name: "resolve_ok", fields: { body: JSON.stringify(body) } };
    }
    case "set_hostname": {
      const { hostname } = request.fields;
      return { name: "set_hostname_ok", fields: { body: JSON.stringify({ hostname }) } };
    }
    case "set_visibility":
      return visibilityAnswer(request.fields.public);
    case "set_webhook":
      return { name: "set_webhook_ok", fields: { body: JSON.stringify({ url: request.fields.url }) } };
    case "broadcast":
      return { name: "broadcast_ok", fields: {} };
    default:
      return fixedAnswer(request.name);
  }
}

const fixedAnswer = (name: Fixed): PilotAnswer => ({
  name: pilotRequests[name].answer,
  fields: { body: bodies[name] },
});
const visibilityAnswer = (isPublic: boolean): PilotAnswer => ({
  name: "set_visibility_ok",
  fields: { body: JSON.stringify({ public: isPublic }) },
});
const errorAnswer = (text: string): PilotAnswer => ({
  name: "error",
  fields: { code: usualErrorCode, text },
});

type Read = PilotRead<PilotRequest>;

/** The request, if it is one. The mock is generous: fields may be missing where its answer needs none. */
export function requestOf(read: Read): PilotRequest | undefined {
  if (read.kind === "message") return read.message;
  // The types have it that they are all there; of these commands none is looked at but by a script, which asks whether it is there.
  return read.kind === "short" && isFixed(read.name)
    ? ({ name: read.name, fields: read.fields } as PilotRequest)
    : undefined;
}

/** To what is no request. Here, too, the mock is generous where it can be. */
export function answerToFault(read: Exclude<Read, { kind: "message" }>): PilotAnswer | undefined {
  switch (read.command) {
    case pilotRequests.bind.command:
      return errorAnswer("bind: missing port");
    case pilotRequests.dial.command:
      return errorAnswer("dial: missing address/port");
    case pilotRequests.send.command:
    case pilotRequests.send_to.command:
    case pilotRequests.close.command:
      return undefined;
    case pilotRequests["handshake.send"].command:
      return errorAnswer(
        read.kind === "unknown_sub"
          ? `handshake: unknown sub ${hexByte(read.sub)}`
          : "handshake: missing sub-cmd",
      );
    case pilotRequests.set_visibility.command:
      return visibilityAnswer(false);
    case pilotRequests["network.list"].command:
      return fixedAnswer("network.list");
    case pilotRequests["managed.status"].command:
      return fixedAnswer("managed.status");
    case pilotRequests.broadcast.command:
      return { name: "broadcast_ok", fields: {} };
    default:
      return errorAnswer(`unknown cmd ${hexByte(read.command)}`);
  }
}

const hexByte = (byte: number): string => `0x${byte.toString(16).toUpperCase().padStart(2, "0")}`;

/** A whole frame. An answer may be longer than its request: JSON escapes what is strange in a name. */
export function encodeOrRefuse(answer: PilotAnswer): Uint8Array {
  try {
    return encodePilotAnswer(answer);
  } catch (error) {
    if (!(error instanceof MeshError) || error.code !== "frame_too_large") throw error;
    return encodePilotAnswer(errorAnswer(`${answer.name}: does not fit into a frame`));
  }
}
