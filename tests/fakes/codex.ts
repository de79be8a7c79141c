/**
 * Looks like Codex 0.169.0, as far as a shim can tell: `› ` before the input with a hint in it when it is empty, which is there while it works
 * as well; that it works it says in a line that is gone as soon as an answer is being printed, and in its title; what it asks has the sign of
 * its input before the chosen answer; long pastes as `[Pasted Content 1234 chars]`. `bun tests/fakes/codex.ts [FLAGS]`; flags:
 * screen-agent.ts, what it can be told: commands.ts.
 */
import { type Question, runScreenAgent } from "./screen-agent";

const dots = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

const question = (
  above: (subject: string) => readonly string[],
  choices: readonly string[],
  hint: string,
): Question => ({
  lines: (chosen, subject) => [
    ...above(subject),
    ...choices.map((text, index) => `${index === chosen ? "›" : " "} ${index + 1}. ${text}`),
    "",
    `  ${hint}`,
  ],
  answers: choices.length,
  first: 0,
  yes: 0,
});

runScreenAgent({
  banner: [" ", "  >_ OpenAI Codex (v0.169.0)", "     ~/project", " "],
  dialog: question(
    () => [
      " ",
      "  Folder access",
      "  ~/project",
      " ",
      "  Trust this folder? Codex can read, edit, and run files here.",
      " ",
    ],
    ["Trust and continue", "Back to Agent Command Center"],
    "enter continue · esc back",
  ),
  permission: question(
    (subject) => [" ", "  Would you like to run the following command?", " ", `  $ ${subject}`, " "],
    ["Yes, proceed (y)", "Yes, and don't ask again (p)", "No, and tell Codex what to do differently (esc)"],
    "Press enter to confirm or esc to cancel",
  ),
  promptMs: 80,
  title: ({ isWorking, frame }) => `${isWorking ? `${dots[frame % dots.length]} ` : ""}project`,
  starting: (frame) => [
    "",
    `• Starting MCP servers (${frame % 2}/2): files (${Math.floor(frame / 12)}s • esc to interrupt)`,
    "",
  ],
  echo: (message) => [
    "",
    ...message.split("\n").map((line, index) => `${index === 0 ? "› " : "  "}${line}`),
    "",
    "",
  ],
  done: ["", "  Worked for <1s • 18:43"],
  interrupts: 1,
  hidesCursor: false,
  hasBackslash: false,
  isInline: () => process.argv.includes('tui.alternate_screen="never"'),
  answer: { first: "• ", other: "  " },
  bottom: ({ isWorking, isStreaming, frame, input }) => {
    const working = `• Working (${Math.floor(frame / 12)}s • esc to interrupt)`;
    const above = isWorking && !isStreaming ? [" ", working, " ", " "] : [" ", " "];
    const isEmpty = input.length === 1 && input[0] === "";
    const field = isEmpty
      ? ["› \x1b[2mAsk Codex to do anything\x1b[22m"]
      : input.map((line, index) => `${index === 0 ? "›" : " "} ${line}`);
    const hints = isEmpty ? "  ← for agents · ? for shortcuts      ⚠ 1 warning · f2 to view" : "";
    return {
      lines: [...above, ...field, " ", "  gpt-5.4 default · ~/project", hints],
      inputLine: above.length,
      inputColumn: 2,
    };
  },
  placeholder: (text) => (text.length > 1_000 ? `[Pasted Content ${text.length} chars]` : undefined),
  exhausted: [
    "■ Codex ran out of room in the model's context window. Start a new thread or clear earlier history before retrying.",
  ],
  approaching: ["⚠ Heads up: this conversation is approaching context limit."],
});
