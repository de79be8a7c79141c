/** Which starts count as the same host: every record against everything that may be readable now, under every policy. */
import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { MeshError } from "~/errors";
import {
  acceptHost,
  checkHost,
  type HostPolicy,
  HostRecord,
  judgeHost,
  parseHostRecord,
  type RecordState,
  readHostRecord,
} from "~/identity/host";
import type { HostFacts, HostSystem } from "~/identity/host-sources";
import { tempDir } from "../../support/temp-dir";

const hash = (digit: string): string => digit.repeat(64);
const idOf = (digit: string) => ({ source: "machine-id" as const, sha256: hash(digit) });
const macOf = (digit: string, name = "eth0") => ({ interface: name, sha256: hash(digit) });

/** `A` and `B` are two hosts' ids, `1` and `2` their network cards; `-` is nothing. */
function factsOf(text: string): HostFacts {
  const [id = "-", ...macs] = text;
  const present = macs.filter((mac) => mac !== "-");
  return {
    id: id === "-" ? undefined : idOf(id.toLowerCase()),
    idMissing: id === "-" ? "/etc/machine-id has no id" : "",
    macs: present.map((mac, index) => macOf(mac, `eth${index}`)),
    macsMissing: present.length === 0 ? "no network hardware has an address of its own" : "",
  };
}

function recordOf(text: string): RecordState {
  const [id = "-", mac = "-"] = text;
  return {
    kind: "known",
    record: {
      version: 1,
      recorded_at: "2026-01-31T10:00:00.000Z",
      host_id: id === "-" ? null : idOf(id.toLowerCase()),
      mac: mac === "-" ? null : macOf(mac),
      ...(text === "--" ? { random_id: "0123456789abcdef0123456789abcdef" } : {}),
    },
  };
}

/** The outcome in a line: its kind, what is written (`=`: nothing), and the codes of what health says. */
function outcome(state: RecordState, facts: string, policy: HostPolicy = "refuse"): string {
  const judgement = judgeHost(state, factsOf(facts), policy);
  if (judgement.kind === "refused") return `refused ${judgement.error.code}`;
  const write = "write" in judgement ? judgement.write : undefined;
  const written =
    write === undefined
      ? "="
      : `${write.host_id?.sha256[0]?.toUpperCase() ?? "-"}${write.mac?.sha256[0] ?? "-"}`;
  return [judgement.kind, written, ...judgement.problems.map(({ code }) => code)].join(" ");
}

describe("without a record it is written", () => {
  const cases: [now: string, outcome: string][] = [
    ["A1", "first A1"],
    ["A-", "first A-"],
    ["A21", "first A2"],
    ["-1", "first -1 host_id_unreadable"],
    ["--", "first -- host_unidentifiable"],
  ];
  test.each(cases)("%s", (now, expected) => {
    for (const policy of ["refuse", "warn", "allow"] as const)
      expect(outcome({ kind: "none" }, now, policy)).toBe(expected);
  });
});

