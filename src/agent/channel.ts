/**
 * Frames over one stream socket, for both ends of a shim's control channel. A frame leaves whole and after the one before it,
 * however many write at a time. A peer that does not read makes the write fail within a bounded time; then, and after any other
 * broken write, the connection is closed, for a part of a frame may have gone. What was read is never thrown away: every portion is
 * taken apart at once.
 */
import type { Clock, Timer } from "~/clock";
import { MeshError } from "~/errors";
import { FrameDecoder } from "~/wire/frame";

/** The part of Bun's `Socket` that a channel uses. */
export interface StreamSocket {
  /** How many of the bytes were taken; fewer than all when the buffers are full, -1 when the socket is closed. */
  write(bytes: Uint8Array): number;
  /** Ends our direction after what was taken. */
  end(): void;
  /** Ends both at once. */
  terminate(): void;
}

/** How it ended. */
export type ChannelEnd =
  /** The peer ended the stream between two frames, or we did. */
  | { kind: "clean" }
  | { kind: "inside_frame" }
  | { kind: "too_large"; bytes: number }
  | { kind: "not_written"; error: MeshError };

export interface ChannelOptions {
  socket: StreamSocket;
  clock: Clock;
  frameBytesMax: number;
  /** How long one frame may take to be taken by the socket. */
  writeTimeoutMs: number;
  /** What may wait to be written; more is as if the peer did not read. */
  waitingBytesMax: number;
  /** One frame's payload; the next is given only when this returns. */
  received(payload: Uint8Array): void;
  /** The peer has ended its direction of the stream, between two frames, and may still read. Left out: then the channel ends. */
  saidLast?(): void;
  /** Called once; nothing is received after it. */
  ended(end: ChannelEnd): void;
}

interface Outgoing {
  frame: Uint8Array;
  written: number;
  resolve(): void;
  reject(error: MeshError): void;
}

const waitParts = 8;

export class Channel {
  readonly #options: ChannelOptions;
  readonly #decoder: FrameDecoder;
  #outgoing: Outgoing[] = [];
  #waitingBytes = 0;
  #timer: Timer | undefined;
  #end: ChannelEnd | undefined;
  #isClosing = false;
  #hasSaidLast = false;

  constructor(options: ChannelOptions) {
    this.#options = options;
    this.#decoder = new FrameDecoder(options.frameBytesMax);
  }

  get isOpen(): boolean {
    return this.#end === undefined && !this.#isClosing;
  }

  /**
   * Resolves when the socket has taken the whole frame (made by `encodeFrame`). Rejects with `timed_out` when the peer does not read,
   * `limit_reached` when too much waits already, and `answer_lost` when the connection is gone.
   */
  send(frame: Uint8Array): Promise<void> {
    if (!this.isOpen) return Promise.reject(gone());
    if (this.#waitingBytes + frame.length > this.#options.waitingBytesMax) {
      const error = new MeshError("limit_reached", "the peer reads more slowly than there is to tell it");
      this.#fail(error);
      return Promise.reject(error);
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#waitingBytes += frame.length;
    this.#outgoing.push({ frame, written: 0, resolve, reject });
    if (this.#outgoing.length === 1) this.#write();
    return promise;
  }

  /** Lets what waits go out, within the time that a frame may take, and ends the stream. */
  close(): void {
    if (!this.isOpen) return;
    this.#isClosing = true;
    if (this.#outgoing.length === 0) this.#options.socket.end();
  }

  // ── What the socket reports ─────────────────────────────────────────────────────────────────────────────────────────

  data(bytes: Uint8Array): void {
    if (this.#end !== undefined) return;
    for (const read of this.#decoder.push(bytes)) {
      if (this.#end !== undefined) return;
      if (read.kind === "frame") this.#options.received(read.payload);
      else this.#finish({ kind: "too_large", bytes: read.bytes });
    }
  }

  drained(): void {
    this.#write();
  }

  /** The peer has ended its direction of the stream. */
  inputEnded(): void {
    const { saidLast } = this.#options;
    if (this.#end !== undefined || this.#hasSaidLast) return;
    if (saidLast === undefined || !this.#decoder.isBetweenFrames) {
      this.closed();
      return;
    }
    this.#hasSaidLast = true;
    saidLast();
  }

  /** The connection is gone. */
  closed(): void {
    this.#finish(this.#decoder.isBetweenFrames ? { kind: "clean" } : { kind: "inside_frame" });
  }

  // ── Inside ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #write(): void {
    const { socket } = this.#options;
    for (
      let next = this.#outgoing[0];
      next !== undefined && this.#end === undefined;
      next = this.#outgoing[0]
    ) {
      const taken = socket.write(next.frame.subarray(next.written));
      if (taken < 0) {
        this.#fail(gone());
        return;
      }
      next.written += taken;
      this.#waitingBytes -= taken;
      if (next.written < next.frame.length) {
        // One time for each frame, from its first bytes on: a peer that takes a byte now and then does not hold us up for ever.
        if (this.#timer === undefined) this.#waitForPeer();
        return;
      }
      this.#timer?.cancel();
      this.#timer = undefined;
      this.#outgoing.shift();
      next.resolve();
    }
    if (this.#isClosing && this.#end === undefined) socket.end();
  }

  /** In parts: of the time in which this process itself was stopped, when nobody could read, no more counts than one of them. */
  #waitForPeer(partsLeft = waitParts): void {
    const { clock, writeTimeoutMs } = this.#options;
    this.#timer = clock.after(writeTimeoutMs / waitParts, () => {
      if (partsLeft > 1) this.#waitForPeer(partsLeft - 1);
      else this.#fail(notRead(writeTimeoutMs));
    });
  }

  #fail(error: MeshError): void {
    this.#finish({ kind: "not_written", error });
  }

  #finish(end: ChannelEnd): void {
    if (this.#end !== undefined) return;
    this.#end = end;
    this.#timer?.cancel();
    // Nothing that anybody waits for is lost when the peer ended the stream between frames.
    if (end.kind === "clean" && this.#outgoing.length === 0) this.#options.socket.end();
    else this.#options.socket.terminate();
    const error = end.kind === "not_written" ? end.error : gone();
    for (const { reject } of this.#outgoing.splice(0)) reject(error);
    this.#options.ended(end);
  }
}

const gone = (): MeshError => new MeshError("answer_lost", "the connection is closed");

const notRead = (writeTimeoutMs: number): MeshError =>
  new MeshError("timed_out", `the peer did not take a frame within ${writeTimeoutMs / 1000} s`);
