/** Which way a message takes, what is said about it, and that one command never makes two messages. */
import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { send } from "~/cli/send";
import { MeshError } from "~/errors";
import { cleanup } from "../../support/cleanup";
import { tempDir } from "../../support/temp-dir";
import { type FakeDaemon, fakeDaemon, json, newSocketPath, type Seen } from "../client/fake-daemon";
import { type CapturedHost, type CaptureOptions, capturedHost } from "./captured-host";

type Script = (request: Seen, index: number) => Response | Promise<Response>;

function hostWithDaemon(
  script: Script,
  options: CaptureOptions = {},
): { host: CapturedHost; daemon: FakeDaemon } {
  const host = capturedHost(options);
  mkdirSync(dirname(host.socketPath), { recursive: true });
  return { host, daemon: fakeDaemon(script, host.socketPath) };
}

const idOf = ({ body }: Seen): string =>
  typeof body === "object" && body !== null && "client_message_id" in body
    ? String(body.client_message_id)
    : "";

const queued: Script = (request) =>
  json({ client_message_id: idOf(request), status: "queued", duplicate: false }, 202);

async function failureOf(promise: Promise<unknown>): Promise<MeshError> {
  const outcome = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (outcome instanceof MeshError) return outcome;
  throw new Error(`no MeshError but ${Bun.inspect(outcome)}`);
}

describe("what is asked of the daemon", () => {
  test("everything that was given, in the API's words", async () => {
    const { host, daemon } = hostWithDaemon(queued);
    const flags = [
      "--mesh",
      "team",
      "--priority",
      "now",
      "--meta",
      "a=1",
      "--meta",
      "b=x=y",
      "--reply-to",
      "r",
      "--id",
      "k",
    ];
    await send.execute(["bob", "hi", ...flags], host);
    expect(daemon.seen[0]?.body).toEqual({
      to: "bob",
      message: "hi",
      mesh: "team",
      priority: "now",
      meta: { a: "1", b: "x=y" },
      reply_to_id: "r",
      client_message_id: "k",
    });
  });

  test("a new id for every message without one", async () => {
    const { host, daemon } = hostWithDaemon(queued);
    await send.execute(["bob", "hi"], host);
    await send.execute(["bob", "hi"], host);
    const ids = daemon.seen.map(idOf);
    expect(ids[0]).toMatch(/^[0-9A-HJKMNP-TV-Z]{26}$/);
    expect(new Set(ids).size).toBe(2);
    expect(Object.keys(Object(daemon.seen[0]?.body))).toEqual([
      "to",
      "message",
      "priority",
      "client_message_id",
    ]);
  });

  test("the text of a file, byte for byte", async () => {
    const { host, daemon } = hostWithDaemon(queued);
    const file = join(tempDir(), "text");
    writeFileSync(file, "\ufeffgrüße\r\n\n");
    await send.execute(["bob", "--file", file], host);
    expect(daemon.seen[0]?.body).toMatchObject({ message: "\ufeffgrüße\r\n\n" });
  });

  const unreadable: [what: string, bytes: number[] | undefined, code: string, words: string][] = [
    ["a byte that begins nothing", [0x61, 0x62, 0xff, 0x63], "invalid_message", "byte 2 does not fit"],
    ["a sequence that breaks off", [0x61, 0xe2, 0x82], "invalid_message", "byte 1 does not fit"],
    ["a sequence that goes wrong", [0xc3, 0xa4, 0xe2, 0x28, 0xa1], "invalid_message", "byte 2 does not fit"],
    ["an overlong form", [0xc0, 0x80], "invalid_message", "byte 0 does not fit"],
    ["a surrogate", [0x61, 0xed, 0xa0, 0x80], "invalid_message", "byte 1 does not fit"],
    [
      "more than a request holds",
      Array.from({ length: 1024 * 1024 + 1 }, () => 0x61),
      "message_too_large",
      "1048576",
    ],
    ["no file", undefined, "storage_failed", "ENOENT"],
  ];
  test.each(unreadable)("not %s", async (_what, bytes, code, words) => {
    const { host, daemon } = hostWithDaemon(queued);
    const file = join(tempDir(), "text");
    if (bytes !== undefined) writeFileSync(file, Uint8Array.from(bytes));
    const error = await failureOf(send.execute(["bob", "--file", file], host));
    expect<unknown>([error.code, daemon.seen.length]).toEqual([code, 0]);
    expect(error.message).toContain(words);
  });

  test("not a directory", async () => {
    const { host } = hostWithDaemon(queued);
    expect((await failureOf(send.execute(["bob", "--file", tempDir()], host))).code).toBe("storage_failed");
  });
});

