/**
 * The link to one broker as a pure state machine: when to connect, greet, wait and give up. The shell (link.ts) owns the
 * socket and the timer and does what the effects say. A daemon that was replaced by another one with the same identity
 * does not fight back.
 */
import { closeCode } from "~/wire/broker";
import { linkSettledMs, occupiedRetryMs, reconnectDelaysMs, replacedRetryMs } from "~/wire/limits";

export type LinkState =
  | { phase: "stopped" }
  /** The socket is being opened, or our hello is not answered yet. */
  | { phase: "connecting"; attempt: number }
  /** `attempt` counts on until the connection has lasted: one that ends at once does not make the next come sooner. */
  | { phase: "open"; attempt: number }
  /** Will try again by itself. */
  | { phase: "waiting"; attempt: number; why: string }
  | { phase: "identity_in_use"; why: string }
  /** The broker answers, and will not have us or is not what we need. */
  | { phase: "refused"; attempt: number; why: string }
  | { phase: "removed"; why: string };

export type LinkEvent =
  | { type: "start" }
  | { type: "socket_opened" }
  | { type: "greeted" }
  | { type: "hello_refused"; code: string; message: string }
  | { type: "feature_refused"; kind: string; feature: string; detail?: string }
  | { type: "closed"; code: number; reason: string }
  | { type: "timer" }
  /** Connect anew at once: the operator asked, or a lane cannot go on otherwise. */
  | { type: "reconnect"; why: string; end?: LinkEnd | undefined }
  /** Give this connection up, and wait as after any other end. */
  | { type: "drop"; why: string; end?: LinkEnd | undefined }
  | { type: "stop" };

export type LinkEffect =
  | { type: "open_socket" }
  | { type: "send_hello" }
  | { type: "close_socket"; code: number; reason: string }
  /** Replaces the timer that may be running. */
  | { type: "set_timer"; delayMs: number }
  | { type: "clear_timer" };

/**
 * Why a connection, or an attempt at one, ended, in words from a fixed set. `asked`: somebody here wanted a new one. `lane`: the broker
 * held a lane for a row that will not come. `unreachable`: there was none yet.
 */
export const linkEnds = [
  "asked",
  "closed",
  "feature",
  "hello_timeout",
  "identity_in_use",
  "lane",
  "no_answer",
  "overrun",
  "refused",
  "removed",
  "replaced",
  "silence",
  "storage",
  "unreachable",
] as const;
export type LinkEnd = (typeof linkEnds)[number];

/** Undefined when nothing ends by this event, and when the daemon itself stops. */
export function linkEndBy(state: LinkState, event: LinkEvent): LinkEnd | undefined {
  if (state.phase !== "connecting" && state.phase !== "open") return undefined;
  switch (event.type) {
    case "reconnect":
    case "drop":
      return event.end ?? "asked";
    case "closed":
      if (event.code === closeCode.replaced) return "replaced";
      if (event.code === closeCode.removed) return "removed";
      return state.phase === "open" ? "closed" : "unreachable";
    case "hello_refused":
      if (state.phase === "open") return undefined;
      return event.code === "identity_in_use" || event.code === "removed" ? event.code : "refused";
    case "feature_refused":
      return state.phase === "open" ? undefined : "feature";
    default:
      return undefined;
  }
}

export interface LinkStep {
  state: LinkState;
  effects: LinkEffect[];
}

