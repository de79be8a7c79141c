/**
 * The members of one mesh as this host believes them: the broker's list, less what their admissions do not prove, with
 * the keys that names were first seen with. Kept on disk, so that names resolve while the broker is away.
 */
import type { DirectoryStore, KnownMember } from "~/daemon/db/directory";
import type { MeshEntry } from "~/identity/config";
import {
  type Addressee,
  type MeshTrust,
  type Resolution,
  resolveMember,
  type Standing,
  speaksBody2,
  standingOf,
  trustOf,
} from "~/identity/members";
import type { Admission, MemberEntry, PeerEntry } from "~/wire/broker";

export interface DirectoryMember extends Addressee {
  details: KnownMember;
  online: boolean;
}

export interface PresenceChange {
  joined: DirectoryMember[];
  left: DirectoryMember[];
}

export class Directory {
  readonly #store: DirectoryStore;
  #mesh: MeshEntry;
  #trust: MeshTrust;
  #members: DirectoryMember[] = [];
  #online = new Set<string>();
  #fetched: boolean;
  /** Checking an admission costs two signatures; the same one is checked once. */
  readonly #standings = new Map<string, Standing>();

  constructor(store: DirectoryStore, mesh: MeshEntry) {
    this.#store = store;
    this.#mesh = mesh;
    this.#trust = trustOf(mesh);
    this.#fetched = store.wasFetched(mesh.meshId);
    this.#load();
  }

  /** Whether the list was ever fetched, in this run or an earlier one. */
  get wasFetched(): boolean {
    return this.#fetched;
  }

  get members(): readonly DirectoryMember[] {
    return this.#members;
  }

  /** Members that a message can be addressed to: everyone but ourselves. */
  get others(): DirectoryMember[] {
    return this.#members.filter((member) => member.pubkey !== this.#mesh.pubkey);
  }

  byKey(pubkey: string): DirectoryMember | undefined {
    return this.#members.find((member) => member.pubkey === pubkey);
  }

  resolve(text: string): Resolution<DirectoryMember> {
    return resolveMember(text, this.#members);
  }

  /**
   * Whether a message from this key may be shown as mail: from a member, or from who was one when the broker took it, which the
   * admission that came with it proves. Where nobody can prove anything, every key may.
   */
  admits(pubkey: string, shown: Admission | undefined): boolean {
    const member = this.byKey(pubkey);
    if (member !== undefined && member.standing !== "refused") return true;
    if (member === undefined && this.#trust.ownerPubkey === undefined) return true;
    return shown !== undefined && this.#standingOf({ pubkey, admission: shown }) === "verified";
  }

  speaksBody2(member: DirectoryMember): boolean {
    return speaksBody2(member.details.capabilities, member.standing);
  }

  /** The configuration changed: other keys may be trusted now. */
  reconfigure(mesh: MeshEntry): void {
    this.#mesh = mesh;
    this.#trust = trustOf(mesh);
    this.#standings.clear();
    this.#load();
  }

  /**
   * Takes over what the broker lists. A version-1 broker has no list of members, only of who is online: then members that
   * were seen before stay known.
   */
  update(
    members: readonly MemberEntry[] | undefined,
    peers: readonly PeerEntry[],
    nowMs: number,
  ): PresenceChange {
    const presence = new Map(peers.map((peer) => [peer.memberPubkey ?? peer.pubkey, peer]));
    const listed = members ?? mergePeers(this.#members, presence);
    const before = this.#online;
    const believed = listed.filter((member) => this.#standingOf(member) !== "refused");
    this.#store.replaceMembers(this.#mesh.meshId, listed, presence, believed, nowMs);
    this.#fetched = true;
    this.#online = new Set(presence.keys());
    this.#load();
    return {
      joined: this.others.filter((member) => member.online && !before.has(member.pubkey)),
      left: this.others.filter((member) => !member.online && before.has(member.pubkey)),
    };
  }

  /** The broker is out of reach: nobody is known to be online. */
  forgetPresence(): void {
    this.#online.clear();
    this.#members = this.#members.map((member) => ({ ...member, online: false }));
  }

  #load(): void {
    const { meshId } = this.#mesh;
    const firstKeys = this.#store.firstKeys(meshId);
    this.#members = this.#store.members(meshId).map((details) => {
      const first = firstKeys.get(details.name.toLowerCase());
      return {
        pubkey: details.pubkey,
        name: details.name,
        nameChangedFrom: first === undefined || first === details.pubkey ? undefined : first,
        standing: this.#standingOf(details),
        details,
        online: this.#online.has(details.pubkey),
      };
    });
  }

  #standingOf(member: { pubkey: string; admission?: Admission | undefined }): Standing {
    const name = `${member.pubkey} ${JSON.stringify(member.admission ?? null)}`;
    const known = this.#standings.get(name);
    if (known !== undefined) return known;
    const standing = standingOf(member, this.#trust);
    this.#standings.set(name, standing);
    return standing;
  }
}

function mergePeers(
  known: readonly DirectoryMember[],
  presence: ReadonlyMap<string, PeerEntry>,
): MemberEntry[] {
  const merged = new Map<string, MemberEntry>();
  for (const { details } of known) {
    merged.set(details.pubkey, {
      member_id: details.memberId,
      pubkey: details.pubkey,
      display_name: details.name,
      role: "member",
      capabilities: details.capabilities,
      joined_at: details.joinedAt,
      online: false,
      ...(details.lastSeenAt === undefined ? {} : { last_seen_at: details.lastSeenAt }),
    });
  }
  for (const [pubkey, peer] of presence) {
    merged.set(pubkey, {
      member_id: merged.get(pubkey)?.member_id ?? pubkey,
      pubkey,
      display_name: peer.displayName,
      role: "member",
      capabilities: merged.get(pubkey)?.capabilities ?? [],
      joined_at: merged.get(pubkey)?.joined_at ?? peer.connectedAt ?? "",
      online: true,
    });
  }
  return [...merged.values()];
}
