/**
 * Commands in a sandbox that forbids Unix sockets, and as another user: what they fall back to, what they refuse, what they say.
 * The sandbox is a real one (seccomp), where the machine has it.
 */
import { describe, expect, test } from "bun:test";
import { chmodSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cleanup } from "../support/cleanup";
import { type CliResult, command, runCli } from "../support/cli";
import { type Member, newMember, startMesh } from "../support/mesh";
import { tempDir } from "../support/temp-dir";
import { waitFor } from "../support/wait-for";

const wrapper = join(import.meta.dir, "../support/forbid-unix-sockets.ts");

/** Only Linux on these has the filter, and a container may forbid making one. */
const hasSandbox =
  process.platform === "linux" &&
  (process.arch === "x64" || process.arch === "arm64") &&
  Bun.spawnSync([process.execPath, wrapper, "true"]).exitCode === 0;

function spawnInside(words: readonly string[], env: Record<string, string>) {
  const child = Bun.spawn([process.execPath, wrapper, ...words], {
    env: { PATH: process.env.PATH ?? "", ...env },
    stdout: "pipe",
    stderr: "pipe",
  });
  cleanup(() => child.kill("SIGKILL"));
  return child;
}

async function inside(
  member: Member,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<CliResult> {
  const child = spawnInside([...command, ...args], { ...member.env, ...env });
  const [stdout, stderr, exitCode] = await Promise.all([
    child.stdout.text(),
    child.stderr.text(),
    child.exited,
  ]);
  return { exitCode, stdout, stderr, json: () => JSON.parse(stdout) };
}

/** A server on 127.0.0.1 that writes down what it was asked, with the token if it was shown one. */
function listener(answer: (url: URL) => Response = () => new Response("?", { status: 404 })) {
  const seen: { method: string; target: string; authorization: string | null }[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: (request) => {
      const url = new URL(request.url);
      seen.push({
        method: request.method,
        target: url.pathname,
        authorization: request.headers.get("authorization"),
      });
      return answer(url);
    },
  });
  cleanup(() => server.stop(true));
  return { seen, port: server.port ?? 0 };
}

describe.skipIf(!hasSandbox)("where Unix sockets are forbidden (needs seccomp; skipped elsewhere)", () => {
  test("send, peers and live events go over TCP, say why once, and no proxy is asked", async () => {
    const mesh = await startMesh({ members: ["alice", "bob"], daemons: ["bob"] });
    const { alice, bob } = mesh;
    await alice.up(["--tcp-port", "0"]);
    await alice.connected();
    await alice.knows("bob");
    const proxy = listener();
    const proxied = {
      HTTP_PROXY: `http://127.0.0.1:${proxy.port}`,
      http_proxy: `http://127.0.0.1:${proxy.port}`,
    };

    const sent = await inside(
      alice,
      ["send", "bob", "from the sandbox", "--wait", "accepted", "--json"],
      proxied,
    );
    expect([sent.exitCode, sent.json()]).toEqual([
      0,
      expect.objectContaining({ status: "accepted", route: "daemon" }),
    ]);
    expect(sent.stderr.trim().split("\n")).toEqual([
      expect.stringMatching(
        /^note: this process may not connect to .*daemon\.sock \(EPERM\); going through http:\/\/127\.0\.0\.1:\d+ instead$/,
      ),
    ]);
    expect((await bob.received(1)).map(({ body }) => body)).toEqual(["from the sandbox"]);

    const peers = await inside(alice, ["peers", "--json"], proxied);
    expect(peers.json()).toMatchObject({ peers: [{ name: "bob" }] });
    expect((await inside(alice, ["send", "bob", "x", "--route", "daemon"], proxied)).exitCode).toBe(0);

    const events = spawnInside([...command, "inbox", "--follow", "--json"], { ...alice.env, ...proxied });
    let followed = "";
    void (async () => {
      const decoder = new TextDecoder();
      for await (const chunk of events.stdout) followed += decoder.decode(chunk, { stream: true });
    })();
    await bob.send("alice", "to the sandbox");
    await waitFor(() => followed.includes("to the sandbox"), { what: "the message in the followed inbox" });
    expect(proxy.seen).toEqual([]);
  });

  test("whoever else sits on the port is not shown the token", async () => {
    const alice = newMember("alice");
    await alice.up(["--tcp-port", "0"]);
    const liar = listener(() => Response.json({ proof: "00".repeat(32) }));
    writeFileSync(join(alice.daemonDir, "http.port"), `${liar.port}\n`);
    const refused = await inside(alice, ["peers", "--json"]);
    expect([refused.exitCode, refused.json()]).toEqual([
      4,
      expect.objectContaining({ error: "unauthorized" }),
    ]);
    expect(liar.seen.length).toBeGreaterThan(0);
    for (const { target, authorization } of liar.seen) {
      expect([target, authorization]).toEqual(["/v1/challenge", null]);
    }
    const token = readFileSync(join(alice.daemonDir, "local_token"), "utf8").trim();
    expect(refused.stdout + refused.stderr).not.toContain(token);
  });

  test("without TCP the setting and both ways out are named, nothing is removed, and no message takes another way", async () => {
    const { alice } = await startMesh({ members: ["alice", "bob"] });
    for (const args of [
      ["send", "bob", "x"],
      ["send", "bob", "x", "--route", "daemon"],
      ["peers"],
      ["daemon", "up"],
    ]) {
      const refused = await inside(alice, args);
      expect([args, refused.exitCode]).toEqual([args, 4]);
      expect(refused.stderr).toContain("(EPERM)");
      expect(refused.stderr).toContain("allowAllUnixSockets");
      expect(refused.stderr).toContain("--no-tcp");
      expect(refused.stderr).toContain(alice.socket);
    }
    expect(existsSync(alice.socket)).toBe(true);
    expect((await alice.outbox()).items).toEqual([]);
  });

  test("a restart there leaves the daemon running, since the next one could not listen; down ends it", async () => {
    const alice = newMember("alice");
    const pid = await alice.up(["--tcp-port", "0"]);
    const refused = await inside(alice, ["daemon", "restart", "--json"]);
    expect([refused.exitCode, refused.json()]).toEqual([
      4,
      expect.objectContaining({ error: "sandboxed", hint: expect.stringContaining("outside") }),
    ]);
    expect(await alice.json(["daemon", "status"])).toMatchObject({ pid });
    const down = await inside(alice, ["daemon", "down", "--json"]);
    expect([down.exitCode, down.json()]).toEqual([0, { stopped: true, pid, unsent: 0 }]);
  });

  test("a daemon cannot be started there, and leaves the socket of the one before", async () => {
    const alice = newMember("alice");
    await alice.up();
    await alice.kill();
    expect(existsSync(alice.socket)).toBe(true);
    const refused = await inside(alice, ["daemon", "up", "--foreground", "--no-tcp", "--json"]);
    expect(refused.json()).toMatchObject({ error: "sandboxed" });
    expect(existsSync(alice.socket)).toBe(true);
  });
});

