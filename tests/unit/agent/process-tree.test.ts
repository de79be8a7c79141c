/**
 * An agent is ended with everything that it started, by its shim, or by the watchdog when the shim was killed; and nothing else is ended.
 * With real processes, and a stand-in for the shim (host-agent.ts), since only a process of its own can be killed or adopt orphans.
 */
import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { endAgent } from "~/agent/end-agent";
import { environmentOf, findProcess, listProcesses, type ProcessEntry } from "~/agent/process-table";
import { encodeKnown, endTree, type Known, membersOf, openTree, parseKnown } from "~/agent/process-tree";
import { systemClock } from "~/clock";
import { MeshError } from "~/errors";
import { cleanup } from "../../support/cleanup";
import { root } from "../../support/cli";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";

const isLinux = process.platform === "linux";
const endCommand = [process.execPath, join(root, "src/main.ts"), "end-agent"];

/** A process is known by its number and its start, here too: a test must not take a stranger for its own. */
const isAlive = ({ pid, started }: ProcessEntry): boolean => {
  const now = findProcess(pid);
  return now !== undefined && now.started === started && !now.isZombie;
};

const allGone = (processes: readonly ProcessEntry[]) => () => !processes.some(isAlive);

const entryOf = (pid: number): ProcessEntry => {
  const entry = findProcess(pid);
  if (entry === undefined) throw new Error(`process ${pid} is gone`);
  return entry;
};

/** Ends by its pid what a failed test would leave. */
const endLater = (entry: ProcessEntry): void =>
  cleanup(() => {
    if (isAlive(entry)) process.kill(entry.pid, "SIGKILL");
  });

/** One process, not two, so that ending what a failed test left ends all of it. */
const waits = "exec sleep 86400";

/** What the agent starts: `sh CHILD NAME [deaf|stopped]` says with a file of its name that it runs, whose content is its pid. */
const kinds: Record<string, (child: string) => string> = {
  "a child": (child) => `sh ${child} one &`,
  "a child that ignores TERM and HUP": (child) => `sh ${child} one deaf &`,
  "a child that ignores TERM alone": (child) => `sh ${child} one shell &`,
  "one that has gone on after it had stopped the agent": (child) => `kill -s STOP $$; sh ${child} one &`,
  "a child of a child": (child) => `sh -c 'sh ${child} one & wait' &`,
  "a session of its own": (child) => `setsid sh ${child} one &`,
  "a deaf session of its own": (child) => `setsid sh ${child} one deaf &`,
  "under nohup": (child) => `nohup sh ${child} one >/dev/null 2>&1 &`,
  "an orphan": (child) => `(sh ${child} one &)`,
  "a deaf orphan in a session of its own": (child) => `(setsid sh ${child} one deaf &)`,
  "the same with an empty environment": (child) => `(env -i PATH="$PATH" setsid sh ${child} one deaf &)`,
  "one that was stopped": (child) => `sh ${child} one stopped &`,
  "a fork bomb of 50": (child) =>
    `i=0; while [ $i -lt 50 ]; do i=$((i+1)); setsid sh ${child} $i deaf & done`,
};

const childScript = (dir: string): string => `
[ "$2" = deaf ] && trap '' TERM HUP
[ "$2" = shell ] && trap '' TERM
echo $$ >${dir}/$1.new
mv ${dir}/$1.new ${dir}/$1
[ "$2" = stopped ] && kill -s STOP $$
${waits}
`;

const namesIn = (dir: string): string[] => readdirSync(dir).filter((name) => !name.endsWith(".new"));

interface Host {
  pid: number;
  agent: ProcessEntry;
  watchdog: ProcessEntry;
  /** What the agent started, besides itself. */
  started: ProcessEntry[];
  /** Everything that runs now with the agent's mark in its environment. */
  marked(): number[];
  ask(line: string): void;
  said(): string[];
  exited: Promise<number>;
}

