/** The broker's HTTP routes as a host calls them: what is asked, and every answer that is none. */
import { describe, expect, test } from "bun:test";
import { MeshError } from "~/errors";
import { createMesh, joinMesh } from "~/link/http";
import { cleanup } from "../../support/cleanup";
import { cryptoVectors } from "../../vectors/vectors";
import { deadUrl } from "./scripted-broker";

const { alice, bob, invite_v3 } = cryptoVectors;

const mesh = { slug: "team", name: "Team", owner_pubkey: alice.public_hex, display_name: "alice" };
const join = {
  v: 3,
  invite_id: "i",
  peer_pubkey: bob.public_hex,
  display_name: "bob",
  timestamp: 1_750_000_000_000,
  proof: invite_v3.join_proof.signature_hex,
} as const;

/** A server that answers everything with this; the URL is that of its WebSocket. */
function serverThat(answer: (request: Request) => Response | Promise<Response>): string {
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: answer });
  cleanup(() => server.stop(true));
  return `ws://127.0.0.1:${server.port}/ws`;
}

async function errorOf(work: Promise<unknown>): Promise<MeshError> {
  const thrown = await work.then(
    () => new Error("it did not fail"),
    (error: unknown) => error,
  );
  if (thrown instanceof MeshError) return thrown;
  throw thrown;
}

test("a mesh is asked for with the admin's token", async () => {
  const asked: unknown[] = [];
  const url = serverThat(async (request) => {
    const { method, url: target, headers } = request;
    asked.push([method, new URL(target).pathname, headers.get("authorization"), await request.json()]);
    return Response.json({ mesh_id: "mesh-1", member_id: "member-1", tomorrow: 1 });
  });
  expect(await createMesh(url, "secret", mesh)).toEqual({ mesh_id: "mesh-1", member_id: "member-1" });
  expect(asked).toEqual([["POST", "/meshes", "Bearer secret", mesh]]);
});

test("to join needs no token", async () => {
  const asked: unknown[] = [];
  const url = serverThat(async (request) => {
    asked.push([new URL(request.url).pathname, request.headers.get("authorization"), await request.json()]);
    return Response.json({ ok: true, memberId: "member-2", alreadyMember: true });
  });
  expect(await joinMesh(url, join)).toEqual({ ok: true, memberId: "member-2", alreadyMember: true });
  expect(asked).toEqual([["/join", null, join]]);
});

describe("an answer that is none", () => {
  const answers: [what: string, answer: () => Response, code: string, message: string][] = [
    [
      "a refusal of ours",
      () =>
        Response.json({ error: "invite_used_up", message: "nobody is left", hint: "ask" }, { status: 410 }),
      "invite_used_up",
      "the broker refused: nobody is left",
    ],
    [
      "a refusal of another kind",
      () => Response.json({ error: "on_strike" }, { status: 503 }),
      "broker_refused",
      "the broker refused: on_strike",
    ],
    ["a page", () => new Response("<html>", { status: 404 }), "bad_gateway", "HTTP 404"],
    ["a page that is fine", () => new Response("<html>"), "bad_gateway", "does not answer like"],
    ["nothing", () => new Response(""), "bad_gateway", "does not answer like"],
    ["half of one", () => Response.json({ ok: true }), "bad_gateway", "memberId"],
    ["a no", () => Response.json({ ok: false, memberId: "m" }), "bad_gateway", "ok"],
    ["a list", () => Response.json([]), "bad_gateway", "does not answer like"],
    [
      "more than a broker ever says",
      () => Response.json({ ok: true, memberId: "m", pad: "x".repeat(70_000) }),
      "bad_gateway",
      "does not answer like",
    ],
    [
      "one without end",
      () => {
        const spaces = new Uint8Array(65_536).fill(0x20);
        return new Response(new ReadableStream({ pull: (controller) => controller.enqueue(spaces) }));
      },
      "bad_gateway",
      "does not answer like",
    ],
  ];
  test.each(answers)("%s", async (_, answer, code, message) => {
    const error = await errorOf(joinMesh(serverThat(answer), join));
    expect<string>(error.code).toBe(code);
    expect(error.message).toContain(message);
  });

  test("that sends us on is not followed: the token is for one broker", async () => {
    const asked: string[] = [];
    const elsewhere = serverThat((request) => {
      asked.push(request.url);
      return Response.json({ mesh_id: "m", member_id: "n" });
    });
    for (const status of [301, 302, 307, 308]) {
      const url = serverThat(
        () => new Response(null, { status, headers: { location: elsewhere.replace("ws:", "http:") } }),
      );
      expect((await errorOf(createMesh(url, "secret", mesh))).code).toBe("broker_unreachable");
    }
    expect(asked).toEqual([]);
  });

  test("with a hint brings it along", async () => {
    const url = serverThat(() => Response.json({ error: "x", message: "y", hint: "ask" }, { status: 400 }));
    expect((await errorOf(joinMesh(url, join))).hint).toBe("ask");
  });

  test("from nobody says where nobody was", async () => {
    const url = await deadUrl();
    const error = await errorOf(createMesh(url, "secret", mesh));
    expect(error.code).toBe("broker_unreachable");
    expect(error.message).toContain(url.replace("ws://", "http://").replace("/ws", "/meshes"));
    expect(`${error.message} ${error.hint}`).not.toContain("secret");
  });
});
