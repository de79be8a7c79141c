/**
 * The broker's state machine. For each frame `decide` says, inside the batch's transaction, what shall happen; once that is on disk
 * `settle` makes it so, and when it could not be committed `lose` answers `internal` instead. Sessions and leases change only in
 * `settle` and by what happens to sockets and timers, so a failed commit leaves nothing half-done. No I/O but the store's, no
 * clock, no chance.
 */
import type { Bounds } from "~/broker/bounds";
import { type ConnectionId, Connections, type Identity, Session } from "~/broker/connections";
import { type Counters, type DecideContext, decideArrival, decideLost } from "~/broker/decide";
import { pushFrame } from "~/broker/directory";
import {
  type Arrival,
  closeCodeInternal,
  type Decision,
  type Effect,
  type OutgoingFrame,
  type Output,
  peerEvent,
  refuseConnection,
  refuseHello,
  type SystemEvent,
} from "~/broker/effects";
import type { Instant } from "~/broker/instant";
import type { Joined, NewId, Removal } from "~/broker/membership";
import { meet } from "~/broker/policy";
import { Rate } from "~/broker/rate";
import type { MemberRow, MeshRow } from "~/broker/rows";
import { dedupeFeature, defaultSettings, type Settings } from "~/broker/settings";
import type { Store } from "~/broker/sqlite";
import { Tallies } from "~/broker/tallies";
import { systemCodeOf } from "~/errors";
import { closeCode, type Features, type Hello } from "~/wire/broker";
import { faultOf } from "~/wire/fault";

const pushesPerReadMax = 64;
/** Added to the size of a push's ciphertext for the rest of its frame. */
const pushOverheadBytes = 512;

const endingTypes: ReadonlySet<Arrival["input"]["type"]> = new Set([
  "hello",
  "list_members",
  "list_peers",
  "set_visible",
]);

/** SQLite's result codes (with their extensions) that tell of the disk or the process, not of what was asked. */
const storageFailure = /^SQLITE_(BUSY|CANTOPEN|CORRUPT|FULL|IOERR|LOCKED|NOMEM|NOTADB|PROTOCOL|READONLY)/;

export class Core {
  readonly connections = new Connections();
  readonly counters: Counters = { malformed: 0, unknownType: 0, ignoredAcks: 0 };
  readonly tallies = new Tallies();
  readonly #store: Store;
  readonly #bounds: Bounds;
  readonly #newId: NewId;
  readonly #settings: Settings;
  readonly #context: DecideContext;

