/** Crashes in the middle of a command, and files that are damaged, foreign or from the future. */
import { describe, expect, test } from "bun:test";
import { closeSync, openSync, readdirSync, readFileSync, statSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { ErrorReply } from "~/wire/reply";
import { type Member, newMember, startMesh } from "../support/mesh";
import { waitFor } from "../support/wait-for";
import { openWireTap } from "./wire-tap";

const Link = v.object({ link: v.string() });
const MemberNames = v.object({ members: v.array(v.object({ name: v.string(), pubkey: v.string() })) });

async function refusedUp(member: Member): Promise<ErrorReply> {
  const { exitCode, stderr, ...result } = await member.cli(["daemon", "up", "--no-tcp", "--json"]);
  expect(exitCode).toBe(1);
  const reply = v.parse(ErrorReply, result.json());
  expect(stderr).toContain(reply.message);
  return reply;
}

/** Overwrites pages in the middle of a file. */
function damage(path: string): void {
  const fd = openSync(path, "r+");
  const { size } = statSync(path);
  for (let at = 4096; at < size; at += 4096) writeSync(fd, Buffer.alloc(2048, 0x5a), 0, 2048, at);
  closeSync(fd);
}

describe("a command that is killed", () => {
  test("join: after the broker let it in and before it was noted here, the same link still works, once", async () => {
    const tap = openWireTap();
    const { alice } = await startMesh({ members: ["alice"], daemons: [], brokerUrl: tap.urlFor });
    const { link } = v.parse(Link, await alice.json(["mesh", "invite"]));
    const bob = newMember("bob");
    const never = Promise.withResolvers<void>();
    tap.beforeAnswer = (path) => (path === "/join" ? never.promise : undefined);
    const joining = bob.spawn(["join", link, "--name", "bob"]);
    await waitFor(() => tap.bodies.some((text) => text.includes('"memberId"')), {
      what: "the broker to let bob in",
    });
    await joining.stop("SIGKILL");
    never.resolve();
    tap.beforeAnswer = () => undefined;

    await bob.run(["join", link, "--name", "bob"]);
    const { members } = v.parse(MemberNames, await bob.json(["mesh", "members"]));
    expect(members.map(({ name, pubkey }) => [name, pubkey])).toEqual([
      ["alice", alice.pubkey],
      ["bob", bob.pubkey],
    ]);
    // Nothing of the attempt is left, and the link is used up for everybody else.
    expect(readdirSync(join(bob.configDir, "pending")).filter((name) => name.endsWith(".json"))).toEqual([]);
    expect((await newMember("eve").cli(["join", link, "--name", "eve"])).exitCode).toBe(4);
  });

  test("mesh create: the same command finishes what it began", async () => {
    const tap = openWireTap();
    const { alice, broker } = await startMesh({ members: ["alice"], daemons: [], brokerUrl: tap.urlFor });
    const never = Promise.withResolvers<void>();
    tap.beforeAnswer = (path) => (path === "/meshes" ? never.promise : undefined);
    const zoe = newMember("zoe", alice.configDir, { CLAUDEMESH_BROKER_DATA: broker.dataDir });
    const args = ["mesh", "create", "other", "--broker", alice.entry.brokerUrl, "--display-name", "zoe"];
    const before = tap.bodies.length;
    const creating = zoe.spawn(args);
    await waitFor(() => tap.bodies.length > before, { what: "the broker to make the mesh" });
    await creating.stop("SIGKILL");
    never.resolve();
    tap.beforeAnswer = () => undefined;
    await zoe.run(args);
    const { members } = v.parse(MemberNames, await zoe.json(["mesh", "members"]));
    expect(members.map(({ pubkey }) => pubkey)).toEqual([zoe.pubkey]);
    // A second time it is there already.
    expect((await zoe.cli(args)).exitCode).toBe(6);
  });

  test("send: its message is queued or not, and the same id makes it one", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
    alice.freeze();
    const sending = alice.spawn(["send", "bob", "once", "--id", "killed"]);
    await waitFor(() => /^State:\tS/m.test(statusOf(sending.pid)), {
      what: "the command to wait for the daemon",
    });
    await sending.stop("SIGKILL");
    alice.thaw();
    await alice.run(["send", "bob", "once", "--id", "killed"]);
    await alice.send("bob", "and then");
    await bob.received(2);
    expect(await bob.bodies()).toEqual(["once", "and then"]);
  });

  /** On other systems the command has no state to look at; it is killed at some moment. */
  const statusOf = (pid: number): string =>
    process.platform === "linux" ? readFileSync(`/proc/${pid}/status`, "utf8") : "State:\tS";
});

