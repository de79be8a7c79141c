/**
 * One daemon for one directory, whatever happens to its files: commands find it without its socket, it puts the socket back, it
 * stops when its directory is somebody else's, and a restart leads to the same daemon.
 */
import { describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { cleanup } from "../support/cleanup";
import { command } from "../support/cli";
import { type Member, newMember, startMesh } from "../support/mesh";
import { foreignLock } from "../support/processes";
import { tempDir } from "../support/temp-dir";
import { waitFor } from "../support/wait-for";

const hasEnded = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
  } catch {
    return true;
  }
  const path = `/proc/${pid}/stat`;
  return existsSync(path) && /\) [ZX]/.test(readFileSync(path, "latin1"));
};

/** Starts it in the background, and sees to its end. */
async function upDetached(member: Member, flags: readonly string[] = ["--no-tcp"]): Promise<number> {
  const { pid } = (await member.json(["daemon", "up", ...flags])) as { pid: number };
  cleanup(() => {
    if (!hasEnded(pid)) process.kill(pid, "SIGKILL");
  });
  return pid;
}

describe("a daemon that lost its socket file", () => {
  test("puts it back at once, and up finds it running", async () => {
    const alice = newMember("alice");
    const pid = await upDetached(alice);
    unlinkSync(alice.socket);
    expect(await alice.json(["daemon", "up"])).toEqual({ pid, socket: alice.socket, started: false });
    expect(await alice.json(["daemon", "status"])).toMatchObject({ pid });
    expect(readFileSync(join(alice.daemonDir, "daemon.log"), "utf8")).toContain(
      '"message":"socket_restored"',
    );
    expect(await alice.json(["daemon", "down"])).toMatchObject({ stopped: true, pid });
    expect(readdirSync(alice.daemonDir)).not.toContain("daemon.json");
  });

  test("keeps the streams that are open", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
    const following = bob.spawn(["inbox", "--follow"]);
    await alice.send("bob", "are you there?");
    await following.waitForOutput(/are you there\?/);
    unlinkSync(bob.socket);
    await waitFor(() => existsSync(bob.socket), { what: "the socket" });
    await alice.send("bob", "still there?");
    await following.waitForOutput(/still there\?/);
    expect(following.stderr()).toBe("");
    await bob.received(2);
    expect((await bob.down()).exitCode).toBe(0);
  });

  test("and cannot put it back is found by its lock", async () => {
    const alice = newMember("alice");
    const pid = await upDetached(alice);
    process.kill(pid, "SIGSTOP");
    unlinkSync(alice.socket);
    const status = await alice.cli(["daemon", "status", "--json"]);
    expect([status.exitCode, status.json()]).toEqual([
      3,
      expect.objectContaining({ error: "daemon_unreachable", pid }),
    ]);
    expect(status.stderr).toContain("claudemesh daemon restart");
    const down = alice.cli(["daemon", "down", "--json"]);
    await waitFor(() => /\nSigQ:|\nShdPnd:\t0*4000/.test(readFileSync(`/proc/${pid}/status`, "latin1")), {
      what: "the signal",
    });
    process.kill(pid, "SIGCONT");
    expect((await down).json()).toMatchObject({ stopped: true, pid });
    expect(hasEnded(pid)).toBe(true);
    expect(await alice.json(["daemon", "down"])).toEqual({ stopped: false, pid: null });
  });

  test("and has no record either is not taken for another process", async () => {
    const alice = newMember("alice");
    const pid = await upDetached(alice);
    process.kill(pid, "SIGSTOP");
    unlinkSync(alice.socket);
    const record = join(alice.daemonDir, "daemon.json");
    const old = { ...JSON.parse(readFileSync(record, "utf8")), pid: process.pid };
    writeFileSync(record, JSON.stringify(old));
    const down = await alice.cli(["daemon", "down", "--json"]);
    expect([down.exitCode, down.json()]).toEqual([
      3,
      expect.objectContaining({ error: "daemon_unreachable" }),
    ]);
    expect(down.stderr).toMatch(process.platform === "linux" ? `ps -fp ${pid} ` : "lsof");
    expect(hasEnded(process.pid)).toBe(false);
  });
});

