/** `claudemesh doctor` on hosts that are well and on hosts where something is wrong, each as a user would meet it. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { userInfo } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import { generateKeyPair } from "~/identity/keys";
import { serviceSuffix } from "~/service/definition";
import { systemdUnitName } from "~/service/systemd";
import { certificateDaysLow, doctorMsMax } from "~/wire/limits";
import { hasOpenssl, makeCertificate } from "../support/certificate";
import { cleanup } from "../support/cleanup";
import { type CliResult, command, runCli, spawnCli } from "../support/cli";
import { startMesh } from "../support/mesh";
import { tempDir } from "../support/temp-dir";

/** Some of what is asked here never answers, which takes the doctor its full time. */
setDefaultTimeout(30_000);

const Report = v.object({
  ok: v.boolean(),
  findings: v.array(
    v.strictObject({
      check: v.pipe(v.string(), v.nonEmpty()),
      status: v.picklist(["pass", "warn", "fail"]),
      message: v.pipe(v.string(), v.nonEmpty()),
      fix: v.exactOptional(v.pipe(v.string(), v.nonEmpty())),
    }),
  ),
});
type Report = v.InferOutput<typeof Report>;

interface Examined extends Report {
  exitCode: number;
  /** `fail daemon`, … */
  bad: string[];
  of(check: string): Report["findings"];
}

async function examine(env: Record<string, string>): Promise<Examined> {
  const started = performance.now();
  const result: CliResult = await runCli(["doctor", "--json"], { env });
  expect(result.stderr).toBe("");
  expect(performance.now() - started).toBeLessThan(doctorMsMax + 3_000);
  const report = v.parse(Report, result.json());
  expect(report.ok).toBe(!report.findings.some(({ status }) => status === "fail"));
  expect(result.exitCode).toBe(report.ok ? 0 : 1);
  for (const { status, fix } of report.findings) {
    if (status !== "pass") expect(fix).toBeDefined();
    else expect(fix).toBeUndefined();
  }
  return {
    ...report,
    exitCode: result.exitCode,
    bad: report.findings.flatMap(({ status, check }) => (status === "pass" ? [] : [`${status} ${check}`])),
    of: (check) => report.findings.filter((finding) => finding.check === check),
  };
}

/** A host that is a member of a mesh whose broker is at `brokerUrl`; no daemon runs there. */
function memberOf(brokerUrl: string): { dir: string; env: Record<string, string>; secretKey: string } {
  const dir = tempDir();
  const { publicKey, secretKey } = generateKeyPair();
  const mesh = {
    meshId: "m1",
    memberId: "w1",
    slug: "team",
    name: "team",
    pubkey: publicKey,
    secretKey,
    brokerUrl,
    joinedAt: "2026-01-01T00:00:00.000Z",
  };
  writeFileSync(join(dir, "config.json"), JSON.stringify({ version: 1, meshes: [mesh] }), { mode: 0o600 });
  return { dir, env: { CLAUDEMESH_CONFIG_DIR: dir }, secretKey };
}

/** A broker's health behind this certificate; its clock is `skewMs` ahead. */
function serveHealth(tls?: { certFile: string; keyFile: string }, skewMs = 0): number {
  const server = Bun.serve({
    port: 0,
    ...(tls === undefined ? {} : { tls: { cert: Bun.file(tls.certFile), key: Bun.file(tls.keyFile) } }),
    fetch: () =>
      Response.json(
        { ok: true, version: "1.2.3", uptime_s: 1, connections: 0 },
        { headers: { date: new Date(Date.now() + skewMs).toUTCString() } },
      ),
  });
  cleanup(async () => void (await server.stop(true)));
  return server.port ?? 0;
}

