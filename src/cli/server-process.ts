/**
 * Starting this same executable as a server of its own (daemon, broker) and ending it. The child runs `… --foreground --json`:
 * its standard output is a pipe on which it says what it is busy with before it is ready, and once that it is, or why it is not;
 * the rest goes to its log file.
 */
import { spawn } from "node:child_process";
import { closeSync, constants, fstatSync, lstatSync, mkdirSync, openSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import type { Host } from "~/cli/command";
import { unlessClosed } from "~/cli/output";
import { systemClock } from "~/clock";
import { asMeshError, isErrorCode, MeshError, systemCodeOf } from "~/errors";
import { heapCheckEveryMs } from "~/wire/limits";
import type { HostPaths } from "~/wire/paths";

const pollEveryMs = 25;
const sayAfterMs = 2_000;
const logTailCharsMax = 4000;

/** The words that run this executable again: itself when compiled, Bun and the main module when run from source. */
export function selfCommand(): [executable: string, ...args: string[]] {
  const isCompiled = Bun.main.startsWith("/$bunfs/") || Bun.main.startsWith("B:\\~BUN\\");
  return isCompiled ? [process.execPath] : [process.execPath, Bun.main];
}

/** What a server in the foreground prints with `--json`: what it is busy with (`working_on`), that it serves, or its error body. */
type Word = Record<string, unknown>;

export interface Detached {
  /** For messages: `the daemon`. */
  what: string;
  args: readonly string[];
  logFile: string;
  host: Host;
  timeoutMs: number;
}

/**
 * Spawns the server in a session of its own and resolves with its pid when it says that it is ready. The time counts while it does
 * not say that it is at work. Throws the server's own error, `internal` when it died without one (with what it logged),
 * `interrupted` or `timed_out`; then it was ended again.
 */
export async function startDetached({ what, args, logFile, host, timeoutMs }: Detached): Promise<number> {
  const log = openLog(logFile);
  const [executable, ...selfArgs] = selfCommand();
  const child = spawn(executable, [...selfArgs, ...args, "--foreground", "--json"], {
    detached: true,
    stdio: ["ignore", "pipe", log?.fd ?? "ignore"],
    env: {
      BUN_GC_TIMER_INTERVAL: String(heapCheckEveryMs),
      ...host.env,
      ...absolute(host.paths),
      ...unmanaged,
    },
    cwd: "/",
  });
  if (log !== undefined) closeSync(log.fd);
  const { pid, stdout } = child;
  const ended = new Promise<number>((resolve, reject) => {
    child.once("error", (error) => reject(notStarted(what, executable, error)));
    child.once("close", (status) => resolve(status ?? 1));
  });
  // It is asked below, if it is needed.
  ended.catch(() => undefined);
  let first: Word | undefined;
  try {
    first = !stdout ? undefined : await lastWord(stdout, { what, host, timeoutMs });
  } catch (error) {
    child.kill("SIGTERM");
    if (!(error instanceof MeshError)) throw error;
    throw new MeshError(error.code, error.message, { hint: `See its log: ${logFile}` });
  }
  if (first === undefined || pid === undefined || "error" in first) {
    const status = await ended;
    throw first !== undefined && "error" in first
      ? childError(first)
      : died(what, status, logFile, log?.offset);
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

/** Owner-only, appended to, never through a symbolic link. Undefined in a directory that the server itself refuses, and says why. */
function openLog(path: string): { fd: number; offset: number } | undefined {
  const { O_APPEND, O_CREAT, O_NOFOLLOW, O_WRONLY } = constants;
  if (!isOwnDirectory(dirname(path))) return undefined;
  try {
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

/** Makes it where it is missing. */
function isOwnDirectory(path: string): boolean {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    const status = lstatSync(path);
    return status.isDirectory() && status.uid === process.getuid?.();
  } catch (error) {
    if (systemCodeOf(error) === undefined) throw error;
    return false;
  }
}

/** The word that settles it; undefined when the stream ends without one. */
export async function lastWord(
  stream: AsyncIterable<Uint8Array>,
  { what, host, timeoutMs }: Pick<Detached, "what" | "host" | "timeoutMs">,
): Promise<Word | undefined> {
  const ended = Promise.withResolvers<never>();
  const end = (code: "interrupted" | "timed_out", why: string) =>
    ended.reject(new MeshError(code, `${what} ${why} and was ended again`));
  const late = () => end("timed_out", `was not ready within ${timeoutMs / 1000} s`);
  const interrupt = () => end("interrupted", "was not ready yet");
  let timer = systemClock.after(timeoutMs, late);
  host.interrupted.addEventListener("abort", interrupt);
  if (host.interrupted.aborted) interrupt();
  const words = lines(stream);
  try {
    for (;;) {
      const { done, value: line } = await Promise.race([words.next(), ended.promise]);
      const word = done === true ? undefined : parseObject(line);
      if (word === undefined || !("working_on" in word)) return word;
      timer.cancel();
      const work = word.working_on;
      // What is quickly done needs no words.
      timer =
        typeof work === "string"
          ? systemClock.after(sayAfterMs, () => void host.out.note(`${what} is still ${work}`))
          : systemClock.after(timeoutMs, late);
    }
  } finally {
    timer.cancel();
    host.interrupted.removeEventListener("abort", interrupt);
    // Nobody may be waiting for it any more.
    ended.promise.catch(() => undefined);
  }
}

async function* lines(stream: AsyncIterable<Uint8Array>): AsyncGenerator<string, undefined> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) {
    text += decoder.decode(chunk, { stream: true });
    const whole = text.split("\n");
    text = whole.pop() ?? "";
    yield* whole;
  }
  if (text !== "") yield text;
}

/** For the server itself, in the foreground: what it is at work on, or that it has finished (`undefined`). */
export function tellWork({ out }: Host): (work: string | undefined) => Promise<void> {
  let told: string | undefined;
  return async (work) => {
    if (work === told) return;
    told = work;
    if (out.json) await unlessClosed(out.answer({ working_on: work ?? null }, () => ""));
    else if (work !== undefined) await out.note(work);
  };
}

function parseObject(line: string): Word | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? { ...value } : undefined;
  } catch {
    return undefined; // It died before it could say anything.
  }
}

function childError({ error: code, message, hint, ...details }: Word): MeshError {
  const known = typeof code === "string" && isErrorCode(code) ? code : "internal";
  return new MeshError(known, typeof message === "string" ? message : "it did not start", {
    hint: typeof hint === "string" ? hint : undefined,
    details,
  });
}

function notStarted(what: string, executable: string, error: Error): MeshError {
  const { message, hint } = asMeshError(error);
  return new MeshError("internal", `${what} cannot be started: ${message}`, {
    hint: hint ?? `See whether it is there: ls -l '${executable}'`,
    cause: error,
  });
}

function died(what: string, status: number, logFile: string, offset: number | undefined): MeshError {
  const said = offset === undefined ? "" : readFileSync(logFile).subarray(offset).toString("utf8").trim();
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
