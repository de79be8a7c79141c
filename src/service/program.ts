/** Running the system's own programs (systemctl, launchctl, …) to their end, within a bounded time. */
import { spawn } from "node:child_process";
import { systemClock } from "~/clock";
import { MeshError, messageOf } from "~/errors";
import { serviceCommandMsMax } from "~/wire/limits";

/** Where programs are found and what they are told. */
export interface Programs {
  platform: NodeJS.Platform;
  env: Readonly<Record<string, string | undefined>>;
}

export interface ProgramEnd {
  status: number;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  /** Added to the environment. */
  env?: Readonly<Record<string, string>>;
  /** Whom to run it as; root only. */
  uid?: number;
  gid?: number;
}

/** Undefined when PATH has no such program. Throws `timed_out` (and ends it), `service_failed` when it cannot be started. */
export async function runProgram(
  programs: Programs,
  name: string,
  args: readonly string[],
  { env = {}, ...identity }: RunOptions = {},
): Promise<ProgramEnd | undefined> {
  const path = Bun.which(name, { PATH: programs.env.PATH ?? "" });
  if (path === null) return undefined;
  const shown = [name, ...args].join(" ");
  // English, since some answers are read, and no pager.
  const fullEnv = { ...programs.env, LC_ALL: "C.UTF-8", SYSTEMD_PAGER: "", SYSTEMD_COLORS: "0", ...env };
  return await new Promise((resolve, reject) => {
    const child = spawn(path, [...args], { env: fullEnv, stdio: ["ignore", "pipe", "pipe"], ...identity });
    const timer = systemClock.after(serviceCommandMsMax, () => {
      child.kill("SIGKILL");
      const message = `${shown} did not end within ${serviceCommandMsMax / 1000} s and was ended`;
      reject(new MeshError("timed_out", message, { hint: "Try the same by hand to see what it waits for." }));
    });
    const output = { stdout: "", stderr: "" };
    // Without a free descriptor there are no pipes, only the error.
    child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      output.stdout += text;
    });
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      output.stderr += text;
    });
    child.once("error", (error) => {
      timer.cancel();
      reject(
        new MeshError("service_failed", `${shown} cannot be run: ${messageOf(error)}`, { cause: error }),
      );
    });
    child.once("close", (status) => {
      timer.cancel();
      resolve({ status: status ?? 1, ...output });
    });
  });
}

/** As `runProgram`; a missing program and any status but 0 are `service_failed`, with what it said. `hint`: what shows more of a failure. */
export async function mustRun(
  programs: Programs,
  name: string,
  args: readonly string[],
  { hint = "Try the same by hand to see more.", ...options }: RunOptions & { hint?: string } = {},
): Promise<ProgramEnd> {
  const end = await runProgram(programs, name, args, options);
  if (end?.status === 0) return end;
  const shown = [name, ...args].join(" ");
  throw new MeshError(
    "service_failed",
    end === undefined
      ? `there is no ${name} on PATH`
      : `${shown} ended with status ${end.status}${said(end) === "" ? "" : `: ${said(end)}`}`,
    { hint: end === undefined ? "Add its directory to PATH." : hint },
  );
}

/** What a program complained of, on one line. */
export const said = ({ stdout, stderr }: ProgramEnd): string =>
  (stderr.trim() || stdout.trim()).replace(/\s*\n\s*/g, " ");
