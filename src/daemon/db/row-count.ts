import type { Database } from "bun:sqlite";

/**
 * How many rows a table has whose rows stay for good, and whose places only grow: all of them are counted once, and then those that
 * came since. Not to be asked inside of a transaction, whose rows may yet go.
 */
export class RowCount {
  readonly #db: Database;
  readonly #table: "outbox" | "inbox";
  /** Up to a place. */
  #counted: { seq: number; rows: number } | undefined;

  constructor(db: Database, table: "outbox" | "inbox") {
    this.#db = db;
    this.#table = table;
  }

  get total(): number {
    const before = this.#counted;
    // The first count goes by the smallest index; a condition on the place would have it read the rows.
    const { rows, seq } =
      before === undefined
        ? this.#ask(
            `SELECT (SELECT count(*) FROM ${this.#table}) AS rows, max(seq) AS seq FROM ${this.#table}`,
          )
        : this.#ask(
            `SELECT count(*) + ${before.rows} AS rows, max(seq) AS seq FROM ${this.#table} WHERE seq > ${before.seq}`,
          );
    this.#counted = { seq: seq ?? before?.seq ?? 0, rows };
    return rows;
  }

  #ask(sql: string): { rows: number; seq: number | null } {
    const row = this.#db.query<{ rows: number; seq: number | null }, []>(sql).get();
    if (row === null) throw new Error("a count has no row");
    return row;
  }
}
