/**
 * `claudemesh mock daemon` as other projects' harnesses use it, and as this project's own commands do: started, awaited, asked, ended by
 * a signal; and everything that may be wrong at the start.
 */
import { describe, expect, test } from "bun:test";
import { existsSync, lstatSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { cleanup } from "../support/cleanup";
import { type CliResult, type RunningCli, runCli, spawnCli } from "../support/cli";
import { tempDir } from "../support/temp-dir";
import { waitFor } from "../support/wait-for";

interface Mock {
  /** The directory that stands in for a daemon's. */
  dir: string;
  socket: string;
  process: RunningCli;
  /** A command that talks to it. */
  run(...args: string[]): Promise<CliResult>;
  fetch(target: string): Promise<Response>;
}

async function startMock(
  args: readonly string[] = [],
  options: { dir?: string; filesMax?: number } = {},
): Promise<Mock> {
  const { dir = tempDir(), ...more } = options;
  const socket = join(dir, "daemon.sock");
  const process = spawnCli(["mock", "daemon", "--socket", socket, ...args], more);
  await waitFor(() => existsSync(socket), { what: "the socket" });
  return {
    dir,
    socket,
    process,
    run: (...words) => runCli(words, { env: { CLAUDEMESH_DAEMON_DIR: dir } }),
    fetch: (target) => fetch(`http://localhost${target}`, { unix: socket }),
  };
}

/** What a mock that was started with --json says of itself. */
const placeOf = async ({ stdout }: RunningCli) =>
  JSON.parse(await waitFor(() => stdout().match(/.*\n/)?.[0], { what: "the place to be told" }));

const scripted = (script: object): readonly string[] => {
  const file = join(tempDir(), "script.json");
  writeFileSync(file, JSON.stringify({ mock: "daemon", ...script }));
  return ["--script", file];
};

function open(socketPath: string, sent: string): Socket & { received(): string } {
  let text = "";
  const socket = connect(socketPath, () => socket.write(sent));
  socket.on("data", (bytes) => {
    text += bytes.toString();
  });
  socket.on("error", () => socket.destroy());
  cleanup(() => void socket.destroy());
  return Object.assign(socket, { received: () => text });
}
const get = (target: string): string => `GET ${target} HTTP/1.1\r\nhost: localhost\r\n\r\n`;

describe("starting and ending", () => {
  test("without a socket: the usage on standard error, and status 2", async () => {
    const { exitCode, stdout, stderr } = await runCli(["mock", "daemon"]);
    expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: "" });
    expect(stderr).toContain("usage: claudemesh mock daemon --socket PATH");
  });

  test("a client that sees the file can connect at once; the flags may have one dash", async () => {
    const socket = join(tempDir(), "d.sock");
    const mock = spawnCli(["mock", "daemon", "-socket", socket]);
    while (!existsSync(socket)) await Bun.sleep(1); // poll
    const response = await fetch("http://localhost/v1/health", { unix: socket });
    expect(response.status).toBe(200);
    expect(lstatSync(socket).mode & 0o777).toBe(0o600);
    expect((await mock.stop()).exitCode).toBe(0);
  });

  test("tells on one line where it listens, with --json on standard output", async () => {
    const mock = await startMock(["--tcp", "0", "--json"]);
    const place = await placeOf(mock.process);
    expect([place.pid, place.socket]).toEqual([mock.process.pid, mock.socket]);
    const health = await fetch(`http://127.0.0.1:${place.tcp_port}/v1/health`, {
      headers: { authorization: `Bearer ${place.token}` },
    });
    expect(health.status).toBe(200);
    const { stderr } = await mock.process.stop();
    expect(JSON.parse(stderr)).toMatchObject({
      message: "listening",
      tcp_port: place.tcp_port,
      token: place.token,
    });
  });

  test.each(["SIGTERM", "SIGINT"] as const)(
    "%s ends it at once, with status 0, whatever is open",
    async (signal) => {
      const mock = await startMock(
        scripted({
          rules: [
            { on: "GET /v1/peers", drop: true },
            { on: "GET /v1/health", delay_ms: 3_600_000 },
          ],
        }),
      );
      const stream = open(mock.socket, get("/v1/events"));
      await waitFor(() => stream.received().includes(": open"), { what: "the stream" });
      open(mock.socket, get("/v1/peers"));
      open(mock.socket, get("/v1/health"));
      open(mock.socket, "POST /v1/send HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{");
      expect((await mock.fetch("/v1/profile")).status).toBe(200);
      const { exitCode, stdout } = await mock.process.stop(signal);
      expect({ exitCode, stdout }).toEqual({ exitCode: 0, stdout: "" });
      expect(existsSync(mock.socket)).toBe(false);
    },
  );

  test("one that was killed leaves its socket, and the next one replaces it", async () => {
    const mock = await startMock();
    await mock.process.stop("SIGKILL");
    expect(existsSync(mock.socket)).toBe(true);
    const process = spawnCli(["mock", "daemon", "--socket", mock.socket]);
    await process.waitForOutput(/listening/);
    expect((await mock.fetch("/v1/health")).status).toBe(200);
  });

  test("what is wrong is told with a status, and what is there stays as it is", async () => {
    const mock = await startMock(["--tcp", "0", "--json"]);
    const { tcp_port } = await placeOf(mock.process);
    const dir = tempDir();
    const path = (name: string): string => join(dir, name);
    mkdirSync(path("directory"));
    writeFileSync(path("file"), "mine");
    writeFileSync(path("broken.json"), '{\n  "mock": "daemon",\n  "rules": [{ "on": "GET /v1/helth" }]\n}\n');
    const cases: [args: string[], exitCode: number, text: string | RegExp][] = [
      [["--socket", mock.socket], 1, "somebody listens on"],
      [["--socket", path("directory")], 4, "is not a socket"],
      [["--socket", path("file")], 4, "is not a socket"],
      [["--socket", path("x".repeat(120))], 1, /the socket path .* has \d+ bytes/],
      [["--socket", path("missing/s")], 1, "cannot listen on"],
      [["--socket", path("s"), "--tcp", String(tcp_port)], 1, `TCP port ${tcp_port} cannot be had`],
      [["--socket", path("s"), "--tcp", "70000"], 2, "from 0 to 65535"],
      [["--socket", path("s"), "--tcp", "0", "--token", "short"], 2, "16 to 256"],
      [["--socket", path("s"), "--token", "x".repeat(16)], 2, "--token belongs to --tcp"],
      [["--socket", path("s"), "--script", path("none.json")], 1, "none.json"],
      [
        ["--socket", path("s"), "--script", path("broken.json")],
        2,
        /broken\.json:3:21: rules\[0\]\.on: .*did you mean GET \/v1\/health\?/,
      ],
      [["--socket", path("s"), "--record", path("missing/r")], 1, "cannot record to"],
      [["--socket", path("s"), "--record", path("directory")], 1, "cannot record to"],
    ];
    for (const [args, status, text] of cases) {
      const { exitCode, stdout, stderr } = await runCli(["mock", "daemon", ...args]);
      expect([args, exitCode, stdout]).toEqual([args, status, ""]);
      expect(stderr).toMatch(text);
    }
    expect(readFileSync(path("file"), "utf8")).toBe("mine");
    expect(existsSync(path("s"))).toBe(false);
    expect((await mock.fetch("/v1/health")).status).toBe(200);
  }, 30_000);

  test("five hundred connections at once, with 64 files: each is served in its turn, and none after is lost", async () => {
    const mock = await startMock([], { filesMax: 64 });
    const clients = Array.from({ length: 500 }, () => open(mock.socket, get("/v1/health")));
    const isServed = (client: (typeof clients)[number]): boolean => client.received().includes('"ok":true');
    await waitFor(() => clients.some(isServed), { what: "the first answer" });
    // Those that were served make room for the others.
    let served = 0;
    await waitFor(
      () => {
        for (const client of clients.filter((other) => !other.destroyed && isServed(other))) {
          served++;
          client.destroy();
        }
        return clients.every((client) => client.destroyed);
      },
      { what: "all of them to be served", timeoutMs: 20_000 },
    );
    // A full queue of the system refuses those that come too fast; they are told so at once.
    expect(served).toBeGreaterThan(64);
    expect((await mock.fetch("/v1/health")).status).toBe(200);
    expect((await mock.process.stop()).exitCode).toBe(0);
  }, 30_000);
});

