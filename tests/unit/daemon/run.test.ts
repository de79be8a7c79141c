/** A daemon started for real on databases that are damaged or too new: what it refuses, what it moves aside, what it says. */
import { describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { DirectoryStore } from "~/daemon/db/directory";
import { runDaemon } from "~/daemon/run";
import { openSqlite } from "~/disk/sqlite";
import { MeshError } from "~/errors";
import { nowhereSpecial } from "~/settings/surroundings";
import { halfWrittenMs } from "~/wire/limits";
import { daemonPaths, hostPaths } from "~/wire/paths";
import { deadPid } from "../../support/processes";
import { tempDir } from "../../support/temp-dir";

/** A host whose daemon has run once, and stopped. */
async function openHost() {
  const paths = hostPaths({ HOME: tempDir() });
  const files = daemonPaths(paths.daemonDir);
  /** Runs until it is ready and `action` is done; what it threw, if it never was. */
  async function run(action: () => void | Promise<void> = () => undefined): Promise<MeshError | undefined> {
    const stop = new AbortController();
    const onReady = () => void Promise.resolve(action()).finally(() => stop.abort());
    try {
      await runDaemon(
        { paths, flags: { "daemon.tcp": false }, surroundings: nowhereSpecial, onReady },
        stop.signal,
      );
      return undefined;
    } catch (error) {
      if (error instanceof MeshError) return error;
      throw error;
    }
  }
  expect(await run()).toBeUndefined();
  const get = async (path: string): Promise<unknown> =>
    (await fetch(`http://localhost${path}`, { unix: files.socket })).json();
  return { paths, files, run, get };
}

const insertMessage = (inbox: ReturnType<typeof openSqlite>): void =>
  void inbox.run(
    `INSERT INTO inbox (id, mesh, sender_member_pubkey, sender_name, client_message_id, broker_message_id, body, body_version,
       priority, sent_at, received_at) VALUES ('i', 'm', 'k', 'bob', 'c', 'b', 'hi', 1, 'next', '', 0)`,
  );

const garbage = Buffer.alloc(20_000, "no database at all ");

describe("an outbox that is", () => {
  test("no database keeps the daemon from starting; it stays as it is, and the way out is named", async () => {
    const host = await openHost();
    writeFileSync(host.files.outbox, garbage);
    const refused = await host.run();
    expect(refused).toMatchObject({
      code: "database_corrupt",
      hint: expect.stringContaining("claudemesh daemon recover"),
    });
    expect(readFileSync(host.files.outbox).equals(garbage)).toBe(true);
  });

  test("cut down to nothing is not taken for a new one, in which every id would be free again", async () => {
    const host = await openHost();
    writeFileSync(host.files.outbox, "");
    expect(await host.run()).toMatchObject({
      code: "database_corrupt",
      message: expect.stringContaining("empty"),
    });
    expect(statSync(host.files.outbox).size).toBe(0);
  });

  test("followed by a log that is damaged before its end is not taken for all there is", async () => {
    const host = await openHost();
    const db = openSqlite(host.files.outbox);
    for (let n = 0; n < 3; n++) db.run(`CREATE TABLE t${n} (a)`);
    const log = readFileSync(`${host.files.outbox}-wal`);
    db.close();
    const damaged = Buffer.from(log);
    damaged[200] = (damaged[200] ?? 0) ^ 1;
    writeFileSync(`${host.files.outbox}-wal`, damaged);
    expect(await host.run()).toMatchObject({
      code: "database_corrupt",
      message: expect.stringContaining("log"),
    });
    expect(readFileSync(`${host.files.outbox}-wal`).equals(damaged)).toBe(true);
    // The same log as it was written is no obstacle.
    writeFileSync(`${host.files.outbox}-wal`, log);
    expect(await host.run()).toBeUndefined();
  });
});

test("a recovery or a restore that was killed after it had decided is brought to its end by the next start", async () => {
  const host = await openHost();
  const mended = readFileSync(host.files.outbox);
  writeFileSync(`${host.files.outbox}.recovering`, mended);
  writeFileSync(host.files.outbox, garbage);
  const moves = [
    { from: host.files.outbox, to: `${host.files.outbox}.damaged-1` },
    { from: `${host.files.outbox}.recovering`, to: host.files.outbox },
  ];
  writeFileSync(host.files.moves, JSON.stringify({ version: 1, moves }));
  expect(await host.run()).toBeUndefined();
  expect(readFileSync(`${host.files.outbox}.damaged-1`).equals(garbage)).toBe(true);
  expect(readdirSync(host.files.dir).filter((name) => /moves|recovering/.test(name))).toEqual([]);
});

test("a directory that is no database keeps the daemon from starting, and the way out is named", async () => {
  const host = await openHost();
  writeFileSync(host.files.directory, garbage);
  expect(await host.run()).toMatchObject({
    code: "database_corrupt",
    hint: expect.stringContaining("claudemesh daemon recover"),
  });
  expect(readFileSync(host.files.directory).equals(garbage)).toBe(true);
});

test("a directory that was cut down to nothing keeps it from starting, too: names would be trusted anew", async () => {
  const host = await openHost();
  writeFileSync(host.files.directory, "");
  // Of a host that was never used, nothing is lost.
  expect(await host.run()).toBeUndefined();
  const inbox = openSqlite(host.files.inbox);
  insertMessage(inbox);
  inbox.close();
  writeFileSync(host.files.directory, "");
  expect(await host.run()).toMatchObject({
    code: "database_corrupt",
    hint: expect.stringContaining("claudemesh daemon recover"),
  });
});

test("what is garbled of members and profile is done without", async () => {
  const host = await openHost();
  const db = openSqlite(host.files.directory);
  db.run("INSERT INTO profile (one, json) VALUES (1, '{\"summary')");
  db.run(
    "INSERT INTO members (mesh, pubkey, member_id, name, role, capabilities, joined_at) VALUES ('m', 'k', 'i', 'n', 'r', '[', '')",
  );
  expect(new DirectoryStore(db).members("m")).toEqual([]);
  db.close();
  expect(await host.run()).toBeUndefined();
});

test("an inbox that was cut down to nothing begins anew beyond the places of the old one, and health says so", async () => {
  const host = await openHost();
  writeFileSync(host.files.inbox, "");
  let health: unknown;
  expect(
    await host.run(async () => {
      health = await host.get("/v1/health");
    }),
  ).toBeUndefined();
  expect(health).toMatchObject({
    problems: expect.arrayContaining([expect.objectContaining({ code: "inbox_damaged" })]),
  });
  const db = openSqlite(host.files.inbox);
  const last = db.query<{ seq: number }, []>("SELECT seq FROM sqlite_sequence WHERE name = 'inbox'").get();
  db.close();
  expect(last?.seq).toBeGreaterThan(Date.UTC(2020, 0, 1));
});

describe("an inbox that is no database", () => {
  test("is moved aside, and health says where to", async () => {
    const host = await openHost();
    writeFileSync(host.files.inbox, garbage);
    let health: unknown;
    const failed = await host.run(async () => {
      health = await host.get("/v1/health");
    });
    expect(failed).toBeUndefined();
    expect(health).toMatchObject({
      problems: expect.arrayContaining([expect.objectContaining({ code: "inbox_damaged" })]),
    });
    const aside = readdirSync(host.files.dir).find((name) => /^inbox\.db\.corrupt-\d+$/.test(name)) ?? "";
    expect(readFileSync(join(host.files.dir, aside)).equals(garbage)).toBe(true);
  });

  test("begins anew beyond every place that a reader may remember of the old one", async () => {
    const host = await openHost();
    const insert = () => {
      const db = openSqlite(host.files.inbox);
      db.run(
        `INSERT INTO inbox (id, mesh, sender_member_pubkey, sender_name, client_message_id, broker_message_id, body,
           body_version, priority, sent_at, received_at) VALUES ('new', 'm', 'k', 'bob', 'c', 'b', 'hi', 1, 'next', '', 0)`,
      );
      db.close();
    };
    writeFileSync(host.files.inbox, garbage);
    let page: unknown;
    const failed = await host.run(async () => {
      insert();
      page = await host.get("/v1/inbox?after=5000000");
    });
    expect(failed).toBeUndefined();
    expect(page).toMatchObject({ items: [{ id: "new" }] });
  });
});

test("what a killed process had half written goes at the next start, but not what somebody may be writing", async () => {
  const host = await openHost();
  const left = [
    `daemon.json.${deadPid}.0a1b2c3d.tmp`,
    `outbox.db.before-v2.${deadPid}.0a1b2c3d.tmp`,
    `outbox.db.before-v2.${deadPid}.0a1b2c3d.tmp-journal`,
  ];
  const [fresh, other] = [`host_fingerprint.json.${deadPid}.ffffffff.tmp`, "notes.tmp"];
  const inDir = (name: string): string => join(dirname(host.files.lock), name);
  for (const name of [...left, fresh, other]) writeFileSync(inDir(name), "");
  const old = new Date(Date.now() - 2 * halfWrittenMs);
  for (const name of [...left, other]) utimesSync(inDir(name), old, old);
  expect(await host.run()).toBeUndefined();
  expect(
    readdirSync(dirname(host.files.lock))
      .filter((name) => name.includes("tmp"))
      .sort(),
  ).toEqual([fresh, other]);
});

test("so does what was to become keys or settings, also where a link leads; what is others' there stays", async () => {
  const { paths, run } = await openHost();
  const dotfiles = tempDir();
  writeFileSync(join(dotfiles, "settings"), "", { mode: 0o600 });
  symlinkSync(join(dotfiles, "settings"), paths.settingsFile);
  mkdirSync(join(paths.configDir, "pending"), { mode: 0o700 });
  const end = `${deadPid}.0a1b2c3d.tmp`;
  const left = [
    `${paths.configFile}.${end}`,
    `${paths.configFile}.before-remint-1.${end}`,
    join(paths.configDir, `remint.json.${end}`),
    join(paths.configDir, `pending/ab.json.${end}`),
    join(dotfiles, `settings.${end}`),
  ];
  const others = [join(paths.configDir, `notes.${end}`), join(dotfiles, `bashrc.${end}`)];
  const old = new Date(Date.now() - 2 * halfWrittenMs);
  for (const path of [...left, ...others]) {
    writeFileSync(path, "");
    utimesSync(path, old, old);
  }
  expect(await run()).toBeUndefined();
  expect([left.filter(existsSync), others.filter(existsSync)]).toEqual([[], others]);
});
