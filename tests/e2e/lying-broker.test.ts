/** A broker that lies, repeats itself, keeps silent or breaks down: the daemon lives, and shows nothing that is not true. */
import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { generateKeyPair } from "~/identity/keys";
import { InboxReply, PeersReply } from "~/wire/ipc";
import type { Member } from "../support/mesh";
import { waitFor } from "../support/wait-for";
import { type Actor, LyingBroker } from "./lying-broker";

async function startLiar(
  prepare: (broker: LyingBroker) => void = () => undefined,
): Promise<{ broker: LyingBroker; bob: Member }> {
  const broker = new LyingBroker();
  prepare(broker);
  const bob = broker.newHost();
  await bob.up();
  return { broker, bob };
}

async function startConnected(
  prepare?: (broker: LyingBroker) => void,
): Promise<{ broker: LyingBroker; bob: Member }> {
  const liar = await startLiar(prepare);
  await liar.bob.connected();
  await liar.bob.knows("olga");
  return liar;
}

const newActor = (name: string): Actor => ({ keys: generateKeyPair(), name });

test("garbage is passed over: what comes after it arrives", async () => {
  const { broker, bob } = await startConnected();
  const garbage: (object | string | Uint8Array)[] = [
    "",
    "{",
    "null",
    "[]",
    "7",
    '"push"',
    "\u0000\u0001",
    new Uint8Array([1, 2, 3]),
    "[".repeat(100_000),
    {},
    { type: 7 },
    { type: "constructor" },
    { type: "__proto__" },
    { type: "no_such_frame", with: { deep: [[[]]] } },
    { type: "push" },
    { type: "push", messageId: 7 },
    { type: "push", subtype: "system" },
    { type: "push", subtype: "system", event: "peer_joined", eventData: { constructor: 1 } },
    { type: "push", subtype: "reminder" },
    { type: "ack" },
    { type: "ack", id: null },
    { type: "ack", id: "never-sent", messageId: "x", code: "created" },
    { type: "ack", client_message_id: "never-sent", code: "rate_limited", retry_after_ms: -1 },
    { type: "hello_ack" },
    { type: "error", code: "whatever", message: "a broker's complaint" },
    { type: "members_list", members: "all" },
    { type: "members_list", _reqId: "999", members: [] },
    { type: "peers_list", _reqId: "1", peers: [{ pubkey: "short" }] },
    { type: "ok", _reqId: {} },
  ];
  for (const what of garbage) broker.connection.say(what);
  broker.connection.say(await broker.push("after all that"));
  expect((await bob.received(1)).map(({ body }) => body)).toEqual(["after all that"]);
  expect(broker.connections).toHaveLength(1);
  await bob.send("olga", "and out", { client_message_id: "out" });
  await bob.reaches("out", "done");
  expect(await bob.link()).toBe("open");
});

test("a frame above the limit ends the connection with 1009, and the next one works", async () => {
  const { broker, bob } = await startConnected();
  broker.connection.say({ type: "push", subtype: "system", event: "x".repeat(1024 * 1024) });
  const [first] = broker.connections;
  await waitFor(() => first?.closed !== undefined, { what: "the connection to be closed" });
  expect(first?.closed?.code).toBe(1009);
  await waitFor(() => broker.connections.length === 2, { what: "the next connection" });
  await bob.connected();
});

