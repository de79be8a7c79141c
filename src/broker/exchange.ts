/**
 * Takes what arrives, in order, through the core in batches, and performs what was decided. All that arrives in one turn of the
 * event loop shares one transaction; the next batch begins only when the effects of this one are performed, so no decision is
 * made on memory that is behind the disk. A connection that sends faster than the disk takes is not read from meanwhile.
 */
import type { Bounds } from "~/broker/bounds";
import type { ConnectionId } from "~/broker/connections";
import { Core } from "~/broker/core";
import type { Arrival, Decision, OutgoingFrame, Output } from "~/broker/effects";
import { binaryMisfit, parseFrame } from "~/broker/frames";
import { instantOf } from "~/broker/instant";
import type { Clock, Timer } from "~/clock";
import type { Writer } from "~/disk/writer";
import { asMeshError } from "~/errors";
import type { Log } from "~/log";
import { closeCode } from "~/wire/broker";
import { faultOf } from "~/wire/fault";
import { closeReasonBytesMax } from "~/wire/limits";
import { cutToBytes } from "~/wire/text";

/** The part of a WebSocket that the broker uses; Bun's `ServerWebSocket` is one. */
export interface Socket {
  /** Bytes sent, or -1 when they wait in the socket's buffer, or 0 when they were dropped. */
  send(text: string): number;
  cork(action: () => void): void;
  close(code: number, reason: string): void;
  terminate(): void;
  ping(): void;
  pause(): void;
  resume(): void;
  getBufferedAmount(): number;
}

interface Peer {
  readonly id: ConnectionId;
  readonly socket: Socket;
  readonly helloTimer: Timer;
  /** Nothing more is read from it or written to it. */
  closed: boolean;
  paused: boolean;
  waitingFrames: number;
  waitingBytes: number;
  heardAtMs: number;
}

interface Waiting {
  arrival: Arrival;
  peer: Peer;
  bytes: number;
}

/** A push that somebody wrote, not one that tells of who comes and goes. */
const isMessage = (frame: OutgoingFrame): boolean => frame.type === "push" && frame.subtype === undefined;

/** RFC 6455 §7.1.5: the connection ended without a closing frame. */
const closeCodeNone = 1006;

const arrivalsPerBatchMax = 512;
const stoppingReason = "the broker is stopping";

export class Exchange {
  readonly #core: Core;
  readonly #writer: Writer;
  readonly #clock: Clock;
  readonly #bounds: Bounds;
  readonly #log: Log;
  readonly #peers = new Map<ConnectionId, Peer>();
  #lastId = 0;
  #queue: Waiting[] = [];
  #batch: Promise<void> | undefined;
  #lapseTimer: Timer | undefined;
  #heartbeat: Timer | undefined;
  #lastPingMs: number;
  #stopping = false;

  constructor(parts: { core: Core; writer: Writer; clock: Clock; bounds: Bounds; log: Log }) {
    this.#core = parts.core;
    this.#writer = parts.writer;
    this.#clock = parts.clock;
    this.#bounds = parts.bounds;
    this.#log = parts.log;
    this.#lastPingMs = parts.clock.monotonicMs();
  }

  /** Begins to ping. */
  start(): void {
    this.#scheduleHeartbeat();
  }

  get connectionCount(): number {
    return this.#peers.size;
  }

  // ── What sockets report ───────────────────────────────────────────────────────────────────────────────────────────

  /** What the next connection goes by; its socket knows it before it is opened, for opening may end in closing. */
  newId(): ConnectionId {
    this.#lastId += 1;
    return this.#lastId;
  }