describe("the commands of this project", () => {
  test("talk to it as to a daemon", async () => {
    const mock = await startMock();
    const cases: [args: string[], shown: string | RegExp][] = [
      [["send", "bob", "hi", "--id", "key-1"], "queued key-1 for bob"],
      [["send", "bob", "hi", "--id", "key-1", "--wait", "accepted"], "accepted key-1 for bob"],
      [["track", "key-1"], "done (accepted"],
      [["inbox"], "the build is green"],
      [["inbox", "--unread", "--ack"], "thanks, got it"],
      [["peers"], /^bob +team/],
      [["peers", "--all"], /carol +team .*away/],
      [["profile"], "Stand-in"],
      [["profile", "--summary", "other"], "other"],
      [["daemon", "status"], `pid ${mock.process.pid}`],
      [["daemon", "version"], "events_replay"],
      [["daemon", "outbox", "list"], /to-bob-3 +bob +failed/],
      [["daemon", "outbox", "list", "--failed"], /^\S+ \S+ +to-bob-3 +bob +failed +expired\n$/],
      [["daemon", "outbox", "show", "to-bob-2"], "aborted"],
      [["daemon", "outbox", "requeue", "to-bob-3", "--new-client-id", "anew"], "requeued to-bob-3 as anew"],
    ];
    for (const [args, shown] of cases) {
      const { exitCode, stdout, stderr } = await mock.run(...args);
      expect([args, exitCode, stderr.replace(/^1 pending.*\n/, "")]).toEqual([args, 0, ""]);
      expect(stdout).toMatch(shown);
    }
  }, 30_000);

  test("hear its events, and come back when it was away", async () => {
    const script = scripted({ events: [{ after: "POST /v1/send", event: "message" }] });
    const mock = await startMock(script);
    const events = spawnCli(["events", "--json", "--since", "2"], {
      env: { CLAUDEMESH_DAEMON_DIR: mock.dir },
    });
    await events.waitForOutput(/"id":"3"/);
    await mock.run("send", "bob", "are you there?");
    await events.waitForOutput(/"id":"4".*re: are you there\?/);
    await mock.process.stop();
    await events.waitForOutput(/trying again/);
    const again = await startMock(script, { dir: mock.dir });
    await events.waitForOutput(/the daemon is back/);
    await again.run("send", "bob", "and now?");
    await events.waitForOutput(/re: and now\?/);
    expect((await events.stop("SIGINT")).exitCode).toBe(130);
  });

  test("reach their failure paths by a script", async () => {
    const mock = await startMock(
      scripted({
        rules: [
          { on: "POST /v1/send", where: { body: { to: "nobody" } }, error: "unknown_peer" },
          {
            on: "POST /v1/send",
            where: { body: { client_message_id: "used" } },
            error: "idempotency_key_reused",
          },
          { on: "POST /v1/send", where: { body: { to: "carol" } }, times: 2, cut: true },
          { on: "GET /v1/peers", reply: { merge: { peers: "none" } } },
          { on: "GET /v1/inbox", reply: { body: "{" } },
          { on: "GET /v1/outbox", cut: { after_bytes: 9 } },
          { on: "GET /v1/profile", reply: { headers: { "claudemesh-version": "99.0.0" } } },
        ],
      }),
    );
    const status = async (...args: string[]): Promise<[number, string]> => {
      const { exitCode, stderr } = await mock.run(...args);
      return [exitCode, stderr];
    };
    expect(await status("send", "nobody", "hi")).toEqual([
      5,
      expect.stringContaining("nobody in team is called that"),
    ]);
    expect(await status("send", "bob", "hi", "--id", "used")).toEqual([
      6,
      expect.stringContaining("already used"),
    ]);
    // The first two answers are lost; the same id is sent again until one comes.
    expect((await mock.run("send", "carol", "hi", "--id", "lost")).stdout).toContain("queued lost");
    expect(await status("peers")).toEqual([1, expect.stringContaining("peers")]);
    expect(await status("inbox")).toEqual([1, expect.stringContaining("/v1/inbox")]);
    expect(await status("daemon", "outbox", "list")).toEqual([
      3,
      expect.stringContaining("broke before it answered"),
    ]);
    expect(await status("profile")).toEqual([0, expect.stringContaining("the daemon runs version 99.0.0")]);
  }, 30_000);
});

