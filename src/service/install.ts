/**
 * Installing and removing the daemon's service: the order in which files are written, the manager is told and a daemon that runs
 * already hands over. Until the manager has taken the new unit everything can be, and is, put back as it was.
 */
import { lstatSync, mkdirSync } from "node:fs";
import { basename, dirname } from "node:path";
import { type Clock, systemClock } from "~/clock";
import { readTextFile, removeFile, storageError, writeFileAtomic } from "~/disk/file";
import { removeLeftBehind } from "~/disk/left-behind";
import { MeshError, messageOf, systemCodeOf } from "~/errors";
import type { ServiceManager } from "~/service/service-manager";
import { serviceReadyMsMax } from "~/wire/limits";

/** The daemon as its own API shows it; this room does not call that itself. */
export interface RunningDaemon {
  /** Of whoever answers on the socket; undefined when nobody does. */
  pid(): Promise<number | undefined>;
  /** Ends it and waits for that. */
  stop(pid: number): Promise<void>;
}

export interface Installed {
  pid: number;
  /** There was a unit before. */
  replaced: boolean;
  /** A daemon that did not belong to the service, and was stopped for it. */
  handedOver: number | undefined;
}

const pollEveryMs = 50;

/** Throws `no_service_manager`, `service_conflict`, `path_unsafe`, `storage_*` with nothing changed, or `service_failed`. */
export async function installService(
  manager: ServiceManager,
  daemon: RunningDaemon,
  clock: Clock = systemClock,
): Promise<Installed> {
  await manager.check();
  const [rival] = installedRivals(manager);
  if (rival !== undefined) {
    throw new MeshError(
      "service_conflict",
      `there is another service for this daemon already: ${rival.path}`,
      {
        hint: `Remove it first: ${rival.remove}`,
      },
    );
  }
  const before = readUnit(manager.unitPath);
  let handedOver: number | undefined;
  try {
    writeUnit(manager.unitPath, manager.unit);
    await manager.enable();
    const running = await daemon.pid();
    if (running !== undefined && running !== (await manager.state()).pid) {
      await daemon.stop(running);
      handedOver = running;
    }
  } catch (error) {
    await putBack(manager, before, error);
    throw error;
  }
  await manager.restart();
  const pid = await waitUntilUp(manager, daemon, clock);
  return { pid, replaced: before !== undefined, handedOver };
}

/** Whether an earlier install left its unit there. */
export const isInstalled = ({ unitPath }: ServiceManager): boolean => kindOf(unitPath) === "file";

/** Other services that would run the same daemon. */
export const installedRivals = ({ rivals }: ServiceManager): ServiceManager["rivals"] =>
  rivals.filter(({ path }) => kindOf(path) !== undefined);

/** Has the manager start the service that is installed. Throws as `installService`. */
export async function startService(
  manager: ServiceManager,
  daemon: RunningDaemon,
  clock: Clock = systemClock,
): Promise<number> {
  await manager.check();
  await manager.restart();
  return await waitUntilUp(manager, daemon, clock);
}

/** The error that led here is the one to tell; what fails on the way back is added to it. */
async function putBack(manager: ServiceManager, before: string | undefined, because: unknown): Promise<void> {
  try {
    if (before === undefined) {
      await manager.disable();
      removeUnit(manager.unitPath);
    } else {
      writeUnit(manager.unitPath, before);
    }
    await manager.reload();
  } catch (error) {
    throw new MeshError(
      "service_failed",
      `${messageOf(because)}; and ${manager.unitPath} could not be put back as it was: ${messageOf(error)}`,
      { hint: "claudemesh daemon uninstall-service removes what is left.", cause: because },
    );
  }
}

/** Until the daemon that answers is the one that the manager runs. */
async function waitUntilUp(manager: ServiceManager, daemon: RunningDaemon, clock: Clock): Promise<number> {
  const deadline = clock.monotonicMs() + serviceReadyMsMax;
  for (;;) {
    const state = await manager.state();
    const pid = state.pid === undefined ? undefined : await daemon.pid();
    if (pid !== undefined && pid === state.pid) return pid;
    if (state.givenUp || clock.monotonicMs() >= deadline) {
      const other = await daemon.pid();
      const why = other === undefined ? "" : `; the daemon that answers (pid ${other}) is another one`;
      throw new MeshError(
        "service_failed",
        `the service is installed, but its daemon does not come up: ${state.text}${why}`,
        {
          hint: `Its log: ${manager.logCommand}\nTo be rid of the service: claudemesh daemon uninstall-service`,
          details: { unit_path: manager.unitPath },
        },
      );
    }
    await new Promise<void>((resolve) => void clock.after(pollEveryMs, resolve));
  }
}

/**
 * False when nothing was installed, and then nothing is touched. Otherwise nothing listens or starts any more afterwards: a daemon
 * that took the service's place is stopped as well.
 */
export async function uninstallService(manager: ServiceManager, daemon: RunningDaemon): Promise<boolean> {
  const isThere = readUnit(manager.unitPath) !== undefined;
  if (!isThere && !(await manager.state()).loaded) return false;
  await manager.check();
  await manager.disable();
  removeUnit(manager.unitPath);
  await manager.reload();
  const left = await daemon.pid();
  if (left !== undefined) await daemon.stop(left);
  return true;
}

type Kind = "file" | "link" | "other";

function kindOf(path: string): Kind | undefined {
  try {
    const status = lstatSync(path);
    return status.isFile() ? "file" : status.isSymbolicLink() ? "link" : "other";
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes(systemCodeOf(error) ?? "")) return undefined;
    throw storageError(`cannot look at ${path}`, error);
  }
}

/** The unit that is there. A link is somebody else's work (a masked unit, a tree of dotfiles) and left alone. */
function readUnit(path: string): string | undefined {
  const kind = kindOf(path);
  if (kind === undefined) return undefined;
  if (kind !== "file") {
    throw new MeshError("path_unsafe", `${path} is ${kind === "link" ? "a symbolic link" : "no file"}`, {
      hint: "It may have been masked, or come from another tool. Look where it leads, and remove it if it is not needed.",
    });
  }
  return readTextFile(path);
}

/** Others may read it: it holds paths and nothing secret. */
function writeUnit(path: string, text: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true });
  } catch (error) {
    throw storageError(`cannot write ${path}`, error);
  }
  removeLeftBehind(dirname(path), (name) => name === basename(path));
  writeFileAtomic(path, text, 0o644);
}

/** There may not even be a directory that it could be in. */
function removeUnit(path: string): void {
  if (kindOf(path) !== undefined) removeFile(path);
}
