/**
 * The commands that install and remove the service, as a person types them, with stand-ins for systemctl and loginctl that really
 * start and stop the daemon. launchd's side is tested in tests/unit/service/.
 */
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { cleanup } from "../support/cleanup";
import { type CliResult, command, runCli } from "../support/cli";
import { type FakeServiceManager, fakeServiceManager } from "../support/fake-service-manager";
import { tempDir } from "../support/temp-dir";

interface World {
  fake: FakeServiceManager;
  env: Record<string, string>;
  home: string;
  cli(...args: string[]): Promise<CliResult>;
}

function world(more: Record<string, string> = {}): World {
  const fake = fakeServiceManager();
  const home = tempDir();
  const env = { HOME: home, PATH: `${fake.bin}:${process.env.PATH}`, ...more };
  const cli = (...args: string[]): Promise<CliResult> => runCli(args, { env });
  // Of words without dollar signs and backslashes, a shell makes what systemd does, quotes included.
  const units = join(home, ".config/systemd/user");
  const value = (key: string): string => `$(sed -n 's/^${key}=//p' '${units}'/*.service | tr '\\n' ' ')`;
  const logFile = join(home, "journal");
  fake.set(
    "start",
    `eval "exec env -i PATH='$PATH' ${value("Environment")} ${value("ExecStart")}" >>'${logFile}' 2>&1 & echo $! > pid`,
  );
  cleanup(() => {
    // Whatever a failing test left running; usually it is gone.
    const pid = fake.get("pid");
    if (pid !== undefined) Bun.spawnSync(["kill", "-9", pid], { stderr: "ignore" });
  });
  cleanup(async () => void (await cli("daemon", "down")));
  return { fake, env, home, cli };
}

/** The executable, in quotes where its path needs them. */
const quoted = (quote: string): string => {
  const [executable = ""] = command;
  return /^[\w./-]+$/.test(executable) ? executable : `${quote}${executable}${quote}`;
};

const install = ["daemon", "install-service"];
const uninstall = ["daemon", "uninstall-service"];

/** The pid of whoever answers; undefined when nobody does. */
async function daemonPid({ cli }: World): Promise<number | undefined> {
  const { exitCode, stdout } = await cli("daemon", "status", "--json");
  return exitCode === 0 ? JSON.parse(stdout).pid : undefined;
}

const isSource = command.length > 1;
const skipped = process.platform !== "linux" || isSource;

