/** The Pilot codec: every command and answer by its bytes, both ways, cut off everywhere; addresses and each way to write them wrong. */
import { describe, expect, test } from "bun:test";
import { MeshError } from "~/errors";
import { FrameDecoder } from "~/wire/frame";
import { pilotFrameBytesMax } from "~/wire/limits";
import {
  decodePilotAnswer,
  decodePilotRequest,
  encodePilotAnswer,
  encodePilotRequest,
  type PilotAnswer,
  type PilotRequest,
  parsePilotAddress,
  parsePilotEndpoint,
  pilotAnswerNames,
  pilotAnswers,
  pilotRequestNames,
  pilotRequests,
  renderPilotAddress,
} from "~/wire/pilot";

const there = { network: 0x0102, node: 0x03040506 };
const bytes = Uint8Array.of(0xff, 0x00);

/** Without the length. The bytes are written down from the description of the protocol. */
const requests: [PilotRequest, string][] = [
  [{ name: "bind", fields: { port: 0x1234 } }, "01 1234"],
  [{ name: "dial", fields: { address: there, port: 80 } }, "03 0102 03040506 0050"],
  [{ name: "send", fields: { conn_id: 0xfffffffe, data: bytes } }, "06 fffffffe ff00"],
  [{ name: "close", fields: { conn_id: 1 } }, "08 00000001"],
  [{ name: "send_to", fields: { address: there, port: 53, data: bytes } }, "0b 0102 03040506 0035 ff00"],
  [{ name: "info", fields: {} }, "0d"],
  [{ name: "handshake.send", fields: { node: 7, justification: "é" } }, "0f 01 00000007 c3a9"],
  [{ name: "handshake.approve", fields: { node: 7 } }, "0f 02 00000007"],
  [{ name: "handshake.reject", fields: { node: 7, reason: "no" } }, "0f 03 00000007 6e6f"],
  [{ name: "handshake.pending", fields: {} }, "0f 04"],
  [{ name: "handshake.trusted", fields: {} }, "0f 05"],
  [{ name: "handshake.revoke", fields: { node: 7 } }, "0f 06 00000007"],
  [{ name: "handshake.wait", fields: { node: 7, timeout_ms: 5000 } }, "0f 07 00000007 00001388"],
  [{ name: "resolve", fields: { hostname: "bob" } }, "11 626f62"],
  [{ name: "set_hostname", fields: { hostname: "" } }, "13"],
  [{ name: "set_visibility", fields: { public: true } }, "15 01"],
  [{ name: "deregister", fields: {} }, "17"],
  [{ name: "set_tags", fields: { tags: "[]" } }, "19 5b5d"],
  [{ name: "set_webhook", fields: { url: "u" } }, "1b 75"],
  [{ name: "network.list", fields: {} }, "1f 01"],
  [{ name: "network.join", fields: { network: 9, token: "t" } }, "1f 02 0009 74"],
  [{ name: "network.leave", fields: { network: 9 } }, "1f 03 0009"],
  [{ name: "network.members", fields: { network: 9 } }, "1f 04 0009"],
  [{ name: "network.invite", fields: { network: 9, node: 7 } }, "1f 05 0009 00000007"],
  [{ name: "network.poll_invites", fields: {} }, "1f 06"],
  [{ name: "network.respond_invite", fields: { network: 9, accept: false } }, "1f 07 0009 00"],
  [{ name: "health", fields: {} }, "21"],
  [{ name: "managed.status", fields: { network: 9 } }, "23 02 0009"],
  [{ name: "managed.cycle", fields: { network: 9 } }, "23 04 0009"],
  [{ name: "managed.policy_get", fields: { network: 9 } }, "23 05 00 0009"],
  [{ name: "managed.policy_set", fields: { network: 9, policy: "{}" } }, "23 05 01 0009 7b7d"],
  [{ name: "managed.member_tags_get", fields: { network: 9, node: 7 } }, "23 06 00 0009 00000007"],
  [
    { name: "managed.member_tags_set", fields: { network: 9, node: 7, tags: "[]" } },
    "23 06 01 0009 00000007 5b5d",
  ],
  [{ name: "managed.reconcile", fields: { network: 9 } }, "23 07 0009"],
  [{ name: "rotate_key", fields: {} }, "25"],
  [
    { name: "broadcast", fields: { network: 9, port: 53, token: "é", data: bytes } },
    "29 0009 0035 0002 c3a9 ff00",
  ],
];

