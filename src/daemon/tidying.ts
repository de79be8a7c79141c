/**
 * Files beside the daemon's own that nobody needs any more, and that hold keys or messages: what a killed process had half written,
 * and databases as they once were. Of those only the ones go of which everything that could be read is in the databases in use; one
 * that may hold what nobody has read yet, or what was never sent, is left for a person to remove, whom the doctor tells.
 */
import { readdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { realPathOrSelf, removeFile } from "~/disk/file";
import { removeLeftBehind } from "~/disk/left-behind";
import { removeCopies } from "~/disk/sqlite";
import { attemptsDir } from "~/identity/pending";
import { remintPlanFile } from "~/identity/remint-plan";
import type { Log } from "~/log";
import { faultOf } from "~/wire/fault";
import { type DaemonPaths, type HostPaths, putAsideIn } from "~/wire/paths";

/** Never throws: that it could not be done is logged, and it is tried again another day. */
export function removeHalfWritten(
  { configDir, configFile, settingsFile, daemonDir }: HostPaths,
  log: Log,
): void {
  try {
    removeLeftBehind(daemonDir);
    removeLeftBehind(attemptsDir(configDir));
    for (const file of [configFile, settingsFile, remintPlanFile(configDir)]) {
      // A link in a tree of dotfiles is written where it leads, among files of others.
      const real = realPathOrSelf(file);
      const own = basename(real);
      removeLeftBehind(dirname(real), (name) => name === own || name.startsWith(`${own}.before-`));
    }
  } catch (error) {
    log("warn", "half_written_not_removed", { error: faultOf(error) });
  }
}

/** Databases that were copied or put aside before `beforeMs`. Returns the names of what is gone. */
export function removeOldDatabases(
  { dir, outbox, inbox, directory }: DaemonPaths,
  beforeMs: number,
): string[] {
  const copies = [outbox, inbox, directory].flatMap((path) => removeCopies(path, beforeMs));
  const damaged = putAsideIn(readdirSync(dir))
    .filter(({ isTakenOver, atMs }) => isTakenOver && atMs < beforeMs)
    .map(({ name }) => join(dir, name));
  for (const path of damaged) removeFile(path);
  return [...copies, ...damaged].map((path) => basename(path));
}
