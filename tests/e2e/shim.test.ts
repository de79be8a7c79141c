/**
 * The shim as another project's orchestrator meets it: only what its description says is used, over a socket and over a pair, with a shell
 * and with each of the fake agents. Every command is sent, and every event seen.
 */
import { afterAll, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { command, root } from "../support/cli";
import {
  connectTo,
  type Driver,
  type Event,
  frameOf,
  listeningShim,
  type RunningShim,
  type ShimOptions,
  shimOnFd,
  shimOnSocket,
} from "../support/shim-driver";
import { tempDir } from "../support/temp-dir";
import { waitFor } from "../support/wait-for";

const seen = new Set<string>();
/** Of the tests that together see everything. */
const finished = new Set<"shell" | "agents" | "tokens">();
const everyEvent =
  "Ready StateChanged MessageDelivered Completion Died ContextExhausted ContextWarning ContextApproaching ScreenCapture State SessionStats Pong Warning DeliveryFailed Error".split(
    " ",
  );

const bash = ["--", "bash", "--norc", "--noprofile"];
const fake = (name: string, ...flags: string[]): string[] => [
  ...["--profile", name, "--", process.execPath, join(root, "tests/fakes", `${name}.ts`)],
  ...flags,
];

let id = 0;
/** Sends a message and waits for what it comes to. */
async function ask(driver: Driver, body: string, timeoutMs?: number): Promise<Event> {
  const from = driver.events.length;
  const message_id = `ask-${++id}`;
  driver.send({ cmd: "SendMessage", from: "ann", body, message_id });
  const completion = await driver.next(
    "Completion",
    (event) => event.message_id === message_id,
    from,
    timeoutMs,
  );
  for (const { event } of driver.events) seen.add(event);
  return completion;
}

async function question(driver: Driver, value: object, answer: string): Promise<Event> {
  const from = driver.events.length;
  driver.send(value);
  const event = await driver.next(answer, undefined, from);
  seen.add(event.event);
  return event;
}

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return !readFileSync(`/proc/${pid}/stat`, "latin1").includes(") Z ");
  } catch {
    return false; // It has gone, or is going.
  }
};

const names = (events: readonly Event[]): string[] =>
  events
    .filter(({ event }) => event !== "SessionStats")
    .map(({ event, to, id }) => [event, to, id].filter((word) => word !== undefined).join(" "));

const executables: [name: string, executable: readonly string[]][] = [
  ["the executable", command],
  ["the sources", [process.execPath, join(root, "src/main.ts")]],
];
const ways: [
  name: string,
  start: (args: readonly string[], options: ShimOptions) => Promise<{ driver: Driver; shim: RunningShim }>,
][] = [
  ["a socket pair", shimOnFd],
  ["a socket", shimOnSocket],
];

