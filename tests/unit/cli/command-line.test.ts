/** The executable as a process: exit statuses, what goes to which stream, closed pipes and interrupts. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { root } from "../../support/cli";
import { tempDir } from "../../support/temp-dir";
import { fakeDaemon, json } from "../client/fake-daemon";
import { runSource, startSource } from "./source-cli";

const inboxItem = (body: string, id = "row") => ({
  id,
  client_message_id: `id-${id}`,
  mesh: "team",
  from: { name: "alice", pubkey: "00" },
  body,
  priority: "next",
  received_at: "2026-01-01T00:00:00.000Z",
});

/** A daemon's directory in which `answer` speaks for the daemon. */
function daemonDir(answer: Parameters<typeof fakeDaemon>[0]): { CLAUDEMESH_DAEMON_DIR: string } {
  const dir = tempDir();
  fakeDaemon(answer, join(dir, "daemon.sock"));
  return { CLAUDEMESH_DAEMON_DIR: dir };
}

describe("versions", () => {
  test("--version is one word, version a line or JSON", async () => {
    expect(await runSource(["--version"])).toEqual({ status: 0, stdout: "0.0.0-dev\n", stderr: "" });
    expect((await runSource(["version"])).stdout).toStartWith("claudemesh 0.0.0-dev (source,");
    const { stdout } = await runSource(["version", "--json"]);
    expect(JSON.parse(stdout)).toMatchObject({ version: "0.0.0-dev", commit: "source" });
  });
});

describe("help", () => {
  const asked: [argv: string[], what: string][] = [
    [["--help"], "USAGE claudemesh"],
    [["-h"], "USAGE claudemesh"],
    [["send", "--help"], "USAGE claudemesh send"],
    [["send", "-h", "whatever", "--nonsense"], "USAGE claudemesh send"],
    [["daemon", "--help"], "USAGE claudemesh daemon"],
    [["daemon", "outbox", "--help"], "USAGE claudemesh daemon outbox"],
    [["daemon", "outbox", "list", "--help"], "USAGE claudemesh daemon outbox list"],
  ];
  test.each(asked)("%j is on standard output, status 0", async (argv, what) => {
    const { status, stdout, stderr } = await runSource(argv);
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toContain(what);
  });

  test.each([[[]], [["daemon"]], [["daemon", "outbox"]], [["mesh"]], [["broker"]]])(
    "%j without a command is wrong usage, with the help on standard error",
    async (argv) => {
      const { status, stdout, stderr } = await runSource(argv);
      expect([status, stdout]).toEqual([2, ""]);
      expect(stderr).toContain("COMMANDS");
      expect(stderr).toContain("needs a command");
    },
  );
});

describe("wrong usage", () => {
  const wrong: [argv: string[], words: string[]][] = [
    [["sned"], ['unknown command "sned"', "Did you mean claudemesh send?"]],
    [
      ["daemon", "upp"],
      ['unknown command "upp"', "Did you mean claudemesh daemon up?"],
    ],
    [["constructor"], ['unknown command "constructor"']],
    [["--nope"], ["unknown flag --nope", "Flags come after the command"]],
    [["send", "bob", "hi", "--nope"], ["unknown flag --nope"]],
    [["send", "bob"], ["there is no message"]],
    [["send", "bob", "a", "--file", "b"], ["given twice"]],
    [["send", "bob", "hi", "--wait", "delivered"], ["--wait must be accepted"]],
    [["send", "bob", "hi", "--meta", "novalue"], ["KEY=VALUE expected"]],
    [["send", "bob", "hi", "--meta", "a=1", "--meta", "a=2"], ["--meta a was given twice"]],
    [["send", "bob", "hi", "--route", "bridge"], ["CLAUDEMESH_BRIDGE_SOCK"]],
    [["track", "x", "--timeout", "3"], ["--timeout needs --wait"]],
    [["inbox", "--problems", "--follow"], ["--problems"]],
    [["profile", "--hidden", "--visible"], ["--hidden contradicts --visible"]],
    [["daemon", "up", "--no-tcp", "--tcp-port", "1"], ["--no-tcp contradicts"]],
    [["daemon", "outbox", "list", "--failed", "--done"], ["exclude each other"]],
    [["daemon", "outbox", "requeue"], ["which row?"]],
    [["daemon", "outbox", "requeue", "x", "--all-failed"], ["--all-failed goes with neither"]],
    [["broker", "up", "--tls-cert", "a"], ["go together"]],
    [
      ["mesh", "create", "x", "--broker", "https://h"],
      ["ws:// or wss://", "Did you mean wss://h/ws?"],
    ],
    [["mesh", "create", "x", "--broker", "h:1"], ["Did you mean ws://h:1/ws?"]],
    [["mesh", "create", "a/b"], ["a name contains no"]],
    [["mesh", "create", "…"], ["no short name"]],
    [["join", "http://example.org"], ["does not start with ic://join/"]],
    [["join", "ic://join/AAAA"], ["damaged"]],
  ];
  test.each(wrong)("%j", async (argv, words) => {
    const { status, stdout, stderr } = await runSource(argv);
    expect([status, stdout]).toEqual([2, ""]);
    for (const word of words) expect(stderr).toContain(word);
    expect(stderr).toMatch(/^claudemesh: /m);
  });

  test("flags before the command, and no command at all, with --json", async () => {
    const early = await runSource(["--json", "send", "bob", "hi"]);
    expect(early.status).toBe(2);
    expect(JSON.parse(early.stdout)).toMatchObject({ error: "usage", message: "unknown flag --json" });
    const none = await runSource(["daemon", "--json"]);
    expect(none.status).toBe(2);
    expect(JSON.parse(none.stdout)).toMatchObject({
      error: "usage",
      message: "claudemesh daemon needs a command",
    });
  });

  test("with --json the error is JSON on standard output, and the sentence still on standard error", async () => {
    const { status, stdout, stderr } = await runSource(["send", "bob", "hi", "--json", "--nope"]);
    expect(status).toBe(2);
    expect(JSON.parse(stdout)).toEqual({
      error: "usage",
      message: "unknown flag --nope",
      hint: "See claudemesh send --help",
    });
    expect(stderr).toStartWith("claudemesh: unknown flag --nope\n  hint: ");
  });
});