describe("answers", () => {
  test("twice, to nothing, and late", async () => {
    const { bob } = await startConnected((broker) => {
      broker.onSend = (frame, connection) => {
        const ack = broker.ack(frame, { code: "created", messageId: "m-1" });
        for (const one of [
          ack,
          ack,
          { ...ack, messageId: "m-2" },
          { ...ack, code: "too_large", error: "late" },
        ])
          connection.say(one);
      };
    });
    await bob.send("olga", "hi", { client_message_id: "twice" });
    await bob.reaches("twice", "done");
    await bob.send("olga", "hi", { client_message_id: "next" });
    await bob.reaches("next", "done");
    expect(await bob.message("twice")).toMatchObject({ status: "done", broker_message_id: "m-1" });
  });

  test("that never come: the message waits for the next connection, and is sent under the same id", async () => {
    const { broker, bob } = await startConnected((broker) => {
      broker.onSend = () => undefined;
    });
    for (const id of ["a", "b", "c"]) await bob.send("olga", id, { client_message_id: id });
    await broker.hears("send", 3);
    expect((await bob.health()).outbox.counts).toMatchObject({ inflight: 3, pending: 0 });
    broker.connection.socket?.terminate();
    await bob.reaches("c", "pending");
    expect(await bob.row("a")).toMatchObject({ status: "pending", attempts: 0, may_have_been_sent: true });
    broker.onSend = (frame, connection) =>
      connection.say(
        broker.ack(frame, { code: "duplicate", duplicate: true, messageId: `m-${String(frame.id)}` }),
      );
    await bob.reaches("c", "done");
    const sent = broker.heard("send");
    expect(sent.map(({ id }) => id)).toEqual(["a", "b", "c", "a", "b", "c"]);
    // The same bytes again: a broker cannot learn more from the repeat.
    expect(sent.slice(0, 3)).toEqual(sent.slice(3));
  });

  test("that refuse: for good, for now, and for no reason anybody knows", async () => {
    const refusals: [
      code: string,
      fields: Record<string, unknown>,
      status: "dead" | "pending",
      error: RegExp,
    ][] = [
      ["too_large", { error: "payload too large" }, "dead", /too_large/],
      ["unknown_destination", { error: "no such member" }, "dead", /unknown_destination/],
      ["unauthorized", { error: "removed" }, "dead", /unauthorized/],
      ["malformed", { error: "bad" }, "dead", /malformed/],
      ["refused", { error: "blocked" }, "dead", /refused/],
      ["idempotency_key_reused", { error: "other" }, "dead", /^idempotency_key_reused$/],
      ["rate_limited", { error: "slow down", retry_after_ms: 60_000 }, "pending", /rate_limited/],
      ["busy", { error: "later", retry_after_ms: 1e300 }, "pending", /busy/],
      ["flux_capacitor", { error: "1.21 GW", retry_after_ms: 1 }, "pending", /flux_capacitor/],
      ["created", { messageId: null }, "pending", /without naming/],
    ];
    const actors = refusals.map(([code]) => newActor(code));
    const { bob } = await startConnected((broker) => {
      broker.members.push(
        ...actors.map((actor) => broker.listing(actor, { admission: broker.admit(actor) })),
      );
      broker.onSend = (frame, connection) => {
        const [code, fields] = refusals.find(([name]) => frame.id === name) ?? ["", {}];
        connection.say(broker.ack(frame, { code, ...fields }));
      };
    });
    for (const [code] of refusals) await bob.send(code, "hi", { client_message_id: code });
    for (const [code, , status, error] of refusals) {
      const row = await waitFor(
        async () => {
          const found = await bob.row(code);
          return found.last_error === undefined ? undefined : found;
        },
        { what: `${code} to be answered` },
      );
      expect([code, row.status === "inflight" ? "pending" : row.status]).toEqual([code, status]);
      expect(row.last_error).toMatch(error);
    }
    const limited = await bob.row("rate_limited");
    expect(Date.parse(limited.next_attempt_at ?? "") - Date.now()).toBeGreaterThan(50_000);
    // Not longer than an hour, whatever the broker asks for.
    const busy = await bob.row("busy");
    expect(Date.parse(busy.next_attempt_at ?? "") - Date.now()).toBeLessThanOrEqual(3_600_000);
  });
});

