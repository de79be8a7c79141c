/** Several files in the place of others: all of them or none, from wherever a process was killed. */
import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { finishMoves, type Move, moveTogether } from "~/disk/moves";
import { tempDir } from "../../support/temp-dir";

function openPlace() {
  const dir = tempDir();
  const at = (name: string): string => join(dir, name);
  for (const [name, content] of [
    ["a", "old a"],
    ["a-wal", "log of a"],
    ["b", "old b"],
    ["new/a", "new a"],
    ["new/b", "new b"],
  ] as const) {
    mkdirSync(at("new"), { recursive: true });
    writeFileSync(at(name), content);
  }
  const moves: Move[] = [
    { from: at("a"), to: at("aside/a") },
    { from: at("a-wal"), to: at("aside/a-wal") },
    { from: at("a-shm"), to: at("aside/a-shm") },
    { from: at("b"), to: at("b.aside") },
    { from: at("new/a"), to: at("a") },
    { from: at("new/b"), to: at("b") },
  ];
  const list = at("moves.json");
  const state = () =>
    Object.fromEntries(
      ["a", "a-wal", "aside/a", "aside/a-wal", "aside/a-shm", "b", "b.aside", "new/a", "new/b", "moves.json"]
        .filter((name) => existsSync(at(name)))
        .map((name) => [name, readFileSync(at(name), "utf8")]),
    );
  return { moves, list, state };
}

const moved = {
  a: "new a",
  b: "new b",
  "aside/a": "old a",
  "aside/a-wal": "log of a",
  "b.aside": "old b",
};

test("everything is moved, and nothing is left to do", () => {
  const { moves, list, state } = openPlace();
  moveTogether(list, moves);
  expect(state()).toEqual(moved);
  expect(finishMoves(list)).toBe(false);
});

describe("a process that was killed", () => {
  test.each([0, 1, 2, 3, 4, 5, 6])("after %d moves: the next one brings it to its end", (done) => {
    const { moves, list, state } = openPlace();
    writeFileSync(list, JSON.stringify({ version: 1, moves }));
    for (const { from, to } of moves.slice(0, done)) {
      mkdirSync(join(to, ".."), { recursive: true });
      if (existsSync(from)) renameSync(from, to);
    }
    expect(finishMoves(list)).toBe(true);
    expect(state()).toEqual(moved);
  });
  test("before it had written them down: nothing happens", () => {
    const { list, state } = openPlace();
    const before = state();
    expect(finishMoves(list)).toBe(false);
    expect(state()).toEqual(before);
  });
});

test("a move that fails stops the rest, and can be made good", () => {
  const { moves, list, state } = openPlace();
  const [first, ...rest] = moves;
  if (first === undefined) throw new Error("no moves");
  // A file where a directory is needed.
  writeFileSync(join(first.to, ".."), "in the way");
  expect(() => moveTogether(list, moves)).toThrow(/cannot move/);
  expect(state()).toMatchObject({
    a: "old a",
    b: "old b",
    "new/a": "new a",
    "moves.json": expect.any(String),
  });
  renameSync(join(first.to, ".."), join(first.to, "../../out of the way"));
  expect(rest).toHaveLength(5);
  expect(finishMoves(list)).toBe(true);
  expect(state()).toEqual(moved);
});

test("a list that nobody here wrote is refused", () => {
  const { list, state } = openPlace();
  writeFileSync(list, '{"version":2}');
  const before = state();
  expect(() => finishMoves(list)).toThrow(/no list of moves/);
  expect(state()).toEqual(before);
});
