/**
 * Hosts an agent that speaks newline-delimited JSON on its standard input and output (wire/stream-json.ts). What it does it says itself, so
 * that nothing has to be guessed: a turn ends with its result, the answer is exact, tokens are counted. It has no terminal.
 * Permission to use a tool is given only for tools that the user has listed; for any other it is refused, and people are told.
 */
import { LineReader, type ReadLine } from "~/agent/lines";
import { cannotStart, checkDirectory } from "~/agent/program";
import type { Capture, Runtime, RuntimeEvents, Sight } from "~/agent/runtime";
import { type ModelLimit, noModel, TokenCount } from "~/agent/tokens";
import { Transcript } from "~/agent/transcript";
import type { Clock, Timer } from "~/clock";
import { MeshError, messageOf } from "~/errors";
import {
  agentHandshakeMs,
  agentLineBytesMax,
  agentOutputEndMs,
  agentResponseCharsMax,
  agentUnreadMs,
  malformedLinesToldMax,
} from "~/wire/limits";
import {
  type AgentLine,
  type AgentLineOf,
  encodeControlRefusal,
  encodeControlRequest,
  encodePermission,
  encodeUserLine,
  parseAgentLine,
} from "~/wire/stream-json";

export interface StreamJsonOptions {
  /** The program and its arguments. */
  command: readonly string[];
  cwd: string;
  env: Readonly<Record<string, string | undefined>>;
  clock: Clock;
  events: RuntimeEvents;
  /** By what the agent says that its context is full, or will soon be, in any case. */
  exhausted: readonly string[];
  approaching: readonly string[];
  /** Tools that the user lets it use without being asked, by their exact names. */
  allowedTools: readonly string[];
  /** The user's word on how much fits into a model's context. */
  modelLimits: readonly ModelLimit[];
}

/** Throws `agent_failed` when the program or the directory is not there. */
export function startStreamJson(options: StreamJsonOptions): Runtime {
  return new StreamJsonRuntime(options, spawnAgent(options));
}

type AgentProcess = Bun.Subprocess<"pipe", "pipe", "pipe">;

function spawnAgent({ command, cwd, env }: StreamJsonOptions): AgentProcess {
  const [program = ""] = command;
  checkDirectory(cwd);
  try {
    // A process group and session of its own, as with a terminal: it and its tools can be ended together.
    return Bun.spawn([...command], {
      cwd,
      env: { ...env },
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
      detached: true,
    });
  } catch (error) {
    throw cannotStart(program, error);
  }
}

class StreamJsonRuntime implements Runtime {
  readonly #options: StreamJsonOptions;
  readonly #process: AgentProcess;
  readonly #tokens: TokenCount;
  readonly #transcript = new Transcript();
  #outputBytes = 0;
  #isReady = false;
  #isWorking = false;
  /** Since the last submission. */
  #turn = newTurn();
  /** Lines that came while a message was being written: what they answer comes after `submit` has resolved. */
  #held: AgentLine[] | undefined;
  #malformed = 0;
  #requests = 0;
  #writing: Promise<void> = Promise.resolve();
  #handshake: Timer | undefined;
  #hasEnded = false;

  constructor(options: StreamJsonOptions, agent: AgentProcess) {
    this.#options = options;
    this.#process = agent;
    this.#tokens = new TokenCount(options.modelLimits);
    this.#greet();
    void this.#read();
  }

  get pid(): number {
    return this.#process.pid;
  }

  get outputBytes(): number {
    return this.#outputBytes;
  }

