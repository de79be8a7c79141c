/**
 * What is in flight to one connection: every message pushed on it and not yet acknowledged is leased to it. Pushes go out in
 * the order of acceptance. When the oldest lease lapses, all of them do, and pushing goes back to the oldest: so nothing of
 * one sender overtakes another message of the same sender. Leases live in memory only: they end with the connection.
 */
import type { Bounds } from "~/broker/bounds";
import type { Instant } from "~/broker/instant";

interface Lease {
  seq: number;
  bytes: number;
  dueMs: number;
}

export class LeaseWindow {
  readonly #bounds: Bounds;
  /** By message id, oldest first: the order of pushing is that of `seq`. */
  readonly #inFlight = new Map<string, Lease>();
  #bytes = 0;
  #pushedUpTo = 0;

  constructor(bounds: Bounds) {
    this.#bounds = bounds;
  }

  /** Every undelivered message with a greater `seq` is still to be pushed; none with a smaller or equal one is. */
  get pushedUpTo(): number {
    return this.#pushedUpTo;
  }

  get count(): number {
    return this.#inFlight.size;
  }

  /** Whether a push of this size fits. One always does when nothing is in flight. */
  hasRoomFor(bytes: number): boolean {
    if (this.#inFlight.size === 0) return true;
    const { leasesPerConnectionMax, leaseBytesPerConnectionMax } = this.#bounds;
    return this.#inFlight.size < leasesPerConnectionMax && this.#bytes + bytes <= leaseBytesPerConnectionMax;
  }

  lease(messageId: string, seq: number, bytes: number, at: Instant): void {
    if (seq <= this.#pushedUpTo)
      throw new Error(`message ${seq} is pushed out of order, after ${this.#pushedUpTo}`);
    this.#inFlight.set(messageId, { seq, bytes, dueMs: at.steadyMs + this.#bounds.leaseMs });
    this.#bytes += bytes;
    this.#pushedUpTo = seq;
  }

  /** The message was acknowledged, or is none of this member's any more. */
  settle(messageId: string): void {
    const lease = this.#inFlight.get(messageId);
    if (lease === undefined) return;
    this.#inFlight.delete(messageId);
    this.#bytes -= lease.bytes;
  }

  /** When the oldest lease lapses (steady milliseconds). */
  get dueMs(): number | undefined {
    return this.#oldest?.dueMs;
  }

  /** When the oldest lease has run out, all do, and pushing goes back to it. True when that happened. */
  lapse(at: Instant): boolean {
    const oldest = this.#oldest;
    if (oldest === undefined || at.steadyMs < oldest.dueMs) return false;
    this.#inFlight.clear();
    this.#bytes = 0;
    this.#pushedUpTo = oldest.seq - 1;
    return true;
  }

  get #oldest(): Lease | undefined {
    for (const lease of this.#inFlight.values()) return lease;
    return undefined;
  }
}
