/** How `daemon restart` restarts, by who started the daemon. The daemon is a stand-in; tests/e2e/one-daemon.test.ts has a real one. */
import { describe, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { daemonRestart } from "~/cli/daemon/restart";
import { MeshError } from "~/errors";
import { fakeServiceManager } from "../../support/fake-service-manager";
import { fakeDaemon, json } from "../client/fake-daemon";
import { capturedHost } from "./captured-host";

const healthOf = (pid: number, more: Record<string, unknown> = {}) => ({
  ok: true,
  pid,
  uptime_s: 1,
  meshes: {},
  outbox: { counts: { pending: 0, inflight: 0, done: 0, dead: 0, aborted: 0 } },
  inbox: { unread: 0 },
  problems: [],
  started_with: [],
  managed_by: null,
  ...more,
});

/** A daemon of which a service manager says that it is its own; after the manager's restart it is another process. */
function managed(more: Record<string, unknown>) {
  const fake = fakeServiceManager();
  fake.set("loaded");
  const host = capturedHost({ json: true, env: { PATH: `${fake.bin}:${process.env.PATH}` } });
  mkdirSync(dirname(host.socketPath), { recursive: true });
  fakeDaemon(() => json(healthOf(fake.calls().length === 0 ? 4_000_001 : 4_000_002, more)), host.socketPath);
  return { host, fake };
}

async function failureOf(promise: Promise<unknown>): Promise<MeshError> {
  const outcome = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (outcome instanceof MeshError) return outcome;
  throw new Error(`no MeshError but ${Bun.inspect(outcome)}`);
}

describe("a daemon that is managed", () => {
  const uid = process.getuid?.() ?? 0;
  const cases: [by: string, health: Record<string, unknown>, call: string][] = [
    [
      "by the user's systemd",
      { managed_by: "systemd", managed_unit: "claudemesh.service", managed_scope: "user" },
      "systemctl --user restart claudemesh.service",
    ],
    [
      "by the system's systemd",
      { managed_by: "systemd", managed_unit: "claudemesh-alice.service", managed_scope: "system" },
      "systemctl restart claudemesh-alice.service",
    ],
    [
      "by launchd, for a user",
      { managed_by: "launchd", managed_unit: "com.claudemesh.daemon", managed_scope: "user" },
      `launchctl kickstart -k gui/${uid}/com.claudemesh.daemon`,
    ],
    [
      "by launchd, for the system",
      { managed_by: "launchd", managed_unit: "com.claudemesh.daemon.alice", managed_scope: "system" },
      "launchctl kickstart -k system/com.claudemesh.daemon.alice",
    ],
  ];
  test.each(cases)("%s is restarted there, and waited for", async (_by, health, call) => {
    const { host, fake } = managed(health);
    await daemonRestart.execute(["--json"], host);
    expect(fake.calls()).toEqual([call]);
    expect(host.answers).toEqual([
      { stopped: true, pid: 4_000_002, socket: host.socketPath, previous_pid: 4_000_001 },
    ]);
  });

  test.each([
    ["user", "--user restart", "Try the same by hand to see more."],
    ["system", "restart", "sudo systemctl restart claudemesh.service"],
  ])("and whose manager, of the %s, refuses: its own words", async (managed_scope, words, hint) => {
    const { host, fake } = managed({
      managed_by: "systemd",
      managed_unit: "claudemesh.service",
      managed_scope,
    });
    fake.set("fail", `systemctl ${words} claudemesh.service`);
    const error = await failureOf(daemonRestart.execute([], host));
    expect(error).toMatchObject({
      code: "service_failed",
      message: expect.stringContaining("it was told to fail"),
      hint,
    });
  });

  test("by something that this version does not know: left alone", async () => {
    const { host, fake } = managed({ managed_by: "runit", managed_unit: "mesh" });
    expect((await failureOf(daemonRestart.execute([], host))).code).toBe("incompatible_daemon");
    expect(fake.calls()).toEqual([]);
  });
});

describe("a daemon that is not to be restarted", () => {
  const cases: [what: string, pid: number, health: Record<string, unknown>, words: string][] = [
    ["is ephemeral", 4_000_001, { ephemeral: {} }, "ephemeral"],
    ["is the first process of a container", 1, {}, "container"],
  ];
  test.each(cases)("since it %s", async (_what, pid, health, words) => {
    const host = capturedHost();
    mkdirSync(dirname(host.socketPath), { recursive: true });
    fakeDaemon(() => json(healthOf(pid, health)), host.socketPath);
    const error = await failureOf(daemonRestart.execute([], host));
    expect(error).toMatchObject({ code: "usage", message: expect.stringContaining(words) });
    expect(error.hint).toBeString();
  });
});

test("a daemon whose databases this version cannot open is left running", async () => {
  const host = capturedHost();
  mkdirSync(dirname(host.socketPath), { recursive: true });
  const version = {
    daemon_version: "99.0.0",
    ipc_api: "v1",
    ipc_features: [],
    schema_version: 999,
    meshes: {},
  };
  const asked = fakeDaemon(
    ({ target }) => json(target === "/v1/version" ? version : healthOf(4_000_001)),
    host.socketPath,
  );
  const error = await failureOf(daemonRestart.execute([], host));
  expect(error).toMatchObject({ code: "database_newer", message: expect.stringContaining("99.0.0") });
  expect(asked.seen.map(({ target }) => target)).toEqual(["/v1/health", "/v1/version"]);
});
