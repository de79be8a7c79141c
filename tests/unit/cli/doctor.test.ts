/** What the doctor concludes from what it saw. The command itself is tried in tests/e2e/doctor.test.ts. */
import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { renderFindings } from "~/cli/doctor";
import { type BrokerFacts, judgeBroker } from "~/cli/doctor/broker";
import { judgeClock } from "~/cli/doctor/clock";
import {
  type AnswerFact,
  type DaemonFacts,
  type HolderFact,
  judgeDaemon,
  judgeLinks,
  judgeProblems,
  judgeTcp,
} from "~/cli/doctor/daemon";
import { type DatabaseFacts, judgeDatabase } from "~/cli/doctor/database";
import { bytesText, type DiskFacts, judgeDisk } from "~/cli/doctor/disk";
import { unique } from "~/cli/doctor/examine";
import { type FileFact, type FileRole, judgeFiles } from "~/cli/doctor/files";
import type { Finding } from "~/cli/doctor/finding";
import { judgeHostIdentity } from "~/cli/doctor/host-identity";
import { judgeLog } from "~/cli/doctor/log";
import { judgeMembership, type MembershipFacts } from "~/cli/doctor/membership";
import { within } from "~/cli/doctor/probe";
import { gatherPutAside, judgePutAside } from "~/cli/doctor/put-aside";
import {
  type InstalledService,
  judgeService,
  type ServiceContext,
  unitExecutable,
} from "~/cli/doctor/service";
import { judgeSettings } from "~/cli/doctor/settings";
import { MeshError } from "~/errors";
import { defineService } from "~/service/definition";
import { renderLaunchdPlist } from "~/service/launchd";
import { renderSystemdUnit } from "~/service/systemd";
import { defaultSettings } from "~/settings/knobs";
import { nowhereSpecial } from "~/settings/surroundings";
import { version } from "~/version";
import type { HealthReply } from "~/wire/ipc";
import { hostPaths } from "~/wire/paths";
import { tempDir } from "../../support/temp-dir";

/** `status check`, and a piece of the message and of what mends it. */
type Expected = [what: string, message: RegExp, fix?: RegExp];

function expectFindings(findings: readonly Finding[], expected: readonly Expected[]): void {
  expect(findings.map(({ status, check }) => `${status} ${check}`)).toEqual(expected.map(([what]) => what));
  for (const [index, [, message, fix]] of expected.entries()) {
    const finding = findings[index];
    expect(finding?.message ?? "").toMatch(message);
    if (fix === undefined) expect(finding?.fix).toBeUndefined();
    else expect(finding?.fix ?? "").toMatch(fix);
  }
}

test("what the daemon says as well is told once, where it was looked at", () => {
  const message = "/c/config.toml:1:1: there is no such key";
  const settings = judgeSettings({ kind: "broken", message, hint: "mend it", surroundings: nowhereSpecial });
  const said = judgeProblems([{ code: "config_invalid", message, hint: "mend it" }]);
  expect(unique([...settings, ...said])).toEqual(settings);
});

describe("membership", () => {
  const cases: [what: string, facts: MembershipFacts, expected: Expected][] = [
    [
      "a new user",
      { kind: "none" },
      ["warn keys", /no mesh yet/, /claudemesh mesh create NAME.*claudemesh join LINK/],
    ],
    ["no mesh", { kind: "meshes", meshes: [] }, ["warn keys", /no mesh yet/, /mesh create/]],
    [
      "two meshes",
      {
        kind: "meshes",
        meshes: [
          { slug: "a", brokerUrl: "" },
          { slug: "b", brokerUrl: "" },
        ],
      },
      ["pass keys", /2 meshes \(a, b\)/],
    ],
    [
      "a broken file",
      { kind: "broken", message: "/c is not JSON", path: "/c", isUnreadable: false },
      ["fail keys", /not JSON/, /mv '\/c' '\/c.broken'/],
    ],
    [
      "an unreadable file",
      { kind: "broken", message: "/c cannot be read (EACCES)", path: "/c", isUnreadable: true },
      ["fail keys", /EACCES/, /ls -l/],
    ],
  ];
  test.each(cases)("%s", (_, facts, expected) => expectFindings(judgeMembership(facts), [expected]));
});

