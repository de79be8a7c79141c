/** The vocabulary of the shim, both ways: every command and event, what may be absent or null, and what is refused and why. */
import { describe, expect, test } from "bun:test";
import type { MeshError } from "~/errors";
import { FrameDecoder } from "~/wire/frame";
import { shimFrameBytesMax } from "~/wire/limits";
import {
  encodeCommand,
  encodeEvent,
  parseCommand,
  parseEvent,
  type ShimCommand,
  type ShimCommandInput,
  type ShimCommandName,
  type ShimEvent,
  type ShimEventName,
  shimStates,
  shutdownReasons,
} from "~/wire/shim";

/** What the one frame holds. */
function payloadOf(frame: Uint8Array): Uint8Array {
  const reads = new FrameDecoder(shimFrameBytesMax).push(frame);
  const [read] = reads;
  if (reads.length !== 1 || read?.kind !== "frame") throw new Error("not exactly one frame");
  return read.payload;
}
const textOf = (frame: Uint8Array): string => Buffer.from(payloadOf(frame)).toString("utf8");
const bytesOf = (value: unknown): Uint8Array =>
  Buffer.from(typeof value === "string" ? value : JSON.stringify(value));

const u64 = Number.MAX_SAFE_INTEGER;

/** For each command: as it is given, as it stands on the wire, and as it is understood. */
const commands: { [Name in ShimCommandName]: [given: ShimCommandInput, wire: string, read: ShimCommand][] } =
  {
    SendMessage: [
      [
        { cmd: "SendMessage", from: "alice", body: 'hi\n"there" 🙂\u001b[201~' },
        '{"cmd":"SendMessage","from":"alice","body":"hi\\n\\"there\\" 🙂\\u001b[201~"}',
        { cmd: "SendMessage", from: "alice", body: 'hi\n"there" 🙂\u001b[201~' },
      ],
      [
        { cmd: "SendMessage", from: "", body: "", message_id: "m-1" },
        '{"cmd":"SendMessage","from":"","body":"","message_id":"m-1"}',
        { cmd: "SendMessage", from: "", body: "", message_id: "m-1" },
      ],
    ],
    CaptureScreen: [
      [{ cmd: "CaptureScreen" }, '{"cmd":"CaptureScreen"}', { cmd: "CaptureScreen", last_n_lines: null }],
      [
        { cmd: "CaptureScreen", last_n_lines: null },
        '{"cmd":"CaptureScreen","last_n_lines":null}',
        { cmd: "CaptureScreen", last_n_lines: null },
      ],
      [
        { cmd: "CaptureScreen", last_n_lines: 20 },
        '{"cmd":"CaptureScreen","last_n_lines":20}',
        { cmd: "CaptureScreen", last_n_lines: 20 },
      ],
    ],
    GetState: [[{ cmd: "GetState" }, '{"cmd":"GetState"}', { cmd: "GetState" }]],
    Resize: [
      [
        { cmd: "Resize", rows: 65_535, cols: 1 },
        '{"cmd":"Resize","rows":65535,"cols":1}',
        { cmd: "Resize", rows: 65_535, cols: 1 },
      ],
    ],
    Shutdown: [
      [
        { cmd: "Shutdown", timeout_secs: 0 },
        '{"cmd":"Shutdown","timeout_secs":0}',
        { cmd: "Shutdown", timeout_secs: 0, reason: "requested" },
      ],
      ...shutdownReasons.map((reason): [ShimCommandInput, string, ShimCommand] => [
        { cmd: "Shutdown", timeout_secs: 4_294_967_295, reason },
        `{"cmd":"Shutdown","timeout_secs":4294967295,"reason":"${reason}"}`,
        { cmd: "Shutdown", timeout_secs: 4_294_967_295, reason },
      ]),
    ],
    Kill: [[{ cmd: "Kill" }, '{"cmd":"Kill"}', { cmd: "Kill" }]],
    Ping: [[{ cmd: "Ping" }, '{"cmd":"Ping"}', { cmd: "Ping" }]],
  };