for (const [executableName, executable] of executables) {
  test.each(ways)(
    `a shell through every command: ${executableName}, %s`,
    async (_, start) => {
      const { driver, shim } = await start([...bash], { executable });
      await driver.next("Ready");
      expect(names(driver.events)).toEqual(["StateChanged idle", "Ready"]);

      expect(await question(driver, { cmd: "Ping" }, "Pong")).toEqual({ event: "Pong" });
      const state = await question(driver, { cmd: "GetState" }, "State");
      expect(state).toEqual({ event: "State", state: "idle", since_secs: expect.any(Number) });

      const from = driver.events.length;
      const answer = await ask(driver, "echo one; echo two");
      expect(answer).toMatchObject({ response: "one\ntwo", last_lines: expect.stringContaining("two") });
      const messageId = answer.message_id;
      expect(names(driver.events.slice(from))).toEqual([
        `MessageDelivered ${messageId}`,
        "StateChanged working",
        "StateChanged idle",
        "Completion",
      ]);
      expect((await ask(driver, "seq 1 10000")).response).toBe(
        Array.from({ length: 10_000 }, (_, index) => index + 1).join("\n"),
      );

      driver.send({ cmd: "Resize", rows: 30, cols: 100 });
      expect((await ask(driver, "stty size; echo $TERM; tty | cut -c1-9")).response).toBe(
        "30 100\nxterm-256color\n/dev/pts/",
      );
      const screen = await question(driver, { cmd: "CaptureScreen" }, "ScreenCapture");
      expect(String(screen.content)).toMatch(/30 100\nxterm-256color\n.*\n\$ $/);
      expect(screen.cursor_col).toBe(2);
      expect(String(screen.content).split("\n").length).toBe(Number(screen.cursor_row) + 1);
      const two = await question(driver, { cmd: "CaptureScreen", last_n_lines: 2 }, "ScreenCapture");
      expect(two.content).toBe("/dev/pts/\n$ ");
      expect(await question(driver, { cmd: "CaptureScreen", last_n_lines: null }, "ScreenCapture")).toEqual(
        screen,
      );

      driver.send({ cmd: "SendMessage", from: "ann", body: "sleep 0.5; echo first", message_id: "q1" });
      driver.send({ cmd: "SendMessage", from: "ann", body: "echo second", message_id: "q2" });
      driver.send({ cmd: "SendMessage", from: "ann", body: "echo third" });
      expect(await driver.next("Warning")).toMatchObject({
        message: expect.stringContaining("depth 1"),
        idle_secs: null,
      });
      const third = await driver.next("Completion", (event) => event.response === "third");
      expect(third.message_id).toBeUndefined();
      const order = driver.events
        .filter(({ event }) => event === "Completion")
        .map(({ response }) => response);
      expect(order.slice(-3)).toEqual(["first", "second", "third"]);

      driver.send({ cmd: "Shutdown", timeout_secs: 1, reason: "daemon_stop" });
      expect(await driver.next("Died")).toMatchObject({ exit_code: null, last_lines: expect.any(String) });
      expect(names(driver.events).slice(-2)).toEqual(["StateChanged dead", "Died"]);
      await shim.exited;
      expect([shim.exitCode(), driver.end, shim.stderr()]).toEqual([0, "between frames", ""]);
      finished.add("shell");
      for (const { event } of driver.events) seen.add(event);
    },
    60_000,
  );
}

describe("frames that are none", () => {
  const frames: [what: string, frame: Uint8Array | string | object, said: object][] = [
    ["no JSON", "{", { command: "", reason: expect.stringContaining("not JSON") }],
    ["no object", "[]", { command: "" }],
    ["no UTF-8", Uint8Array.of(0, 0, 0, 2, 0xff, 0xfe), { command: "", reason: "not valid UTF-8" }],
    ["an empty one", "", { command: "" }],
    ["an unknown command", { cmd: "Dance" }, { command: "Dance" }],
    ["another case", { cmd: "ping" }, { command: "ping" }],
    ["a field too few", { cmd: "SendMessage", from: "ann" }, { command: "SendMessage" }],
    ["rows out of range", { cmd: "Resize", rows: 65_536, cols: 80 }, { command: "Resize" }],
    ["no rows", { cmd: "Resize", rows: 0, cols: 80 }, { command: "Resize" }],
    ["more rows than there can be", { cmd: "Resize", rows: 60_000, cols: 80 }, { command: "Resize" }],
    ["half a second", { cmd: "Shutdown", timeout_secs: 0.5 }, { command: "Shutdown" }],
    ["an unknown reason", { cmd: "Shutdown", timeout_secs: 1, reason: "bored" }, { command: "Shutdown" }],
    ["lines below none", { cmd: "CaptureScreen", last_n_lines: -1 }, { command: "CaptureScreen" }],
  ];

  test("each is answered, and the shim goes on", async () => {
    const { driver } = await shimOnFd(bash);
    await driver.next("Ready");
    for (const [what, frame, said] of frames) {
      const from = driver.events.length;
      driver.raw(frame instanceof Uint8Array ? frame : frameOf(frame));
      expect([what, await driver.next("Error", undefined, from)]).toEqual([
        what,
        expect.objectContaining({ event: "Error", ...said }),
      ]);
    }
    expect((await ask(driver, "echo still here")).response).toBe("still here");
  });

  test("byte by byte, and many at once", async () => {
    const { driver } = await shimOnFd(bash);
    await driver.next("Ready");
    for (const byte of frameOf({ cmd: "Ping", surplus: [1, { a: "ü" }] })) driver.raw(Uint8Array.of(byte));
    await driver.next("Pong");
    driver.raw(Buffer.concat(Array.from({ length: 100 }, () => frameOf({ cmd: "Ping" }))));
    await waitFor(() => driver.events.filter(({ event }) => event === "Pong").length === 101, {
      what: "all pongs",
    });
  });

  test.each([0x0010_0001, 0xffff_ffff])(
    "a length of %d closes the connection, and the agent ends",
    async (length) => {
      const { driver, shim } = await shimOnFd(bash);
      await driver.next("Ready");
      const header = Buffer.alloc(4);
      header.writeUInt32BE(length);
      driver.raw(header);
      await shim.exited;
      expect(driver.end).toBeDefined();
    },
  );

  test("an end inside a frame ends the agent as any other end", async () => {
    const { driver, shim } = await shimOnSocket(bash);
    await driver.next("Ready");
    const { response } = await ask(driver, "echo $$");
    driver.raw(Uint8Array.of(0, 0, 0, 9, 1));
    driver.close();
    await shim.exited;
    expect(isAlive(Number(response))).toBe(false);
  });
});

