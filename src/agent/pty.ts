/**
 * Hosts an agent in a pseudo-terminal: reads its screen by the rules of a profile, types into it, and makes sure that what was typed was
 * taken. Output is taken in as fast as the screen can follow; beyond that the agent waits, and nothing is lost.
 */
import { statSync } from "node:fs";
import { type Echo, echoOf, typeable } from "~/agent/echo";
import type { Profile } from "~/agent/profile";
import { couldMislead, isUnsubmitted, type Recognised, recognise } from "~/agent/recognition";
import { answerOf } from "~/agent/response";
import type { Capture, Runtime, RuntimeEvents } from "~/agent/runtime";
import { openScreen, type Screen } from "~/agent/screen";
import { openWithFlow, type TerminalFlow } from "~/agent/terminal-flow";
import type { Clock, Timer } from "~/clock";
import { MeshError, messageOf, systemCodeOf } from "~/errors";
import {
  dialogAnswersMax,
  dialogPauseMs,
  injectedTextsKept,
  lastOutputMsMax,
  lastOutputQuietMs,
  pasteShownMsMax,
  screenLookEveryMs,
  submitShownMs,
  submitsMax,
  terminalWaitingBytesHigh,
  terminalWaitingBytesLow,
  terminalWriteMsMax,
  typedBytesMax,
  workingStaleMs,
} from "~/wire/limits";

export interface PtyOptions {
  /** The program, as a path or to be found in the environment's PATH, and its arguments. */
  command: readonly string[];
  cwd: string;
  /** The whole environment of the agent; `TERM` is set here. */
  env: Readonly<Record<string, string>>;
  rows: number;
  cols: number;
  profile: Profile;
  clock: Clock;
  events: RuntimeEvents;
  /** Called as soon as the process runs, before anything else can happen. */
  started(pid: number): void;
  /** Whether what the agent asks its terminal is answered here, and not by a terminal that is attached. */
  answersQueries(): boolean;
}

/** Throws `agent_failed` when the program or the directory is not there. */
export async function startPty(options: PtyOptions): Promise<Runtime> {
  if (!isDirectory(options.cwd)) {
    throw new MeshError("agent_failed", `there is no directory ${options.cwd}`, {
      hint: "Choose another with --cwd.",
    });
  }
  const { rows, cols } = options;
  let runtime: PtyRuntime | undefined;
  const screen = await openScreen({
    rows,
    cols,
    answer: (text) => runtime?.answer(text),
    tookIn: (waitingBytes) => runtime?.tookIn(waitingBytes),
  });
  runtime = new PtyRuntime(options, screen);
  return runtime;
}

function isDirectory(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false; // Whatever the reason, nothing can be started there.
  }
}

/** One text on its way to the agent. */
interface Submission {
  echo: Echo;
  outputBytesBefore: number;
  atMs: number;
}

const enter = "\r";
const interruptKey = "\x03";
const [pasteBegin, pasteEnd] = ["\x1b[200~", "\x1b[201~"];

class PtyRuntime implements Runtime {
  readonly pid: number;
  readonly #options: PtyOptions;
  readonly #screen: Screen;
  readonly #terminal: Bun.Terminal;
  readonly #flow: TerminalFlow | undefined;
  #isStopped = false;
  #outputBytes = 0;
  #outputMs: number;
  #hasEnded = false;
  #sawEnd = Promise.withResolvers<void>();

  /** Texts that may be on the screen and could be taken for something that the agent says. */
  #echoes: Echo[] = [];
  #isSubmitting = false;
  #submission: Submission | undefined;
  /** The text that was handed over last, and what stood before it. */
  #lastEcho: Echo | undefined;
  #prompt = "";
  #told: "idle" | "working" | undefined;
  #toldPhrase = "";
  #wasIdle = false;
  #dialogs = { answers: 0, atMs: Number.NEGATIVE_INFINITY };
  #lookedMs = Number.NEGATIVE_INFINITY;
  #look: Timer | undefined;
  #lookAtMs = Number.POSITIVE_INFINITY;

  /** Typed and not yet taken by the terminal. */
  #typedBytes = 0;
  #written: { promise: Promise<void>; resolve(): void } | undefined;
  /** Who waits for the screen to change. */
  #watchers = new Set<() => void>();

