/**
 * A daemon without a process and without a network: the real stores, writers, drain and handlers under a fake clock, in a
 * mesh whose broker is never reached. Members are put into its directory as a broker would list them.
 */
import { join } from "node:path";
import type { Hono } from "hono";
import type { Clock } from "~/clock";
import { assemble } from "~/daemon/assemble";
import { DirectoryStore, migrateDirectory } from "~/daemon/db/directory";
import { Inbox, migrateInbox } from "~/daemon/db/inbox";
import { migrateOutbox, Outbox } from "~/daemon/db/outbox";
import type { WayIn } from "~/daemon/ipc/gate";
import { handlersOf, rulesOf } from "~/daemon/ipc/listen";
import { buildApp, Load } from "~/daemon/ipc/server";
import { LocalToken } from "~/daemon/local-token";
import type { Origin } from "~/daemon/origin";
import type { DaemonParts } from "~/daemon/parts";
import { writeFileAtomic } from "~/disk/file";
import { openSqlite } from "~/disk/sqlite";
import type { MeshEntry } from "~/identity/config";
import { joinProof, signedInviteText, signInvite } from "~/identity/invite";
import { generateKeyPair, type KeyPair, keyPairFromSeed } from "~/identity/keys";
import { openSealer, type Sealer } from "~/identity/sealer";
import { connectWebSocket } from "~/link/socket";
import { defaultSettings, type Settings } from "~/settings/knobs";
import type { Admission, MemberEntry } from "~/wire/broker";
import { joinText } from "~/wire/signed";
import { cleanup } from "./cleanup";
import { FakeClock } from "./fake-clock";
import { tempDir } from "./temp-dir";

export interface TestMember {
  keys: KeyPair;
  entry: MemberEntry;
}

