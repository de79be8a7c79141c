/** `config.toml` and a running daemon: what it takes over at once, what it refuses, and what its surroundings change. */
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { cleanup } from "../support/cleanup";
import { type Member, newMember, startMesh } from "../support/mesh";
import { waitFor } from "../support/wait-for";

const Started = v.object({ pid: v.number() });
const settingsFile = (member: Member) => join(member.configDir, "config.toml");
const portFile = (member: Member) => join(member.daemonDir, "http.port");
const codes = async (member: Member) => (await member.health()).problems.map(({ code }) => code);
const problem = async (member: Member, code: string) =>
  await waitFor(async () => (await member.health()).problems.find((found) => found.code === code), {
    what: `the problem ${code}`,
  });
const withoutProblems = (member: Member) =>
  waitFor(async () => (await codes(member)).length === 0, { what: "health without problems" });
const since = async (member: Member) => Object.values((await member.health()).meshes)[0]?.since;
const logged = (member: Member, message: string) => member.log.split(`"message":"${message}"`).length - 1;

describe("a running daemon", () => {
  test("takes changes over without dropping its link, and goes on when the file breaks", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
    const linkSince = await since(alice);

    // By command, by an editor that writes in place, and by one that replaces the file.
    await alice.run(["config", "set", "log.level", "debug"]);
    await waitFor(() => logged(alice, "settings_changed") === 1, { what: "the level to be taken over" });
    writeFileSync(
      settingsFile(alice),
      '[log]\nlevel = "debug"\n[link]\nrequired_features = ["members", "lanes"]\n',
    );
    await waitFor(() => logged(alice, "settings_changed") === 2, { what: "the features to be taken over" });
    writeFileSync(
      join(alice.configDir, "next"),
      "[api]\nstreams_max = 1\n[delivery]\nwindow_messages_max = 1\n",
      { mode: 0o600 },
    );
    renameSync(join(alice.configDir, "next"), settingsFile(alice));
    await waitFor(() => logged(alice, "settings_changed") === 3, { what: "the bounds to be taken over" });

    // It broke: what was read before goes on, messages too.
    writeFileSync(settingsFile(alice), "[api]\nstreams_max = 1\nsteams_max = 2\n");
    const broken = await problem(alice, "config_invalid");
    expect(broken.message).toBe(`${settingsFile(alice)}:3:1: api.steams_max: there is no such key`);
    expect(broken.hint).toContain("Did you mean api.streams_max?");
    await alice.send("bob", "still here");
    expect((await bob.received(1))[0]?.body).toBe("still here");
    expect((await alice.cli(["daemon", "status"])).stdout).toContain(
      "api.steams_max: there is no such key (config_invalid)",
    );
    await alice.run(["config", "unset", "api.steams_max"]);
    await withoutProblems(alice);

    // One that needs a restart says so until it has had it.
    await alice.run(["config", "set", "daemon.host_policy", "allow"]);
    expect((await problem(alice, "restart_needed")).hint).toContain("claudemesh daemon restart");
    rmSync(settingsFile(alice));
    await withoutProblems(alice);

    expect(await since(alice)).toBe(linkSince);
    expect(await alice.link()).toBe("open");
  });

  test("lets a broker go that lacks what is asked of it, and comes back when it is not asked any more", async () => {
    const { alice, broker } = await startMesh({ members: ["alice"] });
    await alice.run(["config", "set", "link.required_features", "members,teleport"]);
    const refused = await problem(alice, "broker_refuses");
    expect(refused.message).toContain("feature_unavailable: teleport; this host's settings require it");
    expect(refused.hint).toContain("claudemesh config unset link.required_features");
    await alice.run(["config", "unset", "link.required_features"]);
    await alice.connected();
    await withoutProblems(alice);

    // Any age goes with a broker that remembers for good, but not with one that forgets.
    await alice.run(["config", "set", "delivery.max_age_h", "649"]);
    await waitFor(() => logged(alice, "settings_changed") >= 3, { what: "the age to be taken over" });
    expect(await alice.link()).toBe("open");
    await broker.down();
    await broker.up(["--dedupe-days", "30"]);
    const forgets = await problem(alice, "broker_refuses");
    expect(forgets.message).toContain(
      "feature_param_below_floor: client_message_id_dedupe; delivery.max_age_h is 649, and the broker remembers ids long enough for 648",
    );
    expect(forgets.hint).toContain("claudemesh config unset delivery.max_age_h");
    await alice.run(["config", "set", "delivery.max_age_h", "648"]);
    await alice.connected();
    await withoutProblems(alice);
  });
});

