/**
 * Server-sent events as the HTML standard parses them (https://html.spec.whatwg.org/multipage/server-sent-events.html,
 * "Interpreting an event stream"), from chunks that may be cut anywhere, within a character or between CR and LF too.
 * Refuses an event that grows without end.
 */

export interface SseEvent {
  /** `message` when the stream names none. */
  event: string;
  data: string;
  /** The last id that the stream gave, this event's or an earlier one's; empty before the first. */
  lastEventId: string;
}

/** Characters of one event that has not ended; more than any message with its envelope can have. */
export const sseEventCharsMax = 8 * 1024 * 1024;

export class SseParser {
  readonly #decoder = new TextDecoder("utf-8");
  #line = "";
  #sawCarriageReturn = false;
  #event = "";
  #data: string[] = [];
  #dataChars = 0;
  #lastEventId = "";

  /** The events that this chunk completes. Throws RangeError when an event is larger than `sseEventCharsMax`. */
  push(chunk: Uint8Array): SseEvent[] {
    const events: SseEvent[] = [];
    let text = this.#decoder.decode(chunk, { stream: true });
    if (this.#sawCarriageReturn && text.startsWith("\n")) text = text.slice(1);
    if (text !== "") this.#sawCarriageReturn = text.endsWith("\r");
    const lines = text.split(/\r\n|\n|\r/);
    const rest = lines.pop() ?? "";
    for (const end of lines) {
      const event = this.#endLine(this.#line + end);
      this.#line = "";
      if (event !== undefined) events.push(event);
    }
    this.#line += rest;
    if (this.#line.length + this.#dataChars > sseEventCharsMax) {
      throw new RangeError(`an event has more than ${sseEventCharsMax} characters`);
    }
    return events;
  }

  #endLine(line: string): SseEvent | undefined {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return undefined; // A comment.
    const field = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#event = value;
    if (field === "id" && !value.includes("\0")) this.#lastEventId = value;
    if (field === "data") {
      this.#data.push(value);
      this.#dataChars += value.length;
    }
    return undefined;
  }

  #dispatch(): SseEvent | undefined {
    const event = this.#event;
    const data = this.#data;
    this.#event = "";
    this.#data = [];
    this.#dataChars = 0;
    if (data.length === 0) return undefined;
    return {
      event: event === "" ? "message" : event,
      data: data.join("\n"),
      lastEventId: this.#lastEventId,
    };
  }
}
