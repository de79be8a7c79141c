/** What the handlers of the local API work with: the running daemon, taken apart by run.ts. */
import type { Clock } from "~/clock";
import type { Inbox } from "~/daemon/db/inbox";
import type { Outbox } from "~/daemon/db/outbox";
import type { Drain } from "~/daemon/drain";
import type { EventHub } from "~/daemon/events";
import type { Meshes } from "~/daemon/meshes";
import type { Profile } from "~/daemon/profile";
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
  settings(): Settings;
  token: string;
  startedAtMs: number;
  /** What went wrong at start and is not serious enough to end it. */
  startProblems: Problem[];
}
