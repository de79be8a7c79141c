/**
 * The fakes do what their headers say, or the tests that rely on them would prove nothing: each in a real terminal, read with the same
 * emulator that the shim uses.
 */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { Terminal } from "@xterm/headless";
import { findProcess } from "~/agent/process-table";
import { binaryBytes, bulkText, readCommands, readNotice } from "../fakes/commands";
import { cleanup } from "../support/cleanup";
import { root } from "../support/cli";
import { waitFor } from "../support/wait-for";

interface Driven {
  pid: number;
  type(text: string): void;
  /** As a shim hands a message over: a paste, and Enter when the screen shows it. */
  send(message: string): Promise<void>;
  /** All lines, those that have scrolled away included, without blank ones at the end. */
  lines(): string[];
  shows(pattern: RegExp): Promise<unknown>;
  raw(): string;
  title(): string;
  resize(rows: number, cols: number): void;
  exited: Promise<{ code: number | null; signal: string | null }>;
}

function drive(name: string, flags: readonly string[] = [], env: Record<string, string> = {}): Driven {
  const screen = new Terminal({
    rows: 24,
    cols: 80,
    scrollback: 20_000,
    allowProposedApi: true,
    logLevel: "off",
  });
  const received: Buffer[] = [];
  let title = "";
  screen.onTitleChange((text) => {
    title = text;
  });
  const child = Bun.spawn([process.execPath, join(root, "tests/fakes", `${name}.ts`), ...flags], {
    env: { ...process.env, TERM: "xterm-256color", FAKE_WORD: "found", ...env },
    terminal: {
      rows: 24,
      cols: 80,
      data: (_, bytes) => {
        received.push(Buffer.from(bytes));
        screen.write(Uint8Array.from(bytes));
      },
    },
  });
  const { terminal } = child;
  if (terminal === undefined) throw new Error("no terminal");
  cleanup(async () => {
    child.kill("SIGKILL");
    await child.exited;
    terminal.close();
  });
  const lines = (): string[] => {
    const { active } = screen.buffer;
    const all = Array.from(
      { length: active.length },
      (_, line) => active.getLine(line)?.translateToString(true) ?? "",
    );
    return all.slice(0, all.findLastIndex((line) => line !== "") + 1);
  };
  const shows = (pattern: RegExp): Promise<unknown> =>
    waitFor(() => pattern.test(lines().join("\n")), {
      what: `${name} to show ${pattern}; it shows ${lines().slice(-12).join("\n")}`,
    });
  const type = (text: string): void => void terminal.write(text);
  return {
    pid: child.pid,
    type,
    send: async (message) => {
      if (name === "shell") return type(`${message}\n`);
      type(`\x1b[200~${message}\x1b[201~`);
      const first = message.split("\n")[0] ?? "";
      await waitFor(
        () =>
          lines().slice(-8).join("\n").includes(first.slice(0, 20)) || lines().join("\n").includes("[Pasted"),
        {
          what: `${name} to take the paste`,
        },
      );
      type("\r");
    },
    lines,
    shows,
    title: () => title,
    raw: () => Buffer.concat(received).toString("latin1"),
    resize: (rows, cols) => {
      screen.resize(cols, rows);
      terminal.resize(cols, rows);
    },
    exited: child.exited.then(() => ({
      code: child.signalCode === null ? child.exitCode : null,
      signal: child.signalCode === null ? null : String(child.signalCode),
    })),
  };
}

/** What each shows when it waits, when it works, while it starts, and of its troubles. */
const looks: Record<
  string,
  {
    idle: RegExp;
    working: RegExp;
    starting: RegExp;
    full: RegExp;
    nearly: RegExp;
    echo: string;
    dot: string;
    other: string;
    /** What agrees to be trusted. */
    trust: string;
    /** Of the window, while it works. */
    title: RegExp;
    permission: RegExp;
    /** Ctrl-C, so often. */
    interrupts: number;
  }
