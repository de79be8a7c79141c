/**
 * Which host these files belong to. `host_fingerprint.json` keeps hashes of what told this host from others when it was written;
 * at every start that is compared with what can be read now, before anything connects. A copy of the files on another host would
 * otherwise be the same member twice: each would take the other's messages away.
 *
 * The host's id decides. The network hardware decides only when there is no id on one of the two sides, for it is what people
 * change. With nothing to compare the daemon runs, leaves the record as it is and says so at every start: an id that cannot be
 * read, in a container or under a stricter sandbox, is far more often that than a copy, and a copy still shows as
 * `identity_in_use` at the broker. A record that is damaged is not one that is missing: it was written by some host, and
 * writing it anew would accept a copy unseen, so it is judged as another host's.
 */
import { randomBytes } from "node:crypto";
import { dirname } from "node:path";
import * as v from "valibot";
import { isoTime } from "~/clock";
import { ensurePrivateDirectory, readTextFile, writeFileAtomic } from "~/disk/file";
import { MeshError } from "~/errors";
import { type HostFacts, type HostSystem, readHostFacts, thisSystem } from "~/identity/host-sources";
import type { Problem } from "~/wire/ipc";
import { explainIssues, Sha256Hex } from "~/wire/text";

const HostIdentity = v.object({
  host_id: v.nullable(
    v.object({
      source: v.picklist(["machine-id", "dbus-machine-id", "ioplatformuuid", "kern.hostuuid"]),
      sha256: Sha256Hex,
    }),
  ),
  mac: v.nullable(v.object({ interface: v.string(), sha256: Sha256Hex })),
});
/** What a host is known by. */
export type HostIdentity = v.InferOutput<typeof HostIdentity>;

export const HostRecord = v.object({
  version: v.literal(1),
  recorded_at: v.string(),
  ...HostIdentity.entries,
  /** Only where nothing else could be read: it travels with the files, and tells no copy from its original. */
  random_id: v.exactOptional(v.pipe(v.string(), v.regex(/^[0-9a-f]{32}$/, "32 hex digits expected"))),
});
export type HostRecord = v.InferOutput<typeof HostRecord>;

export type RecordState =
  | { kind: "none" }
  | { kind: "known"; record: HostRecord }
  | { kind: "newer"; version: number }
  | { kind: "damaged"; why: string };

export type HostPolicy = "refuse" | "warn" | "allow";

/** What becomes of a start. `write`: what the record is to say from now on. */
export type HostJudgement =
  | { kind: "first"; write: HostIdentity; problems: Problem[] }
  | { kind: "same"; write: HostIdentity | undefined; problems: Problem[] }
  | { kind: "unverified"; problems: Problem[] }
  | { kind: "newer"; problems: Problem[] }
  | { kind: "refused"; error: MeshError }
  | { kind: "warned"; problems: Problem[] }
  | { kind: "allowed"; write: HostIdentity; problems: Problem[] };

export function judgeHost(state: RecordState, facts: HostFacts, policy: HostPolicy): HostJudgement {
  switch (state.kind) {
    case "none":
      return { kind: "first", write: identityOf(facts), problems: lackingProblems(facts) };
    case "newer":
      return {
        kind: "newer",
        problems: [
          {
            code: "host_record_newer",
            message: `host_fingerprint.json is of version ${state.version}; this claudemesh knows version 1 and cannot tell whether this is the host that wrote it`,
            hint: "Run the newer claudemesh that wrote it. The file was left as it is.",
          },
        ],
      };
    case "damaged":
      return judgeOther(`host_fingerprint.json is damaged (${state.why})`, facts, policy);
    case "known":
      return judgeKnown(state.record, facts, policy);
  }
}

type Verdict = "same" | "other" | "unknown";

function judgeKnown(record: HostRecord, facts: HostFacts, policy: HostPolicy): HostJudgement {
  const id = compareIds(record, facts);
  const mac = compareMacs(record, facts);
  if (id === "same") {
    const changed = mac === "other" ? [networkProblem(record, facts)] : [];
    return { kind: "same", write: refreshed(record, facts), problems: changed };
  }
  if (id === "other") {
    const though =
      mac === "same"
        ? ", though the same network hardware: a system that was installed anew, or a copy that kept the address"
        : "";
    return judgeOther(`the host's id is another than on ${day(record)}${though}`, facts, policy);
  }
  if (mac === "same")
    return { kind: "same", write: refreshed(record, facts), problems: lackingProblems(facts) };
  if (mac === "other") {
    const why =
      facts.id === undefined ? `there is no id to compare: ${facts.idMissing}` : "no id was known then";
    return judgeOther(`the network hardware is another than on ${day(record)}, and ${why}`, facts, policy);
  }
  return { kind: "unverified", problems: [unverifiedProblem(record, facts)] };
}

