/** Databases that were moved aside and that claudemesh does not remove by itself: what is in them may be nowhere else. */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { bytesText } from "~/cli/doctor/disk";
import { type Finding, warn } from "~/cli/doctor/finding";
import { isoTime } from "~/clock";
import { systemCodeOf } from "~/errors";
import { quoteForShell } from "~/service/cron";
import { putAsideIn } from "~/wire/paths";

export interface PutAsideFact {
  path: string;
  atMs: number;
  bytes: number;
}

export async function gatherPutAside(daemonDir: string): Promise<PutAsideFact[]> {
  const found = putAsideIn(await namesIn(daemonDir)).filter(({ isTakenOver }) => !isTakenOver);
  return await Promise.all(
    found.map(async ({ name, atMs }) => {
      const path = join(daemonDir, name);
      return { path, atMs, bytes: await bytesOf(path) };
    }),
  );
}

/** What cannot be looked into is told by the check of permissions. */
async function namesIn(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    if (systemCodeOf(error) === undefined) throw error;
    return [];
  }
}

/** Of a directory: of the files in it. */
async function bytesOf(path: string): Promise<number> {
  const status = await stat(path);
  if (!status.isDirectory()) return status.size;
  const inside = await Promise.all((await readdir(path)).map((name) => bytesOf(join(path, name))));
  return inside.reduce((sum, bytes) => sum + bytes, 0);
}

/** `days`: how long contents are kept elsewhere. */
export const judgePutAside = (facts: readonly PutAsideFact[], nowMs: number, days: number): Finding[] =>
  facts
    .filter(({ atMs, bytes }) => bytes > 0 && nowMs - atMs > days * 24 * 3600 * 1000)
    .map(({ path, atMs, bytes }) =>
      warn(
        "kept",
        `${path} (${bytesText(bytes)}) was put aside on ${isoTime(atMs).slice(0, 10)}; it may hold messages that are nowhere else, and stays until you remove it`,
        `rm -r ${quoteForShell(path)}, when nothing in it is needed any more`,
      ),
    );
