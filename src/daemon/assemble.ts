/**
 * Puts a daemon together from what it stands on: time, chance, its databases, its way to a broker. run.ts gives it the real
 * ones; tests and the simulator give it their own, and get the same daemon.
 */
import type { Clock } from "~/clock";
import type { DirectoryStore } from "~/daemon/db/directory";
import type { Inbox } from "~/daemon/db/inbox";
import type { Outbox } from "~/daemon/db/outbox";
import { Drain } from "~/daemon/drain";
import { EventHub } from "~/daemon/events";
import { Meshes } from "~/daemon/meshes";
import type { DaemonParts } from "~/daemon/parts";
import { Profile } from "~/daemon/profile";
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
  /** The token of the TCP listener. */
  token: string;
  /** Names this run towards the broker. */
  sessionId: string;
  startProblems: Problem[];
}

/** Nothing runs yet: `meshes.start()` begins. */
export function assemble(ground: Ground): DaemonParts {
  const { clock, chance, newId, log, outbox, inbox, configFile } = ground;
  const outboxWriter = new Writer(outbox.db, clock);
  const inboxWriter = new Writer(inbox.db, clock);
  const hub = new EventHub();
  const profile = new Profile(ground.directoryStore);
  const changed = (clientMessageId: string) => hub.announce({ kind: "outbox", clientMessageId });
  const drain = new Drain({ outbox, writer: outboxWriter, clock, chance, log, changed });
  const meshes = new Meshes({
    configFile,
    outbox,
    outboxWriter,
    changed,
    parts: { ...ground, drain, inboxWriter, hub, profile },
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
    settings: ground.settings,
    token: ground.token,
    startedAtMs: clock.now(),
    startProblems: ground.startProblems,
  };
}
