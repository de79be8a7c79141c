/** A mesh of two hosts on this machine, made with the compiled binary as a user would. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { HealthReply, SentMessage } from "~/wire/ipc";
import { callers, httpCaller } from "./load";
import { type Latencies, summary } from "./measure";
import { command } from "./process";

export interface Host {
  command: readonly string[];
  env: Record<string, string>;
  socket: string;
  pid: number;
}

export interface Mesh {
  host(name: string): Host;
  brokerPid: number;
  /** Waits until the host's outbox has nothing left to send. */
  settled(name: string): Promise<void>;
  stopBroker(): void;
  /** Starts it again, and waits until everything that waited for it is in the other inbox. */
  startBroker(from: string, to: string): Promise<{ messages: number; seconds: number }>;
  /** Sends one message at a time, each timed from the request to the recipient's event. */
  roundTrips(from: string, to: string, count: number): Promise<Latencies>;
  /** Hands over `count` messages at once and waits until all of them are in the other inbox. */
  drain(from: string, to: string, count: number): Promise<{ seconds: number }>;
  close(): Promise<void>;
}

export async function openMesh(root: string): Promise<Mesh> {
  mkdirSync(root, { recursive: true });
  const names = ["alice", "bob"];
  const envOf = (name: string) => ({
    PATH: process.env.PATH ?? "",
    HOME: root,
    CLAUDEMESH_CONFIG_DIR: join(root, name),
  });
  const run = (name: string, ...args: string[]): unknown => {
    const result = Bun.spawnSync([...command, ...args, "--json"], { env: envOf(name) });
    if (!result.success) throw new Error(`claudemesh ${args.join(" ")} failed: ${result.stderr.toString()}`);
    return JSON.parse(result.stdout.toString());
  };
  const Broker = v.object({ pid: v.number(), url: v.string() });
  let broker = v.parse(Broker, run("alice", "broker", "up", "--port", "0"));
  run("alice", "mesh", "create", "bench", "--broker", broker.url, "--display-name", "alice");
  const { link } = v.parse(v.object({ link: v.string() }), run("alice", "mesh", "invite"));
  run("bob", "join", link, "--name", "bob");
  const hosts = new Map<string, Host>();
  for (const name of names) {
    const { pid, socket } = v.parse(
      v.object({ pid: v.number(), socket: v.string() }),
      run(name, "daemon", "up", "--no-tcp"),
    );
    hosts.set(name, { command, env: envOf(name), socket, pid });
  }
  const host = (name: string): Host => {
    const found = hosts.get(name);
    if (found === undefined) throw new Error(`no host ${name}`);
    return found;
  };
  run("alice", "send", "bob", "ready?", "--wait", "accepted");

  const get = async <S extends v.GenericSchema>(
    name: string,
    path: string,
    schema: S,
  ): Promise<v.InferOutput<S>> => {
    const response = await fetch(`http://localhost${path}`, { unix: host(name).socket });
    return v.parse(schema, await response.json());
  };

  async function settled(name: string): Promise<void> {
    for (;;) {
      const { outbox } = await get(name, "/v1/health", HealthReply);
      if (outbox.counts.pending + outbox.counts.inflight === 0) return;
      await Bun.sleep(50); // poll
    }
  }

  const post = async (name: string, message: string) => {
    const response = await fetch("http://localhost/v1/send", {
      unix: host(name).socket,
      method: "POST",
      body: JSON.stringify({ to: name === "alice" ? "bob" : "alice", message }),
    });
    return v.parse(v.pick(SentMessage, ["client_message_id"]), await response.json()).client_message_id;
  };

  return {
    host,
    get brokerPid() {
      return broker.pid;
    },
    settled,
    stopBroker: () => void run("alice", "broker", "down"),
    async startBroker(from, to) {
      const { outbox } = await get(from, "/v1/health", HealthReply);
      const messages = outbox.counts.pending;
      const arrivals = await listen(host(to).socket);
      const arrived = arrivals.many(messages);
      broker = v.parse(Broker, run("alice", "broker", "up", "--port", new URL(broker.url).port));
      // The clock starts with the first message that arrives: how long a link takes to come back is another figure.
      await arrivals.next();
      const start = performance.now();
      await arrived;
      arrivals.close();
      return { messages, seconds: (performance.now() - start) / 1000 };
    },
    async roundTrips(from, to, count) {
      const arrivals = await listen(host(to).socket);
      const eachMs: number[] = [];
      for (let n = 0; n < count; n++) {
        const begun = performance.now();
        const arrived = arrivals.next();
        await post(from, `round trip ${n}`);
        await arrived;
        eachMs.push(performance.now() - begun);
      }
      arrivals.close();
      return summary(
        eachMs,
        eachMs.reduce((sum, ms) => sum + ms, 0),
      );
    },
    async drain(from, to, count) {
      const arrivals = await listen(host(to).socket);
      const connections = await Promise.all(Array.from({ length: 32 }, () => httpCaller(host(from).socket)));
      const start = performance.now();
      let n = 0;
      const arrived = arrivals.many(count);
      await callers(connections, count, (caller) =>
        caller.request(
          "POST",
          "/v1/send",
          JSON.stringify({ to, message: `drain ${n++} ${"x".repeat(200)}` }),
        ),
      );
      await arrived;
      const seconds = (performance.now() - start) / 1000;
      for (const connection of connections) connection.close();
      arrivals.close();
      return { seconds };
    },
    async close() {
      for (const name of names) Bun.spawnSync([...command, "daemon", "down"], { env: envOf(name) });
      Bun.spawnSync([...command, "broker", "down"], { env: envOf("alice") });
    },
  };
}

/** Counts the messages that a host announces. */
async function listen(socket: string) {
  let seen = 0;
  const wanted = new Set<{ count: number; done: () => void }>();
  let opened: () => void = () => undefined;
  const ready = new Promise<void>((resolve) => {
    opened = resolve;
  });
  let rest = "";
  const connection = await Bun.connect({
    unix: socket,
    socket: {
      open: (open) => void open.write("GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n"),
      data(_socket, bytes) {
        const text = rest + bytes.toString("latin1");
        if (text.includes(": open")) opened();
        const lines = text.split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) if (line === "event: message") seen++;
        for (const wish of wanted) {
          if (seen < wish.count) continue;
          wanted.delete(wish);
          wish.done();
        }
      },
    },
  });
  await ready;
  const until = (count: number) =>
    new Promise<void>((done) => {
      wanted.add({ count, done });
    });
  return {
    next: () => until(seen + 1),
    many: (count: number) => until(seen + count),
    close: () => void connection.end(),
  };
}
