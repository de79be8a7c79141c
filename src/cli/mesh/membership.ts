/** What the membership commands share: names, addresses, the one connection to a mesh's broker, the members' list. */
import { hostname } from "node:os";
import * as v from "valibot";
import { usageError } from "~/cli/argv";
import type { Host } from "~/cli/command";
import { type Config, chooseMesh, type MeshEntry, readConfig } from "~/identity/config";
import { type Addressee, memberFound, resolveMember, standingOf, trustOf } from "~/identity/members";
import { fetchMembers } from "~/link/members";
import type { BrokerConnection } from "~/link/once";
import type { MemberEntry } from "~/wire/broker";
import { BrokerUrl, DisplayName, explainIssues } from "~/wire/text";

/** Where `broker up` listens unless it is told otherwise. */
export const brokerUrlDefault = "ws://127.0.0.1:7900/ws";

/** A name for people to see; throws `usage` for one that cannot be used. */
export function displayName(text: string): string {
  const parsed = v.safeParse(DisplayName, text);
  if (parsed.success) return parsed.output;
  throw usageError(`${JSON.stringify(text)}: ${explainIssues(parsed.issues)}`);
}

/** Under which name this host joins when none is given. */
export function defaultDisplayName(config: Config): string {
  const name = config.displayName ?? hostname().split(".")[0] ?? "";
  if (v.is(DisplayName, name)) return displayName(name);
  throw usageError(
    `${JSON.stringify(name)}, the default name of this host, cannot be used`,
    "Give one: --name NAME",
  );
}

/** `wss://host/ws` from what the user typed; only the path may be left out. */
export function brokerUrl(text: string): string {
  if (/^https?:\/\//.test(text)) {
    throw usageError(
      `a broker URL starts with ws:// or wss://`,
      `Did you mean ${completed(text.replace(/^http/, "ws"))}?`,
    );
  }
  if (!/^wss?:\/\//.test(text)) {
    throw usageError(
      `${JSON.stringify(text)} is no broker URL`,
      `Did you mean ${completed(`ws://${text}`)}?`,
    );
  }
  const parsed = v.safeParse(BrokerUrl, completed(text));
  if (parsed.success) return parsed.output;
  throw usageError(`${JSON.stringify(text)}: ${explainIssues(parsed.issues)}`);
}

function completed(text: string): string {
  if (!URL.canParse(text)) return text;
  const url = new URL(text);
  if (url.pathname === "/" || url.pathname === "") url.pathname = "/ws";
  return url.href;
}

export const ownMesh = ({ paths }: Host, wanted: string | undefined): MeshEntry =>
  chooseMesh(readConfig(paths.configFile), wanted);

/** Runs `errand` on a connection to the mesh's broker, which never takes the daemon's place. */
export async function withBroker<T>(
  mesh: MeshEntry,
  errand: (connection: BrokerConnection) => Promise<T>,
): Promise<T> {
  const { connectOnce } = await import("~/link/once");
  const connection = await connectOnce(mesh);
  try {
    return await errand(connection);
  } finally {
    connection.close();
  }
}

export interface KnownMember extends Addressee {
  entry: MemberEntry;
}

/** All members as the broker lists them, each judged by its admission. */
export async function listMembers(connection: BrokerConnection, mesh: MeshEntry): Promise<KnownMember[]> {
  const members = await fetchMembers((frame) => connection.request(frame));
  const trust = trustOf(mesh);
  return members.map((entry) => ({
    entry,
    pubkey: entry.pubkey,
    name: entry.display_name,
    standing: standingOf(entry, trust),
  }));
}

/** The one member that was meant, trusted or not. Throws `unknown_peer` or `ambiguous_peer`. */
export const foundMember = <A extends Addressee>(wanted: string, members: readonly A[], slug: string): A => {
  const resolution = resolveMember(wanted, members);
  return resolution.kind === "untrusted" ? resolution.member : memberFound(resolution, wanted, slug);
};
