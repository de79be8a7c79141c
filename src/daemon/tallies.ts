/**
 * What the local API has counted since the daemon started. Whoever else counts something (links, the drain, what arrives, the
 * writers) keeps it itself; metrics.ts brings it all together when somebody asks.
 */
import type { WayIn } from "~/daemon/ipc/gate";
import { type ErrorCode, httpStatusOf } from "~/errors";
import { Durations, Tally } from "~/metrics/tally";
import type { RouteName } from "~/wire/ipc";

/** Every path that is no route's is one. */
export type RouteLabel = RouteName | "none";

const requestBoundsSeconds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30] as const;

/** What became of a `POST /v1/send`: `refused` for a reason of the caller's, `failed` for one of ours. */
const sendOutcomes = ["accepted", "duplicate", "conflict", "refused", "failed"] as const;

export interface EndedRequest {
  route: RouteLabel;
  wayIn: WayIn["kind"];
  /** Of the answer. */
  status: number;
  /** Undefined when it was done. */
  error: ErrorCode | undefined;
  /** Until the answer began. */
  seconds: number;
}

interface RouteTally {
  statuses: Record<WayIn["kind"], Map<number, number>>;
  durations: Durations;
}

export class Tallies {
  readonly routes = new Map<RouteLabel, RouteTally>();
  readonly sends = new Tally<(typeof sendOutcomes)[number]>(sendOutcomes);
  readonly sendRefusals = new Tally<ErrorCode>();
  readonly securityRefusals = new Tally<ErrorCode>([
    "forbidden_host",
    "forbidden_origin",
    "token_in_query",
    "unauthorized",
  ]);
  /** Requests as they are now, over all ways in. */
  load: { readonly atWork: number; readonly waiting: number } = { atWork: 0, waiting: 0 };
  /** Event streams that are open. */
  streams = 0;

  requestEnded({ route, wayIn, status, error, seconds }: EndedRequest): void {
    const { statuses, durations } = this.#route(route);
    statuses[wayIn].set(status, (statuses[wayIn].get(status) ?? 0) + 1);
    durations.observe(seconds);
    if (route === "send" && error !== undefined) this.#sendEnded(error);
  }

  #sendEnded(error: ErrorCode): void {
    if (error === "idempotency_key_reused") {
      this.sends.add("conflict");
      return;
    }
    this.sends.add(httpStatusOf(error) >= 500 ? "failed" : "refused");
    this.sendRefusals.add(error);
  }

  #route(route: RouteLabel): RouteTally {
    const known = this.routes.get(route);
    if (known !== undefined) return known;
    const made = {
      statuses: { unix: new Map<number, number>(), tcp: new Map<number, number>() },
      durations: new Durations(requestBoundsSeconds),
    };
    this.routes.set(route, made);
    return made;
  }
}