export interface TestDaemon {
  parts: DaemonParts;
  clock: FakeClock;
  owner: KeyPair;
  mesh: MeshEntry;
  sealer: Sealer;
  configFile: string;
  tokenFile: string;
  /** Changes settings while it runs; what depends on more than reading them must be told by the test. */
  set(changes: Partial<Settings>): void;
  /** Someone the owner let in, with the proof of it. */
  member(name: string, changes?: Partial<MemberEntry>): TestMember;
  /** What the broker lists from now on, besides this host. */
  list(...members: TestMember[]): void;
  app(wayIn?: WayIn, publicHealth?: boolean): Hono;
  /** A request over the Unix socket, and everything that it waits for. */
  request(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Response>;
  /** Lets what is due happen until the promise is settled. */
  until<T>(promise: Promise<T>): Promise<T>;
}

export const testToken = "t".repeat(43);

/** `testToken` until it is renewed; then what stands in the file. */
export const testLocalToken = (clock: Clock, file?: string): LocalToken =>
  new LocalToken({
    token: testToken,
    keep(token) {
      if (file !== undefined) writeFileAtomic(file, `${token}\n`);
    },
    clock,
    graceS: () => defaultSettings["api.token_grace_s"],
    log: () => undefined,
  });

export async function openTestDaemon(
  options: { claudemesh?: boolean; origin?: Origin } = {},
): Promise<TestDaemon> {
  const clock = new FakeClock();
  const owner = generateKeyPair();
  const rootKey = Buffer.alloc(32, 7).toString("base64url");
  const mesh: MeshEntry = {
    meshId: "mesh-1",
    memberId: "member-0",
    slug: "team",
    name: "Team",
    pubkey: owner.publicKey,
    secretKey: owner.secretKey,
    // Port 9 (discard) is not listened on: the link never opens.
    brokerUrl: "ws://127.0.0.1:9/ws",
    joinedAt: "2025-06-15T15:06:40.000Z",
    ...(options.claudemesh === false ? {} : { inviteVersion: 3, ownerPubkey: owner.publicKey, rootKey }),
  };
  const configFile = join(tempDir(), "config.json");
  writeFileAtomic(configFile, JSON.stringify({ version: 1, meshes: [mesh] }));

  const open = (migrate: (db: ReturnType<typeof openSqlite>) => void) => {
    const db = openSqlite(":memory:");
    migrate(db);
    return db;
  };
  const outbox = new Outbox(open(migrateOutbox));
  const inbox = new Inbox(open(migrateInbox));
  const directoryStore = new DirectoryStore(open(migrateDirectory));
  const sealer = await openSealer();
  const log = () => undefined;
  let ids = 0;
  const tokenFile = join(tempDir(), "local_token");
  let settings: Settings = defaultSettings;
  const parts = assemble({
    clock,
    chance: () => 0,
    newId: () => `ID${String(ids++).padStart(24, "0")}`,
    log,
    sealer,
    connect: connectWebSocket,
    outbox,
    inbox,
    directoryStore,
    configFile,
    token: testLocalToken(clock, tokenFile),
    sessionId: "test",
    settings: () => settings,
    startProblems: [],
    ...(options.origin === undefined ? {} : { origin: options.origin }),
  });
  const { meshes } = parts;
  meshes.start();
  cleanup(() => meshes.stop());

  async function until<T>(promise: Promise<T>): Promise<T> {
    let settled = false;
    const done = () => {
      settled = true;
    };
    promise.then(done, done);
    while (!settled) {
      clock.advance(0);
      await Promise.resolve();
      if (!settled) await new Promise((resolve) => setImmediate(resolve));
    }
    return promise;
  }

  const app = (wayIn: WayIn = { kind: "unix" }, publicHealth = false) =>
    buildApp({
      ephemeral: parts.origin.ephemeral,
      handlers: handlersOf(parts),
      wayIn,
      rules: () => ({ ...rulesOf(parts), publicHealth }),
      load: new Load(parts.settings),
      tallies: parts.tallies,
      log,
      logPlace: "daemon.log",
    });
  const unixApp = app();

  return {
    parts,
    clock,
    owner,
    mesh,
    sealer,
    configFile,
    tokenFile,
    set(changes) {
      settings = { ...settings, ...changes };
    },
    member(name, changes = {}) {
      const keys = generateKeyPair();
      const entry: MemberEntry = {
        member_id: `member-${name}`,
        pubkey: keys.publicKey,
        display_name: name,
        role: "member",
        capabilities: ["body2"],
        joined_at: "2025-06-15T15:06:40.000Z",
        online: true,
        admission: admit(keys.publicKey, mesh, owner, rootKey, clock.now()),
        ...changes,
      };
      return { keys, entry };
    },
    list(...members) {
      const self: MemberEntry = {
        member_id: mesh.memberId,
        pubkey: mesh.pubkey,
        display_name: "alice",
        role: "owner",
        capabilities: ["body2"],
        joined_at: mesh.joinedAt,
        online: true,
      };
      const entries = [self, ...members.map((member) => member.entry)];
      const peers = entries
        .filter((entry) => entry.online)
        .map((entry) => ({ pubkey: entry.pubkey, displayName: entry.display_name, status: "idle" }));
      meshes.byId(mesh.meshId)?.directory.update(entries, peers, clock.now());
    },
    app,
    request: (method, path, body, headers = {}) =>
      until(
        Promise.resolve(
          unixApp.request(`http://localhost${path}`, {
            method,
            headers: { host: "localhost", ...headers },
            ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
          }),
        ),
      ),
    until,
  };
}

/** The admission of a member, as the broker keeps it. */
export function admit(
  pubkey: string,
  mesh: MeshEntry,
  owner: KeyPair,
  rootKey: string,
  nowMs: number,
): Admission {
  const invite = signInvite(
    {
      mesh_id: mesh.meshId,
      mesh_slug: mesh.slug,
      broker_url: mesh.brokerUrl,
      expires_at: Math.floor(nowMs / 1000) + 3600,
      mesh_root_key: rootKey,
      role: "member",
      owner_pubkey: owner.publicKey,
      invite_id: "invite-1",
      invite_secret: keyPairFromSeed("05".repeat(32)).secretKey.slice(0, 64),
    },
    owner.secretKey,
  );
  return {
    invite: signedInviteText(invite),
    signature: invite.signature,
    join: joinText(mesh.meshId, invite.invite_id, pubkey, nowMs),
    proof: joinProof(invite, pubkey, nowMs),
  };
}
