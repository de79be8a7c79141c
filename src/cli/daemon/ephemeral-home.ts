/** The directory of an ephemeral daemon, from the side of the command that starts it. */
import { usageError } from "~/cli/argv";
import type { Host } from "~/cli/command";
import { hostPaths } from "~/wire/paths";

/** By this a detached start tells the daemon which directory was made for it. */
const madeFor = "CLAUDEMESH_EPHEMERAL_DIR";

export interface EphemeralHome {
  dir: string;
  /** As the daemon and the commands that use it see the world. */
  host: Host;
  /** Removes the directory again; for a start that failed, however it did. */
  discard(): void;
  /** The daemon has it now, and removes it when it ends. */
  handOver(): void;
}

/** Makes the directory, unless whoever started us did. Throws `usage` when the directories are chosen already. */
export async function openEphemeralHome(host: Host): Promise<EphemeralHome> {
  const { env } = host;
  const made = env[madeFor];
  if (made !== undefined && made !== "" && made === env.CLAUDEMESH_CONFIG_DIR) {
    return { dir: made, host, discard: () => undefined, handOver: () => undefined };
  }
  for (const name of ["CLAUDEMESH_CONFIG_DIR", "CLAUDEMESH_DAEMON_DIR"]) {
    if (!env[name]) continue;
    throw usageError(
      `--ephemeral makes a directory of its own, and ${name} names one (${env[name]})`,
      `unset ${name}, or leave --ephemeral out.`,
    );
  }
  const { makeEphemeralDirectory, removeEphemeralDirectory, removeLeftOvers } = await import(
    "~/daemon/ephemeral"
  );
  for (const dir of removeLeftOvers(env)) {
    await host.out.note(`note: removed ${dir}, left over by an ephemeral daemon that was killed`);
  }
  const dir = makeEphemeralDirectory(env);
  const within = { ...env, CLAUDEMESH_CONFIG_DIR: dir, [madeFor]: dir };
  const discard = (): void => {
    process.off("exit", discard);
    removeEphemeralDirectory(dir);
  };
  // A start that is interrupted leaves no daemon behind either: one whose directory goes stops.
  process.once("exit", discard);
  return {
    dir,
    host: {
      env: within,
      paths: hostPaths(within),
      out: host.out,
      get interrupted() {
        return host.interrupted;
      },
      get ended() {
        return host.ended;
      },
    },
    discard,
    handOver: () => void process.off("exit", discard),
  };
}