/** A stand-in for a shim with an agent that starts what `kind` says, and goes on. */
async function host(
  kind: string,
  {
    count = 1,
    command = endCommand,
    hasTerminal = true,
  }: { count?: number; command?: string[]; hasTerminal?: boolean } = {},
): Promise<Host> {
  const dir = tempDir();
  const scripts = tempDir();
  const start = kinds[kind];
  if (start === undefined) throw new Error(`no such kind: ${kind}`);
  await Bun.write(join(scripts, "child.sh"), childScript(dir));
  await Bun.write(join(scripts, "agent.sh"), `${start(join(scripts, "child.sh"))}\n${waits}\n`);
  const script = join(scripts, "agent.sh");
  const child = Bun.spawn(
    [process.execPath, join(import.meta.dir, "host-agent.ts"), ...command, "--", "sh", script],
    {
      env: { ...process.env, HOST_TERMINAL: hasTerminal ? "1" : "" },
      stdin: "pipe",
      stdout: "pipe",
      stderr: "inherit",
    },
  );
  const self = entryOf(child.pid);
  endLater(self);
  let output = "";
  void (async () => {
    for await (const chunk of child.stdout) output += Buffer.from(chunk).toString();
  })();
  const said = (): string[] => output.split("\n").filter((line) => line !== "");
  const [, agentPid, watchdogPid] = await waitFor(() => output.match(/^agent (\d+) watchdog (\d+)$/m), {
    what: "the agent to be started",
  });
  const [agent, watchdog] = [entryOf(Number(agentPid)), entryOf(Number(watchdogPid))];
  endLater(agent);
  endLater(watchdog);
  const names = await waitFor(() => (namesIn(dir).length >= count ? namesIn(dir) : undefined), {
    what: `${count} process(es): ${kind}`,
    timeoutMs: 20_000,
  });
  const started = names.map((name) => entryOf(Number(readFileSync(join(dir, name), "utf8"))));
  for (const entry of started) endLater(entry);
  const mark = markOf(agent.pid);
  expect(mark).toMatch(/^[0-9a-f]{32}$/);
  return {
    pid: child.pid,
    agent,
    watchdog,
    started,
    marked: () => markedWith(mark),
    ask: (text) => {
      child.stdin.write(`${text}\n`);
      void child.stdin.flush();
    },
    said,
    exited: child.exited,
  };
}

const markOf = (pid: number): string | undefined =>
  environmentOf(pid)
    ?.find((entry) => entry.startsWith("CLAUDEMESH_AGENT_TREE="))
    ?.split("=")[1];

const markedWith = (mark: string | undefined): number[] =>
  [...listProcesses().values()]
    .filter(({ pid, isZombie }) => !isZombie && markOf(pid) === mark)
    .map(({ pid }) => pid);

/** Of the same name and the same user, in nobody's tree. */
function stranger(): ProcessEntry {
  const child = Bun.spawn(["sh", "-c", waits], {
    stdin: "ignore",
    stdout: "ignore",
    stderr: "ignore",
    detached: true,
  });
  const entry = entryOf(child.pid);
  cleanup(() => {
    if (isAlive(entry)) process.kill(-entry.pid, "SIGKILL");
  });
  return entry;
}

