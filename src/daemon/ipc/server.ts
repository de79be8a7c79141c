/**
 * The local API as a Hono app: one route for each entry of the table in wire/ipc.ts, the request validated by its
 * schemas, the answer JSON. What a request may cost is bounded here; what it means is in handlers/.
 */
import { Hono } from "hono";
import * as v from "valibot";
import { type Clock, systemClock } from "~/clock";
import { type Admission, admit, type GateRules, type WayIn } from "~/daemon/ipc/gate";
import type { RouteLabel, Tallies } from "~/daemon/tallies";
import { storageError } from "~/disk/file";
import { asMeshError, type ErrorCode, errorBody, httpStatusOf, MeshError, systemCodeOf } from "~/errors";
import type { Log } from "~/log";
import { defaultSettings, type Settings } from "~/settings/knobs";
import { version } from "~/version";
import { faultOf, framesOf } from "~/wire/fault";
import { type BodyOf, type QueryOf, type ReplyOf, type RouteName, routes } from "~/wire/ipc";
import { ipcBodyBytesMax, ipcBodyMsMax } from "~/wire/limits";
import { ephemeralHeader, versionHeader } from "~/wire/place";
import type { Ephemeral } from "~/wire/reply";
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
  tallies: Tallies;
  /** Default: the system's. */
  clock?: Clock;
  log: Log;
  /** Nothing outlives this daemon: every answer says so. */
  ephemeral?: Ephemeral | undefined;
  /** Where a person finds the log, for the message of a 500. */
  logPlace: string;
  /** A request met damage in a database. */
  damaged?: (error: MeshError) => void;
}

/** How many requests are at work and how many wait, over all ways in. */
export class Load {
  atWork = 0;
  waiting = 0;
  readonly #settings: () => Settings;

  constructor(settings: () => Settings = () => defaultSettings) {
    this.#settings = settings;
  }

  enter(): void {
    const most = this.#settings()["api.requests_at_work_max"];
    if (this.atWork >= most) throw busy(`${most} requests are at work already`);
    this.atWork++;
  }

  beginWaiting(): void {
    const most = this.#settings()["api.requests_waiting_max"];
    if (this.waiting >= most) throw busy(`${most} requests wait already`);
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
  options.tallies.load = options.load;
  for (const name of routeNames) {
    const route = routes[name];
    // The table ties each handler to its route's schemas; here they are all alike.
    const handler = options.handlers[name] as AnyHandler;
    app.on(route.method, route.path, (context) =>
      respond(
        options,
        name,
        context.req.raw,
        context.req.path,
        (admission, request, signal, beginWaiting) => {
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
            // The OpenAPI document is of another standard, and public health of a fixed shape.
            admission.kind === "full" && name !== "openapi" ? options.ephemeral : undefined,
          );
        },
      ),
    );
  }
  app.all("*", (context) =>
    respond(options, "none", context.req.raw, context.req.path, () => {
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
  route: RouteLabel,
  request: Request,
  path: string,
  work: Work,
): Promise<Response> {
  const { load, log, tallies, clock = systemClock } = options;
  const beganMs = clock.monotonicMs();
  const ended = (response: Response, error?: ErrorCode): Response => {
    if (isTrusted) introduce(response, options);
    const seconds = (clock.monotonicMs() - beganMs) / 1000;
    tallies.requestEnded({ route, wayIn: options.wayIn.kind, status: response.status, error, seconds });
    const { status } = response;
    log("debug", "request", {
      route,
      way_in: options.wayIn.kind,
      status,
      error,
      ms: Math.round(seconds * 1000),
    });
    return response;
  };
  const counted: { as: "none" | "work" | "waiting" } = { as: "none" };
  let isTrusted = false;
  try {
    const admission = admit(request, path, options.wayIn, options.rules());
    if (admission.kind === "refused") {
      tallies.securityRefusals.add(admission.error.code);
      log("warn", "security_refusal", {
        code: admission.error.code,
        way_in: options.wayIn.kind,
        route: routeOf(request.method, path),
      });
      throw admission.error;
    }
    isTrusted = admission.kind === "full";
    load.enter();
    counted.as = "work";
    const response = await work(admission, request, request.signal, () => {
      if (counted.as === "waiting") return;
      load.beginWaiting();
      counted.as = "waiting";
    });
    return ended(response);
  } catch (thrown) {
    const { ephemeral } = isTrusted ? options : {};
    return ended(errorResponse(thrown, options, ephemeral), errorOf(thrown).code);
  } finally {
    if (counted.as === "work") load.atWork--;
    if (counted.as === "waiting") load.waiting--;
  }
}

/** Every answer to a caller that was let in says who gives it, so that nobody has to ask. */
function introduce({ headers }: Response, { ephemeral }: ServerOptions): void {
  headers.set(versionHeader, version);
  if (ephemeral !== undefined) headers.set(ephemeralHeader, ephemeral.until ?? "end");
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
  ephemeral: Ephemeral | undefined,
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
  if (answer instanceof Response) return answer;
  const { json: own } = answer;
  const json = ephemeral === undefined || typeof own !== "object" ? own : { ...own, ephemeral };
  return Response.json(json, { status: answer.status ?? 200 });
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

export const bodyTooLarge = (): MeshError =>
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

/** For the log: a path is text that anybody may choose, and may hold what does not belong there. */
const routeOf = (method: string, path: string): string => {
  const known = routeNames.map((name) => routes[name]).find((route) => matches(route.path, path));
  return known === undefined ? "unknown" : `${method === known.method ? method : "other"} ${known.path}`;
};

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

function errorOf(thrown: unknown): MeshError {
  if (!isStorageFailure(thrown)) return asMeshError(thrown);
  const failure = storageError("the daemon's files could not be used", thrown);
  if (failure.code !== "database_corrupt") return failure;
  return new MeshError(failure.code, failure.message, {
    hint: "claudemesh daemon down, then claudemesh daemon recover: it finds which file, and salvages what can be read.",
    cause: thrown,
  });
}

function errorResponse(thrown: unknown, options: ServerOptions, ephemeral?: Ephemeral): Response {
  const more = ephemeral === undefined ? {} : { ephemeral };
  const error = errorOf(thrown);
  if (error.code === "database_corrupt") options.damaged?.(error);
  const status = httpStatusOf(error.code);
  if (error.code !== "internal") return Response.json({ ...errorBody(error), ...more }, { status });
  options.log("error", "request_failed", { error: faultOf(thrown), at: framesOf(thrown) });
  const report = new MeshError("internal", "the daemon failed to handle this request; that is a bug", {
    hint: `The log says more: ${options.logPlace}`,
  });
  return Response.json({ ...errorBody(report), ...more }, { status });
}
