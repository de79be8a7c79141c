/**
 * What the daemon answers: checked by the schemas of the local API, and errors as MeshErrors. Answers that make no sense come from a
 * daemon of another version (`incompatible_daemon`).
 */
import * as v from "valibot";
import { type ErrorCode, isErrorCode, MeshError } from "~/errors";
import type { ReplyOf, RouteName } from "~/wire/ipc";
import { places } from "~/wire/place";
import { ErrorReply, SendReply } from "~/wire/reply";

const restartHint =
  "It probably runs another version than this command. Restart it: claudemesh daemon restart";

/** Returns what a successful answer holds; throws what the daemon refused with, and `incompatible_daemon`. */
export type ReadReply<R extends RouteName> = (status: number, text: string) => Promise<ReplyOf<R>>;

/** Loads what the answers of this route are read with. */
export async function loadReader<R extends RouteName>(name: R): Promise<ReadReply<R>> {
  const schemas = await loadSchemas(name);
  const { path } = places[name];
  return async (status, text) => {
    const body = parseJson(text);
    if (status >= 400) throw refusal(status, body);
    const schema = schemas[status];
    if (schema === undefined) throw incompatible(`${path} answered ${status}`);
    const parsed = v.safeParse(schema, body);
    if (parsed.success) return parsed.output;
    const { explainIssues } = await import("~/wire/text");
    throw incompatible(`${path}: ${explainIssues(parsed.issues)}`);
  };
}

type Schemas<R extends RouteName> = Readonly<Record<number, v.GenericSchema<unknown, ReplyOf<R>>>>;

/** By status, as the table in wire/ipc.ts has them; that of the command that is run most often is known without the table. */
async function loadSchemas<R extends RouteName>(name: R): Promise<Schemas<R>> {
  const schemas: Readonly<Record<number, v.GenericSchema>> =
    name === "send"
      ? { 200: SendReply, 202: SendReply }
      : (await import("~/wire/ipc")).routes[name].responses;
  // The table is ours, and `ReplyOf` is read off the same entries; the compiler cannot see that for an open `R`.
  return schemas as Schemas<R>;
}

/** For an answer with an error status. `body` is its parsed JSON, or undefined when it was none. */
export function refusal(status: number, body: unknown): MeshError {
  const parsed = v.safeParse(ErrorReply, body);
  if (!parsed.success) return incompatible(`it answered ${status} without saying why`);
  const { error: code, message, hint, ...details } = parsed.output;
  if (code === "no_such_route" || code === "method_not_allowed") {
    return incompatible(`it does not know this request: ${message}`);
  }
  if (isErrorCode(code)) return new MeshError(code, message, { hint, details });
  return new MeshError(codeOfStatus(status), message, { hint, details: { ...details, daemon_code: code } });
}

/** For an answer that does not fit its schema. */
export const incompatible = (why: string): MeshError =>
  new MeshError("incompatible_daemon", `the daemon's answer makes no sense to this version: ${why}`, {
    hint: restartHint,
  });

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // No schema takes undefined: the caller reports an answer that makes no sense.
  }
}

/** The nearest of our codes for one that this version does not know. */
function codeOfStatus(status: number): ErrorCode {
  const exact: Readonly<Record<number, ErrorCode>> = {
    401: "unauthorized",
    403: "not_allowed",
    404: "no_such_message",
    409: "id_in_use",
    413: "body_too_large",
    429: "daemon_busy",
    503: "daemon_stopping",
    504: "timed_out",
  };
  return exact[status] ?? (status < 500 ? "invalid_request" : "bad_gateway");
}
