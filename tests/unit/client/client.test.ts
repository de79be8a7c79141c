/** The daemon's answers and everything that can stand in for one, as the client reports them. */
import { describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { openClient } from "~/client/client";
import { isErrorCode, MeshError } from "~/errors";
import { ConflictReply, routes } from "~/wire/ipc";
import { SendReply } from "~/wire/reply";
import { tempDir } from "../../support/temp-dir";
import { fakeDaemon, json, newSocketPath, rawDaemon } from "./fake-daemon";

const sent = { client_message_id: "a", status: "queued" as const, duplicate: false };

async function failureOf(promise: Promise<unknown>): Promise<MeshError> {
  const outcome = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (outcome instanceof MeshError) return outcome;
  throw new Error(`no MeshError but ${Bun.inspect(outcome)}`);
}

describe("a request", () => {
  test("has the method, path, query and body of the table", async () => {
    const daemon = fakeDaemon(({ target }) =>
      target === "/v1/send"
        ? json(sent, 202)
        : target.startsWith("/v1/inbox")
          ? json({ items: [], next_cursor: "9" })
          : json({
              client_message_id: "a/b c",
              mesh: null,
              to: null,
              status: "done",
              enqueued_at: "2026-01-01T00:00:00.000Z",
              receipts: [],
            }),
    );
    const client = openClient(daemon);
    expect(await client.call("send", { body: { to: "bob", message: "hi" } })).toEqual(sent);
    expect(
      await client.call("inbox", { query: { limit: 5, unread: true, from: "a&b", mesh: undefined } }),
    ).toEqual({
      items: [],
      next_cursor: "9",
    });
    await client.call("message", { params: { client_message_id: "a/b c" }, query: { wait: "accepted" } });
    expect(daemon.seen.map(({ method, target, body }) => [method, target, body])).toEqual([
      ["POST", "/v1/send", { to: "bob", message: "hi" }],
      ["GET", "/v1/inbox?limit=5&unread=true&from=a%26b", undefined],
      ["GET", "/v1/messages/a%2Fb%20c?wait=accepted", undefined],
    ]);
    expect(daemon.seen[0]?.headers.get("content-type")).toBe("application/json");
    expect(daemon.seen[0]?.headers.get("host")).toBe("localhost");
  });

  test("fields that a newer daemon adds do no harm", async () => {
    const { socketPath } = fakeDaemon(() => json({ ...sent, brand_new: 1 }));
    expect(await openClient({ socketPath }).call("send", { body: { to: "b", message: "" } })).toEqual(sent);
  });
});

test("what a send is answered is read by the schemas of the table, though the table is not loaded for it", () => {
  const { 409: refused, ...taken } = routes.send.responses;
  expect(taken).toEqual({ 200: SendReply, 202: SendReply });
  expect([taken[200], taken[202]].every((schema) => schema === SendReply)).toBe(true);
  expect(refused).toBe(ConflictReply);
});

describe("an error answer", () => {
  const answers: [what: string, answer: () => Response, expected: Record<string, unknown>][] = [
    [
      "of a known code is that error, further fields included",
      () => json({ error: "unknown_peer", message: "nobody", hint: "look", candidates: ["bob"] }, 404),
      { code: "unknown_peer", message: "nobody", hint: "look", details: { candidates: ["bob"] } },
    ],
    [
      "that is a conflict keeps what the contract names",
      () =>
        json(
          {
            error: "idempotency_key_reused",
            message: "used",
            conflict: "outbox_done_fingerprint_mismatch",
            daemon_fingerprint_prefix: "0123456789abcdef",
            broker_message_id: "B",
          },
          409,
        ),
      {
        code: "idempotency_key_reused",
        details: {
          conflict: "outbox_done_fingerprint_mismatch",
          daemon_fingerprint_prefix: "0123456789abcdef",
          broker_message_id: "B",
        },
      },
    ],
    ...(
      [
        [400, "invalid_request"],
        [401, "unauthorized"],
        [403, "not_allowed"],
        [404, "no_such_message"],
        [409, "id_in_use"],
        [413, "body_too_large"],
        [418, "invalid_request"],
        [429, "daemon_busy"],
        [500, "bad_gateway"],
        [503, "daemon_stopping"],
        [504, "timed_out"],
      ] as const
    ).map(([status, code]): [string, () => Response, Record<string, unknown>] => [
      `of an unknown code with ${status} is ${code}`,
      () => json({ error: "brand_new", message: "m" }, status),
      { code, message: "m", details: { daemon_code: "brand_new" } },
    ]),
    [
      "for a route that the daemon does not know is an incompatible daemon",
      () => json({ error: "no_such_route", message: "GET /v1/health" }, 404),
      { code: "incompatible_daemon" },
    ],
    [
      "without JSON is an incompatible daemon",
      () => new Response("oops", { status: 500 }),
      { code: "incompatible_daemon" },
    ],
    [
      "of the wrong shape is an incompatible daemon",
      () => json({ err: 1 }, 400),
      { code: "incompatible_daemon" },
    ],
  ];
  test.each(answers)("%s", async (_what, answer, expected) => {
    const { socketPath } = fakeDaemon(answer);
    const error = await failureOf(openClient({ socketPath }).call("health"));
    expect(error).toMatchObject(expected);
    expect(isErrorCode(error.code)).toBe(true);
    if (error.code === "incompatible_daemon") expect(error.hint).toContain("claudemesh daemon restart");
  });
});

describe("an answer that makes no sense is an incompatible daemon", () => {
  const nonsense: [what: string, answer: () => Response][] = [
    ["no JSON", () => new Response("<html>")],
    ["nothing", () => new Response("")],
    ["another shape", () => json({ status: "queued" })],
    ["an unknown status word", () => json({ ...sent, status: "teleported" })],
    ["a status outside the table", () => json(sent, 201)],
    ["a redirect", () => new Response(null, { status: 302, headers: { location: "http://example.org/" } })],
  ];
  test.each(nonsense)("%s", async (what, answer) => {
    const { socketPath } = fakeDaemon(answer);
    const error = await failureOf(
      openClient({ socketPath }).call("send", { body: { to: "b", message: "m" } }),
    );
    expect(error.code).toBe(what === "a redirect" ? "answer_lost" : "incompatible_daemon");
  });
});

describe("no answer", () => {
  test("where there is no socket: no daemon", async () => {
    const socketPath = newSocketPath();
    const error = await failureOf(openClient({ socketPath }).call("health"));
    expect(error).toMatchObject({ code: "daemon_unreachable", hint: "Start it: claudemesh daemon up" });
    expect(error.message).toContain(socketPath);
  });

  test("on a socket that nobody serves any more: no daemon", async () => {
    const socketPath = newSocketPath();
    const script = `Bun.listen({ unix: ${JSON.stringify(socketPath)}, socket: { data() {} } }); process.kill(process.pid, "SIGKILL");`;
    await Bun.spawn([process.execPath, "-e", script], { stdout: "ignore", stderr: "ignore" }).exited;
    expect((await failureOf(openClient({ socketPath }).call("health"))).code).toBe("daemon_unreachable");
  });

  test("where the path leads through a file: the path is wrong, and that proves nothing about a daemon", async () => {
    const file = join(tempDir(), "file");
    writeFileSync(file, "");
    expect((await failureOf(openClient({ socketPath: join(file, "daemon.sock") }).call("health"))).code).toBe(
      "path_unsafe",
    );
  });

  test.each(["EPERM", "EACCES"])("with %s: a sandbox, the path and the fix named", async (code) => {
    const { connectionFailure } = await import("~/client/failure");
    const error = connectionFailure(Object.assign(new Error("x"), { code }), "/run/d.sock");
    expect(error.code).toBe("sandboxed");
    expect(error.message).toContain("/run/d.sock");
    expect(error.hint).toContain("CLAUDEMESH_DAEMON_DIR");
  });

  test("with EACCES on a socket of one's own: the settings that allow it, with its path", async () => {
    const { connectionFailure } = await import("~/client/failure");
    const { socketPath } = fakeDaemon(() => json(sent));
    const { hint, details } = connectionFailure(
      Object.assign(new Error("x"), { code: "EACCES" }),
      socketPath,
    );
    expect(hint).toContain(process.platform === "darwin" ? "allowUnixSockets" : "allowAllUnixSockets");
    expect(hint).toContain(socketPath);
    expect(details).toEqual({ socket: socketPath, owner_uid: process.getuid?.() });
  });

  test("because the daemon hung up: it may have taken the request", async () => {
    for (const text of ["", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", "hello\r\n\r\n"]) {
      const socketPath = rawDaemon(text);
      expect((await failureOf(openClient({ socketPath }).call("health"))).code).toBe("answer_lost");
    }
  });

  test("in time: timed out", async () => {
    const { socketPath } = fakeDaemon(() => new Promise<Response>(() => undefined));
    const error = await failureOf(openClient({ socketPath }).call("health", { timeoutMs: 20 }));
    expect(error).toMatchObject({ code: "timed_out", message: "the daemon did not answer within 0.02 s" });
  });

  test("before the caller gave up: interrupted", async () => {
    const giveUp = new AbortController();
    const { socketPath } = fakeDaemon(() => {
      giveUp.abort();
      return new Promise<Response>(() => undefined);
    });
    const call = openClient({ socketPath }).call("health", { signal: giveUp.signal });
    expect((await failureOf(call)).code).toBe("interrupted");
  });
});

test("a path that no socket can have is refused before connecting", () => {
  expect(() => openClient({ socketPath: `/tmp/${"x".repeat(120)}` })).toThrow("this system allows");
});