describe("a daemon whose directory", () => {
  test("is gone stops, with status 0, and makes no new one", async () => {
    const alice = newMember("alice");
    const daemon = alice.spawn(["daemon", "up", "--foreground", "--no-tcp"]);
    await daemon.waitForOutput(/the daemon is up/);
    rmSync(alice.daemonDir, { recursive: true });
    const { exitCode, stderr } = await daemon.exited;
    expect([exitCode, stderr]).toEqual([0, expect.stringContaining('"why":"directory_gone"')]);
    expect(existsSync(alice.daemonDir)).toBe(false);
  });

  test("was replaced stops, with status 1, and touches nothing of what is there now", async () => {
    const alice = newMember("alice");
    const daemon = alice.spawn(["daemon", "up", "--foreground", "--no-tcp"]);
    await daemon.waitForOutput(/the daemon is up/);
    const old = `${alice.daemonDir}.old`;
    renameSync(alice.daemonDir, old);
    mkdirSync(alice.daemonDir, { mode: 0o700 });
    const names = readdirSync(old);
    for (const name of names) writeFileSync(join(alice.daemonDir, name), "somebody else's");
    // It looks at once when its socket goes, and every 30 s otherwise.
    unlinkSync(join(old, "daemon.sock"));
    const { exitCode, stderr } = await daemon.exited;
    expect([exitCode, stderr]).toEqual([1, expect.stringContaining("was replaced while the daemon ran")]);
    expect(names).toEqual(expect.arrayContaining(["daemon.sock", "daemon.json", "outbox.db-wal"]));
    expect(readdirSync(alice.daemonDir).sort()).toEqual(names.sort());
    for (const name of names) {
      expect([name, readFileSync(join(alice.daemonDir, name), "utf8")]).toEqual([name, "somebody else's"]);
    }
  }, 60_000);

  test("lost its lock to another daemon stops, and leaves the other one its files", async () => {
    const alice = newMember("alice");
    const first = alice.spawn(["daemon", "up", "--foreground", "--no-tcp"]);
    await first.waitForOutput(/the daemon is up/);
    process.kill(first.pid, "SIGSTOP");
    unlinkSync(join(alice.daemonDir, "daemon.lock"));
    unlinkSync(alice.socket);
    const pid = await upDetached(alice);
    process.kill(first.pid, "SIGCONT");
    const { exitCode, stderr } = await first.exited;
    expect([exitCode, stderr]).toEqual([1, expect.stringContaining("another daemon took it")]);
    expect(await alice.json(["daemon", "status"])).toMatchObject({ pid });
    expect(JSON.parse(readFileSync(join(alice.daemonDir, "daemon.json"), "utf8"))).toMatchObject({ pid });
    expect(await alice.json(["daemon", "down"])).toMatchObject({ stopped: true, pid });
  });
});

describe("restart", () => {
  test("keeps the flags, also of a daemon that does not answer, and starts one where none runs", async () => {
    const alice = newMember("alice");
    const first = await upDetached(alice, ["--tcp-port", "0", "--public-health"]);
    const restarted = (await alice.json(["daemon", "restart"])) as { pid: number };
    cleanup(async () => void (await alice.cli(["daemon", "down"])));
    expect(restarted).toMatchObject({ previous_pid: first, socket: alice.socket });
    expect(hasEnded(first)).toBe(true);
    const port = readFileSync(join(alice.daemonDir, "http.port"), "utf8").trim();
    expect(await (await fetch(`http://127.0.0.1:${port}/v1/health`)).json()).toEqual({ ok: true });

    process.kill(restarted.pid, "SIGKILL");
    expect(await alice.json(["daemon", "restart"])).toMatchObject({ previous_pid: null });
    expect(await alice.health()).toMatchObject({ started_with: [] });
    await alice.run(["daemon", "restart"]);
    expect((await alice.run(["daemon", "down"])).stdout).toContain("has stopped");
  });

  test("settles or puts back what is on its way, and nothing is lost or doubled", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"], daemons: ["bob"] });
    await upDetached(alice);
    cleanup(async () => void (await alice.cli(["daemon", "down"])));
    await alice.connected();
    await alice.knows("bob");
    const bodies = Array.from({ length: 200 }, (_, index) => `m${index}`);
    for (let from = 0; from < bodies.length; from += 50) {
      await Promise.all(bodies.slice(from, from + 50).map((body) => alice.send("bob", body)));
    }
    await alice.run(["daemon", "restart"]);
    await bob.received(bodies.length, 20_000);
    expect((await bob.bodies()).sort()).toEqual(bodies.sort());
  });
});

