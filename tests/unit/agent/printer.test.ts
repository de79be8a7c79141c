/** What is printed arrives in order, and who prints is not kept waiting by a terminal that takes nothing. A pipe stands in for it. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { closeSync, constants, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { Printer } from "~/agent/printer";
import { systemClock } from "~/clock";
import { systemCodeOf } from "~/errors";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";

let [reader, fd] = [-1, -1];
let waiting: number[];
let failures: number;

function open(flags = 0): Printer {
  const path = join(tempDir(), "pipe");
  Bun.spawnSync(["mkfifo", path]);
  reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  fd = openSync(path, constants.O_WRONLY | flags);
  return new Printer({
    fd,
    clock: systemClock,
    printed: (bytes) => void waiting.push(bytes),
    failed: () => void failures++,
  });
}

beforeEach(() => {
  waiting = [];
  failures = 0;
});

afterEach(() => {
  for (const open of [reader, fd]) if (open !== -1) closeSync(open);
  [reader, fd] = [-1, -1];
});

/** What is there to be read now. */
function taken(): string {
  const bytes = Buffer.alloc(64 * 1024);
  try {
    return bytes.toString("latin1", 0, readSync(reader, bytes));
  } catch (error) {
    if (systemCodeOf(error) === "EAGAIN") return "";
    throw error;
  }
}

const text = Array.from({ length: 50_000 }, (_, n) => `line ${n}\n`).join("");

test.each([
  ["waits for its reader", 0],
  ["does not wait", constants.O_NONBLOCK],
])("everything comes, in order, where the descriptor %s, and nobody is held up", async (_, flags) => {
  const printer = open(flags);
  printer.print(text);
  printer.print(Buffer.from("the end"));
  // The pipe is full long before.
  await waitFor(() => waiting.length > 0, { what: "the first portion" });
  expect(printer.waitingBytes).toBeGreaterThan(100_000);
  let isDone = false;
  void printer.done().then(() => {
    isDone = true;
  });
  let read = "";
  await waitFor(
    () => {
      for (let more = taken(); more !== ""; more = taken()) read += more;
      return isDone && read.endsWith("the end");
    },
    { what: "all of it" },
  );
  expect(read).toBe(`${text}the end`);
  expect([printer.waitingBytes, waiting.at(-1), failures]).toEqual([0, 0, 0]);
  await printer.done();
});

test("what waits can be left out, and what comes then is printed", async () => {
  const printer = open(constants.O_NONBLOCK);
  printer.print(text);
  await waitFor(() => waiting.length > 0, { what: "the first portion" });
  printer.forget();
  printer.print("the end");
  let read = "";
  await waitFor(
    () => {
      read += taken();
      return read.endsWith("the end");
    },
    { what: "the end" },
  );
  expect(read.length).toBeLessThan(text.length / 2);
  expect(text.startsWith(read.slice(0, -"the end".length))).toBe(true);
});

test("a terminal that is gone is told once, and nothing waits for it any more", async () => {
  const printer = open();
  closeSync(reader);
  reader = -1;
  printer.print(text);
  printer.print(text);
  await printer.done();
  printer.print(text);
  expect([failures, printer.waitingBytes]).toEqual([1, 0]);
});
