/** Runs src/main.ts itself, so that these tests need no build. The environment holds nothing of the machine's but PATH. */
import { join } from "node:path";
import { cleanup } from "../../support/cleanup";
import { tempDir } from "../../support/temp-dir";

const main = join(import.meta.dir, "../../../src/main.ts");

export interface SourceOptions {
  env?: Record<string, string>;
  stdin?: string | Uint8Array;
}

export interface Ended {
  status: number;
  stdout: string;
  stderr: string;
}

export function startSource(args: readonly string[], { env = {}, stdin = "" }: SourceOptions = {}) {
  const child = Bun.spawn([process.execPath, main, ...args], {
    env: { PATH: process.env.PATH ?? "", HOME: tempDir(), ...env },
    stdin: typeof stdin === "string" ? Buffer.from(stdin) : stdin,
    stdout: "pipe",
    stderr: "pipe",
  });
  cleanup(() => child.kill("SIGKILL"));
  return child;
}

export async function runSource(args: readonly string[], options: SourceOptions = {}): Promise<Ended> {
  const child = startSource(args, options);
  const [stdout, stderr, status] = await Promise.all([
    child.stdout.text(),
    child.stderr.text(),
    child.exited,
  ]);
  return { status, stdout, stderr };
}
