/** How values look to a person: foreign text made harmless, times in local time, aligned columns. */

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
const unsafe = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/**
 * Text from elsewhere that may be shown on a terminal: newlines and tabs stay, every other control character (escape
 * sequences begin with one) and every character that reorders text is shown as `\x1b` or `\u202e`. A carriage return before a
 * newline is dropped.
 */
export const printable = (text: string): string =>
  text.replaceAll("\r\n", "\n").replace(unsafe, (character) => {
    const code = character.charCodeAt(0);
    return code < 0x100
      ? `\\x${code.toString(16).padStart(2, "0")}`
      : `\\u${code.toString(16).padStart(4, "0")}`;
  });

/** As `printable`, on one line. */
export const printableLine = (text: string): string =>
  printable(text).replaceAll("\n", "\\n").replaceAll("\t", "\\t");

/** `2026-01-31 13:05:09` in the local time zone; text that is no time comes back as it is. */
export function localTime(iso: string): string {
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return printableLine(iso);
  const two = (value: number): string => String(value).padStart(2, "0");
  const day = `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
  return `${day} ${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
}

/** The first 16 digits of a key: enough to tell members apart, and accepted as an address. */
export const shortKey = (pubkey: string): string => pubkey.slice(0, 16);

/** `3 messages`, `1 message`. */
export const counted = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** `90 s`, `3 min`, `2 h`, `5 d`: the largest unit that still tells something. */
export function spanText(wholeSeconds: number): string {
  if (wholeSeconds < 120) return `${Math.round(wholeSeconds)} s`;
  if (wholeSeconds < 7200) return `${Math.round(wholeSeconds / 60)} min`;
  if (wholeSeconds < 172_800) return `${Math.round(wholeSeconds / 3600)} h`;
  return `${Math.round(wholeSeconds / 86_400)} d`;
}

/** `512 bytes`, `64 kB`, `1.5 MB`. */
export function byteCount(bytes: number): string {
  if (bytes < 1000) return counted(bytes, "byte");
  if (bytes < 1_000_000) return `${Math.round(bytes / 1000)} kB`;
  return `${(bytes / 1_000_000).toFixed(1)} MB`;
}

/** Rows in aligned columns, two spaces apart; the last column is not padded. */
export function columns(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [column, cell] of row.entries())
      widths[column] = Math.max(widths[column] ?? 0, Bun.stringWidth(cell));
  }
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell + " ".repeat(Math.max(0, (widths[column] ?? 0) - Bun.stringWidth(cell))))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
