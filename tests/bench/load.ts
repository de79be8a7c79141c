/**
 * Load: callers that each keep one connection and have one request on it at a time, written close to the socket so that
 * the generator leaves the machine to what is measured.
 */

export interface HttpCaller {
  /** Resolves when the whole answer is there; throws on any status but 2xx. */
  request(method: string, path: string, body?: string): Promise<void>;
  close(): void;
}

export async function httpCaller(socketPath: string): Promise<HttpCaller> {
  let received = "";
  let waiting: PromiseWithResolvers<void> | undefined;
  const socket = await Bun.connect({
    unix: socketPath,
    socket: {
      data(_socket, bytes) {
        received += bytes.toString("latin1");
        const headEnd = received.indexOf("\r\n\r\n");
        if (headEnd < 0) return;
        const length = Number(/content-length: (\d+)/i.exec(received)?.[1] ?? 0);
        if (received.length < headEnd + 4 + length) return;
        const answer = received;
        received = "";
        if (/^HTTP\/1\.1 2/.test(answer)) waiting?.resolve();
        else waiting?.reject(new Error(answer));
      },
      close: () => waiting?.reject(new Error("the daemon closed the connection")),
      error: (_socket, error) => waiting?.reject(error),
    },
  });
  return {
    request(method, path, body = "") {
      waiting = Promise.withResolvers<void>();
      socket.write(
        `${method} ${path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
      );
      return waiting.promise;
    },
    close: () => void socket.end(),
  };
}

/** Shares `requests` among the connections, each with one at a time. */
export async function callers<C>(
  connections: readonly C[],
  requests: number,
  once: (connection: C) => Promise<void>,
): Promise<{ eachMs: number[]; tookMs: number }> {
  const eachMs: number[] = [];
  let left = requests;
  const start = performance.now();
  await Promise.all(
    connections.map(async (connection) => {
      while (left-- > 0) {
        const begun = performance.now();
        await once(connection);
        eachMs.push(performance.now() - begun);
      }
    }),
  );
  return { eachMs, tookMs: performance.now() - start };
}