describe("no daemon is status 3", () => {
  const commands = [
    ["inbox"],
    ["inbox", "--follow"],
    ["events"],
    ["peers"],
    ["profile"],
    ["track", "x"],
    ["daemon", "status"],
    ["daemon", "version"],
    ["daemon", "outbox", "list"],
    ["daemon", "outbox", "show", "x"],
    ["daemon", "outbox", "requeue", "x"],
    ["send", "bob", "hi", "--route", "daemon"],
  ];
  test.each(commands.map((argv) => [argv]))("%j", async (argv) => {
    const { status, stdout, stderr } = await runSource(argv);
    expect([status, stdout]).toEqual([3, ""]);
    expect(stderr).toContain("no daemon answers on");
    expect(stderr).toContain("hint: Start it: claudemesh daemon up");
  });

  test("to stop what does not run is no failure", async () => {
    expect(await runSource(["daemon", "down", "--json"])).toMatchObject({
      status: 0,
      stdout: '{"stopped":false,"pid":null}\n',
    });
    expect(await runSource(["broker", "down", "--json"])).toMatchObject({
      status: 0,
      stdout: '{"stopped":false,"pid":null}\n',
    });
    expect((await runSource(["broker", "status"])).status).toBe(3);
  });
});

describe("the daemon's errors end with the status of their code", () => {
  const codes: [code: string, http: number, status: number][] = [
    ["internal", 500, 1],
    ["mesh_required", 400, 2],
    ["directory_unavailable", 503, 3],
    ["peer_untrusted", 403, 4],
    ["unknown_peer", 404, 5],
    ["idempotency_key_reused", 409, 6],
    ["timed_out", 504, 7],
    ["brand_new", 409, 6],
  ];
  test.each(codes)("%s: %d, %d", async (code, http, expected) => {
    const env = daemonDir(() => json({ error: code, message: "a sentence", more: 1 }, http));
    const { status, stdout, stderr } = await runSource(["peers", "--json"], { env });
    expect(status).toBe(expected);
    expect(JSON.parse(stdout)).toMatchObject({ message: "a sentence", more: 1 });
    expect(stderr).toContain("claudemesh: a sentence");
  });

  test("words of the daemon do not steer the terminal", async () => {
    const env = daemonDir(() => json({ error: "internal", message: "a\u001b[2Jb", hint: "\u009b1m" }, 500));
    const { stderr } = await runSource(["inbox"], { env });
    expect(stderr).toContain("a\\x1b[2Jb");
    expect(stderr).toContain("\\x9b1m");
  });
});

