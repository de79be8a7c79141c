/**
 * `bun run bench`: what the compiled binary costs, each figure beside a reference measured in the same run. Quote ratios; the
 * absolute figures say more about the machine than about claudemesh. Nothing here is asserted: noise must not fail a build.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { callers, httpCaller } from "./load";
import { bareCommitLoop, type Latencies, peakMiB, summary, table } from "./measure";
import { type Host, openMesh } from "./mesh";

const warmUp = 300;
const body = (n: number) => JSON.stringify({ to: "bob", message: `bench ${n} ${"x".repeat(200)}` });

const root = mkdtempSync(join(tmpdir(), "cmb-"));
const mesh = await openMesh(root);
try {
  const commit = bareCommitLoop(join(root, "bare.db"), 2_000);
  const alice = mesh.host("alice");
  // The broker is away, so that what is measured is the accept alone and not what the drain does at the same time.
  mesh.stopBroker();
  const noop = await measure(alice, 1, 3_000, () => [
    "GET",
    "/v1/challenge?nonce=00112233445566778899aabbccddeeff",
  ]);
  const rows = [
    ["bare SQLite commit, one row each", 1, commit],
    ["no-op route (GET /v1/challenge)", 1, noop],
  ] as [string, number, Latencies][];
  const sends = new Map<number, Latencies>();
  for (const count of [1, 16, 64]) {
    const sent = await measure(alice, count, count === 1 ? 3_000 : 12_000, (n) => [
      "POST",
      "/v1/send",
      body(n),
    ]);
    sends.set(count, sent);
    rows.push(["POST /v1/send", count, sent]);
  }
  console.log(table("Local accept: durable before the answer", rows));
  const one = sends.get(1);
  const many = sends.get(64);
  if (one !== undefined && many !== undefined) {
    console.log(
      `lone accept p50 / (no-op p50 + bare commit p50)   ${(one.p50Ms / (noop.p50Ms + commit.p50Ms)).toFixed(2)}`,
    );
    console.log(
      `accepts at 64 callers / bare commits               ${(many.perSecond / commit.perSecond).toFixed(2)}\n`,
    );
  }
  const backlog = await mesh.startBroker("alice", "bob");
  console.log("Backlog: what was accepted while the broker was away, until it is in the other inbox");
  console.log(
    `  ${backlog.messages} messages in ${backlog.seconds.toFixed(2)} s       ${Math.round(backlog.messages / backlog.seconds)} / s`,
  );
  console.log(
    `  throughput / bare commits                        ${(backlog.messages / backlog.seconds / commit.perSecond).toFixed(2)}\n`,
  );

  const trip = await mesh.roundTrips("alice", "bob", 500);
  console.log(
    table("Daemon to broker to daemon, idle machine: from the request to the event", [
      ["one at a time", 1, trip],
    ]),
  );
  console.log(
    `p50 / bare commit p50                              ${(trip.p50Ms / commit.p50Ms).toFixed(2)}\n`,
  );

  const drained = await mesh.drain("alice", "bob", 10_000);
  console.log("End to end: accepted here, stored there (three commits a message)");
  const endToEnd = 10_000 / drained.seconds;
  console.log(`  10000 messages in ${drained.seconds.toFixed(2)} s       ${Math.round(endToEnd)} / s`);
  console.log(
    `  throughput / bare commits                        ${(endToEnd / commit.perSecond).toFixed(2)}`,
  );
  console.log(
    `  throughput / one message at a time               ${(endToEnd / trip.perSecond).toFixed(1)}\n`,
  );

  const loaded = await measure(alice, 64, 12_000, (n) => ["POST", "/v1/send", body(n)]);
  console.log(
    table("Accept under load: the same while everything accepted is sent, answered and stored", [
      ["POST /v1/send", 64, loaded],
    ]),
  );
  console.log(
    `accepts / bare commits                             ${(loaded.perSecond / commit.perSecond).toFixed(2)}\n`,
  );
  await mesh.settled("alice");

  const version = commandTimes(alice, ["--version"], 20);
  const send = commandTimes(alice, ["send", "bob", "from the command line", "--json"], 20);
  console.log("Command line: wall time p50, peak memory of the process");
  console.log(
    `  claudemesh --version        ${version.p50Ms.toFixed(1)} ms   ${version.peakMiB.toFixed(0)} MiB`,
  );
  console.log(`  claudemesh send             ${send.p50Ms.toFixed(1)} ms   ${send.peakMiB.toFixed(0)} MiB`);
  console.log(`  send / --version            ${(send.p50Ms / version.p50Ms).toFixed(2)}\n`);

  console.log(
    "Memory over 100,000 messages, resident (the daemon that sends, the one that receives, the broker)",
  );
  for (let sent = 20_000; sent <= 100_000; sent += 20_000) {
    await mesh.drain("alice", "bob", 20_000);
    await mesh.settled("alice");
    const figures = [alice.pid, mesh.host("bob").pid, mesh.brokerPid].map(
      (pid) => `${residentMiB(pid).toFixed(0)} MiB`,
    );
    console.log(`  after ${String(sent).padStart(7)}               ${figures.join("   ")}`);
  }
  console.log("");

  const fresh = await openMesh(join(root, "fresh"));
  try {
    await fresh.settled("alice");
    console.log("Idle memory, resident");
    console.log(`  daemon, one link            ${residentMiB(fresh.host("alice").pid).toFixed(0)} MiB`);
    console.log(`  broker, two members         ${residentMiB(fresh.brokerPid).toFixed(0)} MiB`);
  } finally {
    await fresh.close();
  }
} finally {
  await mesh.close();
  rmSync(root, { recursive: true, force: true });
}

type RequestOf = (n: number) => [method: string, path: string, body?: string];

async function measure(
  host: Host,
  count: number,
  requests: number,
  requestOf: RequestOf,
): Promise<Latencies> {
  const connections = await Promise.all(Array.from({ length: count }, () => httpCaller(host.socket)));
  let next = 0;
  const once = (caller: (typeof connections)[number]) => caller.request(...requestOf(next++));
  await callers(connections, warmUp, once);
  const latencies = await callers(connections, requests, once);
  for (const connection of connections) connection.close();
  return summary(latencies.eachMs, latencies.tookMs);
}

/** Peak memory by GNU time, since what the kernel tells the parent includes the parent's own before the exec. */
function commandTimes(host: Host, args: string[], runs: number): { p50Ms: number; peakMiB: number } {
  const eachMs: number[] = [];
  const command = [...host.command, ...args];
  for (let run = 0; run < runs; run++) {
    const start = performance.now();
    const result = Bun.spawnSync(command, { env: host.env });
    eachMs.push(performance.now() - start);
    if (!result.success) throw new Error(`claudemesh ${args.join(" ")} failed: ${result.stderr.toString()}`);
  }
  return { p50Ms: summary(eachMs, 1).p50Ms, peakMiB: peakMiB(command, host.env) };
}

/** Resident memory as Linux counts it; elsewhere the figure is not shown. */
function residentMiB(pid: number): number {
  if (process.platform !== "linux") return Number.NaN;
  const pages = readFileSync(`/proc/${pid}/statm`, "utf8").split(" ")[1];
  return (Number(pages) * 4096) / 1024 / 1024;
}
