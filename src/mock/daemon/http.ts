/**
 * HTTP for the mock of the daemon, with a hand on each connection: an answer may stop anywhere, be cut off, or be no HTTP at all, as
 * a script or a recording wants it. What passes is recorded here, and no token with it. What an answer is, is not decided here.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { Clock } from "~/clock";
import { bodyTooLarge } from "~/daemon/ipc/server";
import type { Bound } from "~/disk/unix-socket";
import { MeshError, messageOf, systemCodeOf } from "~/errors";
import type { Log } from "~/log";
import type { Redaction } from "~/mock/daemon/redaction";
import type { Recorder } from "~/mock/recorder";
import { ipcBodyBytesMax } from "~/wire/limits";

export interface HttpOptions {
  /** Gives the answer, and resolves when it is given. */
  answer(exchange: Exchange): Promise<void>;
  connections: Connections;
  log: Log;
}

export interface HttpServer extends Bound {
  listen(place: { path: string } | { port: number }): Promise<void>;
  /** Of TCP, once it listens. */
  readonly port: number;
}

/** The connections of all ways in, as the recording counts them. */
export class Connections {
  readonly recorder: Recorder;
  readonly redact: Redaction;
  readonly #known = new WeakMap<Socket, Connection>();
  #count = 0;

  constructor(recorder: Recorder, redact: Redaction) {
    this.recorder = recorder;
    this.redact = redact;
  }

  opened(socket: Socket): void {
    this.of(socket);
  }

  of(socket: Socket): Connection {
    const known = this.#known.get(socket);
    if (known !== undefined) return known;
    const { recorder } = this;
    const connection: Connection = { number: ++this.#count, cutAfter: undefined };
    this.#known.set(socket, connection);
    recorder.record({ dir: "open", conn: connection.number });
    socket.on("error", () => socket.destroy());
    socket.once("close", () => {
      const { number: conn, cutAfter } = connection;
      recorder.record(
        cutAfter === undefined
          ? { dir: "close", conn, by: "client" }
          : { dir: "close", conn, by: "mock", after: cutAfter },
      );
    });
    return connection;
  }
}

interface Connection {
  number: number;
  /** The request because of which the mock closed it. */
  cutAfter: number | undefined;
}

export function openHttpServer({ answer, connections, log }: HttpOptions): HttpServer {
  const serve = async (incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> => {
    const exchange = new Exchange(incoming, outgoing, connections);
    try {
      await answer(exchange);
    } catch (error) {
      log("error", "answer_failed", { error: messageOf(error) });
      exchange.cut();
    }
  };
  const take = (incoming: IncomingMessage, outgoing: ServerResponse) => void serve(incoming, outgoing);
  const server = createServer(take);
  // As the daemon, which passes over what else a client may expect.
  server.on("checkExpectation", take);
  // A client may wait for an answer, and with the next request, as long as it likes; with the first one Bun gives it some seconds.
  server.keepAliveTimeout = 0;
  server.requestTimeout = 0;
  server.headersTimeout = 0;
  server.timeout = 0;
  server.on("connection", (socket: Socket) => connections.opened(socket));
  server.on("connect", (_incoming, socket) => void socket.end(refusalOf("405 Method Not Allowed")));
  server.on("clientError", (error, stream) => {
    const socket = stream as Socket;
    const code = systemCodeOf(error) ?? "";
    if (socket.writable && code !== "ECONNRESET") {
      socket.end(refusalOf(parseFailures.get(code) ?? "400 Bad Request"));
    } else socket.destroy();
  });
  return {
    listen: (place) => listen(server, place, log),
    get port() {
      const address = server.address();
      return typeof address === "object" && address !== null ? address.port : 0;
    },
    stop(endsConnections) {
      server.close();
      if (endsConnections) server.closeAllConnections();
    },
  };
}

/** To what is no HTTP, as the daemon says it. */
const refusalOf = (status: string): string => `HTTP/1.1 ${status}\r\nConnection: close\r\n\r\n`;
const parseFailures: ReadonlyMap<string, string> = new Map([
  ["HPE_HEADER_OVERFLOW", "431 Request Header Fields Too Large"],
  ["HPE_INVALID_VERSION", "505 HTTP Version Not Supported"],
]);

async function listen(server: Server, place: { path: string } | { port: number }, log: Log): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  if ("path" in place) server.listen(place.path, resolve);
  else server.listen(place.port, "127.0.0.1", resolve);
  try {
    await promise;
  } catch (error) {
    if ("path" in place) throw error;
    throw new MeshError(
      "port_in_use",
      `TCP port ${place.port} cannot be had (${systemCodeOf(error) ?? messageOf(error)})`,
      { hint: "Choose another, or 0 for any that is free.", cause: error },
    );
  } finally {
    server.off("error", reject);
  }
  server.on("error", (error) => log("error", "server_failed", { error: messageOf(error) }));
}

type Body = { kind: "whole"; bytes: Buffer } | { kind: "too_large" } | { kind: "broken"; cause: unknown };

/** More than this is not kept: enough for the answer that names the limit. */
const keptBodyBytesMax = ipcBodyBytesMax + 64 * 1024;

/** One request and its answer. */
export class Exchange {
  readonly method: string;
  /** The path with its query, as it was sent. */
  readonly target: string;
  readonly headers: Headers;
  /** Aborted when the client is gone, or when it was cut off. */
  readonly signal: AbortSignal;
  readonly #incoming: IncomingMessage;
  readonly #outgoing: ServerResponse;
  readonly #connections: Connections;
  readonly #connection: Connection;
  readonly #bodyParts: Buffer[] = [];
  readonly #body: Promise<Body>;
  #head: { status: number; headers: Record<string, string> } | undefined;
  #isRaw = false;
  /** The number of the request in the recording. */
  #number: number | undefined;