describe("a record against what can be read now", () => {
  const cases: [record: string, now: string, outcome: string][] = [
    // The id decides, and what is new is noted.
    ["A1", "A1", "same ="],
    ["A1", "A2", "same A2 host_network_changed"],
    ["A1", "A21", "same ="],
    ["A1", "A-", "same ="],
    ["A-", "A1", "same A1"],
    ["A-", "A-", "same ="],
    ["A1", "B1", "refused host_changed"],
    ["A1", "B2", "refused host_changed"],
    ["A1", "B-", "refused host_changed"],
    ["A-", "B1", "refused host_changed"],
    ["A-", "B-", "refused host_changed"],
    // Without an id on one side the hardware decides.
    ["A1", "-1", "same = host_id_unreadable"],
    ["A1", "-21", "same = host_id_unreadable"],
    ["A1", "-2", "refused host_changed"],
    ["-1", "A1", "same A1"],
    ["-1", "A2", "refused host_changed"],
    ["-1", "-1", "same = host_id_unreadable"],
    ["-1", "-2", "refused host_changed"],
    // With nothing to compare nobody is locked out, and no start passes without a word.
    ["A1", "--", "unverified = host_unverified"],
    ["A-", "-1", "unverified = host_unverified"],
    ["A-", "--", "unverified = host_unverified"],
    ["-1", "A-", "unverified = host_unverified"],
    ["-1", "--", "unverified = host_unverified"],
    ["--", "A1", "unverified = host_unverified"],
    ["--", "A-", "unverified = host_unverified"],
    ["--", "-1", "unverified = host_unverified"],
    ["--", "--", "unverified = host_unidentifiable"],
  ];
  test.each(cases)("%s, now %s", (record, now, expected) => {
    expect(outcome(recordOf(record), now)).toBe(expected);
    // What the policy says matters for another host alone.
    const warned = expected.startsWith("refused") ? "warned = host_changed" : expected;
    expect(outcome(recordOf(record), now, "warn")).toBe(warned);
    const written = `${now[0]}${now[1]}`;
    expect(outcome(recordOf(record), now, "allow")).toBe(
      expected.startsWith("refused") ? `allowed ${written}` : expected,
    );
  });

  test("every pair has a case", () => {
    const sides = ["A1", "A-", "-1", "--"];
    const pairs = new Set(cases.map(([record, now]) => `${record} ${now}`));
    for (const record of sides) for (const now of sides) expect(pairs).toContain(`${record} ${now}`);
  });

  test("after what was written the next start finds the same host and has nothing to say", () => {
    for (const [record, now] of cases) {
      const judgement = judgeHost(recordOf(record), factsOf(now), "allow");
      if (!("write" in judgement) || judgement.write === undefined) continue;
      const next: RecordState = {
        kind: "known",
        record: { version: 1, recorded_at: "2026-02-01T10:00:00.000Z", ...judgement.write },
      };
      expect([record, now, outcome(next, now)]).toEqual([
        record,
        now,
        now.startsWith("-") ? expect.stringContaining("same =") : "same =",
      ]);
    }
  });
});

describe("what is said of another host", () => {
  const error = (record: RecordState, now: string): MeshError => {
    const judgement = judgeHost(record, factsOf(now), "refuse");
    if (judgement.kind !== "refused") throw new Error(judgement.kind);
    return judgement.error;
  };
  const cases: [what: string, record: RecordState, now: string, message: string][] = [
    ["its id", recordOf("A1"), "B2", "the host's id is another than on 2026-01-31"],
    ["its id alone", recordOf("A1"), "B1", "though the same network hardware"],
    ["its hardware", recordOf("A1"), "-2", "there is no id to compare: /etc/machine-id has no id"],
    ["a record without an id", recordOf("-1"), "A2", "no id was known then"],
    ["a damaged record", { kind: "damaged", why: "it is not JSON" }, "A1", "damaged (it is not JSON)"],
  ];
  test.each(cases)("%s", (_, record, now, message) => {
    const refusal = error(record, now);
    expect(refusal.message).toContain(message);
    expect(refusal.hint).toContain("claudemesh daemon accept-host");
    expect(refusal.hint).toContain("claudemesh daemon remint");
    expect(judgeHost(record, factsOf(now), "warn")).toMatchObject({
      problems: [{ code: "host_changed", message: refusal.message, hint: refusal.hint }],
    });
  });
});

describe("a record that is damaged is another host's, and one from a newer version is left alone", () => {
  const damaged: RecordState = { kind: "damaged", why: "it is not JSON" };
  const newer: RecordState = { kind: "newer", version: 2 };
  const cases: [state: RecordState, policy: HostPolicy, outcome: string][] = [
    [damaged, "refuse", "refused host_changed"],
    [damaged, "warn", "warned = host_changed"],
    [damaged, "allow", "allowed A1"],
    [newer, "refuse", "newer = host_record_newer"],
    [newer, "warn", "newer = host_record_newer"],
    [newer, "allow", "newer = host_record_newer"],
  ];
  test.each(cases)("%j, %s", (state, policy, expected) => {
    expect(outcome(state, "A1", policy)).toBe(expected);
  });

  const good = { version: 1, recorded_at: "2026-01-31T10:00:00.000Z", host_id: idOf("a"), mac: null };
  const texts: [what: string, text: string, kind: RecordState["kind"]][] = [
    ["a good one", JSON.stringify(good), "known"],
    ["with fields of its own", JSON.stringify({ ...good, more: 1 }), "known"],
    ["empty", "", "damaged"],
    ["cut off", JSON.stringify(good).slice(0, 40), "damaged"],
    ["zeros", "\0".repeat(200), "damaged"],
    ["a list", "[]", "damaged"],
    ["null", "null", "damaged"],
    ["without a version", JSON.stringify({ ...good, version: undefined }), "damaged"],
    ["of version 0", JSON.stringify({ ...good, version: 0 }), "damaged"],
    ["of version 1.5", JSON.stringify({ ...good, version: 1.5 }), "damaged"],
    ["with a short hash", JSON.stringify({ ...good, host_id: { ...idOf("a"), sha256: "aa" } }), "damaged"],
    ["without what it knows", JSON.stringify({ ...good, host_id: undefined }), "damaged"],
    ["of version 2", JSON.stringify({ ...good, version: 2 }), "newer"],
    ["of version 2, with other fields", '{"version": 2, "tpm": "x"}', "newer"],
  ];
  test.each(texts)("%s", (_, text, kind) => {
    expect(parseHostRecord(text).kind).toBe(kind);
  });
});

