/** An agent that speaks newline-delimited JSON, hosted: with a real process (tests/fakes/stream-agent.ts), as the shim would use it. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { findProcess } from "~/agent/process-table";
import type { Runtime, Sight, TokenUsage } from "~/agent/runtime";
import { type StreamJsonOptions, startStreamJson } from "~/agent/stream-json";
import { Transcript } from "~/agent/transcript";
import { systemClock } from "~/clock";
import { MeshError } from "~/errors";
import { transcriptLineCharsMax, transcriptLinesMax, transcriptScreenLines } from "~/wire/limits";
import { cleanup } from "../../support/cleanup";
import { root } from "../../support/cli";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";

interface Hosted {
  agent: Runtime;
  sights: [sight: Sight, text: string][];
  warnings: string[];
  usages: TokenUsage[];
  /** All of what came out, raw. */
  output(): string;
  ended(): { code: number | null; signal: string | null } | undefined;
  /** Submits, and waits until it is idle again, or exhausted. */
  turn(text: string): Promise<string>;
  idle(): Promise<unknown>;
}

const fake = join(root, "tests/fakes/stream-agent.ts");

function start(flags: readonly string[] = [], changes: Partial<StreamJsonOptions> = {}): Hosted {
  const sights: [Sight, string][] = [];
  const warnings: string[] = [];
  const usages: TokenUsage[] = [];
  const output: Uint8Array[] = [];
  let ended: { code: number | null; signal: string | null } | undefined;
  const agent = startStreamJson({
    command: [process.execPath, fake, ...flags],
    cwd: tempDir(),
    env: process.env,
    clock: systemClock,
    events: {
      saw: (sight, text) => void sights.push([sight, text]),
      output: (bytes) => void output.push(bytes.slice()),
      usage: (usage) => void usages.push(usage),
      warning: (message) => void warnings.push(message),
      ended: (exit) => {
        expect(ended).toBeUndefined();
        ended = exit;
      },
    },
    exhausted: ["Prompt is too long"],
    approaching: ["running low on context"],
    allowedTools: [],
    modelLimits: [],
    ...changes,
  });
  const entry = findProcess(agent.pid);
  cleanup(async () => {
    if (ended === undefined && findProcess(agent.pid)?.started === entry?.started)
      process.kill(-agent.pid, "SIGKILL");
    await waitFor(() => ended, { what: "the agent to end" });
    agent.close();
  });
  const idle = (): Promise<unknown> =>
    waitFor(() => sights.at(-1)?.[0] === "idle", { what: `idle; ${JSON.stringify(sights)}; ${warnings}` });
  const turn = async (text: string): Promise<string> => {
    await agent.submit(text);
    // A warning on standard error may overtake the end of the turn, or come behind it.
    const last = (): string | undefined => sights.findLast(([sight]) => sight !== "approaching")?.[0];
    await waitFor(() => ["idle", "exhausted"].includes(last() ?? ""), {
      what: `the end of the turn: ${text}`,
    });
    return await agent.response();
  };
  return {
    agent,
    sights,
    warnings,
    usages,
    output: () => Buffer.concat(output).toString(),
    ended: () => ended,
    turn,
    idle,
  };
}

const names = (sights: Hosted["sights"]): Sight[] => sights.map(([sight]) => sight);

