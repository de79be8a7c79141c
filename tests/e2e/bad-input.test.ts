/** What goes wrong on a command line: each time a clear answer with a way out, the right exit status, and nothing lost. */
import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { ErrorReply } from "~/wire/reply";
import { cleanup } from "../support/cleanup";
import { type CliResult, spawnCli } from "../support/cli";
import { type Member, newMember, startMesh } from "../support/mesh";
import { tempDir } from "../support/temp-dir";
import { waitFor } from "../support/wait-for";

/** A failure as a person and as a program see it. */
async function failure(
  member: Member,
  args: readonly string[],
  options: Parameters<Member["cli"]>[1] = {},
): Promise<ErrorReply & { exit: number; stderr: string }> {
  const result: CliResult = await member.cli([...args, "--json"], options);
  if (result.exitCode === 0) throw new Error(`claudemesh ${args.join(" ")} succeeded:\n${result.stdout}`);
  const reply = v.parse(ErrorReply, result.json());
  expect(result.stderr).toContain(reply.message);
  if (reply.hint !== undefined) expect(result.stderr).toContain(reply.hint);
  expect(result.stderr).not.toMatch(/\n\s+at |MeshError|undefined|\[object/);
  return { ...reply, exit: result.exitCode, stderr: result.stderr };
}

const portOf = (url: string): number => Number(new URL(url).port);

/** A server on a free port that answers like anything but a broker. */
function strangeServer(options: { websocket?: (text: string) => string | undefined } = {}): string {
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: (request, self) => {
      if (options.websocket !== undefined && self.upgrade(request)) return undefined;
      return new Response("<html>Welcome to nginx!</html>", { status: 200 });
    },
    websocket: {
      open: (ws) => void ws.send("{"),
      message(ws, text) {
        const answer = options.websocket?.(String(text));
        if (answer !== undefined) ws.send(answer);
      },
    },
  });
  cleanup(async () => {
    await server.stop(true);
  });
  return `ws://127.0.0.1:${server.port}/ws`;
}

describe("nobody there", () => {
  test("a host that is in no mesh is told how to get into one", async () => {
    const alice = newMember("alice");
    expect(await failure(alice, ["send", "bob", "hi"])).toMatchObject({ exit: 5, error: "no_mesh" });
    expect((await failure(alice, ["send", "bob", "hi"])).hint).toContain("claudemesh join");
    for (const args of [
      ["inbox"],
      ["peers"],
      ["events"],
      ["profile"],
      ["track", "x"],
      ["daemon", "outbox", "list"],
    ]) {
      const { exit, error, hint } = await failure(alice, args);
      expect([args, exit, error, hint]).toEqual([
        args,
        3,
        "daemon_unreachable",
        expect.stringContaining("daemon up"),
      ]);
    }
    for (const args of [
      ["mesh", "members"],
      ["mesh", "invite"],
      ["mesh", "leave"],
      ["mesh", "remove", "x"],
    ])
      expect([args, (await failure(alice, args)).exit]).toEqual([args, 5]);
    // Asking has left nothing behind.
    expect(existsSync(alice.configFile)).toBe(false);
  });

  test("without daemon and broker a send says that nothing was kept, and how to keep it", async () => {
    const { alice, broker } = await startMesh({ members: ["alice", "bob"], daemons: [] });
    await broker.down();
    const refused = await failure(alice, ["send", "bob", "hi"]);
    expect(refused).toMatchObject({ exit: 3, error: "broker_unreachable" });
    expect(refused.hint).toContain("daemon up");
    for (const args of [
      ["mesh", "members"],
      ["mesh", "invite"],
    ])
      expect(await failure(alice, args)).toMatchObject({ exit: 3, error: "broker_unreachable" });
    // With the daemon, on a host that never saw the list of members, a send cannot know whom it is for.
    await alice.up();
    const unknown = await failure(alice, ["send", "bob", "hi"]);
    expect(unknown).toMatchObject({ exit: 3, error: "directory_unavailable" });
  });
});

