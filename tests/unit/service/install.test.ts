/** Installing, replacing, handing over and removing, with managers whose programs are stand-ins: what is called, and in which order. */
import { describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { type Clock, systemClock } from "~/clock";
import { MeshError } from "~/errors";
import type { ServiceScope } from "~/service/definition";
import { installService, type RunningDaemon, uninstallService } from "~/service/install";
import { type ServiceManager, serviceManager } from "~/service/service-manager";
import { lingers, toUserManager } from "~/service/systemd-manager";
import { serviceReadyMsMax } from "~/wire/limits";
import { type FakeServiceManager, fakeServiceManager } from "../../support/fake-service-manager";
import { deadPid } from "../../support/processes";
import { tempDir } from "../../support/temp-dir";
import { alice, definitionOf } from "./service-definition";

interface World {
  manager: ServiceManager;
  fake: FakeServiceManager;
  daemon: RunningDaemon;
  /** Who answers on the socket, when that is not who the manager runs. */
  answering: { pid: number | undefined };
  stopped: number[];
  home: string;
  /** Another service on the same host. */
  managerOf(scope: ServiceScope): ServiceManager;
}

const platforms = ["linux", "darwin"] as const;
type Platform = (typeof platforms)[number];

interface Wishes {
  scope?: ServiceScope;
  platform?: Platform;
  env?: Record<string, string>;
}

function world({ scope = "user", platform = "linux", env = {} }: Wishes = {}): World {
  const [home, root] = [tempDir(), tempDir()];
  const fake = fakeServiceManager();
  const programs = { platform, env: { PATH: `${fake.bin}:${process.env.PATH}`, ...env } };
  // Root's tests would otherwise start the making of the log as somebody else.
  const account = { ...alice, uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, home };
  const managerOf = (wanted: ServiceScope): ServiceManager => {
    const service = definitionOf({ scope: wanted, account });
    const manager = serviceManager({ service, programs, home, root });
    if (manager === undefined) throw new Error("no manager");
    return manager;
  };
  const answering: World["answering"] = { pid: undefined };
  const stopped: number[] = [];
  const managed = (): number | undefined =>
    fake.get("pid") === undefined ? undefined : Number(fake.get("pid"));
  const daemon: RunningDaemon = {
    pid: async () => answering.pid ?? managed(),
    stop: async (pid) => {
      stopped.push(pid);
      answering.pid = undefined;
    },
  };
  fake.set("next-pid", "4711");
  return { manager: managerOf(scope), fake, daemon, answering, stopped, home, managerOf };
}

const failureOf = async (work: Promise<unknown>): Promise<MeshError> => {
  try {
    await work;
  } catch (error) {
    if (error instanceof MeshError) return error;
    throw error;
  }
  throw new Error("it did not fail");
};

const unitOf = ({ manager }: World): string => readFileSync(manager.unitPath, "utf8");
const filesBeside = ({ manager }: World): string[] =>
  existsSync(dirname(manager.unitPath)) ? readdirSync(dirname(manager.unitPath)) : [];

describe("systemd", () => {
  test("writes, enables and starts a user's unit, in this order", async () => {
    const w = world();
    expect(w.manager.unitPath).toBe(join(w.home, ".config/systemd/user/claudemesh-daemon.service"));
    expect(await installService(w.manager, w.daemon)).toEqual({
      pid: 4711,
      replaced: false,
      handedOver: undefined,
    });
    expect(unitOf(w)).toBe(w.manager.unit);
    expect(statSync(w.manager.unitPath).mode & 0o777).toBe(0o644);
    expect(w.fake.calls()).toEqual([
      "systemctl --user daemon-reload",
      "systemctl --user enable claudemesh-daemon.service",
      "systemctl --user reset-failed claudemesh-daemon.service",
      "systemctl --user restart claudemesh-daemon.service",
    ]);
    expect(w.manager.bootCommand).toBe("systemctl --user enable --now claudemesh-daemon.service");
  });

  test("of the system: without --user, under /etc", async () => {
    const w = world({ scope: "system" });
    expect(w.manager.unitPath).toEndWith("/etc/systemd/system/claudemesh-daemon-alice.service");
    await installService(w.manager, w.daemon);
    expect(w.fake.calls()).toEqual([
      "systemctl daemon-reload",
      "systemctl enable claudemesh-daemon-alice.service",
      "systemctl reset-failed claudemesh-daemon-alice.service",
      "systemctl restart claudemesh-daemon-alice.service",
    ]);
    expect(w.manager.bootCommand).toBe("systemctl enable --now claudemesh-daemon-alice.service");
  });

  test("XDG_CONFIG_HOME decides where a user's unit goes, and nothing about the system's", () => {
    const elsewhere = tempDir();
    const wishes = { env: { XDG_CONFIG_HOME: elsewhere } };
    expect(world(wishes).manager.unitPath).toBe(join(elsewhere, "systemd/user/claudemesh-daemon.service"));
    expect(world({ ...wishes, scope: "system" }).manager.unitPath).not.toContain(elsewhere);
  });

  test("removing: stopped, disabled, gone, forgotten; the second time there is nothing to do", async () => {
    const w = world();
    await installService(w.manager, w.daemon);
    const before = w.fake.calls().length;
    expect(await uninstallService(w.manager, w.daemon)).toBe(true);
    expect(w.fake.calls().slice(before)).toEqual([
      "systemctl --user stop claudemesh-daemon.service",
      "systemctl --user disable claudemesh-daemon.service",
      "systemctl --user daemon-reload",
      "systemctl --user reset-failed claudemesh-daemon.service",
    ]);
    expect(filesBeside(w)).toEqual([]);
    const after = w.fake.calls().length;
    expect(await uninstallService(w.manager, w.daemon)).toBe(false);
    expect(w.fake.calls().length).toBe(after);
  });

  test("a unit that runs though its file was removed by hand is stopped too", async () => {
    const w = world();
    w.fake.set("loaded");
    w.fake.set("pid", "99");
    expect(await uninstallService(w.manager, w.daemon)).toBe(true);
    expect(w.fake.calls()).toContain("systemctl --user stop claudemesh-daemon.service");
    expect(w.fake.get("pid")).toBeUndefined();
  });

  test("a manager of the system, but none of the user: the way to one is named, nothing written", async () => {
    const w = world();
    w.fake.set("user-absent");
    const error = await failureOf(installService(w.manager, w.daemon));
    expect(error).toMatchObject({ code: "no_service_manager", message: expect.stringContaining("bus") });
    expect(error.hint).toContain("loginctl enable-linger alice");
    expect(error.hint).toContain("--system");
    expect(filesBeside(w)).toEqual([]);
  });

  test("one that has given up is told at once, with its words and its log", async () => {
    const w = world();
    w.fake.set("failed");
    const error = await failureOf(installService(w.manager, w.daemon));
    expect(error).toMatchObject({
      code: "service_failed",
      message: expect.stringContaining("failed (failed), exit-code, its last exit status was 4"),
      hint: expect.stringContaining("journalctl --user -u claudemesh-daemon.service"),
    });
  });

  test("a user's manager is found where it always is, unless the environment says where", () => {
    const root = tempDir();
    const runtimeDir = join(root, "run/user/1001");
    const programs = (env: Record<string, string>) => ({ platform: "linux" as const, env });
    expect(toUserManager(programs({}), 1001, root)).toEqual({});
    mkdirSync(runtimeDir, { recursive: true });
    expect(toUserManager(programs({}), 1001, root)).toEqual({ env: { XDG_RUNTIME_DIR: runtimeDir } });
    expect(toUserManager(programs({ XDG_RUNTIME_DIR: "/elsewhere" }), 1001, root)).toEqual({});
  });

  test.each([
    ["yes\n", true],
    ["no\n", false],
    [undefined, undefined],
  ])("lingering %j is %p", async (says, expected) => {
    const { fake } = world();
    if (says !== undefined) fake.set("linger", says);
    expect(await lingers({ platform: "linux", env: { PATH: `${fake.bin}:/bin:/usr/bin` } }, "alice")).toBe(
      expected,
    );
  });
});

describe("launchd", () => {
  const uid = process.getuid?.() ?? 0;
  const target = `gui/${uid}/com.claudemesh.daemon`;

  test("writes and loads an agent, and makes the place of its log before", async () => {
    const w = world({ platform: "darwin" });
    expect(w.manager.unitPath).toBe(join(w.home, "Library/LaunchAgents/com.claudemesh.daemon.plist"));
    expect((await installService(w.manager, w.daemon)).pid).toBe(4711);
    expect(unitOf(w)).toBe(w.manager.unit);
    expect(w.fake.calls()).toEqual([
      `launchctl enable ${target}`,
      `launchctl bootstrap gui/${uid} ${w.manager.unitPath}`,
    ]);
    expect(w.fake.calls()).toContain(w.manager.bootCommand);
    const log = join(w.home, ".claudemesh/daemon/daemon.log");
    expect(statSync(log).mode & 0o777).toBe(0o600);
    expect(statSync(dirname(log)).mode & 0o777).toBe(0o700);
  });

  test("of the system: a daemon under /Library, in the system's domain", async () => {
    const w = world({ platform: "darwin", scope: "system" });
    expect(w.manager.unitPath).toEndWith("/Library/LaunchDaemons/com.claudemesh.daemon.alice.plist");
    await installService(w.manager, w.daemon);
    expect(w.fake.calls()).toEqual([
      "launchctl enable system/com.claudemesh.daemon.alice",
      `launchctl bootstrap system ${w.manager.unitPath}`,
    ]);
  });

  test("an old one is unloaded, and gone, before the new one is loaded", async () => {
    const w = world({ platform: "darwin" });
    await installService(w.manager, w.daemon);
    w.fake.set("lazy", "3");
    w.fake.set("next-pid", "4712");
    expect(await installService(w.manager, w.daemon)).toEqual({
      pid: 4712,
      replaced: true,
      handedOver: undefined,
    });
    expect(w.fake.calls().slice(2)).toEqual([
      `launchctl enable ${target}`,
      `launchctl bootout ${target}`,
      `launchctl bootstrap gui/${uid} ${w.manager.unitPath}`,
    ]);
    expect(w.fake.get("lazy")).toBe("0");
  });

  test("removing: unloaded and gone; the second time there is nothing to do", async () => {
    const w = world({ platform: "darwin" });
    await installService(w.manager, w.daemon);
    expect(await uninstallService(w.manager, w.daemon)).toBe(true);
    expect(w.fake.calls().slice(2)).toEqual([`launchctl bootout ${target}`]);
    expect(filesBeside(w)).toEqual([]);
    expect(await uninstallService(w.manager, w.daemon)).toBe(false);
    expect(w.fake.calls().length).toBe(3);
  });

  test("nobody at the screen: the way out is named, nothing written", async () => {
    const w = world({ platform: "darwin" });
    w.fake.set("absent");
    const error = await failureOf(installService(w.manager, w.daemon));
    expect(error.code).toBe("no_service_manager");
    expect(error.hint).toContain("--system");
    expect(filesBeside(w)).toEqual([]);
  });
});

describe.each(platforms)("either, on %s", (platform) => {
  test("installing over an old one replaces it", async () => {
    const w = world({ platform });
    mkdirSync(dirname(w.manager.unitPath), { recursive: true });
    writeFileSync(w.manager.unitPath, "an older one");
    expect(await installService(w.manager, w.daemon)).toMatchObject({ replaced: true });
    expect(unitOf(w)).toBe(w.manager.unit);
    expect(filesBeside(w)).toEqual([w.manager.unitPath.slice(dirname(w.manager.unitPath).length + 1)]);
  });

  test("what an install that was killed had half written goes with the next one", async () => {
    const w = world({ platform });
    const dir = dirname(w.manager.unitPath);
    const name = basename(w.manager.unitPath);
    mkdirSync(dir, { recursive: true });
    const [left, other] = [`${name}.${deadPid}.0a1b2c3d.tmp`, `other.service.${deadPid}.0a1b2c3d.tmp`];
    for (const file of [left, other]) {
      writeFileSync(join(dir, file), "[Unit]");
      utimesSync(join(dir, file), new Date(0), new Date(0));
    }
    await installService(w.manager, w.daemon);
    expect(filesBeside(w).sort()).toEqual([name, other].sort());
  });

  test("a daemon that was started by hand is stopped first, and the service's own is not", async () => {
    const w = world({ platform });
    w.answering.pid = 12;
    expect(await installService(w.manager, w.daemon)).toEqual({ pid: 4711, replaced: false, handedOver: 12 });
    expect(w.stopped).toEqual([12]);
    expect(await installService(w.manager, w.daemon)).toEqual({
      pid: 4711,
      replaced: true,
      handedOver: undefined,
    });
    expect(w.stopped).toEqual([12]);
  });

  test("one that cannot be stopped leaves everything as it was", async () => {
    for (const before of [undefined, "an older one"]) {
      const w = world({ platform });
      if (before !== undefined) {
        mkdirSync(dirname(w.manager.unitPath), { recursive: true });
        writeFileSync(w.manager.unitPath, before);
      }
      w.answering.pid = 12;
      const refusing: RunningDaemon = {
        ...w.daemon,
        stop: async () => {
          throw new MeshError("not_allowed", "process 12 may not be ended by you");
        },
      };
      expect((await failureOf(installService(w.manager, refusing))).code).toBe("not_allowed");
      expect(existsSync(w.manager.unitPath) ? unitOf(w) : undefined).toBe(before);
      expect(w.fake.calls().join()).not.toMatch(/restart|bootstrap/);
    }
  });

  test("a manager that refuses the unit leaves everything as it was, and says what it said", async () => {
    for (const before of [undefined, "an older one"]) {
      const w = world({ platform });
      if (before !== undefined) {
        mkdirSync(dirname(w.manager.unitPath), { recursive: true });
        writeFileSync(w.manager.unitPath, before);
      }
      w.fake.set(
        "fail",
        platform === "darwin"
          ? `launchctl enable gui/${process.getuid?.() ?? 0}/com.claudemesh.daemon`
          : "systemctl --user enable claudemesh-daemon.service",
      );
      expect(await failureOf(installService(w.manager, w.daemon))).toMatchObject({
        code: "service_failed",
        message: expect.stringContaining("ended with status 5: it was told to fail"),
      });
      expect(existsSync(w.manager.unitPath) ? unitOf(w) : undefined).toBe(before);
      expect(w.fake.get("pid")).toBeUndefined();
    }
  });

  test("a directory that cannot be written: said so, nothing half-written, nobody told", async () => {
    const w = world({ platform });
    // A file where the directory should be stops root as well.
    const parent = dirname(dirname(w.manager.unitPath));
    mkdirSync(dirname(parent), { recursive: true });
    writeFileSync(parent, "");
    const { code, message } = await failureOf(installService(w.manager, w.daemon));
    expect([code, message]).toEqual(["storage_failed", expect.stringContaining("cannot write")]);
    expect(message).not.toContain("put back");
    expect(w.fake.calls().join()).not.toMatch(/enable|restart|bootstrap/);
  });

  test("another service for the same daemon is named, with what removes it", async () => {
    for (const [scope, remove] of [
      ["user", "sudo claudemesh daemon uninstall-service --system"],
      ["system", "as alice: claudemesh daemon uninstall-service"],
    ] as const) {
      const w = world({ platform, scope });
      const rival = w.managerOf(scope === "user" ? "system" : "user").unitPath;
      mkdirSync(dirname(rival), { recursive: true });
      writeFileSync(rival, "");
      expect(await failureOf(installService(w.manager, w.daemon))).toMatchObject({
        code: "service_conflict",
        message: expect.stringContaining(rival),
        hint: expect.stringContaining(remove),
      });
      expect(filesBeside(w)).toEqual([]);
    }
  });

  test("so is Homebrew's, for the usual directory", async () => {
    const w = world({ platform });
    const name = platform === "darwin" ? "homebrew.mxcl.claudemesh.plist" : "homebrew.claudemesh.service";
    mkdirSync(dirname(w.manager.unitPath), { recursive: true });
    writeFileSync(join(dirname(w.manager.unitPath), name), "");
    expect(await failureOf(installService(w.manager, w.daemon))).toMatchObject({
      code: "service_conflict",
      hint: expect.stringContaining("brew services stop claudemesh"),
    });
  });

  test("a link where the unit should be is somebody else's work, and stays", async () => {
    const w = world({ platform });
    mkdirSync(dirname(w.manager.unitPath), { recursive: true });
    symlinkSync("/dev/null", w.manager.unitPath);
    expect((await failureOf(installService(w.manager, w.daemon))).code).toBe("path_unsafe");
    expect((await failureOf(uninstallService(w.manager, w.daemon))).code).toBe("path_unsafe");
    expect(w.fake.calls()).toEqual([]);
  });

  test("a daemon that never comes up is told when time is up; the service stays, and how to remove it is said", async () => {
    const w = world({ platform });
    // Every look at the clock takes a second, and waiting takes no time.
    let seconds = 0;
    const clock: Clock = {
      ...systemClock,
      monotonicMs: () => 1000 * seconds++,
      after: (_delayMs, action) => systemClock.after(0, action),
    };
    w.fake.set("start", "true");
    const error = await failureOf(installService(w.manager, w.daemon, clock));
    expect(seconds).toBeGreaterThanOrEqual(serviceReadyMsMax / 1000);
    expect(error).toMatchObject({
      code: "service_failed",
      message: expect.stringContaining(
        `does not come up: ${platform === "darwin" ? "running" : "activating (auto-restart), exit-code"}`,
      ),
      hint: expect.stringContaining("uninstall-service"),
      details: { unit_path: w.manager.unitPath },
    });
    expect(existsSync(w.manager.unitPath)).toBe(true);
  });

  test("removing stops a daemon that took the service's place", async () => {
    const w = world({ platform });
    await installService(w.manager, w.daemon);
    w.fake.unset("pid");
    w.answering.pid = 77;
    expect(await uninstallService(w.manager, w.daemon)).toBe(true);
    expect(w.stopped).toEqual([77]);
  });

  test("removing what was never installed touches no daemon, and needs no manager", async () => {
    const w = world({ platform });
    w.answering.pid = 77;
    w.fake.set("absent");
    expect(await uninstallService(w.manager, w.daemon)).toBe(false);
    expect([w.stopped, w.fake.calls()]).toEqual([[], []]);
  });

  test("removing what is there without a manager to tell changes nothing", async () => {
    const w = world({ platform });
    await installService(w.manager, w.daemon);
    w.fake.set("absent");
    expect((await failureOf(uninstallService(w.manager, w.daemon))).code).toBe("no_service_manager");
    expect(existsSync(w.manager.unitPath)).toBe(true);
  });
});
