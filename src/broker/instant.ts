/** A moment on both clocks: the wall for what people and other hosts see, the steady one for how long something took. */
import type { Clock } from "~/clock";

export interface Instant {
  /** Milliseconds since 1970; may step back. */
  readonly wallMs: number;
  /** Milliseconds that never step back. */
  readonly steadyMs: number;
}

export const instantOf = (clock: Clock): Instant => ({
  wallMs: clock.now(),
  steadyMs: clock.monotonicMs(),
});
