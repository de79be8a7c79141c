/**
 * What can stand in a place, asked of the daemon as it is now. One question a word, bounded in time: a shell waits for the
 * answer. Meshes are read from config.json when no daemon answers, since the commands for them need none.
 */
import { readdir } from "node:fs/promises";
import type { CompletionKind, Host } from "~/cli/command";
import type { Candidate, Given, Wanted } from "~/cli/completions/place";
import { localTime, shortKey } from "~/cli/text";
import { type Client, openClient } from "~/client/client";
import type { InboxItem, OutboxItem, OutboxStatus, PeerItem } from "~/wire/ipc";
import { completionIdsMax, completionMsMax } from "~/wire/limits";
import { agentNamesIn, agentsDir, daemonPaths } from "~/wire/paths";

type LookUp = Exclude<Wanted, { kind: "words" }>;

/** Throws whatever asking throws; kinds that the shell itself completes have no candidates. */
export async function candidatesFor(wanted: Wanted, host: Host): Promise<readonly Candidate[]> {
  return wanted.kind === "words" ? wanted.candidates : await lookUps[wanted.kind](wanted, host);
}

const lookUps: Readonly<Record<CompletionKind, (wanted: LookUp, host: Host) => Promise<Candidate[]>>> = {
  agent: async (_, host) => await agents(host),
  directory: async () => [],
  file: async () => [],
  inbox_id: async (_, host) => await arrived(host, ({ client_message_id }) => client_message_id),
  inbox_place: async (_, host) => await arrived(host, ({ id }) => id),
  member: peers,
  mesh: async (_, host) => await meshes(host),
  outbox_id: async (_, host) => (await sent(host)).map((item) => candidateOf(item, item.id)),
  peer: peers,
  requeueable_id: requeueable,
  sent_id: async (_, host) => (await sent(host)).map((item) => candidateOf(item, item.client_message_id)),
  setting: async () => await settings(),
  setting_value: async ({ given }) => await settingValues(given.get("key")),
};

const timeoutMs = completionMsMax;

/** One that tells nobody anything: what a command would say on the side has no place in a line that is being typed. */
function clientOf({ paths }: Host): Client {
  const { socket, httpPort, token } = daemonPaths(paths.daemonDir);
  return openClient({ socketPath: socket, tcp: { port: httpPort, token } });
}

/** Names with a socket, without asking whether anybody is behind it: that takes longer than one wants to wait for a word. */
async function agents({ paths }: Host): Promise<Candidate[]> {
  const names = await readdir(agentsDir(paths.daemonDir));
  return agentNamesIn(names).map((value) => ({ value, description: "" }));
}

async function peers({ given, afterDashes }: LookUp, host: Host): Promise<Candidate[]> {
  const reply = await clientOf(host).call("peers", { query: { all: true }, timeoutMs });
  return peerCandidates(reply.peers, given, afterDashes);
}

/**
 * Members by name, those that are there first. A name that would be ambiguous, or that would be taken for a flag, is replaced by
 * the beginning of its key, which is an address just as well.
 */
export function peerCandidates(peers: readonly PeerItem[], given: Given, afterDashes: boolean): Candidate[] {
  const mesh = given.get("mesh");
  const known = peers.filter((peer) => mesh === undefined || mesh === "" || peer.mesh === mesh);
  const bearers = new Map<string, number>();
  for (const { name } of known) bearers.set(fold(name), (bearers.get(fold(name)) ?? 0) + 1);
  const hasSeveralMeshes = new Set(known.map((peer) => peer.mesh)).size > 1;
  return known
    .toSorted((left, right) => Number(right.online) - Number(left.online))
    .map((peer) => {
      const isPlain = bearers.get(fold(peer.name)) === 1 && (afterDashes || !peer.name.startsWith("-"));
      const parts = [
        ...(isPlain ? [] : [peer.name]),
        peer.untrusted === undefined ? peer.status : "refused",
        ...(hasSeveralMeshes ? [`in ${peer.mesh}`] : []),
        ...(peer.summary === undefined ? [] : [peer.summary]),
      ];
      return { value: isPlain ? peer.name : shortKey(peer.pubkey), description: parts.join(", ") };
    });
}

/** Names are compared without regard to case where they are resolved. */
const fold = (name: string): string => name.toLowerCase();

async function meshes(host: Host): Promise<Candidate[]> {
  try {
    const reply = await clientOf(host).call("version", { timeoutMs });
    return Object.keys(reply.meshes).map((value) => ({ value, description: "" }));
  } catch {
    // Whatever kept the daemon from answering: which meshes there are, the file says as well.
    const { readConfig } = await import("~/identity/config");
    return readConfig(host.paths.configFile).meshes.map(({ slug, name }) => ({
      value: slug,
      description: name === slug ? "" : name,
    }));
  }
}

async function settings(): Promise<Candidate[]> {
  const { knobNames, knobOf } = await import("~/settings/knobs");
  return knobNames.map((value) => ({ value, description: knobOf(value).about }));
}

/** Numbers and lists are typed; of the rest there are only so many. */
async function settingValues(key: string | undefined): Promise<Candidate[]> {
  const { isKnobName, knobOf } = await import("~/settings/knobs");
  if (key === undefined || !isKnobName(key)) return [];
  const knob = knobOf(key);
  const values = knob.kind === "flag" ? ["true", "false"] : knob.kind === "choice" ? knob.options : [];
  return values.map((value) => ({ value, description: "" }));
}

async function sent(host: Host, status?: OutboxStatus): Promise<OutboxItem[]> {
  const query = { limit: completionIdsMax, ...(status === undefined ? {} : { status }) };
  return (await clientOf(host).call("outbox", { query, timeoutMs })).items;
}

/** A failed row may lie far behind the newest ones, so it is not looked for among these. */
async function requeueable(_: LookUp, host: Host): Promise<Candidate[]> {
  const found = await Promise.all([sent(host, "dead"), sent(host, "pending")]);
  return found.flat().map((item) => candidateOf(item, item.id));
}

function candidateOf(item: OutboxItem, value: string): Candidate {
  const to = item.to ?? item.destination ?? "?";
  const error = item.last_error === undefined ? "" : `: ${item.last_error}`;
  return { value, description: `${item.status} to ${to}, ${localTime(item.enqueued_at)}${error}` };
}

async function arrived(host: Host, idOf: (item: InboxItem) => string): Promise<Candidate[]> {
  const { items } = await clientOf(host).call("inbox", { query: { last: completionIdsMax }, timeoutMs });
  return items.toReversed().map((item) => ({
    value: idOf(item),
    description: `from ${item.from.name}, ${localTime(item.received_at)}: ${item.body ?? ""}`,
  }));
}
