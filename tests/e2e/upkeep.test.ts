/** Recovering, backing up and restoring as a person does, with the daemon down, up, killed in the middle, and on a full disk. */
import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { ErrorReply } from "~/wire/reply";
import { command, type RunningCli } from "../support/cli";
import { type Member, newMember, startMesh } from "../support/mesh";
import { canMount, fill, shrink } from "../support/small-disk";
import { tempDir } from "../support/temp-dir";
import { waitFor } from "../support/wait-for";

const passphrase = { CLAUDEMESH_PASSPHRASE: "correct horse battery" };
const pageBytes = 4096;

const Salvage = v.looseObject({ state: v.string() });
const Recovered = v.object({ dry_run: v.boolean(), outbox: Salvage, inbox: Salvage, directory: Salvage });

const recover = async (member: Member, ...flags: string[]) =>
  v.parse(Recovered, await member.json(["daemon", "recover", ...flags]));

async function refused(member: Member, args: string[], exitCode = 1, env = {}): Promise<ErrorReply> {
  const result = await member.cli([...args, "--json"], { env });
  expect(result.exitCode).toBe(exitCode);
  return v.parse(ErrorReply, result.json());
}

/** Overwrites the page that leads to all rows. */
function damageWayIn(path: string): void {
  const db = new Database(path, { readonly: true });
  const root = v.parse(
    v.object({ rootpage: v.number() }),
    db.query("SELECT rootpage FROM sqlite_schema WHERE name = 'outbox'").get(),
  );
  db.close();
  const fd = openSync(path, "r+");
  writeSync(fd, Buffer.alloc(pageBytes, 0x5a), 0, pageBytes, (root.rootpage - 1) * pageBytes);
  closeSync(fd);
}

/** Not of the inbox, which no restore leaves as it was: it goes on from other places. */
const databasesOf = (member: Member): Record<string, string> =>
  Object.fromEntries(
    ["config.json", ...["outbox", "directory"].map((name) => join("daemon", `${name}.db`))].map((name) => [
      name,
      Bun.hash(readFileSync(join(member.configDir, name))).toString(16),
    ]),
  );

/** Messages that wait, since the broker is away. */
async function queue(from: Member, to: string, count: number, bytes = 500): Promise<string[]> {
  const bodies = Array.from({ length: count }, (_, n) => `${n} ${"x".repeat(bytes)}`);
  for (const [n, body] of bodies.entries()) await from.send(to, body, { client_message_id: `job-${n}` });
  return bodies;
}

/** Waits until the command has begun with a file. One that was quicker than we look is fine: what comes after holds as well. */
async function seenBefore(running: RunningCli, path: string): Promise<void> {
  let ended = false;
  void running.exited.then(() => {
    ended = true;
  });
  await waitFor(() => existsSync(path) || ended, { what: `the command to begin ${path}` });
}