describe("streams", () => {
  test("a reader that goes away ends the command quietly, with 0", async () => {
    const items = Array.from({ length: 400 }, (_, index) => inboxItem("x".repeat(2000), String(index)));
    const env = daemonDir(() => json({ items }));
    const child = startSource(["inbox", "--limit", "400"], { env });
    await child.stdout.cancel();
    expect(await child.exited).toBe(0);
    expect(await child.stderr.text()).toBe("");
  });

  test("a slow reader gets everything", async () => {
    const items = Array.from({ length: 400 }, (_, index) => inboxItem("x".repeat(2000), String(index)));
    const env = daemonDir(() => json({ items }));
    const child = startSource(["inbox", "--limit", "400", "--json"], { env });
    let text = "";
    const decoder = new TextDecoder();
    for await (const chunk of child.stdout) {
      text += decoder.decode(chunk, { stream: true });
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(JSON.parse(text)).toEqual({ items });
    expect(await child.exited).toBe(0);
  });

  test("what cannot be printed is not marked as read", async () => {
    const dir = tempDir();
    const daemon = fakeDaemon(
      ({ target }) =>
        target.startsWith("/v1/inbox/ack")
          ? json({ acknowledged: 1, unknown: [] })
          : json({ items: [inboxItem("x".repeat(200_000))] }),
      join(dir, "daemon.sock"),
    );
    const child = startSource(["inbox", "--ack"], { env: { CLAUDEMESH_DAEMON_DIR: dir } });
    await child.stdout.cancel();
    expect(await child.exited).toBe(0);
    expect(daemon.seen.map(({ target }) => target)).toEqual(["/v1/inbox?last=50"]);
  });
});

describe("an interrupt", () => {
  test("of a command that waits is 130", async () => {
    const asked = Promise.withResolvers<void>();
    const env = daemonDir(() => {
      asked.resolve();
      return new Promise<Response>(() => undefined);
    });
    const child = startSource(["peers"], { env });
    await asked.promise;
    child.kill("SIGINT");
    expect(await child.exited).toBe(130);
    expect(await child.stderr.text()).toBe("");
  });

  test("of a command that follows is 130, without a complaint", async () => {
    const following = Promise.withResolvers<void>();
    const env = daemonDir(({ target }, index) => {
      if (target === "/v1/events") {
        return new Response(new ReadableStream({ start: (controller) => controller.enqueue(": open\n\n") }));
      }
      if (index > 1) following.resolve();
      return json({ items: [] });
    });
    const child = startSource(["inbox", "--follow"], { env });
    await following.promise;
    child.kill("SIGINT");
    expect(await child.exited).toBe(130);
    expect(await child.stderr.text()).toBe("");
  });
});

describe("an error", () => {
  test("is a sentence; the stack comes only when asked for", async () => {
    const env = { CLAUDEMESH_DAEMON_DIR: `/tmp/${"x".repeat(200)}` };
    const plain = await runSource(["peers"], { env });
    expect(plain.status).toBe(1);
    expect(plain.stderr).toContain("this system allows");
    expect(plain.stderr).not.toContain("    at ");
    const debug = await runSource(["peers"], { env: { ...env, CLAUDEMESH_DEBUG: "1" } });
    expect(debug.stderr).toContain("    at ");
  });

  test.skipIf(process.platform !== "linux")("that the world made is not called a bug", async () => {
    const [main, env] = [join(import.meta.dir, "../../../src/main.ts"), { PATH: process.env.PATH ?? "" }];
    const full = Bun.spawn([process.execPath, main, "version"], {
      env,
      stdout: Bun.file("/dev/full"),
      stderr: "pipe",
    });
    expect(await full.stderr.text()).toMatch(/ENOSPC.*\n {2}hint: The disk is full/);
    expect(await full.exited).toBe(1);
  });
});

test("what somebody else says cannot steer the terminal from a note", async () => {
  const evil = "\u001b]0;owned\u0007\u202e";
  const failed = {
    id: "row",
    client_message_id: "id-row",
    mesh: "team",
    to: "bob",
    destination: null,
    priority: "next",
    status: "dead",
    attempts: 1,
    enqueued_at: "2026-01-01T00:00:00.000Z",
    may_have_been_sent: false,
  };
  const counts = { pending: 0, inflight: 0, done: 0, dead: 1, aborted: 0 };
  const env = daemonDir(({ method }) =>
    method === "GET"
      ? json({ items: [failed], counts })
      : json({ error: "not_allowed", message: `no ${evil}` }, 403),
  );
  const { stdout, stderr } = await runSource(["daemon", "outbox", "requeue", "--all-failed"], { env });
  expect(stderr).toContain("claudemesh: row: no \\x1b]0;owned\\x07\\u202e");
  expect(stdout + stderr).not.toContain("\u001b");
});

test.skipIf(process.platform !== "linux")(
  "what cannot be said on standard error, since its disk is full, takes nothing from the answer",
  async () => {
    const args = ["nonsense", "--json"];
    const child = Bun.spawn([process.execPath, join(root, "src/main.ts"), ...args], {
      env: { PATH: process.env.PATH ?? "", HOME: tempDir() },
      stdout: "pipe",
      // full(4): every write fails with ENOSPC.
      stderr: Bun.file("/dev/full"),
    });
    expect(JSON.parse(await child.stdout.text())).toMatchObject({ error: "usage" });
    expect(await child.exited).toBe(2);
  },
);
