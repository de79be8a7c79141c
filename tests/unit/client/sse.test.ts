/** The parser against the standard's own rules, however the stream is cut. */
import { describe, expect, test } from "bun:test";
import { type SseEvent, SseParser, sseEventCharsMax } from "~/client/sse";

const encode = (text: string): Uint8Array => new TextEncoder().encode(text);
const event = (data: string, name = "message", lastEventId = ""): SseEvent => ({
  event: name,
  data,
  lastEventId,
});

const streams: [what: string, stream: string, events: SseEvent[]][] = [
  ["one event", "data: a\n\n", [event("a")]],
  ["several lines of data", "data: a\ndata: b\n\n", [event("a\nb")]],
  ["a name and an id", "id: 7\nevent: outbox\ndata: {}\n\n", [event("{}", "outbox", "7")]],
  [
    "a name holds for one event, an id until the next",
    "id: 7\nevent: x\ndata: a\n\ndata: b\n\n",
    [event("a", "x", "7"), event("b", "message", "7")],
  ],
  ["an empty id clears it", "id: 7\ndata: a\n\nid\ndata: b\n\n", [event("a", "message", "7"), event("b")]],
  [
    "an id with a zero byte is ignored",
    "id: 7\ndata: a\n\nid: 8\0\ndata: b\n\n",
    [event("a", "message", "7"), event("b", "message", "7")],
  ],
  ["comments", ": hello\n\n:\ndata: a\n: in between\n\n", [event("a")]],
  ["only one blank after the colon goes", "data:a\n\ndata:  a\n\n", [event("a"), event(" a")]],
  ["fields without a value, and unknown ones", "data\nretry: 10\nfoo: bar\n\n", [event("")]],
  [
    "an event without data is none, but its id counts",
    "event: x\nid: 3\n\ndata: a\n\n",
    [event("a", "message", "3")],
  ],
  ["CRLF", "event: x\r\ndata: a\r\n\r\ndata: b\r\n\r\n", [event("a", "x"), event("b")]],
  ["CR", "event: x\rdata: a\r\rdata: b\r\r", [event("a", "x"), event("b")]],
  ["all line ends mixed", "data: a\r\ndata: b\rdata: c\n\r\ndata: d\n\r", [event("a\nb\nc"), event("d")]],
  ["a byte order mark", "\ufeffdata: a\n\n", [event("a")]],
  ["characters of several bytes", "data: grüße 👋 日本\n\n", [event("grüße 👋 日本")]],
  ["what is cut off at the end is dropped", "data: a\n\ndata: b\n", [event("a")]],
  ["a colon in the data", "data: a: b\n\n", [event("a: b")]],
];

describe.each(streams)("%s", (_what, stream, events) => {
  const bytes = encode(stream);

  test("whole", () => {
    expect(new SseParser().push(bytes)).toEqual(events);
  });

  test("byte by byte", () => {
    const parser = new SseParser();
    expect([...bytes].flatMap((byte) => parser.push(Uint8Array.of(byte)))).toEqual(events);
  });

  test("cut at every place", () => {
    for (let at = 0; at <= bytes.length; at++) {
      const parser = new SseParser();
      expect([...parser.push(bytes.subarray(0, at)), ...parser.push(bytes.subarray(at))]).toEqual(events);
    }
  });
});

test("an event without end is refused, in one line or in many", () => {
  const half = encode("x".repeat(sseEventCharsMax / 2 + 1));
  const oneLine = new SseParser();
  oneLine.push(encode("data: "));
  oneLine.push(half);
  expect(() => oneLine.push(half)).toThrow(RangeError);

  const manyLines = new SseParser();
  const line = encode(`data: ${"x".repeat(sseEventCharsMax / 2)}\n`);
  manyLines.push(line);
  expect(() => {
    manyLines.push(line);
    manyLines.push(line);
  }).toThrow(RangeError);
});
