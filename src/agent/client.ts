/**
 * A shim as its orchestrator sees it: commands to it, events from it, questions with their answers. Nothing here waits without a bound,
 * and nothing but the shim's own end ends the client: silence is told (liveness.ts), and a connection that broke is made anew where
 * that is possible. Only a socket that nobody listens at, or the end of the process, proves that a shim is dead.
 */
import { Channel, type ChannelEnd, type StreamSocket } from "~/agent/channel";
import { withRareHeapChecks } from "~/agent/heap-checks";
import { freshLiveness, type Liveness, type LivenessEvent, stepLiveness } from "~/agent/liveness";
import { type Clock, pause, type Timer } from "~/clock";
import { asMeshError, MeshError, messageOf, systemCodeOf } from "~/errors";
import { encodeShimWord, encodeTerminalWord } from "~/wire/attachment";
import {
  reconnectDelaysMs,
  shimAnswerMsMax,
  shimFrameBytesMax,
  shimWaitingBytesMax,
  shimWriteTimeoutMs,
} from "~/wire/limits";
import { attachmentSocket, checkSocketPath } from "~/wire/paths";
import {
  encodeCommand,
  parseEvent,
  type ShimCommandInput,
  type ShimEvent,
  type ShimEventName,
} from "~/wire/shim";

type EventOf<Name extends ShimEventName> = Extract<ShimEvent, { event: Name }>;
type Shutdown = Extract<ShimCommandInput, { cmd: "Shutdown" }>;

export interface ShimDeath {
  /** A sentence about how it was noticed. */
  why: string;
  /** Of the shim's process, where it is our child; null when a signal ended it. */
  exitStatus?: number | null;
}

export interface ShimClientOptions {
  clock: Clock;
  /** Every event in order, answers too; all that one read brought, before anything else happens. */
  event(event: ShimEvent): void;
  /** What a person should know: silence, its end, a broken connection, what could not be understood. */
  warning(message: string): void;
  /** Once, unless `close` was called before. */
  dead(death: ShimDeath): void;
}

export interface ShimClient {
  readonly isStale: boolean;
  readonly isDead: boolean;
  /** Resolves when the shim's socket has taken the command. Rejects with `answer_lost`, `timed_out`, `limit_reached` or `frame_too_large`. */
  send(command: ShimCommandInput): Promise<void>;
  state(timeoutMs?: number): Promise<EventOf<"State">>;
  /** The last lines, or all of the screen. */
  capture(lastLines?: number | null, timeoutMs?: number): Promise<EventOf<"ScreenCapture">>;
  ping(timeoutMs?: number): Promise<void>;
  /** Resolves with what `wanted` makes of the first event that it accepts from now on. Rejects with what it throws, with `timed_out`, or `answer_lost` when the shim is dead. */
  next<T>(wanted: (event: ShimEvent) => T | undefined, timeoutMs: number): Promise<T>;
  shutdown(timeoutSecs: number, reason?: NonNullable<Shutdown["reason"]>): Promise<void>;
  kill(): Promise<void>;
  /** Ends the connection, and with it a shim that is not detached. */
  close(): void;
}

/** Makes a connection, and says what that proves when it cannot. */
type Connect = (handlers: SocketHandlers) => Promise<StreamSocket>;

interface SocketHandlers {
  data(bytes: Uint8Array): void;
  drained(): void;
  closed(): void;
}

// ── Ways to a shim ──────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * The shim that listens at `path`. Throws `no_such_agent` when nobody does, `not_allowed`, `agent_busy`; `socket_path_too_long`.
 * `isLasting`: a connection that breaks is made anew, for as long as it takes. `isPassing`: for a person's command, which keeps nothing
 * from the orchestrator; throws `timed_out`, too.
 */
export async function attachShim(
  path: string,
  options: ShimClientOptions,
  { isLasting, isPassing = false }: { isLasting: boolean; isPassing?: boolean },
): Promise<ShimClient> {
  const socket = isPassing ? attachmentSocket(path) : path;
  checkSocketPath(socket);
  const connect: Connect = (handlers) =>
    isPassing ? connectPassing(socket, handlers, options.clock) : connectTo(socket, handlers);
  const client = new Client(options, connect, isLasting ? "connect_again" : "it_is_over");
  await client.begin();
  return client;
}

