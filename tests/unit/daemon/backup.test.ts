/** A backup and its way back: everything or nothing, whatever was done to the file, and whatever is there already. */
import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { backUpHost } from "~/daemon/backup";
import { DirectoryStore, migrateDirectory } from "~/daemon/db/directory";
import { migrateInbox } from "~/daemon/db/inbox";
import { migrateOutbox } from "~/daemon/db/outbox";
import { acceptSend } from "~/daemon/ipc/handlers/send";
import { restoreHost } from "~/daemon/restore";
import { writeFileAtomic } from "~/disk/file";
import { tryLock } from "~/disk/lock";
import { closeSqlite, openReadOnly, openSqlite, wasStoppedUncleanly } from "~/disk/sqlite";
import { MeshError } from "~/errors";
import { generateKeyPair } from "~/identity/keys";
import { sealVault, vaultHeaderBytes } from "~/identity/vault";
import { type DaemonPaths, daemonPaths, type HostPaths, hostPaths } from "~/wire/paths";
import { cleanup } from "../../support/cleanup";
import { tempDir } from "../../support/temp-dir";

const nowMs = Date.UTC(2026, 5, 1);
const passphrase = "correct horse battery";
/** Next to nothing, so that a test can open many. */
const cost = { memoryKib: 64, passes: 1 };
const never = new AbortController().signal;
const keys = generateKeyPair();
const config = JSON.stringify({
  version: 1,
  kept: "what we do not know",
  meshes: [
    {
      meshId: "mesh-1",
      memberId: "member-1",
      slug: "team",
      name: "Team",
      pubkey: keys.publicKey,
      secretKey: keys.secretKey,
      brokerUrl: "ws://127.0.0.1:9/ws",
      joinedAt: "2026-01-01T00:00:00.000Z",
    },
  ],
});

interface Host {
  paths: HostPaths;
  files: DaemonPaths;
}

function emptyHost(): Host {
  const paths = hostPaths({ HOME: tempDir() });
  return { paths, files: daemonPaths(paths.daemonDir) };
}

/** A host with a message in its outbox, one in its inbox, and a profile. `mark` tells hosts apart. */
function openHost(mark = "first"): Host {
  const host = emptyHost();
  const { paths, files } = host;
  mkdirSync(files.dir, { recursive: true, mode: 0o700 });
  writeFileAtomic(paths.configFile, config);
  writeFileAtomic(paths.settingsFile, `[log]\nlevel = "debug" # ${mark}\n`);
  for (const [path, migrate] of [
    [files.outbox, migrateOutbox],
    [files.inbox, migrateInbox],
    [files.directory, migrateDirectory],
  ] as const) {
    const db = openSqlite(path);
    migrate(db);
    if (path === files.outbox) send(db, mark);
    if (path === files.inbox) {
      db.run(
        `INSERT INTO inbox (id, mesh, sender_member_pubkey, sender_name, client_message_id, broker_message_id, body, body_version,
           priority, sent_at, received_at) VALUES (?, 'm', 'k', 'bob', 'c', 'b', 'hi', 1, 'next', '', 0)`,
        [mark],
      );
    }
    if (path === files.directory) new DirectoryStore(db).setProfile(JSON.stringify({ summary: mark }));
    closeSqlite(db);
  }
  for (const path of [files.token, files.hostRecord, files.log]) writeFileSync(path, mark, { mode: 0o600 });
  return host;
}

function send(db: ReturnType<typeof openSqlite>, id: string): void {
  acceptSend(
    {
      to: "bob",
      message: `text of ${id}`,
      destination_kind: "dm",
      destination_ref: "bob",
      client_message_id: id,
    },
    { db, now: () => nowMs, newId: () => `row-${id}` },
  );
}

const backUp = ({ paths }: Host, file: string, changes: { force?: boolean; signal?: AbortSignal } = {}) =>
  backUpHost({ paths, file, passphrase, force: false, nowMs, signal: never, cost, ...changes });

const restore = (
  { paths }: Host,
  file: string,
  changes: { replace?: boolean; passphrase?: string; signal?: AbortSignal } = {},
) => restoreHost({ paths, file, passphrase, replace: false, nowMs, signal: never, ...changes });

async function refusalOf(promise: Promise<unknown>): Promise<MeshError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof MeshError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

/** Every file below a directory with what is in it. Empty logs and what goes with them come and go with whoever looks. */
function contentsOf(directory: string): Record<string, string> {
  if (!existsSync(directory)) return {};
  return Object.fromEntries(
    readdirSync(directory, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && !/\.lock$|-shm$|-wal$/.test(entry.name))
      .map(({ parentPath, name }) => join(parentPath, name))
      .map((path) => [path.slice(directory.length + 1), readFileSync(path, "latin1")]),
  );
}

