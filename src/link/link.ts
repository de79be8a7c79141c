/**
 * The daemon's lasting connection to one broker as a member: it performs what state.ts decides, keeps the connection
 * alive, matches answers to requests, and hands every other frame to its owner in the order they came.
 */
import type { Clock, Timer } from "~/clock";
import { MeshError } from "~/errors";
import { isClaudemeshMesh, type MeshEntry } from "~/identity/config";
import { helloFrame } from "~/link/hello";
import { type BrokerTerms, type Demands, type Negotiation, negotiate } from "~/link/negotiate";
import { Requests } from "~/link/requests";
import type { Connect, FrameSocket } from "~/link/socket";
import {
  type LinkEffect,
  type LinkEnd,
  type LinkEvent,
  type LinkState,
  linkEndBy,
  stepLink,
} from "~/link/state";
import type { BrokerFrame, ClientFrameInput, ParsedBrokerFrame, RequestFrame } from "~/wire/broker";
import type { LinkState as LinkName } from "~/wire/ipc";
import { helloTimeoutMs, pingEveryMs, silenceMsMax } from "~/wire/limits";

export interface LinkStatus {
  name: LinkName;
  sinceMs: number;
  rttMs: number | undefined;
  why: string | undefined;
}

export interface LinkOwner {
  /** The broker accepted our hello. */
  opened(terms: BrokerTerms): void;
  /** The connection is gone, whoever ended it; called once for each `opened`. */
  closed(): void;
  received(parsed: ParsedBrokerFrame): void;
  statusChanged(status: LinkStatus): void;
}

export interface LinkOptions {
  mesh: MeshEntry;
  sessionId: string;
  connect: Connect;
  clock: Clock;
  /** Uniform in [0, 1). */
  chance(): number;
  /** What the settings ask of the broker, as they are now; default: nothing. */
  demands?(): Demands;
  owner: LinkOwner;
}

export class Link {
  readonly #options: LinkOptions;
  readonly #requests: Requests;
  #state: LinkState = { phase: "stopped" };
  #socket: FrameSocket | undefined;
  #timer: Timer | undefined;
  #keepAlive: Timer | undefined;
  #isOpen = false;
  /** What the broker of this connection advertised. */
  #advertised: Record<string, unknown> | undefined;
  #heardAtMs = 0;
  /** Of the oldest ping that is not answered. */
  #pingSentAtMs: number | undefined;
  #lastPingAtMs = Number.NEGATIVE_INFINITY;
  #status: LinkStatus;
  readonly #ends = new Map<LinkEnd, number>();

  constructor(options: LinkOptions) {
    this.#options = options;
    this.#requests = new Requests(options.clock);
    this.#status = { name: "connecting", sinceMs: options.clock.now(), rttMs: undefined, why: undefined };
  }

  get status(): LinkStatus {
    return this.#status;
  }

