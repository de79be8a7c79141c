/** The executable, for which an hour passes in 36 seconds: to see what happens after minutes, in a process of its own. */
import { systemClock } from "~/clock";

const speed = 100;
const { after, monotonicMs } = systemClock;
Object.assign(systemClock, {
  monotonicMs: () => monotonicMs() * speed,
  after: (delayMs: number, action: () => void) => after(delayMs / speed, action),
});
await import("~/main");
