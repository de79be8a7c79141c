/**
 * A person's terminal, attached to an agent: what is typed goes there as it is, what the agent prints is shown as it is, and the size
 * follows. However it ends, the terminal is as it was before, the modes that the agent had switched on included.
 */
import { writeSync } from "node:fs";
import { connectionFailure } from "~/agent/client";
import { type DetachKey, DetachKeyFinder } from "~/agent/detach-key";
import { Printer } from "~/agent/printer";
import { TerminalModes } from "~/agent/terminal-modes";
import { openTty, type Tty } from "~/agent/tty";
import { pause, systemClock } from "~/clock";
import { MeshError } from "~/errors";
import { encodeBytes, encodeTerminalWord, readShimFrame, type TerminalWord } from "~/wire/attachment";
import { FrameDecoder } from "~/wire/frame";
import { attachmentFrameBytesMax, terminalSideMax } from "~/wire/limits";

export type AttachmentEnd =
  /** The agent's process has ended. */
  | { kind: "ended"; code: number | null; signal: string | null }
  | { kind: "detached" }
  /** We were interrupted, or the terminal itself is gone. */
  | { kind: "hung_up" };

export type TerminalInput = NodeJS.ReadStream & { fd: number };
export type TerminalOutput = NodeJS.WriteStream & { fd: number };

export interface TerminalOptions {
  /** The attachment socket. */
  path: string;
  input: TerminalInput;
  output: TerminalOutput;
  /** The agent was started here: it ends with this terminal, unless it is detached. */
  isOwner: boolean;
  detachKey: DetachKey | undefined;
  /** Aborted when the process is told to end. */
  signal: AbortSignal;
}

/** Where so much waits for the terminal, the shim keeps the rest, until no more than the other is left. */
const [waitingBytesHigh, waitingBytesLow] = [64 * 1024, 16 * 1024];
/** Who is told to end does not wait longer than this for a terminal that takes nothing. */
const undoMsMax = 500;

/** On the terminal's own stack (XTWINOPS of xterm's ctlseqs). */
const [keepTitle, restoreTitle] = ["\x1b[22;2t", "\x1b[23;2t"];

/** Where the size of a terminal is not known. */
const sizeDefault = { rows: 24, cols: 80 };

export const sizeOf = ({ rows, columns }: NodeJS.WriteStream): { rows: number; cols: number } => ({
  rows: Math.min(rows || sizeDefault.rows, terminalSideMax),
  cols: Math.min(columns || sizeDefault.cols, terminalSideMax),
});

/** Throws `no_such_agent`, `not_a_terminal`, `limit_reached`, and `answer_lost` when the shim is gone without a word. */
export async function attachTerminal(options: TerminalOptions): Promise<AttachmentEnd> {
  const tty = openTty(options.input.fd);
  const attached = new AttachedTerminal(options, tty);
  const putBack = (): void => attached.putBack();
  // Whatever ends the process, short of a signal that cannot be caught.
  process.on("exit", putBack);
  try {
    return await attached.run();
  } finally {
    attached.putBack();
    process.off("exit", putBack);
  }
}

interface Connection {
  write(bytes: Uint8Array): number;
  pause(): void;
  resume(): void;
  end(): void;
  terminate(): void;
}

class AttachedTerminal {
  readonly #options: TerminalOptions;
  readonly #tty: Tty;
  readonly #modes = new TerminalModes();
  readonly #keys: DetachKeyFinder;
  readonly #printer: Printer;
  readonly #decoder = new FrameDecoder(attachmentFrameBytesMax);
  readonly #end = Promise.withResolvers<AttachmentEnd>();
  #connection: Connection | undefined;
  #outgoing: Uint8Array[] = [];
  #isShown = false;
  /** To be printed when the modes are as they were. */
  #afterwards = "";
  /** The detach key was pressed, and the shim is to know before we leave. */
  #isDetaching = false;
  #isOver = false;

