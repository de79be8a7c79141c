/** How databases are opened and brought up to date: durable for sure, never half, and never back. */
import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import {
  closeSqlite,
  findDamage,
  migrate,
  openReadOnly,
  openSqlite,
  schemaVersionOf,
  wasStoppedUncleanly,
} from "~/disk/sqlite";
import { MeshError } from "~/errors";
import { cleanup } from "../../support/cleanup";
import { root } from "../../support/cli";
import { deadPid } from "../../support/processes";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";

/** Opened as the project does, and closed after the test. */
function open(path: string): Database {
  const db = openSqlite(path);
  cleanup(() => db.close());
  return db;
}

const newPath = (): string => join(tempDir(), "a.db");
const modeOf = (path: string): number => statSync(path).mode & 0o777;
const pragma = (db: Database, name: string): unknown =>
  Object.values(db.query<Record<string, unknown>, []>(`PRAGMA ${name}`).get() ?? {})[0];

function errorOf(action: () => unknown): MeshError {
  try {
    action();
  } catch (error) {
    if (error instanceof MeshError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

describe("opening", () => {
  const wanted: [pragma: string, value: unknown][] = [
    ["journal_mode", "wal"],
    // 2 is FULL: a commit is on disk when it returns.
    ["synchronous", 2],
    ["foreign_keys", 1],
    ["busy_timeout", 5_000],
    ...(process.platform === "darwin" ? ([["fullfsync", 1]] as [string, unknown][]) : []),
  ];
  test.each(wanted)("sets %s to %p", (name, value) => {
    const path = newPath();
    expect(pragma(open(path), name)).toBe(value);
    // And again when the file is there already.
    expect(pragma(open(path), name)).toBe(value);
  });

  test("makes files for their owner only, those beside it included", () => {
    const path = newPath();
    const db = open(path);
    db.run("CREATE TABLE t (a)");
    expect([path, `${path}-wal`, `${path}-shm`].map(modeOf)).toEqual([0o600, 0o600, 0o600]);
  });
  test("takes what others could read away from them", () => {
    const path = newPath();
    open(path).close();
    chmodSync(path, 0o644);
    open(path);
    expect(modeOf(path)).toBe(0o600);
  });
  test("works in memory", () => {
    const db = open(":memory:");
    migrate(db, ["CREATE TABLE t (a)"]);
    expect(schemaVersionOf(db)).toBe(1);
  });
  test("refuses a query whose parameters are not all there", () => {
    const db = open(newPath());
    expect(db.query("SELECT $a AS a").get({ a: 1 })).toEqual({ a: 1 });
    expect(() => db.query("SELECT $a AS a").get({ b: 1 })).toThrow();
  });

  const impossible: [what: string, prepare: (path: string) => void, code: string][] = [
    ["a text", (path) => writeFileSync(path, "no database. ".repeat(500)), "database_corrupt"],
    ["a database that lost its head", (path) => damage(path, 0, 100), "database_corrupt"],
    ["a directory", (path) => mkdirSync(path), "storage_failed"],
  ];
  test.each(impossible)("%s fails with a code, and leaves nothing open", (_, prepare, code) => {
    const path = newPath();
    prepare(path);
    const before = readdirSync("/dev/fd").length;
    for (let round = 0; round < 5; round++) {
      const error = errorOf(() => openSqlite(path));
      expect<string>(error.code).toBe(code);
      expect(error.message).toContain(path);
    }
    expect(readdirSync("/dev/fd").length).toBe(before);
  });
  test("in no directory fails with a code", () => {
    const path = join(tempDir(), "not there", "a.db");
    expect(errorOf(() => openSqlite(path)).code).toBe("storage_failed");
  });
});

describe("bringing a schema up to date", () => {
  const steps = [
    "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT); INSERT INTO t (b) VALUES ('one'), ('two')",
    "ALTER TABLE t ADD COLUMN c TEXT DEFAULT 'c'",
    "CREATE INDEX t_b ON t (b); UPDATE t SET b = upper(b)",
  ];
  const rows = (db: Database) => db.query("SELECT * FROM t ORDER BY a").all();
  const whole = [
    { a: 1, b: "ONE", c: "c" },
    { a: 2, b: "TWO", c: "c" },
  ];

  test("takes every step from nothing", () => {
    const db = open(newPath());
    expect(schemaVersionOf(db)).toBe(0);
    migrate(db, steps);
    expect([schemaVersionOf(db), rows(db)]).toEqual([3, whole]);
  });
  test.each([0, 1, 2, 3])("takes the steps that are missing from version %d", (from) => {
    const path = newPath();
    const earlier = open(path);
    migrate(earlier, steps.slice(0, from));
    earlier.close();
    const db = open(path);
    expect(schemaVersionOf(db)).toBe(from);
    migrate(db, steps);
    migrate(db, steps);
    expect([schemaVersionOf(db), rows(db)]).toEqual([3, whole]);
  });
  test("leaves the version before a step that fails, whole", () => {
    const db = open(newPath());
    const error = errorOf(() =>
      migrate(db, [...steps.slice(0, 2), "UPDATE t SET b = 'lost'; SELECT nope FROM t"]),
    );
    expect(error.code).toBe("storage_failed");
    expect(error.message).toContain("from schema version 2");
    expect(schemaVersionOf(db)).toBe(2);
    expect(rows(db)).toEqual([
      { a: 1, b: "one", c: "c" },
      { a: 2, b: "two", c: "c" },
    ]);
    migrate(db, steps);
    expect(rows(db)).toEqual(whole);
  });
  test("says that the disk is full when it is", () => {
    const db = open(newPath());
    migrate(db, steps.slice(0, 1));
    db.run(`PRAGMA max_page_count = ${pragma(db, "page_count")}`);
    const large = "CREATE TABLE large AS SELECT zeroblob(100000) AS x";
    expect(errorOf(() => migrate(db, [...steps.slice(0, 1), large])).code).toBe("storage_full");
    expect(schemaVersionOf(db)).toBe(1);
  });

  test("refuses a newer one and leaves it as it is, byte for byte", () => {
    const path = newPath();
    const newer = openSqlite(path);
    migrate(newer, steps);
    newer.close();
    const before = readFileSync(path);

    const db = openSqlite(path);
    const error = errorOf(() => migrate(db, steps.slice(0, 2)));
    db.close();
    expect(error.code).toBe("database_newer");
    expect(error.message).toContain("schema version 3; this binary knows up to 2");
    expect(readFileSync(path).equals(before)).toBe(true);
    expect(readdirSync(join(path, ".."))).toEqual(["a.db"]);
  });

  test("by several processes at once takes every step once", async () => {
    const path = newPath();
    const children = Array.from({ length: 4 }, () =>
      Bun.spawn([process.execPath, join(import.meta.dir, "migrate-database.ts"), path], {
        cwd: root,
        stderr: "pipe",
      }),
    );
    const errors = await Promise.all(children.map((child) => new Response(child.stderr).text()));
    expect(errors).toEqual(["", "", "", ""]);
    const db = open(path);
    expect(schemaVersionOf(db)).toBe(20);
    expect(db.query("SELECT step FROM steps ORDER BY rowid").values().flat()).toEqual(
      Array.from({ length: 20 }, (_, step) => step),
    );
  });
});

test("a version that none can have is damage", () => {
  for (const version of [-1, 0x5a5a5a5a]) {
    const path = newPath();
    const db = open(path);
    db.run(`PRAGMA user_version = ${version}`);
    expect(errorOf(() => migrate(db, ["CREATE TABLE t (a)"])).code).toBe("database_corrupt");
    expect(errorOf(() => openReadOnly(path)).code).toBe("database_corrupt");
  }
});

test("the log of a database that was emptied is not removed by who only looks", () => {
  const path = newPath();
  const db = open(path);
  migrate(db, ["CREATE TABLE t (a)"]);
  const copy = newPath();
  writeFileSync(copy, "");
  copyFileSync(`${path}-wal`, `${copy}-wal`);
  const before = statSync(`${copy}-wal`).size;
  expect(errorOf(() => openReadOnly(copy)).code).toBe("database_corrupt");
  expect([before > 0, statSync(`${copy}-wal`).size]).toEqual([true, before]);
});

test("a pipe in the place of a database or its log blocks nobody", () => {
  for (const suffix of ["", "-wal"]) {
    const path = newPath();
    if (suffix !== "") openSqlite(path).close();
    Bun.spawnSync(["mkfifo", path + suffix]);
    expect(errorOf(() => openReadOnly(path)).message).toContain("no regular file");
    if (suffix === "") expect(errorOf(() => openSqlite(path)).message).toContain("no regular file");
  }
});

describe("the copy that is kept before a schema is brought forward", () => {
  const steps = [
    "CREATE TABLE t (a); INSERT INTO t VALUES ('one')",
    "INSERT INTO t VALUES ('two')",
    "INSERT INTO t VALUES ('three')",
  ];
  const rows = (db: Database) => db.query("SELECT a FROM t").values().flat();
  const namesIn = (path: string) =>
    readdirSync(join(path, ".."))
      .filter((name) => !/-(wal|shm)$/.test(name))
      .sort();
  const at = (version: number): string => {
    const path = newPath();
    const db = openSqlite(path);
    migrate(db, steps.slice(0, version));
    db.close();
    return path;
  };

  test("is the database as it was, log included, for its owner only", () => {
    const path = at(1);
    const writer = open(path);
    // Still in the log.
    writer.run("INSERT INTO t VALUES ('logged')");
    migrate(open(path), steps.slice(0, 2));
    const copy = `${path}.before-v2`;
    expect([namesIn(path), modeOf(copy)]).toEqual([["a.db", "a.db.before-v2"], 0o600]);
    const kept = open(copy);
    expect([schemaVersionOf(kept), rows(kept), findDamage(kept)]).toEqual([1, ["one", "logged"], []]);
    expect(rows(open(path))).toEqual(["one", "logged", "two"]);
  });
  test("is made once for several steps, and only when there is a step to take", () => {
    const path = at(1);
    migrate(open(path), steps);
    expect(namesIn(path)).toEqual(["a.db", "a.db.before-v2"]);
    migrate(open(path), steps);
    expect(namesIn(path)).toEqual(["a.db", "a.db.before-v2"]);
  });
  test("is not made of a new database", () => {
    const path = newPath();
    migrate(open(path), steps);
    expect(namesIn(path)).toEqual(["a.db"]);
  });
  test("replaces one of the same version, and of older ones the last two stay", () => {
    const path = at(2);
    for (const name of ["before-v1", "before-v2", "before-v3", "before-vX", "before-v10x"])
      writeFileSync(`${path}.${name}`, "old");
    migrate(open(path), steps);
    expect(namesIn(path)).toEqual([
      "a.db",
      "a.db.before-v10x",
      "a.db.before-v2",
      "a.db.before-v3",
      "a.db.before-vX",
    ]);
    expect(rows(open(`${path}.before-v3`))).toEqual(["one", "two"]);
  });
  test("leaves no room taken by those that processes were killed at", () => {
    const path = at(1);
    const left = `${path}.before-v2.${deadPid}.0a1b2c3d.tmp`;
    // Another database's, which has its own time for that.
    const other = join(dirname(path), `b.db.before-v2.${deadPid}.0a1b2c3d.tmp`);
    const anHourAgo = new Date(Date.now() - 3_600_000);
    for (const name of [left, other]) {
      writeFileSync(name, "half");
      utimesSync(name, anHourAgo, anHourAgo);
    }
    migrate(open(path), steps);
    expect(namesIn(path)).toEqual(["a.db", "a.db.before-v2", basename(other)]);
  });
  test("that cannot be made leaves the database as it is", () => {
    const path = at(1);
    // A directory cannot be replaced by a file.
    mkdirSync(`${path}.before-v2`);
    const db = open(path);
    const error = errorOf(() => migrate(db, steps));
    expect(error.code).toBe("storage_failed");
    expect(error.message).toContain("copy");
    expect([schemaVersionOf(db), rows(db), namesIn(path)]).toEqual([1, ["one"], ["a.db", "a.db.before-v2"]]);
  });
  test("of a damaged database cannot be made, and says why", () => {
    const path = at(1);
    const db = open(path);
    db.run(
      "CREATE TABLE large AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) SELECT randomblob(500) AS b FROM n",
    );
    db.run("PRAGMA wal_checkpoint(TRUNCATE)");
    db.close();
    damage(path, 3 * 4096, 4096);
    damage(path, 4 * 4096, 4096);
    const damaged = open(path);
    expect(errorOf(() => migrate(damaged, steps)).code).toBe("database_corrupt");
    expect(schemaVersionOf(damaged)).toBe(1);
  });
});

/** Overwrites part of the file, so that what was there cannot be believed any more. */
function damage(path: string, at: number, length: number): void {
  if (!statSync(path, { throwIfNoEntry: false })) {
    const db = openSqlite(path);
    migrate(db, ["CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB); CREATE INDEX t_b ON t (b)"]);
    for (let row = 0; row < 100; row++) db.run("INSERT INTO t (b) VALUES (?)", [Buffer.alloc(400, row)]);
    db.close();
  }
  const bytes = readFileSync(path);
  bytes.fill(0xa5, at, at + length);
  writeFileSync(path, bytes);
}

describe("looking for damage", () => {
  test("finds none in a sound database", () => {
    const db = open(newPath());
    migrate(db, ["CREATE TABLE t (a)"]);
    expect(findDamage(db)).toEqual([]);
    expect(findDamage(open(":memory:"))).toEqual([]);
  });
  test("finds it in every page, whether SQLite can look at it or not", () => {
    const pages = (() => {
      const path = newPath();
      damage(path, 0, 0);
      return statSync(path).size / 4096;
    })();
    expect(pages).toBeGreaterThan(10);
    for (let page = 1; page < pages; page++) {
      const path = newPath();
      damage(path, page * 4096, 512);
      const found = findDamage(open(path));
      expect(found.length).toBeGreaterThan(0);
      expect(found.join()).not.toBe("");
    }
  });
  test("tells what it cannot look at apart from what is damaged", () => {
    const db = openSqlite(newPath());
    db.close();
    expect(errorOf(() => findDamage(db)).code).toBe("storage_failed");
  });
});

describe("whether the last process closed the database", () => {
  test("it did", () => {
    const path = newPath();
    expect(wasStoppedUncleanly(path)).toBe(false);
    const db = openSqlite(path);
    db.run("CREATE TABLE t (a)");
    expect(wasStoppedUncleanly(path)).toBe(true);
    closeSqlite(db);
    expect(wasStoppedUncleanly(path)).toBe(false);
    expect(() => db.run("SELECT 1")).toThrow();
  });
  test("it did, while somebody else looked into it", () => {
    const path = newPath();
    const db = openSqlite(path);
    db.run("CREATE TABLE t (a)");
    const onlooker = open(path);
    onlooker.query("SELECT * FROM t").all();
    closeSqlite(db);
    expect(wasStoppedUncleanly(path)).toBe(false);
  });
  test("it could not, because somebody else was in the middle of reading: the next start looks closely", () => {
    const path = newPath();
    const db = openSqlite(path);
    db.run("PRAGMA busy_timeout = 0");
    db.run("CREATE TABLE t (a)");
    const onlooker = open(path);
    onlooker.run("BEGIN");
    onlooker.query("SELECT * FROM t").all();
    db.run("INSERT INTO t VALUES (1)");
    closeSqlite(db);
    expect(wasStoppedUncleanly(path)).toBe(true);
    expect(() => db.run("SELECT 1")).toThrow();
  });
  test("it was killed, and what it had committed is there all the same", async () => {
    const path = newPath();
    const writer = Bun.spawn([process.execPath, join(import.meta.dir, "migrate-database.ts"), path, "stay"], {
      cwd: root,
      stdin: "pipe",
      stderr: "inherit",
    });
    cleanup(() => writer.kill("SIGKILL"));
    await waitFor(
      () => {
        const reader = new Database(path, { readonly: true });
        try {
          return schemaVersionOf(reader) === 20;
        } finally {
          reader.close();
        }
      },
      { what: "the other process to write" },
    );
    writer.kill("SIGKILL");
    await writer.exited;
    expect(wasStoppedUncleanly(path)).toBe(true);
    // What a power failure leaves: the files as they are, in another place.
    const copy = newPath();
    for (const suffix of ["", "-wal"]) copyFileSync(path + suffix, copy + suffix);
    const db = open(copy);
    expect(findDamage(db)).toEqual([]);
    expect(db.query("SELECT count(*) AS n FROM steps").get()).toEqual({ n: 20 });
  });
});
