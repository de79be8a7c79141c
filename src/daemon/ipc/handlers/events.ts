/**
 * `GET /v1/events`: server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html). Messages are read
 * from the store by their place, so a client that comes back with the last id it saw misses none and gets none twice.
 * Passing events go through a bounded buffer. A reader that does not drain is cut off; it can come back.
 */
import type { Timer } from "~/clock";
import type { Signal } from "~/daemon/events";
import { placeOf } from "~/daemon/ipc/handlers/inbox";
import { renderInboxItem, renderOutboxItem } from "~/daemon/ipc/render";
import type { Answer, Call } from "~/daemon/ipc/server";
import type { DaemonParts } from "~/daemon/parts";
import { MeshError } from "~/errors";
import type { MeshEvent } from "~/wire/ipc";
import { streamPageMessages } from "~/wire/limits";

export const getEvents = (parts: DaemonParts) => {
  const { tallies } = parts;
  return ({ query, headers, signal }: Call<"events">): Answer<"events"> => {
    const most = parts.settings()["api.streams_max"];
    if (tallies.streams >= most) {
      throw new MeshError("too_many_streams", `${most} event streams are open already`, {
        hint: "Close one that is not needed.",
      });
    }
    const since = headers.get("last-event-id") ?? query.since;
    const afterSeq = since === undefined || since === "" ? parts.inbox.lastSeq() : placeOf(since, parts);
    tallies.streams++;
    const stream = new EventStream(parts, afterSeq, () => tallies.streams--);
    signal.addEventListener("abort", () => stream.end());
    return new Response(stream.body, {
      headers: { "content-type": "text/event-stream", "cache-control": "no-store" },
    });
  };
};

class EventStream {
  readonly body: ReadableStream<Uint8Array>;
  readonly #parts: DaemonParts;
  readonly #closed: () => void;
  readonly #stopListening: () => void;
  /** Passing events that wait for the reader. */
  #buffer: string[] = [];
  #bufferBytes = 0;
  /** The place of the last message that was handed over. */
  #seq: number;
  #hasNewMessages = true;
  #controller: ReadableStreamDefaultController<Uint8Array> | undefined;
  #comment: Timer | undefined;
  #stall: Timer | undefined;
  #ended = false;

  constructor(parts: DaemonParts, afterSeq: number, closed: () => void) {
    this.#parts = parts;
    this.#seq = afterSeq;
    this.#closed = closed;
    this.#stopListening = parts.hub.listen((signal) => this.#hear(signal));
    this.body = new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          this.#controller = controller;
          controller.enqueue(encode(": open\n\n"));
        },
        pull: () => this.#hand(),
        cancel: () => this.end(),
      },
      // What the reader has not taken yet is bounded here; pull is called when there is room again.
      { highWaterMark: this.#bufferBytesMax, size: (chunk) => chunk?.byteLength ?? 0 },
    );
    this.#commentLater();
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#stopListening();
    this.#comment?.cancel();
    this.#stall?.cancel();
    this.#closed();
    try {
      this.#controller?.close();
    } catch (error) {
      // The reader cancelled the stream, which closes it as well.
      if (!(error instanceof TypeError)) throw error;
    }
  }

  #hear(signal: Signal): void {
    switch (signal.kind) {
      case "stopping":
        this.end();
        return;
      case "inbox":
        this.#hasNewMessages = true;
        break;
      case "outbox": {
        const row = this.#parts.outbox.byClientMessageId(signal.clientMessageId);
        if (row !== null)
          this.#keep({ event: "outbox", data: renderOutboxItem(row, (id) => this.#parts.meshes.slugOf(id)) });
        break;
      }
      case "passing":
        this.#keep(signal.event);
    }
    this.#hand();
  }

  #keep(event: MeshEvent): void {
    const text = renderEvent(event);
    this.#bufferBytes += text.length;
    this.#buffer.push(text);
    if (this.#bufferBytes > this.#bufferBytesMax) this.end();
  }

  get #bufferBytesMax(): number {
    return this.#parts.settings()["api.stream_buffer_bytes_max"];
  }

  /** Gives the reader what there is, as far as it has room. */
  #hand(): void {
    while (!this.#ended && this.#hasRoom()) {
      const passing = this.#buffer.splice(0).join("");
      this.#bufferBytes = 0;
      const messages = this.#hasNewMessages ? this.#nextMessages() : "";
      if (passing === "" && messages === "") {
        this.#stall?.cancel();
        this.#stall = undefined;
        return;
      }
      this.#controller?.enqueue(encode(messages + passing));
    }
    if (!this.#ended && this.#stall === undefined) {
      const stallMs = this.#parts.settings()["api.stream_stall_s"] * 1000;
      this.#stall = this.#parts.clock.after(stallMs, () => {
        this.#stall = undefined;
        if (!this.#hasRoom()) this.end();
      });
    }
  }

  #hasRoom(): boolean {
    return (this.#controller?.desiredSize ?? 0) > 0;
  }

  #nextMessages(): string {
    const rows = this.#parts.inbox.list({ afterSeq: this.#seq, limit: streamPageMessages });
    this.#hasNewMessages = rows.length === streamPageMessages;
    const last = rows.at(-1);
    if (last !== undefined) this.#seq = last.seq;
    return rows
      .map((row) => ({
        event: "message" as const,
        id: String(row.seq),
        data: renderInboxItem(row, (id) => this.#parts.meshes.slugOf(id)),
      }))
      .map(renderEvent)
      .join("");
  }

  #commentLater(): void {
    const everyMs = this.#parts.settings()["api.stream_comment_s"] * 1000;
    this.#comment = this.#parts.clock.after(everyMs, () => {
      if (this.#hasRoom()) this.#controller?.enqueue(encode(": still here\n\n"));
      this.#commentLater();
    });
  }
}

const encoder = new TextEncoder();
const encode = (text: string): Uint8Array => encoder.encode(text);

/** JSON has no raw line breaks, so one `data` line holds it. */
const renderEvent = (event: MeshEvent): string =>
  `${"id" in event ? `id: ${event.id}\n` : ""}event: ${event.event}\ndata: ${JSON.stringify(event.data)}\n\n`;
