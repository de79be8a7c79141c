/** Keys of an unfinished join or create: on disk before anybody hears of them, and the same ones the next time. */
import { expect, test } from "bun:test";
import { chmodSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beginAttempt } from "~/identity/pending";
import { tempDir } from "../../support/temp-dir";

const keysIn = (dir: string): string[] =>
  readdirSync(join(dir, "pending")).filter((name) => name.endsWith(".json"));

test("an attempt that was cut off is taken up again, one that ended is not", () => {
  const dir = join(tempDir(), "config");
  const first = beginAttempt(dir, ["join", "invite"]);
  expect(first.isResumed).toBe(false);
  const again = beginAttempt(dir, ["join", "invite"]);
  expect(again).toMatchObject({
    isResumed: true,
    pubkey: first.pubkey,
    secretKey: first.secretKey,
    rootKey: first.rootKey,
  });
  again.end();
  expect(keysIn(dir)).toEqual([]);
  expect(beginAttempt(dir, ["join", "invite"]).pubkey).not.toBe(first.pubkey);
});

test("other subjects have other keys, also when their parts join to the same text", () => {
  const dir = tempDir();
  const keys = [["a", "bc"], ["ab", "c"], ["abc"]].map((subject) => beginAttempt(dir, subject).pubkey);
  expect(new Set(keys).size).toBe(3);
});

test("the files are for their owner only", () => {
  const dir = tempDir();
  const attempt = beginAttempt(dir, ["x"]);
  expect(Buffer.from(attempt.rootKey, "base64url").length).toBe(32);
  expect(statSync(join(dir, "pending")).mode & 0o777).toBe(0o700);
  for (const name of keysIn(dir)) expect(statSync(join(dir, "pending", name)).mode & 0o777).toBe(0o600);
  chmodSync(join(dir, "pending"), 0o755);
  expect(() => beginAttempt(dir, ["x"])).toThrow("open to other users");
});

test("a damaged one is refused and left as it is", () => {
  const dir = tempDir();
  beginAttempt(dir, ["x"]);
  const [name = ""] = keysIn(dir);
  writeFileSync(join(dir, "pending", name), "{");
  expect(() => beginAttempt(dir, ["x"])).toThrow("is damaged");
  expect(keysIn(dir)).toEqual([name]);
});