describe("permissions", () => {
  const file = (role: FileRole, more: Partial<FileFact> = {}): FileFact => {
    const isDirectory = role.endsWith("_dir");
    const kind = isDirectory ? "directory" : role === "socket" ? "socket" : "file";
    return {
      role,
      path: `/h/${role}`,
      kind,
      uid: 7,
      mode: isDirectory ? 0o700 : 0o600,
      bytes: 1,
      mtimeMs: 0,
      ...more,
    };
  };
  const cases: [what: string, facts: FileFact[], expected: Expected][] = [
    [
      "all is well",
      [file("config_dir"), file("config_file"), file("socket")],
      ["pass permissions", /^3 files and directories: nobody else gets at them$/],
    ],
    ["nothing is there", [file("config_dir", { kind: "missing" })], ["pass permissions", /no files/]],
    [
      "a readable config directory",
      [file("config_dir", { mode: 0o755 })],
      ["pass permissions", /^1 file or directory: /],
    ],
    [
      "a readable config.toml",
      [file("settings_file", { mode: 0o644 })],
      ["pass permissions", /^1 file or directory: /],
    ],
    [
      "a config directory that a group writes to",
      [file("config_dir", { mode: 0o770 })],
      ["fail permissions", /mode 770/, /^chmod 700 \/h\/config_dir$/],
    ],
    [
      "a world-readable key",
      [file("config_file", { mode: 0o644 })],
      ["fail permissions", /open to other users \(mode 644\)/, /^chmod 600 \/h\/config_file$/],
    ],
    [
      "a mode with little in it",
      [file("config_file", { mode: 0o007 })],
      ["fail permissions", /mode 007/, /chmod 600/],
    ],
    ["a token", [file("token", { mode: 0o640 })], ["fail permissions", /mode 640/, /chmod 600/]],
    ["a database", [file("outbox", { mode: 0o644 })], ["warn permissions", /mode 644/, /chmod 600/]],
    [
      "a daemon directory",
      [file("daemon_dir", { mode: 0o750 })],
      ["fail permissions", /mode 750/, /chmod 700/],
    ],
    [
      "a link in place of the directory",
      [file("daemon_dir", { kind: "link" })],
      ["fail permissions", /symbolic link/, /^rm \/h\/daemon_dir$/],
    ],
    [
      "a file in place of the socket",
      [file("socket", { kind: "file" })],
      ["fail permissions", /is a file where a socket belongs/, /^mv /],
    ],
    [
      "somebody else's",
      [file("daemon_dir", { uid: 8 })],
      ["fail permissions", /user id 8, not to you \(7\)/, /^sudo chown -R 7 \/h\/daemon_dir$/],
    ],
    [
      "a path with a space",
      [file("config_file", { mode: 0o666, path: "/h/a b" })],
      ["fail permissions", /a b/, /^chmod 600 '\/h\/a b'$/],
    ],
    [
      "a file that one has closed to oneself",
      [file("settings_file", { mode: 0o200 })],
      [
        "fail permissions",
        /settings_file is closed to you yourself \(mode 200\)/,
        /^chmod u\+rw \/h\/settings_file$/,
      ],
    ],
    ["a file that is only read", [file("settings_file", { mode: 0o444 })], ["pass permissions", /^1 file/]],
    [
      "somebody else's lock",
      [file("lock", { uid: 0 })],
      ["warn permissions", /user id 0/, /^sudo chown 7 \/h\/lock$/],
    ],
    [
      "what cannot be looked at",
      [file("token", { kind: "unreadable", error: "EACCES" })],
      ["fail permissions", /EACCES/, /^ls -ld/],
    ],
  ];
  test.each(cases)("%s", (_, facts, expected) => expectFindings(judgeFiles(facts, 7), [expected]));

  test("root reads what is closed to others", () => {
    expectFindings(judgeFiles([file("config_dir", { mode: 0o000, uid: 0 })], 0), [
      ["pass permissions", /^1 file/],
    ]);
  });

  test("a directory that is closed is told once, and not again for every file in it", () => {
    const files = [
      file("daemon_dir", { mode: 0o600, path: "/h/d" }),
      file("token", { kind: "unreadable", error: "EACCES", path: "/h/d/token" }),
      file("outbox", { kind: "unreadable", error: "EACCES", path: "/h/d/outbox.db" }),
    ];
    expectFindings(judgeFiles(files, 7), [
      ["fail permissions", /\/h\/d is closed to you.*600/, /^chmod 700 \/h\/d$/],
    ]);
  });

  test("every fault is told, and where there are no user ids nobody is a stranger", () => {
    const two = [file("config_dir", { mode: 0o777 }), file("token", { mode: 0o644 })];
    expect(judgeFiles(two, 7).map(({ status }) => status)).toEqual(["fail", "fail"]);
    expect(judgeFiles([file("token", { uid: 8 })], undefined)[0]?.status).toBe("pass");
  });
});

describe("settings", () => {
  test("valid, with what the surroundings change and how to have it otherwise", () => {
    const changed = [{ name: "daemon.tcp", value: "false", why: "container (/.dockerenv)" }];
    const facts = {
      kind: "valid",
      settings: defaultSettings,
      set: 2,
      changed,
      surroundings: nowhereSpecial,
    } as const;
    expectFindings(judgeSettings(facts), [
      ["pass settings", /valid and sets 2/],
      ["pass settings", /container \(\/\.dockerenv\).*claudemesh config set daemon\.tcp true/],
    ]);
  });

  test("broken: with the file's own words", () => {
    const facts = {
      kind: "broken",
      message: "config.toml:3: x",
      hint: "y",
      surroundings: nowhereSpecial,
    } as const;
    expectFindings(judgeSettings(facts), [["fail settings", /^config\.toml:3: x$/, /^y$/]]);
  });
});

describe("host", () => {
  const problems = [{ code: "host_network_changed", message: "changed", hint: "nothing" }];
  test("as the next start will judge it", () => {
    const error = new MeshError("host_changed", "another host", { hint: "claudemesh daemon accept-host" });
    const write = { host_id: null, mac: null };
    expectFindings(judgeHostIdentity({ kind: "judged", judgement: { kind: "refused", error } }), [
      ["fail host", /another host/, /accept-host/],
    ]);
    expectFindings(
      judgeHostIdentity({ kind: "judged", judgement: { kind: "same", write: undefined, problems } }),
      [["warn host", /changed/, /nothing/]],
    );
    expectFindings(
      judgeHostIdentity({ kind: "judged", judgement: { kind: "same", write: undefined, problems: [] } }),
      [["pass host", /belong to this host/]],
    );
    expectFindings(judgeHostIdentity({ kind: "judged", judgement: { kind: "first", write, problems: [] } }), [
      ["pass host", /not recorded yet/],
    ]);
    expectFindings(
      judgeHostIdentity({ kind: "unreadable", error: new MeshError("storage_failed", "x", { hint: "y" }) }),
      [["fail host", /x/, /y/]],
    );
  });
});

