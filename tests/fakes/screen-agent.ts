/**
 * What the terminal fakes (claude.ts, codex.ts, kiro.ts) have in common: a program in raw mode that keeps an input field and a status at the
 * bottom of the screen, paints them anew when they change, and lets what was said scroll away above them. It takes bracketed pastes, typed
 * text, Enter, Backspace, Ctrl-U (deletes a line, or the end of the one before), Ctrl-C (interrupts; else clears the input; on an empty one
 * it ends with status 0, some at the second only), Ctrl-D (ends at once) and Escape (interrupts); arrows and Enter where it asks something.
 * What it can be told: commands.ts.
 *
 * Flags of each: `--dialog` (asks for trust first, and ends with status 1 when it is refused), `--starting MS` (so long until the first
 * prompt), `--never` (no prompt ever), `--exit N` (ends at once), `--draft TEXT` (stands in the input at first), `--swallow N` (as the
 * command), `--pasting MS` (is busy with a paste for so long, and loses it when Enter comes meanwhile), `--asks MS` (for permission, so
 * long, in place of the first paste; ends with status 9 when it is given), `--alternate` (all of it on the alternate screen), `--fullscreen`
 * (the same, and of what was said only what fits is ever painted, unless it was told not to do so, as the real ones can be).
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

/** One of several answers is chosen with the arrows. */
export interface Question {
  lines(chosen: number, subject: string): readonly string[];
  answers: number;
  /** Chosen at first. */
  first: number;
  /** Means yes. */
  yes: number;
}

