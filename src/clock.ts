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

/** ISO 8601 in UTC with milliseconds, the form of every time in the API. */
export const isoTime = (ms: number): string => new Date(ms).toISOString();
