/**
 * Databases of the simulator: real SQLite in memory, which outlives the process that uses it as a disk does, and whose
 * commits can be made to fail or to be the last thing a process did.
 */
import { Database } from "bun:sqlite";
import type { Chance, Process } from "./world";
import { Crash } from "./world";

export interface DiskFaults {
  /** How likely a commit is to be the moment at which the process dies, half before it and half after. */
  crash: number;
  full: boolean;
}

export class SimDatabase extends Database {
  process: Process | undefined;
  readonly faults: DiskFaults = { crash: 0, full: false };
  commits = 0;
  injected = 0;
  readonly #chance: Chance;

  constructor(chance: Chance) {
    super(":memory:", { strict: true });
    this.#chance = chance;
  }

  // biome-ignore lint/suspicious/noExplicitAny: the signature is that of Bun's Database
  override run(sql: string, ...bindings: any[]): ReturnType<Database["run"]> {
    if (sql !== "COMMIT") return super.run(sql, ...bindings);
    if (this.faults.full) {
      this.injected++;
      throw Object.assign(new Error("database or disk is full"), { code: "SQLITE_FULL" });
    }
    const crashes = this.process?.alive === true && this.#chance.happens(this.faults.crash);
    if (crashes && this.#chance.happens(0.5)) this.#die();
    const result = super.run(sql);
    this.commits++;
    if (crashes) this.#die();
    return result;
  }

  /** What a dead process had begun is gone. */
  recover(): void {
    if (this.inTransaction) super.run("ROLLBACK");
  }

  #die(): never {
    this.injected++;
    this.process?.die();
    throw new Crash("killed at a commit");
  }
}
