/**
 * A clock that stands still until a test moves it. Timers fire in the order in which they are due (those due at the same time in
 * the order in which they were set), each at its own time, and everything given to `soon` runs before the next timer does.
 * Nothing happens outside of `advance`, so a test also decides what does not happen.
 */
import { type Clock, type Timer, timerDelayMsMax } from "~/clock";

interface Pending {
  dueMs: number;
  action: () => void;
}

/** Something that sets itself up anew without end is a bug in what is tested, and must not hang the test. */
const actionsPerAdvanceMax = 100_000;

export class FakeClock implements Clock {
  #elapsedMs = 0;
  #wallMs: number;
  #timers: Pending[] = [];
  #soon: (() => void)[] = [];

  constructor(startMs = 1_750_000_000_000) {
    this.#wallMs = startMs;
  }

  now(): number {
    return this.#wallMs;
  }

  monotonicMs(): number {
    return this.#elapsedMs;
  }

  after(delayMs: number, action: () => void): Timer {
    const pending = {
      dueMs: this.#elapsedMs + Math.min(Math.max(0, delayMs), timerDelayMsMax),
      action,
    };
    this.#timers.push(pending);
    return {
      cancel: () => {
        this.#timers = this.#timers.filter((other) => other !== pending);
      },
    };
  }

  soon(action: () => void): void {
    this.#soon.push(action);
  }

  /** How long until each timer that is set would fire, soonest first. */
  get delaysMs(): number[] {
    return this.#timers.map(({ dueMs }) => dueMs - this.#elapsedMs).sort((a, b) => a - b);
  }

  /** Runs what was given to `soon`, then lets `ms` pass with all the timers in it. `advance(0)` is for `soon` alone. */
  advance(ms = 0): void {
    const untilMs = this.#elapsedMs + ms;
    let actions = 0;
    const run = (action: () => void) => {
      if (++actions > actionsPerAdvanceMax)
        throw new Error(`more than ${actionsPerAdvanceMax} actions in one advance`);
      action();
    };
    for (;;) {
      for (let task = this.#soon.shift(); task !== undefined; task = this.#soon.shift()) run(task);
      const next = this.#nextTimer(untilMs);
      if (next === undefined) break;
      this.#moveTo(Math.max(next.dueMs, this.#elapsedMs));
      this.#timers = this.#timers.filter((other) => other !== next);
      run(next.action);
    }
    this.#moveTo(untilMs);
  }

  /** Stops the process for `ms`, as SIGSTOP does: what comes due meanwhile fires when it goes on, all at that time. */
  suspend(ms: number): void {
    this.#moveTo(this.#elapsedMs + ms);
    this.advance();
  }

  /** Sets the system clock forward or back, as an operator or NTP does; timers do not notice. */
  setWall(ms: number): void {
    this.#wallMs = ms;
  }

  #nextTimer(untilMs: number): Pending | undefined {
    let next: Pending | undefined;
    for (const timer of this.#timers) {
      if (timer.dueMs <= untilMs && (next === undefined || timer.dueMs < next.dueMs)) next = timer;
    }
    return next;
  }

  #moveTo(elapsedMs: number): void {
    this.#wallMs += elapsedMs - this.#elapsedMs;
    this.#elapsedMs = elapsedMs;
  }
}
