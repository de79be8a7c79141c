/** What killed processes left half-written: it goes, unless somebody may be at it. */
import { expect, test } from "bun:test";
import { readdirSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryPath } from "~/disk/file";
import { removeLeftBehind } from "~/disk/left-behind";
import { halfWrittenMs } from "~/wire/limits";
import { cleanup } from "../../support/cleanup";
import { deadPid } from "../../support/processes";
import { tempDir } from "../../support/temp-dir";

const longAgoMs = 2 * halfWrittenMs;

function place(dir: string, name: string, ageMs = longAgoMs): string {
  writeFileSync(join(dir, name), "half");
  const at = new Date(Date.now() - ageMs);
  utimesSync(join(dir, name), at, at);
  return name;
}

test("what a process that is gone was writing goes, and what SQLite had beside it", () => {
  const dir = tempDir();
  place(dir, `config.json.${deadPid}.0a1b2c3d.tmp`);
  place(dir, `outbox.db.before-v2.${deadPid}.0a1b2c3d.tmp`);
  place(dir, `outbox.db.before-v2.${deadPid}.0a1b2c3d.tmp-journal`);
  removeLeftBehind(dir);
  expect(readdirSync(dir)).toEqual([]);
});

test("what a living process may be writing stays, however old it is", async () => {
  const dir = tempDir();
  const child = Bun.spawn(["sleep", "60"]);
  cleanup(() => child.kill("SIGKILL"));
  const left = place(dir, `config.json.${child.pid}.0a1b2c3d.tmp`);
  removeLeftBehind(dir);
  expect(readdirSync(dir)).toEqual([left]);
  child.kill("SIGKILL");
  await child.exited;
  removeLeftBehind(dir);
  expect(readdirSync(dir)).toEqual([]);
});

test("what was written to a moment ago stays: in another container its process may live", () => {
  const dir = tempDir();
  const left = place(dir, `config.json.${deadPid}.0a1b2c3d.tmp`, halfWrittenMs / 2);
  removeLeftBehind(dir);
  expect(readdirSync(dir)).toEqual([left]);
});

test("an earlier process that had the id of this one is gone", () => {
  const dir = tempDir();
  place(dir, temporaryPath("config.json"));
  removeLeftBehind(dir);
  expect(readdirSync(dir)).toEqual([]);
});

test("what is called otherwise, or not meant, is not touched", () => {
  const dir = tempDir();
  const others = [
    place(dir, "config.json"),
    place(dir, `config.json.${deadPid}.tmp`),
    place(dir, `config.json.${deadPid}.0a1b2c3d.tmp.bak`),
    place(dir, `config.json.${deadPid}.0A1B2C3D.tmp`),
    place(dir, `config.json.x${deadPid}.0a1b2c3d.tmp`),
    place(dir, `.${deadPid}.0a1b2c3d.tmp`),
    place(dir, `notes.${deadPid}.0a1b2c3d.tmp`),
  ];
  removeLeftBehind(dir, (name) => name === "config.json");
  expect(readdirSync(dir).sort()).toEqual(others.sort());
});

test("a directory that is not there has none, and one that cannot be read is an error", () => {
  removeLeftBehind(join(tempDir(), "nowhere"));
  const file = join(tempDir(), "file");
  writeFileSync(file, "");
  expect(() => removeLeftBehind(file)).toThrow(
    expect.objectContaining({
      code: "storage_failed",
      message: `cannot look into ${file}: ENOTDIR`,
    }) as Error,
  );
});
