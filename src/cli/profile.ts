import { usageError } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { daemonClient } from "~/cli/daemon-client";
import { columns, printableLine } from "~/cli/text";
import type { ProfileReply } from "~/wire/ipc";

export const profile = defineCommand({
  name: "profile",
  description: "how this host presents itself: show or change it",
  args: {
    summary: { type: "string", valueHint: "TEXT", description: "what is going on here" },
    status: { type: "enum", options: ["idle", "working", "dnd"], description: "dnd: do not disturb" },
    title: { type: "string", valueHint: "TEXT", description: "a role, in a few words" },
    bio: { type: "string", valueHint: "TEXT", description: "more about it" },
    avatar: { type: "string", valueHint: "TEXT", description: "an emoji or a URL" },
    capability: {
      type: "string",
      multiple: true,
      valueHint: "WORD",
      description: "something it can do; may be repeated, replaces the list",
    },
    hidden: { type: "boolean", description: "do not appear among the peers" },
    visible: { type: "boolean", description: "appear among them again" },
  },
  notes:
    "Without flags it shows the profile. An empty text clears a field; --capability '' alone clears the list. The daemon keeps the profile and announces it again whenever it connects.",
  exits: [3, 4, 7],
  examples: ["claudemesh profile", 'claudemesh profile --status working --summary "release 2.1"'],
  async run({ capability, hidden, visible, ...texts }, host) {
    if (hidden && visible) throw usageError("--hidden contradicts --visible");
    const change = {
      ...(texts.summary === undefined ? {} : { summary: texts.summary }),
      ...(texts.status === undefined ? {} : { status: texts.status }),
      ...(texts.title === undefined ? {} : { title: texts.title }),
      ...(texts.bio === undefined ? {} : { bio: texts.bio }),
      ...(texts.avatar === undefined ? {} : { avatar: texts.avatar }),
      ...(capability.length === 0 ? {} : { capabilities: capability.filter((word) => word !== "") }),
      ...(hidden || visible ? { visible } : {}),
    };
    const client = daemonClient(host);
    const shown =
      Object.keys(change).length === 0
        ? await client.call("profile")
        : await client.call("setProfile", { body: change });
    await host.out.answer(shown, () => renderProfile(shown));
  },
});

const renderProfile = (shown: ProfileReply): string =>
  columns([
    ["status", shown.status],
    ["visible", shown.visible ? "yes" : "no"],
    ["summary", printableLine(shown.summary)],
    ["title", printableLine(shown.title)],
    ["bio", printableLine(shown.bio)],
    ["avatar", printableLine(shown.avatar)],
    ["can do", printableLine(shown.capabilities.join(", "))],
  ]);
