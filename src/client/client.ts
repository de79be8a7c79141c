/**
 * The only caller of the daemon's local API. Paths, methods and schemas come from the table in wire/ipc.ts; every answer is
 * validated by it, and every failure becomes a MeshError. One request is one call: nothing is repeated here.
 */
import * as v from "valibot";
import { connectionFailure, incompatible, refusal } from "~/client/failure";
import { openWay, type Way, type WayOptions } from "~/client/way";
import { timerDelayMsMax } from "~/clock";
import { MeshError } from "~/errors";
import { type BodyInputOf, type ReplyOf, type Route, type RouteName, routes } from "~/wire/ipc";
import { explainIssues } from "~/wire/text";

/** A route that answers with JSON; events have their own way (client/events.ts), and metrics are for Prometheus. */
export type CallName = Exclude<RouteName, "events" | "challenge" | "metrics">;

type PathParams<Path extends string> = Path extends `${string}:${infer Param}/${infer Rest}`
  ? Param | PathParams<`/${Rest}`>
  : Path extends `${string}:${infer Param}`
    ? Param
    : never;

type Definition<R extends RouteName> = (typeof routes)[R];
type QueryInput<R extends RouteName> =
  Definition<R> extends { query: infer Q extends v.GenericSchema<unknown, unknown> }
    ? v.InferInput<Q>
    : never;

type ParamsOption<R extends CallName> = [PathParams<Definition<R>["path"]>] extends [never]
  ? { params?: never }
  : { params: Record<PathParams<Definition<R>["path"]>, string> };
type QueryOption<R extends CallName> = [QueryInput<R>] extends [never]
  ? { query?: never }
  : { query?: { [Name in keyof QueryInput<R>]?: string | number | boolean | undefined } };
type BodyOption<R extends CallName> = [BodyInputOf<R>] extends [never]
  ? { body?: never }
  : { body: BodyInputOf<R> };

export type CallOptions<R extends CallName> = ParamsOption<R> &
  QueryOption<R> &
  BodyOption<R> & {
    /** How long to wait for the whole answer. */
    timeoutMs?: number | undefined;
    signal?: AbortSignal | undefined;
  };

/** Calls without a path parameter or a body need no options. */
type CallArguments<R extends CallName> =
  Record<string, never> extends Omit<CallOptions<R>, never>
    ? [options?: CallOptions<R>]
    : [options: CallOptions<R>];

export interface Client {
  readonly socketPath: string;
  /** How it reaches the daemon; for the stream of events too. */
  readonly way: Way;
  /** Throws MeshError: the daemon's own codes, and those of client/failure.ts. */
  call<R extends CallName>(name: R, ...options: CallArguments<R>): Promise<ReplyOf<R>>;
}

export const callTimeoutMsDefault = 30_000;

/** Throws `socket_path_too_long`; connects only when something is called. */
export function openClient(options: WayOptions): Client {
  const way = openWay(options);
  return {
    socketPath: way.socketPath,
    way,
    call: async (name, ...[call = {}]) => await callRoute(way, name, call),
  };
}

interface AnyCallOptions {
  params?: Readonly<Record<string, string>>;
  query?: Readonly<Record<string, string | number | boolean | undefined>>;
  body?: unknown;
  timeoutMs?: number | undefined;
  signal?: AbortSignal | undefined;
}

async function callRoute<R extends CallName>(
  way: Way,
  name: R,
  { params = {}, query = {}, body, timeoutMs = callTimeoutMsDefault, signal }: AnyCallOptions,
): Promise<ReplyOf<R>> {
  const route: Route = routes[name];
  const timeout = AbortSignal.timeout(Math.min(timeoutMs, timerDelayMsMax));
  let response: Response;
  let text: string;
  try {
    response = await way.request(targetOf(route, params, query), {
      method: route.method,
      ...(body === undefined
        ? {}
        : { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
      signal: signal === undefined ? timeout : AbortSignal.any([timeout, signal]),
      redirect: "error",
    });
    text = await response.text();
  } catch (thrown) {
    if (signal?.aborted) throw new MeshError("interrupted", "interrupted", { cause: thrown });
    if (timeout.aborted) {
      throw new MeshError("timed_out", `the daemon did not answer within ${timeoutMs / 1000} s`, {
        hint: "It may still have taken the request. See what it is doing: claudemesh daemon status",
      });
    }
    throw connectionFailure(thrown, way.socketPath);
  }
  if (response.status >= 400) throw refusal(response.status, parseJson(text));
  const schema = replySchema(name, response.status);
  if (schema === undefined) throw incompatible(`${route.path} answered ${response.status}`);
  const parsed = v.safeParse(schema, parseJson(text));
  if (!parsed.success) throw incompatible(`${route.path}: ${explainIssues(parsed.issues)}`);
  return parsed.output;
}

/** The table's schema for a successful answer. */
function replySchema<R extends CallName>(
  name: R,
  status: number,
): v.GenericSchema<unknown, ReplyOf<R>> | undefined {
  const { responses }: Route = routes[name];
  // The table is ours, and `ReplyOf` is read off the same entries; the compiler cannot see that for an open `R`.
  return responses[status] as v.GenericSchema<unknown, ReplyOf<R>> | undefined;
}

function targetOf(
  route: Route,
  params: Readonly<Record<string, string>>,
  query: Readonly<Record<string, string | number | boolean | undefined>>,
): string {
  const path = route.path.replace(/:([a-z_]+)/g, (_, param: string) =>
    encodeURIComponent(params[param] ?? ""),
  );
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined) search.set(name, String(value));
  }
  return search.size === 0 ? path : `${path}?${search}`;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // No schema takes undefined: the caller reports an answer that makes no sense.
  }
}
