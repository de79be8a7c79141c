/**
 * What the fakes can be told, a command a line in the text of a message, so that a test writes its own script:
 *
 *     say TEXT        answers TEXT; `\n` in it begins a new line
 *     slow TEXT       the same, a character at a time, multi-byte characters in pieces
 *     lines N         answers `line 1` to `line N`
 *     stream N MS     the same, a line every MS milliseconds
 *     tool NAME WORD… uses a tool, of which the words come, a line each
 *     permit MS WHAT  asks for permission, for so long, and answers `permitted` or `denied`
 *     think MS        works for so long before it goes on
 *     hang            works until it is interrupted
 *     silent MS       works without any output at all, not even a spinner
 *     wide            wide, combining, joined and right-to-left characters
 *     colours         text in colours
 *     progress        a line that overwrites itself, 0 % to 100 %, and at last says `done`
 *     repaint         lines written in disorder by cursor addressing, some of them over others
 *     alternate MS    another screen for so long, which must leave no trace
 *     title TEXT      sets the window's title
 *     size            answers ROWSxCOLS
 *     env NAME        answers the value
 *     args            answers its own arguments
 *     bulk MB         text in lines of 80 columns
 *     yes [MB]        `y` line by line; without a number until it is interrupted
 *     binary N        N bytes of any value, the same for the same N
 *     start KIND      starts a process that goes on, and answers its pid: plain, deaf (ignores SIGTERM), session (its own), nohup, orphan
 *                     (its own session, and its parent is gone), bare (the same, with an empty environment)
 *     fill            says that its context is full, as its own kind does, and says nothing else from then on
 *     nearly          warns that its context will soon be full
 *     swallow [N]     does not notice the next N Enters (1) that follow a paste
 *     exit N          ends with that status
 *     die SIGNAL      ends by that signal
 *
 * A message without any command is answered with `read N characters`. Words before a command that end in `: ` or `] ` are passed over, since
 * whoever hands a message over may say from whom it is.
 */
import { spawn, spawnSync } from "node:child_process";

export interface Command {
  verb: string;
  rest: string;
}

export const verbs = [
  "say",
  "slow",
  "lines",
  "stream",
  "tool",
  "permit",
  "think",
  "hang",
  "silent",
  "wide",
  "colours",
  "progress",
  "repaint",
  "alternate",
  "title",
  "size",
  "env",
  "args",
  "bulk",
  "yes",
  "binary",
  "start",
  "fill",
  "nearly",
  "swallow",
  "exit",
  "die",
] as const;

/** In order. Empty when the message holds none. */
export function readCommands(message: string, known: readonly string[] = verbs): Command[] {
  const pattern = new RegExp(`^(?:.*?[:\\]] )?(${known.join("|")})(?: (.*))?$`);
  return message.split("\n").flatMap((line) => {
    const match = line.trim().match(pattern);
    return match === null ? [] : [{ verb: match[1] ?? "", rest: match[2] ?? "" }];
  });
}

/** What is said to a message without commands. */
export const readNotice = (message: string): string => `read ${[...message].length} characters`;

export const lineList = (count: number): string[] =>
  Array.from({ length: count }, (_, index) => `line ${index + 1}`);

export const wideText = [
  "wide: 日本語 한국어 中文",
  "combining: e\u0301 a\u0308 n\u0303",
  "joined: 👩‍👩‍👧‍👦 🏳️‍🌈 🇪🇺",
  "right to left: שלום",
  "narrow again",
];

/** A megabyte of text, 79 characters and an end a line. */
export const bulkText = `${"The quick brown fox jumps over the lazy dog and runs away into the green wood. "
  .repeat(2)
  .slice(0, 79)}\n`.repeat(Math.ceil(1_000_000 / 80));

/** All values occur, in an order that repeats (a linear congruential generator). */
export function binaryBytes(count: number): Uint8Array {
  let seed = 12345;
  return Uint8Array.from({ length: count }, () => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return (seed >> 8) & 0xff;
  });
}

/** One process, however it was started: what it ignores it goes on ignoring. */
const forever = "exec sleep 86400";

/** Starts a process that goes on by itself, and returns its pid. */
export function startChild(kind: string): number {
  const script = kind === "deaf" ? `trap '' TERM HUP; ${forever}` : forever;
  if (kind === "orphan" || kind === "bare") {
    const clean = kind === "bare" ? "env -i PATH=/usr/bin:/bin " : "";
    const { stdout } = spawnSync("sh", [
      "-c",
      `${clean}setsid sh -c '${forever}' >/dev/null 2>&1 </dev/null & echo $!`,
    ]);
    return Number(stdout.toString());
  }
  const words = { session: ["setsid", "sh"], nohup: ["nohup", "sh"] }[kind] ?? ["sh"];
  const [program = "sh", ...before] = words;
  const child = spawn(program, [...before, "-c", script], { stdio: "ignore" });
  child.unref();
  return child.pid ?? 0;
}
