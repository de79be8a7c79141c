/** What a new user does, in order, with the executable alone: every command with its `--json` form, checked by its schema. */
import { expect, test } from "bun:test";
import { copyFileSync, existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import {
  HealthReply,
  InboxItem,
  InboxReply,
  MeshEvent,
  OutboxReply,
  OutboxRowReply,
  PeersReply,
  ProfileReply,
  SentMessage,
  VersionReply,
} from "~/wire/ipc";
import { cleanup } from "../support/cleanup";
import { type CliResult, command } from "../support/cli";
import { type Member, newMember, startMesh } from "../support/mesh";
import { tempDir } from "../support/temp-dir";
import { waitFor } from "../support/wait-for";

const Ulid = v.pipe(v.string(), v.regex(/^[0-9A-HJKMNP-TV-Z]{26}$/));
const Started = v.strictObject({ pid: v.number(), socket: v.string(), started: v.boolean() });
const BrokerStarted = v.strictObject({
  pid: v.number(),
  url: v.string(),
  data: v.string(),
  started: v.boolean(),
});
const Stopped = v.strictObject({
  stopped: v.boolean(),
  pid: v.nullable(v.number()),
  unsent: v.exactOptional(v.number()),
});
const Sent = v.strictObject({
  client_message_id: v.string(),
  status: v.picklist(["queued", "inflight", "accepted"]),
  route: v.picklist(["daemon", "bridge", "cold"]),
  broker_message_id: v.exactOptional(v.string()),
});
const Members = v.object({
  mesh: v.string(),
  members: v.array(
    v.object({
      name: v.string(),
      pubkey: v.string(),
      role: v.string(),
      online: v.boolean(),
      standing: v.string(),
      is_self: v.boolean(),
    }),
  ),
});
const Meshes = v.object({
  meshes: v.array(v.object({ slug: v.string(), mesh_id: Ulid, is_owner: v.boolean() })),
});

/** A process in a session of its own outlives the command that started it, but not the test. */
function endAfterTest(pid: number): void {
  cleanup(async () => {
    if (!isThere(pid)) return;
    process.kill(pid, "SIGKILL");
    await waitFor(() => !isThere(pid), { what: `process ${pid} to end` });
  });
}

function isThere(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  // An ended process whose parent does not care stays in the table.
  const stat = `/proc/${pid}/stat`;
  return !existsSync(stat) || !/\) [ZX]/.test(readFileSync(stat, "latin1"));
}

const parse = <S extends v.GenericSchema>(schema: S, result: CliResult): v.InferOutput<S> => {
  expect(result.stderr).toBe("");
  expect(result.exitCode).toBe(0);
  return v.parse(schema, result.json());
};

const lines = (text: string): unknown[] =>
  text
    .split("\n")
    .filter((line) => line !== "")
    .map((line): unknown => JSON.parse(line));

async function inboxOf(member: Member, flags: readonly string[] = []): Promise<InboxReply["items"]> {
  return v.parse(InboxReply, await member.json(["inbox", ...flags])).items;
}

