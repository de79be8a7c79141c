/**
 * The world of the simulator: one timeline, one source of chance, and processes that can be killed between any two steps.
 * Everything that happens is a task in one queue, so a seed decides it all, and the same seed does it all again.
 */
import type { Clock, Timer } from "~/clock";

/** A small, fast generator with a 32-bit state (mulberry32, public domain); good enough to choose faults. */
export class Chance {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** Uniform in [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  }

  /** A whole number from 0 to `below` - 1. */
  below(below: number): number {
    return Math.floor(this.next() * below);
  }

  happens(probability: number): boolean {
    return this.next() < probability;
  }

  pick<T>(from: readonly T[]): T {
    const picked = from[this.below(from.length)];
    if (picked === undefined) throw new Error("nothing to pick from");
    return picked;
  }
}

interface Task {
  atMs: number;
  order: number;
  run(): void;
  cancelled: boolean;
}

export class World {
  readonly chance: Chance;
  /** Milliseconds since the beginning of this world. */
  elapsedMs = 0;
  steps = 0;
  #order = 0;
  /** How coarse time is: what falls into the same tick shares a turn of the event loop, and with it a transaction. */
  readonly #tickMs: number;
  /** A binary heap by time, then by the order of scheduling. */
  readonly #heap: Task[] = [];

  constructor(seed: number) {
    this.chance = new Chance(seed);
    this.#tickMs = this.chance.pick([1, 5, 20, 100]);
  }

  schedule(delayMs: number, run: () => void): Timer {
    const atMs = this.elapsedMs + Math.max(0, delayMs);
    const task: Task = {
      atMs: Math.max(this.elapsedMs, Math.ceil(atMs / this.#tickMs) * this.#tickMs),
      order: this.#order++,
      run,
      cancelled: false,
    };
    this.#push(task);
    return {
      cancel: () => {
        task.cancelled = true;
      },
    };
  }

  /** Runs the next task and what it promised; false when the queue holds nothing before `untilMs`. */
  async step(untilMs: number): Promise<boolean> {
    for (;;) {
      const task = this.#heap[0];
      if (task === undefined || task.atMs > untilMs) return false;
      this.#pop();
      if (task.cancelled) continue;
      this.elapsedMs = task.atMs;
      this.steps++;
      task.run();
      await settled();
      return true;
    }
  }

  #push(task: Task): void {
    const heap = this.#heap;
    let at = heap.push(task) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent];
      if (above === undefined || isBefore(above, task)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = task;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      const right = heap[child + 1];
      const left = heap[child];
      if (left === undefined) break;
      let least = left;
      if (right !== undefined && isBefore(right, left)) {
        least = right;
        child++;
      }
      if (isBefore(last, least)) break;
      heap[at] = least;
      at = child;
    }
    heap[at] = last;
  }
}

const isBefore = (a: Task, b: Task): boolean => a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);

/** Lets every promise that can go on go on, before the next task. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Between a commit and what follows it, or just before it: where a process may die. */
export class Crash extends Error {}

/**
 * One run of one process. Once dead, its timers never fire and nothing it does reaches anybody: a crash needs no hooks in
 * the code that crashes.
 */
export class Process {
  readonly world: World;
  readonly clock: Clock;
  alive = true;
  readonly #onDeath: (() => void)[] = [];

  constructor(world: World, skewMs: () => number) {
    this.world = world;
    const startOfTime = 1_750_000_000_000;
    this.clock = {
      now: () => startOfTime + Math.floor(world.elapsedMs) + skewMs(),
      // A steady clock starts anew with its process.
      monotonicMs: () => world.elapsedMs,
      after: (delayMs, action) => world.schedule(delayMs, () => this.#ifAlive(action)),
      soon: (action) => void world.schedule(0, () => this.#ifAlive(action)),
    };
  }

  onDeath(action: () => void): void {
    this.#onDeath.push(action);
  }

  die(): void {
    if (!this.alive) return;
    this.alive = false;
    for (const action of this.#onDeath) action();
  }

  #ifAlive(action: () => void): void {
    if (this.alive) action();
  }
}