function compareIds(record: HostRecord, { id }: HostFacts): Verdict {
  if (record.host_id === null || id === undefined) return "unknown";
  return record.host_id.sha256 === id.sha256 ? "same" : "other";
}

/** The same hardware when it is still there, whatever came beside it or is now the first. */
function compareMacs({ mac }: HostRecord, { macs }: HostFacts): Verdict {
  if (mac === null || macs.length === 0) return "unknown";
  return macs.some(({ sha256 }) => sha256 === mac.sha256) ? "same" : "other";
}

function judgeOther(why: string, facts: HostFacts, policy: HostPolicy): HostJudgement {
  const message = `these files seem to come from another host: ${why}`;
  switch (policy) {
    case "refuse":
      return { kind: "refused", error: new MeshError("host_changed", message, { hint: waysOut }) };
    case "warn":
      return { kind: "warned", problems: [{ code: "host_changed", message, hint: waysOut }] };
    case "allow":
      return { kind: "allowed", write: identityOf(facts), problems: [] };
  }
}

const waysOut =
  "claudemesh daemon accept-host, if this installation moved to other hardware: it keeps its keys. claudemesh daemon remint, if it is a copy and the original goes on: it gets new keys and joins as a new member.";

/** What can be read of this host now. */
const identityOf = ({ id, macs: [mac] }: HostFacts): HostIdentity => ({
  host_id: id ?? null,
  mac: mac ?? null,
});

/** Undefined when the record says it all already. What cannot be read at the moment is not forgotten. */
function refreshed(record: HostRecord, facts: HostFacts): HostIdentity | undefined {
  const host_id = record.host_id ?? facts.id ?? null;
  const mac = compareMacs(record, facts) === "same" ? record.mac : (facts.macs[0] ?? record.mac);
  const isKnown = host_id === record.host_id && mac === record.mac;
  return isKnown ? undefined : { host_id, mac };
}

const day = ({ recorded_at }: HostRecord): string => recorded_at.slice(0, 10);

// ── What health says ────────────────────────────────────────────────────────────────────────────────────────────────

/** A host that can be recognised less well than others. */
function lackingProblems(facts: HostFacts): Problem[] {
  if (facts.id !== undefined) return [];
  if (facts.macs.length === 0) return [unidentifiable(facts)];
  return [
    {
      code: "host_id_unreadable",
      message: `this host's id cannot be read (${facts.idMissing}); it is recognised by its network hardware alone`,
      hint: machineIdHint,
    },
  ];
}

const machineIdHint =
  "On Linux, systemd-machine-id-setup writes /etc/machine-id; a container can be given one of its own.";

const unidentifiable = ({ idMissing, macsMissing }: HostFacts): Problem => ({
  code: "host_unidentifiable",
  message: `nothing tells this host from others (${idMissing}; ${macsMissing}): a copy of these files would not notice that it is one`,
  hint: machineIdHint,
});

const networkProblem = (record: HostRecord, { macs: [mac] }: HostFacts): Problem => ({
  code: "host_network_changed",
  message: `the network hardware is another than on ${day(record)} (${record.mac?.interface} then, ${mac?.interface} now); the host's id is the same, and the record was brought up to date`,
  hint: "Nothing, if a network card was changed. If this is a copy of a host that goes on: claudemesh daemon remint.",
});

function unverifiedProblem(record: HostRecord, facts: HostFacts): Problem {
  if (record.host_id === null && record.mac === null && facts.id === undefined && facts.macs.length === 0)
    return unidentifiable(facts);
  const then = knownBy(record.host_id !== null, record.mac !== null);
  const now = knownBy(facts.id !== undefined, facts.macs.length > 0);
  const missing = [facts.idMissing, facts.macsMissing].filter((why) => why !== "").join("; ");
  return {
    code: "host_unverified",
    message: `it cannot be told whether this is the host that wrote host_fingerprint.json on ${day(record)}: known then by ${then}, now by ${now}${missing === "" ? "" : ` (${missing})`}`,
    hint: "If it is: claudemesh daemon accept-host. If it is a copy and the original goes on: claudemesh daemon remint.",
  };
}