test("a new user's walk, from the first broker to the last member leaving", async () => {
  const dir = tempDir();
  const alice = newMember("alice", dir);
  const bob = newMember("bob", dir);

  const broker = v.parse(BrokerStarted, await alice.json(["broker", "up", "--port", "0"]));
  endAfterTest(broker.pid);
  expect(broker).toMatchObject({ started: true, data: join(alice.configDir, "broker") });
  expect(statSync(join(alice.configDir, "broker", "admin-token")).mode & 0o777).toBe(0o600);
  expect(v.parse(BrokerStarted, await alice.json(["broker", "up", "--port", "0"]))).toEqual({
    ...broker,
    started: false,
  });
  expect(await alice.json(["broker", "status"])).toMatchObject({
    ok: true,
    pid: broker.pid,
    url: broker.url,
  });

  const created = v.parse(
    v.strictObject({ mesh_id: Ulid, slug: v.string() }),
    await alice.json(["mesh", "create", "Our Team", "--broker", broker.url, "--display-name", "alice"]),
  );
  expect(created.slug).toBe("our-team");
  expect(statSync(alice.configFile).mode & 0o777).toBe(0o600);

  const { link, expires_at } = v.parse(
    v.strictObject({ link: v.string(), expires_at: v.pipe(v.string(), v.isoTimestamp()) }),
    await alice.json(["mesh", "invite", "--expires", "2h"]),
  );
  expect(link).toStartWith("ic://join/");
  expect(Math.abs(Date.parse(expires_at) - Date.now() - 2 * 3600_000)).toBeLessThan(60_000);

  const joined = v.parse(
    v.strictObject({ mesh_id: Ulid, slug: v.string(), member_id: Ulid }),
    await bob.json(["join", link, "--name", "bob"]),
  );
  expect(joined).toMatchObject({ mesh_id: created.mesh_id, slug: "our-team" });
  // The same link again is no second member and no error.
  expect(await bob.json(["join", link])).toEqual(joined);

  // Before anybody has a daemon: a send goes straight to the broker, with a warning, and waits there.
  const cold = await alice.run(["send", "bob", "while you were out", "--json"]);
  expect(v.parse(Sent, cold.json())).toMatchObject({ status: "accepted", route: "cold" });
  expect(cold.stderr).toContain("nothing is kept on this host");

  for (const member of [alice, bob]) {
    const up = v.parse(Started, await member.json(["daemon", "up", "--no-tcp"]));
    endAfterTest(up.pid);
    expect(up).toMatchObject({ started: true, socket: member.socket });
    expect(statSync(member.socket).mode & 0o777).toBe(0o600);
    expect(statSync(member.daemonDir).mode & 0o777).toBe(0o700);
    expect(v.parse(Started, await member.json(["daemon", "up"]))).toEqual({ ...up, started: false });
  }
  expect((await bob.received(1)).map(({ body }) => body)).toEqual(["while you were out"]);
  await alice.connected();
  await alice.knows("bob");

  const sent = parse(Sent, await alice.cli(["send", "bob", "Hello, Bob!", "--wait", "accepted", "--json"]));
  expect(sent).toMatchObject({ status: "accepted", route: "daemon" });
  const id = sent.client_message_id;
  await bob.received(2);
  const [, second] = await inboxOf(bob, ["--unread"]);
  expect(second).toMatchObject({ client_message_id: id, body: "Hello, Bob!", from: { name: "alice" } });
  expect(await inboxOf(bob, ["--unread", "--from", "ALICE", "--limit", "1"])).toHaveLength(1);
  expect(await inboxOf(bob, ["--ack"])).toHaveLength(2);
  expect(await inboxOf(bob, ["--unread"])).toHaveLength(0);
  expect((await inboxOf(bob)).every((item) => item.read_at !== undefined)).toBe(true);

  const answer = ["send", "alice", "-", "--reply-to", id, "--meta", "a=1", "--meta", "b=x=y", "--json"];
  parse(Sent, await bob.cli(answer, { stdin: "Hello\nAlice\n" }));
  const [reply] = await alice.received(1);
  expect(reply).toMatchObject({
    body: "Hello\nAlice\n",
    reply_to: { id, sender: alice.pubkey },
    meta: { a: "1", b: "x=y" },
  });

  expect(v.parse(SentMessage, await alice.json(["track", id]))).toMatchObject({ status: "done", to: "bob" });
  const outbox = v.parse(OutboxReply, await alice.json(["daemon", "outbox", "list", "--done"]));
  expect(outbox.items.map((row) => row.client_message_id)).toEqual([id]);
  expect(outbox.counts).toEqual({ pending: 0, inflight: 0, done: 1, dead: 0, aborted: 0 });
  const row = v.parse(OutboxRowReply, await alice.json(["daemon", "outbox", "show", id]));
  expect(row.requeue_chain).toEqual([{ id: row.id, client_message_id: id, status: "done" }]);
  expect(v.parse(OutboxRowReply, await alice.json(["daemon", "outbox", "show", row.id]))).toEqual(row);

  const shown = [
    "profile",
    "--summary",
    "in the middle of it",
    "--status",
    "working",
    "--capability",
    "rust",
  ];
  v.parse(ProfileReply, await bob.json(shown));
  await waitFor(
    async () => {
      const { peers } = v.parse(PeersReply, await alice.json(["peers"]));
      return peers[0]?.summary === "in the middle of it";
    },
    { what: "bob's profile to reach alice" },
  );
  const { peers, stale } = v.parse(PeersReply, await alice.json(["peers"]));
  expect(stale).toBe(false);
  expect(peers).toMatchObject([{ name: "bob", online: true, status: "working", capabilities: ["rust"] }]);

  const members = v.parse(Members, await bob.json(["mesh", "members"]));
  expect(members.members.map(({ name, role, standing }) => ({ name, role, standing }))).toEqual([
    { name: "alice", role: "owner", standing: "verified" },
    { name: "bob", role: "member", standing: "verified" },
  ]);
  expect(v.parse(Meshes, await bob.json(["mesh", "list"])).meshes).toMatchObject([
    { slug: "our-team", is_owner: false },
  ]);
  expect(JSON.stringify(await bob.json(["mesh", "list"]))).not.toContain(bob.entry.secretKey.slice(0, 64));

  v.parse(VersionReply, await alice.json(["daemon", "version"]));
  const health = v.parse(HealthReply, await alice.json(["daemon", "status"]));
  expect(health).toMatchObject({ ok: true, meshes: { "our-team": { link: "open" } }, problems: [] });

  // Bob leaves; alice's daemon hears of it.
  expect(await bob.json(["mesh", "leave"])).toMatchObject({ slug: "our-team", broker_told: true });
  expect(v.parse(Meshes, await bob.json(["mesh", "list"])).meshes).toEqual([]);
  await waitFor(async () => v.parse(PeersReply, await alice.json(["peers", "--all"])).peers.length === 0, {
    what: "bob to be gone from alice's peers",
  });

  for (const member of [bob, alice]) {
    expect(v.parse(Stopped, await member.json(["daemon", "down"]))).toMatchObject({ stopped: true });
    expect(existsSync(member.socket)).toBe(false);
    expect(v.parse(Stopped, await member.json(["daemon", "down"]))).toEqual({ stopped: false, pid: null });
    expect((await member.cli(["daemon", "status"])).exitCode).toBe(3);
  }
  expect(v.parse(Stopped, await alice.json(["broker", "down"]))).toEqual({ stopped: true, pid: broker.pid });
  expect(v.parse(Stopped, await alice.json(["broker", "down"]))).toEqual({ stopped: false, pid: null });
  expect((await alice.cli(["broker", "status"])).exitCode).toBe(3);
});

