/**
 * An agent that speaks newline-delimited JSON, as `claude -p --input-format stream-json --output-format stream-json --verbose` does: silent until
 * it is asked, `init` at the first message, each answer as an `assistant` line with its tokens, a `result` at the end of each turn. SIGINT
 * ends its turn and then itself, with status 0.
 * `bun tests/fakes/stream-agent.ts [FLAGS]`; flags: `--model NAME`, `--mute` (does not answer `initialize`), `--exit N` (ends at once), `--stubborn`
 * (does not stop when it is interrupted). What it can be told, a command a line of a message (for the rest see commands.ts):
 *
 *     say TEXT, lines N, think MS, hang, env NAME, args, start KIND, exit N, die SIGNAL
 *     tool NAME [JSON]    asks whether it may use the tool, and says what it was answered
 *     ask SUBTYPE         asks something else of its host, and says what it was answered
 *     tokens N            its context has grown to N tokens with the next answer
 *     window N            says in its result that N tokens fit
 *     helper TEXT         another agent, which works for it, says TEXT
 *     error TEXT          the turn ends in an error
 *     fill                the same, with what Claude Code says of a context that is full
 *     nearly              a system line that warns of it
 *     stderr TEXT         on standard error
 *     raw TEXT            TEXT as a line of its own, whatever it is
 *     huge MB             an answer in a line of so many megabytes
 *     slow TEXT           an answer that arrives byte by byte
 *     again TEXT          when the turn has ended, begins one by itself that answers TEXT
 *     deaf                reads nothing any more
 */
import { type Command, lineList, readCommands, readNotice, startChild, verbs } from "./commands";
import { pause, writeAll } from "./screen-agent";

const argv = process.argv.slice(2);
const flag = (name: string): string | undefined =>
  argv.includes(name) ? argv[argv.indexOf(name) + 1] : undefined;
const model = flag("--model") ?? "claude-sonnet-4-5-20250929";
const known = [
  ...verbs,
  "tool",
  "ask",
  "tokens",
  "window",
  "helper",
  "error",
  "stderr",
  "raw",
  "huge",
  "again",
  "deaf",
];

interface Asked {
  type?: string;
  request_id?: string;
  message?: { content?: string | { text?: string }[] };
  request?: { subtype?: string };
  response?: {
    request_id?: string;
    subtype?: string;
    response?: { behavior?: string; message?: string };
    error?: string;
  };
}

let interruption = new AbortController();
const answers = new Map<string, (response: NonNullable<Asked["response"]>) => void>();
const messages: string[] = [];
let isBusy = false;
let isEnding = false;
let hasGreeted = false;
let tokens = 1_000;
let window: number | undefined;
let answered = 0;
let errors: string[] = [];
let lastText = "";
let afterwards: string | undefined;

if (argv.includes("--exit")) {
  process.stderr.write("cannot start\n");
  process.exit(Number(flag("--exit")));
}

const print = (value: unknown): void => writeAll(Buffer.from(`${JSON.stringify(value)}\n`));

const assistant = (content: unknown[], parent: string | null = null): void =>
  print({
    type: "assistant",
    message: {
      id: `msg_${answered}`,
      type: "message",
      role: "assistant",
      model: parent === null ? model : "claude-haiku-4-5",
      content,
      usage: {
        input_tokens: 10,
        cache_creation_input_tokens: 200,
        cache_read_input_tokens: parent === null ? tokens - 211 : 50,
        output_tokens: 1,
      },
    },
    parent_tool_use_id: parent,
    session_id: "5e551017",
  });

function say(text: string): void {
  answered += 1;
  lastText = text;
  assistant([{ type: "text", text }]);
}

let input = "";
process.stdin.on("data", (bytes: Buffer) => {
  input += bytes.toString("utf8");
  const lines = input.split("\n");
  input = lines.pop() ?? "";
  for (const line of lines) receive(JSON.parse(line));
});
process.stdin.on("end", () => {
  if (!isBusy) process.exit(0);
});
process.on("SIGINT", () => {
  if (!isBusy) process.exit(0);
  isEnding = true;
  interruption.abort();
});

function receive(line: Asked): void {
  if (line.type === "user") {
    const content = line.message?.content ?? "";
    messages.push(typeof content === "string" ? content : content.map(({ text }) => text ?? "").join("\n"));
    if (!isBusy) void work();
  } else if (line.type === "control_response" && line.response !== undefined) {
    answers.get(line.response.request_id ?? "")?.(line.response);
  } else if (line.type === "control_request") {
    const isInitialize = line.request?.subtype === "initialize";
    if (isInitialize && argv.includes("--mute")) return;
    const isRefused = argv.includes("--stubborn") && !isInitialize;
    print({
      type: "control_response",
      response: isRefused
        ? { subtype: "error", request_id: line.request_id, error: "not now" }
        : { subtype: "success", request_id: line.request_id, response: {} },
    });
    if (line.request?.subtype === "interrupt" && !isRefused) interruption.abort();
  }
}