describe.if(isLinux)("an agent and what it started", () => {
  const cases = Object.keys(kinds).map((kind) => [kind, kind.includes("50") ? 50 : 1] as const);

  test.each(cases)(
    "is ended by its shim: %s",
    async (kind, count) => {
      const other = stranger();
      const { ask, said, agent, started, watchdog, marked, exited } = await host(kind, { count });
      expect([agent, ...started].every(isAlive)).toBe(true);
      // How long it has after SIGTERM by default, a test of its own says.
      ask("end 200");
      await waitFor(() => said().includes("left []"), { what: "all of it to be ended", timeoutMs: 15_000 });
      expect([agent, ...started].filter(isAlive)).toEqual([]);
      expect(marked()).toEqual([]);
      // Its end is normal: the watchdog goes, too, and has nothing to do.
      ask("close");
      expect(await exited).toBe(0);
      expect(isAlive(watchdog)).toBe(false);
      expect(isAlive(other)).toBe(true);
    },
    30_000,
  );

  async function endsWithoutShim(kind: string, count: number): Promise<void> {
    const { pid, said, agent, started, watchdog, marked, exited } = await host(kind, { count });
    // What has lost every sign but its parent, which is the shim, must have been told to the watchdog.
    if (kind.includes("empty")) {
      const looks = (): number => said().filter((line) => line === "looked").length;
      const before = looks();
      await waitFor(() => looks() >= before + 2, { what: "the shim to look at its orphans" });
    }
    process.kill(pid, "SIGKILL");
    await exited;
    await waitFor(allGone([agent, ...started]), {
      what: `all of it to be ended: ${kind}`,
      timeoutMs: 15_000,
    });
    await waitFor(() => marked().length === 0, { what: `nothing to carry its mark: ${kind}` });
    await waitFor(allGone([watchdog]), { what: `the watchdog to end: ${kind}` });
  }

  test("is ended by the watchdog when the shim is killed, whatever it is", async () => {
    const other = stranger();
    // All at a time, for they mostly wait.
    await Promise.all(cases.map(([kind, count]) => endsWithoutShim(kind, count)));
    expect(isAlive(other)).toBe(true);
  }, 60_000);

  test("is ended without a terminal as well", async () => {
    const { pid, agent, started, watchdog, exited } = await host("a deaf session of its own", {
      hasTerminal: false,
    });
    process.kill(pid, "SIGKILL");
    await exited;
    await waitFor(allGone([agent, ...started, watchdog]), { what: "all of it to be ended" });
  });

  test("several at a time: each watchdog ends its own", async () => {
    const [one, two] = await Promise.all([host("under nohup"), host("an orphan")]);
    process.kill(one.pid, "SIGKILL");
    await waitFor(allGone([one.agent, ...one.started, one.watchdog]), { what: "the first to be ended" });
    expect([two.agent, ...two.started, two.watchdog].every(isAlive)).toBe(true);
    process.kill(two.pid, "SIGKILL");
    await waitFor(allGone([two.agent, ...two.started, two.watchdog]), { what: "the second to be ended" });
  }, 20_000);

  test("what ignores SIGTERM has two seconds, and what does not is not kept waiting", async () => {
    const deaf = await host("a child that ignores TERM and HUP");
    const began = performance.now();
    deaf.ask("end");
    await waitFor(() => deaf.said().includes("left []"), { what: "it to be ended" });
    expect(performance.now() - began).toBeGreaterThan(1_900);
    expect(deaf.said()).toContain("agent ended with SIGTERM");
  });

  test.if(isLinux)("what ignores SIGTERM alone, as a shell does, is not kept waiting either", async () => {
    const shell = await host("a child that ignores TERM alone");
    const began = performance.now();
    shell.ask("end");
    await waitFor(() => shell.said().includes("left []"), { what: "it to be ended" });
    expect(performance.now() - began).toBeLessThan(1_500);
  });

  test.if(isLinux)(
    "an agent that stops itself goes on: no shell is there that would see to that",
    async () => {
      const { started } = await host("one that has gone on after it had stopped the agent");
      expect(started.every(isAlive)).toBe(true);
    },
  );

  test("an agent that has ended by itself leaves what it started, which is ended then", async () => {
    const { agent, started, ask, said, exited } = await host("a session of its own");
    process.kill(agent.pid, "SIGKILL");
    await waitFor(allGone([agent]), { what: "the agent to end" });
    expect(started.every(isAlive)).toBe(true);
    ask("end");
    await waitFor(() => said().includes("left []"), { what: "the rest to be ended" });
    expect(started.filter(isAlive)).toEqual([]);
    ask("close");
    expect(await exited).toBe(0);
  });

  test("one in another: the outer shim's end is the inner agent's", async () => {
    const outer = await host("a deaf orphan in a session of its own");
    const mark = markOf(outer.agent.pid) ?? "";
    const inner = openTree({
      clock: systemClock,
      endCommand,
      adoptsOrphans: false,
      env: { ...process.env, CLAUDEMESH_AGENT_TREE: mark },
      warn: () => undefined,
    });
    cleanup(() => inner.close());
    expect(inner.env.CLAUDEMESH_AGENT_TREE).toMatch(new RegExp(`^${mark}:[0-9a-f]{32}$`));
    // Only the mark in its environment connects it with the outer one.
    const child = Bun.spawn(["setsid", "sh", "-c", waits], { env: { ...process.env, ...inner.env } });
    const entry = entryOf(child.pid);
    endLater(entry);
    process.kill(outer.pid, "SIGKILL");
    await waitFor(allGone([outer.agent, ...outer.started, entry]), {
      what: "the inner one to be ended as well",
    });
  });

  test("orphans that have ended are collected, and the agent's own end is not", async () => {
    const { pid, ask, said, exited } = await host("a child");
    ask("orphans 20");
    await waitFor(() => said().some((line) => line.startsWith("orphans gone")), {
      what: "the orphans to end",
    });
    const zombies = (): ProcessEntry[] =>
      [...listProcesses().values()].filter((entry) => entry.parent === pid && entry.isZombie);
    await waitFor(() => zombies().length === 0, { what: "them to be collected" });
    ask("end");
    await waitFor(() => said().includes("agent ended with SIGTERM"), {
      what: "the agent's own end to be seen",
    });
    ask("close");
    expect(await exited).toBe(0);
  });
});

