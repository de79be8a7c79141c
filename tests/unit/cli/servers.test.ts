/** Starting and stopping real servers by command: they are up when the command returns, and gone when it says so. */
import { afterEach, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createTestMesh } from "../../support/broker";
import { BrokerClient, helloOf } from "../../support/broker-client";
import { cleanup } from "../../support/cleanup";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";
import { runSource, startSource } from "./source-cli";

/** Whatever a failing test left running. */
const pids = new Set<number>();
afterEach(() => {
  for (const pid of pids) if (isRunning(pid)) process.kill(pid, "SIGKILL");
  pids.clear();
});

function isRunning(pid: number): boolean {
  const path = `/proc/${pid}/stat`;
  if (process.platform === "linux") return existsSync(path) && !/\) [ZX]/.test(readFileSync(path, "latin1"));
  return Bun.spawnSync(["kill", "-0", String(pid)]).success;
}

async function json(argv: string[], env: Record<string, string>): Promise<Record<string, unknown>> {
  const { stdout, stderr, status } = await runSource([...argv, "--json"], { env });
  if (status !== 0) throw new Error(`${argv.join(" ")}: ${status} ${stderr}`);
  const value: Record<string, unknown> = JSON.parse(stdout);
  if (typeof value.pid === "number") pids.add(value.pid);
  return value;
}

const home = (): Record<string, string> => ({ CLAUDEMESH_CONFIG_DIR: tempDir() });

describe("daemon", () => {
  const up = ["daemon", "up", "--no-tcp"];

  test("up, up again, status, version, down, down again", async () => {
    const env = home();
    const started = await json(up, env);
    const socket = join(env.CLAUDEMESH_CONFIG_DIR ?? "", "daemon/daemon.sock");
    expect(started).toEqual({ pid: expect.any(Number), socket, started: true });
    expect(await json(up, env)).toEqual({ ...started, started: false });
    expect(await json(["daemon", "status"], env)).toMatchObject({ ok: true, pid: started.pid });
    expect(await json(["daemon", "version"], env)).toMatchObject({ ipc_api: "v1" });
    expect(statSync(join(env.CLAUDEMESH_CONFIG_DIR ?? "", "daemon/daemon.log")).mode & 0o777).toBe(0o600);
    expect(await json(["daemon", "down"], env)).toEqual({ stopped: true, pid: started.pid, unsent: 0 });
    expect(isRunning(Number(started.pid))).toBe(false);
    expect(await json(["daemon", "down"], env)).toEqual({ stopped: false, pid: null });
  });

  test("two starts at once make one daemon", async () => {
    const env = home();
    const both = await Promise.all([json(up, env), json(up, env)]);
    expect(both.map(({ started }) => started).sort()).toEqual([false, true]);
    expect(new Set(both.map(({ pid }) => pid)).size).toBe(1);
    await json(["daemon", "down"], env);
  });

  test("a start that fails passes on why, in the same form and with the same status", async () => {
    const env = home();
    mkdirSync(join(env.CLAUDEMESH_CONFIG_DIR ?? "", "daemon"));
    chmodSync(join(env.CLAUDEMESH_CONFIG_DIR ?? "", "daemon"), 0o755);
    const { status, stdout, stderr } = await runSource([...up, "--json"], { env });
    expect(status).toBe(4);
    expect(JSON.parse(stdout)).toMatchObject({
      error: "path_unsafe",
      hint: expect.stringContaining("chmod 700"),
    });
    expect(stderr).toContain("is open to other users");
  });

  test("in the foreground it says that it serves, and ends on SIGTERM with 0, on SIGINT with 130", async () => {
    for (const [signal, status] of [
      ["SIGTERM", 0],
      ["SIGINT", 130],
    ] as const) {
      const env = home();
      const child = startSource([...up, "--foreground", "--json"], { env });
      const reader = child.stdout.getReader();
      const { value } = await reader.read();
      expect(JSON.parse(Buffer.from(value ?? []).toString())).toMatchObject({
        pid: child.pid,
        started: true,
      });
      child.kill(signal);
      expect(await child.exited).toBe(status);
    }
  });

  test("an ephemeral one prints its directory so that a shell takes it as it is", async () => {
    const base = join(tempDir(), "it's");
    mkdirSync(base);
    const { stdout } = await runSource([...up, "--ephemeral", "--ttl", "30s"], { env: { TMPDIR: base } });
    const shell = Bun.spawnSync(["sh", "-c", `${stdout}printf %s "$CLAUDEMESH_CONFIG_DIR"`]);
    const dir = shell.stdout.toString();
    expect([dir.startsWith(`${base}/claudemesh-eph-`), existsSync(dir)]).toEqual([true, true]);
    await json(["daemon", "down"], { CLAUDEMESH_CONFIG_DIR: dir });
    expect(existsSync(dir)).toBe(false);
  });

  test("that nobody reads its words does not end it", async () => {
    const env = home();
    const child = startSource([...up, "--foreground"], { env });
    await child.stdout.cancel();
    await waitFor(async () => (await runSource(["daemon", "status"], { env })).status === 0, {
      what: "the daemon",
    });
    child.kill("SIGTERM");
    expect(await child.exited).toBe(0);
  });

  test("one that neither answers nor ends in time is found by its lock and named, with what can be done", async () => {
    const env = home();
    const { pid } = await json(up, env);
    process.kill(Number(pid), "SIGSTOP");
    cleanup(() => {
      if (isRunning(Number(pid))) process.kill(Number(pid), "SIGKILL");
    });
    const { status, stderr } = await runSource(["daemon", "down", "--timeout", "1"], { env });
    expect(status).toBe(7);
    expect(stderr).toContain(`the daemon (pid ${pid}) has not ended in time`);
    expect(stderr).toContain(`kill -9 ${pid}`);
  });
});