describe("a recording", () => {
  test("of a run of commands answers the same run again", async () => {
    const dir = tempDir();
    const file = join(dir, "recording.jsonl");
    const mock = await startMock(["--record", file]);
    const commands = [
      ["send", "bob", "hi", "--id", "key-1"],
      ["inbox", "--json"],
      ["peers", "--all"],
      ["daemon", "version"],
    ];
    const recorded = await inTurn(commands, (args) => mock.run(...args));
    await mock.process.stop("SIGKILL");
    const socket = join(dir, "daemon.sock");
    const replay = spawnCli(["mock", "replay", file, "--socket", socket, "--tcp", "0", "--json"]);
    await placeOf(replay);
    const env = { CLAUDEMESH_DAEMON_DIR: dir };
    const replayed = await inTurn(commands, (args) => runCli(args, { env }));
    expect(replayed.map(({ stdout }) => stdout)).toEqual(recorded.map(({ stdout }) => stdout));
    expect(replayed.map(({ exitCode }) => exitCode)).toEqual([0, 0, 0, 0]);
    const other = await runCli(["send", "carol", "hi"], { env });
    expect(other.exitCode).not.toBe(0);
    expect(other.stderr).toContain("the recording has no POST /v1/send with the body");
    const { exitCode, stderr } = await replay.stop();
    expect(exitCode).toBe(0);
    expect(stderr).toContain("not_recorded");
    expect(existsSync(socket)).toBe(false);
  }, 30_000);

  test("that is none, or of the other mock where TCP is wanted, is refused", async () => {
    const file = join(tempDir(), "recording.jsonl");
    const replay = (...args: string[]): Promise<CliResult> =>
      runCli(["mock", "replay", file, "--socket", join(tempDir(), "s"), ...args]);
    writeFileSync(file, '{"recording":"daemon","version":"1"}\nnothing\n');
    expect(await replay()).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining(`${file}:2: not JSON`),
    });
    writeFileSync(file, '{"recording":"pilot","version":"1"}\n');
    expect(await replay("--tcp", "0")).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("mock pilot"),
    });
  });
});

async function inTurn<T, R>(items: readonly T[], act: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (const item of items) results.push(await act(item));
  return results;
}
