/**
 * A stand-in for a Pilot daemon: what it answers to each command, as docs/mocks.md and the tables of wire/pilot.ts have it, and what
 * a script changes. It knows no sockets: a connection is something that bytes can be written to, and cut.
 */
import type { Clock, Timer } from "~/clock";
import { MeshError } from "~/errors";
import type { Log } from "~/log";
import { type PilotDue, type PilotEffect, type Play, taken } from "~/mock/pilot-script";
import type { Recorder } from "~/mock/recorder";
import { encodeFrame, FrameDecoder } from "~/wire/frame";
import { pilotFrameBytesMax } from "~/wire/limits";
import {
  decodePilotRequest,
  encodePilotAnswer,
  type PilotAddress,
  type PilotAnswer,
  type PilotRead,
  type PilotRequest,
  pilotAnswers,
  pilotRequests,
} from "~/wire/pilot";

/** The way back to one client. Frames are written whole, in the order of the calls. */
export interface PilotClient {
  write(bytes: Uint8Array): void;
  /** Ends the connection once what was written has gone. */
  cut(): void;
  /** Nothing more comes by itself. */
  idle(): void;
}

export interface PilotMockOptions {
  clock: Clock;
  play: Play;
  recorder: Recorder;
  log: Log;
}

/** What every dialler is, to whoever accepts. */
const diallerAddress: PilotAddress = { network: 1, node: 0xaaaa_bbbb };
const remotePort = 0xdead;
const errorCode = 1;

/** All connections of one mock. */
export class PilotMock {
  readonly #options: PilotMockOptions;
  readonly #bound = new Map<number, PilotConnection>();
  #connections = 0;
  #dialled = 0;

  constructor(options: PilotMockOptions) {
    this.#options = options;
  }

  connect(client: PilotClient): PilotConnection {
    return new PilotConnection(++this.#connections, client, this.#options, {
      nextConnId: () => ++this.#dialled,
      bind: (port, connection) => this.#bound.set(port, connection),
      binderOf: (port) => this.#bound.get(port),
      left: (connection) => {
        for (const [port, binder] of this.#bound) if (binder === connection) this.#bound.delete(port);
      },
    });
  }
}

/** What connections share. */
interface Shared {
  nextConnId(): number;
  /** The last one to bind a port has it. */
  bind(port: number, connection: PilotConnection): void;
  binderOf(port: number): PilotConnection | undefined;
  left(connection: PilotConnection): void;
}

/** Something that is done for a reason; `after` is the reason's number in the recording. */
interface Cause {
  after: number;
}

export class PilotConnection {
  readonly #number: number;
  readonly #client: PilotClient;
  readonly #options: PilotMockOptions;
  readonly #shared: Shared;
  readonly #decoder = new FrameDecoder(pilotFrameBytesMax);
  readonly #timers = new Set<Timer>();
  #isClosed = false;

  constructor(number: number, client: PilotClient, options: PilotMockOptions, shared: Shared) {
    this.#number = number;
    this.#client = client;
    this.#options = options;
    this.#shared = shared;
    const after = options.recorder.record({ dir: "open", conn: number });
    this.#pushDue(options.play.due("connect", {}), { after });
  }

  /** Whether something is still to come for which nobody needs to ask. */
  get isWaiting(): boolean {
    return this.#timers.size > 0;
  }

  received(bytes: Uint8Array): void {
    for (const read of this.#decoder.push(bytes)) {
      if (this.#isClosed) return;
      if (read.kind === "frame") this.#frame(read.payload);
      else {
        this.#options.log("warn", "frame_too_large", { conn: this.#number, bytes: read.bytes });
        this.#close({ after: this.#recordIn(lengthOf(read.bytes), undefined) });
      }
    }
  }

  /** The client is gone. */
  closed(): void {
    if (this.#isClosed) return;
    this.#options.recorder.record({ dir: "close", conn: this.#number, by: "client" });
    this.#end();
  }

  // ── Requests ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #frame(frame: Uint8Array): void {
    const read: PilotRead<PilotRequest> | undefined =
      frame.length === 0 ? undefined : decodePilotRequest(frame);
    const after = this.#recordIn(encodeFrame(frame, pilotFrameBytesMax), read);
    if (read === undefined) return;
    if (read.kind === "message") this.#request(read.message, { after });
    else {
      this.#options.log("warn", "malformed_request", { conn: this.#number, ...read });
      this.#answer(answerToFault(read), { after });
    }
  }

  #request(request: PilotRequest, cause: Cause): void {
    const { delayMs, effect } = this.#options.play.step(request);
    this.#later(delayMs, () => this.#serve(request, effect, cause));
  }

