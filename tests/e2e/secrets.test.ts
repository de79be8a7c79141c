/**
 * Secrets planted wherever one can be, at the most talkative level, through successes and as many failures as there are ways to
 * fail: none of them is in a log, nor on the output of a command that was not asked for it.
 */
import { expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { cleanup } from "../support/cleanup";
import type { CliResult } from "../support/cli";
import { disguises, filesBelow } from "../support/disguises";
import { ask, type HttpAnswer, type Member, startMesh } from "../support/mesh";
import { waitFor } from "../support/wait-for";
import { openWireTap } from "./wire-tap";

/** A word: what JSON.parse stumbles over, it repeats. */
const word = (name: string): string => `PLANTED${name}x${randomBytes(6).toString("hex")}`;
/** As people choose them. */
const phrase = (name: string): string =>
  `PLANTED ${name} "correct" horse \\ bättery ${randomBytes(4).toString("hex")}`;

test("no secret is in any log, nor printed by a command that was not asked for it", async () => {
  const plants = new Map<string, string>();
  const plant = (name: string, secret: string): string => {
    plants.set(name, secret);
    return secret;
  };
  const body = plant("body", phrase("body"));
  const bodyWord = plant("body as a word", word("Body"));
  const meta = plant("meta", phrase("meta"));
  const metaKey = plant("key of meta", word("MetaKey"));
  const urlToken = plant("token in the broker's URL", word("UrlToken"));
  const wrongToken = plant("wrong token", word("WrongToken"));
  const configWord = plant("word in config.json", word("Config"));
  const settingsWord = plant("word in config.toml", word("Settings"));
  const pathWord = plant("word in a path", word("Path"));
  const headerWord = plant("word in a header", word("Header"));
  const frameWord = plant("word in a frame", word("Frame"));

  const tap = openWireTap();
  const mesh = await startMesh({
    members: ["alice", "bob"],
    daemons: [],
    brokerUrl: (url) => `${tap.urlFor(url)}?token=${urlToken}`,
  });
  const { alice, bob, broker } = mesh;
  const members = [alice, bob];
  /** What commands printed that had no business with any secret. */
  const printed: string[] = [];
  const run = async (member: Member, args: readonly string[]): Promise<CliResult> => {
    const result = await member.cli(args);
    printed.push(result.stdout, result.stderr);
    return result;
  };
  for (const { name, configDir, entry } of members) {
    writeFileSync(join(configDir, "config.toml"), '[log]\nlevel = "debug"\n', { mode: 0o600 });
    plant(`secret key of ${name}`, entry.secretKey.slice(0, 64));
    plant(`bytes of the secret key of ${name}`, Buffer.from(entry.secretKey, "hex").toString("base64"));
  }
  const { rootKey } = v.parse(v.looseObject({ rootKey: v.string() }), alice.entry);
  plant("root key", rootKey);
  plant("admin token", readFileSync(join(broker.dataDir, "admin-token"), "utf8").trim());

  const tokenOf = (member: Member): string =>
    readFileSync(join(member.daemonDir, "local_token"), "utf8").trim();
  const up = async (member: Member): Promise<void> => {
    expect((await run(member, ["daemon", "up", "--tcp-port", "0"])).exitCode).toBe(0);
    await member.connected();
    plants.set(`local token of ${member.name} ${plants.size}`, tokenOf(member));
  };
  const down = async (member: Member): Promise<void> => {
    expect((await run(member, ["daemon", "down"])).exitCode).toBe(0);
  };
  for (const member of members) {
    cleanup(async () => void (await member.cli(["daemon", "down"])));
    await up(member);
  }
  await alice.knows("bob");
  await bob.knows("alice");
  const overTcp = (path: string, headers: Record<string, string> = {}): Promise<HttpAnswer> => {
    const port = readFileSync(join(alice.daemonDir, "http.port"), "utf8").trim();
    return ask(`http://127.0.0.1:${port}${path}`, {}, { headers });
  };
  const logOf = (member: Member): string =>
    filesBelow(member.daemonDir)
      .filter((path) => /\.log(\.\d+)?$/.test(path))
      .map((path) => readFileSync(path, "utf8"))
      .join("");
  const logged = (member: Member, message: string, count = 1): Promise<boolean> =>
    waitFor(() => logOf(member).split(`"message":"${message}"`).length > count, {
      what: `${member.name} to log ${message}`,
    });

  // ── What works ───────────────────────────────────────────────────────────────────────────────────────────────────
  const { client_message_id: first } = await alice.send("bob", body, {
    meta: { [metaKey]: meta, deep: [meta] },
  });
  await bob.received(1);
  await bob.send("alice", `${body} too`, { reply_to_id: first });
  await alice.received(1);
  const invite = v.parse(v.object({ link: v.string() }), await alice.json(["mesh", "invite"]));
  plant("invite link", invite.link);
  plant("inside of the invite link", invite.link.split("/").at(-1)?.slice(20, 80) ?? "");
  await run(alice, ["daemon", "status"]);
  await run(alice, ["daemon", "outbox", "list"]);
  await run(alice, ["mesh", "members"]);

  // ── What the daemon is asked and refuses ─────────────────────────────────────────────────────────────────────────
  const post = (sent: unknown): Promise<HttpAnswer> =>
    alice.request("/v1/send", { method: "POST", body: sent });
  for (const sent of [
    `{"to": "bob", "message": ${bodyWord}}`,
    `{"to": "bob", "message": "${bodyWord}`,
    { to: "bob", message: body, [bodyWord]: body },
    { to: "bob", message: [body] },
    { to: "bob", message: body, priority: bodyWord },
    { to: "bob", message: body, meta: bodyWord },
    { to: "bob", message: body, client_message_id: body },
    { to: bodyWord, message: body },
    { to: "bob", message: body.repeat(3_000) },
    { to: "bob", message: `${body}, but another one`, client_message_id: first },
  ])
    expect((await post(sent)).status).toBeGreaterThanOrEqual(400);
  const bearer = { authorization: `Bearer ${tokenOf(alice)}` };
  for (const [path, headers] of [
    [`/v1/messages/${pathWord}`, {}],
    [`/v1/${pathWord}`, {}],
    [`/v1/version?token=${tokenOf(alice)}`, {}],
    [`/v1/version?token=${pathWord}`, bearer],
    [`/v1/health`, { authorization: `Bearer ${wrongToken}` }],
    [`/v1/health`, { authorization: `Basic ${Buffer.from(`me:${wrongToken}`).toString("base64")}` }],
    [`/v1/health`, { ...bearer, host: headerWord }],
    [`/v1/health`, { ...bearer, origin: `http://${headerWord}` }],
    [`/v1/health`, { ...bearer, referer: `http://localhost/?token=${tokenOf(alice)}` }],
    [`/v1/inbox?${pathWord}=1`, bearer],
  ] as const)
    expect((await overTcp(path, headers)).status).toBeGreaterThanOrEqual(400);
  expect((await overTcp("/v1/version", bearer)).status).toBe(200);
  await logged(alice, "security_refusal", 8);
  await logged(alice, "request", 20);

  // ── The token is renewed ─────────────────────────────────────────────────────────────────────────────────────────
  expect((await run(alice, ["daemon", "rotate-token"])).exitCode).toBe(0);
  expect((await overTcp("/v1/version", bearer)).status).toBe(200);
  plant("renewed token", tokenOf(alice));
  expect((await overTcp("/v1/version", { authorization: `Bearer ${tokenOf(alice)}` })).status).toBe(200);
  await logged(alice, "token_rotated");

  // ── A broker that repeats what it was sent, or sends nonsense ────────────────────────────────────────────────────
  let sealed = "";
  const answers: Record<string, unknown>[] = [
    { code: "malformed", error: "the ciphertext is" },
    { code: "some_news", error: "I do not like" },
    { code: undefined, error: "payload too large" },
    { code: undefined, error: "computer says no to" },
  ];
  tap.onFrame = ({ from, frame, text }) => {
    if (from === "member" && frame.type === "send") sealed = String(frame.ciphertext);
    if (from === "member" || frame.type !== "ack") return text;
    const { code, error } = answers[0] ?? {};
    return JSON.stringify({ ...frame, messageId: null, code, error: `${error} ${sealed}` });
  };
  for (let at = 0; answers.length > 0; at++) {
    const id = `refused-${at}`;
    await alice.send("bob", body, { client_message_id: id });
    await waitFor(async () => (await alice.message(id)).last_error !== undefined, { what: "a refusal" });
    plant(`ciphertext ${at}`, sealed);
    // It would be tried again, and answered in the next way.
    if ((await alice.message(id)).status !== "dead") await run(alice, ["daemon", "outbox", "requeue", id]);
    answers.shift();
  }
  await logged(alice, "message_dead");
  await logged(alice, "answer_not_recognised");
  tap.onFrame = ({ text }) => text;
  await waitFor(async () => (await alice.outbox("&status=pending")).items.length === 0, {
    what: "an empty outbox",
  });

  const nonsense = [
    frameWord,
    `{"type": ${frameWord}}`,
    JSON.stringify({ type: frameWord }),
    JSON.stringify({
      type: "push",
      messageId: "m-1",
      meshId: bob.entry.meshId,
      subtype: frameWord,
      priority: frameWord,
      nonce: frameWord,
    }),
    JSON.stringify({ type: "ack", id: { [frameWord]: frameWord }, code: [frameWord] }),
    JSON.stringify({ type: "error", code: frameWord, message: frameWord }),
    JSON.stringify({ type: "peers_list", peers: frameWord }),
  ];
  // Each takes the place of a push, which comes again with the next connection.
  tap.onFrame = ({ from, frame, text }) =>
    from === "broker" && frame.type === "push" && frame.subtype !== "system" ? nonsense.shift() : text;
  for (let at = 0; nonsense.length > 0; at++) {
    const left = nonsense.length;
    await alice.send("bob", `${body} ${at}`, { client_message_id: `nonsense-${at}` });
    await waitFor(() => nonsense.length < left, { what: `a frame of nonsense, ${left} left` });
  }
  await logged(bob, "bad_frame");
  await logged(bob, "bad_push");
  await logged(bob, "unknown_frame");
  // A push that cannot be opened.
  tap.onFrame = ({ from, frame, text }) =>
    from === "broker" && frame.type === "push" && typeof frame.ciphertext === "string"
      ? JSON.stringify({ ...frame, ciphertext: Buffer.from(frameWord.repeat(3)).toString("base64") })
      : text;
  await alice.send("bob", `${body} unreadable`);
  await logged(bob, "push_not_understood");
  await run(bob, ["inbox", "--problems"]);
  tap.onFrame = ({ text }) => text;
  tap.shut();
  tap.cut();
  await waitFor(async () => (await alice.link()) === "waiting", { what: "alice to be alone" });
  await logged(alice, "link_status", 2);
  await run(alice, ["daemon", "status"]);
  await run(alice, ["daemon", "status", "--json"]);
  await run(alice, ["mesh", "members"]);
  await run(alice, ["send", "bob", "a cold one", "--route", "cold"]);
  tap.open();

  // ── What the broker is asked and refuses ─────────────────────────────────────────────────────────────────────────
  const askBroker = (path: string, sent: unknown, token: string): Promise<HttpAnswer> => {
    const headers = { authorization: `Bearer ${token}` };
    return ask(`${broker.httpUrl}${path}`, {}, { method: "POST", body: sent, headers });
  };
  expect((await askBroker("/meshes", { slug: bodyWord }, wrongToken)).status).toBe(401);
  for (const sent of [
    bodyWord,
    { [bodyWord]: bodyWord },
    { v: 3, invite: invite.link, display_name: [bodyWord] },
  ])
    expect((await askBroker("/join", sent, wrongToken)).status).toBe(400);
  expect((await ask(`${broker.httpUrl}/${pathWord}`, {})).status).toBe(404);
  for (const frame of [
    frameWord,
    `{"type": ${frameWord}}`,
    JSON.stringify({ type: "hello", pubkey: frameWord }),
  ]) {
    const socket = new WebSocket(`${broker.url}?token=${wrongToken}`);
    cleanup(() => socket.close());
    const answered = Promise.withResolvers<void>();
    socket.addEventListener("open", () => socket.send(frame));
    socket.addEventListener("message", () => answered.resolve());
    socket.addEventListener("close", () => answered.resolve());
    await answered.promise;
  }

  // ── Files that are damaged ───────────────────────────────────────────────────────────────────────────────────────
  const config = readFileSync(alice.configFile, "utf8");
  const { secretKey } = alice.entry;
  let problems = 0;
  const configProblem = (isThere: boolean): Promise<boolean> =>
    waitFor(
      async () => (await alice.health()).problems.some(({ code }) => code === "config_invalid") === isThere,
      { what: isThere ? "health to name the file" : "health to be content" },
    );
  for (const damaged of [
    config.replace(`"${secretKey}"`, configWord),
    config.replace(`"${secretKey}"`, `"${configWord}"`),
    config.replace('"version": 1', `"version": "${configWord}"`),
    config.replace(`"${secretKey}"`, secretKey),
    config.replace(`"${rootKey}"`, `["${rootKey}"]`),
    config.replace(/"brokerUrl": ".*?"/, `"brokerUrl": "${configWord} ${urlToken}"`),
    config.slice(0, config.indexOf(secretKey) + 70),
  ]) {
    expect(damaged).not.toBe(config);
    writeFileSync(alice.configFile, damaged, { mode: 0o600 });
    problems++;
    await configProblem(true);
    await run(alice, ["daemon", "status"]);
    await run(alice, ["mesh", "list"]);
    await run(alice, ["mesh", "list", "--json"]);
    await alice
      .cli(["mesh", "list"], { env: { CLAUDEMESH_DEBUG: "1" } })
      .then(({ stdout, stderr }) => printed.push(stdout, stderr));
    writeFileSync(alice.configFile, config, { mode: 0o600 });
    await configProblem(false);
  }
  const settingsFile = join(alice.configDir, "config.toml");
  const settings = readFileSync(settingsFile, "utf8");
  for (const damaged of [
    `${settings}secret = "${settingsWord}"\n`,
    `${settings}${settingsWord}\n`,
    settings.replace("debug", settingsWord),
  ]) {
    writeFileSync(settingsFile, damaged);
    problems++;
    await configProblem(true);
    writeFileSync(settingsFile, settings);
    await configProblem(false);
  }
  await logged(alice, "config_invalid", problems);
  await down(bob);
  const inbox = bob.database("inbox");
  inbox.run("UPDATE inbox SET meta = ?", [`{"a": ${metaKey}}`]);
  inbox.close();
  await up(bob);
  expect((await bob.request("/v1/inbox?last=10")).status).toBe(500);
  await logged(bob, "request_failed");
  // A start that fails leaves its words in the same file.
  await down(alice);
  writeFileSync(alice.configFile, config.replace(`"${secretKey}"`, configWord), { mode: 0o600 });
  await run(alice, ["daemon", "up", "--tcp-port", "0"]);
  await run(alice, ["daemon", "down"]);
  writeFileSync(join(alice.daemonDir, "local_token"), `${plant("damaged token", phrase("token"))}\n`);
  await run(alice, ["daemon", "rotate-token"]);
  plant("token renewed without a daemon", tokenOf(alice));

  // ── What the commands refuse ─────────────────────────────────────────────────────────────────────────────────────
  for (const link of [invite.link.slice(0, -30), `${invite.link}${wrongToken}`, `x${invite.link}`])
    expect((await run(bob, ["join", link, "--name", "carol"])).exitCode).not.toBe(0);
  for (const member of members) {
    await run(member, ["daemon", "logs", "-n", "100000"]);
    await run(member, ["daemon", "logs", "--json"]);
  }

  // ── Nothing of it is anywhere ────────────────────────────────────────────────────────────────────────────────────
  const places: [place: string, text: string][] = [
    ...members.map((member): [string, string] => [`the log of ${member.name}`, logOf(member)]),
    ["the log of the broker", broker.log],
    ["what commands printed", printed.join("\n")],
  ];
  for (const [place, text] of places) {
    expect([place, text.length]).toEqual([place, expect.any(Number)]);
    expect(text.length).toBeGreaterThan(100);
    for (const [name, secret] of plants) {
      expect(secret.length).toBeGreaterThan(11);
      const found = text.split("\n").filter((line) => disguises(secret).test(line));
      expect([place, name, found]).toEqual([place, name, []]);
    }
  }
}, 60_000);
