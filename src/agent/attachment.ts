/**
 * The socket at which terminals attach to the agent of a detached shim: the screen as it is, then the agent's output as it comes, and
 * what is typed to the agent. Several may be attached; the agent has the size of the one that attached, was resized or typed last.
 * A terminal holds the agent up for a moment at most: one that is too far behind then is shown the screen as it is when it has caught up.
 */
import type { Channel, StreamSocket } from "~/agent/channel";
import { isFocusReport, isTerminalAnswer } from "~/agent/terminal-answers";
import { TerminalModes } from "~/agent/terminal-modes";
import { Visitor, type VisitorSocket } from "~/agent/visitor";
import type { Clock, Timer } from "~/clock";
import { listenOnSocket, type SocketListener } from "~/disk/unix-socket";
import type { AgentDescription, AgentExit, ShimWord, TerminalWord } from "~/wire/attachment";
import {
  attachmentBacklogBytesHigh,
  attachmentBacklogBytesLow,
  attachmentEndMsMax,
  attachmentHoldMsMax,
  attachmentsMax,
  ownerAttachMsMax,
  terminalSideMax,
} from "~/wire/limits";

export interface AttachmentsOptions {
  /** Where to listen: `attachmentSocket` (wire/paths.ts) of a control socket that is ours already. */
  path: string;
  clock: Clock;
  /** Whether what the agent prints was meant for a terminal. */
  isTerminal: boolean;
  /** The agent was started in a terminal, which is about to attach and sees all from the first byte on. Without it the agent goes. */
  isOwned: boolean;
  describe(): Omit<AgentDescription, "terminals" | "exit">;
  /** As `Runtime.snapshot`. */
  snapshot(isComplete: boolean): Promise<string>;
  /** As `Runtime.type`. */
  type(bytes: Uint8Array): boolean;
  /** As `Runtime.whenRead`. */
  whenRead(): Promise<void> | undefined;
  /** As `Runtime.interrupt`: for Ctrl-C where there is no keyboard. */
  interrupt(): void;
  /** As `Runtime.resize`. */
  resize(rows: number, cols: number): void;
  /** As `Runtime.hold`. */
  hold(isHeld: boolean): void;
  /** Somebody drives the agent over this connection from now on, without being its orchestrator. Undefined when there are too many. */
  drive(socket: StreamSocket): Channel | undefined;
  /** The terminal that the agent was started in is gone and had not detached: the agent goes as its own terminal's end would have it. */
  abandoned(): void;
}

/** Everybody who is connected, whether attached or only asking. To be told of the agent's output from the first byte on. */
export class Attachments {
  readonly #options: AttachmentsOptions;
  readonly #visitors = new Set<Visitor>();
  readonly #modes = new TerminalModes();
  /** Those that have attached; the one that was used last comes last. */
  #byUse: Visitor[] = [];
  /** The one whose size the agent has. */
  #sized: Visitor | undefined;
  /** What was printed so far, for a terminal that sees all of it. */
  #early: { shown: Uint8Array[]; bytes: number } | undefined;
  /** Until the owner has come. */
  #awaited: Timer | undefined;
  /** While the agent waits for a terminal that lags behind. */
  #patience: Timer | undefined;
  #exit: AgentExit | undefined;
  #emptied: (() => void) | undefined;
  #listener: SocketListener | undefined;
  /** A person sees the agent, or has seen it. */
  wasAttended = false;

  constructor(options: AttachmentsOptions) {
    this.#options = options;
    if (!options.isOwned) return;
    this.#early = { shown: [], bytes: 0 };
    this.#awaited = options.clock.after(ownerAttachMsMax, () => options.abandoned());
  }

  get terminals(): number {
    return this.#attached.length;
  }

  /** A terminal is shown the output that was told last, and answers what the agent asks in it (colours, cursor), so that nobody else should. */
  get answersQueries(): boolean {
    return this.#early !== undefined || (this.#attached.at(-1)?.isUpToDate ?? false);
  }

