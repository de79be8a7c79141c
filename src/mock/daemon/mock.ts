/**
 * The mock of the daemon: lets requests in as the daemon does (daemon/ipc/server.ts), answers them with what answers.ts has,
 * and does otherwise where a script says so. Between two requests it knows only how far the script has been played.
 */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { type Clock, pause, type Timer } from "~/clock";
import type { GateRules, WayIn } from "~/daemon/ipc/gate";
import { type Answer, buildApp, type Call, type Handlers, Load } from "~/daemon/ipc/server";
import { Tallies } from "~/daemon/tallies";
import type { Log } from "~/log";
import { type Occasion, occasionOf, usualAnswers, usualEvent } from "~/mock/daemon/answers";
import { type EventStream, EventStreams, isStored } from "~/mock/daemon/events";
import type { Exchange } from "~/mock/daemon/http";
import {
  type DaemonDue,
  type DaemonEffect,
  type DaemonPlay,
  type DaemonRequest,
  type EventData,
  isBodiless,
  mergePatch,
  type ReplyEffect,
} from "~/mock/daemon/script";
import type { RouteName } from "~/wire/ipc";

type Play = Pick<DaemonPlay, "step" | "due">;
type AnyHandler = (call: Call<RouteName>) => Answer<RouteName> | Promise<Answer<RouteName>>;

/** How a response goes out, and what comes of it. */
interface Manner {
  effect: DaemonEffect;
  /** Its body, where that is an event stream. */
  stream: EventStream | undefined;
  /** To be called when it is out, in whatever way. */
  given(exchange: Exchange): void;
}

export class DaemonMock {
  readonly #token: string;
  readonly #play: Play;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #streams: EventStreams;
  readonly #tallies = new Tallies();
  readonly #load = new Load();
  readonly #handlers: Handlers;
  /** Beside the responses, which the daemon's own server hands on. */
  readonly #manners = new WeakMap<Response, Manner>();
  readonly #timers = new Set<Timer>();

  constructor(token: string, play: Play, clock: Clock, log: Log) {
    this.#token = token;
    this.#play = play;
    this.#clock = clock;
    this.#log = log;
    this.#streams = new EventStreams(clock);
    const usual: Handlers = { ...usualAnswers(token), events: openedStream };
    const names = Object.keys(usual) as RouteName[];
    // Each handler stays under its own name; the server ties it to the schemas of that route.
    this.#handlers = Object.fromEntries(
      names.map((name) => [name, this.#played(name, usual[name] as AnyHandler)]),
    ) as unknown as Handlers;
  }

  answersTo(wayIn: WayIn): (exchange: Exchange) => Promise<void> {
    const rules: GateRules = { accepts: accepterOf(this.#token), publicHealth: false, allowedOrigins: [] };
    const app = buildApp({
      handlers: this.#handlers,
      wayIn,
      rules: () => rules,
      load: this.#load,
      tallies: this.#tallies,
      clock: this.#clock,
      log: this.#log,
      logPlace: "standard error of the mock",
    });
    return async (exchange) => {
      const response = await app.fetch(exchange.request());
      await deliver(exchange, response, this.#manners.get(response));
    };
  }

  close(): void {
    for (const timer of this.#timers) timer.cancel();
    this.#timers.clear();
  }

  // ── Requests ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #played(route: RouteName, usual: AnyHandler): AnyHandler {
    return async (call) => {
      const { param, query, body, headers, signal } = call;
      const request: DaemonRequest = { route, param, query, body, headers };
      const { delayMs, effect } = this.#play.step(request);
      if (delayMs > 0) {
        call.beginWaiting();
        await pause(this.#clock, delayMs, signal);
      }
      const { response, json } = await respond(effect, () => usual(call));
      const stream = route === "events" && isUsualBody(effect) ? this.#openStream(call) : undefined;
      this.#manners.set(response, {
        effect,
        stream,
        given: (exchange) => {
          // Of what was refused nothing follows.
          if (response.status >= 400) return;
          if (route !== "events")
            this.#follow(request, occasionOf(request, json), undefined, exchange.number);
          else if (stream !== undefined) this.#follow(request, {}, stream, exchange.number);
        },
      });
      return response;
    };
  }

  #openStream({ query, headers, signal }: Call<RouteName>): EventStream {
    const { since } = query as Call<"events">["query"];
    return this.#streams.open(headers.get("last-event-id") ?? since, signal);
  }

  // ── Events ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #follow(request: DaemonRequest, occasion: Occasion, stream: EventStream | undefined, after: number): void {
    for (const { delayMs, what } of this.#play.due(request)) {
      this.#later(delayMs, () => this.#happen(what, occasion, stream, after));
    }
  }

  #happen(what: DaemonDue["what"], occasion: Occasion, to: EventStream | undefined, after: number): void {
    switch (what.kind) {
      case "event": {
        const { name } = what;
        const place = isStored(name) ? this.#streams.nextPlace() : 0;
        const id = what.id ?? (isStored(name) ? String(place) : undefined);
        const data = dataOf(what.data, () => usualEvent(name, place, occasion));
        this.#streams.send({ id, name, data }, to, after);
        return;
      }
      case "bytes":
        this.#streams.each(to, (stream) => stream.push(what.bytes, after));
        return;
      case "end":
        this.#streams.each(to, (stream) => stream.end());
        return;
      case "cut":
        this.#streams.each(to, (stream) => stream.cut(after));
    }
  }

