/** What the mock of the daemon records, and that another one answers from it as the first one did. */
import { describe, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Redaction } from "~/mock/daemon/redaction";
import { usualToken } from "~/mock/daemon/run";
import { challengeProof } from "~/wire/challenge";
import type { Recorded } from "~/wire/mock-recording";
import { FakeClock } from "../../support/fake-clock";
import { tempDir } from "../../support/temp-dir";
import { waitFor } from "../../support/wait-for";
import { bodyOf, httpRequest, type RunningMock, startMock } from "./daemon-harness";

const send = (id: string) => ({ to: "bob", message: "hi", client_message_id: id });
const textOf = (hex: string): string => Buffer.from(hex, "hex").toString();

/** Stops the one that records, and starts one that answers from what it wrote. */
async function replayOf(mock: RunningMock): Promise<RunningMock> {
  await mock.stop();
  return await startMock({ replay: mock.recordFile });
}

describe("a recording", () => {
  test("has every connection, request and answer, in order, and what followed from what", async () => {
    const mock = await startMock({ record: true });
    const talk = mock.open(httpRequest("POST", "/v1/send", send("key-1"), "x-one: 1\r\n"));
    await talk.waitForText("key-1");
    talk.write(httpRequest("GET", "/v1/nothing?a=b"));
    await talk.waitForText("no_such_route");
    talk.leave();
    await waitFor(() => mock.recording().entries.length === 6, { what: "the end to be recorded" });
    const { head, entries } = mock.recording();
    expect(head).toMatchObject({ recording: "daemon" });
    expect(entries.map(({ n, conn, dir }) => [n, conn, dir])).toEqual([
      [1, 1, "open"],
      [2, 1, "in"],
      [3, 1, "out"],
      [4, 1, "in"],
      [5, 1, "out"],
      [6, 1, "close"],
    ]);
    const [, asked, answered, unknown, refused, closed] = entries;
    expect(asked).toMatchObject({
      method: "POST",
      target: "/v1/send",
      headers: { "x-one": "1", host: "localhost" },
    });
    expect(asked?.dir === "in" && JSON.parse(textOf(asked.hex))).toEqual(send("key-1"));
    expect(answered).toMatchObject({ after: 2, status: 202, last: true });
    expect(answered?.dir === "out" && JSON.parse(textOf(answered.hex))).toMatchObject({ status: "queued" });
    expect(unknown).toMatchObject({ method: "GET", target: "/v1/nothing?a=b", hex: "" });
    expect(refused).toMatchObject({ after: 4, status: 404 });
    expect(closed).toMatchObject({ by: "client" });
  });

  test("tells parts, bytes, cuts and events by what caused them", async () => {
    const mock = await startMock({
      record: true,
      script: {
        rules: [
          { on: "GET /v1/peers", bytes: "nonsense" },
          { on: "GET /v1/profile", cut: { after_bytes: 3 } },
        ],
        events: [{ after: "POST /v1/send", event: "outbox" }],
      },
    });
    const stream = mock.open(httpRequest("GET", "/v1/events"));
    await stream.waitForText(": open");
    await mock.talk(httpRequest("GET", "/v1/peers"));
    await mock.talk(httpRequest("GET", "/v1/profile"));
    await (await mock.post("/v1/send", send("key-1"))).text();
    await stream.waitForText("event: outbox");
    await mock.stop();
    const { entries } = mock.recording();
    const number = (target: string): number =>
      entries.find((entry) => entry.dir === "in" && entry.target === target)?.n ?? -1;
    const following = (target: string): Recorded[] =>
      entries.filter((entry) => "after" in entry && entry.after === number(target));
    expect(following("/v1/peers")).toMatchObject([
      { dir: "out", hex: Buffer.from("nonsense").toString("hex"), raw: true },
      { dir: "close", by: "mock" },
    ]);
    const [partOfProfile] = following("/v1/profile");
    expect(following("/v1/profile")).toMatchObject([
      { dir: "out", status: 200, hex: Buffer.from('{"s').toString("hex") },
      { dir: "close", by: "mock" },
    ]);
    expect(partOfProfile).not.toHaveProperty("last");
    const [answer, event] = following("/v1/send");
    expect(answer).toMatchObject({ dir: "out", last: true });
    const streamConn = entries.find((entry) => entry.dir === "in" && entry.target === "/v1/events")?.conn;
    expect(event).toMatchObject({ dir: "out", conn: streamConn });
    expect(event?.dir === "out" && textOf(event.hex)).toStartWith("event: outbox\n");
  });

  test("holds no token, wherever it stands", async () => {
    const token = "a-token-that-nobody-must-see";
    const mock = await startMock({
      record: true,
      tcp: 0,
      token,
      script: {
        rules: [{ on: "GET /v1/peers", reply: { headers: { "x-echo": token }, body: `token: ${token}` } }],
      },
    });
    const origin = `http://127.0.0.1:${mock.place.tcp_port}`;
    const authorization = `Bearer ${token}`;
    const answer = await fetch(`${origin}/v1/peers`, { headers: { authorization, cookie: `a=${token}` } });
    expect(await answer.text()).toBe(`token: ${token}`);
    await fetch(`${origin}/v1/health?token=another-token-of-mine`, { headers: { authorization } });
    await fetch(`${origin}/v1/send`, {
      method: "POST",
      headers: { authorization: "Bearer wrong-token-of-mine" },
      body: JSON.stringify({ ...send("key-1"), message: `it is ${token}` }),
    });
    await mock.stop();
    const recorded = readFileSync(mock.recordFile, "utf8");
    const everything =
      recorded +
      mock
        .recording()
        .entries.map((entry) => ("hex" in entry ? textOf(entry.hex) : ""))
        .join("\n");
    for (const secret of [token, "another-token-of-mine", "wrong-token-of-mine"])
      expect(everything).not.toContain(secret);
    expect(everything).toContain("/v1/health?token=[token]");
    expect(everything).toContain("it is ****");
  });

  test("what is left out of a text, a header and bytes", () => {
    const redact = new Redaction("secret-secret-secret");
    expect(redact.text("/v1/x?a=1&%74oken=abc&b=token#t")).toBe("/v1/x?a=1&%74oken=[token]&b=token#t");
    expect(redact.text("/secret-secret-secret")).toBe("/[token]");
    expect(redact.headers({ Authorization: "x", Cookie: "y", "X-A": "secret-secret-secret!" })).toEqual({
      "X-A": "[token]!",
    });
    const bytes = Buffer.from("<secret-secret-secret><secret-secret-secret>");
    expect(Buffer.from(redact.bytes(bytes)).toString()).toBe(`<${"*".repeat(20)}><${"*".repeat(20)}>`);
    expect(bytes.toString()).toContain("secret");
    expect(redact.bytes(Buffer.from("other"))).toEqual(Buffer.from("other"));
  });
});

