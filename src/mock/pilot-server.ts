/**
 * The Pilot mock on a Unix socket. A client that does not read what it is sent is not read from either, until it does; what it holds
 * up is nobody else's.
 */
import type { Clock } from "~/clock";
import { giveSocket } from "~/disk/unix-socket";
import type { Log } from "~/log";
import { type PilotClient, type PilotConnection, PilotMock } from "~/mock/pilot";
import { PilotReplay } from "~/mock/pilot-replay";
import { PilotPlay, usualPlay } from "~/mock/pilot-script";
import { noRecorder, openRecorder } from "~/mock/recorder";
import { readScript } from "~/mock/script";
import { mockWaitingBytesMax } from "~/wire/limits";
import type { Recorded } from "~/wire/mock-recording";

interface Place {
  socket: string;
  log: Log;
  /** It listens. */
  onReady(): void;
}

export interface MockPilotRun extends Place {
  /** Files; undefined: none. */
  script: string | undefined;
  record: string | undefined;
  clock: Clock;
}

/** Serves until `ended`. Throws what `giveSocket`, `readScript` and `openRecorder` do. */
export async function runMockPilot(run: MockPilotRun, ended: AbortSignal): Promise<void> {
  const { clock, log, record } = run;
  const play = run.script === undefined ? usualPlay : playOf(readScript(run.script, "pilot"));
  let recorder = noRecorder;
  const begin = (): Connect => {
    if (record !== undefined) recorder = openRecorder(record, "pilot", clock, log);
    const mock = new PilotMock({ clock, play, recorder, log });
    return (client) => mock.connect(client);
  };
  try {
    await serveStreams(run, begin, ended);
  } finally {
    recorder.close();
  }
}

const playOf = ({ script, fault }: ReturnType<typeof readScript<"pilot">>): PilotPlay =>
  new PilotPlay(script, fault);

export interface ReplayRun extends Place {
  entries: readonly Recorded[];
}

/** Answers from a recording until `ended`. Throws what `giveSocket` does. */
export async function replayPilot(run: ReplayRun, ended: AbortSignal): Promise<void> {
  const replay = new PilotReplay(run.entries, run.log);
  await serveStreams(run, () => (client) => replay.connect(client), ended);
}

/** What takes the bytes of one client. */
export type StreamReader = Pick<PilotConnection, "received" | "closed" | "isWaiting">;
type Connect = (client: PilotClient) => StreamReader;

/** Listens until `ended`, and then leaves at once, whoever is connected. `begin` is called when the socket is to be had. */
async function serveStreams(
  { socket: path, log, onReady }: Place,
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
        error: ({ data }) => data.closed(),
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
    this.#waitingBytes += bytes.length;
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
