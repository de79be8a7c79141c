import { describe, expect, test } from "bun:test";
import { jsonLog, type LogLevel, logLevels, logLine } from "~/log";
import { FakeClock } from "../support/fake-clock";

describe("a log", () => {
  test("has one line for each message that is at least as bad as is wanted now", () => {
    const lines: string[] = [];
    let least: LogLevel = "info";
    const log = jsonLog(
      new FakeClock(0),
      (line) => lines.push(line),
      () => least,
    );
    for (const wanted of logLevels) {
      least = wanted;
      for (const level of logLevels) log(level, `${level} at ${wanted}`);
    }
    expect(lines.map((line) => JSON.parse(line).message)).toEqual([
      ...logLevels.map((level) => `${level} at debug`),
      ...["info", "warn", "error"].map((level) => `${level} at info`),
      ...["warn", "error"].map((level) => `${level} at warn`),
      "error at error",
    ]);
    expect(lines[0]).toBe('{"time":"1970-01-01T00:00:00.000Z","level":"debug","message":"debug at debug"}\n');
  });

  test("keeps to one line of bounded length, whatever it is given", () => {
    const circle: Record<string, unknown> = {};
    circle.self = circle;
    const given: [fields: Record<string, unknown>, told: unknown][] = [
      [{ text: "a\nb\u2028" }, { text: "a\nb\u2028" }],
      [{ text: "x".repeat(5_000) }, { text: `${"x".repeat(4_000)}…` }],
      [{ many: Array(20).fill("x".repeat(3_000)) }, { fields_left_out: true }],
      [{ circle }, { fields_left_out: true }],
      [{ big: 1n }, { fields_left_out: true }],
      [{ nothing: undefined }, {}],
    ];
    for (const [fields, told] of given) {
      const line = logLine(0, "info", "said", fields);
      expect(line.indexOf("\n")).toBe(line.length - 1);
      expect(line.length).toBeLessThan(33_000);
      expect(JSON.parse(line)).toEqual({
        time: "1970-01-01T00:00:00.000Z",
        level: "info",
        message: "said",
        ...(told as object),
      });
    }
  });
});