describe("daemon recover", () => {
  test("after damage that keeps the daemon from starting, everything goes on where it was", async () => {
    const { alice, bob, broker } = await startMesh({ members: ["alice", "bob"] });
    await alice.send("bob", "before", { client_message_id: "before" });
    await bob.received(1);
    await alice.reaches("before", "done");
    await broker.kill();
    const bodies = await queue(alice, "bob", 60);
    expect((await refused(alice, ["daemon", "recover"])).error).toBe("already_running");
    await alice.down();
    damageWayIn(join(alice.daemonDir, "outbox.db"));
    const damaged = readFileSync(join(alice.daemonDir, "outbox.db"));
    const notUp = await refused(alice, ["daemon", "up", "--no-tcp"]);
    expect(notUp.hint).toContain("claudemesh daemon recover");

    const dry = await recover(alice, "--dry-run");
    expect(readFileSync(join(alice.daemonDir, "outbox.db")).equals(damaged)).toBe(true);
    const { outbox, inbox } = await recover(alice);
    expect(outbox).toMatchObject({
      state: "damaged",
      rows: 61,
      unfinished: 60,
      lost: 0,
    });
    const { kept_as, ...salvaged } = outbox;
    expect(dry.outbox).toMatchObject(salvaged);
    expect(inbox).toEqual({ state: "sound" });
    expect(readFileSync(v.parse(v.string(), kept_as)).equals(damaged)).toBe(true);

    await alice.up();
    await broker.up();
    await bob.received(61);
    expect(await bob.bodies()).toEqual(["before", ...bodies]);
    expect((await alice.send("bob", "before", { client_message_id: "before" })).status).toBe("accepted");
    expect((await recoverText(alice)).stdout).toContain("sound");
  });

  const recoverText = async (member: Member) => {
    await member.down();
    return await member.run(["daemon", "recover"]);
  };

  test("that is killed in the middle changes nothing, and the next one does it", async () => {
    const { alice, broker } = await startMesh({ members: ["alice", "bob"], daemons: ["alice"] });
    await broker.kill();
    await queue(alice, "bob", 150, 40_000);
    await alice.down();
    const path = join(alice.daemonDir, "outbox.db");
    damageWayIn(path);
    const before = databasesOf(alice);
    const recovering = alice.spawn(["daemon", "recover"]);
    await seenBefore(recovering, `${path}.recovering`);
    await recovering.stop("SIGKILL");
    // Unless it was quicker, which the next run tells.
    const { outbox } = await recover(alice);
    if (outbox.state === "damaged") {
      expect(outbox).toMatchObject({ rows: 150, unfinished: 150, lost: 0 });
      const kept = readdirSync(alice.daemonDir).filter((name) => /^outbox\.db\.damaged-\d+$/.test(name));
      expect(kept.map((name) => Bun.hash(readFileSync(join(alice.daemonDir, name))).toString(16))).toEqual([
        before["daemon/outbox.db"] ?? "?",
      ]);
    }
    expect((await recover(alice)).outbox).toEqual({ state: "sound" });
    expect(readdirSync(alice.daemonDir).filter((name) => name.includes("recovering"))).toEqual([]);
    await alice.up();
    expect((await alice.outbox()).counts.pending).toBe(150);
  });
});