describe("disk", () => {
  const disk: DiskFacts = { path: "/h", freeBytes: 1e12, freeInodes: 1e6, unwritable: undefined };
  const cases: [what: string, facts: DiskFacts | undefined, expected: Expected[]][] = [
    ["room", disk, [["pass disk", /1\.0 TB are free at \/h/]]],
    ["without inodes that are counted", { ...disk, freeInodes: undefined }, [["pass disk", /free/]]],
    ["little", { ...disk, freeBytes: 200e6 }, [["warn disk", /only 200 MB/, /df -h \/h/]]],
    ["next to nothing", { ...disk, freeBytes: 1e6 }, [["fail disk", /only 1\.0 MB/, /df -h/]]],
    [
      "no inodes",
      { ...disk, freeInodes: 3 },
      [
        ["fail disk", /3 more files/, /df -i/],
        ["pass disk", /free/],
      ],
    ],
    [
      "read-only",
      { ...disk, unwritable: "EROFS" },
      [
        ["fail disk", /read-only/, /remount,rw/],
        ["pass disk", /free/],
      ],
    ],
    [
      "forbidden",
      { ...disk, unwritable: "EACCES" },
      [
        ["fail disk", /EACCES/, /chmod u\+rwx/],
        ["pass disk", /free/],
      ],
    ],
    ["silent", undefined, [["warn disk", /cannot be found out/, /df/]]],
  ];
  test.each(cases)("%s", (_, facts, expected) => expectFindings(judgeDisk(facts), expected));

  test("sizes in words", () => {
    expect([0, 999, 1000, 123_456, 1_500_000_000].map(bytesText)).toEqual([
      "0 bytes",
      "999 bytes",
      "1.0 KB",
      "123 KB",
      "1.5 GB",
    ]);
  });
});

// ── The daemon ──────────────────────────────────────────────────────────────────────────────────────────────────────

const health = (more: Partial<HealthReply> = {}): HealthReply => ({
  ok: true,
  pid: 42,
  uptime_s: 60,
  meshes: {},
  outbox: { counts: { pending: 0, inflight: 0, done: 0, dead: 0, aborted: 0 } },
  inbox: { unread: 0 },
  problems: [],
  ...more,
});
const answering = (
  more: Partial<HealthReply> = {},
  daemonVersion: string | undefined = version,
): AnswerFact => ({
  kind: "health",
  health: health(more),
  version: daemonVersion,
  schema: 3,
});
const silent = (
  code: "daemon_unreachable" | "timed_out" | "sandboxed" | "answer_lost" | "path_unsafe",
): AnswerFact => ({
  kind: "failed",
  code,
  message: `it is ${code}`,
  hint: `mend ${code}`,
});
const daemon = (answer: AnswerFact, holder: HolderFact, more: Partial<DaemonFacts> = {}): DaemonFacts => ({
  socket: "/h/daemon.sock",
  lock: "/h/daemon.lock",
  holder,
  answer,
  detour: undefined,
  tcp: { kind: "not_asked" },
  ...more,
});
const none: HolderFact = { kind: "none" };
const held: HolderFact = { kind: "process", pid: 42 };
const socketFile: FileFact = {
  role: "socket",
  path: "/h/daemon.sock",
  kind: "socket",
  uid: 7,
  mode: 0o600,
  bytes: 0,
  mtimeMs: 0,
};

