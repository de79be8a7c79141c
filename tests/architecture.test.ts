/**
 * Holds the map of rooms (CONTRIBUTING.md) against the import lines of every file in src, type imports included, and with it a
 * few rules about who may touch the database, the clock and the exit. A wrong arrow fails the build.
 */
import { describe, expect, test } from "bun:test";
import { basename, join } from "node:path";

const src = join(import.meta.dir, "../src");

/** What every room may import besides itself. */
const commons = ["errors", "clock", "log", "version", "wire"];

/** Room → what it may import. The files directly in src are rooms of one file. */
const rooms: Record<string, readonly string[]> = {
  errors: [],
  clock: [],
  log: ["clock"],
  version: [],
  wire: ["errors"],
  disk: [...commons],
  settings: [...commons, "disk"],
  identity: [...commons, "disk"],
  metrics: [...commons],
  link: [...commons, "identity"],
  client: [...commons],
  agent: [...commons, "client", "disk"],
  daemon: [...commons, "identity", "link", "agent", "disk", "settings", "metrics"],
  broker: [...commons, "identity", "disk", "metrics"],
  mock: [...commons, "disk"],
  service: [...commons, "disk"],
  cli: [...commons, "client", "link", "service", "identity", "settings"],
  main: [
    ...commons,
    "disk",
    "settings",
    "identity",
    "link",
    "client",
    "agent",
    "daemon",
    "broker",
    "mock",
    "service",
    "cli",
  ],
};
const filesInSrc = ["main", "errors", "clock", "log", "version"];

/** Rooms that cli starts but otherwise knows nothing of: through these files alone, and only by `await import()`. */
const cliEntryPoints = [
  /^daemon\/(run|local-token|recover|holder|ephemeral)$/,
  /^broker\/serve$/,
  /^agent\/(run|end-agent|hosted|hosted-files|hosted-start|terminal|detach-key)$/,
  /^mock\/(log|recording|schema|(pilot|daemon)\/run)$/,
];

/**
 * What the mock of the daemon shares with the daemon itself, so that both let in and refuse the same requests. Nothing behind it: a
 * mock has no outbox, no keys and no links.
 */
const sharedWithMock = ["daemon/ipc/server", "daemon/ipc/gate", "daemon/ipc/openapi", "daemon/tallies"];

