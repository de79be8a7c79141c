/**
 * What a process that was killed left of a file that it was writing beside its place (disk/file.ts). It may hold keys or messages, so
 * it goes; but never under the hands of somebody who is still at it. Its name tells which process that would be. As a process in
 * another container has an id that means nothing here, a file that was written to a moment ago is left alone as well.
 */
import { lstatSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "~/clock";
import { removeFile, storageError } from "~/disk/file";
import { systemCodeOf } from "~/errors";
import { halfWrittenMs } from "~/wire/limits";

/** As `temporaryPath` makes it, and what SQLite puts beside such a file while it writes one. */
const temporaryName = /^(.+)\.(\d+)\.[0-9a-f]{8}\.tmp(-journal)?$/;

/**
 * Removes what was left of files in `dir` whose names `isMeant` accepts, all of them by default. A directory that is not there has
 * none. Throws `storage_*` for one that cannot be read or written.
 */
export function removeLeftBehind(dir: string, isMeant: (name: string) => boolean = () => true): void {
  for (const left of namesIn(dir)) {
    const [, name = "", pid = ""] = temporaryName.exec(left) ?? [];
    if (name === "" || !isMeant(name) || isAtWork(Number(pid))) continue;
    const path = join(dir, left);
    const writtenMs = lstatSync(path, { throwIfNoEntry: false })?.mtimeMs;
    if (writtenMs !== undefined && systemClock.now() - writtenMs > halfWrittenMs) removeFile(path);
  }
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return [];
    throw storageError(`cannot look into ${dir}`, error);
  }
}

/** This process itself writes such a file in one go: one with its own id was left by an earlier one that had the same. */
function isAtWork(pid: number): boolean {
  if (pid === process.pid) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return systemCodeOf(error) !== "ESRCH";
  }
}
