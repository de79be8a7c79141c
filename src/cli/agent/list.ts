import { exitText } from "~/cli/agent/exit-text";
import { defineCommand } from "~/cli/command";
import { columns, printableLine, spanText } from "~/cli/text";
import { systemClock } from "~/clock";

export const agentList = defineCommand({
  name: "agent list",
  description: "the agents of this host and what they do",
  args: {},
  notes:
    "A dead agent is listed until somebody has seen its end (agent attach, agent stop) or its name is used again. One is unresponsive whose shim does not answer: it is stopped, or the host is overloaded; agent stop ends it all the same.",
  exits: [4],
  examples: ["claudemesh agent list", "claudemesh agent list --json"],
  async run(_args, { paths, out }) {
    const { listAgents } = await import("~/agent/hosted");
    const agents = await listAgents(paths.daemonDir, systemClock);
    const now = systemClock.now();
    const shown = agents.map(({ name, state, since_s, description, shim_pid }) => ({
      name,
      state,
      since_s,
      exit_code: description?.exit?.code ?? null,
      signal: description?.exit?.signal ?? null,
      profile: description?.profile ?? null,
      runtime: description?.runtime ?? null,
      pid: description?.pid ?? null,
      shim_pid,
      uptime_s: description === null ? null : secondsSince(description.started_at, now),
      terminals: description?.terminals ?? null,
      command: description?.command ?? null,
      cwd: description?.cwd ?? null,
    }));
    await out.answer({ agents: shown }, () =>
      columns(
        shown.map(({ name, profile, state, pid, uptime_s, shim_pid, command, exit_code, signal }) => [
          name,
          printableLine(profile ?? "?"),
          state === "dead" ? `dead (${exitText(exit_code, signal)})` : state,
          pid !== null ? `pid ${pid}` : shim_pid !== null ? `shim ${shim_pid}` : "?",
          uptime_s === null ? "?" : spanText(uptime_s),
          printableLine((command ?? []).join(" ")),
        ]),
      ),
    );
    if (agents.length === 0) await out.note("none runs; start one: claudemesh agent run NAME -- COMMAND");
  },
});

const secondsSince = (iso: string, nowMs: number): number =>
  Math.max(0, Math.round((nowMs - Date.parse(iso)) / 1000));
