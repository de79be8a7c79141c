/** `GET /v1/metrics`: each number moves when its thing happens and only then, and no label tells who writes to whom. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { Port } from "~/daemon/drain";
import { handlersOf, rulesOf } from "~/daemon/ipc/listen";
import { buildApp, Load } from "~/daemon/ipc/server";
import { daemonFamilies } from "~/daemon/metrics";
import { writeFileAtomic } from "~/disk/file";
import type { BrokerTerms } from "~/link/negotiate";
import { version } from "~/version";
import { type HealthReply, metricsContentType, routes } from "~/wire/ipc";
import { openTestDaemon, type TestDaemon, testToken } from "../../support/daemon-parts";
import { listedMetrics, Scrape } from "../../support/prometheus";
import { waitFor } from "../../support/wait-for";

async function scrape(daemon: TestDaemon): Promise<Scrape> {
  const response = await daemon.request("GET", "/v1/metrics");
  expect([response.status, response.headers.get("content-type")]).toEqual([200, metricsContentType]);
  return new Scrape(await response.text());
}

const healthOf = async (daemon: TestDaemon): Promise<HealthReply> =>
  (await (await daemon.request("GET", "/v1/health")).json()) as HealthReply;

async function withBob(): Promise<TestDaemon> {
  const daemon = await openTestDaemon();
  daemon.list(daemon.member("bob"));
  return daemon;
}

const send = (daemon: TestDaemon, body: object) => daemon.request("POST", "/v1/send", body);

const terms: BrokerTerms = {
  features: undefined,
  inlineBytes: 65_536,
  maxAgeMs: 7 * 24 * 3600 * 1000,
  lanes: true,
  members: true,
  missing: [],
};

/** An open link that takes everything and never answers by itself. */
const port: Port = { send: () => true, bufferedBytes: 0, reconnect: () => undefined, drop: () => undefined };

/** A message that is on the wire, and the broker's answer to it. */
const answered = (answer: Record<string, unknown>) => async (daemon: TestDaemon) => {
  const { drain, outbox } = daemon.parts;
  drain.attach(daemon.mesh.meshId, port, terms);
  await send(daemon, { to: "bob", message: "hi", client_message_id: "key-1" });
  await waitFor(
    () => outbox.byClientMessageId("key-1")?.status === "inflight" || void daemon.clock.advance(0),
    {
      what: "the message to leave",
    },
  );
  drain.answered(daemon.mesh.meshId, { type: "ack", id: "key-1", client_message_id: "key-1", ...answer });
  await daemon.until(daemon.parts.outboxWriter.submit(() => undefined));
};

const sends = "claudemesh_sends_total";
const refusals = "claudemesh_send_refusals_total";
const answers = "claudemesh_broker_answers_total";
const security = "claudemesh_security_refusals_total";
const requests = "claudemesh_ipc_requests_total";

type Moved = [name: string, labels: Record<string, string>, by: number];

