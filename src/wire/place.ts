/**
 * Where the requests of the local API go, and the headers of its answers: all that a caller needs before it asks. What requests and
 * answers hold is in wire/ipc.ts.
 */

export const places = {
  challenge: { method: "GET", path: "/v1/challenge" },
  version: { method: "GET", path: "/v1/version" },
  health: { method: "GET", path: "/v1/health" },
  send: { method: "POST", path: "/v1/send" },
  message: { method: "GET", path: "/v1/messages/:client_message_id" },
  inbox: { method: "GET", path: "/v1/inbox" },
  inboxAck: { method: "POST", path: "/v1/inbox/ack" },
  events: { method: "GET", path: "/v1/events" },
  peers: { method: "GET", path: "/v1/peers" },
  profile: { method: "GET", path: "/v1/profile" },
  setProfile: { method: "POST", path: "/v1/profile" },
  outbox: { method: "GET", path: "/v1/outbox" },
  outboxRow: { method: "GET", path: "/v1/outbox/:id" },
  requeue: { method: "POST", path: "/v1/outbox/requeue" },
  metrics: { method: "GET", path: "/v1/metrics" },
  rotateToken: { method: "POST", path: "/v1/token/rotate" },
  openapi: { method: "GET", path: "/v1/openapi.json" },
} as const satisfies Record<string, { method: "GET" | "POST"; path: `/v1/${string}` }>;

/** On every answer to a caller that was let in: the version of the daemon that gives it. */
export const versionHeader = "claudemesh-version";
/** On every answer of an ephemeral daemon: when it ends by itself, or `end` when nobody said. */
export const ephemeralHeader = "claudemesh-ephemeral";
