/**
 * How a shim hosts its agent: in a terminal (pty.ts), or by newline-delimited JSON on its standard input and output
 * (stream-json.ts). A runtime starts the process, hands texts to it, and reports what it sees. It decides nothing: states, queues and
 * events are the shim's (state.ts), and so is ending the process and all that belongs to it (process-tree.ts).
 */

/** What a runtime sees the agent do. `idle`: it waits for input. */
export type Sight = "idle" | "working" | "exhausted" | "approaching";

export interface RuntimeEvents {
  /** Told when it changes, and after each submission anew. `text`: the lines that say so, for people. */
  saw(sight: Sight, text: string): void;
  /** Raw output, as it came: for the log, and for a person who is attached. */
  output(bytes: Uint8Array): void;
  /** Tokens so far, where the agent tells them. */
  usage(usage: TokenUsage): void;
  /** Something that a person should know; the agent goes on. */
  warning(message: string): void;
  /** The process ended and all of its output was taken in. `code` is null only when a signal ended it. */
  ended(exit: { code: number | null; signal: string | null }): void;
}

export interface TokenUsage {
  model: string | null;
  input: number;
  cachedInput: number;
  cacheCreationInput: number;
  cacheReadInput: number;
  output: number;
  reasoningOutput: number;
  /** Tokens in the context now. */
  used: number;
  /** How many fit; 0 when that is not known. */
  limit: number;
}

export interface Capture {
  content: string;
  /** From 0. */
  cursorRow: number;
  cursorCol: number;
}

export interface Runtime {
  readonly pid: number;
  /** Bytes of output so far. */
  readonly outputBytes: number;
  /**
   * Hands a text over and submits it. Resolves when the agent has it, as far as can be seen; rejects when it could not be written
   * or the process has ended. One at a time.
   */
  submit(text: string): Promise<void>;
  /** What the agent has answered since the last submission, without the echo and the agent's decoration: all of it. */
  response(): Promise<string>;
  /** The last lines for people, or the whole screen with null. Everything that has arrived is in it. */
  capture(lastLines: number | null): Promise<Capture>;
  /**
   * What a blank terminal of the agent's size has to be sent to look as the agent's does (agent/snapshot.ts): all that went to `output`
   * before this call is in it, nothing that goes there after it. With `isComplete` what has scrolled away is, too.
   */
  snapshot(isComplete: boolean): Promise<string>;
  resize(rows: number, cols: number): void;
  /** Has the agent wait with its output, or go on, where that is possible. */
  hold(isHeld: boolean): void;
  /** As if Ctrl-C was typed. */
  interrupt(): void;
  /** As a person would have it end: Ctrl-C, as often as it takes; where there is no terminal, SIGINT. */
  askToEnd(): void;
  /** Input of a person who is attached, as it is. False where a runtime has no keyboard. */
  type(bytes: Uint8Array): boolean;
  /** Resolves when the agent has read what was typed; undefined when so little waits that more may be. */
  whenRead(): Promise<void> | undefined;
  /** Lets go of the terminal or the pipes, when the process has ended. */
  close(): void;
}
