/**
 * The local API as a Hono app: one route for each entry of the table in wire/ipc.ts, the request validated by its
 * schemas, the answer JSON. What a request may cost is bounded here; what it means is in handlers/.
 */
import { Hono } from "hono";
import * as v from "valibot";
import { type Clock, systemClock } from "~/clock";
import { type Admission, admit, type GateRules, type WayIn } from "~/daemon/ipc/gate";
import { storageError } from "~/disk/file";
import { asMeshError, errorBody, httpStatusOf, MeshError, systemCodeOf } from "~/errors";
import type { Log } from "~/log";
import { type BodyOf, type QueryOf, type ReplyOf, type RouteName, routes } from "~/wire/ipc";
import { ipcBodyBytesMax, ipcBodyMsMax, ipcRequestsAtWorkMax, ipcRequestsWaitingMax } from "~/wire/limits";
import { explainIssues } from "~/wire/text";

export interface Call<R extends RouteName> {
  query: QueryOf<R>;
  body: BodyOf<R>;
  /** The part of the path after the colon, where the route has one. */
  param: string;
  headers: Headers;
  /** False for a caller that showed no token, where the route allows that. */
  isTrusted: boolean;
  /** Ends when the caller goes away. */
  signal: AbortSignal;
  /** From now on this request only waits: it no longer counts as one at work. Throws `daemon_busy`. */
  beginWaiting(): void;
}

/** JSON with its status, or a whole response where the answer is not JSON. */
export type Answer<R extends RouteName> = { status?: 200 | 202; json: ReplyOf<R> } | Response;

export type Handlers = { [R in RouteName]: (call: Call<R>) => Answer<R> | Promise<Answer<R>> };

export interface ServerOptions {
  handlers: Handlers;
  wayIn: WayIn;
  rules: () => GateRules;
  load: Load;
  /** Default: the system's. */
  clock?: Clock;
  log: Log;
  /** Where a person finds the log, for the message of a 500. */
  logPlace: string;
}

/** How many requests are at work and how many wait, over all ways in. */
export class Load {
  atWork = 0;
  waiting = 0;

  enter(): void {
    if (this.atWork >= ipcRequestsAtWorkMax)
      throw busy(`${ipcRequestsAtWorkMax} requests are at work already`);
    this.atWork++;
  }

  beginWaiting(): void {
    if (this.waiting >= ipcRequestsWaitingMax) throw busy(`${ipcRequestsWaitingMax} requests wait already`);
    this.atWork--;
    this.waiting++;
  }
}

const busy = (why: string): MeshError =>
  new MeshError("daemon_busy", `the daemon is busy: ${why}`, {
    hint: "Try again in a moment; nothing was taken.",
  });

type AnyHandler = (call: Call<RouteName>) => Answer<RouteName> | Promise<Answer<RouteName>>;

export function buildApp(options: ServerOptions): Hono {
  const app = new Hono();
  for (const name of routeNames) {
    const route = routes[name];
    // The table ties each handler to its route's schemas; here they are all alike.
    const handler = options.handlers[name] as AnyHandler;
    app.on(route.method, route.path, (context) =>
      respond(options, context.req.raw, context.req.path, (admission, request, signal, beginWaiting) => {
        // Hono takes HEAD for GET and drops the body unread: an event stream would stay open for nobody.
        if (request.method !== route.method) throw unknownRoute(request.method, context.req.path);
        return serve(
          name,
          handler,
          admission,
          request,
          Object.values(context.req.param())[0] ?? "",
          signal,
          beginWaiting,
          options.clock ?? systemClock,
        );
      }),
    );
  }
  app.all("*", (context) =>
    respond(options, context.req.raw, context.req.path, () => {
      throw unknownRoute(context.req.method, context.req.path);
    }),
  );
  return app;
}

const routeNames = Object.keys(routes).filter((name): name is RouteName => name in routes);

type Work = (
  admission: Exclude<Admission, { kind: "refused" }>,
  request: Request,
  signal: AbortSignal,
  beginWaiting: () => void,
) => Promise<Response> | Response;

async function respond(
  options: ServerOptions,
  request: Request,
  path: string,
  work: Work,
): Promise<Response> {
  const { load, log } = options;
  const counted: { as: "none" | "work" | "waiting" } = { as: "none" };
  try {
    const admission = admit(request, path, options.wayIn, options.rules());
    if (admission.kind === "refused") {
      log("warn", "security_refusal", { code: admission.error.code, way_in: options.wayIn.kind, path });
      throw admission.error;
    }
    load.enter();
    counted.as = "work";
    return await work(admission, request, request.signal, () => {
      if (counted.as === "waiting") return;
      load.beginWaiting();
      counted.as = "waiting";
    });
  } catch (thrown) {
    return errorResponse(thrown, options);
  } finally {
    if (counted.as === "work") load.atWork--;
    if (counted.as === "waiting") load.waiting--;
  }
}