/** External modules that are somebody's own business: who may import them, and who only their types. */
const guardedModules: Record<string, { by: RegExp; typesBy?: RegExp }> = {
  "bun:sqlite": { by: /^disk\//, typesBy: /^(daemon\/db\/|broker\/sqlite\.ts$)/ },
  "libsodium-wrappers": { by: /^identity\// },
  "@prometheus-io/client": { by: /^metrics\// },
  "@prometheus-io/client/lib/registry": { by: /^metrics\// },
  "@prometheus-io/client/lib/counter": { by: /^metrics\// },
  "@prometheus-io/client/lib/gauge": { by: /^metrics\// },
};

/** Files that decide or encode and do nothing else. */
const pureFile = /^wire\/|\/(state|core)\.ts$/;
const impureModule =
  /^((node:)?(fs|net|tls|http|https|http2|dns|dgram|child_process|worker_threads|timers)(\/.*)?|bun|bun:.*)$/;
const impureCode =
  /\b(Date\.now|Math\.random|performance\.now|setTimeout|setInterval|fetch)\b|\bnew Date\(\)/;

/** Names that say nothing about what a file holds. */
const emptyNames = ["index", "utils", "helpers", "manager", "types", "impl"];

/** The one file that may consist of re-exports: other test suites import this path. */
const allowedBarrel = "daemon/db/sqlite.ts";

interface Import {
  specifier: string;
  kind: "value" | "type" | "lazy";
}

/** Everything that is wrong with a file, as sentences. `path` is relative to src, with forward slashes. */
function findFaults(path: string, source: string): string[] {
  const room = roomOf(path);
  if (room === undefined) return ["is in no room of the map"];
  const code = withoutComments(source);
  const faults: string[] = [];

  for (const { specifier, kind } of findImports(code)) {
    const fault = specifier.startsWith("~/")
      ? judgeOwn(room, specifier.slice("~/".length), kind)
      : judgeForeign(path, specifier, kind);
    if (fault !== undefined) faults.push(`imports ${specifier}: ${fault}`);
  }
  if (/\bimport\(\s*[^"'\s]/.test(code)) faults.push("imports a computed path: name the module");
  if (/\brequire\(/.test(code)) faults.push("calls require(): use import");
  if (pureFile.test(path)) {
    const found = code.match(impureCode)?.[0];
    if (found !== undefined) faults.push(`uses ${found}: this file has no clock, chance or I/O`);
  }
  if (path !== "main.ts" && /\bprocess\.exit\(/.test(code)) {
    faults.push("calls process.exit(): only main.ts ends the process");
  }
  if (path !== allowedBarrel && isBarrel(code)) faults.push("only re-exports: import the owner instead");
  if (emptyNames.includes(basename(path, ".ts"))) faults.push("has a name that does not say what it holds");
  return faults;
}

function roomOf(path: string): string | undefined {
  const [first = "", ...rest] = path.replace(/\.ts$/, "").split("/");
  const isRoom = Object.hasOwn(rooms, first) && filesInSrc.includes(first) === (rest.length === 0);
  return isRoom ? first : undefined;
}

function judgeOwn(room: string, target: string, kind: Import["kind"]): string | undefined {
  const targetRoom = roomOf(target);
  if (targetRoom === undefined) return "no such room";
  if (targetRoom === room || rooms[room]?.includes(targetRoom)) return undefined;
  if (room === "mock" && sharedWithMock.includes(target)) return undefined;
  if (room === "cli" && cliEntryPoints.some((entry) => entry.test(target))) {
    return kind === "lazy" ? undefined : "an entry point is imported lazily, with await import()";
  }
  return `${room} may not import ${targetRoom}`;
}

function judgeForeign(path: string, specifier: string, kind: Import["kind"]): string | undefined {
  if (specifier.startsWith(".") || specifier.startsWith("/")) return "write it as ~/room/file";
  if (pureFile.test(path) && impureModule.test(specifier)) return "this file has no clock, chance or I/O";
  const guard = guardedModules[specifier];
  if (guard === undefined || guard.by.test(path)) return undefined;
  if (guard.typesBy?.test(path)) return kind === "type" ? undefined : "only its types, with import type";
  return "belongs to another room";
}

/** Keeps strings, so that a `//` inside one is not taken for a comment. */
function withoutComments(source: string): string {
  const stringOrComment =
    /("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)|\/\/[^\n]*|\/\*[\s\S]*?\*\//g;
  return source.replace(stringOrComment, (_, string: string | undefined) => string ?? " ");
}

const fromClause = /^(import|export)\s+(type\s)?[^"'`;=()]*?\bfrom\s*["']([^"']+)["'];?/gm;
const bareImport = /^import\s*["']([^"']+)["'];?/gm;
const importCall = /(\bawait\s+|=>\s*)?\bimport\(\s*["']([^"']+)["']\s*\)/g;

function findImports(code: string): Import[] {
  const imports: Import[] = [];
  for (const [, , type, specifier = ""] of code.matchAll(fromClause)) {
    imports.push({ specifier, kind: type ? "type" : "value" });
  }
  for (const [, specifier = ""] of code.matchAll(bareImport)) imports.push({ specifier, kind: "value" });
  // Without await or => before it, import("…") stands for a type.
  for (const [, lazily, specifier = ""] of code.matchAll(importCall)) {
    imports.push({ specifier, kind: lazily ? "lazy" : "type" });
  }
  return imports;
}

function isBarrel(code: string): boolean {
  const reExports = /^export\s+(type\s+)?(\*|\{[^}]*\})(\s+as\s+\w+)?(\s+from\s*["'][^"']+["'])?;?/gm;
  if (!reExports.test(code)) return false;
  return code.replace(reExports, "").replace(fromClause, "").replace(bareImport, "").trim() === "";
}

describe("every file in src keeps to the map", () => {
  for (const path of [...new Bun.Glob("**/*.{ts,tsx,js,mjs,cjs}").scanSync({ cwd: src })].sort()) {
    test(path, async () => {
      const source = await Bun.file(join(src, path)).text();
      expect(findFaults(path, source)).toEqual([]);

      // Bun's own parser sees no type imports, but whatever it does see, ours must have seen as well.
      const seen = findImports(withoutComments(source)).map(({ specifier }) => specifier);
      const known = new Bun.Transpiler({ loader: "ts" }).scanImports(source).map((found) => found.path);
      expect(known.filter((specifier) => !seen.includes(specifier))).toEqual([]);
    });
  }
});

describe("the check finds what it is for", () => {
  const faulty: [path: string, source: string, fault: string][] = [
    ["daemon/drain.ts", 'import { core } from "~/broker/core";', "daemon may not import broker"],
    ["broker/serve.ts", 'import type { Row } from "~/daemon/db/outbox";', "broker may not import daemon"],
    ["broker/serve.ts", 'import {\n  a,\n  type B,\n} from "~/link/link";', "broker may not import link"],
    ["wire/ipc.ts", 'import { clock } from "~/clock";', "wire may not import clock"],
    ["wire/ipc.ts", 'export * from "~/disk/file";\nexport const a = 1;', "wire may not import disk"],
    ["wire/ipc.ts", 'import { connect } from "node:net";', "no clock, chance or I/O"],
    ["wire/ipc.ts", "export const now = () => Date.now();", "uses Date.now"],
    ["wire/ipc.ts", 'import { serve } from "bun";', "no clock, chance or I/O"],
    ["broker/core.ts", "setTimeout(f, 1);", "uses setTimeout"],
    ["agent/state.ts", "const at = new Date();", "uses new Date()"],
    ["clock.ts", 'import { fail } from "~/errors";', "clock may not import errors"],
    ["client/socket.ts", 'const disk = await import("~/disk/file");', "client may not import disk"],
    ["client/socket.ts", 'let row: import("~/disk/file").Row;', "client may not import disk"],
    ["client/socket.ts", 'import "~/disk/file";', "client may not import disk"],
    ["link/link.ts", 'import { main } from "~/main";', "link may not import main"],
    ["link/link.ts", 'import { x } from "~/attic/x";', "no such room"],
    ["link/link.ts", 'import { frames } from "./frames";', "write it as ~/room/file"],
    ["link/link.ts", "await import(`~/broker/core`);", "imports a computed path"],
    ["link/link.ts", 'const fs = require("node:fs");', "calls require()"],
    ["cli/daemon.ts", 'import { run } from "~/daemon/run";', "imported lazily"],
    ["cli/daemon.ts", 'import type { Options } from "~/daemon/run";', "imported lazily"],
    ["cli/daemon.ts", 'await import("~/daemon/drain");', "cli may not import daemon"],
    ["cli/inbox.ts", 'import { openDatabase } from "~/disk/sqlite";', "cli may not import disk"],
    ["mock/daemon/run.ts", 'import { listen } from "~/daemon/ipc/listen";', "mock may not import daemon"],
    ["daemon/run.ts", 'import type { Database } from "bun:sqlite";', "belongs to another room"],
    ["daemon/db/outbox.ts", 'import { Database } from "bun:sqlite";', "only its types"],
    ["link/link.ts", 'import sodium from "libsodium-wrappers";', "belongs to another room"],
    ["cli/send.ts", "process.exit(1);", "calls process.exit()"],
    ["broker/parts.ts", 'export * from "~/broker/core";\nexport { a } from "~/broker/a";', "only re-exports"],
    ["broker/parts.ts", 'import { a } from "~/broker/a";\nexport { a };', "only re-exports"],
    ["link/utils.ts", "export const a = 1;", "does not say what it holds"],
    ["attic/x.ts", "export const a = 1;", "is in no room of the map"],
    ["stray.ts", "export const a = 1;", "is in no room of the map"],
    ["errors/codes.ts", "export const a = 1;", "is in no room of the map"],
  ];
  test.each(faulty)("%s: %j", (path, source, fault) => {
    expect(findFaults(path, source)).toEqual([expect.stringContaining(fault)]);
  });

  const sound: [path: string, source: string][] = [
    ["daemon/drain.ts", 'import { connect } from "~/link/link";\nimport { fail } from "~/errors";'],
    ["wire/fingerprint.ts", 'import { createHash } from "node:crypto";\nimport * as v from "valibot";'],
    ["wire/frame.ts", '// import { x } from "~/disk/file"; at Date.now()\nconst url = "http://x"; '],
    ["wire/ipc.ts", "const at = new Date(parsed);"],
    ["cli/daemon.ts", 'const { run } = await import("~/daemon/run");'],
    ["mock/daemon/run.ts", 'import { buildApp } from "~/daemon/ipc/server";'],
    ["cli/mock.ts", 'export const load = () => import("~/mock/pilot/run");'],
    ["daemon/db/outbox.ts", 'import type { Database } from "bun:sqlite";'],
    ["disk/sqlite.ts", 'import { Database } from "bun:sqlite";'],
    ["daemon/db/sqlite.ts", 'export { openSqlite } from "~/disk/sqlite";'],
    ["main.ts", "process.exit(await run());"],
  ];
  test.each(sound)("and nothing else: %s: %j", (path, source) => {
    expect(findFaults(path, source)).toEqual([]);
  });
});
