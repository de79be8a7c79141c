/** What terminals and shims say to each other, both ways; what is neither is known as such. */
import { describe, expect, test } from "bun:test";
import {
  encodeBytes,
  encodeShimWord,
  encodeTerminalWord,
  readShimFrame,
  readTerminalFrame,
  type ShimWord,
  type TerminalWord,
} from "~/wire/attachment";
import { FrameDecoder } from "~/wire/frame";
import { attachmentFrameBytesMax } from "~/wire/limits";

function payloads(...frames: Uint8Array[]): Uint8Array[] {
  return new FrameDecoder(attachmentFrameBytesMax).push(Buffer.concat(frames)).map((read) => {
    if (read.kind !== "frame") throw new Error("too large");
    return read.payload;
  });
}

const terminalWords: TerminalWord[] = [
  { do: "attach", rows: 24, cols: 80, owner: true },
  { do: "resize", rows: 1, cols: 65_535 },
  { do: "repaint" },
  { do: "detach" },
  { do: "describe" },
  { do: "drive" },
];

const shimWords: ShimWord[] = [
  { is: "attached" },
  { is: "driving" },
  { is: "waiting" },
  { is: "refused", reason: "too many" },
  { is: "ended", exit_code: 7, signal: null },
  { is: "ended", exit_code: null, signal: "SIGKILL" },
  {
    is: "description",
    description: {
      profile: "claude",
      runtime: "pty",
      pid: 1,
      shim_pid: 2,
      command: ["claude", "--resume", ""],
      cwd: "/tmp",
      started_at: "2026-01-31T00:00:00.000Z",
      log: null,
      terminals: 0,
      exit: { code: 3, signal: null },
    },
  },
];

test.each(terminalWords)("%j comes through", (word) => {
  expect(payloads(encodeTerminalWord(word)).map(readTerminalFrame)).toEqual([{ kind: "word", word }]);
});

test.each(shimWords)("%j comes through", (word) => {
  expect(payloads(encodeShimWord(word)).map(readShimFrame)).toEqual([{ kind: "word", word }]);
});

describe("bytes of a terminal", () => {
  test("come through as they are, whatever they look like", () => {
    const bytes = Buffer.from([0, 1, 0x1b, 0xff, ...Buffer.from('{"do":"detach"}')]);
    expect(payloads(...encodeBytes(bytes)).map(readShimFrame)).toEqual([
      { kind: "bytes", bytes: new Uint8Array(bytes) },
    ]);
  });

  test("of any length go in frames that are not too large, and none of nothing", () => {
    const bytes = new Uint8Array(attachmentFrameBytesMax * 2 + 5).map((_, index) => index % 251);
    const parts = payloads(...encodeBytes(bytes)).map((payload) => {
      const read = readTerminalFrame(payload);
      return read.kind === "bytes" ? read.bytes : new Uint8Array();
    });
    expect(parts).toHaveLength(3);
    expect(Buffer.concat(parts).equals(bytes)).toBe(true);
    expect(encodeBytes(new Uint8Array())).toEqual([]);
  });
});

describe("is no word", () => {
  const word = (text: string): Uint8Array => Buffer.from(`\x01${text}`);
  test.each([
    ["nothing", new Uint8Array()],
    ["another kind of frame", Buffer.of(2, 0x7b, 0x7d)],
    ["what is not JSON", word("{")],
    ["what is not UTF-8", Buffer.of(1, 0xff)],
    ["an unknown word", word('{"do":"dance","is":"dancing"}')],
    ["a size of nothing", word('{"do":"resize","rows":0,"cols":80}')],
    ["a size beyond all terminals", word('{"do":"resize","rows":24,"cols":65536}')],
    ["a word of the other side", word('{"both":1}')],
  ])("%s", (_, payload) => {
    expect([readTerminalFrame(payload).kind, readShimFrame(payload).kind]).toEqual(["unknown", "unknown"]);
  });
});
