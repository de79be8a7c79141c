/**
 * Stand-ins for systemctl, loginctl and launchctl: shell scripts for PATH that write down how they were called, keep what a manager
 * would know as files in one directory, and fail where a test wants it. With `start`, a restart really starts something.
 */
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { tempDir } from "./temp-dir";

export interface FakeServiceManager {
  /** For PATH, before anything else. */
  bin: string;
  /** Every call so far, in order, as it would be typed; questions about the state are left out. */
  calls(): string[];
  /** Has the manager say so from now on. */
  set(fact: Fact, value?: string): void;
  unset(fact: Fact): void;
  get(fact: Fact): string | undefined;
}

/**
 * `loaded` and `pid`: of the service. `next-pid`: what a restart runs. `absent`: nobody answers. `user-absent`: only the system's
 * manager does. `fail`: the words of a call that fails. `failed`: the service has given up. `linger`: `yes` or `no`. `lazy`: so many
 * questions are answered before launchd has let go of a job.
 */
type Fact =
  | "absent"
  | "fail"
  | "failed"
  | "lazy"
  | "linger"
  | "loaded"
  | "next-pid"
  | "pid"
  | "start"
  | "user-absent";

const common = (facts: string): string => `#!/bin/sh
cd '${facts}' || exit 99
say() { echo "$*" >> calls; }
if [ -e fail ] && [ "$(cat fail)" = "$(basename "$0") $*" ]; then say "$(basename "$0") $*"; echo "it was told to fail" >&2; exit 5; fi
start() {
  if [ -e start ]; then sh ./start; elif [ -e next-pid ]; then cp next-pid pid; fi
  touch loaded
}
stop() {
  if [ -e start ] && [ -e pid ]; then
    kill "$(cat pid)" 2>/dev/null
    while kill -0 "$(cat pid)" 2>/dev/null; do sleep 0.05; done
  fi
  rm -f pid
}
`;

const systemctl = `
if [ -e absent ] || { [ -e user-absent ] && [ "$1" = --user ]; }; then echo "Failed to connect to bus: No medium found" >&2; exit 1; fi
all="$*"
[ "$1" = --user ] && shift
case "$1" in
show)
  case "$2" in
  --property=Version) echo 252 ;;
  *)
    if [ -e loaded ]; then echo LoadState=loaded; else echo LoadState=not-found; fi
    if [ -e failed ]; then echo ActiveState=failed; echo SubState=failed; echo Result=exit-code; echo ExecMainStatus=4; echo MainPID=0
    elif [ -e pid ]; then echo ActiveState=active; echo SubState=running; echo Result=success; echo ExecMainStatus=0; echo "MainPID=$(cat pid)"
    elif [ -e start ] && [ -e loaded ]; then echo ActiveState=activating; echo SubState=auto-restart; echo Result=exit-code; echo ExecMainStatus=1; echo MainPID=0
    else echo ActiveState=inactive; echo SubState=dead; echo Result=success; echo ExecMainStatus=0; echo MainPID=0; fi ;;
  esac
  exit 0 ;;
enable) touch loaded ;;
disable) rm -f loaded ;;
restart) stop; start ;;
stop) stop ;;
esac
say "systemctl $all"
`;

const launchctl = `
case "$1" in
print)
  [ -e absent ] && { echo "Could not find domain for port" >&2; exit 112; }
  case "$2" in
  */*/*|system/*)
    if [ ! -e loaded ]; then
      [ -e lazy ] && [ "$(cat lazy)" -gt 0 ] || { echo "Could not find service in domain" >&2; exit 113; }
      echo $(($(cat lazy) - 1)) > lazy
    fi
    printf 'x = {\\n\\tactive count = 1\\n\\tstate = running\\n'
    [ -e pid ] && printf '\\tpid = %s\\n' "$(cat pid)"
    printf '\\tendpoints = {\\n\\t\\tpid = 1\\n\\t}\\n\\tlast exit code = (never exited)\\n}\\n' ;;
  esac
  exit 0 ;;
bootout) say "launchctl $*"; stop; rm -f loaded; [ -e lazy ] && { echo "Operation now in progress" >&2; exit 36; }; exit 0 ;;
bootstrap) start ;;
esac
say "launchctl $*"
`;

const loginctl = `
[ -e linger ] || { echo "User ID is not logged in or lingering" >&2; exit 1; }
cat linger
`;

export function fakeServiceManager(): FakeServiceManager {
  const dir = tempDir();
  const [bin, facts] = [join(dir, "bin"), join(dir, "facts")];
  mkdirSync(bin);
  mkdirSync(facts);
  for (const [name, script] of Object.entries({ systemctl, launchctl, loginctl })) {
    writeFileSync(join(bin, name), common(facts) + script);
    chmodSync(join(bin, name), 0o755);
  }
  const read = (name: string): string | undefined =>
    existsSync(join(facts, name)) ? readFileSync(join(facts, name), "utf8") : undefined;
  return {
    bin,
    calls: () => (read("calls") ?? "").split("\n").filter((line) => line !== ""),
    set: (fact, value = "") => writeFileSync(join(facts, fact), value),
    unset: (fact) => rmSync(join(facts, fact), { force: true }),
    get: (fact) => read(fact)?.trim(),
  };
}
