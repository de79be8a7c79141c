/** The screen of a terminal and what was printed on it: escape sequences in, lines out. */
import { describe, expect, test } from "bun:test";
import { openScreen, type Screen } from "~/agent/screen";
import { leftOut } from "~/agent/stitching";
import { terminalScrollbackLines } from "~/wire/limits";

async function screenOf(rows = 5, cols = 20): Promise<{ screen: Screen; answers: string[] }> {
  const answers: string[] = [];
  const screen = await openScreen({
    rows,
    cols,
    answer: (text) => void answers.push(text),
    tookIn: () => undefined,
  });
  return { screen, answers };
}

async function print(screen: Screen, text: string | Uint8Array): Promise<void> {
  screen.write(typeof text === "string" ? Buffer.from(text) : text);
  await screen.settled();
}

const numbered = (from: number, to: number): string[] =>
  Array.from({ length: to - from + 1 }, (_, index) => `line ${from + index}`);

describe("captures", () => {
  const cases: [
    what: string,
    printed: string,
    lastLines: number | null,
    content: string,
    cursor: [number, number],
  ][] = [
    ["an empty screen", "", null, "", [0, 0]],
    ["all of it", "a\r\nb\r\n", null, "a\nb\n", [2, 0]],
    ["the last line", "a\r\nb", 1, "b", [1, 1]],
    ["none", "a", 0, "", [0, 1]],
    ["more than there are", "a\r\nb", 100, "a\nb", [1, 1]],
    ["lines that scrolled away", numbered(1, 9).join("\r\n"), 7, numbered(3, 9).join("\n"), [4, 6]],
    ["only the screen", numbered(1, 9).join("\r\n"), null, numbered(5, 9).join("\n"), [4, 6]],
    ["wide and combining characters", "日本e\u0301😀", null, "日本e\u0301😀", [0, 7]],
    ["colours left out", "\x1b[31mred\x1b[0m", null, "red", [0, 3]],
    ["overwritten text", "abc\rX", null, "Xbc", [0, 1]],
    ["the cursor moved", "abc\x1b[3;4H", null, "abc\n\n", [2, 3]],
    ["the alternate screen", "main\x1b[?1049h\x1b[Hother", null, "other", [0, 5]],
    ["a line that fills the row", "x".repeat(20), null, "x".repeat(20), [0, 19]],
  ];
  test.each(cases)("%s", async (_, printed, lastLines, content, [row, col]) => {
    const { screen } = await screenOf();
    await print(screen, printed);
    const capture = screen.capture(lastLines);
    expect(capture).toEqual({ content, cursorRow: row, cursorCol: col });
  });

  test("what a terminal is asked, it answers", async () => {
    const { screen, answers } = await screenOf();
    await print(screen, "ab\x1b[6n\x1b[c");
    expect(answers[0]).toBe("\x1b[1;3R");
    expect(answers[1]).toStartWith("\x1b[?");
  });
});

test.each(["L", "M", "S", "T", "I", "Z", "b"])(
  "a sequence that asks for billions (%s) neither holds anything up nor breaks the screen",
  async (final) => {
    const { screen } = await screenOf();
    const began = performance.now();
    await print(screen, `a\x1b[2147483647${final}`.repeat(50));
    await print(screen, "\x1bcgoes on");
    expect(screen.capture(null).content).toBe("goes on");
    expect(performance.now() - began).toBeLessThan(1_000);
  },
);

test("as many as there are are still done", async () => {
  const { screen } = await screenOf();
  await print(screen, "a\r\nb\x1b[5S\x1b[Hx\x1b[99b");
  expect(screen.capture(null).content).toBe("x".repeat(100).match(/.{20}/g)?.join("\n") ?? "");
});

test("a view has whole lines, and the line before the cursor", async () => {
  const { screen } = await screenOf(5, 10);
  await print(screen, "0123456789abcdef\r\nnext");
  expect(screen.view()).toMatchObject({ beforeCursor: "next", cursorLine: 1, isCursorShown: true });
  expect(screen.view().lines[0]).toBe("0123456789abcdef");
  await print(screen, "\x1b[?25l\x1b[1;1H");
  expect(screen.view()).toMatchObject({ beforeCursor: "", cursorLine: 0, isCursorShown: false });
});

