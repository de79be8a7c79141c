/**
 * Where bytes of UTF-8 may be cut. The emulator loses a character that comes in pieces when the first of them ends in 0x80, as those of
 * dashes, bullets and curly quotes do.
 */

const isContinuation = (byte: number | undefined): boolean => byte !== undefined && (byte & 0xc0) === 0x80;

/** Bytes of a character, by its first one. Nothing else begins one: it stands for itself. */
const lengthBy = (byte: number): number => (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1);

const characterBytesMax = 4;

/** `end`, or the end of the character in which that is. */
export function characterEnd(bytes: Uint8Array, end: number): number {
  let next = end;
  while (next - end < characterBytesMax - 1 && isContinuation(bytes[next])) next++;
  return next;
}

/** How many of the last bytes are a character that is not there as a whole yet. */
export function unfinishedBytes(bytes: Uint8Array): number {
  for (let count = 1; count < characterBytesMax && count <= bytes.length; count++) {
    const byte = bytes[bytes.length - count] ?? 0;
    if (isContinuation(byte)) continue;
    return lengthBy(byte) > count ? count : 0;
  }
  return 0;
}
