/**
 * Agents that answer on a terminal, made up by a seed: what they say, and the bytes with which they say it, in each of the styles that
 * there are. What they leave out is not held against whoever follows them: where two pictures do not tell how far the answer has moved, such
 * an agent says something else.
 */
import { Chance } from "../sim/world";

export type Style = (typeof styles)[number];
/** How the screen comes from one picture to the next. */
export const styles = [
  "whole",
  "cleared",
  "cleared from the top",
  "erased",
  "rows",
  "cells",
  "shuffled in an update",
  "upwards in an update",
  "region",
  "region and indexes",
  "scrolled up",
  "deleted and inserted",
  "printed",
  "printed behind indexes",
  "printed anew",
] as const;

export const question = "> question";

export interface Performance {
  rows: number;
  cols: number;
  /** What is there before the answer begins. */
  before: string;
  /** The answer. */
  output: string;
  /** What was answered, as rows of the screen or whole lines, whichever the agent prints. */
  lines: string[];
}

interface Layout {
  header: readonly string[];
  /** Where the input is as long as there is room: right below the answer, or at the bottom, with the answer above it or at the top. */
  place: "below" | "bottom, answer above" | "bottom, answer at the top";
}

const wide = ["日本語テキスト", "e\u0301 a\u0308 combined", "한국어 x", "👍 done", "naïve café"];
const common = ["x", "}", "  end", "```", "y y y"];

export function perform(style: Style, seed: number, screen: "normal" | "alternate"): Performance {
  return new Performer(style, new Chance(seed), screen).perform();
}

class Performer {
  readonly #style: Style;
  readonly #chance: Chance;
  readonly #isAlternate: boolean;
  readonly #rows: number;
  readonly #cols: number;
  readonly #layout: Layout;
  readonly #said: string[] = [];
  /** How much of it was there before. */
  #old = 0;
  #isWorking = false;
  #frame = 0;
  #unique = 0;
  #picture: string[] = [];
  /** Where the cursor was left by what is printed line by line. */
  #bottomLines = 0;

