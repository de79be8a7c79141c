/**
 * A shim seen by its orchestrator, over real sockets: the shim of these tests follows a script and knows nothing but frames, so it can
 * also do what no shim should: stop reading, send rubbish, end inside a frame.
 */
import { beforeEach, describe, expect, test } from "bun:test";
import { unlinkSync } from "node:fs";
import { join } from "node:path";
import { attachShim, type ShimClient, type ShimDeath, spawnShim } from "~/agent/client";
import { systemClock } from "~/clock";
import { MeshError } from "~/errors";
import { encodeShimWord, encodeTerminalWord } from "~/wire/attachment";
import { encodeFrame, FrameDecoder } from "~/wire/frame";
import { shimAnswerMsMax, shimFrameBytesMax, shimPingEveryMs, shimStaleMs } from "~/wire/limits";
import { attachmentSocket } from "~/wire/paths";
import { parseCommand, type ShimCommand, type ShimEvent } from "~/wire/shim";
import { cleanup } from "../../support/cleanup";
import { FakeClock } from "../../support/fake-clock";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";

interface Peer {
  write(bytes: Uint8Array): number;
  end(): void;
  terminate(): void;
  pause(): void;
}

/** Listens, notes every command, and does what the test tells it. */
class ScriptedShim {
  readonly path = join(tempDir(), "s");
  readonly commands: ShimCommand[] = [];
  readonly peers: Peer[] = [];
  answer: (command: ShimCommand, peer: Peer) => void = () => undefined;
  stop: () => void;

  constructor() {
    const decoders = new WeakMap<object, FrameDecoder>();
    const listener = Bun.listen({
      unix: this.path,
      socket: {
        open: (socket) => {
          decoders.set(socket, new FrameDecoder(shimFrameBytesMax));
          this.peers.push(socket);
        },
        data: (socket, bytes) => {
          for (const read of decoders.get(socket)?.push(bytes) ?? []) {
            const parsed = read.kind === "frame" ? parseCommand(read.payload) : undefined;
            if (!parsed?.ok) throw new Error("the client sent what is no command");
            this.commands.push(parsed.value);
            this.answer(parsed.value, socket);
          }
        },
      },
    });
    this.stop = () => listener.stop(true);
    cleanup(this.stop);
  }

  get peer(): Peer {
    const newest = this.peers.at(-1);
    if (newest === undefined) throw new Error("nobody is connected");
    return newest;
  }

  say(...events: unknown[]): void {
    this.peer.write(Buffer.concat(events.map(frame)));
  }
}

const frame = (event: unknown): Uint8Array =>
  encodeFrame(Buffer.from(JSON.stringify(event)), shimFrameBytesMax);
const pong = { event: "Pong" };
const idle = { event: "State", state: "idle", since_secs: 3 };
const screen = { event: "ScreenCapture", content: "$ ", cursor_row: 0, cursor_col: 2 };

let shim: ScriptedShim;
let events: ShimEvent[];
let warnings: string[];
let deaths: ShimDeath[];

const listener = () => ({
  event: (event: ShimEvent) => void events.push(event),
  warning: (message: string) => void warnings.push(message),
  dead: (death: ShimDeath) => void deaths.push(death),
});

async function attach({
  isLasting = false,
  clock = systemClock as FakeClock | typeof systemClock,
} = {}): Promise<ShimClient> {
  const client = await attachShim(shim.path, { clock, ...listener() }, { isLasting });
  cleanup(() => client.close());
  await waitFor(() => shim.peers.length > 0, { what: "the connection" });
  return client;
}

const codeOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "ok",
    (error: unknown) => (error instanceof MeshError ? error.code : String(error)),
  );

beforeEach(() => {
  shim = new ScriptedShim();
  events = [];
  warnings = [];
  deaths = [];
});

