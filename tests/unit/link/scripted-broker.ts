/**
 * A broker that does what a test says and nothing else: it takes WebSockets, parses what comes in by the schema of the wire (a frame
 * that does not fit is an error of the test) and hands it to the script.
 */
import * as v from "valibot";
import type { MeshEntry } from "~/identity/config";
import { keyPairFromSeed } from "~/identity/keys";
import { ClientFrame } from "~/wire/broker";
import { cleanup } from "../../support/cleanup";
import { cryptoVectors } from "../../vectors/vectors";

const { alice } = cryptoVectors;

export interface Connection {
  /** Everything that came in, in order. */
  readonly frames: ClientFrame[];
  /** Pings that came in; each is answered by itself. */
  pings: number;
  /** How the client ended it; undefined while it has not. */
  closed: { code: number; reason: string } | undefined;
  send(...frames: unknown[]): void;
  sendText(text: string): void;
  sendBytes(bytes: Uint8Array): void;
  close(code: number, reason?: string): void;
  /** Ends it without a word, as a cable does. */
  cut(): void;
}

export type Script = (frame: ClientFrame, connection: Connection) => void;

export interface ScriptedBroker {
  url: string;
  /** All there have been, oldest first. */
  connections: Connection[];
  /** What happens with a frame from now on. */
  script: Script;
  /** Called with every ping after its pong. */
  pinged: (connection: Connection) => void;
  stop(): Promise<void>;
  /** Serves again, at the same address. */
  start(): void;
}

export const claudemeshFeatures = {
  client_message_id_dedupe: { version: 1, mode: "permanent", request_fingerprint: true },
  members: { version: 1 },
  lanes: { version: 1 },
  max_payload: { version: 1, inline_bytes: 65_536 },
};

/** Answers every hello with `features`, and leaves everything else to `next`. */
export const greeting =
  (features?: Record<string, unknown>, next: Script = () => undefined): Script =>
  (frame, connection) => {
    if (frame.type !== "hello") next(frame, connection);
    else connection.send({ type: "hello_ack", ...(features === undefined ? {} : { features }) });
  };

/** A broker that serves until the test is over. */
export function startBroker(script: Script = greeting()): ScriptedBroker {
  let server: Bun.Server<Connection | undefined> | undefined;
  let port = 0;
  const broker: ScriptedBroker = {
    url: "",
    connections: [],
    script,
    pinged: () => undefined,
    async stop() {
      await server?.stop(true);
      server = undefined;
    },
    start() {
      server = serve(broker, port);
      port = server.port ?? 0;
      broker.url = `ws://127.0.0.1:${port}/ws`;
    },
  };
  broker.start();
  cleanup(() => broker.stop());
  return broker;
}

function serve(broker: ScriptedBroker, port: number): Bun.Server<Connection | undefined> {
  return Bun.serve<Connection | undefined>({
    port,
    hostname: "127.0.0.1",
    fetch: (request, server) =>
      server.upgrade(request, { data: undefined }) ? undefined : new Response("no", { status: 400 }),
    websocket: {
      maxPayloadLength: 16 * 1024 * 1024,
      open(socket) {
        const connection: Connection = {
          frames: [],
          pings: 0,
          closed: undefined,
          send: (...frames) => {
            for (const frame of frames) socket.send(JSON.stringify(frame));
          },
          sendText: (text) => void socket.send(text),
          sendBytes: (bytes) => void socket.send(bytes),
          close: (code, reason) => socket.close(code, reason),
          cut: () => socket.terminate(),
        };
        socket.data = connection;
        broker.connections.push(connection);
      },
      message(socket, data) {
        const connection = socket.data;
        if (connection === undefined) throw new Error("a message came before the connection");
        const frame = v.parse(ClientFrame, JSON.parse(String(data)));
        connection.frames.push(frame);
        broker.script(frame, connection);
      },
      ping(socket) {
        const connection = socket.data;
        if (connection === undefined) throw new Error("a ping came before the connection");
        connection.pings += 1;
        broker.pinged(connection);
      },
      close(socket, code, reason) {
        if (socket.data !== undefined) socket.data.closed ??= { code, reason };
      },
    },
  });
}

/** Alice's membership at this broker; of a claudemesh mesh that she owns unless `change` says otherwise. */
export const membership = (brokerUrl: string, change: Partial<MeshEntry> = {}): MeshEntry => ({
  meshId: "mesh-1",
  memberId: "member-1",
  slug: "team",
  name: "Team",
  pubkey: alice.public_hex,
  secretKey: keyPairFromSeed(alice.seed_hex).secretKey,
  brokerUrl,
  joinedAt: "2025-06-15T15:06:40.000Z",
  inviteVersion: 3,
  ownerPubkey: alice.public_hex,
  ...change,
});

/** An address at which nobody listens: a port that was just given back. */
export async function deadUrl(): Promise<string> {
  const broker = startBroker();
  await broker.stop();
  return broker.url;
}