describe("a database", () => {
  test("of the inbox that is damaged is put aside, loudly, and messages go on arriving", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
    for (let index = 0; index < 50; index++) await alice.send("bob", `before ${"x".repeat(500)}`);
    await bob.received(50);
    await bob.down();
    const db = bob.database("inbox");
    db.run("PRAGMA wal_checkpoint(TRUNCATE)");
    // A log file that is left behind makes the next start look closely.
    db.run("PRAGMA wal_autocheckpoint = 0");
    db.run("UPDATE inbox SET read_at = 1 WHERE seq = 1");
    damage(join(bob.daemonDir, "inbox.db"));
    await bob.up();
    const { problems } = await bob.health();
    expect(problems).toMatchObject([{ code: "inbox_damaged" }]);
    const aside = readdirSync(bob.daemonDir).filter((name) => /^inbox\.db\.corrupt-\d+$/.test(name));
    expect(aside).toHaveLength(1);
    expect(problems[0]?.message).toContain(aside[0] ?? "?");
    await alice.send("bob", "after");
    expect((await bob.received(1)).map(({ body }) => body)).toEqual(["after"]);
    db.close();
  });

  test.each(["after a crash", "after a clean stop"])(
    "of the outbox that is damaged %s is never replaced: the daemon refuses to start, and says so",
    async (when) => {
      const { alice, broker } = await startMesh({ members: ["alice", "bob"], daemons: ["alice"] });
      await broker.kill();
      for (let index = 0; index < 50; index++) await alice.send("bob", `waiting ${"x".repeat(500)}`);
      await alice.down();
      const path = join(alice.daemonDir, "outbox.db");
      if (when === "after a crash") {
        // A row that is still in the log file alone.
        const db = alice.database("outbox");
        db.run("UPDATE outbox SET attempts = 7 WHERE seq = 1");
        const log = readFileSync(`${path}-wal`);
        db.close();
        writeFileSync(`${path}-wal`, log);
      }
      damage(path);
      const damaged = readFileSync(path);
      const refused = await refusedUp(alice);
      expect(refused).toMatchObject({ error: "database_corrupt" });
      expect(refused.message).toContain(path);
      expect(refused.hint).toContain("claudemesh daemon recover");
      // Whatever can still be salvaged is there.
      expect(readFileSync(path).length).toBe(damaged.length);
    },
  );

  test("of the inbox that is damaged after a clean stop: whoever meets it first makes health tell of it", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
    for (let n = 0; n < 60; n++) await alice.send("bob", `${n} ${"x".repeat(500)}`);
    await bob.received(60, 20_000);
    await bob.down();
    // The table's own pages, not those of its indexes, which a start and the count of the unread read.
    const path = join(bob.daemonDir, "inbox.db");
    const content = readFileSync(path);
    for (let at = 4096; at < content.length; at += 4096) {
      const page = content.subarray(at, at + 4096);
      if (page.includes("x".repeat(400))) page.fill(0x5a, 0, 64);
    }
    writeFileSync(path, content);
    await bob.up();
    expect((await bob.health()).problems).toEqual([]);
    const { status, body } = await bob.request("/v1/inbox");
    expect([status, v.parse(ErrorReply, body).error]).toEqual([503, "database_corrupt"]);
    const [problem, ...others] = (await bob.health()).problems;
    expect(others).toEqual([]);
    expect(problem).toMatchObject({
      code: "database_corrupt",
      hint: expect.stringContaining("daemon recover"),
    });
  });

  test("from a newer version is refused and left untouched", async () => {
    const { alice } = await startMesh({ members: ["alice"] });
    for (const name of ["outbox", "inbox"] as const) {
      await alice.down();
      const db = alice.database(name);
      const version = v.parse(v.object({ user_version: v.number() }), db.query("PRAGMA user_version").get());
      db.run("PRAGMA user_version = 99");
      db.close();
      const path = join(alice.daemonDir, `${name}.db`);
      const before = readFileSync(path);
      const refused = await refusedUp(alice);
      expect(refused).toMatchObject({ error: "database_newer" });
      expect(refused.message).toContain(path);
      expect(readFileSync(path).equals(before)).toBe(true);
      const mended = alice.database(name);
      mended.run(`PRAGMA user_version = ${version.user_version}`);
      mended.close();
      await alice.up();
      expect((await alice.health()).ok).toBe(true);
    }
  });

  test("of the broker that is from a newer version, or none at all, is refused", async () => {
    const { broker } = await startMesh({ members: ["alice"], daemons: [] });
    await broker.down();
    const path = join(broker.dataDir, "broker.db");
    const fd = openSync(path, "r+");
    // The user version of SQLite's file format, at byte 60.
    writeSync(fd, Buffer.from([0, 0, 0, 99]), 0, 4, 60);
    closeSync(fd);
    const up = async (): Promise<ErrorReply> => {
      const host = newMember("host");
      const result = await host.cli(["broker", "up", "--port", "0", "--data", broker.dataDir, "--json"]);
      expect(result.exitCode).toBe(1);
      return v.parse(ErrorReply, result.json());
    };
    expect(await up()).toMatchObject({ error: "database_newer" });
    const whole = openSync(path, "r+");
    writeSync(whole, Buffer.from("this is not a database at all"), 0, 29, 0);
    closeSync(whole);
    expect(await up()).toMatchObject({ error: "database_corrupt" });
  });
});
