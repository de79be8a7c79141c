/**
 * What a server counts from its start on: a number for each thing, kept by whoever sees it happen. It costs a few nanoseconds, and
 * nothing is made of it until somebody asks for the metrics (exposition.ts).
 */

/** How often each of several things has happened. Those that are named beforehand are shown with 0 until then. */
export class Tally<Key extends string> {
  readonly #counts = new Map<Key, number>();

  constructor(keys: readonly Key[] = []) {
    for (const key of keys) this.#counts.set(key, 0);
  }

  add(key: Key, by = 1): void {
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + by);
  }

  get(key: Key): number {
    return this.#counts.get(key) ?? 0;
  }

  entries(): [Key, number][] {
    return [...this.#counts];
  }
}

/** How long something took, as the buckets of a histogram. */
export class Durations {
  /** The upper bounds of the buckets, growing; what took longer than all of them is counted too. */
  readonly boundsSeconds: readonly number[];
  /** For each bucket what fell into it and into none before it; the last is for what fell into none. */
  readonly counts: number[];
  sumSeconds = 0;

  constructor(boundsSeconds: readonly number[]) {
    this.boundsSeconds = boundsSeconds;
    this.counts = Array<number>(boundsSeconds.length + 1).fill(0);
  }

  observe(seconds: number): void {
    const { boundsSeconds, counts } = this;
    let bucket = 0;
    while (bucket < boundsSeconds.length && seconds > (boundsSeconds[bucket] ?? 0)) bucket++;
    counts[bucket] = (counts[bucket] ?? 0) + 1;
    this.sumSeconds += seconds;
  }
}