describe("daemon, lock, socket and version", () => {
  const up: Expected = ["pass daemon", /pid 42/];
  const lock: Expected = ["pass lock", /one daemon/];
  const socket: Expected = ["pass socket", /this process can use/];
  const same: Expected = ["pass version", /both/];
  const cases: [
    what: string,
    facts: DaemonFacts,
    hasMeshes: boolean,
    files: FileFact[],
    expected: Expected[],
  ][] = [
    ["healthy", daemon(answering(), held), true, [socketFile], [up, lock, socket, same]],
    [
      "ephemeral",
      daemon(answering({ ephemeral: { until: "2026-01-01T00:00:00.000Z" } }), held),
      true,
      [],
      [["pass daemon", /ephemeral, nothing outlives it, ends at 2026/], lock, socket, same],
    ],
    [
      "another holds the lock",
      daemon(answering(), { kind: "process", pid: 43 }),
      true,
      [],
      [up, ["fail lock", /43.*42.*two daemons/, /kill 42; claudemesh daemon restart/], socket, same],
    ],
    [
      "an orphan",
      daemon(answering(), none),
      true,
      [],
      [up, ["fail lock", /does not hold the lock.*replaced/, /kill 42; claudemesh daemon up/], socket, same],
    ],
    [
      "a holder that is hidden",
      daemon(answering(), { kind: "hidden", why: "w" }),
      true,
      [],
      [up, ["warn lock", /unknown: w/, /restart/], socket, same],
    ],
    [
      "by TCP",
      daemon(answering(), held, { detour: "going through http://127.0.0.1:1 instead" }),
      true,
      [],
      [up, lock, ["warn socket", /going through/, /sandbox/], same],
    ],
    [
      "of another version",
      daemon(answering({}, "99.0.0"), held),
      true,
      [],
      [up, lock, socket, ["warn version", /the daemon runs version 99\.0\.0/, /^claudemesh daemon restart$/]],
    ],
    [
      "that does not say its version",
      daemon({ kind: "health", health: health(), version: undefined, schema: undefined }, held),
      true,
      [],
      [up, lock, socket, ["warn version", /did not say/, /version/]],
    ],
    [
      "down",
      daemon(silent("daemon_unreachable"), none),
      true,
      [],
      [["fail daemon", /no daemon runs/, /^claudemesh daemon up$/]],
    ],
    [
      "down, where there is nothing to do for it",
      daemon(silent("daemon_unreachable"), none),
      false,
      [],
      [["warn daemon", /no daemon runs$/, /daemon up/]],
    ],
    [
      "dead, with its socket left",
      daemon(silent("daemon_unreachable"), none),
      true,
      [socketFile],
      [
        ["warn socket", /left over/, /daemon up/],
        ["fail daemon", /no daemon runs/, /daemon up/],
      ],
    ],
    [
      "alive without a socket",
      daemon(silent("daemon_unreachable"), held),
      true,
      [],
      [["fail socket", /pid 42.*nothing listens/, /restart/]],
    ],
    [
      "alive somewhere",
      daemon(silent("daemon_unreachable"), { kind: "hidden", why: "another container" }),
      true,
      [],
      [["fail lock", /somebody holds \/h\/daemon\.lock.*another container/, /^lsof \/h\/daemon\.lock/]],
    ],
    [
      "kept out by somebody else",
      daemon(silent("daemon_unreachable"), { kind: "other", pid: 7, program: "sqlite3" }),
      true,
      [],
      [["fail lock", /process 7 \(sqlite3\) holds \/h\/daemon\.lock.*none can start/, /^ps -fp 7 /]],
    ],
    [
      "without its record",
      daemon(answering(), { kind: "other", pid: 42, program: "claudemesh" }),
      true,
      [],
      [up, lock, socket, same],
    ],
    [
      "without its lock, which somebody else has",
      daemon(answering(), { kind: "other", pid: 7, program: "sqlite3" }),
      true,
      [],
      [up, ["fail lock", /process 7 \(sqlite3\) holds.*pid 42/, /^ps -fp 7 .*restart$/], socket, same],
    ],
    [
      "hanging",
      daemon(silent("timed_out"), held),
      true,
      [socketFile],
      [["fail daemon", /pid 42.*hangs/, /restart/]],
    ],
    [
      "a stranger that hangs",
      daemon(silent("timed_out"), none),
      true,
      [socketFile],
      [["fail daemon", /hangs/, /lsof \/h\/daemon\.sock/]],
    ],
    [
      "talking nonsense",
      daemon(silent("answer_lost"), held),
      true,
      [],
      [["fail daemon", /answer_lost/, /restart/]],
    ],
    [
      "behind a sandbox",
      daemon(silent("sandboxed"), none),
      true,
      [],
      [["fail socket", /sandboxed/, /mend sandboxed/]],
    ],
    ["below a file", daemon(silent("path_unsafe"), none), true, [], [["fail socket", /path_unsafe/, /mend/]]],
    [
      "with a lock that cannot be looked at",
      daemon(silent("daemon_unreachable"), { kind: "unknown", message: "m", hint: "h" }),
      true,
      [],
      [["fail lock", /^m$/, /^h$/]],
    ],
  ];
  test.each(cases)("%s", (_, facts, hasMeshes, files, expected) =>
    expectFindings(judgeDaemon(facts, { hasMeshes, files }), expected),
  );
});

describe("what the daemon says itself", () => {
  test("each problem has the check that it belongs to; those that stop messages are failures", () => {
    const problem = (code: string, hint?: string) => ({
      code,
      message: "m",
      ...(hint === undefined ? {} : { hint }),
    });
    const codes = ["storage_full", "identity_in_use", "broker_unreachable", "host_unverified", "brand_new"];
    expectFindings(judgeProblems(codes.map((code) => problem(code, "h"))), [
      ["fail disk", /^m \(storage_full\)$/, /^h$/],
      ["fail link", /identity_in_use/, /h/],
      ["warn link", /broker_unreachable/, /h/],
      ["warn host", /host_unverified/, /h/],
      ["warn problem", /brand_new/, /h/],
    ]);
    expectFindings(judgeProblems([problem("brand_new")]), [["warn problem", /m/, /daemon status/]]);
    const invalid = ["/h/config.json", "/h/config.toml:2:1"].map((place) => ({
      code: "config_invalid",
      message: `${place}: m`,
    }));
    expectFindings(judgeProblems(invalid), [
      ["fail keys", /config\.json/, /./],
      ["fail settings", /config\.toml/, /./],
    ]);
  });

  test("links that are open or on their way; the others are problems", () => {
    const since = "2026-01-01T00:00:00.000Z";
    const links = judgeLinks({
      a: { link: "open", since, rtt_ms: 3.4 },
      b: { link: "connecting", since },
      c: { link: "waiting", since },
    });
    expectFindings(links, [
      ["pass link", /^a: connected.*3 ms/],
      ["warn link", /^b: connecting/, /status/],
    ]);
  });

  const tcp: [
    what: string,
    facts: Pick<DaemonFacts, "tcp" | "answer">,
    isOn: boolean,
    expected: Expected[],
  ][] = [
    [
      "serves",
      { tcp: { kind: "serves", origin: "http://127.0.0.1:1" }, answer: answering() },
      true,
      [["pass tcp", /:1/]],
    ],
    [
      "is off by flag",
      {
        tcp: { kind: "failed", message: "x", hint: undefined },
        answer: answering({ started_with: ["--no-tcp"] }),
      },
      true,
      [["pass tcp", /socket only/]],
    ],
    [
      "is off by setting",
      { tcp: { kind: "failed", message: "x", hint: undefined }, answer: answering() },
      false,
      [["pass tcp", /socket only/]],
    ],
    [
      "is somebody else",
      { tcp: { kind: "failed", message: "x", hint: "y" }, answer: answering() },
      true,
      [["warn tcp", /x/, /^y$/]],
    ],
    ["was not asked", { tcp: { kind: "not_asked" }, answer: silent("timed_out") }, true, []],
  ];
  test.each(tcp)("the TCP listener %s", (_, facts, isOn, expected) => {
    expectFindings(judgeTcp(facts, { ...defaultSettings, "daemon.tcp": isOn }), expected);
  });
});

