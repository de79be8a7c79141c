/** Where a mock records to: what is refused, and what a full disk leaves. */
import { expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "~/clock";
import { openRecorder } from "~/mock/recorder";
import { readRecording } from "~/mock/recording";
import { canMount, fill, shrink } from "../../support/small-disk";
import { tempDir } from "../../support/temp-dir";

const entry = { dir: "in", conn: 1, hex: "00".repeat(10_000) } as const;
const open = (path: string, logged: string[] = []) =>
  openRecorder(path, "pilot", systemClock, (_, message) => void logged.push(message));

test("what was there is replaced", () => {
  const path = join(tempDir(), "r");
  writeFileSync(path, "x".repeat(10_000));
  const recorder = open(path);
  recorder.record(entry);
  recorder.close();
  expect(readRecording(path).entries).toMatchObject([{ n: 1, ...entry }]);
});

test("a pipe, which may never be read, and a device are refused at once", () => {
  const pipe = join(tempDir(), "pipe");
  Bun.spawnSync(["mkfifo", pipe]);
  for (const path of [pipe, "/dev/null"]) {
    expect(() => open(path)).toThrow(
      expect.objectContaining({
        code: "storage_failed",
        message: `cannot record to ${path}: it is no regular file`,
      }),
    );
  }
});

test.skipIf(!canMount)("a disk that is full for a moment ends it: what is there can be read", () => {
  const dir = tempDir();
  shrink(dir);
  const path = join(dir, "r");
  const logged: string[] = [];
  const recorder = open(path, logged);
  recorder.record(entry);
  const free = fill(dir);
  recorder.record(entry);
  free();
  recorder.record(entry);
  recorder.close();
  expect(logged).toEqual(["recording_failed"]);
  // The last line is there in part: the disk had a part of a page left.
  expect(readFileSync(path, "utf8").split("\n")).toHaveLength(3);
  expect(readRecording(path).entries).toHaveLength(1);
});
