/** What costs are held against: the least that an executable made by the same Bun can do, compiled in the same way as ours. */
import { join } from "node:path";

export type ReferenceName = "agent" | "echo" | "hello" | "parts" | "post" | "relay" | "server";

/** Compiles a program of `references/` into `directory`, and resolves with the words that run it. */
export async function buildReference(directory: string, name: ReferenceName): Promise<readonly string[]> {
  const outfile = join(directory, name);
  await Bun.build({
    entrypoints: [join(import.meta.dir, `references/${name}.ts`)],
    compile: { outfile, autoloadDotenv: false, autoloadBunfig: false },
    format: "esm",
    minify: true,
    bytecode: true,
  });
  return [outfile];
}

/** Starts a server that is a reference and has it answer once, so that it has done what a server does. */
export async function startServer(
  server: readonly string[],
  socket: string,
): Promise<{ pid: number; end(): Promise<void> }> {
  const child = Bun.spawn([...server, socket]);
  for (;;) {
    try {
      await (await fetch("http://localhost/", { unix: socket })).text();
      break;
    } catch {
      await Bun.sleep(10); // poll
    }
  }
  return {
    pid: child.pid,
    async end() {
      child.kill();
      await child.exited;
    },
  };
}
