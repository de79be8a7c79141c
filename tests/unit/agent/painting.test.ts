/**
 * What agents have shown that paint their screens, line by line: made-up answers with empty lines and lines that repeat, painted in every
 * style, and cut into pieces anywhere. A seed that fails is named.
 */
import { describe, expect, test } from "bun:test";
import { openScreen } from "~/agent/screen";
import { type Performance, perform, pieces, question, styles } from "../../support/painters";

const seeds = Number(process.env.SEEDS ?? 40);
const firstSeed = Number(process.env.FIRST_SEED ?? 1);

async function follow({ rows, cols, before, output }: Performance, seed: number): Promise<string[]> {
  const screen = await openScreen({ rows, cols, answer: () => undefined, tookIn: () => undefined });
  screen.write(Buffer.from(before));
  await screen.settled();
  screen.record();
  for (const piece of pieces(Buffer.from(output), seed)) screen.write(piece);
  await screen.settled();
  const { lines } = screen.recorded();
  screen.dispose();
  return lines;
}

/** From what was asked on: what stands before that was there before, and may be printed once more. */
const trimmed = (lines: readonly string[]): string[] =>
  lines.slice(Math.max(0, lines.indexOf(question)), lines.findLastIndex((line) => line !== "") + 1);

for (const screen of ["alternate", "normal"] as const) {
  describe(`the ${screen} screen`, () => {
    test.each(styles)("%s", async (style) => {
      const failed: number[] = [];
      let first: unknown;
      for (let seed = firstSeed; seed < firstSeed + seeds; seed++) {
        const performance = perform(style, seed, screen);
        const lines = await follow(performance, seed);
        if (Bun.deepEquals(trimmed(lines), trimmed(performance.lines))) continue;
        failed.push(seed);
        first ??= { seed, lines, expected: trimmed(performance.lines) };
      }
      if (process.env.BRIEF) {
        if (failed.length) console.log(screen, style, failed.length, failed.slice(0, 8).join(" "));
      } else expect({ failed, first }).toEqual({ failed: [], first: undefined });
    });
  });
}
