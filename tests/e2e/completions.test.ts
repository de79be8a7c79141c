/**
 * The completion scripts in the real shells, on a terminal: a line is typed up to a TAB and then run, and what counts is the
 * arguments that the command got. What the daemon knows is completed by the real executable from a daemon with difficult names.
 * A shell that is not installed is installed where that is possible (Debian, as root); else its tests are skipped, loudly.
 */
import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Group, isGroup } from "~/cli/command";
import { tree } from "~/cli/tree";
import { cleanup } from "../support/cleanup";
import { command } from "../support/cli";
import { type Member, startMesh } from "../support/mesh";
import { tempDir } from "../support/temp-dir";
import { waitFor } from "../support/wait-for";

/** Every line that is typed starts the executable, and some tests type many. */
setDefaultTimeout(120_000);

const names = ["Anna Karenina", "Zoë", "it's", 'dol$lar "q"', "hey!! \\o", "bob"] as const;

interface Shell {
  name: "bash" | "zsh" | "fish";
  argv: string[];
  /** What makes the shell complete claudemesh. */
  install: string;
}

const shells: Shell[] = [
  {
    name: "bash",
    argv: ["bash", "--norc", "--noprofile", "-i"],
    install: 'eval "$(claudemesh completions bash)"',
  },
  {
    name: "zsh",
    argv: ["zsh", "-f", "-i"],
    install: "autoload -U compinit && compinit -D && source <(claudemesh completions zsh)",
  },
  { name: "fish", argv: ["fish", "--no-config", "-i"], install: "claudemesh completions fish | source" },
];

function isThere(name: string): boolean {
  if (Bun.which(name) !== null) return true;
  if (process.getuid?.() !== 0 || Bun.which("apt-get") === null) return false;
  Bun.spawnSync(["apt-get", "install", "-y", name], {
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    stdout: "ignore",
    stderr: "ignore",
  });
  return Bun.which(name) !== null;
}

const present = new Map(shells.map(({ name }) => [name, isThere(name)]));

/** A directory with files to complete, a daemon that knows the names, and a `claudemesh` that notes how it was called. */
let directory: string;
let alice: Member;
let rowIds: string[];

beforeAll(async () => {
  const mesh = await startMesh({ members: ["alice", ...names], daemons: ["alice"] });
  alice = mesh.alice;
  for (const to of ["bob", "Zoë"]) await alice.run(["send", to, "hi", "--wait", "accepted"]);
  rowIds = (await alice.outbox()).items.map(({ id }) => id);
  directory = tempDir();
  mkdirSync(join(directory, "work"));
  writeFileSync(join(directory, "work", "a file.txt"), "");
  mkdirSync(join(directory, "work", "a directory"));
  mkdirSync(join(directory, "bin"));
  const wrapper = join(directory, "bin", "claudemesh");
  const real = command.map((word) => `'${word}'`).join(" ");
  writeFileSync(
    wrapper,
    `#!/bin/sh
case $1 in complete|completions) exec ${real} "$@";; esac
printf '%s\\0' "$@" > "$NOTES/new" && mv "$NOTES/new" "$NOTES/$(date +%s%N)"
`,
  );
  chmodSync(wrapper, 0o755);
});

/** A shell on a terminal of its own, with the completions installed. */
class Terminal {
  #screen = "";
  readonly #notes: string;
  readonly #child: Bun.Subprocess;
  readonly #shell: Shell;

