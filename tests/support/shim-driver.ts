/**
 * Drives a shim as an orchestrator of another project would, who has the description of the protocol and nothing of ours: frames are made
 * and taken apart here by hand, over a Unix socket or one end of a socket pair.
 */
import { cleanup } from "./cleanup";
import { type CliOptions, command } from "./cli";
import { tempDir } from "./temp-dir";
import { waitFor } from "./wait-for";

export type Event = { event: string } & Record<string, unknown>;

export interface Driver {
  /** Everything that came, in order. */
  events: Event[];
  /** How the stream ended, once it has. */
  end: "inside a frame" | "between frames" | undefined;
  send(command: unknown): void;
  raw(bytes: Uint8Array): void;
  /** The first event of this name that `matches` from `from` on. */
  next(name: string, matches?: (event: Event) => boolean, from?: number, timeoutMs?: number): Promise<Event>;
  /** Ends our direction of the stream alone. */
  endInput(): void;
  close(): void;
}

export function frameOf(value: unknown): Uint8Array {
  const payload = Buffer.from(typeof value === "string" ? value : JSON.stringify(value));
  const frame = Buffer.alloc(4 + payload.length);
  frame.writeUInt32BE(payload.length);
  payload.copy(frame, 4);
  return frame;
}

interface Link {
  write(bytes: Uint8Array): number;
  shutdown(): void;
  end(): void;
}

class Conversation implements Driver {
  readonly events: Event[] = [];
  end: Driver["end"];
  link: Link | undefined;
  #received = Buffer.alloc(0);
  #waiting: Uint8Array[] = [];

  received(bytes: Uint8Array): void {
    this.#received = Buffer.concat([this.#received, bytes]);
    while (this.#received.length >= 4) {
      const length = this.#received.readUInt32BE();
      if (length > 1_048_576) throw new Error(`the shim sent a frame of ${length} bytes`);
      if (this.#received.length < 4 + length) return;
      this.events.push(JSON.parse(this.#received.toString("utf8", 4, 4 + length)));
      this.#received = this.#received.subarray(4 + length);
    }
  }

  ended(): void {
    this.end ??= this.#received.length === 0 ? "between frames" : "inside a frame";
  }

  send(value: unknown): void {
    this.raw(frameOf(value));
  }

  raw(bytes: Uint8Array): void {
    this.#waiting.push(bytes);
    if (this.#waiting.length === 1) this.drained();
  }

  drained(): void {
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      const written = Math.max(0, this.link?.write(next) ?? 0);
      if (written < next.length) {
        this.#waiting[0] = next.subarray(written);
        return;
      }
      this.#waiting.shift();
    }
  }

  async next(
    name: string,
    matches: (event: Event) => boolean = () => true,
    from = 0,
    timeoutMs = 15_000,
  ): Promise<Event> {
    const find = () => this.events.slice(from).find((event) => event.event === name && matches(event));
    try {
      // A copy, for matchers may write into what they compare.
      const found = await waitFor(() => find() ?? (this.end === undefined ? undefined : fail(this.end)), {
        what: name,
        timeoutMs,
      });
      return { ...found };
    } catch (error) {
      const seen = this.events.slice(from).map((event) => JSON.stringify(event).slice(0, 300));
      throw new Error(`${error}; seen since: ${seen.join("\n") || "nothing"}`, { cause: error });
    }
  }

  endInput(): void {
    this.link?.shutdown();
  }

  close(): void {
    this.link?.end();
  }
}

const fail = (how: string): never => {
  throw new Error(`the connection ended ${how}`);
};

const handlersOf = (conversation: Conversation) => ({
  data: (_: unknown, bytes: Uint8Array) => conversation.received(bytes),
  drain: () => conversation.drained(),
  end: () => conversation.ended(),
  close: () => conversation.ended(),
});

export async function connectTo(path: string): Promise<Driver> {
  const conversation = new Conversation();
  const socket = await waitFor(() => Bun.connect({ unix: path, socket: handlersOf(conversation) }), {
    what: `somebody to listen on ${path}`,
    timeoutMs: 15_000,
  });
  conversation.link = socket;
  cleanup(() => {
    socket.end();
  });
  return conversation;
}

export interface RunningShim {
  pid: number;
  /** Resolves when it has ended. */
  exited: Promise<number>;
  exitCode(): number | null;
  stderr(): string;
  kill(signal: NodeJS.Signals): void;
}

export interface ShimOptions extends CliOptions {
  /** What to execute, before the arguments. */
  executable?: readonly string[];
}

function spawnShim(args: readonly string[], options: ShimOptions, withPair: boolean) {
  const home = tempDir();
  const child = Bun.spawn([...(options.executable ?? command), "shim", ...args], {
    cwd: options.cwd ?? home,
    env: { PATH: process.env.PATH ?? "", HOME: home, LANG: "C.UTF-8", PS1: "$ ", ...options.env },
    stdio: ["ignore", "ignore", "pipe", ...(withPair ? (["pipe"] as const) : [])],
    detached: true,
  });
  let stderr = "";
  void (async () => {
    const decoder = new TextDecoder();
    for await (const chunk of child.stderr) stderr += decoder.decode(chunk, { stream: true });
  })();
  cleanup(async () => {
    child.kill("SIGTERM");
    await child.exited;
  });
  const running: RunningShim = {
    pid: child.pid,
    exited: child.exited,
    exitCode: () => child.exitCode,
    stderr: () => stderr,
    kill: (signal) => child.kill(signal),
  };
  return { child, running };
}

/** A shim at the other end of a socket pair. */
export async function shimOnFd(
  args: readonly string[],
  options: ShimOptions = {},
): Promise<{ driver: Driver; shim: RunningShim }> {
  const { child, running } = spawnShim(["--fd", "3", ...args], options, true);
  const conversation = new Conversation();
  const fd = child.stdio[3];
  if (typeof fd !== "number") throw new Error("there is no socket pair");
  const connect = Bun.connect as (options: object) => Promise<Link>;
  conversation.link = await connect({ fd, socket: handlersOf(conversation) });
  return { driver: conversation, shim: running };
}

/** A shim that listens, and a connection to it. */
export async function shimOnSocket(
  args: readonly string[],
  options: ShimOptions = {},
): Promise<{ driver: Driver; shim: RunningShim; path: string }> {
  const path = `${tempDir()}/s`;
  const shim = listeningShim(path, args, options);
  return { driver: await connectTo(path), shim, path };
}

export const listeningShim = (
  path: string,
  args: readonly string[],
  options: ShimOptions = {},
): RunningShim => spawnShim(["--socket", path, ...args], options, false).running;
