/** A snapshot, shown by another terminal, is the same screen: text, colours, wide characters, both screens, what scrolled away. */
import { describe, expect, test } from "bun:test";
import { Terminal } from "@xterm/headless";
import { openSnapshots } from "~/agent/snapshot";

const open = (rows = 6, cols = 20): Terminal =>
  new Terminal({ rows, cols, scrollback: 1000, allowProposedApi: true });

const write = (terminal: Terminal, text: string): Promise<void> =>
  new Promise((resolve) => terminal.write(text, resolve));

/** Every cell that can be seen, with its looks, and the cursor. */
function look(terminal: Terminal) {
  const { active } = terminal.buffer;
  const rows = Array.from({ length: terminal.rows }, (_, row) => {
    const line = active.getLine(active.baseY + row);
    return Array.from({ length: terminal.cols }, (_, column) => {
      const cell = line?.getCell(column);
      return [
        cell?.getChars() || " ",
        cell?.getFgColor(),
        cell?.getBgColor(),
        cell?.isBold(),
        cell?.isInverse(),
      ];
    });
  });
  return { rows, screen: active.type, cursor: [active.cursorY, active.cursorX] };
}

const screens: [name: string, output: string][] = [
  ["nothing", ""],
  ["a prompt", "$ "],
  ["lines, the last one without an end", "one\r\ntwo\r\n\r\nfour"],
  ["colours", "\x1b[31mred\x1b[1;44mbold on blue\x1b[0m plain\x1b[7m inverse"],
  ["true colours and a cursor in the middle", "\x1b[38;2;1;2;3mabc\x1b[0m\x1b[2;7Hhere\x1b[1;2H"],
  ["wide and combining characters", "漢字 e\u0301 👩‍💻!\r\nok"],
  ["a line as long as the screen is wide", "12345678901234567890"],
  ["a line that is broken by the edge", "123456789012345678901234567890\r\nx"],
  ["more than fits", Array.from({ length: 30 }, (_, n) => `line ${n}`).join("\r\n")],
  ["a background below the last text", "one\x1b[44m\x1b[J\x1b[4;5H\x1b[48;2;1;2;3m\x1b[3X\x1b[2;2H\x1b[m"],
  ["nothing but a background", "\x1b[48;5;200m\x1b[2J\x1b[3;3H"],
  ["a background on the alternate screen", "$ vi\x1b[?1049h\x1b[41m\x1b[2J\x1b[3;3Hx\x1b[1;1H"],
  ["the alternate screen over text", "below\r\nit\x1b[?1049h\x1b[2J\x1b[3;3Hfull screen"],
];

describe("a terminal that is shown a snapshot looks the same", () => {
  test.each(screens)("%s", async (_, output) => {
    const agent = open();
    const snapshot = openSnapshots(agent);
    await write(agent, output);
    for (const isComplete of [false, true]) {
      const other = open();
      await write(other, await snapshot(isComplete));
      expect(look(other)).toEqual(look(agent));
    }
  });

  test("and what scrolled away is there only when it was asked for", async () => {
    const agent = open();
    const snapshot = openSnapshots(agent);
    await write(agent, Array.from({ length: 100 }, (_, n) => `line ${n}`).join("\r\n"));
    const [screen, all] = [open(), open()];
    await write(screen, await snapshot(false));
    await write(all, await snapshot(true));
    expect(screen.buffer.active.baseY).toBe(0);
    expect(all.buffer.active.getLine(0)?.translateToString(true)).toBe("line 0");
  });
});

test("it shows what was written before it was asked for, and nothing that was written after", async () => {
  const agent = open();
  const snapshot = openSnapshots(agent);
  agent.write("before ");
  const asked = snapshot(false);
  agent.write("after");
  expect(await asked).toBe("before ");
});
