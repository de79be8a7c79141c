/**
 * Looks like Claude Code, as far as a shim can tell: a box for the input with a hint below it that is there while it works as well, a
 * spinner, long pastes as `[Pasted text #1 +12 lines]`, answers after a dot. `bun tests/fakes/claude.ts [FLAGS]`; flags: screen-agent.ts, what it can be
 * told: commands.ts.
 */
import { runScreenAgent } from "./screen-agent";

const stars = ["·", "✢", "✳", "✶", "✻", "✽"];

runScreenAgent({
  banner: [
    "╭────────────────────────────╮",
    "│ ✻ Welcome to Claude Code!  │",
    "╰────────────────────────────╯",
    "",
  ],
  dialog: [
    "Do you trust the files in this folder?",
    "",
    "❯ 1. Yes, proceed",
    "  2. No, exit",
    "",
    "Enter to confirm · Esc to exit",
  ],
  starting: (frame) => [`${stars[frame % stars.length]} Loading…`],
  echo: (shown) => ["", ...shown.split("\n").map((line, index) => `${index === 0 ? "> " : "  "}${line}`), ""],
  answer: { first: "● ", other: "  " },
  bottom: ({ isWorking, frame, input, cols }) => {
    const rule = "─".repeat(cols - 4);
    const spinner = `${stars[frame % stars.length]} Pondering… (${Math.floor(frame / 12)}s · ↓ 12 tokens · esc to interrupt)`;
    const above = isWorking ? ["", spinner, ""] : [""];
    const field = input.map((line, index) => `│ ${index === 0 ? ">" : " "} ${line}`);
    const hint = `  ⏵⏵ bypass permissions on (shift+tab to cycle)${isWorking ? " · esc to interrupt" : ""}`;
    return {
      lines: [...above, `╭${rule}╮`, ...field, `╰${rule}╯`, hint],
      inputLine: above.length + 1,
      inputColumn: 4,
    };
  },
  placeholder: (text) => {
    const lines = text.split("\n").length;
    return lines > 10 || text.length > 800 ? `[Pasted text #1 +${lines} lines]` : undefined;
  },
  exhausted: ["  ⎿  Context limit reached · /compact or /clear to continue"],
  approaching: ["  ⎿  You are running low on context (8% remaining) · Run /compact to compact & continue"],
});
