/** The last moments of a daemon: what it waits for, and for how long. */
import { describe, expect, test } from "bun:test";
import { leaveMeshes, settle, Term } from "~/daemon/ending";
import { openTestDaemon, type TestDaemon } from "../../support/daemon-parts";
import { FakeClock } from "../../support/fake-clock";

const flush = () => new Promise((resolve) => setImmediate(resolve));

async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  void promise.then(() => {
    settled = true;
  });
  await flush();
  return settled;
}

describe("the time of an ephemeral daemon", () => {
  test("is over when its timer says so", async () => {
    const clock = new FakeClock();
    const term = new Term(clock, { until: new Date(clock.now() + 5_000).toISOString() });
    clock.advance(4_999);
    expect(await isSettled(term.isOver)).toBe(false);
    clock.advance(1);
    expect(await isSettled(term.isOver)).toBe(true);
  });

  test("is over when the wall clock says so, after a sleep in which no timer ran", async () => {
    const clock = new FakeClock();
    const until = clock.now() + 3_600_000;
    const awake = { ...clockOf(clock), now: () => until };
    const term = new Term(awake, { until: new Date(until).toISOString() });
    term.stop();
    expect(await isSettled(term.isOver)).toBe(false);
    term.look();
    expect(await isSettled(term.isOver)).toBe(true);
  });

  test("is never over without one", async () => {
    const clock = new FakeClock();
    for (const ephemeral of [undefined, {}]) {
      const term = new Term(clock, ephemeral);
      clock.advance(10 * 24 * 3_600_000);
      term.look();
      expect(await isSettled(term.isOver)).toBe(false);
    }
  });
});

const clockOf = (clock: FakeClock) => ({
  now: () => clock.now(),
  monotonicMs: () => clock.monotonicMs(),
  after: (delayMs: number, action: () => void) => clock.after(delayMs, action),
  soon: (action: () => void) => clock.soon(action),
});

/** A daemon that seems to have so many messages on the wire, with a link that is open or not. */
function seeming(daemon: TestDaemon, state: { onTheWire: number; pending: number; isOpen: boolean }) {
  let held = false;
  const parts = {
    ...daemon.parts,
    drain: {
      hold: () => {
        held = true;
      },
      get onTheWire() {
        return state.onTheWire;
      },
    },
    outbox: {
      counts: () => ({ pending: state.pending, inflight: state.onTheWire, done: 0, dead: 0, aborted: 0 }),
    },
    meshes: { sessions: [{ isOpen: state.isOpen }] },
  } as unknown as TestDaemon["parts"];
  const changed = () => daemon.parts.hub.announce({ kind: "outbox", clientMessageId: "x" });
  return { parts, state, changed, wasHeld: () => held };
}

describe("before the end", () => {
  test("a daemon waits for the answers to what is on the wire, and lets nothing else leave", async () => {
    const world = seeming(await openTestDaemon(), { onTheWire: 2, pending: 5, isOpen: true });
    const settled = settle(world.parts, false, 5_000);
    expect([world.wasHeld(), await isSettled(settled)]).toEqual([true, false]);
    world.state.onTheWire = 0;
    world.changed();
    expect(await isSettled(settled)).toBe(true);
  });

  test("but not for ever", async () => {
    const daemon = await openTestDaemon();
    const settled = settle(seeming(daemon, { onTheWire: 2, pending: 0, isOpen: true }).parts, false, 5_000);
    daemon.clock.advance(4_999);
    expect(await isSettled(settled)).toBe(false);
    daemon.clock.advance(1);
    expect(await isSettled(settled)).toBe(true);
  });

  test("and not at all when nothing is on the wire", async () => {
    const world = seeming(await openTestDaemon(), { onTheWire: 0, pending: 5, isOpen: true });
    expect(await isSettled(settle(world.parts, false, 5_000))).toBe(true);
  });

  test("an ephemeral one lets go on leaving what still can", async () => {
    const world = seeming(await openTestDaemon(), { onTheWire: 0, pending: 5, isOpen: true });
    const settled = settle(world.parts, true, 5_000);
    expect([world.wasHeld(), await isSettled(settled)]).toEqual([false, false]);
    world.state.pending = 0;
    world.changed();
    expect(await isSettled(settled)).toBe(true);
  });

  test("which nothing can without a broker", async () => {
    const world = seeming(await openTestDaemon(), { onTheWire: 0, pending: 5, isOpen: false });
    expect(await isSettled(settle(world.parts, true, 5_000))).toBe(true);
  });
});

test("a mesh whose broker is away is not left, and that is said", async () => {
  const { mesh } = await openTestDaemon();
  const logged: unknown[] = [];
  const notLeft = await leaveMeshes(
    [mesh],
    (level, message, fields) => void logged.push([level, message, fields]),
  );
  expect(notLeft).toEqual(["team"]);
  expect(logged).toEqual([["warn", "mesh_not_left", { mesh: "team", error: expect.any(String) }]]);
});
