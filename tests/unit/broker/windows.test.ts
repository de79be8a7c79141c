/** The small states that one connection or member has: lanes, rate window, lease window. */
import { describe, expect, test } from "bun:test";
import { defaultBounds } from "~/broker/bounds";
import { Lanes } from "~/broker/lanes";
import { LeaseWindow } from "~/broker/leases";
import { Rate } from "~/broker/rate";

const moment = (steadyMs: number) => ({ wallMs: 0, steadyMs });

describe("lanes", () => {
  test("a lane is held until the id that holds it is settled, and other lanes are not", () => {
    const lanes = new Lanes();
    lanes.hold("bob", "x");
    expect([lanes.heldBy("bob"), lanes.heldBy("carol")]).toEqual(["x", undefined]);
    lanes.settle("bob", "y");
    lanes.settle("carol", "x");
    expect(lanes.heldBy("bob")).toBe("x");
    lanes.settle("bob", "x");
    expect([lanes.heldBy("bob"), lanes.heldCount]).toEqual([undefined, 0]);
  });

  test("restore puts back what was there", () => {
    const lanes = new Lanes();
    lanes.restore("bob", "x");
    expect(lanes.heldBy("bob")).toBe("x");
    lanes.restore("bob", undefined);
    expect(lanes.heldCount).toBe(0);
  });
});

describe("rate", () => {
  const bounds = { ...defaultBounds, rateWindowMs: 10_000, sendsPerRateWindowMax: 2 };

  test("so many ids a window, per member; a retry costs nothing; the next window starts anew", () => {
    const rate = new Rate(bounds);
    const charge = (member: number, id: string, steadyMs: number) =>
      rate.charge(member, id, moment(steadyMs));
    expect(charge(1, "a", 20_000)).toBeUndefined();
    expect(charge(1, "b", 21_000)).toBeUndefined();
    expect(charge(1, "c", 22_500)).toBe(7_500);
    expect(charge(1, "a", 22_500)).toBeUndefined();
    expect(charge(2, "c", 22_500)).toBeUndefined();
    expect(charge(1, "c", 29_999.5)).toBe(1);
    expect(charge(1, "c", 30_000)).toBeUndefined();
    expect(charge(1, "a", 30_000)).toBeUndefined();
    expect(charge(1, "b", 30_000)).toBe(10_000);
  });
});

describe("lease window", () => {
  const bounds = {
    ...defaultBounds,
    leaseMs: 30_000,
    leasesPerConnectionMax: 3,
    leaseBytesPerConnectionMax: 100,
  };

  test("takes so many messages and so many bytes, but always one", () => {
    const window = new LeaseWindow(bounds);
    expect(window.hasRoomFor(1_000)).toBe(true);
    window.lease("a", 1, 60, moment(0));
    expect([window.hasRoomFor(41), window.hasRoomFor(40)]).toEqual([false, true]);
    window.lease("b", 2, 10, moment(0));
    window.lease("c", 5, 10, moment(0));
    expect(window.hasRoomFor(1)).toBe(false);
    window.settle("a");
    expect([window.hasRoomFor(80), window.hasRoomFor(81), window.count]).toEqual([true, false, 2]);
    window.settle("a");
    window.settle("nobody's");
    expect(window.count).toBe(2);
  });

  test("lapses as a whole, from the oldest that is not settled", () => {
    const window = new LeaseWindow(bounds);
    window.lease("a", 3, 1, moment(0));
    window.lease("b", 4, 1, moment(10_000));
    window.lease("c", 9, 1, moment(20_000));
    window.settle("a");
    expect(window.dueMs).toBe(40_000);
    expect(window.lapse(moment(39_999))).toBe(false);
    expect(window.pushedUpTo).toBe(9);
    expect(window.lapse(moment(40_000))).toBe(true);
    expect([window.pushedUpTo, window.count, window.dueMs]).toEqual([3, 0, undefined]);
    expect(window.lapse(moment(99_999))).toBe(false);
  });

  test("refuses to push out of order", () => {
    const window = new LeaseWindow(bounds);
    window.lease("a", 3, 1, moment(0));
    expect(() => window.lease("b", 3, 1, moment(0))).toThrow("out of order");
  });
});
