import { expect, test } from "bun:test";
import { join } from "node:path";
import {
  archiveName,
  packArchive,
  releaseTargets,
  renderChecksums,
  renderFormula,
  signAdHoc,
} from "../../build";
import { tempDir } from "../support/temp-dir";

const sha256ByFile = new Map(
  releaseTargets.map((target, index) => [archiveName("1.2.3", target), String(index).repeat(64)] as const),
);

async function run(argv: string[], cwd: string): Promise<string> {
  const child = Bun.spawn(argv, { cwd, env: { ...process.env, TZ: "UTC" }, stderr: "pipe" });
  const [stdout, stderr, exitCode] = await Promise.all([
    child.stdout.text(),
    child.stderr.text(),
    child.exited,
  ]);
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
  return stdout;
}

test("an archive is named after version, system and processor", () => {
  expect(releaseTargets.map((target) => archiveName("1.2.3", target))).toEqual([
    "claudemesh-1.2.3-darwin-arm64.tar.gz",
    "claudemesh-1.2.3-darwin-x64.tar.gz",
    "claudemesh-1.2.3-linux-arm64.tar.gz",
    "claudemesh-1.2.3-linux-x64.tar.gz",
    "claudemesh-1.2.3-linux-arm64-musl.tar.gz",
    "claudemesh-1.2.3-linux-x64-musl.tar.gz",
  ]);
});

test("the formula has each platform's own archive and checksum", () => {
  const formula = renderFormula("1.2.3", sha256ByFile);
  const found = [
    ...formula.matchAll(/on_(macos|linux) do|on_(arm|intel) do\n +url "(.*)"\n +sha256 "(.*)"/g),
  ];
  const base = "https://github.com/claudemesh/claudemesh/releases/download/v1.2.3";
  expect(found.map(([, system, processor, url, sha256]) => system ?? [processor, url, sha256])).toEqual([
    "macos",
    ["arm", `${base}/claudemesh-1.2.3-darwin-arm64.tar.gz`, "0".repeat(64)],
    ["intel", `${base}/claudemesh-1.2.3-darwin-x64.tar.gz`, "1".repeat(64)],
    "linux",
    ["arm", `${base}/claudemesh-1.2.3-linux-arm64.tar.gz`, "2".repeat(64)],
    ["intel", `${base}/claudemesh-1.2.3-linux-x64.tar.gz`, "3".repeat(64)],
  ]);
  expect(formula).toContain('version "1.2.3"\n');
  expect(formula).toContain('run [opt_bin/"claudemesh", "daemon", "up", "--foreground"]\n');
  expect(formula).toContain("keep_alive successful_exit: false, crashed: true\n");
});

test("no formula is made without a checksum that it needs", () => {
  expect(() => renderFormula("1.2.3", new Map())).toThrow(
    "no checksum for claudemesh-1.2.3-darwin-arm64.tar.gz",
  );
});

test.skipIf(Bun.which("ruby") === null)(
  "ruby accepts the formula (skipped where there is no ruby)",
  async () => {
    const dir = tempDir();
    await Bun.write(join(dir, "claudemesh.rb"), renderFormula("1.2.3", sha256ByFile));
    expect(await run(["ruby", "-c", "claudemesh.rb"], dir)).toBe("Syntax OK\n");
  },
);

test("tar unpacks an archive with content and modes intact", async () => {
  const dir = tempDir();
  const entries = [
    { name: "claudemesh", content: Buffer.alloc(1025, "x"), mode: 0o755 },
    { name: "LICENSE", content: Buffer.alloc(512, "y"), mode: 0o644 },
    { name: "empty", content: Buffer.alloc(0), mode: 0o644 },
  ];
  await Bun.write(join(dir, "a.tar.gz"), packArchive(entries));
  const listing = (await run(["tar", "-tvzf", "a.tar.gz"], dir)).trim().split("\n");
  expect(listing.map((line) => line.split(/\s+/).at(-1))).toEqual(["claudemesh", "LICENSE", "empty"]);

  await run(["tar", "-xzf", "a.tar.gz"], dir);
  for (const { name, content, mode } of entries) {
    const file = Bun.file(join(dir, name));
    expect(Buffer.from(await file.bytes())).toEqual(content);
    expect((await file.stat()).mode & 0o777).toBe(mode);
  }
});

test("equal content gives equal bytes", () => {
  const entries = [{ name: "claudemesh", content: Buffer.from("x"), mode: 0o755 }];
  expect(packArchive(entries)).toEqual(packArchive(entries));
});

