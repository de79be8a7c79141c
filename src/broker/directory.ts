/** What a member is told of the others: who is there (`peers_list`), who belongs (`members_list`), what a push says of its sender. */
import type { Connections, Session } from "~/broker/connections";
import type { Delivery, ListedMember } from "~/broker/rows";
import { isoTime } from "~/clock";
import type { BrokerFrameInput } from "~/wire/broker";
import { listBytesMax } from "~/wire/limits";
import { encodeSealed } from "~/wire/sealed";

type Of<Type extends string> = Extract<BrokerFrameInput, { type: Type }>;
type PeerEntry = Of<"peers_list">["peers"][number];
type MemberEntry = Of<"members_list">["members"][number];

/** A member that hides is seen by itself alone. */
const isSeenBy = (session: Session, asker: Session): boolean =>
  session.presence.visible || session.identity.member === asker.identity.member;

/** The peers that the asker may see, each once, as its oldest connection tells of it; in a mesh too large for one frame, as many as it holds. */
export function peersFor(asker: Session, connections: Connections): PeerEntry[] {
  const peers: PeerEntry[] = [];
  let bytes = 0;
  for (const session of connections.fullIn(asker.identity.mesh)) {
    const isTaker = connections.fullOf(session.identity.member) === session;
    if (!isTaker || !isSeenBy(session, asker)) continue;
    const entry = peerEntry(session);
    bytes += jsonBytes(entry);
    if (bytes > listBytesMax) break;
    peers.push(entry);
  }
  return peers;
}

function peerEntry({ identity, hello, presence, connectedAtMs }: Session): PeerEntry {
  return {
    pubkey: identity.pubkey,
    memberPubkey: identity.pubkey,
    displayName: identity.displayName,
    status: presence.status,
    summary: presence.summary,
    groups: hello.groups ?? [],
    sessionId: hello.sessionId ?? null,
    connectedAt: isoTime(connectedAtMs),
    cwd: hello.cwd ?? null,
    hostname: hello.hostname ?? null,
    peerType: hello.peerType ?? null,
    channel: hello.channel ?? null,
    model: hello.model ?? null,
    visible: presence.visible,
    profile: presence.profile,
  };
}

/** A page of these members: as many as one frame holds, and the last one's id when there are more. */
export function membersFor(
  asker: Session,
  members: readonly ListedMember[],
  connections: Connections,
): { members: MemberEntry[]; next?: string } {
  const page: MemberEntry[] = [];
  let bytes = 0;
  for (const member of members) {
    const entry = memberEntry(member, asker, connections);
    bytes += jsonBytes(entry);
    const last = page.at(-1);
    if (bytes > listBytesMax && last !== undefined) return { members: page, next: last.member_id };
    page.push(entry);
  }
  return { members: page };
}

function memberEntry(member: ListedMember, asker: Session, connections: Connections): MemberEntry {
  const session = connections.fullOf(member.member);
  return {
    member_id: member.member_id,
    pubkey: member.pubkey,
    display_name: member.display_name,
    role: member.role,
    // What matters is what the connection can do that gets the deliveries, which need not be the one that greeted last.
    capabilities: session?.hello.capabilities ?? member.capabilities,
    joined_at: isoTime(member.joined_at),
    ...(member.last_seen_at === undefined ? {} : { last_seen_at: isoTime(member.last_seen_at) }),
    online: session !== undefined && isSeenBy(session, asker),
    ...(member.admission === undefined ? {} : { admission: member.admission }),
  };
}

const jsonBytes = (value: object): number => Buffer.byteLength(JSON.stringify(value));

export function pushFrame(delivery: Delivery, meshId: string): Of<"push"> {
  return {
    type: "push",
    messageId: delivery.message_id,
    meshId,
    senderPubkey: delivery.sender_pubkey,
    senderMemberPubkey: delivery.sender_pubkey,
    senderMemberId: delivery.sender_id,
    senderName: delivery.sender_name,
    ...(delivery.reply_to_id === null ? {} : { replyToId: delivery.reply_to_id }),
    priority: delivery.priority,
    ...encodeSealed(delivery),
    createdAt: isoTime(delivery.created_at),
    client_message_id: delivery.client_message_id,
    ...(delivery.request_fingerprint === null ? {} : { request_fingerprint: delivery.request_fingerprint }),
    ...(delivery.body_version === null ? {} : { bodyVersion: delivery.body_version }),
    ...(delivery.admission === undefined ? {} : { senderAdmission: delivery.admission }),
  };
}
