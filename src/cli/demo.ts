import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { defineCommand, type Host } from "~/cli/command";
import { askToEnd, becomesTrue, isAlive, selfCommand } from "~/cli/server-process";
import { systemClock } from "~/clock";
import { MeshError, messageOf } from "~/errors";

export const demo = defineCommand({
  name: "demo",
  description: "see it work: a broker, two hosts, messages both ways; touches nothing of yours",
  args: {},
  notes:
    "Everything happens in a temporary directory with processes of its own, and is removed afterwards, on failure and Ctrl-C too. Every command shown is run by this same executable and can be typed just so.",
  exits: [7, 130],
  examples: ["claudemesh demo", "claudemesh demo --json"],
  async run(_args, host) {
    const stage = new Stage(host);
    try {
      await play(stage);
    } finally {
      await stage.clear();
    }
    const total_ms = stage.elapsedMs();
    await host.out.answer({ ok: true, total_ms, arrivals_ms: stage.arrivalsMs, steps: stage.steps }, () =>
      [
        `From send to the other inbox: ${Object.entries(stage.arrivalsMs)
          .map(([what, ms]) => `${ms} ms (${what})`)
          .join(", ")}.`,
        `All of it took ${(total_ms / 1000).toFixed(1)} s; nothing is left behind.`,
      ].join("\n"),
    );
  },
});

async function play(stage: Stage): Promise<void> {
  await stage.say("A broker, and a mesh that alice owns:");
  const { stdout: brokerSaid } = await stage.run("alice", ["broker", "up", "--port", "0"]);
  const url = match(brokerSaid, /ws:\/\/\S+\/ws/);
  await stage.run("alice", ["mesh", "create", "demo", "--broker", url, "--display-name", "alice"]);
  const { stdout: link } = await stage.run("alice", ["mesh", "invite"]);

  await stage.say("Bob joins with the link; each of them runs a daemon:");
  await stage.run("bob", ["join", link, "--name", "bob"]);
  await stage.run("alice", ["daemon", "up", "--no-tcp"]);
  await stage.run("bob", ["daemon", "up", "--no-tcp"]);

  await stage.say("A message, and an answer to it:");
  const id = await stage.exchange("alice", "bob", "there", ["send", "bob", "Hello, Bob!"]);
  await stage.exchange("bob", "alice", "back", ["send", "alice", "Hello, Alice!", "--reply-to", id]);

  await stage.say(
    "The broker goes away. What is sent meanwhile waits on alice's disk, and arrives when it is back:",
  );
  await stage.run("alice", ["broker", "down"]);
  const later = "Sent while the broker was down.";
  const sent = await stage.run("alice", ["send", "bob", later]);
  await stage.run("alice", ["broker", "up", "--port", new URL(url).port]);
  await stage.arrival("bob", sent.endedMs, "after the broker's return", later);
}

type Person = "alice" | "bob";

interface Step {
  host: Person;
  command: string;
  stdout: string;
  stderr: string;
  ms: number;
}

const arrivalMsMax = 20_000;
const pollEveryMs = 25;
const endMsMax = 8_000;

/** Where the play is given: two hosts in one temporary directory, and what has to be cleared away after it. */
class Stage {
  readonly steps: Step[] = [];
  readonly arrivalsMs: Record<string, number> = {};
  readonly #host: Host;
  readonly #interrupted: AbortSignal;
  readonly #directory: string;
  readonly #startedMs = systemClock.monotonicMs();
  readonly #pids = new Set<number>();

  constructor(host: Host) {
    this.#host = host;
    this.#interrupted = host.interrupted;
    // Socket paths are short; some systems' directories for temporary files are not.
    const base = tmpdir().length > 40 ? "/tmp" : tmpdir();
    this.#directory = mkdtempSync(join(base, "cm-demo-"));
  }