test("inbox --follow prints what is there and what arrives, once each, and marks it as read", async () => {
  const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
  await alice.send("bob", "one");
  await bob.received(1);
  const following = bob.spawn(["inbox", "--follow", "--ack", "--json"]);
  await following.waitForOutput(/"one"/);
  await alice.send("bob", "two");
  await following.waitForOutput(/"two"/);

  // A daemon that dies and comes back is caught up with.
  await bob.kill();
  await alice.send("bob", "three");
  await following.waitForOutput(/the daemon is away/);
  await bob.up();
  await following.waitForOutput(/"three"/);
  await alice.send("bob", "four");
  await following.waitForOutput(/"four"/);

  await waitFor(async () => (await bob.health()).inbox.unread === 0, { what: "everything to be read" });
  const { stdout, exitCode } = await following.stop("SIGINT");
  expect(exitCode).toBe(130);
  const items = lines(stdout).map((line) => v.parse(InboxItem, line));
  expect(items.map(({ body }) => body)).toEqual(["one", "two", "three", "four"]);
});

test("events tells of messages, peers, the broker and the outbox, each in its shape", async () => {
  const { alice, bob, broker } = await startMesh({ members: ["alice", "bob"] });
  await bob.send("alice", "before");
  const [before] = await alice.received(1);
  const events = alice.spawn(["events", "--since", "0", "--json"]);
  await events.waitForOutput(/"before"/);
  await alice.send("bob", "out");
  await events.waitForOutput(/"event":"outbox".*"status":"done"/);
  await bob.down();
  await events.waitForOutput(/"event":"peer_leave"/);
  await bob.up();
  await events.waitForOutput(/"event":"peer_join"/);
  await broker.kill();
  await events.waitForOutput(/"event":"broker_status".*"link":"waiting"/);
  const { stdout, exitCode } = await events.stop("SIGINT");
  expect(exitCode).toBe(130);
  const seen = lines(stdout).map((line) => v.parse(MeshEvent, line));
  expect(seen.filter(({ event }) => event === "message")).toEqual([
    { event: "message", id: "1", data: v.parse(InboxItem, before) },
  ]);
  const statuses = seen.flatMap((event) => (event.event === "outbox" ? [event.data.status] : []));
  expect(statuses.at(-1)).toBe("done");
});

