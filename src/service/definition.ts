/**
 * What launchd and systemd are told about the daemon, whichever of them runs it: the words that start it, its environment,
 * whose it is. Everything here is plain text that both can carry.
 */
import { createHash } from "node:crypto";
import { join, resolve } from "node:path";
import { MeshError } from "~/errors";
import type { Account } from "~/service/account";
import { lastingSearchPath } from "~/service/search-path";
import { heapCheckEveryMs } from "~/wire/limits";
import { daemonPaths, type HostPaths, hostPaths } from "~/wire/paths";

/** `user`: runs while its person is logged in (or lingers). `system`: from boot on, as that person. */
export type ServiceScope = "user" | "system";

export interface ServiceDefinition {
  scope: ServiceScope;
  account: Account;
  /** What tells services of one host apart: empty for a person's own one, `-alice` or `-1f2e3d4c` otherwise. */
  suffix: string;
  /** Absolute. */
  executable: string;
  args: readonly string[];
  /** What the person chose; `inForeground` adds what the daemon would otherwise give itself. */
  environment: Readonly<Record<string, string>>;
  daemonDir: string;
  logFile: string;
}

export interface ServiceChoice {
  scope: ServiceScope;
  account: Account;
  executable: string;
  /** The directories that the daemon shall have. */
  paths: HostPaths;
  env: Readonly<Record<string, string | undefined>>;
}

/** Throws `path_unsafe` for a path that no unit file can hold. */
export function defineService({ scope, account, executable, paths, env }: ServiceChoice): ServiceDefinition {
  const usual = hostPaths({ HOME: account.home });
  const environment: Record<string, string> = {};
  if (paths.configDir !== usual.configDir) environment.CLAUDEMESH_CONFIG_DIR = paths.configDir;
  if (paths.daemonDir !== join(paths.configDir, "daemon"))
    environment.CLAUDEMESH_DAEMON_DIR = paths.daemonDir;
  if (env.NODE_EXTRA_CA_CERTS) environment.NODE_EXTRA_CA_CERTS = resolve(env.NODE_EXTRA_CA_CERTS);
  // What the managers give by themselves has no programs of a person's own, such as the agents that the daemon hosts.
  const searchPath = lastingSearchPath(env.PATH);
  if (searchPath !== "") environment.PATH = searchPath;
  for (const path of [executable, account.name, account.home, paths.daemonDir, ...Object.values(environment)])
    refuseUnprintable(path);
  return {
    scope,
    account,
    suffix: serviceSuffix(scope, account, paths.daemonDir),
    executable,
    args: ["daemon", "up", "--foreground"],
    environment,
    daemonDir: paths.daemonDir,
    logFile: daemonPaths(paths.daemonDir).log,
  };
}

/** The environment of a daemon that a manager starts in the foreground: `daemon up` gives it to the one that it detaches. */
export const inForeground = ({
  environment,
}: Pick<ServiceDefinition, "environment">): Record<string, string> => ({
  BUN_GC_TIMER_INTERVAL: String(heapCheckEveryMs),
  ...environment,
});

/** Services of other people, and of other directories of the same person, have names of their own. */
export function serviceSuffix(scope: ServiceScope, account: Account, daemonDir: string): string {
  const name = /^[A-Za-z0-9_.-]+$/.test(account.name) ? account.name : `uid${account.uid}`;
  const directory = createHash("sha256").update(daemonDir).digest("hex").slice(0, 8);
  const isUsual = isUsualDirectory({ account, daemonDir });
  return `${scope === "system" ? `-${name}` : ""}${isUsual ? "" : `-${directory}`}`;
}

/** Where the daemon of this account is when nobody says otherwise. */
export const isUsualDirectory = ({
  account,
  daemonDir,
}: Pick<ServiceDefinition, "account" | "daemonDir">): boolean =>
  daemonDir === hostPaths({ HOME: account.home }).daemonDir;

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
const unprintable = /[\u0000-\u001f\u007f\ufffd-\uffff]/;

/** Neither a line of a systemd unit nor XML 1.0 can hold them. U+FFFD stands for a file name that is no UTF-8. */
function refuseUnprintable(path: string): void {
  if (!unprintable.test(path)) return;
  throw new MeshError("path_unsafe", `${JSON.stringify(path)} cannot stand in the file of a service`, {
    hint: "It holds a control character or is no UTF-8. Choose another directory, or take it out of PATH.",
  });
}
