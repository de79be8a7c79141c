/** Files that turn up on another host: moved there, or copied while the original goes on. */
import { describe, expect, test } from "bun:test";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { readHostFacts } from "~/identity/host-sources";
import { ErrorReply } from "~/wire/reply";
import { type Member, newMember, startMesh } from "../support/mesh";
import { tempDir } from "../support/temp-dir";
import { waitFor } from "../support/wait-for";
import { openWireTap } from "./wire-tap";

const Link = v.object({ link: v.string() });
const Members = v.object({
  members: v.array(v.object({ name: v.string(), pubkey: v.string(), role: v.string() })),
});
const Reminted = v.object({
  resumed: v.boolean(),
  backup: v.nullable(v.string()),
  retired_messages: v.number(),
  meshes: v.array(
    v.object({
      slug: v.string(),
      outcome: v.string(),
      name: v.exactOptional(v.string()),
      pubkey: v.exactOptional(v.string()),
    }),
  ),
});
const AnyRecord = v.looseObject({
  host_id: v.nullable(v.looseObject({ sha256: v.string() })),
  mac: v.nullable(v.looseObject({ sha256: v.string() })),
});

const recordOf = (member: Member): string => join(member.daemonDir, "host_fingerprint.json");
const planOf = (member: Member): string => join(member.configDir, "remint.json");

/** Makes the record another host's, as it is in files that were copied or moved from there. */
function comesFromElsewhere(member: Member): void {
  const record = v.parse(AnyRecord, JSON.parse(readFileSync(recordOf(member), "utf8")));
  const other = "0".repeat(64);
  const { host_id, mac } = record;
  // Where these tests run on a host that nothing can be told from, only a damaged record counts as another host's.
  const text =
    host_id === null && mac === null
      ? "{"
      : JSON.stringify({
          ...record,
          host_id: host_id && { ...host_id, sha256: other },
          mac: mac && { ...mac, sha256: other },
        });
  writeFileSync(recordOf(member), text);
}

/** What a disk image would hold of this host, in a place of its own: everything but sockets and locks. */
function copyOf(member: Member, name: string): Member {
  const copy = newMember(name, tempDir());
  cpSync(member.configDir, copy.configDir, {
    recursive: true,
    filter: (path) => !/\.(sock|lock)$|\.lock-/.test(path),
  });
  comesFromElsewhere(copy);
  return copy;
}

async function refused(member: Member, args: readonly string[], status: number): Promise<ErrorReply> {
  const result = await member.cli([...args, "--json"]);
  expect([result.stdout, result.exitCode]).toEqual([result.stdout, status]);
  return v.parse(ErrorReply, result.json());
}

const remint = async (copy: Member, ...flags: string[]) =>
  v.parse(Reminted, await copy.json(["daemon", "remint", ...flags]));

const membersOf = async (member: Member) => v.parse(Members, await member.json(["mesh", "members"])).members;

const inviteFrom = async (owner: Member): Promise<string> =>
  v.parse(Link, await owner.json(["mesh", "invite"])).link;

const noPort = ["daemon", "up", "--no-tcp"];

describe("a host that was moved", () => {
  async function movedHost(): Promise<Member> {
    const host = newMember("host");
    await host.up();
    await host.down();
    comesFromElsewhere(host);
    return host;
  }

  test("does not start until it is accepted; the refusal names both ways out", async () => {
    const host = await movedHost();
    const before = readFileSync(recordOf(host), "utf8");
    for (const args of [noPort, [...noPort, "--foreground"]]) {
      const { error, hint } = await refused(host, args, 4);
      expect(error).toBe("host_changed");
      expect(hint).toContain("claudemesh daemon accept-host");
      expect(hint).toContain("claudemesh daemon remint");
    }
    expect(readFileSync(recordOf(host), "utf8")).toBe(before);

    expect(await host.json(["daemon", "accept-host"])).toMatchObject({
      record: recordOf(host),
      changes: [expect.any(String)],
      daemon_pid: null,
    });
    expect(statSync(recordOf(host)).mode & 0o777).toBe(0o600);
    await host.up();
    expect((await host.health()).problems).toEqual([]);
    expect(await host.json(["daemon", "accept-host"])).toMatchObject({
      changes: [],
      daemon_pid: host.daemonPid,
    });
  });

  test("starts with a warning, or without one, where config.toml says so", async () => {
    const host = await movedHost();
    const settings = join(host.configDir, "config.toml");
    writeFileSync(settings, '[daemon]\nhost_policy = "warn"\n', { mode: 0o600 });
    for (let start = 1; start <= 2; start++) {
      await host.up();
      expect((await host.health()).problems).toMatchObject([{ code: "host_changed" }]);
      await host.down();
    }
    writeFileSync(settings, '[daemon]\nhost_policy = "allow"\n');
    await host.up();
    expect((await host.health()).problems).toEqual([]);
    await host.down();
    writeFileSync(settings, "");
    await host.up();
    expect((await host.health()).problems).toEqual([]);
  });

  test("with a record of a newer version runs and leaves it alone", async () => {
    const host = await movedHost();
    writeFileSync(recordOf(host), '{"version": 2}');
    await host.up();
    expect((await host.health()).problems).toMatchObject([{ code: "host_record_newer" }]);
    for (const command of ["accept-host", "remint"])
      expect(
        (await refused(host, ["daemon", command, ...(command === "remint" ? ["--force"] : [])], 1)).error,
      ).toBe(command === "remint" ? "already_running" : "host_record_newer");
    await host.down();
    expect((await refused(host, ["daemon", "remint"], 1)).error).toBe("host_record_newer");
    expect(readFileSync(recordOf(host), "utf8")).toBe('{"version": 2}');
  });
});

