/** The raw output's log: all of it, then the newest of it, and a failure that does not stop anything. */
import { expect, test } from "bun:test";
import {
  appendFileSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { OutputLog } from "~/agent/output-log";
import { MeshError } from "~/errors";
import { FakeClock } from "../../support/fake-clock";
import { tempDir } from "../../support/temp-dir";

function openLog(path: string, bytesMax = 1_000) {
  const clock = new FakeClock();
  const warnings: string[] = [];
  const log = new OutputLog({ path, bytesMax, clock, warn: (message) => void warnings.push(message) });
  return { log, clock, warnings };
}

test("all of it as it came, for its owner alone, after what is there already", () => {
  const path = join(tempDir(), "log");
  writeFileSync(path, "before\n", { mode: 0o644 });
  const { log } = openLog(path);
  log.write(Uint8Array.of(0, 255, 10));
  log.close();
  expect(readFileSync(path)).toEqual(Buffer.concat([Buffer.from("before\n"), Buffer.from([0, 255, 10])]));
  expect(statSync(path).mode & 0o777).toBe(0o600);
});

test("never above its size, and always the newest", () => {
  const path = join(tempDir(), "log");
  const { log, warnings } = openLog(path);
  let all = "";
  for (let at = 0; at < 500; at++) {
    const text = `line ${at}\n`;
    all += text;
    log.write(Buffer.from(text));
    const content = readFileSync(path, "utf8");
    expect(content.length).toBeLessThanOrEqual(1_000);
    expect(all.endsWith(content)).toBe(true);
    expect(content.length).toBeGreaterThanOrEqual(Math.min(all.length, 490));
  }
  log.write(Buffer.from("x".repeat(5_000)));
  expect(statSync(path).size).toBeLessThanOrEqual(1_000);
  log.close();
  expect(warnings).toEqual([]);
});

test("one that has grown too large by others is cut with the next line", () => {
  const path = join(tempDir(), "log");
  writeFileSync(path, "old".repeat(10_000));
  const { log } = openLog(path);
  log.write(Buffer.from("new"));
  log.close();
  expect(readFileSync(path, "utf8")).toEndWith("oldnew");
  expect(statSync(path).size).toBeLessThanOrEqual(1_000);
});

test("what cannot be written is told once, and tried again later", () => {
  const dir = tempDir();
  mkdirSync(join(dir, "logs"));
  const path = join(dir, "logs", "log");
  const { log, clock, warnings } = openLog(path, 100);
  log.write(Buffer.from("a".repeat(50)));
  rmSync(join(dir, "logs"), { recursive: true });
  // The copy has nowhere to go.
  for (let at = 0; at < 5; at++) log.write(Buffer.from("b".repeat(50)));
  expect(warnings).toEqual([expect.stringContaining(path)]);
  clock.advance(60_000);
  for (let at = 0; at < 5; at++) log.write(Buffer.from("b".repeat(50)));
  expect(warnings).toHaveLength(1);
  mkdirSync(join(dir, "logs"));
  clock.advance(60_000);
  log.write(Buffer.from("c".repeat(50)));
  log.write(Buffer.from("d".repeat(50)));
  log.write(Buffer.from("e".repeat(50)));
  expect(readFileSync(path, "utf8")).toEndWith("e".repeat(50));
  // Another time is told again.
  rmSync(join(dir, "logs"), { recursive: true });
  for (let at = 0; at < 5; at++) log.write(Buffer.from("f".repeat(50)));
  expect(warnings).toHaveLength(2);
  log.close();
});

test("what is no file is refused", () => {
  const dir = tempDir();
  appendFileSync(join(dir, "file"), "");
  symlinkSync(join(dir, "file"), join(dir, "link"));
  for (const path of [dir, join(dir, "link"), join(dir, "no", "log")]) {
    expect(() => openLog(path)).toThrow(MeshError);
  }
});