test("a file with a mistake keeps the daemon from starting, in the background too", async () => {
  const alice = newMember("alice");
  writeFileSync(settingsFile(alice), "[daemon]\n\ntcp_port = 70000\n", { mode: 0o600 });
  for (const flags of [[], ["--foreground"]]) {
    const { exitCode, stdout, stderr } = await alice.cli(["daemon", "up", "--json", ...flags]);
    expect(exitCode).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({
      error: "config_invalid",
      line: 3,
      column: 12,
      key: "daemon.tcp_port",
      expected: "a whole number from 0 to 65535",
      found: "70000",
    });
    expect(stderr).toContain(
      "config.toml:3:12: daemon.tcp_port: a whole number from 0 to 65535 expected, found 70000",
    );
  }
  expect(existsSync(alice.socket)).toBe(false);
});

test("a restart that would fail on the file leaves the daemon that runs", async () => {
  const alice = newMember("alice");
  const { pid } = v.parse(Started, await alice.json(["daemon", "up", "--no-tcp"]));
  cleanup(async () => void (await alice.cli(["daemon", "down"])));
  writeFileSync(settingsFile(alice), "[daemon]\ntcp_port = 70000\n", { mode: 0o600 });
  const refused = await alice.cli(["daemon", "restart"]);
  expect(refused.exitCode).toBe(1);
  expect(refused.stderr).toContain("config.toml:2:12: daemon.tcp_port");
  expect((await alice.health()).pid).toBe(pid);
  await alice.run(["config", "unset", "daemon.tcp_port"]);
  await alice.run(["daemon", "restart"]);
  expect((await alice.health()).pid).not.toBe(pid);
  await alice.run(["daemon", "down"]);
});

describe("in a CI job", () => {
  const env = { CI: "true" };

  test("the daemon serves its socket only and says how to have it otherwise, in one line", async () => {
    const alice = newMember("alice");
    const up = await alice.run(["daemon", "up"], { env });
    cleanup(async () => void (await alice.cli(["daemon", "down"])));
    expect(up.stderr).toMatch(/^note: TCP is off by default [^\n]*--tcp-port N[^\n]*--ephemeral[^\n]*\n$/);
    expect(existsSync(portFile(alice))).toBe(false);
    await alice.run(["daemon", "down"]);

    // As the entry point of a container: standard error is the log, and nothing else is there.
    await alice.up([], { env });
    expect(existsSync(portFile(alice))).toBe(false);
    const lines = alice.log
      .trimEnd()
      .split("\n")
      .map((line): unknown => JSON.parse(line));
    expect(lines).toContainEqual(expect.objectContaining({ message: "tcp_off_by_default" }));
    await alice.down();
  });

  test("a flag or config.toml overrides that", async () => {
    const alice = newMember("alice");
    await alice.up(["--tcp-port", "0"], { env });
    expect(readFileSync(portFile(alice), "utf8")).toMatch(/^\d+\n$/);
    await alice.down();
    await alice.run(["config", "set", "daemon.tcp", "true"]);
    await alice.run(["config", "set", "daemon.tcp_port", "0"]);
    await alice.up([], { env });
    expect(readFileSync(portFile(alice), "utf8")).toMatch(/^\d+\n$/);
    // A flag goes before the file.
    await alice.down();
    await alice.up(["--no-tcp"], { env });
    expect(existsSync(portFile(alice))).toBe(false);
  });

  test("health over TCP is not promised where there is no TCP", async () => {
    const alice = newMember("alice");
    const refused = await alice.cli(["daemon", "up", "--public-health"], { env });
    expect(refused.exitCode).toBe(2);
    expect(refused.stderr).toContain("--tcp-port N");
    await alice.up(["--public-health", "--tcp-port", "0"], { env });
    const port = readFileSync(portFile(alice), "utf8").trim();
    expect(await (await fetch(`http://127.0.0.1:${port}/v1/health`)).json()).toEqual({ ok: true });
  });
});
