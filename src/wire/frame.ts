/**
 * Length-prefixed frames on a byte stream: a length as u32 big-endian, then that many bytes. What the bytes mean is another
 * codec's business. A frame that is too long is refused before anything is allocated for it or sent; what comes after its
 * length cannot be trusted any more.
 */
import { MeshError } from "~/errors";

const headerBytes = 4;

/** The frame as it goes on the wire. Throws `frame_too_large`. */
export function encodeFrame(payload: Uint8Array, payloadBytesMax: number): Uint8Array {
  if (payload.length > payloadBytesMax) {
    throw new MeshError(
      "frame_too_large",
      `a frame of ${payload.length} bytes; at most ${payloadBytesMax} fit`,
    );
  }
  const frame = new Uint8Array(headerBytes + payload.length);
  new DataView(frame.buffer).setUint32(0, payload.length);
  frame.set(payload, headerBytes);
  return frame;
}

export type FrameRead =
  | { kind: "frame"; payload: Uint8Array }
  /** The length that was announced; nothing is read after it. */
  | { kind: "too_large"; bytes: number };

/** Takes a stream apart, however it was split. Keeps at most one frame. */
export class FrameDecoder {
  readonly #payloadBytesMax: number;
  readonly #header = new Uint8Array(headerBytes);
  /** Bytes of the header, then of the payload, that are there. */
  #filled = 0;
  /** Undefined while the header is not whole. */
  #payload: Uint8Array | undefined;
  #isSpoilt = false;

  constructor(payloadBytesMax: number) {
    this.#payloadBytesMax = payloadBytesMax;
  }

  /** The frames that `bytes` completes, in order; they are copies. */
  push(bytes: Uint8Array): FrameRead[] {
    const reads: FrameRead[] = [];
    for (let at = 0; at < bytes.length && !this.#isSpoilt; ) {
      if (this.#payload === undefined) {
        at += this.#fill(this.#header, bytes.subarray(at));
        if (this.#filled < headerBytes) break;
        const length = new DataView(this.#header.buffer).getUint32(0);
        if (length > this.#payloadBytesMax) {
          this.#isSpoilt = true;
          reads.push({ kind: "too_large", bytes: length });
          break;
        }
        this.#payload = new Uint8Array(length);
        this.#filled = 0;
      }
      const payload = this.#payload;
      at += this.#fill(payload, bytes.subarray(at));
      if (this.#filled < payload.length) break;
      this.#payload = undefined;
      this.#filled = 0;
      reads.push({ kind: "frame", payload });
    }
    return reads;
  }

  /** Whether the stream may end here: between frames, not inside one. */
  get isBetweenFrames(): boolean {
    return !this.#isSpoilt && this.#payload === undefined && this.#filled === 0;
  }

  /** Copies as much as fits; returns how much that was. */
  #fill(target: Uint8Array, bytes: Uint8Array): number {
    const part = bytes.subarray(0, target.length - this.#filled);
    target.set(part, this.#filled);
    this.#filled += part.length;
    return part.length;
  }
}
