/** Strings of a terminal program, however they begin, end and come, and whatever is in them. */
import { describe, expect, test } from "bun:test";
import { StringLimit } from "~/agent/string-limit";

const limit = 8;
const taken = (parts: readonly (string | Uint8Array)[]): string => {
  const strings = new StringLimit(limit);
  return Buffer.concat(
    parts.map((part) => strings.take(typeof part === "string" ? Buffer.from(part) : part)),
  ).toString();
};

const cases: [what: string, output: string, expected: string][] = [
  ["text", "nothing to see: é·ü ]P_^X 50 %", "nothing to see: é·ü ]P_^X 50 %"],
  ["other sequences", "\x1b[31m\x1b[99999999L\x1b(B\x1b=", "\x1b[31m\x1b[99999999L\x1b(B\x1b="],
  ["a short title", "a\x1b]0;title\x07b", "a\x1b]0;title\x07b"],
  ["a long title", "a\x1b]0;title too long\x07b", "a\x1b]0;title \x07b"],
  ["one that ends with ST", "a\x1b]0;title too long\x1b\\b", "a\x1b]0;title \x1b\\b"],
  ["one in the upper half", "a\u009d0;title too long\u009cb", "a\u009d0;title \u009cb"],
  ["one that was full at its end", "\x1b]12345678\u009cb", "\x1b]12345678\u009cb"],
  ["a bell in what does not end with it", "\x1bP12345\x07890\x1b\\b\x07", "\x1bP12345\x0789\x1b\\b\x07"],
  ["one that is cancelled", "\x1b_123456789\x18b123456789", "\x1b_12345678\x18b123456789"],
  ["one within another", "\x1b^123456789\x1b]0;x\x07b", "\x1b^12345678\x1b]0;x\x07b"],
  ["newlines in it", "\x1bX1234\n67\n9\x1b\\b", "\x1bX1234\n67\n\x1b\\b"],
  ["a newline within its beginning", "\x1b\n]123456789\x07b", "\x1b\n]12345678\x07b"],
  ["one without an end", `\x1b]${"x".repeat(100)}`, `\x1b]${"x".repeat(8)}`],
  ["characters of two bytes", `\x1b]0;${"·".repeat(9)}\x07b`, "\x1b]0;···\x07b"],
];

describe.each(cases)("%s", (_, output, expected) => {
  test("at once", () => {
    expect(taken([output])).toBe(expected);
  });
  test("byte by byte", () => {
    expect(taken([...Buffer.from(output)].map((byte) => Uint8Array.of(byte)))).toBe(expected);
  });
});

test("what is all taken is not copied", () => {
  const bytes = Buffer.from("\x1b]0;title\x07 and more");
  expect(new StringLimit(limit).take(bytes)).toBe(bytes);
});
