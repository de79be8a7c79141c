/**
 * A server that uses each part of Bun and each larger library that a daemon with one link uses, once: how much of the daemon's memory
 * is what these take wherever they are used.
 */
import { Database } from "bun:sqlite";
import { createHash, generateKeyPairSync, sign, verify } from "node:crypto";
import { closeSync, fsyncSync, openSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { Hono } from "hono";
import sodium from "libsodium-wrappers";
import * as v from "valibot";

const [, , unix = ""] = process.argv;
const text = "what takes the room";
const bytes = Buffer.from(text);

const db = new Database(`${unix}.db`);
db.run("PRAGMA journal_mode = WAL");
db.run("CREATE TABLE parts (id INTEGER PRIMARY KEY, body BLOB)");
db.query("INSERT INTO parts VALUES (?, ?)").run(1, bytes);
db.query("SELECT * FROM parts").all();

const file = `${unix}.txt`;
writeFileSync(file, text);
if (readFileSync(file).length !== statSync(file).size) throw new Error("a file is wrong");
const fd = openSync(file, "r+");
fsyncSync(fd);
closeSync(fd);

const { privateKey, publicKey } = generateKeyPairSync("ed25519");
if (!verify(null, bytes, publicKey, sign(null, bytes, privateKey))) throw new Error("a signature is wrong");
createHash("sha256").update(bytes).digest();

await sodium.ready;
const pair = sodium.crypto_box_keypair();
const nonce = new Uint8Array(sodium.crypto_box_NONCEBYTES);
const sealed = sodium.crypto_box_easy(bytes, nonce, pair.publicKey, pair.privateKey);
sodium.crypto_box_open_easy(sealed, nonce, pair.publicKey, pair.privateKey);

const Body = v.object({ text: v.string() });
const app = new Hono();
app.post("/", async (context) => context.json(v.parse(Body, await context.req.json())));
await app.fetch(new Request("http://localhost/", { method: "POST", body: JSON.stringify({ text }) }));

const peer = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch: (request, server) => (server.upgrade(request) ? undefined : new Response()),
  websocket: { idleTimeout: 0, message: (socket, message) => void socket.send(message) },
});
const link = new WebSocket(`ws://127.0.0.1:${peer.port}`);
await new Promise((resolve) => {
  link.onopen = () => link.send(text);
  link.onmessage = resolve;
});

Bun.serve({ unix, fetch: () => new Response("ok") });
