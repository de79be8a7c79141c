/** The vault: what goes in comes out, and nothing else ever does. */
import { describe, expect, test } from "bun:test";
import { argon2Sync, createHash, createHmac } from "node:crypto";
import sodium from "libsodium-wrappers";
import { MeshError } from "~/errors";
import { openVault, sealVault, vaultHeaderBytes } from "~/identity/vault";
import { vaultChunkBytes } from "~/wire/limits";

const cost = { memoryKib: 64, passes: 1 };
const tagBytes = 16;

async function collect(pieces: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const piece of pieces) parts.push(piece);
  return Buffer.concat(parts);
}

async function* inPieces(content: Buffer, pieceBytes: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < content.length; at += pieceBytes) yield content.subarray(at, at + pieceBytes);
}

const seal = (content: Buffer, passphrase = "correct horse", pieceBytes = 10_000): Promise<Buffer> =>
  collect(sealVault(inPieces(content, pieceBytes), passphrase, cost));

const open = (vault: Buffer, passphrase = "correct horse"): Promise<Buffer> =>
  collect(
    openVault(
      {
        name: "a backup",
        bytes: vault.length,
        read: async (offset, length) => vault.subarray(offset, offset + length),
      },
      passphrase,
    ),
  );

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof MeshError) return error.code;
    throw error;
  }
  return "opened";
}

const contentOf = (bytes: number): Buffer =>
  Buffer.from(Array.from({ length: bytes }, (_, n) => (n * 7919) % 251));

describe("what was sealed", () => {
  const sizes = [
    0,
    1,
    100,
    vaultChunkBytes - 1,
    vaultChunkBytes,
    vaultChunkBytes + 1,
    3 * vaultChunkBytes,
    200_000,
  ];
  test.each(sizes)("%d bytes: comes out as it went in, whatever the pieces", async (size) => {
    const content = contentOf(size);
    for (const pieceBytes of [1_000, vaultChunkBytes, 1_000_000]) {
      const vault = await seal(content, "correct horse", pieceBytes);
      expect((await open(vault)).equals(content)).toBe(true);
      const chunks = Math.max(1, Math.ceil(size / vaultChunkBytes));
      expect(vault.length).toBe(vaultHeaderBytes + size + chunks * tagBytes);
    }
  });

  test("opens by the format as it is written down, with nothing of ours", async () => {
    await sodium.ready;
    const content = contentOf(vaultChunkBytes + 10);
    const vault = await seal(content);
    expect(vault.toString("latin1", 0, 20)).toBe("claudemesh backup 1\n");
    const key = argon2Sync("argon2id", {
      message: "correct horse",
      nonce: vault.subarray(32, 48),
      parallelism: 1,
      tagLength: 64,
      memory: vault.readUInt32BE(20),
      passes: vault.readUInt32BE(24),
    });
    const check = createHmac("sha256", key.subarray(32)).update(vault.subarray(0, 64)).digest();
    expect(vault.subarray(64, 96).equals(check)).toBe(true);
    expect(vault.subarray(96, 104)).toEqual(
      createHash("sha256").update(vault.subarray(0, 96)).digest().subarray(0, 8),
    );
    const chunkBytes = vault.readUInt32BE(28) + tagBytes;
    const nonceOf = (last8: string) => Buffer.concat([vault.subarray(48, 64), Buffer.from(last8, "hex")]);
    const boxKey = Uint8Array.from(key.subarray(0, 32));
    const first = sodium.crypto_secretbox_open_easy(
      vault.subarray(104, 104 + chunkBytes),
      nonceOf("0000000000000000"),
      boxKey,
    );
    const last = sodium.crypto_secretbox_open_easy(
      vault.subarray(104 + chunkBytes),
      nonceOf("0000000000000003"),
      boxKey,
    );
    expect(Buffer.concat([first, last]).equals(content)).toBe(true);
  });

  test("Argon2id is that of libsodium's crypto_pwhash", () => {
    // crypto_pwhash(32, "pass", sixteen times 02, 3 passes, 256 MiB, ARGON2ID13) of libsodium 1.0.20.
    const key = argon2Sync("argon2id", {
      message: "pass",
      nonce: Buffer.alloc(16, 2),
      parallelism: 1,
      tagLength: 32,
      memory: 256 * 1024,
      passes: 3,
    });
    expect(key.toString("hex")).toBe("c5465c12ce64b73195b3a69fb276d33a6ca15e3b49ac74b50b62a55b280de50a");
  });

  test("a passphrase is the same however its letters are composed", async () => {
    const vault = await seal(contentOf(10), "caf\u00e9 cr\u00e8me");
    expect(await codeOf(open(vault, "cafe\u0301 cre\u0300me"))).toBe("opened");
  });

  test("shows nothing of its content, and is never the same twice", async () => {
    const content = Buffer.alloc(1_000, "secret");
    const [a, b] = [await seal(content), await seal(content)];
    expect(a.includes("secret")).toBe(false);
    expect(a.subarray(32).equals(b.subarray(32))).toBe(false);
  });
});