/** What happens, and every counter and gauge that must move by it. */
const happenings: [what: string, happen: (daemon: TestDaemon) => Promise<unknown>, moved: Moved[]][] = [
  [
    "a send that is taken",
    (daemon) => send(daemon, { to: "bob", message: "hi" }),
    [
      [sends, { outcome: "accepted" }, 1],
      [requests, { route: "send", way_in: "unix", status: "202" }, 1],
      ["claudemesh_outbox_messages", { status: "pending" }, 1],
      ["claudemesh_commits_total", { database: "outbox" }, 1],
      ["claudemesh_commit_jobs_total", { database: "outbox" }, 1],
    ],
  ],
  [
    "the same send twice",
    async (daemon) => {
      for (let n = 0; n < 2; n++) await send(daemon, { to: "bob", message: "hi", client_message_id: "k" });
    },
    [
      [sends, { outcome: "accepted" }, 1],
      [sends, { outcome: "duplicate" }, 1],
    ],
  ],
  [
    "another send under a used id",
    async (daemon) => {
      await send(daemon, { to: "bob", message: "hi", client_message_id: "k" });
      await send(daemon, { to: "bob", message: "ho", client_message_id: "k" });
    },
    [
      [sends, { outcome: "conflict" }, 1],
      [requests, { route: "send", way_in: "unix", status: "409" }, 1],
    ],
  ],
  [
    "a send to nobody",
    (daemon) => send(daemon, { to: "carol", message: "hi" }),
    [
      [sends, { outcome: "refused" }, 1],
      [refusals, { code: "unknown_peer" }, 1],
    ],
  ],
  [
    "a send that does not fit",
    (daemon) => send(daemon, { to: "bob" }),
    [
      [sends, { outcome: "refused" }, 1],
      [refusals, { code: "invalid_request" }, 1],
    ],
  ],
  [
    "a send that the disk does not take",
    (daemon) => {
      daemon.parts.outbox.db.run("PRAGMA query_only = 1");
      return send(daemon, { to: "bob", message: "hi" });
    },
    [
      [sends, { outcome: "failed" }, 1],
      [refusals, { code: "storage_read_only" }, 1],
      ["claudemesh_storage_trouble", { database: "outbox" }, 1],
      ["claudemesh_commit_failures_total", { database: "outbox" }, 1],
      ["claudemesh_problems", { code: "storage_read_only" }, 1],
    ],
  ],
  [
    "an answer: created",
    answered({ code: "created", messageId: "m" }),
    [[answers, { outcome: "created" }, 1]],
  ],
  [
    "an answer: duplicate",
    answered({ code: "duplicate", messageId: "m", duplicate: true }),
    [
      [answers, { outcome: "duplicate" }, 1],
      ["claudemesh_outbox_messages", { status: "done" }, 1],
    ],
  ],
  ["an answer: busy", answered({ code: "busy" }), [[answers, { outcome: "transient" }, 1]]],
  ["an answer: held", answered({ code: "held" }), [[answers, { outcome: "held" }, 1]]],
  [
    "an answer: too large",
    answered({ code: "too_large" }),
    [
      [answers, { outcome: "permanent" }, 1],
      ["claudemesh_outbox_messages", { status: "dead" }, 1],
    ],
  ],
  ["an answer: reused", answered({ code: "idempotency_key_reused" }), [[answers, { outcome: "reused" }, 1]]],
  ["an answer that nobody knows", answered({ code: "perhaps" }), [[answers, { outcome: "unrecognised" }, 1]]],
  [
    "a link that closes before the answer",
    async (daemon) => {
      const { drain, outbox } = daemon.parts;
      drain.attach(daemon.mesh.meshId, port, terms);
      await send(daemon, { to: "bob", message: "hi", client_message_id: "key-1" });
      await waitFor(
        () => outbox.byClientMessageId("key-1")?.status === "inflight" || void daemon.clock.advance(0),
        {
          what: "the message to leave",
        },
      );
      drain.detach(daemon.mesh.meshId);
      drain.detach(daemon.mesh.meshId);
    },
    [[answers, { outcome: "none" }, 1]],
  ],
  [
    "a token in the address",
    (daemon) => daemon.request("GET", "/v1/health?token=x"),
    [
      [security, { code: "token_in_query" }, 1],
      [requests, { route: "health", way_in: "unix", status: "400" }, 1],
    ],
  ],
  [
    "a web page",
    (daemon) => daemon.request("GET", "/v1/health", undefined, { origin: "https://evil.example" }),
    [[security, { code: "forbidden_origin" }, 1]],
  ],
  [
    "a rebound name",
    (daemon) => daemon.request("GET", "/v1/health", undefined, { host: "evil.example" }),
    [[security, { code: "forbidden_host" }, 1]],
  ],
  [
    "a wrong token",
    async (daemon) => {
      const headers = { host: "127.0.0.1:7", authorization: "Bearer wrong" };
      await daemon.app({ kind: "tcp", port: 7 }).request("http://127.0.0.1:7/v1/health", { headers });
    },
    [
      [security, { code: "unauthorized" }, 1],
      [requests, { route: "health", way_in: "tcp", status: "401" }, 1],
    ],
  ],
  [
    "paths that do not exist",
    async (daemon) => {
      for (let n = 0; n < 20; n++) await daemon.request("GET", `/v1/nothing/${n}`);
      await daemon.request("GET", "/v1/messages/nothing");
    },
    [
      [requests, { route: "none", way_in: "unix", status: "404" }, 20],
      [requests, { route: "message", way_in: "unix", status: "404" }, 1],
      ["claudemesh_ipc_request_duration_seconds_count", { route: "none" }, 20],
    ],
  ],
  [
    "a stream of events that is open",
    (daemon) => daemon.request("GET", "/v1/events"),
    [["claudemesh_ipc_streams", {}, 1]],
  ],
];

describe("moves by one thing", () => {
  test.each(happenings)("%s", async (_what, happen, moved) => {
    const daemon = await withBob();
    const before = await scrape(daemon);
    await happen(daemon);
    const after = await scrape(daemon);
    for (const [name, labels, by] of moved) {
      const difference = (after.value(name, labels) ?? Number.NaN) - (before.value(name, labels) ?? 0);
      expect([name, labels, difference]).toEqual([name, labels, by]);
    }
  });
});

