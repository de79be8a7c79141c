/** Whether an agent's program can be started where it is to run, and what to do when it cannot: the same for every way to host one. */
import { statSync } from "node:fs";
import { MeshError, messageOf, systemCodeOf } from "~/errors";

/** Throws `agent_failed` when it is not there. */
export function checkDirectory(path: string): void {
  if (isDirectory(path)) return;
  throw new MeshError("agent_failed", `there is no directory ${path}`, {
    hint: "Choose another with --cwd.",
  });
}

function isDirectory(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false; // Whatever the reason, nothing can be started there.
  }
}

/** `error`: what the attempt threw. */
export function cannotStart(program: string, error: unknown): MeshError {
  const code = systemCodeOf(error);
  const shown = program === "" ? '""' : program;
  return new MeshError("agent_failed", `${shown} cannot be started: ${code ?? messageOf(error)}`, {
    hint: hintFor(code),
    cause: error,
  });
}

function hintFor(code: string | undefined): string | undefined {
  switch (code) {
    case "ENOENT":
      return "Is it installed, and on the PATH? Of a script, the program in its first line has to be there, too.";
    case "EACCES":
      return "It is a directory, or may not be executed: chmod +x makes a script a program.";
    case "ENOEXEC":
      return "It is no program for this machine. A script begins with a line such as #!/bin/sh.";
    case "E2BIG":
      return "Its arguments and its environment are longer than the system allows.";
    case "EAGAIN":
    case "EMFILE":
    case "ENFILE":
    case "ENOMEM":
      return "The system allows no more processes, open files or memory: ulimit -a shows what it allows.";
    default:
      return undefined;
  }
}