  /** How often a connection or an attempt has ended so far, by why. */
  get ends(): ReadonlyMap<LinkEnd, number> {
    return this.#ends;
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  get bufferedBytes(): number {
    return this.#socket?.bufferedBytes ?? 0;
  }

  start(): void {
    this.#step({ type: "start" });
  }

  stop(): void {
    this.#step({ type: "stop" });
  }

  /** Drops the connection, if there is one, and connects anew without waiting. */
  reconnect(why: string, end?: LinkEnd): void {
    this.#step({ type: "reconnect", why, end });
  }

  /** Gives the connection up; the next one comes after the usual pause. */
  drop(why: string, end?: LinkEnd): void {
    this.#step({ type: "drop", why, end });
  }

  /** What we ask of the broker changed: one that no longer meets it is let go, one that was refused is looked at anew. */
  demandsChanged(): void {
    const isRefused = this.#state.phase === "refused";
    if (isRefused || (this.#isOpen && !this.#negotiate().ok))
      this.reconnect("the settings of this host changed");
  }

  /** False when the link is not open: the frame went nowhere. */
  send(frame: ClientFrameInput): boolean {
    return this.#isOpen && this.#socket?.send(frame) === true;
  }

  /** Sends a frame that the broker answers by `_reqId`. Throws `broker_unreachable`, `timed_out` or what the broker said. */
  request(frame: RequestFrame): Promise<BrokerFrame> {
    return this.#requests.make((reqId) => this.send({ ...frame, _reqId: reqId }));
  }

  #step(event: LinkEvent): void {
    const end = linkEndBy(this.#state, event);
    if (end !== undefined) this.#ends.set(end, (this.#ends.get(end) ?? 0) + 1);
    const { state, effects } = stepLink(this.#state, event, this.#options.chance());
    this.#state = state;
    for (const effect of effects) this.#perform(effect);
    if (state.phase !== "open") this.#leaveOpen();
    this.#updateStatus();
  }

  #perform(effect: LinkEffect): void {
    switch (effect.type) {
      case "open_socket":
        this.#openSocket();
        return;
      case "send_hello":
        this.#socket?.send(
          helloFrame(this.#options.mesh, this.#options.sessionId, this.#options.clock.now(), false),
        );
        return;
      case "close_socket":
        this.#socket?.close(effect.code, effect.reason);
        this.#socket = undefined;
        return;
      case "set_timer":
        this.#timer?.cancel();
        this.#timer = this.#options.clock.after(effect.delayMs, () => this.#step({ type: "timer" }));
        return;
      case "clear_timer":
        this.#timer?.cancel();
        this.#timer = undefined;
    }
  }

  #openSocket(): void {
    const { clock, mesh } = this.#options;
    const socket = this.#options.connect(mesh.brokerUrl, {
      opened: () => this.#step({ type: "socket_opened" }),
      received: (parsed) => this.#receive(parsed),
      heard: () => {
        this.#heardAtMs = clock.monotonicMs();
      },
      pong: () => {
        if (this.#pingSentAtMs === undefined) return;
        this.#status = { ...this.#status, rttMs: clock.monotonicMs() - this.#pingSentAtMs };
        this.#pingSentAtMs = undefined;
      },
      closed: (code, reason) => {
        if (this.#socket !== socket) return;
        this.#socket = undefined;
        this.#step({ type: "closed", code, reason });
      },
    });
    this.#socket = socket;
    this.#timer = clock.after(helloTimeoutMs, () => {
      if (this.#state.phase === "connecting")
        this.drop("the broker did not answer our hello", "hello_timeout");
    });
  }

  #receive(parsed: ParsedBrokerFrame): void {
    if (this.#isOpen) {
      if (parsed.kind === "frame" && this.#requests.settle(parsed.frame)) return;
      this.#options.owner.received(parsed);
      return;
    }
    if (parsed.kind !== "frame") return;
    if (parsed.frame.type === "error") {
      this.#step({ type: "hello_refused", code: parsed.frame.code, message: parsed.frame.message });
    } else if (parsed.frame.type === "hello_ack") {
      this.#advertised = parsed.frame.features;
      const agreed = this.#negotiate();
      if (agreed.ok) this.#enterOpen(agreed.terms);
      else {
        const { kind, feature, detail } = agreed;
        this.#step({ type: "feature_refused", kind, feature, ...(detail === undefined ? {} : { detail }) });
      }
    }
  }

  #negotiate(): Negotiation {
    return negotiate(this.#advertised, isClaudemeshMesh(this.#options.mesh), this.#options.demands?.());
  }

  #enterOpen(terms: BrokerTerms): void {
    this.#step({ type: "greeted" });
    // Its owner has just heard of it and may have ended it at once: then nothing was opened.
    if (this.#state.phase !== "open") return;
    this.#isOpen = true;
    this.#heardAtMs = this.#options.clock.monotonicMs();
    this.#ping();
    this.#options.owner.opened(terms);
  }

  #leaveOpen(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#keepAlive?.cancel();
    this.#pingSentAtMs = undefined;
    this.#lastPingAtMs = Number.NEGATIVE_INFINITY;
    this.#requests.failAll(
      new MeshError("broker_unreachable", "the connection to the broker closed before it answered"),
    );
    this.#options.owner.closed();
  }

  /** Pings every `pingEveryMs`, and looks in between when a broker that is not heard would be taken for dead. */
  #ping(): void {
    const { clock } = this.#options;
    const silentMs = clock.monotonicMs() - this.#heardAtMs;
    if (silentMs >= silenceMsMax) {
      this.drop("the broker fell silent", "silence");
      return;
    }
    if (clock.monotonicMs() - this.#lastPingAtMs >= pingEveryMs) {
      this.#lastPingAtMs = clock.monotonicMs();
      this.#pingSentAtMs ??= clock.monotonicMs();
      this.#socket?.ping();
    }
    this.#keepAlive = clock.after(Math.min(pingEveryMs, silenceMsMax - silentMs), () => this.#ping());
  }

  #updateStatus(): void {
    const name = this.#state.phase === "stopped" ? "waiting" : this.#state.phase;
    const why = "why" in this.#state ? this.#state.why : undefined;
    if (name === this.#status.name && why === this.#status.why) return;
    // A link that keeps failing to connect is shown as waiting, with the reason, not as ever anew connecting.
    if (name === "connecting" && this.#status.name === "waiting") return;
    this.#status = { name, why, sinceMs: this.#options.clock.now(), rttMs: undefined };
    this.#options.owner.statusChanged(this.#status);
  }
}
