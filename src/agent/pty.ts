/**
 * Hosts an agent in a pseudo-terminal: reads its screen by the rules of a profile, types into it, and makes sure that what was typed was
 * taken. Output is taken in as fast as the screen can follow; beyond that the agent waits, and nothing is lost.
 */
import { type Echo, echoOf, pasteable, typeable } from "~/agent/echo";
import { commandWith, type Profile } from "~/agent/profile";
import { cannotStart, checkDirectory } from "~/agent/program";
import {
  couldMislead,
  draftIn,
  inputOf,
  isUnsubmitted,
  keysFor,
  type Recognised,
  recognise,
} from "~/agent/recognition";
import { answerOf } from "~/agent/response";
import type { Capture, Runtime, RuntimeEvents } from "~/agent/runtime";
import { openScreen, type Screen } from "~/agent/screen";
import { openWithFlow, type TerminalFlow } from "~/agent/terminal-flow";
import type { Clock, Timer } from "~/clock";
import { MeshError, messageOf } from "~/errors";
import {
  agentUnreadMs,
  dialogAnswersMax,
  dialogPauseMs,
  draftKeyMs,
  draftLinesMax,
  draftLookMs,
  injectedTextsKept,
  interruptPauseMs,
  lastOutputMsMax,
  lastOutputQuietMs,
  pasteQuietMs,
  pasteShownMsMax,
  questionLookMs,
  screenLookEveryMs,
  screenSettleMsMax,
  submitShownMs,
  submitsMax,
  terminalLineBytesMax,
  terminalWaitingBytesHigh,
  terminalWaitingBytesLow,
  typedBytesHigh,
  typedBytesMax,
  unreadAnswerBytesMax,
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
  /** Whether what the agent has just asked its terminal is answered here, and not by a terminal that is attached. */
  answersQueries(): boolean;
  /** Whether a person sees the agent, whose it is then to answer what it asks at its start. */
  isAttended(): boolean;
}

