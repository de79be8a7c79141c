/** Whatever arrives has an answer. */
import { describe, expect, test } from "bun:test";
import { type Misfit, parseFrame } from "~/broker/frames";
import { ClientFrame, type ClientFrameInput } from "~/wire/broker";
import { sendOf } from "../../support/broker-client";

const key = "a".repeat(64);

describe("what is no frame", () => {
  const cases: [text: string, code: Misfit["code"], message: string][] = [
    ["", "malformed", "not JSON"],
    ["{", "malformed", "not JSON"],
    ["null", "malformed", "a frame is a JSON object"],
    ["[]", "malformed", "a frame is a JSON object"],
    ["7", "malformed", "a frame is a JSON object"],
    ["{}", "malformed", "type: a text is expected"],
    ['{"type":7}', "malformed", "type: a text is expected"],
    ['{"type":"dance"}', "unknown_message_type", '"dance"'],
    ['{"type":"__proto__"}', "unknown_message_type", '"__proto__"'],
    ['{"type":"set_status","status":"gone"}', "malformed", "set_status: status:"],
    ['{"type":"client_ack"}', "malformed", "client_ack: brokerMessageId:"],
    ['{"type":"hello"}', "malformed", "hello: meshId:"],
    ["[".repeat(500_000), "malformed", "not JSON"],
  ];
  test.each(cases)("number %#", (text, code, message) => {
    const parsed = parseFrame(text);
    if (parsed.type !== "misfit") throw new Error("it was taken");
    expect(parsed.code).toBe(code);
    expect(parsed.message).toContain(message);
  });

  test("what came is not repeated at length", () => {
    const long = "x".repeat(500_000);
    for (const text of [
      long,
      JSON.stringify({ type: long }),
      JSON.stringify({ ...sendOf(key), priority: long }),
    ]) {
      const parsed = parseFrame(text);
      if (parsed.type !== "misfit") throw new Error("it was taken");
      expect(parsed.message.length).toBeLessThan(400);
    }
  });

  test("a _reqId is echoed when it is a text of a sensible length", () => {
    const reqIdOf = (reqId: unknown) => {
      const parsed = parseFrame(JSON.stringify({ type: "dance", _reqId: reqId }));
      return parsed.type === "misfit" ? parsed.reqId : "taken";
    };
    expect([reqIdOf("r1"), reqIdOf(7), reqIdOf("r".repeat(129))]).toEqual(["r1", undefined, undefined]);
  });

  test("a send that does not fit can still be answered by its id", () => {
    const sendIdOf = (changes: object) => {
      const parsed = parseFrame(
        JSON.stringify({ ...sendOf(key, { id: "m1", client_message_id: "m1" }), ...changes }),
      );
      return parsed.type === "misfit" ? parsed.sendId : "taken";
    };
    expect(sendIdOf({ nonce: "short" })).toBe("m1");
    expect(sendIdOf({ id: 7 })).toBe("m1");
    expect(sendIdOf({ id: 7, client_message_id: [] })).toBeUndefined();
    expect(sendIdOf({ id: undefined, ciphertext: 7 })).toBe("m1");
    expect(sendIdOf({ id: "not an id", client_message_id: "not an id" })).toBe("not an id");
  });
});

test("unknown fields are ignored, known ones are kept", () => {
  const frame: ClientFrameInput = sendOf(key, { id: "m1" });
  const parsed = parseFrame(JSON.stringify({ ...frame, shade: "blue" }));
  expect<unknown>(parsed).toEqual(frame);
});

test("every type of the protocol is known", () => {
  for (const option of ClientFrame.options) {
    const parsed = parseFrame(JSON.stringify({ type: option.entries.type.literal }));
    if (parsed.type === "misfit") expect(parsed.code).toBe("malformed");
  }
});
