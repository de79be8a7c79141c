/**
 * A script for the mock of the daemon, held against the table of wire/ipc.ts: what becomes of a request, and which events follow from
 * it. It decides; carrying it out is the mock's business.
 */
import * as v from "valibot";
import { httpStatusOf, isErrorCode, type MeshError } from "~/errors";
import { plausibleErrors } from "~/mock/daemon/canned";
import type { ScriptPath } from "~/mock/script";
import { type Turn, take, turnOf } from "~/mock/turn";
import { type Route, type RouteName, routes } from "~/wire/ipc";
import type { DaemonEvent, DaemonReply, DaemonRule, DaemonScript } from "~/wire/mock-script";

/** A request that was let in, as its schemas made it. */
export interface DaemonRequest {
  route: RouteName;
  param: string;
  query: unknown;
  body: unknown;
  headers: Headers;
}

/** What is to be done with a request, after `delayMs`. */
export interface DaemonStep {
  delayMs: number;
  effect: DaemonEffect;
}

export type DaemonEffect =
  | { kind: "usual" }
  | ({ kind: "reply" } & ReplyEffect)
  | { kind: "error"; status: number; body: Values }
  /** Of the body; undefined: nothing at all is answered. */
  | { kind: "drop" | "cut"; afterBytes: number | undefined }
  | { kind: "bytes"; bytes: Uint8Array };

export interface ReplyEffect {
  status: number | undefined;
  headers: Readonly<Record<string, string | null>>;
  body:
    | { kind: "usual" }
    | { kind: "json"; json: unknown }
    | { kind: "merge"; patch: Values }
    | { kind: "bytes"; bytes: Uint8Array };
}

/** What is to happen on event streams, after `delayMs`. */
export interface DaemonDue {
  delayMs: number;
  what:
    | { kind: "event"; name: string; id: string | undefined; data: EventData }
    | { kind: "bytes"; bytes: Uint8Array }
    | { kind: "end" | "cut" };
}

export type EventData =
  | { kind: "usual" }
  | { kind: "json"; json: unknown }
  | { kind: "merge"; patch: Values };

type Values = Readonly<Record<string, unknown>>;
type Fault = (path: ScriptPath, reason: string) => MeshError;

type RuleTurn = Turn<DaemonRequest> & DaemonStep;
type EventTurn = Turn<DaemonRequest> & DaemonDue;

const usualStep: DaemonStep = { delayMs: 0, effect: { kind: "usual" } };

/** Without a script. */
export const usualDaemonPlay: Pick<DaemonPlay, "step" | "due"> = { step: () => usualStep, due: () => [] };

export class DaemonPlay {
  readonly #rules: readonly RuleTurn[];
  readonly #events: readonly EventTurn[];

  /** Throws `script_invalid` (through `fault`) where a rule and the route that it names do not fit. */
  constructor(script: DaemonScript, fault: Fault) {
    this.#rules = (script.rules ?? []).map((rule, index) => ruleTurn(rule, ["rules", index], fault));
    this.#events = (script.events ?? []).map((event, index) => eventTurn(event, ["events", index], fault));
  }

  step(request: DaemonRequest): DaemonStep {
    return this.#rules.find((rule) => take(rule, request)) ?? usualStep;
  }

  /** Once for each request. */
  due(request: DaemonRequest): DaemonDue[] {
    return this.#events.filter((event) => take(event, request));
  }
}

// ── Where ───────────────────────────────────────────────────────────────────────────────────────────────────────────

interface Where {
  param: string | undefined;
  query: Values;
  body: Values;
  headers: readonly (readonly [name: string, value: string])[];
}

const fitting =
  (routes: ReadonlySet<RouteName>, where: Where) =>
  ({ route, param, query, body, headers }: DaemonRequest): boolean =>
    routes.has(route) &&
    (where.param === undefined || where.param === param) &&
    holds(where.query, query ?? {}) &&
    holds(where.body, body ?? {}) &&
    where.headers.every(([name, value]) => headers.get(name) === value);

/** Of an object, no more is asked than what is named; everything else is to be equal. */
const holds = (wanted: unknown, given: unknown): boolean =>
  isObject(wanted) && isObject(given)
    ? Object.entries(wanted).every(([key, value]) => Object.hasOwn(given, key) && holds(value, given[key]))
    : Bun.deepEquals(wanted, given);

const isObject = (value: unknown): value is Values =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** What no request of the route could ever be is refused: the rule would never apply, unnoticed. */
function whereOf(
  where: DaemonRule["where"] = {},
  on: DaemonRule["on"],
  path: ScriptPath,
  fault: Fault,
): Where {
  const at = [...path, "where"];
  const route = routesOf(on).length === 1 ? routeNamed(on) : undefined;
  for (const part of ["param", "query", "body"] as const) {
    if (where[part] === undefined || route !== undefined) continue;
    throw fault([...at, part], "of all routes only headers can be compared; name one route");
  }
  if (where.param !== undefined && !route?.path.includes(":")) {
    throw fault([...at, "param"], `nothing in the path of ${on} varies`);
  }
  return {
    param: where.param,
    query: parsePart(route?.query, where.query, asQuery, [...at, "query"], fault),
    body: parsePart(route?.body, where.body, (value) => value, [...at, "body"], fault),
    headers: Object.entries(where.headers ?? {}),
  };
}

/** In a query everything is text: numbers and truth are written without quotes all the same. */
const asQuery = (value: unknown): unknown =>
  typeof value === "number" || typeof value === "boolean" ? String(value) : value;

