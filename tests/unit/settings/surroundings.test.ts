/** What gives a container or a CI job away, what does not, and what follows from it. */
import { describe, expect, test } from "bun:test";
import { knobNames } from "~/settings/knobs";
import { type Probes, surroundingDefaults, surroundingsOf } from "~/settings/surroundings";

const probes = (files: Record<string, string>): Probes => ({
  exists: (path) => Object.hasOwn(files, path),
  read: (path) => files[path],
});
const cgroup = (text: string) => ({ "/proc/self/cgroup": text });

describe("a container is", () => {
  const id = "3f4c".repeat(16);
  test.each<[what: string, env: Record<string, string>, files: Record<string, string>, evidence: string]>([
    ["Docker", {}, { "/.dockerenv": "" }, "/.dockerenv"],
    ["Podman", {}, { "/run/.containerenv": "" }, "/run/.containerenv"],
    ["a pod", { KUBERNETES_SERVICE_HOST: "10.0.0.1" }, {}, "KUBERNETES_SERVICE_HOST"],
    ["Docker by cgroup v1", {}, cgroup(`12:pids:/docker/${id}\n0::/docker/${id}\n`), "/proc/self/cgroup"],
    ["Docker by systemd", {}, cgroup(`0::/system.slice/docker-${id}.scope\n`), "/proc/self/cgroup"],
    ["a pod by cgroup", {}, cgroup(`1:cpu:/kubepods/burstable/pod12/${id}\n`), "/proc/self/cgroup"],
    [
      "a pod by systemd",
      {},
      cgroup("0::/kubepods.slice/kubepods-besteffort.slice/x.scope\n"),
      "/proc/self/cgroup",
    ],
    ["containerd", {}, cgroup(`0::/system.slice/cri-containerd-${id}.scope\n`), "/proc/self/cgroup"],
    ["LXC", {}, cgroup("0::/lxc.payload.web/init.scope\n"), "/proc/self/cgroup"],
    ["LXC of old", {}, cgroup("4:memory:/lxc/web\n"), "/proc/self/cgroup"],
    ["Podman by cgroup", {}, cgroup(`0::/machine.slice/libpod-${id}.scope/container\n`), "/proc/self/cgroup"],
    ["Podman by name", {}, cgroup("0::/user.slice/podman/abc\n"), "/proc/self/cgroup"],
  ])("%s", (_, env, files, evidence) => {
    expect(surroundingsOf(env, probes(files))).toEqual({ container: evidence, ci: undefined });
  });

  test.each<[what: string, env: Record<string, string>, files: Record<string, string>]>([
    ["a machine without any of it", {}, {}],
    ["a private cgroup namespace", {}, cgroup("0::/\n")],
    [
      "a user's service",
      {},
      cgroup("0::/user.slice/user-1000.slice/user@1000.service/app.slice/claudemesh.service\n"),
    ],
    ["a terminal of Docker Desktop", {}, cgroup("0::/user.slice/app-gnome-docker\\x2ddesktop-42.scope\n")],
    ["a directory that is called alike", {}, cgroup("0::/dockerhub-mirror\n0::/mylxc\n")],
    ["an empty variable", { KUBERNETES_SERVICE_HOST: "" }, {}],
  ])("not %s", (_, env, files) => {
    expect(surroundingsOf(env, probes(files)).container).toBeUndefined();
  });
});

describe("a CI job is told by", () => {
  const ci = (env: Record<string, string>) => surroundingsOf(env, probes({})).ci;
  test.each([
    [{ CI: "true" }, "CI"],
    [{ CI: "1" }, "CI"],
    [{ CI: "woodpecker" }, "CI"],
    [{ GITHUB_ACTIONS: "true" }, "GITHUB_ACTIONS"],
    [{ GITLAB_CI: "true" }, "GITLAB_CI"],
    [{ BUILDKITE: "true" }, "BUILDKITE"],
    [{ CIRCLECI: "true" }, "CIRCLECI"],
    [{ JENKINS_URL: "http://ci.example/" }, "JENKINS_URL"],
    [{ CI: "", BUILDKITE: "true" }, "BUILDKITE"],
    [{ CI: "true", GITHUB_ACTIONS: "true" }, "CI"],
  ])("%j", (env, variable) => expect(ci(env)).toBe(variable));

  test.each([
    {},
    { CI: "" },
    { CI: "false" },
    { CI: "FALSE" },
    { CI: "0" },
    { CI: "no" },
    { CI: "false", GITHUB_ACTIONS: "true" },
    { GITHUB_ACTIONS: "false" },
    { GITHUB_ACTIONS: "" },
    { CIVILIZATION: "true" },
  ])("not by %j", (env) => expect(ci(env)).toBeUndefined());
});

test("either turns TCP off by default, and nothing else; the container is named first", () => {
  const defaults = (container: string | undefined, ci: string | undefined) => [
    ...surroundingDefaults({ container, ci }),
  ];
  expect(defaults(undefined, undefined)).toEqual([]);
  expect(defaults("/.dockerenv", "CI")).toEqual([
    ["daemon.tcp", { value: false, why: { kind: "container", evidence: "/.dockerenv" } }],
  ]);
  expect(defaults(undefined, "CI")).toEqual([
    ["daemon.tcp", { value: false, why: { kind: "CI", evidence: "CI" } }],
  ]);
  expect(knobNames).toContain("daemon.tcp");
});

test("this machine can be looked at", () => {
  const { ci } = surroundingsOf({ CI: "true" });
  expect(ci).toBe("CI");
});