  constructor(shell: Shell) {
    this.#shell = shell;
    this.#notes = join(tempDir(), "notes");
    mkdirSync(this.#notes);
    this.#child = Bun.spawn(shell.argv, {
      cwd: join(directory, "work"),
      env: {
        PATH: `${join(directory, "bin")}:${process.env.PATH ?? ""}`,
        HOME: tempDir(),
        NOTES: this.#notes,
        TERM: "xterm",
        LANG: "C.UTF-8",
        LC_ALL: "C.UTF-8",
        ...alice.env,
      },
      terminal: {
        cols: 200,
        rows: 50,
        data: (_, bytes) => {
          this.#screen += new TextDecoder().decode(bytes);
        },
      },
    });
    cleanup(() => {
      this.#child.kill("SIGKILL");
      this.#child.terminal?.close();
    });
  }

  async ready(): Promise<void> {
    this.write(`${this.#shell.install}\r`);
    expect(await this.run("claudemesh installed\r")).toEqual(["installed"]);
  }

  write(keys: string): void {
    this.#child.terminal?.write(keys);
  }

  /** Types a line that ends up running claudemesh; the arguments that it got. */
  async run(keys: string): Promise<string[]> {
    this.write(keys);
    return await waitFor(() => this.#take(), { what: `${JSON.stringify(keys)} to run claudemesh` });
  }

  /** Types keys that list what fits, until the screen shows it. The line stays as it is. */
  async shows(keys: string, pattern: RegExp): Promise<void> {
    this.#screen = "";
    this.write(keys);
    await waitFor(() => pattern.test(this.#screen), { what: `${JSON.stringify(keys)} to show ${pattern}` });
  }

  #take(): string[] | undefined {
    const name = readdirSync(this.#notes).find((found) => found !== "new");
    if (name === undefined) return undefined;
    const path = join(this.#notes, name);
    const words = readFileSync(path, "utf8").split("\0").slice(0, -1);
    rmSync(path);
    return words;
  }
}

/** Typed up to where the shell is to go on, and run: the arguments of claudemesh. */
const typed: [keys: string, words: string[]][] = [
  ["claudemesh ver\t\r", ["version"]],
  ["claudemesh send An\t\r", ["send", "Anna Karenina"]],
  ['claudemesh send "An\t\r', ["send", "Anna Karenina"]],
  ["claudemesh send 'An\t\r", ["send", "Anna Karenina"]],
  ["claudemesh send Anna\\ \t\r", ["send", "Anna Karenina"]],
  ["claudemesh send Zo\t\r", ["send", "Zoë"]],
  ["claudemesh send it\t\r", ["send", "it's"]],
  ["claudemesh send 'it\t\r", ["send", "it's"]],
  ["claudemesh send d\t\r", ["send", 'dol$lar "q"']],
  ['claudemesh send "d\t\r', ["send", 'dol$lar "q"']],
  ["claudemesh send h\t\r", ["send", "hey!! \\o"]],
  ['claudemesh send "h\t\r', ["send", "hey!! \\o"]],
  ["claudemesh send 'h\t\r", ["send", "hey!! \\o"]],
  ["claudemesh send -- b\t\r", ["send", "--", "bob"]],
  ["claudemesh peers --mesh=t\t\r", ["peers", "--mesh=team"]],
  ["claudemesh peers --mesh \t\r", ["peers", "--mesh", "team"]],
  ["claudemesh inbox --from Z\t\r", ["inbox", "--from", "Zoë"]],
  ["claudemesh mesh trust An\t\r", ["mesh", "trust", "Anna Karenina"]],
  ["claudemesh send bob --prio\tlo\t\r", ["send", "bob", "--priority", "low"]],
  ["claudemesh send bob --priority=lo\t\r", ["send", "bob", "--priority=low"]],
  ["claudemesh send bob --file a\\ f\t\r", ["send", "bob", "--file", "a file.txt"]],
  ["claudemesh send bob --file=a\\ f\t\r", ["send", "bob", "--file=a file.txt"]],
  ["claudemesh broker status --data a\t\r", ["broker", "status", "--data", "a directory"]],
];

for (const shell of shells) {
  if (!present.get(shell.name))
    console.warn(`SKIPPED: ${shell.name} is not installed, so its completions are not tried`);
}

describe.each(shells.map((shell) => [shell.name, shell] as const))("%s", (name, shell) => {
  const isPresent = present.get(name) === true;

  test.skipIf(!isPresent)("goes on from what is typed", async () => {
    const terminal = new Terminal(shell);
    await terminal.ready();
    const got: [keys: string, words: string[]][] = [];
    for (const [keys] of typed) {
      const words = await terminal.run(keys);
      // zsh takes the slash that it appends to a directory away again when the word ends there.
      got.push([keys, words.map((word) => word.replace(/\/$/, ""))]);
    }
    expect(got).toEqual(typed);
  });

  test.skipIf(!isPresent)("shows outbox rows, the newest first, with what became of them", async () => {
    const terminal = new Terminal(shell);
    await terminal.ready();
    const [newest = "", oldest = ""] = rowIds;
    expect(await terminal.run(`claudemesh daemon outbox show ${oldest.slice(0, -1)}\t\r`)).toEqual([
      "daemon",
      "outbox",
      "show",
      oldest,
    ]);
    // Bash inserts what both begin with, then rings, then lists; the others are there sooner.
    const tabs = name === "bash" ? "\t\t\t" : "\t\t";
    const list = new RegExp(`${newest}[^]*done to Zoë[^]*${oldest}[^]*done to bob`);
    await terminal.shows(`claudemesh daemon outbox show ${tabs}`, list);
  });
});

// ── Every command of the tree ───────────────────────────────────────────────────────────────────────────────────────

const lines: [line: string, word: string][] = [];
async function collect(group: Group, path: string): Promise<void> {
  for (const [name, load] of Object.entries(group.commands)) {
    const node = await load();
    lines.push([`${path} ${name.slice(0, -1)}`, name]);
    if (isGroup(node)) await collect(node, `${path} ${name}`);
    else {
      for (const [flag, arg] of Object.entries(node.args)) {
        if (arg.type !== "positional") lines.push([`${path} ${name} --${flag.slice(0, -1)}`, `--${flag}`]);
      }
    }
  }
}
await collect(tree, "claudemesh");

async function replies(argv: string[], script: string): Promise<string[]> {
  const child = Bun.spawn([...argv, script], {
    env: { PATH: `${join(directory, "bin")}:${process.env.PATH ?? ""}`, HOME: tempDir(), ...alice.env },
    stdin: Buffer.from(lines.map(([line]) => `${line}\n`).join("")),
    stdout: "pipe",
    stderr: "inherit",
  });
  const text = await child.stdout.text();
  expect(await child.exited).toBe(0);
  return text.trimEnd().split("\n");
}

const missing = (answers: readonly string[]): string[] =>
  lines.flatMap(([line, word], index) => (answers[index]?.split("|").includes(word) ? [] : [line]));

test.skipIf(!present.get("bash"))("bash completes every command and every flag", async () => {
  const script = `
eval "$(claudemesh completions bash)"
while IFS= read -r COMP_LINE; do
  COMP_POINT=\${#COMP_LINE} COMP_TYPE=9
  _claudemesh claudemesh </dev/null
  (IFS='|'; printf '%s\\n' "\${COMPREPLY[*]}")
done`;
  expect(missing(await replies(["bash", "--norc", "-c"], script))).toEqual([]);
});

test.skipIf(!present.get("fish"))("fish completes every command and every flag", async () => {
  const script = `
claudemesh completions fish | source
while read -l line
  string join -- '|' (complete -C "$line" </dev/null | string replace -r '\\t.*' '')
end
exit 0`;
  expect(missing(await replies(["fish", "--no-config", "-c"], script))).toEqual([]);
});

test.skipIf(!present.get("bash"))("a bash without compopt, as macOS has, completes files too", async () => {
  const script = `
enable -n compopt
eval "$(claudemesh completions bash)"
cd '${join(directory, "work")}'
COMP_WORDS=(claudemesh send bob --file a) COMP_CWORD=4 COMP_LINE='claudemesh send bob --file a' COMP_POINT=28
_claudemesh claudemesh
printf '%s\\n' "\${COMPREPLY[@]}" | sort`;
  expect(await replies(["bash", "--norc", "-c"], script)).toEqual(["a\\ directory", "a\\ file.txt"]);
});
