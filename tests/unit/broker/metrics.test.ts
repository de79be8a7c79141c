/** `GET /metrics` of a whole broker: each number moves when its thing happens, and no label tells who writes to whom. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { brokerFamilies } from "~/broker/metrics";
import { Tallies } from "~/broker/tallies";
import { ackCodes } from "~/wire/broker";
import { metricsContentType } from "~/wire/ipc";
import {
  createTestMesh,
  inviteTo,
  joinTestMesh,
  postJoin,
  startTestBroker,
  type TestBroker,
} from "../../support/broker";
import { BrokerClient, helloOf, sendOf, strangerTo } from "../../support/broker-client";
import { listedMetrics, Scrape } from "../../support/prometheus";
import { waitFor } from "../../support/wait-for";

async function scrape(broker: TestBroker): Promise<Scrape> {
  const response = await fetch(`${broker.httpUrl}/metrics`, {
    headers: { authorization: `Bearer ${broker.adminToken}` },
  });
  expect([response.status, response.headers.get("content-type")]).toEqual([200, metricsContentType]);
  return new Scrape(await response.text());
}

async function openMesh(options: Parameters<typeof startTestBroker>[0] = {}) {
  const broker = await startTestBroker(options);
  const mesh = await createTestMesh(broker);
  const bob = await joinTestMesh(mesh, "bob");
  const value = async (name: string, labels?: Record<string, string>) =>
    (await scrape(broker)).value(`claudemesh_broker_${name}`, labels);
  /** Waits until the broker has counted as much. */
  const counted = (name: string, labels: Record<string, string>, wanted: number) =>
    waitFor(async () => (await value(name, labels)) === wanted || undefined, {
      what: `${name} ${JSON.stringify(labels)} to be ${wanted}`,
    });
  return { broker, mesh, bob, value, counted };
}

test("meshes, members and connections, by what they are for", async () => {
  const { broker, mesh, bob, counted, value } = await openMesh();
  expect([await value("meshes"), await value("members")]).toEqual([1, 2]);
  const kind = (name: string, wanted: number) => counted("connections", { kind: name }, wanted);
  await Promise.all([kind("full", 0), kind("send_only", 0), kind("greeting", 0)]);
  const owner = await BrokerClient.connect(broker.url, mesh.owner);
  await BrokerClient.connect(broker.url, mesh.owner, { capabilities: ["send_only"] });
  await BrokerClient.open(broker.url);
  await Promise.all([kind("full", 1), kind("send_only", 1), kind("greeting", 1)]);
  owner.send({ type: "remove_member", pubkey: bob.keys.publicKey });
  await owner.next("member_removed");
  expect(await value("members")).toBe(1);
});

test("a message on its way: sent, queued, pushed, acknowledged", async () => {
  const { broker, mesh, bob, value, counted } = await openMesh();
  const owner = await BrokerClient.connect(broker.url, mesh.owner);
  const frame = sendOf(bob.keys.publicKey);
  for (const code of ["created", "duplicate"]) {
    await owner.sendAndWait(frame);
    expect(await value("sends_total", { code })).toBe(1);
  }
  await owner.sendAndWait(sendOf("f".repeat(64)));
  expect(await value("sends_total", { code: "unknown_destination" })).toBe(1);
  expect([await value("queued_deliveries"), await value("leases"), await value("pushes_total")]).toEqual([
    1, 0, 0,
  ]);

  const recipient = await BrokerClient.connect(broker.url, bob);
  const push = await recipient.nextPush();
  expect([await value("pushes_total"), await value("leases"), await value("queued_deliveries")]).toEqual([
    1, 1, 1,
  ]);
  recipient.acknowledge(push);
  await counted("acknowledged_total", {}, 1);
  expect([await value("queued_deliveries"), await value("leases")]).toEqual([0, 0]);
  recipient.acknowledge(push);
  await counted("frames_ignored_total", { reason: "not_waiting" }, 1);
  expect(await value("acknowledged_total")).toBe(1);
});

describe("a message that is pushed again", () => {
  test("because the connection closed", async () => {
    const { broker, mesh, bob, value, counted } = await openMesh();
    const first = await BrokerClient.connect(broker.url, bob);
    const owner = await BrokerClient.connect(broker.url, mesh.owner);
    for (let n = 0; n < 3; n++) await owner.sendAndWait(sendOf(bob.keys.publicKey));
    await waitFor(() => first.pushes.length === 3, { what: "three pushes" });
    first.acknowledge(await first.nextPush());
    await counted("acknowledged_total", {}, 1);
    await first.drop();
    await counted("redeliveries_total", { reason: "closed" }, 2);
    const second = await BrokerClient.connect(broker.url, bob);
    await second.nextPush();
    await counted("pushes_total", {}, 5);
    expect(await value("redeliveries_total", { reason: "lapsed" })).toBe(0);
  });

  test("because nobody acknowledged it in time; and how long it has waited", async () => {
    const { broker, mesh, bob, value } = await openMesh({ bounds: { leaseMs: 100 } });
    const recipient = await BrokerClient.connect(broker.url, bob);
    const owner = await BrokerClient.connect(broker.url, mesh.owner);
    expect(await value("queued_oldest_seconds")).toBe(0);
    await owner.sendAndWait(sendOf(bob.keys.publicKey));
    await recipient.nextPush();
    await recipient.nextPush();
    expect(await value("redeliveries_total", { reason: "lapsed" })).toBeGreaterThanOrEqual(1);
    expect(await value("redeliveries_total", { reason: "closed" })).toBe(0);
    expect(await value("queued_oldest_seconds")).toBeGreaterThanOrEqual(0.1);
    expect(await value("queued_deliveries")).toBe(1);
  });
});

