/** Lines of a raw terminal log: the last ones, what comes after them, and nothing twice when the log is cut. */
import { beforeEach, describe, expect, test } from "bun:test";
import { appendFileSync, mkdirSync, renameSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { PrintedLines, shownLines } from "~/cli/agent/printed";
import { tempDir } from "../../support/temp-dir";

let path: string;
let printed: PrintedLines;

beforeEach(() => {
  path = join(tempDir(), "log");
  printed = new PrintedLines(path);
});

describe("a line as it is shown", () => {
  test.each([
    ["plain", ["plain"]],
    ["one\r\ntwo\r\n", ["one", "two"]],
    ["\x1b[31mred\x1b[0m \x1b]0;title\x07text\x1b[K\n", ["red text"]],
    ["10 %\r 20 %\r100 %\r\n", ["100 %"]],
    ["long line\rshort\n", ["shortline"]],
    ["a\n\n\nb\n", ["a", "", "", "b"]],
    ["", []],
    ["\xff", ["\ufffd"]],
  ])("%j", (text, lines) => expect(shownLines(Buffer.from(text, "latin1"))).toEqual(lines));
});

describe("the last lines", () => {
  const lines = Array.from({ length: 50_000 }, (_, n) => `line ${n} ${"x".repeat(n % 40)}`.trimEnd());

  test.each([0, 1, 2, 100, 49_999, 50_000, 60_000])("%d of 50000, across many reads", (count) => {
    writeFileSync(path, `${lines.join("\r\n")}\r\n`);
    expect(printed.last(count)).toEqual(count === 0 ? [] : lines.slice(-count));
  });

  test("with one that has no end yet, such as a prompt", () => {
    writeFileSync(path, "one\r\ntwo\r\n$ ");
    expect(printed.last(2)).toEqual(["two", "$"]);
  });

  test("of nothing are none, and of no file there is nothing", () => {
    expect(printed.last(5)).toBeUndefined();
    writeFileSync(path, "");
    expect(printed.last(5)).toEqual([]);
  });

  test("are not read through a link, and not from a directory", () => {
    symlinkSync("/etc/passwd", path);
    expect(() => printed.last(5)).toThrow(/cannot read/);
    const dir = join(tempDir(), "dir");
    mkdirSync(dir);
    expect(() => new PrintedLines(dir).last(5)).toThrow(/cannot read/);
  });
});

describe("what comes next", () => {
  test("is every whole line, once", () => {
    writeFileSync(path, "old\n");
    printed.last(1);
    expect(printed.next()).toEqual([]);
    appendFileSync(path, "one\ntw");
    expect(printed.next()).toEqual(["one"]);
    appendFileSync(path, "o\nthree\n");
    expect(printed.next()).toEqual(["two", "three"]);
    expect(printed.next()).toEqual([]);
  });

  test("goes on where it was when the older half was cut off, and something was printed since", () => {
    const lines = Array.from({ length: 2_000 }, (_, n) => `${n}\n`).join("");
    writeFileSync(path, lines);
    printed.last(0);
    writeFileSync(`${path}.new`, `${lines.slice(-6_000)}new one\nhalf`);
    renameSync(`${path}.new`, path);
    expect(printed.next()).toEqual(["new one"]);
    appendFileSync(path, " line\n");
    expect(printed.next()).toEqual(["half line"]);
  });

  test("is all of a log that was begun anew", () => {
    writeFileSync(path, "something long that is gone\n");
    printed.last(0);
    writeFileSync(path, "anew\n");
    expect(printed.next()).toEqual(["anew"]);
  });
});
