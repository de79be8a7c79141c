/** What fits at a place of a command line, and how each shell is told. The real shells are driven in tests/e2e/completions.test.ts. */
import { describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Args, type Command, defineCommand, type Group, isGroup } from "~/cli/command";
import { readBashLine, renderBashReply } from "~/cli/completions/bash";
import { peerCandidates } from "~/cli/completions/candidates";
import { renderFishReply } from "~/cli/completions/fish";
import { type Candidate, findPlace, type Place, placeInCommand } from "~/cli/completions/place";
import { renderZshReply } from "~/cli/completions/zsh";
import { tree } from "~/cli/tree";
import { generateKeyPair } from "~/identity/keys";
import type { PeerItem } from "~/wire/ipc";
import { completionMsMax } from "~/wire/limits";
import { tempDir } from "../../support/temp-dir";
import { fakeDaemon, json } from "../client/fake-daemon";
import { runSource } from "./source-cli";

const wordsOf = ({ wanted }: Place): string[] | string =>
  wanted.kind === "words" ? wanted.candidates.map(({ value }) => value) : wanted.kind;

describe("what fits in a command", () => {
  const args = {
    to: { type: "positional", required: true, description: "whom", completes: "peer" },
    text: { type: "positional", required: false, description: "free text" },
    mesh: { type: "string", description: "which", completes: "mesh" },
    file: { type: "string", alias: "f", description: "a file", completes: "file" },
    tag: { type: "string", multiple: true, description: "anything" },
    level: { type: "enum", options: ["low", "high"], description: "how much" },
    quiet: { type: "boolean", alias: "q", description: "say nothing" },
  } as const satisfies Args;
  const allFlags = ["--mesh", "--file", "--tag", "--level", "--quiet"];
  const without = (...names: string[]) => allFlags.filter((flag) => !names.includes(flag));

  const cases: [words: string[], current: string, expected: string[] | string][] = [
    [[], "", "peer"],
    [[], "b", "peer"],
    [["bob"], "", []],
    [["bob"], "-", allFlags],
    [["bob", "hi"], "", allFlags],
    [["bob", "hi", "more"], "", allFlags],
    [[], "--l", allFlags],
    [["--quiet"], "--", without("--quiet")],
    [["-q"], "--", without("--quiet")],
    [["--tag", "x"], "--", allFlags],
    [["--level", "low", "--mesh=m"], "--", without("--level", "--mesh")],
    [["--level"], "", ["low", "high"]],
    [[], "--level=", ["low", "high"]],
    [["--mesh"], "", "mesh"],
    [["--mesh"], "-", "mesh"],
    [[], "--mesh=te", "mesh"],
    [["--mesh", "team"], "", "peer"],
    [["--file"], "", "file"],
    [["-f"], "", "file"],
    [["-qf"], "", "file"],
    [["-fx"], "", "peer"],
    [["-f", "x"], "", "peer"],
    [["--tag"], "", []],
    [[], "--tag=", []],
    [[], "--quiet=", []],
    [[], "--to=", []],
    [[], "--nonsense=", []],
    [["--nonsense"], "", "peer"],
    [["--"], "", "peer"],
    [["--"], "--me", "peer"],
    [["--", "--mesh"], "", []],
    [["--", "bob", "hi"], "", []],
    [["bob"], "--constructor=", []],
    [["--mesh", "--"], "", "peer"],
  ];
  test.each(cases)("%j, then %j", (words, current, expected) => {
    expect(wordsOf(placeInCommand(args, words, current))).toEqual(expected);
  });

  test.each<[words: string[], current: string, expected: string[] | string]>([
    [[], "", "agent"],
    [["x"], "", ["--"]],
    [["x", "--"], "", "file"],
    [["x", "--", "bash"], "", "file"],
    [["x", "--", "bash", "-c"], "--", "file"],
    [["x"], "-", ["--", "--quiet"]],
    [["x"], "--", ["--quiet"]],
  ])("before and in another program's command line: %j, then %j", (words, current, expected) => {
    const running = {
      name: { type: "positional", required: true, completes: "agent" },
      command: { type: "positional", required: true, rest: true, completes: "file" },
      quiet: { type: "boolean", description: "say nothing" },
    } as const satisfies Args;
    expect(wordsOf(placeInCommand(running, words, current))).toEqual(expected);
  });

  test("in --flag=value only the value is looked for, and the rest stays before it", () => {
    expect(placeInCommand(args, [], "--mesh=te")).toMatchObject({ before: "--mesh=", text: "te" });
    expect(placeInCommand(args, [], "te")).toMatchObject({ before: "", text: "te" });
  });

  test("what was given before is known when it is looked up", () => {
    const { wanted } = placeInCommand(args, ["--mesh=team", "--"], "");
    expect(wanted).toEqual({ kind: "peer", given: new Map([["mesh", "team"]]), afterDashes: true });
  });
});

