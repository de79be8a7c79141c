/**
 * What the terminal fakes (claude.ts, codex.ts, kiro.ts) have in common: a program in raw mode that keeps an input field and a status at the
 * bottom of the screen, paints them anew all the time, and lets what was said scroll away above them. It takes bracketed pastes, typed text,
 * Enter, Backspace, Ctrl-C (clears the input; on an empty one, twice, it ends with status 0), Ctrl-D (the same at once) and Escape (interrupts). What it can be told: commands.ts.
 *
 * Flags of each: `--dialog` (asks for trust first, and takes nothing but an Enter), `--starting MS` (so long until the first prompt),
 * `--never` (no prompt ever), `--exit N` (ends at once), `--swallow N` (as the command), `--alternate` (all of it on the alternate screen).
 */
import { writeSync } from "node:fs";
import {
  binaryBytes,
  bulkText,
  type Command,
  lineList,
  readCommands,
  readNotice,
  startChild,
  wideText,
} from "./commands";

/** The part that tells one fake from another. All lines without their ends. */
export interface Look {
  banner: readonly string[];
  dialog: readonly string[];
  /** While it starts, with the number of the picture. */
  starting(frame: number): readonly string[];
  /** A message as it stays on the screen. */
  echo(shown: string): readonly string[];
  /** Before the first line of an answer, and before all others. */
  answer: { first: string; other: string };
  /** The bottom of the screen. `input`: what it shows in the field, and at what column of it the cursor stands. */
  bottom(state: { isWorking: boolean; frame: number; input: readonly string[]; cols: number }): {
    lines: readonly string[];
    /** Which of the lines is the first of the input, and where in it the text begins. */
    inputLine: number;
    inputColumn: number;
  };
  /** What stands in the field for a long paste; undefined when it is shown as it is. */
  placeholder(text: string): string | undefined;
  exhausted: readonly string[];
  approaching: readonly string[];
}

const spinnerMs = 80;
const chunkBytes = 64 * 1024;

interface Flags {
  dialog: boolean;
  startingMs: number;
  never: boolean;
  exit: number | undefined;
  swallow: number;
  alternate: boolean;
}

function readFlags(argv: readonly string[]): Flags {
  const has = (name: string): boolean => argv.includes(name);
  const value = (name: string): string | undefined => (has(name) ? argv[argv.indexOf(name) + 1] : undefined);
  return {
    dialog: has("--dialog"),
    startingMs: Number(value("--starting") ?? 0),
    never: has("--never"),
    exit: has("--exit") ? Number(value("--exit")) : undefined,
    swallow: Number(value("--swallow") ?? 0),
    alternate: has("--alternate"),
  };
}

/** Goes on until it is told to end. */
export function runScreenAgent(look: Look): void {
  new ScreenAgent(look, readFlags(process.argv.slice(2))).start();
}

class ScreenAgent {
  readonly #look: Look;
  readonly #flags: Flags;
  #phase: "dialog" | "starting" | "prompt" = "prompt";
  #input = "";
  #paste: string | undefined;
  #afterPaste = false;
  #swallow: number;
  #bottomLines = 0;
  #cursorLine = 0;
  #frame = 0;
  #isWorking = false;
  #isSilent = false;
  #isFull = false;
  #interruption = new AbortController();
  #lastCtrlC = 0;
  #queue: string[] = [];
  #pending: Uint8Array = new Uint8Array();

  constructor(look: Look, flags: Flags) {
    this.#look = look;
    this.#flags = flags;
    this.#swallow = flags.swallow;
  }

