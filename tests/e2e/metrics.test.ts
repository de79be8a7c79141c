/** Daemon and broker as Prometheus finds them: over TCP with the token from its file, while messages go from one to the other. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ask, type BrokerProcess, type Member, startMesh } from "../support/mesh";
import { Scrape } from "../support/prometheus";
import { waitFor } from "../support/wait-for";

const contentType = "text/plain; version=0.0.4; charset=utf-8";

async function scrapeOver(url: string, credentialsFile: string): Promise<Scrape> {
  const headers = { authorization: `Bearer ${readFileSync(credentialsFile, "utf8").trim()}` };
  const answer = await ask(url, {}, { headers });
  expect([answer.status, answer.headers.get("content-type")]).toEqual([200, contentType]);
  return new Scrape(answer.text);
}

const scrapeDaemon = (member: Member): Promise<Scrape> => {
  const port = readFileSync(join(member.daemonDir, "http.port"), "utf8").trim();
  return scrapeOver(`http://127.0.0.1:${port}/v1/metrics`, join(member.daemonDir, "local_token"));
};
const scrapeBroker = (broker: BrokerProcess): Promise<Scrape> =>
  scrapeOver(`${broker.httpUrl}/metrics`, join(broker.dataDir, "admin-token"));

test("a message is seen on its way through both, and so is a broker that goes away", async () => {
  const { alice, bob, broker } = await startMesh({ members: ["alice", "bob"], daemons: ["bob"] });
  await alice.up(["--tcp-port", "0"]);
  await alice.connected();
  await alice.knows("bob");
  for (let n = 0; n < 3; n++) await alice.send("bob", `message ${n}`);
  await bob.received(3);
  const sent = await waitFor(
    async () => {
      const scrape = await scrapeDaemon(alice);
      return scrape.value("claudemesh_outbox_messages", { status: "done" }) === 3 ? scrape : undefined;
    },
    { what: "three messages to be done" },
  );
  expect(sent.value("claudemesh_sends_total", { outcome: "accepted" })).toBe(3);
  expect(sent.value("claudemesh_broker_answers_total", { outcome: "created" })).toBe(3);
  expect(sent.value("claudemesh_link_up", { mesh: "team" })).toBe(1);
  expect(sent.value("claudemesh_link_state", { mesh: "team", state: "open" })).toBe(1);
  expect(sent.value("claudemesh_disk_bytes", { file: "outbox.db" })).toBeGreaterThan(0);
  expect(sent.value("claudemesh_disk_free_bytes")).toBeGreaterThan(0);
  expect(sent.value("process_resident_memory_bytes")).toBeGreaterThan(10_000_000);
  const startedSeconds = sent.value("process_start_time_seconds") ?? 0;
  expect(Math.abs(Date.now() / 1000 - startedSeconds)).toBeLessThan(120);
  await waitFor(
    async () =>
      (await scrapeDaemon(alice)).value("claudemesh_link_round_trip_seconds", { mesh: "team" }) ?? false,
    { what: "a ping to be answered" },
  );

  const received = new Scrape((await bob.request("/v1/metrics")).text);
  expect(received.value("claudemesh_inbox_received_total", { mesh: "team", outcome: "new" })).toBe(3);
  expect(received.value("claudemesh_inbox_messages", { state: "unread" })).toBe(3);
  expect(received.value("claudemesh_inbox_messages", { state: "read" })).toBe(0);

  const brokers = await scrapeBroker(broker);
  expect(brokers.value("claudemesh_broker_sends_total", { code: "created" })).toBe(3);
  expect(brokers.value("claudemesh_broker_acknowledged_total")).toBe(3);
  expect(brokers.value("claudemesh_broker_connections", { kind: "full" })).toBe(2);
  expect(brokers.value("claudemesh_broker_members")).toBe(2);

  await broker.kill();
  const reconnects = "claudemesh_link_reconnects_total";
  const away = await waitFor(
    async () => {
      const scrape = await scrapeDaemon(alice);
      const failed = scrape.value(reconnects, { mesh: "team", reason: "unreachable" }) ?? 0;
      return failed > 0 ? scrape : undefined;
    },
    { what: "an attempt that fails" },
  );
  expect(away.value(reconnects, { mesh: "team", reason: "closed" })).toBe(1);
  expect(away.value("claudemesh_link_up", { mesh: "team" })).toBe(0);
  expect(away.value("claudemesh_problems", { code: "broker_unreachable" })).toBe(1);
});

test("nobody else is told anything", async () => {
  const { alice, broker } = await startMesh({ members: ["alice"], daemons: [] });
  await alice.up(["--tcp-port", "0", "--public-health"]);
  const port = readFileSync(join(alice.daemonDir, "http.port"), "utf8").trim();
  const localToken = readFileSync(join(alice.daemonDir, "local_token"), "utf8").trim();
  for (const [url, token] of [
    [`http://127.0.0.1:${port}/v1/metrics`, undefined],
    [`http://127.0.0.1:${port}/v1/metrics`, "wrong"],
    [`${broker.httpUrl}/metrics`, undefined],
    [`${broker.httpUrl}/metrics`, localToken],
  ] as const) {
    const answer = await ask(
      url,
      {},
      token === undefined ? {} : { headers: { authorization: `Bearer ${token}` } },
    );
    expect([url, answer.status]).toEqual([url, 401]);
    expect(answer.text).not.toContain("# TYPE");
  }
  const counted = new Scrape((await alice.request("/v1/metrics")).text);
  expect(counted.value("claudemesh_security_refusals_total", { code: "unauthorized" })).toBe(2);
});
