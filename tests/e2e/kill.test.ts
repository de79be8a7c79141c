/**
 * Processes that die at the worst moment (`kill -9`): what was answered with 202 arrives all the same, exactly once, in order.
 */
import { describe, expect, test } from "bun:test";
import { type BrokerProcess, type Member, startMesh } from "../support/mesh";
import { waitFor } from "../support/wait-for";
import { openWireTap, type Passing } from "./wire-tap";

const texts = (prefix: string, count: number): string[] =>
  Array.from({ length: count }, (_, index) => `${prefix} ${index}`);

async function sendAll(from: Member, to: string, bodies: readonly string[]): Promise<void> {
  for (const body of bodies) expect((await from.post(to, body)).status).toBe(202);
}

const isOf = (type: string) => (passing: Passing) => passing.frame.type === type;

async function allDone(member: Member, count: number): Promise<void> {
  await waitFor(async () => (await member.health()).outbox.counts.done === count, {
    what: `${member.name} to have ${count} rows done`,
    timeoutMs: 15_000,
  });
}

describe("the sender's daemon is killed between accept and ack", () => {
  test("and the broker had stored the messages: they are not sent twice", async () => {
    const tap = openWireTap();
    const { alice, bob } = await startMesh({ members: ["alice", "bob"], brokerUrl: tap.urlFor });
    // The broker takes everything, and alice never hears of it.
    tap.onFrame = ({ from, frame, text }) => (from === "broker" && frame.type === "ack" ? undefined : text);
    const bodies = texts("stored", 10);
    await sendAll(alice, "bob", bodies);
    await bob.received(10);
    expect((await alice.health()).outbox.counts).toMatchObject({ inflight: 10, done: 0 });
    await alice.kill();
    const db = alice.database("outbox");
    expect(db.query("SELECT status, count(*) AS n FROM outbox GROUP BY status").all()).toEqual([
      { status: "inflight", n: 10 },
    ]);
    db.close();

    tap.onFrame = ({ text }) => text;
    await alice.up();
    await allDone(alice, 10);
    const acks = tap.passed.filter(isOf("ack")).slice(-10);
    expect(acks.every(({ frame }) => frame.code === "duplicate")).toBe(true);
    expect(await bob.bodies()).toEqual(bodies);
  });

  test("and the broker had got none of them: they are sent, in order", async () => {
    const tap = openWireTap();
    const { alice, bob } = await startMesh({ members: ["alice", "bob"], brokerUrl: tap.urlFor });
    tap.onFrame = ({ from, frame, text }) => (from === "member" && frame.type === "send" ? undefined : text);
    const bodies = texts("lost on the way", 10);
    await sendAll(alice, "bob", bodies);
    await waitFor(() => tap.passed.filter(isOf("send")).length === 10, { what: "all to be on the wire" });
    await alice.kill();
    tap.onFrame = ({ text }) => text;
    await alice.up();
    await bob.received(10);
    await allDone(alice, 10);
    expect(await bob.bodies()).toEqual(bodies);
  });

  test("with a broker that stands still (SIGSTOP) and goes on afterwards", async () => {
    const { alice, bob, broker } = await startMesh({ members: ["alice", "bob"] });
    broker.freeze();
    const bodies = texts("frozen", 10);
    await sendAll(alice, "bob", bodies);
    await waitFor(async () => (await alice.health()).outbox.counts.inflight === 10, {
      what: "all in flight",
    });
    await alice.kill();
    broker.thaw();
    await alice.up();
    await bob.received(10);
    await allDone(alice, 10);
    expect(await bob.bodies()).toEqual(bodies);
  });

  test("with no connection at all: what was answered with 202 is there after the restart", async () => {
    const { alice, bob, broker } = await startMesh({ members: ["alice", "bob"] });
    await broker.kill();
    const bodies = texts("queued", 5);
    await sendAll(alice, "bob", bodies);
    await alice.kill();
    await alice.up();
    expect((await alice.health()).outbox.counts.pending).toBe(5);
    await broker.up();
    await bob.received(5);
    expect(await bob.bodies()).toEqual(bodies);
  });
});

test("the broker is killed after it accepted: nothing is lost, nothing comes twice", async () => {
  const { alice, bob, broker } = await startMesh({ members: ["alice", "bob"] });
  await bob.down();
  const before = texts("before", 5);
  await sendAll(alice, "bob", before);
  await allDone(alice, 5);
  await broker.kill();
  const after = texts("after", 5);
  await sendAll(alice, "bob", after);
  await broker.up();
  await bob.up();
  await bob.received(10);
  await allDone(alice, 10);
  expect(await bob.bodies()).toEqual([...before, ...after]);
});

