import { copyFileSync, linkSync } from "node:fs";
import { join } from "node:path";
import { cleanup } from "./cleanup";
import { root } from "./cli";
import { tempDir } from "./temp-dir";

/** A process id that nobody has: Linux goes up to one less (PID_MAX_LIMIT), macOS not nearly as far. */
export const deadPid = 2 ** 22;

/** A program of another name that holds the lock at `path` until it is killed, after the test at the latest. */
export async function foreignLock(
  path: string,
): Promise<{ pid: number; program: string; kill(): Promise<void> }> {
  const program = "stranger";
  const executable = join(tempDir(), program);
  try {
    linkSync(process.execPath, executable);
  } catch {
    copyFileSync(process.execPath, executable); // On another disk.
  }
  const child = Bun.spawn([executable, join(root, "tests/unit/disk/hold-lock.ts"), path], {
    cwd: root,
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  const kill = async (): Promise<void> => {
    child.kill("SIGKILL");
    await child.exited;
  };
  cleanup(kill);
  const { value } = await child.stdout.getReader().read();
  if (new TextDecoder().decode(value).trim() !== "held") throw new Error(`${path} was taken already`);
  return { pid: child.pid, program, kill };
}
