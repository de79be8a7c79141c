/**
 * Runs claudemesh as a user would: the compiled executable, in an environment of which only what is listed here comes from the
 * machine, with a home directory that did not exist before. CLAUDEMESH_BIN names another executable; `source` runs src/main.ts.
 */
import { join } from "node:path";
import { cleanup } from "./cleanup";
import { tempDir } from "./temp-dir";
import { waitFor } from "./wait-for";

export const root = join(import.meta.dir, "../..");

/** What to execute, before the arguments. */
export const command: readonly string[] = (() => {
  const chosen = process.env.CLAUDEMESH_BIN ?? join(root, "dist/claudemesh");
  return chosen === "source" ? [process.execPath, join(root, "src/main.ts")] : [chosen];
})();

export interface CliOptions {
  /** Added to the clean environment. Calls that belong together name the same HOME or CLAUDEMESH_CONFIG_DIR. */
  env?: Record<string, string>;
  /** Default: the home directory of the call. */
  cwd?: string;
  /** How many files it may open at a time, as a shell limits it. */
  filesMax?: number;
}

export interface CliResult {
  /** 128 + the number of the signal when a signal ended it, as in a shell. */
  exitCode: number;
  stdout: string;
  stderr: string;
  /** Standard output, which must be one JSON value. */
  json(): unknown;
}

export interface RunningCli {
  pid: number;
  /** Everything written so far. */
  stdout(): string;
  stderr(): string;
  write(text: string): Promise<void>;
  /** Ends standard input. */
  end(): Promise<void>;
  /** Waits until standard output or standard error matches, and returns the match. Fails early when the process ends first. */
  waitForOutput(pattern: RegExp, timeoutMs?: number): Promise<RegExpMatchArray>;
  /** Resolves when it has ended and its output has been read. */
  exited: Promise<CliResult>;
  /** Sends the signal and waits for the end. */
  stop(signal?: NodeJS.Signals): Promise<CliResult>;
}

/** Runs a command to its end. One that takes longer than `timeoutMs` is killed, and the call fails with what it had printed. */
export async function runCli(
  args: readonly string[],
  { stdin, timeoutMs = 20_000, ...options }: CliOptions & { stdin?: string; timeoutMs?: number } = {},
): Promise<CliResult> {
  const running = spawnCli(args, options);
  if (stdin !== undefined) await running.write(stdin);
  await running.end();
  const result = await Promise.race([running.exited, Bun.sleep(timeoutMs)]); // not a poll: the limit on a hung command
  if (result) return result;
  const { stdout, stderr } = await running.stop("SIGKILL");
  throw new Error(`claudemesh ${args.join(" ")} ran longer than ${timeoutMs} ms\n${stdout}\n${stderr}`);
}

/** Starts a command that goes on running, such as `daemon up --foreground`. It is killed after the test if it still runs. */
export function spawnCli(args: readonly string[], { env, cwd, filesMax }: CliOptions = {}): RunningCli {
  const cleanEnv = { ...inheritedEnv(), HOME: tempDir(), ...env };
  const limit = filesMax === undefined ? [] : ["sh", "-c", `ulimit -n ${filesMax}; exec "$@"`, "sh"];
  const child = Bun.spawn([...limit, ...command, ...args], {
    env: cleanEnv,
    cwd: cwd ?? cleanEnv.HOME,
    stdin: "pipe",
    stdout: "pipe",
    stderr: "pipe",
  });
  const stdout = collect(child.stdout);
  const stderr = collect(child.stderr);
  let ended = false;
  const exited = (async (): Promise<CliResult> => {
    const exitCode = await child.exited;
    await Promise.all([stdout.done, stderr.done]);
    ended = true;
    return {
      exitCode,
      stdout: stdout.text(),
      stderr: stderr.text(),
      json: () => JSON.parse(stdout.text()),
    };
  })();
  const stop = (signal: NodeJS.Signals = "SIGTERM"): Promise<CliResult> => {
    child.kill(signal);
    return exited;
  };
  cleanup(async () => {
    child.kill("SIGKILL");
    await child.exited;
  });
  return {
    pid: child.pid,
    stdout: stdout.text,
    stderr: stderr.text,
    write: async (text) => {
      child.stdin.write(text);
      await child.stdin.flush();
    },
    end: async () => {
      await child.stdin.end();
    },
    waitForOutput: async (pattern, timeoutMs = 10_000) => {
      const match = await waitFor(
        () => stdout.text().match(pattern) ?? stderr.text().match(pattern) ?? (ended || undefined),
        {
          what: `claudemesh ${args.join(" ")} to print ${pattern}`,
          timeoutMs,
        },
      );
      if (match === true)
        throw new Error(`it ended without printing ${pattern}:\n${stdout.text()}\n${stderr.text()}`);
      return match;
    },
    exited,
    stop,
  };
}

function inheritedEnv(): Record<string, string> {
  const names = ["PATH", "TMPDIR", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME", "SHELL"];
  return Object.fromEntries(names.flatMap((name) => (process.env[name] ? [[name, process.env[name]]] : [])));
}

function collect(stream: ReadableStream<Uint8Array>): { text: () => string; done: Promise<void> } {
  let text = "";
  const done = (async () => {
    const decoder = new TextDecoder();
    for await (const chunk of stream) text += decoder.decode(chunk, { stream: true });
  })();
  return { text: () => text, done };
}
