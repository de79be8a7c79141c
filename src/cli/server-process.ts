/**
 * Starting this same executable as a server of its own (daemon, broker) and ending it. The child runs `… --foreground --json`:
 * its standard output is a pipe on which it says once that it is ready, or why it is not; the rest goes to its log file.
 */
import { spawn } from "node:child_process";
import { closeSync, constants, fstatSync, mkdirSync, openSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import type { Host } from "~/cli/command";
import { systemClock } from "~/clock";
import { isErrorCode, MeshError, systemCodeOf } from "~/errors";
import { heapCheckEveryMs } from "~/wire/limits";
import type { HostPaths } from "~/wire/paths";

const pollEveryMs = 25;
const logTailCharsMax = 4000;

/** The words that run this executable again: itself when compiled, Bun and the main module when run from source. */
export function selfCommand(): [executable: string, ...args: string[]] {
  const isCompiled = Bun.main.startsWith("/$bunfs/") || Bun.main.startsWith("B:\\~BUN\\");
  return isCompiled ? [process.execPath] : [process.execPath, Bun.main];
}

/** What a server in the foreground prints with `--json` once it serves, or its error body. */
type FirstWord = Record<string, unknown>;

export interface Detached {
  /** For messages: `the daemon`. */
  what: string;
  args: readonly string[];
  logFile: string;
  host: Host;
  timeoutMs: number;
}

/**
 * Spawns the server in a session of its own and resolves with its pid when it says that it is ready. Throws the server's own
 * error, `internal` when it died without one (with what it logged), or `timed_out`; then it was ended again.
 */
export async function startDetached({ what, args, logFile, host, timeoutMs }: Detached): Promise<number> {
  const log = openLog(logFile);
  const [executable, ...selfArgs] = selfCommand();
  const child = spawn(executable, [...selfArgs, ...args, "--foreground", "--json"], {
    detached: true,
    stdio: ["ignore", "pipe", log.fd],
    env: {
      BUN_GC_TIMER_INTERVAL: String(heapCheckEveryMs),
      ...host.env,
      ...absolute(host.paths),
      ...unmanaged,
    },
    cwd: "/",
  });
  closeSync(log.fd);
  const { pid, stdout } = child;
  const ended = new Promise<number>((resolve) => {
    child.once("error", () => resolve(1));
    child.once("close", (status) => resolve(status ?? 1));
  });
  const timeout = Promise.withResolvers<"late">();
  const timer = systemClock.after(timeoutMs, () => timeout.resolve("late"));
  const first = await Promise.race([stdout === null ? undefined : firstWord(stdout), timeout.promise]);
  timer.cancel();
  if (first === "late") {
    child.kill("SIGTERM");
    throw new MeshError(
      "timed_out",
      `${what} was not ready within ${timeoutMs / 1000} s and was ended again`,
      {
        hint: `See its log: ${logFile}`,
      },
    );
  }
  if (first === undefined || pid === undefined || "error" in first) {
    const status = await ended;
    throw first !== undefined && "error" in first
      ? childError(first)
      : died(what, status, logFile, log.offset);
  }
  stdout?.destroy();
  child.unref();
  return pid;
}

/** What service managers tell their own processes: a server that we start belongs to none of them. */
const unmanaged = { INVOCATION_ID: undefined, SYSTEMD_EXEC_PID: undefined, XPC_SERVICE_NAME: undefined };

/** The child keeps no directory of ours busy, so what we were told relative to one must not be. */
const absolute = (paths: HostPaths): Record<string, string> => ({
  CLAUDEMESH_CONFIG_DIR: paths.configDir,
  CLAUDEMESH_DAEMON_DIR: paths.daemonDir,
  CLAUDEMESH_BROKER_DATA: paths.brokerDir,
});

/** Owner-only, appended to, never through a symbolic link. */
function openLog(path: string): { fd: number; offset: number } {
  const { O_APPEND, O_CREAT, O_NOFOLLOW, O_WRONLY } = constants;
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    const fd = openSync(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0o600);
    return { fd, offset: fstatSync(fd).size };
  } catch (error) {
    throw new MeshError(
      "storage_failed",
      `cannot open the log file ${path} (${systemCodeOf(error) ?? error})`,
      {
        hint: "Check the owner and permissions of its directory.",
        cause: error,
      },
    );
  }
}

/** The first line as a JSON object; undefined when the stream ends without one. */
async function firstWord(stream: AsyncIterable<Uint8Array>): Promise<FirstWord | undefined> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) {
    text += decoder.decode(chunk, { stream: true });
    if (text.includes("\n")) break;
  }
  return parseObject(text.split("\n")[0] ?? "");
}

function parseObject(line: string): FirstWord | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? { ...value } : undefined;
  } catch {
    return undefined; // It died before it could say anything.
  }
}

function childError({ error: code, message, hint, ...details }: FirstWord): MeshError {
  const known = typeof code === "string" && isErrorCode(code) ? code : "internal";
  return new MeshError(known, typeof message === "string" ? message : "it did not start", {
    hint: typeof hint === "string" ? hint : undefined,
    details,
  });
}

function died(what: string, status: number, logFile: string, offset: number): MeshError {
  const said = readFileSync(logFile).subarray(offset).toString("utf8").trim();
  const tail = said.length > logTailCharsMax ? `…${said.slice(-logTailCharsMax)}` : said;
  return new MeshError(
    "internal",
    `${what} ended with status ${status} before it was ready${tail === "" ? "" : `:\n${tail}`}`,
    { hint: `Its log: ${logFile}` },
  );
}

/** False when no such process exists, and for one that has ended and only waits to be noticed by its parent. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return systemCodeOf(error) === "EPERM";
  }
  return process.platform !== "linux" || !isZombie(pid);
}

/** In a container whose first process reaps nobody, an ended daemon stays one for ever (proc_pid_stat(5)). */
function isZombie(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return /^[ZX]/.test(stat.slice(stat.lastIndexOf(")") + 2));
  } catch (error) {
    return systemCodeOf(error) === "ENOENT"; // It has just been reaped.
  }
}

/** Asks the process to end. False when it was gone already; throws `not_allowed` when it is somebody else's. */
export function askToEnd(pid: number): boolean {
  try {
    process.kill(pid, "SIGTERM");
    return true;
  } catch (error) {
    if (systemCodeOf(error) === "ESRCH") return false;
    throw new MeshError("not_allowed", `process ${pid} may not be ended by you (${systemCodeOf(error)})`, {
      hint: "It belongs to another user.",
      cause: error,
    });
  }
}

/** Polls until `ask` has an answer; undefined when it has none within `timeoutMs`. */
export async function eventually<T>(
  ask: () => T | undefined | Promise<T | undefined>,
  timeoutMs: number,
): Promise<T | undefined> {
  const deadline = systemClock.monotonicMs() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined || systemClock.monotonicMs() >= deadline) return answer;
    await new Promise<void>((resolve) => void systemClock.after(pollEveryMs, resolve));
  }
}

/** Polls until `condition` holds; false when it does not within `timeoutMs`. */
export const becomesTrue = async (
  condition: () => boolean | Promise<boolean>,
  timeoutMs: number,
): Promise<boolean> => (await eventually(async () => (await condition()) || undefined, timeoutMs)) === true;
