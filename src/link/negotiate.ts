/**
 * What a broker's advertised features mean for us: how large a message may be, how long a message may wait, whether a
 * lane may have many in flight, and whether we can work with this broker at all. Pure.
 */
import * as v from "valibot";
import { Features } from "~/wire/broker";
import {
  dedupeRetentionDaysMin,
  inlineBytesDefault,
  maxAgeHoursPermanent,
  sealedBytesPerFrameMax,
} from "~/wire/limits";

export interface BrokerTerms {
  /** Undefined for a version-1 broker, which advertises nothing. */
  features: Features | undefined;
  inlineBytes: number;
  /** How long a message may go on being tried: within the time that the broker remembers ids. */
  maxAgeMs: number;
  /** No longer than this, whatever this host would like; undefined: the broker remembers ids for good. */
  maxAgeMsMax?: number;
  /** The broker keeps a lane in order by itself (`held`), so many may be in flight. */
  lanes: boolean;
  /** Members prove their admission. */
  members: boolean;
  /** What the broker lacks, in the words of health. */
  missing: string[];
}

export type Negotiation =
  | { ok: true; terms: BrokerTerms }
  | {
      ok: false;
      kind: "feature_unavailable" | "feature_param_invalid" | "feature_param_below_floor";
      feature: string;
      /** What a person needs to know besides. */
      detail?: string;
    };

/** What this host's settings ask of a broker. */
export interface Demands {
  /** Features without which it is refused. */
  requiredFeatures: readonly string[];
  /** How long a message may go on being tried; null: as long as the broker's memory allows. */
  maxAgeHours: number | null;
}

export const noDemands: Demands = { requiredFeatures: [], maxAgeHours: null };

const hourMs = 3600 * 1000;

/** `needsClaudemesh`: the mesh was made or joined through a claudemesh broker, so one that no longer is one is refused. */
export function negotiate(
  advertised: Record<string, unknown> | undefined,
  needsClaudemesh: boolean,
  demands: Demands = noDemands,
): Negotiation {
  const parsed = v.safeParse(Features, advertised ?? {});
  if (!parsed.success) {
    const feature = parsed.issues[0].path?.[0]?.key;
    return { ok: false, kind: "feature_param_invalid", feature: String(feature ?? "features") };
  }
  const features = parsed.output;
  const dedupe = features.client_message_id_dedupe;
  if (dedupe?.mode === "retention_scoped") {
    if (dedupe.dedupe_retention_days === undefined) {
      return { ok: false, kind: "feature_param_invalid", feature: "client_message_id_dedupe" };
    }
    if (dedupe.dedupe_retention_days < dedupeRetentionDaysMin) {
      return { ok: false, kind: "feature_param_below_floor", feature: "client_message_id_dedupe" };
    }
  }
  const expected = ["client_message_id_dedupe", "members"] as const;
  const missing = expected.filter((name) => features[name] === undefined);
  const [firstMissing] = missing;
  if (needsClaudemesh && firstMissing !== undefined) {
    return { ok: false, kind: "feature_unavailable", feature: firstMissing };
  }
  const required = demands.requiredFeatures.find((name) => (advertised?.[name] ?? null) === null);
  if (required !== undefined) {
    const detail = "this host's settings require it (link.required_features)";
    return { ok: false, kind: "feature_unavailable", feature: required, detail };
  }
  const retentionDays = dedupe?.mode === "retention_scoped" ? dedupe.dedupe_retention_days : undefined;
  const ageHours = maxAgeHours(retentionDays);
  if (retentionDays !== undefined && (demands.maxAgeHours ?? 0) > ageHours) {
    return {
      ok: false,
      kind: "feature_param_below_floor",
      feature: "client_message_id_dedupe",
      detail: `delivery.max_age_h is ${demands.maxAgeHours}, and the broker remembers ids long enough for ${ageHours}`,
    };
  }
  return {
    ok: true,
    terms: {
      features: advertised === undefined ? undefined : features,
      inlineBytes: Math.min(features.max_payload?.inline_bytes ?? inlineBytesDefault, sealedBytesPerFrameMax),
      maxAgeMs: ageHours * hourMs,
      ...(retentionDays === undefined ? {} : { maxAgeMsMax: ageHours * hourMs }),
      lanes: features.lanes !== undefined && dedupe !== undefined,
      members: features.members !== undefined,
      missing,
    },
  };
}

/** Permanent dedupe (undefined): a week. N days: N less a margin of a tenth, at least a day, but never under 72 hours. */
export function maxAgeHours(dedupeRetentionDays: number | undefined): number {
  if (dedupeRetentionDays === undefined) return maxAgeHoursPermanent;
  const hours = 24 * dedupeRetentionDays;
  return Math.max(72, hours - Math.max(24, Math.ceil(2.4 * dedupeRetentionDays)));
}
