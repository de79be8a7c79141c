/** Errors that end up in logs quote nothing of what was read, whatever the runtime and the library put into theirs. */
import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { MeshError } from "~/errors";
import { parseConfig } from "~/identity/config";
import { faultOf, framesOf, jsonFault, shownUrl, traceOf } from "~/wire/fault";
import { explainIssues } from "~/wire/text";

const secret = "s3cr3tPLANTED";

function thrownBy(action: () => unknown): unknown {
  try {
    action();
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}

describe("what JSON.parse says", () => {
  const damaged: [name: string, text: string, told: string][] = [
    ["a word", secret, "Unexpected identifier"],
    ["a word as a value", `{"a": ${secret}}`, "Unexpected identifier"],
    ["a word in double quotes in a word", `{"a": ${secret}"x"}`, "Unexpected identifier"],
    ["a text without end", `{"a": "${secret}`, "Unterminated string"],
    ["single quotes", `{'${secret}': 1}`, "Single quotes (') are not allowed in JSON"],
    ["a sign", `@${secret}`, "Unrecognized token '@'"],
    ["no comma", `["a" "${secret}"]`, "Expected ']'"],
    ["something after the end", `{} "${secret}"`, "Unable to parse JSON string"],
  ];
  test.each(damaged)("about %s", (_name, text, told) => {
    const error = thrownBy(() => JSON.parse(text));
    expect(jsonFault(error)).toBe(told);
    expect(faultOf(error)).toBe(told);
    expect(String(thrownBy(() => parseConfig(text, "config.json")))).not.toContain(secret);
  });
});

describe("what valibot says", () => {
  const Everything = v.looseObject({
    literal: v.exactOptional(v.literal(1)),
    text: v.exactOptional(v.string()),
    list: v.exactOptional(v.picklist(["a", "b"])),
    time: v.exactOptional(v.pipe(v.string(), v.isoTimestamp())),
    shape: v.exactOptional(v.pipe(v.string(), v.regex(/^x$/))),
    short: v.exactOptional(v.pipe(v.string(), v.maxLength(3))),
    json: v.exactOptional(v.pipe(v.string(), v.parseJson())),
    number: v.exactOptional(v.number()),
    ours: v.exactOptional(v.pipe(v.string(), v.regex(/^x$/, "only x will do"))),
    either: v.exactOptional(v.variant("kind", [v.object({ kind: v.literal("a") })])),
  });
  const misfits: [value: object, told: string][] = [
    [{ literal: secret }, "literal: Invalid type: Expected 1 but received some text"],
    [{ text: 4711 }, "text: Invalid type: Expected string but received some number"],
    [{ text: [secret] }, "text: Invalid type: Expected string but received Array"],
    [{ text: null }, "text: Invalid type: Expected string but received null"],
    [{ list: secret }, 'list: Invalid type: Expected ("a" | "b") but received some text'],
    [{ time: secret }, "time: Invalid timestamp: Received some text"],
    [{ shape: secret }, "shape: Invalid format: Expected /^x$/ but received some text"],
    [{ short: secret }, "short: Invalid length: Expected <=3 but received 13"],
    [{ json: secret }, "json: Invalid JSON: Received some text"],
    [{ number: secret }, "number: Invalid type: Expected number but received some text"],
    [{ ours: secret }, "ours: only x will do"],
    [{ either: { kind: secret } }, 'either.kind: Invalid type: Expected "a" but received some text'],
  ];
  test.each(misfits)("about %j", (value, told) => {
    const parsed = v.safeParse(Everything, value);
    expect(explainIssues(parsed.issues ?? [])).toBe(told);
    const error = thrownBy(() => v.parse(Everything, value));
    expect(faultOf(error)).toBe(told);
    expect(traceOf(error)).toStartWith(`ValiError: ${told}\n    at `);
  });
});

describe("a mistake of ours", () => {
  test("is told by what was behind it, with the places and not the words of its stack", () => {
    const cause = thrownBy(() => JSON.parse(`\n   at ${secret}`));
    const error = new MeshError("internal", `failed at ${secret}`, { cause });
    expect(faultOf(error)).toBe("Unexpected identifier");
    const frames = framesOf(new Error(`one\n    at ${secret} (file:1)\nthree`));
    expect(frames.length).toBeGreaterThan(0);
    expect(frames.join()).not.toContain(secret);
    for (const frame of frames) expect(frame).toStartWith("at ");
    expect(traceOf(new MeshError("storage_failed", "it failed", { cause }))).not.toContain(secret);
    expect(framesOf("a text")).toEqual([]);
    expect(faultOf("a text")).toBe("a text");
  });
});

test.each([
  [`wss://user:${secret}@host:7/ws`, "wss://host:7/ws"],
  [`ws://host/ws?token=${secret}#${secret}`, "ws://host/ws"],
  [secret, "(an invalid URL)"],
])("of %s only %s is shown", (url, shown) => {
  expect(shownUrl(url)).toBe(shown);
});
