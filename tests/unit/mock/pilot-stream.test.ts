/** Pilot clients on a socket, for whatever takes their bytes. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { type PilotClient as Client, type StreamReader, serveStreams } from "~/mock/pilot/stream";
import { mockWaitingBytesMax } from "~/wire/limits";
import { cleanup } from "../../support/cleanup";
import { connectWhenReady, PilotClient } from "../../support/pilot-client";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";

function serve(connect: (client: Client) => StreamReader) {
  const socket = join(tempDir(), "s");
  const logged: [message: string, fields: unknown][] = [];
  const ended = new AbortController();
  const log = (_: string, message: string, fields?: unknown) => void logged.push([message, fields]);
  const served = serveStreams({ socket, log, onReady: () => undefined }, () => connect, ended.signal);
  cleanup(async () => {
    ended.abort();
    await served;
  });
  return { socket, logged };
}

test("a failure of ours ends that connection, is told, and disturbs no other", async () => {
  let gone = 0;
  const { socket, logged } = serve((client) => ({
    isWaiting: false,
    closed: () => {
      gone++;
    },
    received(bytes) {
      if (bytes[0] === 0x21) throw new Error("of ours");
      client.write(bytes);
    },
  }));
  const [first, second] = [await connectWhenReady(socket), await PilotClient.connect(socket)];
  first.raw(Buffer.from("!"));
  await first.ended();
  expect(logged).toEqual([["connection_failed", { error: "of ours" }]]);
  second.raw(Buffer.from([0, 0, 0, 1, 9]));
  expect((await second.next(() => true)).command).toBe(9);
  await waitFor(() => gone === 1, { what: "the mock to know that the client is gone" });
});

test("small things that wait for one who does not read count for what they cost", async () => {
  let listener: Client | undefined;
  const { socket, logged } = serve((client) => {
    listener ??= client;
    return { isWaiting: false, closed: () => undefined, received: () => undefined };
  });
  const deaf = { open: (opened: Bun.Socket) => opened.pause(), data: () => undefined };
  await waitFor(() => Bun.connect({ unix: socket, socket: deaf }), { what: "the socket" });
  await waitFor(() => listener !== undefined, { what: "the connection" });
  const most = mockWaitingBytesMax / 200;
  let sent = 0;
  for (; sent < most && logged.length === 0; sent++) listener?.write(new Uint8Array(18));
  expect(logged.map(([message]) => message)).toEqual(["client_does_not_read"]);
});
