/** The arguments of those mocks that serve TCP too. */
import { usageError, wholeNumber } from "~/cli/argv";
import type { Args } from "~/cli/command";

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

/** Throws `usage` when they contradict each other. */
export function checkTcpArgs({ tcp, token }: { tcp: number | undefined; token: string | undefined }): void {
  if (token !== undefined && tcp === undefined) {
    throw usageError("--token belongs to --tcp", "Over the Unix socket no token is asked for.");
  }
}
