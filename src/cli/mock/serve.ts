/** What every mock tells while it serves: JSON lines on standard error and, with `--json`, where it listens as an object on standard output. */
import type { Host } from "~/cli/command";
import { unlessClosed } from "~/cli/output";
import { printable } from "~/cli/text";
import { systemClock } from "~/clock";
import { messageOf } from "~/errors";
import { jsonLog, type Log } from "~/log";

interface Told {
  log: Log;
  onReady(place: Readonly<Record<string, unknown>>): void;
}

/** Runs a mock, and leaves when what it told is told. */
export async function serve({ out }: Host, mock: (told: Told) => Promise<void>): Promise<void> {
  const { MockLog } = await import("~/mock/log");
  const stderr = new MockLog(systemClock);
  const log = jsonLog(systemClock, (line) => stderr.write(printable(line)));
  const tell = async (place: object): Promise<void> => {
    try {
      await unlessClosed(out.answer(place, () => ""));
    } catch (error) {
      log("error", "place_not_told", { error: messageOf(error) });
    }
  };
  try {
    await mock({
      log,
      onReady(place) {
        const ready = { pid: process.pid, ...place };
        log("info", "listening", ready);
        void tell(ready);
      },
    });
  } finally {
    await stderr.settled();
  }
}