/** `chance` is uniform in [0, 1): the jitter of the backoff. */
export function stepLink(state: LinkState, event: LinkEvent, chance: number): LinkStep {
  switch (event.type) {
    case "stop":
      return {
        state: { phase: "stopped" },
        effects: [{ type: "clear_timer" }, close(closeCode.normal, "stopping")],
      };
    case "start":
      return state.phase === "stopped" ? connect(0) : stay(state);
    case "reconnect":
      if (state.phase === "stopped") return stay(state);
      return {
        state: connect(0).state,
        effects: [close(closeCode.normal, event.why), ...connect(0).effects],
      };
    case "timer":
      if (state.phase === "waiting" || state.phase === "refused") return connect(state.attempt + 1);
      if (state.phase === "identity_in_use" || state.phase === "removed") return connect(0);
      if (state.phase === "open") return stay({ phase: "open", attempt: 0 });
      return stay(state);
    case "socket_opened":
      return state.phase === "connecting" ? { state, effects: [{ type: "send_hello" }] } : stay(state);
    case "greeted":
      return state.phase === "connecting"
        ? {
            state: { phase: "open", attempt: state.attempt },
            effects: [{ type: "set_timer", delayMs: linkSettledMs }],
          }
        : stay(state);
    case "hello_refused":
      return state.phase === "connecting"
        ? afterRefusal(state.attempt, event.code, event.message, chance)
        : stay(state);
    case "feature_refused": {
      if (state.phase !== "connecting") return stay(state);
      const reason = JSON.stringify({ kind: event.kind, feature: event.feature });
      return refuse(
        state.attempt,
        `${event.kind}: ${event.feature}${event.detail === undefined ? "" : `; ${event.detail}`}`,
        close(closeCode.featureMissing, reason),
        chance,
      );
    }
    case "drop": {
      if (state.phase !== "connecting" && state.phase !== "open") return stay(state);
      const waiting = wait(state.attempt, event.why, chance);
      return { state: waiting.state, effects: [close(closeCode.goingAway, event.why), ...waiting.effects] };
    }
    case "closed":
      return afterClose(state, event.code, event.reason, chance);
  }
}

function afterClose(state: LinkState, code: number, reason: string, chance: number): LinkStep {
  if (state.phase !== "connecting" && state.phase !== "open") return stay(state);
  if (code === closeCode.replaced) {
    const why = "another host or process connected with this host's identity";
    return {
      state: { phase: "identity_in_use", why },
      effects: [{ type: "set_timer", delayMs: replacedRetryMs }],
    };
  }
  if (code === closeCode.removed) {
    const why = reason === "" ? "this host was removed from the mesh" : reason;
    return { state: { phase: "removed", why }, effects: [{ type: "set_timer", delayMs: replacedRetryMs }] };
  }
  return wait(state.attempt, reason === "" ? `the connection closed (${code})` : reason, chance);
}

const connect = (attempt: number): LinkStep => ({
  state: { phase: "connecting", attempt },
  effects: [{ type: "clear_timer" }, { type: "open_socket" }],
});

const stay = (state: LinkState): LinkStep => ({ state, effects: [] });

const close = (code: number, reason: string): LinkEffect => ({ type: "close_socket", code, reason });

function wait(attempt: number, why: string, chance: number): LinkStep {
  return {
    state: { phase: "waiting", attempt, why },
    effects: [{ type: "set_timer", delayMs: reconnectDelayMs(attempt, chance) }],
  };
}

function refuse(attempt: number, why: string, goodbye: LinkEffect, chance: number): LinkStep {
  return {
    state: { phase: "refused", attempt, why },
    effects: [goodbye, { type: "set_timer", delayMs: reconnectDelayMs(attempt, chance) }],
  };
}

function afterRefusal(attempt: number, code: string, message: string, chance: number): LinkStep {
  const goodbye = close(closeCode.normal, "refused");
  // Nobody is disturbed by asking again: the broker lets us in when the other one has fallen silent.
  if (code === "identity_in_use") {
    return {
      state: { phase: "identity_in_use", why: message },
      effects: [goodbye, { type: "set_timer", delayMs: occupiedRetryMs }],
    };
  }
  if (code !== "removed") return refuse(attempt, `${code}: ${message}`, goodbye, chance);
  return {
    state: { phase: "removed", why: message },
    effects: [goodbye, { type: "set_timer", delayMs: replacedRetryMs }],
  };
}

/** Half of the step is fixed and half is chance, so that many daemons do not come back in one wave. */
export function reconnectDelayMs(attempt: number, chance: number): number {
  const step = reconnectDelaysMs[Math.min(attempt, reconnectDelaysMs.length - 1)] ?? 0;
  return Math.round(step / 2 + (step / 2) * chance);
}
