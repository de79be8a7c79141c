/**
 * Builds the executable. `bun build.ts` makes dist/claudemesh for this machine; `bun build.ts --all` makes the release: an
 * archive for every platform, SHA256SUMS and a Homebrew formula with the checksums of exactly these archives.
 * It refuses to work with another Bun than the one that package.json pins, since Bun becomes part of the executable.
 */
import { chmod, mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import manifest from "./package.json";

const root = import.meta.dir;
const dist = join(root, "dist");

/** Everything a release is built for. Homebrew takes the first four; the musl ones are for Alpine and its kind. */
export const releaseTargets = [
  "bun-darwin-arm64",
  "bun-darwin-x64",
  "bun-linux-arm64",
  "bun-linux-x64",
  "bun-linux-arm64-musl",
  "bun-linux-x64-musl",
] as const;
export type ReleaseTarget = (typeof releaseTargets)[number];

export interface ArchiveEntry {
  name: string;
  content: Uint8Array;
  mode: number;
}

/** The archive's file name, such as `claudemesh-1.2.3-linux-x64-musl.tar.gz`. */
export function archiveName(version: string, target: ReleaseTarget): string {
  return `claudemesh-${version}-${target.slice("bun-".length)}.tar.gz`;
}

/** A checksum file as `sha256sum -c` reads it. */
export function renderChecksums(sha256ByFile: ReadonlyMap<string, string>): string {
  return [...sha256ByFile].map(([file, sha256]) => `${sha256}  ${file}\n`).join("");
}

/**
 * The Homebrew formula of one version. Throws when a checksum that it needs is missing. Its service restarts a daemon that failed and
 * not one that was stopped, as install-service does: Homebrew takes that from the first key on macOS and from the second on Linux.
 */
export function renderFormula(version: string, sha256ByFile: ReadonlyMap<string, string>): string {
  const source = (target: ReleaseTarget): string => {
    const file = archiveName(version, target);
    const sha256 = sha256ByFile.get(file);
    if (sha256 === undefined) throw new Error(`no checksum for ${file}`);
    return `url "${manifest.homepage}/releases/download/v${version}/${file}"\n      sha256 "${sha256}"`;
  };
  return `class Claudemesh < Formula
  desc "Durable message daemon, broker and command-line client"
  homepage "${manifest.homepage}"
  version "${version}"
  license "${manifest.license}"

  on_macos do
    on_arm do
      ${source("bun-darwin-arm64")}
    end
    on_intel do
      ${source("bun-darwin-x64")}
    end
  end

  on_linux do
    on_arm do
      ${source("bun-linux-arm64")}
    end
    on_intel do
      ${source("bun-linux-x64")}
    end
  end

  def install
    bin.install "claudemesh"
    generate_completions_from_executable(bin/"claudemesh", "completions")
  end

  service do
    run [opt_bin/"claudemesh", "daemon", "up", "--foreground"]
    keep_alive successful_exit: false, crashed: true
    process_type :interactive
    log_path var/"log/claudemesh.log"
    error_log_path var/"log/claudemesh.log"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/claudemesh version")
  end
end
`;
}

/**
 * A gzipped tar archive (POSIX.1-1988 ustar) of a few plain files. Owner, order and time are fixed, so that equal content gives
 * equal bytes on every machine. Names have at most 100 bytes.
 */
export function packArchive(entries: readonly ArchiveEntry[]): Uint8Array {
  const blockBytes = 512;
  const blocks: Uint8Array[] = [];
  for (const { name, content, mode } of entries) {
    blocks.push(encodeTarHeader(name, content.length, mode), content);
    blocks.push(new Uint8Array((blockBytes - (content.length % blockBytes)) % blockBytes));
  }
  blocks.push(new Uint8Array(2 * blockBytes));
  return Bun.gzipSync(Buffer.concat(blocks), { level: 9 });
}

function encodeTarHeader(name: string, sizeBytes: number, mode: number): Uint8Array {
  const modifiedSeconds = Date.UTC(2026, 0, 1) / 1000;
  const header = Buffer.alloc(512);
  const octal = (value: number, digits: number): string => `${value.toString(8).padStart(digits, "0")}\0`;
  header.write(name, 0);
  header.write(octal(mode, 7) + octal(0, 7) + octal(0, 7), 100);
  header.write(octal(sizeBytes, 11) + octal(modifiedSeconds, 11), 124);
  // The checksum is taken with its own field, at 148, filled with spaces.
  header.write(`${" ".repeat(8)}0`, 148);
  header.write("ustar\x0000root", 257);
  header.write("root", 297);
  const checksum = header.reduce((sum, byte) => sum + byte, 0);
  header.write(`${octal(checksum, 6)} `, 148);
  return header;
}

/**
 * Signs a 64-bit Mach-O executable ad hoc, as linkers do, over the signature that it has. Bun does that for arm64; on x64 it leaves
 * the signature that its own runtime was published with, which no longer fits the bytes, and macOS may kill such a process.
 * The structures are those of `cs_blobs.h` and `loader.h` in Apple's xnu. The signature is the last thing in the file and in its
 * __LINKEDIT segment, which grow when it needs more room. Throws when there is no signature to replace, or something behind it.
 */
export function signAdHoc(unsigned: Buffer): Buffer {
  const textSegment = findLoadCommand(unsigned, 0x19, "__TEXT");
  const linkSegment = findLoadCommand(unsigned, 0x19, "__LINKEDIT");
  const codeSignature = findLoadCommand(unsigned, 0x1d);
  const signatureAt = unsigned.readUInt32LE(codeSignature + 8);
  const presentBytes = unsigned.readUInt32LE(codeSignature + 12);
  if (signatureAt + presentBytes !== unsigned.length)
    throw new Error("the signature is not the end of the executable");

  const identifier = "claudemesh\0";
  const [superBlobBytes, headerBytes, pageBytesLog2, hashBytes] = [20, 88, 12, 32];
  const pageBytes = 1 << pageBytesLog2;
  const pages = Math.ceil(signatureAt / pageBytes);
  const hashesAt = headerBytes + identifier.length;
  const directoryBytes = hashesAt + pages * hashBytes;

  const signatureBytes = Math.max(presentBytes, Math.ceil((superBlobBytes + directoryBytes) / 16) * 16);
  const executable = Buffer.concat([unsigned, Buffer.alloc(signatureBytes - presentBytes)]);
  executable.writeUInt32LE(signatureBytes, codeSignature + 12);
  const linkBytes = executable.readBigUInt64LE(linkSegment + 48) + BigInt(signatureBytes - presentBytes);
  executable.writeBigUInt64LE(linkBytes, linkSegment + 48);
  const mappedBytes = (linkBytes + BigInt(pageBytes - 1)) & ~BigInt(pageBytes - 1);
  if (mappedBytes > executable.readBigUInt64LE(linkSegment + 32))
    executable.writeBigUInt64LE(mappedBytes, linkSegment + 32);
  const signature = executable.subarray(signatureAt);

  signature.fill(0);
  // A super blob (magic, length, count) with one entry (type, offset): the code directory.
  writeUInt32s(signature, 0, [0xfade0cc0, superBlobBytes + directoryBytes, 1, 0, superBlobBytes]);
  const directory = signature.subarray(superBlobBytes);
  const [version, adHocAndLinkerSigned, sha256, mainBinary] = [0x20400, 0x20002, 2, 1n];
  writeUInt32s(directory, 0, [0xfade0c02, directoryBytes, version, adHocAndLinkerSigned]);
  writeUInt32s(directory, 16, [hashesAt, headerBytes, 0, pages, signatureAt]);
  directory.set([hashBytes, sha256, 0, pageBytesLog2], 36);
  directory.writeBigUInt64BE(executable.readBigUInt64LE(textSegment + 40), 64);
  directory.writeBigUInt64BE(executable.readBigUInt64LE(textSegment + 48), 72);
  directory.writeBigUInt64BE(mainBinary, 80);
  directory.write(identifier, headerBytes);
  for (let page = 0; page < pages; page++) {
    const content = executable.subarray(page * pageBytes, Math.min((page + 1) * pageBytes, signatureAt));
    directory.set(new Bun.CryptoHasher("sha256").update(content).digest(), hashesAt + page * hashBytes);
  }
  return executable;
}

/** The offset of the first load command of this type and, for a segment, of this name. */
function findLoadCommand(executable: Buffer, type: number, segment = ""): number {
  if (executable.readUInt32LE(0) !== 0xfeedfacf) throw new Error("not a 64-bit Mach-O executable");
  const commands = executable.readUInt32LE(16);
  for (let command = 0, at = 32; command < commands; command++, at += executable.readUInt32LE(at + 4)) {
    const name = executable.toString("latin1", at + 8, at + 8 + segment.length);
    if (executable.readUInt32LE(at) === type && name === segment) return at;
  }
  throw new Error(`the executable has no load command ${type} ${segment}`);
}

function writeUInt32s(target: Buffer, at: number, values: readonly number[]): void {
  for (const [index, value] of values.entries()) target.writeUInt32BE(value, at + 4 * index);
}

/**
 * ulidx has a build for browsers, which takes its randomness from the global `crypto`. The one for Node loads `node:crypto`, which
 * would cost every `claudemesh send` a tenth of its time.
 */
const ulidxWithoutNodeCrypto: Bun.BunPlugin = {
  name: "ulidx without node:crypto",
  setup(build) {
    build.onResolve({ filter: /^ulidx$/ }, () => ({
      path: join(root, "node_modules/ulidx/dist/browser/index.js"),
    }));
  },
};

/** Compiles src/main.ts into `outfile`, which is replaced whole and only by a build that succeeded. */
async function compile(outfile: string, target: ReleaseTarget | undefined): Promise<void> {
  const workshop = await mkdtemp(join(dist, "build-"));
  try {
    const executable = join(workshop, "claudemesh");
    await Bun.build({
      entrypoints: [join(root, "src/main.ts")],
      compile: {
        ...(target && { target }),
        outfile: executable,
        // Files that happen to lie where somebody calls claudemesh must not change what it does.
        autoloadDotenv: false,
        autoloadBunfig: false,
      },
      plugins: [ulidxWithoutNodeCrypto],
      format: "esm",
      minify: true,
      bytecode: true,
      // One file a lazily loaded part: a command reads only what it runs.
      splitting: true,
      // The executable holds it, so that a stack trace names our lines; the copy beside it is dropped.
      sourcemap: "linked",
      define: {
        BUILD_VERSION: JSON.stringify(manifest.version),
        BUILD_COMMIT: JSON.stringify(commit()),
      },
    });
    await chmod(executable, 0o755);
    await rename(executable, outfile);
  } finally {
    await rm(workshop, { recursive: true });
  }
}

/** The commit that is being built, with `-dirty` when the tree differs from it, or `unknown` outside a repository of our own. */
function commit(): string {
  const git = (...args: string[]): string | undefined => {
    try {
      const { success, stdout } = Bun.spawnSync(["git", ...args], { cwd: root, stderr: "ignore" });
      return success ? stdout.toString().trim() : undefined;
    } catch {
      return undefined; // git itself is missing
    }
  };
  // A prefix means that the repository found is one further up, which merely holds an unpacked copy of this project.
  if (git("rev-parse", "--show-prefix") !== "") return "unknown";
  const head = git("rev-parse", "--short=12", "HEAD");
  if (head === undefined) return "unknown";
  return git("status", "--porcelain") === "" ? head : `${head}-dirty`;
}

async function buildRelease(): Promise<void> {
  const release = join(dist, "release");
  await rm(release, { recursive: true, force: true });
  await mkdir(release, { recursive: true });

  const papers: ArchiveEntry[] = [];
  for (const name of ["LICENSE", "README.md"]) {
    const file = Bun.file(join(root, name));
    if (await file.exists()) papers.push({ name, content: await file.bytes(), mode: 0o644 });
  }
  const sha256ByFile = new Map<string, string>();
  const executable = join(release, "claudemesh");
  for (const target of releaseTargets) {
    await compile(executable, target);
    const compiled = await readFile(executable);
    const content = target === "bun-darwin-x64" ? signAdHoc(compiled) : compiled;
    const archive = packArchive([{ name: "claudemesh", content, mode: 0o755 }, ...papers]);
    const file = archiveName(manifest.version, target);
    await writeFile(join(release, file), archive);
    sha256ByFile.set(file, new Bun.CryptoHasher("sha256").update(archive).digest("hex"));
    console.log(`built dist/release/${file}`);
  }
  await rm(executable);
  await writeFile(join(release, "SHA256SUMS"), renderChecksums(sha256ByFile));
  await writeFile(join(release, "claudemesh.rb"), renderFormula(manifest.version, sha256ByFile));
  console.log("wrote dist/release/SHA256SUMS and dist/release/claudemesh.rb");
}

async function main(args: readonly string[]): Promise<void> {
  const pin = manifest.packageManager.replace("bun@", "");
  if (Bun.version !== pin) {
    throw new Error(`this is Bun ${Bun.version}, the build wants ${pin}: npx -y bun@${pin} run build`);
  }
  if (args.length === 0) {
    await mkdir(dist, { recursive: true });
    await compile(join(dist, "claudemesh"), undefined);
    console.log("built dist/claudemesh");
  } else if (args.length === 1 && args[0] === "--all") {
    await buildRelease();
  } else {
    throw new Error(`usage: bun build.ts [--all], not: ${args.join(" ")}`);
  }
}

if (import.meta.main) {
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    // Bun.build collects what it found wrong in the sources; everything else is one error with a message.
    const problems = error instanceof AggregateError ? error.errors : [error];
    for (const problem of problems)
      console.error(`build: ${problem instanceof Error ? problem.message : problem}`);
    process.exitCode = 1;
  }
}
