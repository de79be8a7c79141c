/** The directory of an ephemeral daemon: where it is made, when one counts as left over, and who may remove it. */
import { describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { claimEphemeralDirectory, makeEphemeralDirectory, removeLeftOvers } from "~/daemon/ephemeral";
import { tryLock } from "~/disk/lock";
import { MeshError } from "~/errors";
import { cleanup } from "../../support/cleanup";
import { tempDir } from "../../support/temp-dir";

const envOf = (base: string) => ({ XDG_RUNTIME_DIR: base });
const longAgo = new Date("2020-01-01T00:00:00Z");

describe("a new directory", () => {
  test("is the owner's alone, and another one each time", () => {
    const base = tempDir();
    const [first, second] = [makeEphemeralDirectory(envOf(base)), makeEphemeralDirectory(envOf(base))];
    expect(statSync(first).mode & 0o777).toBe(0o700);
    expect(first).not.toBe(second);
    expect(
      readdirSync(base)
        .sort()
        .map((name) => join(base, name)),
    ).toEqual([first, second].sort());
  });

  test("goes where there is room for a socket's path", () => {
    const base = tempDir();
    const deep = join(base, "d".repeat(90));
    mkdirSync(deep);
    const dir = makeEphemeralDirectory({ XDG_RUNTIME_DIR: deep, TMPDIR: base });
    expect(dir.startsWith(`${base}/claudemesh-eph-`)).toBe(true);
    expect(readdirSync(deep)).toEqual([]);
  });

  test("goes elsewhere when a place is missing", () => {
    const base = tempDir();
    const env = { XDG_RUNTIME_DIR: join(base, "missing"), TMPDIR: base };
    expect(makeEphemeralDirectory(env).startsWith(`${base}/`)).toBe(true);
  });

  test("that nobody takes is an error with the places", () => {
    const tmp = "/proc"; // Nobody makes a directory there, not even root.
    const failed = (): unknown => {
      try {
        return makeEphemeralDirectory({ XDG_RUNTIME_DIR: tmp, TMPDIR: tmp });
      } catch (error) {
        return error;
      }
    };
    const outcome = failed();
    // /tmp is the last resort: where it works, it is used.
    if (typeof outcome === "string") cleanup(() => claimEphemeralDirectory(outcome).remove());
    else expect(outcome).toBeInstanceOf(MeshError);
  });
});

/** As a killed daemon leaves it, a while ago. */
function leftOver(base: string, { withLock = true, madeAt = longAgo } = {}) {
  const dir = mkdtempSync(join(base, "claudemesh-eph-"));
  const lock = join(dir, "daemon/daemon.lock");
  mkdirSync(join(dir, "daemon"));
  writeFileSync(join(dir, "config.json"), "{}");
  if (withLock) writeFileSync(lock, "", { mode: 0o600 });
  if (withLock) utimesSync(lock, madeAt, madeAt);
  utimesSync(dir, madeAt, madeAt);
  return { dir, lock };
}

describe("a left-over directory", () => {
  test("whose lock nobody holds is removed, with everything in it", () => {
    const base = tempDir();
    const { dir } = leftOver(base);
    expect(removeLeftOvers(envOf(base))).toEqual([dir]);
    expect(readdirSync(base)).toEqual([]);
    expect(removeLeftOvers(envOf(base))).toEqual([]);
  });

  test("that never came to have a lock is removed when it is old", () => {
    const base = tempDir();
    const { dir } = leftOver(base, { withLock: false });
    expect(removeLeftOvers(envOf(base))).toEqual([dir]);
  });

  const kept: [what: string, make: (base: string) => void][] = [
    [
      "one whose daemon lives",
      (base) => {
        const lock = tryLock(leftOver(base).lock);
        cleanup(() => lock?.release());
      },
    ],
    [
      "one that is being started: no lock yet",
      (base) => void leftOver(base, { withLock: false, madeAt: new Date() }),
    ],
    [
      "one that is being started: the lock not yet taken",
      (base) => void leftOver(base, { madeAt: new Date() }),
    ],
    [
      "one that others can enter",
      (base) => {
        const { dir } = leftOver(base);
        Bun.spawnSync(["chmod", "755", dir]);
      },
    ],
    [
      "a link of that name",
      (base) => {
        const elsewhere = mkdtempSync(join(base, "precious-"));
        symlinkSync(elsewhere, join(base, "claudemesh-eph-aaaaaa"));
      },
    ],
    [
      "a directory of another name",
      (base) => {
        const { dir } = leftOver(base);
        renameSync(dir, join(base, "claudemesh-eph-notes"));
      },
    ],
  ];
  test.each(kept)("is not %s", (_what, make) => {
    const base = tempDir();
    make(base);
    const before = readdirSync(base);
    expect(removeLeftOvers(envOf(base))).toEqual([]);
    expect(readdirSync(base)).toEqual(before);
  });
});

describe("a claimed directory", () => {
  test("is removed once", () => {
    const base = tempDir();
    const claimed = claimEphemeralDirectory(leftOver(base).dir);
    claimed.remove();
    claimed.remove();
    expect(readdirSync(base)).toEqual([]);
  });

  test.each([
    ["has another name", (base: string) => base],
    [
      "is a link",
      (base: string) => {
        const link = join(base, "claudemesh-eph-aaaaaa");
        symlinkSync(tempDir(), link);
        return link;
      },
    ],
  ])("is not one that %s", (_what, make) => {
    expect(() => claimEphemeralDirectory(make(tempDir()))).toThrow(
      expect.objectContaining({ code: "path_unsafe" }),
    );
  });

  test("stays when another one has its name by now", () => {
    const base = tempDir();
    const { dir } = leftOver(base);
    const claimed = claimEphemeralDirectory(dir);
    renameSync(dir, `${dir}.away`);
    mkdirSync(dir);
    claimed.remove();
    expect([existsSync(dir), existsSync(`${dir}.away`)]).toEqual([true, true]);
  });
});