const json = (command: string): string => `${command} 7b226f6b223a747275657d`;
const ok = { body: '{"ok":true}' };
const answers: [PilotAnswer, string][] = [
  [{ name: "bind_ok", fields: { port: 0x1234 } }, "02 1234"],
  [{ name: "dial_ok", fields: { conn_id: 1 } }, "04 00000001"],
  [
    { name: "accept", fields: { port: 80, conn_id: 1, address: there, remote_port: 0xdead } },
    "05 0050 00000001 0102 03040506 dead",
  ],
  [{ name: "recv", fields: { conn_id: 1, data: bytes } }, "07 00000001 ff00"],
  [{ name: "close_ok", fields: { conn_id: 1 } }, "09 00000001"],
  [{ name: "error", fields: { code: 1, text: "no" } }, "0a 0001 6e6f"],
  [
    { name: "recv_from", fields: { address: there, source_port: 0xdead, port: 53, data: bytes } },
    "0c 0102 03040506 dead 0035 ff00",
  ],
  [{ name: "info_ok", fields: ok }, json("0e")],
  [{ name: "handshake_ok", fields: ok }, json("10")],
  [{ name: "resolve_ok", fields: ok }, json("12")],
  [{ name: "set_hostname_ok", fields: ok }, json("14")],
  [{ name: "set_visibility_ok", fields: ok }, json("16")],
  [{ name: "deregister_ok", fields: ok }, json("18")],
  [{ name: "set_tags_ok", fields: ok }, json("1a")],
  [{ name: "set_webhook_ok", fields: ok }, json("1c")],
  [{ name: "network_ok", fields: ok }, json("20")],
  [{ name: "health_ok", fields: ok }, json("22")],
  [{ name: "managed_ok", fields: ok }, json("24")],
  [{ name: "rotate_key_ok", fields: ok }, json("26")],
  [{ name: "broadcast_ok", fields: {} }, "2a"],
];

const fromHex = (text: string): Uint8Array => Uint8Array.fromHex(text.replaceAll(" ", ""));
const framed = (text: string): Uint8Array => {
  const frame = fromHex(text);
  return Buffer.concat([Buffer.of(0, 0, frame.length >> 8, frame.length & 0xff), frame]);
};
/** As plain values: `data` may be a Buffer on one side. */
const plain = (read: unknown): unknown =>
  JSON.parse(
    JSON.stringify(read, (_, value) => (value instanceof Uint8Array ? { hex: value.toHex() } : value)),
  );

