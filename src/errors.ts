/**
 * The one error type, and the one table that turns a code into an exit status and an HTTP status.
 * Codes are stable: scripts and clients match on them. Expected outcomes (a duplicate, a refusal by the broker) are
 * values, not errors; an error here is always something that a person or a caller can act on.
 */

/** `code: [exit status, HTTP status]`. Exit statuses: 1 failed, 2 usage, 3 not connected, 4 not allowed, 5 not found, 6 conflict, 7 timed out, 130 interrupted. */
const CODES = {
  agent_busy: [1, 429],
  agent_failed: [1, 502],
  ambiguous_peer: [5, 400],
  ambiguous_message: [5, 400],
  already_exists: [6, 409],
  already_running: [1, 409],
  answer_lost: [3, 503],
  backup_damaged: [1, 400],
  bad_gateway: [1, 502],
  body_too_large: [2, 413],
  broker_refused: [1, 502],
  broker_unreachable: [3, 503],
  clock_skew: [1, 502],
  config_invalid: [1, 503],
  config_unsafe: [4, 503],
  daemon_busy: [1, 429],
  daemon_stopping: [3, 503],
  daemon_unreachable: [3, 503],
  database_corrupt: [1, 503],
  database_newer: [1, 503],
  directory_unavailable: [3, 503],
  forbidden_host: [4, 403],
  forbidden_origin: [4, 403],
  frame_too_large: [2, 413],
  host_changed: [4, 503],
  host_record_newer: [1, 503],
  id_in_use: [6, 409],
  idempotency_key_mismatch: [2, 400],
  idempotency_key_reused: [6, 409],
  incompatible_daemon: [1, 502],
  internal: [1, 500],
  interrupted: [130, 499],
  invalid_address: [2, 400],
  invalid_id: [2, 400],
  invalid_json: [2, 400],
  invalid_message: [2, 400],
  invalid_meta: [2, 400],
  invalid_request: [2, 400],
  invite_expired: [4, 410],
  invite_invalid: [2, 400],
  invite_revoked: [4, 410],
  invite_used_up: [4, 410],
  limit_reached: [1, 429],
  mesh_exists: [6, 409],
  mesh_required: [2, 400],
  message_empty: [2, 400],
  message_too_large: [2, 413],
  method_not_allowed: [2, 405],
  no_log: [5, 404],
  no_mesh: [5, 409],
  no_such_agent: [5, 404],
  no_service_manager: [1, 501],
  no_such_member: [5, 404],
  no_such_mesh: [5, 404],
  no_such_message: [5, 404],
  no_such_route: [2, 404],
  no_such_row: [5, 404],
  not_a_terminal: [2, 400],
  not_allowed: [4, 403],
  not_recorded: [5, 501],
  not_requeueable: [6, 409],
  path_unsafe: [4, 503],
  peer_too_old: [1, 400],
  peer_untrusted: [4, 403],
  port_in_use: [1, 503],
  recording_invalid: [2, 400],
  sandboxed: [4, 503],
  script_invalid: [2, 400],
  self_destination: [2, 400],
  service_conflict: [6, 409],
  service_failed: [1, 500],
  socket_path_too_long: [1, 503],
  storage_failed: [1, 503],
  storage_full: [1, 507],
  storage_read_only: [1, 503],
  timed_out: [7, 504],
  token_in_query: [4, 400],
  too_many_streams: [1, 429],
  unauthorized: [4, 401],
  unknown_peer: [5, 404],
  unsupported_destination: [2, 400],
  unsupported_wait: [2, 400],
  usage: [2, 400],
  wrong_passphrase: [4, 403],
} as const satisfies Record<string, readonly [exit: number, http: number]>;

export type ErrorCode = keyof typeof CODES;

export interface ErrorExtras {
  /** What the reader can do about it: a command to run, a setting to change. */
  hint?: string | undefined;
  /** Further fields of the JSON answer, in wire spelling. */
  details?: Record<string, unknown> | undefined;
  cause?: unknown;
}

export class MeshError extends Error {
  override readonly name = "MeshError";
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly details: Record<string, unknown>;

  constructor(code: ErrorCode, message: string, extras: ErrorExtras = {}) {
    super(message, extras.cause === undefined ? undefined : { cause: extras.cause });
    this.code = code;
    this.hint = extras.hint;
    this.details = extras.details ?? {};
  }
}

export const errorCodes = Object.keys(CODES) as readonly ErrorCode[];

export const isErrorCode = (text: string): text is ErrorCode => Object.hasOwn(CODES, text);

export const exitStatusOf = (code: ErrorCode): number => CODES[code][0];

export const httpStatusOf = (code: ErrorCode): number => CODES[code][1];

/** The JSON form that both the API and `--json` commands print: `{error, message, hint?, …details}`. */
export function errorBody(error: MeshError): Record<string, unknown> {
  return {
    error: error.code,
    message: error.message,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    ...error.details,
  };
}

/** Any thrown value as a MeshError; what is not one already is a bug and becomes `internal`. */
export function asMeshError(thrown: unknown): MeshError {
  if (thrown instanceof MeshError) return thrown;
  return new MeshError("internal", messageOf(thrown), {
    hint: worldHintOf(thrown),
    cause: thrown,
  });
}

/** What may befall any program anywhere, and is no mistake of ours. */
const worldHints: ReadonlyMap<string, string> = new Map([
  ["EMFILE", "This process may open too few files: ulimit -n 1024, in the shell that starts it."],
  ["ENFILE", "Too many files are open on this host. End what is not needed, and try again."],
  ["ENOSPC", "The disk is full. Free some space, and try again."],
  ["EDQUOT", "Your share of the disk is used up. Free some space, and try again."],
  ["ENOMEM", "There is not enough memory. End what is not needed, and try again."],
  ["EIO", "The disk or the terminal failed. The system's log may say more: dmesg"],
]);

export const worldHintOf = (thrown: unknown): string | undefined =>
  worldHints.get(systemCodeOf(thrown) ?? "");

export const messageOf = (thrown: unknown): string =>
  thrown instanceof Error ? thrown.message : String(thrown);

/** The `code` of a system error (`ENOENT`, `SQLITE_FULL`), or undefined when the value carries none. */
export function systemCodeOf(thrown: unknown): string | undefined {
  if (typeof thrown !== "object" || thrown === null || !("code" in thrown)) return undefined;
  return typeof thrown.code === "string" ? thrown.code : undefined;
}
