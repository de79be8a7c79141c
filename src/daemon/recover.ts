/** What commands do to the daemon's files while no daemon runs. */
import type { BackedUp, BackupOptions } from "~/daemon/backup";
import { outboxSchemaVersion } from "~/daemon/db/outbox";
import { type RecoverOptions, recoverDatabases } from "~/daemon/recovery";
import { type RemintOptions, remint as remintHost } from "~/daemon/remint";
import type { Restored, RestoreOptions } from "~/daemon/restore";
import type { Reminted } from "~/identity/remint-plan";
import type { Recovered } from "~/wire/recovered";

/** Gives a copy of a host new keys and memberships of its own. */
export const remint = (options: RemintOptions): Promise<Reminted> => remintHost(options);

/** Puts new databases in the place of damaged ones. */
export const recover = (options: RecoverOptions): Promise<Recovered> => recoverDatabases(options);

/** Writes what cannot be made again to one file. Works under a running daemon, too. */
export async function backUp(options: BackupOptions): Promise<BackedUp> {
  const { backUpHost } = await import("~/daemon/backup");
  return await backUpHost(options);
}

/** Puts back what such a file holds. */
export async function restore(options: RestoreOptions): Promise<Restored> {
  const { restoreHost } = await import("~/daemon/restore");
  return await restoreHost(options);
}

/** Whether this version can open what a daemon with this schema has written. */
export const canOpenSchema = (schemaVersion: number): boolean => schemaVersion <= outboxSchemaVersion;
