/** What an operator chooses for a broker, and what follows from it. Clients are told of it in `features`. */
import { MeshError } from "~/errors";
import { type ConnectionPolicy, connectionPolicies, type Features } from "~/wire/broker";
import { dedupeRetentionDaysMin, historyDaysDefault, retentionDaysMax } from "~/wire/limits";

export interface Settings {
  readonly connectionPolicy: ConnectionPolicy;
  /** How long an id that was accepted is remembered; undefined means for good. */
  readonly dedupeDays: number | undefined;
  /** How long the contents of a message are kept that nobody waits for any more. */
  readonly historyDays: number;
}

export const defaultSettings: Settings = {
  connectionPolicy: "prefer_newest",
  dedupeDays: undefined,
  historyDays: historyDaysDefault,
};

/** These settings, and the usual ones for what is left out. Throws `usage` for one that no broker takes. */
export function settingsOf(given: {
  connectionPolicy?: ConnectionPolicy | undefined;
  dedupeDays?: number | undefined;
  historyDays?: number | undefined;
}): Settings {
  const { connectionPolicy, historyDays } = defaultSettings;
  const settings = {
    connectionPolicy: given.connectionPolicy ?? connectionPolicy,
    dedupeDays: given.dedupeDays,
    historyDays: given.historyDays ?? historyDays,
  };
  if (!connectionPolicies.includes(settings.connectionPolicy))
    throw new MeshError("usage", `a connection policy is one of ${connectionPolicies.join(", ")}`);
  // Fewer days than the daemons' own patience would let a message that was accepted be accepted again.
  if (settings.dedupeDays !== undefined && !isDays(settings.dedupeDays, dedupeRetentionDaysMin))
    throw new MeshError(
      "usage",
      `ids are remembered for ${dedupeRetentionDaysMin} to ${retentionDaysMax} days, or for good`,
    );
  if (!isDays(settings.historyDays, 1))
    throw new MeshError("usage", `history is kept for 1 to ${retentionDaysMax} days`);
  return settings;
}

const isDays = (days: number, min: number): boolean =>
  Number.isSafeInteger(days) && days >= min && days <= retentionDaysMax;

export const dedupeFeature = ({
  dedupeDays,
}: Settings): NonNullable<Features["client_message_id_dedupe"]> => ({
  version: 1,
  ...(dedupeDays === undefined
    ? { mode: "permanent" }
    : { mode: "retention_scoped", dedupe_retention_days: dedupeDays }),
  request_fingerprint: true,
});

const dayMs = 24 * 3600 * 1000;

export interface Cutoffs {
  /** A message that was accepted before this, and that nobody waits for, loses its contents. */
  pruneBefore: number;
  /** One that has lost them and was accepted before this is forgotten, with its dedupe record. */
  expireBefore: number | undefined;
}

/** A record that goes takes its message with it, so contents are never kept for longer than ids are. */
export function cutoffsOf({ dedupeDays, historyDays }: Settings, wallMs: number): Cutoffs {
  return {
    pruneBefore: wallMs - Math.min(historyDays, dedupeDays ?? historyDays) * dayMs,
    // A day longer than is advertised: a daemon may try a message up to the last moment, by a clock that is not ours.
    expireBefore: dedupeDays === undefined ? undefined : wallMs - (dedupeDays + 1) * dayMs,
  };
}