  async submit(text: string): Promise<void> {
    if (this.#hasEnded) throw new MeshError("agent_failed", "the agent has ended");
    this.#held = [];
    try {
      await this.#write(encodeUserLine(text));
      this.#turn = newTurn();
    } finally {
      // What waits on this promise goes first.
      this.#options.clock.soon(() => this.#release());
    }
    this.#isReady = true;
    this.#handshake?.cancel();
    this.#transcript.add(text.replace(/^/gm, "> "));
    this.#isWorking = true;
    this.#saw("working", "the message was handed over");
  }

  response(): Promise<string> {
    return Promise.resolve(this.#turn.answer.text());
  }

  capture(lastLines: number | null): Promise<Capture> {
    return Promise.resolve(this.#transcript.capture(lastLines));
  }

  snapshot(isComplete: boolean): Promise<string> {
    return Promise.resolve(this.#transcript.snapshot(isComplete));
  }

  resize(): void {
    // What has no terminal has no size.
  }

  hold(): void {
    // What it says is needed for more than to be shown, and is not much.
  }

  type(): boolean {
    return false;
  }

  whenRead(): undefined {
    return undefined;
  }

  /** Asks it to stop what it is doing. When it is doing nothing, or was asked before in this turn, to end. */
  interrupt(): void {
    if (this.#hasEnded) return;
    if (!this.#isWorking || this.#turn.isInterrupted) {
      this.askToEnd();
      return;
    }
    this.#turn.isInterrupted = true;
    this.#send(encodeControlRequest(this.#nextRequest(), "interrupt"));
  }

  askToEnd(): void {
    if (this.#hasEnded) return;
    this.#turn.isInterrupted = true;
    try {
      process.kill(-this.#process.pid, "SIGINT");
    } catch (error) {
      this.#options.events.warning(`the agent could not be interrupted: ${messageOf(error)}`);
    }
  }

  close(): void {
    this.#handshake?.cancel();
    void Promise.resolve(this.#process.stdin.end()).catch(isGone);
  }

  // ── Writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Whole lines, one after the other. Rejects when it has gone: one that does not read may still do so at any time. */
  #write(line: string): Promise<void> {
    const written = this.#writing.then(() => this.#writeNow(line));
    this.#writing = written.catch(isGone);
    return written;
  }

  async #writeNow(line: string): Promise<void> {
    const { clock, events } = this.#options;
    const timer = clock.after(agentUnreadMs, () => {
      events.warning(
        `the agent has not read what it was sent for ${agentUnreadMs / 1000} s; it is waited for`,
      );
    });
    const { stdin, exited } = this.#process;
    const gone = exited.then(() => {
      throw new Error("the agent has ended");
    });
    gone.catch(isGone);
    try {
      if (this.#hasEnded) await gone;
      // Both are refused when the pipe breaks, which it does not while something that the agent started holds it.
      await Promise.race([Promise.all([stdin.write(line), stdin.flush()]), gone]);
    } catch (error) {
      throw new MeshError("agent_failed", `it cannot be written to: ${messageOf(error)}`, { cause: error });
    } finally {
      timer.cancel();
    }
  }

  /** What nobody waits for. */
  #send(line: string): void {
    this.#write(line).catch((error: unknown) => {
      if (!this.#hasEnded)
        this.#options.events.warning(`the agent could not be answered: ${messageOf(error)}`);
    });
  }

  #nextRequest(): string {
    this.#requests += 1;
    return `claudemesh-${this.#requests}`;
  }

  /** Nothing comes out before the first message, but an answer to this. Whoever does not know it is ready, too, if it still runs. */
  #greet(): void {
    this.#send(encodeControlRequest(this.#nextRequest(), "initialize"));
    this.#handshake = this.#options.clock.after(agentHandshakeMs, () => this.#becomeReady("it runs"));
  }

  #becomeReady(why: string): void {
    if (this.#isReady || this.#hasEnded) return;
    this.#isReady = true;
    this.#handshake?.cancel();
    this.#saw("idle", why);
  }

  // ── Reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  async #read(): Promise<void> {
    const { stdout, stderr, exited } = this.#process;
    const lines = new LineReader(agentLineBytesMax);
    const complaints = new LineReader(agentLineBytesMax);
    const stop = new AbortController();
    const reading = Promise.all([
      this.#drain(stdout, lines, (line) => this.#take(line), stop.signal),
      this.#drain(stderr, complaints, (line) => this.#complained(line), stop.signal),
    ]);
    await exited;
    const timer = this.#options.clock.after(agentOutputEndMs, () => stop.abort());
    await reading;
    timer.cancel();
    this.#handshake?.cancel();
    this.#release();
    this.#hasEnded = true;
    const { exitCode, signalCode } = this.#process;
    this.#options.events.ended({
      code: signalCode === null ? exitCode : null,
      signal: signalCode === null ? null : String(signalCode),
    });
  }

