/**
 * The socket at which terminals attach to the agent of a detached shim: the screen as it is, then the agent's output as it comes, and
 * what is typed to the agent. Several may be attached; the agent has the size of the one that attached, was resized or typed last.
 * A terminal never holds the agent up: one that is too far behind is shown the screen as it is when it has caught up.
 */
import { chmodSync } from "node:fs";
import type { StreamSocket } from "~/agent/channel";
import { TerminalModes } from "~/agent/terminal-modes";
import type { Clock } from "~/clock";
import { removeFile } from "~/disk/file";
import { MeshError, messageOf } from "~/errors";
import {
  type AgentDescription,
  encodeBytes,
  encodeShimWord,
  readTerminalFrame,
  type ShimWord,
  type TerminalWord,
} from "~/wire/attachment";
import { FrameDecoder } from "~/wire/frame";
import {
  attachmentBacklogBytesMax,
  attachmentEndMsMax,
  attachmentFrameBytesMax,
  attachmentsMax,
} from "~/wire/limits";
import { checkSocketPath } from "~/wire/paths";

export interface AttachmentsOptions {
  /** Where to listen: `attachmentSocket` (wire/paths.ts) of a control socket that is ours already. */
  path: string;
  clock: Clock;
  describe(): Omit<AgentDescription, "terminals">;
  /** As `Runtime.snapshot`. */
  snapshot(isComplete: boolean): Promise<string>;
  /** As `Runtime.type`. */
  type(bytes: Uint8Array): boolean;
  /** As `Runtime.interrupt`: for Ctrl-C where there is no keyboard. */
  interrupt(): void;
  /** As `Runtime.resize`. */
  resize(rows: number, cols: number): void;
  /** The terminal that the agent was started in is gone and had not detached: the agent goes as its own terminal's end would have it. */
  abandoned(): void;
}

export interface AgentExit {
  code: number | null;
  signal: string | null;
}

export interface Attachments {
  /** Terminals now. While there is one, it answers what the agent asks its terminal (colours, cursor), so that nobody else should. */
  readonly terminals: number;
  /** To be told of all output, from the first byte on. */
  output(bytes: Uint8Array): void;
  /** All output was told. Who attaches from now on sees the last screen, and this. */
  ended(exit: AgentExit): void;
  /** Lets terminals take what waits for them, within a bounded time, and removes the socket. */
  close(): Promise<void>;
}

/** Throws `socket_path_too_long`, or `storage_failed` when the socket cannot be made. */
export function openAttachments(options: AttachmentsOptions): Attachments {
  const { path } = options;
  checkSocketPath(path);
  const hall = new Hall(options);
  // Whatever lies there is left over: who holds the control socket owns this place.
  removeFile(path);
  let listener: ReturnType<typeof listenOn>;
  try {
    listener = listenOn(path, hall);
    chmodSync(path, 0o600);
  } catch (error) {
    throw new MeshError("storage_failed", `cannot listen on ${path}: ${messageOf(error)}`, {
      hint: "Check the owner and permissions of its directory.",
      cause: error,
    });
  }
  return {
    get terminals() {
      return hall.terminals;
    },
    output: (bytes) => hall.output(bytes),
    ended: (exit) => hall.ended(exit),
    async close() {
      listener.stop(false);
      await hall.close();
      removeFile(path);
    },
  };
}

const listenOn = (path: string, hall: Hall) =>
  Bun.listen<Visitor>({
    unix: path,
    socket: {
      open(socket) {
        socket.data = hall.admit(socket);
      },
      data: (socket, bytes) => socket.data.received(bytes),
      drain: (socket) => socket.data.drained(),
      // A terminal that ends its direction is done.
      end: (socket) => socket.data.gone(),
      close: (socket) => socket.data.gone(),
      error: (socket) => socket.data.gone(),
    },
  });

