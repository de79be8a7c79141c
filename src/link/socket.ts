/**
 * One WebSocket to a broker: frames in and out, each validated, nothing more. It knows neither hello nor retries.
 * Handlers are called in the order of the frames, and never after `closed`.
 */
import { messageOf } from "~/errors";
import { type ClientFrameInput, closeCode, type ParsedBrokerFrame, parseBrokerFrame } from "~/wire/broker";
import { closeReasonBytesMax, frameBytesMax } from "~/wire/limits";
import { cutToBytes } from "~/wire/text";

export interface SocketHandlers {
  opened(): void;
  received(parsed: ParsedBrokerFrame): void;
  /** Anything came in, a pong included. */
  heard(): void;
  pong(): void;
  closed(code: number, reason: string): void;
}

/** A connection that carries frames: a WebSocket, or what stands for one in the simulator. */
export interface FrameSocket {
  /** Bytes handed over and not yet on the network. */
  readonly bufferedBytes: number;
  /** False when the connection is not open: the frame went nowhere. */
  send(frame: ClientFrameInput): boolean;
  ping(): void;
  /** Ends it; `closed` is not called, since the caller knows. */
  close(code: number, reason: string): void;
}

export type Connect = (brokerUrl: string, handlers: SocketHandlers) => FrameSocket;

export const connectWebSocket: Connect = (brokerUrl, handlers) => new BrokerSocket(brokerUrl, handlers);

export class BrokerSocket implements FrameSocket {
  readonly #socket: WebSocket;
  readonly #handlers: SocketHandlers;
  #done = false;
  /** What the platform said when the connection could not be made; the close event itself says nothing. */
  #failure = "";

  constructor(brokerUrl: string, handlers: SocketHandlers) {
    this.#handlers = handlers;
    this.#socket = new WebSocket(brokerUrl);
    this.#socket.addEventListener("open", () => this.#unlessDone(() => handlers.opened()));
    this.#socket.addEventListener("message", (event) => this.#unlessDone(() => this.#receive(event.data)));
    this.#socket.addEventListener("error", (event) => {
      this.#failure = "message" in event ? failureIn(String(event.message)) : "connection failed";
    });
    this.#socket.addEventListener("close", (event) =>
      this.#finish(event.code, event.reason || this.#failure),
    );
    for (const name of ["ping", "pong"]) {
      this.#socket.addEventListener(name, () =>
        this.#unlessDone(() => {
          handlers.heard();
          if (name === "pong") handlers.pong();
        }),
      );
    }
  }

  get bufferedBytes(): number {
    return this.#socket.bufferedAmount;
  }

  send(frame: ClientFrameInput): boolean {
    if (this.#done || this.#socket.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  ping(): void {
    if (!this.#done && this.#socket.readyState === WebSocket.OPEN) this.#socket.ping();
  }

  close(code: number, reason: string): void {
    if (this.#done) return;
    this.#done = true;
    closeQuietly(this.#socket, code, cutToBytes(reason, closeReasonBytesMax));
  }

  #receive(data: unknown): void {
    this.#handlers.heard();
    if (typeof data !== "string") {
      this.#handlers.received({ kind: "bad", why: "a binary frame" });
      return;
    }
    if (data.length > frameBytesMax || Buffer.byteLength(data) > frameBytesMax) {
      this.close(closeCode.tooBig, `frames are limited to ${frameBytesMax} bytes`);
      this.#handlers.closed(closeCode.tooBig, "the broker sent a frame above the limit");
      return;
    }
    this.#handlers.received(parseBrokerFrame(data));
  }

  #finish(code: number, reason: string): void {
    if (this.#done) return;
    this.#done = true;
    this.#handlers.closed(code, reason);
  }

  #unlessDone(action: () => void): void {
    if (!this.#done) action();
  }
}

/** The platform repeats the whole URL, in which there may be a password or a token. */
const failureIn = (message: string): string =>
  message.replace(/^WebSocket connection to '.*' failed: /s, "").replaceAll(/\bwss?:\/\/\S+/g, "(its URL)");

/** A socket that is still connecting cannot be closed with a code: it is cut. */
function closeQuietly(socket: WebSocket, code: number, reason: string): void {
  try {
    socket.close(code, reason);
  } catch (error) {
    socket.terminate();
    if (socket.readyState === WebSocket.OPEN) throw new Error(`cannot close the socket: ${messageOf(error)}`);
  }
}