describe.if(isLinux)("the watchdog", () => {
  test("is small, holds nothing of the shim's open, and is out of reach of its signals", async () => {
    const { watchdog, pid, agent, exited } = await host("a child");
    const status = readFileSync(`/proc/${watchdog.pid}/status`, "utf8");
    expect(Number(status.match(/VmRSS:\s+(\d+) kB/)?.[1])).toBeLessThan(8 * 1024);
    expect(readdirSync(`/proc/${watchdog.pid}/fd`).filter((fd) => Number(fd) > 2)).toEqual([]);
    const { session, group } = entryOf(watchdog.pid);
    expect(session).toBe(String(watchdog.pid));
    expect(group).not.toBe(entryOf(pid).group);
    for (const signal of ["SIGHUP", "SIGINT", "SIGTERM", "SIGQUIT", "SIGUSR1"] as const)
      process.kill(watchdog.pid, signal);
    process.kill(pid, "SIGKILL");
    await exited;
    // It was still there, and did what it is for.
    await waitFor(allGone([agent, watchdog]), { what: "it to end the agent, and itself" });
  });

  test("is started again when it is killed, and knows what the first one knew", async () => {
    const { pid, watchdog, agent, started, ask, said, exited } = await host("an orphan");
    process.kill(watchdog.pid, "SIGKILL");
    await waitFor(allGone([watchdog]), { what: "the watchdog to be gone" });
    const next = await waitFor(
      () => {
        ask("watchdogs");
        const pids = said()
          .findLast((line) => line.startsWith("watchdogs "))
          ?.split(" ")[1];
        return pids === undefined || pids === "" || pids === String(watchdog.pid) ? undefined : Number(pids);
      },
      { what: "another watchdog" },
    );
    const second = entryOf(next);
    endLater(second);
    process.kill(pid, "SIGKILL");
    await exited;
    await waitFor(allGone([agent, ...started, second]), { what: "all of it to be ended" });
  }, 20_000);

  test.each([
    ["its group", "a child that ignores TERM and HUP"],
    ["what left it", "a deaf orphan in a session of its own"],
  ])("ends the agent by itself when the executable is gone: %s", async (_, kind) => {
    const { pid, agent, started, watchdog, marked, exited } = await host(kind, {
      command: ["/no/such/executable"],
    });
    process.kill(pid, "SIGKILL");
    await exited;
    await waitFor(allGone([agent, ...started, watchdog]), { what: "all of it to be ended" });
    expect(marked()).toEqual([]);
  });

  test("whoever calls its command by hand is told that it is not theirs", async () => {
    for (const words of [[], ["0".repeat(31)], ["0".repeat(32), "agent=1"], ["0".repeat(32), "rm", "-rf"]]) {
      const error = await endAgent(words).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(MeshError);
      expect(error).toHaveProperty("code", "usage");
    }
    // Nobody carries this mark.
    expect(await endAgent(["0".repeat(32)])).toEqual([]);
  });
});

