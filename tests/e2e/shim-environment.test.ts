/** What of a shim's own environment its agent sees. */
import { expect, test } from "bun:test";
import { shimOnFd } from "../support/shim-driver";

const print = ["--", "sh", "-c", "echo interval $BUN_GC_TIMER_INTERVAL."];

test.each([
  ["ours is not for the agent", "30000", "interval ."],
  ["somebody's own is", "1000", "interval 1000."],
])("the time between two looks at the heap: %s", async (_, interval, expected) => {
  const { driver } = await shimOnFd(print, { env: { BUN_GC_TIMER_INTERVAL: interval } });
  expect((await driver.next("Died")).last_lines).toBe(expected);
});
