/** Who is told what a shim has to say, and for whom it is kept. */
import { beforeEach, expect, test } from "bun:test";
import type { Channel } from "~/agent/channel";
import { Orchestrators } from "~/agent/orchestrators";
import { FrameDecoder } from "~/wire/frame";
import { shimFrameBytesMax, shimOrchestratorsMax, shimWriteTimeoutMs } from "~/wire/limits";
import { parseEvent, type ShimEvent } from "~/wire/shim";
import { FakeClock } from "../../support/fake-clock";

/** A peer's end of a connection. */
class Peer {
  readonly #decoder = new FrameDecoder(shimFrameBytesMax);
  readonly heard: string[] = [];
  isEnded = false;
  readonly channel: Channel | undefined;

  constructor(isPassing = false) {
    this.channel = orchestrators.admit(this, { isPassing });
  }

  write(bytes: Uint8Array): number {
    for (const read of this.#decoder.push(bytes)) {
      const parsed = read.kind === "frame" ? parseEvent(read.payload) : undefined;
      if (!parsed?.ok) throw new Error("no event");
      this.heard.push(parsed.value.event === "Warning" ? parsed.value.message : parsed.value.event);
    }
    return bytes.length;
  }
  end(): void {
    this.isEnded = true;
  }
  terminate(): void {
    this.isEnded = true;
  }
}

let clock: FakeClock;
let orchestrators: Orchestrators;
let departures: number;

const open = (endsWithLast: boolean): Orchestrators => {
  clock = new FakeClock();
  departures = 0;
  return new Orchestrators({
    clock,
    endsWithLast,
    command: () => undefined,
    abandoned: () => void departures++,
  });
};

beforeEach(() => {
  orchestrators = open(true);
});

const tell = (message: string): void =>
  orchestrators.tell({ event: "Warning", message, idle_secs: null } satisfies ShimEvent);

test("what happens while nobody is there is told to the first who comes, in order, and to nobody else", () => {
  tell("one");
  tell("two");
  const [first, second] = [new Peer(), new Peer()];
  tell("three");
  expect([first.heard, second.heard]).toEqual([["one", "two", "three"], ["three"]]);
});

test("who only passes by is told what happens meanwhile, and an orchestrator all of it", () => {
  tell("before");
  const passer = new Peer(true);
  tell("meanwhile");
  passer.channel?.closed();
  tell("after");
  expect([passer.heard, new Peer().heard]).toEqual([["meanwhile"], ["before", "meanwhile", "after"]]);
});

test("what an orchestrator has heard is not kept, whoever else is there", () => {
  const orchestrator = new Peer();
  const passer = new Peer(true);
  tell("heard");
  orchestrator.channel?.closed();
  tell("missed");
  expect([passer.heard, new Peer().heard]).toEqual([["heard", "missed"], ["missed"]]);
});

test("that the last orchestrator goes is told once, and of nobody who passes by", () => {
  const orchestrator = new Peer();
  const passers = [new Peer(true), new Peer(true)];
  passers[0]?.channel?.closed();
  expect(departures).toBe(0);
  orchestrator.channel?.closed();
  passers[1]?.channel?.closed();
  expect(departures).toBe(1);
});

test("the last one that says no more still hears how it ends; others are let go when they have heard the answers", async () => {
  const [first, last] = [new Peer(), new Peer()];
  first.channel?.inputEnded();
  tell("on");
  clock.advance(shimWriteTimeoutMs);
  expect([first.heard, first.isEnded, departures]).toEqual([["on"], true, 0]);
  first.channel?.closed();
  last.channel?.inputEnded();
  expect(departures).toBe(1);
  clock.advance(10 * shimWriteTimeoutMs);
  tell("the end");
  expect([last.heard, last.isEnded]).toEqual([["on", "the end"], false]);
  const closing = orchestrators.close();
  for (let turn = 1; turn <= 2; turn++) {
    clock.advance();
    await Promise.resolve();
  }
  expect(last.isEnded).toBe(true);
  last.channel?.closed();
  await closing;
});

test("where nothing ends with the last one, it is let go like any other, and what follows is kept", () => {
  orchestrators = open(false);
  const last = new Peer();
  last.channel?.inputEnded();
  clock.advance(shimWriteTimeoutMs);
  expect(last.isEnded).toBe(true);
  last.channel?.closed();
  tell("later");
  expect([last.heard, new Peer().heard, departures]).toEqual([[], ["later"], 0]);
});

test("one too many is told so", () => {
  const peers = Array.from({ length: shimOrchestratorsMax + 1 }, () => new Peer());
  const tooMany = peers.pop();
  expect([tooMany?.heard, tooMany?.isEnded, tooMany?.channel]).toEqual([["Error"], true, undefined]);
  expect(peers.filter(({ heard, isEnded }) => isEnded || heard.length > 0)).toEqual([]);
});
