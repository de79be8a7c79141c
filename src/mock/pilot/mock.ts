/**
 * A stand-in for a Pilot daemon: its clients, the ports that they have bound, and what becomes of each request, which a script may
 * change. It knows no sockets: a connection is something that bytes can be written to, and cut.
 */
import type { Clock, Timer } from "~/clock";
import type { Log } from "~/log";
import { answerToFault, dialler, encodeOrRefuse, requestOf, usualAnswer } from "~/mock/pilot/answers";
import { type PilotDue, type PilotEffect, type Play, taken } from "~/mock/pilot/script";
import type { PilotClient, StreamReader } from "~/mock/pilot/stream";
import type { Recorder } from "~/mock/recorder";
import { encodeFrame, FrameDecoder } from "~/wire/frame";
import { mockWaitingBytesMax, mockWaitingOverheadBytes, pilotFrameBytesMax } from "~/wire/limits";
import {
  decodePilotRequest,
  type PilotAnswer,
  type PilotRead,
  type PilotRequest,
  pilotAnswers,
} from "~/wire/pilot";

export interface PilotMockOptions {
  clock: Clock;
  play: Play;
  recorder: Recorder;
  log: Log;
}

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

/** What something is done for. */
interface Cause {
  /** Its number in the recording. */
  after: number;
  /** The size of what came, which is kept as long as something is still to follow from it. */
  bytes: number;
}

class PilotConnection implements StreamReader {
  readonly #number: number;
  readonly #client: PilotClient;
  readonly #options: PilotMockOptions;
  readonly #shared: Shared;
  readonly #decoder = new FrameDecoder(pilotFrameBytesMax);
  readonly #timers = new Set<Timer>();
  /** What is kept for the timers. */
  #delayedBytes = 0;
  #isClosed = false;

  constructor(number: number, client: PilotClient, options: PilotMockOptions, shared: Shared) {
    this.#number = number;
    this.#client = client;
    this.#options = options;
    this.#shared = shared;
    const after = options.recorder.record({ dir: "open", conn: number });
    this.#pushDue(options.play.due({ name: "connect", asked: {}, answered: {} }), { after, bytes: 0 });
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
        this.#close({ after: this.#recordIn(() => lengthOf(read.bytes)), bytes: 0 });
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
    const read = frame.length === 0 ? undefined : decodePilotRequest(frame);
    const request = read && requestOf(read);
    const after = this.#recordIn(() => encodeFrame(frame, pilotFrameBytesMax), request?.name);
    if (read === undefined) return;
    const cause = { after, bytes: frame.length };
    if (read.kind !== "message") this.#tellMalformed(read);
    if (request !== undefined) this.#request(request, cause);
    else if (read.kind !== "message") this.#answer(answerToFault(read), cause);
  }

  #tellMalformed(read: Exclude<PilotRead<PilotRequest>, { kind: "message" }>): void {
    const { kind, command } = read;
    const more = kind === "short" ? { name: read.name } : kind === "unknown_sub" ? { sub: read.sub } : {};
    this.#options.log("warn", "malformed_request", { conn: this.#number, kind, command, ...more });
  }

  #request(request: PilotRequest, cause: Cause): void {
    const { delayMs, effect } = this.#options.play.step(request);
    this.#later(delayMs, cause, () => this.#serve(request, effect, cause));
  }

  #serve(request: PilotRequest, effect: PilotEffect, cause: Cause): void {
    const answer = this.#carryOut(request, effect, cause);
    if (this.#isClosed) return;
    const { play } = this.#options;
    if (!play.hasPushes) return;
    const { name, fields } = request;
    this.#pushDue(play.due({ name, asked: fields, answered: answer?.fields ?? {} }), cause);
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
        const usual = effect.afterBytes === 0 ? undefined : encodeOrRefuse(this.#usualAnswer(request));
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
    binder.#answer({ name: "accept", fields: { port, conn_id, ...dialler } }, cause);
  }

  // ── Answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  #answer(answer: PilotAnswer | undefined, cause: Cause): void {
    if (answer !== undefined) this.#write(encodeOrRefuse(answer), answer.name, cause);
  }

  #pushDue(due: readonly PilotDue[], cause: Cause): void {
    for (const { delayMs, what } of due) {
      this.#later(delayMs, cause, () => {
        if (what.kind === "cut") this.#close(cause);
        else if (what.kind === "bytes") this.#write(what.bytes, undefined, cause);
        // The script was held against the layout of what it pushes.
        else this.#answer({ name: what.name, fields: what.fields } as PilotAnswer, cause);
      });
    }
  }

  #later(delayMs: number, cause: Cause, act: () => void): void {
    if (this.#isClosed) return;
    if (delayMs === 0) {
      act();
      return;
    }
    const keptBytes = cause.bytes + mockWaitingOverheadBytes;
    this.#delayedBytes += keptBytes;
    if (this.#delayedBytes > mockWaitingBytesMax) {
      this.#options.log("warn", "too_much_delayed", { conn: this.#number, bytes: this.#delayedBytes });
      this.#close(cause);
      return;
    }
    const timer = this.#options.clock.after(delayMs, () => {
      this.#timers.delete(timer);
      this.#delayedBytes -= keptBytes;
      act();
      if (!this.isWaiting) this.#client.idle();
    });
    this.#timers.add(timer);
  }

  #recordIn(bytes: () => Uint8Array, name?: string): number {
    const { recorder } = this.#options;
    if (!recorder.isRecording) return 0;
    const named = name === undefined ? {} : { name };
    return recorder.record({ dir: "in", conn: this.#number, ...named, hex: bytes().toHex() });
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

const lengthOf = (bytes: number): Uint8Array => {
  const header = new Uint8Array(4);
  new DataView(header.buffer).setUint32(0, bytes);
  return header;
};
