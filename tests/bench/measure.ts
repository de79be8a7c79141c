/** Figures: how they are summed up and printed, and the reference that everything durable is measured against. */
import { Database } from "bun:sqlite";

export interface Latencies {
  p50Ms: number;
  p99Ms: number;
  perSecond: number;
}

export function summary(eachMs: number[], tookMs: number): Latencies {
  const sorted = eachMs.toSorted((a, b) => a - b);
  const at = (share: number) =>
    sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
  return { p50Ms: at(0.5), p99Ms: at(0.99), perSecond: (eachMs.length / tookMs) * 1000 };
}

/** The least that a durable accept can cost without sharing commits: one row of our size, one transaction, flushed. */
export function bareCommitLoop(path: string, rows: number): Latencies {
  const db = new Database(path);
  db.run("PRAGMA journal_mode = WAL");
  db.run("PRAGMA synchronous = FULL");
  if (process.platform === "darwin") db.run("PRAGMA fullfsync = ON");
  db.run("CREATE TABLE bare (id TEXT PRIMARY KEY, body TEXT)");
  const insert = db.query("INSERT INTO bare VALUES (?, ?)");
  const text = "x".repeat(800);
  const eachMs: number[] = [];
  const start = performance.now();
  for (let row = 0; row < rows; row++) {
    const begun = performance.now();
    insert.run(`row-${row}`, text);
    eachMs.push(performance.now() - begun);
  }
  const took = performance.now() - start;
  db.close();
  return summary(eachMs, took);
}

export function table(title: string, rows: [what: string, callers: number, figures: Latencies][]): string {
  const lines = rows.map(
    ([what, callers, { p50Ms, p99Ms, perSecond }]) =>
      `  ${what.padEnd(34)} ${String(callers).padStart(3)} at once   p50 ${p50Ms.toFixed(3).padStart(7)} ms   p99 ${p99Ms.toFixed(3).padStart(7)} ms   ${String(Math.round(perSecond)).padStart(6)} / s`,
  );
  return [title, ...lines].join("\n");
}
