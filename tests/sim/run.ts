/** `bun run sim [--seeds N] [--from S]`: many worlds, one after the other; a failure names the seed that repeats it. */
import { parseArgs } from "node:util";
import { simulate } from "./simulation";

const { values } = parseArgs({
  options: { seeds: { type: "string", default: "1000" }, from: { type: "string", default: "1" } },
});
const count = Number(values.seeds);
const from = Number(values.from);
const total = { simulatedMs: 0, steps: 0, sends: 0, faults: 0, frames: 0 };
const start = performance.now();
for (let seed = from; seed < from + count; seed++) {
  const outcome = await simulate(seed);
  total.simulatedMs += outcome.simulatedMs;
  total.steps += outcome.steps;
  total.sends += outcome.sends;
  total.faults += outcome.faults;
  total.frames += outcome.frames;
  if ((seed - from + 1) % 500 === 0)
    console.log(`${seed - from + 1} seeds in ${Math.round((performance.now() - start) / 1000)} s`);
}
console.log(
  `${count} seeds passed: ${Math.round(total.simulatedMs / 3_600_000)} simulated hours, ${total.sends} sends, ${total.frames} frames, ${total.faults} faults injected, ${total.steps} steps, in ${Math.round((performance.now() - start) / 1000)} s`,
);
