import { userInfo } from "node:os";
import { seconds } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { readMessageText } from "~/cli/message-text";
import { printable } from "~/cli/text";
import { systemClock } from "~/clock";
import { waitMsMax } from "~/wire/limits";

export const agentSend = defineCommand({
  name: "agent send",
  description: "hand a text to an agent of this host, as if it was typed there",
  args: {
    name: { type: "positional", required: true, completes: "agent", description: "which agent" },
    text: {
      type: "positional",
      required: true,
      description: "what to tell it; - reads it from standard input",
    },
    wait: { type: "boolean", description: "wait for its answer and print that" },
    timeout: {
      type: "string",
      valueHint: "S",
      default: "60",
      description: "seconds to wait",
      parse: seconds(waitMsMax),
    },
  },
  notes:
    "Returns when the agent has the text, or when it waits in the queue of an agent that is at work. This goes to agents of this host alone, without a daemon and without a trace; claudemesh send is for messages that must arrive.",
  exits: [3, 4, 5, 7],
  examples: ['claudemesh agent send helper "run the tests"', 'claudemesh agent send build --wait "make -s"'],
  async run({ name, text, wait, timeout }, host) {
    const given = await readMessageText({ message: text, file: undefined });
    // The end of its last line is what hands it over.
    const body = text === "-" ? given.replace(/\n+$/, "") : given;
    const { paths, out } = host;
    const { sendToAgent } = await import("~/agent/hosted");
    const sent = await sendToAgent({
      daemonDir: paths.daemonDir,
      name,
      from: userInfo().username,
      body,
      isAnswerWanted: wait,
      timeoutMs: timeout,
      clock: systemClock,
      signal: host.interrupted,
    });
    await out.answer({ name, ...sent }, () => {
      if (sent.response !== undefined) return printable(sent.response);
      return sent.status === "queued" ? `${name} is not free; the text waits in its queue` : `${name} has it`;
    });
  },
});
