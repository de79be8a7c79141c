/** Where the unit of a service belongs, and where others would be that run the same daemon: for every manager the same question. */
import { join } from "node:path";
import {
  isUsualDirectory,
  type ServiceDefinition,
  type ServiceScope,
  serviceSuffix,
} from "~/service/definition";
import type { RivalUnit, ServiceManager } from "~/service/service-manager";

type Named = Pick<ServiceDefinition, "suffix">;

/** How a manager lays out its units. */
export interface UnitLayout {
  directories: Readonly<Record<ServiceScope, string>>;
  /** The name of the file, by what tells services of one host apart (`ServiceDefinition.suffix`). */
  fileOf(service: Named): string;
  /** What starts a service of the system anew. */
  startSystem(service: Named): string;
  /** That of Homebrew's service, which is always a user's own. */
  homebrewFile: string;
}

export function placeUnit(
  service: ServiceDefinition,
  { directories, fileOf, startSystem, homebrewFile }: UnitLayout,
): Pick<ServiceManager, "unitPath" | "rivals"> {
  const { scope, account, daemonDir } = service;
  const otherScope: ServiceScope = scope === "system" ? "user" : "system";
  const uninstall = "claudemesh daemon uninstall-service";
  const named: Named = { suffix: serviceSuffix(otherScope, account, daemonDir) };
  const isSystem = scope === "system";
  const other: RivalUnit = {
    path: join(directories[otherScope], fileOf(named)),
    scope: otherScope,
    remove: isSystem ? `as ${account.name}: ${uninstall}` : `sudo ${uninstall} --system`,
    start: isSystem ? `as ${account.name}: claudemesh daemon up` : startSystem(named),
  };
  const homebrew: RivalUnit = {
    path: join(directories.user, homebrewFile),
    scope: "user",
    remove: "brew services stop claudemesh",
    start: "brew services restart claudemesh",
  };
  return {
    unitPath: join(directories[scope], fileOf(service)),
    rivals: isUsualDirectory(service) ? [other, homebrew] : [other],
  };
}
