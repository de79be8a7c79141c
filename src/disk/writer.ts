/**
 * Group commit: jobs that arrive together share one `BEGIN IMMEDIATE … COMMIT`, and each is answered only after the
 * commit that holds its rows. A job that throws is undone alone; when the commit itself fails, all fail.
 * A job alone waits for nobody; with others, its batch closes with the first turn of the event loop that brings no more.
 */
import type { Database, Statement } from "bun:sqlite";
import type { Clock } from "~/clock";
import { storageError } from "~/disk/file";
import { MeshError } from "~/errors";

interface Job {
  run(): void;
  writesOnce: boolean;
  settle(failure: MeshError | undefined): void;
}

/** Work that joins every batch after its jobs; what it returns is done once the commit is on disk. */
export type Tail = () => { committed(): void; failed(error: MeshError): void } | undefined;

const jobsPerBatchMax = 512;

/** What a writer has done since it began. */
export interface WriterStats {
  /** Batches that wrote something, and are on disk. */
  commits: number;
  /** Jobs in them. */
  jobs: number;
  /** Batches that were undone. */
  failures: number;
}

export class Writer {
  readonly #db: Database;
  readonly #savepoint: Statement;
  readonly #rollBackTo: Statement;
  readonly #release: Statement;
  readonly #clock: Clock;
  readonly #tails: Tail[] = [];
  readonly #batchFailed: (() => void)[] = [];
  #jobs: Job[] = [];
  #scheduled = false;
  #closed = false;
  #trouble: MeshError | undefined;
  readonly #stats: WriterStats = { commits: 0, jobs: 0, failures: 0 };

  constructor(db: Database, clock: Clock) {
    this.#db = db;
    this.#savepoint = db.query("SAVEPOINT job");
    this.#rollBackTo = db.query("ROLLBACK TO job");
    this.#release = db.query("RELEASE job");
    this.#clock = clock;
  }

  /** Runs `job` inside the next batch; resolves with its value after the commit, rejects with what it threw. */
  submit<T>(job: () => T): Promise<T> {
    return this.#submit(job, false);
  }

  /**
   * The same for a job whose only write is one statement, with nothing after it that can throw: SQLite undoes a failed
   * statement by itself, and the savepoint that it saves costs as much as the statement.
   */
  submitOneWrite<T>(job: () => T): Promise<T> {
    return this.#submit(job, true);
  }

  #submit<T>(job: () => T, writesOnce: boolean): Promise<T> {
    if (this.#closed)
      return Promise.reject(new MeshError("daemon_stopping", "it is stopping and takes nothing new"));
    return new Promise<T>((resolve, reject) => {
      let outcome: { value: T } | { thrown: unknown } | undefined;
      this.#jobs.push({
        writesOnce,
        run() {
          try {
            outcome = { value: job() };
          } catch (thrown) {
            outcome = { thrown };
            throw thrown;
          }
        },
        settle(failure) {
          if (outcome !== undefined && "thrown" in outcome && outcome.thrown instanceof MeshError)
            reject(outcome.thrown);
          else if (failure !== undefined) reject(failure);
          else if (outcome !== undefined && "value" in outcome) resolve(outcome.value);
          else reject(outcome?.thrown);
        },
      });
      this.wake();
    });
  }

  /**
   * Adds work that runs at the end of each batch, inside the same transaction. `batchFailed` is called after a batch that failed,
   * whether it got as far as this tail or not: nobody else makes another one run.
   */
  addTail(tail: Tail, batchFailed?: () => void): void {
    this.#tails.push(tail);
    if (batchFailed !== undefined) this.#batchFailed.push(batchFailed);
  }

  /** Makes sure that a batch runs soon, even one of tails alone. */
  wake(): void {
    if (this.#scheduled || this.#closed) return;
    this.#scheduled = true;
    this.#clock.soon(() => this.#turn(1));
  }

  /** While each turn brings more jobs to one that already has company, the batch waits for the next. */
  #turn(jobsBefore: number): void {
    const jobs = this.#jobs.length;
    if (jobs > jobsBefore && jobs < jobsPerBatchMax && !this.#closed) {
      this.#clock.soon(() => this.#turn(jobs));
      return;
    }
    this.#scheduled = false;
    if (this.#closed) return;
    this.#runBatch();
    // One batch a turn: whoever waits for this one may still withdraw from the next.
    if (this.#jobs.length > 0) this.wake();
  }

  /** Why nothing can be written at the moment; undefined once something was. */
  get trouble(): MeshError | undefined {
    return this.#trouble;
  }

  get stats(): Readonly<WriterStats> {
    return this.#stats;
  }

  /** Runs what waits and takes nothing more. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    do this.#runBatch();
    while (this.#jobs.length > 0);
  }

  #runBatch(): void {
    const jobs = this.#jobs.splice(0, jobsPerBatchMax);
    const effects: NonNullable<ReturnType<Tail>>[] = [];
    let failure: MeshError | undefined;
    try {
      this.#db.run("BEGIN IMMEDIATE");
      for (const job of jobs) this.#runAlone(job);
      for (const tail of this.#tails) {
        const effect = tail();
        if (effect !== undefined) effects.push(effect);
      }
      this.#db.run("COMMIT");
    } catch (error) {
      if (this.#db.inTransaction) this.#db.run("ROLLBACK");
      failure = storageError(`cannot write to ${this.#db.filename}`, error);
    }
    // A batch that had nothing to write proves nothing of a disk that was full.
    const wrote = jobs.length > 0 || effects.length > 0;
    if (failure !== undefined) this.#stats.failures++;
    else if (wrote) {
      this.#stats.commits++;
      this.#stats.jobs += jobs.length;
    }
    if (failure !== undefined || wrote || this.#trouble?.code === "storage_failed") this.#trouble = failure;
    for (const job of jobs) job.settle(failure);
    for (const effect of effects) {
      if (failure === undefined) effect.committed();
      else effect.failed(failure);
    }
    if (failure !== undefined) for (const tell of this.#batchFailed) tell();
  }

  /** A savepoint for one job. A full disk makes SQLite end the whole transaction: then there is nothing to go back to. */
  #runAlone(job: Job): void {
    if (!job.writesOnce) this.#savepoint.run();
    try {
      job.run();
    } catch (error) {
      if (!this.#db.inTransaction) throw error;
      if (!job.writesOnce) this.#rollBackTo.run();
      if (!(error instanceof MeshError)) this.#rethrowIfStorage(error);
    }
    if (!job.writesOnce) this.#release.run();
  }

  /** Errors of the disk belong to the batch, not to the job that met them first. */
  #rethrowIfStorage(error: unknown): void {
    const asStorage = storageError("", error);
    if (asStorage.code === "storage_full" || asStorage.code === "storage_read_only") throw error;
  }
}
