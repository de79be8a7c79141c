/** What the handlers of the local API work with: the running daemon, taken apart by run.ts. */
import type { Beginning, Clock } from "~/clock";
import type { Inbox } from "~/daemon/db/inbox";
import type { Outbox } from "~/daemon/db/outbox";
import type { Drain } from "~/daemon/drain";
import type { EventHub } from "~/daemon/events";
import type { LocalToken } from "~/daemon/local-token";
import type { Meshes } from "~/daemon/meshes";
import type { Origin } from "~/daemon/origin";
import type { Profile } from "~/daemon/profile";
import type { Retention } from "~/daemon/retention";
import type { Tallies } from "~/daemon/tallies";
import type { Writer } from "~/disk/writer";
import type { Settings } from "~/settings/knobs";
import type { Problem } from "~/wire/ipc";

export interface DaemonParts {
  clock: Clock;
  newId(): string;
  outbox: Outbox;
  outboxWriter: Writer;
  inbox: Inbox;
  inboxWriter: Writer;
  meshes: Meshes;
  drain: Drain;
  hub: EventHub;
  profile: Profile;
  retention: Retention;
  tallies: Tallies;
  settings(): Settings;
  /** What is wrong with config.toml, and what in it waits for a restart. */
  settingsProblems(): Problem[];
  token: LocalToken;
  /** What is wrong with the log; nothing when it is somebody else's to look after. */
  logProblems(): Problem[];
  started: Beginning;
  /** How it came to be, and what becomes of it when it ends. */
  origin: Origin;
  /** What went wrong at start and is not serious enough to end it. */
  startProblems: Problem[];
}