describe("events", () => {
  test("come typed and in order, all that one read brings", async () => {
    await attach();
    const many = Array.from({ length: 500 }, (_, n) => ({ event: "MessageDelivered", id: String(n) }));
    shim.say({ event: "Ready" }, ...many, pong);
    await waitFor(() => events.length === 502, { what: "all events" });
    expect(events).toEqual([{ event: "Ready" }, ...many, { event: "Pong" }] as ShimEvent[]);
  });

  test("that are unknown, malformed, not JSON or not UTF-8 are passed over; each kind is told once", async () => {
    await attach();
    shim.say({ event: "Dance" }, { event: "Dance" }, { event: "State", state: "asleep", since_secs: 1 }, [1]);
    shim.peer.write(encodeFrame(Buffer.from("nonsense"), shimFrameBytesMax));
    shim.peer.write(encodeFrame(Buffer.of(0xff, 0xfe), shimFrameBytesMax));
    shim.say(pong);
    await waitFor(() => events.length === 1, { what: "the one that is known" });
    expect(events).toEqual([{ event: "Pong" }]);
    expect(warnings).toEqual([
      "passed over Dance: there is no such event",
      expect.stringMatching(/^passed over State: .*state/),
      expect.stringMatching(/^passed over what is no event/),
    ]);
    expect(deaths).toEqual([]);
  });

  test("with more fields than we know are taken without them", async () => {
    await attach();
    shim.say({ new_field: 1, event: "DeliveryFailed", id: "a", reason: "full", more: {} });
    await waitFor(() => events.length === 1, { what: "the event" });
    expect(events).toEqual([{ event: "DeliveryFailed", id: "a", reason: "full" }]);
  });
});

describe("questions", () => {
  test("are answered in order, also when several are asked at once", async () => {
    const client = await attach();
    let asked = 0;
    shim.answer = ({ cmd }) => {
      if (cmd === "GetState") shim.say({ ...idle, since_secs: ++asked });
      if (cmd === "CaptureScreen") shim.say(screen);
      if (cmd === "Ping") shim.say(pong);
    };
    const [one, capture, two] = await Promise.all([
      client.state(),
      client.capture(5),
      client.state(),
      client.ping(),
    ]);
    expect([one.since_secs, two.since_secs, capture.content]).toEqual([1, 2, "$ "]);
    expect(shim.commands).toContainEqual({ cmd: "CaptureScreen", last_n_lines: 5 });
  });

  test("that the shim cannot answer fail with its reason", async () => {
    const client = await attach();
    shim.answer = () => shim.say({ event: "Error", command: "CaptureScreen", reason: "no screen here" });
    expect(client.capture()).rejects.toMatchObject({ code: "agent_failed", message: "no screen here" });
  });

  test("without an answer time out, and a late answer is not that of the next question", async () => {
    const client = await attach();
    expect(await codeOf(client.state(20))).toBe("timed_out");
    shim.answer = () => shim.say({ ...idle, since_secs: 1 }, { ...idle, since_secs: 2 });
    expect((await client.state()).since_secs).toBe(2);
  });

  test("are so many and no more", async () => {
    const client = await attach();
    const codes = await Promise.all(Array.from({ length: 70 }, () => codeOf(client.state(50))));
    expect(codes.filter((code) => code === "limit_reached")).toHaveLength(6);
    expect(codes.filter((code) => code === "timed_out")).toHaveLength(64);
  });

  test("fail at once when the connection ends, and so do all after it", async () => {
    const client = await attach();
    const asked = codeOf(client.state());
    await waitFor(() => shim.commands.length === 1, { what: "the question" });
    shim.peer.end();
    expect(await asked).toBe("answer_lost");
    expect(await codeOf(client.capture())).toBe("answer_lost");
    expect(await codeOf(client.next(() => true, 1000))).toBe("answer_lost");
  });

  test("`next` waits for what is wanted, and fails with what the judge throws", async () => {
    const client = await attach();
    const found = client.next((event) => (event.event === "Completion" ? event.response : undefined), 5_000);
    const failed = codeOf(
      client.next((event) => {
        if (event.event === "Died") throw new MeshError("agent_failed", "it died");
        return undefined;
      }, 5_000),
    );
    shim.say(
      pong,
      { event: "Completion", response: "42", last_lines: "" },
      { event: "Died", exit_code: 0, last_lines: "" },
    );
    expect(await found).toBe("42");
    expect(await failed).toBe("agent_failed");
    expect(await codeOf(client.next(() => undefined, 20))).toBe("timed_out");
  });
});

