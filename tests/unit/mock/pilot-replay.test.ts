/** Answering Pilot clients from a recording, frame by frame, without a socket. */
import { expect, test } from "bun:test";
import { PilotReplay } from "~/mock/pilot/replay";
import type { Recorded } from "~/wire/mock-recording";
import { pilotFrame, u32 } from "../../support/pilot-client";

const info = pilotFrame(0x0d);
const happened = { at_ms: 0, conn: 1 };
const opened: Recorded = { ...happened, n: 1, dir: "open" };

/** A client of it that sends these bytes, and what it gets. */
function answersTo(entries: readonly Recorded[], bytes: Uint8Array): { frames: string[]; logged: string[] } {
  const frames: string[] = [];
  const logged: string[] = [];
  const replay = new PilotReplay(entries, (_, message) => void logged.push(message));
  const client = {
    write: (written: Uint8Array) => void frames.push(Buffer.from(written).toString("utf8", 4)),
    cut: () => void frames.push("cut"),
    idle: () => undefined,
  };
  replay.connect(client).received(bytes);
  return { frames, logged };
}

test("an empty frame means nothing, recorded or not", () => {
  const bytes = Buffer.concat([u32(0), info, u32(0)]);
  const { frames, logged } = answersTo([opened], bytes);
  expect(frames).toEqual([expect.stringContaining("this frame is not in the recording")]);
  expect(logged).toEqual(["not_in_recording"]);
});

test("a frame that is sent again and again is answered in the order of the recording, and the last one ever after", () => {
  const times = 50_000;
  const hex = info.toString("hex");
  const entries = Array.from({ length: times }, (_, index): Recorded[] => [
    { ...happened, n: 2 * index + 2, dir: "in", hex },
    {
      ...happened,
      n: 2 * index + 3,
      dir: "out",
      after: 2 * index + 2,
      hex: Buffer.from(`0000${index}`).toString("hex"),
    },
  ]).flat();
  const { frames } = answersTo([opened, ...entries], Buffer.concat(Array(times + 2).fill(info)));
  const expected = [...Array(times).keys(), times - 1, times - 1];
  expect(frames.join()).toBe(expected.join());
});
