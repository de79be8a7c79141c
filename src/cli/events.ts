import { defineCommand } from "~/cli/command";
import { daemonClient } from "~/cli/daemon-client";
import { localTime, printableLine } from "~/cli/text";
import { watchEvents } from "~/client/events";
import { systemClock } from "~/clock";
import type { MeshEvent } from "~/wire/ipc";

const excerptCharsMax = 60;

export const events = defineCommand({
  name: "events",
  description: "live events, until interrupted",
  args: {
    since: {
      type: "string",
      valueHint: "ID",
      completes: "inbox_place",
      description: "first replay the stored events after this one",
    },
  },
  notes:
    "Stored events (message) have an id; give the last one seen with --since to miss none. A restart of the daemon is survived without loss.",
  exits: [3, 4, 130],
  examples: ["claudemesh events --json", "claudemesh events --since 41"],
  async run({ since }, host) {
    const { out } = host;
    const { way } = daemonClient(host);
    for await (const watched of watchEvents({ way, since, signal: host.interrupted })) {
      if (watched.kind === "event") await out.answer(watched.event, () => renderEvent(watched.event));
      else if (watched.kind === "open" && watched.again) await out.note("the daemon is back");
      else if (watched.kind === "lost") await out.note(`${watched.error.message}; trying again`);
    }
  },
});

function renderEvent(event: MeshEvent): string {
  const now = localTime(new Date(systemClock.now()).toISOString());
  return `${now}  ${printableLine(describe(event))}`;
}

function describe(event: MeshEvent): string {
  switch (event.event) {
    case "message": {
      const { from, body } = event.data;
      const text = body ?? "";
      const excerpt = text.length > excerptCharsMax ? `${text.slice(0, excerptCharsMax)}…` : text;
      return `message ${event.id} from ${from.name}: ${excerpt}`;
    }
    case "peer_join":
      return `${event.data.name} came to ${event.data.mesh}`;
    case "peer_leave":
      return `${event.data.name} left ${event.data.mesh}`;
    case "broker_status":
      return `broker of ${event.data.mesh}: ${event.data.link}${event.data.error === undefined ? "" : ` (${event.data.error})`}`;
    case "outbox":
      return `sent ${event.data.client_message_id} to ${event.data.to ?? "?"}: ${event.data.status}`;
  }
}