  constructor(incoming: IncomingMessage, outgoing: ServerResponse, connections: Connections) {
    const { method = "", url = "", rawHeaders, socket } = incoming;
    this.method = method;
    this.target = url.startsWith("/") ? url : pathOf(url);
    this.headers = headersOf(rawHeaders);
    this.#incoming = incoming;
    this.#outgoing = outgoing;
    this.#connections = connections;
    this.#connection = connections.of(socket);
    const gone = new AbortController();
    this.signal = gone.signal;
    outgoing.once("close", () => {
      if (!outgoing.writableFinished) gone.abort();
    });
    outgoing.on("error", () => gone.abort());
    this.#body = this.#collectBody();
  }

  get conn(): number {
    return this.#connection.number;
  }

  /** Its number in the recording, for what others get because of it. */
  get number(): number {
    return this.#noteRequest();
  }

  get isGone(): boolean {
    return this.signal.aborted;
  }

  /** As much of it as comes in this time, for who compares or keeps it: it may be refused, and answered, without being read. */
  async bodyBytes(clock: Clock, withinMs: number): Promise<Uint8Array> {
    const { promise: waited, resolve } = Promise.withResolvers<void>();
    const timer = clock.after(withinMs, resolve);
    await Promise.race([this.#body, waited]);
    timer.cancel();
    return Buffer.concat(this.#bodyParts);
  }

  /** The same for those who know fetch. */
  request(): Request {
    const { method, headers, signal } = this;
    const url = `http://localhost${this.target}`;
    if (method === "GET" || method === "HEAD") return new Request(url, { method, headers, signal });
    const read = async (): Promise<Buffer> => {
      const body = await this.#body;
      if (body.kind === "whole") return body.bytes;
      if (body.kind === "broken") throw body.cause;
      throw bodyTooLarge();
    };
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        try {
          const bytes = await read();
          if (bytes.length > 0) controller.enqueue(bytes);
          controller.close();
        } catch (error) {
          controller.error(error);
        }
      },
    });
    return new Request(url, { method, headers, signal, body });
  }

  // ── Answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The answer begins with this; it is sent with the first part of the body. */
  head(status: number, headers: Record<string, string>): void {
    this.#head = { status, headers };
  }