describe("daemon backup and restore", () => {
  test("bring a host back, made while the daemon ran: what waited is sent, what was sent is not sent twice", async () => {
    const { alice, bob, broker } = await startMesh({ members: ["alice", "bob"] });
    await bob.send("alice", "kept");
    await alice.received(1);
    await broker.kill();
    const bodies = await queue(alice, "bob", 5);
    const file = join(tempDir(), "alice.backup");
    await alice.run(["daemon", "backup", file], { env: passphrase });
    expect(statSync(file).mode & 0o777).toBe(0o600);
    for (const secret of [alice.entry.secretKey, "0 xxx", "kept"])
      expect(readFileSync(file).includes(secret)).toBe(false);
    // All of it goes out after the backup was made.
    await broker.up();
    await bob.received(5);
    await alice.send("bob", "since then", { client_message_id: "since" });
    await bob.received(6);

    expect((await refused(alice, ["daemon", "restore", file, "--replace"], 1, passphrase)).error).toBe(
      "already_running",
    );
    await alice.kill();
    rmSync(alice.daemonDir, { recursive: true });
    rmSync(alice.configFile);
    expect(
      (await refused(alice, ["daemon", "restore", file], 4, { CLAUDEMESH_PASSPHRASE: "wrong horse" })).error,
    ).toBe("wrong_passphrase");
    await alice.run(["daemon", "restore", file], { env: passphrase });
    await alice.up();
    await alice.connected();
    expect(await alice.bodies()).toEqual(["kept"]);
    for (let n = 0; n < 5; n++) await alice.reaches(`job-${n}`, "done");
    // An id that was used since then is not known here; the broker knows it.
    await alice.send("bob", "since then", { client_message_id: "since" });
    await alice.reaches("since", "done");
    await alice.send("bob", "the last");
    await bob.received(7);
    expect(await bob.bodies()).toEqual([...bodies, "since then", "the last"]);
  });

  test("a restore that is killed in the middle changes nothing, or everything, and can be repeated", async () => {
    const { alice, broker } = await startMesh({ members: ["alice", "bob"], daemons: ["alice"] });
    await broker.kill();
    await queue(alice, "bob", 150, 40_000);
    await alice.down();
    const file = join(tempDir(), "alice.backup");
    await alice.run(["daemon", "backup", file], { env: passphrase });
    const other = newMember("other");
    await other.run(["daemon", "restore", file], { env: passphrase });
    const saved = databasesOf(other);
    // A host that has something else.
    writeFileSync(other.configFile, readFileSync(other.configFile, "utf8").replace('"team"', '"old"'));
    const before = databasesOf(other);
    const restoring = other.spawn(["daemon", "restore", file, "--replace"], { env: passphrase });
    const staged = join(other.daemonDir, "restoring", "outbox.db");
    await seenBefore(restoring, staged);
    await restoring.stop("SIGKILL");
    const after = databasesOf(other);
    if (!existsSync(join(other.daemonDir, "moves.json"))) expect([before, saved]).toContainEqual(after);
    await other.run(["daemon", "restore", file, "--replace"], { env: passphrase });
    expect(databasesOf(other)).toEqual(saved);
    expect(readdirSync(other.daemonDir)).not.toContain("restoring");
  });

  test("the passphrase is asked for on a terminal, twice, and never shown", async () => {
    const { alice } = await startMesh({ members: ["alice"], daemons: [] });
    const file = join(tempDir(), "alice.backup");
    const type = async (args: string[], answers: [prompt: string, line: string][]) => {
      let shown = "";
      const child = Bun.spawn([...command, ...args], {
        env: { PATH: process.env.PATH ?? "", ...alice.env },
        terminal: {
          data: (_terminal, data) => {
            shown += new TextDecoder().decode(data);
          },
        },
      });
      for (const [prompt, line] of answers) {
        await waitFor(() => shown.endsWith(prompt), { what: `the prompt ${prompt}` });
        child.terminal?.write(line);
      }
      const exitCode = await child.exited;
      child.terminal?.close();
      return { shown, exitCode };
    };
    const differing = await type(
      ["daemon", "backup", file],
      [
        ["new passphrase: ", "open sesame\r"],
        ["again: ", "open sesame!\r"],
      ],
    );
    expect(differing.exitCode).toBe(2);
    expect(differing.shown).toContain("differ");
    expect(existsSync(file)).toBe(false);
    const interrupted = await type(["daemon", "backup", file], [["new passphrase: ", "open\u0003"]]);
    expect(interrupted.exitCode).toBe(130);
    const made = await type(
      ["daemon", "backup", file],
      [
        ["new passphrase: ", "open sesamee\u007f\r"],
        ["again: ", "wrong\u0015open sesame\r"],
      ],
    );
    expect(made.exitCode).toBe(0);
    expect(made.shown).toContain("config.json");
    const other = newMember("other");
    Object.assign(alice.env, other.env);
    const restored = await type(["daemon", "restore", file], [["passphrase: ", "open sesame\r"]]);
    expect(restored.exitCode).toBe(0);
    for (const { shown } of [differing, interrupted, made, restored])
      expect(shown).not.toMatch(/sesame|open/);
  });
});

test("an older database is brought forward with a copy of it kept beside", async () => {
  const { alice } = await startMesh({ members: ["alice"] });
  await alice.down();
  const db = alice.database("outbox");
  const { user_version } = v.parse(
    v.object({ user_version: v.number() }),
    db.query("PRAGMA user_version").get(),
  );
  // As the version before left it.
  db.run("DROP INDEX outbox_whole");
  db.run(`PRAGMA user_version = ${user_version - 1}`);
  db.close();
  await alice.up();
  expect(readdirSync(alice.daemonDir).filter((name) => name.includes("before"))).toEqual([
    `outbox.db.before-v${user_version}`,
  ]);
});

