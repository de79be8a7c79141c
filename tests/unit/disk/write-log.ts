/**
 * Run as a process of its own until it is killed: `write-log.ts FILE FIRST` writes numbered lines to a log that is done with a
 * file after a few of them, and says on standard output how far it got.
 */
import { writeSync } from "node:fs";
import { systemClock } from "~/clock";
import { LogFile } from "~/disk/log-file";
import { logLine } from "~/log";

const [path = "", first = "1"] = process.argv.slice(2);
const log = new LogFile(path, systemClock, () => ({ bytesMax: 3_000, daysMax: 7, filesKept: 100 }));
for (let number = Number(first); ; number++) {
  log.write(logLine(systemClock.now(), "info", "numbered", { number }));
  writeSync(1, `${number}\n`);
  if (number % 10 === 0) await log.settled();
}