export interface SpawnedShim extends ShimClient {
  readonly pid: number;
  /** Resolves with its exit status; null when a signal ended it. */
  readonly exited: Promise<number | null>;
}

export interface SpawnShimOptions extends ShimClientOptions {
  /** The words that run this executable: `[claudemesh]`, and the main module when run from source. */
  executable: readonly string[];
  /** What follows `shim --fd 3`: `--profile`, `--cwd`, and after `--` the agent's own command line. */
  args: readonly string[];
  env: Readonly<Record<string, string | undefined>>;
  cwd: string;
  /** Where the shim writes what went wrong: a descriptor that is open for writing; nowhere when left out. */
  stderr?: number;
}

/** A shim of our own at the other end of a socket pair. It ends when we do. Throws `internal` when it cannot be started. */
export async function spawnShim(options: SpawnShimOptions): Promise<SpawnedShim> {
  const { executable, args, env, cwd, stderr = "ignore", ...clientOptions } = options;
  const child = started(() =>
    Bun.spawn([...executable, "shim", "--fd", "3", ...args], {
      env: withRareHeapChecks(env),
      cwd,
      stdio: ["ignore", "ignore", stderr, "pipe"],
      // A Ctrl-C at the orchestrator's terminal is the orchestrator's to pass on.
      detached: true,
    }),
  );
  const fd = child.stdio[3];
  if (typeof fd !== "number") throw new MeshError("internal", "the shim has no socket to speak on");
  const exited = child.exited.then(() => child.exitCode);
  const client = new Client(clientOptions, (handlers) => connectOver(fd, handlers), "child_ends");
  await client.begin();
  void exited.then((status) => client.childEnded(status));
  return Object.assign(client, { pid: child.pid, exited });
}

function started<Child>(start: () => Child): Child {
  try {
    return start();
  } catch (error) {
    throw new MeshError("internal", `no shim can be started: ${messageOf(error)}`, {
      hint: "Is the executable still there, and the directory in which the shim is to start?",
      cause: error,
    });
  }
}

const connectTo: (path: string, handlers: SocketHandlers) => Promise<StreamSocket> = async (
  path,
  handlers,
) => {
  try {
    return await Bun.connect({ unix: path, socket: bunHandlers(handlers) });
  } catch (error) {
    throw connectionFailure(path, error);
  }
};

/** Where terminals attach, the connection has to be asked for; what comes after the answer is the shim's. */
async function connectPassing(path: string, handlers: SocketHandlers, clock: Clock): Promise<StreamSocket> {
  const answer = encodeShimWord({ is: "driving" });
  const driving = Promise.withResolvers<void>();
  // It may be over before anybody waits for it.
  driving.promise.catch(() => undefined);
  let read = Buffer.alloc(0);
  let isDriving = false;
  const socket = await connectTo(path, {
    data(bytes) {
      if (isDriving) return handlers.data(bytes);
      read = Buffer.concat([read, bytes]);
      if (read.length < answer.length) return;
      isDriving = true;
      driving.resolve();
      if (read.length > answer.length) handlers.data(read.subarray(answer.length));
    },
    drained: () => handlers.drained(),
    closed() {
      driving.reject(new MeshError("no_such_agent", `nobody answers on ${path} any more`));
      if (isDriving) handlers.closed();
    },
  });
  const timer = clock.after(shimAnswerMsMax, () => driving.reject(notInTime(shimAnswerMsMax)));
  try {
    socket.write(encodeTerminalWord({ do: "drive" }));
    await driving.promise;
    return socket;
  } catch (error) {
    socket.terminate();
    throw error;
  } finally {
    timer.cancel();
  }
}

const connectOver = (fd: number, handlers: SocketHandlers): Promise<StreamSocket> =>
  Bun.connect({ fd, socket: bunHandlers(handlers) });

const bunHandlers = ({ data, drained, closed }: SocketHandlers) => ({
  data: (_: unknown, bytes: Uint8Array) => data(bytes),
  drain: () => drained(),
  end: () => closed(),
  close: () => closed(),
  error: () => closed(),
});