async function work(): Promise<void> {
  isBusy = true;
  for (let message = messages.shift(); message !== undefined; message = messages.shift()) {
    if (!hasGreeted)
      print({ type: "system", subtype: "init", model, tools: ["Bash"], session_id: "5e551017" });
    hasGreeted = true;
    await turn(message);
    if (isEnding) process.exit(0);
    if (afterwards !== undefined) messages.push(`say ${afterwards}`);
    afterwards = undefined;
  }
  isBusy = false;
}

async function turn(message: string): Promise<void> {
  interruption = new AbortController();
  errors = [];
  lastText = "";
  const commands = readCommands(message, known);
  if (commands.length === 0) say(readNotice(message));
  for (const command of commands) {
    await run(command);
    if (interruption.signal.aborted) break;
  }
  const isError = errors.length > 0 || interruption.signal.aborted;
  print({
    type: "result",
    subtype: interruption.signal.aborted ? "error_during_execution" : "success",
    is_error: isError,
    num_turns: 1,
    result: isError ? (errors[0] ?? "") : lastText,
    session_id: "5e551017",
    total_cost_usd: 0.01,
    usage: {
      input_tokens: 10,
      cache_creation_input_tokens: 200,
      cache_read_input_tokens: tokens - 211,
      output_tokens: 42,
    },
    ...(window === undefined ? {} : { modelUsage: { [model]: { contextWindow: window } } }),
  });
}

let requests = 0;
const ask = (request: Record<string, unknown>): Promise<NonNullable<Asked["response"]>> =>
  new Promise((resolve) => {
    requests += 1;
    const id = `request-${requests}`;
    answers.set(id, resolve);
    print({ type: "control_request", request_id: id, request });
  });

async function run({ verb, rest }: Command): Promise<void> {
  const { signal } = interruption;
  switch (verb) {
    case "say":
      return say(rest.replaceAll("\\n", "\n"));
    case "lines":
      return say(lineList(Number(rest)).join("\n"));
    case "think":
      return await pause(Number(rest), signal);
    case "hang":
      return await pause(2 ** 31 - 1, signal);
    case "env":
      return say(process.env[rest] ?? "(not set)");
    case "args":
      return say(JSON.stringify(argv));
    case "start":
      return say(String(startChild(rest)));
    case "exit":
      return process.exit(Number(rest));
    case "die":
      process.kill(process.pid, rest as NodeJS.Signals);
      return await pause(2 ** 31 - 1, signal);
    case "tool": {
      const [name = "", ...json] = rest.split(" ");
      const toolInput: unknown = json.length === 0 ? {} : JSON.parse(json.join(" "));
      assistant([{ type: "tool_use", id: "tool_1", name, input: toolInput }]);
      const { response } = await ask({
        subtype: "can_use_tool",
        tool_name: name,
        input: toolInput,
        tool_use_id: "tool_1",
      });
      return say(`${name}: ${JSON.stringify(response)}`);
    }
    case "ask": {
      const { subtype, error } = await ask({ subtype: rest });
      return say(`${rest}: ${subtype}: ${error ?? ""}`);
    }
    case "tokens":
      tokens = Number(rest);
      return;
    case "window":
      window = Number(rest);
      return;
    case "helper":
      return assistant([{ type: "text", text: rest }], "tool_1");
    case "error":
      errors.push(rest);
      return;
    case "fill":
      errors.push("Prompt is too long");
      return print({
        type: "assistant",
        message: {
          id: "synthetic",
          model: "<synthetic>",
          content: [{ type: "text", text: "Prompt is too long" }],
          usage: { input_tokens: 0, output_tokens: 0 },
        },
        parent_tool_use_id: null,
      });
    case "nearly":
      return print({ type: "system", subtype: "informational", content: "Running low on context (8% left)" });
    case "stderr":
      process.stderr.write(`${rest}\n`);
      return;
    case "raw":
      return writeAll(Buffer.from(`${rest}\n`));
    case "huge":
      return say("x".repeat(Number(rest) * 1_000_000));
    case "slow": {
      lastText = rest;
      const line = JSON.stringify({
        type: "assistant",
        message: { content: [{ type: "text", text: rest }] },
      });
      for (const byte of Buffer.from(`${line}\r\n`)) {
        writeAll(Uint8Array.of(byte));
        await pause(1, signal);
      }
      return;
    }
    case "again":
      afterwards = rest;
      return;
    case "deaf":
      process.stdin.pause();
      setInterval(() => undefined, 60_000);
      return;
  }
}
