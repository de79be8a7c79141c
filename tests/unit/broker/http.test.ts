/** The HTTP routes: what they take, what they refuse, and in which shape. */
import { beforeEach, describe, expect, test } from "bun:test";
import type { Hono } from "hono";
import * as v from "valibot";
import { createApp } from "~/broker/http";
import { Tallies } from "~/broker/tallies";
import { MeshError } from "~/errors";

const token = "T".repeat(43);
const key = "a".repeat(64);
const meshRequest = { slug: "team", name: "Team", owner_pubkey: key, display_name: "Ann" };
const joinRequest = {
  v: 3,
  invite_id: "i1",
  peer_pubkey: key,
  display_name: "Bob",
  timestamp: 1,
  proof: "b".repeat(128),
};

const health = {
  ok: true,
  version: "1.2.3",
  uptime_s: 7,
  connections: 2,
  problems: [{ code: "message_without_dedupe", message: "1 of them" }],
};

let app: Hono;
let tallies: Tallies;
let calls: unknown[];
let faults: string[];
/** Thrown by whatever is called next. */
let failure: Error | undefined;

beforeEach(() => {
  calls = [];
  faults = [];
  failure = undefined;
  tallies = new Tallies();
  const called = <T>(request: unknown, answer: T): Promise<T> => {
    calls.push(request);
    return failure === undefined ? Promise.resolve(answer) : Promise.reject(failure);
  };
  app = createApp({
    adminToken: token,
    health: () => health,
    metrics: () => called("metrics", new Response("up 1\n")),
    tallies,
    createMesh: (request) => called(request, { meshId: "mesh", memberId: "member" }),
    joinMesh: (request) =>
      called(request, {
        memberId: "member",
        mesh: 1,
        meshId: "mesh",
        pubkey: key,
        displayName: "Bob",
        alreadyMember: request.invite_id === "used",
      }),
    onFault: (error) => void faults.push(error.message),
  });
});

