/**
 * How much a member may send: so many ids in each fixed window of time. An id is charged once per window, however often it
 * is retried. What was charged is forgotten when its window ends.
 */
import type { Bounds } from "~/broker/bounds";
import type { Instant } from "~/broker/instant";
import type { MemberRow } from "~/broker/rows";

export class Rate {
  readonly #bounds: Bounds;
  #window = -1;
  readonly #charged = new Map<MemberRow, Set<string>>();

  constructor(bounds: Bounds) {
    this.#bounds = bounds;
  }

  /** Undefined when the id may pass, else the milliseconds until the next window. */
  charge(member: MemberRow, id: string, at: Instant): number | undefined {
    const { rateWindowMs, sendsPerRateWindowMax } = this.#bounds;
    const window = Math.floor(at.steadyMs / rateWindowMs);
    if (window !== this.#window) {
      this.#window = window;
      this.#charged.clear();
    }
    let ids = this.#charged.get(member);
    if (ids === undefined) {
      ids = new Set();
      this.#charged.set(member, ids);
    }
    if (ids.has(id)) return undefined;
    if (ids.size >= sendsPerRateWindowMax) return Math.ceil((window + 1) * rateWindowMs - at.steadyMs);
    ids.add(id);
    return undefined;
  }
}