/** What a host knows. */
function knowledgeOf({ paths, files }: Host): unknown {
  const ask = (path: string, sql: string): unknown => {
    const db = openReadOnly(path);
    try {
      return db.query(sql).values();
    } finally {
      db.close();
    }
  };
  return {
    config: readFileSync(paths.configFile, "utf8"),
    settings: readFileSync(paths.settingsFile, "utf8"),
    outbox: ask(files.outbox, "SELECT * FROM outbox"),
    inbox: ask(files.inbox, "SELECT * FROM inbox"),
    profile: ask(files.directory, "SELECT * FROM profile"),
  };
}

const newFile = (): string => join(tempDir(), "alice.backup");

describe("a backup", () => {
  test("is restored on another host, with keys, settings and messages, and what belongs to a host is made anew", async () => {
    const [host, other, file] = [openHost(), emptyHost(), newFile()];
    const before = contentsOf(host.paths.configDir);
    const made = await backUp(host, file);
    expect(contentsOf(host.paths.configDir)).toEqual(before);
    expect([made.bytes, statSync(file).mode & 0o777]).toEqual([statSync(file).size, 0o600]);
    expect(made.contents.map(({ name }) => name)).toEqual([
      "config.json",
      "config.toml",
      "outbox.db",
      "inbox.db",
      "directory.db",
    ]);
    const restored = await restore(other, file);
    expect(restored).toMatchObject({
      made_at: "2026-06-01T00:00:00.000Z",
      contents: made.contents,
      moved_aside: [],
    });
    expect(knowledgeOf(other)).toEqual(knowledgeOf(host));
    expect(
      readdirSync(other.files.dir)
        .filter((name) => !/-(shm|wal)$|\.lock$/.test(name))
        .sort(),
    ).toEqual(["directory.db", "host_fingerprint.json", "inbox.db", "outbox.db"].sort());
    expect(readFileSync(other.files.hostRecord, "utf8")).toContain('"version": 1');
    for (const path of [other.paths.configFile, other.files.outbox, other.files.inbox])
      expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test("is made under a running daemon, of everything that it has committed, and leaves its log alone", async () => {
    const [host, other, file] = [openHost(), emptyHost(), newFile()];
    const lock = tryLock(host.files.lock);
    cleanup(() => lock?.release());
    const db = openSqlite(host.files.outbox);
    cleanup(() => db.close());
    send(db, "in-the-log-alone");
    db.run("BEGIN IMMEDIATE");
    send2(db);
    await backUp(host, file);
    db.run("ROLLBACK");
    expect(wasStoppedUncleanly(host.files.outbox)).toBe(true);
    await restore(other, file);
    const copy = openReadOnly(other.files.outbox);
    expect(copy.query("SELECT client_message_id FROM outbox ORDER BY seq").values().flat()).toEqual([
      "first",
      "in-the-log-alone",
    ]);
    copy.close();
  });

  /** In a transaction that is still open. */
  const send2 = (db: ReturnType<typeof openSqlite>): void =>
    void db.run("UPDATE outbox SET status = 'dead' WHERE client_message_id = 'first'");

  test("is not kept from a shared directory by a name that somebody guessed, and leaves his file alone", async () => {
    const [host, file] = [openHost(), newFile()];
    const guessed = join(dirname(file), `.${basename(file)}.${process.pid}.tmp`);
    writeFileSync(guessed, "theirs");
    await backUp(host, file);
    expect(readFileSync(guessed, "utf8")).toBe("theirs");
  });

  test("never replaces a file unless it is told to", async () => {
    const [host, file] = [openHost(), newFile()];
    writeFileSync(file, "precious", { mode: 0o644 });
    expect(await refusalOf(backUp(host, file))).toMatchObject({
      code: "already_exists",
      hint: expect.stringContaining("--force"),
    });
    expect(readFileSync(file, "utf8")).toBe("precious");
    await backUp(host, file, { force: true });
    expect(statSync(file).mode & 0o777).toBe(0o600);
    await restore(emptyHost(), file);
    expect(readdirSync(join(file, ".."))).toEqual(["alice.backup"]);
  });

  test("of nothing, of a damaged database or of a config that does not parse is refused, and leaves no file", async () => {
    const file = newFile();
    expect(await refusalOf(backUp(emptyHost(), file))).toMatchObject({ code: "no_mesh" });
    const damaged = openHost();
    writeFileSync(damaged.files.inbox, "no database at all ".repeat(500));
    expect(await refusalOf(backUp(damaged, file))).toMatchObject({
      code: "database_corrupt",
      hint: expect.stringContaining("daemon recover"),
    });
    const emptied = openHost();
    writeFileSync(emptied.files.outbox, "");
    expect(await refusalOf(backUp(emptied, file))).toMatchObject({ code: "database_corrupt" });
    const broken = openHost();
    writeFileSync(broken.paths.configFile, "{");
    expect(await refusalOf(backUp(broken, file))).toMatchObject({ code: "config_invalid" });
    expect(readdirSync(join(file, ".."))).toEqual([]);
  });

  test("that cannot be written says so, and leaves nothing behind", async () => {
    const host = openHost();
    const before = contentsOf(host.paths.configDir);
    expect(await refusalOf(backUp(host, join(tempDir(), "not there", "x")))).toMatchObject({
      code: "storage_failed",
    });
    expect(contentsOf(host.paths.configDir)).toEqual(before);
    expect(existsSync(host.files.staging)).toBe(false);
  });

  test("that is interrupted leaves nothing behind", async () => {
    const [host, file, ending] = [openHost(), newFile(), new AbortController()];
    ending.abort(new MeshError("interrupted", "interrupted"));
    expect(await refusalOf(backUp(host, file, { signal: ending.signal }))).toMatchObject({
      code: "interrupted",
    });
    expect([readdirSync(join(file, "..")), existsSync(host.files.staging)]).toEqual([[], false]);
  });

  test("of a host whose daemon has never run holds its keys", async () => {
    const [host, other, file] = [emptyHost(), emptyHost(), newFile()];
    mkdirSync(host.paths.configDir, { recursive: true, mode: 0o700 });
    writeFileAtomic(host.paths.configFile, config);
    expect((await backUp(host, file)).contents.map(({ name }) => name)).toEqual(["config.json"]);
    await restore(other, file);
    expect(readFileSync(other.paths.configFile, "utf8")).toBe(config);
  });
});

describe("a restore", () => {
  test("with a wrong passphrase changes nothing, and makes nothing", async () => {
    const [host, other, file] = [openHost(), emptyHost(), newFile()];
    await backUp(host, file);
    expect(await refusalOf(restore(other, file, { passphrase: "incorrect horse" }))).toMatchObject({
      code: "wrong_passphrase",
    });
    expect(existsSync(other.paths.configDir)).toBe(false);
  });

  test("is not read together with a log that another database left behind", async () => {
    const [host, other, file] = [openHost(), openHost("other"), newFile()];
    await backUp(host, file);
    // What a killed daemon leaves, of whose files somebody removed all but one.
    const db = openSqlite(other.files.outbox);
    send(db, "in-the-log-alone");
    const log = readFileSync(`${other.files.outbox}-wal`);
    db.close();
    rmSync(other.paths.configDir, { recursive: true });
    mkdirSync(other.files.dir, { recursive: true, mode: 0o700 });
    writeFileSync(`${other.files.outbox}-wal`, log);
    expect(await refusalOf(restore(other, file))).toMatchObject({ code: "already_exists" });
    const { moved_aside } = await restore(other, file, { replace: true });
    expect(moved_aside.map((path) => readFileSync(path).equals(log))).toEqual([true]);
    expect(knowledgeOf(other)).toEqual(knowledgeOf(host));
  });

  test("gives what arrives from then on places that no reader has passed", async () => {
    const [host, other, file] = [openHost(), emptyHost(), newFile()];
    await backUp(host, file);
    for (const at of [nowMs, nowMs + 1000]) {
      await restoreHost({ paths: other.paths, file, passphrase, replace: true, nowMs: at, signal: never });
      const db = openSqlite(other.files.inbox);
      const { lastInsertRowid } = db.run(
        `INSERT INTO inbox (id, mesh, sender_member_pubkey, sender_name, client_message_id, broker_message_id, body, body_version,
           priority, sent_at, received_at) VALUES ('next', 'm', 'k', 'bob', 'next', 'b', 'hi', 1, 'next', '', 0)`,
      );
      expect(Number(lastInsertRowid)).toBe(at + 1);
      db.close();
    }
  });

  test("where something is already is refused; with --replace that is moved aside, log and all", async () => {
    const [host, other, file] = [openHost("first"), openHost("second"), newFile()];
    await backUp(host, file);
    const before = contentsOf(other.paths.configDir);
    expect(await refusalOf(restore(other, file))).toMatchObject({
      code: "already_exists",
      hint: expect.stringContaining("--replace"),
    });
    expect(contentsOf(other.paths.configDir)).toEqual(before);

    writeFileSync(`${other.files.outbox}-wal`, "a log that must not be taken for that of another database");
    const { moved_aside } = await restore(other, file, { replace: true });
    expect(knowledgeOf(other)).toEqual(knowledgeOf(host));
    const aside = join(other.files.dir, `before-restore-${nowMs}`);
    expect(moved_aside.sort()).toEqual(
      [
        `${other.paths.configFile}.before-restore-${nowMs}`,
        `${other.paths.settingsFile}.before-restore-${nowMs}`,
        join(aside, "outbox.db"),
        join(aside, "outbox.db-wal"),
        join(aside, "inbox.db"),
        join(aside, "directory.db"),
        join(aside, "host_fingerprint.json"),
      ].sort(),
    );
    const after = contentsOf(other.paths.configDir);
    for (const name of ["outbox.db", "inbox.db", "directory.db"])
      expect(after[`daemon/before-restore-${nowMs}/${name}`]).toBe(before[`daemon/${name}`] ?? "?");
    // What is not part of a backup stays.
    expect([after["daemon/local_token"], after["daemon/daemon.log"]]).toEqual(["second", "second"]);
  });

  test("follows a link to config.json, which stays one", async () => {
    const [host, other, file] = [openHost("first"), openHost("second"), newFile()];
    await backUp(host, file);
    const elsewhere = join(tempDir(), "config.json");
    writeFileAtomic(elsewhere, config.replace("Team", "Old"));
    const link = `${other.paths.configFile}.link`;
    symlinkSync(elsewhere, link);
    const linked = { ...other, paths: { ...other.paths, configFile: link } };
    await restore(linked, file, { replace: true });
    expect([readFileSync(elsewhere, "utf8"), lstatSync(link).isSymbolicLink()]).toEqual([config, true]);
  });

  test("under a running daemon is refused", async () => {
    const [host, file] = [openHost(), newFile()];
    await backUp(host, file);
    const lock = tryLock(host.files.lock);
    cleanup(() => lock?.release());
    const before = contentsOf(host.paths.configDir);
    expect(await refusalOf(restore(host, file, { replace: true }))).toMatchObject({
      code: "already_running",
    });
    expect(contentsOf(host.paths.configDir)).toEqual(before);
  });

  test("of a file that was changed or cut anywhere is refused, and nothing is changed", async () => {
    const [host, other, file] = [openHost("first"), openHost("second"), newFile()];
    await backUp(host, file);
    const whole = readFileSync(file);
    const before = contentsOf(other.paths.configDir);
    const chances = Array.from(
      { length: 60 },
      (_, n) => vaultHeaderBytes + Math.floor(((whole.length - vaultHeaderBytes) * n) / 60),
    );
    const places = [...Array.from({ length: vaultHeaderBytes }, (_, at) => at), ...chances, whole.length - 1];
    for (const at of places) {
      const changed = Buffer.from(whole);
      changed[at] = (changed[at] ?? 0) ^ 0x40;
      writeFileSync(file, changed);
      expect([at, (await refusalOf(restore(other, file, { replace: true }))).code]).toEqual([
        at,
        "backup_damaged",
      ]);
    }
    for (const length of [...chances, 0, 50, whole.length - 1]) {
      writeFileSync(file, whole.subarray(0, length));
      expect([length, (await refusalOf(restore(other, file, { replace: true }))).code]).toEqual([
        length,
        "backup_damaged",
      ]);
    }
    expect(contentsOf(other.paths.configDir)).toEqual(before);
    writeFileSync(file, whole);
    await restore(other, file, { replace: true });
    expect(knowledgeOf(other)).toEqual(knowledgeOf(host));
  });

  test("goes on from what one left that was killed, before and after it had decided", async () => {
    const [host, other, file] = [openHost("first"), openHost("second"), newFile()];
    await backUp(host, file);
    mkdirSync(other.files.restoring, { mode: 0o700 });
    writeFileSync(join(other.files.restoring, "outbox.db"), "half of a database");
    writeFileSync(`${other.paths.configFile}.restoring`, "half of a config");
    await restore(other, file, { replace: true });
    expect(knowledgeOf(other)).toEqual(knowledgeOf(host));
    expect(
      Object.keys(contentsOf(other.paths.configDir)).filter((name) => name.includes("restoring")),
    ).toEqual([]);

    // Decided, and killed before the first move: a backup sees to it first, so that it never saves half of each.
    const third = newFile();
    mkdirSync(other.files.restoring, { mode: 0o700 });
    const [moved, staged] = [join(other.files.dir, "aside.db"), join(other.files.restoring, "outbox.db")];
    writeFileSync(staged, readFileSync(join(other.files.dir, `before-restore-${nowMs}`, "outbox.db")));
    writeFileSync(
      other.files.moves,
      JSON.stringify({
        version: 1,
        moves: [
          { from: other.files.outbox, to: moved },
          { from: staged, to: other.files.outbox },
        ],
      }),
    );
    await backUp(other, third);
    const fourth = emptyHost();
    await restore(fourth, third);
    expect(knowledgeOf(fourth)).toMatchObject({ outbox: [expect.arrayContaining(["second"])] });
  });

  test("that is interrupted changes nothing", async () => {
    const [host, other, file, ending] = [
      openHost("first"),
      openHost("second"),
      newFile(),
      new AbortController(),
    ];
    await backUp(host, file);
    const before = contentsOf(other.paths.configDir);
    ending.abort(new MeshError("interrupted", "interrupted"));
    expect(await refusalOf(restore(other, file, { replace: true, signal: ending.signal }))).toMatchObject({
      code: "interrupted",
    });
    expect(contentsOf(other.paths.configDir)).toEqual(before);
  });

  /** Sealed as it should be, by somebody who knows the passphrase and wrote something else. */
  async function forge(manifest: unknown, content: Uint8Array): Promise<string> {
    const file = newFile();
    const text = Buffer.from(typeof manifest === "string" ? manifest : JSON.stringify(manifest));
    const length = Buffer.alloc(4);
    length.writeUInt32BE(text.length);
    const parts: Uint8Array[] = [];
    const pieces = (async function* () {
      yield Buffer.concat([length, text, content]);
    })();
    for await (const piece of sealVault(pieces, passphrase, cost)) parts.push(piece);
    writeFileSync(file, Buffer.concat(parts));
    return file;
  }
  const manifestOf = (...files: { name: string; bytes: number }[]) => ({
    version: 1,
    made_at: "2026-06-01T00:00:00.000Z",
    claudemesh_version: "1",
    files,
  });
  const newerDatabase = (): Buffer => {
    const path = join(tempDir(), "outbox.db");
    const db = openSqlite(path);
    migrateOutbox(db);
    db.run("PRAGMA user_version = 99");
    closeSqlite(db);
    return readFileSync(path);
  };
  const newer = newerDatabase();
  const forged: [what: string, manifest: unknown, content: Uint8Array, code: string][] = [
    [
      "a name that leads elsewhere",
      manifestOf({ name: "../../evil", bytes: 1 }),
      Buffer.from("x"),
      "backup_damaged",
    ],
    [
      "a name twice",
      manifestOf({ name: "config.toml", bytes: 0 }, { name: "config.toml", bytes: 0 }),
      Buffer.from(""),
      "backup_damaged",
    ],
    ["less than it lists", manifestOf({ name: "config.toml", bytes: 5 }), Buffer.from("x"), "backup_damaged"],
    [
      "more than it lists",
      manifestOf({ name: "config.toml", bytes: 1 }),
      Buffer.from("xx"),
      "backup_damaged",
    ],
    [
      "a huge config",
      manifestOf({ name: "config.toml", bytes: 2 ** 40 }),
      Buffer.from("x"),
      "backup_damaged",
    ],
    ["no manifest", "nothing", Buffer.from(""), "backup_damaged"],
    [
      "a config that does not parse",
      manifestOf({ name: "config.json", bytes: 1 }),
      Buffer.from("{"),
      "config_invalid",
    ],
    [
      "a database that is none",
      manifestOf({ name: "inbox.db", bytes: 9 }),
      Buffer.from("some text"),
      "backup_damaged",
    ],
    [
      "a database from a newer version",
      manifestOf({ name: "outbox.db", bytes: newer.length }),
      newer,
      "database_newer",
    ],
  ];
  test.each(forged)("of %s is refused, and nothing is changed", async (_what, manifest, content, code) => {
    const [other, file] = [openHost(), await forge(manifest, content)];
    const before = contentsOf(other.paths.configDir);
    expect(await refusalOf(restore(other, file, { replace: true }))).toMatchObject({ code });
    expect(contentsOf(other.paths.configDir)).toEqual(before);
  });

  test("of a file that is not there, or may not be read, says so", async () => {
    expect(await refusalOf(restore(emptyHost(), join(tempDir(), "none")))).toMatchObject({
      code: "storage_failed",
    });
    const file = newFile();
    mkdirSync(file);
    expect((await refusalOf(restore(emptyHost(), file))).code).toMatch(/^(storage_failed|backup_damaged)$/);
    chmodSync(file, 0o700);
  });
});
