/** Requests and their answers: matched by id, ended by time, by the broker's word or by the end of the connection. */
import { beforeEach, describe, expect, test } from "bun:test";
import { MeshError } from "~/errors";
import { brokerError, unreachable } from "~/link/failure";
import { Requests } from "~/link/requests";
import type { BrokerFrame } from "~/wire/broker";
import { FakeClock } from "../../support/fake-clock";

let clock: FakeClock;
let requests: Requests;
let sent: string[];

beforeEach(() => {
  clock = new FakeClock();
  requests = new Requests(clock);
  sent = [];
});

const make = () =>
  requests.make((reqId) => {
    sent.push(reqId);
    return true;
  });
const ok = (reqId: string): BrokerFrame => ({ type: "ok", _reqId: reqId });
const codeOf = (request: Promise<unknown>): Promise<unknown> =>
  request.then(
    () => "answered",
    (error: unknown) => (error instanceof MeshError ? error.code : error),
  );

test("every request has an id of its own, and its own answer, in whatever order they come", async () => {
  const waiting = [make(), make(), make()];
  expect(new Set(sent).size).toBe(3);
  for (const reqId of [...sent].reverse()) expect(requests.settle(ok(reqId))).toBe(true);
  expect(await Promise.all(waiting)).toEqual(sent.map(ok));
  expect(clock.delaysMs).toEqual([]);
});

describe("what is nobody's answer", () => {
  test("is said to be none", () => {
    void codeOf(make());
    for (const frame of [
      { type: "ok" },
      { type: "ok", _reqId: "nobody's" },
      { type: "ok", _reqId: "__proto__" },
      { type: "error", code: "x", message: "y" },
      { type: "ack", id: sent[0] ?? "" },
      { type: "push", subtype: "system", event: "peer_joined" },
    ] as BrokerFrame[])
      expect(requests.settle(frame)).toBe(false);
  });
  test("nor is a second answer", async () => {
    const request = make();
    const [reqId = ""] = sent;
    expect([requests.settle(ok(reqId)), requests.settle(ok(reqId))]).toEqual([true, false]);
    expect(await request).toEqual(ok(reqId));
  });
});

describe("an answer that is an error", () => {
  test("rejects under its own code where we have that too", async () => {
    const request = make();
    requests.settle({ type: "error", code: "not_allowed", message: "owners only", _reqId: sent[0] ?? "" });
    const error = await request.catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({
      code: "not_allowed",
      message: "the broker refused: owners only",
      details: { broker_code: "not_allowed" },
    });
  });
  test("rejects as a refusal where we do not", () => {
    for (const code of ["from_the_future", "", "constructor", "__proto__", "toString"])
      expect(brokerError(code, "no")).toMatchObject({
        code: "broker_refused",
        details: { broker_code: code },
      });
  });
  test("brings a hint along when there is one", () => {
    expect(brokerError("clock_skew", "no", "set it").hint).toBe("set it");
    expect(brokerError("clock_skew", "no").hint).toBeUndefined();
  });
});

describe("a broker that cannot be reached", () => {
  const url = "ws://h:7900/ws";
  test("is named, with what the platform said", () => {
    expect(unreachable(url, new Error("refused"))).toMatchObject({
      code: "broker_unreachable",
      message: `cannot reach the broker at ${url}: refused`,
      hint: expect.stringContaining("claudemesh broker status"),
    });
    expect(unreachable(url, "").message).toBe(`cannot reach the broker at ${url}`);
  });
  test("because its certificate is not trusted comes with another hint", () => {
    for (const cause of ["self signed certificate", "TLS handshake failed"])
      expect(unreachable(url, cause).hint).toContain("NODE_EXTRA_CA_CERTS");
  });
});

describe("time", () => {
  test("runs out after 15 seconds, and not a millisecond before", async () => {
    const outcome = codeOf(make());
    clock.advance(14_999);
    expect(clock.delaysMs).toEqual([1]);
    clock.advance(1);
    expect(await outcome).toBe("timed_out");
    expect(requests.settle(ok(sent[0] ?? ""))).toBe(false);
  });
  test("runs out for each on its own", async () => {
    const first = codeOf(make());
    clock.advance(10_000);
    const second = make();
    clock.advance(5_000);
    expect(await first).toBe("timed_out");
    expect(requests.settle(ok(sent[1] ?? ""))).toBe(true);
    expect(await second).toEqual(ok(sent[1] ?? ""));
  });
  test("may be given", async () => {
    requests = new Requests(clock, 100);
    const request = make();
    clock.advance(100);
    expect(request).rejects.toThrow("did not answer within 0.1 s");
    await request.catch(() => undefined);
  });
});

describe("the end of the connection", () => {
  test("ends all that wait, at once and with its reason, and stops their clocks", async () => {
    const gone = new MeshError("broker_unreachable", "gone");
    const waiting = [make(), make()].map((request) => request.catch((error: unknown) => error));
    requests.failAll(gone);
    expect(await Promise.all(waiting)).toEqual([gone, gone]);
    expect(clock.delaysMs).toEqual([]);
    expect(sent.map((reqId) => requests.settle(ok(reqId)))).toEqual([false, false]);
    requests.failAll(gone);
  });
  test("does not end those that come after it", async () => {
    requests.failAll(new MeshError("broker_unreachable", "gone"));
    const request = make();
    requests.settle(ok(sent[0] ?? ""));
    expect(await request).toEqual(ok(sent[0] ?? ""));
  });
  test("before it began leaves nothing waiting", async () => {
    expect(await codeOf(requests.make(() => false))).toBe("broker_unreachable");
    expect(clock.delaysMs).toEqual([]);
  });
});