/** Everybody who is connected, whether attached or only asking. */
export class Hall {
  readonly #options: AttachmentsOptions;
  readonly #visitors = new Set<Visitor>();
  readonly #modes = new TerminalModes();
  /** The terminal whose size the agent has. */
  #latest: Visitor | undefined;
  #exit: AgentExit | undefined;
  #emptied: (() => void) | undefined;
  /** Whether what the agent prints was meant for a terminal. */
  #isTerminal: boolean | undefined;

  constructor(options: AttachmentsOptions) {
    this.#options = options;
  }

  get terminals(): number {
    return [...this.#visitors].filter(({ isAttached }) => isAttached).length;
  }

  admit(socket: StreamSocket): Visitor {
    const visitor = new Visitor(socket, {
      word: (word) => this.#word(visitor, word),
      typed: (bytes) => this.#typed(visitor, bytes),
      screen: async (isComplete) => {
        // The modes as they are when the screen is taken, which is now: what comes later is sent later.
        const redo = this.#modes.redo();
        return (await this.#options.snapshot(isComplete)) + redo;
      },
      left: () => this.#left(visitor),
    });
    this.#visitors.add(visitor);
    return visitor;
  }

  output(bytes: Uint8Array): void {
    this.#isTerminal ??= this.#options.describe().runtime === "pty";
    // Without a terminal of its own, nobody has turned the agent's newlines into what a raw terminal needs.
    const shown = this.#isTerminal ? bytes : withReturns(bytes);
    this.#modes.feed(shown);
    for (const visitor of this.#visitors) if (visitor.isAttached) visitor.show(shown);
  }

  ended(exit: AgentExit): void {
    this.#exit = exit;
    for (const visitor of this.#visitors) if (visitor.isAttached) visitor.finish(endedWord(exit));
  }

  async close(): Promise<void> {
    if (this.#visitors.size === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#emptied = resolve;
    for (const visitor of this.#visitors) visitor.finish();
    const timer = this.#options.clock.after(attachmentEndMsMax, () => {
      for (const visitor of this.#visitors) visitor.drop();
    });
    await promise;
    timer.cancel();
  }

  #word(visitor: Visitor, word: TerminalWord): void {
    switch (word.do) {
      case "describe": {
        const description = { ...this.#options.describe(), terminals: this.terminals };
        visitor.say({ is: "description", description });
        return;
      }
      case "attach":
        if (visitor.isAttached) return;
        if (this.terminals >= attachmentsMax) {
          visitor.finish({ is: "refused", reason: `${attachmentsMax} terminals are attached already` });
          return;
        }
        visitor.size = word;
        this.#follow(visitor);
        visitor.attach(word.owner && this.#exit === undefined);
        if (this.#exit !== undefined) visitor.finish(endedWord(this.#exit));
        return;
      case "resize":
        visitor.size = word;
        if (visitor.isAttached) this.#resize(visitor);
        return;
      case "repaint":
        if (visitor.isAttached) visitor.repaint();
        return;
      case "detach":
        visitor.isOwner = false;
        visitor.finish();
        return;
    }
  }

  #typed(visitor: Visitor, bytes: Uint8Array): void {
    if (!visitor.isAttached || this.#exit !== undefined) return;
    // The agent has the answer of one terminal already.
    if (visitor !== this.#latest && isTerminalAnswer(bytes)) return;
    this.#follow(visitor);
    if (this.#options.type(bytes)) return;
    if (bytes.includes(interruptByte)) this.#options.interrupt();
    else visitor.sayOnce("this agent has no keyboard: claudemesh agent send");
  }

  #follow(visitor: Visitor): void {
    if (this.#latest !== visitor) this.#resize(visitor);
  }

  #resize(visitor: Visitor): void {
    this.#latest = visitor;
    if (visitor.size !== undefined) this.#options.resize(visitor.size.rows, visitor.size.cols);
  }

  #left(visitor: Visitor): void {
    this.#visitors.delete(visitor);
    if (this.#latest === visitor) this.#latest = undefined;
    if (visitor.isOwner && this.#exit === undefined && this.#emptied === undefined) this.#options.abandoned();
    if (this.#visitors.size === 0) this.#emptied?.();
  }
}

/** Ctrl-C. */
const interruptByte = 0x03;

const withReturns = (bytes: Uint8Array): Uint8Array =>
  Buffer.from(Buffer.from(bytes).toString("latin1").replaceAll("\n", "\r\n"), "latin1");

const endedWord = ({ code, signal }: AgentExit): ShimWord => ({
  is: "ended",
  exit_code: code,
  signal,
});

interface Reports {
  word(word: TerminalWord): void;
  typed(bytes: Uint8Array): void;
  screen(isComplete: boolean): Promise<string>;
  left(): void;
}

/**
 * One connection. What is to be shown waits in `#waiting` until the socket takes it. When too much would wait it is thrown away, but for
 * a frame that has gone in part, and the screen takes its place as soon as everything before it is gone (`#isBehind`).
 */
export class Visitor {
  readonly #socket: StreamSocket;
  readonly #reports: Reports;
  readonly #decoder = new FrameDecoder(attachmentFrameBytesMax);
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  /** Of the first one that waits. */
  #written = 0;
  #isBehind = false;
  /** A screen was asked for; what is shown meanwhile comes after it. */
  #meanwhile: { frames: Uint8Array[]; bytes: number; isTooMuch: boolean } | undefined;
  /** Set when nothing is to come but this and what waits. */
  #last: { word: ShimWord | undefined } | undefined;
  /** The last word is on its way, and the peer ends the connection. */
  #isLastSaid = false;
  #isGone = false;
  #said = new Set<string>();
  isAttached = false;
  isOwner = false;
  size: { rows: number; cols: number } | undefined;

  constructor(socket: StreamSocket, reports: Reports) {
    this.#socket = socket;
    this.#reports = reports;
  }

  attach(isOwner: boolean): void {
    this.isAttached = true;
    this.isOwner = isOwner;
    this.say({ is: "attached" });
    this.#paint("", isOwner);
  }

  /** The screen anew, on a terminal that shows something else. */
  repaint(): void {
    if (this.#meanwhile === undefined) this.#fallBehind();
    this.#write();
  }

  show(bytes: Uint8Array): void {
    if (this.#isGone || this.#isBehind || this.#last !== undefined) return;
    const frames = encodeBytes(bytes);
    if (this.#meanwhile === undefined) {
      for (const frame of frames) this.#queue(frame);
      this.#write();
      // What the socket would not take even now; it tells when it takes more.
      if (this.#waitingBytes > attachmentBacklogBytesMax) this.#fallBehind();
      return;
    }
    if (this.#meanwhile.isTooMuch) return;
    this.#meanwhile.frames.push(...frames);
    this.#meanwhile.bytes += bytes.length;
    if (this.#meanwhile.bytes > attachmentBacklogBytesMax) {
      this.#meanwhile = { frames: [], bytes: 0, isTooMuch: true };
    }
  }

  say(word: ShimWord): void {
    this.#queue(encodeShimWord(word));
    this.#write();
  }

  /** A line for the person, once. */
  sayOnce(line: string): void {
    if (this.#said.has(line)) return;
    this.#said.add(line);
    this.show(Buffer.from(`\r\n[${line}]\r\n`));
  }

  /**
   * Nothing comes after what waits and `word`. With a word the peer ends the connection when it has read it, which can take a while;
   * without one, we do.
   */
  finish(word?: ShimWord): void {
    if (this.#isGone) return;
    if (word === undefined) this.#isLastSaid = false;
    this.#last ??= { word };
    this.#write();
  }

  drop(): void {
    this.#socket.terminate();
    this.gone();
  }

  received(bytes: Uint8Array): void {
    for (const read of this.#decoder.push(bytes)) {
      if (this.#isGone || this.#last !== undefined) return;
      const frame = read.kind === "frame" ? readTerminalFrame(read.payload) : undefined;
      if (frame === undefined) this.drop();
      else if (frame.kind === "bytes") this.#reports.typed(frame.bytes);
      else if (frame.kind === "word") this.#reports.word(frame.word);
      // A word of a newer version is no reason to lose a terminal.
    }
  }

  drained(): void {
    this.#write();
  }

  gone(): void {
    if (this.#isGone) return;
    this.#isGone = true;
    this.isAttached = false;
    this.#waiting = [];
    // After a detach as well: then whatever waited could be taken.
    this.#socket.end();
    this.#reports.left();
  }

  // ── Inside ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #queue(frame: Uint8Array): void {
    this.#waiting.push(frame);
    this.#waitingBytes += frame.length;
  }

  #fallBehind(): void {
    const begun = this.#written > 0 ? this.#waiting.slice(0, 1) : [];
    this.#waiting = begun;
    this.#waitingBytes = begun.reduce((sum, frame) => sum + frame.length, 0) - this.#written;
    this.#isBehind = true;
  }

  #write(): void {
    if (this.#isGone) return;
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      const taken = this.#socket.write(this.#written === 0 ? next : next.subarray(this.#written));
      if (taken < 0) {
        this.gone();
        return;
      }
      this.#waitingBytes -= taken;
      this.#written += taken;
      if (this.#written < next.length) return;
      this.#written = 0;
      this.#waiting.shift();
    }
    if (this.#meanwhile !== undefined) return;
    if (this.#isBehind) this.#paint(blank, false);
    else if (this.#last !== undefined) this.#end(this.#last.word);
  }

  #end(word: ShimWord | undefined): void {
    if (word === undefined) {
      if (this.#isLastSaid) return;
      this.isAttached = false;
      this.#socket.end();
      return;
    }
    this.#last = { word: undefined };
    this.#isLastSaid = true;
    this.#queue(encodeShimWord(word));
    this.#write();
  }

  /** Asks for the screen and sends it, and after it what was shown since. */
  #paint(before: string, isComplete: boolean): void {
    this.#isBehind = false;
    const meanwhile = { frames: [], bytes: 0, isTooMuch: false };
    this.#meanwhile = meanwhile;
    void this.#reports.screen(isComplete).then(
      (screen) => this.#painted(before + screen),
      // A screen that cannot be had (its agent just ended) is left as it is; what comes is shown.
      () => this.#painted(""),
    );
  }

  #painted(screen: string): void {
    const meanwhile = this.#meanwhile;
    this.#meanwhile = undefined;
    for (const frame of encodeBytes(Buffer.from(screen))) this.#queue(frame);
    for (const frame of meanwhile?.frames ?? []) this.#queue(frame);
    this.#isBehind = meanwhile?.isTooMuch ?? false;
    this.#write();
  }
}

/** From whatever is shown to an empty screen: out of the alternate screen, no modes, no colours. The lines that scrolled away stay. */
const blank = [
  "\x1b[<16u\x1b[?1049l\x1b[<16u\x1b[>4m",
  "\x1b[!p\x1b>\x1b[0 q\x0f\x1b(B\x1b[m\x1b[r",
  "\x1b[?7h\x1b[?25h",
  ...[1, 5, 9, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004, 2026, 2031, 2048].map(
    (mode) => `\x1b[?${mode}l`,
  ),
  "\x1b[H\x1b[J",
].join("");

/**
 * Whether this is nothing but what terminals send by themselves when they are asked: attributes, cursor, modes, colours, the focus.
 * F3 with a modifier looks like a cursor's place.
 */
const answers = new RegExp(
  [
    String.raw`^(?:\x1b\[[?>]?[\d;]*(?:[cRn]|\$y)`,
    String.raw`\x1b\[\?\d+u`,
    String.raw`\x1b\[[IO]`,
    String.raw`\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)`,
    String.raw`\x1bP[^\x1b]*\x1b\\)+$`,
  ].join("|"),
);

export const isTerminalAnswer = (bytes: Uint8Array): boolean =>
  bytes[0] === 0x1b && answers.test(Buffer.from(bytes).toString("latin1"));
