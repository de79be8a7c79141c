import { defineCommand } from "~/cli/command";
import { counted } from "~/cli/text";
import { systemClock } from "~/clock";
import type { OutboxSalvage, Recovered } from "~/wire/recovered";

export const daemonRecover = defineCommand({
  name: "daemon recover",
  description: "put new databases in the place of damaged ones",
  args: {
    "dry-run": { type: "boolean", description: "only say what it would do" },
  },
  notes:
    "Looks closely at the daemon's databases; sound ones are left alone. Of a damaged outbox, every message that can be read is taken over, and what was on the wire is sent again. A damaged inbox begins afresh. The damaged files are kept beside the new ones, byte for byte; one that was salvaged goes when contents do (storage.retention_days). The daemon must be down. What is cut off can be repeated.",
  exits: [4],
  examples: ["claudemesh daemon recover --dry-run", "claudemesh daemon recover"],
  async run(args, { paths, out }) {
    const { recover } = await import("~/daemon/recover");
    const recovered = await recover({ paths, dryRun: args["dry-run"], nowMs: systemClock.now() });
    await out.answer(recovered, () => rendered(recovered).join("\n"));
  },
});

function rendered({ dry_run, outbox, inbox, directory }: Recovered): string[] {
  const would = dry_run ? "would be kept" : "is kept";
  const kept = (what: { damage: string; kept_as: string }, isTakenOver = true): string[] => [
    `  ${what.damage}`,
    `  the damaged file ${would} as ${what.kept_as}, ${isTakenOver ? "as long as contents are (storage.retention_days)" : "until you remove it"}`,
  ];
  const lines = [
    ...(outbox.state === "damaged"
      ? ["outbox: damaged", ...outboxLines(outbox), ...kept(outbox)]
      : [`outbox: ${outbox.state}`]),
    ...(inbox.state === "damaged"
      ? [
          "inbox: damaged; a new one begins, and what had arrived is in the old file alone",
          ...kept(inbox, false),
        ]
      : [`inbox: ${inbox.state}`]),
    ...(directory.state === "damaged"
      ? [
          `directory: damaged; ${counted(directory.first_keys, "name")} with the key it was first seen with ${directory.first_keys === 1 ? "was" : "were"} salvaged, the rest comes from the broker`,
          ...kept(directory),
        ]
      : [`directory: ${directory.state}`]),
  ];
  const isDamaged = [outbox, inbox, directory].some(({ state }) => state === "damaged");
  if (!isDamaged) return [...lines, "nothing is damaged; nothing was changed"];
  return [
    ...lines,
    dry_run ? "nothing was changed: this was a dry run" : "start the daemon: claudemesh daemon up",
  ];
}

function outboxLines({ rows, unfinished, texts_lost, ended, ids_only, lost }: OutboxSalvage): string[] {
  return [
    `  ${counted(rows - ids_only, "message")} salvaged${rows > ids_only ? `, of which ${unfinished} will go on being sent` : ""}`,
    ...(texts_lost > 0
      ? [`  ${counted(texts_lost, "text")} could not be read and cannot be shown any more`]
      : []),
    ...(ended > 0
      ? [
          `  ${counted(ended, "message")} cannot be sent any more and failed: claudemesh daemon outbox list --failed`,
        ]
      : []),
    ...(ids_only > 0
      ? [
          `  of ${counted(ids_only, "message")} only the id was left: it stays used, and the message is listed as failed. Whether it was sent is not known`,
        ]
      : []),
    ...(lost > 0
      ? [
          `  ${counted(lost, "message")} lost without a trace: what they were is not known, and their ids can be used again without being noticed here`,
        ]
      : []),
  ];
}
