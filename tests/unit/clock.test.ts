/** The system's clock keeps what its interface promises, and the one that tests put in its place keeps the same. */
import { describe, expect, test } from "bun:test";
import { Beginning, isoTime, systemClock, timerDelayMsMax } from "~/clock";
import { FakeClock } from "../support/fake-clock";

describe("the system's clock", () => {
  const later = (delayMs: number) =>
    new Promise<void>((resolve) => {
      systemClock.after(delayMs, resolve);
    });

  test("does not fire a timer at once because its delay is beyond what a timer holds", async () => {
    const fired: number[] = [];
    const timers = [timerDelayMsMax, timerDelayMsMax + 1, 2 ** 40, Number.POSITIVE_INFINITY].map((delayMs) =>
      systemClock.after(delayMs, () => fired.push(delayMs)),
    );
    await later(20);
    for (const timer of timers) timer.cancel();
    expect(fired).toEqual([]);
  });
  test("fires one whose time is past, and none that was cancelled", async () => {
    const fired: string[] = [];
    systemClock.after(-1, () => fired.push("past"));
    systemClock.after(0, () => fired.push("cancelled")).cancel();
    await later(5);
    expect(fired).toEqual(["past"]);
  });
  test("runs what is soon after what is at hand", async () => {
    const order: string[] = [];
    await new Promise<void>((resolve) => {
      systemClock.soon(() => {
        order.push("soon");
        resolve();
      });
      queueMicrotask(() => order.push("at hand"));
    });
    expect(order).toEqual(["at hand", "soon"]);
  });
  test("never steps back when it measures", () => {
    const first = systemClock.monotonicMs();
    expect(systemClock.monotonicMs()).toBeGreaterThanOrEqual(first);
    expect(Math.abs(systemClock.now() - Date.now())).toBeLessThan(60_000);
  });
});

test("a time is written in UTC, with milliseconds", () => {
  expect(isoTime(1_750_000_000_000)).toBe("2025-06-15T15:06:40.000Z");
});

describe("a beginning", () => {
  test("is as long ago as time has passed, whatever becomes of the wall clock", () => {
    const clock = new FakeClock(1_000);
    const beginning = new Beginning(clock);
    clock.advance(5_000);
    clock.setWall(0);
    clock.advance(2_000);
    clock.setWall(1_750_000_000_000);
    expect(beginning.agoMs).toBe(7_000);
  });

  test("was at the same time whenever one asks, until the clock is set; then by that", () => {
    const clock = new FakeClock(1_000_000);
    const beginning = new Beginning(clock);
    clock.advance(5_000);
    // What drifting apart for weeks comes to.
    clock.setWall(clock.now() + 900);
    expect(beginning.atMs).toBe(1_000_000);
    clock.setWall(1_750_000_000_000);
    expect(beginning.atMs).toBe(1_749_999_995_000);
    clock.advance(10_000);
    expect(beginning.atMs).toBe(1_749_999_995_000);
    clock.setWall(1_015_000);
    expect(beginning.atMs).toBe(1_000_000);
  });
});

describe("the clock of the tests", () => {
  test("stands still until it is moved, and then moves both ways of telling the time", () => {
    const clock = new FakeClock(1_000);
    expect([clock.now(), clock.monotonicMs()]).toEqual([1_000, 0]);
    clock.advance(250);
    expect([clock.now(), clock.monotonicMs()]).toEqual([1_250, 250]);
    clock.setWall(5);
    clock.advance(1);
    expect([clock.now(), clock.monotonicMs()]).toEqual([6, 251]);
  });

  test("fires timers in the order in which they are due, each at its time", () => {
    const clock = new FakeClock(0);
    const fired: string[] = [];
    const note = (name: string) => () => fired.push(`${name} at ${clock.now()}`);
    clock.after(30, note("third"));
    clock.after(10, note("first"));
    clock.after(10, note("second"));
    clock.after(31, note("not yet"));
    clock.after(20, note("cancelled")).cancel();
    clock.advance(30);
    expect(fired).toEqual(["first at 10", "second at 10", "third at 30"]);
    expect(clock.delaysMs).toEqual([1]);
  });

  test("fires what a timer sets within the same time, and cancels what one cancels", () => {
    const clock = new FakeClock(0);
    const fired: string[] = [];
    const doomed = clock.after(20, () => fired.push("doomed"));
    clock.after(10, () => {
      doomed.cancel();
      clock.after(5, () => fired.push(`inner at ${clock.now()}`));
    });
    clock.advance(100);
    expect(fired).toEqual(["inner at 15"]);
  });

  test("runs what is soon before the next timer, and what that asks for too", () => {
    const clock = new FakeClock();
    const order: string[] = [];
    clock.after(0, () => order.push("timer"));
    clock.soon(() => {
      order.push("soon");
      clock.soon(() => order.push("sooner than the timer"));
    });
    clock.advance();
    expect(order).toEqual(["soon", "sooner than the timer", "timer"]);
  });

  test("keeps delays to what a timer holds, as the system's does", () => {
    const clock = new FakeClock();
    clock.after(Number.POSITIVE_INFINITY, () => undefined);
    clock.after(-5, () => undefined);
    expect(clock.delaysMs).toEqual([0, timerDelayMsMax]);
  });

  test("does not hang on what never ends", () => {
    const clock = new FakeClock();
    const again = () => clock.soon(again);
    clock.soon(again);
    expect(() => clock.advance()).toThrow("actions in one advance");
  });
});
