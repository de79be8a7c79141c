/** What was printed, out of pictures of a screen, and out of what its terminal scrolls. */
import { describe, expect, test } from "bun:test";
import { align } from "~/agent/alignment";
import { blankRow, type Row } from "~/agent/rows";
import { leftOut, Stitching } from "~/agent/stitching";

const rowOf = (text: string): Row => ({ ...blankRow, text: text.trimEnd() });
const rowsOf = (picture: string): Row[] => picture.split("|").map(rowOf);
const opened = (first: string, charsMax = 1_000_000): Stitching => new Stitching(rowsOf(first), charsMax);
const newsOf = (stitching: Stitching): string => stitching.news().lines.join("|");

describe("pictures", () => {
  const cases: [what: string, pictures: string[], news: string][] = [
    ["nothing happens", ["a|b|c", "a|b|c"], ""],
    ["lines are added", ["a| | ", "a|b| ", "a|b|c"], "b|c"],
    ["it scrolls line by line", ["a|b|c", "b|c|d", "c|d|e", "d|e|f", "e|f|g"], "d|e|f|g"],
    ["it scrolls by more", ["a|b|c|d", "c|d|e|f", "e|f|g|h", "g|h|i|j"], "e|f|g|h|i|j"],
    ["below a fixed head", ["H|a|b|c|F", "H|b|c|d|F", "H|c|d|e|F", "H|d|e|f|F"], "d|e|f"],
    ["below a head that counts", ["H 1%|a|b|F", "H 2%|b|c|F", "H 3%|c|d|F"], "H 3%|c|d"],
    ["a line grows", ["a| ", "a|hel", "a|hello", "a|hello you"], "hello you"],
    ["a counter counts", ["a|1%  of it", "a|20% of it", "a|99% of it"], "99% of it"],
    ["a page is turned", [" | ", "one|two", "three|four", "five|six"], "one|two|three|four|five|six"],
    [
      "a page with empty lines is turned",
      [" | | ", "one||two", "three||four", "five||six"],
      "one||two|three||four|five||six",
    ],
    ["it is cleared and painted again", ["a|b| ", " | | ", "a|b|c"], "c"],
    ["it is erased from below, and painted again", ["a|b|c", "a|b| ", "a| | ", "a|b|d"], "d"],
    ["empty lines between new ones stay", ["a| | | ", "a|b| |c"], "b||c"],
    ["empty lines that scroll away stay", ["a|b| |F", "b| |c|F", " |c| |F", "c| |d|F", " |d|e|F"], "c||d|e"],
    ["the same line again and again", ["a|x|F", "x|x|F", "x|y|F", "y|x|F", "x|x|F"], "x|y|x|x"],
    [
      "the foot takes more room, and less again",
      ["a|b|c|F", "b|c|d|F", "d|busy|F|G", "d|e|busy|G", "c|d|e|F", "d|e|f|F"],
      "d|e|f",
    ],
    ["a menu is shown below what is new", ["H|F|", "H|a|b|m1|m2|F", "H|a|b|n3|n4|F", "H|a|b|c|F|"], "a|b|c"],
    ["the screen gets lower", ["a|b|c|F", "a|b|c|d|e|F", "d|e|F", "e|f|F"], "d|e|f"],
    ["the screen gets higher", ["a|b|F", "b|c|F", "c|d|F", "a|b|c|d|F", "b|c|d|e|F"], "c|d|e"],
  ];
  test.each(cases)("%s", (_, [first = "", ...others], expected) => {
    const stitching = opened(first);
    for (const picture of others) stitching.look(rowsOf(picture));
    expect(newsOf(stitching)).toBe(expected);
  });

  test("a thousand lines through a small window are all there", () => {
    const lines = Array.from({ length: 1_000 }, (_, index) => `line ${index}`);
    const stitching = opened(" | | | ");
    for (let at = 0; at + 4 <= lines.length; at += 2) stitching.look(lines.slice(at, at + 4).map(rowOf));
    expect(newsOf(stitching)).toBe(lines.join("|"));
  });

  test("what is too much is left out, and said to be", () => {
    const stitching = opened(" ", 100);
    for (let at = 0; at < 1_000; at++) stitching.look(rowsOf(`line ${at}|line ${at + 1}`));
    const { lines } = stitching.news();
    expect(lines.length).toBeLessThan(30);
    expect(lines.slice(-3)).toEqual([leftOut, "line 999", "line 1000"]);
  });

  test("lines that the edge of the terminal broke are whole again, on the screen and above it", () => {
    const stitching = opened(" | | ");
    const broken = (text: string): Row[] => [
      { text: `${text} is`, space: " ", isWrapped: false },
      { ...rowOf("long"), isWrapped: true },
    ];
    stitching.look([...broken("one"), rowOf("two")]);
    for (const [row] of [["one is"], ["long"]].entries())
      stitching.scrolledUp(0, 2, broken("one")[row] ?? blankRow);
    stitching.look([rowOf("two"), ...broken("three")]);
    expect(newsOf(stitching)).toBe("one is long|two|three is long");
  });
});

