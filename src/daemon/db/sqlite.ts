/** The public path of `openSqlite` for suites that test the daemon's databases; `~/disk/sqlite` owns it. */
export { openSqlite } from "~/disk/sqlite";
