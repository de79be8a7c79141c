/** What agents leave in their directory: who they are, and logs, of which not all stay. */
import { describe, expect, test } from "bun:test";
import { mkdirSync, readdirSync, utimesSync, writeFileSync } from "node:fs";
import { isAlive, readAgentRecord, recordAgent, removeOldLogs } from "~/agent/hosted-files";
import { agentLogsKept, agentLogsKeptDays } from "~/wire/limits";
import { agentPaths } from "~/wire/paths";
import { cleanup } from "../../support/cleanup";
import { tempDir } from "../../support/temp-dir";

const keptMs = agentLogsKeptDays * 86_400_000;
const nowMs = 1_800_000_000_000;

/** A directory of agents with these logs, by their age. */
function directoryWith(logs: Record<string, number>): string {
  const dir = tempDir();
  mkdirSync(agentPaths(dir, "x").dir);
  for (const [name, ageMs] of Object.entries(logs)) {
    const { log, shimLog, record, lock } = agentPaths(dir, name);
    for (const path of [log, shimLog, record, lock]) writeFileSync(path, "");
    utimesSync(log, new Date(nowMs - ageMs), new Date(nowMs - ageMs));
  }
  return dir;
}

const logsIn = (dir: string): string[] =>
  readdirSync(agentPaths(dir, "x").dir)
    .filter((name) => /^[^.]*\.log$/.test(name))
    .map((name) => name.slice(0, -".log".length))
    .sort();

describe("of agents that have ended", () => {
  test("old logs go, with what lies beside them but the locks", () => {
    const dir = directoryWith({ old: keptMs, young: keptMs - 1000 });
    removeOldLogs(dir, nowMs);
    expect(readdirSync(agentPaths(dir, "x").dir).sort()).toEqual([
      "old.lock",
      "young.json",
      "young.lock",
      "young.log",
      "young.shim.log",
    ]);
  });

  test("the newest stay when there are too many", () => {
    const ages = Array.from({ length: agentLogsKept + 2 }, (_, n): [string, number] => [`a${n}`, n * 1000]);
    const dir = directoryWith(Object.fromEntries(ages));
    removeOldLogs(dir, nowMs);
    expect(logsIn(dir)).toHaveLength(agentLogsKept);
    expect(logsIn(dir)).not.toContain(`a${agentLogsKept}`);
    expect(logsIn(dir)).toContain(`a${agentLogsKept - 1}`);
  });

  test("there may be none, and no directory", () => {
    expect(() => removeOldLogs(tempDir(), nowMs)).not.toThrow();
  });
});

test("an agent's log stays for as long as there is a socket", () => {
  const dir = directoryWith({ x: 2 * keptMs });
  writeFileSync(agentPaths(dir, "x").socket, "");
  removeOldLogs(dir, nowMs);
  expect(logsIn(dir)).toEqual(["x"]);
});

describe("who an agent is", () => {
  test("is written down, and a later process with the same number is another one", async () => {
    const paths = agentPaths(directoryWith({ x: 0 }), "x");
    const child = Bun.spawn(["sleep", "1000"]);
    cleanup(async () => {
      child.kill("SIGKILL");
      await child.exited;
    });
    recordAgent(paths, child.pid, process.pid);
    const record = readAgentRecord(paths);
    expect(record).toMatchObject({ agent: { pid: child.pid }, shim: { pid: process.pid } });
    if (record === undefined) return;
    expect([isAlive(record.agent), isAlive({ ...record.agent, started: 1 })]).toEqual([true, false]);
    child.kill("SIGKILL");
    await child.exited;
    expect(isAlive(record.agent)).toBe(false);
  });

  test.each([
    ["nothing", undefined],
    ["what is no JSON", "{"],
    ["what is no record", '{"agent":{"pid":0,"started":1},"shim":{"pid":5,"started":1}}'],
  ])("is not known from %s", (_, content) => {
    const paths = agentPaths(directoryWith({}), "x");
    if (content !== undefined) writeFileSync(paths.record, content);
    expect(readAgentRecord(paths)).toBeUndefined();
  });
});