test("asking changes nothing but the count of questions", async () => {
  const daemon = await withBob();
  await send(daemon, { to: "bob", message: "hi" });
  await scrape(daemon);
  const [first, second] = [await scrape(daemon), await scrape(daemon)];
  const own = new Set([requests, "claudemesh_ipc_request_duration_seconds"]);
  for (const { name, samples } of first.families.values()) {
    if (own.has(name) || name.startsWith("process_")) continue;
    expect([name, second.family(name).samples]).toEqual([name, samples]);
  }
  const question = { route: "metrics", way_in: "unix", status: "200" };
  expect([first.value(requests, question), second.value(requests, question)]).toEqual([1, 2]);
});

test("what waits, and for how long", async () => {
  const daemon = await withBob();
  expect((await scrape(daemon)).value("claudemesh_outbox_oldest_seconds", { status: "pending" })).toBe(0);
  await send(daemon, { to: "bob", message: "hi" });
  daemon.clock.advance(90_000);
  expect((await scrape(daemon)).value("claudemesh_outbox_oldest_seconds", { status: "pending" })).toBe(90);
});

test("a request is measured until its answer, what it waited for included", async () => {
  const daemon = await withBob();
  await send(daemon, { to: "bob", message: "hi", client_message_id: "key-1" });
  const { parts, clock } = daemon;
  const app = buildApp({
    handlers: handlersOf(parts),
    wayIn: { kind: "unix" },
    rules: () => rulesOf(parts),
    load: new Load(),
    tallies: parts.tallies,
    clock,
    log: () => undefined,
    logPlace: "daemon.log",
  });
  const headers = { host: "localhost" };
  const waiting = daemon.until(
    Promise.resolve(
      app.request("http://localhost/v1/messages/key-1?wait=accepted&timeout_ms=2000", { headers }),
    ),
  );
  await waitFor(async () => (await scrape(daemon)).value("claudemesh_ipc_waiting") === 1, {
    what: "it to wait",
  });
  clock.advance(2_000);
  expect((await waiting).status).toBe(200);
  const after = await scrape(daemon);
  expect(after.value("claudemesh_ipc_waiting")).toBe(0);
  const bucket = (le: string) =>
    after.value("claudemesh_ipc_request_duration_seconds_bucket", { route: "message", le });
  expect([bucket("1"), bucket("5"), bucket("+Inf")]).toEqual([0, 1, 1]);
  expect(after.value("claudemesh_ipc_request_duration_seconds_sum", { route: "message" })).toBeCloseTo(2, 3);
});

describe("links", () => {
  test("a broker that cannot be reached", async () => {
    const daemon = await openTestDaemon();
    const reason = "unreachable";
    const reconnects = "claudemesh_link_reconnects_total";
    await waitFor(async () => (await scrape(daemon)).value(reconnects, { mesh: "team", reason }) === 1, {
      what: "the first attempt to fail",
    });
    const shown = await scrape(daemon);
    expect(shown.value("claudemesh_link_up", { mesh: "team" })).toBe(0);
    const states = [...shown.family("claudemesh_link_state").samples.values()];
    expect(states.filter(({ value }) => value === 1).map(({ labels }) => labels.state)).toEqual(["waiting"]);
    expect(states).toHaveLength(6);
    expect(shown.family("claudemesh_link_round_trip_seconds").samples.size).toBe(0);
    expect(shown.value("claudemesh_problems", { code: "broker_unreachable" })).toBe(1);
  });

  test("meshes of one name are told apart, a name of any kind is kept, and one that was left is gone", async () => {
    const daemon = await openTestDaemon();
    const twin = { ...daemon.mesh, meshId: "mesh-2", memberId: "member-2" };
    const odd = { ...daemon.mesh, meshId: "mesh-3", memberId: "member-3", slug: 'a "b" \\c' };
    const meshesOf = async (...meshes: object[]) => {
      writeFileAtomic(daemon.configFile, JSON.stringify({ version: 1, meshes }));
      daemon.parts.meshes.reload();
      const { samples } = (await scrape(daemon)).family("claudemesh_link_up");
      return [...samples.values()].map(({ labels }) => labels.mesh).sort();
    };
    expect(await meshesOf(daemon.mesh, twin, odd)).toEqual([odd.slug, "mesh-1", "mesh-2"]);
    expect(await meshesOf(daemon.mesh)).toEqual(["team"]);
  });
});

