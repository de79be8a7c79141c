/** `claudemesh config`: what it prints, what it writes, and what it refuses. */
import { describe, expect, test } from "bun:test";
import { chmodSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import * as v from "valibot";
import { configGet } from "~/cli/config/get";
import { configPath } from "~/cli/config/path";
import { configSet } from "~/cli/config/set";
import { configShow } from "~/cli/config/show";
import { configUnset } from "~/cli/config/unset";
import { surroundingsNote } from "~/cli/daemon/surroundings-note";
import { defaultSettings, knobNames, knobOf } from "~/settings/knobs";
import { resolveSettings } from "~/settings/resolve";
import { type Surroundings, surroundingsOf } from "~/settings/surroundings";
import { cleanup } from "../../support/cleanup";
import { tempDir } from "../../support/temp-dir";
import { type CapturedHost, type CaptureOptions, capturedHost } from "./captured-host";
import { runSource } from "./source-cli";

type Runnable = { execute(argv: readonly string[], host: CapturedHost): Promise<number> };

/** What the command answers. */
async function run(command: Runnable, host: CapturedHost, ...argv: string[]): Promise<unknown> {
  expect(await command.execute(argv, host)).toBe(0);
  return host.answers.at(-1);
}
const openHost = (options: CaptureOptions = {}) => capturedHost({ json: true, ...options });
const textOf = (host: CapturedHost) => readFileSync(host.paths.settingsFile, "utf8");

/** This machine may itself be a container. */
const here = surroundingsOf({});
const tcpHere =
  here.container === undefined
    ? { value: true, source: "default" }
    : { value: false, source: `container (${here.container})` };

const Shown = v.object({
  file: v.string(),
  settings: v.record(v.string(), v.looseObject({ value: v.unknown(), source: v.string() })),
});

describe("config show", () => {
  test("has every knob with its value, unit, bounds, and where it comes from", async () => {
    const host = openHost();
    writeFileSync(host.paths.settingsFile, "[storage]\nretention_days = 90\n", { mode: 0o600 });
    const { file, settings } = v.parse(Shown, await run(configShow, host));
    expect(file).toBe(host.paths.settingsFile);
    expect(Object.keys(settings)).toEqual([...knobNames]);
    expect<unknown>(settings["storage.retention_days"]).toEqual({
      value: 90,
      source: "config.toml:2",
      default: 30,
      unit: "days",
      min: 1,
      max: 36_500,
      applies: "at once",
      about: knobOf("storage.retention_days").about,
    });
    expect(settings["daemon.tcp"]).toMatchObject({ ...tcpHere, applies: "after a restart" });
    expect(settings["delivery.max_age_h"]).toMatchObject({ value: null, source: "default" });
  });

  test("for a person is a line for each", async () => {
    const host = openHost({ json: false, env: { CI: "true" } });
    writeFileSync(host.paths.settingsFile, "daemon.tcp = true\n", { mode: 0o600 });
    const lines = String(await run(configShow, host)).split("\n");
    expect(lines).toHaveLength(knobNames.length);
    expect(lines[0]).toMatch(/^daemon\.tcp +true +config\.toml:1$/);
    expect(lines).toContainEqual(expect.stringMatching(/^storage\.retention_days +30 days +default$/));
  });

  test("names the CI job that changed a default", async () => {
    const { settings } = v.parse(Shown, await run(configShow, openHost({ env: { GITLAB_CI: "true" } })));
    expect(settings["daemon.tcp"]).toMatchObject({
      value: false,
      source: here.container === undefined ? "CI (GITLAB_CI)" : tcpHere.source,
    });
  });

  test("--defaults works with a file that does not, and shows the bounds", async () => {
    const host = openHost({ json: false });
    writeFileSync(host.paths.settingsFile, "[daemon\n", { mode: 0o600 });
    await expect(configShow.execute([], host)).rejects.toMatchObject({ code: "config_invalid" });
    expect(String(await run(configShow, host, "--defaults"))).toMatch(
      /^daemon\.stop_grace_s +5 seconds +a whole number from 0 to 300 \(seconds\)$/m,
    );
  });
});

describe("config get", () => {
  test("prints the value and nothing else", async () => {
    const host = openHost({ json: false });
    expect(await run(configGet, host, "storage.retention_days")).toBe("30");
    expect(await run(configGet, host, "log.level")).toBe("info");
    expect(await run(configGet, host, "delivery.max_age_h")).toBe("");
    await run(configSet, host, "link.required_features", "members,lanes");
    expect(await run(configGet, host, "link.required_features")).toBe("members\nlanes");
  });
  test("with --json says where it comes from", async () => {
    expect(await run(configGet, openHost(), "api.streams_max")).toEqual({
      key: "api.streams_max",
      value: 32,
      unit: "streams",
      source: "default",
    });
  });
  test("of a key that there is not, says which was meant", async () => {
    await expect(configGet.execute(["daemon.retention_days"], openHost())).rejects.toMatchObject({
      code: "usage",
      hint: "Did you mean storage.retention_days?",
    });
  });
});

describe("config set", () => {
  test.each([
    ["daemon.tcp", "false", false, "tcp = false"],
    ["api.streams_max", "7", 7, "streams_max = 7"],
    ["log.level", "warn", "warn", 'level = "warn"'],
    [
      "link.required_features",
      "members, lanes",
      ["members", "lanes"],
      'required_features = ["members", "lanes"]',
    ],
    ["daemon.allowed_origins", "", [], "allowed_origins = []"],
  ] as const)("%s to %p", async (key, typed, value, line) => {
    const host = openHost();
    expect(await run(configSet, host, key, typed)).toEqual({
      key,
      value,
      file: host.paths.settingsFile,
      line: 5,
      applies: knobOf(key).live ? "at once" : "after a restart",
    });
    expect(textOf(host)).toEndWith(`\n[${key.split(".")[0]}]\n${line}\n`);
    expect(await run(configGet, host, key)).toMatchObject({ value, source: "config.toml:5" });
  });

  test.each([
    ["daemon.tcp", "yes", "daemon.tcp: true or false expected"],
    ["api.streams_max", "0", "api.streams_max: a whole number from 1 to 4096 (streams) expected"],
    ["api.streams_max", "4097", "a whole number from 1 to 4096 (streams) expected"],
    ["api.streams_max", "7.0", "a whole number from 1 to 4096 (streams) expected"],
    ["api.streams_max", "", "a whole number from 1 to 4096 (streams) expected"],
    ["log.level", "loud", '"debug" or "info" or "warn" or "error" expected'],
    ["daemon.allowed_origins", "localhost", "each an origin such as http://localhost:3000 expected"],
    ["link.required_features", "members,,lanes", "the name of a broker feature"],
  ])("%s to %p is refused with what would do, and nothing is written", async (key, typed, says) => {
    const host = openHost();
    await expect(configSet.execute([key, typed], host)).rejects.toThrow(says);
    await expect(configSet.execute([key, typed], host)).rejects.toMatchObject({ code: "usage" });
    expect(existsSync(host.paths.settingsFile)).toBe(false);
  });

  test("says in words when it applies", async () => {
    const host = openHost({ json: false });
    expect(await run(configSet, host, "daemon.stop_grace_s", "9")).toBe(
      `daemon.stop_grace_s = 9 seconds (${host.paths.settingsFile}:5); a running daemon takes it over at once`,
    );
    expect(await run(configSet, host, "daemon.tcp", "true")).toEndWith("after claudemesh daemon restart");
  });

  test("into a directory that cannot be written says so", async () => {
    const host = openHost();
    if (process.getuid?.() === 0) return; // root may write anywhere
    chmodSync(host.paths.configDir, 0o500);
    cleanup(() => chmodSync(host.paths.configDir, 0o700));
    await expect(configSet.execute(["daemon.tcp", "true"], host)).rejects.toMatchObject({
      code: "storage_read_only",
    });
  });
});

describe("config unset", () => {
  test("goes back to what holds without it", async () => {
    const host = openHost();
    await run(configSet, host, "api.streams_max", "7");
    expect(await run(configUnset, host, "api.streams_max")).toEqual({
      key: "api.streams_max",
      removed: true,
      value: defaultSettings["api.streams_max"],
      source: "default",
      applies: "at once",
    });
    expect(await run(configUnset, host, "api.streams_max")).toMatchObject({ removed: false });
  });
  test("removes what should not be there, and says when it is not", async () => {
    const host = openHost();
    writeFileSync(host.paths.settingsFile, "[api]\nsteams_max = 7\n", { mode: 0o600 });
    expect(await run(configUnset, host, "api.steams_max")).toEqual({ key: "api.steams_max", removed: true });
    expect(textOf(host)).toBe("[api]\n");
    await expect(configUnset.execute(["api.steams_max"], host)).rejects.toMatchObject({
      code: "usage",
      hint: "Did you mean api.streams_max?",
    });
  });
  test("of one mistake says which is next", async () => {
    const host = openHost();
    writeFileSync(host.paths.settingsFile, "log.level = 1\napi.streams_max = 0\n", { mode: 0o600 });
    await expect(configUnset.execute(["log.level"], host)).rejects.toMatchObject({
      hint: expect.stringContaining("claudemesh config unset api.streams_max"),
    });
    expect(host.notes).toEqual([`log.level is gone from ${host.paths.settingsFile}, but:`]);
    expect(textOf(host)).toBe("api.streams_max = 0\n");
  });
});

test("config path prints the path, whether or not there is a file", async () => {
  const host = openHost();
  expect(await run(configPath, host)).toEqual({ path: host.paths.settingsFile, exists: false });
  await run(configSet, host, "daemon.tcp", "true");
  expect(await run(configPath, host)).toEqual({ path: host.paths.settingsFile, exists: true });
});

describe("what daemon up says of its surroundings", () => {
  const note = (
    surroundings: Partial<Surroundings>,
    { tcp, ephemeral = false }: { tcp?: boolean; ephemeral?: boolean } = {},
  ) => {
    const around = { container: undefined, ci: undefined, ...surroundings };
    const flags = tcp === undefined ? {} : { "daemon.tcp": tcp };
    return surroundingsNote(
      resolveSettings({ flags, file: undefined, surroundings: around }),
      around,
      ephemeral,
    );
  };
  test("is nothing on an ordinary machine", () => expect(note({})).toBeUndefined());
  test("names the default that a container changed, and the way back", () => {
    const text = note({ container: "/.dockerenv" });
    expect(text).toBe(
      "note: TCP is off by default in a container (/.dockerenv); for TCP: --tcp-port N, or claudemesh config set daemon.tcp true",
    );
  });
  test("is nothing when somebody has decided already", () => {
    expect(note({ container: "/.dockerenv" }, { tcp: true })).toBeUndefined();
    expect(note({ container: "/.dockerenv" }, { tcp: false })).toBeUndefined();
  });
  test("advises --ephemeral in a CI job, unless that is what it is", () => {
    expect(note({ ci: "CI" })).toMatch(
      /^note: TCP is off by default under CI \(CI\); .*; this is a CI job \(CI\): --ephemeral [^\n]*$/,
    );
    expect(note({ ci: "CI" }, { tcp: true })).toStartWith("note: this is a CI job (CI): --ephemeral");
    expect(note({ ci: "CI" }, { ephemeral: true })).not.toContain("--ephemeral");
    expect(note({ ci: "CI" }, { ephemeral: true, tcp: true })).toBeUndefined();
  });
});

test("as a process: set, get, a mistake, and what many writers at once leave", async () => {
  const env = { CLAUDEMESH_CONFIG_DIR: tempDir() };
  const writers = await Promise.all(
    ["api.streams_max", "api.requests_at_work_max", "storage.retention_days", "daemon.stop_grace_s"].map(
      (key) => runSource(["config", "set", key, "11"], { env }),
    ),
  );
  expect(writers.map(({ status, stderr }) => [status, stderr])).toEqual(writers.map(() => [0, ""]));
  const got = await runSource(["config", "get", "storage.retention_days", "--json"], { env });
  expect(JSON.parse(got.stdout)).toMatchObject({ value: 11 });
  const shown = await runSource(["config", "show"], { env });
  expect(shown.stdout.match(/config\.toml:\d+$/gm)).toHaveLength(4);

  const refused = await runSource(["config", "set", "api.streams_max", "0"], { env });
  expect(refused.status).toBe(2);
  expect(refused.stderr).toContain("from 1 to 4096 (streams) expected");

  const file = `${env.CLAUDEMESH_CONFIG_DIR}/config.toml`;
  writeFileSync(file, `${readFileSync(file, "utf8")}[nonsense]\n`);
  const broken = await runSource(["config", "show", "--json"], { env });
  expect(broken.status).toBe(1);
  expect(JSON.parse(broken.stdout)).toMatchObject({ error: "config_invalid", key: "[nonsense]", file });
  const up = await runSource(["daemon", "up", "--no-tcp"], { env });
  expect(up.status).toBe(1);
  expect(up.stderr).toContain(`${file}:`);
});

test("a shell completes keys, and values where there are only so many", async () => {
  /** What a shell is offered, less the line that says that it is words. */
  const complete = async (...words: string[]) => {
    const { stdout } = await runSource(["complete", "fish", "--", "config", ...words]);
    return stdout
      .trimEnd()
      .split("\n")
      .slice(1)
      .map((line) => line.split("\t")[0]);
  };
  for (const command of ["get", "set", "unset"]) expect(await complete(command, "d")).toEqual([...knobNames]);
  expect(await complete("set", "log.level", "")).toEqual(["debug", "info", "warn", "error"]);
  expect(await complete("set", "daemon.tcp", "")).toEqual(["true", "false"]);
  expect(await complete("set", "api.streams_max", "")).toEqual([]);
});
