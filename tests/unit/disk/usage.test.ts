/** What a directory takes of the disk, and what is left: known files by name, the rest as one, and nothing for what cannot be seen. */
import { describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { diskUsage, freeBytes } from "~/disk/usage";
import { cleanup } from "../../support/cleanup";
import { tempDir } from "../../support/temp-dir";

describe("the files of a directory", () => {
  test("by name, or as others; no directories, no links that lead nowhere", () => {
    const dir = tempDir();
    writeFileSync(join(dir, "a.db"), "12345");
    writeFileSync(join(dir, "b.db"), "");
    writeFileSync(join(dir, "a.db.old"), "123");
    writeFileSync(join(dir, "log.1"), "1");
    mkdirSync(join(dir, "c.db"));
    symlinkSync(join(dir, "gone"), join(dir, "link"));
    const usage = diskUsage(dir, ["a.db", "b.db", "c.db", "d.db"]);
    expect(Object.fromEntries(usage)).toEqual({ "a.db": 5, "b.db": 0, other: 4 });
  });

  test("are unknown when the directory is gone or cannot be read", () => {
    const dir = tempDir();
    expect(diskUsage(join(dir, "gone"), ["a"]).size).toBe(0);
    const closed = join(dir, "closed");
    mkdirSync(closed);
    writeFileSync(join(closed, "a"), "1");
    chmodSync(closed, 0);
    cleanup(() => chmodSync(closed, 0o700));
    // The superuser is let in everywhere.
    expect(diskUsage(closed, ["a"]).size).toBe(process.getuid?.() === 0 ? 1 : 0);
  });
});

test("what is left is more than nothing where there is a disk, and unknown where there is none", () => {
  const dir = tempDir();
  expect(freeBytes(dir)).toBeGreaterThan(0);
  expect(freeBytes(join(dir, "gone"))).toBeUndefined();
});
