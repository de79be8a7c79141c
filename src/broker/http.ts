/**
 * The broker's HTTP routes, for hosts that are not members yet: making a mesh takes the admin token, joining one takes an
 * invite. Bodies are bounded and strictly checked; every error is JSON in the shape of the daemon's, with its status.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { type Context, Hono } from "hono";
import * as v from "valibot";
import type { Joined } from "~/broker/membership";
import type { Tallies } from "~/broker/tallies";
import { asMeshError, errorBody, httpStatusOf, MeshError } from "~/errors";
import { httpBodyBytesMax } from "~/wire/limits";
import { type BrokerHealth, CreateMeshRequest, JoinRequestV3 } from "~/wire/membership";
import { explainIssues } from "~/wire/text";

export interface HttpContext {
  adminToken: string;
  health: () => BrokerHealth;
  createMesh: (
    request: v.InferOutput<typeof CreateMeshRequest>,
  ) => Promise<{ meshId: string; memberId: string }>;
  /** All of the broker's numbers, as Prometheus reads them. */
  metrics: () => Promise<Response>;
  tallies: Tallies;
  joinMesh: (request: v.InferOutput<typeof JoinRequestV3>) => Promise<Joined>;
  /** Told of errors that are the broker's own fault. */
  onFault: (error: MeshError) => void;
}

/** All routes but `/ws`, which never gets here as an upgrade. */
export function createApp(context: HttpContext): Hono {
  const app = new Hono();
  app.get("/health", (c) => c.json(context.health()));
  // What all meshes do together is the operator's business.
  app.get("/metrics", async (c) => {
    requireToken(c, context.adminToken);
    return await context.metrics();
  });
  app.post("/meshes", async (c) => {
    requireToken(c, context.adminToken);
    const request = parseBody(CreateMeshRequest, await readJson(c));
    const { meshId, memberId } = await context.createMesh(request);
    return c.json({ mesh_id: meshId, member_id: memberId });
  });
  app.post("/join", async (c) => {
    const { joins } = context.tallies;
    try {
      const body = await readJson(c);
      refuseVersion1(body);
      const { memberId, alreadyMember } = await context.joinMesh(parseBody(JoinRequestV3, body));
      joins.add(alreadyMember ? "already_member" : "joined");
      return c.json({ ok: true, memberId, ...(alreadyMember ? { alreadyMember } : {}) });
    } catch (thrown) {
      joins.add(asMeshError(thrown).code);
      throw thrown;
    }
  });
  app.all("/ws", () => {
    throw new MeshError("invalid_request", "/ws is the WebSocket endpoint: connect with ws:// or wss://");
  });
  for (const [path, method] of routes) {
    app.all(path, (c) => {
      const error = new MeshError("method_not_allowed", `${path} takes ${method}, not ${c.req.method}`);
      return answerError(error, { allow: method });
    });
  }
  app.notFound((c) =>
    answerError(new MeshError("no_such_route", `this broker has no route ${c.req.path.slice(0, 200)}`)),
  );
  app.onError((thrown) => {
    const error = asMeshError(thrown);
    if (httpStatusOf(error.code) >= 500 && error.code !== "clock_skew") context.onFault(error);
    // The rest of a body that nobody reads must not keep the connection.
    if (error.code === "body_too_large") return answerError(error, { connection: "close" });
    if (error.code !== "internal") return answerError(error);
    // What went wrong inside is for the log.
    return answerError(
      new MeshError("internal", "something went wrong inside the broker; its log says what"),
    );
  });
  return app;
}

const routes: readonly (readonly [path: string, method: string])[] = [
  ["/health", "GET"],
  ["/metrics", "GET"],
  ["/meshes", "POST"],
  ["/join", "POST"],
];

const answerError = (error: MeshError, headers: Record<string, string> = {}): Response =>
  Response.json(errorBody(error), { status: httpStatusOf(error.code), headers });

/** Compares hashes, which have one length, so that the time taken tells nothing about the token. */
function requireToken(c: Context, token: string): void {
  const given = /^Bearer (.+)$/i.exec(c.req.header("authorization") ?? "")?.[1] ?? "";
  const hash = (text: string) => createHash("sha256").update(text).digest();
  if (timingSafeEqual(hash(given), hash(token))) return;
  throw new MeshError("unauthorized", "the broker's admin token is missing or wrong", {
    hint: "It stands in the file admin-token of the broker's data directory; set CLAUDEMESH_BROKER_TOKEN to it.",
  });
}

async function readJson(c: Context): Promise<unknown> {
  const text = await readBody(c.req.raw);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new MeshError("invalid_json", "the body is not JSON", { cause: error });
  }
}

/** Stops reading as soon as the body is too large, whatever its headers say. */
async function readBody(request: Request): Promise<string> {
  const tooLarge = () =>
    new MeshError("body_too_large", `a request body has at most ${httpBodyBytesMax} bytes`);
  if (Number(request.headers.get("content-length") ?? 0) > httpBodyBytesMax) throw tooLarge();
  if (request.body === null) return "";
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of request.body) {
    bytes += chunk.length;
    if (bytes > httpBodyBytesMax) throw tooLarge();
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function parseBody<S extends v.GenericSchema>(schema: S, body: unknown): v.InferOutput<S> {
  const parsed = v.safeParse(schema, body);
  if (parsed.success) return parsed.output;
  throw new MeshError("invalid_request", explainIssues(parsed.issues).slice(0, 300));
}

/** The requests of version-1 hosts get a sentence instead of a list of fields. */
function refuseVersion1(body: unknown): void {
  if (typeof body !== "object" || body === null) return;
  const isVersion1 = ("v" in body && body.v === 1) || "invite_token" in body || "invite_payload" in body;
  if (!isVersion1) return;
  throw new MeshError("invite_invalid", "this broker takes version-3 invites, and this is one of version 1", {
    hint: "Ask for a fresh one: claudemesh mesh invite",
  });
}