describe("what belongs to an agent", () => {
  const entry = (pid: number, changes: Partial<ProcessEntry> = {}): ProcessEntry => ({
    pid,
    parent: 1,
    group: pid,
    session: "50",
    started: 1_000,
    isZombie: false,
    isStopped: false,
    ...changes,
  });
  const known: Known = { root: { pid: 100, started: 1_000, group: 100, session: "100" }, orphans: [] };
  const pick = (
    entries: ProcessEntry[],
    changes: Partial<Parameters<typeof membersOf>[1]> = {},
    marked: number[] = [],
  ): number[] =>
    membersOf(
      new Map(entries.map((one) => [one.pid, one])),
      { ...known, adopter: undefined, spared: [], ...changes },
      (pid) => marked.includes(pid),
    )
      .map(({ pid }) => pid)
      .sort((a, b) => a - b);

  const agent = entry(100, { session: "100" });
  const cases: [what: string, entries: ProcessEntry[], expected: number[]][] = [
    ["itself", [agent], [100]],
    ["not itself when it has ended", [entry(100, { session: "100", isZombie: true })], []],
    ["its group, its leader gone", [entry(101, { group: 100 })], [101]],
    ["its session", [agent, entry(101, { session: "100" })], [100, 101]],
    [
      "its descendants, to any depth",
      [agent, entry(101, { parent: 100 }), entry(102, { parent: 101 }), entry(103, { parent: 102 })],
      [100, 101, 102, 103],
    ],
    ["not what has its number now", [entry(100, { session: "100", started: 2_000 })], []],
    [
      "nor the group of that",
      [entry(100, { started: 2_000 }), entry(101, { group: 100, started: 2_001 })],
      [],
    ],
    [
      "nor the session of that",
      [entry(100, { started: 2_000 }), entry(101, { session: "100", started: 2_001 })],
      [],
    ],
    [
      "nothing that is older",
      [agent, entry(99, { group: 100, started: 999 }), entry(98, { parent: 100, started: 10 })],
      [100],
    ],
    ["nobody else", [agent, entry(101), entry(102, { parent: 101 })], [100]],
    ["not the first process of all", [agent, entry(1, { group: 100 })], [100]],
  ];
  test.each(cases)("%s", (_, entries, expected) => {
    expect(pick(entries)).toEqual(expected);
  });

  test("what carries the mark, and its descendants", () => {
    expect(pick([agent, entry(101), entry(102, { parent: 101 }), entry(103)], {}, [101])).toEqual([
      100, 101, 102,
    ]);
  });

  test("the children of the one that adopts, but not those that are spared, nor theirs", () => {
    const entries = [
      entry(90, { started: 5 }),
      agent,
      entry(101, { parent: 90 }),
      entry(102, { parent: 90 }),
      entry(103, { parent: 102 }),
    ];
    expect(pick(entries, { adopter: 90, spared: [90, 102] })).toEqual([100, 101]);
  });

  test("an orphan that was noted, unless another has its number now", () => {
    const orphans = [{ pid: 101, started: 1_500 }];
    expect(pick([agent, entry(101, { started: 1_500 })], { orphans })).toEqual([100, 101]);
    expect(pick([agent, entry(101, { started: 1_501 })], { orphans })).toEqual([100]);
  });

  test("what is known goes through a watchdog unchanged", () => {
    const states: Known[] = [
      known,
      { root: undefined, orphans: [] },
      { root: undefined, orphans: [{ pid: 7, started: 8 }] },
      {
        root: { pid: 5, started: 6, group: undefined, session: undefined },
        orphans: [
          { pid: 7, started: 8 },
          { pid: 9, started: 10 },
        ],
      },
      { root: { pid: 5, started: 1_700_000_000, group: 5, session: "ttys003" }, orphans: [] },
    ];
    for (const state of states) {
      const words = encodeKnown(state)
        .split(" ")
        .filter((word) => word !== "");
      expect(parseKnown(words)).toEqual(state);
    }
    for (const word of [
      "agent=",
      "agent=1",
      "agent=1:2:3",
      "agent=a:2:3:4",
      "orphan=1",
      "orphan=-1:2",
      "agent=1:2:3:$(id)",
      "x",
    ]) {
      expect(parseKnown([word])).toBeUndefined();
    }
  });

  test("a tree of which nothing is left is ended at once", async () => {
    const facts = {
      mark: "0".repeat(32),
      root: { pid: 999_999_999, started: 1, group: 999_999_999, session: "999999999" },
      orphans: [],
      adopter: undefined,
      spared: [],
    };
    expect(await endTree(() => facts, { clock: systemClock, termMs: 1_000 })).toEqual([]);
  });
});

test.if(isLinux)("a tree that is closed before anything was started leaves no watchdog", async () => {
  const tree = openTree({
    clock: systemClock,
    endCommand,
    adoptsOrphans: false,
    env: process.env,
    warn: () => undefined,
  });
  const children = (): ProcessEntry[] =>
    [...listProcesses().values()].filter(
      ({ parent, pid }) =>
        parent === process.pid &&
        existsSync(`/proc/${pid}/cmdline`) &&
        readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("claudemesh-watchdog"),
    );
  // It has no name for a moment.
  await waitFor(() => children().length === 1, { what: "its watchdog" });
  await tree.close();
  expect(children()).toEqual([]);
});