describe("a copy of the owner's host", () => {
  test("becomes a member of its own, beside the original, and sends nothing twice", async () => {
    const { alice, bob, broker } = await startMesh({ members: ["alice", "bob"] });
    await broker.down();
    await alice.send("bob", "from the original", { client_message_id: "waiting" });
    await alice.kill();
    const copy = copyOf(alice, "copy");
    await broker.up();
    await alice.up();
    expect((await refused(copy, noPort, 4)).error).toBe("host_changed");

    const before = readFileSync(copy.configFile, "utf8");
    const done = await remint(copy, "--name", "Alice");
    expect(done).toMatchObject({
      resumed: false,
      retired_messages: 1,
      meshes: [{ slug: "team", outcome: "joined", name: "Alice-2", pubkey: copy.pubkey }],
    });
    const backup = done.backup ?? "";
    expect(backup).toStartWith(`${copy.configFile}.before-remint-`);
    expect(readFileSync(backup, "utf8")).toBe(before);
    expect(statSync(backup).mode & 0o777).toBe(0o600);
    expect(readFileSync(copy.configFile, "utf8")).not.toContain(alice.entry.secretKey);
    expect(existsSync(planOf(copy))).toBe(false);
    expect(readdirSync(join(copy.configDir, "pending")).filter((name) => name.endsWith(".json"))).toEqual([]);

    await copy.up();
    await Promise.all([alice.connected(), bob.connected(), copy.connected()]);
    await Promise.all([alice.knows("Alice-2"), bob.knows("Alice-2"), copy.knows("alice")]);
    expect((await membersOf(alice)).map(({ name, role }) => [name, role])).toEqual([
      ["alice", "owner"],
      ["bob", "member"],
      ["Alice-2", "member"],
    ]);
    expect((await copy.health()).problems).toEqual([]);

    await copy.send("bob", "from the copy");
    await bob.received(2);
    await bob.send("alice", "to the original");
    await bob.send("Alice-2", "to the copy");
    await alice.send("Alice-2", "between the two");
    await copy.received(2);
    await alice.received(1);
    expect((await bob.inbox()).map(({ body, from }) => [body, from.pubkey])).toEqual([
      ["from the original", alice.pubkey],
      ["from the copy", copy.pubkey],
    ]);
    expect((await copy.bodies()).toSorted()).toEqual(["between the two", "to the copy"]);
    expect(await alice.bodies()).toEqual(["to the original"]);
    expect(await copy.row("waiting")).toMatchObject({ status: "aborted", aborted_by: "remint" });
    expect(await alice.message("waiting")).toMatchObject({ status: "done" });
    expect([await alice.link(), await copy.link()]).toEqual(["open", "open"]);
  });

  test("is joined once, though the first run was killed after the broker let it in", async () => {
    const tap = openWireTap();
    const { alice } = await startMesh({ members: ["alice"], brokerUrl: tap.urlFor });
    await alice.down();
    const copy = copyOf(alice, "copy");
    const never = Promise.withResolvers<void>();
    tap.beforeAnswer = (path) => (path === "/join" ? never.promise : undefined);
    const first = copy.spawn(["daemon", "remint", "--name", "copy"]);
    await waitFor(() => tap.bodies.some((text) => text.includes('"memberId"')), {
      what: "the broker to let it in",
    });
    await first.stop("SIGKILL");
    const plan = readFileSync(planOf(copy), "utf8");
    never.resolve();
    tap.beforeAnswer = () => undefined;

    // Half of it is done: neither the daemon nor accept-host takes it for the one host or the other.
    expect((await refused(copy, noPort, 4)).error).toBe("host_changed");
    const { error, hint } = await refused(copy, ["daemon", "accept-host"], 4);
    expect([error, hint]).toEqual(["not_allowed", expect.stringContaining("claudemesh daemon remint")]);

    expect(await remint(copy, "--name", "copy")).toMatchObject({
      resumed: true,
      meshes: [{ outcome: "joined", name: "copy", pubkey: copy.pubkey }],
    });
    expect((await membersOf(alice)).map(({ name, pubkey }) => [name, pubkey])).toEqual([
      ["alice", alice.pubkey],
      ["copy", copy.pubkey],
    ]);
    expect(existsSync(planOf(copy))).toBe(false);

    // Killed just before the plan was removed: everything is done, and nothing is done twice.
    writeFileSync(planOf(copy), plan);
    const { pubkey } = copy;
    expect(await remint(copy)).toMatchObject({ resumed: true, meshes: [{ outcome: "joined", pubkey }] });
    expect(copy.pubkey).toBe(pubkey);
    expect(await membersOf(alice)).toHaveLength(2);
    expect(existsSync(planOf(copy))).toBe(false);
  });

  test("whose broker is away can be finished later, or do without that mesh", async () => {
    const { alice, broker } = await startMesh({ members: ["alice"], daemons: ["alice"] });
    await alice.down();
    const copy = copyOf(alice, "copy");
    const other = copyOf(alice, "other");
    await broker.down();
    for (const host of [copy, other]) {
      const reply = await refused(host, ["daemon", "remint", "--name", "copy"], 3);
      expect(reply.error).toBe("broker_unreachable");
      expect(reply.hint).toContain("--forget team");
      expect(host.pubkey).toBe(alice.pubkey);
      expect((await refused(host, noPort, 4)).error).toBe("host_changed");
    }
    expect((await remint(other, "--forget", "team")).meshes).toEqual([
      { slug: "team", outcome: "taken_out" },
    ]);
    await other.up();
    expect((await other.health()).meshes).toEqual({});

    await broker.up();
    expect(await remint(copy, "--name", "copy")).toMatchObject({
      resumed: true,
      meshes: [{ outcome: "joined", name: "copy" }],
    });
    await Promise.all([alice.up(), copy.up()]);
    await Promise.all([alice.connected(), copy.connected()]);
    expect((await membersOf(alice)).map(({ name }) => name)).toEqual(["alice", "copy"]);
  });
});

