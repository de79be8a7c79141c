/** What installing a service needs of launchd and of systemd. Both are asked through their own programs. */
import type { ServiceDefinition, ServiceScope } from "~/service/definition";
import { LaunchdManager } from "~/service/launchd-manager";
import type { Programs } from "~/service/program";
import { SystemdManager } from "~/service/systemd-manager";

export interface ServiceState {
  /** The manager knows of it: it runs, or would be started. */
  loaded: boolean;
  /** Of the daemon that it runs. */
  pid: number | undefined;
  /** In the manager's words, for a person. */
  text: string;
  /** It will not be started again by itself, until the next boot or login. */
  givenUp: boolean;
  /** Because it failed, and not because somebody stopped it. */
  hasFailed: boolean;
}

export interface RivalUnit {
  path: string;
  scope: ServiceScope;
  /** What a person types to be rid of it. */
  remove: string;
  /** What a person types to have it run the daemon now. */
  start: string;
}

export interface ServiceManager {
  /** Where the unit file is, or would be. */
  readonly unitPath: string;
  /** What goes into it. */
  readonly unit: string;
  /** What has the manager run it, now and from the next boot or login on. */
  readonly bootCommand: string;
  /** What shows its log. */
  readonly logCommand: string;
  /** Other services that would run the same daemon, where there is such a file. */
  readonly rivals: readonly RivalUnit[];
  /** Throws `no_service_manager`, saying what can be done instead. */
  check(): Promise<void>;
  /** All false when there is no manager to ask. */
  state(): Promise<ServiceState>;
  /** Has the manager read what is at `unitPath`, which is there, and start it at boot or login. */
  enable(): Promise<void>;
  /** The opposite; the daemon that it runs is stopped. What is not there is fine. */
  disable(): Promise<void>;
  /** Has the manager notice that the file is gone, or is an older one again. */
  reload(): Promise<void>;
  /** Starts it, after ending the one that it runs. */
  restart(): Promise<void>;
}

export interface ManagerOptions {
  service: ServiceDefinition;
  programs: Programs;
  /** The home directory that holds the unit of a user's own service. */
  home: string;
  /** Before the paths that belong to the system; for tests. */
  root?: string;
}

/** Undefined on a platform that has neither. */
export function serviceManager(options: ManagerOptions): ServiceManager | undefined {
  if (options.programs.platform === "darwin") return new LaunchdManager(options);
  if (options.programs.platform === "linux") return new SystemdManager(options);
  return undefined;
}
