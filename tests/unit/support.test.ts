/** The test support itself: a check that cannot fail, or cleans up too early, would make every other test lie. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { cleanup } from "../support/cleanup";
import { tempDir } from "../support/temp-dir";
import { waitFor } from "../support/wait-for";

describe("cleanup", () => {
  const order: string[] = [];
  let ofFile = "";
  let ofTest = "";

  beforeAll(() => {
    ofFile = tempDir();
  });
  afterEach(() => {
    order.push("afterEach");
  });
  afterAll(() => {
    expect(order).toEqual(["afterEach", "second", "first", "afterEach"]);
    expect([existsSync(ofFile), existsSync(ofTest)]).toEqual([true, false]);
  });

  const step = () => {
    expect(existsSync(ofFile)).toBe(true);
    if (ofTest !== "") return;
    ofTest = tempDir();
    cleanup(() => void order.push("first"));
    cleanup(async () => {
      await Promise.resolve();
      order.push("second");
    });
  };
  test("runs after the test, newest first, and what beforeAll opened is kept", step);
  test("holds in the next test too", step);
});

test("a socket's path fits into a temporary directory", () => {
  expect(tempDir().length).toBeLessThan(70);
});

test("tests do not see that they run in CI", () => {
  expect(process.env.CI).toBeUndefined();
});

describe("waitFor", () => {
  test("returns what the condition returned", async () => {
    let asked = 0;
    const answer = await waitFor(() => (++asked < 3 ? undefined : `asked ${asked} times`), { what: "it" });
    expect(answer).toBe("asked 3 times");
  });

  test("says what it waited for, and why in vain", async () => {
    const refused = () => Promise.reject(new Error("refused"));
    const waiting = waitFor(refused, { what: "the daemon to answer", timeoutMs: 30 });
    expect(waiting).rejects.toThrow("waited 30 ms in vain for the daemon to answer: Error: refused");
    await waiting.catch(() => undefined);
  });
});
