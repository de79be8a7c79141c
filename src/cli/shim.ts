import { resolve } from "node:path";
import { usageError, wholeNumber } from "~/cli/argv";
import { defineCommand } from "~/cli/command";
import { unlessClosed } from "~/cli/output";
import { selfCommand } from "~/cli/server-process";
import { systemClock } from "~/clock";
import { runtimeNames } from "~/wire/attachment";
import { terminalColsDefault, terminalRowsDefault, terminalSideMax } from "~/wire/limits";

export const shim = defineCommand({
  name: "shim",
  description: "host one agent for another program that drives it",
  args: {
    fd: {
      type: "string",
      valueHint: "N",
      description: "descriptor of a connected socket, inherited from whoever drives it",
      parse: wholeNumber(3, 1_000_000),
    },
    socket: {
      type: "string",
      valueHint: "PATH",
      completes: "file",
      description: "listen on a Unix socket there instead",
    },
    detached: {
      type: "boolean",
      description: "with --socket: go on when nobody is connected; terminals attach at PATH.tty",
    },
    owned: {
      type: "boolean",
      description: "with --detached: a terminal attaches at once, and the agent ends with it (agent run)",
    },
    profile: {
      type: "string",
      valueHint: "P",
      description: "generic, claude, codex, kiro or one of your own (default: by the program's name)",
    },
    runtime: {
      type: "enum",
      options: runtimeNames,
      default: "pty",
      description: "how to speak with the agent",
    },
    cwd: {
      type: "string",
      valueHint: "DIR",
      completes: "directory",
      description: "where to run it (default: here)",
    },
    rows: {
      type: "string",
      valueHint: "N",
      default: String(terminalRowsDefault),
      description: "rows of its terminal",
      parse: wholeNumber(1, terminalSideMax),
    },
    cols: {
      type: "string",
      valueHint: "N",
      default: String(terminalColsDefault),
      description: "columns of its terminal",
      parse: wholeNumber(1, terminalSideMax),
    },
    log: {
      type: "string",
      valueHint: "PATH",
      completes: "file",
      description: "keep its raw output there, cut at 50 MiB",
    },
    command: {
      type: "positional",
      required: true,
      rest: true,
      completes: "file",
      description: "the agent and its arguments",
    },
  },
  notes:
    "Frames on the socket, each a length (u32, big-endian) and that much JSON, carry commands one way and events the other; docs/shim.md has them all. When the connection ends, so does the agent, unless the shim is detached, and nothing that it started is left.\n\nFor a person's own terminal there is claudemesh agent run.",
  exits: [4, 130],
  examples: [
    "claudemesh shim --socket /tmp/helper.sock -- claude",
    "claudemesh shim --fd 3 --cwd ~/project -- bash",
  ],
  async run(args, host) {
    const { fd, socket, detached, owned } = args;
    if ((fd === undefined) === (socket === undefined)) {
      throw usageError("one of --fd and --socket is needed", "The shim is driven over it.");
    }
    if (detached && socket === undefined) {
      throw usageError("--detached needs --socket", "Nobody could come back to an inherited connection.");
    }
    if (owned && !detached)
      throw usageError("--owned needs --detached", "Terminals attach to no other shim.");
    const { runShim } = await import("~/agent/run");
    const path = socket === undefined ? undefined : resolve(socket);
    await runShim(
      {
        way:
          path === undefined
            ? { kind: "fd", fd: fd ?? 0 }
            : { kind: "socket", path, isDetached: detached, isOwned: owned },
        command: args.command,
        profile: args.profile,
        runtime: args.runtime,
        cwd: resolve(args.cwd ?? process.cwd()),
        rows: args.rows,
        cols: args.cols,
        log: args.log === undefined ? undefined : resolve(args.log),
        clock: systemClock,
        configDir: host.paths.configDir,
        env: host.env,
        executable: selfCommand(),
        onReady(pid) {
          if (path === undefined) return;
          const text = `the agent runs: pid ${pid}, driven over ${path}`;
          void unlessClosed(host.out.answer({ pid, shim_pid: process.pid, socket: path }, () => text));
        },
      },
      host.interrupted,
    );
  },
});
