/** What the system says of processes is read right, whatever their names hold, from /proc and from ps. */
import { expect, test } from "bun:test";
import {
  childrenOf,
  environmentOf,
  findProcess,
  ignoredSignalsOf,
  isDescendant,
  listProcesses,
  parsePs,
  parseStat,
  psColumns,
} from "~/agent/process-table";
import { cleanup } from "../../support/cleanup";
import { waitFor } from "../../support/wait-for";

const isLinux = process.platform === "linux";
const rest = "0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 987654 2500000 300";

test.each([
  ["sh", "S"],
  ["a name", "R"],
  ["1) Z 1 1 1 (", "S"],
  [") R 7 7 7", "D"],
  ["", "T"],
])("the name of a process is not taken for its numbers: %j", (name, state) => {
  expect(parseStat(`123 (${name}) ${state} 45 67 89 ${rest}\n`)).toEqual({
    pid: 123,
    parent: 45,
    group: 67,
    session: "89",
    started: 987654,
    isZombie: false,
    isStopped: state === "T",
  });
});

test("what has ended is told from what runs", () => {
  expect(parseStat(`1 (sh) Z 1 1 0 ${rest}`)).toMatchObject({ isZombie: true, session: "" });
});

test.if(isLinux)(
  "which signals a process ignores can be told, and is nothing for one that is gone",
  async () => {
    const child = Bun.spawn(["sh", "-c", "trap '' TERM; echo; exec sleep 86400"]);
    cleanup(async () => {
      child.kill("SIGKILL");
      await child.exited;
    });
    for await (const _ of child.stdout) break;
    expect([ignoredSignalsOf(child.pid) & (1n << 14n), ignoredSignalsOf(2 ** 30)]).toEqual([1n << 14n, 0n]);
  },
);

test("what a process has started is told from what it has not", () => {
  expect(isDescendant(process.pid, process.ppid)).toBe(true);
  expect([isDescendant(process.ppid, process.pid), isDescendant(2 ** 30, 1)]).toEqual([false, false]);
});

test("ps on macOS", () => {
  const table = parsePs(
    [
      "    1     0     1 ??       Ss   Mon Nov  3 07:01:02 2025    ",
      "  501   499   501 ttys003  S+   Thu Nov 20 17:05:06 2025",
      "  502   501   501 ttys003  Z+   Thu Nov 20 17:05:07 2025",
      "garbage",
      "",
    ].join("\n"),
  );
  expect([...table.keys()]).toEqual([1, 501, 502]);
  expect(table.get(1)).toMatchObject({ session: "", started: Date.UTC(2025, 10, 3, 7, 1, 2) / 1000 });
  expect(table.get(501)).toEqual({
    pid: 501,
    parent: 499,
    group: 501,
    session: "ttys003",
    started: Date.UTC(2025, 10, 20, 17, 5, 6) / 1000,
    isZombie: false,
    isStopped: false,
  });
  expect(table.get(502)?.isZombie).toBe(true);
});

test.if(Bun.which("ps") !== null)("this system's own ps is understood", () => {
  const { stdout } = Bun.spawnSync(["ps", "-ax", ...psColumns], {
    env: { ...process.env, LC_ALL: "C", TZ: "UTC" },
  });
  const own = parsePs(stdout.toString()).get(process.pid);
  expect(own).toMatchObject({ pid: process.pid, parent: process.ppid });
  const age = Date.now() / 1000 - (own?.started ?? 0);
  expect(age).toBeGreaterThan(-2);
  expect(age).toBeLessThan(24 * 3600);
});

test.if(isLinux)("/proc and ps tell the same", () => {
  const { stdout } = Bun.spawnSync(["ps", "-ax", ...psColumns]);
  const byPs = parsePs(stdout.toString()).get(process.pid);
  expect(findProcess(process.pid)).toMatchObject({ parent: byPs?.parent ?? -1, group: byPs?.group ?? -1 });
});

test("this process is in the list, and what is not there is not found", () => {
  expect(listProcesses().get(process.pid)).toEqual(findProcess(process.pid));
  expect(findProcess(999_999_999)).toBeUndefined();
});

test.if(isLinux)(
  "children are found, with those that have ended, and the environment that each was started with",
  async () => {
    const child = Bun.spawn(["sleep", "60"], { env: { MARK: "of this child" } });
    cleanup(() => child.kill("SIGKILL"));
    expect(childrenOf(process.pid).map(({ pid }) => pid)).toContain(child.pid);
    await waitFor(() => environmentOf(child.pid)?.includes("MARK=of this child"), {
      what: "the program to be loaded",
    });
    expect(childrenOf(child.pid)).toEqual([]);
    expect(childrenOf(999_999_999)).toEqual([]);
    expect(environmentOf(999_999_999)).toBeUndefined();
  },
);
