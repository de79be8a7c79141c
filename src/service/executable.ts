/**
 * The path that a service starts the daemon by. It must outlive upgrades: a package manager keeps each version in a directory of
 * its own, which the running process knows itself by, and a link to the current one, which is what has to stand in a unit.
 */
import { realpathSync } from "node:fs";
import { dirname, isAbsolute, join } from "node:path";
import { MeshError, systemCodeOf } from "~/errors";

export interface ExecutableClues {
  /** What the operating system says that is running, links resolved. */
  execPath: string;
  /** The search path of whoever asked. */
  pathVariable: string | undefined;
}

/** Throws `service_failed` for a Homebrew version that no link leads to. */
export function stableExecutable({ execPath, pathVariable = "" }: ExecutableClues): string {
  const real = realPathOf(execPath) ?? execPath;
  const keg = /^(.*)\/Cellar\/([^/]+)\/[^/]+\/bin\/([^/]+)$/.exec(real);
  if (keg !== null) {
    const [, prefix = "", formula = "", name = ""] = keg;
    const links = [join(prefix, "bin", name), join(prefix, "opt", formula, "bin", name)];
    const link = links.find((path) => realPathOf(path) === real);
    if (link !== undefined) return link;
    throw new MeshError("service_failed", `no link of Homebrew leads to ${real}, which an upgrade removes`, {
      hint: `brew link ${formula}`,
    });
  }
  const candidates = pathVariable
    .split(":")
    .filter(isAbsolute)
    .map((directory) => join(directory, "claudemesh"));
  const link = candidates.find((path) => path !== real && realPathOf(path) === real && isLasting(path, real));
  return link ?? real;
}

/** A link in a directory that goes with the session or the next boot is no better than what it leads to. */
const isLasting = (path: string, real: string): boolean => !isFleeting(dirname(path)) || isFleeting(real);

/**
 * Below a directory whose files go by themselves: with the session, at the next boot, or when they are old. The rest of /run is not
 * meant: NixOS has its links to the current versions there, and makes them at every boot.
 */
export const isFleeting = (path: string): boolean =>
  /^\/(private\/)?(tmp|dev|proc|run\/user|var\/(run\/user|tmp|folders))(\/|$)/.test(path);

/** Undefined when nothing is there, or nothing that we may look at. */
export function realPathOf(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch (error) {
    if (["ENOENT", "ENOTDIR", "EACCES", "ELOOP"].includes(systemCodeOf(error) ?? "")) return undefined;
    throw error;
  }
}