describe("what is said", () => {
  const answers: [reply: Record<string, unknown>, words: string][] = [
    [
      { status: "queued", duplicate: false },
      "queued k for bob (on this disk; the broker has not confirmed it yet)",
    ],
    [
      { status: "inflight", duplicate: false },
      "inflight k for bob (on this disk and on its way; the broker has not confirmed it yet)",
    ],
    [
      { status: "accepted", duplicate: true, broker_message_id: "B" },
      "accepted k for bob (on the broker's disk; the recipient gets it when it is there; it was sent before, nothing was sent twice)",
    ],
  ];
  test.each(answers)("%j", async (reply, words) => {
    const { host } = hostWithDaemon(() => json({ client_message_id: "k", ...reply }));
    await send.execute(["bob", "hi", "--id", "k"], host);
    expect(host.answers).toEqual([words]);
  });

  test("as JSON: what is known and by which way", async () => {
    const { host } = hostWithDaemon(
      () => json({ client_message_id: "k", status: "accepted", duplicate: true, broker_message_id: "B" }),
      { json: true },
    );
    await send.execute(["bob", "hi", "--id", "k", "--json"], host);
    expect(host.answers).toEqual([
      { client_message_id: "k", status: "accepted", route: "daemon", broker_message_id: "B" },
    ]);
  });
});

describe("--wait accepted", () => {
  const message = (status: string, more: Record<string, unknown> = {}): Response =>
    json({
      client_message_id: "k",
      mesh: "team",
      to: "bob",
      status,
      enqueued_at: "2026-01-01T00:00:00.000Z",
      receipts: [],
      ...more,
    });
  const wait = (answer: Response, options?: CaptureOptions) =>
    hostWithDaemon((request, index) => (index === 0 ? queued(request, index) : answer), options);
  const argv = ["bob", "hi", "--id", "k", "--wait", "accepted", "--timeout", "2"];

  test("says so when the broker has it", async () => {
    const { host, daemon } = wait(message("done", { broker_message_id: "B" }), { json: true });
    await send.execute(argv, host);
    expect(host.answers).toEqual([
      { client_message_id: "k", status: "accepted", route: "daemon", broker_message_id: "B" },
    ]);
    expect(daemon.seen[1]?.target).toMatch(/^\/v1\/messages\/k\?wait=accepted&timeout_ms=\d{4}$/);
  });

  test("does not ask when the daemon knew already", async () => {
    const { host, daemon } = hostWithDaemon(() =>
      json({ client_message_id: "k", status: "accepted", duplicate: true, broker_message_id: "B" }),
    );
    await send.execute(argv, host);
    expect(daemon.seen.length).toBe(1);
  });

  test("times out with what is known", async () => {
    const { host } = wait(message("pending", { last_error: "the broker is busy" }));
    const error = await failureOf(send.execute(argv, host));
    expect(error).toMatchObject({
      code: "timed_out",
      details: { client_message_id: "k", status: "pending", last_error: "the broker is busy" },
    });
    expect(error.hint).toContain("claudemesh track k");
  });

  test.each(["dead", "aborted"])("fails when it never will (%s)", async (status) => {
    const { host } = wait(message(status, { last_error: "too_large" }));
    expect(await failureOf(send.execute(argv, host))).toMatchObject({
      code: "broker_refused",
      details: { status, last_error: "too_large" },
    });
  });
});