describe("a host that is well", () => {
  test("passes with a daemon that is connected, and says nothing that is secret", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"], daemons: ["alice"] });
    const { bad, ok, findings, of } = await examine(alice.env);
    // Whether this machine has a service manager, and what it thinks of one, is its own business.
    expect(bad.filter((what) => what !== "warn service" && what !== "warn host")).toEqual([]);
    expect(ok).toBe(true);
    expect(of("daemon")[0]?.message).toContain(`pid ${alice.daemonPid}`);
    expect(of("link")[0]?.message).toStartWith("team: connected");
    expect(of("broker")[0]?.message).toContain("the broker of team answers");
    expect(of("clock")[0]?.message).toContain("the clock of");
    expect(of("tcp")[0]?.message).toBe("the daemon serves the Unix socket only");
    for (const check of [
      "keys",
      "permissions",
      "settings",
      "host",
      "disk",
      "lock",
      "socket",
      "version",
      "database",
    ]) {
      expect([check, of(check).length > 0]).toEqual([check, true]);
    }
    const said = JSON.stringify(findings);
    const config = readFileSync(join(alice.env.CLAUDEMESH_CONFIG_DIR ?? "", "config.json"), "utf8");
    const [, secretKey = "no key found"] = /"secretKey": "([0-9a-f]{128})"/.exec(config) ?? [];
    const token = readFileSync(join(alice.daemonDir, "local_token"), "utf8").trim();
    for (const secret of [secretKey, secretKey.slice(0, 64), token]) expect(said).not.toContain(secret);

    // The other one is a member whose daemon nobody has started.
    const other = await examine(bob.env);
    expect(other.bad.filter((what) => what !== "warn service" && what !== "warn host")).toEqual([
      "fail daemon",
    ]);
    expect(other.of("daemon")[0]?.fix).toBe("claudemesh daemon up");
  });

  test("and serves TCP, which proves itself", async () => {
    const { alice } = await startMesh({ members: ["alice"], daemons: [] });
    await alice.up(["--tcp-port", "0"]);
    await alice.connected();
    expect((await examine(alice.env)).of("tcp")).toMatchObject([
      { status: "pass", message: expect.stringContaining("proves that it knows the token") },
    ]);
  });

  test("has a line for each finding, and no colour off a terminal", async () => {
    const { stdout, exitCode } = await runCli(["doctor"], { env: { CLAUDEMESH_CONFIG_DIR: tempDir() } });
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/^warn {2}keys +this host is in no mesh yet/m);
    expect(stdout).toMatch(/^ +fix: claudemesh mesh create NAME/m);
    expect(stdout).toMatch(/\nnothing failed, \d warnings?\n$/);
    expect(stdout).not.toContain("\u001b");
  });

  test.each([
    [{}, true],
    [{ NO_COLOR: "1" }, false],
    [{ TERM: "dumb" }, false],
  ])("on a terminal it has colour, with %j: %p", async (env, isColoured) => {
    let screen = "";
    const child = Bun.spawn([...command, "doctor"], {
      env: { PATH: process.env.PATH ?? "", HOME: tempDir(), TERM: "xterm", ...env },
      terminal: {
        data: (_, bytes) => {
          screen += new TextDecoder().decode(bytes);
        },
      },
    });
    expect(await child.exited).toBe(0);
    expect(screen.includes("\u001b[33mwarn\u001b[0m")).toBe(isColoured);
    expect(screen).toContain("nothing failed");
    child.terminal?.close();
  });
});

describe("a host with nothing on it", () => {
  test("is told the first command, and nothing is written", async () => {
    const env = { CLAUDEMESH_CONFIG_DIR: join(tempDir(), "not", "there") };
    const { bad, of, exitCode } = await examine(env);
    expect(exitCode).toBe(0);
    expect(bad.filter((what) => what !== "warn host")).toEqual(["warn keys", "warn daemon"]);
    expect(of("keys")[0]?.fix).toMatch(/^claudemesh mesh create NAME.*claudemesh join LINK/);
    expect(await Bun.file(env.CLAUDEMESH_CONFIG_DIR).exists()).toBe(false);
    expect(Bun.spawnSync(["ls", env.CLAUDEMESH_CONFIG_DIR]).success).toBe(false);
  });

  test("below a path that is a file it says so", async () => {
    const file = join(tempDir(), "file");
    writeFileSync(file, "");
    const { exitCode, of } = await examine({ CLAUDEMESH_CONFIG_DIR: join(file, "config") });
    expect(exitCode).toBe(1);
    expect(of("socket")[0]?.status).toBe("fail");
  });
});

