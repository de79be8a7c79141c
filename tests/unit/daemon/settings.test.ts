/** Knobs that the running daemon reads: each changes what it does, and does so while it runs. */
import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { listen } from "~/daemon/ipc/listen";
import type { Settings } from "~/settings/knobs";
import { HealthReply } from "~/wire/ipc";
import { daemonPaths } from "~/wire/paths";
import { openTestDaemon, type TestDaemon, testToken } from "../../support/daemon-parts";
import { tempDir } from "../../support/temp-dir";

const local = { host: "localhost" };

async function withBob(): Promise<TestDaemon> {
  const daemon = await openTestDaemon();
  daemon.list(daemon.member("bob"));
  return daemon;
}

describe("web origins", () => {
  const tcp = { kind: "tcp", port: 47_823 } as const;
  const onTcp = { host: "127.0.0.1:47823" };
  const bearer = { authorization: `Bearer ${testToken}` };
  const origin = { origin: "http://localhost:3000" };
  const referer = { referer: "http://localhost:3000/app?x=1" };

  test.each<[what: string, way: "unix" | "tcp", headers: Record<string, string>, status: number]>([
    ["that are allowed, with the token", "tcp", { ...onTcp, ...bearer, ...origin, ...referer }, 200],
    ["that are allowed, without one", "tcp", { ...onTcp, ...origin }, 401],
    ["forwarded to the socket, with the token", "unix", { ...local, ...bearer, ...origin }, 200],
    ["forwarded to the socket, without one", "unix", { ...local, ...origin }, 401],
    ["by a referer alone, with the token", "tcp", { ...onTcp, ...bearer, ...referer }, 200],
    [
      "with a referer that is not allowed",
      "tcp",
      { ...onTcp, ...bearer, ...origin, referer: "http://evil.example/" },
      403,
    ],
    [
      "with an origin that is not allowed",
      "tcp",
      { ...onTcp, ...bearer, ...referer, origin: "http://evil.example" },
      403,
    ],
    ["of another port", "tcp", { ...onTcp, ...bearer, origin: "http://localhost:3001" }, 403],
    ["of another scheme", "tcp", { ...onTcp, ...bearer, origin: "https://localhost:3000" }, 403],
    ["that only begin alike", "tcp", { ...onTcp, ...bearer, origin: "http://localhost:30000" }, 403],
    ["that are hidden", "tcp", { ...onTcp, ...bearer, origin: "null" }, 403],
    ["with a referer that is no address", "tcp", { ...onTcp, ...bearer, referer: "about:blank" }, 403],
    ["none at all, over the socket", "unix", local, 200],
  ])("%s", async (_, way, headers, status) => {
    const daemon = await openTestDaemon();
    const app = daemon.app(way === "tcp" ? tcp : { kind: "unix" });
    const ask = () => daemon.until(Promise.resolve(app.request("http://localhost/v1/version", { headers })));
    const before = await ask();
    expect(before.status).toBe("origin" in headers || "referer" in headers ? 403 : status);
    daemon.set({ "daemon.allowed_origins": ["http://localhost:3000"] });
    const after = await ask();
    expect(after.status).toBe(status);
    for (const { headers: answered } of [before, after]) {
      expect([...answered.keys()].filter((name) => name.startsWith("access-control-"))).toEqual([]);
    }
  });

  test("that are allowed may not ask beforehand: no page is told that it may", async () => {
    const daemon = await openTestDaemon();
    daemon.set({ "daemon.allowed_origins": ["http://localhost:3000"] });
    const response = await daemon.request("OPTIONS", "/v1/send", undefined, { ...origin, ...bearer });
    expect(response.status).toBe(403);
    expect(response.headers.get("access-control-allow-origin")).toBeNull();
  });

  test("a refusal tells how to let a page in", async () => {
    const daemon = await openTestDaemon();
    const response = await daemon.request("GET", "/v1/version", undefined, origin);
    expect(await response.json()).toMatchObject({
      error: "forbidden_origin",
      hint: expect.stringContaining("config set daemon.allowed_origins http://localhost:3000"),
    });
  });
});

test("health is public from one request to the next", async () => {
  const daemon = await openTestDaemon();
  const files = daemonPaths(tempDir());
  const listeners = listen({ parts: daemon.parts, paths: files, tcp: { port: 0 }, log: () => undefined });
  const ask = async () => (await fetch(`http://127.0.0.1:${listeners.tcpPort}/v1/health`)).status;
  expect(await ask()).toBe(401);
  daemon.set({ "daemon.public_health": true });
  expect(await ask()).toBe(200);
  daemon.set({ "daemon.public_health": false, "daemon.stop_grace_s": 0 });
  expect(await ask()).toBe(401);
  await daemon.until(listeners.stop(true));
});

