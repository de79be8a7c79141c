/** How much of the disk is used, and how much is left. What cannot be found out is left out: no number is not nothing. */
import { readdirSync, statfsSync, statSync } from "node:fs";
import { join } from "node:path";
import { systemCodeOf } from "~/errors";

/** The bytes of each file in a directory (not in those below it) that has a name of its own in `named`, and of all others as `other`. */
export function diskUsage(dir: string, named: readonly string[]): Map<string, number> {
  const bytes = new Map<string, number>();
  for (const name of unlessUnknown(() => readdirSync(dir)) ?? []) {
    const status = unlessUnknown(() => statSync(join(dir, name), { throwIfNoEntry: false }));
    if (status?.isFile() !== true) continue;
    const label = named.includes(name) ? name : "other";
    bytes.set(label, (bytes.get(label) ?? 0) + status.size);
  }
  return bytes;
}

/** What this user may still write on the file system that holds `dir`; undefined when it does not tell. */
export function freeBytes(dir: string): number | undefined {
  const status = unlessUnknown(() => statfsSync(dir));
  return status === undefined ? undefined : status.bavail * status.bsize;
}

/** The system's own refusals (no right to look, a disk that does not answer) make a number unknown; a bug of ours is none of them. */
function unlessUnknown<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (error) {
    if (systemCodeOf(error) === undefined) throw error;
    return undefined;
  }
}
