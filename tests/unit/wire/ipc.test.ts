/** The table of the local API: what each request takes, what it refuses and how it says so, and what it fills in. */
import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { eventNames, MeshEvent, type RouteName, routes } from "~/wire/ipc";
import { ErrorReply } from "~/wire/reply";
import { explainIssues } from "~/wire/text";

type Schema = v.GenericSchema<unknown, unknown>;

/** The schema of what a client sends to a route: its body or its query. */
function requestSchema(name: RouteName): Schema {
  const route: { query?: unknown; body?: unknown } = routes[name];
  const schema = route.body ?? route.query;
  if (!v.isOfKind("schema", schema as Schema)) throw new Error(`${name} takes nothing`);
  return schema as Schema;
}

/** A whole request of every route, and each field that has to be there. */
const requests: Record<RouteName, { whole: Record<string, unknown>; required: string[] }> = {
  challenge: { whole: { nonce: "ab".repeat(16) }, required: ["nonce"] },
  version: { whole: {}, required: [] },
  health: { whole: {}, required: [] },
  send: {
    whole: {
      to: "bob",
      message: "hello",
      mesh: "team",
      priority: "now",
      meta: { a: [1] },
      reply_to_id: "01JC0000000000000000000000",
      client_message_id: "deploy-42",
    },
    required: ["to", "message"],
  },
  message: { whole: { wait: "accepted", timeout_ms: "100" }, required: [] },
  inbox: {
    whole: {
      after: "1",
      limit: "10",
      last: "5",
      from: "bob",
      topic: "alerts",
      mesh: "team",
      unread: "1",
      problems: "0",
    },
    required: [],
  },
  inboxAck: { whole: { ids: ["a", "b"] }, required: ["ids"] },
  events: { whole: { since: "1" }, required: [] },
  peers: { whole: { all: "1", mesh: "team" }, required: [] },
  profile: { whole: {}, required: [] },
  setProfile: {
    whole: {
      summary: "s",
      status: "working",
      visible: false,
      avatar: "a",
      title: "t",
      bio: "b",
      capabilities: ["c"],
    },
    required: [],
  },
  outbox: { whole: { status: "dead", limit: "10", after: "1", lane: "l" }, required: [] },
  outboxRow: { whole: {}, required: [] },
  requeue: { whole: { id: "1", new_client_message_id: "n", message: "m" }, required: ["id"] },
  metrics: { whole: {}, required: [] },
  rotateToken: { whole: {}, required: [] },
  openapi: { whole: {}, required: [] },
};

const routeNames = Object.keys(routes) as RouteName[];

test("every route is in this test", () => {
  expect(Object.keys(requests).sort()).toEqual([...routeNames].sort());
});

describe.each(routeNames)("%s", (name) => {
  const schema = requestSchema(name);
  const { whole, required } = requests[name];
  const why = (request: unknown): string => {
    const parsed = v.safeParse(schema, request);
    return parsed.success ? "taken" : explainIssues(parsed.issues);
  };

  test("takes a whole request", () => {
    expect(why(whole)).toBe("taken");
  });

  test.each(["nope", "toString", "constructor", "__proto__", "message_id", "To"])(
    "refuses the unknown field %s by its name",
    (field) => {
      const request = Object.defineProperty({ ...whole }, field, { value: "1", enumerable: true });
      expect(why(request)).toStartWith(`${field}: `);
    },
  );

  test("may hold every field that this test knows, and no others", () => {
    const entries: unknown = Reflect.get(schema, "entries");
    expect(Object.keys(entries ?? {}).sort()).toEqual(Object.keys(whole).sort());
  });

  test("needs what it needs, and says which", () => {
    for (const field of Object.keys(whole)) {
      const { [field]: _, ...rest } = whole;
      if (required.includes(field)) expect(why(rest)).toStartWith(`${field}: `);
      else expect(why(rest)).toBe("taken");
    }
  });

  test("refuses what is no object", () => {
    for (const value of [null, undefined, "", 1, true]) expect(why(value)).not.toBe("taken");
    if (required.length > 0) expect(why([])).not.toBe("taken");
  });

  test("has a path of its own, and says what it is for", () => {
    const { method, path, summary } = routes[name];
    const twins = routeNames.filter(
      (other) => routes[other].method === method && routes[other].path === path,
    );
    expect(twins).toEqual([name]);
    expect(path).toMatch(/^\/v1\/[a-z./_:]+$/);
    expect(summary).not.toBe("");
  });
});