  /** A part of the body, and whether it is the last one. `after`: the request because of which it is sent, if not this one. */
  async write(bytes: Uint8Array, { isLast = false, after = this.number } = {}): Promise<void> {
    if (this.isGone) return;
    const head = this.#head;
    this.#head = undefined;
    this.#noteAnswer(bytes, after, {
      ...(head === undefined ? {} : { status: head.status, headers: this.#redact.headers(head.headers) }),
      ...(isLast ? { last: true } : {}),
    });
    const outgoing = this.#outgoing;
    if (head !== undefined) outgoing.writeHead(head.status, head.headers);
    await this.#untilTaken((taken) => {
      if (isLast) outgoing.end(bytes, taken);
      else if (bytes.length > 0) outgoing.write(bytes, taken);
      else {
        outgoing.flushHeaders();
        taken();
      }
    });
  }

  /** Bytes on the connection itself, in place of an answer or in the middle of one. */
  async writeRaw(bytes: Uint8Array): Promise<void> {
    if (this.isGone) return;
    this.#noteAnswer(bytes, this.number, { raw: true });
    this.#isRaw = true;
    await this.#untilTaken((taken) => this.#incoming.socket.write(bytes, () => taken()));
  }

  /** Closes the connection, whatever is under way. `after` as in `write`. */
  cut(after = this.number): void {
    if (this.isGone) return;
    this.#connection.cutAfter = after;
    const { socket } = this.#incoming;
    // What was written past the answer is not known to be out yet.
    if (this.#isRaw) socket.destroySoon();
    else socket.destroy();
  }

  /** A client that does not read has not taken it; one that is gone never will. */
  #untilTaken(send: (taken: () => void) => void): Promise<void> {
    if (this.isGone) return Promise.resolve();
    return new Promise((resolve) => {
      const taken = (): void => {
        this.signal.removeEventListener("abort", taken);
        resolve();
      };
      this.signal.addEventListener("abort", taken);
      send(taken);
    });
  }

  // ── The request ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #collectBody(): Promise<Body> {
    const incoming = this.#incoming;
    let size = 0;
    return new Promise((resolve) => {
      const settle = (body: Body): void => {
        this.#noteRequest();
        resolve(body);
      };
      // Read to its end whatever is answered: a client that is still sending may not listen before.
      incoming.on("data", (part: Buffer) => {
        size += part.length;
        if (size > keptBodyBytesMax) settle({ kind: "too_large" });
        else this.#bodyParts.push(part);
      });
      incoming.once("end", () => settle({ kind: "whole", bytes: Buffer.concat(this.#bodyParts) }));
      incoming.on("error", (cause) => settle({ kind: "broken", cause }));
      incoming.once("close", () => settle({ kind: "broken", cause: new Error("the client is gone") }));
    });
  }

  // ── The recording ───────────────────────────────────────────────────────────────────────────────────────────────────

  get #redact(): Redaction {
    return this.#connections.redact;
  }

  /** Once: when its body has come, or when it is answered without. */
  #noteRequest(): number {
    const { recorder } = this.#connections;
    if (!recorder.isRecording) return 0;
    this.#number ??= recorder.record({
      dir: "in",
      conn: this.conn,
      method: this.method,
      target: this.#redact.text(this.target),
      headers: this.#redact.headers(Object.fromEntries(this.headers)),
      hex: this.#redact.bytes(Buffer.concat(this.#bodyParts)).toHex(),
    });
    return this.#number;
  }

  #noteAnswer(
    bytes: Uint8Array,
    after: number,
    more: { status?: number; headers?: Record<string, string>; last?: true; raw?: true },
  ): void {
    const { recorder } = this.#connections;
    if (!recorder.isRecording) return;
    recorder.record({ dir: "out", conn: this.conn, after, hex: this.#redact.bytes(bytes).toHex(), ...more });
  }
}

/** Requests to a proxy name the host too. */
function pathOf(url: string): string {
  const parsed = URL.parse(url);
  return parsed === null ? "/" : parsed.pathname + parsed.search;
}

function headersOf(raw: readonly string[]): Headers {
  const headers = new Headers();
  for (let index = 0; index + 1 < raw.length; index += 2) {
    headers.append(raw[index] ?? "", raw[index + 1] ?? "");
  }
  return headers;
}
