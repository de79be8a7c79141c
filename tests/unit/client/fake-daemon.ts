/** A daemon that says what a test scripts: over HTTP on a Unix socket, or raw bytes where HTTP would not let it lie. */
import { join } from "node:path";
import { cleanup } from "../../support/cleanup";
import { tempDir } from "../../support/temp-dir";

export interface Seen {
  method: string;
  /** Path and query. */
  target: string;
  headers: Headers;
  body: unknown;
}

export interface FakeDaemon {
  socketPath: string;
  seen: Seen[];
  stop(): Promise<void>;
}

type Answer = Response | Promise<Response>;

export const newSocketPath = (): string => join(tempDir(), "daemon.sock");

/** `answer` gets the request and how many came before it. */
export function fakeDaemon(
  answer: (request: Seen, index: number) => Answer,
  socketPath = newSocketPath(),
): FakeDaemon {
  const seen: Seen[] = [];
  const server = Bun.serve({
    unix: socketPath,
    fetch: async (request) => {
      const { pathname, search } = new URL(request.url);
      const text = await request.text();
      const body: unknown = text === "" ? undefined : JSON.parse(text);
      const one = { method: request.method, target: pathname + search, headers: request.headers, body };
      seen.push(one);
      return await answer(one, seen.length - 1);
    },
  });
  const stop = async (): Promise<void> => {
    await server.stop(true);
  };
  cleanup(stop);
  return { socketPath, seen, stop };
}

export const json = (value: unknown, status = 200): Response => Response.json(value, { status });

/** Writes `text` to whoever connects and asks for something, then hangs up. */
export function rawDaemon(text: string): string {
  const socketPath = newSocketPath();
  const server = Bun.listen({
    unix: socketPath,
    socket: {
      data(socket) {
        socket.write(text);
        socket.end();
      },
    },
  });
  cleanup(() => server.stop(true));
  return socketPath;
}
