/**
 * Where a service looks for programs: where the person who installs it does, as far as those directories will still be there when the
 * service runs. What launchd and systemd give by themselves ends at the system's own directories.
 */
import { isAbsolute } from "node:path";
import { isFleeting, realPathOf } from "~/service/executable";

/**
 * The directories of a PATH, each once. One that depends on the current directory is left out, since a service has another. One that
 * goes with the session (some version managers make one for every shell) is named by what it leads to, or left out.
 */
export function lastingSearchPath(pathVariable = ""): string {
  const directories = pathVariable.split(":").flatMap((directory) => {
    if (!isAbsolute(directory)) return [];
    const lasting = isFleeting(directory) ? realPathOf(directory) : directory;
    return lasting === undefined || isFleeting(lasting) ? [] : [lasting];
  });
  return [...new Set(directories)].join(":");
}
