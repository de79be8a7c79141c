/**
 * The network between daemons and the broker: each connection keeps the order of its frames, as TCP does, and nothing
 * else is certain. Frames are late, connections end on one side long before the other notices, a partition swallows
 * everything in silence. Every frame passes here, so here is where the checkers look.
 */
import type { Exchange, Socket } from "~/broker/exchange";
import type { FrameSocket, SocketHandlers } from "~/link/socket";
import { parseBrokerFrame } from "~/wire/broker";
import type { Process, World } from "./world";

export interface NetworkFaults {
  /** How likely a frame is to be the last that its connection carries. */
  cut: number;
  delayMsMax: number;
}

export interface Watch {
  /** A frame on the wire, whichever way it goes. */
  frame(text: string, from: "daemon" | "broker", daemon: string): void;
}

export interface Listener {
  process: Process;
  exchange: Exchange;
}

export class Network {
  readonly faults: NetworkFaults = { cut: 0, delayMsMax: 20 };
  /** Daemons that cannot reach the broker: what they send vanishes, and so does what is sent to them. */
  readonly partitioned = new Set<string>();
  broker: Listener | undefined;
  injected = 0;
  readonly #world: World;
  readonly #watch: Watch;

  constructor(world: World, watch: Watch) {
    this.#world = world;
    this.#watch = watch;
  }

  /** The daemon's way to the broker. */
  connect(daemon: string, process: Process, handlers: SocketHandlers): FrameSocket {
    const wire = new Wire(this.#world, this, this.#watch, daemon, process, handlers);
    wire.dial();
    return wire.client;
  }
}

/** One connection, and what is under way on it in each direction. */
class Wire {
  readonly client: FrameSocket;
  readonly #world: World;
  readonly #network: Network;
  readonly #watch: Watch;
  readonly #daemon: string;
  readonly #process: Process;
  readonly #handlers: SocketHandlers;
  #server: Listener | undefined;
  #connectionId: number | undefined;
  #clientOpen = false;
  #clientDone = false;
  #serverDone = false;
  /** When the last frame of a direction arrives: none overtakes it. */
  readonly #lastArrivalMs = { up: 0, down: 0 };
  /** Neither direction carries anything any more, whatever the two ends believe. */
  #isGone = false;
  #paused = false;
  readonly #held: (() => void)[] = [];