> = {
  claude: {
    idle: /manual mode on/,
    working: /esc to interrupt/,
    starting: /Loading/,
    full: /Prompt is too long/,
    nearly: /Context low/,
    echo: "❯ ",
    dot: "● ",
    other: "  ",
    trust: "\x1b[B\r",
    title: /^[◐◑] Claude Code$/,
    permission: /Do you want to proceed/,
    interrupts: 2,
  },
  codex: {
    idle: /^› Ask Codex/m,
    working: /Working \(.*esc to interrupt/,
    starting: /Starting MCP/,
    full: /ran out of room/,
    nearly: /approaching context limit/,
    echo: "› ",
    dot: "• ",
    other: "  ",
    trust: "\r",
    title: /^[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] project$/,
    permission: /Would you like to run/,
    interrupts: 1,
  },
  kiro: {
    idle: /ask a question or describe a task/,
    working: /(Thinking|Planning|Applying)\.\.\. \(esc to interrupt/,
    starting: /Initializing/,
    full: /context window is full/,
    nearly: /context window is approaching/,
    echo: "> ",
    dot: "● ",
    other: "",
    trust: "\r",
    title: /^kiro$/,
    permission: /Allow rm/,
    interrupts: 2,
  },
};

describe.each(Object.entries(looks))("%s", (name, look) => {
  test("waits, echoes a message, works, answers, waits", async () => {
    const { send, shows, lines, raw } = drive(name);
    await shows(look.idle);
    expect(raw()).toContain("\x1b[?2004h");
    await send("from alice: say hello\\nworld\nthink 300");
    await shows(look.working);
    await shows(new RegExp(`${look.dot}hello\n${look.other}world`));
    await waitFor(() => !look.working.test(lines().slice(-10).join("\n")), { what: "it to be done" });
    await shows(look.idle);
    expect(lines().map((line) => line.trimEnd())).toContain(`${look.echo}from alice: say hello\\nworld`);
    expect(lines().filter((line) => line.includes("hello"))).toHaveLength(2);
  });

  test("starts slowly, asks for trust, or never gets ready", async () => {
    const slow = drive(name, ["--starting", "300"]);
    await slow.shows(look.starting);
    await slow.shows(look.idle);
    const asking = drive(name, ["--dialog"]);
    await asking.shows(/trust|enter to continue/i);
    asking.type("x");
    expect(asking.lines().join("\n")).not.toMatch(look.idle);
    asking.type(look.trust);
    await asking.shows(look.idle);
    if (look.trust !== "\r") {
      const refusing = drive(name, ["--dialog"]);
      await refusing.shows(/trust/i);
      refusing.type("\r");
      expect(await refusing.exited).toEqual({ code: 1, signal: null });
    }
    const never = drive(name, ["--never"]);
    await never.shows(look.starting);
  });

  test("says in its title that it works, and ends at so many Ctrl-Cs, of which the first may interrupt it", async () => {
    const { send, shows, title, type, exited } = drive(name);
    await shows(look.idle);
    await send("hang");
    await waitFor(() => look.title.test(title()), { what: "the title to say so" });
    type("\x03");
    await shows(/Interrupted/);
    type("\x03".repeat(look.interrupts));
    expect(await exited).toEqual({ code: 0, signal: null });
  });

  test("asks for permission, and takes Enter for a yes", async () => {
    const { send, shows, type } = drive(name);
    await shows(look.idle);
    await send("permit 60000 rm -r /\nsay one");
    await shows(look.permission);
    type("\r");
    await shows(new RegExp(`${look.dot}permitted\\n(.*\\n)?${look.dot}one`));
    await send("permit 50 rm -r /\nsay two");
    await shows(new RegExp(`${look.dot}denied\\n(.*\\n)?${look.dot}two`));
  });

  test("swallows the Enter after a paste when it is told to", async () => {
    const { send, shows, type, lines } = drive(name, ["--swallow", "2"]);
    await shows(look.idle);
    await send("say swallowed");
    type("\r");
    await shows(/say swallowed/);
    expect(lines().join("\n")).not.toContain(`${look.dot}swallowed`);
    type("\r");
    await shows(new RegExp(`${look.dot}swallowed`));
  });

  test("10,000 lines, wide characters, lines painted over, another screen: all of it is there in the end", async () => {
    const { send, shows, lines } = drive(name);
    await shows(look.idle);
    await send("lines 10000");
    await shows(/line 10000/);
    expect(lines().filter((line) => /line \d+$/.test(line))).toHaveLength(10_000);
    await send("wide");
    await shows(/日本語[\s\S]*narrow again/);
    await send("repaint");
    await shows(/first\n *second\n *third\n *fourth/);
    expect(lines().join("\n")).not.toContain("wrong");
    await send("alternate 50\nsay back");
    await shows(new RegExp(`${look.dot}back`));
    expect(lines().join("\n")).not.toContain("another screen");
    await send("progress");
    await shows(new RegExp(`${look.dot}done`));
  }, 20_000);

  test("says that its context is full, and nothing else from then on; who quotes that changes nothing", async () => {
    const { send, shows, lines } = drive(name);
    await shows(look.idle);
    const quote = "what does prompt is too long mean?";
    await send(quote);
    await shows(new RegExp(`${look.dot}${readNotice(quote)}`));
    await send("nearly");
    await shows(look.nearly);
    expect(lines().join("\n")).not.toMatch(look.full);
    await send("fill");
    await shows(look.full);
    await send("say anything");
    await waitFor(() => lines().filter((line) => look.full.test(line)).length === 2, {
      what: "it to be full still",
    });
    expect(lines().join("\n")).not.toContain(`${look.dot}anything`);
  });

  test("is interrupted, ends with the status or the signal that it is told, and at once", async () => {
    const { send, shows, type, exited } = drive(name);
    await shows(look.idle);
    await send("hang");
    await shows(look.working);
    type("\x1b");
    await shows(/Interrupted/);
    await send("exit 3");
    expect(await exited).toEqual({ code: 3, signal: null });
    const other = drive(name);
    await other.shows(look.idle);
    await other.send("die SIGTERM");
    expect(await other.exited).toEqual({ code: null, signal: "SIGTERM" });
    expect(await drive(name, ["--exit", "4"]).exited).toEqual({ code: 4, signal: null });
    const left = drive(name);
    await left.shows(look.idle);
    left.type("\x04");
    expect(await left.exited).toEqual({ code: 0, signal: null });
  });

  test("knows its size and its environment, and survives its own binary output", async () => {
    const { send, shows, resize } = drive(name);
    await shows(look.idle);
    resize(30, 100);
    await send("size");
    await shows(/30x100/);
    await send("env FAKE_WORD");
    await shows(/found/);
    await send("binary 3000");
    await send("say after");
    await shows(new RegExp(`${look.dot}after`));
  });
});

test.each([
  ["claude", /\[Pasted text #1 \+79 lines\]/, /29 of a long[\s\S]*\(20 lines hidden\)[\s\S]*79 of a long/],
  ["codex", /\[Pasted Content \d{4} chars\]/, /39 of a long[\s\S]*79 of a long/],
])("%s shows a long paste by a word, and then as it is", async (name, pattern, history) => {
  const { type, shows, lines } = drive(name);
  await shows(looks[name]?.idle ?? /./);
  const message = Array.from({ length: 80 }, (_, line) => `${line} of a long message, as long as this`).join(
    "\n",
  );
  type(`\x1b[200~${message}\x1b[201~`);
  await shows(pattern);
  expect(lines().join("\n")).not.toContain("39 of a long");
  type("\r");
  await shows(new RegExp(readNotice(message)));
  expect(lines().join("\n")).toMatch(history);
});

test.each([
  ["claude", [], { CLAUDE_CODE_DISABLE_ALTERNATE_SCREEN: "1" }],
  ["codex", ["-c", 'tui.alternate_screen="never"'], {}],
] as const)("%s shows no more than fits, unless it is told otherwise", async (name, flags, env) => {
  const look = looks[name];
  if (look === undefined) throw new Error("no such look");
  const whole = drive(name, ["--fullscreen"]);
  await whole.shows(look.idle);
  await whole.send("lines 100");
  await whole.shows(/line 100/);
  expect(whole.raw()).not.toContain("line 50");
  expect(whole.lines().length).toBeLessThanOrEqual(24);
  const inline = drive(name, ["--fullscreen", ...flags], env);
  await inline.shows(look.idle);
  await inline.send("lines 100");
  await inline.shows(/line 100/);
  expect(inline.lines().join("\n")).toContain("line 50");
});

test("claude takes Enter behind a backslash for a new line", async () => {
  const { type, shows, lines } = drive("claude");
  await shows(/manual mode on/);
  type("say a\\\rsay b\r");
  await shows(/● a[\s\S]*● b/);
  expect(lines().map((line) => line.trimEnd())).toContain("❯ say a");
});

describe("the shell", () => {
  test("prompts, lets the terminal echo, answers, prompts", async () => {
    const { send, shows, lines } = drive("shell");
    await shows(/fake\$ *$/);
    await send("say hello");
    await shows(/fake\$ say hello\nhello\nfake\$ *$/);
    await send("lines 3");
    await shows(/line 1\nline 2\nline 3\nfake\$ *$/);
    await send("repaint");
    await shows(/first\nsecond\nfake\$ *$/);
    expect(lines().join("\n")).not.toContain("wrong");
    await send("fill");
    await shows(/context window exceeded\nfake\$ *$/);
  });

  test("is interrupted, and ends as it is told", async () => {
    const { send, shows, type, exited } = drive("shell", ["--prompt", "me# "]);
    await shows(/me# *$/);
    await send("hang");
    await shows(/hang/);
    type("\x03");
    await shows(/\^C\n+me# *$/);
    await send("exit 9");
    expect(await exited).toEqual({ code: 9, signal: null });
  });

  test("pours out as much as it is told", async () => {
    const { send, shows, raw } = drive("shell");
    await shows(/fake\$ *$/);
    const before = raw().length;
    await send("yes 1");
    await waitFor(() => raw().length > before + 1_500_000, { what: "a megabyte, with carriage returns" });
    await shows(/y\n+fake\$ *$/);
  });
});

test.if(process.platform === "linux")(
  "processes that are started go on when the fake has ended",
  async () => {
    const { send, shows, lines, exited } = drive("shell");
    await shows(/fake\$ *$/);
    const kinds = ["plain", "deaf", "session", "nohup", "orphan", "bare"];
    const pidsShown = (): number[] => lines().flatMap((line) => (/^\d+$/.test(line) ? Number(line) : []));
    for (const [index, kind] of kinds.entries()) {
      await send(`start ${kind}`);
      await waitFor(() => pidsShown().length > index, { what: `the pid of ${kind}` });
    }
    const started = pidsShown().map((pid) => findProcess(pid));
    // Each with what it started itself, so that nothing stays.
    cleanup(() => {
      for (const { pid, group } of started.flatMap((entry) => entry ?? [])) {
        if (findProcess(pid) !== undefined) process.kill(group === pid ? -pid : pid, "SIGKILL");
      }
    });
    expect(started.every((entry) => entry !== undefined)).toBe(true);
    await send("exit 0");
    await exited;
    for (const [index, kind] of kinds.entries()) {
      if (kind === "plain") continue;
      const entry = started[index];
      expect(findProcess(entry?.pid ?? 0)?.started).toBe(entry?.started ?? -1);
    }
  },
);

describe("commands", () => {
  test("are found behind whatever says from whom they are", () => {
    expect(readCommands("say a b")).toEqual([{ verb: "say", rest: "a b" }]);
    expect(readCommands("[message from bob] say x\nnoise\n  lines 3 ")).toEqual([
      { verb: "say", rest: "x" },
      { verb: "lines", rest: "3" },
    ]);
    expect(readCommands("please say x")).toEqual([]);
    expect(readCommands("sayx")).toEqual([]);
  });

  test("bytes of any value, and lines of 80", () => {
    expect(new Set(binaryBytes(10_000)).size).toBe(256);
    expect(binaryBytes(100)).toEqual(binaryBytes(100));
    expect(bulkText.split("\n").every((line) => line.length === 79 || line === "")).toBe(true);
  });
});