/** ENOENT and ECONNREFUSED prove that nobody listens; nothing else does. */
export function connectionFailure(path: string, error: unknown): MeshError {
  const code = systemCodeOf(error);
  const extras = { cause: error, details: { socket: path } };
  switch (code) {
    case "ENOENT":
    case "ECONNREFUSED":
      return new MeshError("no_such_agent", `nobody listens on ${path}`, {
        ...extras,
        hint: "See which agents there are: claudemesh agent list",
      });
    case "EACCES":
    case "EPERM":
      return new MeshError("not_allowed", `may not connect to ${path} (${code})`, {
        ...extras,
        hint: "It belongs to another user, or a sandbox forbids Unix sockets.",
      });
    default:
      return new MeshError("agent_busy", `cannot connect to ${path} (${code ?? messageOf(error)})`, {
        ...extras,
        hint: "Try again in a moment.",
      });
  }
}

// ── The client ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** A question keeps its place when nobody waits for it any more: its answer still comes before that of the next one. */
interface Question {
  answer: (event: ShimEvent) => void;
  fail: (error: MeshError) => void;
}

interface Waiter {
  offer(event: ShimEvent): void;
  fail(error: MeshError): void;
}

/** Which command an event answers; an `Error` names the command itself. */
const answeredBy: Partial<Record<ShimEventName, string>> = {
  State: "GetState",
  ScreenCapture: "CaptureScreen",
  Pong: "Ping",
};
const questionsMax = 64;
/** How long a shim of ours may take to end when its connection has: its agent has 2 s after TERM. */
const childEndMsMax = 15_000;

/** When it has ended: how long the end of its connection, and what it said before, may take to arrive. */
const lastWordsMsMax = 1_000;

/** What follows the end of a connection that we did not end. */
type AfterEnd = "connect_again" | "it_is_over" | "child_ends";

class Client implements ShimClient {
  readonly #options: ShimClientOptions;
  readonly #connect: Connect;
  readonly #afterEnd: AfterEnd;
  readonly #closing = new AbortController();
  readonly #waiters = new Set<Waiter>();
  readonly #passedOver = new Set<string>();
  #questions = new Map<string, Question[]>();
  #channel: Channel | undefined;
  #liveness: Liveness;
  #timer: Timer | undefined;
  /** Of the child, whose connection has not ended yet. */
  #exit: ShimDeath | undefined;
  #death: ShimDeath | undefined;
  /** Why there is no connection any more. */
  #lastEnd: string | undefined;
  /** Why the shim does not want this one. */
  #refusal: string | undefined;

  constructor(options: ShimClientOptions, connect: Connect, afterEnd: AfterEnd) {
    this.#options = options;
    this.#connect = connect;
    this.#afterEnd = afterEnd;
    this.#liveness = freshLiveness(options.clock.monotonicMs());
  }

  get isStale(): boolean {
    return this.#liveness.isStale;
  }

  get isDead(): boolean {
    return this.#death !== undefined;
  }

