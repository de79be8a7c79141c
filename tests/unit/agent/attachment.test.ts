/**
 * Terminals attached to an agent: what each is shown, who decides on the size, what becomes of one that reads slowly, and how it ends.
 * The last tests do it over real sockets.
 */
import { beforeEach, describe, expect, test } from "bun:test";
import { statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Attachments, type AttachmentsOptions } from "~/agent/attachment";
import { Orchestrators } from "~/agent/orchestrators";
import { isFocusReport, isTerminalAnswer } from "~/agent/terminal-answers";
import type { Visitor } from "~/agent/visitor";
import { systemClock } from "~/clock";
import {
  type AgentDescription,
  encodeBytes,
  encodeShimWord,
  encodeTerminalWord,
  readShimFrame,
  type ShimWord,
  type TerminalWord,
} from "~/wire/attachment";
import { FrameDecoder } from "~/wire/frame";
import {
  attachmentBacklogBytesHigh,
  attachmentBacklogBytesLow,
  attachmentBacklogBytesMax,
  attachmentEndMsMax,
  attachmentFrameBytesMax,
  attachmentHoldMsMax,
  attachmentsMax,
  ownerAttachMsMax,
  shimFrameBytesMax,
  terminalLookEveryMs,
} from "~/wire/limits";
import { encodeCommand, parseEvent } from "~/wire/shim";
import { cleanup } from "../../support/cleanup";
import { FakeClock } from "../../support/fake-clock";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";

const description: Omit<AgentDescription, "terminals" | "exit"> = {
  profile: "generic",
  runtime: "pty",
  pid: 10,
  shim_pid: 11,
  command: ["bash"],
  cwd: "/",
  started_at: "2026-01-31T00:00:00.000Z",
  log: null,
};

/** A terminal's end of a connection, which takes as much as it is allowed to. */
class FakeTerminal {
  readonly #decoder = new FrameDecoder(attachmentFrameBytesMax);
  room = Number.POSITIVE_INFINITY;
  state: "open" | "ended" | "terminated" = "open";
  isRead = true;
  /** What it was shown. */
  screen = "";
  readonly words: ShimWord[] = [];
  visitor: Visitor;

  constructor(hall: Attachments) {
    this.visitor = hall.admit(this);
  }

  say(word: TerminalWord): void {
    this.visitor.received(encodeTerminalWord(word));
  }

  type(text: string): void {
    for (const frame of encodeBytes(Buffer.from(text, "latin1"))) this.visitor.received(frame);
  }

  /** Takes `room` more. */
  drain(room = Number.POSITIVE_INFINITY): void {
    this.room = room;
    this.visitor.drained();
  }

  write(bytes: Uint8Array): number {
    if (this.state !== "open") return -1;
    const part = bytes.slice(0, this.room);
    this.room -= part.length;
    for (const read of this.#decoder.push(part)) {
      if (read.kind !== "frame") throw new Error("a frame that is too large");
      const frame = readShimFrame(read.payload);
      if (frame.kind === "bytes") this.screen += Buffer.from(frame.bytes).toString();
      else if (frame.kind === "word") this.words.push(frame.word);
      else throw new Error("no such frame");
    }
    return part.length;
  }
  end(): void {
    if (this.state === "open") this.state = "ended";
  }
  terminate(): void {
    this.state = "terminated";
  }
  pause(): void {
    this.isRead = false;
  }
  resume(): void {
    this.isRead = true;
  }
}

let clock: FakeClock;
let hall: Attachments;
/** Of which the tests may make another hall. */
let options: AttachmentsOptions;
let holds: boolean[];
let typed: string[];
let sizes: [rows: number, cols: number][];
let abandonments: number;
let interrupts: number;
let screen: string;
let hasKeyboard: boolean;
/** Snapshots are given when this is called, with the screen as it was when they were asked for. */
let giveSnapshots: () => Promise<void>;

