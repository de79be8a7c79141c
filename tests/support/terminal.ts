/**
 * A terminal window: a program in a pseudo-terminal, and an emulator that shows what it prints and answers what it asks. What a person
 * would see is `screen()`.
 */
import { Terminal } from "@xterm/headless";
import { cleanup } from "./cleanup";
import { waitFor } from "./wait-for";

export interface TestTerminal {
  readonly pid: number;
  type(text: string): void;
  resize(rows: number, cols: number): void;
  /** The text of the screen, as it is now. */
  screen(): string;
  /** Everything that was printed, as it came. */
  printed(): string;
  emulator: Terminal;
  /** Waits until the text of the screen matches. */
  shows(pattern: RegExp | string, timeoutMs?: number): Promise<void>;
  /** Resolves with its exit status; 128 and more for a signal. */
  exited: Promise<number>;
  /** Closes the window: whoever lives in it is hung up. */
  close(): void;
}

export interface TestTerminalOptions {
  rows?: number;
  cols?: number;
  env: Record<string, string>;
  cwd?: string;
}

export function openTerminal(
  argv: readonly string[],
  { rows = 24, cols = 80, env, cwd }: TestTerminalOptions,
): TestTerminal {
  const emulator = new Terminal({ rows, cols, scrollback: 10_000, allowProposedApi: true });
  let printed = "";
  const child = Bun.spawn([...argv], {
    env: { PATH: process.env.PATH ?? "", TERM: "xterm-256color", ...env },
    ...(cwd === undefined ? {} : { cwd }),
    terminal: {
      rows,
      cols,
      data(_, bytes) {
        printed += Buffer.from(bytes).toString("latin1");
        emulator.write(bytes.slice());
      },
    },
  });
  const pty = child.terminal;
  if (pty === undefined) throw new Error("no terminal");
  emulator.onData((answer) => void (pty.closed || pty.write(answer)));
  cleanup(async () => {
    child.kill("SIGKILL");
    await child.exited;
    if (!pty.closed) pty.close();
    emulator.dispose();
  });
  const screen = (): string => {
    const { active } = emulator.buffer;
    const lines = Array.from({ length: emulator.rows }, (_, row) =>
      active.getLine(active.baseY + row)?.translateToString(true),
    );
    return lines.join("\n").trimEnd();
  };
  return {
    pid: child.pid,
    type: (text) => void pty.write(text),
    resize(newRows, newCols) {
      emulator.resize(newCols, newRows);
      pty.resize(newCols, newRows);
    },
    screen,
    printed: () => printed,
    emulator,
    async shows(pattern, timeoutMs = 15_000) {
      const holds = (): boolean =>
        typeof pattern === "string" ? screen().includes(pattern) : pattern.test(screen());
      await waitFor(holds, { what: `the screen to show ${pattern}`, timeoutMs }).catch((error: unknown) => {
        throw new Error(`${error}; it shows:\n${screen()}`);
      });
    },
    exited: child.exited.then((status) => status),
    close: () => pty.close(),
  };
}
