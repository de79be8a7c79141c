/** `daemon up --ephemeral`: it is used as any daemon is, and when it ends, however it ends, nothing of it is left anywhere. */
import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { cleanup } from "../support/cleanup";
import { type CliResult, runCli, spawnCli } from "../support/cli";
import { type Member, startMesh } from "../support/mesh";
import { tempDir } from "../support/temp-dir";
import { waitFor } from "../support/wait-for";

const Up = v.object({
  pid: v.number(),
  socket: v.string(),
  started: v.literal(true),
  config_dir: v.string(),
  ephemeral: v.object({ until: v.exactOptional(v.string()) }),
});
const up = ["daemon", "up", "--ephemeral", "--no-tcp"];

function hasEnded(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return true;
  }
  const path = `/proc/${pid}/stat`;
  return existsSync(path) && /\) [ZX]/.test(readFileSync(path, "latin1"));
}

/** A CI job: a home that stays empty, and a directory for what is passing. */
function openJob(base = tempDir()) {
  const home = tempDir();
  const env = { HOME: home, XDG_RUNTIME_DIR: base };
  const cli = (args: readonly string[], more: Record<string, string> = {}): Promise<CliResult> =>
    runCli(args, { env: { ...env, ...more } });
  const start = async (flags: readonly string[] = []) => {
    const result = await cli([...up, ...flags, "--json"]);
    const started = v.parse(Up, result.json());
    cleanup(() => {
      if (!hasEnded(started.pid)) process.kill(started.pid, "SIGKILL");
    });
    /** A command of the job that must succeed. */
    const run = async (args: readonly string[]): Promise<CliResult> => {
      const ended = await cli(args, { CLAUDEMESH_CONFIG_DIR: started.config_dir });
      if (ended.exitCode === 0) return ended;
      throw new Error(`claudemesh ${args.join(" ")} ended with ${ended.exitCode}: ${ended.stderr}`);
    };
    return { ...started, run, said: result.stderr };
  };
  // Bun itself, where it runs the sources, keeps a cache at home.
  const left = (): string[] => [...readdirSync(base), ...readdirSync(home)].filter((name) => name !== ".bun");
  return { base, env, cli, start, left };
}

const Link = v.object({ link: v.string() });
const invite = async (member: Member): Promise<string> =>
  v.parse(Link, await member.json(["mesh", "invite"])).link;

/** The names that the broker lists as members. */
async function membersOf(member: Member): Promise<string[]> {
  const { stdout } = await member.run(["mesh", "members"]);
  return stdout
    .trim()
    .split("\n")
    .map((line) => line.split(/\s/)[0] ?? "")
    .sort();
}