beforeEach(() => {
  clock = new FakeClock();
  typed = [];
  sizes = [];
  abandonments = 0;
  interrupts = 0;
  screen = "SCREEN";
  hasKeyboard = true;
  holds = [];
  let asked: (() => void)[] = [];
  giveSnapshots = async () => {
    for (const give of asked.splice(0)) give();
    asked = [];
    for (let turn = 0; turn < 10; turn++) await Promise.resolve();
  };
  options = {
    path: "",
    clock,
    isTerminal: true,
    isOwned: false,
    describe: () => description,
    snapshot: (isComplete) => {
      const taken = isComplete ? `ALL ${screen}` : screen;
      return new Promise((resolve) => asked.push(() => resolve(taken)));
    },
    type(bytes) {
      typed.push(Buffer.from(bytes).toString("latin1"));
      return hasKeyboard;
    },
    whenRead: () => undefined,
    interrupt: () => void interrupts++,
    resize: (rows, cols) => void sizes.push([rows, cols]),
    hold: (isHeld) => void holds.push(isHeld),
    drive: () => undefined,
    abandoned: () => void abandonments++,
  };
  hall = new Attachments(options);
});

async function attached({ rows = 24, cols = 80, owner = false } = {}): Promise<FakeTerminal> {
  const terminal = new FakeTerminal(hall);
  terminal.say({ do: "attach", rows, cols, owner });
  await giveSnapshots();
  return terminal;
}

const show = (text: string): void => hall.output(Buffer.from(text));

describe("what a terminal is shown", () => {
  test("is the screen as it is, then everything from there on, once", async () => {
    show("earlier");
    const terminal = new FakeTerminal(hall);
    terminal.say({ do: "attach", rows: 24, cols: 80, owner: false });
    show("meanwhile ");
    expect(terminal.screen).toBe("");
    await giveSnapshots();
    show("later");
    expect([terminal.words, terminal.screen]).toEqual([[{ is: "attached" }], "SCREENmeanwhile later"]);
  });

  test("has what scrolled away in it where the agent was started", async () => {
    expect((await attached({ owner: true })).screen).toBe("ALL SCREEN");
  });

  test("has the modes that the agent had switched on when the screen was taken", async () => {
    show("\x1b[?2004h\x1b[?25l");
    const terminal = new FakeTerminal(hall);
    terminal.say({ do: "attach", rows: 24, cols: 80, owner: false });
    show("\x1b[?25h");
    await giveSnapshots();
    expect(terminal.screen).toBe("SCREEN\x1b[?2004h\x1b[?25l\x1b[?25h");
  });

  test("is the same for all", async () => {
    const [one, two] = [await attached(), await attached()];
    show("hello");
    expect([one.screen, two.screen, hall.terminals]).toEqual(["SCREENhello", "SCREENhello", 2]);
  });

  test("comes anew, on an emptied terminal, when it asks", async () => {
    const terminal = await attached();
    terminal.screen = "";
    screen = "NEW";
    terminal.say({ do: "repaint" });
    show("more");
    await giveSnapshots();
    expect(terminal.screen).toEndWith("\x1b[H\x1b[JNEWmore");
  });

  test("of an agent in a terminal is what its terminal made of it", async () => {
    const terminal = await attached();
    show("a\nb");
    expect(terminal.screen).toBe("SCREENa\nb");
  });

  test("of an agent without a terminal is its lines, one below the other", async () => {
    hall = new Attachments({ ...options, isTerminal: false });
    const terminal = await attached();
    show('{"a":1}\n{"b":2}\n');
    expect(terminal.screen).toBe('SCREEN{"a":1}\r\n{"b":2}\r\n');
  });

  test("is nothing before it attaches: then it may ask about the agent", () => {
    const terminal = new FakeTerminal(hall);
    show("secret");
    terminal.say({ do: "describe" });
    expect(terminal.screen).toBe("");
    expect(terminal.words).toEqual([
      { is: "description", description: { ...description, terminals: 0, exit: null } },
    ]);
    expect(hall.terminals).toBe(0);
  });
});