  constructor(options: PtyOptions, screen: Screen) {
    const { clock, events } = options;
    this.#options = options;
    this.#screen = screen;
    this.#outputMs = clock.monotonicMs();
    const { opened: agent, flow } = openWithFlow(() => {
      const agent = this.#spawn();
      options.started(agent.pid);
      return agent;
    });
    const { terminal } = agent;
    if (terminal === undefined) throw new MeshError("internal", "the agent has no terminal");
    this.pid = agent.pid;
    this.#terminal = terminal;
    this.#flow = "unavailable" in flow ? undefined : flow;
    if ("unavailable" in flow) {
      events.warning(
        `the agent's terminal cannot be stopped when it pours (${flow.unavailable}): answers may take longer then`,
      );
    }
    void this.#awaitEnd(agent);
  }

  /** With a terminal that is made for it: only then Bun has it control a session of the agent's own. */
  #spawn(): Bun.Subprocess {
    const { command, cwd, env, rows, cols } = this.#options;
    try {
      return Bun.spawn([...command], {
        cwd,
        env: { ...env, TERM: termName },
        terminal: {
          rows,
          cols,
          name: termName,
          data: (_, bytes) => this.#output(bytes),
          drain: () => this.#drained(),
          exit: () => this.#sawEnd.resolve(),
        },
      });
    } catch (error) {
      throw cannotStart(command, error);
    }
  }

  get outputBytes(): number {
    return this.#outputBytes;
  }

  // ── Output ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #output(bytes: Uint8Array): void {
    this.#outputBytes += bytes.length;
    this.#outputMs = this.#options.clock.monotonicMs();
    this.#options.events.output(bytes);
    this.#screen.write(bytes);
    if (!this.#isStopped && this.#screen.waitingBytes > terminalWaitingBytesHigh) {
      this.#isStopped = true;
      this.#flow?.stop();
    }
  }

  tookIn(waitingBytes: number): void {
    if (this.#isStopped && waitingBytes <= terminalWaitingBytesLow) {
      this.#isStopped = false;
      this.#flow?.resume();
    }
    const sinceMs = this.#options.clock.monotonicMs() - this.#lookedMs;
    if (sinceMs >= screenLookEveryMs) this.#lookNow();
    else if (waitingBytes === 0) this.#lookLater(screenLookEveryMs - sinceMs);
  }

  answer(text: string): void {
    if (!this.#hasEnded && this.#options.answersQueries()) this.#write(Buffer.from(text));
  }

  async #awaitEnd(agent: Bun.Subprocess): Promise<void> {
    await agent.exited;
    this.#hasEnded = true;
    // From here on the terminal ends with the last of those who hold it. Who goes on holding it is not waited for long.
    this.#flow?.close();
    await Promise.race([this.#sawEnd.promise, this.#quiet()]);
    await this.#screen.settled();
    this.#lookNow();
    this.#look?.cancel();
    this.#drained();
    this.#changed();
    this.#options.events.ended({ code: agent.exitCode, signal: signalName(agent.signalCode) });
  }

  /** Resolves when nothing has come for a moment, or it has gone on for too long. */
  async #quiet(): Promise<void> {
    const { clock } = this.#options;
    const endedMs = clock.monotonicMs();
    for (;;) {
      await new Promise<void>((resolve) => void clock.after(lastOutputQuietMs / 2, resolve));
      const nowMs = clock.monotonicMs();
      if (nowMs - Math.max(this.#outputMs, endedMs) >= lastOutputQuietMs) return;
      if (nowMs - endedMs >= lastOutputMsMax) return;
    }
  }

  // ── Looking ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  #lookLater(delayMs: number): void {
    const atMs = this.#options.clock.monotonicMs() + delayMs;
    if (atMs >= this.#lookAtMs) return;
    this.#look?.cancel();
    this.#lookAtMs = atMs;
    this.#look = this.#options.clock.after(delayMs, () => this.#lookNow());
  }

  #lookNow(): void {
    this.#look?.cancel();
    this.#lookAtMs = Number.POSITIVE_INFINITY;
    this.#lookedMs = this.#options.clock.monotonicMs();
    const { profile } = this.#options;
    const seen = recognise(profile, this.#screen.view(), this.#echoes, this.#wasIdle);
    this.#tellPhrase("exhausted", seen.exhausted);
    this.#tellPhrase("approaching", seen.approaching);
    // A question may look like a prompt.
    const isAsked = !this.#wasIdle && this.#answerDialog();
    if (!this.#isSubmitting && !isAsked) this.#tellSight(seen);
    this.#changed();
  }

  #tellPhrase(sight: "exhausted" | "approaching", text: string | undefined): void {
    if (text === undefined || this.#toldPhrase === `${sight} ${text}`) return;
    this.#toldPhrase = `${sight} ${text}`;
    this.#options.events.saw(sight, text);
  }

  #tellSight(seen: Recognised): void {
    const quietMs = this.#lookedMs - this.#outputMs;
    const isStale = seen.isIdleToo && quietMs >= workingStaleMs;
    if (seen.sight === "working" && !isStale) {
      // Something that only is not a prompt may be one that is just being painted.
      const settleMs = this.#options.profile.working.length === 0 ? this.#options.profile.settle_ms : 0;
      if (quietMs >= settleMs || this.#submission !== undefined) this.#tell("working", seen.text);
      if (seen.isIdleToo) this.#lookLater(Math.max(1, workingStaleMs - quietMs));
      else if (quietMs < settleMs) this.#lookLater(settleMs - quietMs);
      return;
    }
    if (seen.sight === undefined) return;
    const leftMs = this.#unsettledMs(quietMs);
    if (leftMs > 0) this.#lookLater(leftMs);
    else {
      this.#wasIdle = true;
      this.#submission = undefined;
      this.#tell("idle", seen.text);
    }
  }

  /** How long it takes until a prompt is to be believed. The first one is, at once. */
  #unsettledMs(quietMs: number): number {
    if (!this.#wasIdle) return 0;
    const settleMs = this.#options.profile.settle_ms - quietMs;
    const submission = this.#submission;
    if (submission === undefined || this.#outputBytes > submission.outputBytesBefore) return settleMs;
    // Nothing has come back yet: it has not noticed. If it never shows anything at all, it is idle all the same.
    return Math.max(settleMs, submission.atMs + workingStaleMs - this.#lookedMs);
  }

  #tell(sight: "idle" | "working", text: string): void {
    if (this.#told === sight) return;
    this.#told = sight;
    this.#options.events.saw(sight, text);
  }

  /** Whether the screen shows a question that is answered here, now or a moment ago. */
  #answerDialog(): boolean {
    const { profile, events } = this.#options;
    if (profile.dialogs.length === 0 || this.#dialogs.answers >= dialogAnswersMax) return false;
    const text = this.#screen.view().lines.join(" ").replace(/\s+/gu, " ");
    for (const { when, keys } of profile.dialogs) {
      const [asked] = when.exec(text) ?? [];
      if (asked === undefined) continue;
      const leftMs = dialogPauseMs - (this.#lookedMs - this.#dialogs.atMs);
      this.#lookLater(leftMs > 0 ? leftMs : dialogPauseMs);
      if (leftMs > 0) return true;
      this.#dialogs = { answers: this.#dialogs.answers + 1, atMs: this.#lookedMs };
      events.warning(`answered a question at the start: ${asked}`);
      this.#write(Buffer.from(keys));
      return true;
    }
    return false;
  }

  // ── Input ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  async submit(text: string): Promise<void> {
    const body = typeable(text);
    if (body.trim() === "")
      throw new MeshError("message_empty", "there is nothing in it that could be typed");
    this.#isSubmitting = true;
    try {
      await this.#screen.settled();
      this.#refuseIfEnded();
      this.#screen.record();
      this.#prompt = this.#screen.view().beforeCursor;
      const echo = echoOf(body);
      const { profile, clock } = this.#options;
      if (couldMislead(profile, echo)) this.#echoes = [...this.#echoes, echo].slice(-injectedTextsKept);
      this.#submission = { echo, outputBytesBefore: this.#outputBytes, atMs: clock.monotonicMs() };
      if (profile.paste) await this.#paste(body, echo, this.#submission);
      else await this.#writeAll(`${body}\n`);
      this.#refuseIfEnded();
      this.#lastEcho = echo;
    } catch (error) {
      this.#submission = undefined;
      throw error;
    } finally {
      this.#isSubmitting = false;
      this.#told = undefined;
      // What waits for this text to be handed over goes first.
      this.#lookLater(screenLookEveryMs);
    }
  }

  /** Enter right behind a paste is swallowed by some agents: it is pressed when the text is there, and again until it is gone. */
  async #paste(body: string, echo: Echo, submission: Submission): Promise<void> {
    const { profile, clock } = this.#options;
    await this.#writeAll(pasteBegin + body + pasteEnd);
    const isThere = (): boolean => isUnsubmitted(profile, this.#screen.view(), echo);
    await this.#watch(isThere, pasteShownMsMax);
    for (let press = 1; press <= submitsMax; press++) {
      submission.outputBytesBefore = this.#outputBytes;
      submission.atMs = clock.monotonicMs();
      await this.#writeAll(enter);
      const isTaken = (): boolean => this.#outputBytes > submission.outputBytesBefore && !isThere();
      const isWorking = (): boolean => this.#recognised().sight === "working";
      await this.#watch(() => isWorking() || isTaken(), submitShownMs);
      if (isWorking() || !isThere()) return;
      this.#refuseIfEnded();
    }
    throw new MeshError(
      "agent_busy",
      `the agent did not take the text, though Enter was pressed ${submitsMax} times`,
    );
  }

  #recognised(): Recognised {
    return recognise(this.#options.profile, this.#screen.view(), this.#echoes, this.#wasIdle);
  }

  /** Waits until the screen, whenever it was looked at, is as wanted; not for ever. */
  #watch(isAsWanted: () => boolean, timeoutMs: number): Promise<void> {
    if (isAsWanted()) return Promise.resolve();
    return new Promise((resolve) => {
      const end = (): void => {
        timer.cancel();
        this.#watchers.delete(watcher);
        resolve();
      };
      const watcher = (): void => {
        if (this.#hasEnded || isAsWanted()) end();
      };
      const timer = this.#options.clock.after(timeoutMs, end);
      this.#watchers.add(watcher);
    });
  }

  #changed(): void {
    for (const watcher of [...this.#watchers]) watcher();
  }

  #refuseIfEnded(): void {
    if (this.#hasEnded) throw new MeshError("agent_failed", "the agent has ended");
  }

  type(bytes: Uint8Array): boolean {
    if (this.#typedBytes <= typedBytesMax) this.#write(bytes);
    return true;
  }

  interrupt(): void {
    this.#write(Buffer.from(interruptKey));
  }

  /** Resolves when the terminal has all of it. */
  async #writeAll(text: string): Promise<void> {
    this.#refuseIfEnded();
    const written = Promise.withResolvers<void>();
    this.#written = written;
    this.#write(Buffer.from(text));
    const tooLong = Promise.withResolvers<boolean>();
    const timer = this.#options.clock.after(terminalWriteMsMax, () => tooLong.resolve(true));
    const isTooLong = await Promise.race([written.promise.then(() => false), tooLong.promise]);
    timer.cancel();
    this.#refuseIfEnded();
    if (!isTooLong) return;
    throw new MeshError(
      "timed_out",
      `the agent did not read what was typed within ${terminalWriteMsMax / 1000} s`,
    );
  }

  #write(bytes: Uint8Array): void {
    if (this.#hasEnded) return;
    this.#typedBytes += bytes.length;
    this.#terminal.write(bytes);
  }

  #drained(): void {
    this.#typedBytes = 0;
    this.#written?.resolve();
    this.#written = undefined;
  }

  // ── Reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  async response(): Promise<string> {
    await this.#screen.settled();
    const printed = this.#screen.recorded();
    this.#screen.stopRecording();
    return answerOf(
      this.#options.profile,
      { ...printed, prompt: this.#prompt },
      this.#lastEcho ?? echoOf(""),
    );
  }

  async capture(lastLines: number | null): Promise<Capture> {
    await this.#screen.settled();
    return this.#screen.capture(lastLines);
  }

  snapshot(isComplete: boolean): Promise<string> {
    return this.#screen.snapshot(isComplete);
  }

  resize(rows: number, cols: number): void {
    this.#screen.resize(rows, cols);
    if (!this.#hasEnded) this.#terminal.resize(cols, rows);
  }

  close(): void {
    this.#look?.cancel();
    this.#flow?.close();
    if (!this.#terminal.closed) this.#terminal.close();
  }
}

const signalName = (signal: NodeJS.Signals | number | null): string | null =>
  signal === null ? null : String(signal);

const termName = "xterm-256color";

const cannotStart = ([program = ""]: readonly string[], error: unknown): MeshError =>
  new MeshError("agent_failed", `${program} cannot be started: ${systemCodeOf(error) ?? messageOf(error)}`, {
    hint: "Is it installed, and on the PATH?",
    cause: error,
  });