describe("what fits in the tree", () => {
  const cases: [words: string[], current: string, expected: string[]][] = [
    [[], "--", ["--help", "--version"]],
    [["daemon"], "-", ["--help"]],
    [["nonsense"], "", []],
    [["constructor"], "", []],
    [["send", "bob", "hi", "--route"], "", ["daemon", "bridge", "cold"]],
    [["complete"], "", []],
  ];
  test.each(cases)("%j, then %j", async (words, current, expected) => {
    expect(wordsOf(await findPlace(tree, words, current))).toEqual(expected);
  });
});

// ── Every command there is ──────────────────────────────────────────────────────────────────────────────────────────

const commands: [name: string, path: string[], command: Command][] = [];
const groups: [name: string, path: string[], group: Group][] = [];
async function collect(group: Group, path: string[]): Promise<void> {
  groups.push([group.name, path, group]);
  for (const [name, load] of Object.entries(group.commands)) {
    const node = await load();
    if (isGroup(node)) await collect(node, [...path, name]);
    else commands.push([node.name, [...path, name], node]);
  }
}
await collect(tree, []);

describe.each(groups)("the commands of %s", (_, path, group) => {
  test("are offered with what they do", async () => {
    const { wanted } = await findPlace(tree, path, "");
    if (wanted.kind !== "words") throw new Error(`not words but ${wanted.kind}`);
    expect(wanted.candidates.map(({ value }) => value)).toEqual(Object.keys(group.commands));
    for (const { description } of wanted.candidates) expect(description).not.toBe("");
  });
});

/** Positional arguments that are for the user to say. */
const freeText = ["agent run name", "agent send text", "join link", "mesh create name", "send message"];

describe.each(commands)("%s", (name, path, command) => {
  const args = Object.entries(command.args);

  test("has every flag offered, with what it means", async () => {
    const { wanted } = await findPlace(tree, path, "--");
    if (wanted.kind !== "words") throw new Error(`not words but ${wanted.kind}`);
    const flags = args.flatMap(([flag, { type }]) => (type === "positional" ? [] : [`--${flag}`]));
    expect(wanted.candidates.map(({ value }) => value)).toEqual(flags);
    for (const { description } of wanted.candidates) expect(description).not.toBe("");
  });

  test("has the values of its flags offered, where they are known", async () => {
    for (const [flag, arg] of args) {
      if (arg.type !== "enum") continue;
      expect(wordsOf(await findPlace(tree, path, `--${flag}=`))).toEqual([...arg.options]);
      expect(wordsOf(await findPlace(tree, [...path, `--${flag}`], ""))).toEqual([...arg.options]);
    }
  });

  test("says what its arguments complete to", () => {
    for (const [arg, definition] of args) {
      if (definition.type === "positional" && !freeText.includes(`${name} ${arg}`)) {
        expect([arg, definition.completes ?? "nothing"]).not.toEqual([arg, "nothing"]);
      }
      const hint = definition.type === "string" ? (definition.valueHint ?? "") : "";
      const kinds: Readonly<Record<string, string>> = {
        FILE: "file",
        DIR: "directory",
        MESH: "mesh",
        PEER: "peer",
      };
      if (Object.hasOwn(kinds, hint) && definition.type === "string") {
        expect([arg, definition.completes]).toEqual([arg, kinds[hint] as typeof definition.completes]);
      }
    }
  });
});

