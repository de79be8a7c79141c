/**
 * What a shim does, decided purely: from its state, what happened and the time to the next state and what is to be done about it,
 * in order. The shim (shim.ts) carries it out and reports back: it knows sockets, processes and screens, and decides nothing.
 */
import type { Sight, TokenUsage } from "~/agent/runtime";
import {
  shimQueueMax,
  shimStalledMs,
  shimStartupMsMax,
  shimStatsEveryMs,
  shimUsagePercentHigh,
  shimWorkingMsMin,
  terminalSideMax,
} from "~/wire/limits";
import type { ShimCommand, ShimEvent, ShimStateName } from "~/wire/shim";

export interface Message {
  from: string;
  body: string;
  id: string | undefined;
}

export interface ShimState {
  readonly name: ShimStateName;
  readonly sinceMs: number;
  readonly startedMs: number;
  readonly wasReady: boolean;
  /** Is being handed over: until that is done, what the screen shows says nothing. */
  readonly submitting: Message | undefined;
  /** Was handed over; its completion is still to come. */
  readonly current: Message | undefined;
  /** The agent is done, and what it answered is being read. */
  readonly isCollecting: boolean;
  readonly queue: readonly Message[];
  /** What the screen said last, of the two that come and go. */
  readonly sight: "idle" | "working" | undefined;
  readonly ending: Ending | undefined;
  /** Why nothing reaches the agent once it is dead. */
  readonly death: string;
  readonly wasApproaching: boolean;
  readonly usage: TokenUsage | undefined;
  readonly isUsageHigh: boolean;
  readonly outputBytes: number;
  readonly outputMs: number;
  readonly isStalled: boolean;
}

interface Ending {
  /** Asked with Ctrl-C, or being ended. */
  by: "interrupt" | "signal";
  /** Whether the shim ends with its agent; "anyway": also when its agent cannot be ended, for nobody is there to be told so. */
  leaves: "never" | "with_agent" | "anyway";
}

/** From the least to the most. */
const leavings: readonly Ending["leaves"][] = ["never", "with_agent", "anyway"];

/** Timers by name; one that is set again begins anew. */
export type TimerName = "startup" | "settled" | "stats" | "shutdown";

export type Happening =
  | { kind: "started" }
  | { kind: "not_started"; reason: string }
  | { kind: "command"; peer: number; command: ShimCommand }
  /** A frame that is no command: what it was called, and what is wrong with it. */
  | { kind: "misunderstood"; peer: number; name: string | undefined; reason: string }
  | { kind: "saw"; sight: Sight; text: string; lastLines: string }
  | { kind: "submitted" }
  | { kind: "not_submitted"; reason: string }
  | { kind: "collected"; response: string; lastLines: string }
  | { kind: "usage"; usage: TokenUsage; outputBytes: number }
  | { kind: "warned"; message: string }
  | { kind: "timer"; name: TimerName; outputBytes: number }
  /** The last orchestrator went away, or the shim itself was told to end. */
  | { kind: "abandoned" }
  /** `end_agent` could not be carried out in full. `message`: a sentence about what is left. */
  | { kind: "not_ended"; message: string }
  | { kind: "ended"; code: number | null; signal: string | null; lastLines: string };

export type Effect =
  | { kind: "tell"; event: ShimEvent }
  | { kind: "answer"; peer: number; event: ShimEvent }
  | { kind: "capture"; peer: number; lastLines: number | null }
  | { kind: "resize"; rows: number; cols: number }
  | { kind: "submit"; body: string }
  | { kind: "collect" }
  | { kind: "interrupt" }
  /** SIGTERM, two seconds, SIGKILL, for the agent and all that it started. Asked for again meanwhile, goes on. */
  | { kind: "end_agent" }
  | { kind: "set_timer"; name: TimerName; delayMs: number }
  | { kind: "cancel_timer"; name: TimerName }
  | { kind: "leave" };

export interface Step {
  state: ShimState;
  effects: Effect[];
}

