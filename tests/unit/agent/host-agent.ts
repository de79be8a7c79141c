/**
 * A stand-in for a shim, for process-tree.test.ts: `host-agent.ts END-COMMAND… -- AGENT…`. Starts the agent, says `agent PID watchdog PID`, and then
 * does what it is told line by line: `end [MS]`, `close`, `watchdogs` (says their pids), `orphans N` (starts and ends them). Says `looked` whenever it has
 * looked at its orphans.
 */
import { readFileSync } from "node:fs";
import { listProcesses } from "~/agent/process-table";
import { openTree } from "~/agent/process-tree";
import { type Clock, systemClock } from "~/clock";
import { orphanLookEveryMs } from "~/wire/limits";
import { waitFor } from "../../support/wait-for";

const words = process.argv.slice(2);
const at = words.indexOf("--");
const clock: Clock = {
  ...systemClock,
  after: (delayMs, action) =>
    systemClock.after(delayMs, () => {
      action();
      // That it restarts a watchdog takes as long, which does no harm.
      if (delayMs === orphanLookEveryMs) console.log("looked");
    }),
};
const tree = openTree({
  clock,
  endCommand: words.slice(0, at),
  adoptsOrphans: true,
  env: process.env,
  warn: (message) => console.log(`warning: ${message}`),
});
const env = { ...process.env, ...tree.env };
const command = words.slice(at + 1);
const agent =
  process.env.HOST_TERMINAL === "1"
    ? Bun.spawn(command, { env, terminal: { rows: 24, cols: 80, data: () => undefined } })
    : Bun.spawn(command, { env, stdin: "ignore", stdout: "ignore", stderr: "ignore", detached: true });
tree.started(agent.pid);
void agent.exited.then(() => console.log(`agent ended with ${agent.signalCode ?? agent.exitCode}`));

/** By the name that the shell was given: what ps shows. */
const watchdogs = (): number[] =>
  [...listProcesses().values()]
    .filter(({ parent, isZombie }) => parent === process.pid && !isZombie)
    .filter(({ pid }) => readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("claudemesh-watchdog"))
    .map(({ pid }) => pid);

// A program that has only just been started has no name for a moment.
const watchdog = await waitFor(() => watchdogs()[0], { what: "the watchdog to have its name" });
console.log(`agent ${agent.pid} watchdog ${watchdog}`);

for await (const line of console) {
  const [verb, count] = line.split(" ");
  if (verb === "end") {
    const left = count === undefined ? await tree.end() : await tree.end(Number(count));
    console.log(`left ${JSON.stringify(left)}`);
  }
  if (verb === "watchdogs") console.log(`watchdogs ${watchdogs().join(" ")}`);
  if (verb === "orphans") {
    const script = Array.from({ length: Number(count) }, () => "(true &)").join("; ");
    Bun.spawnSync(["sh", "-c", script]);
    console.log("orphans gone");
  }
  if (verb === "close") {
    await tree.close();
    process.exit(0);
  }
}
