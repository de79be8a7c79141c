/**
 * Whose the service is. Asked of the system's own directory of accounts, since HOME and USER are only what a shell was told, and
 * a service is started with what that directory says.
 */
import { readFileSync } from "node:fs";
import { systemCodeOf } from "~/errors";
import { type Programs, runProgram } from "~/service/program";

export interface Account {
  name: string;
  uid: number;
  gid: number;
  home: string;
}

/** By name, or by user id in digits; undefined when there is no such account. */
export async function findAccount(programs: Programs, nameOrId: string): Promise<Account | undefined> {
  // macOS keeps its accounts elsewhere; `id -P` prints one with three more fields (class, change and expiry times).
  if (programs.platform === "darwin") {
    const found = await runProgram(programs, "id", ["-P", nameOrId]);
    const [name, password, uid, gid, , , , ...rest] = found?.status === 0 ? found.stdout.split(":") : [];
    return parseAccount([name, password, uid, gid, ...rest]);
  }
  const found = await runProgram(programs, "getent", ["passwd", nameOrId]);
  if (found !== undefined) return found.status === 0 ? parseAccount(found.stdout.split(":")) : undefined;
  const lines = readAccounts().map((line) => line.split(":"));
  return parseAccount(lines.find(([name, , uid]) => name === nameOrId || uid === nameOrId) ?? []);
}

/** The fields of passwd(5). */
function parseAccount(fields: readonly (string | undefined)[]): Account | undefined {
  const [name, , uid = "", gid = "", , home] = fields;
  if (!name || !home?.startsWith("/") || !/^\d{1,10}$/.test(uid) || !/^\d{1,10}$/.test(gid)) return undefined;
  return { name, uid: Number(uid), gid: Number(gid), home };
}

/** For systems without getent. */
function readAccounts(): string[] {
  try {
    return readFileSync("/etc/passwd", "utf8").split("\n");
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return [];
    throw error;
  }
}
