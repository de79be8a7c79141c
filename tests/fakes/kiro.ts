/**
 * Looks like Kiro's command line, as far as a shim can tell: `> ` and a hint in it when it is empty, a word with a spinner for what it
 * does, answers after `> `. `bun tests/fakes/kiro.ts [FLAGS]`; flags: screen-agent.ts, what it can be told: commands.ts.
 */
import { runScreenAgent } from "./screen-agent";

const dots = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const words = ["Thinking", "Planning", "Applying"];

runScreenAgent({
  banner: ["Kiro CLI", ""],
  dialog: {
    lines: () => ["Kiro can read and change what is in this directory.", "", "Press enter to continue"],
    answers: 1,
    first: 0,
    yes: 0,
  },
  permission: {
    lines: (chosen, subject) => [
      `Allow ${subject}?`,
      ...["y", "n"].map((key, index) => `${index === chosen ? "*" : " "} ${key}`),
    ],
    answers: 2,
    first: 0,
    yes: 0,
  },
  promptMs: 0,
  title: () => "kiro",
  starting: (frame) => [`${dots[frame % dots.length]} Initializing...`],
  echo: (message) => [...message.split("\n").map((line, index) => `${index === 0 ? "> " : "  "}${line}`), ""],
  done: [],
  interrupts: 2,
  hidesCursor: false,
  hasBackslash: false,
  isInline: () => false,
  answer: { first: "● ", other: "" },
  bottom: ({ isWorking, frame, input }) => {
    const isEmpty = input.length === 1 && input[0] === "";
    const working = `${dots[frame % dots.length]} ${words[Math.floor(frame / 6) % words.length]}... (esc to interrupt)`;
    const field = isEmpty
      ? [isWorking ? ">" : "> \x1b[2mask a question or describe a task ↵\x1b[22m"]
      : input.map((line, index) => `${index === 0 ? ">" : " "} ${line}`);
    const above = isWorking ? [working, ""] : [""];
    return { lines: [...above, ...field], inputLine: above.length, inputColumn: 2 };
  },
  placeholder: () => undefined,
  exhausted: ["The context window is full. Use /clear to begin anew."],
  approaching: ["Your context window is approaching its limit (91%)."],
});