describe("an ephemeral daemon", () => {
  test("prints what a shell evaluates; joins, sends, receives; says that nothing outlives it; is gone with all it had", async () => {
    const { alice } = await startMesh({ members: ["alice"] });
    const job = openJob();
    const shell = await job.cli(up);
    expect(shell.stdout).toMatch(/^export CLAUDEMESH_CONFIG_DIR='\/[^']+'\n$/);
    const dir = /'(.*)'/.exec(shell.stdout)?.[1] ?? "";
    expect([statSync(dir).mode & 0o777, dir.startsWith(job.base)]).toEqual([0o700, true]);
    expect(shell.stderr).toContain("messages, keys and memberships end with it");
    const env = { CLAUDEMESH_CONFIG_DIR: dir };
    cleanup(async () => void (await job.cli(["daemon", "down"], env)));

    const joined = await job.cli(["join", await invite(alice), "--name", "job"], env);
    expect(joined.stderr).toContain("this membership ends with it");
    const sent = await job.cli(["send", "alice", "built"], env);
    expect(sent.stderr).toContain("what no broker has accepted ends with it");
    const sure = await job.cli(["send", "alice", "sure", "--wait", "accepted", "--json"], env);
    expect([sure.json(), sure.stderr]).toEqual([
      expect.objectContaining({ status: "accepted", ephemeral: {} }),
      "",
    ]);
    await alice.received(2);
    await alice.knows("job");
    await alice.send("job", "thanks");
    await waitFor(async () => (await job.cli(["inbox"], env)).stdout.includes("thanks"), {
      what: "the answer",
    });
    expect((await job.cli(["daemon", "status"], env)).stdout).toMatch(/ephemeral +nothing outlives it/);

    const down = await job.cli(["daemon", "down", "--json"], env);
    expect(down.json()).toEqual({ stopped: true, pid: expect.any(Number), unsent: 0 });
    expect(job.left()).toEqual([]);
    expect(await membersOf(alice)).toEqual(["alice"]);
  });

  test("ends by itself when its time is up, sends what it has, and leaves the mesh", async () => {
    const { alice } = await startMesh({ members: ["alice"] });
    const job = openJob();
    const daemon = await job.start(["--ttl", "4s"]);
    const until = Date.parse(daemon.ephemeral.until ?? "");
    expect(until - Date.now()).toBeLessThanOrEqual(4_000);
    await daemon.run(["join", await invite(alice), "--name", "job"]);
    await daemon.run(["send", "alice", "last words"]);
    await waitFor(() => hasEnded(daemon.pid), { what: "its end", timeoutMs: 15_000 });
    expect(Date.now()).toBeGreaterThanOrEqual(until);
    expect(job.left()).toEqual([]);
    expect(await membersOf(alice)).toEqual(["alice"]);
    expect((await alice.received(1)).map(({ body }) => body)).toEqual(["last words"]);
  }, 30_000);

  test("has left before its recipient came back: its message is mail all the same, and nobody answers to its name", async () => {
    const { alice } = await startMesh({ members: ["alice"] });
    const link = await invite(alice);
    await alice.down();
    const job = openJob();
    const daemon = await job.start();
    await daemon.run(["join", link, "--name", "job"]);
    await daemon.run(["send", "alice", "the build is green", "--wait", "accepted"]);
    await daemon.run(["daemon", "down"]);
    await alice.up();
    expect((await alice.received(1)).map(({ body, from }) => [body, from.name])).toEqual([
      ["the build is green", "job"],
    ]);
    expect(await alice.problems()).toEqual([]);
    expect((await alice.cli(["send", "job", "thanks"])).exitCode).toBe(5);
  });

  test("whose broker is away says what was lost, and who goes on counting it, without waiting for long", async () => {
    const mesh = await startMesh({ members: ["alice"] });
    const job = openJob();
    const daemon = await job.start();
    await daemon.run(["join", await invite(mesh.alice), "--name", "job"]);
    await daemon.run(["send", "alice", "sent", "--wait", "accepted"]);
    await mesh.broker.down();
    await daemon.run(["send", "alice", "lost"]);
    await daemon.run(["send", "alice", "lost too"]);
    const beganMs = performance.now();
    const down = await daemon.run(["daemon", "down", "--json"]);
    expect(performance.now() - beganMs).toBeLessThan(12_000);
    expect(down.json()).toEqual({ stopped: true, pid: daemon.pid, unsent: 2, not_left: ["team"] });
    expect(down.stderr).toContain("the broker of team could not be told");
    expect(job.left()).toEqual([]);
  });

  test("in the foreground is gone after an interrupt, also after a second one that cuts its end short", async () => {
    for (const signals of [["SIGINT"], ["SIGTERM"], ["SIGINT", "SIGTERM"]] as const) {
      const job = openJob();
      const daemon = spawnCli([...up, "--foreground"], { env: job.env });
      await daemon.waitForOutput(/export CLAUDEMESH_CONFIG_DIR/);
      expect(job.left()).toHaveLength(1);
      for (const signal of signals) process.kill(daemon.pid, signal);
      await daemon.exited;
      expect([signals, job.left()]).toEqual([signals, []]);
    }
  });

  test("that was killed is cleared away by the next one, which leaves a living one alone", async () => {
    const job = openJob();
    const [killed, living] = [await job.start(), await job.start()];
    process.kill(killed.pid, "SIGKILL");
    await waitFor(() => hasEnded(killed.pid), { what: "its end" });
    // Right after its start it might be one that is just starting.
    const lock = join(killed.config_dir, "daemon/daemon.lock");
    Bun.spawnSync(["touch", "-d", "2020-01-01", lock]);
    const next = await job.start();
    expect(next.said).toContain(`removed ${killed.config_dir}`);
    expect(
      readdirSync(job.base)
        .map((name) => join(job.base, name))
        .sort(),
    ).toEqual([living.config_dir, next.config_dir].sort());
    expect((await living.run(["daemon", "status", "--json"])).json()).toMatchObject({ pid: living.pid });
    for (const daemon of [living, next]) await daemon.run(["daemon", "down"]);
    expect(job.left()).toEqual([]);
  });

  test("is not restarted, which would be its end", async () => {
    const job = openJob();
    const daemon = await job.start();
    const refused = await job.cli(["daemon", "restart"], { CLAUDEMESH_CONFIG_DIR: daemon.config_dir });
    expect([refused.exitCode, refused.stderr]).toEqual([2, expect.stringContaining("ephemeral")]);
    expect(hasEnded(daemon.pid)).toBe(false);
    await daemon.run(["daemon", "down"]);
  });
});

describe("refused, before anything is made, is", () => {
  const cases: [what: string, args: string[], env: Record<string, string>, words: string][] = [
    ["a directory of one's own", up, { CLAUDEMESH_CONFIG_DIR: "/tmp/x" }, "unset CLAUDEMESH_CONFIG_DIR"],
    [
      "a daemon directory of one's own",
      up,
      { CLAUDEMESH_DAEMON_DIR: "/tmp/x" },
      "unset CLAUDEMESH_DAEMON_DIR",
    ],
    ["a time without --ephemeral", ["daemon", "up", "--ttl", "2h"], {}, "--ttl needs --ephemeral"],
    ["a time without a unit", [...up, "--ttl", "30"], {}, "90s, 30m, 2h"],
    ["no time at all", [...up, "--ttl", "0s"], {}, "90s, 30m, 2h"],
    ["a time beyond the bound", [...up, "--ttl", "25d"], {}, "at most 24d"],
  ];
  test.each(cases)("%s", async (_what, args, env, words) => {
    const job = openJob();
    const refused = await job.cli(args, env);
    expect([refused.exitCode, refused.stderr]).toEqual([2, expect.stringContaining(words)]);
    expect(job.left()).toEqual([]);
  });
});

test("a start that fails when the directory is made already leaves nothing", async () => {
  const job = openJob();
  const refused = await job.cli(["daemon", "up", "--ephemeral", "--public-health"], { CI: "true" });
  expect([refused.exitCode, refused.stderr]).toEqual([
    2,
    expect.stringContaining("--public-health shows health over TCP"),
  ]);
  expect(job.left()).toEqual([]);
});
