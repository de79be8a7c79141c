/** What every mock tells while it serves: JSON lines on standard error and, with `--json`, where it listens as an object on standard output. */
import type { Host } from "~/cli/command";
import { unlessClosed } from "~/cli/output";
import { systemClock } from "~/clock";
import { jsonLog, type Log } from "~/log";

export function serverLog({ out }: Host): {
  log: Log;
  tellReady(place: Readonly<Record<string, unknown>>): void;
} {
  const log = jsonLog(systemClock, (line) => void unlessClosed(out.note(line.trimEnd())));
  return {
    log,
    tellReady(place) {
      const ready = { pid: process.pid, ...place };
      log("info", "listening", ready);
      if (out.json) void unlessClosed(out.answer(ready, () => ""));
    },
  };
}
