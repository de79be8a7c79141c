/** Group commit: who is told what, and when, measured by what another connection can see on the disk. */
import type { Database } from "bun:sqlite";
import { beforeEach, describe, expect, spyOn, test } from "bun:test";
import { join } from "node:path";
import { migrate, openSqlite } from "~/disk/sqlite";
import { Writer } from "~/disk/writer";
import { MeshError } from "~/errors";
import { cleanup } from "../../support/cleanup";
import { FakeClock } from "../../support/fake-clock";
import { tempDir } from "../../support/temp-dir";

let db: Database;
/** Sees only what is committed. */
let reader: Database;
let clock: FakeClock;
let writer: Writer;
/** The transactions that the writer ended, in order. */
let ends: string[];

beforeEach(() => {
  const path = join(tempDir(), "a.db");
  db = openSqlite(path);
  migrate(db, [
    `CREATE TABLE t (a TEXT NOT NULL UNIQUE, large BLOB);
     CREATE TABLE parent (id INTEGER PRIMARY KEY);
     CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)`,
  ]);
  reader = openSqlite(path);
  cleanup(() => {
    db.close();
    reader.close();
  });
  clock = new FakeClock();
  writer = new Writer(db, clock);
  ends = [];
  const run = db.run.bind(db);
  spyOn(db, "run").mockImplementation((sql, ...bindings) => {
    const changes = run(sql, ...bindings);
    if (sql === "COMMIT" || sql === "ROLLBACK") ends.push(sql);
    return changes;
  });
});

const add = (a: string) => (): string => {
  db.run("INSERT INTO t (a) VALUES (?)", [a]);
  return a;
};
const stored = (): string[] =>
  reader
    .query<{ a: string }, []>("SELECT a FROM t ORDER BY rowid")
    .all()
    .map(({ a }) => a);

/** How a job ended: its value, or the code or the message of its error. */
const outcome = (job: Promise<unknown>): Promise<unknown> =>
  job.catch((error: unknown) => (error instanceof MeshError ? error.code : String(error)));

test("a job alone has its commit at the first turn; while each turn brings company, the batch waits for the next", async () => {
  // A clock whose turns are ours to give.
  let turns: (() => void)[] = [];
  const turn = () => {
    const due = turns;
    turns = [];
    for (const action of due) action();
  };
  spyOn(clock, "soon").mockImplementation((action) => void turns.push(action));
  void writer.submit(add("alone"));
  turn();
  expect([ends, stored()]).toEqual([["COMMIT"], ["alone"]]);
  void writer.submit(add("a"));
  void writer.submit(add("b"));
  turn();
  void writer.submit(add("c"));
  turn();
  expect(ends).toEqual(["COMMIT"]);
  turn();
  expect([ends, stored()]).toEqual([
    ["COMMIT", "COMMIT"],
    ["alone", "a", "b", "c"],
  ]);
});

describe("a job of one write", () => {
  test("that fails leaves what the others of its batch wrote, whether SQLite refused it or it refused itself", async () => {
    const jobs = [
      writer.submitOneWrite(add("a")),
      writer.submitOneWrite(add("a")),
      writer.submitOneWrite(() => {
        throw new MeshError("unknown_peer", "nobody");
      }),
      writer.submit(add("b")),
      writer.submitOneWrite(add("c")),
    ].map(outcome);
    clock.advance();
    const [first, twice, refused, ...rest] = await Promise.all(jobs);
    expect(first).toBe("a");
    expect(twice).toMatch(/UNIQUE/);
    expect(refused).toBe("unknown_peer");
    expect(rest).toEqual(["b", "c"]);
    expect(stored()).toEqual(["a", "b", "c"]);
    expect(ends).toEqual(["COMMIT"]);
  });

  test("that meets a full disk ends the batch, and all are told", async () => {
    const pages = db.query<{ page_count: number }, []>("PRAGMA page_count").get()?.page_count ?? 0;
    db.run(`PRAGMA max_page_count = ${pages}`);
    const large = () => db.run("INSERT INTO t (a, large) VALUES ('large', zeroblob(100000))");
    const jobs = [writer.submitOneWrite(add("a")), writer.submitOneWrite(large)].map(outcome);
    clock.advance();
    expect(await Promise.all(jobs)).toEqual(["storage_full", "storage_full"]);
    expect(stored()).toEqual([]);
  });
});

