/**
 * The daemon's live events as an iterator that outlives connections: it reconnects after the last stored event it saw, so
 * none is missed and none comes twice. Losing and regaining the daemon are values, for whoever wants to say so.
 */
import * as v from "valibot";
import { connectionFailure, isPassing } from "~/client/failure";
import { incompatible, refusal } from "~/client/reply";
import { type SseEvent, SseParser } from "~/client/sse";
import type { Way } from "~/client/way";
import { type Clock, systemClock, type Timer } from "~/clock";
import { MeshError } from "~/errors";
import { eventNames, MeshEvent, routes } from "~/wire/ipc";
import { streamCommentEveryMs } from "~/wire/limits";
import { explainIssues } from "~/wire/text";

export type Watched =
  | { kind: "open"; again: boolean }
  | { kind: "event"; event: MeshEvent }
  /** The connection is gone; the next one is tried in `retryMs`. */
  | { kind: "lost"; error: MeshError; retryMs: number };

export interface WatchOptions {
  way: Way;
  /** Stored events after this one are replayed first. */
  since?: string | undefined;
  /** Ends the iteration, without an error. */
  signal: AbortSignal;
  clock?: Clock;
}

const reconnectDelaysMs = [100, 250, 500, 1_000, 2_000, 5_000] as const;
/** The daemon comments every 15 s; without anything for this long the connection is dead. */
const silenceMsMax = 3 * streamCommentEveryMs;

/**
 * Never ends by itself. Throws when the first connection fails, and later for what reconnecting cannot mend (a sandbox, an
 * incompatible daemon).
 */
export async function* watchEvents(options: WatchOptions): AsyncGenerator<Watched, void, undefined> {
  const { way, signal, clock = systemClock } = options;
  let lastId = options.since;
  let wasOpen = false;
  for (let failures = 0; !signal.aborted; failures++) {
    let error: MeshError;
    try {
      for await (const watched of readOnce(way, lastId, signal, clock)) {
        if (watched.kind === "event" && "id" in watched.event) lastId = watched.event.id;
        if (watched.kind === "open") {
          failures = 0;
          yield { kind: "open", again: wasOpen };
          wasOpen = true;
        } else yield watched;
      }
      error = new MeshError("answer_lost", "the daemon closed the stream of events");
    } catch (thrown) {
      if (signal.aborted) return;
      if (!(thrown instanceof MeshError) || !wasOpen || !isPassing(thrown)) throw thrown;
      error = thrown;
    }
    if (signal.aborted) return;
    const retryMs = reconnectDelaysMs[Math.min(failures, reconnectDelaysMs.length - 1)] ?? 0;
    yield { kind: "lost", error, retryMs };
    await pause(retryMs, signal, clock);
  }
}

async function* readOnce(
  way: Way,
  lastId: string | undefined,
  signal: AbortSignal,
  clock: Clock,
): AsyncGenerator<Watched, void, undefined> {
  const silence = new AbortController();
  let timer: Timer | undefined;
  const heard = (): void => {
    timer?.cancel();
    timer = clock.after(silenceMsMax, () => silence.abort());
  };
  heard();
  try {
    const response = await way.request(routes.events.path, {
      headers: { accept: "text/event-stream", ...(lastId === undefined ? {} : { "last-event-id": lastId }) },
      signal: AbortSignal.any([signal, silence.signal]),
      redirect: "error",
      // Bun's own limit on idle connections; ours is `silence`.
      timeout: false,
    });
    if (response.status !== 200) throw refusal(response.status, await response.json().catch(() => undefined));
    if (response.body === null) throw incompatible("a stream of events without a body");
    yield { kind: "open", again: false };
    const parser = new SseParser();
    for await (const chunk of response.body) {
      heard();
      for (const sse of parser.push(chunk)) {
        const event = parseEvent(sse);
        if (event !== undefined) yield { kind: "event", event };
      }
    }
  } catch (thrown) {
    if (thrown instanceof MeshError) throw thrown;
    if (thrown instanceof RangeError) throw incompatible(thrown.message);
    if (silence.signal.aborted) {
      throw new MeshError("timed_out", `the daemon sent nothing for ${silenceMsMax / 1000} s`);
    }
    throw connectionFailure(thrown, way.socketPath);
  } finally {
    timer?.cancel();
  }
}

/** Undefined for an event that a newer daemon may know and this version does not. Throws `incompatible_daemon`. */
function parseEvent({ event, data, lastEventId }: SseEvent): MeshEvent | undefined {
  if (!eventNames.some((name) => name === event)) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(data);
  } catch {
    throw incompatible(`a ${event} event is not JSON`);
  }
  const parsed = v.safeParse(MeshEvent, { event, id: lastEventId, data: value });
  if (!parsed.success) throw incompatible(`a ${event} event: ${explainIssues(parsed.issues)}`);
  return parsed.output;
}

function pause(delayMs: number, signal: AbortSignal, clock: Clock): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      timer.cancel();
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = clock.after(delayMs, done);
    signal.addEventListener("abort", done);
  });
}