describe("is refused", () => {
  test("with another passphrase, and that is told apart from damage", async () => {
    const vault = await seal(contentOf(1_000));
    for (const wrong of ["Correct horse", "correct horse ", ""])
      expect(await codeOf(open(vault, wrong))).toBe("wrong_passphrase");
  });

  test("when any byte was changed, wherever it stands", async () => {
    const content = contentOf(300);
    const vault = await seal(content);
    for (let at = 0; at < vault.length; at++) {
      const changed = Buffer.from(vault);
      changed[at] = (changed[at] ?? 0) ^ (1 << (at % 8));
      expect([at, await codeOf(open(changed))]).toEqual([at, "backup_damaged"]);
    }
  });

  test("when its end is missing, wherever it was cut", async () => {
    const vault = await seal(contentOf(300));
    for (let length = 0; length < vault.length; length++)
      expect([length, await codeOf(open(vault.subarray(0, length)))]).toEqual([length, "backup_damaged"]);
  });

  const sealedBytes = vaultChunkBytes + tagBytes;
  const chunk = (vault: Buffer, number: number) =>
    vault.subarray(vaultHeaderBytes + number * sealedBytes, vaultHeaderBytes + (number + 1) * sealedBytes);
  const tampered: [what: string, change: (vault: Buffer, other: Buffer) => Buffer][] = [
    ["cut after a whole chunk", (vault) => vault.subarray(0, vaultHeaderBytes + 2 * sealedBytes)],
    ["the last chunk left out", (vault) => vault.subarray(0, vault.length - 100 - tagBytes)],
    ["something added", (vault) => Buffer.concat([vault, Buffer.from([0])])],
    [
      "a chunk left out",
      (vault) =>
        Buffer.concat([vault.subarray(0, vaultHeaderBytes), vault.subarray(vaultHeaderBytes + sealedBytes)]),
    ],
    [
      "two chunks exchanged",
      (vault) =>
        Buffer.concat([
          vault.subarray(0, vaultHeaderBytes),
          chunk(vault, 1),
          chunk(vault, 0),
          vault.subarray(vaultHeaderBytes + 2 * sealedBytes),
        ]),
    ],
    [
      "a chunk twice",
      (vault) =>
        Buffer.concat([vault.subarray(0, vaultHeaderBytes + sealedBytes), vault.subarray(vaultHeaderBytes)]),
    ],
    [
      "a chunk of another vault",
      (vault, other) =>
        Buffer.concat([
          vault.subarray(0, vaultHeaderBytes),
          chunk(other, 0),
          vault.subarray(vaultHeaderBytes + sealedBytes),
        ]),
    ],
    [
      "the header of another vault",
      (vault, other) =>
        Buffer.concat([other.subarray(0, vaultHeaderBytes), vault.subarray(vaultHeaderBytes)]),
    ],
  ];
  test.each(tampered)("%s", async (_what, change) => {
    const content = contentOf(3 * vaultChunkBytes + 100);
    const [vault, other] = [await seal(content), await seal(content)];
    expect(await codeOf(open(change(vault, other)))).toBe("backup_damaged");
  });

  /** With a header that claims to be whole. */
  const withHeader = (vault: Buffer, change: (header: Buffer) => void): Buffer => {
    const changed = Buffer.from(vault);
    change(changed);
    changed.set(createHash("sha256").update(changed.subarray(0, 96)).digest().subarray(0, 8), 96);
    return changed;
  };

  test("when its header asks for more memory or time than any of ours, before any of it is spent", async () => {
    const vault = await seal(contentOf(10));
    for (const at of [20, 24, 28]) {
      for (const value of [0, 0xffffffff]) {
        const greedy = withHeader(vault, (header) => void header.writeUInt32BE(value, at));
        expect(await codeOf(open(greedy))).toBe("backup_damaged");
      }
    }
  });

  test("when its header asks for less memory than Argon2id takes", async () => {
    const vault = await seal(contentOf(10));
    for (const value of [1, 7]) {
      const odd = withHeader(vault, (header) => void header.writeUInt32BE(value, 20));
      expect(await codeOf(open(odd))).toBe("backup_damaged");
    }
  });

  test("when it is of a later format, which is no damage", async () => {
    const later = withHeader(await seal(contentOf(10)), (header) => void header.write("2", 18));
    expect(await codeOf(open(later))).toBe("database_newer");
  });

  test.each(["", "x", "SQLite format 3\0 and so on", "claudemesh backup 1"])(
    "when it is %j",
    async (text) => {
      expect(await codeOf(open(Buffer.from(text)))).toBe("backup_damaged");
    },
  );
});