describe("ways", () => {
  const bridge = (script: Script = queued): FakeDaemon => fakeDaemon(script, newSocketPath());

  test("the bridge when there is no daemon", async () => {
    const { socketPath } = bridge();
    const host = capturedHost({ env: { CLAUDEMESH_BRIDGE_SOCK: socketPath }, json: true });
    await send.execute(["bob", "hi", "--id", "k"], host);
    expect(host.answers).toEqual([{ client_message_id: "k", status: "queued", route: "bridge" }]);
  });

  test("the daemon before the bridge", async () => {
    const { socketPath, seen } = bridge();
    const { host } = hostWithDaemon(queued, { env: { CLAUDEMESH_BRIDGE_SOCK: socketPath }, json: true });
    await send.execute(["bob", "hi", "--id", "k"], host);
    expect(host.answers).toMatchObject([{ route: "daemon" }]);
    expect(seen).toEqual([]);
  });

  test("the one that was insisted on, and no other", async () => {
    const { socketPath } = bridge();
    const { host, daemon } = hostWithDaemon(queued, {
      env: { CLAUDEMESH_BRIDGE_SOCK: socketPath },
      json: true,
    });
    await send.execute(["bob", "hi", "--route", "bridge"], host);
    expect(host.answers).toMatchObject([{ route: "bridge" }]);
    expect(daemon.seen).toEqual([]);
    const alone = capturedHost({ env: { CLAUDEMESH_BRIDGE_SOCK: socketPath } });
    expect((await failureOf(send.execute(["bob", "hi", "--route", "daemon"], alone))).code).toBe(
      "daemon_unreachable",
    );
  });

  test("the cold one last, which needs a mesh", async () => {
    const host = capturedHost({ env: { CLAUDEMESH_BRIDGE_SOCK: newSocketPath() } });
    expect((await failureOf(send.execute(["bob", "hi"], host))).code).toBe("no_mesh");
  });

  test("no other after a refusal", async () => {
    const { socketPath, seen } = bridge();
    const { host } = hostWithDaemon(() => json({ error: "unknown_peer", message: "nobody" }, 404), {
      env: { CLAUDEMESH_BRIDGE_SOCK: socketPath },
    });
    expect((await failureOf(send.execute(["bob", "hi"], host))).code).toBe("unknown_peer");
    expect(seen).toEqual([]);
  });

  test("no other when the daemon may have taken it; the repeat has the same id and is not called a duplicate", async () => {
    const other = bridge();
    const host = capturedHost({ env: { CLAUDEMESH_BRIDGE_SOCK: other.socketPath } });
    mkdirSync(dirname(host.socketPath), { recursive: true });
    const asked: string[] = [];
    const server = Bun.listen({
      unix: host.socketPath,
      socket: {
        data(socket, chunk) {
          const request = chunk.toString();
          asked.push(/"client_message_id":"([^"]+)"/.exec(request)?.[1] ?? request);
          const id = asked[0] ?? "";
          const body = JSON.stringify({ client_message_id: id, status: "queued", duplicate: true });
          // The first time it hangs up when it has the request.
          if (asked.length > 1) {
            socket.write(
              `HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
            );
          }
          socket.end();
        },
      },
    });
    cleanup(() => server.stop(true));
    await send.execute(["bob", "hi"], host);
    expect(asked.length).toBe(2);
    expect(asked[1]).toBe(asked[0] ?? "");
    expect(host.answers).toEqual([
      `queued ${asked[0]} for bob (on this disk; the broker has not confirmed it yet)`,
    ]);
    expect(other.seen).toEqual([]);
  });

  test("time that runs out while the daemon thinks is no reason for another way either", async () => {
    const other = bridge();
    const { host } = hostWithDaemon(() => new Promise<Response>(() => undefined), {
      env: { CLAUDEMESH_BRIDGE_SOCK: other.socketPath },
    });
    const error = await failureOf(send.execute(["bob", "hi", "--id", "k", "--timeout", "1"], host));
    expect(error).toMatchObject({ code: "timed_out", details: { client_message_id: "k" } });
    expect(error.hint).toContain("--id k");
    expect(other.seen).toEqual([]);
  });
});
