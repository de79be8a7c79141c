/** Recovery by hand: what failed or waits can be looked at and sent again, under a new id, with the same or another text. */
import { describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { OutboxReply, OutboxRowReply, RequeueReply } from "~/wire/ipc";
import { type Member, startMesh } from "../support/mesh";
import { tempDir } from "../support/temp-dir";
import { waitFor } from "../support/wait-for";
import { LyingBroker } from "./lying-broker";

const requeue = async (member: Member, args: readonly string[]): Promise<RequeueReply> =>
  v.parse(RequeueReply, await member.json(["daemon", "outbox", "requeue", ...args]));

const show = async (member: Member, id: string): Promise<OutboxRowReply> =>
  v.parse(OutboxRowReply, await member.json(["daemon", "outbox", "show", id]));

/** A host whose every send to olga is refused for good, as long as `refuse` holds. */
async function startRefusing(): Promise<{ broker: LyingBroker; bob: Member; accept: () => void }> {
  const broker = new LyingBroker();
  const { onSend } = broker;
  broker.onSend = (frame, connection) =>
    connection.say(broker.ack(frame, { code: "refused", error: "blocked by recipient" }));
  const bob = broker.newHost();
  await bob.up();
  await bob.connected();
  await bob.knows("olga");
  return {
    broker,
    bob,
    accept: () => {
      broker.onSend = onSend;
    },
  };
}

describe("a failed message", () => {
  test("is shown with its reason, and is sent again with everything it had", async () => {
    const { broker, bob, accept } = await startRefusing();
    broker.connection.say(await broker.push("a question", { sealed: { id: "question" } }));
    await bob.received(1);
    const fields = {
      client_message_id: "first",
      priority: "now",
      meta: { a: [1] },
      reply_to_id: "question",
    } as const;
    await bob.send("olga", "the text", fields);
    await bob.reaches("first", "dead");
    expect(await show(bob, "first")).toMatchObject({
      status: "dead",
      last_error: "refused: blocked by recipient",
      may_have_been_sent: true,
    });
    const { stdout } = await bob.run(["daemon", "outbox", "show", "first"]);
    expect(stdout).toContain("refused: blocked by recipient");
    expect(stdout).toContain("the recipient may have it");

    accept();
    const row = await bob.row("first");
    const reply = await requeue(bob, ["first"]);
    expect(reply).toEqual({ ...reply, aborted_row_id: row.id, may_have_been_sent: true });
    expect(reply.new_client_message_id).not.toBe("first");
    await bob.reaches(reply.new_client_message_id, "done");
    const chain = [
      { id: row.id, client_message_id: "first", status: "aborted" },
      { id: reply.new_row_id, client_message_id: reply.new_client_message_id, status: "done" },
    ];
    const old = await show(bob, "first");
    expect(old).toMatchObject({ status: "aborted", aborted_by: "operator", superseded_by: reply.new_row_id });
    expect(old.requeue_chain).toMatchObject(chain);
    const renewed = await show(bob, reply.new_row_id);
    expect(renewed.requeue_chain).toMatchObject(chain);
    expect(renewed).toMatchObject({ to: "olga", priority: "now", destination: row.destination });
    const [first, second] = broker.heard("send");
    expect(second?.id).toBe(reply.new_client_message_id);
    expect(second?.ciphertext).not.toBe(first?.ciphertext);
    expect(second?.request_fingerprint).toBe(first?.request_fingerprint);
    expect(second?.targetSpec).toBe(first?.targetSpec);

    // The retired id stays retired.
    const again = await bob.post("olga", "the text", fields);
    expect([again.status, again.body]).toMatchObject([
      409,
      { conflict: "outbox_aborted_fingerprint_match", hint: expect.stringMatching(/use a new id\.$/) },
    ]);
  });

  test("cannot be sent again twice, under an id that is used, or when it did not fail", async () => {
    const { bob, accept } = await startRefusing();
    for (const id of ["one", "two"]) {
      await bob.send("olga", id, { client_message_id: id });
      await bob.reaches(id, "dead");
    }
    accept();
    await bob.send("olga", "fine", { client_message_id: "fine" });
    await bob.reaches("fine", "done");
    const before = await bob.outbox();
    const failing = async (...args: string[]): Promise<unknown[]> => {
      const result = await bob.cli(["daemon", "outbox", "requeue", ...args, "--json"]);
      return [result.exitCode, v.parse(v.looseObject({ error: v.string() }), result.json()).error];
    };
    for (const used of ["one", "two", "fine"])
      expect(await failing("one", "--new-client-id", used)).toEqual([6, "id_in_use"]);
    expect(await failing("one", "--new-client-id", "has space")).toEqual([2, "invalid_id"]);
    expect(await failing("fine")).toEqual([6, "not_requeueable"]);
    expect(await failing("none")).toEqual([5, "no_such_row"]);
    expect(await failing()).toEqual([2, "usage"]);
    expect(await failing("one", "--all-failed")).toEqual([2, "usage"]);
    expect(await failing("one", "--patch-payload", "/does/not/exist")).toEqual([1, "storage_failed"]);
    expect(await bob.outbox()).toEqual(before);

    const { new_client_message_id } = await requeue(bob, ["one", "--new-client-id", "one-again"]);
    expect(new_client_message_id).toBe("one-again");
    expect(await failing("one")).toEqual([6, "not_requeueable"]);
    await bob.reaches("one-again", "done");
    expect(await failing("one-again")).toEqual([6, "not_requeueable"]);
    expect((await bob.outbox()).counts).toEqual({ pending: 0, inflight: 0, done: 2, dead: 1, aborted: 1 });
  });

  test("can be sent again with another text, which is checked like any", async () => {
    const { broker, bob, accept } = await startRefusing();
    await bob.send("olga", "with a mistake", { client_message_id: "typo" });
    await bob.reaches("typo", "dead");
    accept();
    const file = join(tempDir(), "text");
    for (const [text, error] of [
      ["", "message_empty"],
      ["x".repeat(70_000), "message_too_large"],
    ] as const) {
      writeFileSync(file, text);
      const result = await bob.cli([
        "daemon",
        "outbox",
        "requeue",
        "typo",
        "--patch-payload",
        file,
        "--json",
      ]);
      expect([result.exitCode, result.json()]).toMatchObject([2, { error }]);
    }
    expect(await bob.row("typo")).toMatchObject({ status: "dead" });
    writeFileSync(file, "without\u0000 one\n");
    const reply = await requeue(bob, ["typo", "--patch-payload", file]);
    await bob.reaches(reply.new_client_message_id, "done");
    const [, sent] = broker.heard("send");
    expect(sent?.request_fingerprint).not.toBe(broker.heard("send")[0]?.request_fingerprint);
  });

  test("and all the others go out again in their order, with --all-failed", async () => {
    const { broker, bob, accept } = await startRefusing();
    const ids = Array.from({ length: 12 }, (_, index) => `failed-${index}`);
    for (const id of ids) await bob.send("olga", `text of ${id}`, { client_message_id: id });
    await waitFor(async () => (await bob.outbox()).counts.dead === 12, { what: "all to have failed" });
    const listed = v.parse(OutboxReply, await bob.json(["daemon", "outbox", "list", "--failed"]));
    expect(listed.items.map((row) => row.client_message_id)).toEqual(ids.toReversed());
    accept();
    const Requeued = v.strictObject({ requeued: v.array(RequeueReply), refused: v.tuple([]) });
    const { requeued } = v.parse(Requeued, await bob.json(["daemon", "outbox", "requeue", "--all-failed"]));
    expect(requeued).toHaveLength(12);
    await waitFor(async () => (await bob.outbox()).counts.done === 12, { what: "all to be done" });
    const sent = broker
      .heard("send")
      .slice(12)
      .map(({ id }) => id);
    expect(sent).toEqual(requeued.map((reply) => reply.new_client_message_id));
    expect(await bob.json(["daemon", "outbox", "requeue", "--all-failed"])).toEqual({
      requeued: [],
      refused: [],
    });
  });
});

describe("a waiting message", () => {
  test("that is requeued goes to the end, and arrives once", async () => {
    const { alice, bob, broker } = await startMesh({ members: ["alice", "bob"] });
    await broker.kill();
    await waitFor(async () => (await alice.link()) !== "open", { what: "alice to notice" });
    for (const id of ["a", "b", "c"]) await alice.send("bob", id, { client_message_id: id });
    const { may_have_been_sent, new_client_message_id } = await requeue(alice, ["a"]);
    expect(may_have_been_sent).toBe(false);
    await broker.up();
    expect((await bob.received(3)).map(({ body }) => body)).toEqual(["b", "c", "a"]);
    await alice.reaches(new_client_message_id, "done");
    expect((await alice.outbox()).counts).toEqual({ pending: 0, inflight: 0, done: 3, dead: 0, aborted: 1 });
  });

  test("that was on the wire may arrive twice, and requeue says so; one in flight is refused", async () => {
    const broker = new LyingBroker();
    const { onSend } = broker;
    broker.onSend = () => undefined;
    const bob = broker.newHost();
    await bob.up();
    await bob.connected();
    await bob.knows("olga");
    await bob.send("olga", "hm", { client_message_id: "sent" });
    await broker.hears("send", 1);
    const inflight = await bob.cli(["daemon", "outbox", "requeue", "sent", "--json"]);
    expect([inflight.exitCode, inflight.json()]).toMatchObject([6, { error: "not_requeueable" }]);
    const first = broker.connection;
    first.socket?.terminate();
    await bob.reaches("sent", "pending");
    const { stdout } = await bob.run(["daemon", "outbox", "requeue", "sent", "--new-client-id", "anew"]);
    expect(stdout).toContain("may have arrived all the same");
    broker.onSend = onSend;
    await bob.reaches("anew", "done");
    expect(await bob.message("sent")).toMatchObject({ status: "aborted" });
    // The answer to the first one comes late: the aborted row learns under which id the broker has it.
    broker.connection.say({
      type: "ack",
      id: "sent",
      client_message_id: "sent",
      code: "created",
      messageId: "m-late",
    });
    await waitFor(async () => (await bob.row("sent")).broker_message_id === "m-late", {
      what: "it to be noted",
    });
    expect(await bob.row("sent")).toMatchObject({ status: "aborted", may_have_been_sent: false });
  });

  test("a message that failed and was accepted after all is done, not failed", async () => {
    const { broker, bob } = await startRefusing();
    await bob.send("olga", "hm", { client_message_id: "late" });
    await bob.reaches("late", "dead");
    broker.connection.say({
      type: "ack",
      id: "late",
      client_message_id: "late",
      code: "created",
      messageId: "m-late",
    });
    const message = await bob.reaches("late", "done");
    expect(message).toMatchObject({ broker_message_id: "m-late" });
    expect(message.last_error).toBeUndefined();
  });
});

describe("a recipient that was removed", () => {
  test("fails what waits for it; with a new key it is a new destination, and the answer says how to go on", async () => {
    const mesh = await startMesh({ members: ["alice", "bob", "carol"] });
    const { alice, bob, carol, broker } = mesh;
    // Alice's message is accepted on her disk while she is cut off, and meanwhile bob is removed.
    alice.freeze();
    const sending = alice.post("bob", "too late", { client_message_id: "late" });
    await mesh.carol.run(["mesh", "members"]);
    // The owner's command works beside its frozen daemon.
    await alice.run(["mesh", "remove", "bob"]);
    broker.freeze();
    alice.thaw();
    expect((await sending).status).toBe(202);
    broker.thaw();
    await alice.reaches("late", "dead");
    const row = await show(alice, "late");
    expect(row.last_error).toMatch(/^unknown_destination: the member with this key was removed/);
    expect((await alice.run(["daemon", "outbox", "list", "--failed"])).stdout).toContain(
      "unknown_destination",
    );

    // Bob comes back with a new key under the old name.
    const oldKey = bob.pubkey;
    await bob.run(["mesh", "leave"]);
    const { link } = v.parse(v.object({ link: v.string() }), await alice.json(["mesh", "invite"]));
    await bob.run(["join", link, "--name", "bob"]);
    expect(bob.pubkey).not.toBe(oldKey);
    await bob.connected();
    const refused = await waitFor(
      async () => {
        const answer = await alice.post("bob", "hello again");
        return answer.status === 403 ? answer : undefined;
      },
      { what: "alice to see that the name has another key" },
    );
    expect(refused.body).toMatchObject({ error: "peer_untrusted", reason: "name_changed" });
    await alice.run(["mesh", "trust", bob.pubkey]);
    await waitFor(
      async () => (await alice.post("bob", "hello again", { client_message_id: "again" })).status < 300,
      {
        what: "the new key to be trusted",
      },
    );
    expect((await bob.received(1)).map(({ body }) => body)).toEqual(["hello again"]);

    // The failed row is for the old key: it is not quietly sent to another one, and the answer says so.
    const requeued = await alice.cli(["daemon", "outbox", "requeue", "late", "--json"]);
    expect(requeued.exitCode).toBe(5);
    expect(requeued.json()).toMatchObject({ error: "unknown_peer" });
    expect(requeued.stderr).toContain(oldKey.slice(0, 16));
    expect(await alice.row("late")).toMatchObject({ status: "dead" });
    expect(carol.daemonPid).toBeGreaterThan(0);
  });

  test("a mesh that was left fails what waits in it, with mesh_left", async () => {
    const { alice, bob, broker } = await startMesh({ members: ["alice", "bob"] });
    await broker.kill();
    await waitFor(async () => (await bob.link()) !== "open", { what: "bob to notice" });
    await bob.send("alice", "never", { client_message_id: "never" });
    await bob.run(["mesh", "leave", "--force"]);
    const message = await bob.reaches("never", "dead");
    expect(message.last_error).toBe("mesh_left");
    const requeued = await bob.cli(["daemon", "outbox", "requeue", "never", "--json"]);
    expect(requeued.json()).toMatchObject({ error: "no_such_mesh" });
    expect((await alice.health()).ok).toBe(true);
  });
});