/** The part that tells one fake from another. All lines without their ends. */
export interface Look {
  banner: readonly string[];
  /** Whether it may be trusted, and whether a tool may be used. */
  dialog: Question;
  permission: Question;
  /** For how long it shows its prompt before the dialog. */
  promptMs: number;
  /** Of the window. */
  title(state: { isWorking: boolean; frame: number }): string;
  /** While it starts, with the number of the picture. */
  starting(frame: number): readonly string[];
  /** A message as it stays on the screen. */
  echo(message: string): readonly string[];
  /** Below what was said in a turn. */
  done: readonly string[];
  /** How often Ctrl-C is needed where there is nothing to interrupt or clear. */
  interrupts: number;
  /** Paints one of its own. */
  hidesCursor: boolean;
  /** Whether Enter behind a backslash begins a new line. */
  hasBackslash: boolean;
  /** Whether it was told to leave the alternate screen alone. */
  isInline(): boolean;
  /** Before the first line of an answer, and before all others. */
  answer: { first: string; other: string };
  /** The bottom of the screen. `input`: what it shows in the field, and at what column of it the cursor stands. */
  bottom(state: {
    isWorking: boolean;
    /** An answer is being printed. */
    isStreaming: boolean;
    /** Ctrl-C was pressed, and is to be pressed again. */
    isLeaving: boolean;
    /** It is still busy with what was pasted. */
    isPasting: boolean;
    frame: number;
    input: readonly string[];
    cols: number;
  }): {
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
// biome-ignore lint/suspicious/noControlCharactersInRegex: an arrow is one key
const keyPattern = /\x1b\[[A-Z]|./gsu;
/** A Ctrl-C that came earlier does not count any more. */
const ctrlCMs = 800;
const chunkBytes = 64 * 1024;

interface Flags {
  dialog: boolean;
  startingMs: number;
  never: boolean;
  exit: number | undefined;
  swallow: number;
  alternate: boolean;
  fullscreen: boolean;
  asksMs: number | undefined;
  draft: string;
  pastingMs: number;
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
    alternate: has("--alternate") || has("--fullscreen"),
    fullscreen: has("--fullscreen"),
    asksMs: has("--asks") ? Number(value("--asks")) : undefined,
    draft: value("--draft") ?? "",
    pastingMs: Number(value("--pasting") ?? 0),
  };
}

/** Goes on until it is told to end. */
export function runScreenAgent(look: Look): void {
  const flags = readFlags(process.argv.slice(2));
  const isInline = flags.fullscreen && look.isInline();
  new ScreenAgent(look, isInline ? { ...flags, alternate: false, fullscreen: false } : flags).start();
}

class ScreenAgent {
  readonly #look: Look;
  readonly #flags: Flags;
  #phase: "dialog" | "starting" | "prompt" | "permission" = "prompt";
  #chosen = 0;
  #subject = "";
  #answered: (isYes: boolean) => void = () => undefined;
  #input = "";
  #paste: string | undefined;
  #afterPaste = false;
  #isPasting = false;
  #swallow: number;
  #asksMs: number | undefined;
  #bottomLines = 0;
  #cursorLine = 0;
  #frame = 0;
  #isWorking = false;
  #isSilent = false;
  #isStreaming = false;
  #isFull = false;
  #isLeaving = false;
  #interruption = new AbortController();
  #ctrlCs: number[] = [];
  #painted = "";
  #title = "";
  /** What was said, where it does not stay on the screen. */
  #said: string[] = [];
  #queue: string[] = [];
  #pending: Uint8Array = new Uint8Array();

  constructor(look: Look, flags: Flags) {
    this.#look = look;
    this.#flags = flags;
    this.#swallow = flags.swallow;
    this.#asksMs = flags.asksMs;
    this.#input = flags.draft;
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
    // What takes no input yet shows none.
    if (!this.#flags.dialog || this.#look.promptMs === 0) this.#phase = "starting";
    this.#print(this.#look.banner.join("\n"));
    setInterval(() => this.#tick(), spinnerMs);
    if (!this.#flags.dialog) this.#begin();
    else setTimeout(() => this.#enter("dialog"), this.#look.promptMs);
  }

  #begin(): void {
    this.#enter("starting");
    if (!this.#flags.never) setTimeout(() => this.#enter("prompt"), this.#flags.startingMs);
  }

  #enter(phase: "dialog" | "starting" | "prompt" | "permission"): void {
    this.#phase = phase;
    if (phase === "dialog") this.#chosen = this.#look.dialog.first;
    if (phase === "permission") this.#chosen = this.#look.permission.first;
    this.#paint();
  }

  #tick(): void {
    const isMoving = this.#phase === "starting" || (this.#phase === "prompt" && this.#isWorking);
    if (!isMoving || this.#isSilent) return;
    this.#frame += 1;
    this.#paint();
  }

  // ── The bottom of the screen ────────────────────────────────────────────────────────────────────────────────────────

  /** Only what has changed. */
  #paint(): void {
    if (this.#isSilent) return;
    const cols = process.stdout.columns || 80;
    const { lines, cursorLine, cursorColumn } = this.#bottom(cols);
    const clipped = lines.map((line) => [...line].slice(0, cols - 1).join(""));
    const up = lines.length - 1 - cursorLine;
    const end = `${up > 0 ? `\x1b[${up}A` : ""}\r\x1b[${cursorColumn}C`;
    const above = this.#flags.fullscreen ? this.#visible(lines.length) : [];
    const text = [...above, ...clipped].join("\r\n") + end;
    this.#entitle();
    if (text === this.#painted) return;
    write(`\x1b[?25l${this.#erasure()}${text}${this.#look.hidesCursor ? "" : "\x1b[?25h"}`);
    this.#painted = text;
    this.#bottomLines = lines.length;
    this.#cursorLine = cursorLine;
  }

  #entitle(): void {
    const isWorking = this.#isWorking && this.#phase === "prompt";
    const title = this.#look.title({ isWorking, frame: this.#frame });
    if (title !== this.#title) write(`\x1b]0;${title}\x07`);
    this.#title = title;
  }

  #bottom(cols: number): { lines: readonly string[]; cursorLine: number; cursorColumn: number } {
    if (this.#phase !== "prompt") {
      const lines =
        this.#phase === "starting"
          ? this.#look.starting(this.#frame)
          : this.#question.lines(this.#chosen, this.#subject);
      return { lines, cursorLine: lines.length - 1, cursorColumn: 1 };
    }
    const input = this.#shownInput(cols - 8);
    const { lines, inputLine, inputColumn } = this.#look.bottom({
      isWorking: this.#isWorking,
      isStreaming: this.#isStreaming,
      isLeaving: this.#isLeaving,
      isPasting: this.#isPasting,
      frame: this.#frame,
      input,
      cols,
    });
    const cursorLine = inputLine + input.length - 1;
    return { lines, cursorLine, cursorColumn: inputColumn + Bun.stringWidth(input.at(-1) ?? "") };
  }

  get #question(): Question {
    return this.#phase === "dialog" ? this.#look.dialog : this.#look.permission;
  }

  /** What there is room for above the bottom. */
  #visible(bottomLines: number): readonly string[] {
    const room = Math.max(0, (process.stdout.rows || 24) - bottomLines);
    return room === 0 ? [] : this.#said.slice(-room);
  }

  /** Takes the cursor to where the bottom begins, and clears from there on. */
  #erasure(): string {
    this.#painted = "";
    if (this.#flags.fullscreen) return "\x1b[H\x1b[J";
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
    if (this.#flags.fullscreen) this.#said = [...this.#said, ...ended.split("\n").slice(0, -1)].slice(-200);
    else write(`${this.#erasure()}${ended.replaceAll("\n", "\r\n")}`);
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
        if (this.#asksMs !== undefined) void this.#askInstead(this.#asksMs);
        else if (this.#phase === "prompt") this.#input += fromLatin1(this.#paste).replaceAll("\r", "\n");
        this.#paste = undefined;
        this.#afterPaste = true;
        this.#isPasting = this.#flags.pastingMs > 0;
        setTimeout(() => {
          this.#isPasting = false;
          this.#paint();
        }, this.#flags.pastingMs);
        this.#paint();
      }
    }
  }

  #keys(keys: string): void {
    for (const [key] of fromLatin1(keys).matchAll(keyPattern)) {
      if (key === "\x03") this.#ctrlC();
      else if (this.#phase === "starting") continue;
      else if (this.#phase !== "prompt") this.#choose(key);
      else if (key === "\x04" && this.#input === "") this.#end(0);
      else if (key === "\x1b") this.#interruption.abort();
      else if (key === "\r") this.#return();
      else if (key === "\x15") this.#input = this.#input.replace(/(\n|[^\n]+)$/u, "");
      else if (key === "\x7f") this.#input = [...this.#input].slice(0, -1).join("");
      else if (key.length === 1 && (key === "\n" || key >= " ")) this.#input += key;
      if (key !== "\r") this.#afterPaste = false;
    }
    this.#paint();
  }

  #choose(key: string): void {
    const { answers, yes } = this.#question;
    if (key === "\x1b[A") this.#chosen = Math.max(0, this.#chosen - 1);
    if (key === "\x1b[B") this.#chosen = Math.min(answers - 1, this.#chosen + 1);
    if (key !== "\r" && key !== "\x1b") return;
    const isYes = key === "\r" && this.#chosen === yes;
    if (this.#phase === "permission") this.#answered(isYes);
    else if (isYes) this.#begin();
    else this.#end(1);
  }

  #ctrlC(): void {
    if (this.#isWorking) {
      this.#interruption.abort();
      return;
    }
    const now = performance.now();
    const isClearing = this.#input !== "";
    if (isClearing) this.#ctrlCs = [];
    this.#input = "";
    this.#ctrlCs = [...this.#ctrlCs.filter((at) => now - at < ctrlCMs), now];
    if (this.#ctrlCs.length >= this.#look.interrupts && !isClearing) this.#end(0);
    this.#isLeaving = true;
    setTimeout(() => {
      this.#isLeaving = false;
      this.#paint();
    }, ctrlCMs);
  }

  #return(): void {
    const isSwallowed = this.#afterPaste && this.#swallow > 0;
    if (isSwallowed) {
      this.#swallow -= 1;
      return;
    }
    this.#afterPaste = false;
    if (this.#isPasting) this.#input = "";
    if (this.#input.trim() === "") return;
    if (this.#look.hasBackslash && this.#input.endsWith("\\")) {
      this.#input = `${this.#input.slice(0, -1)}\n`;
      return;
    }
    const message = this.#input.trimEnd();
    this.#input = "";
    this.#print(this.#look.echo(message).join("\n"));
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
        this.#print(["", ...this.#look.exhausted].join("\n"));
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
      this.#print(this.#look.done.join("\n"));
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
      case "stream": {
        const [count = "1", ms = "0"] = rest.split(" ");
        return await this.#stream(Number(count), Number(ms));
      }
      case "tool": {
        const [name = "", ...said] = rest.split(" ");
        this.#answer(`${name}(…)`);
        return this.#print(said.map((word, index) => `${index === 0 ? "  ⎿  " : "     "}${word}`).join("\n"));
      }
      case "permit": {
        const [ms = "0", ...what] = rest.split(" ");
        return this.#answer((await this.#isPermitted(Number(ms), what.join(" "))) ? "permitted" : "denied");
      }
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

  /** Line by line, with a pause after each. */
  async #stream(count: number, ms: number): Promise<void> {
    const { first, other } = this.#look.answer;
    this.#isStreaming = true;
    for (const [index, line] of lineList(count).entries()) {
      this.#print(`${index === 0 ? first : other}${line}`);
      await pause(ms, this.#interruption.signal);
    }
    this.#isStreaming = false;
  }

  async #askInstead(ms: number): Promise<void> {
    this.#asksMs = undefined;
    if (await this.#isPermitted(ms, "something else")) this.#end(9);
  }

  /** Asks for so long, and takes no answer for a refusal. */
  async #isPermitted(ms: number, subject: string): Promise<boolean> {
    this.#subject = subject;
    this.#enter("permission");
    const answer = new Promise<boolean>((resolve) => {
      this.#answered = resolve;
    });
    const isYes = await Promise.race([answer, pause(ms, this.#interruption.signal).then(() => false)]);
    this.#enter("prompt");
    return isYes;
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
