/**
 * The connections that drive a shim: one that was inherited, or all that come to a socket. Each command has its answer where it came
 * from; events go to everybody, and wait while nobody is there. One that does not read is let go, and holds up nobody else.
 */
import { Channel, type StreamSocket } from "~/agent/channel";
import { checkInheritedSocket } from "~/agent/inherited-socket";
import type { Clock } from "~/clock";
import { listenOnSocket } from "~/disk/unix-socket";
import {
  shimEventBytesKeptMax,
  shimEventsKeptMax,
  shimFrameBytesMax,
  shimOrchestratorsMax,
  shimWaitingBytesMax,
  shimWriteTimeoutMs,
} from "~/wire/limits";
import { encodeEvent, type Parsed, parseCommand, type ShimCommand, type ShimEvent } from "~/wire/shim";

export interface OrchestratorsOptions {
  clock: Clock;
  /** Whether it is over when the last one has said that it drives the agent no more. */
  endsWithLast: boolean;
  command(peer: number, parsed: Parsed<ShimCommand>): void;
  /** It is. May be told again. */
  abandoned(): void;
}

export class Orchestrators {
  readonly #options: OrchestratorsOptions;
  readonly #channels = new Map<number, Channel>();
  /** Those that only pass by: what they are told is kept for an orchestrator all the same. */
  readonly #passing = new Set<number>();
  /** Those that have had the chance to hear of everything, of which the last to go is told. */
  #peers = 0;
  #kept: Uint8Array[] = [];
  #keptBytes = 0;
  #isClosed = false;

  constructor(options: OrchestratorsOptions) {
    this.#options = options;
  }

  /** A new connection. Undefined when there are too many. `isPassing`: a person's command, which is no orchestrator. */
  admit(socket: StreamSocket, { isPassing } = { isPassing: false }): Channel | undefined {
    if (this.#isClosed) {
      socket.terminate();
      return undefined;
    }
    if (this.#channels.size >= shimOrchestratorsMax) {
      const reason = `${shimOrchestratorsMax} are connected already; try again when one of them has left`;
      socket.write(encodeEvent({ event: "Error", command: "connect", reason }));
      socket.end();
      return undefined;
    }
    const peer = ++this.#peers;
    const channel: Channel = new Channel({
      socket,
      clock: this.#options.clock,
      frameBytesMax: shimFrameBytesMax,
      writeTimeoutMs: shimWriteTimeoutMs,
      waitingBytesMax: shimWaitingBytesMax,
      received: (payload) => this.#options.command(peer, parseCommand(payload)),
      saidLast: () => this.#saidLast(peer, channel),
      ended: () => this.#left(peer),
    });
    this.#channels.set(peer, channel);
    if (isPassing) {
      this.#passing.add(peer);
      return channel;
    }
    const kept = this.#kept;
    this.#kept = [];
    this.#keptBytes = 0;
    for (const frame of kept) this.#send(peer, channel, frame, true);
    return channel;
  }

  /** Nobody is there who would miss what is not kept. */
  get #isUnattended(): boolean {
    return this.#channels.size === this.#passing.size;
  }

  /** To everybody, or to the next who comes. */
  tell(event: ShimEvent): void {
    const frame = encodeEvent(event);
    // Those tell only how things are now.
    const isLasting = event.event !== "SessionStats";
    if (this.#isUnattended && isLasting) this.#keep(frame);
    for (const [peer, channel] of [...this.#channels]) this.#send(peer, channel, frame, isLasting);
  }

  /** To one, if it is still there. */
  answer(peer: number, event: ShimEvent): void {
    const channel = this.#channels.get(peer);
    if (channel !== undefined) this.#send(peer, channel, encodeEvent(event), false);
  }

  /** Answers what has come, lets everybody take what waits, within the time that a frame may take, and resolves when all are gone. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#turn();
    // In the first one, a connection that has only just been made is not read yet.
    await this.#turn();
    if (this.#channels.size === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#emptied = resolve;
    for (const channel of [...this.#channels.values()]) channel.close();
    const timer = this.#options.clock.after(shimWriteTimeoutMs, resolve);
    await promise;
    timer.cancel();
  }

  #turn(): Promise<void> {
    return new Promise((resolve) => this.#options.clock.soon(resolve));
  }

  #emptied: (() => void) | undefined;

  #send(peer: number, channel: Channel, frame: Uint8Array, isLasting: boolean): void {
    const isPassing = this.#passing.has(peer);
    channel.send(frame).catch(() => {
      // Why it failed is told by the channel's end. Nobody else can have heard of it when this was the last orchestrator.
      if (isLasting && !isPassing && this.#isUnattended) this.#keep(frame);
    });
  }

  #keep(frame: Uint8Array): void {
    this.#kept.push(frame);
    this.#keptBytes += frame.length;
    while (this.#kept.length > shimEventsKeptMax || this.#keptBytes > shimEventBytesKeptMax) {
      this.#keptBytes -= this.#kept.shift()?.length ?? 0;
    }
  }

  /** It drives the agent no more, but may still read: what it has asked for, and, if nobody else is there, how the agent ends. */
  #saidLast(peer: number, channel: Channel): void {
    const { clock, endsWithLast, abandoned } = this.#options;
    const isLast = this.#channels.size === this.#passing.size + 1 && !this.#passing.has(peer);
    if (isLast && endsWithLast && !this.#isClosed) abandoned();
    else clock.after(shimWriteTimeoutMs, () => channel.close());
  }

  #left(peer: number): void {
    const { endsWithLast, abandoned } = this.#options;
    this.#channels.delete(peer);
    const wasPassing = this.#passing.delete(peer);
    if (this.#channels.size === 0) this.#emptied?.();
    if (this.#isUnattended && !wasPassing && endsWithLast && !this.#isClosed) abandoned();
  }
}

// ── Where they come from ────────────────────────────────────────────────────────────────────────────────────────────────

export interface Entrance {
  /** No new connections; removes the socket. */
  close(): void;
}

const handlersFor = (orchestrators: Orchestrators): Bun.SocketHandler<Channel | undefined> => ({
  open(socket) {
    socket.data = orchestrators.admit(socket);
  },
  data: (socket, bytes) => socket.data?.data(bytes),
  drain: (socket) => socket.data?.drained(),
  end: (socket) => socket.data?.inputEnded(),
  close: (socket) => socket.data?.closed(),
  error: (socket) => socket.data?.closed(),
});

/** The one connection of whoever started us. Throws `usage` when it is none. */
export async function connectInherited(fd: number, orchestrators: Orchestrators): Promise<Entrance> {
  checkInheritedSocket(fd);
  await Bun.connect<Channel | undefined>({ fd, socket: handlersFor(orchestrators), allowHalfOpen: true });
  return { close: () => undefined };
}

/** Throws what `listenOnSocket` does. */
export const listenForOrchestrators = (path: string, orchestrators: Orchestrators): Promise<Entrance> =>
  listenOnSocket(path, handlersFor(orchestrators), { allowHalfOpen: true });
