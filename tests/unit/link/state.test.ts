/** The link's state machine: every phase with every event. What is not in the table does not compile. */
import { describe, expect, test } from "bun:test";
import { type LinkEffect, type LinkEvent, type LinkState, reconnectDelayMs, stepLink } from "~/link/state";

type Phase = LinkState["phase"];
type EventType = LinkEvent["type"];

/** A state of every phase; those that count their attempts are at the third. */
const states: { [P in Phase]: Extract<LinkState, { phase: P }> } = {
  stopped: { phase: "stopped" },
  connecting: { phase: "connecting", attempt: 2 },
  open: { phase: "open", attempt: 2 },
  waiting: { phase: "waiting", attempt: 2, why: "before" },
  identity_in_use: { phase: "identity_in_use", why: "before" },
  refused: { phase: "refused", attempt: 2, why: "before" },
  removed: { phase: "removed", why: "before" },
};

const events: { [T in EventType]: Extract<LinkEvent, { type: T }> } = {
  start: { type: "start" },
  socket_opened: { type: "socket_opened" },
  greeted: { type: "greeted" },
  hello_refused: { type: "hello_refused", code: "clock_skew", message: "your clock is wrong" },
  feature_refused: { type: "feature_refused", kind: "feature_unavailable", feature: "members" },
  closed: { type: "closed", code: 1006, reason: "" },
  timer: { type: "timer" },
  reconnect: { type: "reconnect", why: "asked" },
  drop: { type: "drop", why: "silence" },
  stop: { type: "stop" },
};

/** With half of the chance: three quarters of the step of 4 s. */
const chance = 0.5;
const thirdDelayMs = 3_000;
const settledMs = 30_000;
const replacedMs = 10 * 60_000;

const openSocket: LinkEffect[] = [{ type: "clear_timer" }, { type: "open_socket" }];
const timer = (delayMs: number): LinkEffect => ({ type: "set_timer", delayMs });
const close = (code: number, reason: string): LinkEffect => ({ type: "close_socket", code, reason });

type Expected = "stays" | { state: LinkState; effects: LinkEffect[] };

const stop: Expected = {
  state: { phase: "stopped" },
  effects: [{ type: "clear_timer" }, close(1000, "stopping")],
};
const reconnect: Expected = {
  state: { phase: "connecting", attempt: 0 },
  effects: [close(1000, "asked"), ...openSocket],
};
const connectAt = (attempt: number): Expected => ({
  state: { phase: "connecting", attempt },
  effects: openSocket,
});

const ignoresTheSocket = {
  socket_opened: "stays",
  greeted: "stays",
  hello_refused: "stays",
  feature_refused: "stays",
  closed: "stays",
  drop: "stays",
} as const;

const table: Record<Phase, Record<EventType, Expected>> = {
  stopped: {
    ...ignoresTheSocket,
    start: connectAt(0),
    timer: "stays",
    reconnect: "stays",
    stop,
  },
  connecting: {
    start: "stays",
    socket_opened: { state: states.connecting, effects: [{ type: "send_hello" }] },
    greeted: { state: states.open, effects: [timer(settledMs)] },
    hello_refused: {
      state: { phase: "refused", attempt: 2, why: "clock_skew: your clock is wrong" },
      effects: [close(1000, "refused"), timer(thirdDelayMs)],
    },
    feature_refused: {
      state: { phase: "refused", attempt: 2, why: "feature_unavailable: members" },
      effects: [close(4010, '{"kind":"feature_unavailable","feature":"members"}'), timer(thirdDelayMs)],
    },
    closed: {
      state: { phase: "waiting", attempt: 2, why: "the connection closed (1006)" },
      effects: [timer(thirdDelayMs)],
    },
    timer: "stays",
    reconnect,
    drop: {
      state: { phase: "waiting", attempt: 2, why: "silence" },
      effects: [close(1001, "silence"), timer(thirdDelayMs)],
    },
    stop,
  },
  open: {
    start: "stays",
    socket_opened: "stays",
    greeted: "stays",
    hello_refused: "stays",
    feature_refused: "stays",
    closed: {
      state: { phase: "waiting", attempt: 2, why: "the connection closed (1006)" },
      effects: [timer(thirdDelayMs)],
    },
    timer: { state: { phase: "open", attempt: 0 }, effects: [] },
    reconnect,
    drop: {
      state: { phase: "waiting", attempt: 2, why: "silence" },
      effects: [close(1001, "silence"), timer(thirdDelayMs)],
    },
    stop,
  },
  waiting: { ...ignoresTheSocket, start: "stays", timer: connectAt(3), reconnect, stop },
  identity_in_use: { ...ignoresTheSocket, start: "stays", timer: connectAt(0), reconnect, stop },
  refused: { ...ignoresTheSocket, start: "stays", timer: connectAt(3), reconnect, stop },
  removed: { ...ignoresTheSocket, start: "stays", timer: connectAt(0), reconnect, stop },
};

const phases = Object.keys(states) as Phase[];
const eventTypes = Object.keys(events) as EventType[];

for (const phase of phases) {
  describe(phase, () => {
    for (const type of eventTypes) {
      const expected = table[phase][type];
      test(`${type}${expected === "stays" ? " changes nothing" : ""}`, () => {
        const before = structuredClone(states[phase]);
        const step = stepLink(states[phase], events[type], chance);
        expect(step).toEqual(expected === "stays" ? { state: before, effects: [] } : expected);
        // The state that it was given is left as it is.
        expect(states[phase]).toEqual(before);
      });
    }
  });
}