  elapsedMs(): number {
    return Math.round(systemClock.monotonicMs() - this.#startedMs);
  }

  async say(text: string): Promise<void> {
    if (!this.#host.out.json) await this.#host.out.answer(undefined, () => `${text}\n`);
  }

  /** Runs a command as one of the two, shows it with what it printed, and remembers it. */
  async run(person: Person, args: readonly string[]): Promise<Step & { endedMs: number }> {
    const step = await this.#execute(person, args);
    await this.#show(step);
    return step;
  }

  /** Sends, and waits until it is read on the other side. Resolves with the message's id. */
  async exchange(from: Person, to: Person, what: string, args: readonly string[]): Promise<string> {
    const sent = await this.run(from, args);
    await this.arrival(to, sent.endedMs - sent.ms, what, args[2] ?? "");
    return match(sent.stdout, /^\S+ (\S+)/);
  }

  /** Reads the inbox until it holds `text`; only the reading that does is shown. */
  async arrival(person: Person, sinceMs: number, what: string, text: string): Promise<void> {
    const deadlineMs = systemClock.monotonicMs() + arrivalMsMax;
    for (;;) {
      const step = await this.#execute(person, ["inbox", "--unread", "--ack"]);
      if (step.stdout.includes(text)) {
        this.arrivalsMs[what] = Math.round(step.endedMs - sinceMs);
        await this.#show(step);
        return;
      }
      if (systemClock.monotonicMs() > deadlineMs) {
        throw new MeshError("timed_out", `the message did not arrive within ${arrivalMsMax / 1000} s`);
      }
      await new Promise<void>((resolve) => void systemClock.after(pollEveryMs, resolve));
    }
  }

  async #execute(person: Person, args: readonly string[]): Promise<Step & { endedMs: number }> {
    this.#interrupted.throwIfAborted();
    const startedMs = systemClock.monotonicMs();
    const child = Bun.spawn([...selfCommand(), ...args], {
      env: this.#environment(person),
      cwd: this.#directory,
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    const [stdout, stderr, status] = await Promise.all([
      child.stdout.text(),
      child.stderr.text(),
      child.exited,
    ]);
    const endedMs = systemClock.monotonicMs();
    this.#interrupted.throwIfAborted();
    if (/^(daemon|broker) up/.test(args.join(" "))) {
      const pid = /\bpid (\d+)/.exec(stdout)?.[1];
      if (pid !== undefined) this.#pids.add(Number(pid));
    }
    const command = args.map(quoted).join(" ");
    if (status !== 0) {
      throw new MeshError(
        "internal",
        `claudemesh ${command} ended with status ${status}:\n${stderr.trim()}`,
        {
          hint: "The demo is meant to work everywhere; this is worth a bug report.",
        },
      );
    }
    return {
      host: person,
      command: `claudemesh ${command}`,
      stdout: stdout.trimEnd(),
      stderr: stderr.trimEnd(),
      ms: Math.round(endedMs - startedMs),
      endedMs,
    };
  }

  async #show({ host, command, stdout, stderr, ms }: Step): Promise<void> {
    this.steps.push({ host, command, stdout, stderr, ms });
    if (this.#host.out.json) return;
    const printed = [stdout, stderr].filter((text) => text !== "").join("\n");
    await this.#host.out.answer(undefined, () =>
      [
        `${host}$ ${shortened(command)}   (${ms} ms)`,
        ...shortened(printed)
          .split("\n")
          .map((line) => `  ${line}`.trimEnd()),
        "",
      ].join("\n"),
    );
  }

  /** Nothing of the user's: no variable of theirs that could lead anywhere else. */
  #environment(person: Person): Record<string, string> {
    const { PATH, LANG, TZ } = this.#host.env;
    return {
      ...(PATH === undefined ? {} : { PATH }),
      ...(LANG === undefined ? {} : { LANG }),
      ...(TZ === undefined ? {} : { TZ }),
      HOME: join(this.#directory, person),
      CLAUDEMESH_CONFIG_DIR: join(this.#directory, person),
      CLAUDEMESH_BROKER_DATA: join(this.#directory, "broker"),
    };
  }

  /** Ends what was started, hard if need be, and removes every file. */
  async clear(): Promise<void> {
    for (const pid of this.#pids) askToEnd(pid);
    const pids = [...this.#pids];
    if (!(await becomesTrue(() => !pids.some(isAlive), endMsMax))) {
      for (const pid of pids.filter(isAlive)) process.kill(pid, "SIGKILL");
    }
    try {
      rmSync(this.#directory, { recursive: true, force: true });
    } catch (error) {
      await this.#host.out.note(`warning: cannot remove ${this.#directory}: ${messageOf(error)}`);
    }
  }
}

function match(text: string, pattern: RegExp): string {
  const found = pattern.exec(text);
  const wanted = found?.[1] ?? found?.[0];
  if (wanted !== undefined) return wanted;
  throw new MeshError("internal", `the demo expected ${pattern} in: ${text}`);
}

const quoted = (word: string): string => (/^[\w@%+=:,./-]+$/.test(word) ? word : `"${word}"`);

/** A link is longer than any line; nobody needs to read it. */
const shortened = (text: string): string => text.replace(/(ic:\/\/join\/.{12})\S+/g, "$1…");
