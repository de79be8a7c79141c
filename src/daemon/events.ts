/**
 * What happens in the daemon, for whoever waits for it: event streams and callers that wait for an outcome. Stored things
 * are announced only by name; a listener reads them from the store, so that none is missed and none comes twice.
 */
import type { MeshEvent } from "~/wire/ipc";

/** Events that are not stored anywhere: a listener that was away never learns of them. */
export type PassingEvent = Extract<MeshEvent, { event: "peer_join" | "peer_leave" | "broker_status" }>;

export type Signal =
  /** New rows in the inbox. */
  | { kind: "inbox" }
  /** An outbox row is new or changed. */
  | { kind: "outbox"; clientMessageId: string }
  | { kind: "passing"; event: PassingEvent }
  /** The daemon stops: listeners end. */
  | { kind: "stopping" };

export type Listener = (signal: Signal) => void;

export class EventHub {
  readonly #listeners = new Set<Listener>();

  /** Returns the way out. Listeners must not throw and must not block. */
  listen(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  announce(signal: Signal): void {
    for (const listener of [...this.#listeners]) listener(signal);
  }
}
