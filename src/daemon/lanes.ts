/**
 * Which lane's turn it is. A lane is (mesh, destination): its rows leave in order, and no lane waits for another. This
 * holds only what the choice needs, for lanes that have something to send; the rows themselves stay in the database, so
 * that ten thousand waiting rows cost no more than ten. Pure but for its own state; time comes in.
 */
import type { Priority } from "~/wire/text";

export interface Lane {
  readonly target: string;
  /** Rows of this lane that are on the wire. */
  inflight: number;
  /** Nothing of this lane is sent before then; by the clock that never steps back, as all times here. */
  retryAtMs: number;
  /** The broker refused this id and holds what follows until it comes again. */
  awaitedId: string | undefined;
  /** A refusal came: nothing new leaves until everything on the wire is answered, or order could be lost. */
  settling: boolean;
  readonly place: { list: "ready"; rank: Rank } | { list: "sleeping" } | { list: "none" };
}

type Rank = 0 | 1 | 2;
const rankOf: Record<Priority, Rank> = { now: 0, next: 1, low: 2 };

/** The lanes of one mesh. */
export class Lanes {
  readonly #all = new Map<string, Lane & { place: Lane["place"] }>();
  /** By priority of the lane's first row; within one, turns are taken in the order of this map. */
  readonly #ready: readonly [Set<string>, Set<string>, Set<string>] = [new Set(), new Set(), new Set()];
  readonly #sleeping = new Set<string>();

  get(target: string): Lane | undefined {
    return this.#all.get(target);
  }

  /** The lane, made when it is not known yet. */
  enter(target: string): Lane {
    const known = this.#all.get(target);
    if (known !== undefined) return known;
    const lane = {
      target,
      inflight: 0,
      retryAtMs: 0,
      awaitedId: undefined,
      settling: false,
      place: { list: "none" } as Lane["place"],
    };
    this.#all.set(target, lane);
    return lane;
  }

  /** Something of this lane waits to be sent, the first of it with this priority. */
  offer(target: string, priority: Priority, nowMs: number): void {
    const lane = this.#take(target);
    if (lane.retryAtMs > nowMs) {
      this.#sleeping.add(target);
      lane.place = { list: "sleeping" };
      return;
    }
    const rank = rankOf[priority];
    this.#ready[rank].add(target);
    lane.place = { list: "ready", rank };
  }

  /** A row was added at the lane's end: a lane that had nothing to send now has. */
  offerIfIdle(target: string, priority: Priority, nowMs: number): void {
    if (this.enter(target).place.list === "none") this.offer(target, priority, nowMs);
  }

  /** The next lane in turn, removed from the turn; the caller offers it again when more of it waits. */
  next(): Lane | undefined {
    for (const targets of this.#ready) {
      for (const target of targets) return this.#take(target);
    }
    return undefined;
  }

  /** Lanes whose time has come; the caller looks up their first rows and offers them. */
  wake(nowMs: number): Lane[] {
    const due: Lane[] = [];
    for (const target of this.#sleeping) {
      const lane = this.#all.get(target);
      if (lane !== undefined && lane.retryAtMs <= nowMs) due.push(lane);
    }
    for (const lane of due) this.#take(lane.target);
    return due;
  }

  /** When the next sleeping lane is due; undefined when none sleeps. */
  nextWakeMs(): number | undefined {
    let earliest: number | undefined;
    for (const target of this.#sleeping) {
      const at = this.#all.get(target)?.retryAtMs;
      if (at !== undefined && (earliest === undefined || at < earliest)) earliest = at;
    }
    return earliest;
  }

  /** Forgets a lane that has nothing to send, nothing on the wire and nothing to remember. */
  release(target: string): void {
    const lane = this.#all.get(target);
    if (lane === undefined || lane.place.list !== "none" || lane.inflight > 0 || lane.awaitedId !== undefined)
      return;
    this.#all.delete(target);
  }

  get size(): number {
    return this.#all.size;
  }

  #take(target: string): Lane & { place: Lane["place"] } {
    this.enter(target);
    const lane = this.#all.get(target);
    if (lane === undefined) throw new Error("a lane that was just entered is gone");
    if (lane.place.list === "ready") this.#ready[lane.place.rank].delete(target);
    if (lane.place.list === "sleeping") this.#sleeping.delete(target);
    lane.place = { list: "none" };
    return lane;
  }
}
