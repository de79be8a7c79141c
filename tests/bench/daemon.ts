/** The daemon and the broker: accepting, delivering, the command line, memory under load, and what both cost while nothing happens. */
import { join } from "node:path";
import { openShim } from "./hosted";
import { callers, httpCaller } from "./load";
import { bareCommitLoop, type Latencies, summary, table } from "./measure";
import { type Host, openMesh } from "./mesh";
import { commandTimes, memory, wakeUps } from "./process";
import { buildReference, startServer } from "./reference";

const warmUp = 300;
const idleSeconds = 30;
/** Bun's collector looks every second, until it has found nothing to do for 30 s. */
const settleSeconds = 40;
const body = (n: number) => JSON.stringify({ to: "bob", message: `bench ${n} ${"x".repeat(200)}` });

export async function benchDaemon(root: string): Promise<void> {
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

    const hello = commandTimes(await buildReference(root, "hello"), alice.env, 20);
    const version = commandTimes([...alice.command, "--version"], alice.env, 20);
    // The broker is away here, too: on few processors the delivery of one message would slow the start of the next command.
    mesh.stopBroker();
    const send = commandTimes(
      [...alice.command, "send", "bob", "from the command line", "--json"],
      alice.env,
      20,
    );
    const post = commandTimes([...(await buildReference(root, "post")), alice.socket], alice.env, 20);
    await mesh.startBroker("alice", "bob");
    console.log("Command line: wall time p50, peak memory of the process");
    console.log(
      `  a compiled hello world      ${hello.p50Ms.toFixed(1)} ms   ${hello.peakMiB.toFixed(0)} MiB`,
    );
    console.log(
      `  claudemesh --version        ${version.p50Ms.toFixed(1)} ms   ${version.peakMiB.toFixed(0)} MiB`,
    );
    console.log(`  claudemesh send             ${send.p50Ms.toFixed(1)} ms   ${send.peakMiB.toFixed(0)} MiB`);
    console.log(`  a compiled bare request     ${post.p50Ms.toFixed(1)} ms   ${post.peakMiB.toFixed(0)} MiB`);
    console.log(`  --version / hello world     ${(version.p50Ms / hello.p50Ms).toFixed(2)}`);
    console.log(`  send / --version            ${(send.p50Ms / version.p50Ms).toFixed(2)}`);
    console.log(`  bare request / --version    ${(post.p50Ms / version.p50Ms).toFixed(2)}\n`);

    console.log(
      "Memory over 100,000 messages, resident (the daemon that sends, the one that receives, the broker)",
    );
    for (let sent = 20_000; sent <= 100_000; sent += 20_000) {
      await mesh.drain("alice", "bob", 20_000);
      await mesh.settled("alice");
      const figures = [alice.pid, mesh.host("bob").pid, mesh.brokerPid].map(
        (pid) => `${memory(pid).residentMiB.toFixed(0)} MiB`,
      );
      console.log(`  after ${String(sent).padStart(7)}               ${figures.join("   ")}`);
    }
    console.log("");

    const fresh = await openMesh(join(root, "fresh"));
    try {
      await fresh.settled("alice");
      const empty = await startServer(await buildReference(root, "server"), join(root, "empty.sock"));
      const parts = await startServer(await buildReference(root, "parts"), join(root, "parts.sock"));
      const shim = await openShim(fresh.host("alice").env, ["sh"]);
      const servers: [name: string, pid: number][] = [
        ["an empty Bun.serve", empty.pid],
        ["the daemon's parts of Bun", parts.pid],
        ["daemon, one link", fresh.host("alice").pid],
        ["broker, two members", fresh.brokerPid],
        ["shim, a shell in it", shim.pid],
      ];
      console.log(`Idle: memory, and how often the main thread wakes up (over ${idleSeconds} s)`);
      await Bun.sleep(settleSeconds * 1000);
      const before = servers.map(([, pid]) => wakeUps(pid));
      await Bun.sleep(idleSeconds * 1000);
      for (const [index, [name, pid]] of servers.entries()) {
        const { residentMiB, privateMiB } = memory(pid);
        const perMinute = ((wakeUps(pid) - (before[index] ?? 0)) / idleSeconds) * 60;
        console.log(
          `  ${name.padEnd(26)}  ${residentMiB.toFixed(0)} MiB resident, ${privateMiB.toFixed(0)} of them its own   ${perMinute.toFixed(0)} / minute`,
        );
      }
      const resident = (pid: number) => memory(pid).residentMiB;
      const ofEmpty = resident(empty.pid);
      console.log(
        `  daemon / empty Bun.serve    ${(resident(fresh.host("alice").pid) / ofEmpty).toFixed(2)}`,
      );
      console.log(
        `  daemon / its parts of Bun   ${(resident(fresh.host("alice").pid) / resident(parts.pid)).toFixed(2)}`,
      );
      console.log(`  shim / empty Bun.serve      ${(resident(shim.pid) / ofEmpty).toFixed(2)}\n`);
      await shim.end();
      await parts.end();
      await empty.end();
    } finally {
      await fresh.close();
    }
  } finally {
    await mesh.close();
  }
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