describe("turns", () => {
  test("it is idle once it answers, works on a message, and is idle again with the answer", async () => {
    const { sights, turn, idle, warnings } = start();
    await idle();
    expect(names(sights)).toEqual(["idle"]);
    expect(await turn("say hello\\nworld")).toBe("hello\nworld");
    expect(await turn("read me")).toBe("read 7 characters");
    expect(names(sights)).toEqual(["idle", "working", "idle", "working", "idle"]);
    expect(warnings).toEqual([]);
  });

  test("one that does not know the first request is idle all the same, after a time", async () => {
    const due: (() => void)[] = [];
    const clock = {
      ...systemClock,
      after: (delayMs: number, action: () => void) => {
        if (delayMs !== 10_000) return systemClock.after(delayMs, action);
        due.push(action);
        return { cancel: () => undefined };
      },
    };
    const { sights, turn, idle } = start(["--mute"], { clock });
    expect(sights).toEqual([]);
    expect(due).toHaveLength(1);
    due[0]?.();
    await idle();
    expect(await turn("say hi")).toBe("hi");
  });

  test("a message before it is idle is handed over as well", async () => {
    const { turn, sights } = start(["--mute"]);
    expect(await turn("say early")).toBe("early");
    expect(names(sights)).toEqual(["working", "idle"]);
  });

  test("all that it says in a turn is the answer, once; what a helper says is not", async () => {
    const { turn, idle } = start();
    await idle();
    expect(await turn("say one\nhelper not this\nsay two")).toBe("one\n\ntwo");
    expect(await turn("lines 10000")).toBe(
      Array.from({ length: 10_000 }, (_, index) => `line ${index + 1}`).join("\n"),
    );
  });

  test("what is submitted arrives as it is", async () => {
    const { turn, agent, idle } = start();
    await idle();
    const body = `quotes " \\ and\ttabs\u0000\u001b[201~ 日本 👩‍👩‍👧 `;
    expect(await turn(body)).toBe(`read ${[...body].length} characters`);
    const large = "x".repeat(900 * 1024);
    expect(await turn(large)).toBe(`read ${large.length} characters`);
    expect(agent.type(Buffer.from("x"))).toBe(false);
    agent.resize(10, 10);
  });

  test("work that it begins by itself is seen", async () => {
    const { turn, sights, idle, agent } = start();
    await idle();
    await turn("say first\nagain and more");
    await waitFor(() => names(sights).length === 5, { what: "the turn of its own" });
    expect(names(sights)).toEqual(["idle", "working", "idle", "working", "idle"]);
    expect(await agent.response()).toBe("and more");
  });
});

describe("what comes out of it", () => {
  test("byte by byte", async () => {
    const { turn, idle } = start();
    await idle();
    expect(await turn("slow wörld 日本 👩‍👩‍👧")).toBe("wörld 日本 👩‍👩‍👧");
  });

  test("a line of 10 MB", async () => {
    const { turn, idle, agent, warnings } = start();
    await idle();
    const answer = await turn("huge 10");
    expect(answer.length).toBe(10_000_000);
    expect(answer).toMatch(/^x+$/);
    // The result says it a second time. Far too much is cut, and that is said.
    const cut = await turn("say the beginning\nhuge 10\nhuge 9");
    expect(cut.length).toBeLessThan(16 * 1024 * 1024);
    expect(cut).toMatch(/^the beginning\n\n\[… 10000000 characters left out …\]\n\nx+$/);
    expect(agent.outputBytes).toBeGreaterThan(40_000_000);
    expect(warnings).toEqual([]);
  }, 20_000);

  test("what cannot be understood is reported, at first, and does no harm", async () => {
    const { turn, idle, warnings, agent } = start();
    await idle();
    expect(
      await turn(
        `raw oh no\n${'raw {"type":"assistant"}\n'.repeat(10)}raw {"type":"new"}\nraw \nsay still here`,
      ),
    ).toBe("still here");
    expect(warnings).toHaveLength(5);
    expect(warnings[0]).toContain("cannot be understood");
    expect(warnings[4]).toContain("further ones are not reported");
    expect((await agent.capture(50)).content).toContain("oh no");
  });

  test("standard error is kept for the last lines, and in the log", async () => {
    const { turn, idle, agent, output } = start();
    await idle();
    await turn("stderr \u001b[31mit burns\u001b[0m\nsay it does\ntool Bash");
    const { content, cursorRow, cursorCol } = await agent.capture(20);
    expect(content.split("\n")).toContain("it burns");
    expect(content.split("\n")).toContain("it does");
    expect(content).toContain("[uses Bash]");
    expect(content).toContain("> say it does");
    expect(cursorRow).toBe(content.split("\n").length - 1);
    expect(cursorCol).toBe(Bun.stringWidth(content.split("\n").at(-1) ?? ""));
    expect(output()).toContain("\u001b[31mit burns");
    expect(output()).toContain('"type":"result"');
    expect(await agent.capture(0)).toEqual({ content: "", cursorRow: 0, cursorCol: 0 });
    expect((await agent.capture(1)).content).not.toContain("\n");
    expect(await agent.snapshot(true)).toContain("it burns\r\n");
  });
});

