/** What every process tells of itself, under the names that all of Prometheus's clients use. */
import { readdirSync } from "node:fs";
import { systemCodeOf } from "~/errors";
import type { Family } from "~/metrics/exposition";

export const processFamilies: readonly Family<{ startedAtMs: number }>[] = [
  {
    name: "process_start_time_seconds",
    type: "gauge",
    help: "When it started, in seconds since 1970, by the clock as it is set now.",
    labels: [],
    read: ({ startedAtMs }) => [[startedAtMs / 1000]],
  },
  {
    name: "process_cpu_seconds_total",
    type: "counter",
    help: "Processor time, of the user and of the system.",
    labels: [],
    read: () => {
      const { user, system } = process.cpuUsage();
      return [[(user + system) / 1e6]];
    },
  },
  {
    name: "process_resident_memory_bytes",
    type: "gauge",
    help: "Memory that it holds.",
    labels: [],
    read: () => [[process.memoryUsage.rss()]],
  },
  {
    name: "process_open_fds",
    type: "gauge",
    help: "Open files and sockets, where the system tells (Linux).",
    labels: [],
    read: () => {
      const count = openFiles();
      return count === undefined ? [] : [[count]];
    },
  },
];

/** Undefined where there is no /proc. */
function openFiles(): number | undefined {
  try {
    // The directory that is being read is one of them.
    return readdirSync("/proc/self/fd").length - 1;
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}
