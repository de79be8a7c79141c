/** The mock of the daemon in the test's own process, on a real socket, and two ways to talk with it: fetch, and bare bytes. */
import { writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { type Clock, systemClock } from "~/clock";
import { type Place, replayDaemon, runMockDaemon } from "~/mock/daemon/run";
import { type Recording, readRecording } from "~/mock/recording";
import { cleanup } from "../../support/cleanup";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";

export interface MockOptions {
  /** The rest of a script for this mock. */
  script?: object;
  /** Has it record, or replay what another one has recorded. */
  record?: boolean;
  replay?: string;
  tcp?: number;
  token?: string;
  clock?: Clock;
}

export interface RunningMock {
  place: Place;
  /** The file, when it records. */
  recordFile: string;
  logged: { level: string; message: string; fields: Record<string, unknown> }[];
  /** Over the Unix socket. */
  fetch(target: string, init?: BunFetchRequestInit): Promise<Response>;
  post(target: string, body: unknown): Promise<Response>;
  /** Sends the bytes, and gives what comes back until `until` holds or the connection ends. */
  talk(sent: string | Uint8Array, until?: (text: string) => boolean): Promise<Talk>;
  open(sent: string | Uint8Array): OpenTalk;
  recording(): Recording;
  stop(): Promise<void>;
}

export interface Talk {
  text: string;
  hasEnded: boolean;
}

export interface OpenTalk {
  text(): string;
  hasEnded(): boolean;
  write(bytes: string): void;
  waitForText(pattern: RegExp | string): Promise<string>;
  waitForEnd(): Promise<string>;
  /** Reads nothing more for a while. */
  pause(): void;
  resume(): void;
  leave(): void;
}

export async function startMock(options: MockOptions = {}): Promise<RunningMock> {
  const dir = tempDir();
  const socket = join(dir, "mock.sock");
  const scriptFile = join(dir, "script.json");
  const recordFile = join(dir, "recording.jsonl");
  if (options.script !== undefined) {
    writeFileSync(scriptFile, JSON.stringify({ mock: "daemon", ...options.script }));
  }
  const logged: RunningMock["logged"] = [];
  const ended = new AbortController();
  const ready = Promise.withResolvers<Place>();
  const ways = {
    socket,
    tcp: options.tcp,
    token: options.token,
    clock: options.clock ?? systemClock,
    log: (level: string, message: string, fields = {}) => void logged.push({ level, message, fields }),
    onReady: ready.resolve,
  };
  const running =
    options.replay === undefined
      ? runMockDaemon(
          {
            ...ways,
            script: options.script === undefined ? undefined : scriptFile,
            record: options.record ? recordFile : undefined,
          },
          ended.signal,
        )
      : replayDaemon(ways, readRecording(options.replay).entries, ended.signal);
  const stop = async (): Promise<void> => {
    ended.abort();
    await running;
  };
  cleanup(stop);
  const place = await Promise.race([ready.promise, running.then(() => Promise.reject(new Error("ended")))]);

  const open = (sent: string | Uint8Array): OpenTalk => talkTo(socket, sent);
  return {
    place,
    recordFile,
    logged,
    fetch: (target, init = {}) => fetch(`http://localhost${target}`, { ...init, unix: socket }),
    post: (target, body) =>
      fetch(`http://localhost${target}`, {
        method: "POST",
        body: typeof body === "string" ? body : JSON.stringify(body),
        unix: socket,
      }),
    async talk(sent, until = () => false) {
      const talk = open(sent);
      await waitFor(() => talk.hasEnded() || until(talk.text()), {
        what: `an end of the answer ${JSON.stringify(talk.text())}`,
      });
      const result = { text: talk.text(), hasEnded: talk.hasEnded() };
      talk.leave();
      return result;
    },
    open,
    recording: () => readRecording(recordFile),
    stop,
  };
}

export function talkTo(socketPath: string, sent: string | Uint8Array): OpenTalk {
  let text = "";
  let hasEnded = false;
  const socket = connect(socketPath, () => socket.write(sent));
  socket.on("data", (bytes) => {
    text += bytes.toString("latin1");
  });
  socket.on("error", () => socket.destroy());
  socket.on("close", () => {
    hasEnded = true;
  });
  cleanup(() => void socket.destroy());
  return {
    text: () => text,
    hasEnded: () => hasEnded,
    write: (bytes) => void socket.write(bytes),
    waitForText: async (pattern) => {
      const isThere = () => (typeof pattern === "string" ? text.includes(pattern) : pattern.test(text));
      await waitFor(isThere, { what: `${pattern} in ${JSON.stringify(text)}` });
      return text;
    },
    waitForEnd: async () => {
      await waitFor(() => hasEnded, { what: "the connection to end" });
      return text;
    },
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    leave: () => void socket.destroy(),
  };
}

/** A request as bytes. */
export const httpRequest = (method: string, target: string, body?: unknown, headers = ""): string => {
  const text = body === undefined ? "" : JSON.stringify(body);
  const length = body === undefined ? "" : `content-length: ${Buffer.byteLength(text)}\r\n`;
  return `${method} ${target} HTTP/1.1\r\nhost: localhost\r\n${length}${headers}\r\n${text}`;
};

/** The body of an answer that came as bytes, its chunks put together. */
export function bodyOf(answer: string): string {
  const end = answer.indexOf("\r\n\r\n");
  const body = answer.slice(end + 4);
  if (!/\r\ntransfer-encoding: chunked/i.test(answer.slice(0, end))) return body;
  let rest = body;
  let text = "";
  for (;;) {
    const [, size] = /^([0-9a-f]+)\r\n/i.exec(rest) ?? [];
    if (size === undefined) return text;
    const at = size.length + 2;
    const length = Number.parseInt(size, 16);
    text += rest.slice(at, at + length);
    rest = rest.slice(at + length + 2);
  }
}
