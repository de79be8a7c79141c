import { usageError, wholeNumber } from "~/cli/argv";
import { defineCommand, type Host } from "~/cli/command";
import { daemonClient } from "~/cli/daemon-client";
import { columns, localTime, printable, printableLine, shortKey } from "~/cli/text";
import type { Client } from "~/client/client";
import { watchEvents } from "~/client/events";
import { isPassing } from "~/client/failure";
import { systemClock } from "~/clock";
import { MeshError } from "~/errors";
import type { InboxItem, InboxReply } from "~/wire/ipc";
import { ipcPageDefault, ipcPageMax } from "~/wire/limits";

const busyPauseMs = 500;

export const inbox = defineCommand({
  name: "inbox",
  description: "read what arrived",
  args: {
    unread: { type: "boolean", description: "only what was not marked as read" },
    from: {
      type: "string",
      valueHint: "PEER",
      completes: "peer",
      description: "only from this member (name or key)",
    },
    mesh: { type: "string", valueHint: "MESH", completes: "mesh", description: "only from this mesh" },
    limit: {
      type: "string",
      valueHint: "N",
      description: `at most this many (default: ${ipcPageDefault})`,
      parse: wholeNumber(1, ipcPageMax),
    },
    after: {
      type: "string",
      valueHint: "ID",
      completes: "inbox_place",
      description: "instead of the newest, the oldest after this one (an id of --json, or next_cursor)",
    },
    ack: { type: "boolean", description: "mark what was shown as read, once it is printed" },
    follow: {
      type: "boolean",
      alias: "f",
      description: "then go on and print what arrives, until interrupted",
    },
    problems: { type: "boolean", description: "instead: what came and could not be opened or believed" },
  },
  notes:
    "Control characters in messages are shown as \\x1b and the like, so that no message can steer the terminal; --json holds them as they are. --follow survives a restart of the daemon. With --follow, --json prints one message a line.",
  exits: [3, 4, 5, 7, 130],
  examples: [
    "claudemesh inbox --unread --ack",
    "claudemesh inbox --from bob --limit 5",
    "claudemesh inbox --unread --follow --ack --json",
  ],
  async run(args, host) {
    if (args.problems && (args.follow || args.ack)) {
      throw usageError("--problems goes with neither --follow nor --ack");
    }
    const client = daemonClient(host);
    const filter = {
      from: args.from,
      mesh: args.mesh,
      ...(args.unread ? { unread: true } : {}),
    };
    const limit = args.limit ?? ipcPageDefault;
    const first = await client.call("inbox", {
      query: {
        ...filter,
        ...(args.after === undefined ? { last: limit } : { after: args.after, limit }),
        ...(args.problems ? { problems: true } : {}),
      },
    });
    if (args.follow) return await follow(first, { client, filter, ack: args.ack, host });
    if (args.problems) return await showProblems(first, host);
    await host.out.answer(first, () => first.items.map(renderItem).join("\n\n"));
    if (args.ack) await acknowledge(client, first.items);
    if (first.items.length === 0) await host.out.note(args.unread ? "nothing unread" : "nothing here");
    if (args.after !== undefined && first.next_cursor !== undefined && first.items.length === limit) {
      await host.out.note(`for what came next: claudemesh inbox --after ${first.next_cursor}`);
    }
  },
});

interface Following {
  client: Client;
  filter: { from: string | undefined; mesh: string | undefined; unread?: boolean };
  ack: boolean;
  host: Host;
}

/**
 * Events only say that there is something new; the messages come page by page after the last one printed. So nothing is
 * missed between the first page and the stream or while the daemon is away, and nothing is printed twice.
 */
async function follow(first: InboxReply, { client, filter, ack, host }: Following): Promise<void> {
  let cursor: string | undefined;
  let isFirstItem = true;
  let isAway = false;
  /** Printed and not marked as read yet; the daemon may go away in between. */
  let shown: InboxItem[] = [];
  const show = async ({ items, next_cursor }: InboxReply): Promise<void> => {
    for (const item of items) {
      const gap = isFirstItem ? "" : "\n";
      isFirstItem = false;
      await host.out.answer(item, () => gap + renderItem(item));
      shown.push(item);
    }
    cursor = next_cursor ?? items.at(-1)?.id ?? cursor;
    if (ack) await acknowledge(client, shown);
    shown = [];
  };
  const readOn = async (): Promise<void> => {
    for (;;) {
      const page = await client.call("inbox", {
        query: { ...filter, limit: ipcPageMax, ...(cursor === undefined ? {} : { after: cursor }) },
        signal: host.interrupted,
      });
      await show(page);
      if (page.items.length < ipcPageMax) return;
    }
  };
  const catchUp = async (): Promise<void> => {
    while (!host.interrupted.aborted) {
      try {
        return await readOn();
      } catch (error) {
        if (!(error instanceof MeshError) || !isPassing(error)) throw error;
        // When the daemon goes away the stream ends as well, and the next one begins by catching up.
        if (error.code !== "daemon_busy" && error.code !== "timed_out") return;
        await new Promise<void>((resolve) => void systemClock.after(busyPauseMs, resolve));
      }
    }
  };
  await show(first);
  for await (const watched of watchEvents({ way: client.way, signal: host.interrupted })) {
    if (watched.kind === "lost") {
      if (!isAway) await host.out.note(`the daemon is away (${watched.error.message}); waiting for it`);
      isAway = true;
      continue;
    }
    if (watched.kind === "open") {
      if (isAway) await host.out.note("the daemon is back");
      isAway = false;
    } else if (watched.event.event !== "message") continue;
    await catchUp();
  }
}

/** Printed before it is marked: what could not be shown stays unread. */
async function acknowledge(client: Client, items: readonly InboxItem[]): Promise<void> {
  const ids = items.filter((item) => item.read_at === undefined).map((item) => item.id);
  if (ids.length > 0) await client.call("inboxAck", { body: { ids } });
}

async function showProblems({ problems = [] }: InboxReply, { out }: Host): Promise<void> {
  await out.answer({ problems }, () =>
    columns(
      problems.map(({ received_at, mesh, from, reason, broker_message_id }) => [
        localTime(received_at),
        printableLine(mesh),
        printableLine(from.name),
        reason,
        printableLine(broker_message_id),
      ]),
    ),
  );
  if (problems.length === 0) await out.note("no problems");
}

function renderItem(item: InboxItem): string {
  const { from, body, meta, reply_to } = item;
  const name = printableLine(from.name) || shortKey(from.pubkey);
  const marks = [
    ...(item.read_at === undefined ? ["unread"] : []),
    ...(item.priority === "next" ? [] : [item.priority]),
  ];
  const details = [
    ...(reply_to === undefined ? [] : [`answers ${printableLine(reply_to.id)}`]),
    ...Object.entries(meta ?? {}).map(
      ([key, value]) =>
        `${printableLine(key)}=${printableLine(typeof value === "string" ? value : JSON.stringify(value))}`,
    ),
  ];
  const text = body === null ? "(its text was pruned)" : printable(body).replace(/\n+$/, "");
  return [
    [
      localTime(item.received_at),
      printableLine(item.client_message_id),
      name,
      ...marks.map((mark) => `(${mark})`),
    ].join("  "),
    ...details.map((detail) => `  [${detail}]`),
    ...text.split("\n").map((line) => (line === "" ? "" : `  ${line}`)),
  ].join("\n");
}