describe("whom and what", () => {
  test("unknown, similar, ambiguous and own names", async () => {
    const mesh = await startMesh({ members: ["alice", "bob"] });
    const { alice } = mesh;
    const unknown = await failure(alice, ["send", "zoe", "hi"]);
    expect(unknown).toMatchObject({ exit: 5, error: "unknown_peer", candidates: [] });
    const similar = await failure(alice, ["send", "bobby", "hi"]);
    expect(similar).toMatchObject({ exit: 5, error: "unknown_peer", candidates: ["bob"] });
    expect(similar.hint).toContain("bob");
    expect(await failure(alice, ["send", "Alice", "hi"])).toMatchObject({
      exit: 2,
      error: "self_destination",
    });
    expect(await failure(alice, ["send", "@news", "hi"])).toMatchObject({
      exit: 2,
      error: "unsupported_destination",
    });

    const other = await mesh.join("bob", "other-bob");
    await waitFor(async () => (await alice.post("bob", "hi")).status === 400, { what: "both to be known" });
    const ambiguous = await failure(alice, ["send", "bob", "hi"]);
    expect(ambiguous).toMatchObject({ exit: 5, error: "ambiguous_peer" });
    for (const { pubkey } of [mesh.bob, other]) expect(ambiguous.hint).toContain(pubkey.slice(0, 16));
    // By its key the right one gets it.
    await alice.run(["send", mesh.bob.pubkey.slice(0, 16), "to the first bob"]);
    await waitFor(async () => (await mesh.bob.bodies()).includes("to the first bob"), {
      what: "it to arrive",
    });
    const tooShort = await failure(alice, ["send", mesh.bob.pubkey.slice(0, 7), "hi"]);
    expect(tooShort.error).toBe("unknown_peer");
  });

  test("texts and ids that cannot be sent", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
    const file = join(tempDir(), "binary");
    writeFileSync(file, new Uint8Array([0x61, 0x62, 0xc3, 0x28]));
    const large = join(tempDir(), "large");
    writeFileSync(large, "x".repeat(2_000_000));
    const cases: [args: string[], stdin: string | undefined, exit: number, error: string][] = [
      [["send", "bob", ""], undefined, 2, "message_empty"],
      [["send", "bob", "-"], "", 2, "message_empty"],
      [["send", "bob"], undefined, 2, "usage"],
      [["send", "bob", "a", "b"], undefined, 2, "usage"],
      [["send", "bob", "a", "--file", file], undefined, 2, "usage"],
      [["send", "bob", "--file", file], undefined, 2, "invalid_message"],
      [["send", "bob", "--file", "/does/not/exist"], undefined, 1, "storage_failed"],
      [["send", "bob", "--file", "/tmp"], undefined, 1, "storage_failed"],
      [["send", "bob", "x".repeat(70_000)], undefined, 2, "message_too_large"],
      [["send", "bob", "--file", large], undefined, 2, "message_too_large"],
      [["send", "bob", "x", "--id", "has space"], undefined, 2, "invalid_id"],
      [["send", "bob", "x", "--id", ""], undefined, 2, "invalid_id"],
      [["send", "bob", "x", "--priority", "urgent"], undefined, 2, "usage"],
      [["send", "bob", "x", "--meta", "novalue"], undefined, 2, "usage"],
      [["send", "bob", "x", "--meta", "a=1", "--meta", "a=2"], undefined, 2, "usage"],
      [["send", "bob", "x", "--prioritty", "now"], undefined, 2, "usage"],
      [["send", "bob", "x", "--reply-to", "nothing"], undefined, 5, "no_such_message"],
      [["send", "bob", "x", "--mesh", "other"], undefined, 5, "no_such_mesh"],
      [["send", "bob", "x", "--wait", "delivered"], undefined, 2, "usage"],
      [["inbox", "--limit", "0"], undefined, 2, "usage"],
      [["daemon", "up", "--tcp-port", "70000"], undefined, 2, "usage"],
      [["daemon", "outbox", "list", "--done", "--failed"], undefined, 2, "usage"],
    ];
    for (const [args, stdin, exit, error] of cases) {
      const got = await failure(alice, args, stdin === undefined ? {} : { stdin });
      const what = args.join(" ").slice(0, 60);
      expect([what, got.exit, got.error]).toEqual([what, exit, error]);
    }
    const tooLarge = await failure(alice, ["send", "bob", "x".repeat(70_000)]);
    expect(tooLarge.message).toMatch(/7\d{4} bytes.*65536/);
    const invalid = await failure(alice, ["send", "bob", "--file", file]);
    expect(invalid.message).toContain("byte 2");
    // None of it was taken, and none of the ids was used up.
    expect((await alice.outbox()).items).toEqual([]);
    expect(await bob.inbox()).toEqual([]);
  });

  test("text from standard input and from a file is sent byte for byte", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
    const text = "\ufeff  two lines\r\n\tand a tab \u0000 𝕏\n\n";
    const file = join(tempDir(), "text");
    writeFileSync(file, text);
    await alice.run(["send", "bob", "-"], { stdin: text });
    await alice.run(["send", "bob", "--file", file]);
    await alice.run(["send", "bob", "--", "--looks-like-a-flag"]);
    expect((await bob.received(3)).map(({ body }) => body)).toEqual([text, text, "--looks-like-a-flag"]);
    // A terminal is not steered by what somebody wrote.
    await alice.run(["send", "bob", "\u001b]0;owned\u0007\u009b31m\u202e"]);
    await bob.received(4);
    const { stdout } = await bob.run(["inbox"]);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they must not be there
    expect(stdout).not.toMatch(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202e]/);
  });
});

