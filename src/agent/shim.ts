/**
 * Carries out what state.ts decides: between the orchestrators, the runtime that hosts the agent, and the processes that belong to it.
 * Everything that happens goes through `happened`, one after the other: all effects of one are begun before the next is looked at.
 */
import type { Orchestrators } from "~/agent/orchestrators";
import type { Runtime, RuntimeEvents } from "~/agent/runtime";
import {
  type Effect,
  type Happening,
  initialShimState,
  type ShimState,
  stepShim,
  type TimerName,
} from "~/agent/state";
import type { Clock, Timer } from "~/clock";
import { MeshError, messageOf } from "~/errors";
import { shimLastLinesMax } from "~/wire/limits";
import type { Parsed, ShimCommand } from "~/wire/shim";

export interface ShimOptions {
  clock: Clock;
  orchestrators: Orchestrators;
  /** Ends the agent and all that it started, as `AgentTree.end`. */
  endTree(): Promise<readonly number[]>;
  /** Raw output, for the log and for terminals that are attached. */
  output(bytes: Uint8Array): void;
  /** Once, when the agent's process has ended and all its output was taken in. */
  ended(exit: { code: number | null; signal: string | null }): void;
  /** Whether a person sees the agent in a terminal. */
  isAttended(): boolean;
}

export class Shim {
  readonly #options: ShimOptions;
  readonly #timers = new Map<TimerName, Timer>();
  readonly #left = Promise.withResolvers<void>();
  #state: ShimState;
  #runtime: Runtime | undefined;

  constructor(options: ShimOptions) {
    this.#options = options;
    this.#state = initialShimState(options.clock.monotonicMs());
  }

  /** Resolves when the shim has nothing more to do: the agent has ended, and nobody wants to ask about it. */
  get left(): Promise<void> {
    return this.#left.promise;
  }