function knownBy(hasId: boolean, hasMac: boolean): string {
  if (hasId) return hasMac ? "its id and its network hardware" : "its id";
  return hasMac ? "its network hardware" : "nothing";
}

// ── The record ──────────────────────────────────────────────────────────────────────────────────────────────────────

export function readHostRecord(file: string): RecordState {
  const text = readTextFile(file);
  return text === undefined ? { kind: "none" } : parseHostRecord(text);
}

const AnyVersion = v.looseObject({ version: v.pipe(v.number(), v.integer(), v.minValue(2)) });

export function parseHostRecord(text: string): RecordState {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return { kind: "damaged", why: "it is not JSON" };
  }
  const newer = v.safeParse(AnyVersion, value);
  if (newer.success) return { kind: "newer", version: newer.output.version };
  const parsed = v.safeParse(HostRecord, value);
  if (parsed.success) return { kind: "known", record: parsed.output };
  return { kind: "damaged", why: explainIssues(parsed.issues) };
}

function writeHostRecord(
  file: string,
  { host_id, mac }: HostIdentity,
  earlier: RecordState,
  nowMs: number,
): HostRecord {
  const known = earlier.kind === "known" ? earlier.record.random_id : undefined;
  const record: HostRecord = {
    version: 1,
    recorded_at: isoTime(nowMs),
    host_id,
    mac,
    ...(host_id === null && mac === null ? { random_id: known ?? randomBytes(16).toString("hex") } : {}),
  };
  writeFileAtomic(file, `${JSON.stringify(record, null, 2)}\n`);
  return record;
}

/**
 * Judges this host by its record and brings the record up to date. Returns what health is to say. Throws `host_changed` when
 * the policy refuses, and `storage_failed` when there is a record that cannot be read.
 */
export function checkHost(
  file: string,
  policy: HostPolicy,
  nowMs: number,
  system: HostSystem = thisSystem,
): Problem[] {
  const state = readHostRecord(file);
  const judgement = judgeHost(state, readHostFacts(system), policy);
  if (judgement.kind === "refused") throw judgement.error;
  if (!("write" in judgement) || judgement.write === undefined) return judgement.problems;
  try {
    writeHostRecord(file, judgement.write, state, nowMs);
    return judgement.problems;
  } catch (error) {
    // The next start tries again; a full disk is no reason to leave messages lying.
    if (!(error instanceof MeshError)) throw error;
    const { code, message, hint } = error;
    return [...judgement.problems, { code, message, ...(hint === undefined ? {} : { hint }) }];
  }
}

export interface HostAccepted {
  /** What the record said; null when there was none or it was damaged. */
  before: HostRecord | null;
  now: HostRecord;
  /** What differs, in words; empty when nothing does. */
  changes: string[];
}

/** Writes the record for this host, whatever it said. Throws `host_record_newer` rather than lose what a newer version wrote. */
export function acceptHost(file: string, nowMs: number, system: HostSystem = thisSystem): HostAccepted {
  const state = readHostRecord(file);
  refuseNewerRecord(state, file);
  const facts = readHostFacts(system);
  ensurePrivateDirectory(dirname(file));
  const now = writeHostRecord(file, identityOf(facts), state, nowMs);
  const before = state.kind === "known" ? state.record : null;
  return { before, now, changes: changesOf(state, now) };
}

/** Throws `host_record_newer`. */
export function refuseNewerRecord(state: RecordState, file: string): void {
  if (state.kind !== "newer") return;
  throw new MeshError(
    "host_record_newer",
    `${file} is of version ${state.version}; this claudemesh knows version 1`,
    {
      hint: "Run the newer claudemesh that wrote it. The file was left as it is.",
    },
  );
}

function changesOf(state: RecordState, now: HostRecord): string[] {
  if (state.kind === "none") return ["there was no record of the host"];
  if (state.kind !== "known") return ["the record was damaged"];
  const { record: before } = state;
  return [
    change("the host's id", before.host_id, now.host_id),
    change("the network hardware", before.mac, now.mac),
  ].filter((text) => text !== undefined);
}

function change(
  what: string,
  before: { sha256: string } | null,
  now: { sha256: string } | null,
): string | undefined {
  if (before?.sha256 === now?.sha256) return undefined;
  if (before === null) return `${what} was not known before`;
  return now === null ? `${what} cannot be read any more` : `${what} is another`;
}