describe("databases", () => {
  const cases: [what: string, facts: DatabaseFacts, expected: Expected[]][] = [
    ["in a daemon", { kind: "open_in_daemon", schema: 3, problems: [] }, [["pass database", /schema 3/]]],
    [
      "in a daemon that has told of damage",
      { kind: "open_in_daemon", schema: 3, problems: ["database_corrupt"] },
      [],
    ],
    ["behind a closed door", { kind: "hidden" }, []],
    ["none yet", { kind: "none_yet" }, [["pass database", /none yet/]]],
    ["of a daemon that hangs", { kind: "not_looked_at" }, [["warn database", /does not answer/, /doctor$/]]],
    ["large", { kind: "too_long" }, [["warn database", /longer than/, /recover --dry-run/]]],
    ["newer", { kind: "failed", message: "m", hint: "h" }, [["fail database", /m/, /h/]]],
    [
      "one damaged",
      {
        kind: "checked",
        databases: { outbox: { state: "damaged", damage: "page 3" }, inbox: { state: "sound" } },
      },
      [["fail database", /the outbox is damaged: page 3/, /^claudemesh daemon recover$/]],
    ],
    ["sound", { kind: "checked", databases: { outbox: { state: "sound" } } }, [["pass database", /sound/]]],
  ];
  test.each(cases)("%s", (_, facts, expected) => expectFindings(judgeDatabase(facts), expected));
});

describe("what was put aside", () => {
  const dayMs = 86_400_000;
  const nowMs = Date.UTC(2026, 10, 20);
  const aside = (days: number, bytes = 12_345) => ({
    path: "/h/inbox.db.corrupt-1",
    atMs: nowMs - days * dayMs,
    bytes,
  });
  test("is told when contents of that age are kept nowhere else, and while there is something in it", () => {
    expectFindings(judgePutAside([aside(29), aside(400, 0)], nowMs, 30), []);
    expectFindings(judgePutAside([aside(31)], nowMs, 30), [
      ["warn kept", /inbox\.db\.corrupt-1 \(12\.3 KB\) was put aside on 2026-10-20/, /^rm -r \/h\/inbox/],
    ]);
  });

  test("is found with its size, whatever is in it; copies that go by themselves are not", async () => {
    const dir = tempDir();
    mkdirSync(join(dir, "before-restore-5"));
    writeFileSync(join(dir, "before-restore-5/outbox.db"), "12345");
    writeFileSync(join(dir, "inbox.db.damaged-7"), "123");
    writeFileSync(join(dir, "outbox.db.damaged-7"), "123");
    writeFileSync(join(dir, "outbox.db.before-v4"), "123");
    const found = await gatherPutAside(dir);
    expect(found.sort((a, b) => a.atMs - b.atMs)).toEqual([
      { path: join(dir, "before-restore-5"), atMs: 5, bytes: 5 },
      { path: join(dir, "inbox.db.damaged-7"), atMs: 7, bytes: 3 },
    ]);
    expect(await gatherPutAside(join(dir, "nowhere"))).toEqual([]);
  });
});

describe("log", () => {
  const log = { path: "/h/daemon.log", bytes: 5000, files: 2, unwritable: undefined };
  test("its size, level and whether it can be written", () => {
    expectFindings(judgeLog(log, defaultSettings), [["pass log", /5\.0 KB in 2 files, from level info on/]]);
    expectFindings(judgeLog(log, undefined), [["pass log", /5\.0 KB/]]);
    expectFindings(judgeLog(undefined, defaultSettings), []);
    expectFindings(judgeLog({ ...log, unwritable: "EROFS" }, defaultSettings), []);
    expectFindings(judgeLog({ ...log, unwritable: "EACCES" }, defaultSettings), [
      ["fail log", /EACCES/, /chmod u\+rw/],
    ]);
    expectFindings(judgeLog({ ...log, bytes: 1e10 }, defaultSettings), [
      ["warn log", /not rotated/, /restart/],
    ]);
    expectFindings(judgeLog(log, { ...defaultSettings, "log.level": "debug" }), [
      ["warn log", /debug/, /config unset log\.level/],
    ]);
  });
});

