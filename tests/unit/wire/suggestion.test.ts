import { expect, test } from "bun:test";
import { closest, editDistance } from "~/wire/suggestion";

const distances: [left: string, right: string, edits: number][] = [
  ["", "", 0],
  ["", "abc", 3],
  ["abc", "", 3],
  ["send", "send", 0],
  ["sned", "send", 1],
  ["sedn", "send", 1],
  ["snd", "send", 1],
  ["sennd", "send", 1],
  ["kitten", "sitting", 3],
];
test.each(distances)("from %j to %j: %d", (left, right, edits) => {
  expect(editDistance(left, right)).toBe(edits);
  expect(editDistance(right, left)).toBe(edits);
});

const words = ["send", "track", "inbox", "peers", "events", "profile", "--json", "--tcp-port"];
const guesses: [wanted: string, guess: string | undefined][] = [
  ["sned", "send"],
  ["inbx", "inbox"],
  ["inb", "inbox"],
  ["prof", "profile"],
  ["--jsn", "--json"],
  ["--tcp", "--tcp-port"],
  ["xyzzy", undefined],
  ["", undefined],
  ["x", undefined],
];
test.each(guesses)("%j: %p", (wanted, guess) => {
  expect(closest(wanted, words)).toBe(guess);
});