describe.skipIf(!canMount)("a full disk", () => {
  async function openFull(): Promise<{ alice: Member; makeRoom: () => void; file: string }> {
    const { alice, broker } = await startMesh({ members: ["alice", "bob"], daemons: ["alice"] });
    await broker.kill();
    await queue(alice, "bob", 40, 10_000);
    const file = join(tempDir(), "alice.backup");
    await alice.down();
    await alice.run(["daemon", "backup", file], { env: passphrase });
    shrink(alice.daemonDir);
    return { alice, makeRoom: fill(alice.daemonDir), file };
  }

  test("makes a backup, a recovery and a restore say so, change nothing, and work when there is space", async () => {
    const { alice, makeRoom, file } = await openFull();
    const before = databasesOf(alice);
    const target = join(tempDir(), "new.backup");
    expect(await refused(alice, ["daemon", "backup", target], 1, passphrase)).toMatchObject({
      error: "storage_full",
    });
    expect(existsSync(target)).toBe(false);
    expect(await refused(alice, ["daemon", "restore", file, "--replace"], 1, passphrase)).toMatchObject({
      error: "storage_full",
    });
    expect(databasesOf(alice)).toEqual(before);
    damageWayIn(join(alice.daemonDir, "outbox.db"));
    const damaged = databasesOf(alice);
    expect(await refused(alice, ["daemon", "recover"])).toMatchObject({ error: "storage_full" });
    expect(databasesOf(alice)).toEqual(damaged);
    makeRoom();
    expect((await recover(alice)).outbox).toMatchObject({ state: "damaged", rows: 40, lost: 0 });
    await alice.run(["daemon", "backup", target], { env: passphrase });
    await alice.run(["daemon", "restore", target, "--replace"], { env: passphrase });
    await alice.up();
    expect((await alice.outbox()).counts.pending).toBe(40);
  });

  test("of the backup's own is told, and leaves no part of one", async () => {
    const { alice } = await startMesh({ members: ["alice"], daemons: [] });
    const disk = tempDir();
    shrink(disk);
    fill(disk);
    const target = join(disk, "x.backup");
    expect(await refused(alice, ["daemon", "backup", target], 1, passphrase)).toMatchObject({
      error: "storage_full",
    });
    expect(readdirSync(disk)).toEqual(["filler"]);
  });

  test("keeps an older database from being brought forward without a copy", async () => {
    const { alice, makeRoom } = await openFull();
    makeRoom();
    const path = join(alice.daemonDir, "outbox.db");
    const db = new Database(path);
    const { user_version } = v.parse(
      v.object({ user_version: v.number() }),
      db.query("PRAGMA user_version").get(),
    );
    db.run("DROP INDEX outbox_whole");
    db.run(`PRAGMA user_version = ${user_version - 1}`);
    db.run("PRAGMA wal_checkpoint(TRUNCATE)");
    db.close();
    // Space for what a start writes, and not for a copy.
    const makeAll = fill(alice.daemonDir);
    const filler = join(alice.daemonDir, "filler");
    truncateSync(filler, statSync(filler).size - 200_000);
    const reply = await refused(alice, ["daemon", "up", "--no-tcp"]);
    expect(reply).toMatchObject({ error: "storage_full", message: expect.stringContaining("copy") });
    expect(reply.hint).toContain("MB");
    const check = new Database(path, { readonly: true });
    expect(check.query("PRAGMA user_version").get()).toEqual({ user_version: user_version - 1 });
    check.close();
    makeAll();
    await alice.up();
    expect((await alice.outbox()).counts.pending).toBe(40);
  });
});