describe("what goes wrong", () => {
  const startFailures: [what: string, args: string[], said: RegExp][] = [
    ["a command that does not exist", ["--", "no-such-agent"], /no-such-agent cannot be started: ENOENT/],
    [
      "a directory that does not",
      ["--cwd", "/no/such/place", ...bash],
      /there is no directory \/no\/such\/place/,
    ],
  ];
  test.each(startFailures)("%s", async (_, args, said) => {
    const { driver, shim } = await shimOnFd(args);
    expect(await driver.next("Error")).toMatchObject({
      command: "startup",
      reason: expect.stringMatching(said),
    });
    expect(await shim.exited).toBe(1);
    expect(shim.stderr()).toMatch(said);
    expect(shim.stderr()).toContain("hint: ");

    const path = `${tempDir()}/s`;
    const listening = listeningShim(path, args);
    expect(await listening.exited).toBe(1);
    expect(listening.stderr()).toMatch(said);
    expect(existsSync(path)).toBe(false);
  });

  const usage: [args: string[], said: string][] = [
    [bash, "one of --fd and --socket"],
    [["--fd", "3", "--socket", "/tmp/x", ...bash], "one of --fd and --socket"],
    [["--fd", "3", "--detached", ...bash], "--detached needs --socket"],
    [["--fd", "77", ...bash], "there is no such descriptor"],
    [["--fd", "2", ...bash], "3 to 1000000"],
    [["--socket", "/tmp/x", "--rows", "0", ...bash], "1 to 1000"],
    [["--socket", "/tmp/x", "--profile", "cluade", ...bash], "there is no profile"],
    [["--socket", `/tmp/${"x".repeat(200)}`, ...bash], "this system allows"],
    [["--socket", "/tmp/x"], "COMMAND is missing"],
  ];
  test.each(usage)("%j", async (args, said) => {
    const child = Bun.spawn([...command, "shim", ...args], {
      env: { PATH: process.env.PATH ?? "", HOME: tempDir() },
      stdio: ["ignore", "ignore", "pipe"],
    });
    expect(await new Response(child.stderr).text()).toContain(said);
    expect(await child.exited).not.toBe(0);
  });

  test("a socket path that is in use, that was left over, and that is something else", async () => {
    const { driver, path, shim } = await shimOnSocket(bash);
    await driver.next("Ready");
    const second = listeningShim(path, bash);
    expect(await second.exited).toBe(1);
    expect(second.stderr()).toContain("somebody listens on");
    expect((await ask(driver, "echo unharmed")).response).toBe("unharmed");
    shim.kill("SIGKILL");
    await shim.exited;
    expect(existsSync(path)).toBe(true);
    const third = listeningShim(path, bash);
    const again = await connectTo(path);
    await again.next("Ready");
    again.close();
    await third.exited;

    await Bun.write(path, "precious");
    const fourth = listeningShim(path, bash);
    expect(await fourth.exited).toBe(4);
    expect(readFileSync(path, "utf8")).toBe("precious");
  }, 30_000);

  test("control characters and the end of a paste in a message", async () => {
    const { driver } = await shimOnFd(fake("claude"));
    await driver.next("Ready");
    const sly = "say safe\x1b[201~\r\x03\x04\x15say broken\x1b[200~\x07";
    expect((await ask(driver, sly)).response).toBe("safe\nbroken");
    const nothing = { cmd: "SendMessage", from: "ann", body: "\x1b\x03 \r\n", message_id: "nothing" };
    expect(await question(driver, nothing, "DeliveryFailed")).toMatchObject({ id: "nothing" });
    expect((await ask(driver, "say ok")).response).toBe("ok");
  });

  test("a message of 900 KiB", async () => {
    const { driver } = await shimOnFd(fake("claude"));
    await driver.next("Ready");
    const text = "word ".repeat((900 * 1024) / 5).trimEnd();
    expect((await ask(driver, text, 30_000)).response).toBe(`read ${text.length} characters`);
  }, 40_000);

  test("more messages than wait, and messages for a dead agent", async () => {
    const { driver, shim } = await shimOnFd(bash);
    await driver.next("Ready");
    for (let n = 0; n <= 17; n++)
      driver.send({ cmd: "SendMessage", from: "ann", body: "sleep 100", message_id: `m${n}` });
    expect(await driver.next("DeliveryFailed")).toMatchObject({
      id: "m17",
      reason: expect.stringContaining("16"),
    });
    expect(driver.events.filter(({ event }) => event === "Warning")).toHaveLength(16);
    const { response } = { response: driver.events.length };
    driver.send({ cmd: "Kill" });
    await driver.next("Died");
    const failed = driver.events.slice(response).filter(({ event }) => event === "DeliveryFailed");
    expect(failed.map((event) => event.id)).toEqual(Array.from({ length: 16 }, (_, n) => `m${n + 1}`));
    await shim.exited;
  });

  test("a dead agent: its shim still answers, until it is told to end", async () => {
    const { driver, shim } = await shimOnFd(bash);
    await driver.next("Ready");
    driver.send({ cmd: "SendMessage", from: "ann", body: "echo bye; exit 7", message_id: "last" });
    expect(await driver.next("Died")).toMatchObject({
      exit_code: 7,
      last_lines: expect.stringContaining("bye"),
    });
    expect(await question(driver, { cmd: "GetState" }, "State")).toMatchObject({ state: "dead" });
    await question(driver, { cmd: "Ping" }, "Pong");
    expect((await question(driver, { cmd: "CaptureScreen" }, "ScreenCapture")).content).toContain("bye");
    const late = { cmd: "SendMessage", from: "ann", body: "hello", message_id: "late" };
    expect(await question(driver, late, "DeliveryFailed")).toMatchObject({ id: "late" });
    expect(await question(driver, { cmd: "SendMessage", from: "ann", body: "hello" }, "Error")).toMatchObject(
      { command: "SendMessage" },
    );
    expect(await question(driver, { cmd: "Resize", rows: 5, cols: 5 }, "Error")).toMatchObject({
      command: "Resize",
    });
    driver.send({ cmd: "Kill" });
    expect(await shim.exited).toBe(0);
  });

  const deaths: [what: string, script: string, exitCode: number | null][] = [
    ["0", "true", 0],
    ["255", "exit 255", 255],
    ["a signal", "kill -SEGV $$", null],
    ["after much output", "seq 1 200000; exit 3", 3],
    ["without a newline", "printf 'the end'; exit 4", 4],
    ["binary output", "head -c 300000 /dev/urandom; printf '\\033c\\nreset\\n'; exit 5", 5],
  ];
  test.each(deaths)("an agent that ends at once: %s", async (what, script, exit_code) => {
    const { driver, shim } = await shimOnFd(["--", "bash", "-c", script]);
    const died = await driver.next("Died");
    expect(died.exit_code).toBe(exit_code);
    const last: Record<string, string> = {
      "after much output": "200000",
      "without a newline": "the end",
      "binary output": "reset",
    };
    expect(String(died.last_lines)).toEndWith(last[what] ?? "");
    driver.close();
    expect(await shim.exited).toBe(0);
  });

  test("an agent that goes on without its shell is ended with it", async () => {
    const { driver, shim } = await shimOnFd(bash);
    await driver.next("Ready");
    const { response } = await ask(driver, "(trap '' TERM HUP; exec sleep 1000) & echo $!");
    const [pid] = String(response).match(/\d{3,}$/) ?? [];
    expect(isAlive(Number(pid))).toBe(true);
    driver.close();
    await shim.exited;
    expect(isAlive(Number(pid))).toBe(false);
  });

  test("a shim that is told to end ends its agent first", async () => {
    const { driver, shim } = await shimOnSocket(["--detached", ...bash]);
    await driver.next("Ready");
    const { response } = await ask(driver, "echo $$");
    shim.kill("SIGTERM");
    await driver.next("Died");
    await shim.exited;
    expect(isAlive(Number(response))).toBe(false);
  });
});

