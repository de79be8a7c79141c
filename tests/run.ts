/**
 * Everything a change must pass: `bun tests/run.ts` runs the static checks, the build and all tests; `bun tests/run.ts check` the
 * static checks, the architecture test and the unit tests, which takes seconds. A step that fails is shown, the rest still runs.
 * The last line is the count, taken from the JUnit report: `N passed, N failed` and, if any were, `, N skipped`.
 * A step other than the tests counts only when it fails or is skipped. The exit status is 0 only when nothing failed.
 */
import { existsSync, mkdirSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";

const root = join(import.meta.dir, "..");
const report = join(root, "dist/junit.xml");
const quickTests = ["tests/architecture.test.ts", "tests/unit/**/*.test.ts"];
const allTests = ["tests/**/*.test.ts"];

interface Count {
  passed: number;
  failed: number;
  skipped: number;
}
const total: Count = { passed: 0, failed: 0, skipped: 0 };

const mode = process.argv.slice(2).join(" ");
if (mode !== "" && mode !== "check") {
  console.error(`usage: bun tests/run.ts [check], not: ${mode}`);
  process.exit(2);
}

await runLint();
await runStep("types", ["node_modules/.bin/tsc", "--noEmit"]);
if (mode === "check") {
  await runTests("architecture and unit tests", quickTests);
} else if (await runStep("build", [process.execPath, "build.ts"])) {
  await runTests("all tests", allTests);
} else {
  await runTests("architecture and unit tests: without a build there is nothing to try", quickTests);
}

const { passed, failed, skipped } = total;
console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`);
process.exitCode = failed === 0 ? 0 : 1;

async function runLint(): Promise<void> {
  // Biome comes as one package per platform, and the lock file does not have them all. Its verdict is the same everywhere.
  const binaries = new Bun.Glob("node_modules/@biomejs/cli-*");
  if (binaries.scanSync({ cwd: root, onlyFiles: false }).next().done) {
    console.log("\n== format and lint: SKIPPED, Biome has no executable for this platform in bun.lock");
    total.skipped += 1;
    return;
  }
  await runStep("format and lint", ["node_modules/.bin/biome", "check", "--error-on-warnings"]);
}

async function runStep(name: string, argv: string[]): Promise<boolean> {
  const exitCode = await run(name, argv);
  if (exitCode !== 0) total.failed += 1;
  return exitCode === 0;
}

async function run(name: string, argv: string[], env: Record<string, string> = {}): Promise<number> {
  console.log(`\n== ${name}`);
  const started = performance.now();
  const child = Bun.spawn(argv, {
    cwd: root,
    env: { ...process.env, ...env },
    stdout: "inherit",
    stderr: "inherit",
  });
  const exitCode = await child.exited;
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(
    `== ${name}: ${exitCode === 0 ? "ok" : `FAILED with exit status ${exitCode}`} after ${seconds} s`,
  );
  return exitCode;
}

async function runTests(name: string, patterns: string[]): Promise<void> {
  const files = patterns.flatMap((pattern) => [...new Bun.Glob(pattern).scanSync({ cwd: root })]).sort();
  mkdirSync(dirname(report), { recursive: true });
  rmSync(report, { force: true });
  // With two workers or more a test that takes its process down costs one failure and not the whole report.
  const workers = Math.max(2, Math.min(4, availableParallelism()));
  const exitCode = await run(
    name,
    [
      process.execPath,
      "test",
      `--parallel=${workers}`,
      "--reporter=junit",
      `--reporter-outfile=${report}`,
      ...files.map((file) => `./${file}`),
    ],
    // Bun itself is stricter with CI set: no test.only, no new snapshots. That must not depend on where the tests run, so it is
    // always set for Bun; tests/support/setup.ts removes it before any test can see it.
    { CI: "true" },
  );
  const count = countResults(existsSync(report) ? await Bun.file(report).text() : "", files);
  // Bun's status knows of errors that no test owns, such as one thrown inside a describe block.
  if (exitCode !== 0 && count.failed === 0) count.failed = 1;
  if (count.passed + count.failed === 0) {
    console.log("no test ran, which counts as a failure");
    count.failed = 1;
  }
  total.passed += count.passed;
  total.failed += count.failed;
  total.skipped += count.skipped;
}

/** Counts the tests in a JUnit report. A file that is not in it (it threw when loaded, or has no test) is one failure. */
function countResults(xml: string, files: readonly string[]): Count {
  const count: Count = { passed: 0, failed: 0, skipped: 0 };
  for (const [testCase] of xml.matchAll(/<testcase\b[^>]*?(?:\/>|>[\s\S]*?<\/testcase>)/g)) {
    if (/<(failure|error)\b/.test(testCase)) count.failed += 1;
    else if (testCase.includes("<skipped")) count.skipped += 1;
    else count.passed += 1;
  }
  const reported = new Set([...xml.matchAll(/<testsuite\b[^>]* file="([^"]*)"/g)].map(([, file]) => file));
  for (const file of files) {
    if (reported.has(file)) continue;
    console.log(`${file} reported no test, which counts as a failure`);
    count.failed += 1;
  }
  return count;
}
