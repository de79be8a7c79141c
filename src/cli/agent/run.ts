import { resolve } from "node:path";
import { detachKeyArg, detachKeyOf, showAgent, terminalOf } from "~/cli/agent/attached";
import { defineCommand } from "~/cli/command";
import { selfCommand } from "~/cli/server-process";
import { systemClock } from "~/clock";
import { runtimeNames } from "~/wire/attachment";

/** Of an agent that is started without a terminal: as the shim's own. */
const sizeUnseen = { rows: 50, cols: 220 };

export const agentRun = defineCommand({
  name: "agent run",
  description: "run an agent in this terminal, for others to send it messages",
  args: {
    name: { type: "positional", required: true, description: "what to call it: letters, digits, - and _" },
    command: {
      type: "positional",
      required: true,
      rest: true,
      completes: "file",
      description: "the agent and its arguments: claude, codex, bash",
    },
    profile: {
      type: "string",
      valueHint: "P",
      description: "how its prompt and its dialogs are recognised (default: by the command's name)",
    },
    cwd: {
      type: "string",
      valueHint: "DIR",
      completes: "directory",
      description: "where to run it (default: here)",
    },
    runtime: { type: "enum", options: runtimeNames, description: "how to speak with it (default: pty)" },
    detached: { type: "boolean", description: "start it without a terminal and return" },
    ...detachKeyArg,
  },
  notes:
    "It looks as if it had been started directly: keys, colours, size, Ctrl-C and the exit status are the agent's. It ends with its terminal. After the detach key it goes on without one: claudemesh agent attach NAME shows it again, in any terminal and in several at a time; claudemesh agent stop NAME ends it.\n\nMeanwhile, from another terminal: claudemesh agent list, send, capture, logs.",
  exits: [3, 4, 6, 7, 130],
  examples: [
    "claudemesh agent run helper -- claude",
    "claudemesh agent run build --cwd ~/project --detached -- bash",
  ],
  async run({ name, command, profile, cwd, runtime, detached, "detach-key": keyText }, host) {
    const detachKey = await detachKeyOf(keyText);
    const { sizeOf } = await import("~/agent/terminal");
    const terminal = detached ? undefined : terminalOf(host, startUnseen(name));
    const size = terminal === undefined ? sizeUnseen : sizeOf(terminal.output);
    // From here on a signal is for us to see to: what was started is not left running without anybody to see it.
    if (terminal !== undefined) host.interrupted.throwIfAborted();
    const { startAgent } = await import("~/agent/hosted-start");
    const { daemonDir } = host.paths;
    const { socket } = await startAgent({
      daemonDir,
      name,
      command,
      profile,
      runtime,
      isOwned: terminal !== undefined,
      cwd: resolve(cwd ?? process.cwd()),
      size,
      env: host.env,
      executable: selfCommand(),
      clock: systemClock,
    });
    if (terminal === undefined) {
      const { describeAgent } = await import("~/agent/hosted");
      const { pid, shim_pid, profile: chosen } = await describeAgent(daemonDir, name, systemClock);
      await host.out.answer(
        { name, pid, shim_pid, profile: chosen, socket },
        () => `${name} runs: pid ${pid}, profile ${chosen}. To see it: claudemesh agent attach ${name}`,
      );
      return 0;
    }
    if (detachKey !== undefined) await host.out.note(`[${name}: ${detachKey.name} leaves it running]`);
    return await showAgent(host, { name, terminal, isOwner: true, detachKey });
  },
});

const startUnseen = (name: string): string =>
  `Start it without one: claudemesh agent run ${name} --detached -- COMMAND; then claudemesh agent send and agent capture.`;
