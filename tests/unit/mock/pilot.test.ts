/** The Pilot mock without a socket, on a clock that a test moves: what a script's pushes know, and what may wait. */
import { describe, expect, test } from "bun:test";
import { PilotMock } from "~/mock/pilot/mock";
import { PilotPlay } from "~/mock/pilot/script";
import type { StreamReader } from "~/mock/pilot/stream";
import { noRecorder } from "~/mock/recorder";
import { mockWaitingBytesMax } from "~/wire/limits";
import type { PilotScript } from "~/wire/mock-script";
import { FakeClock } from "../../support/fake-clock";
import { address, pilotFrame, u16, u32 } from "../../support/pilot-client";

interface Client {
  /** `07 00000001 …`: the frames that came, in hex, without their lengths. */
  frames: string[];
  reader: StreamReader;
  isCut: boolean;
}

function start(script: Omit<PilotScript, "mock">) {
  const clock = new FakeClock();
  const logged: string[] = [];
  const fault = (_: unknown, reason: string) => new Error(reason) as never;
  const mock = new PilotMock({
    clock,
    play: new PilotPlay({ mock: "pilot", ...script }, fault),
    recorder: noRecorder,
    log: (_, message) => void logged.push(message),
  });
  const connect = (): Client => {
    const client: Partial<Client> & Pick<Client, "frames" | "isCut"> = { frames: [], isCut: false };
    const reader = mock.connect({
      write: (bytes) => void client.frames.push(Buffer.from(bytes).toString("hex", 4)),
      cut: () => {
        client.isCut = true;
      },
      idle: () => undefined,
    });
    return Object.assign(client, { reader });
  };
  return { clock, logged, connect };
}

const target = address(1, 7);
const dial = (port: number): Buffer => pilotFrame(0x03, target, u16(port));
const welcome = { after: "dial", push: "recv", fields: { data: "hi" } } as const;

describe("a push that tells what an answer told", () => {
  test("comes with it", () => {
    const client = start({ pushes: [welcome] }).connect();
    client.reader.received(dial(9));
    expect(client.frames).toEqual(["0400000001", "07000000016869"]);
  });

  test.each([
    ["refused", { error: "no route" }, ["0a00016e6f20726f757465"]],
    ["dropped", { drop: true }, []],
    ["answered with bytes", { bytes: new Uint8Array(5) }, ["00"]],
  ] as const)("does not come when the command was %s", (_, effect, answer) => {
    const client = start({ rules: [{ on: "dial", ...effect }], pushes: [welcome] }).connect();
    client.reader.received(dial(9));
    expect(client.frames).toEqual([...answer]);
  });

  test("does not use itself up when it does not come", () => {
    const rules = [{ on: "dial", times: 1, error: "no route" }] as const;
    const client = start({ rules: [...rules], pushes: [{ ...welcome, times: 1 }] }).connect();
    for (let n = 0; n < 3; n++) client.reader.received(dial(9));
    expect(client.frames.filter((frame) => frame.startsWith("07"))).toEqual(["07000000016869"]);
  });

  test("comes all the same when it needs nothing of the answer", () => {
    const push = { after: "dial", push: "error", fields: { code: 2, text: "x" } } as const;
    const client = start({ rules: [{ on: "dial", drop: true }], pushes: [push] }).connect();
    client.reader.received(dial(9));
    expect(client.frames).toEqual(["0a000278"]);
  });
});

test("where looks at the request, whatever was answered", () => {
  const client = start({
    rules: [{ on: "bind", reply: { port: 999 } }],
    pushes: [
      { after: "bind", where: { port: 5 }, bytes: new Uint8Array([0, 0, 0, 0, 5]) },
      { after: "bind", where: { port: 999 }, bytes: new Uint8Array([0, 0, 0, 0, 9]) },
    ],
  }).connect();
  client.reader.received(pilotFrame(0x01, u16(5)));
  expect(client.frames).toEqual(["0203e7", "05"]);
});

test("a command whose payload a binding writes otherwise meets its rules, too, as far as it has the fields", () => {
  const { connect, logged } = start({
    rules: [
      { on: "handshake.wait", where: { node: 7, timeout_ms: 0 }, error: "never" },
      { on: "handshake.wait", where: { node: 7 }, error: "seven" },
      { on: "handshake.wait", reply: { waited: true } },
      { on: "network", error: "no" },
    ],
    pushes: [{ after: "network.leave", bytes: new Uint8Array([0, 0, 0, 1, 0x24]) }],
  });
  const client = connect();
  client.reader.received(pilotFrame(0x0f, 7, u32(7)));
  client.reader.received(pilotFrame(0x0f, 7));
  client.reader.received(pilotFrame(0x1f, 3));
  client.reader.received(pilotFrame(0x23, 2));
  expect(client.frames.map((frame) => Buffer.from(frame, "hex").toString("latin1"))).toEqual([
    "\n\0\x01seven",
    '\x10{"waited":true}',
    "\n\0\x01no",
    "\x24",
    '\x24{"ok":true,"status":"idle"}',
  ]);
  expect(logged).toEqual(Array(4).fill("malformed_request"));
});

describe("what is to come later", () => {
  test("is bounded: who sends without end what is answered later is cut off, and nobody else", () => {
    const { clock, logged, connect } = start({ rules: [{ on: "send", delay_ms: 60_000 }] });
    const [greedy, other] = [connect(), connect()];
    const frame = pilotFrame(0x06, u32(1), "x".repeat(1_000_000));
    other.reader.received(frame);
    let sent = 0;
    for (; !greedy.isCut && sent < 100; sent++) greedy.reader.received(frame);
    expect(sent).toBe(Math.ceil(mockWaitingBytesMax / frame.length));
    expect(logged).toEqual(["too_much_delayed"]);
    clock.advance(60_000);
    expect([greedy.frames.length, other.frames.length]).toEqual([0, 1]);
  });

  test("makes room when it has come", () => {
    const { clock, connect } = start({ rules: [{ on: "send", delay_ms: 10 }] });
    const client = connect();
    const frame = pilotFrame(0x06, u32(1), "x".repeat(1_000_000));
    for (let n = 0; n < 100; n++) {
      client.reader.received(frame);
      clock.advance(10);
    }
    expect([client.frames.length, client.isCut]).toEqual([100, false]);
  });

  test("comes no more behind a cut", () => {
    const pushes = [
      { after: "dial", cut: true },
      { after: "dial", delay_ms: 50, bytes: new Uint8Array(5) },
    ] as const;
    const { clock, connect } = start({ pushes: [...pushes] });
    const client = connect();
    client.reader.received(dial(9));
    expect([client.isCut, client.reader.isWaiting, clock.delaysMs]).toEqual([true, false, []]);
  });
});
