/**
 * A Unix socket full of Pilot clients, for a mock that plays a script or a recording. A client that does not read what it is sent is not
 * read from either, until it does; what it holds up is nobody else's.
 */
import { giveSocket } from "~/disk/unix-socket";
import { messageOf } from "~/errors";
import type { Log } from "~/log";
import { mockWaitingBytesMax, mockWaitingOverheadBytes } from "~/wire/limits";

/** The way back to one client. What is written goes out whole, in the order of the calls. */
export interface PilotClient {
  write(bytes: Uint8Array): void;
  /** Ends the connection once what was written has gone. */
  cut(): void;
  /** Nothing more comes by itself. */
  idle(): void;
}

/** What takes the bytes of one client. */
export interface StreamReader {
  received(bytes: Uint8Array): void;
  /** The client is gone. */
  closed(): void;
  /** Whether something is still to come for which nobody needs to ask. */
  readonly isWaiting: boolean;
}

export interface StreamPlace {
  socket: string;
  log: Log;
  /** It listens. */
  onReady(): void;
}

type Connect = (client: PilotClient) => StreamReader;

/**
 * Listens until `ended`, and then leaves at once, whoever is connected. `begin` is called when the socket is to be had. Throws what
 * `giveSocket` and `begin` do.
 */
export async function serveStreams(
  { socket: path, log, onReady }: StreamPlace,
  begin: () => Connect,
  ended: AbortSignal,
): Promise<void> {
  const { promise: left, resolve } = Promise.withResolvers<void>();
  const listener = await giveSocket(path, (unix) => {
    const connect = begin();
    return Bun.listen<StreamClient>({
      unix,
      // A shell that pipes its frames in has closed its side when it reads the answers.
      allowHalfOpen: true,
      socket: {
        open(socket) {
          socket.data = new StreamClient(socket, connect, log);
        },
        data: ({ data }, bytes) => data.received(bytes),
        drain: ({ data }) => data.flush(),
        end: ({ data }) => data.inputEnded(),
        close: ({ data }) => data.closed(),
        // What one of these functions throws comes here, too.
        error: ({ data }, error) => data.failed(error),
      },
    });
  });
  ended.addEventListener("abort", () => resolve(), { once: true });
  if (ended.aborted) resolve();
  try {
    onReady();
    await left;
  } finally {
    listener.close();
  }
}

class StreamClient implements PilotClient {
  readonly #socket: Bun.Socket<StreamClient>;
  readonly #reader: StreamReader;
  readonly #log: Log;
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  /** The socket took only a part: the rest goes when it has drained. */
  #isFull = false;
  /** Requests are being read, whose answers go out together. */
  #isGathering = false;
  #isCut = false;
  #inputEnded = false;

  constructor(socket: Bun.Socket<StreamClient>, connect: Connect, log: Log) {
    this.#socket = socket;
    this.#log = log;
    this.#reader = connect(this);
  }

  // ── For the mock ────────────────────────────────────────────────────────────────────────────────────────────────────

  write(bytes: Uint8Array): void {
    if (this.#isCut) return;
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length + mockWaitingOverheadBytes;
    if (!this.#isGathering && !this.#isFull) this.flush();
    if (this.#waitingBytes > mockWaitingBytesMax) {
      this.#log("warn", "client_does_not_read", { waiting_bytes: this.#waitingBytes });
      this.#socket.terminate();
    }
  }

  cut(): void {
    this.#isCut = true;
    if (!this.#isGathering && !this.#isFull) this.flush();
  }

  idle(): void {
    this.#endIfDone();
  }

  // ── For the socket ──────────────────────────────────────────────────────────────────────────────────────────────────

  received(bytes: Uint8Array): void {
    this.#isGathering = true;
    this.#reader.received(bytes);
    this.#isGathering = false;
    if (!this.#isFull) this.flush();
  }

  /** Writes what waits, as far as the socket takes it. */
  flush(): void {
    const [only] = this.#waiting;
    if (only !== undefined) {
      const all = this.#waiting.length === 1 ? only : Buffer.concat(this.#waiting);
      const taken = this.#socket.write(all);
      // The connection is gone; `close` follows.
      if (taken < 0) return;
      const rest = all.subarray(taken);
      this.#waiting = rest.length === 0 ? [] : [rest];
      this.#waitingBytes = rest.length;
      this.#holdUp(rest.length > 0);
    }
    this.#endIfDone();
  }

  inputEnded(): void {
    this.#inputEnded = true;
    this.#endIfDone();
  }

  closed(): void {
    this.#reader.closed();
  }

  /** Whoever waits for an answer that cannot be given any more is to know it. */
  failed(error: unknown): void {
    this.#log("error", "connection_failed", { error: messageOf(error) });
    this.#socket.terminate();
  }

  #holdUp(isFull: boolean): void {
    if (isFull === this.#isFull) return;
    this.#isFull = isFull;
    if (isFull) this.#socket.pause();
    else this.#socket.resume();
  }

  #endIfDone(): void {
    if (this.#waiting.length > 0) return;
    if (this.#isCut || (this.#inputEnded && !this.#reader.isWaiting)) this.#socket.end();
  }
}