test("the recipient's daemon is killed before its acknowledgement: the repeat is not shown twice", async () => {
  const tap = openWireTap();
  const { alice, bob } = await startMesh({ members: ["alice", "bob"], brokerUrl: tap.urlFor });
  tap.onFrame = ({ frame, text }) => (frame.type === "client_ack" ? undefined : text);
  const bodies = texts("twice pushed", 5);
  await sendAll(alice, "bob", bodies);
  const first = await bob.received(5);
  await waitFor(() => tap.passed.filter(isOf("client_ack")).length === 5, { what: "bob to acknowledge" });
  await bob.kill();
  tap.onFrame = ({ text }) => text;
  await bob.up();
  // All five come again and are acknowledged again, and the inbox is as it was.
  await waitFor(() => tap.passed.filter(isOf("client_ack")).length === 10, {
    what: "bob to acknowledge again",
  });
  expect(await bob.inbox()).toEqual(first);
  expect((await bob.health()).problems).toEqual([]);
});

test("a cold send that is repeated under its id is one message", async () => {
  const { alice, bob } = await startMesh({ members: ["alice", "bob"], daemons: ["bob"] });
  const args = ["send", "bob", "once", "--id", "deploy-42"];
  expect(await alice.json(args)).toMatchObject({ status: "accepted", route: "cold" });
  expect(await alice.json(args)).toMatchObject({ status: "accepted", route: "cold" });
  const other = await alice.cli(["send", "bob", "something else", "--id", "deploy-42", "--json"]);
  expect(other.exitCode).toBe(6);
  expect(other.json()).toMatchObject({ error: "idempotency_key_reused" });
  // The daemon's own fingerprint is the same: what went cold is a duplicate for it, too.
  await alice.up();
  await alice.connected();
  const { client_message_id } = await alice.send("bob", "once", { client_message_id: "deploy-42" });
  await alice.reaches(client_message_id, "done");
  await alice.send("bob", "and then");
  expect((await bob.received(2)).map(({ body }) => body)).toEqual(["once", "and then"]);
});

describe("hundreds of messages and 30 kills at random moments", () => {
  const killsWanted = 30;
  const seed = Number(process.env.KILL_SEED ?? Math.floor(Math.random() * 2 ** 31));

  test(`each arrives exactly once, in order per sender (KILL_SEED=${seed})`, async () => {
    const chance = generator(seed);
    const { alice, bob, carol, broker } = await startMesh({ members: ["alice", "bob", "carol"] });
    let kills = 0;
    const sendMany = async (from: Member): Promise<string[]> => {
      const ids: string[] = [];
      while (ids.length < 120 || kills < killsWanted) {
        const id = `${from.name}-${ids.length}`;
        // A caller that hears nothing asks again under the same id, as `send` itself does.
        await waitFor(
          async () => {
            const { status } = await from.post("bob", id, { client_message_id: id });
            return status === 202 || status === 200;
          },
          { what: `${id} to be taken`, timeoutMs: 15_000 },
        );
        ids.push(id);
      }
      return ids;
    };
    const victims: (Member | BrokerProcess)[] = [alice, carol, bob, broker];
    const killSome = async (): Promise<void> => {
      while (kills < killsWanted) {
        const first = victims[Math.floor(chance() * victims.length)];
        // Now and then a daemon and the broker die together.
        const dying = new Set(chance() < 0.25 ? [first, broker] : [first]);
        const at = performance.now() + chance() * 150;
        await waitFor(() => performance.now() >= at, { what: "the random moment" });
        for (const victim of dying) await victim?.kill();
        for (const victim of dying) await victim?.up();
        kills += dying.size;
      }
    };
    const [, fromAlice, fromCarol] = await Promise.all([killSome(), sendMany(alice), sendMany(carol)]);
    await bob.received(fromAlice.length + fromCarol.length, 20_000);
    await Promise.all([allDone(alice, fromAlice.length), allDone(carol, fromCarol.length)]);
    const items = await bob.inbox();
    for (const [sender, sent] of [
      ["alice", fromAlice],
      ["carol", fromCarol],
    ] as const) {
      expect(items.filter(({ from }) => from.name === sender).map(({ body }) => body)).toEqual(sent);
    }
    expect((await bob.health()).problems).toEqual([]);
  });
});

/** mulberry32: the same seed, the same moments. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