  constructor(store: Store, bounds: Bounds, newId: NewId, settings: Settings = defaultSettings) {
    this.#store = store;
    this.#bounds = bounds;
    this.#newId = newId;
    this.#settings = settings;
    const isConnected = (member: MemberRow) => this.connections.fullOf(member) !== undefined;
    this.#context = {
      store,
      bounds,
      connections: this.connections,
      counters: this.counters,
      tallies: this.tallies,
      sends: { store, bounds, newId, rate: new Rate(bounds), isConnected },
      connectionPolicy: settings.connectionPolicy,
    };
  }

  // ── Sockets and timers ────────────────────────────────────────────────────────────────────────────────────────────

  open(id: ConnectionId): Output[] {
    this.connections.open(id);
    if (this.connections.count <= this.#bounds.connectionsPerBrokerMax) return [];
    const message = `this broker has ${this.#bounds.connectionsPerBrokerMax} connections, the most it takes`;
    return this.#refuse(id, "too_many_connections", message);
  }

  /** To be called `helloTimeoutMs` after `open`. */
  helloDue(id: ConnectionId): Output[] {
    const connection = this.connections.get(id);
    if (connection === undefined || connection.session !== undefined) return [];
    const seconds = this.#bounds.helloTimeoutMs / 1000;
    return this.#refuse(id, "hello_timeout", `no hello came within ${seconds} s`);
  }

  /** The socket has more to write than it should: nothing more is pushed on it. */
  backlogged(id: ConnectionId): void {
    const session = this.connections.get(id)?.session;
    if (session !== undefined) session.backlogged = true;
  }

  /** The socket has written what it had. */
  drained(id: ConnectionId, at: Instant): Output[] {
    const session = this.connections.get(id)?.session;
    if (session === undefined || !session.backlogged) return [];
    session.backlogged = false;
    return this.#push(session, at);
  }

  /** When the next lease runs out, in steady milliseconds; undefined when nothing is in flight. */
  nextLapseMs(): number | undefined {
    let next: number | undefined;
    for (const { leases } of this.connections.takers()) {
      const { dueMs } = leases;
      if (dueMs !== undefined && (next === undefined || dueMs < next)) next = dueMs;
    }
    return next;
  }

  /** Takes back the leases that have run out, and pushes from the oldest of them again. */
  lapse(at: Instant): Output[] {
    const outputs: Output[] = [];
    for (const session of [...this.connections.takers()]) {
      const { count } = session.leases;
      if (!session.leases.lapse(at)) continue;
      this.tallies.redeliveries.add("lapsed", count);
      const fields = { member: session.identity.memberId, messages: count };
      outputs.push({ do: "log", level: "warn", message: "not acknowledged in time, pushed again", fields });
      outputs.push(...this.#push(session, at));
    }
    return outputs;
  }

  /** Tells a mesh of its new member. */
  joined(joined: Joined): Output[] {
    if (joined.alreadyMember) return [];
    const { mesh, meshId, pubkey, displayName } = joined;
    return this.#announce(mesh, { meshId, event: "member_joined", pubkey, displayName }, undefined);
  }

  // ── Frames ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Whether the connection's next frames wait for the next batch: after a hello, since only the commit makes it a session, and
   * after what costs much or tells many, so that one connection cannot fill a batch with it.
   */
  static endsTurn({ input }: Arrival): boolean {
    return endingTypes.has(input.type);
  }

  /**
   * Decides about one arrival, inside the batch's transaction. What goes wrong with it alone is undone alone and answered
   * `internal`; an error of the disk is thrown, for it is the whole batch's.
   */
  decide(arrival: Arrival, at: Instant): Decision {
    try {
      return this.#store.whole(() => decideArrival(arrival, this.#context, at));
    } catch (error) {
      if (!this.#store.canGoOn || storageFailure.test(systemCodeOf(error) ?? "")) throw error;
      const fields = { type: arrival.input.type, error: faultOf(error) };
      const fault: Effect = { do: "log", level: "error", message: "a frame could not be handled", fields };
      return { effects: [fault, ...decideLost(arrival, this.#context)] };
    }
  }

  /** Makes what was decided so, after the commit. */
  settle(decisions: readonly Decision[], at: Instant): Output[] {
    const outputs: Output[] = [];
    const woken = new Set<MemberRow>();
    for (const { effects } of decisions) {
      for (const effect of effects) this.#perform(effect, woken, outputs, at);
    }
    for (const member of woken) {
      const session = this.connections.fullOf(member);
      if (session !== undefined) outputs.push(...this.#push(session, at));
    }
    return outputs;
  }

  /**
   * The batch was not committed: every arrival in it, decided or not, is answered as not done. Each lane is held by the id that
   * held it before the batch, else by its first one in the batch.
   */
  lose(arrivals: readonly Arrival[], decisions: readonly Decision[], at: Instant): Output[] {
    this.#store.forgetCounts();
    for (const { lane } of decisions.toReversed()) {
      if (lane !== undefined) lane.session.lanes.restore(lane.target, lane.heldBefore);
    }
    const outputs: Output[] = [];
    for (const arrival of arrivals) {
      for (const effect of decideLost(arrival, this.#context)) this.#perform(effect, new Set(), outputs, at);
    }
    return outputs;
  }

  #perform(effect: Effect, woken: Set<MemberRow>, outputs: Output[], at: Instant): void {
    switch (effect.do) {
      case "send":
      case "log":
        outputs.push(effect);
        break;
      case "close":
        outputs.push(...this.#close(effect.connection, effect.code, effect.reason, at));
        break;
      case "admit":
        outputs.push(...this.#admit(effect.connection, effect.hello, effect.identity, at));
        woken.add(effect.identity.member);
        break;
      case "settle_lease":
        if (effect.isNew) this.tallies.acknowledged++;
        this.connections.fullOf(effect.member)?.leases.settle(effect.messageId);
        woken.add(effect.member);
        break;
      case "wake":
        woken.add(effect.member);
        break;
      case "announce":
        outputs.push(...this.#announce(effect.mesh, effect.event, effect.except));
        break;
      case "expel":
        outputs.push(...this.#expel(effect.removal, at));
        break;
      case "leave":
        outputs.push(...this.#end(effect.connection, at));
        this.connections.forget(effect.connection);
        break;
    }
  }

  #admit(id: ConnectionId, hello: Hello, identity: Identity, at: Instant): Output[] {
    const connection = this.connections.get(id);
    if (connection === undefined) return [];
    const { member, mesh } = identity;
    const present = this.connections.presentOf(member);
    const meeting = meet(hello, present, this.#settings.connectionPolicy, this.#bounds);
    if ("refused" in meeting) {
      this.connections.close(id);
      this.tallies.hellos.add(meeting.refused.code);
      return refuseHello(id, meeting.refused);
    }
    const { replaces } = meeting;
    const before = this.connections.fullOf(member);
    const beside = present.full.find((session) => !replaces.includes(session));
    const outputs: Output[] = [];
    for (const older of replaces) {
      this.#closeSession(older.connection);
      const reason = "replaced by a newer connection of this member";
      outputs.push({ do: "close", connection: older.connection, code: closeCode.replaced, reason });
    }
    const session = new Session(id, identity, hello, at.wallMs, this.#bounds, beside?.presence);
    this.connections.admit(connection, session);
    this.tallies.hellos.add("admitted");
    const frame = {
      type: "hello_ack" as const,
      presenceId: this.#newId(at.wallMs),
      memberDisplayName: identity.displayName,
      features: this.#features(),
    };
    outputs.push({ do: "send", to: id, frame });
    const isSeen = !session.sendOnly && session.presence.visible;
    if (isSeen && before?.presence.visible !== true)
      outputs.push(...this.#announce(mesh, peerEvent(identity, "peer_joined"), member));
    return outputs;
  }

  #features(): Features & Record<string, unknown> {
    return {
      client_message_id_dedupe: dedupeFeature(this.#settings),
      max_payload: { version: 1, inline_bytes: this.#bounds.inlineBytes },
      lanes: { version: 1 },
      members: { version: 1 },
      concurrent_connection_policy: { version: 1, default_policy: this.#settings.connectionPolicy },
    };
  }

  #expel({ member, meshId }: Removal, at: Instant): Output[] {
    const outputs = this.connections
      .allOf(member.member)
      .flatMap(({ connection }) => this.#close(connection, closeCode.removed, "removed from the mesh", at));
    if (member.removed_at !== null) return outputs;
    const event = "member_removed";
    const { pubkey, display_name: displayName } = member;
    return [...outputs, ...this.#announce(member.mesh, { meshId, event, pubkey, displayName }, undefined)];
  }

  /** Of a connection that has no session yet. */
  #refuse(id: ConnectionId, code: string, message: string): Output[] {
    this.connections.close(id);
    return refuseConnection(id, code, message);
  }

  #close(id: ConnectionId, code: number, reason: string, at: Instant): Output[] {
    return [{ do: "close", connection: id, code, reason }, ...this.#end(id, at)];
  }

  /** Ends the connection's session. The member's next one takes over what was in flight; with the last of them a peer goes. */
  #end(id: ConnectionId, at: Instant): Output[] {
    const session = this.#closeSession(id);
    if (session === undefined || session.sendOnly) return [];
    const { identity, presence } = session;
    const heir = this.connections.fullOf(identity.member);
    if (heir !== undefined) return this.#push(heir, at);
    if (!presence.visible) return [];
    return this.#announce(identity.mesh, peerEvent(identity, "peer_left"), identity.member);
  }

  /** What was in flight to it goes out again, to the member's next connection. */
  #closeSession(id: ConnectionId): Session | undefined {
    const session = this.connections.close(id);
    if (session !== undefined) this.tallies.redeliveries.add("closed", session.leases.count);
    return session;
  }

  #announce(mesh: MeshRow, event: SystemEvent, except: MemberRow | undefined): Output[] {
    const { meshId, pubkey, displayName } = event;
    const eventData = { pubkey, displayName };
    const frame: OutgoingFrame = {
      type: "push",
      subtype: "system",
      meshId,
      event: event.event,
      eventData,
    };
    const outputs: Output[] = [];
    for (const { connection, identity } of this.connections.fullIn(mesh)) {
      if (identity.member !== except) outputs.push({ do: "send", to: connection, frame });
    }
    return outputs;
  }

  /** Pushes what waits for the session's member, in the order of acceptance, as far as its window and its socket take it. */
  #push(session: Session, at: Instant): Output[] {
    const outputs: Output[] = [];
    const { leases, identity, connection: to } = session;
    if (this.connections.fullOf(identity.member) !== session) return outputs;
    while (!session.backlogged) {
      const wanted = Math.min(pushesPerReadMax, this.#bounds.leasesPerConnectionMax - leases.count);
      if (wanted <= 0) return outputs;
      let deliveries: ReturnType<Store["undelivered"]>;
      try {
        deliveries = this.#store.undelivered(identity.member, leases.pushedUpTo, wanted);
      } catch (error) {
        // What was committed stays so; this member reads on when it is back and the disk is, too.
        const fields = { member: identity.memberId, error: faultOf(error) };
        outputs.push({ do: "log", level: "error", message: "cannot read what waits for a member", fields });
        return [...outputs, ...this.#close(to, closeCodeInternal, "the broker cannot read its store", at)];
      }
      for (const delivery of deliveries) {
        const bytes = delivery.ciphertext.length + pushOverheadBytes;
        if (!leases.hasRoomFor(bytes)) return outputs;
        leases.lease(delivery.message_id, delivery.seq, bytes, at);
        outputs.push({ do: "send", to, frame: pushFrame(delivery, identity.meshId) });
      }
      if (deliveries.length < wanted) return outputs;
    }
    return outputs;
  }
}