  #serve(request: PilotRequest, effect: PilotEffect, cause: Cause): void {
    const answer = this.#carryOut(request, effect, cause);
    if (this.#isClosed) return;
    const { play } = this.#options;
    if (play.hasPushes)
      this.#pushDue(play.due(request.name, { ...request.fields, ...answer?.fields }), cause);
  }

  /** The answer as it was given, when it was one. */
  #carryOut(request: PilotRequest, effect: PilotEffect, cause: Cause): PilotAnswer | undefined {
    switch (effect.kind) {
      case "drop":
        return undefined;
      case "error":
        this.#answer({ name: "error", fields: { code: effect.code, text: effect.text } }, cause);
        return undefined;
      case "bytes":
        this.#write(effect.bytes, undefined, cause);
        return undefined;
      case "cut": {
        const usual = effect.afterBytes === 0 ? undefined : encode(this.#usualAnswer(request));
        if (usual !== undefined) this.#write(usual.subarray(0, effect.afterBytes), undefined, cause);
        this.#close(cause);
        return undefined;
      }
      case "usual":
      case "reply": {
        const answer = this.#usualAnswer(request);
        // A script's fields were held against the layout of this answer.
        if (effect.kind === "reply")
          Object.assign(answer.fields, taken(pilotAnswers[answer.name], effect.fields));
        this.#answer(answer, cause);
        this.#consequences(request, answer, cause);
        return answer;
      }
    }
  }

  #usualAnswer(request: PilotRequest): PilotAnswer {
    return usualAnswer(request, this.#shared.nextConnId);
  }

  /** What others notice of it. */
  #consequences(request: PilotRequest, answer: PilotAnswer, cause: Cause): void {
    if (answer.name === "bind_ok") this.#shared.bind(answer.fields.port, this);
    if (request.name !== "dial" || answer.name !== "dial_ok") return;
    const { port } = request.fields;
    const binder = this.#shared.binderOf(port);
    if (binder === undefined || binder === this) return;
    const { conn_id } = answer.fields;
    const fields = { port, conn_id, address: diallerAddress, remote_port: remotePort };
    binder.#answer({ name: "accept", fields }, cause);
  }

  // ── Answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  #answer(answer: PilotAnswer | undefined, cause: Cause): void {
    if (answer !== undefined) this.#write(encode(answer), answer.name, cause);
  }

  #pushDue(due: readonly PilotDue[], cause: Cause): void {
    for (const { delayMs, what } of due) {
      this.#later(delayMs, () => {
        if (what.kind === "cut") this.#close(cause);
        else if (what.kind === "bytes") this.#write(what.bytes, undefined, cause);
        // The script was held against the layout of what it pushes.
        else this.#answer({ name: what.name, fields: what.fields } as PilotAnswer, cause);
      });
    }
  }

  #later(delayMs: number, act: () => void): void {
    if (delayMs === 0) {
      act();
      return;
    }
    const timer = this.#options.clock.after(delayMs, () => {
      this.#timers.delete(timer);
      act();
      if (!this.isWaiting) this.#client.idle();
    });
    this.#timers.add(timer);
  }

  #recordIn(bytes: Uint8Array, read: PilotRead<PilotRequest> | undefined): number {
    const { recorder } = this.#options;
    if (!recorder.isRecording) return 0;
    const name = read?.kind === "message" ? { name: read.message.name } : {};
    return recorder.record({ dir: "in", conn: this.#number, ...name, hex: bytes.toHex() });
  }

  #write(bytes: Uint8Array, name: string | undefined, { after }: Cause): void {
    if (this.#isClosed) return;
    const { recorder } = this.#options;
    if (recorder.isRecording) {
      const named = name === undefined ? {} : { name };
      recorder.record({ dir: "out", conn: this.#number, after, ...named, hex: bytes.toHex() });
    }
    this.#client.write(bytes);
  }

  #close({ after }: Cause): void {
    if (this.#isClosed) return;
    this.#options.recorder.record({ dir: "close", conn: this.#number, by: "mock", after });
    this.#end();
    this.#client.cut();
  }

  #end(): void {
    this.#isClosed = true;
    for (const timer of this.#timers) timer.cancel();
    this.#timers.clear();
    this.#shared.left(this);
  }
}

// ── What is usual ───────────────────────────────────────────────────────────────────────────────────────────────────

/** The text of its JSON has its keys in the order of the alphabet, as Pilot's own daemon writes them. */
function usualAnswer(request: PilotRequest, nextConnId: () => number): PilotAnswer {
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
      return { name: "recv_from", fields: { address, source_port: remotePort, port, data } };
    }
    case "info": {
      const body = { hostname: "mock-daemon", node_id: 305419896, peers: [], version: "mock-0.1.0" };
      return { name: "info_ok", fields: { body: JSON.stringify(body) } };
    }
    case "handshake.pending":
    case "handshake.trusted":
    case "handshake.send":
    case "handshake.approve":
    case "handshake.reject":
    case "handshake.revoke":
    case "handshake.wait":
      return { name: "handshake_ok", fields: { body: handshakeBodies[request.name] } };
    case "resolve": {
      const body = { hostname: request.fields.hostname, node_id: 195948557 };
      return { name: "resolve_ok", fields: { body: JSON.stringify(body) } };
    }
    case "set_hostname":
      return {
        name: "set_hostname_ok",
        fields: { body: JSON.stringify({ hostname: request.fields.hostname }) },
      };
    case "set_visibility":
      return {
        name: "set_visibility_ok",
        fields: { body: JSON.stringify({ public: request.fields.public }) },
      };
    case "deregister":
      return { name: "deregister_ok", fields: { body: '{"ok":true}' } };
    case "set_tags":
      return { name: "set_tags_ok", fields: { body: '{"ok":true}' } };
    case "set_webhook":
      return { name: "set_webhook_ok", fields: { body: JSON.stringify({ url: request.fields.url }) } };
    case "network.list":
    case "network.join":
    case "network.leave":
    case "network.members":
    case "network.invite":
    case "network.poll_invites":
    case "network.respond_invite":
      return networkAnswer();
    case "health":
      return { name: "health_ok", fields: { body: '{"ok":true,"uptime_secs":0}' } };
    case "managed.status":
    case "managed.cycle":
    case "managed.policy_get":
    case "managed.policy_set":
    case "managed.member_tags_get":
    case "managed.member_tags_set":
    case "managed.reconcile":
      return managedAnswer();
    case "rotate_key":
      return { name: "rotate_key_ok", fields: { body: '{"rotated":true}' } };
    case "broadcast":
      return { name: "broadcast_ok", fields: {} };
  }
}