test("without the broker a send is queued at once, and arrives when it is back", async () => {
  const { alice, bob, broker } = await startMesh({ members: ["alice", "bob"] });
  await broker.down();
  await waitFor(async () => (await alice.link()) !== "open", { what: "alice to notice" });
  const answer = await alice.post("bob", "patience");
  expect(answer.status).toBe(202);
  expect(answer.body).toMatchObject({ status: "queued", duplicate: false });
  const status = v.parse(HealthReply, await alice.json(["daemon", "status"]));
  expect(status.outbox.counts.pending).toBe(1);
  expect(status.problems.map(({ code }) => code)).toContain("broker_unreachable");
  const peers = v.parse(PeersReply, await alice.json(["peers", "--all"]));
  expect(peers).toMatchObject({ stale: true, peers: [{ name: "bob", online: false }] });
  // Whoever wants to wait for the broker is told when the time is up, and that the message is safe.
  const impatient = await alice.cli([
    "send",
    "bob",
    "more patience",
    "--wait",
    "accepted",
    "--timeout",
    "1",
    "--json",
  ]);
  expect(impatient.exitCode).toBe(7);
  expect(impatient.json()).toMatchObject({ error: "timed_out", status: "pending" });
  expect(impatient.stderr).toContain("on this disk");
  // It outlives the daemon, too.
  await alice.down();
  await alice.up();
  await broker.up();
  expect((await bob.received(2)).map(({ body }) => body)).toEqual(["patience", "more patience"]);
  await waitFor(async () => (await alice.health()).outbox.counts.done === 2, { what: "the rows to be done" });
});

test("a recipient whose daemon is down gets everything, in order, when it is back", async () => {
  const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
  await bob.down();
  const texts = Array.from({ length: 20 }, (_, index) => `message ${index}`);
  for (const text of texts) await alice.send("bob", text);
  await waitFor(async () => (await alice.health()).outbox.counts.done === 20, { what: "all to be accepted" });
  await bob.up();
  await bob.received(20);
  expect(await bob.bodies()).toEqual(texts);
});

test("a member that never connected can be written to; it finds everything on its first day", async () => {
  const { alice, bob } = await startMesh({ members: ["alice", "bob"], daemons: ["alice"] });
  const meta = { ticket: 7 };
  const { client_message_id } = await alice.send("bob", "welcome", { meta });
  await alice.reaches(client_message_id, "done");
  await bob.up();
  expect(await bob.received(1)).toMatchObject([{ body: "welcome", meta }]);
});