test("the table holds every pair", () => {
  expect(Object.keys(table).sort()).toEqual([...phases].sort());
  for (const row of Object.values(table)) expect(Object.keys(row).sort()).toEqual([...eventTypes].sort());
});

describe("how a connection ended decides what comes next", () => {
  const inUse = "another host or process connected with this host's identity";
  const closes: [
    code: number,
    reason: string,
    state: (attempt: number) => LinkState,
    delay: "backoff" | "long",
  ][] = [
    [4003, "", () => ({ phase: "identity_in_use", why: inUse }), "long"],
    [4003, "replaced", () => ({ phase: "identity_in_use", why: inUse }), "long"],
    [4002, "", () => ({ phase: "removed", why: "this host was removed from the mesh" }), "long"],
    [4002, "alice removed you", () => ({ phase: "removed", why: "alice removed you" }), "long"],
    ...[1000, 1001, 1006, 1008, 1009, 1011, 1012, 4000, 4001, 4010].map(
      (code): [number, string, (attempt: number) => LinkState, "backoff"] => [
        code,
        "",
        (attempt) => ({ phase: "waiting", attempt, why: `the connection closed (${code})` }),
        "backoff",
      ],
    ),
    [1008, "bye", (attempt) => ({ phase: "waiting", attempt, why: "bye" }), "backoff"],
  ];
  test.each(closes)("%d %j", (code, reason, state, delay) => {
    const event: LinkEvent = { type: "closed", code, reason };
    expect(stepLink(states.connecting, event, chance)).toEqual({
      state: state(2),
      effects: [timer(delay === "long" ? replacedMs : thirdDelayMs)],
    });
    expect(stepLink(states.open, event, chance)).toEqual(stepLink(states.connecting, event, chance));
  });

  test("a hello that is refused because another connection has the identity waits as after a takeover", () => {
    const event: LinkEvent = {
      type: "hello_refused",
      code: "identity_in_use",
      message: "another one is connected",
    };
    const { state, effects } = stepLink({ phase: "connecting", attempt: 2 }, event, 0);
    expect(state).toEqual({ phase: "identity_in_use", why: "another one is connected" });
    expect(effects).toContainEqual({ type: "set_timer", delayMs: 90_000 });
  });

  test("a hello that is refused because the member was removed ends as removed", () => {
    const event: LinkEvent = { type: "hello_refused", code: "removed", message: "alice removed you" };
    expect(stepLink(states.connecting, event, chance)).toEqual({
      state: { phase: "removed", why: "alice removed you" },
      effects: [close(1000, "refused"), timer(replacedMs)],
    });
    expect(stepLink(states.open, event, chance)).toEqual({ state: states.open, effects: [] });
  });
});

describe("the pause before the next attempt", () => {
  const steps = [1_000, 2_000, 4_000, 8_000, 16_000, 30_000];
  const attempts = Array.from({ length: 12 }, (_, attempt) => attempt);

  test.each(attempts)("of attempt %d is between half of its step and the whole of it", (attempt) => {
    const step = steps[Math.min(attempt, 5)] ?? 0;
    expect(reconnectDelayMs(attempt, 0)).toBe(step / 2);
    expect(reconnectDelayMs(attempt, 0.5)).toBe(step * 0.75);
    for (const chanceNow of [0.001, 0.25, 0.9, 1 - Number.EPSILON]) {
      const delayMs = reconnectDelayMs(attempt, chanceNow);
      expect(delayMs).toBeGreaterThanOrEqual(step / 2);
      expect(delayMs).toBeLessThanOrEqual(step);
      expect(Number.isInteger(delayMs)).toBe(true);
    }
  });

  test("grows from one attempt to the next until one gets through and lasts", () => {
    const delays: number[] = [];
    let state: LinkState = { phase: "connecting", attempt: 0 };
    const go = (event: LinkEvent) => {
      const step = stepLink(state, event, 0);
      state = step.state;
      for (const effect of step.effects) if (effect.type === "set_timer") delays.push(effect.delayMs);
    };
    for (let attempt = 0; attempt < 8; attempt++) {
      go({ type: "closed", code: 1006, reason: "" });
      go({ type: "timer" });
    }
    go({ type: "socket_opened" });
    go({ type: "greeted" });
    go({ type: "closed", code: 1006, reason: "" });
    go({ type: "timer" });
    go({ type: "greeted" });
    go({ type: "timer" });
    go({ type: "closed", code: 1006, reason: "" });
    expect(delays).toEqual([
      ...[500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000],
      ...[settledMs, 15_000, settledMs, 500],
    ]);
  });

  test("grows after a refusal too", () => {
    const delays: number[] = [];
    let state: LinkState = { phase: "connecting", attempt: 0 };
    for (let attempt = 0; attempt < 4; attempt++) {
      const refused = stepLink(state, events.hello_refused, 0);
      for (const effect of refused.effects) if (effect.type === "set_timer") delays.push(effect.delayMs);
      state = stepLink(refused.state, events.timer, 0).state;
    }
    expect(delays).toEqual([500, 1_000, 2_000, 4_000]);
  });
});
