/** What costs are held against: the least that an executable made by the same Bun can do, compiled in the same way as ours. */
import { join } from "node:path";

export interface References {
  /** Prints a word and ends. */
  hello: readonly string[];
  /** Serves one constant answer on the Unix socket that it is told. */
  server: readonly string[];
}

const sources = {
  hello: 'console.log("hello");',
  server: 'Bun.serve({ unix: process.argv[2], fetch: () => new Response("ok") });',
};

export async function buildReferences(directory: string): Promise<References> {
  const build = async (name: keyof typeof sources): Promise<readonly string[]> => {
    const [entry, outfile] = [join(directory, `${name}.ts`), join(directory, name)];
    await Bun.write(entry, sources[name]);
    await Bun.build({
      entrypoints: [entry],
      compile: { outfile, autoloadDotenv: false, autoloadBunfig: false },
      format: "esm",
      minify: true,
      bytecode: true,
    });
    return [outfile];
  };
  return { hello: await build("hello"), server: await build("server") };
}

/** Starts the empty server and has it answer once, so that it has done what a server does. */
export async function startEmptyServer(
  { server }: References,
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
