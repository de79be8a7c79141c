import { ulid } from "ulidx";
import { seconds, usageError } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { readMessageText } from "~/cli/message-text";
import { deliver, type Sent } from "~/cli/send-route";
import { printableLine } from "~/cli/text";
import { waitForAcceptance } from "~/cli/track";
import { systemClock } from "~/clock";
import { waitMsDefault, waitMsMax } from "~/wire/limits";

export const send = defineCommand({
  name: "send",
  description: "queue a message",
  args: {
    to: {
      type: "positional",
      required: true,
      completes: "peer",
      description: "a member's name, its key, or the first 8 or more digits of it",
    },
    message: { type: "positional", required: false, description: "the text; - reads standard input" },
    file: { type: "string", valueHint: "FILE", completes: "file", description: "the text is in this file" },
    mesh: {
      type: "string",
      valueHint: "MESH",
      completes: "mesh",
      description: "which mesh, if this host is in several",
    },
    priority: {
      type: "enum",
      options: ["now", "next", "low"],
      default: "next",
      description: "whose turn it is first when several destinations wait",
    },
    meta: {
      type: "string",
      multiple: true,
      valueHint: "K=V",
      description: "a named value that travels sealed with the text; may be repeated",
      parse: parseMeta,
    },
    "reply-to": {
      type: "string",
      valueHint: "ID",
      completes: "inbox_id",
      description: "answers this message of the inbox",
    },
    id: {
      type: "string",
      valueHint: "KEY",
      description: "idempotency key: the same send with the same key is one message (default: a new ULID)",
    },
    wait: {
      type: "enum",
      options: ["accepted"],
      description: "return when the broker has it on its disk",
    },
    timeout: {
      type: "string",
      valueHint: "S",
      description: "seconds to wait at most, in all (default: 30)",
      parse: seconds(waitMsMax),
    },
    route: {
      type: "enum",
      options: ["daemon", "bridge", "cold"],
      description: "insist on one way; else the first that is there",
    },
  },
  notes:
    "The ways: the daemon's socket; then a session's bridge (CLAUDEMESH_BRIDGE_SOCK); then cold, straight to the broker, with nothing kept on this host. The next is only tried when nothing at all answers on the one before.\n\nText from standard input or a file is sent byte for byte, its last newline included. Values of --meta are strings.",
  exits: [3, 4, 5, 6, 7],
  examples: [
    'claudemesh send bob "hi"',
    "git diff | claudemesh send bob - --meta branch=main",
    'claudemesh send bob "deploy" --id deploy-42 --wait accepted --json',
  ],
  async run(args, host) {
    const deadline = systemClock.monotonicMs() + (args.timeout ?? waitMsDefault);
    const remainingMs = (): number => Math.max(1, deadline - systemClock.monotonicMs());
    const id = args.id ?? ulid();
    const request = {
      to: args.to,
      message: await readMessageText(args),
      ...(args.mesh === undefined ? {} : { mesh: args.mesh }),
      priority: args.priority,
      ...(args.meta.length === 0 ? {} : { meta: uniqueEntries(args.meta) }),
      ...(args["reply-to"] === undefined ? {} : { reply_to_id: args["reply-to"] }),
      client_message_id: id,
    };
    const { client, duplicate, ...sent } = await deliver(request, { host, only: args.route, remainingMs });
    const shown =
      args.wait === "accepted" && sent.status !== "accepted" && client !== undefined
        ? { ...sent, ...(await waitForAcceptance(client, id, remainingMs())) }
        : sent;
    await host.out.answer(shown, () => renderSent(shown, args.to, duplicate));
    if (shown.ephemeral !== undefined && shown.status !== "accepted") {
      await host.out.note(
        "note: the daemon is ephemeral, and what no broker has accepted ends with it. To be sure: --wait accepted",
      );
    }
  },
});

function parseMeta(text: string): [key: string, value: string] {
  const at = text.indexOf("=");
  if (at > 0) return [text.slice(0, at), text.slice(at + 1)];
  throw usageError(`KEY=VALUE expected, not ${JSON.stringify(text)}`);
}

function uniqueEntries(entries: readonly [key: string, value: string][]): Record<string, string> {
  const values = new Map<string, string>();
  for (const [key, value] of entries) {
    if (values.has(key)) throw usageError(`--meta ${key} was given twice`);
    values.set(key, value);
  }
  return Object.fromEntries(values);
}

/** Says precisely what is known, and no more. */
function renderSent(sent: Omit<Sent, "client" | "duplicate">, to: string, duplicate: boolean): string {
  const known = {
    queued: "on this disk; the broker has not confirmed it yet",
    inflight: "on this disk and on its way; the broker has not confirmed it yet",
    accepted: "on the broker's disk; the recipient gets it when it is there",
  }[sent.status];
  const before = duplicate ? "; it was sent before, nothing was sent twice" : "";
  return `${sent.status} ${sent.client_message_id} for ${printableLine(to)} (${known}${before})`;
}