  async begin(): Promise<void> {
    const { clock } = this.#options;
    const early: (() => void)[] = [];
    let channel: Channel | undefined;
    // What comes before the socket is in our hands waits for it.
    const later = (action: (open: Channel) => void): void => {
      if (channel === undefined) early.push(() => channel !== undefined && action(channel));
      else action(channel);
    };
    const socket = await this.#connect({
      data(bytes) {
        const copy = channel === undefined ? bytes.slice() : bytes;
        later((open) => open.data(copy));
      },
      drained: () => later((open) => open.drained()),
      closed: () => later((open) => open.closed()),
    });
    channel = new Channel({
      socket,
      clock,
      frameBytesMax: shimFrameBytesMax,
      writeTimeoutMs: shimWriteTimeoutMs,
      waitingBytesMax: shimWaitingBytesMax,
      received: (payload) => this.#received(payload),
      ended: (end) => this.#ended(end),
    });
    if (this.#closing.signal.aborted) {
      channel.close();
      return;
    }
    this.#channel = channel;
    this.#liveness = freshLiveness(clock.monotonicMs());
    this.#judge("tick");
    for (const action of early.splice(0)) action();
  }

  async send(command: ShimCommandInput): Promise<void> {
    const frame = encodeCommand(command);
    if (this.#channel === undefined) throw this.#gone();
    await this.#channel.send(frame);
  }

  state(timeoutMs?: number): Promise<EventOf<"State">> {
    return this.#ask({ cmd: "GetState" }, "State", timeoutMs);
  }

  capture(lastLines: number | null = null, timeoutMs?: number): Promise<EventOf<"ScreenCapture">> {
    return this.#ask({ cmd: "CaptureScreen", last_n_lines: lastLines }, "ScreenCapture", timeoutMs);
  }

  async ping(timeoutMs?: number): Promise<void> {
    await this.#ask({ cmd: "Ping" }, "Pong", timeoutMs);
  }

  next<T>(wanted: (event: ShimEvent) => T | undefined, timeoutMs: number): Promise<T> {
    if (this.isDead || this.#closing.signal.aborted) return Promise.reject(this.#gone());
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const finish = (): void => {
      this.#waiters.delete(waiter);
      timer.cancel();
    };
    const waiter: Waiter = {
      offer(event) {
        try {
          const found = wanted(event);
          if (found === undefined) return;
          finish();
          resolve(found);
        } catch (error) {
          finish();
          reject(error);
        }
      },
      fail(error) {
        finish();
        reject(error);
      },
    };
    const timer = this.#options.clock.after(timeoutMs, () => waiter.fail(notInTime(timeoutMs)));
    this.#waiters.add(waiter);
    return promise;
  }

  shutdown(timeoutSecs: number, reason: NonNullable<Shutdown["reason"]> = "requested"): Promise<void> {
    return this.send({ cmd: "Shutdown", timeout_secs: timeoutSecs, reason });
  }

  kill(): Promise<void> {
    return this.send({ cmd: "Kill" });
  }

  close(): void {
    this.#closing.abort();
    this.#timer?.cancel();
    this.#channel?.close();
    this.#fail(this.#gone());
  }

  childEnded(status: number | null): void {
    const why = status === null ? "a signal ended the shim" : `the shim ended with status ${status}`;
    this.#exit = { why, exitStatus: status };
    if (this.#channel === undefined) this.#die(this.#exit);
    // What it said last may still be on its way, to be followed by the end of the connection.
    else this.#options.clock.after(lastWordsMsMax, () => this.#die({ why, exitStatus: status }));
  }

  // ── What comes ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #received(payload: Uint8Array): void {
    const parsed = parseEvent(payload);
    if (!parsed.ok) {
      // A newer shim may have more to say than we know; that is no reason to stop listening.
      this.#passOver(parsed.name, parsed.reason);
      return;
    }
    const event = parsed.value;
    if (event.event === "Pong") this.#judge("pong");
    if (event.event === "Error" && event.command === "connect")
      this.#refusal = `the shim refused the connection: ${event.reason}`;
    const command = event.event === "Error" ? event.command : answeredBy[event.event];
    const question = command === undefined ? undefined : this.#questions.get(command)?.shift();
    question?.answer(event);
    for (const waiter of [...this.#waiters]) waiter.offer(event);
    try {
      this.#options.event(event);
    } catch (error) {
      // A mistake of ours, and loud; but what came with this event in one read is not lost for it.
      this.#options.clock.soon(() => {
        throw error;
      });
    }
  }

  /** Tells it once for each kind: there may be many. */
  #passOver(name: string | undefined, reason: string): void {
    const kind = name ?? "what is no event";
    if (this.#passedOver.has(kind) || this.#passedOver.size >= questionsMax) return;
    this.#passedOver.add(kind);
    this.#options.warning(`passed over ${kind}: ${reason}`);
  }

  #ask<Name extends ShimEventName>(
    command: ShimCommandInput,
    name: Name,
    timeoutMs = shimAnswerMsMax,
  ): Promise<EventOf<Name>> {
    const { promise, resolve, reject } = Promise.withResolvers<EventOf<Name>>();
    const questions = this.#questions.get(command.cmd) ?? [];
    if (questions.length >= questionsMax) {
      return Promise.reject(
        new MeshError("limit_reached", `the shim has not answered ${questionsMax} times ${command.cmd}`),
      );
    }
    const timer = this.#options.clock.after(timeoutMs, () => reject(notInTime(timeoutMs)));
    const fail = (error: MeshError): void => {
      timer.cancel();
      reject(error);
    };
    const question: Question = {
      answer: (event) => {
        if (event.event === "Error") return fail(new MeshError("agent_failed", event.reason));
        timer.cancel();
        if (isNamed(event, name)) resolve(event);
      },
      fail,
    };
    questions.push(question);
    this.#questions.set(command.cmd, questions);
    this.send(command).catch((error: unknown) => {
      // It was never asked, so that no answer comes.
      const at = questions.indexOf(question);
      if (at !== -1) questions.splice(at, 1);
      fail(asMeshError(error));
    });
    return promise;
  }

  // ── Whether it is there ─────────────────────────────────────────────────────────────────────────────────────────────

  #judge(event: LivenessEvent): void {
    const { clock, warning } = this.#options;
    const nowMs = clock.monotonicMs();
    const { next, effects, tickAtMs } = stepLiveness(this.#liveness, event, nowMs);
    this.#liveness = next;
    this.#timer?.cancel();
    this.#timer = clock.after(tickAtMs - nowMs, () => this.#judge("tick"));
    for (const effect of effects) {
      if (effect.kind === "became_stale")
        warning(`no answer for ${seconds(effect.silentMs)} s; it is asked again and again`);
      else if (effect.kind === "came_back") warning(`it answers again, after ${seconds(effect.silentMs)} s`);
      // One that cannot be sent ends the connection, which is told by its end.
      else this.send({ cmd: "Ping" }).catch(() => undefined);
    }
  }

  #ended(end: ChannelEnd): void {
    const why = this.#refusal ?? describeEnd(end);
    this.#refusal = undefined;
    this.#lastEnd = why;
    this.#channel = undefined;
    this.#timer?.cancel();
    if (this.#closing.signal.aborted || this.isDead) return;
    if (this.#exit !== undefined) {
      this.#die(this.#exit);
      return;
    }
    this.#fail(this.#gone());
    switch (this.#afterEnd) {
      case "it_is_over":
        this.#die({ why });
        return;
      case "child_ends":
        this.#timer = this.#options.clock.after(childEndMsMax, () => this.#die({ why }));
        return;
      case "connect_again":
        this.#options.warning(`${why}; connecting again`);
        void this.#reconnect();
    }
  }

  /** Until somebody answers, or nobody listens. */
  async #reconnect(): Promise<void> {
    const { clock, warning } = this.#options;
    const { signal } = this.#closing;
    for (let attempt = 0; !signal.aborted; attempt++) {
      // The first pause lets a shim that is ending remove its socket.
      await pause(clock, reconnectDelaysMs[Math.min(attempt, reconnectDelaysMs.length - 1)] ?? 0, signal);
      if (signal.aborted) return;
      try {
        await this.begin();
        if (!signal.aborted) warning("connected again; what it said meanwhile is not known");
        return;
      } catch (error) {
        if (error instanceof MeshError && error.code === "no_such_agent") {
          this.#die({ why: error.message });
          return;
        }
        warning(messageOf(error));
      }
    }
  }

  #die(death: ShimDeath): void {
    if (this.isDead || this.#closing.signal.aborted) return;
    this.#death = death;
    this.#timer?.cancel();
    this.#channel?.close();
    this.#channel = undefined;
    this.#fail(this.#gone());
    this.#options.dead(death);
  }

  /** Tells everybody who waits for something. */
  #fail(error: MeshError): void {
    const questions = [...this.#questions.values()].flat();
    this.#questions = new Map();
    for (const { fail } of questions) fail(error);
    for (const { fail } of [...this.#waiters]) fail(error);
  }

  #gone(): MeshError {
    const why = this.#death?.why ?? this.#lastEnd ?? "it was closed";
    return new MeshError("answer_lost", `no connection to the shim: ${why}`);
  }
}

const isNamed = <Name extends ShimEventName>(event: ShimEvent, name: Name): event is EventOf<Name> =>
  event.event === name;

const seconds = (ms: number): number => Math.round(ms / 1000);

const notInTime = (timeoutMs: number): MeshError =>
  new MeshError("timed_out", `the shim did not answer within ${timeoutMs / 1000} s`);

function describeEnd(end: ChannelEnd): string {
  switch (end.kind) {
    case "clean":
      return "the shim ended the connection";
    case "inside_frame":
      return "the connection broke inside a frame";
    case "too_large":
      return `the shim announced a frame of ${end.bytes} bytes, which is too long`;
    case "not_written":
      return end.error.message;
  }
}