describe("files", () => {
  test("modes that let others in, each with its chmod; following it mends it", async () => {
    const { dir, env } = memberOf(`ws://127.0.0.1:${serveHealth()}/ws`);
    mkdirSync(join(dir, "daemon"), { mode: 0o755 });
    chmodSync(join(dir, "daemon"), 0o755);
    chmodSync(join(dir, "config.json"), 0o644);
    chmodSync(dir, 0o777);
    const { of } = await examine(env);
    const fixes = of("permissions").map(({ status, fix }) => `${status} ${fix}`);
    expect(fixes).toEqual([
      `fail chmod 700 ${dir}`,
      `fail chmod 600 ${join(dir, "config.json")}`,
      `fail chmod 700 ${join(dir, "daemon")}`,
    ]);
    for (const { fix } of of("permissions")) Bun.spawnSync(["sh", "-c", fix ?? "false"]);
    expect((await examine(env)).of("permissions").map(({ status }) => status)).toEqual(["pass"]);
  });

  test("a symbolic link in place of the daemon's directory", async () => {
    const dir = tempDir();
    symlinkSync(tempDir(), join(dir, "daemon"));
    expect((await examine({ CLAUDEMESH_CONFIG_DIR: dir })).of("permissions")).toMatchObject([
      { status: "fail", message: expect.stringContaining("symbolic link") },
    ]);
  });

  test("a config.json that does not parse, and a config.toml that does not fit", async () => {
    const dir = tempDir();
    writeFileSync(join(dir, "config.json"), "{ nonsense", { mode: 0o600 });
    writeFileSync(join(dir, "config.toml"), "[daemon]\ntcp = 7\n", { mode: 0o600 });
    const { of } = await examine({ CLAUDEMESH_CONFIG_DIR: dir });
    expect(of("keys")).toMatchObject([{ status: "fail", message: expect.stringContaining("not JSON") }]);
    expect(of("settings")).toMatchObject([
      { status: "fail", message: expect.stringMatching(/config\.toml:2.*tcp/) },
    ]);
  });

  test("keys that do not belong together, which are not shown", async () => {
    const { dir, env, secretKey } = memberOf("ws://127.0.0.1:1/ws");
    const path = join(dir, "config.json");
    const damaged = `${"0".repeat(64)}${secretKey.slice(64)}`;
    writeFileSync(path, readFileSync(path, "utf8").replace(secretKey, damaged));
    const { of, findings } = await examine(env);
    expect(of("keys")).toMatchObject([{ status: "fail", message: expect.stringContaining("secretKey") }]);
    expect(JSON.stringify(findings)).not.toContain(secretKey.slice(64));
  });
});

