/** What a program switches on in its terminal is put back, in another terminal or when it is over; checked by a terminal emulator. */
import { describe, expect, test } from "bun:test";
import { Terminal } from "@xterm/headless";
import { TerminalModes } from "~/agent/terminal-modes";

/** All that is sent to a terminal that shows the screen already, and needs no other. */
const redone = (...portions: string[]): string => {
  const { before, after } = fed(...portions).redo();
  return before + after;
};

const fed = (...portions: string[]): TerminalModes => {
  const modes = new TerminalModes();
  for (const portion of portions) modes.feed(Buffer.from(portion, "latin1"));
  return modes;
};

/** How a terminal is after this output. */
async function afterwards(...outputs: string[]) {
  const terminal = new Terminal({ rows: 10, cols: 40, allowProposedApi: true });
  for (const output of outputs) await new Promise<void>((resolve) => terminal.write(output, resolve));
  const { active } = terminal.buffer;
  return { modes: terminal.modes, screen: active.type, cursor: [active.cursorY, active.cursorX] };
}

/** Those that the emulator tells of. */
const switched = [
  ...["\x1b[?1h", "\x1b=", "\x1b[4h", "\x1b[?7l", "\x1b[?1000h", "\x1b[?1002h", "\x1b[?1003h", "\x1b[?1004h"],
  ...["\x1b[?2004h", "\x1b[?1049h", "\x1b[?1;25;2004h"],
];
const neutral = "\x0f\x1b(B\x1b[m";

describe("undo", () => {
  test.each(switched)("of %j leaves a terminal as it was", async (sequence) => {
    const text = "some text\r\nand more";
    const plain = await afterwards(text);
    expect(await afterwards(text, sequence)).not.toEqual(plain);
    expect(await afterwards(text, sequence, fed(text, sequence).undo())).toEqual(plain);
  });

  test("of a scrolling region lets all rows scroll again, and leaves the cursor where it is", async () => {
    const undone = ["a\r\nb", "\x1b[2;5r\x1b[3;2H", fed("\x1b[2;5r").undo()];
    expect((await afterwards(...undone)).cursor).toEqual([2, 1]);
    expect((await afterwards(...undone, "\n".repeat(20))).cursor).toEqual([9, 1]);
  });

  test("of everything at once, too", async () => {
    const all = switched.join("");
    expect((await afterwards("x", all, fed("x", all).undo())).modes).toEqual((await afterwards("x")).modes);
  });

  test.each([
    ["nothing", ""],
    ["colours", "\x1b[31;1mred"],
    ["what was switched off again", "\x1b[?1000h\x1b[?25lx\x1b[?1000l\x1b[?25h"],
    ["questions", "\x1b[6n\x1b[?u\x1b[c\x1b[?1049$p\x1b]11;?\x07"],
    ["a soft reset", "\x1b[?25l\x1b[4h\x1b=\x1b[2;5r\x1b[!p"],
    ["a hard reset", "\x1b[>5u\x1b[?1049h\x1b[>1u\x1b[?1000h\x1b[6 q\x1b]12;red\x07\x1b]8;;x\x07\x1bc"],
    ["modes that do not matter", "\x1b[?12h\x1b[20h\x1b[?69h"],
    [
      "a title, a link that has ended, a colour that was put back",
      "\x1b]0;t\x07\x1b]8;;x\x07\x1b]8;;\x07\x1b]11;#123\x1b\\\x1b]111\x07",
    ],
    ["colours that were only asked for", "\x1b]10;?\x07\x1b]11;?\x1b\\"],
    ["a keyboard stack that is empty again", "\x1b[>1u\x1b[>5u\x1b[<2u"],
    ["taking more from it than there is", "\x1b[>1u\x1b[<9u"],
    ["restored and saved modes", "\x1b[?1000s\x1b[?1000r"],
  ])("of %s is nothing but neutral letters and colours", (_, output) => {
    expect(fed(output).undo()).toBe(neutral);
  });

  test.each([
    ["\x1b[>1u", "\x1b[<1u"],
    ["\x1b[>1u\x1b[>31u\x1b[<u", "\x1b[<1u"],
    ["\x1b[=5;1u", "\x1b[<1u"],
    // Each screen has its own stack: what a shell has pushed is popped in the normal screen.
    ["\x1b[>5u\x1b[?1049h\x1b[>1u\x1b[>3u", "\x1b[<2u\x1b[?1049l\x1b[<1u"],
    ["\x1b[>5u\x1b[?1049h\x1b[>1u\x1b[<u\x1b[?1049l", "\x1b[<1u"],
    // Terminals do not agree on whether a soft reset is for these.
    ["\x1b[?1000h\x1b[?2004h\x1b[!p", "\x1b[?1000l\x1b[?2004l"],
    ["\x1b]12;rgb:ff/00/00\x1b\\", "\x1b]112\x07"],
    ["\x1b]8;id=1;http://a/b\x1b\\text", "\x1b]8;;\x07"],
    ["\x1b[>4;2m", "\x1b[>4m"],
    ["\x1b[4 q", "\x1b[0 q"],
    ["\x1b[?2026h", "\x1b[?2026l"],
    ["\x1b[?25l", "\x1b[?25h"],
    ["\x1b[?1006h", "\x1b[?1006l"],
    ["\x1b[?1047h", "\x1b[?1047l"],
  ])("of %j is %j", (output, undone) => expect(fed(output).undo()).toBe(undone + neutral));
});