const isRoot = process.getuid?.() === 0;
const setpriv = Bun.which("setpriv");

// The sources may lie where another user cannot read them.
const canBeAnother = isRoot && setpriv !== null && command.length === 1;

describe.skipIf(!canBeAnother)(
  "as another user (needs root, setpriv and the executable; skipped elsewhere)",
  () => {
    test("the owner of the daemon is named, and nothing is tried behind their back", async () => {
      const alice = newMember("alice", tempDir());
      await alice.up(["--tcp-port", "0"]);
      // What the other user may read: the program and the way to the daemon's directory, which stays closed.
      const place = tempDir();
      chmodSync(place, 0o755);
      const program = join(place, "claudemesh");
      const [executable = "", ...rest] = command;
      Bun.spawnSync(["cp", executable, program]);
      const asNobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
      for (let dir = alice.configDir; dir.startsWith("/tmp/"); dir = join(dir, "..")) chmodSync(dir, 0o755);
      const child = Bun.spawn([...asNobody, program, ...rest, "peers", "--json"], {
        cwd: "/",
        env: { PATH: process.env.PATH ?? "", HOME: place, CLAUDEMESH_CONFIG_DIR: alice.configDir },
        stdout: "pipe",
        stderr: "pipe",
      });
      const [stdout, stderr, status] = await Promise.all([
        child.stdout.text(),
        child.stderr.text(),
        child.exited,
      ]);
      expect([status, stderr]).toEqual([
        4,
        expect.stringContaining("it belongs to user id 0, and this process is user id 65534"),
      ]);
      expect(JSON.parse(stdout)).toMatchObject({ error: "sandboxed", owner_uid: 0 });
      // One that may not even be looked into: what sudo leaves in a home.
      chmodSync(alice.configDir, 0o700);
      const closed = Bun.spawnSync([...asNobody, program, ...rest, "daemon", "up"], {
        cwd: "/",
        env: { PATH: process.env.PATH ?? "", HOME: place, CLAUDEMESH_CONFIG_DIR: alice.configDir },
      });
      expect(closed.stderr.toString()).toContain(
        "it belongs to user id 0, and this process is user id 65534",
      );
      expect(stderr).not.toContain("127.0.0.1");
      rmSync(program);
    });
  },
);

test("a symbolic link where the socket belongs is refused, and stays", async () => {
  const alice = newMember("alice");
  await alice.up();
  await alice.down();
  Bun.spawnSync(["ln", "-s", "/nowhere", alice.socket]);
  const { exitCode, stderr } = await runCli(["daemon", "up", "--no-tcp"], { env: alice.env });
  expect([exitCode, stderr]).toEqual([4, expect.stringContaining("a symbolic link")]);
});