const why = {
  dead: "the agent has ended",
  notStarted: "the agent could not be started",
  exhausted: "the agent's context is full",
  ending: "the agent is being ended",
  full: `${shimQueueMax} messages wait already`,
} as const;

export const initialShimState = (nowMs: number): ShimState => ({
  name: "starting",
  sinceMs: nowMs,
  startedMs: nowMs,
  wasReady: false,
  submitting: undefined,
  current: undefined,
  isCollecting: false,
  queue: [],
  sight: undefined,
  ending: undefined,
  death: why.dead,
  wasApproaching: false,
  usage: undefined,
  isUsageHigh: false,
  outputBytes: 0,
  outputMs: nowMs,
  isStalled: false,
});

/** `nowMs`: of a clock that never steps back. */
export function stepShim(state: ShimState, happening: Happening, nowMs: number): Step {
  const step = new Stepping(state, nowMs);
  step.take(happening);
  return { state: step.state, effects: step.effects };
}

/** One step while it is being made: the state so far, and the effects in order. */
class Stepping {
  state: ShimState;
  readonly effects: Effect[] = [];
  readonly #nowMs: number;

  constructor(state: ShimState, nowMs: number) {
    this.state = state;
    this.#nowMs = nowMs;
  }

  take(happening: Happening): void {
    switch (happening.kind) {
      case "started":
        this.#do({ kind: "set_timer", name: "startup", delayMs: shimStartupMsMax });
        this.#do({ kind: "set_timer", name: "stats", delayMs: shimStatsEveryMs });
        return;
      case "not_started":
        this.#tell({ event: "Error", command: "startup", reason: happening.reason });
        this.#set({ death: why.notStarted });
        this.#goTo("dead", why.notStarted);
        return;
      case "command":
        this.#command(happening.peer, happening.command);
        return;
      case "misunderstood": {
        const { peer, name = "", reason } = happening;
        this.#do({ kind: "answer", peer, event: { event: "Error", command: name, reason } });
        return;
      }
      case "saw":
        this.#saw(happening);
        return;
      case "submitted":
        this.#submitted();
        return;
      case "not_submitted":
        this.#notSubmitted(happening.reason);
        return;
      case "collected":
        this.#collected(happening);
        return;
      case "usage":
        this.#usage(happening.usage, happening.outputBytes);
        return;
      case "warned":
        this.#tell({ event: "Warning", message: happening.message, idle_secs: null });
        return;
      case "timer":
        this.#timer(happening.name, happening.outputBytes);
        return;
      case "abandoned":
        this.#kill("anyway");
        return;
      case "not_ended":
        this.#notEnded(happening.message);
        return;
      case "ended":
        this.#ended(happening);
        return;
    }
  }

  // ── Commands ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #command(peer: number, command: ShimCommand): void {
    switch (command.cmd) {
      case "Ping":
        this.#do({ kind: "answer", peer, event: { event: "Pong" } });
        return;
      case "GetState": {
        const since_secs = seconds(this.#nowMs - this.state.sinceMs);
        const event: ShimEvent = { event: "State", state: this.state.name, since_secs };
        this.#do({ kind: "answer", peer, event });
        return;
      }
      case "CaptureScreen":
        this.#do({ kind: "capture", peer, lastLines: command.last_n_lines });
        return;
      case "Resize":
        this.#resize(peer, command.rows, command.cols);
        return;
      case "SendMessage":
        this.#message({ from: command.from, body: command.body, id: command.message_id });
        return;
      case "Shutdown":
        this.#shutdown(command.timeout_secs);
        return;
      case "Kill":
        this.#kill("with_agent");
        return;
    }
  }