/** Throws `agent_failed` when the program or the directory is not there. */
export async function startPty(options: PtyOptions): Promise<Runtime> {
  checkDirectory(options.cwd);
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

/** One text on its way to the agent. */
interface Submission {
  echo: Echo;
  outputBytesBefore: number;
  atMs: number;
}

const enter = "\r";
const keyBytesMax = 256;
const interruptKey = "\x03";
const deleteLineKey = "\x15";
/** Of a draft that is deleted, in the warning that says so. */
const draftCharsMax = 200;
const [pasteBegin, pasteEnd] = ["\x1b[200~", "\x1b[201~"];

class PtyRuntime implements Runtime {
  readonly pid: number;
  readonly #options: PtyOptions;
  readonly #screen: Screen;
  readonly #terminal: Bun.Terminal;
  readonly #flow: TerminalFlow | undefined;
  #isStopped = false;
  #isHeld = false;
  #outputBytes = 0;
  #outputMs: number;
  #hasEnded = false;
  #asking: Timer | undefined;
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
  #question: string | undefined;
  #wasIdle = false;
  #dialogs = { answers: 0, atMs: Number.NEGATIVE_INFINITY };
  #lookedMs = Number.NEGATIVE_INFINITY;
  #look: Timer | undefined;
  #lookAtMs = Number.POSITIVE_INFINITY;

  /** Typed and not yet taken by the terminal. */
  #typedBytes = 0;
  #written: { promise: Promise<void>; resolve(): void } | undefined;
  /** For whoever waits with more until the agent has read what was typed. */
  #read: { promise: Promise<void>; resolve(): void } | undefined;
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
    const { command, cwd, env, rows, cols, profile } = this.#options;
    try {
      return Bun.spawn([...commandWith(profile, command)], {
        cwd,
        env: { ...profile.env, ...env, TERM: termName },
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
      throw cannotStart(command[0] ?? "", error);
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
    this.#screen.write(bytes, this.#options.answersQueries());
    this.#regulate();
  }

  hold(isHeld: boolean): void {
    this.#isHeld = isHeld;
    this.#regulate();
  }

  #regulate(): void {
    const waitingBytesMax = this.#isStopped ? terminalWaitingBytesLow : terminalWaitingBytesHigh;
    const isStopped = this.#isHeld || this.#screen.waitingBytes > waitingBytesMax;
    if (isStopped === this.#isStopped) return;
    this.#isStopped = isStopped;
    if (isStopped) this.#flow?.stop();
    else this.#flow?.resume();
  }

  tookIn(waitingBytes: number): void {
    this.#regulate();
    const sinceMs = this.#options.clock.monotonicMs() - this.#lookedMs;
    if (sinceMs >= screenLookEveryMs) this.#lookNow();
    else if (waitingBytes === 0) this.#lookLater(screenLookEveryMs - sinceMs);
  }

  /** Who is given whole lines waits for no answer, and nobody for very many: something that is not text was printed. */
  answer(text: string): void {
    if (this.#hasEnded || this.#typedBytes > unreadAnswerBytesMax || this.#flow?.givesLines()) return;
    this.#write(Buffer.from(text));
  }

  async #awaitEnd(agent: Bun.Subprocess): Promise<void> {
    await agent.exited;
    this.#hasEnded = true;
    // From here on the terminal ends with the last of those who hold it. Who goes on holding it is not waited for long.
    this.#flow?.close();
    await Promise.race([this.#sawEnd.promise, this.#quiet()]);
    // Its end is told, whatever has become of the screen.
    await this.#settled().catch((error: unknown) => this.#options.events.warning(messageOf(error)));
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
    if (!isAsked) this.#tellQuestion(seen.question);
    if (!this.#isSubmitting && !isAsked) this.#tellSight(this.#isTypedAt ? busyWith(seen) : seen);
    this.#changed();
  }

  /** Somebody is about to say something to the agent himself. */
  get #isTypedAt(): boolean {
    if (this.#options.answersQueries() || this.#draft === "") return false;
    // That he has left is not seen on the screen.
    this.#lookLater(draftLookMs);
    return true;
  }

  get #draft(): string {
    return draftIn(this.#options.profile, this.#screen.view());
  }

  #tellQuestion(question: string | undefined): void {
    const isNew = question !== undefined && question !== this.#question;
    this.#question = question;
    if (isNew)
      this.#options.events.warning(`the agent asks something that a person has to answer: ${question}`);
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

  /** How long it takes until a prompt is to be believed: some show one while they start, and ask something instead. */
  #unsettledMs(quietMs: number): number {
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
    const { profile, events, isAttended } = this.#options;
    if (profile.dialogs.length === 0 || this.#dialogs.answers >= dialogAnswersMax || isAttended())
      return false;
    const { lines } = this.#screen.view();
    const text = lines.join(" ").replace(/\s+/gu, " ");
    for (const dialog of profile.dialogs) {
      const [asked] = dialog.when.exec(text) ?? [];
      if (asked === undefined) continue;
      const leftMs = dialogPauseMs - (this.#lookedMs - this.#dialogs.atMs);
      this.#lookLater(leftMs > 0 ? leftMs : dialogPauseMs);
      const keys = leftMs > 0 ? undefined : keysFor(dialog, lines);
      if (keys === undefined) return true;
      this.#dialogs = { answers: this.#dialogs.answers + 1, atMs: this.#lookedMs };
      if ("keys" in dialog || keys === enter) events.warning(`answered a question at the start: ${asked}`);
      this.#write(Buffer.from(keys));
      return true;
    }
    return false;
  }

  // ── Input ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  async submit(text: string): Promise<void> {
    const typed = typeable(text);
    const body = this.#options.profile.paste ? pasteable(typed) : typed;
    if (body.trim() === "")
      throw new MeshError("message_empty", "there is nothing in it that could be typed");
    this.#isSubmitting = true;
    try {
      await this.#settled();
      this.#refuseIfEnded();
      if (!this.#options.profile.paste) this.#refuseLongLines(body);
      await this.#clearInput();
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

  /** What was left there would become a part of the text, unless he who typed it is still there. */
  async #clearInput(): Promise<void> {
    const left = this.#draft;
    if (left === "") return;
    while (this.#draft !== "" && !this.#options.answersQueries()) {
      await this.#watch(() => this.#draft === "", draftLookMs);
      this.#refuseIfEnded();
    }
    // Each takes a line, or the end of the one before; what stays was never a draft.
    for (let press = 0; press < draftLinesMax; press++) {
      const before = this.#draft;
      if (before === "") break;
      this.#write(Buffer.from(deleteLineKey));
      await this.#watch(() => this.#draft !== before, draftKeyMs);
      this.#refuseIfEnded();
      if (this.#draft === before) return;
    }
    this.#options.events.warning(
      `deleted what was left in the agent's input: ${left.trim().slice(0, draftCharsMax)}`,
    );
  }

  /** Enter right behind a paste is swallowed by some agents: it is pressed when the text is there, and again until it is gone. */
  async #paste(body: string, echo: Echo, submission: Submission): Promise<void> {
    const { profile, clock } = this.#options;
    const isThere = (): boolean => isUnsubmitted(profile, this.#screen.view(), echo);
    do {
      await this.#writeAll(pasteBegin + body + pasteEnd);
      await this.#watch(isThere, pasteShownMsMax);
      await this.#untilQuiet();
      // What was pasted into a question is gone, where it was not there before.
    } while ((await this.#wasAsked()) && profile.prompt !== undefined && !isThere());
    for (let press = 1; press <= submitsMax; press++) {
      await this.#wasAsked();
      submission.outputBytesBefore = this.#outputBytes;
      submission.atMs = clock.monotonicMs();
      await this.#writeAll(enter);
      const isTaken = (): boolean => this.#outputBytes > submission.outputBytesBefore && !isThere();
      const isWorking = (): boolean => this.#recognised().sight === "working";
      await this.#watch(() => isWorking() || isTaken(), submitShownMs);
      if (isWorking() || !isThere()) return;
      this.#refuseIfEnded();
    }
    // Left in the input, it would reach the agent all the same, together with the next one.
    this.#write(Buffer.from(interruptKey));
    await this.#watch(() => !isThere(), submitShownMs);
    throw new MeshError(
      "agent_busy",
      `the agent did not take the text, though Enter was pressed ${submitsMax} times`,
    );
  }

  /** Some can be seen to have a paste while they are still busy with it, and lose it when Enter comes. */
  async #untilQuiet(): Promise<void> {
    const { clock } = this.#options;
    const startMs = clock.monotonicMs();
    for (let nowMs = startMs; nowMs - startMs < pasteShownMsMax; nowMs = clock.monotonicMs()) {
      const leftMs = this.#outputMs + pasteQuietMs - nowMs;
      if (leftMs <= 0) return;
      await this.#watch(() => false, leftMs);
      this.#refuseIfEnded();
    }
  }

  /** Waits until the agent asks nothing that a person has to answer, for Enter would be an answer. */
  async #wasAsked(): Promise<boolean> {
    const isAsking = (): boolean => this.#recognised().question !== undefined;
    const wasAsked = isAsking();
    while (isAsking()) {
      await this.#watch(() => !isAsking(), questionLookMs);
      this.#refuseIfEnded();
    }
    return wasAsked;
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

  whenRead(): Promise<void> | undefined {
    if (this.#typedBytes <= typedBytesHigh) return undefined;
    this.#read ??= Promise.withResolvers();
    return this.#read.promise;
  }

  interrupt(): void {
    this.#write(Buffer.from(interruptKey));
  }

  askToEnd(): void {
    const { profile, clock } = this.#options;
    const press = (left: number): void => {
      this.interrupt();
      if (left > 1) this.#asking = clock.after(interruptPauseMs, () => press(left - 1));
    };
    this.#asking?.cancel();
    press(profile.interrupts);
  }

  /** Where whole lines are given, the terminal itself drops what is beyond its length, without a word. */
  #refuseLongLines(body: string): void {
    if (!this.#flow?.givesLines()) return;
    const max = process.platform === "darwin" ? terminalLineBytesMax.darwin : terminalLineBytesMax.linux;
    const long = body.split("\n").find((line) => Buffer.byteLength(line) > max);
    if (long === undefined) return;
    throw new MeshError(
      "message_too_large",
      `it has a line of ${Buffer.byteLength(long)} bytes; this agent's terminal takes lines of ${max} at most`,
    );
  }

  /**
   * Resolves when the terminal has all of it. An agent that does not read may do so at any time, and nothing takes back what was typed:
   * only its end means that it will never have the text.
   */
  async #writeAll(text: string): Promise<void> {
    this.#refuseIfEnded();
    const { clock, events } = this.#options;
    const written = Promise.withResolvers<void>();
    this.#written = written;
    this.#write(Buffer.from(text));
    const timer = clock.after(agentUnreadMs, () => {
      events.warning(`the agent has not read what was typed for ${agentUnreadMs / 1000} s; it is waited for`);
    });
    await written.promise;
    timer.cancel();
    this.#refuseIfEnded();
  }

  /**
   * A long text in two parts, for Bun tells when a terminal has taken something only where that was not at once: never for 4096 bytes
   * that were. A short last part always waits. What may be a key stays in one piece.
   */
  #write(bytes: Uint8Array): void {
    if (this.#hasEnded || this.#terminal.closed) return;
    this.#typedBytes += bytes.length;
    const end = bytes.length > keyBytesMax ? bytes.length - 1 : 0;
    if (end > 0) this.#terminal.write(bytes.subarray(0, end));
    this.#terminal.write(bytes.subarray(end));
  }

  #drained(): void {
    this.#typedBytes = 0;
    this.#written?.resolve();
    this.#written = undefined;
    this.#read?.resolve();
    this.#read = undefined;
  }

  // ── Reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Resolves when all that came is on the screen. Throws `timed_out`, rather than wait for ever for a screen that takes in nothing. */
  async #settled(): Promise<void> {
    // The emulator itself would take more than a turn of the event loop to say so, which each message would wait for.
    if (this.#screen.waitingBytes === 0) return;
    const late = Promise.withResolvers<never>();
    const timer = this.#options.clock.after(screenSettleMsMax, () => {
      late.reject(new MeshError("timed_out", "the agent's output is not taken in any more"));
    });
    await Promise.race([this.#screen.settled(), late.promise]);
    timer.cancel();
  }

  async response(): Promise<string> {
    await this.#settled();
    const printed = this.#screen.recorded();
    this.#screen.stopRecording();
    return answerOf(
      this.#options.profile,
      { ...printed, prompt: this.#prompt, input: inputOf(this.#options.profile, this.#screen.view()) },
      this.#lastEcho ?? echoOf(""),
    );
  }

  async capture(lastLines: number | null): Promise<Capture> {
    await this.#settled();
    return this.#screen.capture(lastLines);
  }

  snapshot(isComplete: boolean): Promise<string> {
    return this.#screen.snapshot(isComplete);
  }

  resize(rows: number, cols: number): void {
    this.#screen.resize(rows, cols);
    if (!this.#hasEnded && !this.#terminal.closed) this.#terminal.resize(cols, rows);
  }

  close(): void {
    this.#look?.cancel();
    this.#asking?.cancel();
    this.#flow?.close();
    if (!this.#terminal.closed) this.#terminal.close();
  }
}

const busyWith = (seen: Recognised): Recognised =>
  seen.sight === "idle" ? { ...seen, sight: "working", text: "somebody is typing" } : seen;

const signalName = (signal: NodeJS.Signals | number | null): string | null =>
  signal === null ? null : String(signal);

const termName = "xterm-256color";
