/**
 * `claudemesh mock pilot` as other projects' harnesses use it: started, awaited, driven through every endpoint, ended by SIGTERM.
 * What comes in is held against the description of the protocol, by a client that has nothing of ours.
 */
import { beforeAll, describe, expect, test } from "bun:test";
import {
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { systemCodeOf } from "~/errors";
import { pilotAnswerNames, pilotRequestNames, pilotRequests } from "~/wire/pilot";
import { cleanup } from "../support/cleanup";
import { command, type RunningCli, runCli, spawnCli } from "../support/cli";
import { address, connectWhenReady, PilotClient, pilotFrame, u16, u32 } from "../support/pilot-client";
import { endpoints } from "../support/pilot-endpoints";
import { tempDir } from "../support/temp-dir";
import { waitFor } from "../support/wait-for";

interface Mock {
  path: string;
  process: RunningCli;
  connect(): Promise<PilotClient>;
}

function startMock(args: readonly string[] = [], path = join(tempDir(), "pilot.sock")): Mock {
  return {
    path,
    process: spawnCli(["mock", "pilot", "-socket", path, ...args]),
    connect: () => connectWhenReady(path),
  };
}

function startScripted(script: object, args: readonly string[] = []): Mock {
  const file = join(tempDir(), "script.json");
  writeFileSync(file, JSON.stringify({ mock: "pilot", ...script }));
  return startMock(["--script", file, ...args]);
}

const target = address(1, 7);
const info = { hostname: "mock-daemon", node_id: 305419896, peers: [], version: "mock-0.1.0" };
const askInfo = (client: PilotClient): Promise<unknown> => client.askJson(0x0d, 0x0e);

describe("the endpoints", () => {
  let shared: Mock;
  beforeAll(() => {
    shared = startMock();
  });

  test("each command of the table has one", () => {
    const covered = new Set(endpoints.flatMap(({ covers }) => covers));
    expect([...covered].sort()).toEqual([...pilotRequestNames].sort());
    expect(endpoints.length).toBeGreaterThanOrEqual(41);
  });

  test("each answer and push of the table comes from one, or from the error cases below", () => {
    const answered = new Set<string>(pilotRequestNames.map((name) => pilotRequests[name].answer));
    expect(pilotAnswerNames.filter((name) => !answered.has(name)).sort()).toEqual(["accept", "error"]);
  });

  test("all, over one pair of handles", async () => {
    const mock = startMock();
    const [handle, other] = [await mock.connect(), await mock.connect()];
    for (const endpoint of endpoints) await endpoint.drive(handle, other);
    expect(await askInfo(handle)).toEqual(info);
    expect([...handle.inbox, ...other.inbox]).toEqual([]);
    expect((await mock.process.stop()).exitCode).toBe(0);
  });

  test.each(endpoints.map((endpoint) => [endpoint.name, endpoint] as const))("%s", async (_, endpoint) => {
    const handles = [await shared.connect(), await shared.connect()] as const;
    await endpoint.drive(...handles);
    for (const handle of handles) handle.close();
  });
});

describe("starting and ending", () => {
  test("without a socket: the usage on standard error, and status 2", async () => {
    const { exitCode, stdout, stderr } = await runCli(["mock", "pilot"]);
    expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: "" });
    expect(stderr).toContain("usage: claudemesh mock pilot -socket PATH");
  });

  test.each(["-socket", "--socket", "-socket=", "--socket="])("%s names the socket", async (flag) => {
    const path = join(tempDir(), "pilot.sock");
    const running = spawnCli(["mock", "pilot", ...(flag.endsWith("=") ? [`${flag}${path}`] : [flag, path])]);
    expect(await askInfo(await connectWhenReady(path))).toEqual(info);
    expect((await running.stop()).stdout).toBe("");
  });

  test.each(["--json", "-json"])("%s says on standard output where it listens", async (flag) => {
    const mock = startMock([flag]);
    await mock.connect();
    const { stdout } = await mock.process.stop();
    expect(JSON.parse(stdout)).toEqual({ pid: mock.process.pid, socket: mock.path });
  });

  test("-help is help, whatever else is there", async () => {
    for (const args of [["-help"], ["-help", "-socket", join(tempDir(), "s")]]) {
      const { exitCode, stdout } = await runCli(["mock", "pilot", ...args]);
      expect({ exitCode, stdout }).toEqual({ exitCode: 0, stdout: expect.stringContaining("USAGE") });
    }
  });

  test("what stands behind -- is no flag", async () => {
    const args = ["mock", "replay", "-socket", join(tempDir(), "s"), "--", "-recording.jsonl"];
    expect(await runCli(args)).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining("/-recording.jsonl"),
    });
  });

  test.each([
    ["-socket", "", "--socket: a path expected"],
    ["-socket=", "", "--socket: a path expected"],
    ["-script=", "", "--script: a path expected"],
    ["-record=", "", "--record: a path expected"],
  ])("%s%s, as of a variable that is not set, is wrong usage", async (flag, value, message) => {
    const socket = flag.startsWith("-socket") ? [] : ["-socket", join(tempDir(), "s")];
    const { exitCode, stderr } = await runCli([
      ...["mock", "pilot", ...socket, flag],
      ...(flag.endsWith("=") ? [] : [value]),
    ]);
    expect({ exitCode, stderr }).toEqual({ exitCode: 2, stderr: expect.stringContaining(message) });
  });

  test("a recording never takes the place of the script or the socket", async () => {
    const [script, socket] = [join(tempDir(), "script.json"), join(tempDir(), "s")];
    writeFileSync(script, '{"mock":"pilot"}');
    const args = ["mock", "pilot", "-socket", socket, "-script", script, "-record"];
    for (const [file, named] of [
      [script, "script"],
      [socket, "socket"],
    ] as const) {
      const { exitCode, stderr } = await runCli([...args, file]);
      const message = expect.stringContaining(`--record and --${named} name the same file`);
      expect({ exitCode, stderr }).toEqual({ exitCode: 2, stderr: message });
    }
    expect([readFileSync(script, "utf8"), existsSync(socket)]).toEqual(['{"mock":"pilot"}', false]);
  });

  test("the socket is its owner's alone", async () => {
    const mock = startMock();
    await mock.connect();
    expect(statSync(mock.path).mode & 0o777).toBe(0o600);
  });

  test.each(["SIGTERM", "SIGINT"] as const)(
    "%s ends it at once with status 0, whatever is open, and its file is gone",
    async (signal) => {
      const mock = startScripted({ rules: [{ on: "info", delay_ms: 60_000 }] });
      const [idle, inside, waiting] = [await mock.connect(), await mock.connect(), await mock.connect()];
      inside.raw(Buffer.of(0, 0, 1, 0, 0x06));
      waiting.send(0x0d);
      await waiting.askJson(0x21, 0x22);
      const { exitCode } = await mock.process.stop(signal);
      expect({ exitCode, isThere: existsSync(mock.path) }).toEqual({ exitCode: 0, isThere: false });
      expect(await idle.ended()).toBe("between frames");
    },
  );

  test("what a killed one left is replaced", async () => {
    const first = startMock();
    await first.connect();
    await first.process.stop("SIGKILL");
    expect(existsSync(first.path)).toBe(true);
    const second = startMock([], first.path);
    expect(await askInfo(await second.connect())).toEqual(info);
  });

  test("a live one is left alone", async () => {
    const first = startMock();
    const client = await first.connect();
    const { exitCode, stderr } = await runCli(["mock", "pilot", "-socket", first.path]);
    expect({ exitCode, stderr }).toEqual({
      exitCode: 1,
      stderr: expect.stringContaining("somebody listens"),
    });
    expect(await askInfo(client)).toEqual(info);
    expect(await askInfo(await first.connect())).toEqual(info);
  });

  test.each([
    ["a directory", (path: string) => mkdirSync(path), "is not a socket"],
    ["a file", (path: string) => writeFileSync(path, "mine"), "is not a socket"],
    ["a link to nowhere", (path: string) => symlinkSync("nowhere", path), "is not a socket"],
  ])("a socket path that is %s", async (_, make, message) => {
    const path = join(tempDir(), "x");
    make(path);
    const { exitCode, stderr } = await runCli(["mock", "pilot", "-socket", path]);
    expect({ exitCode, stderr }).toEqual({ exitCode: 4, stderr: expect.stringContaining(message) });
    expect(stderr).toContain("hint: ");
  });

  test.each([
    ["too long", "x".repeat(120), "this system allows"],
    ["in no directory", "none/x", "cannot listen on"],
  ])("a socket path that is %s", async (_, name, message) => {
    const { exitCode, stderr } = await runCli(["mock", "pilot", "-socket", join(tempDir(), name)]);
    expect({ exitCode, stderr }).toEqual({ exitCode: 1, stderr: expect.stringContaining(message) });
    expect(stderr).toContain("hint: ");
  });

  test("a path as long as the system allows", async () => {
    const dir = tempDir();
    const path = join(dir, "x".repeat((process.platform === "darwin" ? 103 : 107) - dir.length - 1));
    expect(await askInfo(await startMock([], path).connect())).toEqual(info);
  });
});