// ── Shells ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const bashBreaks = " \t\n\"'@><=;|&(:";

describe("a line as bash hands it over", () => {
  const cases: [line: string, words: string[], current: [text: string, quote: string, kept: number]][] = [
    ["claudemesh ", [], ["", "", 0]],
    ["claudemesh se", [], ["se", "", 0]],
    ["claudemesh  send\tb", ["send"], ["b", "", 0]],
    ["claudemesh send Anna\\ K", ["send"], ["Anna K", "", 0]],
    ['claudemesh send "Anna K', ["send"], ["Anna K", '"', 0]],
    ["claudemesh send 'Anna K", ["send"], ["Anna K", "'", 0]],
    ["claudemesh send 'Anna 'K", ["send"], ["Anna K", "", 0]],
    ['claudemesh send An"na K', ["send"], ["Anna K", '"', 2]],
    ['claudemesh send "it\'s" ', ["send", "it's"], ["", "", 0]],
    ["claudemesh send '' ", ["send", ""], ["", "", 0]],
    ['claudemesh send "a\\"b\\x', ["send"], ['a"b\\x', '"', 0]],
    ["claudemesh send 'a\\", ["send"], ["a\\", "'", 0]],
    ["claudemesh peers --mesh=te", ["peers"], ["--mesh=te", "", 7]],
    ['claudemesh peers --mesh="te', ["peers"], ["--mesh=te", '"', 7]],
    ["claudemesh send a:b@c", ["send"], ["a:b@c", "", 4]],
    ["claudemesh send a\\:b", ["send"], ["a:b", "", 0]],
    ["claudemesh send Zoë", ["send"], ["Zoë", "", 0]],
    ["claudemesh send bob -- --x", ["send", "bob", "--"], ["--x", "", 0]],
    ["claudemesh peers 2>err --", ["peers"], ["--", "", 0]],
    ["claudemesh peers >&2 x", ["peers"], ["x", "", 0]],
    ["claudemesh peers>out ", ["peers"], ["", "", 0]],
  ];
  test.each(cases)("%j", (line, words, [text, quote, kept]) => {
    const read = readBashLine(line, bashBreaks);
    expect(read).toEqual({
      words,
      current: { text, quote: quote as "" | "'" | '"', kept },
      isRedirection: false,
    });
  });

  test.each([
    ["claudemesh peers > "],
    ["claudemesh peers >o"],
    ["claudemesh peers 2>>o"],
    ["claudemesh x <"],
  ])("%j is about a file", (line) => {
    expect(readBashLine(line, bashBreaks).isRedirection).toBe(true);
  });
});

const named = (...values: string[]): Candidate[] => values.map((value) => ({ value, description: "" }));