  /** Some are about to be told that it is over, and are not among them. */
  get #attached(): Visitor[] {
    return this.#byUse.filter(({ isAttached }) => isAttached);
  }

  /** When the agent runs. Throws what `listenOnSocket` does. */
  async listen(): Promise<void> {
    this.#listener = await listenOnSocket<Visitor>(this.#options.path, {
      open: (socket) => {
        socket.data = this.admit(socket);
      },
      data: (socket, bytes) => socket.data.received(bytes),
      drain: (socket) => socket.data.drained(),
      // A terminal that ends its direction is done.
      end: (socket) => socket.data.gone(),
      close: (socket) => socket.data.gone(),
      error: (socket) => socket.data.gone(),
    });
  }

  admit(socket: VisitorSocket): Visitor {
    const visitor = new Visitor(socket, {
      clock: this.#options.clock,
      word: (word) => this.#word(visitor, word),
      typed: (bytes) => this.#typed(visitor, bytes),
      screen: async (isComplete) => {
        // The modes as they are when the screen is taken, which is now: what comes later is sent later.
        const { before, after } = this.#modes.redo();
        return before + (await this.#options.snapshot(isComplete)) + after;
      },
      caughtUp: () => this.#pace(),
      left: () => this.#left(visitor),
    });
    this.#visitors.add(visitor);
    return visitor;
  }

  output(bytes: Uint8Array): void {
    // Without a terminal of its own, nobody has turned the agent's newlines into what a raw terminal needs.
    const shown = this.#options.isTerminal ? bytes : withReturns(bytes);
    this.#modes.feed(shown);
    if (this.#early !== undefined) {
      // A copy: what we were given may be written over.
      this.#early.shown.push(shown.slice());
      this.#early.bytes += shown.length;
    }
    for (const visitor of this.#visitors) if (visitor.isAttached) visitor.show(shown);
    this.#pace();
  }

  /** All output was told. Who attaches from now on sees the last screen, and this. */
  ended(exit: AgentExit): void {
    this.#exit = exit;
    for (const visitor of this.#visitors) if (visitor.isAttached) visitor.finish(endedWord(exit));
  }

  /** Lets terminals take what waits for them, within a bounded time, and removes the socket. */
  async close(): Promise<void> {
    this.#listener?.close();
    this.#awaited?.cancel();
    this.#patience?.cancel();
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
        const exit = this.#exit ?? null;
        const description = { ...this.#options.describe(), terminals: this.terminals, exit };
        visitor.say({ is: "description", description });
        return;
      }
      case "drive":
        if (visitor.isAttached) return;
        this.#visitors.delete(visitor);
        visitor.handOver(this.#options.drive);
        return;
      case "attach":
        this.#attach(visitor, word);
        return;
      case "resize":
        visitor.size = word;
        if (visitor.isAttached) this.#use(visitor, { isResized: true });
        return;
      case "repaint":
        if (visitor.isAttached) visitor.repaint();
        return;
      case "detach":
        visitor.isOwner = false;
        visitor.finish();
        this.#resize();
        return;
    }
  }

  #attach(visitor: Visitor, word: Extract<TerminalWord, { do: "attach" }>): void {
    if (visitor.isAttached) return;
    if (this.terminals >= attachmentsMax) {
      visitor.finish({ is: "refused", reason: `${attachmentsMax} terminals are attached already` });
      return;
    }
    visitor.size = word;
    const isOwner = word.owner && this.#exit === undefined;
    const early = word.owner ? this.#early : undefined;
    if (word.owner) {
      this.#awaited?.cancel();
      this.#early = undefined;
    }
    this.wasAttended = true;
    visitor.isAttached = true;
    // The screen that it is shown has its size.
    this.#use(visitor, { isResized: true });
    visitor.attach(isOwner, early?.shown);
    this.#pace();
    if (this.#exit !== undefined) visitor.finish(endedWord(this.#exit));
  }

  #typed(visitor: Visitor, bytes: Uint8Array): void {
    if (!visitor.isAttached || this.#exit !== undefined) return;
    // One window loses the focus and another one gets it: the agent is told both, and neither is used by that.
    if (isFocusReport(bytes)) {
      this.#options.type(bytes);
      return;
    }
    // The agent has the answer of one terminal already.
    if (visitor !== this.#attached.at(-1) && isTerminalAnswer(bytes)) return;
    this.#use(visitor, { isResized: false });
    if (this.#options.type(bytes)) {
      visitor.waitWithInput(this.#options.whenRead());
      return;
    }
    if (bytes.includes(interruptByte)) this.#options.interrupt();
    else visitor.sayOnce("this agent has no keyboard: claudemesh agent send");
  }

  #use(visitor: Visitor, { isResized }: { isResized: boolean }): void {
    if (this.#byUse.at(-1) !== visitor) {
      this.#byUse = [...this.#byUse.filter((other) => other !== visitor), visitor];
    }
    if (isResized) this.#sized = undefined;
    this.#resize();
  }

  /** The agent has the size of the terminal that was used last of those that are still there. */
  #resize(): void {
    const latest = this.#attached.at(-1);
    if (latest?.size === undefined || latest === this.#sized) return;
    this.#sized = latest;
    const { rows, cols } = latest.size;
    this.#options.resize(Math.min(rows, terminalSideMax), Math.min(cols, terminalSideMax));
  }

  /** A terminal that lags behind has a moment, for which the agent waits; then it sees the screen in place of what it missed. */
  #pace(): void {
    const { clock, hold } = this.#options;
    const late = this.#late(
      this.#patience === undefined ? attachmentBacklogBytesHigh : attachmentBacklogBytesLow,
    );
    if (late.length > 0 === (this.#patience !== undefined)) return;
    hold(late.length > 0);
    this.#patience?.cancel();
    this.#patience = undefined;
    if (late.length === 0) return;
    this.#patience = clock.after(attachmentHoldMsMax, () => {
      this.#patience = undefined;
      for (const { giveUp } of this.#late(attachmentBacklogBytesLow)) giveUp();
      hold(false);
    });
  }

  /** For whom more waits than this, and what becomes of it when that takes too long. */
  #late(bytes: number): { giveUp(): void }[] {
    const late = [...this.#visitors]
      .filter((visitor) => visitor.isUpToDate && visitor.waitingBytes > bytes)
      .map((visitor) => ({ giveUp: () => visitor.fallBehind() }));
    const giveUp = (): void => {
      this.#early = undefined;
    };
    return (this.#early?.bytes ?? 0) > bytes ? [...late, { giveUp }] : late;
  }

  #left(visitor: Visitor): void {
    this.#visitors.delete(visitor);
    this.#byUse = this.#byUse.filter((other) => other !== visitor);
    if (visitor.isOwner && this.#exit === undefined && this.#emptied === undefined) this.#options.abandoned();
    this.#resize();
    this.#pace();
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