describe("pushes", () => {
  test("that do not open, or say on the outside what is not so inside, are problems and no messages", async () => {
    const { broker, bob } = await startConnected();
    const stranger = newActor("stranger");
    const carol = newActor("carol");
    broker.members.push(broker.listing(carol, { admission: broker.admit(carol) }));
    const sealedForCarol = await broker.seal("for carol", broker.owner, carol.keys.publicKey);
    const good = await broker.push("the original");
    const bad: [reason: string, push: Record<string, unknown> | Promise<Record<string, unknown>>][] = [
      ["does_not_open", { ...good, ciphertext: Buffer.alloc(64).toString("base64") }],
      ["does_not_open", { ...good, ciphertext: "" }],
      ["does_not_open", { ...good, ciphertext: "!!!" }],
      ["does_not_open", { ...good, nonce: "AAAA" }],
      ["does_not_open", { ...good, ...sealedForCarol }],
      // A key that is no point of the curve, and one of small order.
      ["does_not_open", { ...good, senderPubkey: "ff".repeat(32), senderMemberPubkey: "ff".repeat(32) }],
      ["does_not_open", { ...good, senderPubkey: "00".repeat(32), senderMemberPubkey: "00".repeat(32) }],
      // Somebody else is named as its sender.
      [
        "does_not_open",
        { ...good, senderPubkey: carol.keys.publicKey, senderMemberPubkey: carol.keys.publicKey },
      ],
      ["session_not_attested", { ...good, senderMemberPubkey: carol.keys.publicKey }],
      [
        "session_not_attested",
        {
          ...good,
          senderMemberPubkey: carol.keys.publicKey,
          senderAttestation: {
            sessionPubkey: good.senderPubkey,
            parentMemberPubkey: carol.keys.publicKey,
            expiresAt: Date.now() + 1000,
            signature: "00".repeat(64),
          },
        },
      ],
      // Renamed, redirected, moved to another mesh, told to be version 1, or of a version that nobody knows.
      ["content_contradicts_frame", { ...good, client_message_id: "another-id" }],
      ["content_contradicts_frame", { ...good, bodyVersion: 1 }],
      ["content_contradicts_frame", { ...good, meshId: "another-mesh" }],
      ["content_contradicts_frame", broker.push("x", { sealed: { to: carol.keys.publicKey } })],
      ["content_contradicts_frame", broker.push("x", { sealed: { mesh: "another-mesh" } })],
      ["content_contradicts_frame", broker.push("x", { sealed: { from: carol.keys.publicKey } })],
      ["unknown_body_version", { ...good, bodyVersion: 3 }],
      [
        "content_malformed",
        broker.push("x", { sealed: { id: "has space" }, frame: { client_message_id: "other" } }),
      ],
      ["content_malformed", broker.push("x", { sealed: { v: 3 } })],
      ["content_malformed", broker.push("x", { sealed: { body: 7 } })],
      ["unsupported_kind", { ...good, topic: "news" }],
      ["sender_not_admitted", broker.push("x", { from: stranger })],
      ["frame_malformed", { ...good, senderPubkey: "nobody" }],
      ["frame_malformed", { ...good, ciphertext: 7 }],
      ["frame_malformed", { ...good, client_message_id: "has space" }],
    ];
    for (const [index, [, push]] of bad.entries())
      broker.connection.say({ ...(await push), messageId: `bad-${index}` });
    broker.connection.say(good);
    // In its place, after all of them, and each of them acknowledged.
    expect((await bob.received(1)).map(({ body }) => body)).toEqual(["the original"]);
    const acked = await broker.hears("client_ack", bad.length + 1);
    expect(acked.map(({ brokerMessageId }) => brokerMessageId)).toEqual([
      ...bad.map((_, index) => `bad-${index}`),
      good.messageId,
    ]);
    const problems = await bob.problems();
    const reasons = problems.map(({ broker_message_id, reason }) => [broker_message_id, reason]);
    expect(reasons).toEqual(bad.map(([reason], index) => [`bad-${index}`, reason]));
    expect(JSON.stringify(problems)).not.toContain(String(good.ciphertext));

    const listed = v.parse(
      InboxReply.entries.problems,
      v.parse(v.looseObject({ problems: v.unknown() }), await bob.json(["inbox", "--problems"])).problems,
    );
    expect(listed).toEqual(problems.slice(0, 50));
    const { stdout } = await bob.run(["inbox"]);
    expect(stdout).not.toContain(String(good.ciphertext).slice(0, 20));
    expect((await bob.health()).problems).toMatchObject([{ code: "undecryptable" }]);
    // They outlive a restart, and still block nothing.
    await bob.kill();
    await bob.up();
    await bob.connected();
    expect(await bob.problems()).toHaveLength(bad.length);
    broker.connection.say(await broker.push("and on"));
    expect((await bob.received(2)).map(({ body }) => body)).toEqual(["the original", "and on"]);
  });

  test("of the same message a hundred times are one message, whatever the broker calls it", async () => {
    const { broker, bob } = await startConnected();
    const push = await broker.push("once");
    for (let index = 0; index < 50; index++) broker.connection.say(push);
    for (let index = 0; index < 50; index++) broker.connection.say({ ...push, messageId: `again-${index}` });
    // Without the id outside, the sealed one counts.
    const { client_message_id: _, ...unnamed } = push;
    broker.connection.say({ ...unnamed, messageId: "unnamed" });
    await broker.hears("client_ack", 101);
    expect(await bob.bodies()).toEqual(["once"]);
    await bob.kill();
    await bob.up();
    await bob.connected();
    broker.connection.say({ ...push, messageId: "after the restart" });
    await broker.hears("client_ack", 102);
    expect(await bob.bodies()).toEqual(["once"]);
    expect(await bob.problems()).toEqual([]);
  });

  test("from somebody that is not admitted wait apart, and become mail when the admission is there", async () => {
    const { broker, bob } = await startConnected();
    const carol = newActor("carol");
    broker.connection.say(await broker.push("let me in", { from: carol }));
    await waitFor(async () => (await bob.problems()).length === 1, { what: "the problem" });
    // Listed without proof, or with the proof of somebody else, is not enough.
    broker.members.push(broker.listing(carol, { admission: { ...broker.admit(newActor("eve")) } }));
    const before = broker.heard("list_members").length;
    broker.connection.say({ type: "push", subtype: "system", event: "member_joined" });
    await broker.hears("list_members", before + 1);
    await bob.knows("carol");
    expect(await bob.problems()).toMatchObject([{ reason: "sender_not_admitted" }]);
    const refused = await bob.post("carol", "hi");
    expect([refused.status, refused.body]).toMatchObject([403, { error: "peer_untrusted" }]);
    const { peers } = v.parse(PeersReply, await bob.json(["peers", "--all"]));
    expect(peers.find(({ name }) => name === "carol")).toMatchObject({ untrusted: "admission" });

    broker.members.pop();
    broker.members.push(broker.listing(carol, { admission: broker.admit(carol) }));
    broker.connection.say({ type: "push", subtype: "system", event: "member_joined" });
    expect(await bob.received(1)).toMatchObject([{ body: "let me in", from: { name: "carol" } }]);
    expect(await bob.problems()).toEqual([]);
    expect((await bob.post("carol", "hi")).status).toBe(202);
  });

  test("in any number: a flood is taken in order or ends the connection, and the daemon lives", async () => {
    const { broker, bob } = await startConnected();
    const flood = await Promise.all(
      Array.from({ length: 3_000 }, (_, index) => broker.push(`flood ${index}`)),
    );
    const unacknowledged = (): typeof flood => {
      const acked = new Set(broker.heard("client_ack").map(({ brokerMessageId }) => brokerMessageId));
      return flood.filter(({ messageId }) => !acked.has(messageId));
    };
    // All at once; then what is still not acknowledged again on the next connection, less at a time, as brokers do.
    for (let burst = flood.length; ; burst = 200) {
      const { connection } = broker;
      const pushed = unacknowledged().slice(0, burst);
      for (const push of pushed) connection.say(push);
      const last = pushed.at(-1);
      await waitFor(
        () => connection.closed !== undefined || !unacknowledged().some((push) => push === last),
        { what: "the pushes to be acknowledged, or the connection to end" },
      );
      if (unacknowledged().length === 0) break;
      await waitFor(() => broker.connection.of("list_members").length > 0, { what: "an open connection" });
    }
    expect(await bob.bodies()).toEqual(flood.map((_, index) => `flood ${index}`));
  });
});