test("checksums are in the form that sha256sum -c reads", () => {
  const sums = new Map([
    ["a.tar.gz", "0".repeat(64)],
    ["b.tar.gz", "1".repeat(64)],
  ]);
  expect(renderChecksums(sums)).toBe(`${"0".repeat(64)}  a.tar.gz\n${"1".repeat(64)}  b.tar.gz\n`);
});

/** A Mach-O file with a __TEXT segment of 8192 bytes, some bytes more, and a __LINKEDIT segment that holds room for a signature. */
function machO(codeBytes: number, signatureBytes: number): Buffer {
  const file = Buffer.alloc(codeBytes + signatureBytes, "code");
  file.fill(0, 0, 192);
  file.writeUInt32LE(0xfeedfacf, 0);
  file.writeUInt32LE(3, 16);
  for (const [at, name] of [
    [32, "__TEXT"],
    [104, "__LINKEDIT"],
  ] as const) {
    file.writeUInt32LE(0x19, at);
    file.writeUInt32LE(72, at + 4);
    file.write(name, at + 8);
  }
  file.writeBigUInt64LE(8192n, 32 + 48);
  file.writeBigUInt64LE(4096n, 104 + 32);
  file.writeBigUInt64LE(BigInt(signatureBytes), 104 + 48);
  file.writeUInt32LE(0x1d, 176);
  file.writeUInt32LE(16, 180);
  file.writeUInt32LE(codeBytes, 184);
  file.writeUInt32LE(signatureBytes, 188);
  return file;
}

test("an ad-hoc signature covers every byte before it, the last page as far as it goes", () => {
  const codeBytes = 2 * 4096 + 17;
  const unsigned = machO(codeBytes, 1024);
  const code = Buffer.from(unsigned.subarray(0, codeBytes));
  const file = signAdHoc(unsigned);
  expect(file.length).toBe(unsigned.length);
  expect(file.subarray(0, codeBytes)).toEqual(code);

  const superBlob = file.subarray(codeBytes);
  expect([0, 8, 12, 16].map((at) => superBlob.readUInt32BE(at))).toEqual([0xfade0cc0, 1, 0, 20]);
  const directory = superBlob.subarray(20, superBlob.readUInt32BE(4));
  const [magic, length, version, flags, hashesAt = 0, identifierAt = 0, special, pages, limit] = Array.from(
    { length: 9 },
    (_, index) => directory.readUInt32BE(4 * index),
  );
  expect({ magic, length, version, flags }).toEqual({
    magic: 0xfade0c02,
    length: directory.length,
    version: 0x20400,
    flags: 0x20002,
  });
  expect({ special, pages, limit }).toEqual({ special: 0, pages: 3, limit: codeBytes });
  expect([...directory.subarray(36, 40)]).toEqual([32, 2, 0, 12]);
  expect([64, 72, 80].map((at) => directory.readBigUInt64BE(at))).toEqual([0n, 8192n, 1n]);
  expect(directory.toString("latin1", identifierAt, hashesAt)).toBe("claudemesh\0");

  const hashes = [0, 4096, 8192].map((start) =>
    new Bun.CryptoHasher("sha256").update(code.subarray(start, start + 4096)).digest(),
  );
  expect(directory.subarray(hashesAt)).toEqual(Buffer.concat(hashes));
});

test("a signature that needs more room gets it, and its segment with it", () => {
  const file = signAdHoc(machO(200 * 4096, 128));
  const signatureBytes = file.length - 200 * 4096;
  const neededBytes = 20 + 88 + "claudemesh\0".length + 200 * 32;
  expect(signatureBytes).toBe(Math.ceil(neededBytes / 16) * 16);
  expect(file.readUInt32LE(188)).toBe(signatureBytes);
  expect([file.readBigUInt64LE(104 + 48), file.readBigUInt64LE(104 + 32)]).toEqual([
    BigInt(signatureBytes),
    8192n,
  ]);
  // The first page holds the new sizes, and its hash is of that.
  const hash = new Bun.CryptoHasher("sha256").update(file.subarray(0, 4096)).digest();
  const hashesAt = 200 * 4096 + 20 + 88 + "claudemesh\0".length;
  expect(file.subarray(hashesAt, hashesAt + 32)).toEqual(hash);
});

test("a file that ends in something else is refused, as is what is no Mach-O executable", () => {
  expect(() => signAdHoc(Buffer.concat([machO(4096, 128), Buffer.alloc(1)]))).toThrow("not the end");
  expect(() => signAdHoc(Buffer.alloc(64))).toThrow("not a 64-bit Mach-O executable");
});