  #resize(peer: number, rows: number, cols: number): void {
    const isTooLarge = Math.max(rows, cols) > terminalSideMax;
    if (this.state.name !== "dead" && !isTooLarge) {
      this.#do({ kind: "resize", rows, cols });
      return;
    }
    const reason = isTooLarge
      ? `a terminal has at most ${terminalSideMax} rows and columns here`
      : this.state.death;
    this.#do({ kind: "answer", peer, event: { event: "Error", command: "Resize", reason } });
  }

  #message(message: Message): void {
    const { name, ending, death, queue } = this.state;
    if (name === "dead") {
      this.#refuse(message, death);
      return;
    }
    if (name === "context_exhausted") {
      this.#refuse(message, why.exhausted);
      return;
    }
    if (ending !== undefined) {
      this.#refuse(message, why.ending);
      return;
    }
    if (this.#isFree && queue.length === 0) {
      this.#submit(message);
      return;
    }
    if (queue.length >= shimQueueMax) {
      this.#refuse(message, why.full);
      return;
    }
    this.#set({ queue: [...queue, message] });
    const depth = this.state.queue.length;
    const reason = name === "starting" ? "the agent is starting" : "the agent is at work";
    const text = `message from ${message.from} queued, depth ${depth} of ${shimQueueMax}: ${reason}`;
    this.#tell({ event: "Warning", message: text, idle_secs: null });
  }

  /** Whether a message can be handed over now. */
  get #isFree(): boolean {
    const { name, submitting, isCollecting } = this.state;
    return name === "idle" && submitting === undefined && !isCollecting;
  }

  #submit(message: Message): void {
    this.#set({ submitting: message });
    this.#do({ kind: "submit", body: message.body });
  }

  /** It will never reach the agent. One without an id has no other way to be told of. */
  #refuse(message: Message, reason: string): void {
    if (message.id === undefined) this.#tell({ event: "Error", command: "SendMessage", reason });
    else this.#tell({ event: "DeliveryFailed", id: message.id, reason });
  }

  #refuseQueue(reason: string): void {
    const { queue } = this.state;
    this.#set({ queue: [] });
    for (const message of queue) this.#refuse(message, reason);
  }

  // ── Handing over ────────────────────────────────────────────────────────────────────────────────────────────────────

  #submitted(): void {
    const message = this.state.submitting;
    if (message === undefined) return;
    this.#set({ submitting: undefined });
    if (message.id !== undefined) this.#tell({ event: "MessageDelivered", id: message.id });
    if (this.state.name !== "idle") return;
    // What was seen before the message says nothing about it; the runtime tells anew.
    this.#set({ current: message, sight: undefined });
    this.#goTo("working", `message from ${message.from}`);
  }

  #notSubmitted(reason: string): void {
    const message = this.state.submitting;
    if (message === undefined) return;
    this.#set({ submitting: undefined });
    this.#refuse(message, reason);
    if (this.state.name === "idle") this.#goOn();
  }

  #collected({ response, lastLines }: { response: string; lastLines: string }): void {
    const { current, isCollecting } = this.state;
    if (!isCollecting) return;
    this.#set({ isCollecting: false, current: undefined });
    if (current !== undefined) {
      const id = current.id === undefined ? {} : { message_id: current.id };
      this.#tell({ event: "Completion", ...id, response, last_lines: lastLines });
    }
    if (this.state.name === "idle") this.#goOn();
    this.#leaveIfDone();
  }

  /** The agent is free: what it began by itself meanwhile, or the next message. */
  #goOn(): void {
    const [next, ...queue] = this.state.queue;
    if (this.state.sight === "working") {
      this.#goTo("working", "the agent is at work");
      return;
    }
    if (next === undefined || this.state.ending !== undefined) return;
    this.#set({ queue });
    this.#submit(next);
  }

  // ── What the agent does ─────────────────────────────────────────────────────────────────────────────────────────────

  #saw({ sight, text, lastLines }: { sight: Sight; text: string; lastLines: string }): void {
    if (this.state.name === "dead") return;
    if (sight === "exhausted") {
      this.#exhausted(text, lastLines);
      return;
    }
    if (sight === "approaching") {
      this.#approaching(text);
      return;
    }
    if (this.state.name === "context_exhausted") return;
    this.#set({ sight });
    switch (this.state.name) {
      case "starting":
        this.#do({ kind: "cancel_timer", name: "startup" });
        if (sight === "idle") this.#becomeIdle("the agent is ready");
        else this.#goTo("working", "the agent is at work");
        return;
      case "idle":
        if (sight === "working" && this.#isFree) this.#goTo("working", "the agent is at work");
        return;
      case "working":
        if (sight === "idle") this.#settle();
        else this.#do({ kind: "cancel_timer", name: "settled" });
        return;
    }
  }

  /** Done, unless that was too quick to be true: then it is looked at again. */
  #settle(): void {
    const leftMs = this.state.sinceMs + shimWorkingMsMin - this.#nowMs;
    if (leftMs > 0) this.#do({ kind: "set_timer", name: "settled", delayMs: leftMs });
    else this.#becomeIdle("the agent is done");
  }

  #becomeIdle(summary: string): void {
    this.#goTo("idle", summary);
    if (!this.state.wasReady) {
      this.#set({ wasReady: true });
      this.#tell({ event: "Ready" });
    }
    if (this.state.current === undefined) {
      this.#goOn();
      return;
    }
    this.#set({ isCollecting: true });
    this.#do({ kind: "collect" });
  }

  #exhausted(message: string, lastLines: string): void {
    if (this.state.name === "context_exhausted") return;
    this.#do({ kind: "cancel_timer", name: "startup" });
    this.#do({ kind: "cancel_timer", name: "settled" });
    this.#goTo("context_exhausted", message);
    this.#tell({ event: "ContextExhausted", message, last_lines: lastLines });
    this.#refuseQueue(why.exhausted);
  }

  #approaching(message: string): void {
    if (this.state.wasApproaching) return;
    this.#set({ wasApproaching: true });
    const { input = 0, output = 0 } = this.state.usage ?? {};
    this.#tell({ event: "ContextApproaching", message, input_tokens: input, output_tokens: output });
  }

  #usage(usage: TokenUsage, outputBytes: number): void {
    const percent = percentOf(usage);
    const isUsageHigh = percent !== undefined && percent >= shimUsagePercentHigh;
    const isNew = isUsageHigh && !this.state.isUsageHigh;
    this.#set({ usage, isUsageHigh });
    if (!isNew || this.state.name === "dead") return;
    this.#tell({
      event: "ContextWarning",
      model: usage.model,
      output_bytes: outputBytes,
      uptime_secs: seconds(this.#nowMs - this.state.startedMs),
      input_tokens: usage.input,
      cached_input_tokens: usage.cachedInput,
      cache_creation_input_tokens: usage.cacheCreationInput,
      cache_read_input_tokens: usage.cacheReadInput,
      output_tokens: usage.output,
      reasoning_output_tokens: usage.reasoningOutput,
      used_tokens: usage.used,
      context_limit_tokens: usage.limit,
      usage_pct: percent ?? 0,
    });
  }

  // ── Time ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #timer(name: TimerName, outputBytes: number): void {
    if (this.state.name === "dead") return;
    switch (name) {
      case "startup":
        if (this.state.name !== "starting" || this.state.ending !== undefined) return;
        this.#tell({
          event: "Error",
          command: "startup",
          reason: `the agent showed no prompt within ${shimStartupMsMax / 1000} s; it is ended`,
        });
        this.#refuseQueue("the agent did not start");
        this.#endAgent("never");
        return;
      case "settled":
        if (this.state.name === "working" && this.state.sight === "idle") this.#settle();
        return;
      case "stats":
        this.#stats(outputBytes);
        return;
      case "shutdown":
        if (this.state.ending?.by === "interrupt") this.#endAgent("with_agent");
        return;
    }
  }

  #stats(outputBytes: number): void {
    if (outputBytes !== this.state.outputBytes) {
      this.#set({ outputBytes, outputMs: this.#nowMs, isStalled: false });
    }
    const { usage, startedMs, outputMs, sinceMs } = this.state;
    const percent = usage === undefined ? undefined : percentOf(usage);
    this.#tell({
      event: "SessionStats",
      output_bytes: outputBytes,
      uptime_secs: seconds(this.#nowMs - startedMs),
      input_tokens: usage?.input ?? 0,
      output_tokens: usage?.output ?? 0,
      ...(percent === undefined ? {} : { context_usage_pct: percent }),
    });
    const quietMs = this.#nowMs - Math.max(outputMs, sinceMs);
    if (this.state.name === "working" && !this.state.isStalled && quietMs >= shimStalledMs) {
      this.#set({ isStalled: true });
      const message = `the agent is at work and has printed nothing for ${seconds(quietMs)} s`;
      this.#tell({ event: "Warning", message, idle_secs: seconds(quietMs) });
    }
    this.#do({ kind: "set_timer", name: "stats", delayMs: shimStatsEveryMs });
  }

  // ── The end ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  #shutdown(timeoutSecs: number): void {
    const by = this.state.ending?.by;
    this.#setEnding(by ?? "interrupt", "with_agent");
    if (this.state.name === "dead") {
      this.#leaveIfDone();
      return;
    }
    this.#refuseQueue(why.ending);
    // What is being ended already is not asked any more.
    if (by === "signal") return;
    if (by === undefined) this.#do({ kind: "interrupt" });
    if (timeoutSecs === 0) {
      this.#endAgent("with_agent");
      return;
    }
    this.#do({ kind: "set_timer", name: "shutdown", delayMs: timeoutSecs * 1000 });
  }

  #kill(leaves: Ending["leaves"]): void {
    if (this.state.name === "dead") {
      this.#setEnding("signal", leaves);
      this.#leaveIfDone();
      return;
    }
    this.#refuseQueue(why.ending);
    this.#endAgent(leaves);
  }

  #endAgent(leaves: Ending["leaves"]): void {
    this.#setEnding("signal", leaves);
    this.#do({ kind: "cancel_timer", name: "shutdown" });
    this.#do({ kind: "end_agent" });
  }

  /** What was promised before holds on. */
  #setEnding(by: Ending["by"], leaves: Ending["leaves"]): void {
    const before = this.state.ending?.leaves ?? "never";
    const isMore = leavings.indexOf(leaves) > leavings.indexOf(before);
    this.#set({ ending: { by, leaves: isMore ? leaves : before } });
  }

  #notEnded(message: string): void {
    this.#tell({ event: "Warning", message, idle_secs: null });
    if (this.state.ending?.leaves === "anyway") this.#do({ kind: "leave" });
  }

  #ended({ code, signal, lastLines }: Extract<Happening, { kind: "ended" }>): void {
    if (this.state.name === "dead") return;
    for (const name of ["startup", "settled", "stats", "shutdown"] as const) {
      this.#do({ kind: "cancel_timer", name });
    }
    this.#goTo("dead", signal === null ? `the agent ended with ${code}` : `the agent was ended by ${signal}`);
    this.#tell({ event: "Died", exit_code: code, last_lines: lastLines });
    const { submitting, current, isCollecting } = this.state;
    // An agent that ends right after its answer has answered all the same.
    this.#set({ submitting: undefined, current: isCollecting ? current : undefined });
    if (submitting !== undefined) this.#refuse(submitting, why.dead);
    this.#refuseQueue(why.dead);
    this.#leaveIfDone();
  }

  #leaveIfDone(): void {
    const { name, isCollecting, ending } = this.state;
    const leaves = ending?.leaves ?? "never";
    if (name === "dead" && !isCollecting && leaves !== "never") this.#do({ kind: "leave" });
  }

  // ── Bookkeeping ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #goTo(to: ShimStateName, summary: string): void {
    const from = this.state.name;
    this.#set({ name: to, sinceMs: this.#nowMs });
    this.#tell({ event: "StateChanged", from, to, summary });
  }

  #set(changes: Partial<ShimState>): void {
    this.state = { ...this.state, ...changes };
  }

  #tell(event: ShimEvent): void {
    this.#do({ kind: "tell", event });
  }

  #do(effect: Effect): void {
    this.effects.push(effect);
  }
}

const seconds = (ms: number): number => Math.max(0, Math.floor(ms / 1000));

/** Undefined when the limit is not known. Saturates where the wire's number does. */
const percentOf = ({ used, limit }: TokenUsage): number | undefined =>
  limit > 0 ? Math.min(255, Math.floor((used / limit) * 100)) : undefined;