describe("what bash is told", () => {
  const reply = (typed: string, candidates: readonly Candidate[], completionType = "9"): string => {
    const { current } = readBashLine(`claudemesh send ${typed}`, bashBreaks);
    const at = current.text.indexOf("=") + 1;
    const place: Place = {
      before: current.text.slice(0, at),
      text: current.text.slice(at),
      wanted: { kind: "words", candidates },
    };
    return renderBashReply(place, candidates, { current, completionType });
  };
  const cases: [typed: string, values: string[], lines: string[]][] = [
    ["", ["bob", "carol"], ["bob", "carol"]],
    ["b", ["bob", "carol"], ["bob"]],
    ["B", ["bob", "carol"], ["bob"]],
    ["b", ["bob", "Bea"], ["bob"]],
    ["", ["Anna K"], ["Anna\\ K"]],
    ["Anna\\ ", ["Anna K"], ["Anna\\ K"]],
    ['"An', ["Anna K"], ["Anna K"]],
    ['A"n', ["Anna K"], ["nna K"]],
    ["", ['a"b$c`d\\e'], ['a\\"b\\$c\\`d\\\\e']],
    ['"', ['a"b$c`d\\e'], ['a\\"b\\$c\\`d\\\\e']],
    ["'", ["it's"], ["it'\\''s"]],
    ['"', ['a"'], ['a\\""']],
    ["'", ["a'"], ["a'\\'''"]],
    ["", ["Zoë", "日本"], ["Zoë", "日本"]],
    ["", ["~x", "#y", "!z", "a;b&c|d(e)*"], ["\\~x", "\\#y", "\\!z", "a\\;b\\&c\\|d\\(e\\)\\*"]],
    ["--mesh=", ["team", "a b"], ["team", "a\\ b"]],
    ["--mesh=t", ["team", "other"], ["team"]],
    ['--mesh="a', ["a b"], ["a b"]],
    ["a:b", ["a:bc"], ["bc"]],
    ["A:b", ["a:bc"], []],
  ];
  test.each(cases)("%j among %j", (typed, values, lines) => {
    expect(reply(typed, named(...values))).toBe(lines.length === 0 ? "" : ["words", ...lines].join("\n"));
  });

  test("descriptions stand beside what is only listed, never beside what is inserted", () => {
    const both = [
      { value: "a1", description: "one" },
      { value: "a2", description: "" },
    ];
    expect(reply("a", both, "63")).toBe("words\na1  (one)\na2");
    expect(reply("a", both, "9")).toBe("words\na1\na2");
    expect(reply("a1", both, "63")).toBe("words\na1");
  });

  test("descriptions of two that are the same word are left out: what they have in common would be inserted", () => {
    const described = (description: string) => ({ value: "a1", description });
    expect(reply("a", [described("from x"), described("from y")], "63")).toBe("words\na1");
    expect(reply("a", [described("from x"), described("from x")], "63")).toBe("words\na1");
  });
});

