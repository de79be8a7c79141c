/** The arguments that the mocks share. */
import { resolve } from "node:path";
import { usageError, wholeNumber } from "~/cli/argv";
import type { Args } from "~/cli/command";

/** An empty one is what a shell makes of a variable that is not set, and would be the working directory. */
function path(text: string): string {
  if (text !== "") return resolve(text);
  throw usageError("a path expected, not an empty text");
}

export const socketArgs = {
  socket: {
    type: "string",
    valueHint: "PATH",
    completes: "file",
    description: "listen on a Unix socket there; the file appears once everything is served",
    parse: path,
  },
} as const satisfies Args;

export const scriptArgs = {
  script: {
    type: "string",
    valueHint: "FILE",
    completes: "file",
    description: "what to do otherwise than usual; claudemesh mock schema says what it may hold",
    parse: path,
  },
  record: {
    type: "string",
    valueHint: "FILE",
    completes: "file",
    description: "write there what passes, both ways; claudemesh mock replay answers from it",
    parse: path,
  },
} as const satisfies Args;

export const tcpArgs = {
  tcp: {
    type: "string",
    valueHint: "PORT",
    description: "serve this port of 127.0.0.1 too, behind a token; 0 takes any that is free",
    parse: wholeNumber(0, 65_535),
  },
  token: {
    type: "string",
    valueHint: "TOKEN",
    description: "the token for --tcp (default: one that is always the same; it is told at the start)",
    parse: mockToken,
  },
} as const satisfies Args;

/** What fits into a header, and is long enough not to stand in a recording by chance. */
function mockToken(text: string): string {
  if (/^[A-Za-z0-9_-]{16,256}$/.test(text)) return text;
  throw usageError(`16 to 256 of A-Z a-z 0-9 _ - expected, not ${JSON.stringify(text)}`);
}

interface Given {
  socket: string | undefined;
  script?: string | undefined;
  record?: string | undefined;
  tcp?: number | undefined;
  token?: string | undefined;
}

/** Where to listen. Throws `usage` when that is not said, or when the others contradict each other. */
export function socketOf({ socket, script, record, tcp, token }: Given, usage: string): string {
  if (socket === undefined) throw usageError(`usage: ${usage}`, "PATH is the Unix socket to listen on.");
  if (record !== undefined && (record === socket || record === script)) {
    throw usageError(
      `--record and --${record === socket ? "socket" : "script"} name the same file`,
      "What is recorded replaces what the file holds: give it one of its own.",
    );
  }
  if (token !== undefined && tcp === undefined) {
    throw usageError("--token belongs to --tcp", "Over the Unix socket no token is asked for.");
  }
  return socket;
}
