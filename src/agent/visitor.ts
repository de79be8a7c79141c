/**
 * One connection to the attachment socket: what its terminal is to be shown waits here until it is taken. A terminal that is too far
 * behind is shown the screen in place of what it missed.
 */
import type { Channel, StreamSocket } from "~/agent/channel";
import type { Clock, Timer } from "~/clock";
import {
  encodeBytes,
  encodeShimWord,
  readTerminalFrame,
  type ShimWord,
  type TerminalWord,
} from "~/wire/attachment";
import { FrameDecoder } from "~/wire/frame";
import { attachmentBacklogBytesMax, attachmentFrameBytesMax, terminalLookEveryMs } from "~/wire/limits";

/** Reading can be stopped as well. */
export type VisitorSocket = StreamSocket & { pause(): void; resume(): void };

export interface Reports {
  clock: Clock;
  word(word: TerminalWord): void;
  typed(bytes: Uint8Array): void;
  screen(isComplete: boolean): Promise<string>;
  /** Some of what waited is gone. */
  caughtUp(): void;
  left(): void;
}

/**
 * What is to be shown waits in `#waiting` until the socket takes it. When too much would wait it is thrown away, but for
 * a frame that has gone in part, and the screen takes its place as soon as everything before it is gone (`#isBehind`).
 */
export class Visitor {
  readonly #socket: VisitorSocket;
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
  /** Whom the connection belongs to now. */
  #driver: Channel | undefined;
  #said = new Set<string>();
  /** While it reads nothing that is typed. */
  #waitingForAgent: Timer | undefined;
  isAttached = false;
  isOwner = false;
  size: { rows: number; cols: number } | undefined;

  constructor(socket: VisitorSocket, reports: Reports) {
    this.#socket = socket;
    this.#reports = reports;
  }

  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** It is shown what comes now, whenever it takes it. */
  get isUpToDate(): boolean {
    const isSkipping = this.#isBehind || (this.#meanwhile?.isTooMuch ?? false);
    return this.isAttached && !isSkipping && this.#last === undefined;
  }

  /** `early`: all that was printed so far; without it the terminal is shown the screen. */
  attach(isOwner: boolean, early: readonly Uint8Array[] | undefined): void {
    this.isOwner = isOwner;
    this.say({ is: "attached" });
    if (early === undefined) this.#paint("", isOwner);
    else for (const bytes of early) this.show(bytes);
  }

  /** The screen anew, on a terminal that shows something else. */
  repaint(): void {
    this.fallBehind();
    this.#write();
  }

  /** From here on the connection is somebody else's. */
  handOver(drive: (socket: StreamSocket) => Channel | undefined): void {
    this.say({ is: "driving" });
    this.#driver = drive(this.#socket);
  }

  show(bytes: Uint8Array): void {
    if (this.#isGone || this.#isBehind || this.#last !== undefined) return;
    const frames = encodeBytes(bytes);
    if (this.#meanwhile === undefined) {
      for (const frame of frames) this.#queue(frame);
      this.#write();
      // What the socket would not take even now; it tells when it takes more.
      if (this.#waitingBytes > attachmentBacklogBytesMax) this.fallBehind();
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
    if (this.#driver !== undefined) {
      this.#driver.data(bytes);
      return;
    }
    for (const read of this.#decoder.push(bytes)) {
      if (this.#isGone || this.#last !== undefined) return;
      const frame = read.kind === "frame" ? readTerminalFrame(read.payload) : undefined;
      if (frame === undefined) this.drop();
      else if (frame.kind === "bytes") this.#reports.typed(frame.bytes);
      else if (frame.kind === "word") this.#reports.word(frame.word);
      // A word of a newer version is no reason to lose a terminal.
    }
  }

  /** What is typed stays where it is until then: a long paste, for an agent that reads it bit by bit. */
  waitWithInput(until: Promise<void> | undefined): void {
    if (until === undefined || this.#waitingForAgent !== undefined) return;
    this.#socket.pause();
    this.#stayAlert();
    void until.then(() => {
      this.#waitingForAgent?.cancel();
      this.#waitingForAgent = undefined;
      if (!this.#isGone) this.#socket.resume();
    });
  }

  /** That the peer has gone is not noticed by who does not read, but by who writes. */
  #stayAlert(): void {
    this.#waitingForAgent = this.#reports.clock.after(terminalLookEveryMs, () => {
      if (this.#isGone) return;
      this.#stayAlert();
      this.say({ is: "waiting" });
    });
  }

  drained(): void {
    if (this.#driver !== undefined) {
      this.#driver.drained();
      return;
    }
    this.#write();
    this.#reports.caughtUp();
  }

  /** What waits is thrown away; when what has gone in part is whole, the screen takes its place. */
  fallBehind(): void {
    // The screen is on its way as it is.
    if (this.#meanwhile !== undefined) return;
    const begun = this.#written > 0 ? this.#waiting.slice(0, 1) : [];
    this.#waiting = begun;
    this.#waitingBytes = begun.reduce((sum, frame) => sum + frame.length, 0) - this.#written;
    this.#isBehind = true;
  }

  gone(): void {
    this.#driver?.closed();
    if (this.#isGone) return;
    this.#isGone = true;
    this.#waitingForAgent?.cancel();
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
  "\x1b[!p\x1b>\x1b[0 q\x0f\x1b(B\x1b[m\x1b[r\x1b[4l",
  "\x1b]8;;\x07\x1b]110\x07\x1b]111\x07\x1b]112\x07",
  "\x1b[?7h\x1b[?25h",
  ...[1, 5, 9, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004, 2026, 2031, 2048].map(
    (mode) => `\x1b[?${mode}l`,
  ),
  "\x1b[H\x1b[J",
].join("");
