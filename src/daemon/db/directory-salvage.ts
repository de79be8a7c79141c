/**
 * What cannot be asked for again, from a damaged directory: the keys that names were first seen with, and this host's own profile.
 * The lists of members come from the broker anew.
 */
import type { Database } from "bun:sqlite";
import * as v from "valibot";
import type { DamagedFile } from "~/disk/pages";
import { ProfileReply } from "~/wire/ipc";
import type { DirectorySalvage } from "~/wire/recovered";
import { OpaqueId, PublicKey } from "~/wire/text";

/** `mesh, name, pubkey, seen_at`: the table is stored as an index. */
const FirstKey = v.strictTuple([
  OpaqueId,
  v.pipe(v.string(), v.nonEmpty()),
  PublicKey,
  v.pipe(v.number(), v.integer(), v.minValue(0)),
]);
const StoredProfile = v.pipe(v.string(), v.parseJson(), ProfileReply);

export function salvageDirectory(file: DamagedFile, target: Database): DirectorySalvage {
  const found: DirectorySalvage = { first_keys: 0, profile: false };
  const insertKey = target.query(
    "INSERT INTO first_keys (mesh, name, pubkey, seen_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
  );
  const insertProfile = target.query(
    "INSERT INTO profile (one, json) VALUES (1, ?) ON CONFLICT (one) DO NOTHING",
  );
  target
    .transaction(() => {
      for (const image of file.images()) {
        for (const entry of file.entries(image)) {
          const key = v.safeParse(FirstKey, entry);
          if (key.success) found.first_keys += insertKey.run(...key.output).changes;
        }
        for (const { rowid, columns } of file.rows(image)) {
          const [, json] = columns;
          if (rowid !== 1 || columns.length !== 2 || typeof json !== "string") continue;
          if (v.safeParse(StoredProfile, json).success && insertProfile.run(json).changes > 0)
            found.profile = true;
        }
      }
    })
    .immediate();
  return found;
}
