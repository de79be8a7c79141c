import { watch } from "node:fs";
import { dirname } from "node:path";
import { wholeNumber } from "~/cli/argv";
import { defineCommand, type Host } from "~/cli/command";
import { LogReader } from "~/cli/log-reader";
import { localTime, printableLine } from "~/cli/text";
import { systemClock } from "~/clock";
import { MeshError } from "~/errors";
import { isLogged, type LogLevel, logLevels } from "~/log";
import { logCheckEveryMs, logLinesShownDefault, logLinesShownMax } from "~/wire/limits";
import { daemonPaths } from "~/wire/paths";

const elsewhereHint =
  "Under systemd the log is in the journal: journalctl --user -t claudemesh (for a system service without --user). A daemon in the foreground logs to its terminal.";

export const daemonLogs = defineCommand({
  name: "daemon logs",
  description: "what the daemon has logged",
  args: {
    follow: { type: "boolean", alias: "f", description: "go on with what is logged from now on" },
    lines: {
      type: "string",
      alias: "n",
      valueHint: "N",
      default: String(logLinesShownDefault),
      description: "how many of the last lines",
      parse: wholeNumber(0, logLinesShownMax),
    },
    level: { type: "enum", options: logLevels, description: "only these and what is worse" },
  },
  notes:
    "With --json every line is an object, as it was logged; what the runtime wrote when it crashed is one with level error. How much is logged: claudemesh config set log.level debug.",
  exits: [5, 130],
  examples: ["claudemesh daemon logs -f", "claudemesh daemon logs -n 1000 --level warn --json"],
  async run({ follow, lines, level = "debug" }, host) {
    const { log } = daemonPaths(host.paths.daemonDir);
    const reader = new LogReader(log);
    const isWanted = (line: string): boolean => isLogged(parseEntry(line).level, level);
    const last = reader.last(lines, isWanted, !follow);
    if (last === undefined) {
      const missing = `nothing is logged in ${log}`;
      if (!follow) throw new MeshError("no_log", missing, { hint: elsewhereHint });
      await host.out.note(`${missing} yet; waiting for it. ${elsewhereHint}`);
    }
    await show(host, last ?? []);
    if (!follow) return;
    for await (const more of changes(reader, log, host.interrupted)) await show(host, more.filter(isWanted));
  },
});

async function show({ out }: Host, lines: readonly string[]): Promise<void> {
  for (const line of lines) {
    const entry = parseEntry(line);
    await out.answer(entry.value, () => renderEntry(entry));
  }
  const last = lines.at(-1);
  if (last !== undefined && parseEntry(last).value.message === "log_elsewhere") await out.note(elsewhereHint);
}

/** Watches the directory, since files come and go; some file systems tell nobody, so it looks by itself as well. */
async function* changes(reader: LogReader, log: string, signal: AbortSignal): AsyncGenerator<string[]> {
  let wake = (): void => undefined;
  const woken = (): void => wake();
  const watcher = watchIfThere(dirname(log), woken);
  signal.addEventListener("abort", woken, { once: true });
  try {
    while (!signal.aborted) {
      const lines = reader.next();
      if (lines.length > 0) yield lines;
      else
        await new Promise<void>((resolve) => {
          const timer = systemClock.after(logCheckEveryMs, resolve);
          wake = () => {
            timer.cancel();
            resolve();
          };
          if (signal.aborted) wake();
        });
    }
  } finally {
    watcher?.close();
  }
}

function watchIfThere(dir: string, changed: () => void): { close(): void } | undefined {
  try {
    return watch(dir, { persistent: false }, changed).on("error", changed);
  } catch {
    return undefined; // The slow look does.
  }
}

// ── One line ─────────────────────────────────────────────────────────────────────────────────────────────────────────

interface Entry {
  level: LogLevel;
  value: Record<string, unknown>;
}

/** What is not one of our lines was written by the runtime, when something went badly wrong. */
function parseEntry(line: string): Entry {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value === "object" && value !== null && "level" in value && "message" in value) {
      const level = logLevels.find((known) => known === value.level);
      if (level !== undefined) return { level, value: { ...value } };
    }
  } catch {
    // Not JSON: told as it is.
  }
  return { level: "error", value: { level: "error", message: line } };
}

function renderEntry({ level, value: { time, level: _level, message, ...fields } }: Entry): string {
  const told = Object.entries(fields).map(([name, field]) => `${name}=${fieldText(field)}`);
  const what = [typeof message === "string" ? message : fieldText(message), ...told]
    .map(printableLine)
    .join("  ");
  return typeof time === "string" ? `${localTime(time)}  ${level.padEnd(5)}  ${what}` : what;
}

const fieldText = (field: unknown): string =>
  typeof field === "string" && /^[^\s"]+$/.test(field) ? field : JSON.stringify(field);
