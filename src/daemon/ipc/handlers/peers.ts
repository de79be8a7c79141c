/** `GET /v1/peers`: the members of this host's meshes, who is online, and how they present themselves. */
import type { DirectoryMember } from "~/daemon/directory";
import type { Answer, Call } from "~/daemon/ipc/server";
import type { MeshSession } from "~/daemon/mesh-session";
import type { DaemonParts } from "~/daemon/parts";
import type { PeerItem } from "~/wire/ipc";

export const getPeers =
  (parts: DaemonParts) =>
  async ({ query }: Call<"peers">): Promise<Answer<"peers">> => {
    const sessions = query.mesh === undefined ? parts.meshes.sessions : [parts.meshes.byText(query.mesh)];
    // Brokers tell of who comes and goes, not of a status or summary that changed: that is looked up when somebody asks.
    await Promise.all(sessions.map((session) => session.refreshDirectory()));
    const peers = sessions.flatMap((session) => {
      // While the broker is away nobody is known to be online: then the last known list is what there is.
      const shown = session.directory.others.filter(
        (member) => query.all === true || member.online || !session.isOpen,
      );
      return shown.map((member) => renderPeer(member, session));
    });
    return { json: { peers, stale: sessions.some((session) => !session.isOpen) } };
  };

function renderPeer(member: DirectoryMember, session: MeshSession): PeerItem {
  const { details } = member;
  const { peer } = details;
  const summary = peer?.summary ?? "";
  const lastSeenAt = details.lastSeenAt;
  return {
    name: member.name,
    pubkey: member.pubkey,
    mesh: session.mesh.slug,
    online: member.online,
    status: member.online ? (peer?.status ?? "idle") : "away",
    ...(summary === "" ? {} : { summary }),
    ...(lastSeenAt === undefined ? {} : { last_seen_at: lastSeenAt }),
    capabilities: peer?.profile?.capabilities ?? [],
    ...(peer?.profile === undefined || peer.profile === null ? {} : { profile: peer.profile }),
    ...untrusted(member),
  };
}

function untrusted(member: DirectoryMember): Pick<PeerItem, "untrusted"> {
  if (member.standing === "refused") return { untrusted: "admission" };
  if (member.nameChangedFrom !== undefined && member.standing !== "trusted_by_hand")
    return { untrusted: "name_changed" };
  return {};
}
