/** Frames over a socket: whole and in order whatever the socket takes at a time, an end to waiting for who does not read, and how it ended. */
import { beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { Channel, type ChannelEnd, type ChannelOptions } from "~/agent/channel";
import { systemClock } from "~/clock";
import { MeshError } from "~/errors";
import { encodeFrame, FrameDecoder } from "~/wire/frame";
import { cleanup } from "../../support/cleanup";
import { FakeClock } from "../../support/fake-clock";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";

const frameBytesMax = 100_000;
const frame = (text: string): Uint8Array => encodeFrame(Buffer.from(text), frameBytesMax);
const outcome = (promise: Promise<void>): Promise<string> =>
  promise.then(
    () => "sent",
    (error: unknown) => (error instanceof MeshError ? error.code : String(error)),
  );

/** A socket that takes as much as it is allowed to. */
class TightSocket {
  readonly taken: number[] = [];
  room = Number.POSITIVE_INFINITY;
  state: "open" | "ended" | "terminated" | "broken" = "open";

  write(bytes: Uint8Array): number {
    if (this.state !== "open") return -1;
    const part = bytes.subarray(0, this.room);
    this.room -= part.length;
    this.taken.push(...part);
    return part.length;
  }
  end(): void {
    if (this.state === "open") this.state = "ended";
  }
  terminate(): void {
    this.state = "terminated";
  }
}

let clock: FakeClock;
let socket: TightSocket;
let received: string[];
let ends: ChannelEnd[];
let channel: Channel;

const optionsOf = (changes: Partial<ChannelOptions> = {}): ChannelOptions => ({
  socket,
  clock,
  frameBytesMax,
  writeTimeoutMs: 2_000,
  waitingBytesMax: 1_000,
  received: (payload) => void received.push(Buffer.from(payload).toString()),
  ended: (end) => void ends.push(end),
  ...changes,
});

beforeEach(() => {
  clock = new FakeClock();
  socket = new TightSocket();
  received = [];
  ends = [];
  channel = new Channel(optionsOf());
});

/** What the other side has, as texts. */
const atThePeer = (): string[] =>
  new FrameDecoder(frameBytesMax)
    .push(Uint8Array.from(socket.taken))
    .map((read) => (read.kind === "frame" ? Buffer.from(read.payload).toString() : "too large"));

describe("writing", () => {
  test("one frame after the other, whole, however little the socket takes at a time", async () => {
    socket.room = 0;
    const outcomes = ["first", "second", "", "fourth"].map((text) => outcome(channel.send(frame(text))));
    for (let step = 0; channel.isOpen && atThePeer().length < 4; step++) {
      socket.room = 1 + (step % 3);
      channel.drained();
    }
    expect(atThePeer()).toEqual(["first", "second", "", "fourth"]);
    expect(await Promise.all(outcomes)).toEqual(["sent", "sent", "sent", "sent"]);
    expect([socket.state, ends, clock.delaysMs]).toEqual(["open", [], []]);
  });

  test("a frame counts as sent when the socket has all of it, and not before", async () => {
    socket.room = 3;
    let isSent = false;
    const sending = channel.send(frame("abc")).then(() => {
      isSent = true;
    });
    await Promise.resolve();
    expect(isSent).toBe(false);
    socket.room = 4;
    channel.drained();
    await sending;
    expect(isSent).toBe(true);
  });

  test("a peer that does not read: the writes fail after the time for one frame, and the connection is closed", async () => {
    socket.room = 2;
    const outcomes = [channel.send(frame("never")), channel.send(frame("neither"))].map(outcome);
    clock.advance(1_999);
    expect([channel.isOpen, ends]).toEqual([true, []]);
    clock.advance(1);
    expect(await Promise.all(outcomes)).toEqual(["timed_out", "timed_out"]);
    expect([channel.isOpen, socket.state]).toEqual([false, "terminated"]);
    expect(ends).toMatchObject([{ kind: "not_written", error: { code: "timed_out" } }]);
    expect(await outcome(channel.send(frame("later")))).toBe("answer_lost");
  });

  test("a byte now and then does not hold it up for ever", async () => {
    socket.room = 0;
    const slow = outcome(channel.send(frame("slow")));
    for (let byte = 0; byte < 4; byte++) {
      clock.advance(450);
      socket.room = 1;
      channel.drained();
    }
    clock.advance(199);
    expect(channel.isOpen).toBe(true);
    clock.advance(1);
    expect(await slow).toBe("timed_out");
  });

  test("the time in which this process itself was stopped is not the peer's", async () => {
    socket.room = 2;
    const slow = outcome(channel.send(frame("slow")));
    clock.advance(100);
    clock.suspend(60_000);
    expect(channel.isOpen).toBe(true);
    socket.room = 100;
    channel.drained();
    expect(await slow).toBe("sent");
    socket.room = 2;
    const never = outcome(channel.send(frame("never")));
    clock.suspend(60_000);
    clock.advance(2_000);
    expect(await never).toBe("timed_out");
  });

  test("the time is each frame's own", async () => {
    socket.room = 0;
    const outcomes = [channel.send(frame("a")), channel.send(frame("b"))].map(outcome);
    clock.advance(1_500);
    socket.room = 5;
    channel.drained();
    clock.advance(1_500);
    expect(channel.isOpen).toBe(true);
    socket.room = 5;
    channel.drained();
    expect(await Promise.all(outcomes)).toEqual(["sent", "sent"]);
  });

  test("more than may wait is as if nobody read", async () => {
    socket.room = 0;
    const first = outcome(channel.send(frame("x".repeat(900))));
    const second = outcome(channel.send(frame("y".repeat(100))));
    expect(await Promise.all([first, second])).toEqual(["limit_reached", "limit_reached"]);
    expect([socket.state, ends.length]).toEqual(["terminated", 1]);
  });

  test("a socket that is closed under it", async () => {
    socket.state = "broken";
    expect(await outcome(channel.send(frame("a")))).toBe("answer_lost");
    expect(ends).toMatchObject([{ kind: "not_written" }]);
  });
});

describe("closing", () => {
  test("lets what waits go out first, and takes nothing more", async () => {
    socket.room = 3;
    const sending = outcome(channel.send(frame("last words")));
    channel.close();
    expect([socket.state, channel.isOpen]).toEqual(["open", false]);
    expect(await outcome(channel.send(frame("too late")))).toBe("answer_lost");
    socket.room = 100;
    channel.drained();
    expect(await sending).toBe("sent");
    expect([atThePeer(), socket.state]).toEqual([["last words"], "ended"]);
    channel.closed();
    expect(ends).toEqual([{ kind: "clean" }]);
  });

  test("with nothing to say ends the stream at once, once", () => {
    channel.close();
    channel.close();
    expect(socket.state).toBe("ended");
    channel.closed();
    channel.closed();
    expect(ends).toEqual([{ kind: "clean" }]);
  });
});

describe("the end of what comes in", () => {
  test("between two frames is clean; what was read before is there", () => {
    channel.data(Buffer.concat([frame("one"), frame("two")]));
    channel.closed();
    expect([received, ends]).toEqual([["one", "two"], [{ kind: "clean" }]]);
  });

  test.each([1, 3, 4, 6])("after %d bytes of a frame is not", (bytes) => {
    channel.data(frame("one"));
    channel.data(frame("four").subarray(0, bytes));
    channel.closed();
    expect([received, ends]).toEqual([["one"], [{ kind: "inside_frame" }]]);
  });

  test("a length beyond all bounds closes the connection, and what follows is not read", async () => {
    const sending = outcome(new Channel(optionsOf()).send(frame("fine")));
    channel.data(Buffer.concat([frame("before"), Buffer.of(0xff, 0xff, 0xff, 0xff), frame("after")]));
    expect([received, ends, socket.state]).toEqual([
      ["before"],
      [{ kind: "too_large", bytes: 0xffff_ffff }],
      "terminated",
    ]);
    channel.data(frame("later"));
    expect(received).toEqual(["before"]);
    expect(await sending).toBe("sent");
  });

  test("of a peer that still reads leaves the other direction open, once", async () => {
    let last = 0;
    channel = new Channel(optionsOf({ saidLast: () => void last++ }));
    channel.data(frame("one"));
    channel.inputEnded();
    channel.inputEnded();
    expect([received, ends, last, channel.isOpen]).toEqual([["one"], [], 1, true]);
    expect(await outcome(channel.send(frame("still heard")))).toBe("sent");
    channel.close();
    expect([atThePeer(), socket.state]).toEqual([["still heard"], "ended"]);
    channel.closed();
    expect(ends).toEqual([{ kind: "clean" }]);
  });

  test("of a peer that still reads, but inside a frame, ends it", () => {
    channel = new Channel(optionsOf({ saidLast: () => expect.unreachable() }));
    channel.data(frame("four").subarray(0, 5));
    channel.inputEnded();
    expect([ends, socket.state]).toEqual([[{ kind: "inside_frame" }], "terminated"]);
  });

  test("while something waits to be written fails that", async () => {
    socket.room = 0;
    const sending = outcome(channel.send(frame("unheard")));
    channel.closed();
    expect(await sending).toBe("answer_lost");
    expect([ends, clock.delaysMs]).toEqual([[{ kind: "clean" }], []]);
  });

  test("closing from inside `received` stops the rest of that portion", () => {
    channel = new Channel(
      optionsOf({
        received: (payload) => {
          received.push(Buffer.from(payload).toString());
          channel.closed();
        },
      }),
    );
    channel.data(Buffer.concat([frame("one"), frame("two")]));
    expect(received).toEqual(["one"]);
  });
});

test("over a real socket: hundreds of frames both ways, then a peer that stops reading is given up", async () => {
  const path = join(tempDir(), "s");
  const inbox: string[] = [];
  let peer: { pause(): void; write(bytes: Uint8Array): number } | undefined;
  const decoder = new FrameDecoder(frameBytesMax);
  const listener = Bun.listen({
    unix: path,
    socket: {
      open: (opened) => {
        peer = opened;
      },
      data(_, bytes) {
        for (const read of decoder.push(bytes))
          if (read.kind === "frame") inbox.push(Buffer.from(read.payload).toString());
      },
    },
  });
  cleanup(() => listener.stop(true));
  let real: Channel | undefined;
  await Bun.connect({
    unix: path,
    socket: {
      open(opened) {
        real = new Channel(
          optionsOf({
            socket: opened,
            clock: systemClock,
            writeTimeoutMs: 200,
            waitingBytesMax: 64 * 1024 * 1024,
          }),
        );
      },
      data: (_, bytes) => real?.data(bytes),
      drain: () => real?.drained(),
      close: () => real?.closed(),
    },
  });
  if (real === undefined || peer === undefined) throw new Error("not connected");
  const texts = Array.from({ length: 300 }, (_, n) => `${n} ${"x".repeat(n * 200)}`);
  const open = real;
  await Promise.all(texts.map((text) => open.send(frame(text))));
  await waitFor(() => inbox.length === texts.length, { what: "all frames to arrive" });
  expect(inbox).toEqual(texts);
  peer.write(Buffer.concat([frame("back"), frame("and again")]));
  await waitFor(() => received.length === 2, { what: "the frames that come back" });

  peer.pause();
  const fills = Array.from({ length: 100 }, () => outcome(open.send(frame("x".repeat(frameBytesMax)))));
  const outcomes = await Promise.all(fills);
  expect(new Set(outcomes)).toEqual(new Set(["sent", "timed_out"]));
  // The first ones fit into the buffers of the system; from the first that did not, none was sent.
  expect(outcomes.slice(outcomes.indexOf("timed_out"))).not.toContain("sent");
  expect(ends).toMatchObject([{ kind: "not_written", error: { code: "timed_out" } }]);
});