  async #drain(
    stream: ReadableStream<Uint8Array>,
    lines: LineReader,
    take: (line: ReadLine) => void,
    stop: AbortSignal,
  ): Promise<void> {
    const reader = stream.getReader();
    // A read that waits for what may never come ends with the stream.
    stop.addEventListener("abort", () => void reader.cancel().catch(isGone), { once: true });
    try {
      for (let read = await reader.read(); !read.done; read = await reader.read()) {
        this.#outputBytes += read.value.length;
        this.#options.events.output(read.value);
        for (const line of lines.push(read.value)) take(line);
      }
    } catch (error) {
      this.#options.events.warning(`its output cannot be read any more: ${messageOf(error)}`);
    }
    const rest = lines.rest();
    if (rest !== undefined) take(rest);
  }

  #take(read: ReadLine): void {
    if (read.kind === "too_long") {
      this.#options.events.warning(`a line of ${read.bytes} bytes of the agent's output was passed over`);
      return;
    }
    if (read.text.trim() === "") return;
    const parsed = parseAgentLine(read.text);
    if (parsed.kind === "malformed") this.#cannotRead(read.text, parsed.reason);
    if (parsed.kind !== "line") return;
    if (this.#held === undefined) this.#act(parsed.line);
    else this.#held.push(parsed.line);
  }

  #cannotRead(text: string, reason: string): void {
    this.#transcript.add(text);
    this.#malformed += 1;
    if (this.#malformed > malformedLinesToldMax) return;
    const last = this.#malformed === malformedLinesToldMax ? "; further ones are not reported" : "";
    this.#options.events.warning(`the agent printed a line that cannot be understood (${reason})${last}`);
  }

  #complained(read: ReadLine): void {
    if (read.kind === "too_long" || read.text.trim() === "") return;
    this.#transcript.add(read.text);
    if (mentions(read.text, this.#options.approaching)) this.#saw("approaching", read.text);
  }

  #release(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    for (const line of held) this.#act(line);
  }

  // ── What it says ────────────────────────────────────────────────────────────────────────────────────────────────────

  #act(line: AgentLine): void {
    switch (line.type) {
      case "system":
        this.#told(line);
        break;
      case "assistant":
        this.#answered(line);
        break;
      case "stream_event":
        if (isOwn(line)) this.#begin();
        break;
      case "result":
        this.#turnEnded(line);
        break;
      case "control_request":
        this.#asked(line);
        break;
      case "control_response":
        if (line.response.subtype === "error" && this.#turn.isInterrupted) {
          this.#options.events.warning(
            `the agent does not stop: ${line.response.error ?? "no reason given"}`,
          );
        }
        this.#becomeReady("it answers");
    }
  }

  #told({ subtype, model, message, content, tool_name: tool = "a tool" }: AgentLineOf<"system">): void {
    if (subtype === "init" && model !== undefined) this.#tokens.started(model);
    // By itself, without having asked.
    if (subtype === "permission_denied")
      this.#options.events.warning(`the agent was denied ${tool}: ${excerpt(message ?? "no reason given")}`);
    for (const text of [message, content]) {
      if (text === undefined || text === "") continue;
      this.#transcript.add(text);
      if (mentions(text, this.#options.approaching)) this.#saw("approaching", text);
    }
    if (subtype === "init") this.#becomeReady("it has started");
  }

  #answered(line: AgentLineOf<"assistant">): void {
    this.#tokens.answered(line);
    if (line.message.usage !== undefined) this.#options.events.usage(this.#tokens.usage);
    if (!isOwn(line)) return;
    this.#begin();
    const { content, model } = line.message;
    const blocks = typeof content === "string" ? [{ type: "text", text: content, name: undefined }] : content;
    for (const { type, text, name } of blocks) {
      if (type === "text" && text !== undefined) {
        this.#transcript.add(text);
        this.#turn.answer.add(text);
        if (model === noModel) this.#turn.faults.push(text);
      } else if (type === "tool_use") this.#transcript.add(`[uses ${name ?? "a tool"}]`);
    }
  }

  /** A turn may also begin by itself: work in the background has ended. */
  #begin(): void {
    this.#isReady = true;
    this.#handshake?.cancel();
    if (this.#isWorking) return;
    this.#isWorking = true;
    this.#turn = newTurn();
    this.#saw("working", "it has begun something by itself");
  }

  #turnEnded(line: AgentLineOf<"result">): void {
    this.#tokens.turnEnded(line);
    this.#options.events.usage(this.#tokens.usage);
    const turn = this.#turn;
    const said = line.result?.trim() ?? "";
    // The result repeats the last thing that was said; of an error it may be the only word.
    if (said !== "" && !turn.answer.endsWith(said)) turn.answer.add(said);
    const faults = [...turn.faults, ...(line.errors ?? []), ...(line.is_error === true ? [said] : [])];
    for (const error of line.errors ?? []) this.#transcript.add(`[error: ${error}]`);
    this.#isReady = true;
    this.#isWorking = false;
    const full = faults.find((fault) => mentions(fault, this.#options.exhausted));
    if (full !== undefined) {
      this.#saw("exhausted", full);
      return;
    }
    const isFailure = line.is_error === true || (line.errors?.length ?? 0) > 0;
    if (isFailure && !turn.isInterrupted) {
      const why = faults.find((fault) => fault !== "") ?? line.subtype ?? "no reason given";
      this.#options.events.warning(`the agent reports an error: ${why}`);
    }
    this.#saw("idle", turn.isInterrupted ? "it was interrupted" : (line.subtype ?? "the turn has ended"));
  }

  #asked({ request_id, request }: AgentLineOf<"control_request">): void {
    const { subtype, tool_name: tool = "a tool", input = {} } = request;
    if (subtype !== "can_use_tool") {
      this.#send(encodeControlRefusal(request_id, `${subtype} is not served here`));
      return;
    }
    if (this.#options.allowedTools.includes(tool)) {
      this.#send(encodePermission(request_id, { behavior: "allow", input }));
      return;
    }
    const message = `Nobody is here to permit ${tool}. Go on without it, or say what you would need it for.`;
    this.#send(encodePermission(request_id, { behavior: "deny", message }));
    this.#transcript.add(`[was denied ${tool}]`);
    this.#options.events.warning(
      `the agent asked for permission to use ${tool} and was denied: ${excerpt(input)}`,
    );
  }

  #saw(sight: Sight, text: string): void {
    this.#options.events.saw(sight, text);
  }
}

