/**
 * Run as a process of its own: `hold-lock.ts FILE WAIT_MS` takes the lock, forgets what it got and presses the garbage collector
 * hard, says `held` or `busy`, and goes on until its standard input ends.
 */
import { tryLock } from "~/disk/lock";

const [path = "", waitMs = "0"] = process.argv.slice(2);

const take = (): string => (tryLock(path, Number(waitMs)) === undefined ? "busy" : "held");

const outcome = take();
for (let round = 0; round < 5; round++) {
  const litter = Array.from({ length: 20_000 }, (_, index) => ({ index, text: `${index}` }));
  if (litter.length === 0) break;
  Bun.gc(true);
}
console.log(outcome);
await Bun.stdin.text();
