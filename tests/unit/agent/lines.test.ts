/** Lines are the same however their bytes come, and one that never ends does no harm. */
import { describe, expect, test } from "bun:test";
import { LineReader, type ReadLine } from "~/agent/lines";

const bytesMax = 40;
const text = "first\n\nthird ä 日本 👩‍👩‍👧\r\nlast\n";
const lines = ["first", "", "third ä 日本 👩‍👩‍👧", "last"].map(
  (line): ReadLine => ({ kind: "line", text: line }),
);

const readIn = (bytes: Uint8Array, size: number, max = bytesMax): ReadLine[] => {
  const reader = new LineReader(max);
  const read: ReadLine[] = [];
  for (let at = 0; at < bytes.length; at += size) read.push(...reader.push(bytes.subarray(at, at + size)));
  const rest = reader.rest();
  return rest === undefined ? read : [...read, rest];
};

describe("lines", () => {
  test("in pieces of any size", () => {
    const bytes = Buffer.from(text);
    for (let size = 1; size <= bytes.length; size++) expect(readIn(bytes, size)).toEqual(lines);
  });

  test("the last one without an end", () => {
    expect(readIn(Buffer.from("a\nb"), 1)).toEqual([
      { kind: "line", text: "a" },
      { kind: "line", text: "b" },
    ]);
    expect(new LineReader(1).rest()).toBeUndefined();
  });

  test("as long as allowed, and longer", () => {
    const exact = "x".repeat(bytesMax);
    for (const size of [1, 7, 1000]) {
      expect(readIn(Buffer.from(`${exact}\n${exact}y\nshort\n${exact}${exact}`), size)).toEqual([
        { kind: "line", text: exact },
        { kind: "too_long", bytes: bytesMax + 1 },
        { kind: "line", text: "short" },
        { kind: "too_long", bytes: 2 * bytesMax },
      ]);
    }
  });

  test("what is not UTF-8 is replaced", () => {
    expect(readIn(Uint8Array.of(0x61, 0xff, 0xc3, 0x0a), 1)).toEqual([
      { kind: "line", text: "a\ufffd\ufffd" },
    ]);
  });

  test("are not changed by what becomes of the buffer that they came in", () => {
    const reader = new LineReader(bytesMax);
    const buffer = Buffer.from("abc");
    reader.push(buffer);
    buffer.fill("z");
    expect(reader.push(Buffer.from("\n"))).toEqual([{ kind: "line", text: "abc" }]);
  });
});