describe("jobs that arrive together", () => {
  test("share one commit, and are answered after it with what they returned", async () => {
    const seen: string[][] = [];
    const jobs = ["a", "b", "c"].map((name) =>
      writer.submit(() => {
        seen.push(stored());
        return add(name)();
      }),
    );
    expect(stored()).toEqual([]);
    clock.advance();
    expect(ends).toEqual(["COMMIT"]);
    expect(await Promise.all(jobs)).toEqual(["a", "b", "c"]);
    // None of them saw the others' rows on the disk before all of them were there.
    expect(seen).toEqual([[], [], []]);
    expect(stored()).toEqual(["a", "b", "c"]);
  });

  test("see each other's rows in their own connection, in the order in which they came", async () => {
    const count = () => db.query<{ n: number }, []>("SELECT count(*) AS n FROM t").get()?.n;
    const jobs = ["a", "b", "c"].map((name) =>
      writer.submit(() => {
        add(name)();
        return count();
      }),
    );
    clock.advance();
    expect(await Promise.all(jobs)).toEqual([1, 2, 3]);
  });

  test("are told in that order", async () => {
    const told: string[] = [];
    const jobs = ["a", "b", "c", "d"].map((name) => writer.submit(add(name)).then((a) => told.push(a)));
    clock.advance();
    await Promise.all(jobs);
    expect(told).toEqual(["a", "b", "c", "d"]);
  });

  test("are answered when the rows are on disk, not when they have run", async () => {
    const atAnswer = writer.submit(add("a")).then(stored);
    clock.advance();
    expect(await atAnswer).toEqual(["a"]);
  });

  test("wait for nobody: one alone has its commit as soon as the clock has a moment", async () => {
    const first = writer.submit(add("a"));
    clock.advance();
    const second = writer.submit(add("b"));
    expect(stored()).toEqual(["a"]);
    clock.advance();
    expect(await Promise.all([first, second])).toEqual(["a", "b"]);
    expect(ends).toEqual(["COMMIT", "COMMIT"]);
  });

  test("that are very many take several commits, in order and with none lost", async () => {
    const names = Array.from({ length: 1_300 }, (_, index) => `n${index}`);
    const jobs = names.map((name) => writer.submit(add(name)));
    clock.advance();
    expect(await Promise.all(jobs)).toEqual(names);
    expect(stored()).toEqual(names);
    expect(ends.length).toBeGreaterThan(1);
    expect(ends.length).toBeLessThan(10);
  });

  test("that come while a batch runs are in the next one", async () => {
    let inner: Promise<string> | undefined;
    const outer = writer.submit(() => {
      inner = writer.submit(add("inner"));
      return add("outer")();
    });
    clock.advance();
    expect(await outer).toBe("outer");
    expect(await inner).toBe("inner");
    expect([stored(), ends]).toEqual([
      ["outer", "inner"],
      ["COMMIT", "COMMIT"],
    ]);
  });

  test("may return nothing, or something that is no value", async () => {
    const jobs = [undefined, null, 0, "", false].map((value) => writer.submit(() => value));
    clock.advance();
    expect(await Promise.all(jobs)).toEqual([undefined, null, 0, "", false]);
  });
});