describe("requests", () => {
  test("each of the table is here", () => {
    expect(requests.map(([{ name }]) => name)).toEqual(pilotRequestNames);
  });

  test.each(requests)("%j", (request, text) => {
    expect(encodePilotRequest(request).toHex()).toBe(framed(text).toHex());
    expect(plain(decodePilotRequest(fromHex(text)))).toEqual(plain({ kind: "message", message: request }));
  });

  test.each(requests)(
    "%j, cut off anywhere, is short or another whole one, and never fails",
    (request, text) => {
      const whole = fromHex(text);
      for (let length = 1; length < whole.length; length++) {
        const read = decodePilotRequest(whole.subarray(0, length));
        if (read.kind === "short") {
          expect(read.command).toBe(pilotRequests[request.name].command);
          expect(read.name ?? request.name).toBe(request.name);
        } else {
          // What takes the rest of a frame has fewer bytes then.
          expect(read).toMatchObject({ kind: "message", message: { name: request.name } });
        }
      }
    },
  );

  test.each(requests)("%j with more behind its fields", (request, text) => {
    const read = decodePilotRequest(Buffer.concat([fromHex(text), Buffer.of(0x61, 0x62, 0x63)]));
    expect(read).toMatchObject({ kind: "message", message: { name: request.name } });
  });

  test("no answer is a request, and no request an answer", () => {
    for (const name of pilotAnswerNames) {
      const { command } = pilotAnswers[name];
      expect(decodePilotRequest(Uint8Array.of(command, 0, 0))).toEqual({ kind: "unknown", command });
    }
    for (const name of pilotRequestNames) {
      const { command } = pilotRequests[name];
      expect(decodePilotAnswer(Uint8Array.of(command, 0, 0))).toEqual({ kind: "unknown", command });
    }
  });

  test.each([
    ["0f", { kind: "short", command: 0x0f, name: undefined, fields: {} }],
    ["0f 00", { kind: "unknown_sub", command: 0x0f, sub: 0 }],
    ["0f 08 00000007", { kind: "unknown_sub", command: 0x0f, sub: 8 }],
    ["0f 02 000000", { kind: "short", command: 0x0f, name: "handshake.approve", fields: {} }],
    ["23 05", { kind: "short", command: 0x23, name: undefined, fields: {} }],
    ["23 05 02 0009", { kind: "unknown_sub", command: 0x23, sub: 5 }],
    ["23 01 0009", { kind: "unknown_sub", command: 0x23, sub: 1 }],
    [
      "29 0009 0035 0003 c3a9",
      { kind: "short", command: 0x29, name: "broadcast", fields: { network: 9, port: 0x35 } },
    ],
    ["00", { kind: "unknown", command: 0 }],
    ["ff", { kind: "unknown", command: 0xff }],
  ])("%s is %j", (text, read) => {
    expect(decodePilotRequest(fromHex(text))).toEqual(read as ReturnType<typeof decodePilotRequest>);
  });

  test("a byte that is neither 0 nor 1 is no yes", () => {
    expect(decodePilotRequest(fromHex("15 02"))).toMatchObject({ message: { fields: { public: false } } });
  });

  test("what is no UTF-8 is replaced, and a byte order mark kept", () => {
    const read = decodePilotRequest(fromHex("11 efbbbf 61 ff"));
    expect(read).toMatchObject({ message: { fields: { hostname: "\uFEFFa\uFFFD" } } });
  });
});

describe("answers", () => {
  test("each of the table is here", () => {
    expect(answers.map(([{ name }]) => name)).toEqual(pilotAnswerNames);
  });

  test.each(answers)("%j", (answer, text) => {
    expect(encodePilotAnswer(answer).toHex()).toBe(framed(text).toHex());
    expect(plain(decodePilotAnswer(fromHex(text)))).toEqual(plain({ kind: "message", message: answer }));
  });

  test("one that does not fit into a frame is refused", () => {
    const data = new Uint8Array(pilotFrameBytesMax - 5);
    expect(encodePilotAnswer({ name: "recv", fields: { conn_id: 1, data } })).toHaveLength(
      4 + pilotFrameBytesMax,
    );
    const more = new Uint8Array(pilotFrameBytesMax - 4);
    const encode = () => encodePilotAnswer({ name: "recv", fields: { conn_id: 1, data: more } });
    expect(encode).toThrow(new MeshError("frame_too_large", "a frame of 1048577 bytes; at most 1048576 fit"));
  });
});