  constructor(options: TerminalOptions, tty: Tty) {
    this.#options = options;
    this.#tty = tty;
    this.#keys = new DetachKeyFinder(options.detachKey);
    this.#printer = new Printer({
      fd: options.output.fd,
      clock: systemClock,
      printed: (waitingBytes) => {
        if (waitingBytes <= waitingBytesLow) this.#connection?.resume();
      },
      failed: () => this.#finish({ kind: "hung_up" }),
    });
  }

  async run(): Promise<AttachmentEnd> {
    const { input, output, path, signal, isOwner } = this.#options;
    const hungUp = (): void => this.#finish({ kind: "hung_up" });
    const typed = (bytes: Uint8Array): void => this.#typed(bytes);
    const resized = (): void => this.#say({ do: "resize", ...sizeOf(output) });
    const stopped = (): void => void this.#stop();
    const continued = (): void => this.#continue();
    try {
      this.#connection = await this.#connect(path);
      const attach = (): void => this.#say({ do: "attach", ...sizeOf(output), owner: isOwner });
      if (signal.aborted) {
        // It was started for us, and ends when we come and go.
        if (isOwner) attach();
        return { kind: "hung_up" };
      }
      signal.addEventListener("abort", hungUp);
      this.#show();
      input.on("data", typed).on("end", hungUp).on("close", hungUp).on("error", hungUp).resume();
      output.on("resize", resized).on("error", hungUp);
      process.on("SIGTSTP", stopped).on("SIGCONT", continued);
      attach();
      const end = await this.#end.promise;
      if (end.kind === "hung_up") this.#printer.forget();
      // An agent that goes on may have shown something below the cursor, where the shell is about to write.
      if (end.kind === "detached" && !this.#modes.isAlternate) this.#afterwards = "\r\n\x1b[J";
      return end;
    } finally {
      this.#isOver = true;
      signal.removeEventListener("abort", hungUp);
      input.off("data", typed).off("end", hungUp).off("close", hungUp).off("error", hungUp).pause();
      output.off("resize", resized).off("error", hungUp);
      process.off("SIGTSTP", stopped).off("SIGCONT", continued);
      this.#connection?.end();
      await this.#giveBack(signal.aborted ? undoMsMax : undefined);
    }
  }

  /** The terminal as it was, when it has shown everything, or at once when that takes too long. */
  async #giveBack(msMax?: number): Promise<void> {
    if (!this.#isShown) return;
    this.#printer.print(this.#undone() + this.#afterwards);
    const done = this.#printer.done();
    await (msMax === undefined ? done : Promise.race([done, pause(systemClock, msMax, never)]));
    this.#isShown = false;
    this.#tty.restore();
  }

  /** The same for a process that ends unexpectedly, now or never. */
  putBack(): void {
    if (!this.#isShown) return;
    this.#isShown = false;
    try {
      writeSync(this.#options.output.fd, this.#undone());
    } catch {
      // The terminal is gone, and its modes with it.
    }
    this.#tty.restore();
  }

  // ── The shim's side ─────────────────────────────────────────────────────────────────────────────────────────────────

  async #connect(path: string): Promise<Connection> {
    try {
      return await Bun.connect({
        unix: path,
        socket: {
          data: (_, bytes) => this.#received(bytes),
          drain: () => this.#write(),
          end: () => this.#lost(),
          close: () => this.#lost(),
          error: () => this.#lost(),
        },
      });
    } catch (error) {
      throw connectionFailure(path, error);
    }
  }

  #received(bytes: Uint8Array): void {
    for (const read of this.#decoder.push(bytes)) {
      if (this.#isOver) return;
      const frame = read.kind === "frame" ? readShimFrame(read.payload) : undefined;
      if (frame === undefined) this.#lost();
      else if (frame.kind === "bytes") this.#print(frame.bytes);
      else if (frame.kind === "word" && frame.word.is === "ended") {
        const { exit_code: code, signal } = frame.word;
        this.#finish({ kind: "ended", code, signal });
      } else if (frame.kind === "word" && frame.word.is === "refused") {
        this.#end.reject(
          new MeshError("limit_reached", frame.word.reason, {
            hint: "Detach in one of them, or close its window.",
          }),
        );
      }
    }
  }

  #lost(): void {
    if (this.#isDetaching) this.#finish({ kind: "detached" });
    if (this.#isOver) return;
    this.#end.reject(
      new MeshError("answer_lost", "the agent's shim is gone", {
        hint: "See what became of the agent: claudemesh agent list",
      }),
    );
  }

  #say(word: TerminalWord): void {
    this.#outgoing.push(encodeTerminalWord(word));
    this.#write();
  }

  #write(): void {
    for (let next = this.#outgoing[0]; next !== undefined && !this.#isOver; next = this.#outgoing[0]) {
      const taken = this.#connection?.write(next) ?? -1;
      // Its end is told by itself.
      if (taken < 0) return;
      if (taken < next.length) {
        this.#outgoing[0] = next.subarray(taken);
        return;
      }
      this.#outgoing.shift();
    }
    if (this.#isOver) return;
    if (this.#isDetaching) this.#finish({ kind: "detached" });
    else this.#options.input.resume();
  }

  // ── The person's side ───────────────────────────────────────────────────────────────────────────────────────────────

  #typed(chunk: Uint8Array): void {
    if (this.#isDetaching || this.#isOver) return;
    const { bytes, isDetach } = this.#keys.feed(chunk);
    this.#outgoing.push(...encodeBytes(bytes));
    if (isDetach) this.#outgoing.push(encodeTerminalWord({ do: "detach" }));
    this.#isDetaching = isDetach;
    this.#write();
    // A shim that reads nothing stops the typing, and does not fill our memory.
    if (this.#outgoing.length > 0) this.#options.input.pause();
  }

  /** As fast as the terminal takes it: what it does not take stays with the shim, which knows what to leave out. */
  #print(bytes: Uint8Array): void {
    this.#modes.feed(bytes);
    this.#printer.print(bytes);
    if (this.#printer.waitingBytes > waitingBytesHigh) this.#connection?.pause();
  }

  /** What stands on the terminal scrolls away, so that row for row it is the agent's. */
  #show(): void {
    this.#tty.makeRaw();
    this.#isShown = true;
    const { rows } = sizeOf(this.#options.output);
    this.#printer.print(`${keepTitle}${"\r\n".repeat(rows)}\x1b[H`);
  }

  #undone(): string {
    return this.#modes.undo() + restoreTitle;
  }

  /** What is not shown now is not needed: the screen is painted anew afterwards. */
  async #stop(): Promise<void> {
    this.#connection?.pause();
    this.#printer.forget();
    await this.#giveBack(undoMsMax);
    process.kill(process.pid, "SIGSTOP");
  }

  #continue(): void {
    if (this.#isOver) return;
    this.#show();
    this.#connection?.resume();
    this.#say({ do: "resize", ...sizeOf(this.#options.output) });
    this.#say({ do: "repaint" });
  }

  /** Once. */
  #finish(end: AttachmentEnd): void {
    this.#isOver = true;
    this.#end.resolve(end);
  }
}

const never = new AbortController().signal;
