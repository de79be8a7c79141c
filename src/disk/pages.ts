/**
 * Reads what is left of an SQLite database page by page, where SQLite itself gives up: every page that still looks like one that
 * holds rows or index entries is taken apart, whether or not anything leads to it. Nothing found here is believed: the caller
 * checks every value. The file and its log are only read. Format: https://www.sqlite.org/fileformat2.html
 */
import { closeSync, fstatSync, openSync, readFileSync, readSync } from "node:fs";
import { fileExists, storageError } from "~/disk/file";

/** Undefined is what cannot be read, or is no UTF-8. */
export type Value = null | number | bigint | string | Uint8Array | undefined;

/** What was found in one cell. */
export interface Found {
  /** Of a table row. */
  rowid: number;
  columns: Value[];
}

/** One state of one page. */
export interface PageImage {
  number: number;
  bytes: Buffer;
  /**
   * `live` is what the database consists of, `stray` what a damaged log still holds of later changes, and `unused` what stood there
   * before: in pages that were put aside for new ones, and in those that the log replaces, which may be the log of another file.
   */
  kind: "live" | "unused" | "stray";
}

/**
 * Whether the log holds commits that SQLite passes over, because something before them in it is damaged. The last commit alone may
 * well be in pieces: that is how a power failure leaves one that nobody was told of yet. The head never: it is on the disk before
 * anything follows it.
 */
export function losesCommits(path: string): boolean {
  try {
    if (!fileExists(`${path}-wal`)) return false;
    const bytes = readFileSync(`${path}-wal`);
    const wal = new Wal(bytes, Wal.pageBytesIn(bytes) ?? fallbackPageBytes);
    return wal.strayCommits > 1 || wal.isHeadless;
  } catch (error) {
    throw storageError(`cannot read ${path}-wal`, error);
  }
}

const magic = Buffer.from("SQLite format 3\0", "latin1");
const fallbackPageBytes = 4096;
const headerBytes = 100;
const walHeaderBytes = 32;
const frameHeaderBytes = 24;
const columnsMax = 100;

const tableLeaf = 0x0d;
const indexLeaf = 0x0a;
const indexInterior = 0x02;

export class DamagedFile {
  readonly #fd: number;
  readonly #wal: Wal;
  readonly #unused: ReadonlySet<number>;
  /** Of the database and its log. */
  readonly bytes: number;
  readonly #pageBytes: number;
  readonly #usableBytes: number;
  readonly #pages: number;