describe("a terminal that is slow", () => {
  test("gets everything, in order, as it takes it", async () => {
    const terminal = await attached();
    terminal.room = 3;
    for (let n = 0; n < 50; n++) show(`${n} `);
    while (terminal.room === 0) terminal.drain(7);
    expect(terminal.screen).toBe(`SCREEN${Array.from({ length: 50 }, (_, n) => `${n} `).join("")}`);
  });

  test("is shown the screen in place of what would be too much, and goes on from there", async () => {
    const terminal = await attached();
    terminal.room = 10;
    const portion = "x".repeat(64 * 1024);
    for (let sent = 0; sent < 4 * attachmentBacklogBytesMax; sent += portion.length) show(portion);
    terminal.screen = "";
    terminal.drain();
    // The frame that had begun is whole, and nothing after it but the screen.
    expect(terminal.screen).toBe(portion);
    screen = "LATEST";
    show("not yet taken in");
    await giveSnapshots();
    show("live");
    const afterwards = terminal.screen.slice(portion.length);
    expect(afterwards).toStartWith("\x1b");
    expect(afterwards).toEndWith("\x1b[H\x1b[JSCREENnot yet taken inlive");
  });

  test("that stays slow sees one screen after the other", async () => {
    const terminal = await attached();
    const flood = (): void => {
      for (let n = 0; n < 20; n++) show("y".repeat(attachmentBacklogBytesMax / 10));
    };
    for (let round = 0; round < 3; round++) {
      terminal.room = 0;
      flood();
      terminal.drain();
      screen = `ROUND ${round} `;
      // More than is kept comes while the screen is waited for.
      flood();
      await giveSnapshots();
    }
    await giveSnapshots();
    show("at last");
    expect(terminal.screen).toContain("\x1b[H\x1b[JROUND 0 ");
    expect(terminal.screen).toEndWith("ROUND 2 at last");
  });

  test("has the agent wait for a moment, and misses nothing if that is enough", async () => {
    const terminal = await attached();
    terminal.room = 10;
    const portion = "x".repeat(attachmentBacklogBytesHigh);
    show(portion);
    show("end");
    expect(holds).toEqual([true]);
    terminal.drain(attachmentBacklogBytesHigh - attachmentBacklogBytesLow + 100);
    expect(holds).toEqual([true, false]);
    terminal.drain();
    clock.advance(attachmentHoldMsMax);
    expect([terminal.screen, holds]).toEqual([`SCREEN${portion}end`, [true, false]]);
  });

  test("has it wait no longer, and is shown the screen then, as often as it is so slow", async () => {
    const terminal = await attached();
    for (let round = 1; round <= 2; round++) {
      terminal.room = 10;
      show("x".repeat(attachmentBacklogBytesHigh));
      show("y".repeat(attachmentBacklogBytesLow));
      clock.advance(attachmentHoldMsMax - 1);
      expect(holds.at(-1)).toBe(true);
      clock.advance(1);
      expect(holds).toHaveLength(2 * round);
      expect([holds.at(-1), hall.answersQueries]).toEqual([false, false]);
      terminal.drain();
      await giveSnapshots();
      expect([terminal.screen.endsWith("\x1b[H\x1b[JSCREEN"), hall.answersQueries]).toEqual([true, true]);
    }
  });

  test("that goes has nobody wait for it", async () => {
    const terminal = await attached();
    terminal.room = 10;
    show("x".repeat(attachmentBacklogBytesHigh + 100));
    terminal.visitor.gone();
    expect([holds, clock.delaysMs]).toEqual([[true, false], []]);
  });

  test("keeps no other waiting", async () => {
    const [slow, quick] = [await attached(), await attached()];
    slow.room = 0;
    const portion = "z".repeat(attachmentBacklogBytesMax);
    show(portion);
    show(portion);
    show("end");
    expect(quick.screen).toBe(`SCREEN${portion}${portion}end`);
  });
});

