/** Settings that change while a daemon runs with them. */
import { describe, expect, test } from "bun:test";
import { chmodSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { KnobName, Settings } from "~/settings/knobs";
import { defaultSettings } from "~/settings/knobs";
import { LiveSettings } from "~/settings/live";
import { nowhereSpecial } from "~/settings/surroundings";
import { tempDir } from "../../support/temp-dir";

async function open(text?: string, flags: Partial<Settings> = {}) {
  const file = join(tempDir(), "config.toml");
  if (text !== undefined) writeFileSync(file, text);
  const logged: [string, string][] = [];
  const errors: unknown[] = [];
  const live = await LiveSettings.open({
    file,
    flags,
    surroundings: nowhereSpecial,
    log(level, message, fields) {
      logged.push([level, message]);
      if (level === "error") errors.push(fields);
    },
  });
  const changes: KnobName[][] = [];
  live.onChange((changed) => void changes.push([...changed]));
  return {
    live,
    file,
    logged,
    errors,
    changes,
    async write(next: string | undefined) {
      if (next === undefined) rmSync(file);
      else writeFileSync(file, next);
      await live.reload();
    },
  };
}

test("a file that does not fit keeps the daemon from starting", async () => {
  await expect(open("[daemon]\ntcp = 1\n")).rejects.toMatchObject({ code: "config_invalid" });
});

describe("a live knob", () => {
  test("follows the file at once: made, changed, emptied, removed", async () => {
    const host = await open();
    const days = () => host.live.current["storage.retention_days"];
    expect(days()).toBe(30);
    await host.write("[storage]\nretention_days = 1\n");
    expect(days()).toBe(1);
    await host.write("[storage]\nretention_days = 2\n");
    expect(days()).toBe(2);
    await host.write("");
    expect(days()).toBe(30);
    await host.write("storage.retention_days = 3");
    await host.write(undefined);
    expect(host.live.current).toEqual(defaultSettings);
    expect(host.changes).toEqual(Array.from({ length: 5 }, () => ["storage.retention_days"]));
    expect(host.live.problems).toEqual([]);
    expect(host.logged).toEqual(Array.from({ length: 5 }, () => ["info", "settings_changed"]));
  });

  test("tells nobody when only a comment changed", async () => {
    const host = await open("[storage]\nretention_days = 1\n");
    await host.write("# note\n[storage]\nretention_days = 1\n");
    expect(host.changes).toEqual([]);
    expect(host.live.sources["storage.retention_days"]).toEqual({ from: "file", line: 3 });
  });

  test("given by a flag stays with the flag", async () => {
    const host = await open("", { "daemon.public_health": true });
    await host.write("[daemon]\npublic_health = false\n");
    expect(host.live.current["daemon.public_health"]).toBe(true);
    expect(host.changes).toEqual([]);
    expect(host.live.problems).toEqual([]);
  });
});

describe("a knob that is not live", () => {
  test("keeps its value and says that a restart is needed, until the file agrees again", async () => {
    const host = await open();
    await host.write("[daemon]\ntcp = false\nhost_policy = 'warn'\n[api]\nstreams_max = 1\n");
    expect(host.live.current).toEqual({ ...defaultSettings, "api.streams_max": 1 });
    expect(host.changes).toEqual([["api.streams_max"]]);
    expect(host.live.problems).toEqual([
      {
        code: "restart_needed",
        message: "daemon.tcp is false now (config.toml:2), and the daemon runs with true",
        hint: "It takes effect after claudemesh daemon restart.",
      },
      {
        code: "restart_needed",
        message: 'daemon.host_policy is "warn" now (config.toml:3), and the daemon runs with "refuse"',
        hint: "It takes effect after claudemesh daemon restart.",
      },
    ]);
    await host.write("[api]\nstreams_max = 1\n");
    expect(host.live.problems).toEqual([]);
  });
});

describe("a file that ceases to fit", () => {
  test("changes nothing and is a problem until it is mended", async () => {
    const host = await open("[api]\nstreams_max = 1\n");
    await host.write("[api]\nstreams_max = 0\nrequests_at_work_max = 3\n");
    expect(host.live.current).toEqual({ ...defaultSettings, "api.streams_max": 1 });
    const [problem] = host.live.problems;
    expect(problem?.message).toStartWith(`${host.file}:2:15: api.streams_max: a whole number from 1 to 4096`);
    expect(problem?.code).toBe("config_invalid");
    expect(problem?.hint).toContain("claudemesh config unset api.streams_max");
    // Looking again says it only once in the log.
    await host.live.reload();
    expect(host.logged).toEqual([["error", "config_invalid"]]);
    await host.write("[api]\nstreams_max = 2\n");
    expect(host.live.current["api.streams_max"]).toBe(2);
    expect(host.live.problems).toEqual([]);
  });

  test("and is put back as it was, is no problem any more", async () => {
    const host = await open("[api]\nstreams_max = 1\n");
    await host.write("[api\n");
    expect(host.live.problems).toHaveLength(1);
    await host.write("[api]\nstreams_max = 1\n");
    expect(host.live.problems).toEqual([]);
    expect(host.changes).toEqual([]);
  });

  test.each([
    ["a value", "log.level = 'hunter2'\n"],
    ["a key", "hunter2 = true\n"],
    ["what is no TOML", "hunter2 hunter2 = 1\n"],
  ])("tells the log where, and not what stands there: %s", async (_, text) => {
    const host = await open();
    await host.write(text);
    expect(JSON.stringify(host.live.problems)).toContain("hunter2");
    expect(JSON.stringify(host.errors)).not.toContain("hunter2");
    expect(JSON.stringify(host.errors)).toContain(`${host.file}:`);
  });

  test("or that others can write to since then", async () => {
    const host = await open("[api]\nstreams_max = 1\n");
    chmodSync(host.file, 0o666);
    await host.live.reload();
    expect(host.live.problems).toMatchObject([{ code: "config_unsafe" }]);
    chmodSync(host.file, 0o600);
    await host.live.reload();
    expect(host.live.problems).toEqual([]);
  });
});

test("looks that come together end with what the file says last", async () => {
  const host = await open();
  const looks: Promise<void>[] = [];
  for (let most = 1; most <= 20; most++) {
    writeFileSync(host.file, `[api]\nstreams_max = ${most}\n`);
    looks.push(host.live.reload());
  }
  await Promise.all(looks);
  expect(host.live.current["api.streams_max"]).toBe(20);
});