describe("what the terminal scrolls", () => {
  test("the same line, and an empty one, as often as it was there", () => {
    const stitching = opened("H| | |F");
    for (const text of ["", "", "x", "x", "x", "", "", "x"]) stitching.scrolledUp(1, 2, rowOf(text));
    stitching.look(rowsOf("H|x||F"));
    expect(newsOf(stitching)).toBe("x|x|x|||x|x");
  });

  test("lines that are deleted under a heading have scrolled, others have gone", () => {
    const stitching = opened("H|a|b|c");
    stitching.deleted(1, 3, rowsOf("a"), false);
    stitching.look(rowsOf("H|b|c|d"));
    stitching.look(rowsOf("H|b|c|d|status|e"));
    stitching.deleted(4, 5, rowsOf("status"), false);
    stitching.look(rowsOf("H|b|c|d|e| "));
    expect(newsOf(stitching)).toBe("d|e");
  });

  test("room at the top that shows again what had left", () => {
    const stitching = opened("a|b|c");
    stitching.scrolledUp(0, 2, rowOf("a"));
    stitching.look(rowsOf("b|c|d"));
    stitching.scrolledUp(0, 2, rowOf("b"));
    stitching.look(rowsOf("c|d|e"));
    stitching.inserted(0, 2, true);
    stitching.inserted(0, 2, true);
    stitching.look(rowsOf("a|b|c"));
    stitching.look(rowsOf("b|c|d"));
    stitching.look(rowsOf("c|d|e"));
    expect(newsOf(stitching)).toBe("d|e");
  });
});

describe("everything is wiped away", () => {
  const wiped = (first: string, before: string, after: readonly string[]): Stitching => {
    const stitching = opened(first);
    stitching.look(rowsOf(before));
    stitching.startAgain();
    for (const picture of after) stitching.look(rowsOf(picture));
    return stitching;
  };
  const cases: [what: string, first: string, before: string, after: string[], news: string][] = [
    ["and printed again, with more", "a|b|> ", "a|b|c|> ", ["a|b|c|d|> "], "c|d"],
    ["and printed again from before the beginning", "b|c|> ", "b|c|d|> ", ["z|a|b|c|d|e|> "], "d|e"],
    ["and something else printed", "a|b|> ", "a|b|c|> ", ["x|y|> "], "c|x|y"],
  ];
  test.each(cases)("%s", (_, first, before, after, news) => {
    expect(newsOf(wiped(first, before, after))).toBe(news);
  });

  test("nothing tells what was there before: all of it may be there once more", () => {
    expect(wiped("> ", "c|> ", ["x|y|> "]).news().isReprinted).toBe(true);
    expect(wiped("a|b|> ", "a|b|c|> ", ["a|b|c|d|> "]).news().isReprinted).toBe(false);
  });
});

test("lines are paired in order, the rare ones first", () => {
  expect(align(["x", "x", "x", "a"], ["a", "x", "x", "x"])).toEqual([[3, 0]]);
  expect(align(["a", undefined, "b"], ["a", "", "b"])).toEqual([
    [0, 0],
    [2, 2],
  ]);
});