describe("the size of the agent's terminal", () => {
  test("is that of the terminal that attached, was resized or typed last", async () => {
    const small = await attached({ rows: 10, cols: 40 });
    const large = await attached({ rows: 60, cols: 200 });
    small.type("a");
    small.type("b");
    large.say({ do: "resize", rows: 61, cols: 201 });
    small.type("c");
    expect(sizes).toEqual([
      [10, 40],
      [60, 200],
      [10, 40],
      [61, 201],
      [10, 40],
    ]);
    expect(typed).toEqual(["a", "b", "c"]);
  });

  test("is again that of the one before when a terminal goes", async () => {
    await attached({ rows: 10, cols: 40 });
    const two = await attached({ rows: 20, cols: 50 });
    const three = await attached({ rows: 60, cols: 200 });
    three.say({ do: "detach" });
    three.visitor.gone();
    two.visitor.gone();
    expect(sizes.slice(3)).toEqual([
      [20, 50],
      [10, 40],
    ]);
  });

  test("has bounds", async () => {
    await attached({ rows: 5000, cols: 65_535 });
    expect(sizes).toEqual([[1000, 1000]]);
  });

  test("does not change for who has not attached", () => {
    new FakeTerminal(hall).say({ do: "resize", rows: 5, cols: 5 });
    expect(sizes).toEqual([]);
  });
});

describe("what is typed", () => {
  test("goes to the agent as it is, from those who are attached", async () => {
    const stranger = new FakeTerminal(hall);
    stranger.type("no");
    (await attached()).type("\x03\xff\x1b[A");
    expect(typed).toEqual(["\x03\xff\x1b[A"]);
  });

  test("is not the answer that a second terminal gives to the same question", async () => {
    const [first, second] = [await attached(), await attached()];
    first.type("\x1b[?62;4c");
    second.type("\x1b[?62;4c");
    expect(typed).toEqual(["\x1b[?62;4c"]);
  });

  test("is an answer again when the terminal that used to give it is gone", async () => {
    const [first, second] = [await attached(), await attached()];
    second.visitor.gone();
    first.type("\x1b[?62;4c");
    expect(typed).toEqual(["\x1b[?62;4c"]);
  });

  test("tells where the focus goes, from one terminal to the other, and the size stays", async () => {
    const [first, second] = [await attached(), await attached()];
    second.type("\x1b[O");
    first.type("\x1b[I");
    second.type("\x1b[1;1R");
    expect([typed, sizes.length]).toEqual([["\x1b[O", "\x1b[I", "\x1b[1;1R"], 2]);
  });

  test("interrupts with Ctrl-C where there is no keyboard, and is left to the agent where there is", async () => {
    const terminal = await attached();
    terminal.type("\x03");
    expect([typed, interrupts]).toEqual([["\x03"], 0]);
    hasKeyboard = false;
    terminal.type("\x03");
    expect([interrupts, terminal.screen]).toEqual([1, "SCREEN"]);
  });

  test("waits with its terminal while the agent has much to read, and with no other", async () => {
    const read = Promise.withResolvers<void>();
    hall = new Attachments({ ...options, whenRead: () => read.promise });
    const [pasting, other] = [await attached(), await attached()];
    pasting.type("a long text");
    pasting.type("was on its way");
    expect([pasting.isRead, other.isRead]).toEqual([false, true]);
    read.resolve();
    await giveSnapshots();
    expect([pasting.isRead, typed]).toEqual([true, ["a long text", "was on its way"]]);
  });

  test("waits no longer for a terminal that has gone meanwhile", async () => {
    hall = new Attachments({ ...options, whenRead: () => new Promise(() => undefined) });
    const terminal = await attached({ owner: true });
    terminal.type("a long text");
    clock.advance(terminalLookEveryMs);
    expect([terminal.words.at(-1), abandonments]).toEqual([{ is: "waiting" }, 0]);
    // Nobody tells of its end, as nobody reads.
    terminal.state = "terminated";
    clock.advance(terminalLookEveryMs);
    expect([abandonments, clock.delaysMs]).toEqual([1, []]);
  });

  test("and not taken is told once", async () => {
    hasKeyboard = false;
    const terminal = await attached();
    terminal.type("a");
    terminal.type("b");
    expect(terminal.screen.match(/no keyboard/g)).toHaveLength(1);
  });
});

