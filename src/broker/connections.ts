/**
 * Who is connected. A connection greets first and then has a session: the member that it speaks for. A member has at most one
 * full session, which gets its deliveries and shows its presence, and some that only send.
 */
import type { InferOutput } from "valibot";
import type { Bounds } from "~/broker/bounds";
import { Lanes } from "~/broker/lanes";
import { LeaseWindow } from "~/broker/leases";
import type { MemberRow, MeshRow } from "~/broker/rows";
import { capability, type Hello, type Profile } from "~/wire/broker";
import type { Status } from "~/wire/text";

export type ConnectionId = number;

export interface Connection {
  readonly id: ConnectionId;
  /** Undefined until the hello was accepted. */
  session: Session | undefined;
  /** Nothing that still arrives on it counts. */
  closed: boolean;
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
  readonly presence: Presence = { status: "idle", summary: null, visible: true, profile: null };
  /** The socket has more to write than it should: nothing is pushed until it has drained. */
  backlogged = false;

  constructor(
    connection: ConnectionId,
    identity: Identity,
    hello: Hello,
    connectedAtMs: number,
    bounds: Bounds,
  ) {
    this.connection = connection;
    this.identity = identity;
    this.hello = hello;
    this.connectedAtMs = connectedAtMs;
    this.leases = new LeaseWindow(bounds);
  }

  /** Gets no deliveries, shows no presence and replaces nobody. */
  get sendOnly(): boolean {
    return this.hello.capabilities.includes(capability.sendOnly);
  }
}

export class Connections {
  readonly #byId = new Map<ConnectionId, Connection>();
  readonly #fullByMember = new Map<MemberRow, Session>();
  readonly #sendOnlyByMember = new Map<MemberRow, Set<Session>>();
  readonly #fullByMesh = new Map<MeshRow, Set<Session>>();

  get count(): number {
    return this.#byId.size;
  }

  open(id: ConnectionId): void {
    this.#byId.set(id, { id, session: undefined, closed: false });
  }

  /** The connection if it is there and still counts. */
  get(id: ConnectionId): Connection | undefined {
    const connection = this.#byId.get(id);
    return connection?.closed === false ? connection : undefined;
  }

  forget(id: ConnectionId): void {
    this.#byId.delete(id);
  }

  /** Gives the connection its session. The member's full session before it must have been closed. */
  admit(connection: Connection, session: Session): void {
    const { member, mesh } = session.identity;
    connection.session = session;
    if (session.sendOnly) {
      setOf(this.#sendOnlyByMember, member).add(session);
      return;
    }
    if (this.#fullByMember.has(member)) throw new Error(`member ${member} has a full session already`);
    this.#fullByMember.set(member, session);
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
      this.#fullByMember.delete(member);
      removeFrom(this.#fullByMesh, mesh, session);
    }
    return session;
  }

  /** The session that gets the member's deliveries. */
  fullOf(member: MemberRow): Session | undefined {
    return this.#fullByMember.get(member);
  }

  countSendOnly(member: MemberRow): number {
    return this.#sendOnlyByMember.get(member)?.size ?? 0;
  }

  /** Every session of the member. */
  allOf(member: MemberRow): Session[] {
    const full = this.#fullByMember.get(member);
    return [...(full === undefined ? [] : [full]), ...(this.#sendOnlyByMember.get(member) ?? [])];
  }

  fullIn(mesh: MeshRow): Iterable<Session> {
    return this.#fullByMesh.get(mesh) ?? [];
  }

  full(): Iterable<Session> {
    return this.#fullByMember.values();
  }
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