// ── Brokers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const nowMs = Date.UTC(2026, 5, 1);
const dayMs = 86_400_000;
const answered = { ok: true, value: { status: 200, version: "1.0.0", problems: [], skewMs: 0 } } as const;
const broker = (more: Partial<BrokerFacts> = {}): BrokerFacts => ({
  shownUrl: "wss://b.example/ws",
  slugs: ["team"],
  host: "b.example",
  port: 443,
  names: { ok: true, value: ["192.0.2.1"] },
  connection: { ok: true, value: undefined },
  certificate: { ok: true, value: { isTrusted: true, fault: undefined, validToMs: nowMs + 90 * dayMs } },
  health: answered,
  ...more,
});
const certificate = (isTrusted: boolean, days: number, fault?: string): Partial<BrokerFacts> => ({
  certificate: { ok: true, value: { isTrusted, fault, validToMs: nowMs + days * dayMs } },
});

describe("brokers", () => {
  const dns: Expected = ["pass dns", /b\.example is 192\.0\.2\.1/];
  const tls: Expected = ["pass tls", /trusted, until 2026-08-30/];
  const well: Expected = ["pass broker", /the broker of team answers.*1\.0\.0/];
  const cases: [what: string, facts: BrokerFacts, expected: Expected[]][] = [
    ["all is well", broker(), [dns, tls, well]],
    ["an address without TLS", broker({ names: undefined, certificate: undefined }), [well]],
    [
      "a name that nobody knows",
      broker({
        names: { ok: false, why: "ENOTFOUND" },
        connection: undefined,
        certificate: undefined,
        health: undefined,
      }),
      [["fail dns", /b\.example, the broker of team, is not found \(ENOTFOUND\)/, /name server/]],
    ],
    [
      "nobody listens",
      broker({ connection: { ok: false, why: "ECONNREFUSED" }, certificate: undefined, health: undefined }),
      [dns, ["fail broker", /b\.example:443 \(ECONNREFUSED\)/, /nc -vz b\.example 443/]],
    ],
    [
      "nobody listens on this very host",
      broker({
        host: "127.0.0.1",
        names: undefined,
        connection: { ok: false, why: "ECONNREFUSED" },
        certificate: undefined,
        health: undefined,
      }),
      [["fail broker", /ECONNREFUSED/, /^claudemesh broker up --port 443$/]],
    ],
    [
      "no TLS there",
      broker({ certificate: { ok: false, why: "ECONNRESET" }, health: { ok: false, why: "x" } }),
      [
        dns,
        ["fail tls", /does not speak TLS/, /ws:\/\//],
        ["fail broker", /did not answer/, /broker status/],
      ],
    ],
    [
      "an expired certificate",
      broker(certificate(false, -3, "CERT_HAS_EXPIRED")),
      [dns, ["fail tls", /expired on 2026-05-29/, /Renew/]],
    ],
    [
      "one that will expire",
      broker(certificate(true, 13.5)),
      [dns, ["warn tls", /expires in 13 days/, /Renew/], well],
    ],
    ["one that has just enough time", broker(certificate(true, 14)), [dns, ["pass tls", /until/], well]],
    [
      "one of an unknown authority",
      broker(certificate(false, 90, "DEPTH_ZERO_SELF_SIGNED_CERT")),
      [
        dns,
        [
          "fail tls",
          /not trusted here \(DEPTH_ZERO_SELF_SIGNED_CERT\)/,
          /export NODE_EXTRA_CA_CERTS=.*; claudemesh daemon restart/,
        ],
      ],
    ],
    [
      "one for another name",
      broker(certificate(false, 90, "ERR_TLS_CERT_ALTNAME_INVALID")),
      [dns, ["fail tls", /ALTNAME/, /another name/]],
    ],
    [
      "silence",
      broker({ health: { ok: false, why: "no answer" } }),
      [dns, tls, ["fail broker", /did not answer/, /broker status/]],
    ],
    [
      "something else",
      broker({ health: { ok: true, value: { status: 404, version: undefined, problems: [], skewMs: 0 } } }),
      [dns, tls, ["warn broker", /HTTP 404.*not a broker/, /mesh list/]],
    ],
    [
      "one with problems of its own",
      broker({
        health: { ok: true, value: { status: 200, version: "1", problems: ["disk", "x", "y"], skewMs: 0 } },
      }),
      [dns, tls, ["warn broker", /says: disk, and 2 more/, /broker status/]],
    ],
  ];
  test.each(cases)("%s", (_, facts, expected) =>
    expectFindings(judgeBroker(facts, { nowMs, openMeshes: new Set() }), expected),
  );

  test("what fails here while the daemon is connected fails for this process alone", () => {
    const facts = broker({ names: { ok: false, why: "EAI_AGAIN" } });
    expectFindings(judgeBroker(facts, { nowMs, openMeshes: new Set(["team"]) }), [
      ["warn dns", /from this process; the daemon is connected/, /name server/],
    ]);
  });
});

describe("clock", () => {
  const off = (host: string, skewMs: number): BrokerFacts =>
    broker({ host, health: { ok: true, value: { ...answered.value, skewMs } } });
  const judge = (brokers: BrokerFacts[], more: Partial<Parameters<typeof judgeClock>[0]> = {}) =>
    judgeClock({ nowMs, platform: "linux", files: [], brokers, ...more });
  const cases: [what: string, findings: Finding[], expected: Expected[]][] = [
    ["right", judge([off("b", 400)]), [["pass clock", /within 1 s of the clock of b/]]],
    [
      "a little behind",
      judge([off("b", 20_000)]),
      [["warn clock", /20 s behind the clock of b/, /timedatectl/]],
    ],
    [
      "a day ahead",
      judge([off("b", -dayMs)]),
      [["fail clock", /24 h ahead of the clock of b/, /set-ntp true/]],
    ],
    ["on macOS", judge([off("b", dayMs)], { platform: "darwin" }), [["fail clock", /behind/, /sntp/]]],
    [
      "right, and a broker wrong",
      judge([off("b", 0), off("c", dayMs)]),
      [
        ["pass clock", /of b$/],
        ["warn clock", /clock of c; other brokers agree with this host/, /that broker/],
      ],
    ],
    ["nobody to ask", judge([broker({ health: undefined })]), [["pass clock", /2026-06-01.*plausible/]]],
    ["in 1970", judge([], { nowMs: 1000 }), [["fail clock", /1970.*cannot be/, /timedatectl/]]],
    [
      "before what was written",
      judge([], { files: [{ ...socketFile, mtimeMs: nowMs + dayMs }] }),
      [["warn clock", /daemon\.sock was written at 2026-06-02/, /timedatectl/]],
    ],
  ];
  test.each(cases)("%s", (_, findings, expected) => expectFindings(findings, expected));
});

// ── The service ─────────────────────────────────────────────────────────────────────────────────────────────────────

describe("service", () => {
  const installed: InstalledService = {
    kind: "installed",
    unitPath: "/u/claudemesh-daemon.service",
    scope: "user",
    rivals: [],
    isEnabled: true,
    executable: "/bin/claudemesh",
    executableVersion: version,
    state: { pid: 42, text: "active (running)", givenUp: false, hasFailed: false },
    startCommand: "claudemesh daemon up",
    bootCommand: "systemctl --user enable --now x",
    installCommand: "claudemesh daemon install-service",
    logCommand: "journalctl x",
  };
  /** Of the system: another command's business, and not asked. */
  const ofSystem: InstalledService = {
    ...installed,
    unitPath: "/etc/systemd/system/claudemesh-daemon-ann.service",
    scope: "system",
    state: undefined,
    startCommand: "sudo systemctl restart claudemesh-daemon-ann.service",
    bootCommand: "sudo claudemesh daemon install-service --system",
    installCommand: "sudo claudemesh daemon install-service --system",
  };
  const context: ServiceContext = { health: health(), hasMeshes: true, surroundings: nowhereSpecial };
  const failed = { pid: undefined, text: "failed (failed)", givenUp: true, hasFailed: true };
  const stopped = { pid: undefined, text: "inactive (dead)", givenUp: true, hasFailed: false };
  const managed = (managed_unit: string, managed_scope: "user" | "system" = "user") =>
    ({ managed_by: "systemd", managed_unit, managed_scope }) as const;
  const cases: [
    what: string,
    facts: Parameters<typeof judgeService>[0],
    more: Partial<ServiceContext>,
    expected: Expected[],
  ][] = [
    ["runs", installed, {}, [["pass service", /runs the daemon/]]],
    [
      "runs, by what the daemon says, where its manager cannot be asked",
      { ...installed, state: undefined },
      { health: health(managed("claudemesh-daemon.service")) },
      [["pass service", /runs the daemon/]],
    ],
    [
      "runs, as one of the system",
      ofSystem,
      { health: health(managed("claudemesh-daemon-ann.service", "system")) },
      [["pass service", /daemon-ann\.service runs the daemon/]],
    ],
    [
      "none",
      { kind: "none", hasManager: true },
      {},
      [["warn service", /no service is installed/, /install-service$/]],
    ],
    [
      "none, before any mesh",
      { kind: "none", hasManager: true },
      { hasMeshes: false },
      [["pass service", /no service/]],
    ],
    ["none to be had", { kind: "none", hasManager: false }, {}, [["pass service", /no service manager/]]],
    [
      "none in a container",
      { kind: "none", hasManager: true },
      { surroundings: { container: "/.dockerenv", ci: undefined } },
      [["pass service", /a container needs none/]],
    ],
    [
      "none in CI",
      { kind: "none", hasManager: true },
      { surroundings: { container: undefined, ci: "CI" } },
      [["pass service", /CI job needs none/]],
    ],
    [
      "none for an ephemeral daemon",
      { kind: "none", hasManager: true },
      { health: health({ ephemeral: {} }) },
      [["pass service", /ephemeral/]],
    ],
    ["silent", { kind: "unknown", why: "w" }, {}, [["warn service", /w/, /install-service --print/]]],
    [
      "its executable is gone",
      { ...installed, executableVersion: undefined },
      {},
      [["fail service", /\/bin\/claudemesh, which is not there/, /^claudemesh daemon install-service$/]],
    ],
    [
      "another version",
      { ...ofSystem, executableVersion: "9.9.9" },
      { health: health(managed("claudemesh-daemon-ann.service", "system")) },
      [["warn service", /version 9\.9\.9/, /^sudo claudemesh daemon install-service --system$/]],
    ],
    [
      "not ours",
      { ...installed, executable: undefined },
      {},
      [["warn service", /does not say/, /install-service/]],
    ],
    [
      "not started at boot",
      { ...installed, isEnabled: false },
      {},
      [["warn service", /not started at boot/, /enable --now/]],
    ],
    [
      "failed",
      { ...installed, state: failed },
      { health: undefined },
      [["fail service", /does not run: failed/, /^journalctl x; then: claudemesh daemon install-service$/]],
    ],
    [
      "stopped by somebody",
      { ...installed, state: stopped },
      { health: undefined },
      [
        [
          "warn service",
          /inactive \(dead\); it starts the daemon at the next boot/,
          /^claudemesh daemon up$/,
        ],
      ],
    ],
    [
      "between two attempts",
      { ...installed, state: { ...stopped, text: "activating (auto-restart)", givenUp: false } },
      { health: undefined },
      [
        [
          "warn service",
          /auto-restart\), and runs no daemon/,
          /^journalctl x shows why; claudemesh daemon up$/,
        ],
      ],
    ],
    [
      "not to be asked",
      { ...installed, state: undefined },
      { health: undefined },
      [["pass service", /starts the daemon at boot or login$/]],
    ],
    [
      "one of the system whose daemon does not answer",
      ofSystem,
      { health: undefined },
      [
        [
          "warn service",
          /runs no daemon that answers/,
          /^sudo systemctl restart claudemesh-daemon-ann\.service$/,
        ],
      ],
    ],
    [
      "another daemon answers",
      installed,
      { health: health({ pid: 7 }) },
      [["fail service", /42.*7 answers/, /^claudemesh daemon down; claudemesh daemon up$/]],
    ],
    [
      "started by hand beside it",
      { ...installed, state: stopped },
      {},
      [
        [
          "warn service",
          /pid 42\) was started by hand, and not by \/u\/claudemesh-daemon\.service, which is inactive \(dead\).*starts another one$/,
          /^claudemesh daemon down; claudemesh daemon up$/,
        ],
      ],
    ],
    [
      "started by hand with flags, which the service has not",
      { ...installed, state: failed },
      { health: health({ started_with: ["--no-tcp"], managed_by: null }) },
      [
        [
          "warn service",
          /by hand \(--no-tcp\).*failed.*without these flags, which config\.toml can hold$/,
          /daemon up$/,
        ],
      ],
    ],
    [
      "started by hand beside one of the system",
      ofSystem,
      { health: health({ managed_by: null }) },
      [
        [
          "warn service",
          /by hand, and not by \/etc/,
          /^claudemesh daemon down; sudo systemctl restart claudemesh-daemon-ann\.service$/,
        ],
      ],
    ],
    [
      "run by a unit of one's own beside it",
      { ...installed, state: stopped },
      { health: health(managed("mesh.service")) },
      [["warn service", /is run by systemd as mesh\.service, and not by \/u/, /daemon up$/]],
    ],
    [
      "run by launchd, which goes by labels",
      { ...installed, unitPath: "/L/com.claudemesh.daemon.plist", state: undefined },
      {
        health: health({
          managed_by: "launchd",
          managed_unit: "com.claudemesh.daemon",
          managed_scope: "user",
        }),
      },
      [["pass service", /runs the daemon/]],
    ],
    [
      "two of them",
      { ...installed, rivals: [{ path: "/etc/x", remove: "sudo y" }] },
      {},
      [["warn service", /\/etc\/x/, /^sudo y$/]],
    ],
  ];
  test.each(cases)("%s", (_, facts, more, expected) =>
    expectFindings(judgeService(facts, { ...context, ...more }), expected),
  );

  test.each([
    ["/usr/bin/claudemesh"],
    ["/home/a b/100%/claudemesh"],
    ["/x/it's/cl\"aude\\mesh"],
    ["/$HOME/a&b<c>"],
  ])("the executable %s is read back from the units that name it", (executable) => {
    const account = { name: "ann", uid: 7, gid: 7, home: "/home/ann" };
    const service = defineService({
      scope: "user",
      account,
      executable,
      paths: hostPaths({ HOME: "/home/ann" }),
      env: {},
    });
    expect(unitExecutable(renderSystemdUnit(service))).toBe(executable);
    expect(unitExecutable(renderLaunchdPlist(service))).toBe(executable);
  });

  test("a unit that is none of ours has none", () => {
    expect(unitExecutable("[Service]\nType=oneshot\n")).toBeUndefined();
    expect(unitExecutable("")).toBeUndefined();
  });
});

// ── Showing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

describe("what is shown", () => {
  const findings: Finding[] = [
    { check: "keys", status: "pass", message: "well" },
    { check: "permissions", status: "fail", message: "bad\u001b[2J", fix: "chmod" },
    { check: "tls", status: "warn", message: "soon", fix: "renew" },
  ];

  test("is aligned, harmless, and ends with a count", () => {
    expect(renderFindings(findings, false)).toBe(
      [
        "pass  keys         well",
        "fail  permissions  bad\\x1b[2J",
        "                   fix: chmod",
        "warn  tls          soon",
        "                   fix: renew",
        "",
        "1 failed, 1 warning",
      ].join("\n"),
    );
  });

  test("has colour only when asked for", () => {
    expect(renderFindings(findings, true)).toContain("\u001b[31mfail\u001b[0m  permissions");
    expect(renderFindings(findings.slice(0, 1), false)).toEndWith("nothing failed, 0 warnings");
  });
});

test("what takes too long is given up", async () => {
  expect(
    await within(
      1,
      () => new Promise<string>(() => undefined),
      () => "late",
    ),
  ).toBe("late");
  expect(
    await within(
      60_000,
      async () => "there",
      () => "late",
    ),
  ).toBe("there");
});
