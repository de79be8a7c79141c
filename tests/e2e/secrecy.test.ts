/** No plaintext leaves the host, whatever way a message takes: not on the wire, not in a log, not at the broker. */
import { expect, test } from "bun:test";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { RequeueReply } from "~/wire/ipc";
import { cleanup } from "../support/cleanup";
import { disguises, filesBelow } from "../support/disguises";
import { type Member, startMesh } from "../support/mesh";
import { tempDir } from "../support/temp-dir";
import { waitFor } from "../support/wait-for";
import { openWireTap } from "./wire-tap";

test("a planted secret is found in no frame, no log and not at the broker", async () => {
  const tap = openWireTap();
  const mesh = await startMesh({ members: ["alice", "bob"], daemons: [], brokerUrl: tap.urlFor });
  const { alice, bob, broker } = mesh;
  const secret = "PLANTED-4c7d-Geheimnis";
  // In the background, as users have it: with log files.
  const upDetached = async (member: Member): Promise<void> => {
    const { pid } = v.parse(
      v.looseObject({ pid: v.number() }),
      await member.json(["daemon", "up", "--no-tcp"]),
    );
    cleanup(async () => {
      await member.run(["daemon", "down"]);
    });
    expect(pid).toBeGreaterThan(0);
    await member.connected();
  };
  await upDetached(alice);
  await upDetached(bob);
  await alice.knows("bob");
  await bob.knows("alice");

  // Straight through, with meta and an answer.
  const { client_message_id: first } = await alice.send("bob", `one ${secret}`, {
    meta: { [secret]: secret, deep: { also: [secret] } },
  });
  await bob.received(1);
  await bob.send("alice", `two ${secret}`, { reply_to_id: first, priority: "now" });
  await alice.received(1);
  // Refused by the daemon in every way it has.
  await alice.post("bob", secret.repeat(4000));
  await alice.post(`${secret.slice(0, 20)}`, secret);
  await alice.post("bob", secret, { client_message_id: first });
  await alice.request("/v1/send", { method: "POST", body: { to: "bob", message: secret, [secret]: 1 } });
  await alice.request("/v1/send", { method: "POST", body: `{"to":"bob","message":"${secret}` });
  // While the broker is away: waiting, requeued, with another text, sent after it is back.
  tap.shut();
  await waitFor(async () => (await alice.link()) !== "open", { what: "alice to be alone" });
  for (const id of ["three", "four"]) await alice.send("bob", `${id} ${secret}`, { client_message_id: id });
  await alice.run(["daemon", "outbox", "requeue", "three"]);
  const file = join(tempDir(), "text");
  writeFileSync(file, `five ${secret}`);
  v.parse(RequeueReply, await alice.json(["daemon", "outbox", "requeue", "four", "--patch-payload", file]));
  // Sent, not answered, cut, and sent again.
  tap.onFrame = ({ from, frame, text }) => (from === "broker" && frame.type === "ack" ? undefined : text);
  tap.open();
  await bob.received(3);
  tap.onFrame = ({ text }) => text;
  tap.cut();
  await waitFor(async () => (await alice.health()).outbox.counts.done === 3, { what: "all to be done" });
  // A duplicate, a failure and its requeue.
  tap.onFrame = ({ from, frame, text }) =>
    from === "broker" && frame.type === "ack"
      ? JSON.stringify({ ...frame, messageId: null, code: "refused", error: "blocked" })
      : text;
  await alice.send("bob", `six ${secret}`, { client_message_id: "six" });
  await alice.reaches("six", "dead");
  tap.onFrame = ({ text }) => text;
  await alice.run(["daemon", "outbox", "requeue", "--all-failed"]);
  await bob.received(5);
  // Cold, and cold refused.
  await alice.run(["send", "bob", `seven ${secret}`, "--route", "cold", "--meta", `k=${secret}`]);
  await alice.cli(["send", "nobody", secret, "--route", "cold"]);
  expect((await bob.received(6)).every(({ body }) => body?.includes(secret))).toBe(true);
  await alice.json(["daemon", "status"]);

  const found = disguises(secret);
  const frames = tap.passed.map(({ text }) => text);
  expect(frames.filter((text) => text.includes('"type":"send"')).length).toBeGreaterThan(8);
  for (const text of [...frames, ...tap.bodies]) expect(text).not.toMatch(found);
  for (const path of [...filesBelow(broker.dataDir), alice.configDir, bob.configDir].flatMap((path) =>
    statSync(path).isFile() ? [path] : filesBelow(path).filter((file) => file.endsWith(".log")),
  ))
    expect([path, found.test(readFileSync(path).toString("latin1"))]).toEqual([path, false]);
  expect(broker.log).not.toMatch(found);
  expect(filesBelow(alice.configDir).some((path) => path.endsWith("daemon.log"))).toBe(true);

  // Nor are the keys anywhere but in config.json: not the members', and not the mesh's.
  const keys = [alice, bob].flatMap(({ entry }) => [
    entry.secretKey.slice(0, 64),
    v.parse(v.looseObject({ rootKey: v.string() }), entry).rootKey,
  ]);
  const places = [
    ...filesBelow(alice.daemonDir),
    ...filesBelow(bob.daemonDir),
    ...filesBelow(broker.dataDir),
  ];
  for (const key of keys) {
    for (const text of [...frames, ...tap.bodies]) expect(text.includes(key)).toBe(false);
    for (const path of places) expect([path, readFileSync(path).includes(key)]).toEqual([path, false]);
  }
  // Everything that holds a secret is its owner's alone.
  for (const path of places) expect([path, statSync(path).mode & 0o077]).toEqual([path, 0]);
});