describe("a replay", () => {
  test("gives the same answers for the same requests: the first, the second, and the last ever after", async () => {
    const mock = await startMock({
      record: true,
      script: { rules: [{ on: "POST /v1/send", times: 1, error: "daemon_busy" }] },
    });
    await (await mock.post("/v1/send", send("a"))).text();
    await (await mock.post("/v1/send", send("a"))).text();
    const due = await (await mock.fetch("/v1/inbox?limit=1", { headers: { "x-other": "1" } })).text();
    const replay = await replayOf(mock);
    const statuses = [];
    // JSON is the same however it is written.
    for (const body of [send("a"), '{ "client_message_id":"a", "message":"hi", "to":"bob" }', send("a")]) {
      statuses.push((await replay.post("/v1/send", body)).status);
    }
    expect(statuses).toEqual([429, 202, 202]);
    const inbox = await replay.fetch("/v1/inbox?limit=1");
    expect(await inbox.text()).toBe(due);
    expect(inbox.headers.get("content-type")).toStartWith("application/json");
    expect(inbox.headers.get("claudemesh-version")).not.toBeNull();
  });

  test("repeats what was no answer: bytes, cuts, silence", async () => {
    const rules = [
      { on: "GET /v1/peers", bytes: "nonsense" },
      { on: "GET /v1/profile", cut: { after_bytes: 3 } },
      { on: "GET /v1/health", cut: true },
      { on: "GET /v1/outbox", drop: true },
      { on: "GET /v1/inbox", drop: { after_bytes: 2 } },
    ];
    const mock = await startMock({ record: true, script: { rules } });
    const ask = async (asked: RunningMock) => {
      const peers = await asked.talk(httpRequest("GET", "/v1/peers"));
      const profile = await asked.talk(httpRequest("GET", "/v1/profile"));
      const health = await asked.talk(httpRequest("GET", "/v1/health"));
      const dropped = asked.open(httpRequest("GET", "/v1/outbox"));
      const silent = asked.open(httpRequest("GET", "/v1/inbox"));
      await silent.waitForText('\r\n\r\n{"');
      expect(await asked.talk(httpRequest("GET", "/v1/peers"))).toEqual(peers);
      return {
        peers,
        profile: [bodyOf(profile.text), /content-length: \d+/i.exec(profile.text)?.[0], profile.hasEnded],
        health,
        dropped: [dropped.text(), dropped.hasEnded()],
        silent: [bodyOf(silent.text()), silent.hasEnded()],
      };
    };
    const first = await ask(mock);
    expect(first.profile).toEqual(['{"s', expect.stringMatching(/\d{2,}$/), true]);
    expect(first.health).toEqual({ text: "", hasEnded: true });
    expect(first.silent).toEqual(['{"', false]);
    expect(await ask(await replayOf(mock))).toEqual(first);
  });

  test("tells an open stream what followed from the request when it is made again, and not before", async () => {
    const mock = await startMock({
      record: true,
      script: { events: [{ after: "POST /v1/send", event: "message" }] },
    });
    const recorded = mock.open(httpRequest("GET", "/v1/events"));
    await recorded.waitForText(": open");
    await mock.post("/v1/send", send("a"));
    await recorded.waitForText("from-bob-4");
    const replay = await replayOf(mock);
    const stream = replay.open(httpRequest("GET", "/v1/events"));
    await stream.waitForText(": open");
    expect((await replay.fetch("/v1/other")).status).toBe(501);
    expect(bodyOf(stream.text())).toBe(": open\n\n");
    await replay.post("/v1/send", send("a"));
    await stream.waitForText("from-bob-4");
    expect(bodyOf(stream.text())).toBe(bodyOf(recorded.text()));
  });

  test("what is not recorded is a 501 that says what was asked, on the log too", async () => {
    const mock = await startMock({ record: true });
    await (await mock.post("/v1/send", send("a"))).text();
    const replay = await replayOf(mock);
    const response = await replay.post("/v1/send", send("b"));
    expect(response.status).toBe(501);
    expect(await response.json()).toMatchObject({
      error: "not_recorded",
      message: `the recording has no POST /v1/send with the body ${JSON.stringify(send("b"))}`,
    });
    expect(replay.logged).toMatchObject([
      { level: "warn", message: "not_recorded", fields: { error: expect.stringContaining("POST /v1/send") } },
    ]);
  });

  test("knows the same request however often it is made, and one whose JSON nests without end", async () => {
    const deep = (space: string): string => `${space}${'{"a":'.repeat(50_000)}1${"}".repeat(50_000)}`;
    const entry = (n: number, more: object) => JSON.stringify({ n, at_ms: 0, conn: 1, ...more });
    const asked = (n: number, method: string, target: string, body: string) =>
      entry(n, { dir: "in", method, target, hex: Buffer.from(body).toString("hex") });
    const answered = (n: number, after: number, body: string) =>
      entry(n, { dir: "out", after, status: 200, last: true, hex: Buffer.from(body).toString("hex") });
    const polls = Array.from({ length: 10_000 }, (_, index) => [
      asked(2 * index + 1, "GET", "/v1/health", ""),
      answered(2 * index + 2, 2 * index + 1, String(index)),
    ]).flat();
    const file = join(tempDir(), "long.jsonl");
    writeFileSync(
      file,
      `${[
        '{"recording":"daemon","version":"1"}',
        ...polls,
        asked(200_001, "POST", "/v1/send", deep("")),
        answered(200_002, 200_001, "deep"),
      ].join("\n")}\n`,
    );
    const replay = await startMock({ replay: file });
    const wanted = 200;
    const answers = httpRequest("GET", "/v1/health").repeat(wanted);
    const talk = replay.open(answers);
    await talk.waitForText(new RegExp(`\\b${wanted - 1}\\r\\n`));
    expect(await (await replay.post("/v1/send", deep(""))).text()).toBe("deep");
    // It cannot be told whether that is the same, and is not guessed.
    expect((await replay.post("/v1/send", deep(" "))).status).toBe(501);
  });

  test("knows a request that was refused before its body was read", async () => {
    const mock = await startMock({ record: true });
    const refused = { method: "POST", body: "{}", headers: { origin: "http://example.com" } };
    expect((await mock.fetch("/v1/send", refused)).status).toBe(403);
    const clock = new FakeClock();
    const late = await startMock({ record: true, clock });
    const talk = late.open(
      "POST /v1/send HTTP/1.1\r\nhost: localhost\r\norigin: null\r\ncontent-length: 9\r\n\r\nabc",
    );
    await waitFor(() => clock.delaysMs.includes(1_000), { what: "the body to be waited for" });
    clock.advance(1_000);
    await talk.waitForText("forbidden_origin");
    expect(late.recording().entries).toContainEqual(
      expect.objectContaining({ dir: "in", hex: Buffer.from("abc").toString("hex") }),
    );
    const replay = await replayOf(mock);
    expect((await replay.fetch("/v1/send", refused)).status).toBe(403);
  });

  test("waits for a body that comes slowly", async () => {
    const mock = await startMock({ record: true });
    await (await mock.post("/v1/send", send("slow"))).text();
    await mock.stop();
    const clock = new FakeClock();
    const replay = await startMock({ replay: mock.recordFile, clock });
    const whole = httpRequest("POST", "/v1/send", send("slow"));
    const talk = replay.open(whole.slice(0, -5));
    await waitFor(() => clock.delaysMs.includes(1_000), { what: "the body to be waited for" });
    clock.advance(1_000);
    await waitFor(() => clock.delaysMs.includes(10_000), { what: "the body to be waited for on" });
    talk.write(whole.slice(-5));
    expect(await talk.waitForText('"queued"')).toStartWith("HTTP/1.1 202 ");
  });

  test("proves over TCP that it knows the token, whatever it is asked", async () => {
    const mock = await startMock({ record: true });
    await (await mock.fetch("/v1/health")).text();
    await mock.stop();
    const replay = await startMock({ replay: mock.recordFile, tcp: 0 });
    const nonce = "0c".repeat(32);
    const origin = `http://127.0.0.1:${replay.place.tcp_port}`;
    expect(await (await fetch(`${origin}/v1/challenge?nonce=${nonce}`)).json()).toEqual({
      proof: challengeProof(usualToken, nonce),
    });
    expect((await fetch(`${origin}/v1/health`)).status).toBe(200);
  });

  test("of a run that was killed goes as far as the recording does", async () => {
    const mock = await startMock({ record: true });
    await (await mock.fetch("/v1/health")).text();
    await (await mock.fetch("/v1/peers")).text();
    await mock.stop();
    const text = readFileSync(mock.recordFile, "utf8");
    const file = join(tempDir(), "cut.jsonl");
    writeFileSync(file, text.slice(0, text.lastIndexOf('"target":"/v1/peers"')));
    const replay = await startMock({ replay: file });
    expect((await replay.fetch("/v1/health")).status).toBe(200);
    expect((await replay.fetch("/v1/peers")).status).toBe(501);
  });
});
