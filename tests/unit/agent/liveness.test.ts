/** Pings on time, silence told once, and no silence that ends anything. */
import { describe, expect, test } from "bun:test";
import { freshLiveness, type Liveness, type LivenessEffect, stepLiveness } from "~/agent/liveness";

/** Lets the judge tick when it wants to, with pongs at certain times, until `untilMs`; returns what it did and when. */
function live(untilMs: number, pongsAtMs: readonly number[] = []): [atMs: number, effect: LivenessEffect][] {
  const done: [number, LivenessEffect][] = [];
  let state: Liveness = freshLiveness(0);
  let tickAtMs = 0;
  const pongs = [...pongsAtMs];
  for (;;) {
    const pongAtMs = pongs[0] ?? Number.POSITIVE_INFINITY;
    const nowMs = Math.min(tickAtMs, pongAtMs);
    if (nowMs > untilMs) return done;
    if (nowMs === pongAtMs) pongs.shift();
    const step = stepLiveness(state, nowMs === pongAtMs ? "pong" : "tick", nowMs);
    expect(step.tickAtMs).toBeGreaterThan(nowMs);
    state = step.next;
    tickAtMs = step.tickAtMs;
    done.push(...step.effects.map((effect): [number, LivenessEffect] => [nowMs, effect]));
  }
}

const ping: LivenessEffect = { kind: "ping" };

describe("a shim that answers", () => {
  test("is pinged every 60 s and is never stale", () => {
    const done = live(300_000, [60_010, 120_010, 180_010, 240_010]);
    expect(done).toEqual([60_000, 120_000, 180_000, 240_000, 300_000].map((atMs) => [atMs, ping]));
  });

  test("late, but within two minutes, is not stale either", () => {
    expect(live(239_000, [119_999])).toEqual([
      [60_000, ping],
      [120_000, ping],
      [180_000, ping],
    ]);
  });
});

describe("a shim that is silent", () => {
  test("for two minutes is told once, and goes on being pinged for ever", () => {
    const done = live(600_000);
    expect(done.filter(([, effect]) => effect.kind === "became_stale")).toEqual([
      [120_000, { kind: "became_stale", silentMs: 120_000 }],
    ]);
    expect(done.filter(([, effect]) => effect.kind === "ping").map(([atMs]) => atMs)).toEqual(
      Array.from({ length: 10 }, (_, n) => (n + 1) * 60_000),
    );
  });

  test("and comes back is told, and can be silent again", () => {
    const done = live(500_000, [250_000]).filter(([, effect]) => effect.kind !== "ping");
    expect(done).toEqual([
      [120_000, { kind: "became_stale", silentMs: 120_000 }],
      [250_000, { kind: "came_back", silentMs: 250_000 }],
      [370_000, { kind: "became_stale", silentMs: 120_000 }],
    ]);
  });

  test("while we ourselves stood still (a laptop asleep) is one ping and one warning, not many", () => {
    const { effects } = stepLiveness(freshLiveness(0), "tick", 3_600_000);
    expect(effects).toEqual([{ kind: "became_stale", silentMs: 3_600_000 }, ping]);
  });
});
