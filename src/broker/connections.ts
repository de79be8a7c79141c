/**
 * Who is connected. A connection greets first and then has a session: the member that it speaks for. A member has one full
 * session, or several where the broker's policy allows it, and some that only send. Its deliveries go to the oldest full one alone:
 * so each is leased once, and none overtakes another of the same sender. When that one ends, the next oldest takes over.
 */
import type { InferOutput } from "valibot";
import type { Bounds } from "~/broker/bounds";
import { Lanes } from "~/broker/lanes";
import { LeaseWindow } from "~/broker/leases";
import type { MemberRow, MeshRow } from "~/broker/rows";
import { capability, type Hello } from "~/wire/broker";
import type { Profile } from "~/wire/profile";
import type { Status } from "~/wire/text";

export type ConnectionId = number;

export interface Connection {
  readonly id: ConnectionId;
  /** Undefined until the hello was accepted. */
  session: Session | undefined;
  /** Nothing that still arrives on it counts. */
  closed: boolean;
  /** Its socket is gone; the connection itself goes once that is settled. */
  leaving: boolean;
}

/** The member that a connection speaks for, as it was at the hello. */
export interface Identity {
  readonly member: MemberRow;
  readonly memberId: string;
  readonly pubkey: string;
  readonly displayName: string;
  readonly mesh: MeshRow;
  readonly meshId: string;
}

/** What a member says of itself: its full sessions share it, and it ends with the last of them. */
export interface Presence {
  status: InferOutput<typeof Status>;
  summary: string | null;
  visible: boolean;
  profile: InferOutput<typeof Profile> | null;
}

export class Session {
  readonly connection: ConnectionId;
  readonly identity: Identity;
  readonly hello: Hello;
  readonly connectedAtMs: number;
  readonly lanes = new Lanes();
  readonly leases: LeaseWindow;
  readonly presence: Presence;
  /** The socket has more to write than it should: nothing is pushed until it has drained. */
  backlogged = false;

  constructor(
    connection: ConnectionId,
    identity: Identity,
    hello: Hello,
    connectedAtMs: number,
    bounds: Bounds,
    presence: Presence = { status: "idle", summary: null, visible: true, profile: null },
  ) {
    this.connection = connection;
    this.identity = identity;
    this.hello = hello;
    this.connectedAtMs = connectedAtMs;
    this.leases = new LeaseWindow(bounds);
    this.presence = presence;
  }

  get sendOnly(): boolean {
    return isSendOnly(this.hello);
  }
}

/** Such a connection gets no deliveries, shows no presence and replaces nobody. */
export const isSendOnly = (hello: Hello): boolean => hello.capabilities.includes(capability.sendOnly);

export class Connections {
  readonly #byId = new Map<ConnectionId, Connection>();
  /** Oldest first. */
  readonly #fullByMember = new Map<MemberRow, Set<Session>>();
  readonly #sendOnlyByMember = new Map<MemberRow, Set<Session>>();
  readonly #fullByMesh = new Map<MeshRow, Set<Session>>();

  get count(): number {
    return this.#byId.size;
  }

  /** How many count, by what they are for. */
  countByKind(): Record<"full" | "send_only" | "greeting", number> {
    const counts = { full: 0, send_only: 0, greeting: 0 };
    for (const { closed, session } of this.#byId.values()) {
      if (closed) continue;
      if (session === undefined) counts.greeting++;
      else if (session.sendOnly) counts.send_only++;
      else counts.full++;
    }
    return counts;
  }

  open(id: ConnectionId): void {
    this.#byId.set(id, { id, session: undefined, closed: false, leaving: false });
  }

  /** The connection if it is there and still counts. */
  get(id: ConnectionId): Connection | undefined {
    const connection = this.#byId.get(id);
    return connection?.closed === false ? connection : undefined;
  }

  forget(id: ConnectionId): void {
    this.#byId.delete(id);
  }

  /** Gives the connection its session. Those that it replaces must have been closed. */
  admit(connection: Connection, session: Session): void {
    const { member, mesh } = session.identity;
    connection.session = session;
    if (session.sendOnly) {
      setOf(this.#sendOnlyByMember, member).add(session);
      return;
    }
    setOf(this.#fullByMember, member).add(session);
    setOf(this.#fullByMesh, mesh).add(session);
  }

  /** Marks the connection closed and ends its session, which is returned. Its leases end with it. */
  close(id: ConnectionId): Session | undefined {
    const connection = this.#byId.get(id);
    if (connection === undefined || connection.closed) return undefined;
    connection.closed = true;
    const { session } = connection;
    if (session === undefined) return undefined;
    const { member, mesh } = session.identity;
    if (session.sendOnly) {
      removeFrom(this.#sendOnlyByMember, member, session);
    } else {
      removeFrom(this.#fullByMember, member, session);
      removeFrom(this.#fullByMesh, mesh, session);
    }
    return session;
  }

  /** The session that gets the member's deliveries: its oldest full one. */
  fullOf(member: MemberRow): Session | undefined {
    return firstOf(this.#fullByMember.get(member));
  }

  /** Every session of the member but those whose sockets are gone. */
  presentOf(member: MemberRow): { full: Session[]; sendOnly: number } {
    const isThere = ({ connection }: Session) => this.get(connection)?.leaving === false;
    return {
      full: [...(this.#fullByMember.get(member) ?? [])].filter(isThere),
      sendOnly: [...(this.#sendOnlyByMember.get(member) ?? [])].filter(isThere).length,
    };
  }

  /** Every session of the member. */
  allOf(member: MemberRow): Session[] {
    return [...(this.#fullByMember.get(member) ?? []), ...(this.#sendOnlyByMember.get(member) ?? [])];
  }

  fullIn(mesh: MeshRow): Iterable<Session> {
    return this.#fullByMesh.get(mesh) ?? [];
  }

  /** The sessions that get deliveries, one for each member that has any. */
  *takers(): Iterable<Session> {
    for (const sessions of this.#fullByMember.values()) {
      const taker = firstOf(sessions);
      if (taker !== undefined) yield taker;
    }
  }
}

function firstOf<T>(values: Iterable<T> = []): T | undefined {
  for (const value of values) return value;
  return undefined;
}

function setOf<K, V>(map: Map<K, Set<V>>, key: K): Set<V> {
  let set = map.get(key);
  if (set === undefined) {
    set = new Set();
    map.set(key, set);
  }
  return set;
}

function removeFrom<K, V>(map: Map<K, Set<V>>, key: K, value: V): void {
  const set = map.get(key);
  set?.delete(value);
  if (set?.size === 0) map.delete(key);
}