// ── A turn ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

interface Turn {
  answer: Answer;
  /** What stood in place of an answer, or came with an error. */
  faults: string[];
  isInterrupted: boolean;
}

const newTurn = (): Turn => ({ answer: new Answer(), faults: [], isInterrupted: false });

/** All that was said, paragraph by paragraph. Of far too much, what is left out is said. */
class Answer {
  readonly #texts: string[] = [];
  #chars = 0;
  #left = 0;
  #last = "";

  add(text: string): void {
    const kept = text.slice(-agentResponseCharsMax);
    this.#last = text;
    this.#left += text.length - kept.length;
    this.#texts.push(kept);
    this.#chars += kept.length;
    while (this.#chars > agentResponseCharsMax && this.#texts.length > 1) {
      const [dropped = ""] = this.#texts.splice(this.#texts.length > 2 ? 1 : 0, 1);
      this.#chars -= dropped.length;
      this.#left += dropped.length;
    }
  }

  endsWith(text: string): boolean {
    return this.#last.trimEnd().endsWith(text);
  }

  text(): string {
    if (this.#left === 0) return this.#texts.join("\n\n");
    const [first = "", ...others] = this.#texts;
    return [first, `[… ${this.#left} characters left out …]`, ...others].join("\n\n");
  }
}

const isOwn = ({ parent_tool_use_id }: { parent_tool_use_id?: string | null | undefined }): boolean =>
  (parent_tool_use_id ?? null) === null;

const mentions = (text: string, phrases: readonly string[]): boolean => {
  const lower = text.toLowerCase();
  return phrases.some((phrase) => lower.includes(phrase.toLowerCase()));
};

const excerptCharsMax = 200;

/** What a tool was to be used for, or why it was not, as far as it is of use to a person. */
function excerpt(input: string | Readonly<Record<string, unknown>>): string {
  const text = typeof input === "string" ? input : JSON.stringify(input);
  return text.length <= excerptCharsMax ? text : `${text.slice(0, excerptCharsMax)}…`;
}

/** Of a pipe that is let go: that it was gone before is what was wanted. */
const isGone = (): undefined => undefined;
