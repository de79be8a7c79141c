/** Which databases of the past go when contents go, and which are left for a person to remove. */
import { expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, utimesSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { recoverDatabases } from "~/daemon/recovery";
import { runDaemon } from "~/daemon/run";
import { removeOldDatabases } from "~/daemon/tidying";
import { defaultSettings } from "~/settings/knobs";
import { nowhereSpecial } from "~/settings/surroundings";
import { daemonPaths, hostPaths, putAsideIn } from "~/wire/paths";
import { tempDir } from "../../support/temp-dir";

const dayMs = 24 * 3600 * 1000;
const nowMs = Date.UTC(2026, 10, 20);
const beforeMs = nowMs - defaultSettings["storage.retention_days"] * dayMs;

function directory(...files: [name: string, ageDays: number][]) {
  const paths = daemonPaths(tempDir());
  for (const [name, ageDays] of files) {
    const path = join(paths.dir, name);
    writeFileSync(path, "messages");
    const at = new Date(nowMs - ageDays * dayMs);
    utimesSync(path, at, at);
  }
  return paths;
}

const daysAgo = (days: number): number => nowMs - days * dayMs;

test("copies that were made before an upgrade, and damaged files that were salvaged, go when they are old enough", () => {
  const gone: [string, number][] = [
    ["outbox.db.before-v4", 31],
    ["inbox.db.before-v3", 31],
    ["directory.db.before-v2", 400],
    // These say themselves since when they are there; the file is as old as what was last written to it.
    [`outbox.db.damaged-${daysAgo(31)}`, 1],
    [`outbox.db.damaged-${daysAgo(31)}-wal`, 1],
    [`outbox.db.damaged-${daysAgo(31)}-shm`, 1],
    [`directory.db.damaged-${daysAgo(31)}`, 1],
  ];
  const stays: [string, number][] = [
    ["outbox.db.before-v5", 29],
    [`outbox.db.damaged-${daysAgo(29)}`, 400],
    ["outbox.db", 400],
    ["outbox.db-wal", 400],
    ["inbox.db", 400],
    ["daemon.log", 400],
    ["host_fingerprint.json", 400],
    // Of others.
    ["outbox.db.before-v4.bak", 400],
    ["outbox.db.before-vX", 400],
    ["my-outbox.db.before-v4", 400],
    [`outbox.db.damaged-${daysAgo(31)}.bak`, 400],
  ];
  const paths = directory(...gone, ...stays);
  expect(removeOldDatabases(paths, beforeMs).sort()).toEqual(gone.map(([name]) => name).sort());
  expect(readdirSync(paths.dir).sort()).toEqual(stays.map(([name]) => name).sort());
  expect(removeOldDatabases(paths, beforeMs)).toEqual([]);
});

test("what may hold messages that nobody read, or that were never sent, stays, however old", () => {
  const at = daysAgo(400);
  const names = [`inbox.db.corrupt-${at}`, `inbox.db.damaged-${at}`, `inbox.db.damaged-${at}-wal`];
  const paths = directory(...names.map((name): [string, number] => [name, 400]));
  mkdirSync(join(paths.dir, `before-restore-${at}`));
  expect(removeOldDatabases(paths, beforeMs)).toEqual([]);
  const left = readdirSync(paths.dir);
  expect(left).toHaveLength(4);
  expect(putAsideIn(left).map(({ atMs, isTakenOver }) => [atMs, isTakenOver])).toEqual(
    left.map(() => [at, false]),
  );
});

test("a directory of that name is not one of ours, and does not keep the rest from going", () => {
  const paths = directory(["outbox.db.before-v4", 31]);
  const odd = join(paths.dir, "outbox.db.before-v3");
  mkdirSync(odd);
  utimesSync(odd, new Date(0), new Date(0));
  expect(removeOldDatabases(paths, beforeMs)).toEqual(["outbox.db.before-v4"]);
});

test("what a recovery puts aside is known by the names that it gives", async () => {
  const host = hostPaths({ HOME: tempDir() });
  const paths = daemonPaths(host.daemonDir);
  const stop = new AbortController();
  await runDaemon(
    {
      paths: host,
      flags: { "daemon.tcp": false },
      surroundings: nowhereSpecial,
      onReady: () => stop.abort(),
    },
    stop.signal,
  );
  for (const path of [paths.outbox, paths.inbox, paths.directory])
    writeFileSync(path, "no database".repeat(1000));
  const { outbox, inbox, directory: names } = await recoverDatabases({ paths: host, dryRun: false, nowMs });
  const keptAs = [outbox, inbox, names].map((file) => (file.state === "damaged" ? file.kept_as : ""));
  expect(keptAs.map(existsSync)).toEqual([true, true, true]);
  const [keptOutbox = "", keptInbox = "", keptNames = ""] = keptAs.map((path) => basename(path));
  expect(removeOldDatabases(paths, nowMs)).toEqual([]);
  expect(removeOldDatabases(paths, nowMs + 1).sort()).toEqual([keptNames, keptOutbox].sort());
  expect(putAsideIn(readdirSync(paths.dir)).map(({ name }) => name)).toEqual([keptInbox]);
});