describe("commands", () => {
  test("arrive as they were given", async () => {
    const client = await attach();
    await client.send({ cmd: "SendMessage", from: "me", body: "hi", message_id: "1" });
    await client.shutdown(5, "daemon_stop");
    await client.kill();
    await waitFor(() => shim.commands.length === 3, { what: "all commands" });
    expect(shim.commands).toEqual([
      { cmd: "SendMessage", from: "me", body: "hi", message_id: "1" },
      { cmd: "Shutdown", timeout_secs: 5, reason: "daemon_stop" },
      { cmd: "Kill" },
    ]);
  });

  test("that do not fit into a frame are refused, and the connection goes on", async () => {
    const client = await attach();
    const body = "x".repeat(shimFrameBytesMax);
    expect(await codeOf(client.send({ cmd: "SendMessage", from: "me", body }))).toBe("frame_too_large");
    shim.answer = () => shim.say(idle);
    expect((await client.state()).state).toBe("idle");
  });

  test("to a shim that does not read fail within the write timeout, and never hang", async () => {
    const client = await attach();
    shim.peer.pause();
    const body = "x".repeat(1_000_000);
    const codes = await Promise.all(
      Array.from({ length: 7 }, () => codeOf(client.send({ cmd: "SendMessage", from: "me", body }))),
    );
    expect(codes).toContain("timed_out");
    expect(deaths).toEqual([{ why: "the peer did not take a frame within 2 s" }]);
  });
});

describe("silence", () => {
  test("of two minutes is told, the shim is pinged on, and the handle stays until it speaks again", async () => {
    const clock = new FakeClock();
    const client = await attach({ clock });
    clock.advance(shimStaleMs - 1);
    expect([client.isStale, warnings]).toEqual([false, []]);
    clock.advance(1);
    expect([client.isStale, client.isDead]).toEqual([true, false]);
    expect(warnings).toEqual(["no answer for 120 s; it is asked again and again"]);
    clock.advance(10 * shimPingEveryMs);
    await waitFor(() => shim.commands.length === 12, { what: "all pings" });
    expect(new Set(shim.commands.map(({ cmd }) => cmd))).toEqual(new Set(["Ping"]));
    expect([warnings.length, deaths]).toEqual([1, []]);

    shim.say(pong);
    await waitFor(() => !client.isStale, { what: "the answer" });
    expect(warnings.at(-1)).toBe("it answers again, after 720 s");
    shim.answer = () => shim.say(idle);
    expect((await client.state()).state).toBe("idle");
  });

  test("is none where pings are answered", async () => {
    const clock = new FakeClock();
    const client = await attach({ clock });
    shim.answer = () => shim.say(pong);
    for (let minute = 1; minute <= 5; minute++) {
      clock.advance(shimPingEveryMs);
      await waitFor(() => events.length === minute, { what: "the pong" });
    }
    expect([client.isStale, warnings]).toEqual([false, []]);
  });
});

describe("the end of a connection", () => {
  const endings: [name: string, end: () => void, why: string][] = [
    ["between frames", () => shim.peer.end(), "the shim ended the connection"],
    [
      "inside a frame",
      () => {
        shim.peer.write(frame({ event: "Ready" }).subarray(0, 9));
        shim.peer.end();
      },
      "the connection broke inside a frame",
    ],
    [
      "by a length that is too long",
      () => void shim.peer.write(Buffer.of(0x7f, 0xff, 0xff, 0xff)),
      "the shim announced a frame of 2147483647 bytes, which is too long",
    ],
  ];
  test.each(endings)("%s is told, once", async (_, end, why) => {
    const client = await attach();
    shim.say({ event: "Ready" });
    end();
    await waitFor(() => deaths.length > 0, { what: "the end" });
    expect([deaths, client.isDead]).toEqual([[{ why }], true]);
    // What came before it was not lost.
    expect(events).toEqual([{ event: "Ready" }]);
  });

  test("that the shim gives a reason for is told with it", async () => {
    const client = await attach();
    const waiting = client.state().catch((error: unknown) => error);
    shim.say({ event: "Error", command: "connect", reason: "16 are connected already" });
    shim.peer.end();
    await waitFor(() => deaths.length > 0, { what: "the end" });
    const why = "the shim refused the connection: 16 are connected already";
    expect(deaths).toEqual([{ why }]);
    expect(await waiting).toHaveProperty("message", `no connection to the shim: ${why}`);
  });

  test("that we wanted is no death", async () => {
    const client = await attach();
    const waiting = codeOf(client.next(() => true, 5_000));
    client.close();
    expect(await waiting).toBe("answer_lost");
    shim.stop();
    expect([deaths, warnings]).toEqual([[], []]);
    expect(await codeOf(client.state())).toBe("answer_lost");
  });
});

