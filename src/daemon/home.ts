/**
 * Whether the daemon's directory, lock and socket are still its own. A daemon whose directory is gone or was replaced serves
 * nobody and must stop, without making a new one; one that lost only its socket file puts it back. What cannot be found
 * out changes nothing.
 */
import { closeSync, constants, type FSWatcher, lstatSync, openSync, watch } from "node:fs";
import type { Clock, Timer } from "~/clock";
import { messageOf, systemCodeOf } from "~/errors";
import type { Log } from "~/log";
import { faultOf } from "~/wire/fault";
import { homeCheckEveryMs, homeSettleMs } from "~/wire/limits";
import type { DaemonPaths } from "~/wire/paths";

/** What is at a path: which file, nothing, or nobody could tell. */
export type Found = { kind: "file"; id: string } | { kind: "absent" } | { kind: "unknown"; why: string };

export type Loss = "directory_gone" | "directory_replaced" | "lock" | "socket";

/** What was lost first, since the rest follows from it; undefined when nothing was, or nobody could tell. */
export function findLoss(
  own: Readonly<Record<"dir" | "lock" | "socket", string>>,
  found: Readonly<Record<"dir" | "lock" | "socket", Found>>,
): Loss | undefined {
  if (found.dir.kind === "unknown") return undefined;
  if (found.dir.kind === "absent") return "directory_gone";
  if (found.dir.id !== own.dir) return "directory_replaced";
  const isLost = (what: "lock" | "socket"): boolean => {
    const there = found[what];
    return there.kind === "absent" || (there.kind === "file" && there.id !== own[what]);
  };
  if (isLost("lock")) return "lock";
  return isLost("socket") ? "socket" : undefined;
}

export function findFile(path: string): Found {
  try {
    const { dev, ino } = lstatSync(path);
    return { kind: "file", id: `${dev}:${ino}` };
  } catch (error) {
    const code = systemCodeOf(error);
    if (code === "ENOENT" || code === "ENOTDIR") return { kind: "absent" };
    return { kind: "unknown", why: code ?? messageOf(error) };
  }
}

/** Why a daemon cannot go on. */
export type Orphaned = "directory_gone" | "directory_replaced" | "taken_over";

export interface HomeOptions {
  paths: DaemonPaths;
  clock: Clock;
  log: Log;
  /** Listens anew where the socket file was lost. */
  restoreSocket(): Promise<void>;
  /** Takes a new lock where the file was lost; false when somebody else was quicker. */
  restoreLock(): boolean;
  /** Called at every look, which is as often as anything here happens. */
  looked(): void;
}

export interface Home {
  /** Resolves when this daemon cannot go on. */
  readonly orphaned: Promise<Orphaned>;
  /** Whether the directory with its lock is this daemon's right now. */
  isOurs(): boolean;
  stop(): void;
}

/** To be called when the daemon listens: from then on its socket is known. */
export function watchHome(options: HomeOptions): Home {
  const { paths, clock, log } = options;
  // Held open, the directory's number stays its own even when it is removed and another one is made.
  const fd = openSync(paths.dir, constants.O_RDONLY | constants.O_DIRECTORY);
  const idOf = (path: string): string => {
    const found = findFile(path);
    return found.kind === "file" ? found.id : "";
  };
  const own = { dir: idOf(paths.dir), lock: idOf(paths.lock), socket: idOf(paths.socket) };
  const { promise: orphaned, resolve } = Promise.withResolvers<Orphaned>();
  let timer: Timer | undefined;
  let watcher: FSWatcher | undefined;
  let working = false;
  let stopped = false;

  const look = (): Loss | undefined =>
    findLoss(own, { dir: findFile(paths.dir), lock: findFile(paths.lock), socket: findFile(paths.socket) });

  const pause = (ms: number): Promise<void> => new Promise((done) => void clock.after(ms, done));

  const check = async (): Promise<void> => {
    // What is replaced is gone for a moment first: only what is lost twice is lost.
    if (look() === undefined) return;
    await pause(homeSettleMs);
    if (stopped) return;
    const loss = look();
    if (loss === undefined) return;
    if (loss === "directory_gone" || loss === "directory_replaced") {
      resolve(loss);
      return;
    }
    if (loss === "lock") {
      if (!options.restoreLock()) {
        resolve("taken_over");
        return;
      }
      own.lock = idOf(paths.lock);
      log("warn", "lock_restored", { lock: paths.lock });
    }
    if (look() !== "socket") return;
    await options.restoreSocket();
    own.socket = idOf(paths.socket);
    log("warn", "socket_restored", { socket: paths.socket });
    watchSocket();
  };

  const checkNow = (): void => {
    if (working || stopped) return;
    working = true;
    check()
      .catch((error: unknown) => log("error", "home_not_restored", { error: faultOf(error) }))
      .finally(() => {
        working = false;
      });
  };

  const watchSocket = (): void => {
    watcher?.close();
    try {
      watcher = watch(paths.socket, { persistent: false }, checkNow);
      watcher.on("error", (error) => log("debug", "socket_not_watched", { error: faultOf(error) }));
    } catch (error) {
      // Not every system can watch a socket: the slow look finds out as well, only later.
      log("debug", "socket_not_watched", { error: faultOf(error) });
    }
  };

  const lookLater = (): void => {
    timer = clock.after(homeCheckEveryMs, () => {
      checkNow();
      options.looked();
      lookLater();
    });
  };

  watchSocket();
  lookLater();
  return {
    orphaned,
    isOurs: () => {
      const found = { dir: findFile(paths.dir), lock: findFile(paths.lock) };
      const loss = findLoss(own, { ...found, socket: { kind: "file", id: own.socket } });
      return loss === undefined && found.dir.kind === "file";
    },
    stop() {
      stopped = true;
      timer?.cancel();
      watcher?.close();
      closeSync(fd);
    },
  };
}