test.each([
  ["\x1b[?62;22c", true],
  ["\x1b[24;80R", true],
  ["\x1b[?1;2c\x1b]11;rgb:0000/0000/0000\x1b\\", true],
  ["\x1b]11;rgb:0000/0000/0000\x07", true],
  ["\x1b[?0u\x1b[?2026;2$y", true],
  ["\x1bP>|xterm(380)\x1b\\", true],
  ["\x1b[48;24;80;0;0t", true],
  ["\x1b_Gi=31;OK\x1b\\", true],
  ["\x1b[I", false],
  ["\x1b[A", false],
  ["\x1b[5~", false],
  ["\x1b[93;5u", false],
  ["\x1b", false],
  ["\x1b[?62;22cx", false],
  ["c", false],
])("%j is a terminal's own answer: %p", (text, expected) => {
  expect(isTerminalAnswer(Buffer.from(text, "latin1"))).toBe(expected);
});

test.each([
  ["\x1b[I", true],
  ["\x1b[O\x1b[I", true],
  ["\x1b[Ix", false],
  ["\x1bOA", false],
])("%j tells of the focus: %p", (text, expected) => {
  expect(isFocusReport(Buffer.from(text, "latin1"))).toBe(expected);
});

test("what the agent asks is answered by a terminal where there is one, and by nobody else", async () => {
  expect([hall.answersQueries, hall.wasAttended]).toEqual([false, false]);
  const terminal = await attached();
  expect([hall.answersQueries, hall.wasAttended]).toEqual([true, true]);
  terminal.visitor.gone();
  expect([hall.answersQueries, hall.wasAttended]).toEqual([false, true]);
});

describe("an agent that is started in a terminal", () => {
  beforeEach(() => {
    hall = new Attachments({ ...options, isOwned: true });
  });

  test("is seen there from the first byte on, as it was printed, and what it asks is answered there alone", async () => {
    show("\x1b]2;title\x07\x1b[c");
    expect([hall.answersQueries, hall.wasAttended]).toEqual([true, false]);
    const owner = new FakeTerminal(hall);
    owner.say({ do: "attach", rows: 24, cols: 80, owner: true });
    show("more");
    expect([owner.screen, hall.answersQueries]).toEqual(["\x1b]2;title\x07\x1b[cmore", true]);
    // Whoever comes later, this terminal included, sees the screen.
    owner.say({ do: "detach" });
    expect((await attached({ owner: true })).screen).toStartWith("ALL SCREEN");
  });

  test("is seen there also when it has ended at once", () => {
    show("quick");
    hall.ended({ code: 3, signal: null });
    const owner = new FakeTerminal(hall);
    owner.say({ do: "attach", rows: 24, cols: 80, owner: true });
    expect([owner.screen, owner.words.at(-1)]).toEqual([
      "quick",
      { is: "ended", exit_code: 3, signal: null },
    ]);
  });

  test("does not go on when the terminal never comes", async () => {
    await attached();
    clock.advance(ownerAttachMsMax);
    expect(abandonments).toBe(1);
  });

  test("goes on when it has come, and left with a word", () => {
    const owner = new FakeTerminal(hall);
    owner.say({ do: "attach", rows: 24, cols: 80, owner: true });
    owner.say({ do: "detach" });
    owner.visitor.gone();
    clock.advance(ownerAttachMsMax);
    expect([abandonments, clock.delaysMs]).toEqual([0, []]);
  });

  test("waits with what is too much to keep, and after a while the screen must do", async () => {
    show("x".repeat(attachmentBacklogBytesHigh + 1));
    expect(holds).toEqual([true]);
    clock.advance(attachmentHoldMsMax);
    expect([holds, hall.answersQueries]).toEqual([[true, false], false]);
    expect((await attached({ owner: true })).screen).toBe("ALL SCREEN");
  });
});

describe("a terminal that goes", () => {
  test("after a detach ends its connection and nothing else", async () => {
    const terminal = await attached({ owner: true });
    terminal.say({ do: "detach" });
    expect(terminal.state).toBe("ended");
    terminal.visitor.gone();
    expect([abandonments, hall.terminals]).toEqual([0, 0]);
  });

  test("without one abandons the agent that was started in it", async () => {
    const terminal = await attached({ owner: true });
    terminal.visitor.gone();
    terminal.visitor.gone();
    expect(abandonments).toBe(1);
  });

  test("without one is nothing to an agent that was started elsewhere", async () => {
    await attached({ owner: true });
    (await attached()).visitor.gone();
    expect([abandonments, hall.terminals]).toEqual([0, 1]);
  });

  test("and what it sends after a detach is not read", async () => {
    const terminal = await attached();
    terminal.visitor.received(
      Buffer.concat([encodeTerminalWord({ do: "detach" }), ...encodeBytes(Buffer.from("late"))]),
    );
    expect(typed).toEqual([]);
  });
});

