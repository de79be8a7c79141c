/** The detach key, wherever it stands in what is typed, however the terminal sends it, and never in what is pasted. */
import { describe, expect, test } from "bun:test";
import { type DetachKey, DetachKeyFinder, parseDetachKey } from "~/agent/detach-key";

const key = (text: string): DetachKey => {
  const parsed = parseDetachKey(text);
  if (parsed === undefined) throw new Error(`${text} is no key`);
  return parsed;
};

/** What reaches the agent of these portions, and whether the key was found. */
function feed(
  portions: readonly string[],
  detachKey: DetachKey | undefined = key("ctrl-]"),
): [string, boolean] {
  const finder = new DetachKeyFinder(detachKey);
  let passed = "";
  for (const portion of portions) {
    const { bytes, isDetach } = finder.feed(Buffer.from(portion, "latin1"));
    passed += Buffer.from(bytes).toString("latin1");
    if (isDetach) return [passed, true];
  }
  return [passed, false];
}

test.each([
  ["ctrl-]", { name: "Ctrl-]", byte: 0x1d, character: "]" }],
  ["Ctrl-B", { name: "Ctrl-B", byte: 2, character: "b" }],
  ["c-a", { name: "Ctrl-A", byte: 1, character: "a" }],
  ["control+z", { name: "Ctrl-Z", byte: 26, character: "z" }],
  ["ctrl-\\", { name: "Ctrl-\\", byte: 0x1c, character: "\\" }],
  ["ctrl-_", { name: "Ctrl-_", byte: 0x1f, character: "_" }],
])("%s is a key", (text, expected) => expect(parseDetachKey(text)).toEqual(expected));

// Ctrl-[ is Escape, with which every arrow key begins.
test.each(["", "]", "ctrl-", "ctrl-[", "ctrl-1", "ctrl-ab", "alt-b", "none"])("%j is none", (text) => {
  expect(parseDetachKey(text)).toBeUndefined();
});

describe("is found", () => {
  const found: [name: string, portions: string[], passed: string][] = [
    ["alone", ["\x1d"], ""],
    ["after other keys", ["abc\x1d"], "abc"],
    ["in a later portion", ["abc", "d\x1d"], "abcd"],
    ["with what follows dropped", ["a\x1dbc"], "a"],
    ["in the kitty protocol", ["x\x1b[93;5u"], "x"],
    ["there with alternate keys, event type and locks", ["\x1b[93:125;69:1u"], ""],
    ["there with Num Lock", ["\x1b[93;133u"], ""],
    ["as modifyOtherKeys sends it", ["\x1b[27;5;93~"], ""],
    ["after a paste", ["\x1b[200~a\x1db\x1b[201~\x1d"], "\x1b[200~a\x1db\x1b[201~"],
    ["after the beginning of a marker that was none", ["\x1b[20", "\x1d"], "\x1b[20"],
    ["among bytes that are no UTF-8", ["\xff\xfe\x1d"], "\xff\xfe"],
  ];
  test.each(found)("%s", (_, portions, passed) => expect(feed(portions)).toEqual([passed, true]));
});

describe("is not found", () => {
  const missing: [name: string, portions: string[]][] = [
    ["in other keys", ["abc\x02\x1b[A\r"]],
    ["in a paste", ["\x1b[200~a\x1db\x1b[201~"]],
    ["in a paste whose beginning comes in two portions", ["x\x1b[2", "00~a\x1db"]],
    ["in a paste of several portions", ["\x1b[200~a", "\x1d", "\x1b[201", "~"]],
    ["when it is released", ["\x1b[93;5:3u"]],
    ["without Ctrl", ["\x1b[93;2u\x1b[93u"]],
    ["with Alt as well", ["\x1b[93;7u"]],
  ];
  test.each(missing)("%s", (_, portions) => expect(feed(portions)).toEqual([portions.join(""), false]));

  test("where there is no key", () => {
    expect(new DetachKeyFinder(undefined).feed(Buffer.from("\x1d")).isDetach).toBe(false);
  });
});

test("byte by byte, a paste is a paste and the key after it is the key", () => {
  expect(feed([..."ab\x1b[200~\x1d\x1b[201~c\x1dd"])).toEqual(["ab\x1b[200~\x1d\x1b[201~c", true]);
});

test("another key than the usual one", () => {
  expect(feed(["\x1d\x1b[98;5u"], key("ctrl-b"))).toEqual(["\x1d", true]);
  expect(feed(["\x1dx\x02"], key("ctrl-b"))).toEqual(["\x1dx", true]);
});