// ── The file ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A Linux with this machine-id and this network card; `undefined` is none. */
function newSystem(machineId: string | undefined, mac?: string): HostSystem {
  const root = tempDir();
  mkdirSync(join(root, "etc"));
  if (machineId !== undefined) writeFileSync(join(root, "etc/machine-id"), `${machineId}\n`);
  return {
    platform: "linux",
    root,
    run: () => "",
    interfaces: () => (mac === undefined ? [] : [{ name: "eth0", mac, isVirtual: false }]),
  };
}

const hostA = "3d1219c7c4c5404aaa1f6d2a48adfda4";
const hostB = "89d45e1a2f3b4c5d6e7f8091a2b3c4d5";
const nowMs = Date.UTC(2026, 0, 31, 10);

function newPlace() {
  const dir = tempDir();
  const file = join(dir, "host_fingerprint.json");
  const record = (): HostRecord => v.parse(HostRecord, JSON.parse(readFileSync(file, "utf8")));
  return { dir, file, record };
}

function refusal(action: () => unknown): MeshError {
  try {
    action();
  } catch (error) {
    if (error instanceof MeshError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

describe("the file", () => {
  test("is written once, for its owner alone, and holds nothing of what it was made from", () => {
    const { file, record } = newPlace();
    const system = newSystem(hostA, "00:25:90:aa:bb:cc");
    expect(checkHost(file, "refuse", nowMs, system)).toEqual([]);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(record()).toMatchObject({
      version: 1,
      recorded_at: "2026-01-31T10:00:00.000Z",
      host_id: { source: "machine-id" },
      mac: { interface: "eth0" },
    });
    const text = readFileSync(file, "utf8");
    expect(text).not.toContain(hostA);
    expect(text.toLowerCase()).not.toContain("00:25:90:aa:bb:cc");
    const { ino } = statSync(file);
    expect(checkHost(file, "refuse", nowMs + 1, system)).toEqual([]);
    expect(statSync(file).ino).toBe(ino);
  });

  test("follows a change of the network card, and says so once", () => {
    const { file, record } = newPlace();
    checkHost(file, "refuse", nowMs, newSystem(hostA, "00:25:90:aa:bb:cc"));
    const other = newSystem(hostA, "00:25:90:dd:ee:ff");
    expect(checkHost(file, "refuse", nowMs + 1, other).map(({ code }) => code)).toEqual([
      "host_network_changed",
    ]);
    expect(checkHost(file, "refuse", nowMs + 2, other)).toEqual([]);
    expect(record().recorded_at).toBe("2026-01-31T10:00:00.001Z");
  });

  test("stays as it is when another host is refused or warned of, and when it is of a newer version or damaged", () => {
    const { file } = newPlace();
    checkHost(file, "refuse", nowMs, newSystem(hostA));
    const contents = [readFileSync(file, "utf8"), '{"version": 2}', "{ damaged"];
    for (const content of contents) {
      writeFileSync(file, content);
      for (const policy of ["refuse", "warn"] as const) {
        try {
          checkHost(file, policy, nowMs, newSystem(hostB));
        } catch (error) {
          expect(error).toBeInstanceOf(MeshError);
        }
        expect(readFileSync(file, "utf8")).toBe(content);
      }
    }
    expect(refusal(() => checkHost(file, "refuse", nowMs, newSystem(hostB))).code).toBe("host_changed");
  });

  test("is the new host's when any is allowed", () => {
    const { file } = newPlace();
    checkHost(file, "refuse", nowMs, newSystem(hostA));
    expect(checkHost(file, "allow", nowMs, newSystem(hostB))).toEqual([]);
    expect(checkHost(file, "refuse", nowMs, newSystem(hostB))).toEqual([]);
    expect(refusal(() => checkHost(file, "refuse", nowMs, newSystem(hostA))).code).toBe("host_changed");
  });

  test("has a random id where nothing can be read, and keeps it", () => {
    const { file, record } = newPlace();
    const codes = () => checkHost(file, "refuse", nowMs, newSystem(undefined)).map(({ code }) => code);
    expect(codes()).toEqual(["host_unidentifiable"]);
    const { random_id } = record();
    expect(random_id).toMatch(/^[0-9a-f]{32}$/);
    expect(codes()).toEqual(["host_unidentifiable"]);
    expect(record().random_id).toBe(random_id);
    expect(acceptHost(file, nowMs, newSystem(undefined)).now.random_id).toBe(random_id);
    expect(acceptHost(file, nowMs, newSystem(hostA)).now.random_id).toBeUndefined();
  });

  test("that cannot be written to is a problem, and no reason to stand still", () => {
    const { dir, file } = newPlace();
    const problems = checkHost(
      join(dir, "missing", "host_fingerprint.json"),
      "refuse",
      nowMs,
      newSystem(hostA),
    );
    expect(problems.map(({ code }) => code)).toEqual(["storage_failed"]);
    expect(existsSync(file)).toBe(false);
  });

  test("that is a directory is an error, not a first start", () => {
    const { file } = newPlace();
    mkdirSync(file);
    expect(refusal(() => checkHost(file, "allow", nowMs, newSystem(hostA))).code).toBe("storage_failed");
  });
});

describe("accepting a host", () => {
  const cases: [what: string, before: string | undefined, system: HostSystem, changes: string[]][] = [
    ["without a record", undefined, newSystem(hostA), ["there was no record of the host"]],
    ["with a damaged one", "{", newSystem(hostA), ["the record was damaged"]],
  ];
  test.each(cases)("%s", (_, before, system, changes) => {
    const { file } = newPlace();
    if (before !== undefined) writeFileSync(file, before);
    expect(acceptHost(file, nowMs, system)).toMatchObject({ before: null, changes });
    expect(checkHost(file, "refuse", nowMs, system)).toEqual([]);
  });

  test("says what changed, and the daemon then starts", () => {
    const { file } = newPlace();
    checkHost(file, "refuse", nowMs, newSystem(hostA, "00:25:90:aa:bb:cc"));
    const moved = newSystem(hostB, "00:25:90:dd:ee:ff");
    expect(acceptHost(file, nowMs, moved).changes).toEqual([
      "the host's id is another",
      "the network hardware is another",
    ]);
    expect(acceptHost(file, nowMs, moved).changes).toEqual([]);
    expect(acceptHost(file, nowMs, newSystem(hostB)).changes).toEqual([
      "the network hardware cannot be read any more",
    ]);
    expect(acceptHost(file, nowMs, moved).changes).toEqual(["the network hardware was not known before"]);
    expect(checkHost(file, "refuse", nowMs, moved)).toEqual([]);
  });

  test("settles what could not be told", () => {
    const { file } = newPlace();
    checkHost(file, "refuse", nowMs, newSystem(undefined));
    const system = newSystem(hostA);
    expect(checkHost(file, "refuse", nowMs, system).map(({ code }) => code)).toEqual(["host_unverified"]);
    acceptHost(file, nowMs, system);
    expect(checkHost(file, "refuse", nowMs, system)).toEqual([]);
  });

  test("leaves the record of a newer version alone", () => {
    const { file } = newPlace();
    writeFileSync(file, '{"version": 7}');
    expect(refusal(() => acceptHost(file, nowMs, newSystem(hostA))).code).toBe("host_record_newer");
    expect(readHostRecord(file)).toEqual({ kind: "newer", version: 7 });
  });

  test("works before a daemon has ever run", () => {
    const file = join(tempDir(), "daemon", "host_fingerprint.json");
    acceptHost(file, nowMs, newSystem(hostA));
    expect(checkHost(file, "refuse", nowMs, newSystem(hostA))).toEqual([]);
  });
});