describe("what zsh and fish are told", () => {
  const place = (before = ""): Place => ({ before, text: "", wanted: { kind: "words", candidates: [] } });

  test("words with what they mean", () => {
    const candidates = [
      { value: "a:b c", description: "one: two" },
      { value: "back\\", description: "x" },
      { value: "plain", description: "" },
    ];
    expect(renderZshReply(place(), candidates)).toBe("words\na\\:b c:one: two\nback\\\\:x\nplain");
    expect(renderFishReply(place(), candidates)).toBe("words\na:b c\tone: two\nback\\\tx\nplain");
  });

  test("a flag's value with its flag", () => {
    expect(renderZshReply(place("--mesh="), named("team"))).toBe("words\n--mesh=team");
    expect(renderFishReply(place("--mesh="), named("team"))).toBe("words\n--mesh=team");
  });

  test("foreign text does not break the lines or steer the terminal, and is not long", () => {
    const candidates = [
      { value: "ok", description: `a\nb\tc\u001b[31m${"x".repeat(100)}` },
      { value: "line\nbreak", description: "" },
      { value: "es\u001bcape", description: "" },
      { value: "\u202ereversed", description: "" },
      { value: "", description: "nothing" },
    ];
    const reply = renderFishReply(place(), candidates);
    expect(reply).toMatch(/^words\nok\ta\\nb\\tc\\x1b\[31mx{44,46}…$/);
    expect(reply.length).toBeLessThan(75);
  });

  test("files are the shell's own business", () => {
    const file: Place = {
      before: "",
      text: "",
      wanted: { kind: "file", given: new Map(), afterDashes: false },
    };
    expect(renderZshReply(file, [])).toBe("files");
    const directory: Place = { ...file, wanted: { kind: "directory", given: new Map(), afterDashes: false } };
    expect(renderFishReply(directory, [])).toBe("directories");
  });
});

// ── The daemon ──────────────────────────────────────────────────────────────────────────────────────────────────────

const peer = (name: string, more: Partial<PeerItem> = {}): PeerItem => ({
  name,
  pubkey: "ab".repeat(32),
  mesh: "team",
  online: true,
  status: "idle",
  capabilities: [],
  ...more,
});

describe("peers", () => {
  const none = new Map<string, string>();
  const values = (peers: PeerItem[], given: ReadonlyMap<string, string> = none, afterDashes = false) =>
    peerCandidates(peers, given, afterDashes).map(({ value }) => value);
  const key = "ab".repeat(8);

  test("those who are there come first, with how they are", () => {
    const peers = [
      peer("carol", { online: false, status: "away" }),
      peer("bob", { status: "working", summary: "release" }),
    ];
    expect(peerCandidates(peers, none, false)).toEqual([
      { value: "bob", description: "working, release" },
      { value: "carol", description: "away" },
    ]);
  });

  test("a name that would be ambiguous becomes a key", () => {
    const two = [peer("bob"), peer("BOB", { mesh: "other", pubkey: "cd".repeat(32) })];
    expect(values(two)).toEqual([key, "cd".repeat(8)]);
    expect(values(two, new Map([["mesh", "team"]]))).toEqual(["bob"]);
    expect(peerCandidates(two, none, false)[0]?.description).toBe("bob, idle, in team");
  });

  test("a name that looks like a flag becomes a key, but not after --", () => {
    expect(values([peer("-x")])).toEqual([key]);
    expect(values([peer("-x")], none, true)).toEqual(["-x"]);
  });

  test("who is refused is marked", () => {
    expect(peerCandidates([peer("bob", { untrusted: "name_changed" })], none, false)[0]?.description).toBe(
      "refused",
    );
  });
});

describe("the hidden command", () => {
  const rows = ["done", "dead", "pending"].map((status, index) => ({
    id: `row-${index}`,
    client_message_id: `id-${index}`,
    mesh: "team",
    to: "bob",
    destination: null,
    priority: "next",
    status,
    attempts: 1,
    enqueued_at: "2026-01-01T00:00:00.000Z",
    may_have_been_sent: false,
    ...(status === "dead" ? { last_error: "too_large" } : {}),
  }));
  const counts = { pending: 1, inflight: 0, done: 1, dead: 1, aborted: 0 };
  const item = (id: string, body: string) => ({
    id,
    client_message_id: `message-${id}`,
    mesh: "team",
    from: { name: "carol", pubkey: "00" },
    body,
    priority: "next",
    received_at: "2026-01-01T00:00:00.000Z",
  });
  const answer: Parameters<typeof fakeDaemon>[0] = ({ target }) => {
    const { pathname, searchParams } = new URL(target, "http://localhost");
    if (pathname === "/v1/peers") return json({ peers: [peer("bob"), peer("Anna K")], stale: false });
    if (pathname === "/v1/version") {
      const meshes = { team: { broker_features: null } };
      return json({ daemon_version: "1", ipc_api: "v1", ipc_features: [], schema_version: 1, meshes });
    }
    if (pathname === "/v1/outbox") {
      const wanted = searchParams.get("status");
      return json({ items: rows.filter(({ status }) => wanted === null || status === wanted), counts });
    }
    if (pathname === "/v1/inbox") return json({ items: [item("1", "first"), item("2", "second\nline")] });
    return json({ error: "no_such_route", message: target }, 404);
  };
  const daemonDir = (say: Parameters<typeof fakeDaemon>[0]): { CLAUDEMESH_DAEMON_DIR: string } => {
    const dir = tempDir();
    fakeDaemon(say, join(dir, "daemon.sock"));
    return { CLAUDEMESH_DAEMON_DIR: dir };
  };
  const complete = async (words: string[], env: Record<string, string> = {}) =>
    await runSource(["complete", "fish", "--", ...words], { env });

  const asked: [words: string[], first: RegExp, values: string[]][] = [
    [["send", ""], /^idle$/, ["bob", "Anna K"]],
    [["inbox", "--from", ""], /^idle$/, ["bob", "Anna K"]],
    [["mesh", "remove", ""], /^idle$/, ["bob", "Anna K"]],
    [["mesh", "trust", ""], /^idle$/, ["bob", "Anna K"]],
    [["send", "--mesh", ""], /^$/, ["team"]],
    [["send", "--mesh="], /^$/, ["--mesh=team"]],
    [["daemon", "outbox", "show", ""], /^done to bob, 20\d\d-/, ["row-0", "row-1", "row-2"]],
    [["daemon", "outbox", "requeue", ""], /^dead to bob, .*: too_large$/, ["row-1", "row-2"]],
    [["track", ""], /^done to bob/, ["id-0", "id-1", "id-2"]],
    [["send", "bob", "hi", "--reply-to", ""], /^from carol, .*: second\\nline$/, ["message-2", "message-1"]],
    [["inbox", "--after", ""], /^from carol/, ["2", "1"]],
    [["events", "--since", ""], /^from carol/, ["2", "1"]],
  ];
  test.each(asked)("%j", async (words, first, values) => {
    const { status, stdout, stderr } = await complete(words, daemonDir(answer));
    expect([status, stderr]).toEqual([0, ""]);
    const [header, ...lines] = stdout.trimEnd().split("\n");
    expect(header).toBe("words");
    expect(lines.map((line) => line.split("\t")[0] ?? "")).toEqual(values);
    expect(lines[0]?.split("\t")[1] ?? "").toMatch(first);
  });

  const silent: [what: string, say: Parameters<typeof fakeDaemon>[0]][] = [
    ["refuses", () => json({ error: "internal", message: "no" }, 500)],
    ["talks nonsense", () => json({ peers: 1 })],
    ["never answers", () => new Promise<Response>(() => undefined)],
  ];
  test.each(silent)("a daemon that %s completes nothing, without a word", async (_, say) => {
    const started = performance.now();
    expect(await complete(["send", ""], daemonDir(say))).toEqual({ status: 0, stdout: "", stderr: "" });
    // The bound of the question, and the start of a process that reads its source on a busy machine.
    expect(performance.now() - started).toBeLessThan(completionMsMax + 4_000);
  });

  test("without a daemon too, and the meshes come from config.json; a broken one is no reason to complain", async () => {
    expect(await complete(["send", ""])).toEqual({ status: 0, stdout: "", stderr: "" });
    expect(await complete(["send", "--mesh", ""])).toEqual({ status: 0, stdout: "", stderr: "" });
    const dir = tempDir();
    const env = { CLAUDEMESH_CONFIG_DIR: dir };
    const { publicKey: pubkey, secretKey } = generateKeyPair();
    const ids = {
      meshId: "m",
      memberId: "w",
      slug: "team",
      name: "The Team",
      brokerUrl: "ws://127.0.0.1:1/ws",
    };
    const mesh = { ...ids, pubkey, secretKey, joinedAt: "2026-01-01T00:00:00.000Z" };
    const file = join(dir, "config.json");
    writeFileSync(file, JSON.stringify({ version: 1, meshes: [mesh] }), { mode: 0o600 });
    expect((await complete(["send", "--mesh", ""], env)).stdout).toBe("words\nteam\tThe Team\n");
    writeFileSync(file, "{");
    expect(await complete(["send", "--mesh", ""], env)).toEqual({ status: 0, stdout: "", stderr: "" });
    const debug = await complete(["send", "--mesh", ""], { ...env, CLAUDEMESH_DEBUG: "1" });
    expect(debug).toMatchObject({ status: 0, stdout: "" });
    expect(debug.stderr).toContain("MeshError");
  });

  test("called in a way that nobody calls it, it is silent as well", async () => {
    for (const argv of [[], ["tcsh", "--", "x"], ["bash"], ["bash", "--"], ["zsh", "--"]]) {
      const { status, stderr } = await runSource(["complete", ...argv]);
      expect([argv, status, stderr]).toEqual([argv, 0, ""]);
    }
  });

  test("a flag among the words is not one of its own", async () => {
    const { stdout } = await complete(["send", "--help", "--json", "--"]);
    expect(stdout).toStartWith("words\n--file");
  });

  test("nobody is shown it", async () => {
    expect((await runSource(["--help"])).stdout).not.toMatch(/^ +complete /m);
    expect((await runSource(["complet"])).stderr).toContain("Did you mean claudemesh completions?");
  });
});

test("a command that is not annotated is completed by its flags all the same", () => {
  const bare = defineCommand({
    name: "bare",
    description: "x",
    args: { text: { type: "positional", required: false, description: "anything" } },
    exits: [],
    examples: ["claudemesh bare"],
    run: async () => undefined,
  });
  expect(wordsOf(placeInCommand(bare.args, [], ""))).toEqual([]);
  expect(wordsOf(placeInCommand(bare.args, [], "-"))).toEqual(["--json", "--help"]);
});