describe("nonsense", () => {
  test("in an unknown word is passed over", async () => {
    const terminal = await attached();
    terminal.visitor.received(Buffer.from([0, 0, 0, 3, 1, 0x7b, 0x7d]));
    terminal.type("a");
    expect([typed, terminal.state]).toEqual([["a"], "open"]);
  });

  test("in a frame's length ends the connection", async () => {
    const terminal = await attached();
    terminal.visitor.received(Buffer.from([0xff, 0, 0, 0]));
    expect([terminal.state, hall.terminals]).toEqual(["terminated", 0]);
  });

  test("attaching twice is attaching once", async () => {
    const terminal = await attached();
    terminal.say({ do: "attach", rows: 1, cols: 1, owner: true });
    await giveSnapshots();
    terminal.visitor.gone();
    expect([sizes, abandonments]).toEqual([[[24, 80]], 0]);
  });

  test("one terminal too many is refused, and told so", async () => {
    for (let n = 0; n < attachmentsMax; n++) await attached();
    const terminal = await attached();
    expect(terminal.words).toEqual([
      { is: "refused", reason: `${attachmentsMax} terminals are attached already` },
    ]);
    expect(hall.terminals).toBe(attachmentsMax);
  });
});

describe("when the agent ends", () => {
  const exit = { code: 3, signal: null };
  const word: ShimWord = { is: "ended", exit_code: 3, signal: null };

  test("everybody is told after the last of its output", async () => {
    const [quick, slow] = [await attached(), await attached()];
    slow.room = 0;
    show("last words");
    hall.ended(exit);
    expect([quick.screen, quick.words.at(-1), slow.words.at(-1)]).toEqual([
      "SCREENlast words",
      word,
      { is: "attached" },
    ]);
    slow.drain();
    expect([slow.screen, slow.words.at(-1)]).toEqual(["SCREENlast words", word]);
  });

  test("one that is behind sees the screen first", async () => {
    const terminal = await attached();
    terminal.room = 0;
    for (let n = 0; n < 3; n++) show("x".repeat(attachmentBacklogBytesMax));
    screen = "THE END";
    hall.ended(exit);
    terminal.drain();
    await giveSnapshots();
    expect([terminal.screen.endsWith("THE END"), terminal.words.at(-1)]).toEqual([true, word]);
  });

  test("who comes later sees the screen, and that it has ended", async () => {
    hall.ended({ code: null, signal: "SIGKILL" });
    const terminal = await attached({ owner: true });
    expect(terminal.words).toEqual([{ is: "attached" }, { is: "ended", exit_code: null, signal: "SIGKILL" }]);
    expect(terminal.screen).toContain("SCREEN");
    terminal.visitor.gone();
    expect(abandonments).toBe(0);
  });

  test("whoever asks about it is told how", () => {
    hall.ended(exit);
    const terminal = new FakeTerminal(hall);
    terminal.say({ do: "describe" });
    expect(terminal.words).toMatchObject([{ description: { exit } }]);
  });

  test("nothing that is typed goes anywhere any more", async () => {
    const terminal = await attached();
    hall.ended(exit);
    terminal.type("a");
    expect(typed).toEqual([]);
  });

  test("closing waits for a slow terminal, though not for ever", async () => {
    const [slow, stuck] = [await attached(), await attached()];
    slow.room = 0;
    stuck.room = 0;
    show("last words");
    hall.ended(exit);
    let isClosed = false;
    const closing = hall.close().then(() => {
      isClosed = true;
    });
    slow.drain();
    slow.visitor.gone();
    await giveSnapshots();
    expect([slow.screen, slow.words.at(-1), isClosed]).toEqual(["SCREENlast words", word, false]);
    clock.advance(attachmentEndMsMax);
    await closing;
    expect([stuck.state, clock.delaysMs]).toEqual(["terminated", []]);
  });
});