describe("the daemon", () => {
  /** Takes connections and says nothing. */
  const listenInSilence = async (path: string): Promise<void> => {
    const server = createServer();
    await new Promise<void>((resolve) => void server.listen(path, resolve));
    cleanup(() => void server.close());
  };

  test("that died leaves a socket, which is told from one that serves", async () => {
    const { dir, env } = memberOf(`ws://127.0.0.1:${serveHealth()}/ws`);
    const daemon = spawnCli(["daemon", "up", "--foreground", "--no-tcp", "--json"], { env });
    await daemon.waitForOutput(/"started":\s*true/);
    await daemon.stop("SIGKILL");
    const { of } = await examine(env);
    expect(of("socket")).toMatchObject([
      { status: "warn", message: expect.stringContaining("left over"), fix: "claudemesh daemon up" },
    ]);
    expect(of("daemon")[0]?.status).toBe("fail");
    expect(of("database")).toMatchObject([{ status: "pass", message: expect.stringContaining("sound") }]);

    const again = spawnCli(["daemon", "up", "--foreground", "--no-tcp", "--json"], { env });
    await again.waitForOutput(/"started":\s*true/);
    await again.stop("SIGTERM");
    truncateSync(join(dir, "daemon", "outbox.db"), 5000);
    expect((await examine(env)).of("database")).toMatchObject([
      {
        status: "fail",
        message: expect.stringContaining("outbox is damaged"),
        fix: "claudemesh daemon recover",
      },
    ]);
  });

  test("goes on, and so does the doctor, where pipes stand in place of files", async () => {
    const { alice } = await startMesh({ members: ["alice"], daemons: ["alice"] });
    const dir = alice.env.CLAUDEMESH_CONFIG_DIR ?? "";
    writeFileSync(join(alice.daemonDir, "http.port"), "4711");
    for (const path of ["config.toml", "config.json", "daemon/local_token"].map((name) => join(dir, name))) {
      rmSync(path, { force: true });
      expect(spawnSync("mkfifo", [path]).status).toBe(0);
    }
    const { of } = await examine(alice.env);
    expect(of("settings")[0]?.message).toEndWith("config.toml: it is no regular file");
    expect(of("keys")[0]?.message).toEndWith("config.json is a pipe");
    expect(of("permissions").map(({ fix }) => fix?.split(" ")[0])).toEqual(["mv", "mv", "mv"]);
    expect(of("daemon")[0]?.status).toBe("pass");
  });

  test("that is stopped in its tracks", async () => {
    const { alice } = await startMesh({ members: ["alice"] });
    alice.freeze();
    try {
      const { of, exitCode } = await examine(alice.env);
      expect(exitCode).toBe(1);
      expect(of("daemon")).toMatchObject([
        {
          status: "fail",
          message: expect.stringContaining(`pid ${alice.daemonPid}`),
          fix: `claudemesh daemon restart || kill -9 ${alice.daemonPid}; claudemesh daemon up`,
        },
      ]);
      expect(of("database")[0]?.status).toBe("warn");
    } finally {
      alice.thaw();
    }
  });

  test("that is somebody else, who never answers", async () => {
    const { dir, env } = memberOf(`ws://127.0.0.1:${serveHealth()}/ws`);
    mkdirSync(join(dir, "daemon"), { mode: 0o700 });
    const socket = join(dir, "daemon", "daemon.sock");
    await listenInSilence(socket);
    chmodSync(socket, 0o600);
    expect((await examine(env)).of("daemon")).toMatchObject([
      {
        status: "fail",
        message: expect.stringContaining("hangs"),
        fix: expect.stringContaining(`lsof ${socket}`),
      },
    ]);
  });
});

describe("the broker", () => {
  const over = async (tls: { certFile: string; keyFile: string }, trusted: boolean): Promise<Examined> => {
    const { env } = memberOf(`wss://localhost:${serveHealth(tls)}/ws`);
    return await examine(trusted ? { ...env, NODE_EXTRA_CA_CERTS: tls.certFile } : env);
  };
  if (!hasOpenssl) console.warn("SKIPPED: there is no openssl, so that certificates are not tried");

  test.skipIf(!hasOpenssl)("with a certificate that is trusted here, and will be for long", async () => {
    const { of } = await over(makeCertificate(100), true);
    expect(of("tls")[0]).toMatchObject({ status: "pass" });
    expect(of("broker")[0]).toMatchObject({ status: "pass", message: expect.stringContaining("1.2.3") });
  });

  test.skipIf(!hasOpenssl)("with one that will expire", async () => {
    const { of } = await over(makeCertificate(certificateDaysLow - 1), true);
    expect(of("tls")[0]).toMatchObject({ status: "warn", message: expect.stringContaining("expires in") });
  });

  test.skipIf(!hasOpenssl)("with one that nobody here trusts", async () => {
    const { of, exitCode } = await over(makeCertificate(100), false);
    expect(exitCode).toBe(1);
    expect(of("tls")[0]).toMatchObject({
      status: "fail",
      message: expect.stringContaining("not trusted here"),
      fix: expect.stringContaining("NODE_EXTRA_CA_CERTS"),
    });
  });

  test.skipIf(!hasOpenssl)("with one that has expired", async () => {
    const { of } = await over(makeCertificate(-1), true);
    expect(of("tls")[0]).toMatchObject({
      status: "fail",
      message: expect.stringContaining("expired on"),
      fix: expect.stringContaining("Renew"),
    });
  });

  test("without TLS where there should be some", async () => {
    const { env } = memberOf(`wss://localhost:${serveHealth()}/ws`);
    expect((await examine(env)).of("tls")[0]).toMatchObject({ status: "fail" });
  });

  test("whose name nobody knows", async () => {
    // RFC 6761 §6.4: this one never is.
    const { of } = await examine(memberOf("wss://broker.invalid/ws").env);
    expect(of("dns")).toMatchObject([
      {
        status: "fail",
        message: expect.stringContaining("broker.invalid, the broker of team, is not found"),
      },
    ]);
    expect([...of("tls"), ...of("broker")]).toEqual([]);
  });

  test("that is down", async () => {
    const port = serveHealth();
    const unused = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
    const closed = unused.port;
    unused.stop(true);
    expect(port).not.toBe(closed);
    expect((await examine(memberOf(`ws://127.0.0.1:${closed}/ws`).env)).of("broker")).toMatchObject([
      { status: "fail", message: expect.stringContaining("does not take connections") },
    ]);
  });

  test.each([["ws"], ["wss"]])("that takes connections and never answers, over %s", async (scheme) => {
    const mute = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
    cleanup(() => mute.stop(true));
    const { of } = await examine(memberOf(`${scheme}://127.0.0.1:${mute.port}/ws`).env);
    expect(of("broker").at(-1)).toMatchObject({
      status: "fail",
      message: expect.stringContaining("did not answer"),
    });
  });

  test("whose clock is a day ahead of this one", async () => {
    const { env } = memberOf(`ws://127.0.0.1:${serveHealth(undefined, 86_400_000)}/ws`);
    expect((await examine(env)).of("clock")).toMatchObject([
      { status: "fail", message: expect.stringMatching(/it is 24 h behind/) },
    ]);
  });

  test("whose URL holds a secret, which is not shown", async () => {
    const { env } = memberOf(`ws://user:hunter2@127.0.0.1:${serveHealth()}/ws?key=hunter3`);
    const { findings } = await examine(env);
    expect(JSON.stringify(findings)).not.toMatch(/hunter/);
  });
});