describe("a lasting client", () => {
  test("connects again when the connection breaks, and goes on", async () => {
    const clock = new FakeClock();
    const client = await attach({ isLasting: true, clock });
    shim.peer.terminate();
    await waitFor(() => warnings.length === 1, { what: "the broken connection" });
    expect(client.isDead).toBe(false);
    expect(await codeOf(client.state())).toBe("answer_lost");
    clock.advance(1_000);
    await waitFor(() => shim.peers.length === 2, { what: "the new connection" });
    await waitFor(() => warnings.length === 2, { what: "the news of it" });
    expect(warnings).toEqual([
      expect.stringMatching(/; connecting again$/),
      "connected again; what it said meanwhile is not known",
    ]);
    shim.answer = () => shim.say(idle);
    expect((await client.state()).state).toBe("idle");
    expect(deaths).toEqual([]);
  });

  test.each([
    ["the socket is gone", () => unlinkSync(shim.path)],
    ["nobody listens at it", () => undefined],
  ])("is told of the death when %s", async (_, prepare) => {
    const clock = new FakeClock();
    const client = await attach({ isLasting: true, clock });
    shim.stop();
    try {
      prepare();
    } catch {
      // Stopping has removed it already.
    }
    await waitFor(() => warnings.length === 1, { what: "the end" });
    clock.advance(1_000);
    await waitFor(() => deaths.length === 1, { what: "the death" });
    expect(deaths).toEqual([{ why: `nobody listens on ${shim.path}` }]);
    expect(client.isDead).toBe(true);
    expect(clock.delaysMs).toEqual([]);
  });

  test("stops trying when it is closed", async () => {
    const clock = new FakeClock();
    const client = await attach({ isLasting: true, clock });
    shim.peer.terminate();
    await waitFor(() => warnings.length === 1, { what: "the broken connection" });
    client.close();
    clock.advance(60_000);
    expect([shim.peers.length, deaths, clock.delaysMs]).toEqual([1, [], []]);
  });
});

describe("attaching", () => {
  const attempt = (path: string) =>
    codeOf(attachShim(path, { clock: systemClock, ...listener() }, { isLasting: true }));

  test("to nothing, to a file, and to a socket that nobody listens at fails", async () => {
    shim.stop();
    expect(await attempt(join(tempDir(), "nothing"))).toBe("no_such_agent");
    const file = join(tempDir(), "file");
    await Bun.write(file, "");
    expect(await attempt(file)).toBe("no_such_agent");
    expect(await attempt(`/tmp/${"x".repeat(120)}`)).toBe("socket_path_too_long");
  });
});

describe("passing by, where terminals attach", () => {
  const passing = { isLasting: false, isPassing: true };

  /** Listens there, and answers what comes first with these bytes, one by one. */
  function listen(answer: Uint8Array): { path: string; heard: () => string } {
    const path = join(tempDir(), "s");
    let heard = Buffer.alloc(0);
    const listener = Bun.listen({
      unix: attachmentSocket(path),
      socket: {
        async data(socket, bytes) {
          const isFirst = heard.length === 0;
          heard = Buffer.concat([heard, bytes]);
          if (!isFirst) return;
          for (const byte of answer) {
            socket.write(Buffer.of(byte));
            await Bun.sleep(0); // not a wait: each byte is a read of its own
          }
        },
      },
    });
    cleanup(() => listener.stop(true));
    return { path, heard: () => heard.toString("latin1") };
  }

  test("a client asks for the way, and then speaks as any other", async () => {
    const { path, heard } = listen(
      Buffer.concat([encodeShimWord({ is: "driving" }), frame({ event: "Ready" }), frame(idle)]),
    );
    const client = await attachShim(path, { ...listener(), clock: systemClock }, passing);
    cleanup(() => client.close());
    await waitFor(() => events.length === 2, { what: "the events behind the answer" });
    expect(events).toMatchObject([{ event: "Ready" }, { event: "State" }]);
    await client.kill();
    await waitFor(() => heard().includes('{"cmd":"Kill"}'), { what: "the command" });
    expect(heard()).toStartWith(Buffer.from(encodeTerminalWord({ do: "drive" })).toString("latin1"));
  });

  test("it gives up where there is no answer, and nothing goes on waiting where nobody is", async () => {
    const clock = new FakeClock();
    const nowhere = attachShim(join(tempDir(), "s"), { ...listener(), clock }, passing);
    expect(await codeOf(nowhere)).toBe("no_such_agent");
    expect(clock.delaysMs).toEqual([]);
    const silent = codeOf(attachShim(listen(Buffer.of()).path, { ...listener(), clock }, passing));
    await waitFor(() => clock.delaysMs.length === 1, { what: "the connection" });
    clock.advance(shimAnswerMsMax);
    expect(await silent).toBe("timed_out");
    expect(clock.delaysMs).toEqual([]);
  });
});

