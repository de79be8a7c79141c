/** An attempt to become a member survives a crash: its keys are on disk first, and made again it is the same attempt. */
import { describe, expect, test } from "bun:test";
import { chmodSync, readdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { MeshError } from "~/errors";
import { isConsistentSecretKey, publicKeyOf } from "~/identity/keys";
import { beginAttempt } from "~/identity/pending";
import { tempDir } from "../../support/temp-dir";

const subject = ["join", "mesh-1", "invite-1"];
const filesOf = (dir: string) => readdirSync(join(dir, "pending")).filter((name) => name.endsWith(".json"));

test("the first one has keys of its own, on disk, for their owner only", () => {
  const dir = join(tempDir(), "config");
  const attempt = beginAttempt(dir, subject);
  expect(attempt.isResumed).toBe(false);
  expect(isConsistentSecretKey(attempt.secretKey)).toBe(true);
  expect(attempt.pubkey).toBe(publicKeyOf(attempt.secretKey));
  expect(Buffer.from(attempt.rootKey, "base64url").length).toBe(32);
  const [file = ""] = filesOf(dir);
  expect(statSync(join(dir, "pending", file)).mode & 0o777).toBe(0o600);
  expect(statSync(join(dir, "pending")).mode & 0o777).toBe(0o700);
});

test("the next one about the same is the same attempt", () => {
  const dir = tempDir();
  const { pubkey, secretKey, rootKey } = beginAttempt(dir, subject);
  expect(beginAttempt(dir, subject)).toMatchObject({ pubkey, secretKey, rootKey, isResumed: true });
  expect(filesOf(dir).length).toBe(1);
});

test("one about something else is another, however alike it is", () => {
  const dir = tempDir();
  const subjects = [
    subject,
    ["join", "mesh-1", "invite-2"],
    ["joinmesh-1", "invite-1"],
    ["join", "mesh-1invite-1"],
    [],
  ];
  const keys = subjects.map((about) => beginAttempt(dir, about).pubkey);
  expect(new Set(keys).size).toBe(subjects.length);
});

test("when it has ended, the next one begins anew", () => {
  const dir = tempDir();
  const first = beginAttempt(dir, subject);
  first.end();
  expect(filesOf(dir)).toEqual([]);
  const second = beginAttempt(dir, subject);
  expect(second.isResumed).toBe(false);
  expect(second.pubkey).not.toBe(first.pubkey);
  first.end();
  expect(() => first.end()).not.toThrow();
});

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof MeshError) return error.code;
    throw error;
  }
  return "nothing was refused";
}

describe("what is damaged is refused and left alone", () => {
  const damages: Record<string, string> = {
    "half of a file": '{"secretKey":',
    "no JSON": "",
    "a key that is none": JSON.stringify({ secretKey: "zz", rootKey: "AAAA" }),
    "halves of two keys": JSON.stringify({ secretKey: "ab".repeat(64), rootKey: "AAAA" }),
    "no root key": JSON.stringify({ secretKey: "ab".repeat(64) }),
  };
  test.each(Object.entries(damages))("%s", async (_, text) => {
    const dir = tempDir();
    beginAttempt(dir, subject);
    const path = join(dir, "pending", filesOf(dir)[0] ?? "");
    writeFileSync(path, text);
    expect(codeOf(() => beginAttempt(dir, subject))).toBe("config_invalid");
    expect(await Bun.file(path).text()).toBe(text);
  });
});

test("a directory that others can reach, or that leads elsewhere, gets no keys", () => {
  const open = tempDir();
  beginAttempt(open, subject);
  chmodSync(join(open, "pending"), 0o755);
  expect(codeOf(() => beginAttempt(open, subject))).toBe("path_unsafe");

  const linked = tempDir();
  const elsewhere = tempDir();
  symlinkSync(elsewhere, join(linked, "pending"));
  expect(codeOf(() => beginAttempt(linked, subject))).toBe("path_unsafe");
  expect(readdirSync(elsewhere)).toEqual([]);
});