describe("a job that fails", () => {
  const refused = new MeshError("id_in_use", "taken");
  const failures: [what: string, fail: () => never, told: string][] = [
    [
      "with a refusal",
      () => {
        throw refused;
      },
      "id_in_use",
    ],
    [
      "by mistake",
      () => {
        throw new TypeError("oops");
      },
      "TypeError: oops",
    ],
    [
      "against a constraint",
      () => {
        db.run("INSERT INTO t (a) VALUES (NULL)");
        throw new Error("unreachable");
      },
      "SQLiteError: NOT NULL constraint failed: t.a",
    ],
  ];
  test.each(failures)("%s fails alone, and leaves nothing of itself", async (_, fail, told) => {
    const jobs = [
      writer.submit(add("before")),
      writer.submit(() => {
        add("half")();
        return fail();
      }),
      writer.submit(add("after")),
      // Had anything of the failed one been left, this would clash with it.
      writer.submit(add("half")),
    ].map(outcome);
    clock.advance();
    expect(await Promise.all(jobs)).toEqual(["before", told, "after", "half"]);
    expect([stored(), ends]).toEqual([["before", "after", "half"], ["COMMIT"]]);
  });

  test("in a transaction of its own inside fails alone too", async () => {
    const nested = db.transaction((name: string) => {
      add(name)();
      if (name === "bad") throw new RangeError("inner");
      return name;
    });
    const jobs = ["good", "bad", "fine"].map((name) => outcome(writer.submit(() => nested(name))));
    clock.advance();
    expect(await Promise.all(jobs)).toEqual(["good", "RangeError: inner", "fine"]);
    expect(stored()).toEqual(["good", "fine"]);
  });
});

describe("when the disk fails", () => {
  const large = () => {
    db.run("INSERT INTO t (a, large) VALUES ('large', zeroblob(1000000))");
    return "large";
  };
  const pageCount = () => db.query<{ page_count: number }, []>("PRAGMA page_count").get()?.page_count;

  test("full for one job, all of its batch fail, and what comes later is not hurt", async () => {
    db.run(`PRAGMA max_page_count = ${pageCount()}`);
    const jobs = [writer.submit(add("before")), writer.submit(large), writer.submit(add("after"))].map(
      outcome,
    );
    clock.advance();
    expect(await Promise.all(jobs)).toEqual(["storage_full", "storage_full", "storage_full"]);
    expect(stored()).toEqual([]);
    expect(db.inTransaction).toBe(false);

    db.run("PRAGMA max_page_count = 100000");
    const again = [writer.submit(add("before")), writer.submit(large)].map(outcome);
    clock.advance();
    expect(await Promise.all(again)).toEqual(["before", "large"]);
    expect(stored()).toEqual(["before", "large"]);
  });

  test("full in the middle of a statement, which SQLite takes back alone, all of the batch fail as well", async () => {
    db.run(`PRAGMA max_page_count = ${pageCount()}`);
    let goesOn = false;
    const many = () => {
      try {
        db.run("INSERT INTO t (a, large) SELECT value, zeroblob(300000) FROM json_each('[1, 2, 3]')");
      } finally {
        goesOn = db.inTransaction;
      }
    };
    const jobs = [writer.submit(add("before")), writer.submit(many), writer.submit(add("after"))].map(
      outcome,
    );
    clock.advance();
    expect(await Promise.all(jobs)).toEqual(["storage_full", "storage_full", "storage_full"]);
    expect([goesOn, stored(), db.inTransaction]).toEqual([true, [], false]);
  });

  test("read-only for one job, all of its batch fail", async () => {
    db.run("PRAGMA query_only = ON");
    const jobs = [writer.submit(() => "reads only"), writer.submit(add("a"))].map(outcome);
    clock.advance();
    expect(await Promise.all(jobs)).toEqual(["storage_read_only", "storage_read_only"]);
    db.run("PRAGMA query_only = OFF");
    expect(stored()).toEqual([]);
  });

  test("at the commit itself, all fail and nothing is there", async () => {
    const orphan = () => db.run("INSERT INTO child (id) VALUES (1)");
    const jobs = [writer.submit(add("a")), writer.submit(orphan), writer.submit(add("b"))].map(outcome);
    clock.advance();
    expect(await Promise.all(jobs)).toEqual(["storage_failed", "storage_failed", "storage_failed"]);
    expect([stored(), ends, db.inTransaction]).toEqual([[], ["ROLLBACK"], false]);
    const next = writer.submit(add("a"));
    clock.advance();
    expect(await next).toBe("a");
  });

  test("a job that was refused is told why, even when its batch fails as well", async () => {
    const orphan = () => db.run("INSERT INTO child (id) VALUES (1)");
    const refuse = () => {
      throw new MeshError("id_in_use", "taken");
    };
    const jobs = [writer.submit(refuse), writer.submit(orphan)].map(outcome);
    clock.advance();
    expect(await Promise.all(jobs)).toEqual(["id_in_use", "storage_failed"]);
  });

  test("because another process writes, all fail, and it goes on when that one is done", async () => {
    db.run("PRAGMA busy_timeout = 0");
    reader.run("BEGIN IMMEDIATE");
    const jobs = [outcome(writer.submit(add("a")))];
    clock.advance();
    expect(await Promise.all(jobs)).toEqual(["storage_failed"]);
    reader.run("ROLLBACK");
    const next = writer.submit(add("a"));
    clock.advance();
    expect(await next).toBe("a");
  });
});

