/** The compiled binary that is measured, and what its processes cost. What only Linux counts is not a number elsewhere. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { summary } from "./measure";

/** `bun run build` comes first. */
export const command: readonly string[] = [
  process.env.CLAUDEMESH_BIN ?? join(import.meta.dir, "../../dist/claudemesh"),
];

/** Wall time and peak memory of a command that ends by itself. */
export function commandTimes(
  words: readonly string[],
  env: Record<string, string>,
  runs: number,
): { p50Ms: number; peakMiB: number } {
  const eachMs: number[] = [];
  for (let run = 0; run < runs; run++) {
    const start = performance.now();
    const result = Bun.spawnSync([...words], { env });
    eachMs.push(performance.now() - start);
    if (!result.success) throw new Error(`${words.join(" ")} failed: ${result.stderr.toString()}`);
  }
  return { p50Ms: summary(eachMs, 1).p50Ms, peakMiB: peakMiB(words, env) };
}

/** By GNU time, since what the kernel tells the parent includes the parent's own before the exec. */
function peakMiB(words: readonly string[], env: Record<string, string>): number {
  if (!existsSync("/usr/bin/time")) return Number.NaN;
  const { stderr } = Bun.spawnSync(["/usr/bin/time", "-f", "peak %M", ...words], { env });
  return Number(/^peak (\d+)$/m.exec(stderr.toString())?.[1]) / 1024;
}

/**
 * As Linux counts it (proc_pid_status(5)). Resident memory has the pages of the executable in it that were touched, which all processes
 * of one executable share; its own is what exists for this process alone.
 */
export function memory(pid: number): { residentMiB: number; privateMiB: number; peakMiB: number } {
  return {
    residentMiB: statusOf(pid, "VmRSS") / 1024,
    privateMiB: statusOf(pid, "RssAnon") / 1024,
    peakMiB: statusOf(pid, "VmHWM") / 1024,
  };
}

/** How often the main thread gave the processor up by itself: each time something woke it. */
export function wakeUps(pid: number): number {
  return statusOf(pid, "voluntary_ctxt_switches");
}

function statusOf(pid: number, field: string): number {
  if (process.platform !== "linux") return Number.NaN;
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(new RegExp(`^${field}:\\s+(\\d+)`, "m").exec(status)?.[1]);
}
