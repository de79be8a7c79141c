/**
 * How a request reaches the daemon when the Unix socket is forbidden: who is asked what, in which order, and that the token is
 * shown to nobody who has not proved himself. The system's `fetch` is replaced; tests/e2e/sandbox.test.ts does it for real.
 */
import { describe, expect, test } from "bun:test";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Fetch } from "~/client/tcp";
import { openWay, versionSkew } from "~/client/way";
import { MeshError } from "~/errors";
import { version } from "~/version";
import { challengeProof } from "~/wire/challenge";
import { versionHeader } from "~/wire/place";
import { tempDir } from "../../support/temp-dir";
import { fakeDaemon, json } from "./fake-daemon";

const token = "a".repeat(43);
const otherToken = "b".repeat(43);

interface Asked {
  url: string;
  authorization: string | null;
  proxy: unknown;
}

interface World {
  /** What connecting to the socket fails with. */
  refusal?: string;
  /** Answers over TCP. */
  serve: (url: URL, request: Asked) => Response;
}

function openWorld({ refusal = "EPERM", serve }: World) {
  const dir = tempDir();
  const files = { port: join(dir, "http.port"), token: join(dir, "local_token") };
  writeFileSync(files.port, "4711\n");
  writeFileSync(files.token, `${token}\n`);
  const asked: Asked[] = [];
  let socketTries = 0;
  const fetch: Fetch = async (url, init) => {
    if ("unix" in init) {
      socketTries++;
      throw Object.assign(new Error("refused"), { code: refusal });
    }
    const one = {
      url,
      authorization: new Headers(init.headers).get("authorization"),
      proxy: "proxy" in init ? init.proxy : undefined,
    };
    asked.push(one);
    return serve(new URL(url), one);
  };
  const told: string[] = [];
  const way = openWay({
    socketPath: join(dir, "daemon.sock"),
    tcp: files,
    tell: (text) => void told.push(text),
    fetch,
  });
  return { way, files, asked, told, socketTries: () => socketTries };
}

/** A daemon that knows `known`, and answers everything else with its path. */
const daemonWith =
  (known: string): World["serve"] =>
  (url) =>
    url.pathname === "/v1/challenge"
      ? json({ proof: challengeProof(known, url.searchParams.get("nonce") ?? "") })
      : new Response(url.pathname);

const endless = (): ReadableStream<Uint8Array> =>
  new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(65_536).fill(0x20)) });

async function failureOf(promise: Promise<unknown>): Promise<MeshError> {
  const outcome = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (outcome instanceof MeshError) return outcome;
  throw new Error(`no MeshError but ${Bun.inspect(outcome)}`);
}