describe("a tail", () => {
  /** Adds a row in every batch, and notes what becomes of it. */
  function addTail(name: string, log: string[], work: () => unknown = add(name)): void {
    writer.addTail(() => {
      log.push(`${name} runs`);
      work();
      return {
        committed: () => log.push(`${name} committed: ${stored().join(" ")}`),
        failed: (error) => log.push(`${name} failed: ${error.code}`),
      };
    });
  }

  test("runs after the jobs, in their transaction, and has its effect after the commit", async () => {
    const log: string[] = [];
    addTail("tail", log);
    const job = writer.submit(() => {
      log.push("job runs");
      return add("job")();
    });
    clock.advance();
    expect(await job).toBe("job");
    expect(log).toEqual(["job runs", "tail runs", "tail committed: job tail"]);
    expect(ends).toEqual(["COMMIT"]);
  });

  test("sees what the jobs wrote", async () => {
    const seen: number[] = [];
    writer.addTail(() => {
      seen.push(db.query("SELECT a FROM t").all().length);
      return undefined;
    });
    const jobs = [writer.submit(add("a")), writer.submit(add("b"))];
    clock.advance();
    await Promise.all(jobs);
    expect(seen).toEqual([2]);
  });

  test("is run by a wake alone, once however often it is woken", () => {
    const log: string[] = [];
    addTail("tail", log);
    writer.wake();
    writer.wake();
    expect(log).toEqual([]);
    clock.advance();
    expect(log).toEqual(["tail runs", "tail committed: tail"]);
  });

  test("comes after the one before it, and both share the commit", () => {
    const log: string[] = [];
    addTail("first", log);
    addTail("second", log);
    writer.wake();
    clock.advance();
    expect(log).toEqual([
      "first runs",
      "second runs",
      "first committed: first second",
      "second committed: first second",
    ]);
  });

  test("is told when the commit fails, and its rows are gone with the jobs'", async () => {
    const log: string[] = [];
    addTail("tail", log);
    const job = outcome(writer.submit(() => db.run("INSERT INTO child (id) VALUES (1)")));
    clock.advance();
    expect(await job).toBe("storage_failed");
    expect([log, stored()]).toEqual([["tail runs", "tail failed: storage_failed"], []]);
  });

  test("is not run when a job has already ended the transaction", async () => {
    const log: string[] = [];
    addTail("tail", log);
    db.run(
      `PRAGMA max_page_count = ${db.query<{ page_count: number }, []>("PRAGMA page_count").get()?.page_count}`,
    );
    const job = outcome(
      writer.submit(() => db.run("INSERT INTO t (a, large) VALUES ('large', zeroblob(1000000))")),
    );
    clock.advance();
    expect([await job, log]).toEqual(["storage_full", []]);
  });

  test("that fails takes its batch with it, and those before it are told", async () => {
    const log: string[] = [];
    addTail("first", log);
    addTail("bad", log, () => {
      throw new MeshError("storage_full", "no room");
    });
    addTail("never", log);
    const job = outcome(writer.submit(add("job")));
    clock.advance();
    expect(await job).toBe("storage_full");
    expect([log, stored()]).toEqual([["first runs", "bad runs", "first failed: storage_full"], []]);
  });
});