describe("fields and their values", () => {
  const send = requests.send.whole;
  const refused: [route: RouteName, field: string, request: Record<string, unknown>][] = [
    ["send", "to", { ...send, to: "" }],
    ["send", "to", { ...send, to: "a".repeat(257) }],
    ["send", "to", { ...send, to: 1 }],
    ["send", "message", { ...send, message: null }],
    ["send", "message", { ...send, message: ["hello"] }],
    ["send", "mesh", { ...send, mesh: null }],
    ["send", "priority", { ...send, priority: "high" }],
    ["send", "meta", { ...send, meta: "a" }],
    ["send", "meta", { ...send, meta: ["a"] }],
    ["send", "reply_to_id", { ...send, reply_to_id: "a b" }],
    ["send", "client_message_id", { ...send, client_message_id: "" }],
    ["send", "client_message_id", { ...send, client_message_id: "a\n" }],
    ["send", "client_message_id", { ...send, client_message_id: "a".repeat(129) }],
    ["challenge", "nonce", { nonce: "" }],
    ["challenge", "nonce", { nonce: "ab".repeat(15) }],
    ["challenge", "nonce", { nonce: "AB".repeat(16) }],
    ["challenge", "nonce", { nonce: `${"ab".repeat(16)}a` }],
    ["challenge", "nonce", { nonce: "ab".repeat(65) }],
    ["message", "wait", { wait: "done" }],
    ["message", "timeout_ms", { timeout_ms: "" }],
    ["message", "timeout_ms", { timeout_ms: "-1" }],
    ["message", "timeout_ms", { timeout_ms: "1.5" }],
    ["message", "timeout_ms", { timeout_ms: "1e3" }],
    ["message", "timeout_ms", { timeout_ms: " 1" }],
    ["message", "timeout_ms", { timeout_ms: "600001" }],
    ["message", "timeout_ms", { timeout_ms: "9".repeat(16) }],
    ["inbox", "limit", { limit: "0" }],
    ["inbox", "limit", { limit: "501" }],
    ["inbox", "last", { last: "0" }],
    ["inbox", "last", { last: "501" }],
    ["inbox", "unread", { unread: "yes" }],
    ["inboxAck", "ids", { ids: "a" }],
    ["inboxAck", "ids.0", { ids: [1] }],
    ["inboxAck", "ids", { ids: Array(501).fill("a") }],
    ["peers", "all", { all: "" }],
    ["setProfile", "status", { status: "away" }],
    ["setProfile", "summary", { summary: "a".repeat(501) }],
    ["setProfile", "visible", { visible: "1" }],
    ["setProfile", "title", { title: "a".repeat(101) }],
    ["setProfile", "capabilities", { capabilities: Array(33).fill("c") }],
    ["outbox", "status", { status: "lost" }],
    ["outbox", "limit", { limit: "0" }],
    ["requeue", "id", { id: "" }],
    ["requeue", "new_client_message_id", { id: "1", new_client_message_id: "-" }],
  ];
  test.each(refused)("%s refuses a wrong %s by its name (case %#)", (name, field, request) => {
    const parsed = v.safeParse(requestSchema(name), request);
    if (parsed.success) throw new Error(`it was taken as ${JSON.stringify(parsed.output)}`);
    expect(explainIssues(parsed.issues)).toStartWith(`${field}: `);
  });

  const taken: [route: RouteName, request: Record<string, unknown>, as: Record<string, unknown>][] = [
    ["send", { to: "bob", message: "" }, { to: "bob", message: "", priority: "next" }],
    [
      "send",
      { to: "b", message: "\0", meta: null },
      { to: "b", message: "\0", meta: null, priority: "next" },
    ],
    ["send", { ...send, meta: { constructor: 1 } }, { ...send, meta: { constructor: 1 } }],
    ["message", {}, { timeout_ms: 30_000 }],
    ["message", { wait: "reply", timeout_ms: "0" }, { wait: "reply", timeout_ms: 0 }],
    ["message", { timeout_ms: "600000" }, { timeout_ms: 600_000 }],
    ["inbox", {}, { limit: 50 }],
    ["inbox", { limit: "500", last: "1" }, { limit: 500, last: 1 }],
    ["inbox", { unread: "true", problems: "1" }, { limit: 50, unread: true, problems: true }],
    ["inbox", { unread: "false", problems: "0" }, { limit: 50, unread: false, problems: false }],
    ["inboxAck", { ids: [] }, { ids: [] }],
    ["inboxAck", { ids: Array(500).fill("a") }, { ids: Array(500).fill("a") }],
    ["outbox", {}, { limit: 50 }],
    ["outbox", { status: "retrying" }, { status: "retrying", limit: 50 }],
    ["challenge", { nonce: "ab".repeat(64) }, { nonce: "ab".repeat(64) }],
  ];
  test.each(taken)("%s fills in what is left out (case %#)", (name, request, as) => {
    expect<unknown>(v.parse(requestSchema(name), request)).toEqual(as);
  });
});

describe("answers", () => {
  test("an error may hold more than its three fields", () => {
    const body = { error: "x", message: "y", hint: "z", meshes: ["a"] };
    expect<unknown>(v.parse(ErrorReply, body)).toEqual(body);
    expect(v.safeParse(ErrorReply, { error: "x" }).success).toBe(false);
  });

  test("an open health answer shows nothing else", () => {
    const schema: Schema = routes.health.responses[200];
    expect(v.safeParse(schema, { ok: true }).success).toBe(true);
    expect(v.safeParse(schema, { ok: false }).success).toBe(false);
    expect(v.safeParse(schema, { ok: true, pid: 1 }).success).toBe(false);
  });

  test("a message whose body is gone says so with null", () => {
    const item = {
      id: "1",
      client_message_id: "key-1",
      mesh: "team",
      from: { name: "alice", pubkey: "ab".repeat(32) },
      body: null,
      priority: "next",
      received_at: "2025-06-15T15:06:40.000Z",
    };
    const schema: Schema = routes.inbox.responses[200];
    expect<unknown>(v.parse(schema, { items: [item] })).toEqual({ items: [item] });
    expect(v.safeParse(schema, { items: [{ ...item, received_at: "yesterday" }] }).success).toBe(false);
  });

  test("events have names that the contract knows", () => {
    const known = MeshEvent.options.map((option) => option.entries.event.literal);
    expect<readonly string[]>(eventNames).toEqual(expect.arrayContaining(known));
  });
});
