/** The lines of an agent are understood as far as they concern us, and what we write is one line each, exactly as agents expect it. */
import { describe, expect, test } from "bun:test";
import {
  encodeControlRefusal,
  encodeControlRequest,
  encodePermission,
  encodeUserLine,
  parseAgentLine,
} from "~/wire/stream-json";

describe("what an agent says", () => {
  test.each([
    ["nothing", ""],
    ["no JSON", "Welcome!"],
    ["half of it", '{"type":"assistant"'],
    ["no object", "[1,2]"],
    ["no type", '{"kind":"assistant"}'],
    ["a type that is no text", '{"type":1}'],
    ["an answer without a message", '{"type":"assistant"}'],
    ["a question without an id", '{"type":"control_request","request":{"subtype":"can_use_tool"}}'],
  ])("is malformed: %s", (_, text) => {
    expect(parseAgentLine(text)).toMatchObject({ kind: "malformed" });
  });

  test("the reason quotes nothing of it", () => {
    const read = parseAgentLine('{"type":"assistant","message":"the secret word"}');
    expect(JSON.stringify(read)).not.toContain("secret");
    expect(JSON.stringify(parseAgentLine("a secret word"))).not.toContain("secret");
  });

  test("what we have no use for is no fault", () => {
    expect(parseAgentLine('{"type":"tool_progress","x":1}')).toEqual({
      kind: "other",
      type: "tool_progress",
    });
    expect(parseAgentLine('{"type":"user","message":{}}')).toEqual({ kind: "other", type: "user" });
  });

  test("fields of another type than expected do not make a line useless", () => {
    expect(
      parseAgentLine(
        '{"type":"result","subtype":7,"is_error":"no","result":{"a":1},"errors":"x","usage":"lots","modelUsage":3,"num_turns":null}',
      ),
    ).toEqual({ kind: "line", line: { type: "result" } });
    expect(
      parseAgentLine('{"type":"assistant","message":{"content":{"odd":true},"usage":"lots"}}'),
    ).toMatchObject({
      line: { message: { content: [] } },
    });
  });

  test("an answer as text or as blocks", () => {
    expect(parseAgentLine('{"type":"assistant","message":{"content":"hi"}}')).toMatchObject({
      line: { message: { content: "hi" } },
    });
    expect(
      parseAgentLine(
        '{"type":"assistant","message":{"content":[{"type":"text","text":"hi"},{"type":"tool_use","name":"Bash","id":"x"}]}}',
      ),
    ).toMatchObject({
      line: {
        message: {
          content: [
            { type: "text", text: "hi" },
            { type: "tool_use", name: "Bash" },
          ],
        },
      },
    });
  });
});

describe("what we say", () => {
  const decoded = (line: string): unknown => {
    expect(line.endsWith("\n")).toBe(true);
    expect(line.indexOf("\n")).toBe(line.length - 1);
    return JSON.parse(line);
  };

  test("a message, whatever it holds", () => {
    for (const text of [
      "hi",
      'quotes " and \\',
      "lines\nand\r\nmore\u2028",
      "\u0000\u001b[201~",
      "日本 👩‍👩‍👧",
      "",
    ]) {
      expect(decoded(encodeUserLine(text))).toEqual({
        type: "user",
        message: { role: "user", content: [{ type: "text", text }] },
        parent_tool_use_id: null,
        session_id: "default",
      });
    }
    expect(JSON.stringify(decoded(encodeUserLine("half \ud83d a pair")))).toContain("half \ufffd a pair");
  });

  test("requests and answers", () => {
    expect(decoded(encodeControlRequest("r1", "interrupt"))).toEqual({
      type: "control_request",
      request_id: "r1",
      request: { subtype: "interrupt" },
    });
    // The id stands inside, or the agent waits for ever.
    expect(decoded(encodePermission("r2", { behavior: "deny", message: "no" }))).toEqual({
      type: "control_response",
      response: { subtype: "success", request_id: "r2", response: { behavior: "deny", message: "no" } },
    });
    expect(decoded(encodePermission("r3", { behavior: "allow", input: { a: [1] } }))).toEqual({
      type: "control_response",
      response: {
        subtype: "success",
        request_id: "r3",
        response: { behavior: "allow", updatedInput: { a: [1] } },
      },
    });
    expect(decoded(encodeControlRefusal("r4", "not served"))).toEqual({
      type: "control_response",
      response: { subtype: "error", request_id: "r4", error: "not served" },
    });
  });
});
