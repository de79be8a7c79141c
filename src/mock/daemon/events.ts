/**
 * The event streams of the mock of the daemon. Messages and receipts are kept by their ids, so that a client which comes back with the
 * last one it saw misses none; the others pass. Each stream is a queue that the connection empties; one that is not emptied is cut off.
 */
import type { Clock, Timer } from "~/clock";
import { MeshError } from "~/errors";
import { placeOf } from "~/mock/daemon/answers";
import { inbox } from "~/mock/daemon/canned";
import { ipcStreamsMax, mockEventsKeptMax, streamBufferBytesMax, streamCommentEveryMs } from "~/wire/limits";

/** What an event looks like on its stream. */
export interface StreamEvent {
  id: string | undefined;
  name: string;
  data: unknown;
}

export type StreamPart =
  | { kind: "bytes"; bytes: Uint8Array; after: number | undefined }
  | { kind: "end" }
  | { kind: "cut"; after: number | undefined };

const storedNames: readonly string[] = ["message", "receipt"];
export const isStored = (name: string): boolean => storedNames.includes(name);

export class EventStreams {
  readonly #clock: Clock;
  readonly #open = new Set<EventStream>();
  /** Oldest first. */
  #stored: StreamEvent[] = inbox.map((data, index) => ({ id: String(index + 1), name: "message", data }));
  #place = inbox.length;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The number of the next stored event. */
  nextPlace(): number {
    return ++this.#place;
  }

  /** Throws `too_many_streams`, and `no_such_message` when nothing is known of `since`. */
  open(since: string | undefined, signal: AbortSignal): EventStream {
    if (this.#open.size >= ipcStreamsMax) {
      throw new MeshError("too_many_streams", `${ipcStreamsMax} event streams are open already`, {
        hint: "Close one that is not needed.",
      });
    }
    const missed = since === undefined || since === "" ? [] : this.#after(since);
    const stream = new EventStream(this.#clock, () => this.#open.delete(stream));
    this.#open.add(stream);
    signal.addEventListener("abort", () => stream.close());
    stream.push(encode(": open\n\n"));
    for (const event of missed) stream.push(encode(renderEvent(event)));
    if (signal.aborted) stream.close();
    return stream;
  }

  /** To one stream, or to all. `after`: the request because of which, in the recording. */
  send(event: StreamEvent, to: EventStream | undefined, after?: number): void {
    if (isStored(event.name)) {
      this.#stored.push(event);
      if (this.#stored.length > mockEventsKeptMax) this.#stored.shift();
    }
    this.each(to, (stream) => stream.push(encode(renderEvent(event)), after));
  }

  each(to: EventStream | undefined, act: (stream: EventStream) => void): void {
    for (const stream of to === undefined ? [...this.#open] : [to]) act(stream);
  }

  /** By id as it was sent; a number that was none counts as a place. */
  #after(since: string): readonly StreamEvent[] {
    const index = this.#stored.findIndex(({ id }) => id === since);
    if (index >= 0) return this.#stored.slice(index + 1);
    if (/^\d{1,15}$/.test(since)) return this.#stored.filter(({ id }) => Number(id) > Number(since));
    return this.#after(String(placeOf(since)));
  }
}

export class EventStream {
  readonly #clock: Clock;
  readonly #closed: () => void;
  #parts: StreamPart[] = [];
  #waitingBytes = 0;
  #wake: (() => void) | undefined;
  #comment: Timer | undefined;
  #isClosed = false;

  constructor(clock: Clock, closed: () => void) {
    this.#clock = clock;
    this.#closed = closed;
    this.#commentLater();
  }

  push(bytes: Uint8Array, after?: number): void {
    if (this.#isClosed) return;
    // What waits was not read, and the daemon cuts off who does not drain.
    if (this.#waitingBytes >= streamBufferBytesMax) {
      this.#add({ kind: "cut", after });
      return;
    }
    this.#waitingBytes += bytes.length;
    this.#add({ kind: "bytes", bytes, after });
  }

  end(): void {
    this.#add({ kind: "end" });
  }

  cut(after?: number): void {
    this.#add({ kind: "cut", after });
  }

  /** Nobody reads it any more. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#comment?.cancel();
    this.#closed();
    this.#wake?.();
  }

  /** The next part, when there is one; undefined when the stream is closed. */
  async next(): Promise<StreamPart | undefined> {
    while (this.#parts.length === 0 && !this.#isClosed) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await promise;
    }
    const part = this.#parts.shift();
    if (part?.kind === "bytes") this.#waitingBytes -= part.bytes.length;
    else this.close();
    return part;
  }

  #add(part: StreamPart): void {
    this.#parts.push(part);
    this.#wake?.();
  }

  #commentLater(): void {
    this.#comment = this.#clock.after(streamCommentEveryMs, () => {
      if (this.#parts.length === 0) this.push(encode(": still here\n\n"));
      this.#commentLater();
    });
  }
}

const encoder = new TextEncoder();
const encode = (text: string): Uint8Array => encoder.encode(text);

/** JSON has no raw line breaks, so one `data` line holds it. */
const renderEvent = ({ id, name, data }: StreamEvent): string =>
  `${id === undefined ? "" : `id: ${id}\n`}event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
