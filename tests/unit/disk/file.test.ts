/** Files that are whole or not there, and directories that nobody else can get at. */
import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import {
  ensureOwnDirectory,
  ensurePrivateDirectory,
  fileExists,
  readTextFile,
  removeFile,
  storageError,
  writeFileAtomic,
} from "~/disk/file";
import { MeshError } from "~/errors";
import { cleanup } from "../../support/cleanup";
import { tempDir } from "../../support/temp-dir";

const isRoot = process.getuid?.() === 0;
const modeOf = (path: string): number => statSync(path).mode & 0o777;

function errorOf(action: () => unknown): MeshError {
  try {
    action();
  } catch (error) {
    if (error instanceof MeshError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

describe("writing a file", () => {
  test("makes it, for its owner only", () => {
    const path = join(tempDir(), "file");
    writeFileAtomic(path, "naïve 🙂\n");
    expect([readFileSync(path, "utf8"), modeOf(path)]).toEqual(["naïve 🙂\n", 0o600]);
  });
  test("that fails says so, and not that what was not begun cannot be removed", () => {
    // There is room for this name, but not for that of the file beside it.
    const path = join(tempDir(), "x".repeat(250));
    expect(errorOf(() => writeFileAtomic(path, "")).message).toBe(`cannot write ${path}: ENAMETOOLONG`);
  });
  test("takes bytes as they are", () => {
    const path = join(tempDir(), "file");
    const bytes = Uint8Array.from({ length: 1000 }, (_, index) => index % 256);
    writeFileAtomic(path, bytes);
    expect(new Uint8Array(readFileSync(path))).toEqual(bytes);
  });
  test("may leave it empty, or make it large", () => {
    const path = join(tempDir(), "file");
    writeFileAtomic(path, "x".repeat(5_000_000));
    expect(statSync(path).size).toBe(5_000_000);
    writeFileAtomic(path, "");
    expect(statSync(path).size).toBe(0);
  });
  test("gives the mode that is asked for, whatever the umask and the old file had", () => {
    const path = join(tempDir(), "file");
    writeFileSync(path, "old", { mode: 0o644 });
    chmodSync(path, 0o644);
    writeFileAtomic(path, "new");
    expect(modeOf(path)).toBe(0o600);
    writeFileAtomic(path, "new", 0o400);
    expect(modeOf(path)).toBe(0o400);
    const umask = process.umask(0o077);
    cleanup(() => void process.umask(umask));
    writeFileAtomic(path, "new", 0o644);
    expect(modeOf(path)).toBe(0o644);
    // A file that its owner cannot write is replaced all the same: it is the directory that counts.
    writeFileAtomic(path, "newer");
    expect(readFileSync(path, "utf8")).toBe("newer");
  });

  test("puts another file in the old one's place: whoever has that open reads it to its end", () => {
    const dir = tempDir();
    const path = join(dir, "file");
    writeFileAtomic(path, "old");
    linkSync(path, join(dir, "same file"));
    const before = statSync(path).ino;
    writeFileAtomic(path, "new");
    expect(statSync(path).ino).not.toBe(before);
    expect([readFileSync(path, "utf8"), readFileSync(join(dir, "same file"), "utf8")]).toEqual([
      "new",
      "old",
    ]);
  });

  test("leaves nothing else behind, done or not", () => {
    const dir = tempDir();
    writeFileAtomic(join(dir, "file"), "a");
    mkdirSync(join(dir, "taken"));
    expect(errorOf(() => writeFileAtomic(join(dir, "taken"), "a")).message).toContain(
      `cannot write ${join(dir, "taken")}`,
    );
    expect(readdirSync(dir).sort()).toEqual(["file", "taken"]);
  });

  test("goes through symbolic links, however many, and leaves them", () => {
    const dir = tempDir();
    const target = join(tempDir(), "target");
    writeFileSync(target, "old");
    symlinkSync(target, join(dir, "second"));
    symlinkSync("second", join(dir, "first"));
    writeFileAtomic(join(dir, "first"), "new");
    expect(readFileSync(target, "utf8")).toBe("new");
    expect([readlinkSync(join(dir, "first")), readlinkSync(join(dir, "second"))]).toEqual(["second", target]);
    expect(readdirSync(dir).sort()).toEqual(["first", "second"]);
  });

  test("into a directory that is not there fails, and says which file", () => {
    const path = join(tempDir(), "not there", "file");
    const error = errorOf(() => writeFileAtomic(path, "a"));
    expect([error.code, error.message]).toEqual(["storage_failed", `cannot write ${path}: ENOENT`]);
  });

  test("is seen whole by a reader who looks all the time", async () => {
    const path = join(tempDir(), "file");
    const one = "a".repeat(200_000);
    const two = "b".repeat(100_000);
    writeFileAtomic(path, one);
    const writer = Bun.spawn([process.execPath, join(import.meta.dir, "rewrite-file.ts"), path], {
      stdin: "ignore",
      stderr: "inherit",
    });
    cleanup(async () => {
      writer.kill("SIGKILL");
      await writer.exited;
    });
    const seen = new Set<string>();
    for (let reads = 0; reads < 200 || seen.size < 2; reads++) {
      expect(writer.exitCode).toBeNull();
      const text = await Bun.file(path).text();
      seen.add(text === one || text === two ? text.slice(0, 1) : `a part of ${text.length} characters`);
    }
    expect([...seen].sort()).toEqual(["a", "b"]);
  });
});

describe("reading and removing", () => {
  test("a file that is not there is told apart from one that cannot be read", () => {
    const dir = tempDir();
    expect(readTextFile(join(dir, "none"))).toBeUndefined();
    const error = errorOf(() => readTextFile(dir));
    expect([error.code, error.message]).toEqual(["storage_failed", `cannot read ${dir}: EISDIR`]);
    writeFileSync(join(dir, "empty"), "");
    expect(readTextFile(join(dir, "empty"))).toBe("");
    expect(errorOf(() => readTextFile("/dev/null")).message).toBe(
      "cannot read /dev/null: it is no regular file",
    );
    // Its size is given as 0.
    if (process.platform === "linux") expect(readTextFile("/proc/self/stat")).toContain("(");
  });
  test("a file may be removed twice", () => {
    const path = join(tempDir(), "file");
    writeFileSync(path, "");
    expect(fileExists(path)).toBe(true);
    removeFile(path);
    expect(fileExists(path)).toBe(false);
    removeFile(path);
  });
  test("what cannot be removed is said", () => {
    const dir = tempDir();
    expect(errorOf(() => removeFile(dir)).message).toStartWith(`cannot remove ${dir}`);
    expect(fileExists(dir)).toBe(true);
  });
  test("a link that leads nowhere is no file", () => {
    const dir = tempDir();
    symlinkSync(join(dir, "nowhere"), join(dir, "link"));
    expect(fileExists(join(dir, "link"))).toBe(false);
    removeFile(join(dir, "link"));
    expect(readdirSync(dir)).toEqual([]);
  });
});

describe("a directory of one's own", () => {
  /** Mode → who takes it. The private one lets nobody else in; the other only lets nobody else write. */
  const modes: [mode: number, own: boolean, isPrivate: boolean][] = [
    [0o700, true, true],
    [0o500, true, true],
    [0o750, true, false],
    [0o755, true, false],
    [0o711, true, false],
    [0o744, true, false],
    [0o770, false, false],
    [0o720, false, false],
    [0o702, false, false],
    [0o777, false, false],
  ];
  test.each(modes)("of mode %p", (mode, own, isPrivate) => {
    const path = join(tempDir(), "dir");
    mkdirSync(path);
    chmodSync(path, mode);
    cleanup(() => chmodSync(path, 0o700));
    for (const [ensure, taken] of [
      [ensureOwnDirectory, own],
      [ensurePrivateDirectory, isPrivate],
    ] as const) {
      if (taken) {
        ensure(path);
      } else {
        const error = errorOf(() => ensure(path));
        expect(error.code).toBe("path_unsafe");
        expect(error.message).toContain(`mode ${mode.toString(8)}`);
        expect(error.hint).toBe(`chmod 700 '${path}'`);
      }
      expect(modeOf(path)).toBe(mode);
    }
  });

  test.each([
    ["own", ensureOwnDirectory],
    ["private", ensurePrivateDirectory],
  ])("is made when it is not there, with all above it, for its owner only (%s)", (_, ensure) => {
    const dir = tempDir();
    const path = join(dir, "a", "b");
    ensure(path);
    expect([modeOf(path), modeOf(join(dir, "a"))]).toEqual([0o700, 0o700]);
    ensure(path);
  });

  test("may be a symbolic link where others may come in, and not where they may not", () => {
    const dir = tempDir();
    const target = join(dir, "target");
    mkdirSync(target, { mode: 0o700 });
    symlinkSync(target, join(dir, "link"));
    ensureOwnDirectory(join(dir, "link"));
    const error = errorOf(() => ensurePrivateDirectory(join(dir, "link")));
    expect(error.code).toBe("path_unsafe");
    expect(error.message).toBe(`${join(dir, "link")} is a symbolic link`);
    expect(lstatSync(join(dir, "link")).isSymbolicLink()).toBe(true);
  });

  test.each([
    ["own", ensureOwnDirectory],
    ["private", ensurePrivateDirectory],
  ])("is no file (%s)", (_, ensure) => {
    const path = join(tempDir(), "file");
    writeFileSync(path, "kept");
    expect(errorOf(() => ensure(path)).message).toContain(path);
    expect(readFileSync(path, "utf8")).toBe("kept");
  });

  // Only root can give a directory away, and anybody else has none to try it with.
  test.if(isRoot)("is not another user's", () => {
    for (const ensure of [ensureOwnDirectory, ensurePrivateDirectory]) {
      const path = join(tempDir(), "dir");
      mkdirSync(path, { mode: 0o700 });
      chownSync(path, 12_345, 12_345);
      const error = errorOf(() => ensure(path));
      expect(error.code).toBe("path_unsafe");
      expect(error.message).toBe(`${path} belongs to user id 12345, not to you (0)`);
      expect(error.hint).toContain(`chown 0 '${path}'`);
    }
  });
});

describe("an error of the disk", () => {
  const codes: [code: string, as: string][] = [
    ["ENOSPC", "storage_full"],
    ["EDQUOT", "storage_full"],
    ["SQLITE_FULL", "storage_full"],
    ["SQLITE_IOERR_SHMSIZE", "storage_full"],
    ["EROFS", "storage_read_only"],
    ["EACCES", "storage_read_only"],
    ["EPERM", "storage_read_only"],
    ["SQLITE_READONLY", "storage_read_only"],
    ["SQLITE_READONLY_DIRECTORY", "storage_read_only"],
    ["SQLITE_CORRUPT", "database_corrupt"],
    ["SQLITE_CORRUPT_INDEX", "database_corrupt"],
    ["SQLITE_NOTADB", "database_corrupt"],
    ["SQLITE_BUSY", "storage_failed"],
    ["SQLITE_IOERR_WRITE", "storage_failed"],
    ["EIO", "storage_failed"],
  ];
  test.each(codes)("%s is %s", (code, as) => {
    const cause = Object.assign(new Error("it failed"), { code });
    const error = storageError("cannot write it", cause);
    expect<string>(error.code).toBe(as);
    expect(error.message).toStartWith("cannot write it: ");
    expect(error.cause).toBe(cause);
  });
  test("of SQLite says what SQLite said, where its code alone says little", () => {
    const cause = Object.assign(new Error("unsupported file format"), { code: "SQLITE_ERROR" });
    expect(storageError("cannot open it", cause).message).toBe(
      "cannot open it: unsupported file format (SQLITE_ERROR)",
    );
  });
  test("without a code says what it said", () => {
    expect(storageError("cannot write it", new TypeError("oops")).message).toBe(
      "cannot write it: TypeError: oops",
    );
    expect(storageError("cannot write it", "oops").code).toBe("storage_failed");
    // It may end up in a log, and what was read may have been a secret.
    expect(storageError("cannot read it", new SyntaxError('Unexpected identifier "s3cr3t"')).message).toBe(
      "cannot read it: SyntaxError: Unexpected identifier",
    );
  });
  test("that is ours already stays as it is", () => {
    const ours = new MeshError("path_unsafe", "no");
    expect(storageError("cannot write it", ours)).toBe(ours);
  });
});