describe("what was printed", () => {
  const recorded = async (before: string, printed: string | string[], rows = 5, cols = 20) => {
    const { screen } = await screenOf(rows, cols);
    await print(screen, before);
    screen.record();
    for (const part of [printed].flat()) await print(screen, part);
    return screen.recorded();
  };
  const frame = (lines: readonly string[]): string =>
    `\x1b[H${lines.map((line) => `${line}\x1b[K`).join("\r\n")}`;

  test("a few lines", async () => {
    expect((await recorded("$ ", "cmd\r\nout\r\n$ ")).lines).toEqual(["$ cmd", "out"]);
  });

  test.each([10, 300, terminalScrollbackLines + 50, 10_000])("%d lines, all of them", async (count) => {
    const { lines } = await recorded("old\r\n$ ", `cmd\r\n${numbered(1, count).join("\r\n")}\r\n$ `);
    expect(lines).toEqual(["$ cmd", ...numbered(1, count)]);
  });

  test("in portions that are cut anywhere, multi-byte characters included", async () => {
    const { screen } = await screenOf();
    screen.record();
    for (const byte of Buffer.from("日本語 e\u0301 😀\r\n\x1b[1mbold\x1b[0m\r\n"))
      screen.write(Uint8Array.of(byte));
    await screen.settled();
    expect(screen.recorded().lines).toEqual(["日本語 e\u0301 😀", "bold"]);
  });

  test("long lines are whole again, those that scrolled away too", async () => {
    const long = "0123456789".repeat(9);
    const { lines } = await recorded("$ ", `cmd\r\n${long}\r\n${long}\r\nend\r\n$ `);
    expect(lines).toEqual(["$ cmd", long, long, "end"]);
  });

  test("what stood there before is not in it, though it looks the same", async () => {
    const { lines } = await recorded("$ echo hi\r\nhi\r\n$ ", "echo hi\r\nhi\r\n$ ");
    expect(lines).toEqual(["$ echo hi", "hi"]);
  });

  test("an input at the bottom that is painted anew below each answer", async () => {
    const box = "+--+\r\n|  |\r\n+--+";
    const { lines } = await recorded(`hello\r\n${box}`, [
      `\x1b[2A\r\x1b[J> msg\r\n${box}`,
      `\x1b[2A\r\x1b[J${numbered(1, 8).join("\r\n")}\r\n${box}`,
    ]);
    expect(lines).toEqual(["> msg", ...numbered(1, 8)]);
  });

  test("an agent that clears the screen and paints it anew", async () => {
    const all = ["title", ...numbered(1, 12)];
    const frames = [5, 7, 9, 12].map(
      (end) => `\x1b[H\x1b[2J${all.slice(Math.max(0, end - 4), end + 1).join("\r\n")}`,
    );
    const { lines } = await recorded("title\r\n", frames);
    expect(lines).toEqual(numbered(1, 12));
  });

  test("an agent that wipes everything and prints it again", async () => {
    const { lines } = await recorded(
      `${numbered(1, 20).join("\r\n")}\r\n> `,
      `\x1b[2J\x1b[3J\x1b[H${numbered(1, 20).join("\r\n")}\r\n> msg\r\n${numbered(30, 60).join("\r\n")}\r\n> `,
    );
    expect(lines).toEqual(["> msg", ...numbered(30, 60)]);
  });

  test("the alternate screen: lines that scroll through it", async () => {
    const { lines } = await recorded(
      "shell$ agent\r\n\x1b[?1049h\x1b[Hhead",
      `\r\n${numbered(1, 500).join("\r\n")}`,
    );
    expect(lines).toEqual(numbered(1, 500));
  });

  test("the alternate screen: pictures below a head and above a foot", async () => {
    const frames = Array.from({ length: 20 }, (_, at) =>
      frame(["head", `line ${at}`, `line ${at + 1}`, `line ${at + 2}`, "foot"]),
    );
    const { lines } = await recorded(`\x1b[?1049h${frame(["head", "", "", "", "foot"])}`, frames);
    expect(lines).toEqual(numbered(0, 21));
  });

  test("another screen for a while leaves no trace", async () => {
    const { lines } = await recorded("$ ", ["less\r\n\x1b[?1049h\x1b[Hpage", "\x1b[?1049lback\r\n$ "]);
    expect(lines).toEqual(["$ less", "back"]);
  });

  test("another width meanwhile", async () => {
    const { screen } = await screenOf(5, 20);
    await print(screen, "$ ");
    screen.record();
    await print(screen, `cmd\r\n${numbered(1, 30).join("\r\n")}\r\n`);
    screen.resize(8, 6);
    await print(screen, `${numbered(31, 60).join("\r\n")}\r\n$ `);
    expect(screen.recorded().lines).toEqual(["$ cmd", ...numbered(1, 60)]);
  });

  test("more than can be kept: the beginning and the end, and a word in between", async () => {
    const lines = numbered(1, 200_000);
    const { lines: printed } = await recorded("", `${lines.join("\r\n")}\r\n`);
    expect(printed.length).toBeLessThan(150_000);
    expect(printed.slice(0, 50_000)).toEqual(lines.slice(0, 50_000));
    expect(printed).toContain(leftOut);
    expect(printed.at(-1)).toBe("line 200000");
  });

  test("any bytes at all", async () => {
    const { screen } = await screenOf();
    screen.record();
    const bytes = new Uint8Array(200_000);
    let seed = 1;
    for (let at = 0; at < bytes.length; at++) {
      seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
      bytes[at] = seed >> 16;
    }
    await print(screen, bytes);
    await print(screen, "\x1bc still here");
    expect(screen.capture(null).content).toBe(" still here");
    screen.recorded();
  });
});
