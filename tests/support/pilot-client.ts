/**
 * A Pilot client as the author of a binding would write one, who has the description of the protocol and nothing of ours: frames are
 * made and taken apart here by hand. Requests wait for their reply, whatever is pushed in between.
 */
import { waitFor } from "./wait-for";

export type Payload = (number | string | Uint8Array)[];

/** Bytes as they are, text as UTF-8, and numbers as one byte each; `u16` and `u32` make longer ones. */
export const bytesOf = (payload: Payload): Buffer =>
  Buffer.concat(
    payload.map((part) => (typeof part === "number" ? Buffer.of(part) : Buffer.from(part as Uint8Array))),
  );
export const u16 = (value: number): Buffer => Buffer.of(value >> 8, value & 0xff);
export const u32 = (value: number): Buffer => Buffer.concat([u16(value >>> 16), u16(value & 0xffff)]);
/** Network and node. */
export const address = (network: number, node: number): Buffer => Buffer.concat([u16(network), u32(node)]);

export const pilotFrame = (command: number, ...payload: Payload): Buffer => {
  const body = bytesOf([command, ...payload]);
  return Buffer.concat([u32(body.length), body]);
};

export interface Received {
  command: number;
  payload: Buffer;
}

export class PilotError extends Error {}

export class PilotClient {
  /** Everything that came and that nobody has taken yet, in order. */
  readonly inbox: Received[] = [];
  /** How the stream ended, once it has. */
  end: "inside a frame" | "between frames" | undefined;
  /** What came of a frame that is not whole yet. */
  unfinished = Buffer.alloc(0);
  #unwritten: Buffer[] = [];
  #wake: (() => void)[] = [];
  #socket: Bun.Socket | undefined;

  /** Rejects with what the system says when nobody listens. */
  static async connect(path: string): Promise<PilotClient> {
    const client = new PilotClient();
    client.#socket = await Bun.connect({
      unix: path,
      socket: {
        data: (_, bytes) => client.#received(bytes),
        drain: () => client.#flush(),
        end: () => client.#ended(),
        close: () => client.#ended(),
        error: () => client.#ended(),
      },
    });
    return client;
  }

  /** Bytes as they are. */
  raw(bytes: Uint8Array): void {
    this.#unwritten.push(Buffer.from(bytes));
    this.#flush();
  }

  send(command: number, ...payload: Payload): void {
    this.raw(pilotFrame(command, ...payload));
  }

  /** Sends, and resolves with the payload of the reply. Rejects with `PilotError` when the daemon answers with an error. */
  async ask(command: number, reply: number, ...payload: Payload): Promise<Buffer> {
    this.send(command, ...payload);
    const { command: came, payload: answer } = await this.next(
      (frame) => frame.command === reply || frame.command === 0x0a,
    );
    if (came !== 0x0a || reply === 0x0a) return answer;
    throw new PilotError(`${answer.readUInt16BE()}: ${answer.toString("utf8", 2)}`);
  }

  async askJson(command: number, reply: number, ...payload: Payload): Promise<unknown> {
    return JSON.parse((await this.ask(command, reply, ...payload)).toString("utf8"));
  }

  /** Takes the first frame that `matches`, of those that are there or come within the time. */
  async next(matches: (frame: Received) => boolean, timeoutMs = 5_000): Promise<Received> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const index = this.inbox.findIndex(matches);
      const [frame] = index === -1 ? [] : this.inbox.splice(index, 1);
      if (frame !== undefined) return frame;
      if (this.end !== undefined) throw new Error(`the daemon ended the connection ${this.end}`);
      await this.#change(deadline - performance.now());
    }
  }

  push(command: number, timeoutMs?: number): Promise<Received> {
    return this.next((frame) => frame.command === command, timeoutMs);
  }

  /** Resolves when the daemon has ended the connection. */
  async ended(timeoutMs = 5_000): Promise<NonNullable<PilotClient["end"]>> {
    const deadline = performance.now() + timeoutMs;
    while (this.end === undefined) await this.#change(deadline - performance.now());
    return this.end;
  }

  /** No more from us; what comes is still taken. */
  shutdown(): void {
    this.#socket?.shutdown();
  }

  /** Vanishes at once. */
  close(): void {
    this.#socket?.terminate();
  }

  #change(timeoutMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error("the daemon did not answer in time")),
        Math.max(0, timeoutMs),
      );
      this.#wake.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #flush(): void {
    for (let next = this.#unwritten[0]; next !== undefined; next = this.#unwritten[0]) {
      const written = Math.max(0, this.#socket?.write(next) ?? 0);
      if (written < next.length) {
        this.#unwritten[0] = next.subarray(written);
        return;
      }
      this.#unwritten.shift();
    }
  }

  #received(bytes: Buffer): void {
    this.unfinished = Buffer.concat([this.unfinished, bytes]);
    while (this.unfinished.length >= 4) {
      const length = this.unfinished.readUInt32BE();
      // One that is too long never becomes whole.
      if (length > 1_048_576 || this.unfinished.length < 4 + length) break;
      this.inbox.push({ command: this.unfinished[4] ?? 0, payload: this.unfinished.subarray(5, 4 + length) });
      this.unfinished = this.unfinished.subarray(4 + length);
    }
    this.#changed();
  }

  #ended(): void {
    this.end ??= this.unfinished.length === 0 ? "between frames" : "inside a frame";
    this.#changed();
  }

  #changed(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }
}

/** Connects as soon as somebody listens, within 2 s. */
export const connectWhenReady = (path: string): Promise<PilotClient> =>
  waitFor(() => PilotClient.connect(path), { what: `a daemon at ${path}`, timeoutMs: 2_000 });