describe("members", () => {
  test("a name that suddenly has another key is refused until it is trusted by hand", async () => {
    const { broker, bob } = await startConnected((broker) => {
      const carol = newActor("carol");
      broker.members.push(broker.listing(carol, { admission: broker.admit(carol) }));
    });
    await bob.knows("carol");
    expect((await bob.post("carol", "hi")).status).toBe(202);
    const impostor = newActor("carol");
    broker.members.pop();
    broker.members.push(broker.listing(impostor, { admission: broker.admit(impostor) }));
    broker.connection.say({ type: "push", subtype: "system", event: "member_joined" });
    const refused = await waitFor(
      async () => {
        const answer = await bob.post("carol", "hi");
        return answer.status === 403 ? answer : undefined;
      },
      { what: "the name to be doubted" },
    );
    expect(refused.body).toMatchObject({ error: "peer_untrusted", reason: "name_changed" });
    const hint = v.parse(v.looseObject({ hint: v.string() }), refused.body).hint;
    const command = /claudemesh (mesh trust \S+ --mesh \S+)/.exec(hint)?.[1]?.split(" ") ?? [];
    await bob.run(command);
    await waitFor(async () => (await bob.post("carol", "hi")).status === 202, { what: "the trust to count" });
    await waitFor(() => broker.heard("send").at(-1)?.targetSpec === impostor.keys.publicKey, {
      what: "the message to go to the new key",
    });
  });

  test("a list that comes in pages is read to its end", async () => {
    const actors = Array.from({ length: 5 }, (_, index) => newActor(`member-${index}`));
    const { bob } = await startLiar((broker) => {
      broker.members.push(
        ...actors.map((actor) => broker.listing(actor, { admission: broker.admit(actor) })),
      );
      broker.onMembers = (frame, connection) => {
        const after = broker.members.findIndex(({ member_id }) => member_id === frame.after);
        const page = broker.members.slice(after + 1, after + 3);
        const isLast = after + 3 >= broker.members.length;
        connection.say({
          type: "members_list",
          _reqId: frame._reqId,
          members: page,
          ...(isLast ? {} : { next: page.at(-1)?.member_id }),
        });
      };
    });
    await bob.connected();
    for (const { name } of actors) await bob.knows(name, 3_000);
    const answer = await bob.post("member-4", "hi", { client_message_id: "to-the-last" });
    expect(answer.status).toBe(202);
    await bob.reaches("to-the-last", "done");
    const listed = JSON.stringify(await bob.json(["mesh", "members"]));
    for (const { name } of actors) expect(listed).toContain(`"${name}"`);
    await bob.down();
    expect(await bob.json(["send", "member-4", "cold"])).toMatchObject({ route: "cold", status: "accepted" });
  });
});

