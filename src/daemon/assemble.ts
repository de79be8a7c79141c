/**
 * Puts a daemon together from what it stands on: time, chance, its databases, its way to a broker. run.ts gives it the real
 * ones; tests and the simulator give it their own, and get the same daemon.
 */
import { Beginning, type Clock } from "~/clock";
import type { DirectoryStore } from "~/daemon/db/directory";
import type { Inbox } from "~/daemon/db/inbox";
import type { Outbox } from "~/daemon/db/outbox";
import { Drain } from "~/daemon/drain";
import { EventHub } from "~/daemon/events";
import type { LocalToken } from "~/daemon/local-token";
import { Meshes } from "~/daemon/meshes";
import { type Origin, plainOrigin } from "~/daemon/origin";
import type { DaemonParts } from "~/daemon/parts";
import { Profile } from "~/daemon/profile";
import { Retention } from "~/daemon/retention";
import { Tallies } from "~/daemon/tallies";
import { Writer } from "~/disk/writer";
import type { Sealer } from "~/identity/sealer";
import type { Connect } from "~/link/socket";
import type { Log } from "~/log";
import type { Settings } from "~/settings/knobs";
import type { Problem } from "~/wire/ipc";

export interface Ground {
  clock: Clock;
  /** Uniform in [0, 1). */
  chance(): number;
  /** ULIDs that never go back. */
  newId(): string;
  log: Log;
  sealer: Sealer;
  connect: Connect;
  outbox: Outbox;
  inbox: Inbox;
  directoryStore: DirectoryStore;
  configFile: string;
  /** The settings as they are now: they may change while the daemon runs. */
  settings(): Settings;
  /** What is wrong with their file. Default: nothing. */
  settingsProblems?(): Problem[];
  /** Their file, beside config.json, and whom to tell when it may have changed. Default: there is none. */
  settingsFile?: { path: string; mayHaveChanged(): void };
  /** The token of the TCP listener. */
  token: LocalToken;
  /** What is wrong with the log. Default: nothing is known. */
  logProblems?(): Problem[];
  /** Looks after the files beside the databases, as retention asks. Default: there are none. */
  tidy?(beforeMs: number): string[];
  /** Names this run towards the broker. */
  sessionId: string;
  startProblems: Problem[];
  /** How it came to be. Default: without flags, and managed by nobody. */
  origin?: Origin;
}

/** Nothing runs yet: `meshes.start()` begins. */
export function assemble(ground: Ground): DaemonParts {
  const { clock, chance, newId, log, outbox, inbox, configFile } = ground;
  const outboxWriter = new Writer(outbox.db, clock);
  const inboxWriter = new Writer(inbox.db, clock);
  const hub = new EventHub();
  const profile = new Profile(ground.directoryStore);
  const changed = (clientMessageId: string) => hub.announce({ kind: "outbox", clientMessageId });
  const drain = new Drain({
    outbox,
    writer: outboxWriter,
    clock,
    chance,
    log,
    settings: ground.settings,
    changed,
  });
  const meshes = new Meshes({
    configFile,
    outbox,
    outboxWriter,
    changed,
    parts: { ...ground, drain, inboxWriter, hub, profile },
    alsoWatched: ground.settingsFile,
  });
  const retention = new Retention({
    outbox: { store: outbox, writer: outboxWriter },
    inbox: { store: inbox, writer: inboxWriter },
    clock,
    settings: ground.settings,
    log,
    tidy: (beforeMs) => ground.tidy?.(beforeMs) ?? [],
    isClockDoubted: () => meshes.sessions.some(({ status }) => status.why?.startsWith("clock_skew") === true),
  });
  return {
    clock,
    newId,
    outbox,
    outboxWriter,
    inbox,
    inboxWriter,
    meshes,
    drain,
    hub,
    profile,
    retention,
    tallies: new Tallies(),
    settings: ground.settings,
    settingsProblems: () => ground.settingsProblems?.() ?? [],
    token: ground.token,
    logProblems: () => ground.logProblems?.() ?? [],
    started: new Beginning(clock),
    origin: ground.origin ?? plainOrigin,
    startProblems: ground.startProblems,
  };
}