  /** To be given to the runtime. */
  readonly events: RuntimeEvents = {
    saw: (sight, text) => {
      if (sight !== "exhausted") return this.happened({ kind: "saw", sight, text, lastLines: "" });
      void this.#lastLines().then((lastLines) => this.happened({ kind: "saw", sight, text, lastLines }));
    },
    output: (bytes) => this.#options.output(bytes),
    usage: (usage) => {
      this.happened({ kind: "usage", usage, outputBytes: this.#outputBytes });
    },
    warning: (message) => this.happened({ kind: "warned", message }),
    ended: (exit) => void this.#agentEnded(exit),
  };

  /** The agent runs. */
  started(runtime: Runtime): void {
    this.#runtime = runtime;
    this.#begin({ kind: "started" });
  }

  /** There will be no agent, for that reason. */
  notStarted(reason: string): void {
    this.#begin({ kind: "not_started", reason });
  }

  command(peer: number, parsed: Parsed<ShimCommand>): void {
    if (parsed.ok) this.happened({ kind: "command", peer, command: parsed.value });
    else this.happened({ kind: "misunderstood", peer, name: parsed.name, reason: parsed.reason });
  }

  /** Nobody drives the agent any more. */
  abandoned(): void {
    this.happened({ kind: "abandoned" });
  }

  // ── Inside ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  readonly #waiting: Happening[] = [];
  /** Something is being done; at first that is starting the agent, before which nothing can be done about anything. */
  #isBusy = true;

  #begin(first: Happening): void {
    this.#waiting.unshift(first);
    this.#proceed();
  }

  happened(happening: Happening): void {
    this.#waiting.push(happening);
    if (!this.#isBusy) this.#proceed();
  }

  #proceed(): void {
    this.#isBusy = true;
    try {
      for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
        const { state, effects } = stepShim(this.#state, next, this.#options.clock.monotonicMs());
        this.#state = state;
        for (const effect of effects) this.#carryOut(effect);
      }
    } finally {
      this.#isBusy = false;
    }
  }

  #carryOut(effect: Effect): void {
    const { orchestrators, clock } = this.#options;
    const runtime = this.#runtime;
    switch (effect.kind) {
      case "tell":
        orchestrators.tell(effect.event);
        return;
      case "answer":
        orchestrators.answer(effect.peer, effect.event);
        return;
      case "capture":
        return void this.#capture(effect.peer, effect.lastLines);
      case "resize":
        runtime?.resize(effect.rows, effect.cols);
        return;
      case "submit":
        return void runtime?.submit(effect.body).then(
          () => this.happened({ kind: "submitted" }),
          (error: unknown) => this.happened({ kind: "not_submitted", reason: messageOf(error) }),
        );
      case "collect":
        return void this.#collect();
      case "interrupt":
        runtime?.askToEnd();
        return;
      case "end_agent":
        return void this.#endTree();
      case "set_timer": {
        this.#timers.get(effect.name)?.cancel();
        const fired = (): void => {
          // A person sees what an agent shows in place of a prompt (an editor, a question), and ends it when it should end.
          if (effect.name === "startup" && this.#options.isAttended()) return;
          this.happened({ kind: "timer", name: effect.name, outputBytes: this.#outputBytes });
        };
        this.#timers.set(effect.name, clock.after(effect.delayMs, fired));
        return;
      }
      case "cancel_timer":
        this.#timers.get(effect.name)?.cancel();
        return;
      case "leave":
        // What could not be ended is still told.
        void Promise.resolve(this.#ending).finally(() => this.#left.resolve());
        return;
    }
  }

  get #outputBytes(): number {
    return this.#runtime?.outputBytes ?? 0;
  }

  async #capture(peer: number, lastLines: number | null): Promise<void> {
    const { orchestrators } = this.#options;
    try {
      if (this.#runtime === undefined) throw new MeshError("agent_failed", "the agent could not be started");
      const { content, cursorRow, cursorCol } = await this.#runtime.capture(lastLines);
      orchestrators.answer(peer, {
        event: "ScreenCapture",
        content,
        cursor_row: cursorRow,
        cursor_col: cursorCol,
      });
    } catch (error) {
      orchestrators.answer(peer, { event: "Error", command: "CaptureScreen", reason: messageOf(error) });
    }
  }

  async #collect(): Promise<void> {
    let response = "";
    try {
      response = (await this.#runtime?.response()) ?? "";
    } catch (error) {
      this.happened({ kind: "warned", message: `the answer could not be read: ${messageOf(error)}` });
    }
    this.happened({ kind: "collected", response, lastLines: await this.#lastLines() });
  }

  async #lastLines(): Promise<string> {
    try {
      return (await this.#runtime?.capture(shimLastLinesMax))?.content ?? "";
    } catch (error) {
      return `(the screen could not be read: ${messageOf(error)})`;
    }
  }

  async #agentEnded({ code, signal }: { code: number | null; signal: string | null }): Promise<void> {
    // What it started may go on without it; that ends, too, whatever it was that ended the agent.
    void this.#endTree();
    const lastLines = await this.#lastLines();
    this.#options.ended({ code, signal });
    this.happened({ kind: "ended", code, signal, lastLines });
  }

  #ending: Promise<void> | undefined;

  #endTree(): Promise<void> {
    this.#ending ??= this.#endAll()
      .catch((error: unknown) => {
        const message = `the agent's processes could not be ended: ${messageOf(error)}`;
        this.happened({ kind: "not_ended", message });
      })
      .finally(() => {
        this.#ending = undefined;
      });
    return this.#ending;
  }

  async #endAll(): Promise<void> {
    const { endTree } = this.#options;
    let pids = await endTree();
    if (pids.length === 0) return;
    // What may not be sent a signal, since it has become another user's, may still go when its terminal does.
    this.#runtime?.close();
    pids = await endTree();
    if (pids.length > 0) throw new Error(`these go on: ${pids.join(", ")}`);
  }
}
