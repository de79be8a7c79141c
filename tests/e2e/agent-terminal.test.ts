/**
 * An agent in a person's terminal: as if it had been started there, driven from elsewhere meanwhile, left and come back to. Each test
 * has a terminal window with a shell in it, in which the commands are typed.
 */
import { beforeEach, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { cleanup } from "../support/cleanup";
import { type CliResult, command, root, runCli, spawnCli } from "../support/cli";
import { connectTo } from "../support/shim-driver";
import { tempDir } from "../support/temp-dir";
import { openTerminal, type TestTerminal } from "../support/terminal";
import { waitFor } from "../support/wait-for";

const quoted = (words: readonly string[]): string =>
  words.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ");

/** A shell that says `in>`, as the agent. */
const innerShell = ["env", "PS1=in> ", "bash", "--norc", "--noprofile"];

let env: Record<string, string>;
/** Where windows open. */
let cwd: string;

beforeEach(() => {
  cwd = tempDir();
  const home = tempDir();
  env = { HOME: home, PS1: "out> ", CLAUDEMESH_CONFIG_DIR: join(home, "cm") };
  cleanup(async () => {
    const { agents } = listed(await cli("agent", "list", "--json"));
    for (const { name } of agents) await cli("agent", "stop", name, "--timeout", "1s");
  });
});

const cli = (...args: string[]): Promise<CliResult> => runCli(args, { env });

interface Listed {
  agents: {
    name: string;
    state: string;
    pid: number;
    shim_pid: number;
    terminals: number;
    profile: string;
    exit_code: number | null;
    signal: string | null;
  }[];
}
const listed = (result: CliResult): Listed => result.json() as Listed;
const agentNamed = async (name: string) =>
  listed(await cli("agent", "list", "--json")).agents.find((agent) => agent.name === name);

/** A window with a shell that waits. */
async function openWindow(): Promise<TestTerminal> {
  const window = openTerminal(["bash", "--norc", "--noprofile"], { env, cwd });
  await window.shows(/^out>$/m);
  return window;
}

const typeCommand = (window: TestTerminal, ...args: string[]): void =>
  window.type(`clear; ${quoted([...command, ...args])}; echo "status=$?"\n`);

/** A window in which the agent `x` has just been started. */
async function withAgent(agent: readonly string[] = innerShell): Promise<TestTerminal> {
  const window = await openWindow();
  typeCommand(window, "agent", "run", "x", "--", ...agent);
  if (agent === innerShell) await window.shows(/^in>$/m);
  return window;
}

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

describe("an agent in this terminal", () => {
  test("is typed to, has the terminal's size and its changes, and its exit status is the command's", async () => {
    const window = await withAgent();
    window.type("echo $((6*7)) $(tty | grep -c pts) $(stty size) $TERM\n");
    await window.shows("42 1 24 80 xterm-256color");
    window.resize(30, 100);
    window.type("until stty size | grep '^30 100$'; do sleep 0.05; done\n");
    await window.shows("\n30 100\n");
    window.type("exit 7\n");
    await window.shows(/status=7\nout>$/);
    expect(listed(await cli("agent", "list", "--json"))).toEqual({ agents: [] });
  });

  test("runs in a window of any size", async () => {
    for (const [rows, cols] of [
      [2, 1500],
      [1, 1],
    ] as const) {
      const window = await openWindow();
      window.resize(rows, cols);
      const file = join(cwd, `size${rows}`);
      typeCommand(window, "agent", "run", `x${rows}`, "--", "sh", "-c", `stty size >new; mv new ${file}`);
      await waitFor(() => existsSync(file), { what: "the agent to have run" });
      expect(readFileSync(file, "utf8")).toBe(`${rows} ${Math.min(cols, 1000)}\n`);
    }
  });

  test("paints in colours, and everything that it printed is there", async () => {
    const window = await withAgent();
    window.type("printf '\\033[31mr\\033[38;2;1;2;3mg\\033[0m %s\\n' done; seq 1 500\n");
    await window.shows(/\n500\nin>$/);
    const { active } = window.emulator.buffer;
    const lines = Array.from({ length: active.length }, (_, row) => active.getLine(row));
    const painted = lines.find((line) => line?.translateToString(true) === "rg done");
    expect([painted?.getCell(0)?.getFgColor(), painted?.getCell(1)?.getFgColor()]).toEqual([1, 0x010203]);
    const numbers = lines
      .map((line) => line?.translateToString(true))
      .filter((text) => /^\d+$/.test(text ?? ""));
    expect(numbers).toEqual(Array.from({ length: 500 }, (_, n) => String(n + 1)));
  });

  test("gets Ctrl-C, Ctrl-D and Ctrl-Z, and nothing else does", async () => {
    const window = await withAgent();
    window.type("sleep 1000\n");
    await window.shows(/in> sleep 1000$/);
    window.type("\x03");
    await window.shows(/\^C\nin>$/);
    window.type("sleep 1001\n");
    await window.shows("in> sleep 1001");
    window.type("\x1a");
    await window.shows("Stopped");
    window.type("fg\n");
    await window.shows(/\nin> fg\nsleep 1001$/);
    window.type("\x03");
    await window.shows(/\^C\nin>$/);
    window.type("\x04");
    await window.shows(/status=\d+\nout>$/);
  });

  test("that a signal ends ends as a shell would tell it", async () => {
    const window = await withAgent();
    window.type("kill -9 $$\n");
    await window.shows(/status=137\nout>$/);
  });

  test("is shown everything that it sends, from the first byte on", async () => {
    const window = await withAgent([
      "printf",
      "\\033]2;early\\007\\033]8;;http://a.b/\\007link\\033]8;;\\007",
    ]);
    await window.shows(/link(\n.*)?status=0\nout>$/);
    expect(window.printed()).toContain("\x1b]2;early\x07\x1b]8;;http://a.b/\x07link\x1b]8;;\x07");
  });

  test("that ends at once has been seen all the same", async () => {
    const window = await withAgent(["sh", "-c", "echo quick; exit 3"]);
    await window.shows(/quick\nstatus=3\nout>$/);
  });

  test("gives the terminal back exactly as it was, whatever it had switched on", async () => {
    const window = await openWindow();
    window.type("stty -echoctl intr ^X; clear; stty -a | cksum\n");
    await window.shows(/^\d+ \d+$/m);
    const [before] = /^\d+ \d+$/m.exec(window.screen()) ?? [];
    const agent =
      "stty raw -echo; printf '\\033[?1049h\\033[?25l\\033[?2004h\\033[?1003h\\033[?1h\\033[>1uX'; exit 0";
    typeCommand(window, "agent", "run", "x", "--", "bash", "-c", agent);
    await window.shows(/status=0\nout>$/);
    expect(window.emulator.buffer.active.type).toBe("normal");
    expect(window.emulator.modes).toMatchObject({
      mouseTrackingMode: "none",
      applicationCursorKeysMode: false,
    });
    expect(window.printed()).toContain("\x1b[<1u");
    window.type("clear; stty -a | cksum\n");
    await window.shows(/^\d+ \d+$/m);
    expect(window.screen()).toContain(`${before}`);
  });

  test.each(["SIGTERM", "SIGHUP", "SIGINT"] as const)(
    "ends with its terminal on %s, which is put back",
    async (signal) => {
      const window = await withAgent([
        "bash",
        "-c",
        "printf '\\033[?1049h\\033[?25lfull screen'; exec sleep 1000",
      ]);
      await window.shows("full screen");
      const { pid, shim_pid } = (await agentNamed("x")) ?? { pid: 0, shim_pid: 0 };
      const runner = await foreground(window, shim_pid);
      process.kill(runner, signal);
      await window.shows(/status=1\d\d\nout>$/);
      expect(window.emulator.buffer.active.type).toBe("normal");
      window.type("stty -a | tr ' ' '\\n' | grep -x -e -icanon -e icanon -e -echo -e echo\n");
      await window.shows(/\nicanon\necho\n/);
      await waitFor(() => !isAlive(pid) && !isAlive(shim_pid), { what: "the agent to end" });
    },
  );

  test("ends when its window is closed, and when its command is killed", async () => {
    const window = await withAgent();
    const first = await agentNamed("x");
    window.close();
    await waitFor(() => !isAlive(first?.pid ?? 0) && !isAlive(first?.shim_pid ?? 0), {
      what: "the agent to end",
    });

    const other = await withAgent();
    const second = await agentNamed("x");
    process.kill(await foreground(other, second?.shim_pid ?? 0), "SIGKILL");
    await waitFor(() => !isAlive(second?.pid ?? 0) && !isAlive(second?.shim_pid ?? 0), {
      what: "the agent to end",
    });
  });

  test("does not stay behind when it is interrupted while it starts", async () => {
    const window = await openWindow();
    for (const delay of ["0.01", "0.02", "0.03", "0.04", "0.06", "0.1"]) {
      const run = quoted([...command, "agent", "run", `x${delay.slice(2)}`, "--", ...innerShell]);
      window.type(`clear; timeout --foreground -s INT ${delay} ${run}; echo "after ${delay}: $?"\n`);
      await window.shows(new RegExp(`after ${delay}: 124\nout>$`));
    }
    await waitFor(async () => listed(await cli("agent", "list", "--json")).agents.length === 0, {
      what: "all of them to end",
      timeoutMs: 5_000,
    });
  });

  test("is stopped with its terminal by a job-control signal, and comes back with it", async () => {
    const window = await withAgent();
    const runner = await foreground(window, (await agentNamed("x"))?.shim_pid ?? 0);
    process.kill(runner, "SIGTSTP");
    await window.shows(/Stopped.*\nout>$/s);
    window.type("clear; echo meanwhile\n");
    await window.shows(/\nout>$/);
    window.type("fg\n");
    await window.shows(/^in>$/m);
    window.type("echo back\n");
    await window.shows(/\nback\nin>$/);
  });
});

/** Whether it has used no time of the processor for a while. */
function isAtRest(pid: number): () => boolean {
  let [used, looks] = ["", 0];
  return () => {
    const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(" ");
    const now = fields.slice(13, 15).join(" ");
    looks = now === used ? looks + 1 : 0;
    used = now;
    return looks > 20;
  };
}

/** The process that shows the agent: what the window's shell has started and is no shim. */
async function foreground(window: TestTerminal, shimPid: number): Promise<number> {
  const { stdout } = Bun.spawnSync(["ps", "-o", "pid=", "--ppid", String(window.pid)]);
  const pids = stdout.toString().trim().split(/\s+/).map(Number);
  const found = pids.find((pid) => pid !== shimPid && pid > 0);
  if (found === undefined) throw new Error("nothing runs in the window");
  return found;
}

describe("from another terminal", () => {
  test("an agent is listed, told something, looked at, and stopped", async () => {
    const window = await withAgent();
    await waitFor(async () => (await agentNamed("x"))?.state === "idle", { what: "its prompt" });
    expect(await agentNamed("x")).toMatchObject({
      name: "x",
      state: "idle",
      profile: "generic",
      terminals: 1,
    });
    expect((await cli("agent", "list")).stdout).toMatch(
      /^x {2}generic {2}idle {2}pid \d+ {2}\d+ s {2}env PS1=in> {2}bash/,
    );

    const sent = await cli("agent", "send", "x", "echo said $((40+2))", "--json");
    expect(sent.json()).toMatchObject({ name: "x", status: "delivered" });
    await window.shows("\nsaid 42\n");
    const answered = await cli("agent", "send", "x", "echo answer $((1+1))", "--wait");
    expect([answered.stdout, answered.exitCode]).toEqual(["answer 2\n", 0]);

    const captured = await cli("agent", "capture", "x");
    expect(captured.stdout).toContain("said 42\n");
    expect(captured.stdout).toContain("answer 2\n");
    expect((await cli("agent", "capture", "x", "-n", "1", "--json")).json()).toMatchObject({
      content: expect.stringMatching(/^in> ?$/),
    });
    expect((await cli("agent", "logs", "x", "-n", "3")).stdout).toContain("answer 2\n");

    const stopped = await cli("agent", "stop", "x", "--timeout", "1s");
    expect([stopped.exitCode, stopped.stderr]).toEqual([0, ""]);
    await window.shows(/status=\d+\nout>$/);
    expect((await cli("agent", "list")).stdout).toBe("");
    expect((await cli("agent", "logs", "x")).stdout).toContain("said 42");
  });

  test("what it says is kept for its orchestrator, whoever else asks meanwhile", async () => {
    await cli("agent", "run", "x", "--detached", "--", ...innerShell);
    await waitFor(async () => (await agentNamed("x"))?.state === "idle", { what: "its prompt" });
    expect((await cli("agent", "send", "x", "--wait", "echo kept")).stdout).toBe("kept\n");
    await cli("agent", "capture", "x");
    const driver = await connectTo(join(env.CLAUDEMESH_CONFIG_DIR ?? "", "daemon/agents/x.sock"));
    await driver.next("Completion", ({ response }) => response === "kept");
    expect(driver.events.map(({ event }) => event)).toEqual([
      "StateChanged",
      "Ready",
      "MessageDelivered",
      "StateChanged",
      "StateChanged",
      "Completion",
    ]);
  });

  test("a shell at its prompt is stopped soon, as one that is at work, and one that is to end at once", async () => {
    for (const [work, ...flags] of [[""], ["sleep 1000"], ["sleep 1000", "--timeout", "0"]]) {
      await cli("agent", "run", "x", "--detached", "--", ...innerShell);
      await waitFor(async () => (await agentNamed("x"))?.state === "idle", { what: "its prompt" });
      if (work !== "") await cli("agent", "send", "x", work ?? "");
      const began = performance.now();
      expect((await cli("agent", "stop", "x", ...flags)).stdout).toBe("x has stopped\n");
      expect(performance.now() - began).toBeLessThan(4_000);
    }
  });

  test("one that has ended is listed with how, and so is its stop", async () => {
    await cli("agent", "run", "x", "--detached", "--", "sh", "-c", "exit 7");
    await waitFor(async () => (await agentNamed("x"))?.state === "dead", { what: "its death" });
    expect(await agentNamed("x")).toMatchObject({ exit_code: 7, signal: null });
    expect((await cli("agent", "list")).stdout).toMatch(/^x {2}generic {2}dead \(exit status 7\) {2}/);
    const refused = await cli("agent", "send", "x", "hello");
    expect([refused.exitCode, refused.stderr]).toEqual([1, expect.stringContaining("agent capture x")]);
    expect((await cli("agent", "stop", "x", "--json")).json()).toMatchObject({
      was_dead: true,
      exit_code: 7,
      signal: null,
    });
  });

  test("one whose shim does not answer is listed so, and stopped all the same", async () => {
    await cli("agent", "run", "x", "--detached", "--", ...innerShell);
    const { pid = 0, shim_pid = 0 } = (await agentNamed("x")) ?? {};
    process.kill(shim_pid, "SIGSTOP");
    expect(await agentNamed("x")).toMatchObject({ state: "unresponsive", shim_pid });
    const refused = await cli("agent", "capture", "x");
    expect([refused.exitCode, refused.stderr]).toEqual([7, expect.stringContaining("agent stop x")]);
    const stopped = await cli("agent", "stop", "x", "--json");
    expect(stopped.json()).toMatchObject({ stopped: true, was_unresponsive: true });
    await waitFor(() => !isAlive(pid) && !isAlive(shim_pid), { what: "their end" });
    expect((await cli("agent", "run", "x", "--detached", "--", ...innerShell)).exitCode).toBe(0);
  }, 40_000);

  test("a text that cannot be sent is told with a way out, and waiting for one can be interrupted", async () => {
    await cli("agent", "run", "x", "--detached", "--", ...innerShell);
    const send = (stdin: string) => runCli(["agent", "send", "x", "-"], { env, stdin });
    const refusals = [await send(""), await send("\n \n"), await send("x".repeat(1_048_500))];
    for (const { exitCode, stderr } of refusals) {
      expect(exitCode).toBe(2);
      expect(stderr).toContain("\n  hint: ");
    }
    const late = await cli("agent", "send", "x", "sleep 1000", "--wait", "--timeout", "1");
    expect([late.exitCode, late.stderr]).toEqual([7, expect.stringContaining("agent capture x")]);
    const reading = spawnCli(["agent", "send", "x", "-"], { env });
    await waitFor(isAtRest(reading.pid), { what: "it to read" });
    expect((await reading.stop("SIGINT")).exitCode).toBe(130);
  });

  test("one that does not exist is not found, with what to type", async () => {
    for (const verb of ["attach", "send", "capture", "stop"]) {
      const extra = verb === "send" ? ["hello"] : [];
      const result = await cli("agent", verb, "nobody", ...extra);
      if (verb === "attach") expect(result.exitCode).toBe(2);
      else {
        expect([verb, result.exitCode]).toEqual([verb, 5]);
        expect(result.stderr).toContain("claudemesh agent run nobody -- COMMAND");
      }
    }
  });
});

describe("the detach key", () => {
  test("gives the terminal back and leaves the agent running, for this terminal or another to come back to", async () => {
    const window = await withAgent();
    window.type("echo one\n");
    await window.shows(/\none\nin>$/);
    window.type("\x1d");
    await window.shows(/\[x goes on; to come back: claudemesh agent attach x\]\nstatus=0\nout>$/);
    expect(await agentNamed("x")).toMatchObject({ terminals: 0 });
    await cli("agent", "send", "x", "echo two");

    typeCommand(window, "agent", "attach", "x");
    await window.shows(/\none\n[\s\S]*\ntwo\nin>$/);
    const other = await openWindow();
    other.resize(40, 132);
    typeCommand(other, "agent", "attach", "x");
    await other.shows(/\ntwo\nin>$/);
    other.type("stty size\n");
    await Promise.all([window.shows(/\n40 132\nin>$/), other.shows(/\n40 132\nin>$/)]);
    expect(await agentNamed("x")).toMatchObject({ terminals: 2 });
    window.type("stty size\n");
    await other.shows(/\n24 80\nin>$/);

    // The window in which it was not started may close.
    other.close();
    window.type("echo three\n");
    await window.shows(/\nthree\nin>$/);
    window.type("exit 4\n");
    await window.shows(/status=4\nout>$/);
  });

  test("leaves a full-screen agent as it is, and attaching shows it as it is then", async () => {
    const script =
      "printf '\\033[?1049h\\033[?25l\\033[?1000h\\033[2;3Hpainted'; read -rsn1 k; printf '\\033[4;5Hgot %s' \"$k\"; read -r x";
    const window = await withAgent(["bash", "-c", script]);
    await window.shows("painted");
    window.type("\x1d");
    await window.shows(/status=0\nout>$/);
    expect([window.emulator.buffer.active.type, window.emulator.modes.mouseTrackingMode]).toEqual([
      "normal",
      "none",
    ]);
    typeCommand(window, "agent", "attach", "x");
    await window.shows(/^\n {2}painted$/m);
    expect([window.emulator.buffer.active.type, window.emulator.modes.mouseTrackingMode]).toEqual([
      "alternate",
      "vt200",
    ]);
    window.type("k");
    await window.shows(/^\n {2}painted\n\n {4}got k$/m);
  });

  test("is not needed where an agent would be shown in itself", async () => {
    const window = await withAgent();
    typeCommand(window, "agent", "attach", "x");
    await window.shows(/own terminal[\s\S]*status=2\nin>$/);
  });

  test("can be another one, or none", async () => {
    const window = await openWindow();
    typeCommand(window, "agent", "run", "x", "--detach-key", "ctrl-b", "--", ...innerShell);
    await window.shows(/^in>$/m);
    window.type("cat -v\n\x1d\n");
    await window.shows("^]");
    window.type("\x02");
    await window.shows(/status=0\nout>$/);
    expect((await cli("agent", "attach", "x", "--detach-key", "tab")).exitCode).toBe(2);
  });
});

describe("other agents", () => {
  const fake = (name: string, ...flags: string[]): string[] => [
    process.execPath,
    join(root, `tests/fakes/${name}.ts`),
    ...flags,
  ];

  test("one with a screen of its own is recognised, told something while it is seen, and answers", async () => {
    const window = await openWindow();
    typeCommand(window, "agent", "run", "x", "--profile", "claude", "--", ...fake("claude"));
    await waitFor(async () => (await agentNamed("x"))?.state === "idle", { what: "its prompt" });
    const sent = await cli("agent", "send", "x", "say heard from afar", "--wait");
    expect([sent.stdout, sent.exitCode]).toEqual(["heard from afar\n", 0]);
    await window.shows("heard from afar");
  });

  test("a message waits for a person who is just typing one", async () => {
    const window = await openWindow();
    typeCommand(window, "agent", "run", "x", "--profile", "claude", "--", ...fake("claude"));
    await waitFor(async () => (await agentNamed("x"))?.state === "idle", { what: "its prompt" });
    window.type("say from the person");
    await waitFor(async () => (await agentNamed("x"))?.state === "working", {
      what: "the typing to be seen",
    });
    expect((await cli("agent", "send", "x", "say from afar")).stdout).toContain("waits");
    window.type(" himself\r");
    await window.shows(/● from the person himself[\s\S]*● from afar/);
  });

  test("what one asks at its start, the person answers who sees it", async () => {
    const window = await openWindow();
    typeCommand(window, "agent", "run", "x", "--profile", "claude", "--", ...fake("claude", "--dialog"));
    await window.shows(/❯ No, exit/);
    const driver = await connectTo(join(env.CLAUDEMESH_CONFIG_DIR ?? "", "daemon/agents/x.sock"));
    await driver.next("Warning", ({ message }) => String(message).includes("has to answer"));
    window.type("\x1b[B");
    await window.shows(/❯ Yes, I trust/);
    window.type("\r");
    await driver.next("Ready");
    expect(driver.events.filter(({ event }) => event === "Warning")).toHaveLength(1);
  });

  test("one without a terminal is seen line by line, takes messages, and says that it has no keyboard", async () => {
    const window = await openWindow();
    const agent = fake("stream-agent");
    typeCommand(
      window,
      "agent",
      "run",
      "x",
      "--runtime",
      "stream-json",
      "--profile",
      "claude",
      "--",
      ...agent,
    );
    await waitFor(async () => (await agentNamed("x"))?.state === "idle", { what: "its readiness" });
    expect((await cli("agent", "send", "x", "say exactly", "--wait")).stdout).toBe("exactly\n");
    await window.shows("exactly");
    window.type("hello");
    await window.shows("[this agent has no keyboard: claudemesh agent send]");
    window.type("\x1d");
    await window.shows(/status=0\nout>$/);
  });

  test("`--json` has the screen on standard error and the last word on standard output", async () => {
    const window = await openWindow();
    const words = quoted([...command, "agent", "run", "x", "--json", "--", "sh", "-c", "echo shown; exit 3"]);
    window.type(`clear; ${words} > said.json; echo "status=$?"; cat said.json\n`);
    await window.shows(/shown\nstatus=3\n/);
    await window.shows('{"name":"x","exit_code":3,"signal":null,"detached":false}');
  });
});

describe("starting", () => {
  test("without a terminal needs --detached, and then goes on by itself", async () => {
    const refused = await cli("agent", "run", "x", "--", "bash");
    expect([refused.exitCode, refused.stderr]).toEqual([2, expect.stringContaining("--detached")]);
    const started = await cli("agent", "run", "x", "--detached", "--json", "--", ...innerShell);
    expect(started.json()).toMatchObject({ name: "x", pid: expect.any(Number), profile: "generic" });
    await waitFor(async () => (await agentNamed("x"))?.state === "idle", { what: "its prompt" });
    expect((await cli("agent", "send", "x", "--wait", "pwd; stty size")).stdout).toMatch(/\n50 220\n$/);
  });

  test("under a name that is in use is a conflict", async () => {
    await cli("agent", "run", "x", "--detached", "--", ...innerShell);
    const second = await cli("agent", "run", "x", "--detached", "--", ...innerShell);
    expect([second.exitCode, second.stderr]).toEqual([6, expect.stringContaining("claudemesh agent stop x")]);
  });

  test("of one name by many at the same moment starts one", async () => {
    const results = await Promise.all(
      Array.from({ length: 4 }, () => cli("agent", "run", "x", "--detached", "--json", "--", ...innerShell)),
    );
    expect(results.map(({ exitCode }) => exitCode).sort()).toEqual([0, 6, 6, 6]);
    const winners = results.filter(({ exitCode }) => exitCode === 0).map((result) => result.json());
    expect(winners).toMatchObject([{ pid: (await agentNamed("x"))?.pid }]);
  });

  test("where a killed shim has left its sockets is no conflict", async () => {
    await cli("agent", "run", "x", "--detached", "--", ...innerShell);
    const { shim_pid = 0, pid = 0 } = (await agentNamed("x")) ?? {};
    process.kill(shim_pid, "SIGKILL");
    await waitFor(() => !isAlive(shim_pid), { what: "its end" });
    const asked = await cli("agent", "capture", "x");
    expect([asked.exitCode, asked.stderr]).toEqual([5, expect.stringMatching(/killed[\s\S]*agent logs x/)]);
    const other = await cli("agent", "capture", "y");
    expect([other.exitCode, other.stderr]).toEqual([5, expect.not.stringContaining("There is x")]);
    expect(existsSync(join(env.CLAUDEMESH_CONFIG_DIR ?? "", "daemon/agents/x.sock"))).toBe(true);
    expect(listed(await cli("agent", "list", "--json")).agents).toEqual([]);
    const again = await cli("agent", "run", "x", "--detached", "--json", "--", ...innerShell);
    expect(again.exitCode).toBe(0);
    expect((await agentNamed("x"))?.pid).not.toBe(pid);
  });

  test("under the name of one that has died takes its place", async () => {
    await cli("agent", "run", "x", "--detached", "--", "sh", "-c", "exit 3");
    await waitFor(async () => (await agentNamed("x"))?.state === "dead", { what: "its death" });
    expect((await cli("agent", "run", "x", "--detached", "--", ...innerShell)).exitCode).toBe(0);
    expect(await agentNamed("x")).not.toMatchObject({ state: "dead" });
  });

  test.each([
    ["../x", "no name for an agent"],
    ["", "no name for an agent"],
    [".x", "no name for an agent"],
    ["a b", "no name for an agent"],
    ["x".repeat(33), "no name for an agent"],
  ])("under the name %j is refused", async (name, why) => {
    const result = await cli("agent", "run", name, "--detached", "--", "bash");
    expect([result.exitCode, result.stderr]).toEqual([2, expect.stringContaining(why)]);
  });

  test("what does not exist fails, and leaves nothing behind", async () => {
    const missing = await cli("agent", "run", "x", "--detached", "--", "no-such-program-anywhere");
    expect(missing.exitCode).not.toBe(0);
    expect(missing.stderr).toContain("no-such-program-anywhere");
    const elsewhere = await cli("agent", "run", "x", "--detached", "--cwd", "/no/such/dir", "--", "bash");
    expect(elsewhere.exitCode).not.toBe(0);
    expect(elsewhere.stderr).toContain("/no/such/dir");
    expect(listed(await cli("agent", "list", "--json")).agents).toEqual([]);
    const left = readdirSync(join(env.CLAUDEMESH_CONFIG_DIR ?? "", "daemon/agents"));
    expect(left.filter((name) => name.includes(".sock"))).toEqual([]);
  });
});
