/**
 * Run as a process of its own: brings the database that the first argument names up to date, in twenty steps none of which can be
 * taken twice. With `stay` after it, goes on until its standard input ends, with the database open.
 */
import { migrate, openSqlite } from "~/disk/sqlite";

const [path = "", stay] = process.argv.slice(2);
const steps = Array.from({ length: 20 }, (_, step) =>
  step === 0
    ? "CREATE TABLE steps (step INTEGER); INSERT INTO steps VALUES (0)"
    : `CREATE TABLE t${step} (a); INSERT INTO steps VALUES (${step})`,
);

const db = openSqlite(path);
migrate(db, steps);
if (stay === "stay") await Bun.stdin.text();
db.close();
