/** Which service manager a process belongs to, told from what each of them tells its own processes, and what others inherit. */
import { expect, test } from "bun:test";
import { findManager, type Manager, managerOf } from "~/daemon/origin";

const userUnit = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/claudemesh.service\n";
const systemUnit = "0::/system.slice/claudemesh-alice.service\n";
const v1 = "12:pids:/system.slice/claudemesh.service\n1:name=systemd:/system.slice/claudemesh.service\n";
const terminal = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/gnome-terminal-server.service\n";
const session = "0::/user.slice/user-1000.slice/session-3.scope\n";
const invoked = { INVOCATION_ID: "0123" };

const cases: [
  what: string,
  env: Record<string, string>,
  cgroup: string | undefined,
  manager: Manager | null,
][] = [
  ["a shell", {}, session, null],
  [
    "a user's unit",
    { ...invoked, SYSTEMD_EXEC_PID: "42" },
    userUnit,
    { kind: "systemd", unit: "claudemesh.service", scope: "user" },
  ],
  [
    "a unit of the system",
    { ...invoked, SYSTEMD_EXEC_PID: "42" },
    systemUnit,
    { kind: "systemd", unit: "claudemesh-alice.service", scope: "system" },
  ],
  [
    "a unit of somebody's own, by any name",
    { ...invoked, SYSTEMD_EXEC_PID: "42" },
    "0::/system.slice/mesh.service\n",
    { kind: "systemd", unit: "mesh.service", scope: "system" },
  ],
  [
    "an old systemd, which does not say what it executed",
    invoked,
    v1,
    { kind: "systemd", unit: "claudemesh.service", scope: "system" },
  ],
  ["a terminal that is a service itself", { ...invoked, SYSTEMD_EXEC_PID: "7" }, terminal, null],
  ["the same under an old systemd", invoked, terminal, null],
  ["an agent that the daemon's service hosts", { ...invoked, SYSTEMD_EXEC_PID: "7" }, userUnit, null],
  ["a container without cgroups", { ...invoked, SYSTEMD_EXEC_PID: "42" }, undefined, null],
  [
    "a launchd agent",
    { XPC_SERVICE_NAME: "com.claudemesh.daemon" },
    undefined,
    { kind: "launchd", unit: "com.claudemesh.daemon", scope: "user" },
  ],
  [
    "a launchd daemon",
    { XPC_SERVICE_NAME: "com.claudemesh.daemon.system" },
    undefined,
    { kind: "launchd", unit: "com.claudemesh.daemon.system", scope: "system" },
  ],
  [
    "Homebrew's service",
    { XPC_SERVICE_NAME: "homebrew.mxcl.claudemesh" },
    undefined,
    { kind: "launchd", unit: "homebrew.mxcl.claudemesh", scope: "user" },
  ],
  [
    "a macOS terminal",
    { XPC_SERVICE_NAME: "application.com.apple.Terminal.1152921500311879705" },
    undefined,
    null,
  ],
  ["a macOS shell over SSH", { XPC_SERVICE_NAME: "0" }, undefined, null],
];

test.each(cases)("%s", (_what, env, cgroup, manager) => {
  const isSystemLabel = (label: string): boolean => label.endsWith(".system");
  expect(managerOf(env, { pid: 42, cgroup, isSystemLabel })).toEqual(manager);
});

test("the process of a test belongs to none", () => {
  expect(findManager()).toBeNull();
});
