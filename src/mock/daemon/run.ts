/**
 * Where the mock of the daemon listens: a Unix socket and, when it is wanted, TCP on the loopback address, for a mock that plays a
 * script (mock.ts) or a recording (replay.ts). Nothing but the socket and the recording is ever written.
 */
import type { Clock } from "~/clock";
import type { WayIn } from "~/daemon/ipc/gate";
import { giveSocket } from "~/disk/unix-socket";
import type { Log } from "~/log";
import { Connections, type Exchange, type HttpServer, openHttpServer } from "~/mock/daemon/http";
import { DaemonMock } from "~/mock/daemon/mock";
import { Redaction } from "~/mock/daemon/redaction";
import { DaemonReplay } from "~/mock/daemon/replay";
import { DaemonPlay, usualDaemonPlay } from "~/mock/daemon/script";
import { noRecorder, openRecorder, type Recorder } from "~/mock/recorder";
import { readScript } from "~/mock/script";
import { mockBodyMsMax } from "~/wire/limits";
import type { Recorded } from "~/wire/mock-recording";

export interface MockDaemonRun extends Ways {
  /** Files; undefined: none. */
  script: string | undefined;
  record: string | undefined;
}

interface Ways {
  socket: string;
  /** A port of 127.0.0.1, 0 for any that is free; undefined: no TCP. */
  tcp: number | undefined;
  /** What clients show over TCP; undefined: `usualToken`. */
  token: string | undefined;
  clock: Clock;
  log: Log;
  onReady(place: Place): void;
}

/** Where it listens, and the token that it takes there. */
export type Place = { socket: string; tcp_port?: number; token?: string };

/** Of the form that the daemon's own tokens have, and no secret. */
export const usualToken = "mock-token-mock-token-mock-token-mock-token";

/** Serves until `ended`. Throws what `giveSocket`, `readScript` and `openRecorder` do, and `port_in_use`. */
export async function runMockDaemon(run: MockDaemonRun, ended: AbortSignal): Promise<void> {
  const { clock, log, script, record, token = usualToken } = run;
  const play = script === undefined ? usualDaemonPlay : playOf(readScript(script, "daemon"));
  const mock = new DaemonMock(token, play, clock, log);
  const recorder = (): Recorder =>
    record === undefined ? noRecorder : openRecorder(record, "daemon", clock, log);
  try {
    await serve(run, token, recorder, (wayIn) => mock.answersTo(wayIn), ended);
  } finally {
    mock.close();
  }
}

const playOf = ({ script, fault }: ReturnType<typeof readScript<"daemon">>): DaemonPlay =>
  new DaemonPlay(script, fault);

/** Answers from a recording until `ended`. Throws what `giveSocket` does, and `port_in_use`. */
export async function replayDaemon(
  ways: Ways,
  entries: readonly Recorded[],
  ended: AbortSignal,
): Promise<void> {
  const { clock, log, token = usualToken } = ways;
  const replay = new DaemonReplay(entries, { token, redact: new Redaction(token), clock, log });
  const answer = (exchange: Exchange): Promise<void> => replay.answer(exchange);
  await serve(
    ways,
    token,
    () => noRecorder,
    () => answer,
    ended,
  );
}

// ── Listening ───────────────────────────────────────────────────────────────────────────────────────────────────────

type Answering = (exchange: Exchange) => Promise<void>;

/** All ways in, until `ended`, and then leaves at once, whatever is open. The file of the socket appears when the rest is there. */
async function serve(
  { socket, tcp, clock, log, onReady }: Ways,
  token: string,
  openRecording: () => Recorder,
  answersTo: (wayIn: WayIn) => Answering,
  ended: AbortSignal,
): Promise<void> {
  let recorder = noRecorder;
  const servers: HttpServer[] = [];
  const stop = (endsConnections: boolean): void => {
    for (const server of servers) server.stop(endsConnections);
  };
  try {
    const listener = await giveSocket(socket, async (path) => {
      recorder = openRecording();
      const connections = new Connections(recorder, new Redaction(token));
      const open = async (place: { path: string } | { port: number }): Promise<void> => {
        let answer: Answering | undefined;
        const server = openHttpServer({
          async answer(exchange) {
            if (recorder.isRecording) await exchange.bodyBytes(clock, mockBodyMsMax);
            await answer?.(exchange);
          },
          connections,
          log,
        });
        servers.push(server);
        await server.listen(place);
        answer = answersTo("path" in place ? { kind: "unix" } : { kind: "tcp", port: server.port });
      };
      try {
        if (tcp !== undefined) await open({ port: tcp });
        await open({ path });
      } catch (error) {
        stop(true);
        throw error;
      }
      return { stop };
    });
    try {
      const [first] = servers;
      onReady({ socket, ...(tcp === undefined ? {} : { tcp_port: first?.port ?? tcp, token }) });
      await untilAborted(ended);
    } finally {
      listener.close();
      stop(true);
    }
  } finally {
    recorder.close();
  }
}

const untilAborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