  /** Opens the database at `path` with its log. Throws `storage_*` when the files cannot be read at all. */
  constructor(path: string) {
    try {
      this.#fd = openSync(path, "r");
      const fileBytes = fstatSync(this.#fd).size;
      const walBytes = fileExists(`${path}-wal`) ? readFileSync(`${path}-wal`) : Buffer.alloc(0);
      this.bytes = fileBytes + walBytes.length;
      const header = this.#read(0, headerBytes);
      const isWhole = header.subarray(0, magic.length).equals(magic);
      const stated = isWhole ? pageBytesOf(header.readUInt16BE(16)) : undefined;
      this.#pageBytes = stated ?? Wal.pageBytesIn(walBytes) ?? fallbackPageBytes;
      this.#usableBytes = this.#pageBytes - (isWhole && stated !== undefined ? (header[20] ?? 0) : 0);
      this.#wal = new Wal(walBytes, this.#pageBytes);
      this.#pages = Math.max(Math.ceil(fileBytes / this.#pageBytes), this.#wal.pagesMax);
      this.#unused = this.#findUnused();
    } catch (error) {
      throw storageError(`cannot read ${path}`, error);
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  /** Every state of every page: first what is live, then what a damaged log adds, then what is not used any more. */
  *images(): Generator<PageImage> {
    for (let number = 1; number <= this.#pages; number++) {
      const bytes = this.#unused.has(number) ? undefined : this.#page(number, false);
      if (bytes !== undefined) yield { number, bytes, kind: "live" };
    }
    for (const [number, bytes] of this.#wal.strays()) yield { number, bytes, kind: "stray" };
    for (const number of this.#unused) {
      const bytes = this.#page(number, false);
      if (bytes !== undefined) yield { number, bytes, kind: "unused" };
    }
    for (const number of this.#wal.replaced()) {
      const bytes = this.#read((number - 1) * this.#pageBytes, this.#pageBytes);
      yield { number, bytes, kind: "unused" };
    }
  }

  /** The rows in a page of a table; none when it is no such page. */
  *rows(image: PageImage): Generator<Found> {
    for (const at of cellsOf(image, [tableLeaf])) {
      const size = varint(image.bytes, at);
      const rowid = size && varint(image.bytes, size.next);
      if (size === undefined || rowid === undefined || !Number.isSafeInteger(rowid.value)) continue;
      const columns = this.#record(image, rowid.next, size.value, this.#usableBytes - 35);
      if (columns !== undefined) yield { rowid: rowid.value, columns };
    }
  }

  /** The entries in a page of an index, or of a table that is stored as one; none when it is no such page. */
  *entries(image: PageImage): Generator<Value[]> {
    const inside = Math.floor(((this.#usableBytes - 12) * 64) / 255) - 23;
    for (const at of cellsOf(image, [indexLeaf, indexInterior])) {
      const childBytes = typeOf(image) === indexInterior ? 4 : 0;
      const size = varint(image.bytes, at + childBytes);
      if (size === undefined) continue;
      const columns = this.#record(image, size.next, size.value, inside);
      if (columns !== undefined) yield columns;
    }
  }

  /** A record, of which `insideMax` bytes at most stand in the page itself and the rest on a chain of others. */
  #record(image: PageImage, at: number, size: number, insideMax: number): Value[] | undefined {
    if (size < 1 || size > this.#pages * this.#pageBytes) return undefined;
    let inside = size;
    if (size > insideMax) {
      const least = Math.floor(((this.#usableBytes - 12) * 32) / 255) - 23;
      const best = least + ((size - least) % (this.#usableBytes - 4));
      inside = best <= insideMax ? best : least;
    }
    const end = at + inside;
    if (end > this.#usableBytes) return undefined;
    const parts = [image.bytes.subarray(at, end)];
    if (inside < size) {
      if (end + 4 > this.#usableBytes) return undefined;
      parts.push(...this.#chain(image, image.bytes.readUInt32BE(end), size - inside));
    }
    return decodeRecord(parts.length === 1 ? (parts[0] ?? Buffer.alloc(0)) : Buffer.concat(parts));
  }

  /** As much of the chain as can be followed. */
  *#chain(image: PageImage, first: number, bytesWanted: number): Generator<Buffer> {
    let left = bytesWanted;
    for (let number = first; left > 0; ) {
      const bytes = this.#page(number, image.kind === "stray");
      if (bytes === undefined || number === image.number) return;
      const part = bytes.subarray(4, Math.min(this.#usableBytes, 4 + left));
      yield part;
      left -= part.length;
      number = bytes.readUInt32BE(0);
    }
  }

  #page(number: number, isStray: boolean): Buffer | undefined {
    if (number < 1 || number > this.#pages) return undefined;
    const stray = isStray ? this.#wal.stray(number) : undefined;
    return stray ?? this.#wal.page(number) ?? this.#read((number - 1) * this.#pageBytes, this.#pageBytes);
  }

  /** What is beyond the end of the file reads as zeros. */
  #read(offset: number, length: number): Buffer {
    const bytes = Buffer.alloc(length);
    readSync(this.#fd, bytes, 0, length, offset);
    return bytes;
  }

  /**
   * The free pages, by the list of them. They may hold earlier states of rows, which must not be taken for the last. A list that
   * does not add up is not believed at all, so that no page is passed over because of it.
   */
  #findUnused(): ReadonlySet<number> {
    const none: ReadonlySet<number> = new Set();
    const first = this.#page(1, false);
    if (first === undefined || !first.subarray(0, magic.length).equals(magic)) return none;
    const total = first.readUInt32BE(36);
    if (total > this.#pages) return none;
    const unused = new Set<number>();
    for (let trunk = first.readUInt32BE(32); trunk !== 0; ) {
      const bytes = this.#page(trunk, false);
      if (bytes === undefined || trunk === 1 || unused.has(trunk)) return none;
      unused.add(trunk);
      const leaves = bytes.readUInt32BE(4);
      if (leaves > this.#usableBytes / 4 - 2) return none;
      for (let leaf = 0; leaf < leaves; leaf++) {
        const number = bytes.readUInt32BE(8 + 4 * leaf);
        if (number < 2 || number > this.#pages || unused.has(number)) return none;
        unused.add(number);
      }
      trunk = bytes.readUInt32BE(0);
    }
    return unused.size === total ? unused : none;
  }
}

// ── Pages and records ───────────────────────────────────────────────────────────────────────────────────────────────

const headerOffset = ({ number }: PageImage): number => (number === 1 ? headerBytes : 0);

const typeOf = (image: PageImage): number | undefined => image.bytes[headerOffset(image)];

/** Where the cells of a page begin; none when it is not of one of these types. */
function* cellsOf(image: PageImage, types: readonly number[]): Generator<number> {
  const type = typeOf(image);
  if (type === undefined || !types.includes(type)) return;
  const { bytes } = image;
  const header = headerOffset(image);
  const count = bytes.readUInt16BE(header + 3);
  const pointers = header + (type === indexInterior ? 12 : 8);
  for (let cell = 0; cell < count && pointers + 2 * cell + 2 <= bytes.length; cell++) {
    // SQLite, too, looks at no more bits of it than a page needs.
    const at = bytes.readUInt16BE(pointers + 2 * cell) & (bytes.length - 1);
    if (at >= pointers && at < bytes.length - 3) yield at;
  }
}

/** A number of 1 to 9 bytes. What does not fit a double exactly comes out as no safe integer, and is refused by who uses it. */
function varint(bytes: Buffer, at: number): { value: number; next: number } | undefined {
  let value = 0;
  for (let index = 0; index < 9; index++) {
    const byte = bytes[at + index];
    if (byte === undefined) return undefined;
    if (index === 8) return { value: value * 256 + byte, next: at + 9 };
    value = value * 128 + (byte & 0x7f);
    if (byte < 0x80) return { value, next: at + index + 1 };
  }
  return undefined;
}

const integerBytes = [0, 1, 2, 3, 4, 6, 8];

/** The values of a record, as far as its bytes go. */
function decodeRecord(bytes: Buffer): Value[] | undefined {
  const header = varint(bytes, 0);
  if (header === undefined || header.value > bytes.length || header.value < header.next) return undefined;
  const types: number[] = [];
  for (let at = header.next; at < header.value; ) {
    const type = varint(bytes, at);
    if (type === undefined || type.next > header.value || types.length >= columnsMax) return undefined;
    types.push(type.value);
    at = type.next;
  }
  let at = header.value;
  return types.map((type) => {
    const start = at;
    const length = type >= 12 ? Math.floor((type - 12) / 2) : type === 7 ? 8 : (integerBytes[type] ?? 0);
    at += length;
    return at > bytes.length ? undefined : decodeValue(type, bytes.subarray(start, at));
  });
}

function decodeValue(type: number, bytes: Buffer): Value {
  if (type === 0) return null;
  if (type === 8 || type === 9) return type - 8;
  if (type === 7) return bytes.readDoubleBE(0);
  if (type === 6) {
    const value = bytes.readBigInt64BE(0);
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }
  if (type < 6) return bytes.readIntBE(0, bytes.length);
  if (type < 12) return undefined;
  if (type % 2 === 0) return Uint8Array.from(bytes);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined; // What cannot be read, as the type says.
  }
}

const pageBytesOf = (stated: number): number | undefined => {
  const bytes = stated === 1 ? 65_536 : stated;
  return bytes >= 512 && (bytes & (bytes - 1)) === 0 ? bytes : undefined;
};

// ── The log ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * The write-ahead log. Up to the last commit before the first frame whose checksum is wrong it is part of the database. SQLite
 * ignores what follows; the frames there that belong to the same log are strays.
 */
class Wal {
  readonly #bytes: Buffer;
  readonly #frameBytes: number;
  readonly #committed = new Map<number, number>();
  readonly #strays: { number: number; offset: number }[] = [];
  pagesMax = 0;
  strayCommits = 0;
  /** There is something in it, and no head that says what. */
  isHeadless = false;

  constructor(bytes: Buffer, pageBytes: number) {
    this.#bytes = bytes;
    this.#frameBytes = frameHeaderBytes + pageBytes;
    if (bytes.length >= walHeaderBytes + this.#frameBytes) this.#scan();
  }

  static pageBytesIn(bytes: Buffer): number | undefined {
    return bytes.length < walHeaderBytes ? undefined : pageBytesOf(bytes.readUInt32BE(8) % 65_536 || 1);
  }

  page(number: number): Buffer | undefined {
    const offset = this.#committed.get(number);
    return offset === undefined ? undefined : this.#at(offset);
  }

  replaced(): Iterable<number> {
    return this.#committed.keys();
  }

  stray(number: number): Buffer | undefined {
    const last = this.#strays.findLast((frame) => frame.number === number);
    return last === undefined ? undefined : this.#at(last.offset);
  }

  *strays(): Generator<[number: number, bytes: Buffer]> {
    for (const { number, offset } of this.#strays) yield [number, this.#at(offset)];
  }

  #at(offset: number): Buffer {
    return this.#bytes.subarray(offset + frameHeaderBytes, offset + this.#frameBytes);
  }

  #scan(): void {
    const bytes = this.#bytes;
    const isBigEndian = (bytes.readUInt32BE(0) & 1) === 1;
    const isFormat = (bytes.readUInt32BE(0) & ~1) === 0x377f0682;
    let sums = checksum(bytes.subarray(0, 24), [0, 0], isBigEndian);
    let isSound = isFormat && sums[0] === bytes.readUInt32BE(24) && sums[1] === bytes.readUInt32BE(28);
    this.isHeadless = !isSound && bytes.subarray(walHeaderBytes).some((byte) => byte !== 0);
    // The two numbers that a log was begun with stand in each of its frames.
    const saltAt = isSound ? 16 : walHeaderBytes + 8;
    const salt = bytes.subarray(saltAt, saltAt + 8);
    let open: { number: number; offset: number; isSound: boolean }[] = [];
    for (let offset = walHeaderBytes; offset + this.#frameBytes <= bytes.length; offset += this.#frameBytes) {
      const header = bytes.subarray(offset, offset + frameHeaderBytes);
      const isOurs = header.subarray(8, 16).equals(salt);
      if (isSound) {
        sums = checksum(header.subarray(0, 8), sums, isBigEndian);
        sums = checksum(this.#at(offset), sums, isBigEndian);
        isSound = isOurs && sums[0] === header.readUInt32BE(16) && sums[1] === header.readUInt32BE(20);
      }
      const number = header.readUInt32BE(0);
      if (!isOurs || number === 0 || number > 2 ** 30) continue;
      open.push({ number, offset, isSound });
      const pages = header.readUInt32BE(4);
      if (pages === 0 || pages > 2 ** 30) continue;
      // A commit. One that is not sound throughout is no part of the database.
      const isWhole = open.every((frame) => frame.isSound);
      if (!isWhole) this.strayCommits++;
      for (const frame of open) {
        if (isWhole) this.#committed.set(frame.number, frame.offset);
        else this.#strays.push(frame);
        // A garbled number must not make us look for pages without end.
        if (isWhole) this.pagesMax = Math.max(this.pagesMax, frame.number);
      }
      open = [];
    }
  }
}

type Sums = [number, number];

function checksum(bytes: Buffer, [first, second]: Sums, isBigEndian: boolean): Sums {
  let [s0, s1] = [first, second];
  for (let at = 0; at + 8 <= bytes.length; at += 8) {
    const [a, b] = isBigEndian
      ? [bytes.readUInt32BE(at), bytes.readUInt32BE(at + 4)]
      : [bytes.readUInt32LE(at), bytes.readUInt32LE(at + 4)];
    s0 = (s0 + a + s1) >>> 0;
    s1 = (s1 + b + s0) >>> 0;
  }
  return [s0, s1];
}