test("greetings and closes, by their codes", async () => {
  const { broker, mesh, bob, counted, value } = await openMesh();
  const before = (await value("hellos_total", { outcome: "admitted" })) ?? 0;
  const owner = await BrokerClient.connect(broker.url, mesh.owner);
  await counted("hellos_total", { outcome: "admitted" }, before + 1);
  const stranger = await BrokerClient.open(broker.url);
  stranger.send(helloOf(strangerTo(mesh.meshId)));
  await stranger.waitForClose();
  await counted("hellos_total", { outcome: "not_a_member" }, 1);
  await counted("closes_total", { by: "broker", code: "1008" }, 1);
  await BrokerClient.connect(broker.url, mesh.owner);
  await owner.waitForClose();
  await counted("closes_total", { by: "broker", code: "4003" }, 1);

  const closing = (code: number) => {
    const socket = new WebSocket(broker.url);
    socket.addEventListener("open", () => socket.close(code));
  };
  const closedBefore = (await value("closes_total", { by: "peer", code: "1000" })) ?? 0;
  for (const code of [1000, 4321, 4322]) closing(code);
  await counted("closes_total", { by: "peer", code: "1000" }, closedBefore + 1);
  await counted("closes_total", { by: "peer", code: "other" }, 2);
  const recipient = await BrokerClient.connect(broker.url, bob);
  recipient.sendRaw("nonsense");
  await counted("frames_ignored_total", { reason: "malformed" }, 1);
});

test("joins and requests, by what came of them", async () => {
  const { broker, mesh, value } = await openMesh();
  expect(await value("joins_total", { outcome: "joined" })).toBe(1);
  await postJoin(mesh, inviteTo(mesh), strangerTo(mesh.meshId));
  expect(await value("joins_total", { outcome: "invite_invalid" })).toBe(1);
  await fetch(`${broker.httpUrl}/join`, { method: "POST", body: "{" });
  expect(await value("joins_total", { outcome: "invalid_json" })).toBe(1);
  expect((await fetch(`${broker.httpUrl}/metrics`)).status).toBe(401);
  for (let n = 0; n < 5; n++) await fetch(`${broker.httpUrl}/secret-${n}`);
  expect(await value("http_requests_total", { path: "/metrics", status: "401" })).toBe(1);
  expect(await value("http_requests_total", { path: "none", status: "404" })).toBe(5);
});

test("a disk that takes nothing, and files that grow", async () => {
  const { broker, mesh, bob, value } = await openMesh();
  const commits = (await value("commits_total")) ?? 0;
  const owner = await BrokerClient.connect(broker.url, mesh.owner);
  await owner.sendAndWait(sendOf(bob.keys.publicKey));
  expect(await value("commits_total")).toBeGreaterThan(commits);
  expect(await value("commit_jobs_total")).toBeGreaterThanOrEqual((await value("commits_total")) ?? Infinity);
  expect(await value("disk_bytes", { file: "broker.db-wal" })).toBeGreaterThan(0);
  expect(await value("disk_free_bytes")).toBeGreaterThan(0);
  expect([await value("storage_trouble"), await value("commit_failures_total")]).toEqual([0, 0]);
});

test("asking twice counts nothing twice, and tells of nobody", async () => {
  const { broker, mesh, bob } = await openMesh();
  const owner = await BrokerClient.connect(broker.url, mesh.owner);
  await owner.sendAndWait(sendOf(bob.keys.publicKey, { client_message_id: "deploy-42" }));
  const [first, second] = [await scrape(broker), await scrape(broker)];
  for (const { name, samples } of first.families.values()) {
    if (/^process_|_http_requests_total$|_oldest_seconds$|_disk_free_bytes$/.test(name)) continue;
    expect([name, second.family(name).samples]).toEqual([name, samples]);
  }
  const response = await fetch(`${broker.httpUrl}/metrics`, {
    headers: { authorization: `Bearer ${broker.adminToken}` },
  });
  const text = await response.text();
  const secrets = [mesh.slug, mesh.meshId, bob.memberId, bob.keys.publicKey, "deploy-42", broker.adminToken];
  for (const secret of secrets) expect(text).not.toContain(secret);
  for (const label of ["code", "outcome", "reason", "kind", "status", "by"])
    for (const value of first.labelValues().get(label) ?? []) expect(value).toMatch(/^[a-z0-9_]{2,32}$/);
});

test("whatever a peer closes with, or asks for, adds no more series than there are words", () => {
  const tallies = new Tallies();
  for (let code = 1000; code < 5000; code++) tallies.peerClosed(code);
  for (let n = 0; n < 1000; n++) tallies.requestEnded(`/${n}`, 404);
  expect(tallies.closedByPeer.entries().length).toBeLessThan(12);
  expect(tallies.http.size).toBe(1);
  expect(tallies.sends.entries().map(([code]) => code)).toEqual([...ackCodes]);
});

test("docs/monitoring.md lists the metrics that there are", async () => {
  const markdown = await Bun.file(join(import.meta.dir, "../../../docs/monitoring.md")).text();
  const declared = brokerFamilies.map(({ name, type, labels }) => ({
    name,
    type: String(type),
    labels: [...labels],
  }));
  expect(listedMetrics(markdown, "The broker's metrics")).toEqual(declared);
  const { broker } = await openMesh();
  const shown = [...(await scrape(broker)).families.values()];
  expect(shown.map(({ name, type }) => [name, type])).toEqual(declared.map(({ name, type }) => [name, type]));
});