describe("a socket that may not be connected to", () => {
  test.each(["EPERM", "EACCES"])(
    "(%s) is replaced by TCP, after the proof, and that is told once",
    async (code) => {
      const world = openWorld({ refusal: code, serve: daemonWith(token) });
      const first = await world.way.request("/v1/health", { method: "GET" });
      expect(await first.text()).toBe("/v1/health");
      await world.way.request("/v1/peers", { method: "GET" });
      expect(world.asked.map(({ url, authorization }) => [new URL(url).pathname, authorization])).toEqual([
        ["/v1/challenge", null],
        ["/v1/health", `Bearer ${token}`],
        // Another process may have the port by now: every request is preceded by a proof.
        ["/v1/challenge", null],
        ["/v1/peers", `Bearer ${token}`],
      ]);
      expect(
        world.asked.every(({ url, proxy }) => url.startsWith("http://127.0.0.1:4711/") && proxy === false),
      ).toBe(true);
      const nonces = world.asked.map(({ url }) => new URL(url).searchParams.get("nonce")).filter(Boolean);
      expect(new Set(nonces).size).toBe(2);
      for (const nonce of nonces) expect(nonce).toMatch(/^[0-9a-f]{64}$/);
      expect(world.told).toEqual([
        expect.stringContaining(`daemon.sock (${code}); going through http://127.0.0.1:4711`),
      ]);
      expect(world.socketTries()).toBe(1);
    },
  );

  test("whose daemon is another user's is not looked for elsewhere", async () => {
    const { connectionFailure, isAnotherUsers } = await import("~/client/failure");
    const error = connectionFailure(Object.assign(new Error("x"), { code: "EACCES" }), "/x/d.sock");
    const theirs = new MeshError("sandboxed", "m", { details: { owner_uid: (process.getuid?.() ?? 0) + 1 } });
    expect([isAnotherUsers(error), isAnotherUsers(theirs)]).toEqual([false, true]);
  });

  test("whose directory another user made before us is not tried at all, except by root", async () => {
    const { anothersSocket } = await import("~/client/failure");
    const socketPath = join(tempDir(), "daemon.sock");
    const ownUid = process.getuid?.() ?? 0;
    const refusal = anothersSocket(socketPath, ownUid + 1);
    expect(refusal).toMatchObject({ code: "sandboxed", details: { owner_uid: ownUid } });
    expect(refusal?.message).toContain(`this process is user id ${ownUid + 1}`);
    expect([anothersSocket(socketPath, ownUid), anothersSocket(socketPath, 0)]).toEqual([
      undefined,
      undefined,
    ]);
    expect(anothersSocket("/nowhere/at/all/daemon.sock", ownUid + 1)).toBeUndefined();
  });

  test("with a token that was renewed between the reading and the proof: read again, once", async () => {
    const world = openWorld({
      serve: (url, request) => {
        if (world.asked.length === 1) writeFileSync(world.files.token, otherToken);
        return daemonWith(otherToken)(url, request);
      },
    });
    expect((await world.way.request("/v1/health", {})).status).toBe(200);
    expect(world.asked.map(({ authorization }) => authorization)).toEqual([
      null,
      null,
      `Bearer ${otherToken}`,
    ]);
  });

  const liars: [what: string, serve: World["serve"]][] = [
    ["knows another token", daemonWith(otherToken)],
    ["repeats a proof", () => json({ proof: "00".repeat(32) })],
    ["answers with a shorter proof", () => json({ proof: challengeProof(token, "00").slice(1) })],
    ["answers something else", () => new Response("hello")],
    ["answers without end", () => new Response(endless())],
    ["answers an error", () => json({ error: "no_such_route", message: "" }, 404)],
  ];
  test.each(liars)(
    "on whose port somebody sits who %s: refused, and never shown the token",
    async (_what, serve) => {
      const world = openWorld({ serve });
      const error = await failureOf(world.way.request("/v1/send", { method: "POST", body: "secret" }));
      expect(error.code).toBe("unauthorized");
      expect(error.message).toContain("http://127.0.0.1:4711");
      expect(world.asked.map(({ authorization }) => authorization)).toEqual([null]);
      expect(world.told).toEqual([]);
    },
  );

  test("on whose port somebody has the next daemon make the proof for him: never shown the token", async () => {
    const world = openWorld({
      serve: (url, request) => {
        // A daemon writes its port down before it answers anybody.
        writeFileSync(world.files.port, "4712\n");
        return daemonWith(token)(url, request);
      },
    });
    expect((await failureOf(world.way.request("/v1/health", {}))).code).toBe("unauthorized");
    expect(world.asked.map(({ authorization }) => authorization)).toEqual([null]);
    expect((await world.way.request("/v1/health", {})).status).toBe(200);
    expect(world.asked.at(-1)).toMatchObject({
      url: "http://127.0.0.1:4712/v1/health",
      authorization: `Bearer ${token}`,
    });
  });

  const closed: [what: string, spoil: (files: { port: string; token: string }) => void, why: string][] = [
    ["no port file", ({ port }) => void Bun.spawnSync(["rm", port]), "does not serve it"],
    ["no token", ({ token }) => void Bun.spawnSync(["rm", token]), "local_token"],
    [
      "a port file that holds something else",
      ({ port }) => writeFileSync(port, "evil.example:80"),
      "http.port",
    ],
    ["a port of 0", ({ port }) => writeFileSync(port, "0"), "http.port"],
    ["half a token", ({ token }) => writeFileSync(token, "abc"), "local_token"],
  ];
  test.each(closed)("with %s: the error stays, and says both ways out", async (_what, spoil, why) => {
    const world = openWorld({ serve: daemonWith(token) });
    spoil(world.files);
    const error = await failureOf(world.way.request("/v1/health", {}));
    expect(error.code).toBe("sandboxed");
    expect(error.message).toContain("(EPERM)");
    expect(error.message).toContain(why);
    expect(error.hint).toContain("CLAUDEMESH_DAEMON_DIR");
    expect(error.hint).toContain("--no-tcp");
    expect(world.asked).toEqual([]);
  });

  test("with nobody on the port: the error stays, since a sandbox may hide the port as well", async () => {
    const world = openWorld({
      serve: () => {
        throw Object.assign(new Error("x"), { code: "ECONNREFUSED" });
      },
    });
    expect(await failureOf(world.way.request("/v1/health", {}))).toMatchObject({
      code: "sandboxed",
      message: expect.stringContaining("did not answer (ECONNREFUSED)"),
    });
  });

  test.skipIf(process.getuid?.() === 0)(
    "with a token that may not be read: the error stays (not as root)",
    async () => {
      const world = openWorld({ serve: daemonWith(token) });
      chmodSync(world.files.token, 0);
      const error = await failureOf(world.way.request("/v1/health", {}));
      expect(error).toMatchObject({ code: "sandboxed", message: expect.stringContaining("EACCES") });
    },
  );
});

test.each(["ENOENT", "ECONNREFUSED", "ECONNRESET", "EAGAIN", "ENOTDIR"])(
  "a socket that fails with %s is no reason to try TCP",
  async (code) => {
    const world = openWorld({ refusal: code, serve: daemonWith(token) });
    const thrown = await world.way.request("/v1/health", {}).catch((error: unknown) => error);
    expect(thrown).toMatchObject({ code });
    expect(world.asked).toEqual([]);
  },
);

describe("the daemon's version", () => {
  const tellOf = async (headers: Record<string, string>, requests = 1): Promise<string[]> => {
    const { socketPath } = fakeDaemon(() => new Response("", { headers }));
    const told: string[] = [];
    const way = openWay({ socketPath, tell: (text) => void told.push(text) });
    for (let count = 0; count < requests; count++) await way.request("/v1/health", {});
    return told;
  };

  test("that is the command's own, or that is not told, is nothing to mention", async () => {
    expect(await tellOf({ [versionHeader]: version })).toEqual([]);
    expect(await tellOf({})).toEqual([]);
  });

  test("that differs is mentioned once, with what to type", async () => {
    expect(await tellOf({ [versionHeader]: "9.9.9" }, 3)).toEqual([
      expect.stringMatching(
        /^warning: the daemon runs version 9\.9\.9, this command is .*claudemesh daemon restart$/,
      ),
    ]);
  });

  test("that is newer is not to be replaced without saying so", () => {
    expect(versionSkew("9.9.9")).toContain("Use the newer executable here too");
    for (const other of ["0.0.0-aaa", "strange"]) {
      expect(versionSkew(other)).toContain("To make them one: claudemesh daemon restart");
    }
    expect(versionSkew(version)).toBeUndefined();
  });
});