async function serve(
  name: RouteName,
  handler: AnyHandler,
  admission: Exclude<Admission, { kind: "refused" }>,
  request: Request,
  param: string,
  signal: AbortSignal,
  beginWaiting: () => void,
  clock: Clock,
): Promise<Response> {
  const route: { query?: v.GenericSchema; body?: v.GenericSchema } = routes[name];
  const query = parse(route.query ?? noQuery, readQuery(request.url));
  const body = route.body === undefined ? undefined : parse(route.body, await readJson(request, clock));
  const answer = await handler({
    // Both were just validated by the schemas that these types are made from.
    query: query as QueryOf<RouteName>,
    body: body as BodyOf<RouteName>,
    param,
    headers: request.headers,
    isTrusted: admission.kind === "full",
    signal,
    beginWaiting,
  });
  return answer instanceof Response ? answer : Response.json(answer.json, { status: answer.status ?? 200 });
}

const noQuery = v.strictObject({});

function parse(schema: v.GenericSchema, value: unknown): unknown {
  const parsed = v.safeParse(schema, value);
  if (parsed.success) return parsed.output;
  const [first] = parsed.issues;
  if (first.type === "strict_object" && first.expected === "never") {
    throw new MeshError("invalid_request", `unknown field: ${v.getDotPath(first) ?? "?"}`, {
      hint: "GET /v1/openapi.json lists the fields of each route.",
    });
  }
  throw new MeshError(codeFor(first), explainIssues(parsed.issues));
}

/** Bad ids have a code of their own, since callers make them by program. */
const codeFor = (issue: v.BaseIssue<unknown>): "invalid_id" | "invalid_request" =>
  /(^|\.)(new_)?client_message_id$|^reply_to_id$/.test(v.getDotPath(issue) ?? "") && issue.type === "regex"
    ? "invalid_id"
    : "invalid_request";

function readQuery(url: string): Record<string, string> {
  const query: Record<string, string> = {};
  for (const [name, value] of new URL(url).searchParams) {
    if (Object.hasOwn(query, name)) throw new MeshError("invalid_request", `${name}: given more than once`);
    query[name] = value;
  }
  return query;
}

const strictUtf8 = new TextDecoder("utf-8", { fatal: true });

async function readJson(request: Request, clock: Clock): Promise<unknown> {
  if (Number(request.headers.get("content-length") ?? 0) > ipcBodyBytesMax) throw bodyTooLarge();
  const bytes = await readBytes(request, clock);
  if (bytes.byteLength > ipcBodyBytesMax) throw bodyTooLarge();
  let text: string;
  try {
    text = strictUtf8.decode(bytes);
  } catch (error) {
    throw new MeshError("invalid_json", "the request body is not valid UTF-8", { cause: error });
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new MeshError("invalid_json", "the request body is not JSON", { cause: error });
  }
}

/** A body that does not come would keep its place among the requests at work for ever. */
async function readBytes(request: Request, clock: Clock): Promise<ArrayBuffer> {
  const { promise: tooLate, reject } = Promise.withResolvers<never>();
  const timer = clock.after(ipcBodyMsMax, () =>
    reject(
      new MeshError("invalid_request", `the request body did not arrive within ${ipcBodyMsMax / 1000} s`),
    ),
  );
  try {
    return await Promise.race([request.arrayBuffer(), tooLate]);
  } catch (error) {
    if (error instanceof MeshError) throw error;
    throw new MeshError("invalid_request", "the request body could not be read to its end", { cause: error });
  } finally {
    timer.cancel();
  }
}

const bodyTooLarge = (): MeshError =>
  new MeshError("body_too_large", `a request body has at most ${ipcBodyBytesMax} bytes`, {
    details: { limit_bytes: ipcBodyBytesMax },
  });

function unknownRoute(method: string, path: string): MeshError {
  const known = routeNames.map((name) => routes[name]).filter((route) => matches(route.path, path));
  if (known.length > 0) {
    return new MeshError(
      "method_not_allowed",
      `${path} takes ${known.map((route) => route.method).join(", ")}, not ${method}`,
    );
  }
  return new MeshError("no_such_route", `there is no ${path}`, {
    hint: "GET /v1/openapi.json lists the routes.",
  });
}

function matches(template: string, path: string): boolean {
  const wanted = template.split("/");
  const given = path.split("/");
  return (
    wanted.length === given.length &&
    wanted.every((part, index) => part.startsWith(":") || part === given[index])
  );
}

/** What the disk refuses is no bug of ours; what SQLite refuses for its own rules is. */
const isStorageFailure = (thrown: unknown): boolean =>
  /^SQLITE_(FULL|READONLY|IOERR|CORRUPT|NOTADB|CANTOPEN|BUSY|LOCKED)/.test(systemCodeOf(thrown) ?? "");

function errorResponse(thrown: unknown, options: ServerOptions): Response {
  const error = isStorageFailure(thrown)
    ? storageError("the daemon's files could not be used", thrown)
    : asMeshError(thrown);
  const status = httpStatusOf(error.code);
  if (error.code !== "internal") return Response.json(errorBody(error), { status });
  const cause = thrown instanceof Error ? thrown : undefined;
  options.log("error", "request_failed", { error: error.message, stack: cause?.stack });
  const report = new MeshError("internal", "the daemon failed to handle this request; that is a bug", {
    hint: `The log says more: ${options.logPlace}`,
  });
  return Response.json(errorBody(report), { status });
}