  start(): void {
    if (this.#flags.exit !== undefined) {
      write("cannot start\r\n");
      process.exit(this.#flags.exit);
    }
    process.stdin.setRawMode(true);
    process.stdin.on("data", (bytes: Buffer) => this.#typed(bytes));
    process.stdin.on("end", () => process.exit(0));
    process.stdout.on("resize", () => this.#paint());
    if (this.#flags.alternate) write("\x1b[?1049h\x1b[H");
    write("\x1b[?2004h");
    for (const line of this.#look.banner) write(`${line}\r\n`);
    setInterval(() => this.#tick(), spinnerMs);
    if (this.#flags.dialog) this.#enter("dialog");
    else this.#begin();
  }

  #begin(): void {
    this.#enter("starting");
    if (!this.#flags.never) setTimeout(() => this.#enter("prompt"), this.#flags.startingMs);
  }

  #enter(phase: "dialog" | "starting" | "prompt"): void {
    this.#phase = phase;
    this.#paint();
  }

  #tick(): void {
    const isMoving = this.#phase === "starting" || (this.#phase === "prompt" && this.#isWorking);
    if (!isMoving || this.#isSilent) return;
    this.#frame += 1;
    this.#paint();
  }

  // ── The bottom of the screen ────────────────────────────────────────────────────────────────────────────────────────

  #paint(): void {
    if (this.#isSilent) return;
    const cols = process.stdout.columns || 80;
    const clipped = (line: string): string => [...line].slice(0, cols - 1).join("");
    let text = this.#erasure();
    if (this.#phase !== "prompt") {
      const lines = this.#phase === "dialog" ? this.#look.dialog : this.#look.starting(this.#frame);
      text += lines.map(clipped).join("\r\n");
      this.#bottomLines = lines.length;
      this.#cursorLine = lines.length - 1;
    } else {
      const input = this.#shownInput(cols - 8);
      const { lines, inputLine, inputColumn } = this.#look.bottom({
        isWorking: this.#isWorking,
        frame: this.#frame,
        input,
        cols,
      });
      text += lines.map(clipped).join("\r\n");
      const at = inputLine + input.length - 1;
      const up = lines.length - 1 - at;
      const column = inputColumn + Bun.stringWidth(input.at(-1) ?? "");
      text += `${up > 0 ? `\x1b[${up}A` : ""}\r\x1b[${column}C`;
      this.#bottomLines = lines.length;
      this.#cursorLine = at;
    }
    write(`\x1b[?25l${text}\x1b[?25h`);
  }

  /** Takes the cursor to where the bottom begins, and clears from there on. */
  #erasure(): string {
    if (this.#bottomLines === 0) return "";
    const up = this.#cursorLine;
    this.#bottomLines = 0;
    return `${up > 0 ? `\x1b[${up}A` : ""}\r\x1b[J`;
  }

  #shownInput(width: number): readonly string[] {
    const shown = this.#look.placeholder(this.#input) ?? this.#input;
    return shown.split("\n").map((line) => [...line].slice(0, width).join(""));
  }

  /** Above the bottom, for good. Lines end in `\n`; one that does not is ended. */
  #print(text: string): void {
    const ended = text.endsWith("\n") ? text : `${text}\n`;
    write(`${this.#erasure()}${ended.replaceAll("\n", "\r\n")}`);
    this.#paint();
  }

  // ── Input ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  #typed(bytes: Uint8Array): void {
    let text = Buffer.concat([this.#pending, bytes]).toString("latin1");
    this.#pending = new Uint8Array();
    while (text !== "") {
      const marker = this.#paste === undefined ? "\x1b[200~" : "\x1b[201~";
      const at = text.indexOf(marker);
      const held = at === -1 ? heldLength(text, marker) : 0;
      const part = at === -1 ? text.slice(0, text.length - held) : text.slice(0, at);
      if (this.#paste === undefined) this.#keys(part);
      else this.#paste += part;
      if (at === -1) {
        this.#pending = Buffer.from(text.slice(text.length - held), "latin1");
        return;
      }
      text = text.slice(at + marker.length);
      if (this.#paste === undefined) this.#paste = "";
      else {
        if (this.#phase === "prompt") this.#input += fromLatin1(this.#paste).replaceAll("\r", "\n");
        this.#paste = undefined;
        this.#afterPaste = true;
        this.#paint();
      }
    }
  }

  #keys(keys: string): void {
    for (const key of fromLatin1(keys)) {
      if (this.#phase === "dialog") {
        if (key === "\r") this.#begin();
        continue;
      }
      if (key === "\x03") this.#ctrlC();
      else if (key === "\x04" && this.#input === "") this.#end(0);
      else if (key === "\x1b") this.#interruption.abort();
      else if (this.#phase === "starting") continue;
      else if (key === "\r") this.#return();
      else if (key === "\x7f") this.#input = [...this.#input].slice(0, -1).join("");
      else if (key === "\n" || key >= " ") this.#input += key;
      if (key !== "\r") this.#afterPaste = false;
    }
    this.#paint();
  }

  #ctrlC(): void {
    if (this.#isWorking) {
      this.#interruption.abort();
      return;
    }
    const now = performance.now();
    if (this.#input === "" && now - this.#lastCtrlC < 1_000) this.#end(0);
    this.#lastCtrlC = now;
    this.#input = "";
  }

  #return(): void {
    const isSwallowed = this.#afterPaste && this.#swallow > 0;
    if (isSwallowed) {
      this.#swallow -= 1;
      return;
    }
    this.#afterPaste = false;
    if (this.#input.trim() === "") return;
    const message = this.#input;
    const shown = this.#look.placeholder(message) ?? message;
    this.#input = "";
    this.#print(this.#look.echo(shown).join("\n"));
    this.#queue.push(message);
    if (!this.#isWorking) void this.#work();
  }

  #end(status: number): never {
    write(`${this.#erasure()}\x1b[?2004l${this.#flags.alternate ? "\x1b[?1049l" : ""}`);
    process.exit(status);
  }

  // ── Work ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  async #work(): Promise<void> {
    this.#isWorking = true;
    for (let message = this.#queue.shift(); message !== undefined; message = this.#queue.shift()) {
      this.#interruption = new AbortController();
      this.#paint();
      if (this.#isFull) {
        this.#print(this.#look.exhausted.join("\n"));
        continue;
      }
      const commands = readCommands(message);
      if (commands.length === 0) this.#answer(readNotice(message));
      for (const command of commands) {
        await this.#do(command);
        if (this.#interruption.signal.aborted) {
          this.#answer("Interrupted");
          break;
        }
      }
    }
    this.#isWorking = false;
    this.#paint();
  }

  #answer(text: string): void {
    const { first, other } = this.#look.answer;
    const lines = text.split("\n").map((line, index) => `${index === 0 ? first : other}${line}`);
    this.#print(lines.join("\n"));
  }

  async #do({ verb, rest }: Command): Promise<void> {
    switch (verb) {
      case "say":
        return this.#answer(rest.replaceAll("\\n", "\n"));
      case "slow":
        return await this.#slowly(rest);
      case "lines":
        return this.#answer(lineList(Number(rest)).join("\n"));
      case "think":
        return await pause(Number(rest), this.#interruption.signal);
      case "hang":
        return await pause(2 ** 31 - 1, this.#interruption.signal);
      case "silent":
        this.#isSilent = true;
        await pause(Number(rest), this.#interruption.signal);
        this.#isSilent = false;
        return this.#paint();
      case "wide":
        return this.#answer(wideText.join("\n"));
      case "colours":
        return this.#answer(
          "\x1b[31mred\x1b[0m \x1b[1;38;5;45mbold blue\x1b[0m \x1b[38;2;1;200;3mgreen\x1b[0m plain",
        );
      case "progress":
        return await this.#progress();
      case "repaint":
        return this.#repaint();
      case "alternate":
        write("\x1b[?1049h\x1b[2J\x1b[Hanother screen");
        this.#isSilent = true;
        await pause(Number(rest), this.#interruption.signal);
        this.#isSilent = false;
        write("\x1b[?1049l");
        return this.#paint();
      case "title":
        return write(`\x1b]0;${rest}\x07`);
      case "size":
        return this.#answer(`${process.stdout.rows}x${process.stdout.columns}`);
      case "env":
        return this.#answer(process.env[rest] ?? "(not set)");
      case "args":
        return this.#answer(JSON.stringify(process.argv.slice(2)));
      case "bulk":
        return await this.#pour(bulkText, Number(rest) * 1_000_000);
      case "yes":
        return await this.#pour(
          "y\n".repeat(chunkBytes / 2),
          rest === "" ? Infinity : Number(rest) * 1_000_000,
        );
      case "binary":
        write(this.#erasure());
        writeAll(binaryBytes(Number(rest)));
        // Whatever that has switched on.
        write("\x1bc\x1b[?2004h");
        return this.#paint();
      case "start":
        return this.#answer(String(startChild(rest)));
      case "fill":
        this.#isFull = true;
        return this.#print(this.#look.exhausted.join("\n"));
      case "nearly":
        return this.#print(this.#look.approaching.join("\n"));
      case "swallow":
        this.#swallow += rest === "" ? 1 : Number(rest);
        return;
      case "exit":
        return this.#end(Number(rest));
      case "die":
        write(this.#erasure());
        process.kill(process.pid, rest as NodeJS.Signals);
        return await pause(2 ** 31 - 1, this.#interruption.signal);
    }
  }

  async #slowly(text: string): Promise<void> {
    write(this.#erasure());
    this.#isSilent = true;
    write(this.#look.answer.first);
    for (const byte of Buffer.from(text)) {
      writeAll(Uint8Array.of(byte));
      await pause(2, this.#interruption.signal);
    }
    write("\r\n");
    this.#isSilent = false;
    this.#paint();
  }

  async #progress(): Promise<void> {
    write(this.#erasure());
    this.#isSilent = true;
    for (let percent = 0; percent <= 100; percent += 10) {
      write(`\r\x1b[K${this.#look.answer.first}${percent}%`);
      await pause(5, this.#interruption.signal);
    }
    write(`\r\x1b[K${this.#look.answer.first}done\r\n`);
    this.#isSilent = false;
    this.#paint();
  }

  /** Four lines, written from the last to the first, with a wrong word put right. */
  #repaint(): void {
    const { other } = this.#look.answer;
    const at = (line: number, text: string): string =>
      `\x1b[${5 - line}A\r\x1b[K${other}${text}\x1b[${5 - line}B\r`;
    write(this.#erasure());
    write("\r\n\r\n\r\n\r\n\r\n");
    write(at(4, "fourth") + at(3, "wrong word") + at(2, "second") + at(1, "first") + at(3, "third"));
    this.#paint();
  }

  async #pour(piece: string, bytes: number): Promise<void> {
    write(this.#erasure());
    this.#isSilent = true;
    const block = Buffer.from(piece.replaceAll("\n", "\r\n"));
    const { signal } = this.#interruption;
    for (let poured = 0; poured < bytes && !signal.aborted; poured += block.length) {
      writeAll(block.subarray(0, Math.min(block.length, bytes - poured)));
      await new Promise((resolve) => setImmediate(resolve));
    }
    write("\r\n");
    this.#isSilent = false;
    this.#paint();
  }
}

/** How much of the end of `text` may be the beginning of the marker. */
function heldLength(text: string, marker: string): number {
  // A lone Escape is a key.
  for (let length = Math.min(marker.length - 1, text.length); length > 1; length--) {
    if (text.endsWith(marker.slice(0, length))) return length;
  }
  return 0;
}

const fromLatin1 = (text: string): string => Buffer.from(text, "latin1").toString("utf8");

export const write = (text: string): void => writeAll(Buffer.from(text));

/** However full the terminal is: some Buns open it so that a write may be refused. */
export function writeAll(bytes: Uint8Array): void {
  for (let written = 0; written < bytes.length; ) {
    try {
      written += writeSync(1, bytes, written);
    } catch (error) {
      if (!(error instanceof Error && "code" in error)) throw error;
      if (error.code === "EIO" || error.code === "EPIPE") process.exit(0); // The terminal is gone.
      if (error.code !== "EAGAIN") throw error;
      Bun.sleepSync(1); // poll
    }
  }
}

export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
