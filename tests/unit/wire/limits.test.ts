/** Every bound is a whole number above zero and says its unit; a few have to fit to each other. */
import { describe, expect, test } from "bun:test";
import { timerDelayMsMax } from "~/clock";
import * as limits from "~/wire/limits";

/** The numbers of a limit that is one number, a list of them or one for each platform. */
function numbersOf(value: unknown): unknown[] {
  return typeof value === "object" && value !== null ? Object.values(value) : [value];
}

describe.each(Object.entries(limits))("%s", (_, value) => {
  test("is made of whole numbers above zero", () => {
    const numbers = numbersOf(value);
    expect(numbers.length).toBeGreaterThan(0);
    for (const number of numbers) {
      expect(Number.isSafeInteger(number)).toBe(true);
      expect(Number(number)).toBeGreaterThan(0);
    }
  });
});

test("what is waited for fits into a timer", () => {
  const waits = Object.entries(limits).filter(([name]) => /Ms(Max|Min|Default)?$/.test(name));
  expect(waits.length).toBeGreaterThan(10);
  for (const [, value] of waits) {
    for (const number of numbersOf(value)) expect(Number(number)).toBeLessThanOrEqual(timerDelayMsMax);
  }
});

test("what the contract says in numbers", () => {
  expect(limits).toMatchObject({
    frameBytesMax: 1024 * 1024,
    ipcBodyBytesMax: 1024 * 1024,
    inlineBytesDefault: 64 * 1024,
    closeReasonBytesMax: 123,
    clientMessageIdCharsMax: 128,
    helloSkewMsMax: 60_000,
    attestationMsMax: 86_400_000,
    pingEveryMs: 30_000,
    silenceMsMax: 75_000,
    reconnectDelaysMs: [1_000, 2_000, 4_000, 8_000, 16_000, 30_000],
    replacedRetryMs: 600_000,
    answerTimeoutMs: 15_000,
    retryDelayMsMin: 500,
    retryDelayMsMax: 60_000,
    unrecognisedAttemptsMax: 20,
    dedupeRetentionDaysMin: 3,
    maxAgeHoursPermanent: 168,
    leaseMs: 30_000,
    directoryWaitMs: 2_000,
    ipcPageDefault: 50,
    ipcPageMax: 500,
    ipcRequestsAtWorkMax: 64,
    ipcRequestsWaitingMax: 256,
    ipcStreamsMax: 32,
    streamCommentEveryMs: 15_000,
    tcpPortDefault: 47_823,
    brokerPortDefault: 7900,
  });
});

test("the smaller ones fit into the larger ones", () => {
  // A message of the default size, in base64 and with all else that its frame holds.
  expect(Math.ceil(limits.inlineBytesDefault / 3) * 4 + 4096).toBeLessThan(limits.frameBytesMax);
  // One page of a list, with the same list's largest entry on top.
  expect(limits.listBytesMax).toBeLessThan(limits.frameBytesMax);
  expect(limits.pingEveryMs * 2).toBeLessThan(limits.silenceMsMax);
  expect(limits.retryDelayMsMin).toBeLessThan(limits.retryDelayMsMax);
  expect(limits.ipcPageDefault).toBeLessThanOrEqual(limits.ipcPageMax);
  expect(limits.waitMsDefault).toBeLessThanOrEqual(limits.waitMsMax);
  expect(limits.lanesHeldPerConnectionMax).toBeGreaterThan(limits.membersPerMeshMax);
});
