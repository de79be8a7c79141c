/**
 * Whether a shim is still there, judged by its answers to pings: which ping is due, when silence has lasted too long, when it is over.
 * Silence is told and nothing else: the connection is kept and pinged, since a shim that is stopped or swapped out comes back.
 */
import { shimPingEveryMs, shimStaleMs } from "~/wire/limits";

export interface Liveness {
  /** When the last Pong came; at first, when the connection began. */
  readonly pongAtMs: number;
  readonly pingedAtMs: number;
  readonly isStale: boolean;
}

export type LivenessEvent = "tick" | "pong";

export type LivenessEffect =
  | { kind: "ping" }
  /** Told once for each silence. */
  | { kind: "became_stale"; silentMs: number }
  | { kind: "came_back"; silentMs: number };

export interface LivenessStep {
  next: Liveness;
  effects: readonly LivenessEffect[];
  /** When to tick again. */
  tickAtMs: number;
}

/** A connection that has just begun. All times are those of a clock that never steps back. */
export const freshLiveness = (nowMs: number): Liveness => ({
  pongAtMs: nowMs,
  pingedAtMs: nowMs,
  isStale: false,
});

export function stepLiveness(state: Liveness, event: LivenessEvent, nowMs: number): LivenessStep {
  const silentMs = nowMs - state.pongAtMs;
  const effects: LivenessEffect[] = [];
  let next = state;
  if (event === "pong") {
    if (state.isStale) effects.push({ kind: "came_back", silentMs });
    next = { ...next, pongAtMs: nowMs, isStale: false };
  } else {
    if (!state.isStale && silentMs >= shimStaleMs) {
      effects.push({ kind: "became_stale", silentMs });
      next = { ...next, isStale: true };
    }
    if (nowMs - state.pingedAtMs >= shimPingEveryMs) {
      effects.push({ kind: "ping" });
      next = { ...next, pingedAtMs: nowMs };
    }
  }
  const pingAtMs = next.pingedAtMs + shimPingEveryMs;
  return {
    next,
    effects,
    tickAtMs: next.isStale ? pingAtMs : Math.min(pingAtMs, next.pongAtMs + shimStaleMs),
  };
}
