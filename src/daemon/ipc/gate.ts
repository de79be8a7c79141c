/**
 * Who may call the local API. How a request came in is known from the listener that took it, never guessed. A web page in
 * the user's browser, a rebound DNS name and another user's process are all kept out here, before anything is read.
 */
import { MeshError } from "~/errors";

export type WayIn =
  | { kind: "unix" }
  /** `port` is what the listener is bound to. */
  | { kind: "tcp"; port: number };

export interface GateRules {
  /** Whether it is the local token, found out in constant time. */
  accepts(token: string): boolean;
  /** `/v1/health` may be asked without a token, and then shows only that the daemon serves. */
  publicHealth: boolean;
  /** Web origins that the user let in; all others are kept out. */
  allowedOrigins: readonly string[];
}

/** `open`: without a token, for what may be seen without one. */
export type Admission =
  | { kind: "full" }
  | { kind: "open" }
  | { kind: "refused"; error: MeshError; security: boolean };

const loopbackNames = ["localhost", "127.0.0.1", "[::1]"];

export function admit(request: Request, path: string, wayIn: WayIn, rules: GateRules): Admission {
  const refused = (error: MeshError): Admission => ({ kind: "refused", error, security: true });
  const { headers } = request;
  if (hasTokenInQuery(request.url)) {
    return refused(
      new MeshError(
        "token_in_query",
        "a token in the address ends up in logs and histories; it is not accepted there",
        {
          hint: "Send it as a header: Authorization: Bearer <token>.",
        },
      ),
    );
  }
  if (!isOurHost(headers.get("host"), wayIn)) {
    return refused(
      new MeshError(
        "forbidden_host",
        `the Host header must be ${loopbackNames.join(", ")}, over TCP with the right port`,
        {
          hint: "Call http://localhost/ over the Unix socket, or http://127.0.0.1:<port>/.",
        },
      ),
    );
  }
  const callers = webCallersOf(headers);
  const stranger = callers.find((origin) => !rules.allowedOrigins.includes(origin));
  // No page is told that it may: a browser that asks beforehand is refused, whatever is allowed.
  if (stranger !== undefined || request.method === "OPTIONS") {
    return refused(
      new MeshError("forbidden_origin", "web pages may not call this API", {
        hint:
          stranger === undefined || stranger === "null"
            ? undefined
            : `If ${stranger} is yours: claudemesh config set daemon.allowed_origins ${stranger}`,
      }),
    );
  }
  // Whoever forwards a page's request to the socket must show, as the page must over TCP, that the user wants it.
  if (wayIn.kind === "unix" && callers.length === 0) return { kind: "full" };
  if (path === "/v1/challenge") return { kind: "open" };
  const authorization = headers.get("authorization");
  if (authorization === null && path === "/v1/health" && rules.publicHealth) return { kind: "open" };
  if (authorization !== null && isBearer(authorization, rules)) return { kind: "full" };
  return refused(
    new MeshError("unauthorized", authorization === null ? "a token is needed" : "the token is wrong", {
      hint: "Send Authorization: Bearer with the content of local_token in the daemon's directory, or use the Unix socket.",
    }),
  );
}

/** The origins that a browser says the request comes from; `null` for one that it hides or that is none. */
function webCallersOf(headers: Headers): string[] {
  const referer = headers.get("referer");
  return [headers.get("origin"), referer === null ? null : (URL.parse(referer)?.origin ?? "null")].filter(
    (origin) => origin !== null,
  );
}

function hasTokenInQuery(url: string): boolean {
  const start = url.indexOf("?");
  return start >= 0 && new URLSearchParams(url.slice(start + 1)).has("token");
}

function isOurHost(host: string | null, wayIn: WayIn): boolean {
  if (host === null) return false;
  const suffix = wayIn.kind === "tcp" ? `:${wayIn.port}` : "";
  return loopbackNames.some((name) => host === name + suffix);
}

function isBearer(authorization: string, rules: GateRules): boolean {
  const [, token] = /^Bearer ([A-Za-z0-9_-]+)$/.exec(authorization) ?? [];
  return token !== undefined && rules.accepts(token);
}