  #later(delayMs: number, act: () => void): void {
    if (delayMs === 0) {
      act();
      return;
    }
    const timer = this.#clock.after(delayMs, () => {
      this.#timers.delete(timer);
      act();
    });
    this.#timers.add(timer);
  }
}

/** In constant time, as the daemon does it: who compares must not learn by it. */
function accepterOf(token: string): GateRules["accepts"] {
  const comparisonKey = randomBytes(32);
  const digestOf = (text: string): Buffer => createHmac("sha256", comparisonKey).update(text).digest();
  const own = digestOf(token);
  return (given) => timingSafeEqual(digestOf(given), own);
}

// ── Answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** The body of a stream is no part of its response: it can be cut off. */
const openedStream = (): Answer<"events"> =>
  new Response(null, { headers: { "content-type": "text/event-stream", "cache-control": "no-store" } });

interface Responded {
  response: Response;
  /** What it holds, where that is JSON. */
  json: unknown;
}

/** Whether something of the usual body goes out. */
const isUsualBody = (effect: DaemonEffect): boolean =>
  effect.kind === "usual" ||
  (effect.kind === "reply" && effect.body.kind === "usual") ||
  ((effect.kind === "drop" || effect.kind === "cut") && effect.afterBytes !== undefined);

async function respond(effect: DaemonEffect, usual: () => ReturnType<AnyHandler>): Promise<Responded> {
  if (effect.kind === "error") {
    return { response: Response.json(effect.body, { status: effect.status }), json: effect.body };
  }
  if (effect.kind === "reply") return reply(effect, responded(await usual()));
  return isUsualBody(effect) ? responded(await usual()) : { response: new Response(null), json: undefined };
}

function responded(answer: Answer<RouteName>): Responded {
  if (answer instanceof Response) return { response: answer, json: undefined };
  return { response: Response.json(answer.json, { status: answer.status ?? 200 }), json: answer.json };
}

function reply({ status: wanted, body }: ReplyEffect, { response, json }: Responded): Responded {
  const status = wanted ?? response.status;
  const { headers } = response;
  switch (body.kind) {
    case "usual":
      return {
        response: new Response(isBodiless(status) ? null : response.body, { status, headers }),
        json,
      };
    case "json":
      return { response: Response.json(body.json, { status }), json: body.json };
    case "merge": {
      const merged = mergePatch(json, body.patch);
      return { response: Response.json(merged, { status }), json: merged };
    }
    case "bytes":
      return { response: new Response(Buffer.from(body.bytes), { status, headers }), json: undefined };
  }
}

const dataOf = (data: EventData, usual: () => unknown): unknown =>
  data.kind === "json" ? data.json : data.kind === "merge" ? mergePatch(usual(), data.patch) : usual();

/** A response that no handler of ours has given: a refusal. */
const plainly: Manner = { effect: { kind: "usual" }, stream: undefined, given: () => undefined };

async function deliver(
  exchange: Exchange,
  response: Response,
  { effect, stream, given }: Manner = plainly,
): Promise<void> {
  if (effect.kind === "bytes") {
    await exchange.writeRaw(effect.bytes);
    given(exchange);
    exchange.cut();
    return;
  }
  const isBroken = effect.kind === "drop" || effect.kind === "cut";
  if (!isBroken || effect.afterBytes !== undefined) {
    const headers = headersOf(response, effect);
    const bytesMax = isBroken ? (effect.afterBytes ?? 0) : Number.POSITIVE_INFINITY;
    if (stream === undefined) await writeWhole(exchange, response, headers, bytesMax);
    else {
      exchange.head(response.status, headers);
      // What follows from the opening belongs into the stream.
      given(exchange);
      await pump(stream, exchange, bytesMax);
    }
  }
  if (stream === undefined) given(exchange);
  // What is dropped is left as it is, until the client goes.
  if (effect.kind === "cut") exchange.cut();
}

function headersOf(response: Response, effect: DaemonEffect): Record<string, string> {
  const headers = Object.fromEntries(response.headers);
  for (const [name, value] of Object.entries(effect.kind === "reply" ? effect.headers : {})) {
    if (value === null) delete headers[name.toLowerCase()];
    else headers[name.toLowerCase()] = value;
  }
  return headers;
}

async function writeWhole(
  exchange: Exchange,
  response: Response,
  headers: Record<string, string>,
  bytesMax: number,
): Promise<void> {
  const { status } = response;
  const body = new Uint8Array(await response.arrayBuffer());
  exchange.head(status, isBodiless(status) ? headers : { ...headers, "content-length": String(body.length) });
  const part = body.subarray(0, bytesMax);
  await exchange.write(part, { isLast: part.length === body.length });
}

/** Hands a stream on until it ends, or until so much of it is out. */
async function pump(stream: EventStream, exchange: Exchange, bytesMax: number): Promise<void> {
  let left = bytesMax;
  while (left > 0) {
    const part = await stream.next();
    switch (part?.kind) {
      case undefined:
        return;
      case "end":
        return await exchange.write(new Uint8Array(), { isLast: true });
      case "cut":
        return exchange.cut(part.after);
      case "bytes": {
        const bytes = part.bytes.subarray(0, left);
        left -= bytes.length;
        await exchange.write(bytes, { after: part.after });
      }
    }
  }
  await exchange.write(new Uint8Array());
}