describe("what it tells", () => {
  /** Started by a shell that gives it what `words` say as its standard output and error. */
  function startBy(words: string): { path: string; child: Bun.Subprocess<"ignore", "ignore", "ignore"> } {
    const dir = tempDir();
    const path = join(dir, "s");
    const mock = [...command, "mock", "pilot", "-socket", path, "--json"]
      .map((word) => `'${word}'`)
      .join(" ");
    const child = Bun.spawn(["sh", "-c", `exec ${mock} ${words}`], {
      cwd: dir,
      stdin: "ignore",
      stdout: "ignore",
      stderr: "ignore",
    });
    cleanup(() => void child.kill("SIGKILL"));
    return { path, child };
  }

  test("a log that nobody reads holds nothing up, and a pipe that is shared stays as it is", async () => {
    const pipe = join(tempDir(), "pipe");
    Bun.spawnSync(["mkfifo", pipe]);
    // The end for reading is held open, and never read from.
    const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
    cleanup(() => closeSync(reader));
    const { path, child } = startBy(`2>'${pipe}'`);
    const client = await connectWhenReady(path);
    for (let n = 0; n < 20; n++) {
      client.raw(Buffer.concat(Array(500).fill(pilotFrame(0xff))));
      for (let came = 0; came < 500; came++) await client.next(({ command: came }) => came === 0x0a);
    }
    if (process.platform === "linux") {
      const [, flags = ""] =
        /^flags:\t(\d+)/m.exec(readFileSync(`/proc/${child.pid}/fdinfo/2`, "utf8")) ?? [];
      expect(Number.parseInt(flags, 8) & constants.O_NONBLOCK).toBe(0);
    }
    // Whoever is told twice, by a terminal and by its harness, say, was told the same.
    child.kill("SIGTERM");
    child.kill("SIGINT");
    expect(await child.exited).toBe(0);
    expect(existsSync(path)).toBe(false);
  });

  test("a log that is read late is whole again, and says what was lost", async () => {
    const pipe = join(tempDir(), "pipe");
    Bun.spawnSync(["mkfifo", pipe]);
    const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
    const { path, child } = startBy(`2>'${pipe}'`);
    const client = await connectWhenReady(path);
    const sent = 40_000;
    client.raw(Buffer.concat(Array(sent).fill(pilotFrame(0xff))));
    for (let came = 0; came < sent; came++) await client.next(({ command: came }) => came === 0x0a);
    let text = "";
    const chunk = Buffer.alloc(65_536);
    await waitFor(
      () => {
        try {
          text += chunk.toString("utf8", 0, readSync(reader, chunk));
        } catch (error) {
          if (systemCodeOf(error) !== "EAGAIN") throw error;
        }
        return text.includes("log_lines_lost");
      },
      { what: "the log to say what was lost" },
    );
    child.kill("SIGTERM");
    expect(await child.exited).toBe(0);
    closeSync(reader);
    const lines = text
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    const malformed = lines.filter(({ message }) => message === "malformed_request").length;
    expect(malformed + lines.find(({ message }) => message === "log_lines_lost").lines).toBe(sent);
  });

  test.skipIf(!existsSync("/dev/full"))("where it listens is told on a full disk by the log", async () => {
    const log = join(tempDir(), "log");
    const { path, child } = startBy(`>/dev/full 2>'${log}'`);
    await askInfo(await connectWhenReady(path));
    child.kill("SIGTERM");
    expect(await child.exited).toBe(0);
    const lines = readFileSync(log, "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line).message);
    expect(lines).toEqual(["listening", "place_not_told"]);
  });
});

describe("with few files to open", () => {
  const limited = (path: string): RunningCli =>
    spawnCli(["mock", "pilot", "-socket", path], { filesMax: 64 });

  const runs = Number(process.env.MOCK_RUNS ?? 5);
  test(
    `started, driven through every endpoint and ended, ${runs} times`,
    async () => {
      for (let run = 0; run < runs; run++) {
        const path = join(tempDir(), "pilot.sock");
        const running = limited(path);
        const [handle, other] = [await connectWhenReady(path), await connectWhenReady(path)];
        for (const endpoint of endpoints) await endpoint.drive(handle, other);
        expect((await running.stop()).exitCode).toBe(0);
        expect([await handle.ended(), await other.ended()]).toEqual(["between frames", "between frames"]);
      }
    },
    runs * 5_000,
  );

  test("more clients than it can have: those that it has are served, and the others as soon as some go", async () => {
    const path = join(tempDir(), "pilot.sock");
    const running = limited(path);
    const first = await connectWhenReady(path);
    // All connect: the system queues those whom the mock cannot accept.
    const clients = await Promise.all(Array.from({ length: 100 }, () => PilotClient.connect(path)));
    expect(await askInfo(first)).toEqual(info);
    const answers = clients.map((client) => askInfo(client).catch(() => undefined));
    for (const client of clients.slice(0, 70)) client.close();
    expect((await Promise.all(answers.slice(70))).every((answer) => answer !== undefined)).toBe(true);
    expect((await running.stop()).exitCode).toBe(0);
  });
});

describe("frames", () => {
  test("one byte at a time", async () => {
    const client = await startMock().connect();
    for (const byte of Buffer.concat([pilotFrame(0x0d), pilotFrame(0x11, "bob")])) {
      client.raw(Buffer.of(byte));
      await Bun.sleep(0); // lets each byte go out by itself
    }
    expect(JSON.parse((await client.push(0x0e)).payload.toString())).toEqual(info);
    expect(JSON.parse((await client.push(0x12)).payload.toString())).toEqual({
      hostname: "bob",
      node_id: 195948557,
    });
  });

  test("several at once, and empty ones between them", async () => {
    const client = await startMock().connect();
    const empty = u32(0);
    client.raw(
      Buffer.concat([empty, pilotFrame(0x21), empty, empty, pilotFrame(0x17), pilotFrame(0x25), empty]),
    );
    expect((await client.next(() => true)).command).toBe(0x22);
    expect((await client.next(() => true)).command).toBe(0x18);
    expect((await client.next(() => true)).command).toBe(0x26);
    expect(await askInfo(client)).toEqual(info);
    expect(client.inbox).toEqual([]);
  });

  test.each([1_048_577, 0xffff_ffff])(
    "a length of %d closes the connection, and no other",
    async (length) => {
      const mock = startMock();
      const [client, other] = [await mock.connect(), await mock.connect()];
      client.raw(Buffer.concat([pilotFrame(0x21), u32(length), pilotFrame(0x0d)]));
      expect(await client.ended()).toBe("between frames");
      expect(client.inbox.map(({ command }) => command)).toEqual([0x22]);
      expect(await askInfo(other)).toEqual(info);
    },
  );

  test("the longest frame comes back whole", async () => {
    const client = await startMock().connect();
    const data = Buffer.alloc(1_048_576 - 5, 0x61);
    client.send(0x06, u32(1), data);
    expect((await client.push(0x07)).payload.equals(Buffer.concat([u32(1), data]))).toBe(true);
  });

  test("an answer that would be longer than a frame is an error", async () => {
    const client = await startMock().connect();
    await expect(client.ask(0x0b, 0x0c, target, u16(1), Buffer.alloc(1_048_576 - 9))).rejects.toThrow(
      "recv_from: does not fit",
    );
    await expect(client.ask(0x11, 0x12, "\u0001".repeat(300_000))).rejects.toThrow(
      "resolve_ok: does not fit",
    );
    expect(await askInfo(client)).toEqual(info);
  });

  test.each([
    ["bind without a port", [0x01], "bind: missing port"],
    ["bind with half a port", [0x01, 9], "bind: missing port"],
    ["dial without anything", [0x03], "dial: missing address/port"],
    ["dial without a port", [0x03, 0, 1, 0, 0, 0, 1, 9], "dial: missing address/port"],
    ["a handshake without a sub-command", [0x0f], "handshake: missing sub-cmd"],
    ["an unknown handshake", [0x0f, 0xab], "handshake: unknown sub 0xAB"],
    ["an unknown command", [0x0c], "unknown cmd 0x0C"],
    ["another", [0xff, 1, 2, 3], "unknown cmd 0xFF"],
  ])("%s is an error", async (_, [command = 0, ...payload], message) => {
    const client = await startMock().connect();
    const answer = await client.ask(command, 0x0a, ...payload);
    expect({ code: answer.readUInt16BE(), text: answer.toString("utf8", 2) }).toEqual({
      code: 1,
      text: message,
    });
    expect(await askInfo(client)).toEqual(info);
  });

  test("a short send, datagram or close is ignored", async () => {
    const client = await startMock().connect();
    client.send(0x06, 0, 0, 1);
    client.send(0x0b, 0, 1, 0, 0, 0, 1, 9);
    client.send(0x08, 0, 0, 1);
    expect(await askInfo(client)).toEqual(info);
    expect(client.inbox).toEqual([]);
  });

  test.each([
    ["a handshake without its node", 0x0f, 0x10, [2], { ok: true }],
    ["visibility without a value", 0x15, 0x16, [], { public: false }],
    ["a network without a sub-command", 0x1f, 0x20, [], { members: [], ok: true }],
    ["an unknown network command", 0x1f, 0x20, [0x55], { members: [], ok: true }],
    ["half a managed command", 0x23, 0x24, [5], { ok: true, status: "idle" }],
  ])("%s has the usual answer", async (_, command, reply, payload, answer) => {
    const client = await startMock().connect();
    expect(await client.askJson(command, reply, ...payload)).toEqual(answer);
  });

  test("the keys of an answer are in the order of the alphabet", async () => {
    const client = await startMock().connect();
    expect((await client.ask(0x0d, 0x0e)).toString()).toBe(
      '{"hostname":"mock-daemon","node_id":305419896,"peers":[],"version":"mock-0.1.0"}',
    );
    expect((await client.ask(0x1f, 0x20, 4, u16(1))).toString()).toBe('{"members":[],"ok":true}');
  });
});

describe("clients", () => {
  test("one that vanishes in the middle of a frame disturbs nobody, and its port goes with it", async () => {
    const mock = startMock();
    const [gone, other, third] = [await mock.connect(), await mock.connect(), await mock.connect()];
    await gone.ask(0x01, 0x02, u16(5));
    gone.raw(pilotFrame(0x06, u32(1), "x".repeat(1000)).subarray(0, 500));
    gone.close();
    await third.ask(0x03, 0x04, target, u16(5));
    await other.ask(0x01, 0x02, u16(5));
    await third.ask(0x03, 0x04, target, u16(5));
    expect((await other.push(0x05)).payload.readUInt16BE()).toBe(5);
    expect(other.inbox).toEqual([]);
  });

  test("one that dials the port that it bound itself is not told", async () => {
    const client = await startMock().connect();
    await client.ask(0x01, 0x02, u16(5));
    await client.ask(0x03, 0x04, target, u16(5));
    expect(await askInfo(client)).toEqual(info);
    expect(client.inbox).toEqual([]);
  });

  test("one that closes its side still has its answers", async () => {
    const client = await startScripted({ rules: [{ on: "health", delay_ms: 50 }] }).connect();
    client.raw(Buffer.concat([pilotFrame(0x21), pilotFrame(0x0d)]));
    client.shutdown();
    expect(await client.ended()).toBe("between frames");
    expect(client.inbox.map(({ command }) => command)).toEqual([0x0e, 0x22]);
  });

  test("forty at once, with pushes and replies mixed: each has its own, whole and in order", async () => {
    const mock = startMock();
    const clients = await Promise.all(Array.from({ length: 40 }, () => mock.connect()));
    await clients[0]?.ask(0x01, 0x02, u16(6));
    await Promise.all(
      clients.slice(1).map(async (client, index) => {
        const id = (await client.ask(0x03, 0x04, target, u16(6))).readUInt32BE();
        for (let n = 0; n < 50; n++) {
          client.send(0x06, u32(id), `${index}/${n}/${"x".repeat(n * 40)}`);
          client.send(0x21);
        }
        for (let n = 0; n < 50; n++) {
          const { payload } = await client.push(0x07);
          expect(payload.toString("utf8", 4)).toBe(`${index}/${n}/${"x".repeat(n * 40)}`);
          await client.push(0x22);
        }
      }),
    );
    const accepted = new Set<number>();
    for (let n = 1; n < 40; n++) accepted.add((await clients[0]?.push(0x05))?.payload.readUInt32BE(2) ?? 0);
    expect([...accepted].sort((left, right) => left - right)).toEqual(
      Array.from({ length: 39 }, (_, n) => n + 1),
    );
  });

  test("one that does not read is not read from, and loses nothing", async () => {
    const mock = startMock();
    const other = await mock.connect();
    let received = 0;
    const socket = await Bun.connect({
      unix: mock.path,
      socket: {
        open: (opened) => opened.pause(),
        data: (_, bytes) => {
          received += bytes.length;
        },
      },
    });
    const frame = pilotFrame(0x06, u32(9), Buffer.alloc(1_000_000, 0x62));
    let sent = 0;
    let refusals = 0;
    // Were it read all the same, this would end only with the connection.
    await waitFor(
      () => {
        const taken = socket.write(frame.subarray(sent % frame.length));
        if (taken < 0) throw new Error("the connection is closed");
        sent += taken;
        refusals = taken === 0 ? refusals + 1 : 0;
        return refusals === 20;
      },
      { what: "the mock to stop reading" },
    );
    expect(await askInfo(other)).toEqual(info);
    expect(received).toBe(0);
    socket.resume();
    const whole = sent - (sent % frame.length);
    await waitFor(() => received >= whole, { what: `${whole} bytes to come back` });
    socket.terminate();
  });
});

describe("scripts", () => {
  test("a reply that is JSON is replaced", async () => {
    const client = await startScripted({
      rules: [{ on: "info", reply: { node_id: 1, extra: ["x"] } }],
    }).connect();
    expect(await askInfo(client)).toEqual({ node_id: 1, extra: ["x"] });
    expect(await client.askJson(0x21, 0x22)).toEqual({ ok: true, uptime_secs: 0 });
  });

  test("a reply that has fields keeps those that are not named", async () => {
    const rules = [
      { on: "bind", reply: { port: 999 } },
      { on: "send", reply: { data: { hex: "00ff" } } },
      { on: "send_to", reply: { address: "2:0002.0000.0003" } },
    ];
    const client = await startScripted({ rules }).connect();
    expect((await client.ask(0x01, 0x02, u16(5))).readUInt16BE()).toBe(999);
    client.send(0x06, u32(4), "hello");
    expect((await client.push(0x07)).payload).toEqual(Buffer.concat([u32(4), Buffer.of(0, 255)]));
    client.send(0x0b, target, u16(53), "hello");
    const expected = Buffer.concat([address(2, 3), u16(0xdead), u16(53), Buffer.from("hello")]);
    expect((await client.push(0x0c)).payload).toEqual(expected);
  });

  test("a bound port is the one that was answered", async () => {
    const mock = startScripted({ rules: [{ on: "bind", reply: { port: 999 } }] });
    const [listener, dialler] = [await mock.connect(), await mock.connect()];
    await listener.ask(0x01, 0x02, u16(5));
    await dialler.ask(0x03, 0x04, target, u16(999));
    expect((await listener.push(0x05)).payload.readUInt16BE()).toBe(999);
  });

  test("an error, with its code", async () => {
    const rules = [
      { on: "dial", error: "no route" },
      { on: "bind", error: { code: 7, text: "taken" } },
    ];
    const mock = startScripted({ rules });
    const client = await mock.connect();
    await expect(client.ask(0x03, 0x04, target, u16(5))).rejects.toThrow("1: no route");
    await expect(client.ask(0x01, 0x02, u16(5))).rejects.toThrow("7: taken");
  });

  test("a refused dial is not announced to whoever listens", async () => {
    const mock = startScripted({ rules: [{ on: "dial", times: 1, error: "no route" }] });
    const [listener, dialler] = [await mock.connect(), await mock.connect()];
    await listener.ask(0x01, 0x02, u16(5));
    await dialler.ask(0x03, 0x0a, target, u16(5));
    const id = (await dialler.ask(0x03, 0x04, target, u16(5))).readUInt32BE();
    expect((await listener.push(0x05)).payload.readUInt32BE(2)).toBe(id);
    expect(listener.inbox).toEqual([]);
  });

  test("a dropped reply never comes, and what follows does", async () => {
    const client = await startScripted({ rules: [{ on: "health", drop: true }] }).connect();
    client.send(0x21);
    expect(await askInfo(client)).toEqual(info);
    expect(client.inbox).toEqual([]);
  });

  test("a delayed reply comes later, and holds up nothing else", async () => {
    const client = await startScripted({ rules: [{ on: "health", delay_ms: 150 }] }).connect();
    const beganMs = performance.now();
    client.send(0x21);
    expect(await askInfo(client)).toEqual(info);
    expect(client.inbox).toEqual([]);
    await client.push(0x22);
    expect(performance.now() - beganMs).toBeGreaterThan(140);
  });

  test("the connection is cut, before the answer or in the middle of it", async () => {
    const rules = [
      { on: "health", cut: true },
      { on: "info", cut: { after_bytes: 9 } },
    ];
    const mock = startScripted({ rules });
    const [before, within] = [await mock.connect(), await mock.connect()];
    before.raw(Buffer.concat([pilotFrame(0x17), pilotFrame(0x21), pilotFrame(0x17)]));
    expect(await before.ended()).toBe("between frames");
    expect(before.inbox.map(({ command }) => command)).toEqual([0x18]);
    within.send(0x0d);
    expect(await within.ended()).toBe("inside a frame");
  });

  test("bytes go out as they are", async () => {
    const rules = [
      { on: "health", bytes: { hex: "0000000122" } },
      { on: "info", bytes: "half" },
    ];
    const mock = startScripted({ rules });
    const client = await mock.connect();
    expect(await client.ask(0x21, 0x22)).toHaveLength(0);
    client.raw(Buffer.concat([pilotFrame(0x0d), pilotFrame(0x21)]));
    await waitFor(() => client.unfinished.length > 4, { what: "something that is no frame" });
    expect(client.unfinished.toString("latin1")).toBe("half\u0000\u0000\u0000\u0001\u0022");
  });

  test("so many times, then otherwise, then as usual", async () => {
    const rules = [
      { on: "health", times: 2 },
      { on: "health", times: 1, reply: { ok: false } },
    ];
    const mock = startScripted({ rules });
    const [client, other] = [await mock.connect(), await mock.connect()];
    const usual = { ok: true, uptime_secs: 0 };
    const answers: unknown[] = [];
    for (const handle of [client, other, client, other]) answers.push(await handle.askJson(0x21, 0x22));
    expect(answers).toEqual([usual, usual, { ok: false }, usual]);
  });

  test("only where the request has these values", async () => {
    const rules = [
      { on: "dial", where: { address: "3:0003.0000.0001" }, error: "that one" },
      { on: "resolve", where: { hostname: "nowhere" }, reply: { error: "unknown" } },
      { on: "send", where: { conn_id: 2, data: "x" }, reply: { data: "y" } },
    ];
    const client = await startScripted({ rules }).connect();
    await expect(client.ask(0x03, 0x04, address(3, 1), u16(5))).rejects.toThrow("that one");
    expect(await client.ask(0x03, 0x04, address(3, 2), u16(5))).toHaveLength(4);
    expect(await client.askJson(0x11, 0x12, "nowhere")).toEqual({ error: "unknown" });
    expect(await client.askJson(0x11, 0x12, "here")).toEqual({ hostname: "here", node_id: 195948557 });
    const echoes: string[] = [];
    for (const [id, data] of [
      [2, "x"],
      [1, "x"],
      [2, "z"],
    ] as const) {
      client.send(0x06, u32(id), data);
      echoes.push((await client.push(0x07)).payload.toString("utf8", 4));
    }
    expect(echoes).toEqual(["y", "x", "z"]);
  });

  test("a rule may be for all sub-commands, or for everything", async () => {
    const rules = [
      { on: "network", error: "no networks" },
      { on: "*", error: "nothing at all" },
    ];
    const client = await startScripted({ rules }).connect();
    for (const sub of [1, 6]) await expect(client.ask(0x1f, 0x20, sub)).rejects.toThrow("no networks");
    await expect(client.ask(0x21, 0x22)).rejects.toThrow("nothing at all");
  });

  test("pushes after a connection, a command, and a time", async () => {
    const pushes = [
      { after: "connect", push: "recv", fields: { conn_id: 77, data: "welcome" } },
      { after: "dial", push: "recv", fields: { data: "hello" } },
      {
        after: "bind",
        delay_ms: 100,
        push: "accept",
        fields: { conn_id: 5, address: "1:0001.0000.0009", remote_port: 9 },
      },
      { after: "health", times: 1, push: "recv", fields: { conn_id: 1, data: "once" } },
      { after: "bind", where: { port: 7 }, bytes: { hex: "0000000124" } },
    ];
    const client = await startScripted({ pushes }).connect();
    expect((await client.push(0x07)).payload).toEqual(Buffer.concat([u32(77), Buffer.from("welcome")]));
    const id = (await client.ask(0x03, 0x04, target, u16(5))).readUInt32BE();
    expect((await client.push(0x07)).payload).toEqual(Buffer.concat([u32(id), Buffer.from("hello")]));
    const beganMs = performance.now();
    await client.ask(0x01, 0x02, u16(6));
    const accept = Buffer.concat([u16(6), u32(5), address(1, 9), u16(9)]);
    expect((await client.push(0x05)).payload).toEqual(accept);
    expect(performance.now() - beganMs).toBeGreaterThan(90);
    for (let n = 0; n < 2; n++) await client.ask(0x21, 0x22);
    expect((await client.push(0x07)).payload.toString("utf8", 4)).toBe("once");
    await client.ask(0x01, 0x02, u16(7));
    await client.push(0x24);
    expect(client.inbox).toEqual([]);
  });

  test("a connection is cut after a command", async () => {
    const client = await startScripted({ pushes: [{ after: "bind", delay_ms: 1, cut: true }] }).connect();
    await client.ask(0x01, 0x02, u16(6));
    expect(await client.ended()).toBe("between frames");
  });

  test.each([
    ["not JSON", "{", /script.json:1:2: not JSON: close brace expected/],
    ["no object", "[]", /script.json:1:1: /],
    ["for the other mock", '{"mock":"daemon"}', /script.json:1:9: mock: this script is for mock daemon/],
    [
      "a command that is not",
      '{"mock":"pilot",\n "rules":[{"on":"dail"}]}',
      /script.json:2:17: rules\[0\].on: "dail" is not known; did you mean dial/,
    ],
    [
      "a key that is not",
      '{"mock":"pilot","rules":[{"on":"dial","reply_":1}]}',
      /rules\[0\].reply_: this key means nothing here/,
    ],
    [
      "a time that is not",
      '{"mock":"pilot","rules":[{"on":"dial","delay_ms":-1}]}',
      /1:\d+: rules\[0\].delay_ms: /,
    ],
    [
      "two effects",
      '{"mock":"pilot","rules":[{"on":"dial","drop":true,"cut":true}]}',
      /rules\[0\]: only one of /,
    ],
    [
      "a field that is not",
      '{"mock":"pilot","rules":[{"on":"dial","reply":{"id":1}}]}',
      /rules\[0\].reply.id: the fields of dial_ok are conn_id/,
    ],
    [
      "a value that does not fit",
      '{"mock":"pilot","rules":[{"on":"bind","reply":{"port":70000}}]}',
      /rules\[0\].reply.port: /,
    ],
    [
      "an address that is none",
      '{"mock":"pilot","rules":[{"on":"dial","where":{"address":"1:0002.0000.0001"}}]}',
      /rules\[0\].where.address: "1:0002.0000.0001" is no Pilot address: the network is 1 before/,
    ],
    [
      "where on nothing",
      '{"mock":"pilot","rules":[{"on":"info","where":{"port":1}}]}',
      /rules\[0\].where.port: info has no fields/,
    ],
    [
      "a push without its fields",
      '{"mock":"pilot","pushes":[{"after":"info","push":"recv"}]}',
      /pushes\[0\]: fields.conn_id is missing, and after info/,
    ],
    [
      "a push of nothing",
      '{"mock":"pilot","pushes":[{"after":"info"}]}',
      /pushes\[0\]: one of push, bytes and cut is needed/,
    ],
  ])("one that is %s is refused with the place and the reason", async (_, text, message) => {
    const dir = tempDir();
    writeFileSync(join(dir, "script.json"), text);
    const args = ["mock", "pilot", "-socket", join(dir, "s"), "--script", join(dir, "script.json")];
    const { exitCode, stderr } = await runCli(args);
    expect({ exitCode, stderr }).toEqual({ exitCode: 2, stderr: expect.stringMatching(message) });
    expect(existsSync(join(dir, "s"))).toBe(false);
  });

  test("one that is not there", async () => {
    const { exitCode, stderr } = await runCli([
      "mock",
      "pilot",
      "-socket",
      join(tempDir(), "s"),
      "--script",
      "/none",
    ]);
    expect({ exitCode, stderr }).toEqual({
      exitCode: 1,
      stderr: expect.stringContaining("there is no script /none"),
    });
  });
});

describe("recording and replaying", () => {
  test("every frame is written, both ways, as it was", async () => {
    const file = join(tempDir(), "session.jsonl");
    const mock = startScripted({ rules: [{ on: "health", cut: { after_bytes: 3 } }] }, ["--record", file]);
    const client = await mock.connect();
    await client.ask(0x01, 0x02, u16(80));
    client.send(0x06, u32(1), "hi");
    await client.push(0x07);
    client.send(0x21);
    await client.ended();
    await mock.process.stop();
    const [head, ...entries] = readFileSync(file, "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(head).toMatchObject({ recording: "pilot" });
    expect(entries.map(({ at_ms, ...entry }) => entry)).toEqual([
      { n: 1, dir: "open", conn: 1 },
      { n: 2, dir: "in", conn: 1, name: "bind", hex: "00000003010050" },
      { n: 3, dir: "out", conn: 1, after: 2, name: "bind_ok", hex: "00000003020050" },
      { n: 4, dir: "in", conn: 1, name: "send", hex: "0000000706000000016869" },
      { n: 5, dir: "out", conn: 1, after: 4, name: "recv", hex: "0000000707000000016869" },
      { n: 6, dir: "in", conn: 1, name: "health", hex: "0000000121" },
      { n: 7, dir: "out", conn: 1, after: 6, hex: "000000" },
      { n: 8, dir: "close", conn: 1, by: "mock", after: 6 },
    ]);
    expect(entries.every(({ at_ms }, index) => index === 0 || at_ms >= entries[index - 1].at_ms)).toBe(true);
    expect(statSync(file).mode & 0o777).toBe(0o600);
  });

  test("a replay answers as the recorded mock did, accepted connections and cuts included", async () => {
    const file = join(tempDir(), "session.jsonl");
    const script = {
      rules: [{ on: "info", reply: { hostname: "recorded" } }],
      pushes: [
        { after: "connect", push: "recv", fields: { conn_id: 1, data: "welcome" } },
        { after: "rotate_key", cut: true },
      ],
    };
    const drive = async (mock: Mock): Promise<unknown[]> => {
      const [listener, dialler] = [await mock.connect(), await mock.connect()];
      const seen: unknown[] = [await listener.push(0x07), await dialler.push(0x07)];
      seen.push(await askInfo(listener), await listener.ask(0x01, 0x02, u16(5)));
      seen.push(await dialler.ask(0x03, 0x04, target, u16(5)), await listener.push(0x05));
      seen.push(await askInfo(dialler), await askInfo(dialler));
      dialler.send(0x25);
      seen.push(await dialler.push(0x26), await dialler.ended());
      return seen;
    };
    const recorded = startScripted(script, ["--record", file]);
    const first = await drive(recorded);
    await recorded.process.stop();
    const path = join(tempDir(), "replay.sock");
    const replay: Mock = {
      path,
      process: spawnCli(["mock", "replay", file, "--socket", path]),
      connect: () => connectWhenReady(path),
    };
    expect(await drive(replay)).toEqual(first);
    // And from the beginning again, for those who come later.
    expect(await drive(replay)).toEqual(first);
    const client = await replay.connect();
    await expect(client.ask(0x11, 0x12, "nobody")).rejects.toThrow("not in the recording");
    const { exitCode, stderr } = await replay.process.stop();
    expect({ exitCode, stderr }).toEqual({
      exitCode: 0,
      stderr: expect.stringContaining("not_in_recording"),
    });
  });

  test("the endpoints, driven against their recording, find what they found", async () => {
    const file = join(tempDir(), "session.jsonl");
    const drive = async (mock: Mock): Promise<void> => {
      const [handle, other] = [await mock.connect(), await mock.connect()];
      for (const endpoint of endpoints) await endpoint.drive(handle, other);
      expect([...handle.inbox, ...other.inbox]).toEqual([]);
      expect((await mock.process.stop()).exitCode).toBe(0);
    };
    await drive(startMock(["--record", file]));
    const path = join(tempDir(), "replay.sock");
    await drive({
      path,
      process: spawnCli(["mock", "replay", file, "--socket", path]),
      connect: () => connectWhenReady(path),
    });
  });

  test("what was killed while it recorded can be replayed", async () => {
    const file = join(tempDir(), "session.jsonl");
    const mock = startMock(["--record", file]);
    await askInfo(await mock.connect());
    await mock.process.stop("SIGKILL");
    writeFileSync(file, `${readFileSync(file, "utf8")}{"n":99,"at`);
    const path = join(tempDir(), "replay.sock");
    spawnCli(["mock", "replay", file, "--socket", path]);
    expect(await askInfo(await connectWhenReady(path))).toEqual(info);
  });

  test("one that finds the socket in use leaves the recording of the other alone", async () => {
    const file = join(tempDir(), "session.jsonl");
    const mock = startMock(["--record", file]);
    await askInfo(await mock.connect());
    const before = readFileSync(file, "utf8");
    const { exitCode } = await runCli(["mock", "pilot", "-socket", mock.path, "--record", file]);
    expect({ exitCode, text: readFileSync(file, "utf8") }).toEqual({
      exitCode: 1,
      text: expect.stringContaining(before),
    });
  });

  test("a recording that cannot be written is an error at the start", async () => {
    const { exitCode, stderr } = await runCli([
      "mock",
      "pilot",
      "-socket",
      join(tempDir(), "s"),
      "--record",
      "/none/x",
    ]);
    expect({ exitCode, stderr }).toEqual({
      exitCode: 1,
      stderr: expect.stringContaining("cannot record to /none/x"),
    });
  });
});
