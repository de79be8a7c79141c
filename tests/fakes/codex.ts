/**
 * Looks like Codex, as far as a shim can tell: `› ` before the input with a hint in it when it is empty, MCP servers that start, a line below
 * that says how much context is left, long pastes as `[Pasted Content 1234 chars]`. `bun tests/fakes/codex.ts [FLAGS]`; flags: screen-agent.ts, what
 * it can be told: commands.ts.
 */
import { runScreenAgent } from "./screen-agent";

runScreenAgent({
  banner: ["╭──────────────────────╮", "│ >_ OpenAI Codex      │", "╰──────────────────────╯", ""],
  dialog: [
    "> You are in /somewhere",
    "",
    "  Do you trust the contents of this directory?",
    "",
    "› 1. Yes, continue",
    "  2. No, quit",
  ],
  starting: (frame) => [
    "",
    `• Starting MCP servers (${frame % 2}/2): files (${Math.floor(frame / 12)}s • esc to interrupt)`,
    "",
  ],
  echo: (shown) => ["", ...shown.split("\n").map((line, index) => `${index === 0 ? "› " : "  "}${line}`), ""],
  answer: { first: "• ", other: "  " },
  bottom: ({ isWorking, frame, input }) => {
    const above = isWorking ? ["", `• Working (${Math.floor(frame / 12)}s • esc to interrupt)`, ""] : [""];
    const isEmpty = input.length === 1 && input[0] === "";
    const field = isEmpty
      ? ["› \x1b[2mAsk Codex to do anything\x1b[22m"]
      : input.map((line, index) => `${index === 0 ? "›" : " "} ${line}`);
    return {
      lines: [...above, ...field, "", "  98% context left · ? for shortcuts"],
      inputLine: above.length,
      inputColumn: 2,
    };
  },
  placeholder: (text) => (text.length > 1_000 ? `[Pasted Content ${text.length} chars]` : undefined),
  exhausted: ["■ The conversation has reached the maximum context length. Start a new one to go on."],
  approaching: ["⚠ Heads up: this conversation is approaching context limit."],
});