test("down says how many messages wait for the next start", async () => {
  const mesh = await startMesh({ members: ["alice", "bob"], daemons: ["bob"] });
  const { alice } = mesh;
  await upDetached(alice);
  await alice.connected();
  await alice.knows("bob");
  await mesh.broker.down();
  await alice.send("bob", "later");
  await alice.send("bob", "later still");
  const { stdout } = await alice.run(["daemon", "down"]);
  expect(stdout).toContain("2 messages to be sent wait on this disk for the next start");
});

test.skipIf(process.platform !== "linux")(
  "a lock in the hands of another program: every command names it, and none calls it a daemon (skipped off Linux)",
  async () => {
    const alice = newMember("alice");
    mkdirSync(alice.daemonDir, { mode: 0o700 });
    const lock = join(alice.daemonDir, "daemon.lock");
    const { pid, program, kill } = await foreignLock(lock);
    const message = `process ${pid} (${program}) holds ${lock} and is no daemon that answers; as long as it does, none can start`;
    for (const [words, exitCode, error] of [
      ["up --no-tcp", 1, "storage_failed"],
      ["up --no-tcp --foreground", 1, "storage_failed"],
      ["recover", 1, "storage_failed"],
      ["status", 3, "daemon_unreachable"],
      ["down", 3, "daemon_unreachable"],
      ["restart", 3, "daemon_unreachable"],
    ] as const) {
      const refused = await alice.cli(["daemon", ...words.split(" "), "--json"]);
      expect([words, refused.exitCode, refused.json()]).toEqual([
        words,
        exitCode,
        { error, message, hint: expect.stringContaining(`ps -fp ${pid}`), pid, lock },
      ]);
    }
    const doctor = await alice.cli(["doctor", "--json"]);
    const { findings } = doctor.json() as { findings: Record<string, string>[] };
    expect(findings.filter(({ check }) => check === "lock" || check === "daemon")).toEqual([
      { check: "lock", status: "fail", message, fix: expect.stringContaining(`ps -fp ${pid}`) },
    ]);
    await kill();
    await upDetached(alice);
    expect(await alice.json(["daemon", "down"])).toMatchObject({ stopped: true });
  },
);

describe("up", () => {
  test("puts nothing through a link where the directory belongs", async () => {
    const alice = newMember("alice");
    const elsewhere = tempDir();
    mkdirSync(alice.configDir, { recursive: true, mode: 0o700 });
    symlinkSync(elsewhere, alice.daemonDir);
    const refused = await alice.cli(["daemon", "up", "--json"]);
    expect([refused.exitCode, refused.json()]).toEqual([
      4,
      expect.objectContaining({ error: "path_unsafe", message: expect.stringContaining("a symbolic link") }),
    ]);
    expect(readdirSync(elsewhere)).toEqual([]);
  });

  test("says that the port it was to have is taken", async () => {
    const taken = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response("") });
    cleanup(() => taken.stop(true));
    const alice = newMember("alice");
    const { stderr } = await alice.run(["daemon", "up", "--tcp-port", String(taken.port)]);
    cleanup(async () => void (await alice.cli(["daemon", "down"])));
    expect(stderr).toContain(`warning: TCP port ${taken.port} cannot be had`);
  });

  test("with too few open files says so, however few, and leaves no daemon", async () => {
    const alice = newMember("alice");
    for (let files = 9; files <= 18; files += 3) {
      const child = Bun.spawnSync(
        ["sh", "-c", `ulimit -n ${files}; exec "$@"`, "sh", ...command, "daemon", "up", "--no-tcp"],
        { env: { ...process.env, ...alice.env } },
      );
      const stderr = child.stderr.toString();
      expect([files, stderr]).toEqual([files, expect.not.stringMatching(/a bug|undefined|node:/)]);
      if (child.exitCode === 0) await alice.run(["daemon", "down"]);
      expect([files, await alice.json(["daemon", "down"])]).toEqual([files, { stopped: false, pid: null }]);
    }
  }, 30_000);
});