describe("agents that paint their screens", () => {
  const bodies: [body: string, answer: string | RegExp][] = [
    ["say hello", "hello"],
    ["lines 10000", Array.from({ length: 10_000 }, (_, index) => `line ${index + 1}`).join("\n")],
    ["wide", /^wide: 日本語 .*\ncombining: .*\njoined: .*\nright to left: .*\nnarrow again$/],
    ["progress", "done"],
    ["repaint", "first\nsecond\nthird\nfourth"],
    ["swallow 2\nsay once", "once"],
    ["say twice", "twice"],
    ["alternate 200\nsay back", "back"],
    ["think 700\nsay thought", "thought"],
    ["say quoted\nNote: the context window is full, context limit reached, press esc to interrupt", "quoted"],
  ];
  test.each(["claude", "codex", "kiro"])(
    "%s",
    async (name) => {
      const { driver } = await shimOnFd(fake(name, "--dialog", "--starting", "200"));
      await driver.next("Ready");
      expect(await driver.next("Warning")).toMatchObject({
        message: expect.stringContaining("answered a question"),
      });
      for (const [body, answer] of bodies) {
        const { response } = await ask(driver, body);
        const expected = typeof answer === "string" ? answer : expect.stringMatching(answer);
        expect([body, response]).toEqual([body, expected]);
      }
      expect(driver.events.filter(({ event }) => /Context|DeliveryFailed|Error/.test(event))).toEqual([]);

      await ask(driver, "nearly\nsay soon");
      expect(await driver.next("ContextApproaching")).toMatchObject({
        message: expect.any(String),
        input_tokens: 0,
      });
      driver.send({ cmd: "SendMessage", from: "ann", body: "think 500\nfill", message_id: "full" });
      driver.send({ cmd: "SendMessage", from: "ann", body: "never", message_id: "queued" });
      expect(await driver.next("ContextExhausted")).toMatchObject({
        message: expect.any(String),
        last_lines: expect.any(String),
      });
      expect(await driver.next("DeliveryFailed")).toMatchObject({ id: "queued" });
      expect(driver.events.filter(({ event }) => event.startsWith("Context"))).toHaveLength(2);
      expect(await question(driver, { cmd: "GetState" }, "State")).toMatchObject({
        state: "context_exhausted",
      });
      driver.send({ cmd: "Shutdown", timeout_secs: 0, reason: "context_exhausted" });
      await driver.next("Died");
      finished.add("agents");
      for (const { event } of driver.events) seen.add(event);
    },
    60_000,
  );

  test.each(["claude", "codex", "kiro"])(
    "%s on the alternate screen",
    async (name) => {
      const { driver } = await shimOnFd(fake(name, "--alternate"));
      await driver.next("Ready");
      for (const [body, answer] of bodies.filter(
        ([body]) => !body.startsWith("alternate") && !body.startsWith("lines"),
      )) {
        const expected = typeof answer === "string" ? answer : expect.stringMatching(answer);
        expect([body, (await ask(driver, body)).response]).toEqual([body, expected]);
      }
      const lines = Array.from({ length: 300 }, (_, index) => `line ${index + 1}`);
      expect((await ask(driver, "lines 300")).response).toBe(lines.join("\n"));
    },
    60_000,
  );

  test.each(["claude", "codex"])(
    "%s keeps its answers' indents, lists and tables",
    async (name) => {
      const { driver } = await shimOnFd(fake(name));
      await driver.next("Ready");
      const answer = "if (a) {\n  b();\n\n    c();\n}\n• one\n  • two\n┌───┐\n│ a │\n└───┘\n---";
      expect((await ask(driver, `say ${answer.replaceAll("\n", "\\n")}`)).response).toBe(answer);
      // Nothing says so while these lines come but what every line of it has.
      expect((await ask(driver, "stream 4 900")).response).toBe("line 1\nline 2\nline 3\nline 4");
      expect((await ask(driver, "tool Bash prompt is too long\nsay so it says")).response).toMatch(
        /so it says$/,
      );
      expect((await ask(driver, "# say heading\nsay below")).response).toBe("below");
      expect(driver.events.filter(({ event }) => /Context|DeliveryFailed|Error/.test(event))).toEqual([]);
    },
    30_000,
  );

  test.each(["claude", "codex"])(
    "%s is told to leave its answers in the terminal",
    async (name) => {
      const dir = tempDir();
      const path = join(dir, name);
      const program = join(root, `tests/fakes/${name}.ts`);
      await Bun.write(path, `#!/bin/sh\nexec '${process.execPath}' '${program}' "$@"\n`);
      chmodSync(path, 0o700);
      const { driver } = await shimOnFd(["--", path, "--fullscreen", "--exact"]);
      await driver.next("Ready");
      expect((await ask(driver, "lines 300")).response).toBe(
        Array.from({ length: 300 }, (_, index) => `line ${index + 1}`).join("\n"),
      );
      const args = JSON.parse(String((await ask(driver, "args")).response));
      expect(args.slice(-2)).toEqual(["--fullscreen", "--exact"]);
      // A person's own word goes before the profile's.
      if (name === "claude") {
        const env = { CLAUDE_CODE_DISABLE_ALTERNATE_SCREEN: "0" };
        const own = await shimOnFd(["--", path], { env });
        await own.driver.next("Ready");
        const [variable] = Object.keys(env);
        expect((await ask(own.driver, `env ${variable}`)).response).toBe("0");
      }
    },
    30_000,
  );

  const lengths = [1, 257, 4_095, 4_096, 9_000, 70_000];
  test.each(["claude", "codex"])(
    "%s is handed texts of any length",
    async (name) => {
      const { driver } = await shimOnFd(fake(name));
      await driver.next("Ready");
      for (const length of lengths) {
        const text = "x".repeat(length);
        expect((await ask(driver, text)).response).toBe(`read ${length} characters`);
      }
      // Behind a backslash Enter would be a new line.
      expect((await ask(driver, "it ends in \\")).response).toBe("read 12 characters");
      expect((await ask(driver, "white space at its end \n \n")).response).toBe("read 22 characters");
      expect((await ask(driver, "say next")).response).toBe("next");
    },
    60_000,
  );

  test.each(["claude", "codex"])(
    "%s asks for permission: nothing is typed, people are told, messages wait",
    async (name) => {
      const { driver } = await shimOnFd(fake(name));
      await driver.next("Ready");
      driver.send({ cmd: "SendMessage", from: "ann", body: "permit 2500 rm -r /", message_id: "first" });
      const asked = (event: Event): boolean => String(event.message).includes("has to answer");
      expect(await driver.next("Warning", asked)).toMatchObject({
        message: expect.stringMatching(
          /Do you want to proceed\?|Would you like to run the following command\?/,
        ),
      });
      driver.send({ cmd: "SendMessage", from: "ann", body: "say second", message_id: "second" });
      const first = await driver.next("Completion");
      expect(first).toMatchObject({ message_id: "first", response: "denied" });
      expect(await driver.next("Completion", ({ message_id }) => message_id === "second")).toMatchObject({
        response: "second",
      });
      expect(driver.events.filter(asked)).toHaveLength(1);
    },
    30_000,
  );

  test.each(["claude", "codex"])("%s asks something just when a message is handed to it", async (name) => {
    const { driver } = await shimOnFd(fake(name, "--asks", "1500"));
    await driver.next("Ready");
    expect((await ask(driver, "say hello")).response).toBe("hello");
    expect((await ask(driver, "say bye")).response).toBe("bye");
    const warnings = driver.events.filter(({ event }) => event === "Warning");
    expect(warnings).toEqual([
      expect.objectContaining({ message: expect.stringContaining("has to answer") }),
    ]);
  });

  test("one that is busy with a paste for a moment is left alone meanwhile", async () => {
    const { driver } = await shimOnFd(fake("claude", "--pasting", "60"));
    await driver.next("Ready");
    for (const text of ["hello", "bye"]) expect((await ask(driver, `say ${text}`)).response).toBe(text);
  });

  test.each(["claude", "codex"])(
    "%s: what was left in its input does not become a part of a message",
    async (name) => {
      const { driver } = await shimOnFd(fake(name, "--draft", "say this was\n\nleft there"));
      await driver.next("Ready");
      expect((await ask(driver, "say hello")).response).toBe("hello");
      expect((await ask(driver, "say bye")).response).toBe("bye");
      const warnings = driver.events.filter(({ event }) => event === "Warning");
      expect(warnings).toEqual([
        expect.objectContaining({ message: expect.stringMatching(/deleted.*: say this was\s+left there$/) }),
      ]);
    },
  );

  const ends: [name: string, state: string, body: string | undefined][] = [
    ["claude", "waits", undefined],
    ["claude", "works", "hang"],
    ["codex", "waits", undefined],
    ["codex", "works", "hang"],
    ["kiro", "waits", undefined],
  ];
  test.each(ends)("%s that %s is shut down by Ctrl-C alone", async (name, _, body) => {
    const { driver, shim } = await shimOnFd(fake(name));
    await driver.next("Ready");
    if (body !== undefined) {
      driver.send({ cmd: "SendMessage", from: "ann", body });
      await driver.next("StateChanged", ({ to }) => to === "working");
    }
    driver.send({ cmd: "Shutdown", timeout_secs: 60 });
    expect(await driver.next("Died")).toMatchObject({ exit_code: 0 });
    expect(await shim.exited).toBe(0);
  });

  test("one of one's own, by its profile", async () => {
    const home = tempDir();
    mkdirSync(join(home, ".claudemesh/profiles"), { recursive: true });
    await Bun.write(
      join(home, ".claudemesh/profiles/mine.toml"),
      "idle = ['ready>\\s*$']\nidle_at_cursor = true\npaste = false\nlines = 1\n",
    );
    const { driver } = await shimOnFd(["--profile", "mine", ...bash], {
      env: { HOME: home, PS1: "ready> " },
    });
    await driver.next("Ready");
    expect((await ask(driver, "echo '$ '")).response).toBe("$ ".trim());
  });
});

