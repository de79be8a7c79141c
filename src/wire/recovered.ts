/** What `daemon recover` did, as it tells. */

/** Those that are `sound` or `missing` were left alone. */
export type RecoveredFile<Salvage> =
  | { state: "sound" | "missing" }
  | ({
      state: "damaged";
      /** What was found, in words. */
      damage: string;
      kept_as: string;
    } & Salvage);

export interface OutboxSalvage {
  /** Rows in the new outbox. */
  rows: number;
  /** Of these, what goes on being sent. */
  unfinished: number;
  /** Rows whose text was damaged and is cleared; whatever else they say holds. */
  texts_lost: number;
  /** Messages that had not been sent and cannot be any more: they failed. */
  ended: number;
  /** Messages of which only the id was left: they are kept as failed. */
  ids_only: number;
  /** Places at which there was a row, of which nothing was found. */
  lost: number;
}

export interface DirectorySalvage {
  /** Names with the key that each was first seen with. */
  first_keys: number;
  profile: boolean;
}

export interface Recovered {
  dry_run: boolean;
  outbox: RecoveredFile<OutboxSalvage>;
  inbox: RecoveredFile<unknown>;
  directory: RecoveredFile<DirectorySalvage>;
}