describe("a copy of a member's host", () => {
  test("joins with an invite, under a name that is free, and keeps whom it trusts", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"], daemons: ["alice", "bob"] });
    await bob.run(["mesh", "trust", "alice"]);
    await bob.down();
    const copy = copyOf(bob, "copy");
    const link = await inviteFrom(alice);
    const done = await remint(copy, "--invite", link, "--name", "bob");
    expect(done.meshes).toMatchObject([{ outcome: "joined", name: "bob-2", pubkey: copy.pubkey }]);
    expect(copy.entry.trustedKeys).toEqual([alice.pubkey]);
    await Promise.all([bob.up(), copy.up()]);
    await Promise.all([bob.connected(), copy.connected(), alice.knows("bob-2"), alice.knows("bob")]);
    await alice.send("bob", "first");
    await alice.send("bob-2", "second");
    await Promise.all([bob.received(1), copy.received(1)]);
    expect([await bob.bodies(), await copy.bodies()]).toEqual([["first"], ["second"]]);
  });

  test("without an invite leaves the mesh here, the original in it, and says how to join", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"], daemons: ["alice", "bob"] });
    await bob.down();
    const copy = copyOf(bob, "copy");
    const result = await copy.run(["daemon", "remint"]);
    expect(result.stdout).toContain("team: no longer in it");
    expect(result.stderr).toContain("claudemesh join LINK");
    expect(await copy.json(["mesh", "list"])).toEqual({ meshes: [] });
    await bob.up();
    await bob.connected();
    await copy.up();
    await copy.run(["join", await inviteFrom(alice), "--name", "copy"]);
    await copy.connected();
    expect((await membersOf(alice)).map(({ name }) => name)).toEqual(["alice", "bob", "copy"]);
    expect(await bob.link()).toBe("open");
  });

  test("changes nothing with an invite that is of no use, and can be run again with a good one", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"], daemons: ["bob"] });
    const elsewhere = await startMesh({ members: ["zoe"], daemons: [], slug: "elsewhere" });
    await bob.down();
    const copy = copyOf(bob, "copy");
    const before = readFileSync(copy.configFile, "utf8");
    const good = await inviteFrom(alice);
    const foreign = await inviteFrom(elsewhere.zoe);
    const useless: [flags: string[], status: number, error: string][] = [
      [["--invite", `${good}x`.replace("eyJ", "eyK")], 2, "invite_invalid"],
      [["--invite", foreign], 2, "usage"],
      [["--invite", good, "--invite", good], 2, "usage"],
      [["--forget", "nowhere"], 5, "no_such_mesh"],
    ];
    for (const [flags, status, error] of useless) {
      expect([flags, (await refused(copy, ["daemon", "remint", ...flags], status)).error]).toEqual([
        flags,
        error,
      ]);
      expect(readFileSync(copy.configFile, "utf8")).toBe(before);
      expect(readdirSync(copy.configDir).filter((name) => name.includes("remint"))).toEqual([]);
    }
    // Used up by somebody else: nobody can know before the broker says so.
    await newMember("eve").run(["join", good, "--name", "eve"]);
    expect((await refused(copy, ["daemon", "remint", "--invite", good], 4)).error).toBe("invite_used_up");
    expect(copy.pubkey).toBe(bob.pubkey);
    expect((await remint(copy, "--invite", await inviteFrom(alice), "--name", "copy")).meshes).toMatchObject([
      { outcome: "joined", name: "copy" },
    ]);
    expect((await membersOf(alice)).map(({ name }) => name)).toEqual(["alice", "bob", "eve", "copy"]);
  });

  test("does not take over what the original had begun to join, nor a remint that was copied in its middle", async () => {
    const { alice, bob, join: joinAs } = await startMesh({ members: ["alice", "bob"], daemons: ["bob"] });
    await bob.down();
    const copy = copyOf(bob, "copy");
    mkdirSync(join(copy.configDir, "pending"), { recursive: true, mode: 0o700 });
    writeFileSync(join(copy.configDir, "pending", "of-the-original.json"), "{}");
    const dave = await joinAs("dave");
    const plan = {
      version: 1,
      id: "0".repeat(32),
      started_at: "2026-01-31T10:00:00.000Z",
      host: "1".repeat(64),
      backup: "",
      meshes: [{ mesh_id: bob.entry.meshId, slug: "team", copied_pubkey: dave.pubkey }],
    };
    writeFileSync(planOf(copy), JSON.stringify(plan));
    // By the plan the mesh would have new keys already.
    const link = await inviteFrom(alice);
    expect(await remint(copy, "--invite", link, "--name", "copy")).toMatchObject({
      resumed: false,
      meshes: [{ outcome: "joined", name: "copy" }],
    });
    expect(copy.pubkey).not.toBe(bob.pubkey);
    const aside = readdirSync(copy.configDir).find((name) => name.startsWith("pending.before-remint-")) ?? "";
    expect(readdirSync(join(copy.configDir, aside))).toContain("of-the-original.json");
  });
});