test("mesh remove ends the membership, tells the removed daemon, and closes open invites", async () => {
  const mesh = await startMesh({ members: ["alice", "bob", "carol"] });
  const { alice, bob, carol } = mesh;
  const { link } = v.parse(v.object({ link: v.string() }), await alice.json(["mesh", "invite"]));
  // Only the owner and admins remove others.
  const refused = await carol.cli(["mesh", "remove", "bob", "--json"]);
  expect(refused.exitCode).toBe(4);
  expect(await alice.json(["mesh", "remove", "BOB"])).toEqual({
    mesh: mesh.slug,
    removed: { name: "bob", pubkey: bob.pubkey },
    revoked_invites: 1,
  });
  await waitFor(async () => (await bob.link()) === "removed", { what: "bob to hear of it" });
  expect((await bob.health()).problems.map(({ code }) => code)).toContain("removed_from_mesh");
  await waitFor(async () => (await carol.cli(["send", "bob", "hello?"])).exitCode === 5, {
    what: "carol to know that bob is gone",
  });
  const late = await newMember("dave").cli(["join", link, "--name", "dave", "--json"]);
  expect(late.exitCode).toBe(4);
  expect(late.json()).toMatchObject({ error: "invite_revoked" });
});

test("of two daemons with the same identity the newer one is served, and the older one does not fight back", async () => {
  const { alice, bob, dir } = await startMesh({ members: ["alice", "bob"] });
  const copy = newMember("copy-of-bob", dir);
  copyFileSync(bob.configFile, copy.configFile);
  await copy.up();
  await copy.connected();
  await waitFor(async () => (await bob.link()) === "identity_in_use", { what: "the older one to give way" });
  await alice.send("bob", "to whoever is there");
  await copy.received(1);
  expect(await bob.inbox()).toEqual([]);
  expect(await copy.link()).toBe("open");
  expect((await bob.health()).problems).toMatchObject([{ code: "identity_in_use" }]);
  // A cold send takes nobody's place.
  await bob.run(["send", "alice", "beside it", "--route", "cold"]);
  await alice.received(1);
  expect(await copy.link()).toBe("open");
});

test("a reader that has seen enough (| head) ends the command without a complaint", async () => {
  const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
  for (let index = 0; index < 40; index++) await alice.send("bob", `${index} ${"x".repeat(5_000)}`);
  await bob.received(40);
  for (const args of ["inbox --json", "inbox --follow --json", "inbox", "events --since 0 --json"]) {
    const shell = Bun.spawn(["sh", "-c", `"$@" ${args} | head -c 100; echo`, "sh", ...command], {
      env: { PATH: process.env.PATH ?? "", ...bob.env },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    cleanup(() => shell.kill("SIGKILL"));
    const [out, complaints] = await Promise.all([shell.stdout.text(), shell.stderr.text()]);
    expect([args, out.length > 50, complaints]).toEqual([args, true, ""]);
  }
});

test("--json keeps to one JSON value on standard output, failures included", async () => {
  const { alice } = await startMesh({ members: ["alice", "bob"], daemons: ["alice"] });
  const failing = [
    ["send", "nobody", "x"],
    ["send", "bob", ""],
    ["send", "bob", "x", "--id", "no spaces"],
    ["track", "no-such-id"],
    ["daemon", "outbox", "show", "no-such-id"],
    ["daemon", "outbox", "requeue", "no-such-id"],
    ["inbox", "--after", "no-such-id"],
    ["inbox", "--from", "nobody"],
    ["mesh", "remove", "nobody"],
    ["mesh", "leave"],
    ["mesh", "create", "team"],
    ["join", "ic://join/garbage"],
    ["peers", "--mesh", "other"],
    ["no-such-command"],
    ["send", "--nonsense"],
    ["events", "--since", "no-such-id"],
  ];
  for (const args of failing) {
    const result = await alice.cli([...args, "--json"]);
    const what = args.join(" ");
    expect([what, result.exitCode]).not.toEqual([what, 0]);
    expect([what, result.exitCode < 10]).toEqual([what, true]);
    expect([what, result.json()]).toEqual([what, expect.objectContaining({ error: expect.any(String) })]);
    expect([what, result.stderr]).toEqual([what, expect.stringMatching(/^claudemesh: |\nclaudemesh: /)]);
  }
});

test("a member can be written to the moment it has joined, before the news of it has come", async () => {
  const mesh = await startMesh({ members: ["alice"] });
  for (const name of ["bob", "carol", "dave"]) {
    await mesh.join(name);
    expect((await mesh.alice.post(name, "welcome")).status).toBe(202);
  }
});