describe("a shim of our own", () => {
  /** In place of the executable: a program that gets `shim --fd 3 …`, as Bun runs it. */
  async function spawn(script: string, args: readonly string[] = []) {
    const file = join(tempDir(), "shim.ts");
    await Bun.write(file, script);
    const shim = await spawnShim({
      executable: [process.execPath, file],
      args,
      env: { PATH: process.env.PATH },
      cwd: tempDir(),
      clock: systemClock,
      ...listener(),
    });
    cleanup(async () => {
      shim.close();
      await shim.exited;
    });
    return shim;
  }
  const speaking = `
    const socket = await Bun.connect({ fd: 3, socket: {
      data(socket, bytes) {
        const text = JSON.stringify({ event: "Error", command: process.argv.slice(2).join(" "), reason: bytes.subarray(4).toString() });
        const head = Buffer.alloc(4); head.writeUInt32BE(Buffer.byteLength(text));
        socket.write(Buffer.concat([head, Buffer.from(text)]));
      },
      close: () => process.exit(4),
    } });`;

  test("speaks over a socket pair, and ends with us", async () => {
    const shim = await spawn(speaking, ["--profile", "claude", "--", "claude", "--resume"]);
    await shim.kill();
    await waitFor(() => events.length === 1, { what: "the echo" });
    expect(events).toEqual([
      {
        event: "Error",
        command: "shim --fd 3 --profile claude -- claude --resume",
        reason: '{"cmd":"Kill"}',
      },
    ]);
    shim.close();
    expect(await shim.exited).toBe(4);
    expect(deaths).toEqual([]);
  });

  test("that ends is dead, with its status", async () => {
    const shim = await spawn("process.exit(9)");
    expect(await shim.exited).toBe(9);
    await waitFor(() => deaths.length === 1, { what: "the death" });
    expect(deaths).toEqual([{ why: "the shim ended with status 9", exitStatus: 9 }]);
    expect(await codeOf(shim.state())).toBe("answer_lost");
  });

  test("is heard to its last word, though it has ended", async () => {
    // The socket's other end outlives the child, as it does in a busy moment of ours.
    const later = `
      const head = Buffer.alloc(4);
      const text = JSON.stringify({ event: "Died", exit_code: 1, last_lines: "" });
      head.writeUInt32BE(text.length);
      await Bun.sleep(100);
      require("node:fs").writeSync(3, Buffer.concat([head, Buffer.from(text)]));`;
    const file = join(tempDir(), "later.ts");
    await Bun.write(file, later);
    const shim = await spawn(
      `Bun.spawn([process.execPath, ${JSON.stringify(file)}], { stdio: ["ignore", "ignore", "ignore", 3] });
      process.exit(9);`,
    );
    expect(await shim.exited).toBe(9);
    await waitFor(() => deaths.length === 1, { what: "the death" });
    expect(events).toEqual([{ event: "Died", exit_code: 1, last_lines: "" }]);
  });

  test("whose connection does not end with it is dead all the same", async () => {
    const shim = await spawn(
      `Bun.spawn(["sleep", "5"], { stdio: ["ignore", "ignore", "ignore", 3] });
      process.exit(9);`,
    );
    expect(await shim.exited).toBe(9);
    await waitFor(() => deaths.length === 1, { what: "the death" });
    expect(deaths).toEqual([{ why: "the shim ended with status 9", exitStatus: 9 }]);
  });

  test("that cannot be started says so", async () => {
    const start = (changes: { executable?: string[]; cwd?: string }) =>
      spawnShim({
        ...{ executable: [process.execPath], args: [], env: {}, cwd: "/", clock: systemClock },
        ...listener(),
        ...changes,
      });
    expect(await codeOf(start({ executable: ["/no/such/claudemesh"] }))).toBe("internal");
    expect(await codeOf(start({ cwd: "/no/such/directory" }))).toBe("internal");
  });

  test("that is killed is dead", async () => {
    const shim = await spawn(speaking);
    process.kill(shim.pid, "SIGKILL");
    await waitFor(() => deaths.length === 1, { what: "the death" });
    expect(deaths).toEqual([{ why: "a signal ended the shim", exitStatus: null }]);
  });
});
