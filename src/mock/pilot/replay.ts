/**
 * Answers Pilot clients from a recording. The first client to connect is taken for the first that was recorded, and so on, from the
 * beginning again after the last. A frame is answered with what once followed from the same frame: of this client if it sent it,
 * and otherwise of any; as soon as it can be, however long it took then.
 */
import type { Log } from "~/log";
import { usualErrorCode } from "~/mock/pilot/answers";
import type { PilotClient, StreamReader } from "~/mock/pilot/stream";
import { encodeFrame, FrameDecoder } from "~/wire/frame";
import { pilotFrameBytesMax } from "~/wire/limits";
import type { Recorded } from "~/wire/mock-recording";
import { encodePilotAnswer } from "~/wire/pilot";

/** What a frame that is empty consists of. */
const lengthBytes = 4;

type Incoming = Extract<Recorded, { dir: "in" }>;
type Consequence = Extract<Recorded, { dir: "out" | "close" }>;

const keyOf = (conn: number | undefined, hex: string): string => `${conn} ${hex}`;

export class PilotReplay {
  readonly #log: Log;
  readonly #opened: readonly Recorded[];
  /** By what was sent, on which connection. */
  readonly #incoming: ReadonlyMap<string, readonly Incoming[]>;
  /** By what was sent: the first on any connection. */
  readonly #anyones: ReadonlyMap<string, Incoming>;
  /** By the number of their cause. */
  readonly #consequences: ReadonlyMap<number, readonly Consequence[]>;
  /** By the number of the recorded connection whose part they play. */
  readonly #clients = new Map<number, PilotClient>();
  #connections = 0;

  constructor(entries: readonly Recorded[], log: Log) {
    this.#log = log;
    this.#opened = entries.filter(({ dir }) => dir === "open");
    const incoming = entries.filter((entry) => entry.dir === "in");
    this.#incoming = Map.groupBy(incoming, ({ conn, hex }) => keyOf(conn, hex));
    this.#anyones = new Map(incoming.map((entry) => [entry.hex, entry] as const).reverse());
    this.#consequences = Map.groupBy(
      entries.filter((entry): entry is Consequence => "after" in entry),
      ({ after = 0 }) => after,
    );
  }

  connect(client: PilotClient): StreamReader {
    const part = this.#opened[this.#connections++ % Math.max(1, this.#opened.length)];
    const decoder = new FrameDecoder(pilotFrameBytesMax);
    const sent = new Map<string, number>();
    if (part !== undefined) {
      this.#clients.set(part.conn, client);
      this.#follow(part, client);
    }
    return {
      isWaiting: false,
      received: (bytes) => {
        for (const read of decoder.push(bytes)) {
          if (read.kind === "too_large") client.cut();
          else this.#answer(encodeFrame(read.payload, pilotFrameBytesMax), part?.conn, sent, client);
        }
      },
      closed: () => {
        if (part !== undefined && this.#clients.get(part.conn) === client) this.#clients.delete(part.conn);
      },
    };
  }

  /** `sent`: how often this client has sent the same before. */
  #answer(frame: Uint8Array, conn: number | undefined, sent: Map<string, number>, client: PilotClient): void {
    const hex = frame.toHex();
    const times = sent.get(hex) ?? 0;
    sent.set(hex, times + 1);
    const own = this.#incoming.get(keyOf(conn, hex)) ?? [];
    const entry = own[times] ?? own.at(-1) ?? this.#anyones.get(hex);
    if (entry === undefined) {
      // An empty frame means nothing to a Pilot daemon.
      if (frame.length === lengthBytes) return;
      this.#log("warn", "not_in_recording", { hex: hex.slice(0, 200) });
      const text = `replay: this frame is not in the recording: ${hex.slice(0, 64)}`;
      client.write(encodePilotAnswer({ name: "error", fields: { code: usualErrorCode, text } }));
      return;
    }
    this.#follow(entry, client);
  }

  /** `client` plays the part of the connection on which the cause was recorded. */
  #follow({ n, conn }: Recorded, client: PilotClient): void {
    for (const entry of this.#consequences.get(n) ?? []) {
      const target = entry.conn === conn ? client : this.#clients.get(entry.conn);
      if (entry.dir === "out") target?.write(Uint8Array.fromHex(entry.hex));
      else target?.cut();
    }
  }
}