describe("the end of a connection", () => {
  test("4003: the daemon does not fight back, and says that its identity is in use", async () => {
    const { broker, bob } = await startConnected();
    broker.close(4003, "replaced");
    await waitFor(async () => (await bob.link()) === "identity_in_use", { what: "the status to say so" });
    const { problems } = await bob.health();
    expect(problems).toMatchObject([{ code: "identity_in_use" }]);
    expect((await bob.run(["daemon", "status"])).stdout).toContain("identity_in_use");
    expect((await bob.post("olga", "waits")).status).toBe(202);
    expect(broker.connections).toHaveLength(1);
    // When it is started again, it asks again.
    await bob.down();
    await bob.up();
    await bob.connected();
    await waitFor(async () => (await bob.health()).outbox.counts.done === 1, {
      what: "what waited to leave",
    });
  });

  test("4002: the daemon says that it was removed", async () => {
    const { broker, bob } = await startConnected();
    broker.close(4002, "removed from the mesh");
    await waitFor(async () => (await bob.link()) === "removed", { what: "the status to say so" });
    const { problems } = await bob.health();
    expect(problems).toMatchObject([{ code: "removed_from_mesh" }]);
    expect(problems[0]?.hint).toContain("mesh leave");
    expect(broker.connections).toHaveLength(1);
  });

  test("any other: it comes back by itself", async () => {
    const { broker, bob } = await startConnected();
    broker.close(1012, "restarting");
    await waitFor(() => broker.connections.length === 2, { what: "the next connection" });
    await bob.connected();
  });
});