/** For each event: the value, and as it stands on the wire. */
const events: { [Name in ShimEventName]: [event: ShimEvent, wire: string][] } = {
  Ready: [[{ event: "Ready" }, '{"event":"Ready"}']],
  StateChanged: shimStates.map((to) => [
    { event: "StateChanged", from: "starting", to, summary: "s" },
    `{"event":"StateChanged","from":"starting","to":"${to}","summary":"s"}`,
  ]),
  MessageDelivered: [[{ event: "MessageDelivered", id: "m" }, '{"event":"MessageDelivered","id":"m"}']],
  Completion: [
    [
      { event: "Completion", response: "r", last_lines: "l" },
      '{"event":"Completion","response":"r","last_lines":"l"}',
    ],
    [
      { event: "Completion", message_id: "m", response: "", last_lines: "" },
      '{"event":"Completion","message_id":"m","response":"","last_lines":""}',
    ],
  ],
  Died: [
    [{ event: "Died", exit_code: null, last_lines: "" }, '{"event":"Died","exit_code":null,"last_lines":""}'],
    [{ event: "Died", exit_code: -1, last_lines: "x" }, '{"event":"Died","exit_code":-1,"last_lines":"x"}'],
  ],
  ContextExhausted: [
    [
      { event: "ContextExhausted", message: "m", last_lines: "l" },
      '{"event":"ContextExhausted","message":"m","last_lines":"l"}',
    ],
  ],
  ContextWarning: [
    [
      {
        event: "ContextWarning",
        model: null,
        output_bytes: u64,
        uptime_secs: 1,
        input_tokens: 2,
        cached_input_tokens: 3,
        cache_creation_input_tokens: 4,
        cache_read_input_tokens: 5,
        output_tokens: 6,
        reasoning_output_tokens: 7,
        used_tokens: 8,
        context_limit_tokens: 9,
        usage_pct: 255,
      },
      `{"event":"ContextWarning","model":null,"output_bytes":${u64},"uptime_secs":1,"input_tokens":2,"cached_input_tokens":3,"cache_creation_input_tokens":4,"cache_read_input_tokens":5,"output_tokens":6,"reasoning_output_tokens":7,"used_tokens":8,"context_limit_tokens":9,"usage_pct":255}`,
    ],
  ],
  ContextApproaching: [
    [
      { event: "ContextApproaching", message: "m", input_tokens: 1, output_tokens: 0 },
      '{"event":"ContextApproaching","message":"m","input_tokens":1,"output_tokens":0}',
    ],
  ],
  ScreenCapture: [
    [
      { event: "ScreenCapture", content: "a\nb", cursor_row: 0, cursor_col: 65_535 },
      '{"event":"ScreenCapture","content":"a\\nb","cursor_row":0,"cursor_col":65535}',
    ],
  ],
  State: [
    [{ event: "State", state: "idle", since_secs: 12 }, '{"event":"State","state":"idle","since_secs":12}'],
  ],
  SessionStats: [
    [
      { event: "SessionStats", output_bytes: 1, uptime_secs: 2, input_tokens: 3, output_tokens: 4 },
      '{"event":"SessionStats","output_bytes":1,"uptime_secs":2,"input_tokens":3,"output_tokens":4}',
    ],
    [
      {
        event: "SessionStats",
        output_bytes: 1,
        uptime_secs: 2,
        input_tokens: 3,
        output_tokens: 4,
        context_usage_pct: 0,
      },
      '{"event":"SessionStats","output_bytes":1,"uptime_secs":2,"input_tokens":3,"output_tokens":4,"context_usage_pct":0}',
    ],
  ],
  Pong: [[{ event: "Pong" }, '{"event":"Pong"}']],
  Warning: [
    [
      { event: "Warning", message: "m", idle_secs: null },
      '{"event":"Warning","message":"m","idle_secs":null}',
    ],
    [{ event: "Warning", message: "m", idle_secs: 7 }, '{"event":"Warning","message":"m","idle_secs":7}'],
  ],
  DeliveryFailed: [
    [{ event: "DeliveryFailed", id: "m", reason: "r" }, '{"event":"DeliveryFailed","id":"m","reason":"r"}'],
  ],
  Error: [
    [{ event: "Error", command: "Nope", reason: "r" }, '{"event":"Error","command":"Nope","reason":"r"}'],
  ],
};

describe.each(Object.entries(commands))("the command %s", (_, cases) => {
  test.each(cases)("%j", (given, wire, read) => {
    expect(textOf(encodeCommand(given))).toBe(wire);
    expect(parseCommand(payloadOf(encodeCommand(given)))).toEqual({ ok: true, value: read });
  });
});

describe.each(Object.entries(events))("the event %s", (_, cases) => {
  test.each(cases)("%j", (event, wire) => {
    expect(textOf(encodeEvent(event))).toBe(wire);
    expect(parseEvent(payloadOf(encodeEvent(event)))).toEqual({ ok: true, value: event });
  });
});

