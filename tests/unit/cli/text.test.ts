/** Nothing that somebody else wrote may steer the terminal it is shown on. */
import { describe, expect, test } from "bun:test";
import { jsonText } from "~/cli/output";
import { columns, counted, localTime, printable, printableLine, spanText } from "~/cli/text";

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what must not be there
const steering = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/;

const shown: [text: string, printable: string][] = [
  ["plain", "plain"],
  ["two\nlines\tand a tab", "two\nlines\tand a tab"],
  ["dos\r\nlines", "dos\nlines"],
  ["over\rwritten", "over\\x0dwritten"],
  ["\u001b[31mred\u001b[0m", "\\x1b[31mred\\x1b[0m"],
  ["\u001b]0;title\u0007", "\\x1b]0;title\\x07"],
  ["\u009b31m", "\\x9b31m"],
  ["a\bb\u0000\u007f", "a\\x08b\\x00\\x7f"],
  ["txt.\u202eexe", "txt.\\u202eexe"],
  ["\u2066a\u2069\u200f", "\\u2066a\\u2069\\u200f"],
  ["line\u2028separator", "line\\u2028separator"],
  ["grüße 👋 日本", "grüße 👋 日本"],
];
test.each(shown)("%j is shown as %j", (text, expected) => {
  expect(printable(text)).toBe(expected);
});

test("no character of the first 12 288 gets through that could steer", () => {
  for (let code = 0; code < 0x3000; code++) {
    const character = String.fromCharCode(code);
    expect(steering.test(printable(character))).toBe(false);
    expect(steering.test(jsonText(character))).toBe(false);
    expect(JSON.parse(jsonText({ [character]: character }))).toEqual({ [character]: character });
  }
});

test("on one line there are neither newlines nor tabs", () => {
  expect(printableLine("a\nb\tc\r\nd")).toBe("a\\nb\\tc\\nd");
});

describe("small words", () => {
  test("counts", () => {
    expect([0, 1, 2].map((count) => counted(count, "message"))).toEqual([
      "0 messages",
      "1 message",
      "2 messages",
    ]);
  });

  const spans: [seconds: number, text: string][] = [
    [0, "0 s"],
    [119, "119 s"],
    [120, "2 min"],
    [7199, "120 min"],
    [7200, "2 h"],
    [200_000, "2 d"],
  ];
  test.each(spans)("%d seconds are %s", (seconds, text) => {
    expect(spanText(seconds)).toBe(text);
  });

  test("a time is local, and what is none is shown harmlessly", () => {
    expect(localTime("2026-01-31T12:05:09.000Z")).toMatch(/^2026-0[12]-\d\d \d\d:\d5:09$/);
    expect(localTime("\u001bnever")).toBe("\\x1bnever");
  });

  test("columns are as wide as what is seen in them, and end without blanks", () => {
    expect(columns([])).toBe("");
    expect(
      columns([
        ["日本", "x", ""],
        ["a", "", "z"],
      ]),
    ).toBe("日本  x\na        z");
  });
});