describe("over real sockets", () => {
  async function connect(path: string) {
    const decoder = new FrameDecoder(attachmentFrameBytesMax);
    const seen = { text: "", words: [] as ShimWord[], isClosed: false };
    const socket = await Bun.connect({
      unix: path,
      socket: {
        data(_, bytes) {
          for (const read of decoder.push(bytes)) {
            const frame = read.kind === "frame" ? readShimFrame(read.payload) : undefined;
            if (frame?.kind === "bytes") seen.text += Buffer.from(frame.bytes).toString();
            if (frame?.kind === "word") seen.words.push(frame.word);
          }
        },
        close: () => {
          seen.isClosed = true;
        },
      },
    });
    cleanup(() => socket.terminate());
    return { socket, seen };
  }

  test("a terminal attaches, types, is shown megabytes, and is told the end; the socket is its owner's and goes", async () => {
    const path = join(tempDir(), "a.tty");
    const keys: string[] = [];
    const attachments = new Attachments({
      ...options,
      path,
      clock: systemClock,
      snapshot: async () => "SCREEN",
      type: (bytes) => keys.push(Buffer.from(bytes).toString()) > 0,
    });
    await attachments.listen();
    cleanup(() => attachments.close());
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const { socket, seen } = await connect(path);
    socket.write(encodeTerminalWord({ do: "attach", rows: 24, cols: 80, owner: false }));
    socket.write(Buffer.concat(encodeBytes(Buffer.from("ls\r"))));
    await waitFor(() => seen.text === "SCREEN" && keys.join("") === "ls\r", { what: "the screen" });
    let expected = "SCREEN";
    for (let n = 0; n < 40; n++) {
      const portion = `${n} ${"x".repeat(50_000)}`;
      expected += portion;
      attachments.output(Buffer.from(portion));
      await waitFor(() => seen.text.length === expected.length, { what: "what was printed" });
    }
    expect(seen.text).toBe(expected);
    attachments.ended({ code: 0, signal: null });
    await waitFor(() => seen.words.length === 2, { what: "the end" });
    socket.end();
    await attachments.close();
    expect(statSync(path, { throwIfNoEntry: false })).toBeUndefined();
  });

  test("who drives the agent by the way speaks with it as an orchestrator does, and is not ended with the terminals", async () => {
    const path = join(tempDir(), "a.tty");
    const orchestrators: Orchestrators = new Orchestrators({
      clock: systemClock,
      command: (peer) => orchestrators.answer(peer, { event: "Pong" }),
      endsWithLast: false,
      abandoned: () => undefined,
    });
    const attachments = new Attachments({
      ...options,
      path,
      drive: (socket) => orchestrators.admit(socket, { isPassing: true }),
    });
    await attachments.listen();
    let received = Buffer.alloc(0);
    const driver = await Bun.connect({
      unix: path,
      socket: {
        data(_, bytes) {
          received = Buffer.concat([received, bytes]);
        },
      },
    });
    driver.write(encodeTerminalWord({ do: "drive" }));
    const greeting = encodeShimWord({ is: "driving" });
    await waitFor(() => received.length === greeting.length, { what: "the greeting" });
    driver.write(encodeCommand({ cmd: "Ping" }));
    await attachments.close();
    const events = (): unknown[] =>
      new FrameDecoder(shimFrameBytesMax)
        .push(received.subarray(greeting.length))
        .map((read) => read.kind === "frame" && parseEvent(read.payload));
    await waitFor(() => events().length === 1, { what: "the answer" });
    orchestrators.tell({ event: "Ready" });
    await waitFor(() => events().length === 2, { what: "the event" });
    expect(events()).toMatchObject([{ value: { event: "Pong" } }, { value: { event: "Ready" } }]);
    await orchestrators.close();
  });

  test("where it cannot listen, it says so", async () => {
    const [missing, taken] = [join(tempDir(), "missing/a.tty"), join(tempDir(), "a.tty")];
    writeFileSync(taken, "somebody's");
    expect(new Attachments({ ...options, path: missing }).listen()).rejects.toThrow(/cannot listen on/);
    expect(new Attachments({ ...options, path: taken }).listen()).rejects.toThrow(/is not a socket/);
  });
});