/** The values as the schema of the route makes them, so that they compare with those of a request. */
function parsePart(
  schema: v.GenericSchema | undefined,
  values: Values | undefined,
  write: (value: unknown) => unknown,
  path: ScriptPath,
  fault: Fault,
): Values {
  const entries = schema === undefined ? {} : entriesOf(schema);
  const parsed: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(values ?? {})) {
    const entry = Object.hasOwn(entries, name) ? entries[name] : undefined;
    if (entry === undefined) {
      const known = Object.keys(entries);
      const which = known.length === 0 ? "there are none" : `the fields are ${known.join(", ")}`;
      throw fault([...path, name], `this route has no such field; ${which}`);
    }
    const result = v.safeParse(entry, write(value));
    if (!result.success) throw fault([...path, name], result.issues[0].message);
    parsed[name] = result.output;
  }
  return parsed;
}

/** Queries and bodies are objects whose fields are known; the table says no more than that they are schemas. */
const entriesOf = (schema: v.GenericSchema): Readonly<Record<string, v.GenericSchema>> =>
  "entries" in schema ? (schema.entries as Readonly<Record<string, v.GenericSchema>>) : {};

// ── Rules ───────────────────────────────────────────────────────────────────────────────────────────────────────────

const routeNames = Object.keys(routes) as RouteName[];
const textOf = ({ method, path }: Route): string => `${method} ${path}`;

/** What a word of a script stands for. */
const routesOf = (on: string): RouteName[] =>
  routeNames.filter((name) => on === "*" || textOf(routes[name]) === on);
const routeNamed = (on: string): Route | undefined =>
  Object.values<Route>(routes).find((route) => textOf(route) === on);

function ruleTurn(rule: DaemonRule, path: ScriptPath, fault: Fault): RuleTurn {
  const fits = fitting(new Set(routesOf(rule.on)), whereOf(rule.where, rule.on, path, fault));
  return { ...turnOf(rule, fits), effect: effectOf(rule, path, fault) };
}

function effectOf(rule: DaemonRule, path: ScriptPath, fault: Fault): DaemonEffect {
  const { reply, error, drop, cut, bytes } = rule;
  if (reply !== undefined) return { kind: "reply", ...replyOf(reply, rule.on, [...path, "reply"], fault) };
  if (error !== undefined) return { kind: "error", ...errorOf(error, [...path, "error"], fault) };
  if (drop !== undefined) return { kind: "drop", afterBytes: drop === true ? undefined : drop.after_bytes };
  if (cut !== undefined) return { kind: "cut", afterBytes: cut === true ? undefined : cut.after_bytes };
  if (bytes !== undefined) return { kind: "bytes", bytes };
  return { kind: "usual" };
}

/** Statuses whose answers have no body, by RFC 9110. */
const bodilessStatuses: readonly (number | undefined)[] = [204, 205, 304];
export const isBodiless = (status: number | undefined): boolean => bodilessStatuses.includes(status);
const bodiless = (status: number | undefined): string => `an answer with status ${status} has no body`;

function replyOf(reply: DaemonReply, on: DaemonRule["on"], path: ScriptPath, fault: Fault): ReplyEffect {
  const { status, headers = {}, merge, body } = reply;
  const [given] = (["json", "merge", "body"] as const).filter((name) => name in reply);
  if (given !== undefined && isBodiless(status)) {
    throw fault([...path, given], bodiless(status));
  }
  if (merge !== undefined) {
    const route = routeNamed(on);
    if (route === undefined || route.contentType !== undefined) {
      throw fault([...path, "merge"], "only the JSON of one route's answer can be changed");
    }
  }
  return {
    status,
    headers,
    body:
      "json" in reply
        ? { kind: "json", json: reply.json }
        : merge !== undefined
          ? { kind: "merge", patch: merge }
          : body !== undefined
            ? { kind: "bytes", bytes: body }
            : { kind: "usual" },
  };
}

function errorOf(
  error: NonNullable<DaemonRule["error"]>,
  path: ScriptPath,
  fault: Fault,
): { status: number; body: Values } {
  const whole = typeof error === "string" ? { error } : error;
  const { error: code, message, hint, details, status } = whole;
  const usual = isErrorCode(code) ? plausibleErrors[code] : undefined;
  if (status === undefined && !isErrorCode(code)) {
    throw fault([...path, "status"], `missing: ${code} is no code of this project, so that it has no status`);
  }
  if (isBodiless(status)) throw fault([...path, "status"], bodiless(status));
  return {
    status: status ?? (isErrorCode(code) ? httpStatusOf(code) : 500),
    body: {
      error: code,
      message: message ?? usual?.message ?? `the script says ${code}`,
      ...(hint === undefined ? {} : { hint }),
      ...(details ?? usual?.details),
    },
  };
}

// ── Events ──────────────────────────────────────────────────────────────────────────────────────────────────────────

function eventTurn(event: DaemonEvent, path: ScriptPath, fault: Fault): EventTurn {
  const fits = fitting(new Set(routesOf(event.after)), whereOf(event.where, event.after, path, fault));
  return { ...turnOf(event, fits), what: whatOf(event) };
}

function whatOf(rule: DaemonEvent): DaemonDue["what"] {
  const { event, id, merge, bytes, end } = rule;
  if (bytes !== undefined) return { kind: "bytes", bytes };
  if (event === undefined) return { kind: end === true ? "end" : "cut" };
  const data: EventData =
    "data" in rule
      ? { kind: "json", json: rule.data }
      : merge !== undefined
        ? { kind: "merge", patch: merge }
        : { kind: "usual" };
  return { kind: "event", name: event, id, data };
}

/** RFC 7396: null removes, an object goes into the object that is there, anything else takes the place. */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const merged: Record<string, unknown> = { ...(isObject(target) ? target : {}) };
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete merged[key];
    else merged[key] = mergePatch(merged[key], value);
  }
  return merged;
}