describe("config.json", () => {
  test("that does not parse is never written to, whatever command comes along", async () => {
    const mesh = await startMesh({ members: ["alice", "bob"], daemons: [] });
    const { alice, broker } = mesh;
    const { link } = v.parse(v.object({ link: v.string() }), await alice.json(["mesh", "invite"]));
    const whole = readFileSync(alice.configFile, "utf8");
    const damaged: [what: string, content: string][] = [
      ["cut off", whole.slice(0, -20)],
      ["empty", ""],
      ["of another kind", "[]"],
      ["of a later version", whole.replace('"version": 1', '"version": 2')],
      ["with a damaged key", whole.replace(/"secretKey": "../, '"secretKey": "zz')],
      ["with keys that do not belong together", whole.replace(/("secretKey": "[0-9a-f]{10})./, "$1f")],
      ["with a wrong URL", whole.replace("ws://", "http://")],
    ];
    for (const [what, content] of damaged) {
      if (content === whole) continue;
      writeFileSync(alice.configFile, content, { mode: 0o600 });
      for (const args of [
        ["mesh", "list"],
        ["mesh", "members"],
        ["mesh", "create", "another", "--broker", broker.url],
        ["mesh", "leave"],
        ["join", link, "--name", "x"],
        ["send", "bob", "hi"],
      ]) {
        const { exit, error, message, hint } = await failure(alice, args);
        expect([what, args[0], args[1], exit, error]).toEqual([what, args[0], args[1], 1, "config_invalid"]);
        expect(message).toContain(alice.configFile);
        expect(hint).toMatch(/move it aside/);
      }
      expect(readFileSync(alice.configFile, "utf8")).toBe(content);
    }
    // The daemon starts all the same and says what is wrong; when the file is mended it goes on by itself.
    await alice.up();
    expect((await alice.health()).problems).toMatchObject([{ code: "config_invalid" }]);
    const mended = `${alice.configFile}.mended`;
    writeFileSync(mended, whole, { mode: 0o600 });
    renameSync(mended, alice.configFile);
    await alice.connected();
    expect((await alice.health()).problems).toEqual([]);
    // Damaged again, the mesh that runs goes on.
    writeFileSync(alice.configFile, "{");
    await waitFor(async () => (await alice.health()).problems.length === 1, { what: "it to be noticed" });
    expect(await alice.link()).toBe("open");
    expect((await alice.post("bob", "still here")).status).toBe(202);
    expect(readFileSync(alice.configFile, "utf8")).toBe("{");
    // The invite was not used up by the join that could not be.
    await mesh.bob.run(["mesh", "leave"]);
    await mesh.bob.run(["join", link, "--name", "bob"]);
  });

  test("that others can read is refused, and says the command that mends it", async () => {
    const { alice } = await startMesh({ members: ["alice", "bob"], daemons: [] });
    chmodSync(alice.configFile, 0o644);
    for (const args of [
      ["mesh", "list"],
      ["send", "bob", "hi"],
    ]) {
      const { exit, error, hint } = await failure(alice, args);
      expect([exit, error, hint]).toEqual([4, "config_unsafe", `chmod 600 '${alice.configFile}'`]);
    }
    await alice.up();
    expect((await alice.health()).problems).toMatchObject([{ code: "config_unsafe" }]);
  });

  test("is written by several processes at once without losing a mesh", async () => {
    const { alice, broker } = await startMesh({ members: ["alice"], daemons: ["alice"] });
    const names = Array.from({ length: 8 }, (_, index) => `mesh-${index}`);
    await Promise.all(
      names.map((name) =>
        alice.run(["mesh", "create", name, "--broker", broker.url, "--display-name", "alice"], {
          env: { CLAUDEMESH_BROKER_DATA: broker.dataDir },
        }),
      ),
    );
    const { meshes } = v.parse(
      v.object({ meshes: v.array(v.object({ slug: v.string() })) }),
      await alice.json(["mesh", "list"]),
    );
    expect(meshes.map(({ slug }) => slug).sort()).toEqual([...names, "team"].sort());
    await waitFor(
      async () =>
        Object.values((await alice.health()).meshes).filter(({ link }) => link === "open").length === 9,
      { what: "the daemon to be connected to all of them" },
    );
    // With several meshes a name that none knows needs one to be named.
    expect(await failure(alice, ["send", "bob", "x"])).toMatchObject({ exit: 2, error: "mesh_required" });
  });
});

describe("invites", () => {
  test("that are expired, tampered with, cut off, used up or unknown let nobody in", async () => {
    const { alice, broker } = await startMesh({ members: ["alice"], daemons: [] });
    const invite = async (...flags: string[]): Promise<string> =>
      v.parse(v.object({ link: v.string() }), await alice.json(["mesh", "invite", ...flags])).link;
    const zoe = newMember("zoe");
    const joining = (link: string): ReturnType<typeof failure> =>
      failure(zoe, ["join", link, "--name", "zoe"]);
    const contentOf = (link: string): Record<string, unknown> =>
      JSON.parse(Buffer.from(link.slice("ic://join/".length), "base64url").toString());
    const linkOf = (content: unknown): string =>
      `ic://join/${Buffer.from(JSON.stringify(content)).toString("base64url")}`;

    const expired = await invite("--expires", "1s");
    const { expires_at } = v.parse(v.looseObject({ expires_at: v.number() }), contentOf(expired));
    await waitFor(() => Date.now() > (expires_at + 1) * 1000, { what: "the invite to expire" });
    expect(await joining(expired)).toMatchObject({ exit: 4, error: "invite_expired" });

    const good = await invite();
    for (const change of [
      { role: "admin" },
      { expires_at: 9_999_999_999 },
      { broker_url: "ws://127.0.0.1:1/ws" },
      { mesh_slug: "other" },
      { invite_secret: "00".repeat(32) },
      { owner_pubkey: "00".repeat(32) },
    ])
      expect(await joining(linkOf({ ...contentOf(good), ...change }))).toMatchObject({
        exit: 2,
        error: "invite_invalid",
      });
    for (const link of [
      good.slice(0, -30),
      good.slice(1),
      "ic://join/",
      "https://example.org",
      linkOf([]),
      linkOf({ v: 2 }),
    ])
      expect(await joining(link)).toMatchObject({ exit: 2, error: "invite_invalid" });

    const first = newMember("first");
    await first.run(["join", good, "--name", "first"]);
    expect(await joining(good)).toMatchObject({ exit: 4, error: "invite_used_up" });
    const twice = await invite("--uses", "2");
    for (const name of ["second", "third"]) await newMember(name).run(["join", twice, "--name", name]);
    expect(await joining(twice)).toMatchObject({ exit: 4, error: "invite_used_up" });

    // Only the owner invites.
    expect(await failure(first, ["mesh", "invite"])).toMatchObject({ exit: 4, error: "not_allowed" });
    // A broker that has lost its data knows nothing of the invite.
    const open = await invite();
    await broker.down();
    for (const suffix of ["", "-wal", "-shm"]) {
      const path = join(broker.dataDir, `broker.db${suffix}`);
      if (existsSync(path)) unlinkSync(path);
    }
    await broker.up();
    expect(await joining(open)).toMatchObject({ exit: 2, error: "invite_invalid" });
    // After all of that zoe is nowhere, and nothing is left to resume.
    expect(
      v.parse(v.object({ meshes: v.array(v.unknown()) }), await zoe.json(["mesh", "list"])).meshes,
    ).toEqual([]);
  });

  test("names that cannot be used are refused before the broker is asked", async () => {
    const { alice } = await startMesh({ members: ["alice"], daemons: [] });
    const { link } = v.parse(v.object({ link: v.string() }), await alice.json(["mesh", "invite"]));
    const zoe = newMember("zoe");
    for (const name of ["", " ", "a/b", "@news", "a|b", "x".repeat(65), "a\u0007b"])
      expect([name, (await failure(zoe, ["join", link, "--name", name])).exit]).toEqual([name, 2]);
    await zoe.run(["join", link, "--name", "  Zoë with spaces "]);
    const members = JSON.stringify(await zoe.json(["mesh", "members"]));
    expect(members).toContain('"Zoë with spaces"');
  });
});

describe("a broker's address", () => {
  test("where nothing, something else or nonsense answers", async () => {
    const alice = newMember("alice");
    const env = { CLAUDEMESH_BROKER_TOKEN: "x".repeat(43) };
    const create = (url: string): ReturnType<typeof failure> =>
      failure(alice, ["mesh", "create", "team", "--broker", url], { env });
    const nothing = await create("ws://127.0.0.1:1/ws");
    expect(nothing).toMatchObject({ exit: 3, error: "broker_unreachable" });
    expect(nothing.message).toContain("127.0.0.1:1");
    expect(await create(strangeServer())).toMatchObject({ exit: 1, error: "bad_gateway" });
    expect(await create("http://127.0.0.1:7900")).toMatchObject({
      exit: 2,
      error: "usage",
      hint: "Did you mean ws://127.0.0.1:7900/ws?",
    });
    for (const url of ["127.0.0.1:7900", "ws://", "ftp://x", "", "ws://a b"])
      expect([url, (await create(url)).exit]).toEqual([url, 2]);
    expect(existsSync(alice.configFile)).toBe(false);
  });

  test("with the wrong admin token, or none", async () => {
    const { alice, broker } = await startMesh({ members: ["alice"], daemons: [] });
    const zoe = newMember("zoe");
    const args = ["mesh", "create", "other", "--broker", broker.url, "--display-name", "zoe"];
    const wrong = await failure(zoe, args, { env: { CLAUDEMESH_BROKER_TOKEN: "wrong" } });
    expect(wrong).toMatchObject({ exit: 4, error: "unauthorized" });
    const none = await failure(zoe, args);
    expect(none).toMatchObject({ exit: 4, error: "unauthorized" });
    expect(none.hint).toContain("CLAUDEMESH_BROKER_TOKEN");
    const taken = await failure(
      zoe,
      ["mesh", "create", "team", "--broker", broker.url, "--display-name", "zoe"],
      {
        env: { CLAUDEMESH_BROKER_DATA: broker.dataDir },
      },
    );
    expect(taken).toMatchObject({ exit: 6, error: "mesh_exists" });
    expect(await failure(alice, ["mesh", "create", "team", "--broker", broker.url])).toMatchObject({
      exit: 6,
    });
  });

  test("that leads to a WebSocket that talks nonsense: the daemon lives, and messages wait", async () => {
    const mesh = await startMesh({ members: ["alice", "bob"], daemons: ["alice"] });
    const { alice } = mesh;
    await alice.down();
    const nonsense = strangeServer({ websocket: () => "\u0000not json" });
    const config = readFileSync(alice.configFile, "utf8");
    writeFileSync(alice.configFile, config.replace(mesh.broker.url, nonsense));
    await alice.up();
    const { status } = await alice.post("bob", "later");
    expect(status).toBe(202);
    expect((await alice.health()).outbox.counts.pending).toBe(1);
    expect(await alice.link()).not.toBe("open");
    const moved = `${alice.configFile}.moved`;
    writeFileSync(moved, config, { mode: 0o600 });
    renameSync(moved, alice.configFile);
    await waitFor(async () => (await alice.health()).outbox.counts.done === 1, {
      what: "the message to leave",
    });
  });
});

describe("two of a kind", () => {
  test("a second daemon on a directory leaves the first as it is", async () => {
    const { alice } = await startMesh({ members: ["alice"] });
    const pid = alice.daemonPid;
    expect(await alice.json(["daemon", "up"])).toEqual({ pid, socket: alice.socket, started: false });
    const { stdout } = await alice.run(["daemon", "up"]);
    expect(stdout).toContain(`already: pid ${pid}`);
    // In the foreground as well.
    const second = await alice.cli(["daemon", "up", "--foreground", "--json"]);
    expect(second.stdout + second.stderr).toMatch(/already|"started":false/);
    expect((await alice.health()).pid).toBe(pid);
  });

  test("the lock keeps a second one out although the socket's file is gone", async () => {
    const { alice } = await startMesh({ members: ["alice"] });
    unlinkSync(alice.socket);
    const refused = await failure(alice, ["daemon", "up", "--no-tcp", "--foreground"]);
    expect(refused).toMatchObject({ exit: 1, error: "already_running" });
    expect(refused.message).toContain(alice.daemonDir);
    // It did not take the files of the one that runs, which has put its socket back, or is about to.
    await waitFor(() => existsSync(alice.socket), { what: "the socket" });
    expect((await alice.health()).pid).toBe(alice.daemonPid);
    await alice.kill();
    await alice.up();
    expect((await alice.health()).ok).toBe(true);
  });

  test("daemons that are started at the same moment are one in the end, and every command says which", async () => {
    const { alice } = await startMesh({ members: ["alice"], daemons: [] });
    const Up = v.object({ pid: v.number(), started: v.boolean() });
    const results = await Promise.all(
      Array.from({ length: 5 }, () => alice.cli(["daemon", "up", "--no-tcp", "--json"])),
    );
    const { pid } = await alice.health();
    cleanup(async () => {
      await alice.run(["daemon", "down"]);
    });
    expect(results.map(({ exitCode, stderr }) => [exitCode, stderr])).toEqual(results.map(() => [0, ""]));
    const ups = results.map((result) => v.parse(Up, result.json()));
    expect(ups.map((up) => up.pid)).toEqual(ups.map(() => pid));
    expect(ups.filter(({ started }) => started)).toHaveLength(1);
  });

  test("and so are brokers on one directory", async () => {
    const alice = newMember("alice");
    const Up = v.object({ pid: v.number(), url: v.string(), started: v.boolean() });
    const up = ["broker", "up", "--port", "0", "--json"];
    const results = await Promise.all(Array.from({ length: 5 }, () => alice.cli(up)));
    cleanup(async () => {
      await alice.run(["broker", "down"]);
    });
    expect(results.map(({ exitCode }) => exitCode)).toEqual(results.map(() => 0));
    const ups = results.map((result) => v.parse(Up, result.json()));
    expect(new Set(ups.map(({ url }) => url)).size).toBe(1);
    expect(ups.filter(({ started }) => started)).toHaveLength(1);
    expect(await alice.json(["broker", "status"])).toMatchObject({ pid: ups[0]?.pid, url: ups[0]?.url });
  });

  test("what a daemon that was killed left behind is in nobody's way", async () => {
    const { alice } = await startMesh({ members: ["alice"] });
    await alice.kill();
    expect(existsSync(alice.socket)).toBe(true);
    const gone = await failure(alice, ["daemon", "status"]);
    expect(gone).toMatchObject({ exit: 3, error: "daemon_unreachable" });
    expect(await alice.json(["daemon", "down"])).toEqual({ stopped: false, pid: null });
    await alice.up();
    expect((await alice.health()).ok).toBe(true);
    // A file that is no socket is replaced, too.
    await alice.down();
    writeFileSync(alice.socket, "not a socket");
    await alice.up();
    expect((await alice.health()).ok).toBe(true);
  });

  test("a second broker on a directory, and one on a port that is taken", async () => {
    const { alice, broker } = await startMesh({ members: ["alice"], daemons: [] });
    const up = ["broker", "up", "--port", "0"];
    expect(await alice.json(up)).toEqual({
      pid: broker.pid,
      url: broker.url,
      data: broker.dataDir,
      started: false,
    });
    unlinkSync(join(broker.dataDir, "broker.json"));
    const refused = await failure(alice, [...up, "--foreground"]);
    expect(refused).toMatchObject({ exit: 1, error: "already_running" });
    expect(refused.message).toContain(broker.dataDir);
    const port = String(portOf(broker.url));
    for (const flags of [[], ["--foreground"]]) {
      const taken = await failure(alice, [
        "broker",
        "up",
        "--port",
        port,
        "--data",
        join(alice.configDir, "other"),
        ...flags,
      ]);
      expect(taken).toMatchObject({ exit: 1, error: "port_in_use" });
      expect(taken.message).toContain(port);
      expect(taken.hint).toContain("--port");
    }
    const open = await failure(alice, [
      "broker",
      "up",
      "--host",
      "0.0.0.0",
      "--port",
      "0",
      "--data",
      join(alice.configDir, "open"),
    ]);
    expect(open).toMatchObject({ exit: 2, error: "usage" });
    expect(open.hint).toContain("--tls-cert");
  });

  test("a TCP port that is taken is a warning: the socket serves", async () => {
    const { alice, broker } = await startMesh({ members: ["alice"], daemons: [] });
    await alice.up(["--tcp-port", String(portOf(broker.url))]);
    const { problems } = await alice.health();
    expect(problems).toMatchObject([{ code: "port_in_use" }]);
    expect(problems[0]?.hint).toContain("--tcp-port");
    expect(existsSync(join(alice.daemonDir, "http.port"))).toBe(false);
  });
});

describe("places that will not do", () => {
  test("a socket path that is too long names the limit and the way round", async () => {
    const alice = newMember("alice");
    const env = { CLAUDEMESH_DAEMON_DIR: join(tempDir(), "x".repeat(120)) };
    for (const args of [
      ["daemon", "up"],
      ["daemon", "up", "--foreground"],
      ["daemon", "status"],
      ["inbox"],
      ["send", "bob", "x"],
    ]) {
      const { exit, error, message, hint } = await failure(alice, args, { env });
      expect([args, exit, error]).toEqual([args, 1, "socket_path_too_long"]);
      expect(message).toMatch(process.platform === "darwin" ? /103/ : /107/);
      expect(hint).toContain("CLAUDEMESH_DAEMON_DIR");
    }
    expect(existsSync(env.CLAUDEMESH_DAEMON_DIR)).toBe(false);
  });

  test("a daemon directory that is a link, a file, or open to others is refused", async () => {
    const alice = newMember("alice");
    const up = (): ReturnType<typeof failure> => failure(alice, ["daemon", "up", "--no-tcp"]);
    const real = join(tempDir(), "real");
    mkdirSync(real, { mode: 0o700 });
    symlinkSync(real, alice.daemonDir);
    const link = await up();
    expect(link).toMatchObject({ exit: 4, error: "path_unsafe" });
    expect(link.message).toContain("symbolic link");
    unlinkSync(alice.daemonDir);

    mkdirSync(alice.daemonDir, { mode: 0o755 });
    chmodSync(alice.daemonDir, 0o755);
    const open = await up();
    expect(open).toMatchObject({ exit: 4, error: "path_unsafe", hint: `chmod 700 '${alice.daemonDir}'` });
    chmodSync(alice.daemonDir, 0o700);

    if (process.getuid?.() === 0) {
      chownSync(alice.daemonDir, 65_534, 65_534);
      const foreign = await up();
      expect(foreign).toMatchObject({ exit: 4, error: "path_unsafe" });
      expect(foreign.message).toContain("65534");
      chownSync(alice.daemonDir, 0, 0);
    }
    await alice.up();
    expect((await alice.health()).ok).toBe(true);
  });

  test("a socket of somebody else is never taken for a daemon, nor removed", async () => {
    const alice = newMember("alice");
    mkdirSync(alice.daemonDir, { mode: 0o700 });
    // Something that takes connections there and does not speak HTTP.
    const server = Bun.listen({
      unix: alice.socket,
      socket: { data: (socket) => void socket.end("hello\n") },
    });
    cleanup(() => server.stop(true));
    const { exit, error } = await failure(alice, ["daemon", "up", "--no-tcp"]);
    expect([exit, error]).not.toEqual([0, ""]);
    expect(existsSync(alice.socket)).toBe(true);
  });

  test("a disk that takes nothing more: sends are refused, and what was taken before survives", async () => {
    if (process.platform !== "linux") return;
    const { alice, bob } = await startMesh({ members: ["alice", "bob"], daemons: ["bob"] });
    await alice.up();
    await alice.connected();
    await alice.knows("bob");
    await alice.send("bob", "before");
    await bob.received(1);
    const limit = (bytes: string): void => {
      const { exitCode, stderr } = Bun.spawnSync([
        "prlimit",
        "--pid",
        String(alice.daemonPid),
        `--fsize=${bytes}`,
      ]);
      if (exitCode !== 0) throw new Error(stderr.toString());
    };
    limit("1:unlimited");
    const refused = await alice.post("bob", "meanwhile", { client_message_id: "meanwhile" });
    expect([refused.status >= 500, v.parse(ErrorReply, refused.body).error]).toEqual([
      true,
      expect.stringMatching(/^storage_/),
    ]);
    expect((await alice.health()).ok).toBe(true);
    limit("unlimited:unlimited");
    expect((await alice.post("bob", "meanwhile", { client_message_id: "meanwhile" })).body).toMatchObject({
      duplicate: false,
    });
    await alice.send("bob", "after");
    expect((await bob.received(3)).map(({ body }) => body)).toEqual(["before", "meanwhile", "after"]);
  });
});

test("commands that nobody finished typing are interrupted at once", async () => {
  const { alice } = await startMesh({ members: ["alice", "bob"] });
  const sending = spawnCli(["send", "bob", "-"], { env: alice.env });
  await sending.write("half a mess");
  const { exitCode } = await sending.stop("SIGINT");
  expect(exitCode).toBe(130);
  expect((await alice.outbox()).items).toEqual([]);
});
