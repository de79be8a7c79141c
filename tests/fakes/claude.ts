/**
 * Looks like Claude Code 2.1.329, as far as a shim can tell: between two rules an input, below it a hint in which it says that it works, but
 * only while nothing stands in the input; answers after a dot, all else of them indented; a line that counts the time below each; long
 * pastes as `[Pasted text #1 +12 lines]`, and shortened in the history. `bun tests/fakes/claude.ts [FLAGS]`; flags: screen-agent.ts,
 * what it can be told: commands.ts.
 */
import { runScreenAgent } from "./screen-agent";

const stars = ["·", "✢", "✳", "✶", "✻", "✽"];
const rule = "─".repeat(60);
/** Lines of a message that stay at its beginning and at its end. */
const keptLines = 30;

runScreenAgent({
  banner: [
    " ▐▛███▛█   Claude Code v2.1.329",
    "▝▜██████▀  Opus 5.5 · API Usage Billing",
    " ▝▝   ▝▝   ~/project",
    "",
  ],
  dialog: {
    lines: (chosen) => [
      rule,
      " Accessing workspace:",
      "",
      " Quick safety check: Is this a project you created or one you trust? (Like your own code.) If not, take a look first.",
      "",
      ...["No, exit", "Yes, I trust this folder"].map(
        (text, index) => ` ${index === chosen ? "❯" : " "} ${text}`,
      ),
      "",
      " Enter to confirm · Esc to cancel",
    ],
    answers: 2,
    first: 0,
    yes: 1,
  },
  permission: {
    lines: (chosen, subject) => [
      rule,
      " Bash command",
      ` ${subject}`,
      " Do you want to proceed?",
      ...["1. Yes", "2. Yes, and don't ask again (shift+tab)", "3. No"].map(
        (text, index) => ` ${index === chosen ? "❯" : " "} ${text}`,
      ),
      "",
      " Esc to cancel · Tab to amend",
    ],
    answers: 3,
    first: 0,
    yes: 0,
  },
  promptMs: 0,
  title: ({ isWorking, frame }) => `${isWorking ? (frame % 24 < 12 ? "◐" : "◑") : "✳"} Claude Code`,
  starting: (frame) => [`${stars[frame % stars.length]} Loading…`],
  echo: (message) => {
    const lines = message.replace(/^#+ /, "").split("\n");
    const hidden = lines.length - 2 * keptLines;
    const shown =
      hidden > 0
        ? [...lines.slice(0, keptLines), `──── (${hidden} lines hidden) ────`, ...lines.slice(-keptLines)]
        : lines;
    return ["", ...shown.map((line, index) => `${index === 0 ? "❯ " : "  "}${line}    `), "  "];
  },
  done: ["", "✻ Pondered for 0s · done 6:43 PM"],
  interrupts: 2,
  hidesCursor: true,
  hasBackslash: true,
  isInline: () => process.env.CLAUDE_CODE_DISABLE_ALTERNATE_SCREEN === "1",
  answer: { first: "● ", other: "  " },
  bottom: ({ isWorking, isStreaming, isLeaving, isPasting, frame, input, cols }) => {
    const wide = "─".repeat(cols - 1);
    const spinner = `${stars[frame % stars.length]} Pondering… (${Math.floor(frame / 12)}s · ↓ 12 tokens)`;
    const above = isWorking && !isStreaming ? ["", spinner, ""] : [""];
    const field = input.map((line, index) => `${index === 0 ? "❯" : " "} ${line} `);
    const isEmpty = input.join("") === "";
    const works = isWorking ? " · esc to interrupt" : " · ? for shortcuts";
    const mode = `⏸ manual mode on${isEmpty ? works : ""}`;
    const hint = isLeaving ? "Press Ctrl-C again to exit" : isPasting ? "Pasting text…" : mode;
    return {
      lines: [...above, wide, ...field, wide, `  ${hint}                    ◐ medium · /effort`],
      inputLine: above.length + 1,
      inputColumn: 2,
    };
  },
  placeholder: (text) => {
    const lines = text.split("\n").length;
    return lines > 10 || text.length > 800 ? `[Pasted text #1 +${lines - 1} lines]` : undefined;
  },
  exhausted: ["  ⎿  Prompt is too long · automatic compaction failed · /clear to start fresh"],
  approaching: ["", "  ⎿  Context low (8% remaining) · Run /compact to compact & continue"],
});
