/**
 * `bun run bench`: what the compiled binary costs, each figure beside a reference measured in the same run. Quote ratios; the
 * absolute figures say more about the machine than about claudemesh. Nothing here is asserted: noise must not fail a build.
 * `bun run bench shim` measures only that part; there may be several.
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { benchDaemon } from "./daemon";
import { benchEcho } from "./echo";
import { benchShim } from "./shim";

const parts = new Map<string, (root: string) => Promise<void>>([
  ["daemon", benchDaemon],
  ["shim", benchShim],
  ["echo", benchEcho],
]);

const asked = process.argv.slice(2);
const unknown = asked.find((name) => !parts.has(name));
if (unknown !== undefined)
  throw new Error(`there is no part ${unknown}; there are ${[...parts.keys()].join(", ")}`);

const root = mkdtempSync(join(tmpdir(), "cmb-"));
try {
  for (const [name, bench] of parts) {
    if (asked.length > 0 && !asked.includes(name)) continue;
    const own = join(root, name);
    mkdirSync(own);
    await bench(own);
  }
} finally {
  rmSync(root, { recursive: true, force: true });
}
