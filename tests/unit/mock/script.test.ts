/** Reading a script: what is wrong with one is told with its place and the reason, and what the published schema says of it. */
import { describe, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Ajv from "ajv/dist/2020";
import { MeshError } from "~/errors";
import { DaemonPlay } from "~/mock/daemon/script";
import { PilotPlay } from "~/mock/pilot/script";
import { scriptSchema } from "~/mock/schema";
import { readScript } from "~/mock/script";
import { mockJsonDepthMax, scriptBytesMax, scriptRulesMax } from "~/wire/limits";
import { root } from "../../support/cli";
import { tempDir } from "../../support/temp-dir";

type Mock = "pilot" | "daemon";

function read(content: string | Uint8Array, mock: Mock): void {
  const file = join(tempDir(), "script.json");
  writeFileSync(file, content);
  if (mock === "pilot") {
    const { script, fault } = readScript(file, "pilot");
    new PilotPlay(script, fault);
  } else {
    const { script, fault } = readScript(file, "daemon");
    new DaemonPlay(script, fault);
  }
}

/** `3:14: key: reason` of the refusal. */
function refusal(content: string | Uint8Array, mock: Mock = "pilot"): string {
  try {
    read(content, mock);
  } catch (error) {
    if (!(error instanceof MeshError)) throw error;
    expect([error.code, error.message]).toEqual(["script_invalid", expect.stringContaining("/script.json")]);
    return error.message.replace(/^.*\/script\.json:?/, "");
  }
  return "it was taken";
}

const matchesSchema = new Ajv({ allowUnionTypes: true }).compile(scriptSchema());

/** `nested(3)` is `[[[]]]`. */
const nested = (depth: number): string => "[".repeat(depth) + "]".repeat(depth);

describe("a text", () => {
  const rule = (reply: string): string => `{"mock":"pilot","rules":[{"on":"info","reply":${reply}}]}`;
  const cases: [what: string, content: string | Uint8Array, refusal: string][] = [
    ["that is empty", "", "1:1: not JSON: value expected"],
    ["that ends early", "{", "1:2: not JSON: close brace expected"],
    ["with something behind it", "{}{}", "1:3: not JSON: end of file expected"],
    ["that is no object", "null", "1:1: an object expected"],
    ["that is a list", "[]", "1:1: an object expected"],
    ["that is no UTF-8", Buffer.from(`{"mock":\n"pil\xff"}`, "latin1"), "2:5: not UTF-8"],
    ["in UTF-16", Buffer.from('{"mock":"pilot"}', "utf16le").fill(0xff, 0, 1), "1:1: not UTF-8"],
    [
      "with a key twice",
      '{"mock":"pilot",\n "rules":[{"on":"info",\n  "on":"dial"}]}',
      "3:3: rules[0].on: this key is here twice",
    ],
    [
      "with a key twice, far within",
      rule('{"a":[{"b":1,"b":2}]}'),
      "1:60: rules[0].reply.a[0].b: this key is here twice",
    ],
    ["with all rules twice", '{"mock":"pilot","rules":[],"rules":[]}', "1:28: rules: this key is here twice"],
    [
      "that nests without end",
      nested(200_000),
      `1:${mockJsonDepthMax + 1}: more than ${mockJsonDepthMax} objects and lists inside each other`,
    ],
    [
      "that nests without end and never ends",
      '{"a":'.repeat(200_000),
      `1:${mockJsonDepthMax * 5 + 1}: more than ${mockJsonDepthMax} objects and lists inside each other`,
    ],
  ];
  test.each(cases)("%s is refused", (_, content, expected) => {
    expect(refusal(content)).toBe(expected);
  });

  test("with a byte order mark is read, and its places stay what they are", () => {
    expect(refusal(`\uFEFF{"mock":"pilot"}`)).toBe("it was taken");
    expect(refusal(`\uFEFF{"mock":"pilot","rule":[]}`)).toBe("1:25: rule: this key means nothing here");
  });

  test("as deep, and with brackets in its strings, as it may be is read", () => {
    expect(refusal(rule(nested(mockJsonDepthMax - 3)))).toBe("it was taken");
    expect(refusal(rule(nested(mockJsonDepthMax - 2)))).toContain("inside each other");
    expect(refusal(rule(`"\\"${"[".repeat(mockJsonDepthMax)}"`))).toBe("it was taken");
  });

  test("as long as it may be is read, and no longer", () => {
    const empty = '{"mock":"pilot"}';
    expect(refusal(empty.padEnd(scriptBytesMax))).toBe("it was taken");
    expect(refusal(empty.padEnd(scriptBytesMax + 1))).toContain("is too large");
  });

  test("keeps what it says, keys that mean something to JavaScript among it", () => {
    const file = join(tempDir(), "script.json");
    writeFileSync(file, rule('{"__proto__":{"a":1},"constructor":2}'));
    const { script } = readScript(file, "pilot");
    expect(JSON.stringify(script.rules?.[0]?.reply)).toBe('{"__proto__":{"a":1},"constructor":2}');
  });
});

const pilotRule = (rule: object): object => ({ mock: "pilot", rules: [rule] });
const pilotPush = (push: object): object => ({ mock: "pilot", pushes: [push] });
const daemonRule = (rule: object): object => ({ mock: "daemon", rules: [rule] });
const daemonEvent = (event: object): object => ({ mock: "daemon", events: [event] });
const long = "x".repeat(1_100_000);

/** `seen`: the published schema refuses it, too. */
const refused: [script: object, place: string, reason: string, seen: "seen" | "unseen"][] = [
  [{ mock: "pilot", rules: {} }, "rules", "Expected Array but received an object", "seen"],
  [{ mock: "pilot", rules: Array(scriptRulesMax + 1).fill({ on: "info" }) }, "rules", "<=10000", "seen"],
  [{ mock: "pilot", events: [] }, "events", "this key means nothing here", "seen"],
  [{ mock: "daemon", pushes: [] }, "pushes", "this key means nothing here", "seen"],

  [pilotRule({ on: "dial", drop: true, error: "x" }), "rules[0]", "only one of reply, error", "seen"],
  [pilotRule({ on: "dial", cut: {} }), "rules[0].cut.after_bytes", "missing", "seen"],
  [pilotRule({ on: "dial", drop: {} }), "rules[0].drop", "Expected true but received an object", "seen"],
  [pilotRule({ on: "dial", times: 0 }), "rules[0].times", ">=1", "seen"],
  [pilotRule({ on: "dial", delay_ms: 2 ** 31 }), "rules[0].delay_ms", "<=2147483647", "seen"],
  [pilotRule({ on: "dial", reply: [] }), "rules[0].reply", "an object with fields of dial_ok", "unseen"],
  [pilotRule({ on: "dial", reply: null }), "rules[0].reply", "an object with fields of dial_ok", "unseen"],
  [
    pilotRule({ on: "broadcast", reply: { ok: 1 } }),
    "rules[0].reply.ok",
    "broadcast_ok has no fields",
    "unseen",
  ],
  [
    pilotRule({ on: "handshake", where: { node: 1 } }),
    "rules[0].where.node",
    "handshake.pending has no fields",
    "unseen",
  ],
  [
    pilotRule({ on: "*", where: { port: 1 } }),
    "rules[0].where.port",
    "the fields of send are conn_id, data",
    "unseen",
  ],
  [pilotRule({ on: "info", reply: long }), "rules[0].reply", "1100003 bytes, which are too many", "unseen"],
  [pilotRule({ on: "info", error: long }), "rules[0].error", "1100003 bytes, which are too many", "unseen"],
  [pilotRule({ on: "send", reply: { data: long } }), "rules[0].reply", "1100001 bytes", "unseen"],

  [pilotPush({ after: "dial" }), "pushes[0]", "one of push, bytes and cut is needed", "seen"],
  [pilotPush({ after: "dial", bytes: "", cut: true }), "pushes[0]", "and no more", "seen"],
  [
    pilotPush({ after: "dial", bytes: "", fields: {} }),
    "pushes[0]",
    "fields may stand only beside push",
    "seen",
  ],
  [
    pilotPush({ after: "connect", where: {}, bytes: "" }),
    "pushes[0].where",
    "connect has no fields",
    "unseen",
  ],
  [pilotPush({ after: "connect", push: "recv" }), "pushes[0]", "fields.conn_id is missing", "unseen"],
  [
    pilotPush({ after: "connect", push: "recv", fields: { conn_id: 1, data: long } }),
    "pushes[0].fields",
    "1100005 bytes",
    "unseen",
  ],

  [
    daemonRule({ on: "GET /v1/health", error: "daemon_bussy" }),
    "rules[0].error",
    "did you mean daemon_busy?",
    "seen",
  ],
  [daemonRule({ on: "GET /v1/health", error: "mine" }), "rules[0].error", '"mine" is not known', "seen"],
  [
    daemonRule({ on: "GET /v1/health", error: { error: "mine", status: 204 } }),
    "rules[0].error.status",
    "has no body",
    "unseen",
  ],
  [
    daemonRule({ on: "GET /v1/health", reply: { headers: { Trailer: "x" } } }),
    "rules[0].reply.headers.Trailer",
    "the mock writes this header itself",
    "unseen",
  ],
  [
    daemonRule({ on: "GET /v1/health", reply: { headers: { trailer: "x" } } }),
    "rules[0].reply.headers.trailer",
    "the mock writes",
    "seen",
  ],
  [
    daemonRule({ on: "GET /v1/health", reply: { json: 1, body: "x" } }),
    "rules[0].reply",
    "only one of json",
    "seen",
  ],
  [
    daemonRule({ on: "*", where: { headers: { "a b": "x" } } }),
    "rules[0].where.headers.a b",
    "no name of a header",
    "seen",
  ],

  [daemonEvent({ after: "*" }), "events[0]", "one of event, bytes, end and cut is needed", "seen"],
  [daemonEvent({ after: "*", end: true, cut: true }), "events[0]", "and no more", "seen"],
  [
    daemonEvent({ after: "*", end: true, id: "1" }),
    "events[0]",
    "id, data, merge may stand only beside event",
    "seen",
  ],
  [
    daemonEvent({ after: "*", event: "message", data: 1, merge: {} }),
    "events[0]",
    "only one of data, merge",
    "seen",
  ],
  [daemonEvent({ after: "*", event: "a\nb" }), "events[0].event", "a single line", "seen"],
];
const titled = <T extends readonly [object, ...unknown[]]>(cases: readonly T[]) =>
  cases.map((rest) => [JSON.stringify(rest[0]).slice(0, 100), ...rest] as const);

test.each(titled(refused))("%s is refused", (_, script, place, reason, seen) => {
  const { mock } = script as { mock: Mock };
  const told = refusal(JSON.stringify(script), mock);
  expect(told).toStartWith(`1:${told.match(/^1:(\d+)/)?.[1]}: ${place}: `);
  expect(told).toContain(reason);
  expect(matchesSchema(script)).toBe(seen === "unseen");
});

const taken: object[] = [
  { $schema: "./mock.schema.json", mock: "pilot" },
  pilotRule({ on: "network", times: 2, delay_ms: 0 }),
  pilotRule({ on: "*", reply: {} }),
  pilotRule({ on: "info", reply: null }),
  pilotRule({ on: "managed", where: { network: 1 }, error: { code: 65_535, text: "" } }),
  pilotRule({ on: "send", where: { data: { hex: "00FF" } }, cut: { after_bytes: 0 } }),
  pilotPush({ after: "dial", push: "error", fields: { code: 2, text: "x" } }),
  pilotPush({ after: "connect", delay_ms: 1, cut: true }),
  daemonRule({ on: "GET /v1/inbox", where: { query: { limit: 5, unread: true } }, drop: { after_bytes: 1 } }),
  daemonRule({ on: "GET /v1/health", reply: { status: 204, headers: { "x-one": null } } }),
  daemonRule({ on: "*", error: { error: "mine", status: 418, details: { a: 1 } } }),
  daemonEvent({ after: "GET /v1/events", event: "mine", id: "", data: null }),
];
test.each(titled(taken.map((script) => [script] as const)))("%s is taken", (_, script) => {
  const { mock } = script as { mock: Mock };
  expect(refusal(JSON.stringify(script), mock)).toBe("it was taken");
  expect([matchesSchema(script), matchesSchema.errors]).toEqual([true, null]);
});

test("what the document shows matches the schema", () => {
  const document = readFileSync(join(root, "docs/mocks.md"), "utf8");
  const scripts = [...document.matchAll(/^```json\n([\s\S]*?)^```$/gm)].map(([, text = ""]) =>
    JSON.parse(text),
  );
  expect(scripts.map(({ mock }) => mock)).toEqual(["pilot", "daemon"]);
  for (const script of scripts) expect([matchesSchema(script), matchesSchema.errors]).toEqual([true, null]);
});
