/**
 * A shell of sorts, for the generic profile: the terminal itself echoes what is typed, a line is a message, and after each comes the prompt. Knows
 * what a terminal's program can be told (commands.ts) as far as it does not concern a bottom line that is painted anew; Ctrl-C ends what it does.
 * `bun tests/fakes/shell.ts [--prompt TEXT] [--exit N] [--starting MS] [--never]`
 */
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
import { pause, write, writeAll } from "./screen-agent";

const argv = process.argv.slice(2);
const flag = (name: string): string | undefined =>
  argv.includes(name) ? argv[argv.indexOf(name) + 1] : undefined;
const prompt = flag("--prompt") ?? "fake$ ";
let interruption = new AbortController();
let isFull = false;

if (argv.includes("--exit")) {
  write("cannot start\n");
  process.exit(Number(flag("--exit")));
}
process.on("SIGINT", () => {
  interruption.abort();
  write("\n");
  if (!isBusy) write(prompt);
});
const waiting: string[] = [];
let isBusy = true;
let unfinished = "";
process.stdin.on("data", (bytes: Buffer) => {
  unfinished += bytes.toString("utf8");
  const lines = unfinished.split("\n");
  unfinished = lines.pop() ?? "";
  waiting.push(...lines);
  if (!isBusy) void work();
});
process.stdin.on("end", () => process.exit(0));
setTimeout(() => void work(), argv.includes("--never") ? 2 ** 31 - 1 : Number(flag("--starting") ?? 0));

async function work(): Promise<void> {
  isBusy = true;
  for (let line = waiting.shift(); line !== undefined; line = waiting.shift()) {
    interruption = new AbortController();
    const commands = readCommands(line);
    if (isFull) write("context window exceeded\n");
    else if (commands.length === 0 && line.trim() !== "") write(`${readNotice(line)}\n`);
    else for (const command of commands) await run(command);
    if (waiting.length > 0) write(prompt);
  }
  isBusy = false;
  write(prompt);
}

async function run({ verb, rest }: Command): Promise<void> {
  const { signal } = interruption;
  switch (verb) {
    case "say":
      return write(`${rest.replaceAll("\\n", "\n")}\n`);
    case "slow":
      for (const byte of Buffer.from(`${rest}\n`)) {
        writeAll(Uint8Array.of(byte));
        await pause(2, signal);
      }
      return;
    case "lines":
      return write(`${lineList(Number(rest)).join("\n")}\n`);
    case "think":
    case "silent":
      return await pause(Number(rest), signal);
    case "hang":
      return await pause(2 ** 31 - 1, signal);
    case "wide":
      return write(`${wideText.join("\n")}\n`);
    case "colours":
      return write("\x1b[31mred\x1b[0m \x1b[1;38;5;45mbold blue\x1b[0m plain\n");
    case "progress":
      for (let percent = 0; percent <= 100; percent += 10) {
        write(`\r\x1b[K${percent}%`);
        await pause(5, signal);
      }
      return write("\r\x1b[Kdone\n");
    case "repaint":
      return write("\n\n\x1b[2Awrong word\r\x1b[Bsecond\r\x1b[A\x1b[Kfirst\r\x1b[2B");
    case "alternate":
      write("\x1b[?1049h\x1b[2J\x1b[Hanother screen");
      await pause(Number(rest), signal);
      return write("\x1b[?1049l");
    case "title":
      return write(`\x1b]0;${rest}\x07`);
    case "size":
      return write(`${process.stdout.rows}x${process.stdout.columns}\n`);
    case "env":
      return write(`${process.env[rest] ?? "(not set)"}\n`);
    case "args":
      return write(`${JSON.stringify(argv)}\n`);
    case "bulk":
      return await pour(bulkText, Number(rest) * 1_000_000, signal);
    case "yes":
      return await pour("y\n".repeat(32 * 1024), rest === "" ? Infinity : Number(rest) * 1_000_000, signal);
    case "binary":
      writeAll(binaryBytes(Number(rest)));
      return write("\x1bc");
    case "start":
      return write(`${startChild(rest)}\n`);
    case "fill":
      isFull = true;
      return write("context window exceeded\n");
    case "nearly":
      return write("warning: approaching context limit\n");
    case "swallow":
      return write("a shell swallows nothing\n");
    case "exit":
      return process.exit(Number(rest));
    case "die":
      process.kill(process.pid, rest as NodeJS.Signals);
      return await pause(2 ** 31 - 1, signal);
  }
}

async function pour(piece: string, bytes: number, signal: AbortSignal): Promise<void> {
  const block = Buffer.from(piece);
  for (let poured = 0; poured < bytes && !signal.aborted; poured += block.length) {
    writeAll(block.subarray(0, Math.min(block.length, bytes - poured)));
    await new Promise((resolve) => setImmediate(resolve));
  }
  write("\n");
}
