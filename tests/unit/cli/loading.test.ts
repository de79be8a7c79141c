/**
 * What the command that is run most often loads before its request is on the way. Most of what it costs is what it loads, and one
 * import too many shows nowhere else: a module of Node's takes as long to load as half of ours together.
 */
import { expect, test } from "bun:test";
import { join } from "node:path";

const src = join(import.meta.dir, "../../../src");

/** Own modules (`cli/send`) and others (`node:path`) that are loaded with these, by `import` lines and not by `await import()`. */
async function loadedWith(...roots: string[]): Promise<{ own: Set<string>; others: Set<string> }> {
  const own = new Set<string>();
  const others = new Set<string>();
  const transpiler = new Bun.Transpiler({ loader: "ts" });
  const waiting = [...roots];
  for (let module = waiting.pop(); module !== undefined; module = waiting.pop()) {
    if (own.has(module)) continue;
    own.add(module);
    for (const { kind, path } of transpiler.scanImports(await Bun.file(join(src, `${module}.ts`)).text())) {
      if (kind !== "import-statement") continue;
      if (path.startsWith("~/")) waiting.push(path.slice("~/".length));
      else others.add(path);
    }
  }
  return { own, others };
}

test("claudemesh send asks the daemon without a schema and without a module of Node's", async () => {
  const { own, others } = await loadedWith("main", "cli/start", "cli/send");
  expect([...others]).toEqual(["ulidx"]);
  for (const module of ["cli/send-route", "client/client", "client/way"]) expect(own).toContain(module);
});

test("it reads the answer without the schemas of the other routes", async () => {
  const { own, others } = await loadedWith("client/reply");
  expect([...others]).toEqual(["valibot"]);
  expect([...own].sort()).toEqual(["client/reply", "errors", "wire/place", "wire/reply"]);
});