  constructor(
    world: World,
    network: Network,
    watch: Watch,
    daemon: string,
    process: Process,
    handlers: SocketHandlers,
  ) {
    this.#world = world;
    this.#network = network;
    this.#watch = watch;
    this.#daemon = daemon;
    this.#process = process;
    this.#handlers = handlers;
    // A process that dies takes its end with it; the other end finds out later.
    process.onDeath(() => {
      this.#clientDone = true;
      this.#travel("up", () => this.#endServer());
    });
    this.client = {
      bufferedBytes: 0,
      send: (frame) => {
        if (!this.#clientOpen || this.#clientDone || !process.alive) return false;
        const text = JSON.stringify(frame);
        watch.frame(text, "daemon", daemon);
        this.#carry("up", () => this.#toServer(() => this.#server?.exchange.receive(this.#id, text)));
        return true;
      },
      ping: () =>
        this.#carry("up", () =>
          this.#toServer(() => {
            this.#server?.exchange.heard(this.#id);
            this.#carry("down", () =>
              this.#toClient(() => {
                handlers.heard();
                handlers.pong();
              }),
            );
          }),
        ),
      close: () => {
        if (this.#clientDone) return;
        this.#clientDone = true;
        this.#travel("up", () => this.#endServer());
      },
    };
  }

  get #id(): number {
    return this.#connectionId ?? -1;
  }

  dial(): void {
    this.#carry("up", () => {
      const server = this.#network.broker;
      if (server === undefined || !server.process.alive) {
        this.#endClient(1006, "connection refused");
        return;
      }
      this.#server = server;
      this.#connectionId = server.exchange.newId();
      server.process.onDeath(() => {
        this.#serverDone = true;
        this.#travel("down", () => this.#endClient(1006, "connection reset"));
      });
      server.exchange.open(this.#connectionId, this.#serverSocket(server));
      this.#carry("down", () =>
        this.#toClient(() => {
          this.#clientOpen = true;
          this.#handlers.opened();
        }),
      );
    });
  }

  #serverSocket(server: Listener): Socket {
    const end = (code: number, reason: string) => {
      if (this.#serverDone) return;
      this.#serverDone = true;
      // Bun reports the end of a connection to the side that ended it, too.
      this.#world.schedule(0, () => server.process.alive && server.exchange.closed(this.#id));
      this.#travel("down", () => this.#endClient(code, reason));
    };
    return {
      send: (text) => {
        if (this.#serverDone || !server.process.alive) return 0;
        this.#watch.frame(text, "broker", this.#daemon);
        this.#carry("down", () =>
          this.#toClient(() => {
            this.#handlers.heard();
            this.#handlers.received(parseBrokerFrame(text));
          }),
        );
        return text.length;
      },
      cork: (action) => action(),
      close: end,
      terminate: () => end(1006, ""),
      ping: () =>
        this.#carry("down", () =>
          this.#toClient(() => {
            this.#handlers.heard();
            this.#carry("up", () => this.#toServer(() => server.exchange.heard(this.#id)));
          }),
        ),
      pause: () => {
        this.#paused = true;
      },
      resume: () => {
        this.#paused = false;
        for (const deliver of this.#held.splice(0)) deliver();
      },
      getBufferedAmount: () => 0,
    };
  }

  #toServer(deliver: () => void): void {
    if (this.#serverDone || this.#server?.process.alive !== true) return;
    if (this.#paused) this.#held.push(deliver);
    else deliver();
  }

  #toClient(deliver: () => void): void {
    if (!this.#clientDone && this.#process.alive) deliver();
  }

  #endServer(): void {
    const server = this.#server;
    if (this.#serverDone || server === undefined || !server.process.alive) return;
    this.#serverDone = true;
    server.exchange.closed(this.#id);
  }

  #endClient(code: number, reason: string): void {
    if (this.#clientDone || !this.#process.alive) return;
    this.#clientDone = true;
    this.#handlers.closed(code, reason);
  }

  /**
   * Something that may never arrive: lost in a partition, or the last straw for the connection. Nothing that follows a lost
   * frame arrives either, or the connection would not keep its order.
   */
  #carry(direction: "up" | "down", deliver: () => void): void {
    if (this.#network.partitioned.has(this.#daemon)) {
      this.#carryNothing();
      return;
    }
    if (this.#world.chance.happens(this.#network.faults.cut)) {
      this.#network.injected++;
      this.#cut();
      return;
    }
    this.#travel(direction, () => {
      if (this.#isGone) return;
      if (this.#network.partitioned.has(this.#daemon)) this.#carryNothing();
      else deliver();
    });
  }

  /** The two ends notice each in its own time; until then they believe in a connection that is gone. */
  #cut(): void {
    const { chance } = this.#world;
    this.#world.schedule(chance.next() * 5_000, () => this.#endServer());
    this.#world.schedule(chance.next() * 5_000, () => this.#endClient(1006, "connection reset"));
    this.#carryNothing();
  }

  #carryNothing(): void {
    this.#isGone = true;
  }

  #travel(direction: "up" | "down", arrive: () => void): void {
    const last = this.#lastArrivalMs[direction];
    if (this.#isGone) return;
    const arrivalMs = Math.max(
      last,
      this.#world.elapsedMs + this.#world.chance.next() * this.#network.faults.delayMsMax,
    );
    this.#lastArrivalMs[direction] = arrivalMs;
    this.#world.schedule(arrivalMs - this.#world.elapsedMs, arrive);
  }
}
