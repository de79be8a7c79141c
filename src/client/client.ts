/**
 * The only caller of the daemon's local API. Paths, methods and schemas come from the table in wire/ipc.ts; every answer is
 * validated by it (client/reply.ts), and every failure becomes a MeshError. One request is one call: nothing is repeated here.
 * What only the answer needs, or only a failure, is not loaded before the request is on its way: most of what a command costs is
 * what it loads.
 */
import type * as v from "valibot";
import type { ReadReply } from "~/client/reply";
import { openWay, type Way, type WayOptions } from "~/client/way";
import { timerDelayMsMax } from "~/clock";
import { MeshError } from "~/errors";
import type { BodyInputOf, ReplyOf, RouteName, routes } from "~/wire/ipc";
import { places } from "~/wire/place";

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
  /** Throws MeshError: the daemon's own codes, and those of client/failure.ts and client/reply.ts. */
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
  const { method, path } = places[name];
  const timeout = AbortSignal.timeout(Math.min(timeoutMs, timerDelayMsMax));
  let response: Response;
  let readReply: ReadReply<R>;
  let text: string;
  try {
    const asked = way.request(targetOf(path, params, query), {
      method,
      ...(body === undefined
        ? {}
        : { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
      signal: signal === undefined ? timeout : AbortSignal.any([timeout, signal]),
      redirect: "error",
    });
    // What reads the answer is loaded while the daemon works on it.
    [response, readReply] = await Promise.all([asked, readerOf(name)]);
    text = await response.text();
  } catch (thrown) {
    if (signal?.aborted) throw new MeshError("interrupted", "interrupted", { cause: thrown });
    if (timeout.aborted) {
      throw new MeshError("timed_out", `the daemon did not answer within ${timeoutMs / 1000} s`, {
        hint: "It may still have taken the request. See what it is doing: claudemesh daemon status",
      });
    }
    const { connectionFailure } = await import("~/client/failure");
    throw connectionFailure(thrown, way.socketPath);
  }
  return await readReply(response.status, text);
}

async function readerOf<R extends RouteName>(name: R): Promise<ReadReply<R>> {
  const { loadReader } = await import("~/client/reply");
  return await loadReader(name);
}

function targetOf(
  template: string,
  params: Readonly<Record<string, string>>,
  query: Readonly<Record<string, string | number | boolean | undefined>>,
): string {
  const path = template.replace(/:([a-z_]+)/g, (_, param: string) => encodeURIComponent(params[param] ?? ""));
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined) search.set(name, String(value));
  }
  return search.size === 0 ? path : `${path}?${search}`;
}
