/** Reading what a mock has recorded: whole, cut off anywhere, and damaged. */
import { expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readRecording } from "~/mock/recording";
import { tempDir } from "../../support/temp-dir";

const head = { recording: "pilot", version: "1.0.0" };
const entries = [
  { n: 1, at_ms: 0.5, conn: 1, dir: "open" },
  { n: 2, at_ms: 1, conn: 1, dir: "in", name: "bind", hex: "0000000301000a" },
  { n: 3, at_ms: 2, conn: 1, dir: "out", after: 2, hex: "00ff" },
  { n: 4, at_ms: 3, conn: 1, dir: "close", by: "client" },
];
const lines = [head, ...entries].map((line) => `${JSON.stringify(line)}\n`);

function file(text: string): string {
  const path = join(tempDir(), "recording.jsonl");
  writeFileSync(path, text);
  return path;
}

test("a whole one is read with its head and everything that happened", () => {
  expect(readRecording(file(lines.join("")))).toMatchObject({ head, entries });
});

test("one with bytes in megabytes is read, and upper case is made lower", () => {
  const long = { n: 1, at_ms: 0, conn: 1, dir: "in", hex: "FF".repeat(8_000_000) };
  const [entry] = readRecording(file(`${lines[0]}${JSON.stringify(long)}\n`)).entries;
  expect(entry?.dir === "in" && entry.hex === "ff".repeat(8_000_000)).toBe(true);
});

test("one that is cut off anywhere in its last line is read up to there", () => {
  const before = lines.slice(0, -1).join("");
  const last = lines.at(-1) ?? "";
  for (let length = 0; length < last.length - 1; length++) {
    expect(readRecording(file(before + last.slice(0, length))).entries).toHaveLength(3);
  }
  expect(readRecording(file(before + last.trimEnd())).entries).toHaveLength(4);
});

const damaged: [what: string, text: string, line: number, reason: string][] = [
  ["nothing", "", 1, "the line is empty"],
  ["a head that is cut off", lines[0]?.slice(0, 9) ?? "", 1, "the line is empty"],
  ["a head that is none", lines.slice(1).join(""), 1, "recording: missing"],
  ["another kind", `{"recording":"broker","version":"1"}\n`, 1, "recording: "],
  ["half a line in the middle", `${lines[0]}{"n":1,\n${lines[1]}`, 2, "not JSON"],
  ["an empty line", `${lines[0]}\n${lines[1]}`, 2, "the line is empty"],
  ["a last line that is finished and no JSON", `${lines.join("")}{"n":\n`, 6, "not JSON"],
  ["what never happens", `${lines[0]}{"n":1,"at_ms":0,"conn":1,"dir":"sideways"}\n`, 2, "dir: "],
  [
    "a status that is none",
    `${lines[0]}{"n":1,"at_ms":0,"conn":1,"dir":"out","hex":"","status":99}\n`,
    2,
    "status: ",
  ],
  [
    "a header that is none",
    `${lines[0]}{"n":1,"at_ms":0,"conn":1,"dir":"out","hex":"","headers":{"a b":"c"}}\n`,
    2,
    "headers.a b: no name of a header",
  ],
  [
    "a header over two lines",
    `${lines[0]}{"n":1,"at_ms":0,"conn":1,"dir":"out","hex":"","headers":{"a":"b\\nc"}}\n`,
    2,
    "headers.a: printable ASCII",
  ],
  [
    "bytes that are none",
    `${lines[0]}{"n":1,"at_ms":0,"conn":1,"dir":"in","hex":"0"}\n`,
    2,
    "hex: pairs of hex digits",
  ],
];
test.each(damaged)("%s is refused with the number of the line", (_, text, line, reason) => {
  const path = file(text);
  expect(() => readRecording(path)).toThrow(
    expect.objectContaining({
      code: "recording_invalid",
      message: expect.stringContaining(`${path}:${line}: ${reason}`),
    }),
  );
});

test("no file and a directory are told apart from it", () => {
  const dir = tempDir();
  mkdirSync(join(dir, "directory"));
  for (const [name, message] of [
    ["missing", "there is no recording"],
    ["directory", "EISDIR"],
  ]) {
    expect(() => readRecording(join(dir, name ?? ""))).toThrow(
      expect.objectContaining({ code: "storage_failed", message: expect.stringContaining(message ?? "") }),
    );
  }
});
