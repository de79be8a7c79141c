/** The shim between its orchestrator, the agent's runtime and its processes: what comes early, in what order, and what it is told in the end. */
import { beforeEach, describe, expect, test } from "bun:test";
import { Orchestrators } from "~/agent/orchestrators";
import type { Runtime } from "~/agent/runtime";
import { Shim } from "~/agent/shim";
import { FrameDecoder } from "~/wire/frame";
import { shimFrameBytesMax } from "~/wire/limits";
import { parseEvent, type ShimCommand, type ShimEvent } from "~/wire/shim";
import { FakeClock } from "../../support/fake-clock";
import { waitFor } from "../../support/wait-for";

class FakeRuntime implements Runtime {
  readonly pid = 1;
  readonly outputBytes = 0;
  readonly did: string[] = [];
  submit(text: string): Promise<void> {
    this.did.push(`submit ${text}`);
    return Promise.resolve();
  }
  response = (): Promise<string> => Promise.resolve("answer");
  capture = () => Promise.resolve({ content: "screen", cursorRow: 0, cursorCol: 0 });
  snapshot = (): Promise<string> => Promise.resolve("");
  resize = (): void => void this.did.push("resize");
  hold = (): void => undefined;
  interrupt = (): void => void this.did.push("interrupt");
  askToEnd = (): void => void this.did.push("askToEnd");
  type = (): boolean => true;
  whenRead = (): undefined => undefined;
  close = (): void => void this.did.push("close");
}

let clock: FakeClock;
let told: ShimEvent[];
let runtime: FakeRuntime;
let shim: Shim;
/** What is left after each attempt to end the agent; none when that is used up. */
let left: number[][];
let hasLeft: boolean;

beforeEach(() => {
  clock = new FakeClock();
  told = [];
  runtime = new FakeRuntime();
  left = [];
  hasLeft = false;
  const orchestrators = new Orchestrators({
    clock,
    endsWithLast: true,
    command: () => undefined,
    abandoned: () => undefined,
  });
  shim = new Shim({
    clock,
    orchestrators,
    endTree: () => Promise.resolve(left.shift() ?? []),
    output: () => undefined,
    ended: () => undefined,
    isAttended: () => false,
  });
  void shim.left.then(() => {
    hasLeft = true;
  });
  const decoder = new FrameDecoder(shimFrameBytesMax);
  orchestrators.admit({
    write(bytes) {
      for (const read of decoder.push(bytes)) {
        const parsed = read.kind === "frame" ? parseEvent(read.payload) : undefined;
        if (parsed?.ok) told.push(parsed.value);
      }
      return bytes.length;
    },
    end: () => undefined,
    terminate: () => undefined,
  });
});

const command = (value: ShimCommand): void => shim.command(1, { ok: true, value });
const message = (id: string): void =>
  command({ cmd: "SendMessage", from: "ann", body: `text of ${id}`, message_id: id });
const names = (): string[] =>
  told.map((event) =>
    [event.event, "id" in event ? event.id : "", "to" in event ? event.to : ""].join(" ").trim(),
  );
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe("before it is known whether there is an agent", () => {
  test("what comes waits, in order, and is dealt with when there is one", async () => {
    message("m1");
    command({ cmd: "Ping" });
    shim.events.warning("early");
    expect(told).toEqual([]);
    shim.started(runtime);
    shim.events.saw("idle", "$");
    await settle();
    expect(names()).toEqual([
      "Warning",
      "Pong",
      "Warning",
      "StateChanged  idle",
      "Ready",
      "MessageDelivered m1",
      "StateChanged  working",
    ]);
  });

  test("what comes is answered when there is none, and so is what comes then", async () => {
    message("early");
    shim.notStarted("there is no such program");
    message("late");
    command({ cmd: "CaptureScreen", last_n_lines: null });
    command({ cmd: "GetState" });
    await settle();
    expect(names()).toEqual([
      "Error",
      "StateChanged  dead",
      "DeliveryFailed early",
      "DeliveryFailed late",
      "Error",
      "State",
    ]);
    command({ cmd: "Kill" });
    await waitFor(() => hasLeft, { what: "it to leave" });
  });
});

test("what happens while something is being done comes after it", async () => {
  // Such as a runtime that has something to say about what it is told.
  runtime.askToEnd = () => shim.events.warning("not now");
  runtime.resize = () => shim.events.warning("not so large");
  shim.started(runtime);
  command({ cmd: "Shutdown", timeout_secs: 0, reason: "requested" });
  command({ cmd: "Resize", rows: 10, cols: 10 });
  message("late");
  expect(names()).toEqual(["Warning", "Warning", "DeliveryFailed late"]);
  await settle();
});

describe("what would not end", () => {
  test("loses its terminal, and is tried again", async () => {
    left = [[7, 8], []];
    shim.started(runtime);
    command({ cmd: "Kill" });
    await waitFor(() => left.length === 0, { what: "the second attempt" });
    await settle();
    expect([runtime.did, told, hasLeft]).toEqual([["close"], [], false]);
  });

  test("is told once, whoever asked for its end, and asked for again when that is wanted", async () => {
    left = [[7], [7], [7], [7]];
    shim.started(runtime);
    command({ cmd: "Kill" });
    command({ cmd: "Kill" });
    await waitFor(() => told.length === 1, { what: "the warning" });
    expect(told).toMatchObject([{ event: "Warning", message: expect.stringContaining(": 7") }]);
    await settle();
    command({ cmd: "Kill" });
    await waitFor(() => told.length === 2, { what: "the second warning" });
    expect([left, hasLeft]).toEqual([[], false]);
  });

  test("because it cannot even be looked for is told as well", async () => {
    runtime.close = () => {
      throw new Error("no more files may be opened");
    };
    left = [[7]];
    shim.started(runtime);
    shim.abandoned();
    await waitFor(() => hasLeft, { what: "it to leave" });
    expect(told).toMatchObject([{ event: "Warning", message: expect.stringContaining("no more files") }]);
  });

  test("does not keep a shim that nobody drives any more", async () => {
    left = [[7], [7]];
    shim.started(runtime);
    shim.abandoned();
    await waitFor(() => hasLeft, { what: "it to leave" });
    expect(names()).toEqual(["Warning"]);
  });

  test("is told before a shim whose agent has ended leaves", async () => {
    left = [[7], [7]];
    shim.started(runtime);
    command({ cmd: "Kill" });
    shim.events.ended({ code: 0, signal: null });
    await waitFor(() => hasLeft, { what: "it to leave" });
    expect(names().toSorted()).toEqual(["Died", "StateChanged  dead", "Warning"]);
  });
});