describe.skipIf(skipped)("the service (skipped off Linux, and without a compiled executable)", () => {
  test("install, again, and uninstall twice: one daemon, then none", async () => {
    const w = world();
    const first = await w.cli(...install, "--json");
    expect([first.exitCode, first.stderr]).toEqual([0, expect.stringContaining("loginctl enable-linger")]);
    const answer = JSON.parse(first.stdout);
    expect(answer).toEqual({
      platform: "linux",
      unit_path: expect.stringMatching(/\.config\/systemd\/user\/claudemesh-daemon-[0-9a-f]{8}\.service$/),
      boot_command: expect.stringMatching(/^systemctl --user enable --now claudemesh-daemon-/),
    });
    const unit = readFileSync(answer.unit_path, "utf8");
    // Its home is not what the accounts of this machine say, so the unit has to.
    expect(unit).toContain(`Environment=CLAUDEMESH_CONFIG_DIR=${w.home}/.claudemesh\n`);
    expect(unit).toContain(`ExecStart=${quoted('"')} daemon up --foreground\n`);
    const pid = await daemonPid(w);
    expect(pid).toBe(Number(w.fake.get("pid")));

    const second = await w.cli(...install);
    expect([second.exitCode, second.stdout]).toEqual([0, expect.stringContaining("replaced: ")]);
    const newPid = await daemonPid(w);
    expect(newPid).toBe(Number(w.fake.get("pid")));
    expect(newPid).not.toBe(pid);

    const third = await w.cli(...uninstall, "--json");
    expect([third.exitCode, JSON.parse(third.stdout)]).toEqual([0, { removed: true }]);
    expect(await daemonPid(w)).toBeUndefined();
    expect(existsSync(answer.unit_path)).toBe(false);
    const fourth = await w.cli(...uninstall, "--json");
    expect([fourth.exitCode, JSON.parse(fourth.stdout)]).toEqual([0, { removed: false }]);
  });

  test("a daemon that was started by hand hands over", async () => {
    const w = world();
    await w.cli("daemon", "up", "--no-tcp");
    const before = await daemonPid(w);
    const { exitCode, stdout } = await w.cli(...install);
    expect([exitCode, stdout]).toEqual([0, expect.stringContaining(`in place of pid ${before}`)]);
    expect(await daemonPid(w)).toBe(Number(w.fake.get("pid")));
  });

  test("after daemon down, daemon up has the service start it again; with flags it is one of its own", async () => {
    const w = world();
    await w.cli(...install);
    expect((await w.cli("daemon", "down")).exitCode).toBe(0);
    expect((await w.cli("daemon", "up")).exitCode).toBe(0);
    expect(w.fake.calls().at(-1)).toMatch(/^systemctl --user restart /);
    expect(await daemonPid(w)).toBe(Number(w.fake.get("pid")));

    await w.cli("daemon", "down");
    w.fake.unset("pid");
    expect((await w.cli("daemon", "up", "--no-tcp")).exitCode).toBe(0);
    expect([await daemonPid(w), w.fake.get("pid")]).toEqual([expect.any(Number), undefined]);
  });

  test("a service whose manager is away is no obstacle to daemon up", async () => {
    const w = world();
    await w.cli(...install);
    await w.cli("daemon", "down");
    w.fake.unset("pid");
    w.fake.set("absent");
    const up = await w.cli("daemon", "up");
    expect([up.exitCode, up.stderr]).toEqual([
      0,
      expect.stringContaining("warning: systemd does not answer"),
    ]);
    expect(await daemonPid(w)).toEqual(expect.any(Number));
  });

  test("--print shows the unit on standard output, and changes nothing, in CI or not", async () => {
    const w = world({ CI: "true" });
    const text = await w.cli(...install, "--print");
    expect(text.exitCode).toBe(0);
    expect(text.stdout).toStartWith("# Written by claudemesh daemon install-service");
    expect(text.stdout).toEndWith("WantedBy=default.target\n");
    const json = JSON.parse((await w.cli(...install, "--print", "--json")).stdout);
    expect(Object.keys(json)).toEqual(["platform", "unit_path", "boot_command", "unit"]);
    expect(`${json.unit}`).toBe(text.stdout);
    const system = await w.cli(...install, "--print", "--system", "--user", "root");
    expect(system.stdout).toContain("\nUser=root\n");
    expect([w.fake.calls(), existsSync(join(w.home, ".config"))]).toEqual([[], false]);
  });

  test.each(["CI", "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "JENKINS_URL"])(
    "refused with %s set, and nothing is done",
    async (name) => {
      const w = world({ [name]: "true" });
      const { exitCode, stdout } = await w.cli(...install, "--json");
      expect([exitCode, JSON.parse(stdout)]).toEqual([
        4,
        expect.objectContaining({
          error: "not_allowed",
          hint: expect.stringContaining("--allow-ci-persistent"),
        }),
      ]);
      expect([w.fake.calls(), existsSync(join(w.home, ".config"))]).toEqual([[], false]);
    },
  );

  test("--allow-ci-persistent is how one says that it is meant", async () => {
    const w = world({ CI: "true" });
    expect((await w.cli(...install, "--allow-ci-persistent")).exitCode).toBe(0);
    expect(await daemonPid(w)).toBe(Number(w.fake.get("pid")));
  });

  test("without systemd: said so, with a line for cron, and nothing is written", async () => {
    const w = world();
    w.fake.set("absent");
    const { exitCode, stdout } = await w.cli(...install, "--json");
    const { error, hint } = JSON.parse(stdout);
    expect([exitCode, error]).toEqual([1, "no_service_manager"]);
    const line = String(hint).split("\n").at(-1) ?? "";
    expect(line).toStartWith(`@reboot CLAUDEMESH_CONFIG_DIR=${w.home}/.claudemesh PATH=`);
    expect(line).toEndWith(` ${quoted("'")} daemon up`);
    expect(existsSync(join(w.home, ".config"))).toBe(false);
  });

  test("without systemctl on PATH, too", async () => {
    const w = world({ PATH: tempDir() });
    const { exitCode, stderr } = await w.cli(...install);
    expect([exitCode, stderr]).toEqual([1, expect.stringContaining("there is no systemctl on PATH")]);
    expect((await w.cli(...uninstall)).exitCode).toBe(0);
  });

  test("a daemon that cannot start: its status is told, and its log", async () => {
    const w = world();
    w.fake.set("failed");
    const { exitCode, stdout } = await w.cli(...install, "--json");
    expect([exitCode, JSON.parse(stdout)]).toEqual([
      1,
      expect.objectContaining({
        error: "service_failed",
        message: expect.stringContaining("its last exit status was 4"),
        hint: expect.stringContaining("journalctl --user -u claudemesh-daemon-"),
      }),
    ]);
  });

  test("the search path goes with it, as far as it lasts, and no other variable does", async () => {
    const own = join(homedir(), "own tools/bin");
    const w = world({ SECRET_TOKEN: "s3cret" });
    const env = { ...w.env, PATH: `${w.env.PATH}:${own}:.` };
    const printed = await runCli([...install, "--print"], { env });
    expect(printed.stdout).toMatch(/^Environment="?PATH=\/.*own tools\/bin"?$/m);
    expect((await runCli(install, { env })).exitCode).toBe(0);
    const environ = readFileSync(`/proc/${await daemonPid(w)}/environ`, "utf8").split("\0");
    const path = environ
      .find((variable) => variable.startsWith("PATH="))
      ?.slice("PATH=".length)
      .split(":");
    expect(path).toContain("/usr/bin");
    expect(path?.at(-1)).toBe(own);
    // Of the stand-ins, in a temporary directory.
    expect(path).not.toContain(w.fake.bin);
    expect(environ.join()).not.toContain("s3cret");
  });

  test("certificates go with it, by their whole path, and have to be there", async () => {
    const w = world({ NODE_EXTRA_CA_CERTS: "/etc/hostname" });
    expect((await w.cli(...install, "--print")).stdout).toContain(
      "\nEnvironment=NODE_EXTRA_CA_CERTS=/etc/hostname\n",
    );
    const gone = world({ NODE_EXTRA_CA_CERTS: "/nowhere/ca.pem" });
    const { exitCode, stderr } = await gone.cli(...install);
    expect([exitCode, stderr]).toEqual([
      1,
      expect.stringContaining("NODE_EXTRA_CA_CERTS names /nowhere/ca.pem"),
    ]);
  });

  const isRoot = process.getuid?.() === 0;

  test.skipIf(!isRoot)("root has to say whose daemon it is (skipped for others)", async () => {
    const cases: [args: string[], env: Record<string, string>, complaint: string][] = [
      [["--system"], {}, "does not say whose daemon it is"],
      [["--system"], { SUDO_USER: "root" }, "does not say whose daemon it is"],
      [["--system", "--user", "nobody-at-all"], {}, 'there is no account "nobody-at-all"'],
      [[], { SUDO_USER: "alice" }, "behind sudo this would be a service of root"],
      [["--user", "root"], {}, "--user goes with --system"],
    ];
    for (const [args, env, complaint] of cases) {
      for (const which of [install, uninstall]) {
        const w = world(env);
        const { exitCode, stderr } = await w.cli(...which, ...args);
        expect([exitCode, stderr]).toEqual([2, expect.stringContaining(complaint)]);
        expect(w.fake.calls()).toEqual([]);
      }
    }
  });

  test.skipIf(isRoot)("a service of the system needs root (skipped for root)", async () => {
    for (const which of [install, uninstall]) {
      const w = world();
      const { exitCode, stderr } = await w.cli(...which, "--system");
      expect([exitCode, stderr]).toEqual([4, expect.stringMatching(/hint: sudo .+ daemon \S+ --system/)]);
    }
  });
});

test("from its sources claudemesh installs no service, and says what to build", async () => {
  const main = join(import.meta.dir, "../../src/main.ts");
  const home = tempDir();
  const env = { PATH: process.env.PATH ?? "", HOME: home };
  const child = Bun.spawnSync([process.execPath, main, ...install], { env, stderr: "pipe" });
  expect([child.exitCode, child.stderr.toString()]).toEqual([2, expect.stringContaining("bun run build")]);
  expect(existsSync(join(home, ".config"))).toBe(false);
});