test("what is nested in an unknown field, however deep, is ignored", () => {
  const depth = 200_000;
  const deep = `{"cmd":"Ping","more":${"[".repeat(depth)}${"]".repeat(depth)}}`;
  expect(parseCommand(bytesOf(deep))).toEqual({ ok: true, value: { cmd: "Ping" } });
});

test("the order of fields, unknown fields and white space do not matter", () => {
  const odd = '\n{ "more": {"a": [1]}, "cols": 80,\t"rows": 24, "cmd": "Resize" } ';
  expect(parseCommand(bytesOf(odd))).toEqual({ ok: true, value: { cmd: "Resize", rows: 24, cols: 80 } });
  const newer = { later: null, state: "idle", since_secs: 0, event: "State" };
  expect(parseEvent(bytesOf(newer))).toEqual({
    ok: true,
    value: { event: "State", state: "idle", since_secs: 0 },
  });
});

describe("a command is refused", () => {
  const bad: [what: string, payload: Uint8Array, name: string | undefined, reason: RegExp][] = [
    ["empty", new Uint8Array(0), undefined, /not JSON/],
    ["no JSON", bytesOf('{"cmd":"Ping"'), undefined, /not JSON/],
    ["two values", bytesOf('{"cmd":"Ping"}{"cmd":"Ping"}'), undefined, /not JSON/],
    ["no UTF-8", Uint8Array.of(0x22, 0xff, 0x22), undefined, /UTF-8/],
    ["a surrogate in UTF-8", Uint8Array.of(0x22, 0xed, 0xa0, 0x80, 0x22), undefined, /UTF-8/],
    ["null", bytesOf("null"), undefined, /"cmd"/],
    ["an array", bytesOf("[]"), undefined, /"cmd"/],
    ["without a name", bytesOf({ event: "Pong" }), undefined, /"cmd"/],
    ["with a number for a name", bytesOf({ cmd: 7 }), undefined, /"cmd"/],
    ["unknown", bytesOf({ cmd: "Explode" }), "Explode", /no such command/],
    ["in another case", bytesOf({ cmd: "ping" }), "ping", /no such command/],
    ["with a very long name", bytesOf({ cmd: "x".repeat(10_000) }), "x".repeat(64), /no such command/],
    ["without its body", bytesOf({ cmd: "SendMessage", from: "a" }), "SendMessage", /body: missing/],
    ["with a number for a body", bytesOf({ cmd: "SendMessage", from: "a", body: 1 }), "SendMessage", /body/],
    [
      "with null for an id",
      bytesOf({ cmd: "SendMessage", from: "a", body: "b", message_id: null }),
      "SendMessage",
      /message_id/,
    ],
    [
      "with an id that might not be whole in what it comes back in",
      bytesOf({ cmd: "SendMessage", from: "a", body: "b", message_id: "x".repeat(1025) }),
      "SendMessage",
      /message_id/,
    ],
    ["nested without an end", bytesOf("[".repeat(shimFrameBytesMax)), undefined, /not JSON/],
    [
      "for fewer than no lines",
      bytesOf({ cmd: "CaptureScreen", last_n_lines: -1 }),
      "CaptureScreen",
      /last_n_lines/,
    ],
    [
      "for half a line",
      bytesOf({ cmd: "CaptureScreen", last_n_lines: 0.5 }),
      "CaptureScreen",
      /last_n_lines/,
    ],
    [
      "for lines in words",
      bytesOf({ cmd: "CaptureScreen", last_n_lines: "5" }),
      "CaptureScreen",
      /last_n_lines/,
    ],
    ["for more rows than a u16", bytesOf({ cmd: "Resize", rows: 65_536, cols: 80 }), "Resize", /rows/],
    ["for no columns", bytesOf({ cmd: "Resize", rows: 24, cols: 0 }), "Resize", /cols/],
    ["without columns", bytesOf({ cmd: "Resize", rows: 24 }), "Resize", /cols: missing/],
    [
      "for longer than a u32",
      bytesOf({ cmd: "Shutdown", timeout_secs: 4_294_967_296 }),
      "Shutdown",
      /timeout_secs/,
    ],
    ["for a time in the past", bytesOf({ cmd: "Shutdown", timeout_secs: -1 }), "Shutdown", /timeout_secs/],
    ["for no time", bytesOf({ cmd: "Shutdown" }), "Shutdown", /timeout_secs: missing/],
    [
      "for a time beyond numbers",
      bytesOf('{"cmd":"Shutdown","timeout_secs":1e999}'),
      "Shutdown",
      /timeout_secs/,
    ],
    [
      "for an unknown reason",
      bytesOf({ cmd: "Shutdown", timeout_secs: 1, reason: "bored" }),
      "Shutdown",
      /reason/,
    ],
  ];
  test.each(bad)("%s", (_, payload, name, reason) => {
    const parsed = parseCommand(payload);
    expect(parsed).toMatchObject({ ok: false });
    if (parsed.ok) return;
    expect(parsed.name).toBe(name);
    expect(parsed.reason).toMatch(reason);
  });

  test("without repeating what it held", () => {
    for (const payload of [
      bytesOf({ cmd: "SendMessage", from: "a", body: ["top secret"] }),
      bytesOf({ cmd: "Resize", rows: "top secret", cols: 1 }),
      bytesOf('{"cmd":"SendMessage","body":"top secret'),
      bytesOf('top secret {"cmd":"Ping"}'),
    ]) {
      expect(JSON.stringify(parseCommand(payload))).not.toContain("secret");
    }
  });
});