test("whoever asked for it is told of every batch that failed, however early, and of no other", async () => {
  let failures = 0;
  writer.addTail(
    () => undefined,
    () => {
      failures += 1;
    },
  );
  const counts: number[] = [];
  const batch = async (job: () => unknown) => {
    const done = outcome(writer.submit(job));
    clock.advance();
    await done;
    counts.push(failures);
  };
  await batch(add("a"));
  await batch(() => {
    throw new MeshError("id_in_use", "taken");
  });
  await batch(() => db.run("INSERT INTO child (id) VALUES (1)"));
  db.run("PRAGMA busy_timeout = 0");
  reader.run("BEGIN IMMEDIATE");
  await batch(add("b"));
  reader.run("ROLLBACK");
  await batch(add("b"));
  expect(counts).toEqual([0, 0, 1, 2, 2]);
});

describe("closing", () => {
  test("writes what waits, and answers it", async () => {
    const jobs = ["a", "b"].map((name) => writer.submit(add(name)));
    writer.close();
    expect(stored()).toEqual(["a", "b"]);
    expect(await Promise.all(jobs)).toEqual(["a", "b"]);
  });

  test("writes all that waits, however many batches that takes", async () => {
    const jobs = Array.from({ length: 1_300 }, (_, index) => writer.submit(add(`n${index}`)));
    writer.close();
    expect(stored().length).toBe(1_300);
    await Promise.all(jobs);
  });

  test("lets the tails have a last turn", () => {
    writer.addTail(() => void add("tail")());
    writer.close();
    expect(stored()).toEqual(["tail"]);
  });

  test("takes nothing more, and says that it is stopping", async () => {
    writer.close();
    const late = outcome(writer.submit(add("late")));
    writer.wake();
    clock.advance();
    expect([await late, stored()]).toEqual(["daemon_stopping", []]);
  });

  test("refuses what a job of its last batch asks for", async () => {
    let inner: Promise<unknown> | undefined;
    const outer = writer.submit(() => {
      inner = outcome(writer.submit(add("inner")));
      return add("outer")();
    });
    writer.close();
    expect([await outer, await inner, stored()]).toEqual(["outer", "daemon_stopping", ["outer"]]);
  });

  test("a second time does nothing, nor does the clock afterwards", async () => {
    const job = writer.submit(add("a"));
    writer.close();
    writer.close();
    const commits = ends.length;
    clock.advance(60_000);
    expect(ends.length).toBe(commits);
    expect(await job).toBe("a");
  });

  test("answers with the failure when the disk is full", async () => {
    db.run("PRAGMA query_only = ON");
    const job = outcome(writer.submit(add("a")));
    writer.close();
    expect(await job).toBe("storage_read_only");
    db.run("PRAGMA query_only = OFF");
  });
});

test("counts what it has put on the disk, and what the disk did not take", async () => {
  writer.wake();
  clock.advance(0);
  expect(writer.stats).toEqual({ commits: 0, jobs: 0, failures: 0 });
  const jobs = [writer.submit(add("a")), writer.submit(add("b")), outcome(writer.submit(add("a")))];
  clock.advance(0);
  await Promise.all(jobs);
  expect(writer.stats).toEqual({ commits: 1, jobs: 3, failures: 0 });
  db.run("PRAGMA query_only = 1");
  const refused = outcome(writer.submit(add("c")));
  clock.advance(0);
  expect([await refused, writer.stats]).toEqual(["storage_read_only", { commits: 1, jobs: 3, failures: 1 }]);
});
