/**
 * The lanes of one connection, a lane being what it sends to one target. After a transient refusal of an id, what follows in its
 * lane is held until that id comes again, so that a pipelining sender's messages cannot overtake each other.
 */
export class Lanes {
  /** Target → the refused id that must come first. */
  readonly #held = new Map<string, string>();

  /** The id that holds this lane, if any. */
  heldBy(target: string): string | undefined {
    return this.#held.get(target);
  }

  hold(target: string, id: string): void {
    this.#held.set(target, id);
  }

  /** The id was answered for good: if it held the lane, the lane is free. */
  settle(target: string, id: string): void {
    if (this.#held.get(target) === id) this.#held.delete(target);
  }

  /** Puts a lane back to how `heldBy` found it. */
  restore(target: string, heldBy: string | undefined): void {
    if (heldBy === undefined) this.#held.delete(target);
    else this.#held.set(target, heldBy);
  }

  get heldCount(): number {
    return this.#held.size;
  }
}
