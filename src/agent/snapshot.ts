/**
 * A terminal's screen as what another terminal must be sent to look the same. Modes are not in it but for the alternate screen:
 * attachment.ts follows these in the agent's output, since the screen does not keep all of them.
 */
import { SerializeAddon } from "@xterm/addon-serialize";
import type { IBufferCell, Terminal } from "@xterm/headless";

/** Once for each terminal. */
export type Snapshots = (isComplete: boolean) => Promise<string>;

/**
 * `terminal` is made with `allowProposedApi`. What was written to it before a snapshot is asked for is in it, what is written after is
 * not, for a terminal takes in one portion after the other. With `isComplete` the lines that scrolled away are there as well.
 */
export function openSnapshots(terminal: Terminal): Snapshots {
  const addon = new SerializeAddon();
  terminal.loadAddon(addon);
  return (isComplete) =>
    new Promise((resolve) => {
      terminal.write("", () => {
        const text = addon.serialize({ excludeModes: true, ...(isComplete ? {} : { scrollback: 0 }) });
        resolve(text + coloursBelow(terminal));
      });
    });
}

/** The addon leaves out what is below the last text, also where it has a background of its own. */
function coloursBelow({ buffer: { active }, rows, cols }: Terminal): string {
  const painted: string[] = [];
  const cell = active.getNullCell();
  const lineAt = (row: number) => active.getLine(active.baseY + row);
  for (let row = rows - 1; row >= 0 && lineAt(row)?.translateToString(true) === ""; row--) {
    let end = cols;
    for (let start = cols - 1; start >= 0; start--) {
      const background = backgroundOf(lineAt(row)?.getCell(start, cell));
      if (start > 0 && background === backgroundOf(lineAt(row)?.getCell(start - 1, cell))) continue;
      if (background !== "")
        painted.push(`\x1b[${row + 1};${start + 1}H\x1b[${background}m\x1b[${end - start}X`);
      end = start;
    }
  }
  // With the cursor and the colours as they were.
  return painted.length === 0 ? "" : `\x1b7${painted.join("")}\x1b8`;
}

/** As the parameters that set it; empty for the terminal's own. */
function backgroundOf(cell: IBufferCell | undefined): string {
  if (cell === undefined || cell.isBgDefault()) return "";
  const colour = cell.getBgColor();
  if (!cell.isBgRGB()) return `48;5;${colour}`;
  return `48;2;${colour >> 16};${(colour >> 8) & 0xff};${colour & 0xff}`;
}