test("an event of a newer shim is told from one that is wrong", () => {
  expect(parseEvent(bytesOf({ event: "Danced" }))).toEqual({
    ok: false,
    name: "Danced",
    reason: "there is no such event",
  });
  expect(parseEvent(bytesOf({ event: "Died", last_lines: "" }))).toMatchObject({ ok: false, name: "Died" });
});

describe("size", () => {
  test("a command fills a frame to the last byte, and one byte more is refused", () => {
    const empty = payloadOf(encodeCommand({ cmd: "SendMessage", from: "", body: "" })).length;
    const body = "x".repeat(shimFrameBytesMax - empty);
    expect(payloadOf(encodeCommand({ cmd: "SendMessage", from: "", body }))).toHaveLength(shimFrameBytesMax);
    try {
      encodeCommand({ cmd: "SendMessage", from: "x", body });
      throw new Error("it was taken");
    } catch (error) {
      expect((error as MeshError).code).toBe("frame_too_large");
    }
  });

  const long: [what: string, text: string][] = [
    ["plain text", "line of the agent\n".repeat(200_000)],
    ["characters of four bytes", "🙂".repeat(900_000)],
    ["what JSON writes with six characters", "\u0001".repeat(700_000)],
    ["expensive in the middle alone", "a".repeat(400_000) + "\u0001".repeat(400_000) + "b".repeat(400_000)],
    [
      "expensive at the ends alone",
      "\u0001".repeat(300_000) + "a".repeat(900_000) + "\u0001".repeat(300_000),
    ],
    ["halves of characters", "\ud83d".repeat(900_000)],
  ];
  test.each(long)("an event that is too long loses the middle of its longest text: %s", (_, response) => {
    const payload = payloadOf(encodeEvent({ event: "Completion", response, last_lines: "the last lines" }));
    expect(payload.length).toBeLessThanOrEqual(shimFrameBytesMax);
    expect(payload.length).toBeGreaterThan(shimFrameBytesMax - 64);
    const parsed = parseEvent(payload);
    if (!parsed.ok || parsed.value.event !== "Completion") throw new Error("not what was sent");
    expect(parsed.value.last_lines).toBe("the last lines");
    const [, head = "", left = "", tail = ""] =
      /^([\s\S]*)\n\[… (\d+) characters left out …\]\n([\s\S]*)$/.exec(parsed.value.response) ?? [];
    expect(head.length).toBe(tail.length);
    expect(head.length + Number(left) + tail.length).toBe(response.length);
    // What was cut through in the middle of a character has become U+FFFD.
    expect(response.toWellFormed().startsWith(head.replace(/\ufffd$/, ""))).toBe(true);
    expect(response.toWellFormed().endsWith(tail.replace(/^\ufffd/, ""))).toBe(true);
  });

  test("two long texts are both cut when one is not enough", () => {
    const text = "y".repeat(1_500_000);
    const payload = payloadOf(encodeEvent({ event: "Completion", response: text, last_lines: text }));
    expect(payload.length).toBeLessThanOrEqual(shimFrameBytesMax);
    expect(parseEvent(payload).ok).toBe(true);
  });

  test("half a character, which strict readers of JSON refuse, becomes U+FFFD", () => {
    const frame = encodeCommand({ cmd: "SendMessage", from: "a\ud800", body: "\udc00b" });
    expect(JSON.parse(textOf(frame))).toMatchObject({ from: "a\ufffd", body: "\ufffdb" });
  });
});