const post = async (path: string, body: unknown, headers: Record<string, string> = {}) => {
  const response = await app.request(path, {
    method: "POST",
    headers,
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  const answer = v.parse(v.record(v.string(), v.unknown()), await response.json());
  return { status: response.status, body: answer };
};
const authorized = { authorization: `Bearer ${token}` };

test("GET /health", async () => {
  const response = await app.request("/health");
  expect(response.status).toBe(200);
  expect(await response.json()).toEqual(health);
});

const noToken = [
  {},
  { authorization: "" },
  { authorization: token },
  { authorization: "Bearer " },
  { authorization: `Bearer ${token}x` },
  { authorization: `Basic ${token}` },
];

describe("GET /metrics", () => {
  test("answers whoever has the admin token", async () => {
    const response = await app.request("/metrics", { headers: authorized });
    expect([response.status, await response.text()]).toEqual([200, "up 1\n"]);
  });

  test.each(noToken)("and nobody else: %j", async (headers) => {
    const response = await app.request("/metrics", { headers });
    expect(response.status).toBe(401);
    expect(await response.json()).toMatchObject({ error: "unauthorized" });
    expect(calls).toEqual([]);
  });
});

describe("POST /meshes", () => {
  test("makes a mesh", async () => {
    expect(await post("/meshes", meshRequest, authorized)).toEqual({
      status: 200,
      body: { mesh_id: "mesh", member_id: "member" },
    });
    expect(calls).toEqual([meshRequest]);
  });

  test.each(noToken)("wants the admin token, and this is none: %j", async (headers) => {
    const { status, body } = await post("/meshes", meshRequest, headers);
    expect([status, body.error]).toEqual([401, "unauthorized"]);
    expect(body.hint).toContain("admin-token");
    expect(calls).toEqual([]);
  });

  test("asks for the token before it looks at the body", async () => {
    expect((await post("/meshes", "garbage")).status).toBe(401);
  });

  const bodies: [body: object, message: string][] = [
    [{ ...meshRequest, colour: "red" }, "colour"],
    [{ ...meshRequest, slug: "Not A Slug" }, "slug"],
    [{ ...meshRequest, owner_pubkey: "A".repeat(64) }, "owner_pubkey"],
    [{ ...meshRequest, display_name: "a|b" }, "display_name"],
    [{}, "slug"],
    [[], "slug"],
  ];
  test.each(bodies)("refuses %j", async (body, message) => {
    const answer = await post("/meshes", body, authorized);
    expect([answer.status, answer.body.error]).toEqual([400, "invalid_request"]);
    expect(answer.body.message).toContain(message);
    expect(calls).toEqual([]);
  });
});

describe("POST /join", () => {
  test("joins", async () => {
    expect(await post("/join", joinRequest)).toEqual({ status: 200, body: { ok: true, memberId: "member" } });
    expect(calls).toEqual([joinRequest]);
    expect((await post("/join", { ...joinRequest, invite_id: "used" })).body).toEqual({
      ok: true,
      memberId: "member",
      alreadyMember: true,
    });
    expect([tallies.joins.get("joined"), tallies.joins.get("already_member")]).toEqual([1, 1]);
  });

  const version1 = { invite_token: "t", invite_payload: {}, peer_pubkey: key, display_name: "Bob" };
  test.each([version1, { v: 1 }, { ...version1, v: 1 }])(
    "tells a version-1 host what is needed: %j",
    async (body) => {
      const answer = await post("/join", body);
      expect([answer.status, answer.body.error]).toEqual([400, "invite_invalid"]);
      expect(answer.body.message).toContain("version-3 invites");
    },
  );

  test.each([
    [{ ...joinRequest, extra: 1 }, "extra"],
    [{ ...joinRequest, v: 4 }, "v:"],
    [{ ...joinRequest, timestamp: "now" }, "timestamp"],
    [{ ...joinRequest, proof: "" }, "proof"],
  ])("refuses %j", async (body, message) => {
    const answer = await post("/join", body);
    expect([answer.status, answer.body.error]).toEqual([400, "invalid_request"]);
    expect(answer.body.message).toContain(message);
  });

  test.each([
    [
      new MeshError("invite_used_up", "used", { hint: "ask" }),
      410,
      { error: "invite_used_up", message: "used", hint: "ask" },
      0,
    ],
    [new MeshError("clock_skew", "late"), 502, { error: "clock_skew", message: "late" }, 0],
    [new MeshError("storage_full", "full"), 507, { error: "storage_full", message: "full" }, 1],
    [
      new Error("secret detail"),
      500,
      { error: "internal", message: "something went wrong inside the broker; its log says what" },
      1,
    ],
  ] as const)("%s", async (error, status, body, logged) => {
    failure = error;
    expect(await post("/join", joinRequest)).toEqual({ status, body });
    expect(faults).toHaveLength(logged);
    expect(tallies.joins.get(body.error)).toBe(1);
  });
});

describe("any route", () => {
  test("a body that is not JSON", async () => {
    for (const body of ["", "{", "\u0000"]) {
      const answer = await post("/join", body);
      expect([answer.status, answer.body.error]).toEqual([400, "invalid_json"]);
    }
  });

  test("a body that is too large, declared or not", async () => {
    const large = JSON.stringify({ ...joinRequest, display_name: "x".repeat(70_000) });
    const declared = await post("/join", large, { "content-length": String(large.length) });
    expect([declared.status, declared.body.error]).toEqual([413, "body_too_large"]);
    let served = 0;
    const endless = new ReadableStream<Uint8Array>({
      pull(controller) {
        served += 1;
        controller.enqueue(new Uint8Array(8192).fill(32));
      },
    });
    const response = await app.request("/join", { method: "POST", body: endless });
    expect(response.status).toBe(413);
    expect(served).toBeLessThan(20);
    const fits = JSON.stringify(joinRequest).padEnd(64 * 1024, " ");
    expect((await post("/join", fits)).status).toBe(200);
  });

  test("no such route, and the wrong method", async () => {
    for (const [path, method, status, error] of [
      ["/", "GET", 404, "no_such_route"],
      ["/metrics", "POST", 405, "method_not_allowed"],
      ["/health", "POST", 405, "method_not_allowed"],
      ["/join", "GET", 405, "method_not_allowed"],
      ["/meshes", "DELETE", 405, "method_not_allowed"],
      ["/ws", "GET", 400, "invalid_request"],
    ] as const) {
      const response = await app.request(path, { method });
      expect([path, response.status]).toEqual([path, status]);
      expect(await response.json()).toMatchObject({ error, message: expect.any(String) });
    }
    expect((await app.request("/join")).headers.get("allow")).toBe("POST");
  });
});
