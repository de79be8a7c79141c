/** What a daemon makes of its directory, lock and socket being gone or replaced: first the decision, then on a real directory. */
import { describe, expect, test } from "bun:test";
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { type Found, findFile, findLoss, type HomeOptions, type Loss, watchHome } from "~/daemon/home";
import { homeCheckEveryMs, homeSettleMs } from "~/wire/limits";
import { daemonPaths } from "~/wire/paths";
import { cleanup } from "../../support/cleanup";
import { FakeClock } from "../../support/fake-clock";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";

const own: Found = { kind: "file", id: "own" };
const other: Found = { kind: "file", id: "other" };
const absent: Found = { kind: "absent" };
const unknown: Found = { kind: "unknown", why: "EIO" };

describe("what is lost", () => {
  const kinds = { own, other, absent, unknown };
  const expected = (dir: string, lock: string, socket: string): Loss | undefined => {
    if (dir === "unknown") return undefined;
    if (dir === "absent") return "directory_gone";
    if (dir === "other") return "directory_replaced";
    if (lock === "other" || lock === "absent") return "lock";
    return socket === "other" || socket === "absent" ? "socket" : undefined;
  };
  const cases = Object.keys(kinds).flatMap((dir) =>
    Object.keys(kinds).flatMap((lock) => Object.keys(kinds).map((socket) => [dir, lock, socket] as const)),
  );
  test.each(cases)("directory %s, lock %s, socket %s", (dir, lock, socket) => {
    const found = {
      dir: kinds[dir as keyof typeof kinds],
      lock: kinds[lock as keyof typeof kinds],
      socket: kinds[socket as keyof typeof kinds],
    };
    expect(findLoss({ dir: "own", lock: "own", socket: "own" }, found)).toBe(expected(dir, lock, socket));
  });

  test("a path that leads through a file is absent, not unknown", () => {
    const file = join(tempDir(), "file");
    writeFileSync(file, "");
    expect(findFile(join(file, "x"))).toEqual({ kind: "absent" });
    expect(findFile(file)).toMatchObject({ kind: "file" });
  });
});

function openHome(changes: Partial<HomeOptions> = {}) {
  const paths = daemonPaths(join(tempDir(), "daemon"));
  const make = (): void => {
    mkdirSync(paths.dir, { mode: 0o700 });
    writeFileSync(paths.lock, "");
    writeFileSync(paths.socket, "");
  };
  make();
  // The daemon holds its lock open, and so its number.
  const lock = openSync(paths.lock, "r");
  cleanup(() => closeSync(lock));
  const clock = new FakeClock();
  const logged: string[] = [];
  const calls: string[] = [];
  let looks = 0;
  const home = watchHome({
    paths,
    clock,
    log: (_level, message) => {
      // Whether a file can be watched is the system's business.
      if (message !== "socket_not_watched") logged.push(message);
    },
    restoreSocket: async () => {
      calls.push("socket");
      writeFileSync(paths.socket, "");
    },
    restoreLock: () => {
      calls.push("lock");
      writeFileSync(paths.lock, "");
      return true;
    },
    looked: () => looks++,
    ...changes,
  });
  cleanup(() => home.stop());
  let orphaned: string | undefined;
  void home.orphaned.then((why) => {
    orphaned = why;
  });
  /** Lets time pass, and what is due then come to its end. */
  const pass = async (ms: number): Promise<void> => {
    clock.advance(ms);
    await new Promise((resolve) => setImmediate(resolve));
  };
  /** One slow look, and its second thought. */
  const lookAgain = async (): Promise<void> => {
    await pass(homeCheckEveryMs);
    await pass(homeSettleMs);
  };
  return { paths, make, home, logged, calls, lookAgain, pass, orphaned: () => orphaned, looks: () => looks };
}

describe("a daemon", () => {
  test("whose things are all there does nothing but look, and not more often than every 10 s", async () => {
    const home = openHome();
    for (let count = 0; count < 5; count++) await home.lookAgain();
    expect([home.calls, home.logged, home.orphaned(), home.home.isOurs()]).toEqual([[], [], undefined, true]);
    expect(home.looks()).toBe(5);
    expect(homeCheckEveryMs).toBeGreaterThanOrEqual(10_000);
    expect(homeCheckEveryMs + homeSettleMs).toBeLessThanOrEqual(60_000);
  });

  test("whose socket file was deleted puts it back, and knows the new one", async () => {
    const home = openHome();
    unlinkSync(home.paths.socket);
    await home.lookAgain();
    expect([home.calls, home.logged]).toEqual([["socket"], ["socket_restored"]]);
    for (let count = 0; count < 3; count++) await home.lookAgain();
    expect([home.calls, home.orphaned()]).toEqual([["socket"], undefined]);
  });

  test("whose socket cannot be put back says so, and tries again at the next look", async () => {
    const home = openHome({
      restoreSocket: async () => {
        throw new Error("no room");
      },
    });
    unlinkSync(home.paths.socket);
    await home.lookAgain();
    await home.lookAgain();
    expect([home.logged, home.orphaned()]).toEqual([["home_not_restored", "home_not_restored"], undefined]);
  });

  test("whose lock file was deleted takes a new one", async () => {
    const home = openHome();
    unlinkSync(home.paths.lock);
    expect(home.home.isOurs()).toBe(false);
    await home.lookAgain();
    expect([home.calls, home.logged]).toEqual([["lock"], ["lock_restored"]]);
    expect([home.home.isOurs(), home.orphaned()]).toEqual([true, undefined]);
  });

  test("whose lock somebody else took meanwhile cannot go on", async () => {
    const home = openHome({ restoreLock: () => false });
    unlinkSync(home.paths.lock);
    writeFileSync(home.paths.lock, "");
    await home.lookAgain();
    expect(home.orphaned()).toBe("taken_over");
    expect(home.calls).toEqual([]);
  });

  test("whose directory is gone cannot go on, and makes no new one", async () => {
    const home = openHome();
    rmSync(home.paths.dir, { recursive: true });
    await home.lookAgain();
    expect([home.orphaned(), home.home.isOurs()]).toEqual(["directory_gone", false]);
    expect(findFile(home.paths.dir)).toEqual({ kind: "absent" });
  });

  test("whose directory was made anew under the same name cannot go on, and touches nothing in it", async () => {
    const home = openHome();
    rmSync(home.paths.dir, { recursive: true });
    home.make();
    await home.lookAgain();
    expect([home.orphaned(), home.home.isOurs(), home.calls]).toEqual(["directory_replaced", false, []]);
  });

  test("whose directory was moved away for a moment goes on", async () => {
    const home = openHome();
    renameSync(home.paths.dir, `${home.paths.dir}.away`);
    await home.pass(homeCheckEveryMs);
    renameSync(`${home.paths.dir}.away`, home.paths.dir);
    await home.pass(homeSettleMs);
    expect([home.orphaned(), home.calls, home.home.isOurs()]).toEqual([undefined, [], true]);
  });

  test.skipIf(process.platform !== "linux")(
    "is told at once when its socket is deleted (inotify)",
    async () => {
      const home = openHome();
      unlinkSync(home.paths.socket);
      await waitFor(
        async () => {
          await home.pass(homeSettleMs);
          return home.calls.length > 0;
        },
        { what: "the socket to be put back" },
      );
      expect(home.looks()).toBe(0);
      expect(readFileSync(home.paths.socket, "utf8")).toBe("");
    },
  );
});