  constructor(style: Style, chance: Chance, screen: "normal" | "alternate") {
    this.#style = style;
    this.#chance = chance;
    this.#isAlternate = screen === "alternate";
    this.#rows = 9 + chance.below(10);
    this.#cols = 24 + chance.below(20);
    const heading = chance.below(3);
    this.#layout = {
      header: ["=== heading ===", "some model"].slice(0, heading),
      place: chance.pick(["below", "bottom, answer above", "bottom, answer at the top"]),
    };
  }

  perform(): Performance {
    const isPrinted = this.#style.startsWith("printed");
    for (let line = this.#chance.below(2 * this.#rows); line > 0; line--)
      this.#said.push(this.#newLine(isPrinted));
    this.#old = this.#said.length;
    let before = this.#isAlternate ? "\x1b[?1049h\x1b[H" : "";
    let output = "";
    if (isPrinted) {
      before += this.#print(this.#said);
    } else {
      if (!this.#isAlternate) before += "\x1b[2J";
      this.#picture = Array.from({ length: this.#rows }, () => "");
      before += this.#show();
    }
    output += this.#add([question, ""], isPrinted);
    this.#isWorking = true;
    output += isPrinted ? this.#print([]) : this.#show();
    const count = 1 + this.#chance.below(4 * this.#rows);
    for (let said = 0; said < count; ) {
      if (this.#chance.happens(0.2)) {
        this.#frame++;
        output += isPrinted ? this.#print([]) : this.#show();
      }
      const lines = isPrinted ? this.#anyLines() : this.#tellable();
      said += lines.length;
      output += this.#add(lines, isPrinted);
    }
    if (this.#chance.happens(0.7)) output += this.#add(["the end"], isPrinted);
    this.#isWorking = false;
    output += isPrinted ? this.#print([]) : this.#show();
    return {
      rows: this.#rows,
      cols: this.#cols,
      before,
      output,
      lines: this.#said.slice(this.#old),
    };
  }

  #add(lines: readonly string[], isPrinted: boolean): string {
    this.#said.push(...lines);
    return isPrinted ? this.#print(lines) : this.#show();
  }

  // ── What is said ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #newLine(isPrinted: boolean): string {
    const chance = this.#chance;
    if (chance.happens(0.25)) return "";
    if (chance.happens(0.3)) return chance.pick(common);
    if (chance.happens(0.15)) return chance.pick(wide);
    if (isPrinted && chance.happens(0.15)) {
      const line = Array.from({ length: 5 + chance.below(40) }, () =>
        chance.pick(["words", "日本", "e\u0301", "to"]),
      );
      return line.join(" ");
    }
    return this.#uniqueLine();
  }

  readonly #uniqueLine = (): string => `${this.#chance.pick(["word", "line", "  item"])} ${++this.#unique}`;

  #anyLines(): string[] {
    return Array.from({ length: 1 + this.#chance.below(this.#rows * 2) }, () => this.#newLine(true));
  }

  /** Lines of which the next picture tells how many they are. */
  #tellable(): string[] {
    const lines = Array.from({ length: this.#chance.happens(0.6) ? 1 : 1 + this.#chance.below(4) }, () =>
      this.#newLine(false),
    );
    // Where the answer stands at the bottom, what is empty above it moves with it.
    const isAbove = this.#layout.place === "bottom, answer above";
    const above = Array.from({ length: isAbove ? this.#height() : 0 }, () => "");
    if (tells([...above, ...this.#said], lines, this.#height())) return lines;
    return [this.#uniqueLine()];
  }

  // ── What is shown ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The bottom of the screen. */
  #foot(): string[] {
    const field = ["", "| > input |", "98% left"];
    return this.#isWorking ? ["", `* Working ${this.#frame}s (esc)`, ...field] : field;
  }

  #height(): number {
    return this.#rows - this.#layout.header.length - this.#foot().length;
  }

  #window(said: readonly string[]): readonly string[] {
    return said.slice(-this.#height());
  }

  #compose(): string[] {
    const { header, place } = this.#layout;
    const shown = this.#window(this.#said);
    const free = Array.from({ length: this.#height() - shown.length }, () => "");
    if (place === "below") return [...header, ...shown, ...this.#foot(), ...free];
    if (place === "bottom, answer above") return [...header, ...free, ...shown, ...this.#foot()];
    return [...header, ...shown, ...free, ...this.#foot()];
  }

  #show(): string {
    const before = this.#picture;
    const now = this.#compose();
    this.#picture = now;
    return this.#framed(this.#paint(before, now));
  }

  /** Some agents hide the cursor while they paint, or have the terminal wait; some do neither. */
  #framed(text: string): string {
    if (this.#style.endsWith("in an update")) return `\x1b[?2026h${text}\x1b[?2026l`;
    const cursor = `\x1b[${this.#rows - 1};4H`;
    const isWhole = ["whole", "cleared", "cleared from the top", "erased"].includes(this.#style);
    return this.#chance.pick([
      `\x1b[?25l${text}${cursor}\x1b[?25h`,
      `${text}${cursor}`,
      isWhole ? text : `${text}\x1b[H`,
    ]);
  }

  #paint(before: readonly string[], now: readonly string[]): string {
    switch (this.#style) {
      case "whole":
        return `\x1b[H${now.map((text) => `${coloured(this.#chance, text)}\x1b[K`).join("\r\n")}`;
      case "cleared":
        return `\x1b[2J\x1b[H${now.join("\r\n")}`;
      case "cleared from the top":
        return `\x1b[H\x1b[J${now.join("\r\n")}`;
      case "erased": {
        // From the bottom to the top, and then written from the top.
        const erased = now.map((_, row) => `\x1b[${now.length - row};1H\x1b[2K`).join("");
        return `${erased}\x1b[H${now.join("\r\n")}`;
      }
      case "cells":
        return now.map((text, row) => cells(before[row] ?? "", text, row)).join("");
      case "shuffled in an update":
        return shuffled(this.#chance, changedRows(before, now)).join("");
      case "upwards in an update":
        return changedRows(before, now).reverse().join("");
      case "region":
      case "region and indexes":
      case "scrolled up":
      case "deleted and inserted":
        return this.#scroll(before, now);
      default:
        return changedRows(before, now).join("");
    }
  }

  /** By the terminal where it saves something, and the rest row by row. */
  #scroll(before: readonly string[], now: readonly string[]): string {
    const top = this.#layout.header.length;
    const end = Math.min(before.length - 5, now.length - 5);
    const distance = [1, 2, 3, 4].find((by) => {
      const rest = before.slice(top + by, end);
      return rest.some((text) => text !== "") && rest.every((text, row) => text === now[top + row]);
    });
    const isSame = before.slice(top, end).every((text, row) => text === now[top + row]);
    if (distance === undefined || isSame || end - top < 2 || distance >= end - top)
      return changedRows(before, now).join("");
    const room = Array.from({ length: distance }, () => "");
    const shifted = [
      ...before.slice(0, top),
      ...before.slice(top + distance, end),
      ...room,
      ...before.slice(end),
    ];
    const rest = changedRows(shifted, now).join("");
    const region = (text: string): string => `\x1b[${top + 1};${end}r${text}\x1b[r`;
    if (this.#style === "region") return region(`\x1b[${end};1H${"\n".repeat(distance)}`) + rest;
    if (this.#style === "region and indexes")
      return region(`\x1b[${end};1H${"\x1bD".repeat(distance)}`) + rest;
    if (this.#style === "scrolled up") return region(`\x1b[${distance}S`) + rest;
    return `\x1b[${top + 1};1H\x1b[${distance}M\x1b[${end - distance + 1};1H\x1b[${distance}L${rest}`;
  }

  // ── What is printed ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** Above the bottom, for good. */
  #print(lines: readonly string[]): string {
    const foot = this.#foot();
    const up = this.#bottomLines === 0 ? "" : `\x1b[${this.#bottomLines - 1}A\r`;
    const text = lines.map((line) => `${coloured(this.#chance, line)}\r\n`).join("");
    if (this.#style === "printed anew" && this.#bottomLines > 0 && lines.length > 0) {
      const all = [...this.#said.map((line) => `${line}\r\n`), foot.join("\r\n")].join("");
      this.#bottomLines = foot.length;
      return `\x1b[2J${this.#isAlternate ? "" : "\x1b[3J"}\x1b[H${all}`;
    }
    if (this.#style === "printed behind indexes" && this.#bottomLines > 0 && lines.length > 0) {
      // The bottom is pushed down or scrolled up by one at a time, and what is new written into the room above it.
      return this.#printAbove(lines);
    }
    const isRest = this.#bottomLines > 0;
    this.#bottomLines = foot.length;
    return `${isRest ? `${up}\x1b[J` : ""}${text}${foot.join("\r\n")}`;
  }

  #printAbove(lines: readonly string[]): string {
    const up = `\x1b[${this.#bottomLines - 1}A\r`;
    const foot = this.#foot();
    this.#bottomLines = foot.length;
    const text = lines.map((line) => `${line}\r\n`).join("");
    return `${up}\x1b[${foot.length}M${text}${foot.join("\r\n")}`;
  }
}

/** Whether a picture of the last lines tells how many of them have come since the picture before. */
function tells(said: readonly string[], more: readonly string[], height: number): boolean {
  const left = Math.min(more.length, said.length + more.length - height);
  if (left <= 0) return true;
  const before = said.slice(-height);
  // Rows that are free look like empty lines of the answer.
  if (said.length < height || before.every((text) => text === "")) return false;
  const now = [...said, ...more].slice(-height);
  // As few as possible are taken to have come.
  for (let fewer = 0; fewer < left; fewer++) {
    if (before.slice(fewer).every((text, row) => text === now[row])) return false;
  }
  if (now.every((text, row) => text === "" || text === before[row])) return false;
  // One line is told by its neighbours, several by what has stayed.
  if (left > height / 2) return false;
  const once = (lines: readonly string[], text: string): boolean =>
    lines.filter((line) => line === text).length === 1;
  return (
    left === 1 || before.slice(left).some((text) => text !== "" && once(before, text) && once(now, text))
  );
}

const changedRows = (before: readonly string[], now: readonly string[]): string[] =>
  now.flatMap((text, row) => (text === before[row] ? [] : [`\x1b[${row + 1};1H\x1b[K${text}`]));

/** Only what is different, and spaces where nothing is any more. */
function cells(before: string, now: string, row: number): string {
  if (before === now) return "";
  // Wide characters are painted with all that follows.
  if (/[^\x20-\x7e]/.test(before + now)) return `\x1b[${row + 1};1H\x1b[K${now}`;
  const width = Math.max(before.length, now.length);
  const [a, b] = [before.padEnd(width), now.padEnd(width)];
  let text = "";
  for (let at = 0; at < width; at++) {
    if (a[at] === b[at]) continue;
    let end = at;
    while (end < width && a[end] !== b[end]) end++;
    text += `\x1b[${row + 1};${at + 1}H${b.slice(at, end)}`;
    at = end;
  }
  return text;
}

const coloured = (chance: Chance, text: string): string =>
  text !== "" && chance.happens(0.2) ? `\x1b[1;38;5;${chance.below(256)}m${text}\x1b[0m` : text;

function shuffled<T>(chance: Chance, items: readonly T[]): T[] {
  const left = [...items];
  return items.flatMap(() => left.splice(chance.below(left.length), 1));
}

/** In pieces, cut anywhere. */
export function* pieces(bytes: Uint8Array, seed: number): Generator<Uint8Array> {
  const chance = new Chance(seed);
  const lengthMax = chance.pick([1, 7, 60, 700, 5_000]);
  for (let at = 0; at < bytes.length; ) {
    const end = at + 1 + chance.below(lengthMax);
    yield bytes.subarray(at, end);
    at = end;
  }
}