test("an agent that counts its tokens", async () => {
  const args = [
    "--runtime",
    "stream-json",
    "--profile",
    "claude",
    "--",
    process.execPath,
    join(root, "tests/fakes/stream-agent.ts"),
  ];
  const { driver, shim } = await shimOnFd(args);
  await driver.next("Ready");
  expect((await ask(driver, "say hello\nsay again")).response).toContain("hello");
  await ask(driver, "window 1000\ntokens 850\nsay much");
  expect(await driver.next("ContextWarning")).toMatchObject({
    used_tokens: expect.any(Number),
    usage_pct: expect.any(Number),
  });
  const stats = await driver.next("SessionStats", () => true, 0, 15_000);
  expect(stats).toMatchObject({ uptime_secs: expect.any(Number), context_usage_pct: expect.any(Number) });
  expect(Number(stats.output_bytes)).toBeGreaterThan(0);
  driver.send({ cmd: "Kill" });
  await driver.next("Died");
  await shim.exited;
  finished.add("tokens");
  for (const { event } of driver.events) seen.add(event);
}, 30_000);

describe("detached", () => {
  test("it goes on without anybody, and tells who comes next what happened meanwhile", async () => {
    const { driver, path, shim } = await shimOnSocket(["--detached", ...bash]);
    await driver.next("Ready");
    driver.send({
      cmd: "SendMessage",
      from: "ann",
      body: "sleep 0.3; echo while you were away",
      message_id: "away",
    });
    await driver.next("MessageDelivered");
    driver.close();
    const later = await connectTo(path);
    expect(await later.next("Completion")).toMatchObject({
      message_id: "away",
      response: "while you were away",
    });
    expect(later.events.some(({ event }) => event === "Ready")).toBe(false);

    const other = await connectTo(path);
    await question(other, { cmd: "Ping" }, "Pong");
    expect((await ask(other, "echo both")).response).toBe("both");
    await later.next("Completion", (event) => event.response === "both");
    expect(later.events.some(({ event }) => event === "Pong")).toBe(false);
    other.close();
    await question(later, { cmd: "Ping" }, "Pong");
    expect(statSync(path).mode & 0o777).toBe(0o600);
    later.send({ cmd: "Shutdown", timeout_secs: 0 });
    await shim.exited;
    expect(existsSync(path)).toBe(false);
  });
});

test("a ping is answered while output pours in, and the log is kept", async () => {
  const log = join(tempDir(), "log");
  const { driver } = await shimOnFd(["--log", log, ...bash]);
  await driver.next("Ready");
  const from = driver.events.length;
  driver.send({ cmd: "SendMessage", from: "ann", body: "yes | head -c 10000000", message_id: "pour" });
  await driver.next("MessageDelivered");
  let slowestMs = 0;
  let pings = 0;
  while (!driver.events.slice(from).some(({ event }) => event === "Completion")) {
    const before = performance.now();
    await question(driver, { cmd: "Ping" }, "Pong");
    slowestMs = Math.max(slowestMs, performance.now() - before);
    pings++;
  }
  expect(pings).toBeGreaterThan(5);
  expect(slowestMs).toBeLessThan(250);
  const { response } = await driver.next("Completion", undefined, from);
  expect(String(response)).toMatch(/^y\n(y\n)+/);
  expect(statSync(log).size).toBeGreaterThan(15_000_000);
  expect(statSync(log).mode & 0o777).toBe(0o600);
}, 60_000);

afterAll(() => {
  // Not when only some of the tests were asked for.
  if (finished.size === 3) expect(everyEvent.filter((name) => !seen.has(name))).toEqual([]);
});
