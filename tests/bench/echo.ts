/**
 * Frames that come back on one connection, one at a time, from a bare echo and from the Pilot mock. Each is an executable that is told
 * a Unix socket; it is ready when somebody can connect to it.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { encodeFrame } from "~/wire/frame";
import { pilotFrameBytesMax } from "~/wire/limits";
import { callers } from "./load";
import { type Latencies, summary, table } from "./measure";
import { command } from "./process";
import { buildReference } from "./reference";

const roundTrips = 20_000;
const warmUp = 2_000;
/** The best of so many counts: the machine may have other work. */
const runs = 3;
const readyMsMax = 10_000;

const pilotFrame = (...bytes: number[]): Uint8Array =>
  encodeFrame(Uint8Array.from(bytes), pilotFrameBytesMax);
/** Dial: an address of 6 bytes and a port. It is answered with the number of the connection, the first of which is 1. */
const dial = pilotFrame(0x03, 0, 1, 0, 0, 0, 1, 0, 80);
const dialledBytes = 9;
/** Send: the number of the connection and data, which come back in as many bytes. */
const sent = pilotFrame(0x06, 0, 0, 0, 1, ...new Uint8Array(64).fill(0x78));

interface Figures {
  readyMs: number;
  trips: Latencies;
}

export async function benchEcho(root: string): Promise<void> {
  const path = join(root, "s");
  const echo = [...(await buildReference(root, "echo")), path];
  const mock = [...command, "mock", "pilot", "--socket", path];
  const [bares, mocks]: [Figures[], Figures[]] = [[], []];
  for (let run = 0; run < runs; run++) {
    rmSync(path, { force: true });
    bares.push(await measureEcho(echo, path, sent, sent.length));
    mocks.push(await measureEcho(mock, path, dial, dialledBytes));
  }
  const [bare, pilot] = [best(bares), best(mocks)];
  console.log(
    table(`Echo of ${sent.length} bytes on one connection: the best of ${runs} runs`, [
      ["a bare Bun.listen", 1, bare.trips],
      ["claudemesh mock pilot: Send, Recv", 1, pilot.trips],
    ]),
  );
  console.log(
    `mock / bare echo                                   ${(pilot.trips.perSecond / bare.trips.perSecond).toFixed(2)}`,
  );
  console.log(
    `from exec to the first connection                  ${pilot.readyMs.toFixed(1)} ms, of the bare echo ${bare.readyMs.toFixed(1)} ms\n`,
  );
}

function best(all: readonly Figures[]): Figures {
  const [trips] = all.map((figures) => figures.trips).sort((a, b) => b.perSecond - a.perSecond);
  if (trips === undefined) throw new Error("nothing was measured");
  return { readyMs: Math.min(...all.map(({ readyMs }) => readyMs)), trips };
}

/** `opening` is sent once, and answered with `openingAnswerBytes`. */
async function measureEcho(
  words: readonly string[],
  path: string,
  opening: Uint8Array,
  openingAnswerBytes: number,
): Promise<Figures> {
  const begunMs = performance.now();
  const server = Bun.spawn([...words], { stdio: ["ignore", "ignore", "ignore"] });
  try {
    const connection = await connectWhenReady(path, begunMs + readyMsMax);
    const readyMs = performance.now() - begunMs;
    await connection.exchange(opening, openingAnswerBytes);
    const once = (): Promise<void> => connection.exchange(sent, sent.length);
    await callers([connection], warmUp, once);
    const { eachMs, tookMs } = await callers([connection], roundTrips, once);
    connection.close();
    return { readyMs, trips: summary(eachMs, tookMs) };
  } finally {
    server.kill();
    await server.exited;
  }
}

async function connectWhenReady(path: string, deadlineMs: number) {
  for (;;) {
    try {
      return await connect(path);
    } catch (error) {
      if (performance.now() > deadlineMs) throw error;
      await Bun.sleep(1); // poll
    }
  }
}

async function connect(path: string) {
  let expectedBytes = 0;
  let waiting = Promise.withResolvers<void>();
  const socket = await Bun.connect({
    unix: path,
    socket: {
      data(_, bytes) {
        expectedBytes -= bytes.length;
        if (expectedBytes <= 0) waiting.resolve();
      },
      close: () => waiting.reject(new Error("the server closed the connection")),
    },
  });
  return {
    /** Resolves when so many bytes have come back. */
    exchange(request: Uint8Array, answerBytes: number): Promise<void> {
      waiting = Promise.withResolvers();
      expectedBytes = answerBytes;
      socket.write(request);
      return waiting.promise;
    },
    close: () => void socket.end(),
  };
}