describe("the load", () => {
  test("that waits is bounded", async () => {
    const daemon = await withBob();
    daemon.set({ "api.requests_waiting_max": 1 });
    const body = { to: "bob", message: "hi", client_message_id: "key-1" };
    expect((await daemon.request("POST", "/v1/send", body)).status).toBe(202);
    const app = daemon.app();
    const wait = () =>
      Promise.resolve(
        app.request("http://localhost/v1/messages/key-1?wait=accepted&timeout_ms=1000", { headers: local }),
      );
    const first = wait();
    const refused = await daemon.until(wait());
    expect(refused.status).toBe(429);
    expect(await refused.json()).toMatchObject({ message: "the daemon is busy: 1 requests wait already" });
    daemon.set({ "api.requests_waiting_max": 2 });
    const second = wait();
    await new Promise((resolve) => setImmediate(resolve));
    daemon.clock.advance(1_000);
    for (const answer of [first, second]) expect((await daemon.until(answer)).status).toBe(200);
  });

  test("that is at work is bounded", async () => {
    const daemon = await withBob();
    daemon.set({ "api.requests_at_work_max": 1 });
    const app = daemon.app();
    let end: () => void = () => undefined;
    const stuck = app.request("http://localhost/v1/send", {
      method: "POST",
      headers: local,
      body: new ReadableStream({
        start(controller) {
          controller.enqueue(new TextEncoder().encode("{"));
          end = () => controller.close();
        },
      }),
    });
    const ask = () =>
      daemon.until(Promise.resolve(app.request("http://localhost/v1/version", { headers: local })));
    const refused = await ask();
    expect(refused.status).toBe(429);
    expect(await refused.json()).toMatchObject({
      message: "the daemon is busy: 1 requests are at work already",
    });
    daemon.set({ "api.requests_at_work_max": 2 });
    expect((await ask()).status).toBe(200);
    end();
    expect((await daemon.until(Promise.resolve(stuck))).status).toBe(400);
  });
});

describe("event streams", () => {
  const open = (daemon: TestDaemon) => daemon.request("GET", "/v1/events");

  test("are bounded in number", async () => {
    const daemon = await openTestDaemon();
    daemon.set({ "api.streams_max": 1 });
    const first = await open(daemon);
    expect((await open(daemon)).status).toBe(429);
    daemon.set({ "api.streams_max": 2 });
    const second = await open(daemon);
    expect(second.status).toBe(200);
    for (const { body } of [first, second]) await body?.cancel();
  });

  test("show that they live as often as told", async () => {
    const daemon = await openTestDaemon();
    daemon.set({ "api.stream_comment_s": 1 });
    const reader = (await open(daemon)).body?.getReader();
    const text = async () => new TextDecoder().decode((await reader?.read())?.value);
    expect(await text()).toContain(": open");
    daemon.clock.advance(1_000);
    expect(await text()).toContain(": still here");
    await reader?.cancel();
  });

  test("end when their reader takes nothing for as long as told", async () => {
    const daemon = await openTestDaemon();
    daemon.set({ "api.stream_buffer_bytes_max": 65_536, "api.stream_stall_s": 2 });
    const { body } = await open(daemon);
    const event = (n: number) =>
      ({ event: "peer_join", data: { mesh: "team", name: "x".repeat(1000), pubkey: String(n) } }) as const;
    for (let n = 0; n < 80; n++) daemon.parts.hub.announce({ kind: "passing", event: event(n) });
    expect(daemon.parts.tallies.streams).toBe(1);
    daemon.clock.advance(1_999);
    expect(daemon.parts.tallies.streams).toBe(1);
    daemon.clock.advance(1);
    expect(daemon.parts.tallies.streams).toBe(0);
    await body?.cancel();
  });

  test("end at once when more waits than their buffer holds", async () => {
    const daemon = await openTestDaemon();
    daemon.set({ "api.stream_buffer_bytes_max": 65_536 });
    const { body } = await open(daemon);
    const event = {
      event: "peer_join",
      data: { mesh: "team", name: "x".repeat(1000), pubkey: "k" },
    } as const;
    for (let n = 0; n < 150; n++) daemon.parts.hub.announce({ kind: "passing", event });
    expect(daemon.parts.tallies.streams).toBe(0);
    await body?.cancel();
  });
});

test("a send waits for the members of a new mesh as long as told", async () => {
  const daemon = await openTestDaemon();
  daemon.set({ "api.directory_wait_ms": 50 });
  let status: number | undefined;
  const sending = daemon.app().request("http://localhost/v1/send", {
    method: "POST",
    headers: local,
    body: JSON.stringify({ to: "bob", message: "hi" }),
  });
  const answered = Promise.resolve(sending).then((response) => {
    status = response.status;
  });
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
  daemon.clock.advance(49);
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
  expect(status).toBeUndefined();
  daemon.clock.advance(1);
  await daemon.until(answered);
  expect(status).toBe(503);
});

test("a message that waits is a problem after as long as told", async () => {
  const daemon = await withBob();
  await daemon.request("POST", "/v1/send", { to: "bob", message: "hi" });
  const codes = async (changes: Partial<Settings>) => {
    daemon.set(changes);
    const health = v.parse(HealthReply, await (await daemon.request("GET", "/v1/health")).json());
    return health.problems.map(({ code }) => code);
  };
  daemon.clock.advance(3 * 60_000);
  expect(await codes({})).not.toContain("message_waits_long");
  expect(await codes({ "delivery.waiting_warning_minutes": 2 })).toContain("message_waits_long");
  expect(await codes({ "delivery.waiting_warning_minutes": 4 })).not.toContain("message_waits_long");
});