describe("new keys are not made", () => {
  test("under a running daemon", async () => {
    const host = newMember("host");
    await host.up();
    const { error, hint } = await refused(host, ["daemon", "remint", "--force"], 1);
    expect([error, hint]).toEqual(["already_running", expect.stringContaining("claudemesh daemon down")]);
  });

  // On a host that nothing can be told from, nothing says that the files are its own.
  const { id, macs } = readHostFacts();
  test.skipIf(id === undefined && macs.length === 0)(
    "on the original, unless it is insisted upon",
    async () => {
      const { bob, alice } = await startMesh({ members: ["alice", "bob"], daemons: ["bob"] });
      await bob.down();
      const { error, hint } = await refused(bob, ["daemon", "remint"], 4);
      expect([error, hint]).toEqual(["not_allowed", expect.stringContaining("--force")]);
      const link = await inviteFrom(alice);
      expect((await remint(bob, "--force", "--invite", link)).meshes).toMatchObject([{ outcome: "joined" }]);
    },
  );

  test("from an outbox that is damaged, before anything else has changed for good", async () => {
    const { bob, alice } = await startMesh({ members: ["alice", "bob"], daemons: ["bob"] });
    await bob.down();
    const copy = copyOf(bob, "copy");
    writeFileSync(join(copy.daemonDir, "outbox.db"), Buffer.alloc(20_000, "no database at all "));
    const { error, hint } = await refused(copy, ["daemon", "remint", "--invite", await inviteFrom(alice)], 1);
    expect([error, hint]).toEqual(["database_corrupt", expect.stringContaining("daemon recover")]);
    expect(copy.pubkey).toBe(bob.pubkey);
  });
});
