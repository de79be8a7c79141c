/**
 * Time and timers as a value, so that a test or a simulator can put its own in their place.
 * Nothing else in the project asks the system what time it is.
 */

export interface Timer {
  cancel(): void;
}

export interface Clock {
  /** Milliseconds since 1970; may step back when the system clock is set. */
  now(): number;
  /** Milliseconds that never step back; for durations only. */
  monotonicMs(): number;
  /** Calls `action` once after `delayMs`; a delay beyond what the platform's timers hold is cut to that. */
  after(delayMs: number, action: () => void): Timer;
  /** Calls `action` when the events that are already waiting have been handled. */
  soon(action: () => void): void;
}

/** Longer delays overflow a 32-bit timer and would fire at once. */
export const timerDelayMsMax = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: Date.now,
  monotonicMs: () => performance.now(),
  after(delayMs, action) {
    const handle = setTimeout(action, Math.min(Math.max(0, delayMs), timerDelayMsMax));
    return { cancel: () => clearTimeout(handle) };
  },
  soon: (action) => void setImmediate(action),
};

/** The two clocks at one moment: the wall clock, which may be set, and the steady one, which only goes on. */
export interface Clocks {
  wallMs: number;
  steadyMs: number;
}

export const readClocks = (clock: Clock): Clocks => ({ wallMs: clock.now(), steadyMs: clock.monotonicMs() });

/** How far the wall clock was moved between two moments: below zero when it was set back. */
export const jumpMs = (before: Clocks, after: Clocks): number =>
  after.wallMs - before.wallMs - (after.steadyMs - before.steadyMs);

/** What may come of reading one clock after the other, and of their drifting apart; beyond it one of them was set. */
const driftMsMax = 60_000;

/** When something began, which is now: how long ago that is by the steady clock, and what time it was by the wall clock as it is set. */
export class Beginning {
  readonly #clock: Clock;
  readonly #clocks: Clocks;
  #movedMs = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#clocks = readClocks(clock);
  }

  get agoMs(): number {
    return this.#clock.monotonicMs() - this.#clocks.steadyMs;
  }

  /** The same every time, until the wall clock is set: whoever watches it takes a change for another beginning. */
  get atMs(): number {
    const movedMs = jumpMs(this.#clocks, readClocks(this.#clock));
    if (Math.abs(movedMs - this.#movedMs) > driftMsMax) this.#movedMs = movedMs;
    return this.#clocks.wallMs + this.#movedMs;
  }
}

/** ISO 8601 in UTC with milliseconds, the form of every time in the API. */
export const isoTime = (ms: number): string => new Date(ms).toISOString();

/** Resolves after `ms`, or as soon as it is aborted. */
export function pause(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const end = () => {
      timer.cancel();
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = clock.after(ms, end);
    signal.addEventListener("abort", end);
  });
}

/** Work in the background has this share of the time at most, however slow the disk is: one part work, the rest pause. */
const workShare = 1 / 5;

/**
 * Takes one step after the other until one was the last (true), or until it is aborted (false). A step says whether there are
 * more. After each comes a pause, of `pauseMsMin` or longer.
 */
export async function takeSteps(
  clock: Clock,
  pauseMsMin: number,
  signal: AbortSignal,
  step: () => boolean | Promise<boolean>,
): Promise<boolean> {
  while (!signal.aborted) {
    const beganMs = clock.monotonicMs();
    if (!(await step())) return true;
    const tookMs = clock.monotonicMs() - beganMs;
    await pause(clock, Math.max(pauseMsMin, tookMs / workShare - tookMs), signal);
  }
  return false;
}