describe("redo", () => {
  test("puts another terminal into the same modes", async () => {
    const output = "\x1b[?1h\x1b=\x1b[?7l\x1b[?1003h\x1b[?1004h\x1b[?2004hx";
    expect((await afterwards("x", redone(output))).modes).toEqual((await afterwards(output)).modes);
  });

  test("keeps the cursor where it is when there is a scrolling region", async () => {
    const region = redone("\x1b[2;5r");
    const scrolled = await afterwards("a\r\nb\r\nc", region, "\x1b[5;1H\n\n\n\nx");
    expect((await afterwards("a\r\nb\r\nc", region)).cursor).toEqual([2, 1]);
    expect(scrolled.cursor).toEqual([4, 1]);
  });

  test.each([
    ["\x1b[>1u\x1b[>3u", "\x1b[>1u\x1b[>3u"],
    ["\x1b[6 q", "\x1b[6 q"],
    ["\x1b[>4;1m", "\x1b[>4;1m"],
    // It would show nothing until the program is done with what it is drawing.
    ["\x1b[?2026h", ""],
    ["\x1b[?25l", "\x1b[?25l"],
    // The screen itself says which one it is.
    ["\x1b[?1049h", ""],
    ["\x1b[=5u\x1b[=2;2u\x1b[=1;3u", "\x1b[>6u"],
    ["\x1b[4h", "\x1b[4h"],
    ["\x1b]0;caf\xc3\xa9\x07\x1b]1;icon\x07", "\x1b]2;café\x07"],
    ["\x1b]11;#102030\x1b\\", "\x1b]11;#102030\x07"],
  ])("of %j is %j", (output, expected) => expect(redone(output)).toBe(expected));

  test("has the keyboard's modes of the normal screen before it is left", () => {
    expect(fed("\x1b[>5u\x1b[?1049h\x1b[>1u").redo()).toEqual({ before: "\x1b[>5u", after: "\x1b[>1u" });
  });
});

test("sequences may come byte by byte, among any other bytes", () => {
  const output = `héllo \xff\x1b[?1049h\x1b]0;title\x07\x1b[?25l${"y".repeat(1000)}\x1b[?2004h\x1b[31m`;
  const whole = fed(output);
  expect(fed(...output)).toEqual(whole);
  expect(whole.isAlternate).toBe(true);
  expect(whole.redo().after).toBe("\x1b[?25l\x1b[?2004h\x1b]2;title\x07");
});

test("a sequence without end is no reason to keep all that follows", () => {
  const modes = fed(`\x1b[${"1;".repeat(500)}`, "\x1b[?25l");
  expect(modes.redo().after).toBe("\x1b[?25l");
});