describe("tokens", () => {
  test("grow with each turn, and the limit is the model's, the agent's, or the user's", async () => {
    const { turn, idle, usages } = start();
    await idle();
    await turn("tokens 150000\nsay a");
    expect(usages.at(-1)).toMatchObject({
      model: "claude-sonnet-4-5-20250929",
      used: 150_000,
      limit: 200_000,
      input: 10,
      output: 42,
    });
    await turn("tokens 170000\nwindow 500000\nsay b");
    expect(usages.at(-1)).toMatchObject({
      used: 170_000,
      limit: 500_000,
      input: 20,
      output: 84,
      cacheCreationInput: 400,
    });
    const other = start(["--model", "own-model"], { modelLimits: [{ model: "own", tokens: 1_234 }] });
    await other.idle();
    await other.turn("say a");
    expect(other.usages.at(-1)).toMatchObject({ model: "own-model", limit: 1_234 });
  });

  test("a full context is seen, and what only quotes it is not", async () => {
    const { turn, idle, sights, warnings } = start();
    await idle();
    expect(await turn("say Prompt is too long")).toBe("Prompt is too long");
    await turn("what does Prompt is too long mean, and running low on context?");
    expect(names(sights)).not.toContain("exhausted");
    expect(await turn("fill")).toBe("Prompt is too long");
    expect(sights.at(-1)).toEqual(["exhausted", "Prompt is too long"]);
    expect(warnings).toEqual([]);
  });

  test.each(["nearly", "stderr You are Running Low On Context"])(
    "its warning is seen: %s",
    async (command) => {
      const { turn, idle, sights } = start();
      await idle();
      await turn(`${command}\nsay ok`);
      await waitFor(() => names(sights).includes("approaching"), { what: "the warning" });
    },
  );

  test("another error is told, and it goes on", async () => {
    const { turn, idle, warnings } = start();
    await idle();
    expect(await turn("error the service is overloaded")).toBe("the service is overloaded");
    expect(warnings).toEqual(["the agent reports an error: the service is overloaded"]);
    expect(await turn("say again")).toBe("again");
  });
});

describe("permission to use a tool", () => {
  test("is denied, and people are told", async () => {
    const { turn, idle, warnings, agent } = start();
    await idle();
    const answer = await turn('tool Bash {"command":"rm -rf /"}');
    expect(JSON.parse(answer.slice("Bash: ".length))).toEqual({
      behavior: "deny",
      message: expect.stringContaining("Bash"),
    });
    expect(warnings).toEqual([expect.stringContaining('Bash and was denied: {"command":"rm -rf /"}')]);
    expect((await agent.capture(20)).content).toContain("[was denied Bash]");
  });

  test("is given for what the user has listed, by its exact name", async () => {
    const { turn, idle, warnings } = start([], { allowedTools: ["Read"] });
    await idle();
    expect(await turn('tool Read {"path":"/a"}')).toBe(
      'Read: {"behavior":"allow","updatedInput":{"path":"/a"}}',
    );
    expect(warnings).toEqual([]);
    for (const name of ["read", "ReadAll", "Write"]) expect(await turn(`tool ${name}`)).toContain('"deny"');
    expect(warnings).toHaveLength(3);
  });

  test("one that it was refused without asking us is told", async () => {
    const { turn, idle, warnings } = start();
    await idle();
    const line = {
      type: "system",
      subtype: "permission_denied",
      tool_name: "Bash",
      message: "needs approval",
    };
    expect(await turn(`raw ${JSON.stringify(line)}\nsay on`)).toBe("on");
    expect(warnings).toEqual(["the agent was denied Bash: needs approval"]);
  });

  test("whatever else it asks is answered, too", async () => {
    const { turn, idle } = start();
    await idle();
    expect(await turn("ask hook_callback")).toBe("hook_callback: error: hook_callback is not served here");
  });
});

describe("an interruption", () => {
  test("ends the turn, and not the agent", async () => {
    const { agent, turn, idle, sights, warnings } = start();
    await idle();
    await agent.submit("say so far\nhang");
    await waitFor(async () => (await agent.response()) === "so far", { what: "it to hang" });
    agent.interrupt();
    await idle();
    expect(sights.at(-1)).toEqual(["idle", "it was interrupted"]);
    expect(warnings).toEqual([]);
    expect(await turn("say on")).toBe("on");
  });

  test("of one that does nothing is SIGINT", async () => {
    const { agent, idle, ended } = start();
    await idle();
    agent.interrupt();
    expect(await waitFor(ended, { what: "its end" })).toEqual({ code: 0, signal: null });
    agent.interrupt();
    agent.askToEnd();
  });

  test("that is to end it is SIGINT at once, whatever it does", async () => {
    const { agent, idle, ended, sights, warnings } = start();
    await idle();
    await agent.submit("say so far\nhang");
    await waitFor(async () => (await agent.response()) === "so far", { what: "it to hang" });
    agent.askToEnd();
    expect(await waitFor(ended, { what: "its end" })).toEqual({ code: 0, signal: null });
    expect(sights.at(-1)).toEqual(["idle", "it was interrupted"]);
    expect(warnings).toEqual([]);
  });

  test("that is refused is told, and the second one is SIGINT", async () => {
    const { agent, idle, ended, warnings } = start(["--stubborn"]);
    await idle();
    await agent.submit("hang");
    agent.interrupt();
    await waitFor(() => warnings.length > 0, { what: "the refusal" });
    expect(warnings).toEqual(["the agent does not stop: not now"]);
    agent.interrupt();
    expect(await waitFor(ended, { what: "its end" })).toEqual({ code: 0, signal: null });
  });
});

