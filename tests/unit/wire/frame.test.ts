/** Frames on a byte stream, byte by byte and in every other portion, whole, cut off, empty and too long. */
import { describe, expect, test } from "bun:test";
import { MeshError } from "~/errors";
import { encodeFrame, FrameDecoder, type FrameRead } from "~/wire/frame";

const max = 300;
const payloads = [
  [],
  [0x7f],
  [0, 1, 2, 3],
  [0xff, 0xff, 0xff, 0xff],
  Array.from({ length: max }, (_, n) => n & 0xff),
];
const stream = Buffer.concat(payloads.map((payload) => encodeFrame(Uint8Array.from(payload), max)));
const asFrames = (list: number[][]): FrameRead[] =>
  list.map((payload) => ({ kind: "frame", payload: Uint8Array.from(payload) }));

describe("encoding", () => {
  test.each([
    [[], [0, 0, 0, 0]],
    [[0x61], [0, 0, 0, 1, 0x61]],
    [
      [1, 2, 3],
      [0, 0, 0, 3, 1, 2, 3],
    ],
  ])("%j becomes %j", (payload, frame) => {
    expect([...encodeFrame(Uint8Array.from(payload), max)]).toEqual(frame);
  });

  test("the length is big-endian", () => {
    expect([...encodeFrame(new Uint8Array(0x0102), max).subarray(0, 4)]).toEqual([0, 0, 1, 2]);
  });

  test("as long as allowed is fine, one byte more is refused", () => {
    expect(encodeFrame(new Uint8Array(max), max)).toHaveLength(4 + max);
    try {
      encodeFrame(new Uint8Array(max + 1), max);
      throw new Error("it was taken");
    } catch (error) {
      expect(error).toBeInstanceOf(MeshError);
      expect((error as MeshError).code).toBe("frame_too_large");
    }
  });
});

describe("decoding", () => {
  test.each([1, 2, 3, 4, 5, 7, 64, 303, 304, 1000])("in portions of %d bytes", (portion) => {
    const decoder = new FrameDecoder(max);
    const reads: FrameRead[] = [];
    for (let at = 0; at < stream.length; at += portion)
      reads.push(...decoder.push(stream.subarray(at, at + portion)));
    expect(reads).toEqual(asFrames(payloads));
    expect(decoder.isBetweenFrames).toBe(true);
  });

  test("split at every place, in two", () => {
    for (let at = 0; at <= stream.length; at++) {
      const decoder = new FrameDecoder(max);
      const reads = [...decoder.push(stream.subarray(0, at)), ...decoder.push(stream.subarray(at))];
      expect(reads).toEqual(asFrames(payloads));
    }
  });

  test("a stream may end between frames and nowhere else", () => {
    const ends = new Set([0]);
    let end = 0;
    for (const payload of payloads) {
      end += 4 + payload.length;
      ends.add(end);
    }
    for (let at = 0; at <= stream.length; at++) {
      const decoder = new FrameDecoder(max);
      decoder.push(stream.subarray(0, at));
      expect([at, decoder.isBetweenFrames]).toEqual([at, ends.has(at)]);
    }
  });

  test("what it gives is a copy: the next portion may come in the same memory", () => {
    const decoder = new FrameDecoder(max);
    const portion = Uint8Array.from([0, 0, 0, 2, 5, 6]);
    const [read] = decoder.push(portion);
    portion.fill(9);
    expect(read).toEqual({ kind: "frame", payload: Uint8Array.from([5, 6]) });
  });

  test.each([
    [max + 1, [0, 0, 1, 0x2d]],
    [0xffff_ffff, [0xff, 0xff, 0xff, 0xff]],
    [0x8000_0000, [0x80, 0, 0, 0]],
  ])("a length of %d ends it, however it comes; what follows is not read", (bytes, header) => {
    const tooLong = Uint8Array.from([...header, 0, 0, 0, 1, 0x61]);
    for (const portion of [1, 3, 4, 9]) {
      const decoder = new FrameDecoder(max);
      const reads = decoder.push(encodeFrame(Uint8Array.of(1), max));
      for (let at = 0; at < tooLong.length; at += portion)
        reads.push(...decoder.push(tooLong.subarray(at, at + portion)));
      reads.push(...decoder.push(stream));
      expect(reads).toEqual([...asFrames([[1]]), { kind: "too_large", bytes }]);
      expect(decoder.isBetweenFrames).toBe(false);
    }
  });

  test("nothing is nothing", () => {
    const decoder = new FrameDecoder(max);
    expect(decoder.push(new Uint8Array(0))).toEqual([]);
    decoder.push(Uint8Array.of(0, 0));
    expect(decoder.push(new Uint8Array(0))).toEqual([]);
    expect(decoder.isBetweenFrames).toBe(false);
  });
});
