/**
 * `daemon recover` on files that were damaged by a seed: what SQLite can still read is never lost, no id is there twice, what was
 * damaged is told, and the old files stay byte for byte.
 */
import type { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { monotonicFactory } from "ulidx";
import { DirectoryStore, migrateDirectory } from "~/daemon/db/directory";
import { migrateInbox } from "~/daemon/db/inbox";
import { migrateOutbox, Outbox, type OutboxRow } from "~/daemon/db/outbox";
import { acceptSend, type SealDraft } from "~/daemon/ipc/handlers/send";
import { recoverDatabases } from "~/daemon/recovery";
import { writeFileAtomic } from "~/disk/file";
import { tryLock } from "~/disk/lock";
import { closeSqlite, findDamage, openReadOnly, openSqlite } from "~/disk/sqlite";
import type { MeshEntry } from "~/identity/config";
import { letterContent } from "~/identity/envelope";
import { generateKeyPair, seedOf } from "~/identity/keys";
import { openSealer } from "~/identity/sealer";
import { wireFingerprint } from "~/wire/fingerprint";
import { type DaemonPaths, daemonPaths, type HostPaths, hostPaths } from "~/wire/paths";
import type { Recovered } from "~/wire/recovered";
import { tempDir } from "../../support/temp-dir";

const pageBytes = 4096;
const nowMs = Date.UTC(2026, 5, 1);
const sealer = await openSealer();
const alice = generateKeyPair();
const bob = generateKeyPair();
const mesh: MeshEntry = {
  meshId: "mesh-1",
  memberId: "member-1",
  slug: "team",
  name: "Team",
  pubkey: alice.publicKey,
  secretKey: alice.secretKey,
  brokerUrl: "ws://127.0.0.1:9/ws",
  joinedAt: "2026-01-01T00:00:00.000Z",
};

/** Numbers in [0, 1), the same for the same seed (mulberry32). */
function chanceOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const contentOf = (draft: Pick<SealDraft, "clientMessageId" | "body">): string =>
  letterContent(
    {
      id: draft.clientMessageId,
      meshId: mesh.meshId,
      from: alice.publicKey,
      to: bob.publicKey,
      body: draft.body,
      meta: null,
      replyTo: null,
      agent: null,
      sentAt: "",
      expectsReply: false,
    },
    2,
  );

const seal = (draft: SealDraft) => ({
  target_spec: bob.publicKey,
  sender_pubkey: alice.publicKey,
  body_version: 2,
  ...sealer.seal(contentOf(draft), alice.secretKey, bob.publicKey),
  wire_fingerprint: wireFingerprint(draft.fingerprint, seedOf(alice.secretKey)),
});

interface Host {
  paths: HostPaths;
  files: DaemonPaths;
  /** By client_message_id. */
  truth: Map<string, OutboxRow>;
}

const rowsOf = (db: Database): OutboxRow[] =>
  db.query<OutboxRow, []>("SELECT * FROM outbox ORDER BY seq").all();

/** A host with messages in every state and of every length, some cleared already, as a daemon leaves them. */
function openHost(rows: number, { stopsCleanly = true }: { stopsCleanly?: boolean } = {}): Host {
  const paths = hostPaths({ HOME: tempDir() });
  const files = daemonPaths(paths.daemonDir);
  mkdirSync(files.dir, { recursive: true, mode: 0o700 });
  writeFileAtomic(paths.configFile, JSON.stringify({ version: 1, meshes: [mesh] }));
  const chance = chanceOf(rows);
  let wallMs = Date.UTC(2026, 0, 1);
  const newId = monotonicFactory(chance);
  const db = openSqlite(files.outbox);
  migrateOutbox(db);
  const outbox = new Outbox(db);
  for (let n = 0; n < rows; n++) {
    wallMs += 1000;
    const options = { db, now: () => wallMs, newId: () => newId(wallMs), seal };
    acceptSend(
      {
        to: "bob",
        message: `${n} ${"text ".repeat(Math.floor(chance() ** 3 * 2_000))}`,
        mesh: mesh.meshId,
        meta: n % 7 === 0 ? { n, tags: ["a", "b"] } : null,
        destination_kind: "dm",
        destination_ref: bob.publicKey,
        client_message_id: n % 3 === 0 ? `job-${n}` : null,
      },
      options,
    );
  }
  for (const { seq, id } of rowsOf(db)) {
    const state = chance();
    if (state < 0.9) outbox.markInflight(seq, wallMs + seq);
    if (state < 0.6) outbox.markDone(seq, `B${seq}`, wallMs + seq);
    else if (state < 0.7) outbox.markDead(seq, "too_large");
    else if (state < 0.75) outbox.markAborted(seq, "operator", `by-${id}`.slice(0, 30), wallMs + seq);
  }
  outbox.prune(wallMs + rows / 4, rows, () => false);
  const truth = new Map(rowsOf(db).map((row) => [row.client_message_id, row]));
  if (stopsCleanly) closeSqlite(db);
  else {
    // What a killed process leaves: the file and its log as they are.
    const [file, log] = [readFileSync(files.outbox), readFileSync(`${files.outbox}-wal`)];
    db.close();
    writeFileSync(files.outbox, file);
    writeFileSync(`${files.outbox}-wal`, log);
  }
  const inbox = openSqlite(files.inbox);
  migrateInbox(inbox);
  closeSqlite(inbox);
  return { paths, files, truth };
}

const recover = (host: Host, dryRun = false): Promise<Recovered> =>
  recoverDatabases({ paths: host.paths, dryRun, nowMs });

type Damaged = Extract<Recovered["outbox"], { state: "damaged" }>;

async function recoverOutbox(host: Host): Promise<Damaged> {
  const { outbox } = await recover(host);
  if (outbox.state !== "damaged") throw new Error(`the outbox is ${outbox.state}`);
  return outbox;
}

/** What a row becomes that was read whole. */
const expected = (row: OutboxRow): OutboxRow => ({
  ...row,
  status: row.status === "inflight" ? "pending" : row.status,
});

/** The rows that SQLite itself still reads as they were written, each asked for alone. */
function readableRows(path: string, truth: Host["truth"]): OutboxRow[] {
  let db: Database;
  try {
    db = openReadOnly(path);
  } catch {
    return [];
  }
  const readable: OutboxRow[] = [];
  for (const row of truth.values()) {
    try {
      const read = db.query<OutboxRow, [number]>("SELECT * FROM outbox WHERE seq = ?").get(row.seq);
      if (read !== null && Bun.deepEquals(read, row)) readable.push(row);
    } catch {
      // What cannot be read is what this is about.
    }
  }
  db.close();
  return readable;
}

function inspect(host: Host): { rows: OutboxRow[]; damage: string[] } {
  const db = openReadOnly(host.files.outbox);
  const rows = rowsOf(db);
  const damage = findDamage(db, "integrity_check");
  db.close();
  return { rows, damage };
}

const contentsOf = (directory: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(directory)
      // Whoever looks at a database that has no log makes an empty one.
      .filter((name) => !/\.lock$|-shm$/.test(name) && statSync(join(directory, name)).size > 0)
      .map((name) => [name, Bun.hash(readFileSync(join(directory, name))).toString(16)]),
  );

type Wound = (bytes: Buffer, chance: () => number) => void;
const somewhere = (bytes: Buffer, chance: () => number): number => Math.floor(chance() * bytes.length);
const wounds: Record<string, Wound> = {
  "pages overwritten": (bytes, chance) => {
    for (let n = 0; n < 6; n++) {
      const at = Math.floor(somewhere(bytes, chance) / pageBytes) * pageBytes;
      for (let index = at; index < at + pageBytes; index++) bytes[index] = Math.floor(chance() * 256);
    }
  },
  "pages zeroed": (bytes, chance) => {
    for (let n = 0; n < 8; n++) {
      const at = Math.floor(somewhere(bytes, chance) / pageBytes) * pageBytes;
      bytes.fill(0, at, at + pageBytes);
    }
  },
  "stretches overwritten": (bytes, chance) => {
    for (let n = 0; n < 10; n++) {
      const at = somewhere(bytes, chance);
      bytes.fill(0x5a, at, at + Math.floor(chance() * 700));
    }
  },
  "bits flipped": (bytes, chance) => {
    for (let n = 0; n < 200; n++) {
      const at = somewhere(bytes, chance);
      bytes[at] = (bytes[at] ?? 0) ^ (1 << Math.floor(chance() * 8));
    }
  },
  "the head lost": (bytes) => void bytes.fill(0x5a, 0, 100),
  "the first page lost": (bytes) => void bytes.fill(0, 0, pageBytes),
  "two pages exchanged": (bytes, chance) => {
    const [a, b] = [somewhere(bytes, chance), somewhere(bytes, chance)].map(
      (at) => Math.floor(at / pageBytes) * pageBytes,
    );
    const first = Buffer.from(bytes.subarray(a, (a ?? 0) + pageBytes));
    bytes.copy(bytes, a, b, (b ?? 0) + pageBytes);
    first.copy(bytes, b);
  },
};

describe("an outbox that was damaged at random", () => {
  const cases = Object.keys(wounds).flatMap((name) => [1, 2, 3].map((seed) => [name, seed] as const));
  test.each(cases)(
    "%s, seed %d: nothing readable is lost, no id is doubled, and what is missing is told",
    async (name, seed) => {
      const host = openHost(300, { stopsCleanly: seed % 2 === 0 });
      const bytes = readFileSync(host.files.outbox);
      wounds[name]?.(bytes, chanceOf(seed));
      writeFileSync(host.files.outbox, bytes);
      const before = contentsOf(host.files.dir);
      const readable = readableRows(host.files.outbox, host.truth);
      const { outbox } = await recover(host);
      const { rows, damage } = inspect(host);
      expect(damage).toEqual([]);
      if (outbox.state !== "damaged") {
        // The wound hit nothing that SQLite would trip over.
        expect([rows.length, contentsOf(host.files.dir)]).toEqual([host.truth.size, before]);
        return;
      }

      const bySeq = new Map(rows.map((row) => [row.seq, row]));
      for (const row of readable) expect(bySeq.get(row.seq)).toEqual(expected(row));
      for (const row of rows) {
        const written = host.truth.get(row.client_message_id);
        // An id can be garbled and still be one; a text cannot be another than the one that was accepted.
        if (written !== undefined && row.payload !== null)
          expect(row.payload).toBe(written.payload ?? "cleared before");
        if (
          row.status === "pending" &&
          row.sender_pubkey === alice.publicKey &&
          row.nonce !== null &&
          row.ciphertext !== null
        )
          expect(
            sealer.open({ nonce: row.nonce, ciphertext: row.ciphertext }, bob.secretKey, alice.publicKey),
          ).toBeDefined();
      }
      expect(rows.some((row) => row.status === "inflight")).toBe(false);
      const found = rows.filter((row) => host.truth.has(row.client_message_id)).length;
      expect(outbox).toMatchObject({ rows: rows.length });
      // Every id is there, or its loss is told; one that was garbled counts as found under its new name.
      expect(outbox.lost).toBeGreaterThanOrEqual(host.truth.size - rows.length);
      expect(outbox.lost).toBeLessThanOrEqual(host.truth.size - found);
      expect(outbox.ids_only).toBe(rows.filter((row) => row.last_error?.startsWith("damaged: only")).length);

      // The damaged file and its log are as they were.
      const after = contentsOf(host.files.dir);
      for (const suffix of ["", "-wal"]) {
        const kept = after[`outbox.db.damaged-${nowMs}${suffix}`];
        expect(kept).toBe(before[`outbox.db${suffix}`]);
      }
      // A new message comes after all of them.
      const db = openSqlite(host.files.outbox);
      acceptSend(
        {
          to: "bob",
          message: "new",
          destination_kind: "dm",
          destination_ref: bob.publicKey,
          client_message_id: "new",
        },
        { db, now: () => nowMs, newId: monotonicFactory() },
      );
      expect(rowsOf(db).at(-1)?.client_message_id).toBe("new");
      db.close();
      expect((await recover(host)).outbox).toEqual({ state: "sound" });
    },
  );
});

/** The pages of one b-tree, by SQLite's own account. */
function pagesOf(path: string, name: string, type: "leaf" | "internal" | "overflow"): number[] {
  const db = openReadOnly(path);
  const pages = db
    .query<{ pageno: number }, [string, string]>("SELECT pageno FROM dbstat WHERE name = ? AND pagetype = ?")
    .all(name, type)
    .map(({ pageno }) => pageno);
  db.close();
  return pages;
}

function overwrite(path: string, pages: readonly number[]): void {
  const bytes = readFileSync(path);
  for (const page of pages) bytes.fill(0x5a, (page - 1) * pageBytes, page * pageBytes);
  writeFileSync(path, bytes);
}

const clientIdIndex = "sqlite_autoindex_outbox_2";

describe("of an outbox whose", () => {
  test("way to its rows is lost, every row is found all the same", async () => {
    const host = openHost(300);
    const inner = pagesOf(host.files.outbox, "outbox", "internal");
    expect(inner.length).toBeGreaterThan(0);
    overwrite(host.files.outbox, inner);
    expect(readableRows(host.files.outbox, host.truth)).toEqual([]);
    const unfinished = [...host.truth.values()].filter(
      ({ status }) => status === "pending" || status === "inflight",
    );
    expect(await recoverOutbox(host)).toMatchObject({
      rows: 300,
      unfinished: unfinished.length,
      texts_lost: 0,
      ended: 0,
      ids_only: 0,
      lost: 0,
    });
    expect(inspect(host).rows).toEqual([...host.truth.values()].map(expected));
  });

  test("rows are lost, their ids stay used, from whichever index has them", async () => {
    const host = openHost(300);
    const leaves = pagesOf(host.files.outbox, "outbox", "leaf");
    overwrite(host.files.outbox, leaves.slice(3, 8));
    const readable = new Set(
      readableRows(host.files.outbox, host.truth).map(({ client_message_id }) => client_message_id),
    );
    const gone = [...host.truth.values()].filter(({ client_message_id }) => !readable.has(client_message_id));
    expect(gone.length).toBeGreaterThan(5);
    expect(await recoverOutbox(host)).toMatchObject({ rows: 300, ids_only: gone.length, lost: 0 });
    const { rows } = inspect(host);
    for (const { seq, id, client_message_id } of gone) {
      expect(rows.find((row) => row.client_message_id === client_message_id)).toMatchObject({
        seq,
        id,
        status: "dead",
        payload: null,
        last_error: expect.stringContaining("only its id could be read"),
      });
    }
    // None can be used for another message, or for what was perhaps sent.
    const db = openSqlite(host.files.outbox);
    const [taken] = gone;
    const again = acceptSend(
      {
        to: "bob",
        message: "another",
        destination_kind: "dm",
        destination_ref: bob.publicKey,
        client_message_id: taken?.client_message_id ?? "",
      },
      { db, now: () => nowMs, newId: monotonicFactory() },
    );
    db.close();
    expect(again).toMatchObject({ kind: "conflict", reason: "outbox_dead_fingerprint_mismatch" });
  });

  test("ids are garbled in the rows keeps the right ones used, and sends nothing that was sealed under another", async () => {
    const host = openHost(60);
    const bytes = readFileSync(host.files.outbox);
    const leaves = pagesOf(host.files.outbox, "outbox", "leaf");
    const garbled = [...host.truth.values()].filter(({ client_message_id }) =>
      client_message_id.startsWith("job-"),
    );
    for (const { id, client_message_id } of garbled) {
      for (const page of leaves) {
        const here = bytes.subarray((page - 1) * pageBytes, page * pageBytes);
        // A page may still hold an earlier state of a row as well.
        for (let at = 0; at >= 0; at = here.indexOf(id + client_message_id))
          if (at > 0) here.write("jqb", at + id.length, "latin1");
      }
    }
    writeFileSync(host.files.outbox, bytes);
    await recoverOutbox(host);
    const rows = new Map(inspect(host).rows.map((row) => [row.client_message_id, row]));
    const waiting = garbled.filter(({ status }) => status === "pending" || status === "inflight");
    expect(waiting.length).toBeGreaterThan(2);
    for (const { client_message_id } of garbled) expect(rows.get(client_message_id)?.status).toBe("dead");
    for (const { client_message_id, first_sent_at } of waiting) {
      const wrong = rows.get(client_message_id.replace("job", "jqb"));
      // What was never sent is sealed anew, as what it is called now.
      if (first_sent_at === null) expect(wrong).toMatchObject({ status: "pending", sender_pubkey: "" });
      else expect(wrong).toMatchObject({ status: "dead" });
    }
  });

  test("values cannot be is damaged, though SQLite does not say so of a file that it only reads", async () => {
    const host = openHost(60);
    const db = openSqlite(host.files.outbox);
    db.run("PRAGMA ignore_check_constraints = ON");
    db.run("UPDATE outbox SET priority = 'ZZZZ' WHERE seq = 7");
    closeSqlite(db);
    expect(await recoverOutbox(host)).toMatchObject({
      damage: "values in outbox cannot be",
      ids_only: 1,
      rows: 60,
    });
  });

  test("version cannot be is recovered, and not left to a newer claudemesh that there never was", async () => {
    for (const version of [0, -5, 0x5a5a5a5a]) {
      const host = openHost(20);
      const db = openSqlite(host.files.outbox);
      db.run(`PRAGMA user_version = ${version}`);
      closeSqlite(db);
      expect(await recoverOutbox(host)).toMatchObject({ rows: 20, lost: 0 });
    }
  });

  test("head says what no SQLite wrote is salvaged", async () => {
    const host = openHost(20);
    const bytes = readFileSync(host.files.outbox);
    // The schema format (https://www.sqlite.org/fileformat2.html#the_database_header).
    bytes.writeUInt32BE(68, 44);
    writeFileSync(host.files.outbox, bytes);
    expect(await recoverOutbox(host)).toMatchObject({ rows: 20, lost: 0 });
  });

  test("log is that of another database gives up no id of its own", async () => {
    const [host, stranger] = [openHost(60), openHost(30, { stopsCleanly: false })];
    const log = readFileSync(`${stranger.files.outbox}-wal`);
    // Were it whole, nothing could be seen of the database below it.
    log.write("?", Math.floor((log.length * 2) / 3), "latin1");
    writeFileSync(`${host.files.outbox}-wal`, log);
    await recoverOutbox(host);
    const ids = new Set(inspect(host).rows.map((row) => row.client_message_id));
    expect([...host.truth.keys()].filter((id) => !ids.has(id))).toEqual([]);
  });

  test("log has lost its head is damaged", async () => {
    const host = openHost(60, { stopsCleanly: false });
    const log = readFileSync(`${host.files.outbox}-wal`);
    log.fill(0x5a, 0, 32);
    writeFileSync(`${host.files.outbox}-wal`, log);
    expect(await recoverOutbox(host)).toMatchObject({
      damage: expect.stringContaining("log"),
      rows: 60,
      lost: 0,
    });
  });

  test("rows are there twice, once damaged, goes on from the sound ones", async () => {
    const host = openHost(60);
    const leaves = pagesOf(host.files.outbox, "outbox", "leaf");
    const bytes = readFileSync(host.files.outbox);
    for (const page of leaves) {
      const copy = Buffer.from(bytes.subarray((page - 1) * pageBytes, page * pageBytes));
      for (let at = copy.indexOf(" text"); at >= 0; at = copy.indexOf(" text", at + 1))
        copy.write("?", at, "latin1");
      // Behind the end, where only we look.
      writeFileSync(host.files.outbox, copy, { flag: "a" });
    }
    overwrite(host.files.outbox, pagesOf(host.files.outbox, "outbox", "internal"));
    expect(await recoverOutbox(host)).toMatchObject({ rows: 60, texts_lost: 0, ended: 0, lost: 0 });
  });

  test("rows and index are lost together, what is missing is counted", async () => {
    const host = openHost(300);
    const { outbox } = host.files;
    overwrite(outbox, [
      ...pagesOf(outbox, "outbox", "leaf").slice(3, 8),
      ...pagesOf(outbox, clientIdIndex, "leaf"),
      ...pagesOf(outbox, clientIdIndex, "internal"),
      ...pagesOf(outbox, "sqlite_autoindex_outbox_1", "leaf"),
      ...pagesOf(outbox, "sqlite_autoindex_outbox_1", "internal"),
    ]);
    const { rows, lost, ids_only } = await recoverOutbox(host);
    expect(lost).toBeGreaterThan(5);
    expect([rows + lost, ids_only]).toEqual([300, 0]);
  });

  test("long texts are damaged shows none of them as if it were right, and sends none of them", async () => {
    const host = openHost(300);
    overwrite(host.files.outbox, [
      ...pagesOf(host.files.outbox, "outbox", "overflow"),
      ...pagesOf(host.files.outbox, "outbox", "internal"),
    ]);
    const { rows, lost, texts_lost, ids_only } = await recoverOutbox(host);
    expect([rows, lost]).toEqual([300, 0]);
    expect(texts_lost + ids_only).toBeGreaterThan(20);
    for (const row of inspect(host).rows) {
      const written = host.truth.get(row.client_message_id);
      if (row.payload !== null) expect(row.payload).toBe(written?.payload ?? "");
      if (row.status !== "pending" || row.ciphertext === null || row.nonce === null) continue;
      const opened = sealer.open(
        { nonce: row.nonce, ciphertext: row.ciphertext },
        bob.secretKey,
        alice.publicKey,
      );
      if (row.sender_pubkey === alice.publicKey)
        expect(opened).toBe(
          contentOf({ clientMessageId: row.client_message_id, body: written?.payload ?? "" }),
        );
      // What is sealed anew by the next start has never been sent.
      else
        expect([row.sender_pubkey, row.first_sent_at, row.payload]).toEqual([
          "",
          null,
          written?.payload ?? "",
        ]);
    }
  });

  test("log is damaged in the middle loses nothing that was committed after that", async () => {
    const host = openHost(90, { stopsCleanly: false });
    const logFile = `${host.files.outbox}-wal`;
    const log = readFileSync(logFile);
    const frameBytes = pageBytes + 24;
    const frames = Math.floor((log.length - 32) / frameBytes);
    expect(frames).toBeGreaterThan(100);
    // One bit of the page that a frame in the middle carries.
    const at = 32 + Math.floor(frames / 2) * frameBytes + 24 + 100;
    log[at] = (log[at] ?? 0) ^ 1;
    writeFileSync(logFile, log);
    // To SQLite it ends there, and all is well.
    expect(inspect(host).damage).toEqual([]);
    expect(inspect(host).rows).not.toEqual([...host.truth.values()]);
    const { rows, lost, damage } = await recoverOutbox(host);
    expect([rows, lost]).toEqual([90, 0]);
    expect(damage).toContain("log");
    const statuses = inspect(host).rows.map(({ client_message_id, status }) => [client_message_id, status]);
    expect(statuses).toEqual(
      [...host.truth.values()]
        .map(expected)
        .map(({ client_message_id, status }) => [client_message_id, status]),
    );
  });

  test("log ends within the last commit is sound: nobody was told that it was kept", async () => {
    const host = openHost(120, { stopsCleanly: false });
    const logFile = `${host.files.outbox}-wal`;
    const log = readFileSync(logFile);
    // The first page of the last commit never got to the disk.
    const frameBytes = pageBytes + 24;
    let at = 32 + (Math.floor((log.length - 32) / frameBytes) - 1) * frameBytes;
    while (log.readUInt32BE(at - frameBytes + 4) === 0) at -= frameBytes;
    log.fill(0, at + 24, at + frameBytes);
    writeFileSync(logFile, log);
    expect((await recover(host)).outbox).toEqual({ state: "sound" });
  });

  test("end was cut off keeps what is before the cut", async () => {
    const host = openHost(300);
    truncateSync(host.files.outbox, 100 * pageBytes + 1234);
    const { rows, lost } = await recoverOutbox(host);
    expect(rows).toBeGreaterThan(50);
    expect(rows + lost).toBeLessThanOrEqual(300);
  });

  test("content is gone altogether begins anew, and says what was damaged", async () => {
    const host = openHost(20);
    truncateSync(host.files.outbox, 0);
    expect(await recoverOutbox(host)).toMatchObject({ damage: "it is empty", rows: 0 });
    expect(inspect(host)).toEqual({ rows: [], damage: [] });
  });

  test("keys are gone with config.json are taken over, too", async () => {
    const host = openHost(60);
    writeFileSync(host.paths.configFile, "{");
    overwrite(host.files.outbox, [1]);
    expect(await recoverOutbox(host)).toMatchObject({ rows: 60, ended: 0, lost: 0 });
  });
});

describe("the other databases", () => {
  test("that are empty are no sound ones: they begin anew", async () => {
    const host = openHost(5);
    for (const path of [host.files.inbox, host.files.directory]) writeFileSync(path, "");
    const { inbox, directory } = await recover(host);
    expect([inbox, directory]).toMatchObject([{ damage: "it is empty" }, { damage: "it is empty" }]);
  });

  test("a damaged inbox begins afresh, beyond the places of the old one", async () => {
    const host = openHost(5);
    writeFileSync(host.files.inbox, Buffer.alloc(20_000, "no database "));
    expect(await recover(host)).toMatchObject({
      outbox: { state: "sound" },
      inbox: { state: "damaged", kept_as: `${host.files.inbox}.damaged-${nowMs}` },
      directory: { state: "missing" },
    });
    const db = openReadOnly(host.files.inbox);
    expect(db.query("SELECT seq FROM sqlite_sequence WHERE name = 'inbox'").get()).toEqual({ seq: nowMs });
    db.close();
  });

  test("of a damaged directory, the keys that names were first seen with and the profile are kept", async () => {
    const host = openHost(5);
    const db = openSqlite(host.files.directory);
    migrateDirectory(db);
    const store = new DirectoryStore(db);
    const profile = {
      summary: "hi",
      status: "idle",
      visible: true,
      avatar: "",
      title: "",
      bio: "",
      capabilities: [],
    };
    store.setProfile(JSON.stringify(profile));
    const insert = db.query(
      "INSERT INTO first_keys (mesh, name, pubkey, seen_at) VALUES ('mesh-1', ?, ?, 1)",
    );
    const keys = new Map(Array.from({ length: 200 }, (_, n) => [`name-${n}`, generateKeyPair().publicKey]));
    for (const [name, key] of keys) insert.run(name, key);
    closeSqlite(db);
    // The page that leads to all the others.
    overwrite(host.files.directory, [1]);
    const { directory } = await recover(host);
    expect(directory).toMatchObject({ state: "damaged", first_keys: 200, profile: true });
    const mended = openSqlite(host.files.directory);
    expect(new DirectoryStore(mended).firstKeys("mesh-1")).toEqual(keys);
    expect(JSON.parse(new DirectoryStore(mended).profile() ?? "")).toEqual(profile);
    mended.close();
  });
});

describe("recovering", () => {
  test("sound databases, or none, changes nothing", async () => {
    const host = openHost(20);
    const before = contentsOf(host.files.dir);
    expect(await recover(host)).toMatchObject({ outbox: { state: "sound" }, inbox: { state: "sound" } });
    expect(contentsOf(host.files.dir)).toEqual(before);
  });

  test("as a dry run says the same and changes nothing", async () => {
    const host = openHost(100);
    overwrite(host.files.outbox, pagesOf(host.files.outbox, "outbox", "leaf").slice(2, 4));
    const before = contentsOf(host.files.dir);
    const dry = await recover(host, true);
    expect(contentsOf(host.files.dir)).toEqual(before);
    expect(await recover(host)).toEqual({ ...dry, dry_run: false });
  });

  test("under a running daemon is refused", async () => {
    const host = openHost(5);
    const lock = tryLock(host.files.lock);
    const refused = await recover(host).catch((error: unknown) => error);
    lock?.release();
    expect(refused).toMatchObject({ code: "already_running", hint: expect.stringContaining("daemon down") });
  });

  test("what a newer version wrote is refused, whatever else is damaged", async () => {
    const host = openHost(5);
    const db = openSqlite(host.files.outbox);
    db.run("PRAGMA user_version = 99");
    closeSqlite(db);
    writeFileSync(host.files.inbox, "damaged");
    const before = contentsOf(host.files.dir);
    expect(await recover(host).catch((error: unknown) => error)).toMatchObject({ code: "database_newer" });
    expect(contentsOf(host.files.dir)).toEqual(before);
  });

  test("goes on from what a run left that was killed, before and after it had decided", async () => {
    const host = openHost(100);
    overwrite(host.files.outbox, [1]);
    // Killed while it prepared.
    writeFileSync(`${host.files.outbox}.recovering`, "half of a database");
    writeFileSync(`${host.files.outbox}.recovering-wal`, "half of a log");
    expect(await recoverOutbox(host)).toMatchObject({ rows: 100, lost: 0 });
    const mended = readFileSync(host.files.outbox);
    // Killed between two of its moves.
    renameSync(host.files.outbox, `${host.files.outbox}.recovering`);
    const moves = ["", "-wal"].map((suffix) => ({
      from: host.files.outbox + suffix,
      to: `${host.files.outbox}.damaged-${nowMs}${suffix}`,
    }));
    writeFileSync(
      host.files.moves,
      JSON.stringify({
        version: 1,
        moves: [...moves, { from: `${host.files.outbox}.recovering`, to: host.files.outbox }],
      }),
    );
    expect((await recover(host)).outbox).toEqual({ state: "sound" });
    expect(readFileSync(host.files.outbox).equals(mended)).toBe(true);
    expect(existsSync(host.files.moves)).toBe(false);
  });
});