describe("its end", () => {
  test.each([
    ["exit 0", { code: 0, signal: null }],
    ["exit 3", { code: 3, signal: null }],
    ["die SIGKILL", { code: null, signal: "SIGKILL" }],
    ["die SIGTERM", { code: null, signal: "SIGTERM" }],
  ])("%s", async (command, exit) => {
    const { agent, idle, ended } = start();
    await idle();
    await agent.submit(`say last words\n${command}`);
    expect(await waitFor(ended, { what: "its end" })).toEqual(exit);
    // All of its output was taken in.
    expect(await agent.response()).toBe("last words");
    const error = await agent.submit("anybody?").catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(MeshError);
    expect(error).toHaveProperty("code", "agent_failed");
  });

  test("at once", async () => {
    const { ended, sights, agent } = start(["--exit", "7"]);
    expect(await waitFor(ended, { what: "its end" })).toEqual({ code: 7, signal: null });
    expect((await agent.capture(5)).content).toBe("cannot start");
    expect(sights).toEqual([]);
  });

  test("is not kept waiting by what it started, which may hold its output open", async () => {
    const { ended } = start([], { command: ["sh", "-c", "sleep 60 & echo $! >&2; exit 5"] });
    expect(await waitFor(ended, { what: "its end", timeoutMs: 5_000 })).toEqual({ code: 5, signal: null });
  });

  test.each([
    ["a program that is not there", { command: ["no-such-program-anywhere"] }],
    ["a path that is not there", { command: ["/no/such/program"] }],
    ["a directory that is not there", { cwd: "/no/such/directory" }],
    ["a directory that is none", { cwd: "/etc/passwd" }],
  ])("cannot even begin: %s", (_, changes) => {
    let thrown: unknown;
    try {
      start([], changes);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(MeshError);
    expect(thrown).toHaveProperty("code", "agent_failed");
    expect(thrown).toHaveProperty("hint", expect.any(String));
  });

  test("one that reads nothing is told of and waited for, since it may read at any time; its end is the message's", async () => {
    let late: (() => void) | undefined;
    const clock = {
      ...systemClock,
      after: (delayMs: number, action: () => void) => {
        if (delayMs === 30_000) late = action;
        return systemClock.after(delayMs, action);
      },
    };
    const { agent, idle, turn, sights, warnings } = start([], { clock });
    await idle();
    await turn("deaf\nsay now");
    late = undefined;
    const sent = agent.submit("x".repeat(3_000_000)).catch((thrown: unknown) => thrown);
    const tellLate = await waitFor(() => late, { what: "the writing to begin" });
    tellLate();
    expect(warnings).toEqual([expect.stringContaining("has not read")]);
    expect(sights.at(-1)?.[0]).toBe("idle");
    process.kill(-agent.pid, "SIGKILL");
    const error = await sent;
    expect(error).toBeInstanceOf(MeshError);
    expect(error).toHaveProperty("code", "agent_failed");
  });
});

describe("the transcript", () => {
  test("keeps so many lines, and so much of each", () => {
    const transcript = new Transcript();
    for (let line = 1; line <= 3 * transcriptLinesMax; line++) transcript.add(`line ${line}`);
    transcript.add("x".repeat(2 * transcriptLineCharsMax));
    const all = transcript.capture(4_000_000_000).content.split("\n");
    expect(all).toHaveLength(transcriptLinesMax);
    expect(all.at(-2)).toBe(`line ${3 * transcriptLinesMax}`);
    expect(all.at(-1)).toHaveLength(transcriptLineCharsMax + 1);
    expect(transcript.capture(null).content.split("\n")).toHaveLength(transcriptScreenLines);
  });

  test("shows nothing that would move the cursor", () => {
    const transcript = new Transcript();
    transcript.add("a\u001b[2Jb\u0007c\u0008\u009b31md\te");
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
    expect(transcript.capture(null).content).not.toMatch(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/);
    expect(transcript.capture(null).content).toContain("ab");
  });
});