describe("who may ask", () => {
  const ask = async (headers: Record<string, string>): Promise<number> => {
    const app = (await openTestDaemon()).app({ kind: "tcp", port: 7 }, true);
    const request = { headers: { host: "127.0.0.1:7", ...headers } };
    return (await app.request("http://127.0.0.1:7/v1/metrics", request)).status;
  };

  test("over TCP whoever has the token, even where health is public", async () => {
    expect(await ask({})).toBe(401);
    expect(await ask({ authorization: "Bearer wrong" })).toBe(401);
    expect(await ask({ authorization: `Bearer ${testToken}` })).toBe(200);
  });
});

test("labels hold nothing but fixed words and the names of meshes", async () => {
  const daemon = await withBob();
  const secrets = [
    "bob",
    "carol",
    "my-key",
    "deploy-42",
    "secret body",
    daemon.owner.publicKey,
    testToken,
    "evil",
  ];
  await send(daemon, { to: "bob", message: "secret body", client_message_id: "deploy-42" });
  await send(daemon, { to: "carol", message: "secret body" });
  await daemon.request("GET", "/v1/messages/my-key");
  await daemon.request("GET", "/v1/evil/secret%20body");
  await daemon.request("GET", "/v1/health", undefined, { origin: "https://evil.example" });
  const response = await daemon.request("GET", "/v1/metrics");
  const text = await response.text();
  for (const secret of secrets) expect(text).not.toContain(secret);

  const values = new Scrape(text).labelValues();
  const known = [...Object.keys(routes), "none"];
  expect([...(values.get("route") ?? [])].filter((route) => !known.includes(route))).toEqual([]);
  expect([...(values.get("mesh") ?? [])]).toEqual(["team"]);
  expect([...(values.get("version") ?? [])]).toEqual([version]);
  for (const label of ["outcome", "code", "reason", "status", "state", "way_in", "database"])
    for (const value of values.get(label) ?? []) expect(value).toMatch(/^[a-z0-9_]{2,32}$/);
});

test("two meshes never share a label, whatever they are called", async () => {
  const daemon = await openTestDaemon();
  const { mesh, configFile } = daemon;
  // One has another's id for a name, and two have the same name.
  const named = [
    { meshId: "mesh-1", slug: "team" },
    { meshId: "mesh-2", slug: "mesh-1" },
    { meshId: "mesh-3", slug: "ops" },
    { meshId: "mesh-4", slug: "ops" },
    { meshId: "mesh-5", slug: "mesh-5" },
  ];
  const meshes = named.map((names) => ({ ...mesh, ...names }));
  writeFileAtomic(configFile, JSON.stringify({ version: 1, meshes }));
  daemon.parts.meshes.reload();
  const labels = (await scrape(daemon)).labelValues().get("mesh") ?? [];
  expect([...labels].sort()).toEqual(["mesh-2", "mesh-3", "mesh-4", "mesh-5", "team"]);
  expect(Object.keys((await healthOf(daemon)).meshes).sort()).toEqual([
    "mesh-2",
    "mesh-3",
    "mesh-4",
    "mesh-5",
    "team",
  ]);
  const { meshes: running } = daemon.parts;
  expect(running.byText("team").mesh.meshId).toBe("mesh-1");
  expect(() => running.byText("mesh-1")).toThrow(
    expect.objectContaining({
      code: "mesh_required",
      hint: expect.stringMatching(/: team, mesh-2$/),
    }) as Error,
  );
});

test("a clock that is set while the daemon runs changes neither how long it is up nor, by that clock, since when", async () => {
  const daemon = await openTestDaemon();
  const { clock } = daemon;
  const look = async () => ({
    up: (await healthOf(daemon)).uptime_s,
    since: (await scrape(daemon)).value("process_start_time_seconds"),
  });
  const startedS = clock.now() / 1000;
  clock.advance(90_000);
  expect(await look()).toEqual({ up: 90, since: startedS });
  for (const setS of [0, startedS + 86_400]) {
    clock.setWall(setS * 1000);
    expect(await look()).toEqual({ up: 90, since: setS - 90 });
  }
});

test("docs/monitoring.md lists the metrics that there are", async () => {
  const markdown = await Bun.file(join(import.meta.dir, "../../../docs/monitoring.md")).text();
  const declared = daemonFamilies.map(({ name, type, labels }) => ({
    name,
    type: String(type),
    labels: [...labels],
  }));
  expect(listedMetrics(markdown, "The daemon's metrics")).toEqual(declared);
  const shown = [...(await scrape(await openTestDaemon())).families.values()];
  expect(shown.map(({ name, type }) => [name, type])).toEqual(declared.map(({ name, type }) => [name, type]));
});
