/** Rows of a terminal's screen as text, and whole lines out of rows that the terminal's edge broke. */
import type { IBuffer } from "@xterm/headless";

export interface Row {
  /** Without the white space at its end. */
  text: string;
  /** That white space, where the line goes on in the next row. */
  space: string;
  /** Goes on from the row before. */
  isWrapped: boolean;
}

export const blankRow: Row = { text: "", space: "", isWrapped: false };

export function readRow(buffer: IBuffer, at: number): Row {
  const { text: whole, goesOn } = rowText(buffer, at);
  const text = whole.trimEnd();
  const isWrapped = buffer.getLine(at)?.isWrapped ?? false;
  // Nothing goes on in the next row: something stood here that does not any more.
  if (text === "") return isWrapped ? { ...blankRow, isWrapped } : blankRow;
  return { text, space: goesOn ? whole.slice(text.length) : "", isWrapped };
}

/** A row goes on in the next one when the terminal's edge broke it; then its end is text, too. */
export function rowText(buffer: IBuffer, at: number): { text: string; goesOn: boolean } {
  const line = buffer.getLine(at);
  if (line === undefined) return { text: "", goesOn: false };
  if (!buffer.getLine(at + 1)?.isWrapped) return { text: line.translateToString(true), goesOn: false };
  // A wide character that did not fit into the last column has left it empty.
  const last = line.getCell(line.length - 1);
  const isLastFree = last?.getCode() === 0 && last.getWidth() === 1;
  return { text: line.translateToString(false, 0, line.length - (isLastFree ? 1 : 0)), goesOn: true };
}

export function readRows(buffer: IBuffer, start: number, end: number): Row[] {
  return Array.from({ length: Math.max(0, end - start) }, (_, index) => readRow(buffer, start + index));
}
