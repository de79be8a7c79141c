import { statSync } from "node:fs";
import type { DaemonPaths } from "~/wire/paths";

/**
 * Whether the outbox was cut down to nothing. To SQLite that is a new database, with every id free again; but a new one has no log
 * yet, and is there before the inbox.
 */
export function wasEmptied({ outbox, inbox }: DaemonPaths): boolean {
  const bytesOf = (path: string): number | undefined => statSync(path, { throwIfNoEntry: false })?.size;
  return bytesOf(outbox) === 0 && (bytesOf(`${outbox}-wal`) ?? 0) + (bytesOf(inbox) ?? 0) > 0;
}