describe("broker", () => {
  const up = ["broker", "up", "--port", "0"];

  test("up, up again, status, down, down again", async () => {
    const env = home();
    const data = join(env.CLAUDEMESH_CONFIG_DIR ?? "", "broker");
    const started = await json(up, env);
    expect(started).toEqual({
      pid: expect.any(Number),
      url: expect.stringMatching(/^ws:\/\/127\.0\.0\.1:\d+\/ws$/),
      data,
      started: true,
    });
    expect(await json(up, env)).toEqual({ ...started, started: false });
    expect(await json(["broker", "status"], env)).toMatchObject({
      ok: true,
      pid: started.pid,
      url: started.url,
    });
    expect(await json(["broker", "down"], env)).toEqual({ stopped: true, pid: started.pid });
    expect(isRunning(Number(started.pid))).toBe(false);
    expect(await json(["broker", "down"], env)).toEqual({ stopped: false, pid: null });
  });

  test("the record of one that was killed counts for nothing, whoever has its process id and port now", async () => {
    const env = home();
    const killed = await json(up, env);
    const record = join(String(killed.data), "broker.json");
    const content = readFileSync(record, "utf8");
    process.kill(Number(killed.pid), "SIGKILL");
    await waitFor(() => !isRunning(Number(killed.pid)), { what: "its end" });
    expect((await runSource(["broker", "status"], { env })).status).toBe(3);

    // Another broker answers at the old address, and the old process id is this test's.
    const otherEnv = home();
    const port = new URL(String(killed.url)).port;
    const other = await json(["broker", "up", "--port", port], otherEnv);
    writeFileSync(record, JSON.stringify({ ...JSON.parse(content), pid: process.pid }));
    expect(await json(["broker", "down"], env)).toEqual({ stopped: false, pid: null });
    expect(isRunning(Number(other.pid))).toBe(true);
    await json(["broker", "down"], otherEnv);
  });

  test("a clock that is set while it runs hides no broker from the commands", async () => {
    const env = home();
    const { pid, data } = await json(up, env);
    // As if it had begun by a clock that was a day off.
    const record = join(String(data), "broker.json");
    const content = JSON.parse(readFileSync(record, "utf8"));
    const dayMs = 24 * 3600 * 1000;
    const started_at = new Date(Date.parse(content.started_at) - dayMs).toISOString();
    writeFileSync(record, JSON.stringify({ ...content, started_at }));
    expect(await json(["broker", "status"], env)).toMatchObject({ pid });
    expect(await json(["broker", "down"], env)).toEqual({ stopped: true, pid });
  });

  test("says what comes next, as things are: a mesh, a daemon, an invite, or nothing", async () => {
    const env = home();
    const other = home();
    const said = async (as: Record<string, string>, ...flags: string[]): Promise<string> =>
      (await runSource([...up, ...flags], { env: as })).stderr.trim();
    const { pid, url, data } = await json(up, env);
    pids.add(Number(pid));
    expect(await said(env)).toBe(`next: claudemesh mesh create NAME --broker ${url}`);
    expect(await said(other, "--data", String(data))).toBe(
      `next: CLAUDEMESH_BROKER_DATA=${data} claudemesh mesh create NAME --broker ${url}`,
    );
    // To this host it has another name.
    const sameUrl = String(url).replace("127.0.0.1", "localhost");
    await json(["mesh", "create", "team", "--broker", sameUrl, "--display-name", "alice"], env);
    expect((await said(env)).split("\n")).toEqual([
      "this host is in team there, and its daemon connects by itself",
      "next: claudemesh daemon up",
    ]);
    await json(["daemon", "up", "--no-tcp"], env);
    expect(await said(env)).toBe("this host is in team there, and its daemon connects by itself");
    await json(["daemon", "down"], env);
    expect(await said(other, "--data", String(data))).toBe(
      `it has 1 mesh, and this host is in none of them: claudemesh join LINK, with an invite of a member. For another mesh: CLAUDEMESH_BROKER_DATA=${data} claudemesh mesh create NAME --broker ${url}`,
    );
    await json(["broker", "down"], env);

    // The same address, and another directory behind it.
    const port = new URL(String(url)).port;
    const empty = join(tempDir(), "empty");
    await json(["broker", "up", "--port", port, "--data", empty], env);
    expect(await said(env, "--data", empty)).toContain(
      `warning: this host is in team at that address, and this broker, with ${empty}, has no mesh at all`,
    );
    await json(["broker", "down", "--data", empty], env);
    // None of this is for the log of the server.
    for (const line of readFileSync(join(String(data), "broker.log"), "utf8")
      .trim()
      .split("\n"))
      expect(JSON.parse(line)).toHaveProperty("level");
  });

  test("what the operator chooses reaches the broker, and its clients", async () => {
    const env = home();
    const flags = ["--connections", "prefer_oldest", "--dedupe-days", "5", "--history-days", "2"];
    const { url, data } = await json([...up, ...flags], env);
    const adminToken = readFileSync(join(String(data), "admin-token"), "utf8");
    const httpUrl = String(url).replace(/^ws(.*)\/ws$/, "http$1");
    const stop = async () => undefined;
    const mesh = await createTestMesh({
      url: String(url),
      httpUrl,
      port: 0,
      stop,
      dataDir: String(data),
      adminToken,
    });
    const client = await BrokerClient.open(String(url));
    client.send(helloOf(mesh.owner));
    expect((await client.next("hello_ack")).features).toMatchObject({
      client_message_id_dedupe: { mode: "retention_scoped", dedupe_retention_days: 5 },
      concurrent_connection_policy: { default_policy: "prefer_oldest" },
    });
    await json(["broker", "down"], env);
  });

  test.each([
    [["--connections", "fight"], "--connections must be prefer_newest or prefer_oldest or allow_concurrent"],
    [["--dedupe-days", "2"], "--dedupe-days: a whole number from 3"],
    [["--dedupe-days", "a week"], "--dedupe-days: a whole number"],
    [["--history-days", "0"], "--history-days: a whole number from 1"],
  ])("%j is refused, and nothing is started", async (flags, why) => {
    const env = home();
    const { status, stderr } = await runSource([...up, ...flags], { env });
    expect([status, stderr]).toEqual([2, expect.stringContaining(why)]);
    expect(existsSync(join(env.CLAUDEMESH_CONFIG_DIR ?? "", "broker"))).toBe(false);
  });

  test("a port in use is named, and nothing is left running", async () => {
    const env = home();
    const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
    cleanup(() => server.stop(true));
    const { status, stdout } = await runSource(["broker", "up", "--port", String(server.port), "--json"], {
      env,
    });
    expect(status).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ error: "port_in_use" });
    expect(existsSync(join(env.CLAUDEMESH_CONFIG_DIR ?? "", "broker/broker.json"))).toBe(false);
  });
});