  open(id: ConnectionId, socket: Socket): void {
    this.#peers.set(id, {
      id,
      socket,
      helloTimer: this.#clock.after(this.#bounds.helloTimeoutMs, () => this.perform(this.#core.helloDue(id))),
      closed: false,
      paused: false,
      waitingFrames: 0,
      waitingBytes: 0,
      heardAtMs: this.#clock.monotonicMs(),
    });
    if (this.#stopping) socket.close(closeCode.goingAway, stoppingReason);
    else this.perform(this.#core.open(id));
  }

  /** A message arrived; `undefined` stands for a binary one. */
  receive(id: ConnectionId, text: string | undefined): void {
    const peer = this.#peers.get(id);
    if (peer === undefined || peer.closed || this.#stopping) return;
    peer.heardAtMs = this.#clock.monotonicMs();
    const input = text === undefined ? binaryMisfit : parseFrame(text);
    this.#enqueue({ peer, arrival: { connection: id, input }, bytes: text?.length ?? 0 });
  }

  /** A ping or a pong arrived. */
  heard(id: ConnectionId): void {
    const peer = this.#peers.get(id);
    if (peer !== undefined) peer.heardAtMs = this.#clock.monotonicMs();
  }

  drained(id: ConnectionId): void {
    this.perform(this.#core.drained(id, instantOf(this.#clock)));
  }

  /** The socket is closed, by whichever side. What it sent before still counts. `code`: of the closing frame, if one came. */
  closed(id: ConnectionId, code = closeCodeNone): void {
    const peer = this.#peers.get(id);
    if (peer === undefined) return;
    if (!peer.closed) this.#core.tallies.peerClosed(code);
    peer.closed = true;
    peer.helloTimer.cancel();
    this.#peers.delete(id);
    this.#enqueue({ peer, arrival: { connection: id, input: { type: "gone" } }, bytes: 0 });
  }

  // ── Batches ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #enqueue(waiting: Waiting): void {
    const { peer } = waiting;
    this.#queue.push(waiting);
    peer.waitingFrames += 1;
    peer.waitingBytes += waiting.bytes;
    if (!peer.paused && !peer.closed && this.#isTooMuch(peer, 1)) {
      peer.paused = true;
      peer.socket.pause();
    }
    this.#startBatch();
  }

  /** Whether more than this share of what may wait does. */
  #isTooMuch({ waitingFrames, waitingBytes }: Peer, share: number): boolean {
    const { framesWaitingPerConnectionMax, frameBytesWaitingPerConnectionMax } = this.#bounds;
    return (
      waitingFrames >= framesWaitingPerConnectionMax * share ||
      waitingBytes >= frameBytesWaitingPerConnectionMax * share
    );
  }

  #startBatch(): void {
    if (this.#batch !== undefined || this.#queue.length === 0) return;
    this.#batch = this.#runBatch()
      .catch((error: unknown) => {
        this.#log("error", "a batch could not be finished", { error: faultOf(error) });
      })
      .then(() => {
        this.#batch = undefined;
        this.#startBatch();
      });
  }

  async #runBatch(): Promise<void> {
    let taken: Waiting[] = [];
    const decisions: Decision[] = [];
    try {
      await this.#writer.submit(() => {
        taken = this.#take();
        const at = instantOf(this.#clock);
        for (const { arrival } of taken) decisions.push(this.#core.decide(arrival, at));
      });
    } catch (error) {
      // When not even the transaction could begin, nothing was taken yet: what waits now is answered all the same.
      if (taken.length === 0) taken = this.#take();
      const { code } = asMeshError(error);
      this.#log("error", "a batch was not stored", { code, error: faultOf(error), frames: taken.length });
      const arrivals = taken.map(({ arrival }) => arrival);
      this.perform(this.#core.lose(arrivals, decisions, instantOf(this.#clock)));
      return;
    } finally {
      for (const waiting of taken) this.#release(waiting);
    }
    this.perform(this.#core.settle(decisions, instantOf(this.#clock)));
  }

  /** The oldest that wait, each connection's in order; what follows a hello stays for the next batch. */
  #take(): Waiting[] {
    const taken: Waiting[] = [];
    const left: Waiting[] = [];
    const ended = new Set<ConnectionId>();
    for (const waiting of this.#queue) {
      const { connection } = waiting.arrival;
      if (taken.length >= arrivalsPerBatchMax || ended.has(connection)) {
        left.push(waiting);
        continue;
      }
      taken.push(waiting);
      if (Core.endsTurn(waiting.arrival)) ended.add(connection);
    }
    this.#queue = left;
    return taken;
  }

  #release({ peer, bytes }: Waiting): void {
    peer.waitingFrames -= 1;
    peer.waitingBytes -= bytes;
    if (peer.paused && !peer.closed && !this.#isTooMuch(peer, 0.5)) {
      peer.paused = false;
      peer.socket.resume();
    }
  }

  // ── Performing ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Writes what is to be sent, connection by connection, each in order. */
  perform(outputs: readonly Output[]): void {
    const byPeer = new Map<Peer, Exclude<Output, { do: "log" }>[]>();
    for (const output of outputs) {
      if (output.do === "log") {
        this.#log(output.level, output.message, output.fields);
        continue;
      }
      if (output.do === "send" && output.frame.type === "ack")
        this.#core.tallies.sends.add(output.frame.code);
      const peer = this.#peers.get(output.do === "send" ? output.to : output.connection);
      if (peer === undefined || peer.closed) continue;
      const list = byPeer.get(peer);
      if (list === undefined) byPeer.set(peer, [output]);
      else list.push(output);
    }
    for (const [peer, list] of byPeer) peer.socket.cork(() => this.#write(peer, list));
    this.#scheduleLapse();
  }

  #write(peer: Peer, outputs: readonly Exclude<Output, { do: "log" }>[]): void {
    for (const output of outputs) {
      if (peer.closed) return;
      if (output.do === "close") {
        peer.closed = true;
        peer.helloTimer.cancel();
        this.#core.tallies.closedByBroker.add(String(output.code));
        peer.socket.close(output.code, cutToBytes(output.reason, closeReasonBytesMax));
        return;
      }
      const text = JSON.stringify(output.frame);
      const sent = peer.socket.send(text);
      if (sent !== 0 && isMessage(output.frame)) this.#core.tallies.pushes++;
      if (sent > 0) continue;
      if (sent === 0 || peer.socket.getBufferedAmount() > this.#bounds.socketBacklogBytesMax) {
        this.#log("warn", "closed a connection that does not take what is sent to it", {
          connection: peer.id,
        });
        peer.closed = true;
        this.#core.tallies.closedByBroker.add("backlog");
        peer.socket.terminate();
        return;
      }
      this.#core.backlogged(peer.id);
    }
  }

  // ── Timers ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** One timer for the earliest lease. A lease made later runs out later, so a timer that runs is never too late. */
  #scheduleLapse(): void {
    if (this.#lapseTimer !== undefined || this.#stopping) return;
    const dueMs = this.#core.nextLapseMs();
    if (dueMs === undefined) return;
    this.#lapseTimer = this.#clock.after(Math.ceil(dueMs - this.#clock.monotonicMs()), () => {
      this.#lapseTimer = undefined;
      this.perform(this.#core.lapse(instantOf(this.#clock)));
    });
  }

  /** Looks for silent connections twice as often as it pings them. */
  #scheduleHeartbeat(): void {
    this.#heartbeat = this.#clock.after(this.#bounds.pingEveryMs / 2, () => {
      this.#beat(this.#clock.monotonicMs());
      this.#scheduleHeartbeat();
    });
  }

  #beat(nowMs: number): void {
    const isPingDue = nowMs - this.#lastPingMs >= this.#bounds.pingEveryMs;
    if (isPingDue) this.#lastPingMs = nowMs;
    for (const peer of [...this.#peers.values()]) {
      // Nothing can be heard from a connection that is not being read from.
      if (peer.paused) peer.heardAtMs = nowMs;
      // Should the socket have drained without saying so, its deliveries go on here.
      if (peer.socket.getBufferedAmount() === 0) this.drained(peer.id);
      if (nowMs - peer.heardAtMs > this.#bounds.silenceMsMax) {
        this.#log("info", "closed a connection that fell silent", { connection: peer.id });
        peer.closed = true;
        this.#core.tallies.closedByBroker.add("silence");
        peer.socket.terminate();
      } else if (isPingDue && !peer.closed) {
        peer.socket.ping();
      }
    }
  }

  // ── The end ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Takes nothing more, finishes what waits, and closes every connection. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#heartbeat?.cancel();
    this.#lapseTimer?.cancel();
    await this.#idle();
    for (const peer of [...this.#peers.values()]) {
      peer.closed = true;
      peer.helloTimer.cancel();
      peer.socket.close(closeCode.goingAway, stoppingReason);
    }
    await this.#idle();
  }

  async #idle(): Promise<void> {
    while (this.#batch !== undefined) await this.#batch;
  }
}
