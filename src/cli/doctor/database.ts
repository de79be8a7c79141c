/**
 * The daemon's databases. One that runs has looked at them itself and says so in its health. When none runs, `daemon recover
 * --dry-run` reads through them, as a process of its own that can be ended when it takes too long.
 */
import { spawn } from "node:child_process";
import * as v from "valibot";
import type { Host } from "~/cli/command";
import type { DaemonFacts } from "~/cli/doctor/daemon";
import type { FileFact } from "~/cli/doctor/files";
import { type Finding, fail, pass, warn } from "~/cli/doctor/finding";
import { selfCommand } from "~/cli/server-process";
import { systemClock } from "~/clock";
import { doctorDatabaseMsMax } from "~/wire/limits";

const Checked = v.object({ state: v.string(), damage: v.exactOptional(v.string()) });
const DryRun = v.object({ outbox: Checked, inbox: Checked, directory: Checked });
const Refused = v.object({ error: v.string(), message: v.string(), hint: v.exactOptional(v.string()) });

export type DatabaseFacts =
  | { kind: "open_in_daemon"; schema: number | undefined; problems: readonly string[] }
  | { kind: "none_yet" }
  | { kind: "not_looked_at" }
  /** What hides them is told by the check of permissions or of the lock. */
  | { kind: "hidden" }
  | { kind: "checked"; databases: Readonly<Record<string, { state: string; damage?: string }>> }
  | { kind: "too_long" }
  | { kind: "failed"; message: string; hint: string | undefined };

const names = ["outbox", "inbox", "directory"] as const;

export async function gatherDatabase(
  host: Host,
  { answer, holder }: DaemonFacts,
  files: readonly FileFact[],
): Promise<DatabaseFacts> {
  if (answer.kind === "health") {
    return {
      kind: "open_in_daemon",
      schema: answer.schema,
      problems: answer.health.problems.map(({ code }) => code),
    };
  }
  if (files.some(({ role, kind }) => role === "outbox" && kind === "unreadable")) return { kind: "hidden" };
  if (!files.some(({ role, kind }) => names.some((name) => name === role) && kind !== "missing")) {
    return { kind: "none_yet" };
  }
  if (holder.kind === "unknown") return { kind: "hidden" };
  // A daemon that lives and does not answer has them open.
  return holder.kind === "none" ? await readThrough(host) : { kind: "not_looked_at" };
}

function readThrough({ env, paths }: Host): Promise<DatabaseFacts> {
  const [executable, ...args] = selfCommand();
  const child = spawn(executable, [...args, "daemon", "recover", "--dry-run", "--json"], {
    stdio: ["ignore", "pipe", "ignore"],
    env: {
      ...env,
      CLAUDEMESH_CONFIG_DIR: paths.configDir,
      CLAUDEMESH_DAEMON_DIR: paths.daemonDir,
    },
  });
  return new Promise((resolve) => {
    const timer = systemClock.after(doctorDatabaseMsMax, () => {
      child.kill("SIGKILL");
      resolve({ kind: "too_long" });
    });
    let text = "";
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
    });
    child.once("error", (error) => {
      timer.cancel();
      resolve({ kind: "failed", message: error.message, hint: undefined });
    });
    child.once("close", () => {
      timer.cancel();
      resolve(parseDryRun(text));
    });
  });
}

function parseDryRun(text: string): DatabaseFacts {
  const checked = v.safeParse(v.pipe(v.string(), v.parseJson(), DryRun), text);
  if (checked.success) return { kind: "checked", databases: checked.output };
  const refused = v.safeParse(v.pipe(v.string(), v.parseJson(), Refused), text);
  if (refused.success) return { kind: "failed", message: refused.output.message, hint: refused.output.hint };
  return { kind: "failed", message: "the databases could not be looked at", hint: undefined };
}

/** Problems of health that judgeProblems tells. */
const told = ["database_corrupt", "inbox_damaged", "storage_failed", "storage_full", "storage_read_only"];

export function judgeDatabase(facts: DatabaseFacts): Finding[] {
  switch (facts.kind) {
    case "open_in_daemon": {
      if (facts.problems.some((code) => told.includes(code))) return [];
      const schema = facts.schema === undefined ? "" : ` (schema ${facts.schema})`;
      return [pass("database", `the daemon has its databases open${schema} and found nothing wrong`)];
    }
    case "hidden":
      return [];
    case "none_yet":
      return [pass("database", "there are none yet; the first start of the daemon makes them")];
    case "not_looked_at":
      return [
        warn(
          "database",
          "somebody holds their lock and does not answer, so they were not looked at",
          "Mend that first, and look again: claudemesh doctor",
        ),
      ];
    case "too_long":
      return [
        warn(
          "database",
          `to read through them takes longer than ${doctorDatabaseMsMax / 1000} s, so they were not checked to the end`,
          "claudemesh daemon recover --dry-run",
        ),
      ];
    case "failed":
      return [fail("database", facts.message, facts.hint ?? "claudemesh daemon recover --dry-run")];
    case "checked": {
      const damaged = Object.entries(facts.databases).filter(([, { state }]) => state === "damaged");
      if (damaged.length === 0) return [pass("database", "the databases were read through and are sound")];
      return damaged.map(([name, { damage = "" }]) =>
        fail(
          "database",
          `the ${name} is damaged${damage === "" ? "" : `: ${damage}`}`,
          "claudemesh daemon recover",
        ),
      );
    }
  }
}