describe("the service", () => {
  const isLinux = process.platform === "linux";
  if (!isLinux) console.warn("SKIPPED: the service as systemd has it is tried on Linux alone");

  /** A host with a `systemctl` of its own, and where its unit belongs. */
  const withSystemctl = (script: string): { env: Record<string, string>; unitPath: string } => {
    const { dir, env } = memberOf(`ws://127.0.0.1:${serveHealth()}/ws`);
    const bin = join(dir, "bin");
    mkdirSync(bin);
    writeFileSync(join(bin, "systemctl"), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    const { username: name, uid, gid, homedir: home } = userInfo();
    const suffix = serviceSuffix("user", { name, uid, gid, home }, join(dir, "daemon"));
    const units = join(dir, ".config/systemd/user");
    mkdirSync(units, { recursive: true });
    const unitPath = join(units, systemdUnitName({ suffix }));
    return { env: { ...env, HOME: dir, PATH: `${bin}:${process.env.PATH ?? ""}` }, unitPath };
  };

  test.skipIf(!isLinux)(
    "whose executable is gone, which is not started at boot, and has given up",
    async () => {
      const { env, unitPath } = withSystemctl(
        'case "$*" in *LoadState*) printf "LoadState=loaded\\nActiveState=failed\\nSubState=failed\\nMainPID=0\\nResult=exit-code\\nExecMainStatus=203\\n";; esac',
      );
      writeFileSync(unitPath, "[Service]\nExecStart=/nowhere/claudemesh daemon up --foreground\n");
      const { of } = await examine(env);
      expect(of("service")).toMatchObject([
        { status: "fail", message: expect.stringContaining("/nowhere/claudemesh, which is not there") },
        { status: "warn", message: expect.stringContaining("not started at boot") },
        { status: "fail", message: expect.stringContaining("last exit status was 203") },
      ]);
    },
  );

  test.skipIf(!isLinux)("whose manager never answers does not keep the rest from being told", async () => {
    const { env, unitPath } = withSystemctl('trap "" TERM; exec sleep 15');
    writeFileSync(unitPath, "[Service]\nExecStart=/nowhere/claudemesh daemon up --foreground\n");
    const { of } = await examine(env);
    expect(of("service")).toMatchObject([
      { status: "warn", message: expect.stringContaining("did not answer within") },
    ]);
    expect(of("broker")[0]?.status).toBe("pass");
  });
});