describe("demo", () => {
  test("shows messages both ways and one that waited, and leaves nothing", async () => {
    const env = { TMPDIR: tempDir() };
    const { status, stdout, stderr } = await runSource(["demo", "--json"], { env });
    expect(stderr).toBe("");
    expect(status).toBe(0);
    const shown: unknown = JSON.parse(stdout);
    expect(shown).toMatchObject({
      ok: true,
      arrivals_ms: {
        there: expect.any(Number),
        back: expect.any(Number),
        "after the broker's return": expect.any(Number),
      },
    });
    expect([...new Bun.Glob("**/*").scanSync({ cwd: env.TMPDIR, onlyFiles: false })]).toEqual([]);
  });

  test("clears away when it is interrupted", async () => {
    const env = { TMPDIR: tempDir() };
    const child = startSource(["demo"], { env });
    let text = "";
    const decoder = new TextDecoder();
    for await (const chunk of child.stdout) {
      text += decoder.decode(chunk, { stream: true });
      if (text.includes("daemon up")) child.kill("SIGINT");
    }
    expect(await child.exited).toBe(130);
    for (const [, pid] of text.matchAll(/\bpid (\d+)/g)) expect(isRunning(Number(pid))).toBe(false);
    expect([...new Bun.Glob("**/*").scanSync({ cwd: env.TMPDIR, onlyFiles: false })]).toEqual([]);
  });
});