const handshakeBodies = {
  "handshake.send": '{"ok":true}',
  "handshake.approve": '{"ok":true}',
  "handshake.reject": '{"ok":true}',
  "handshake.pending": '{"pending":[]}',
  "handshake.trusted": '{"trusted":[]}',
  "handshake.revoke": '{"ok":true}',
  "handshake.wait": '{"ok":true}',
} as const;
const isHandshake = (name: string | undefined): name is keyof typeof handshakeBodies =>
  name !== undefined && name in handshakeBodies;
const networkAnswer = (): PilotAnswer => ({
  name: "network_ok",
  fields: { body: '{"members":[],"ok":true}' },
});
const managedAnswer = (): PilotAnswer => ({
  name: "managed_ok",
  fields: { body: '{"ok":true,"status":"idle"}' },
});
const errorAnswer = (text: string): PilotAnswer => ({ name: "error", fields: { code: errorCode, text } });

/** To what is no request as the tables have it. The mock is generous where its answer needs nothing of the request. */
function answerToFault(read: Exclude<PilotRead<PilotRequest>, { kind: "message" }>): PilotAnswer | undefined {
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
      if (read.kind === "unknown_sub") return errorAnswer(`handshake: unknown sub ${hexByte(read.sub)}`);
      return read.kind === "short" && isHandshake(read.name)
        ? { name: "handshake_ok", fields: { body: handshakeBodies[read.name] } }
        : errorAnswer("handshake: missing sub-cmd");
    case pilotRequests.set_visibility.command:
      return { name: "set_visibility_ok", fields: { body: '{"public":false}' } };
    case pilotRequests["network.list"].command:
      return networkAnswer();
    case pilotRequests["managed.status"].command:
      return managedAnswer();
    case pilotRequests.broadcast.command:
      return { name: "broadcast_ok", fields: {} };
    default:
      return errorAnswer(`unknown cmd ${hexByte(read.command)}`);
  }
}

const hexByte = (byte: number): string => `0x${byte.toString(16).toUpperCase().padStart(2, "0")}`;

/** An answer may be longer than its request: JSON escapes what is strange in a name. */
function encode(answer: PilotAnswer): Uint8Array {
  try {
    return encodePilotAnswer(answer);
  } catch (error) {
    if (!(error instanceof MeshError) || error.code !== "frame_too_large") throw error;
    return encodePilotAnswer(errorAnswer(`${answer.name}: does not fit into a frame`));
  }
}

const lengthOf = (bytes: number): Uint8Array => {
  const header = new Uint8Array(4);
  new DataView(header.buffer).setUint32(0, bytes);
  return header;
};
