/**
 * Ends an agent whose shim was killed, SIGKILL included. A small shell, in a session of its own, waits on a pipe of which the shim alone
 * holds the other end, and does nothing else: it costs little memory and no time. When the pipe ends, it runs this executable's hidden
 * command `end-agent` (end-agent.ts) with what the shim told it last. When that is not there any more, as after an upgrade, it does by
 * itself what a shell can: it ends the agent's process group and, on Linux, what carries the mark.
 */
import type { Clock, Timer } from "~/clock";
import { messageOf } from "~/errors";
import { orphanTermMs, watchdogEndMs, watchdogRestartMs, watchdogRestartsMax } from "~/wire/limits";

export interface WatchdogOptions {
  /** What it runs when the shim is gone; it adds the words that it was told. The last of it is the tree's mark. */
  command: readonly string[];
  clock: Clock;
  env: Readonly<Record<string, string | undefined>>;
  warn(message: string): void;
}

export interface Watchdog {
  /** What to add to the command from now on: words with single spaces between them, none of which a shell would take for more. */
  tell(words: string): void;
  /** Its processes, those included that have only just ended. */
  pids(): readonly number[];
  /** Has it go, and waits until it is gone. */
  close(): Promise<void>;
}

/** It is started again when somebody ends it. `warn` says when there is none, for then nothing would end the agent. */
export function startWatchdog(options: WatchdogOptions): Watchdog {
  return new ShellWatchdog(options);
}

/**
 * Signals are meant for the shim's other children, not for this one. The last argument is the mark that all of the agent's carry, which
 * is what they are found by where there is a /proc. Among the words, `agent=PID:START:…` is the first, and START the twentieth field behind the
 * name in the agent's `stat`: another process may have the number by now.
 */
const script = `
set -f
trap '' HUP INT QUIT TERM PIPE ALRM USR1 USR2 TSTP TTIN TTOU
words=
while read -r word rest; do
  case $word in
    watch) words=$rest ;;
    done) exit 0 ;;
  esac
done
"$@" $words </dev/null && exit 0
for mark; do :; done
case $words in
  agent=*)
    agent=\${words#agent=}
    group=\${agent%%:*}
    started=\${agent#*:}
    started=\${started%%:*}
    if [ -r /proc/$group/stat ]; then
      read -r stat </proc/$group/stat
      set -- \${stat##*) }
      [ "\${20}" = "$started" ] || group=
    fi ;;
  *) group= ;;
esac
end() {
  [ -z "$group" ] || kill -s "$1" -- "-$group"
  set +f
  for file in $(grep -ls -- "$mark" /proc/[0-9]*/environ); do
    file=\${file#/proc/}
    kill -s "$1" "\${file%/environ}"
  done
}
end TERM
sleep ${orphanTermMs / 1000}
end KILL
`;

type Shell = Bun.Subprocess<"pipe", "ignore", "ignore">;

class ShellWatchdog implements Watchdog {
  readonly #options: WatchdogOptions;
  readonly #shells = new Set<Shell>();
  #current: Shell | undefined;
  #words = "";
  #restarts = 0;
  #restart: Timer | undefined;
  #isClosed = false;

  constructor(options: WatchdogOptions) {
    this.#options = options;
    this.#start();
  }

  tell(words: string): void {
    this.#words = words;
    this.#write(`watch ${words}\n`);
  }

  pids(): readonly number[] {
    return [...this.#shells].map(({ pid }) => pid);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#restart?.cancel();
    this.#write("done\n");
    const shells = [...this.#shells];
    const timer = this.#options.clock.after(watchdogEndMs, () => {
      for (const shell of shells) shell.kill("SIGKILL");
    });
    await Promise.all(shells.map(({ exited }) => exited));
    timer.cancel();
  }

  #start(): void {
    const { command, env } = this.#options;
    let shell: Shell;
    try {
      shell = Bun.spawn(["/bin/sh", "-c", script, "claudemesh-watchdog", ...command], {
        // A session of its own: no terminal hangs up on it, and no signal to the shim's group reaches it.
        detached: true,
        stdin: "pipe",
        stdout: "ignore",
        stderr: "ignore",
        cwd: "/",
        env: { ...env },
        onExit: (ended, status, signal) =>
          this.#ended(ended, `it ended with ${signal ?? `status ${status}`}`),
      });
    } catch (error) {
      this.#startAgain(messageOf(error));
      return;
    }
    this.#current = shell;
    this.#shells.add(shell);
    if (this.#words !== "") this.tell(this.#words);
  }

  /** At once, not some time later: the shim may be killed in the very next moment. */
  #write(line: string): void {
    if (this.#current === undefined) return;
    const { stdin } = this.#current;
    for (const done of [stdin.write(line), stdin.flush()]) {
      // That it cannot be written to means that it has ended, which is reported by itself.
      Promise.resolve(done).catch(() => undefined);
    }
  }

  #ended(shell: Bun.Subprocess, why: string): void {
    for (const known of this.#shells) if (known.pid === shell.pid) this.#shells.delete(known);
    this.#current = undefined;
    this.#startAgain(why);
  }

  #startAgain(why: string): void {
    if (this.#isClosed) return;
    const { warn, clock } = this.#options;
    if (this.#restarts === watchdogRestartsMax) {
      warn(
        `the agent's watchdog is gone for good (${why}): if this shim is killed, the agent may go on alone`,
      );
      return;
    }
    this.#restarts += 1;
    this.#restart = clock.after(watchdogRestartMs, () => this.#start());
  }
}