describe("a hello", () => {
  const refusals: [what: string, prepare: (broker: LyingBroker) => void, why: RegExp, code: number][] = [
    [
      "answered without the features that the mesh was made with",
      (broker) => {
        broker.features = {};
      },
      /feature_unavailable: client_message_id_dedupe/,
      4010,
    ],
    [
      "answered as a version-1 broker does",
      (broker) => {
        broker.onHello = (connection) => connection.say({ type: "hello_ack", presenceId: "p" });
      },
      /feature_unavailable/,
      4010,
    ],
    [
      "answered with a memory that is too short",
      (broker) => {
        broker.features.client_message_id_dedupe = {
          version: 1,
          mode: "retention_scoped",
          dedupe_retention_days: 2,
          request_fingerprint: true,
        };
      },
      /feature_param_below_floor: client_message_id_dedupe/,
      4010,
    ],
    [
      "answered with nonsense in a feature",
      (broker) => {
        broker.features.max_payload = { version: 1, inline_bytes: "many" };
      },
      /feature_param_invalid: max_payload/,
      4010,
    ],
    [
      "refused for the clock",
      (broker) => {
        broker.onHello = (connection) =>
          connection.say({ type: "error", code: "clock_skew", message: "your clock is 3 h ahead" });
      },
      /clock_skew: your clock/,
      1000,
    ],
  ];
  test.each(refusals)("%s: the status says why, and messages wait", async (_, prepare, why, code) => {
    const { broker, bob } = await startLiar(prepare);
    const [mesh] = await waitFor(
      async () => {
        const meshes = Object.values((await bob.health()).meshes);
        return meshes[0]?.link === "refused" ? meshes : undefined;
      },
      { what: "the link to be refused" },
    );
    expect(mesh?.error).toMatch(why);
    const { problems } = await bob.health();
    expect(problems).toMatchObject([{ code: "broker_refuses" }]);
    expect(problems[0]?.hint).toBeString();
    const [first] = broker.connections;
    await waitFor(() => first?.closed !== undefined, { what: "the connection to be closed" });
    expect(first?.closed?.code).toBe(code);
    if (code === 4010)
      expect(JSON.parse(first?.closed?.reason ?? "")).toMatchObject({ feature: expect.any(String) });
    // It goes on asking, in case the broker is mended.
    await waitFor(() => broker.connections.length > 1, { what: "another try" });
  });
});

test("a broker that takes less than before: what is too large for it now is refused at once", async () => {
  const { bob } = await startConnected((broker) => {
    broker.features.max_payload = { version: 1, inline_bytes: 1000 };
  });
  const { status, body } = await bob.post("olga", "x".repeat(1000));
  expect(status).toBe(413);
  expect(body).toMatchObject({ error: "message_too_large", limit_bytes: 1000 });
  expect((await bob.post("olga", "x".repeat(100))).status).toBe(202);
});