test("a stream of all of them, split anywhere", () => {
  const stream = Buffer.concat(requests.map(([request]) => encodePilotRequest(request)));
  for (let at = 0; at <= stream.length; at++) {
    const decoder = new FrameDecoder(pilotFrameBytesMax);
    const reads = [...decoder.push(stream.subarray(0, at)), ...decoder.push(stream.subarray(at))];
    const names = reads.map((read) => {
      const request = read.kind === "frame" ? decodePilotRequest(read.payload) : undefined;
      return request?.kind === "message" ? request.message.name : undefined;
    });
    expect(names).toEqual(pilotRequestNames);
  }
});

describe("addresses", () => {
  test.each([
    [{ network: 0, node: 0 }, "0:0000.0000.0000"],
    [{ network: 1, node: 0xaaaabbbb }, "1:0001.AAAA.BBBB"],
    [{ network: 65535, node: 0xffffffff }, "65535:FFFF.FFFF.FFFF"],
    [there, "258:0102.0304.0506"],
  ])("%j is written %s", (address, text) => {
    expect(renderPilotAddress(address)).toBe(text);
    expect(parsePilotAddress(text)).toEqual(address);
    expect(parsePilotAddress(text.toLowerCase())).toEqual(address);
    expect(renderPilotAddress(address, 80)).toBe(`${text}:80`);
    expect(parsePilotEndpoint(`${text}:80`)).toEqual({ address, port: 80 });
    expect(parsePilotEndpoint(text)).toEqual({ address, port: undefined });
  });

  test.each([0, 65535])("port %d", (port) => {
    expect(parsePilotEndpoint(`1:0001.0000.0002:${port}`).port).toBe(port);
  });

  test.each([
    ["", 'there is no ":" after the network'],
    ["0001.0000.0002", 'there is no ":" after the network'],
    ["1:0001.0000.0002:80:81", 'too many ":"'],
    [":0001.0000.0002", 'the network is a decimal number up to 65535, not ""'],
    ["x:0001.0000.0002", 'the network is a decimal number up to 65535, not "x"'],
    ["01:0001.0000.0002", 'the network is a decimal number up to 65535, not "01"'],
    ["-1:0001.0000.0002", 'the network is a decimal number up to 65535, not "-1"'],
    ["65536:0000.0000.0002", 'the network is a decimal number up to 65535, not "65536"'],
    [" 1:0001.0000.0002", 'the network is a decimal number up to 65535, not " 1"'],
    ["1:", "three groups after the network expected, not 1"],
    ["1:0001.0002", "three groups after the network expected, not 2"],
    ["1:0001.0000.0002.0003", "three groups after the network expected, not 4"],
    ["1:001.0000.0002", 'a group has 4 hex digits, not "001"'],
    ["1:0001.00000.0002", 'a group has 4 hex digits, not "00000"'],
    ["1:0001.0000.000G", 'a group has 4 hex digits, not "000G"'],
    ["1:0001.0000.", 'a group has 4 hex digits, not ""'],
    ["1:0001.0000.0002 ", 'a group has 4 hex digits, not "0002 "'],
    ["1:0002.0000.0002", 'the network is 1 before the ":" and 2 (hex 0002) after it'],
    ["10:0010.0000.0002", 'the network is 10 before the ":" and 16 (hex 0010) after it'],
    ["1:0001.0000.0002:", 'the port is a decimal number up to 65535, not ""'],
    ["1:0001.0000.0002:65536", 'the port is a decimal number up to 65535, not "65536"'],
    ["1:0001.0000.0002:0x50", 'the port is a decimal number up to 65535, not "0x50"'],
  ])("%j is refused", (text, why) => {
    try {
      parsePilotEndpoint(text);
      throw new Error("it was taken");
    } catch (error) {
      const { code, message, hint } = error as MeshError;
      expect({ code, message }).toEqual({
        code: "invalid_address",
        message: `${JSON.stringify(text)} is no Pilot address: ${why}`,
      });
      expect(hint).toContain("N:NNNN.HHHH.LLLL");
    }
  });

  test("a port has no place in a bare address", () => {
    expect(() => parsePilotAddress("1:0001.0000.0002:80")).toThrow("a port has no place here");
  });
});
