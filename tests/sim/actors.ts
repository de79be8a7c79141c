/** The processes of the simulator: the real broker and the real daemon, on simulated ground, killed and started again. */
import { join } from "node:path";
import type { Bounds } from "~/broker/bounds";
import { Core } from "~/broker/core";
import { Exchange } from "~/broker/exchange";
import { createInvite, createMesh, joinMesh, removeMember } from "~/broker/membership";
import { schemaSteps } from "~/broker/schema";
import type { Settings } from "~/broker/settings";
import { Store } from "~/broker/sqlite";
import { assemble } from "~/daemon/assemble";
import { DirectoryStore, migrateDirectory } from "~/daemon/db/directory";
import { Inbox, migrateInbox } from "~/daemon/db/inbox";
import { migrateOutbox, Outbox } from "~/daemon/db/outbox";
import { handlersOf } from "~/daemon/ipc/listen";
import type { Handlers } from "~/daemon/ipc/server";
import { LocalToken } from "~/daemon/local-token";
import type { DaemonParts } from "~/daemon/parts";
import { writeFileAtomic } from "~/disk/file";
import { migrate } from "~/disk/sqlite";
import { Writer } from "~/disk/writer";
import { MeshError } from "~/errors";
import type { MeshEntry } from "~/identity/config";
import { joinProof, rootKeySha256, signInvite } from "~/identity/invite";
import { type KeyPair, keyPairFromSeed } from "~/identity/keys";
import type { Sealer } from "~/identity/sealer";
import { defaultSettings } from "~/settings/knobs";
import type { Network } from "./network";
import { SimDatabase } from "./storage";
import { Process, type World } from "./world";

const log = () => undefined;

/** Parts of the engine that a test may replace with broken ones, to see that the checkers notice. */
export interface Engine {
  store(db: SimDatabase): Store;
  outbox(db: SimDatabase): Outbox;
  inbox(db: SimDatabase): Inbox;
  sealer(real: Sealer): Sealer;
  handlers(real: Handlers, daemon: SimDaemon): Handlers;
}

export const soundEngine: Engine = {
  store: (db) => new Store(db),
  outbox: (db) => new Outbox(db),
  inbox: (db) => new Inbox(db),
  sealer: (real) => real,
  handlers: (real) => real,
};

export interface Person {
  name: string;
  keys: KeyPair;
}

/** The same keys in every world: what differs is what happens. */
export const people: readonly Person[] = ["alice", "bob", "carol", "dave"].map((name, index) => ({
  name,
  keys: keyPairFromSeed(`${index + 1}`.repeat(64)),
}));

export class SimBroker {
  readonly db: SimDatabase;
  process: Process;
  meshId = "";
  readonly #world: World;
  readonly #network: Network;
  readonly #bounds: Bounds;
  #ids = 0;

  readonly #engine: Engine;

  readonly #settings: Settings;

  constructor(world: World, network: Network, bounds: Bounds, settings: Settings, engine: Engine) {
    this.#world = world;
    this.#settings = settings;
    this.#engine = engine;
    this.#network = network;
    this.#bounds = bounds;
    this.db = new SimDatabase(world.chance);
    migrate(this.db, schemaSteps);
    this.process = new Process(world, () => 0);
  }

  start(): void {
    this.db.recover();
    const process = new Process(this.#world, () => 0);
    this.process = process;
    this.db.process = process;
    const core = new Core(this.#engine.store(this.db), this.#bounds, () => this.#newId(), this.#settings);
    const writer = new Writer(this.db, process.clock);
    const exchange = new Exchange({ core, writer, clock: process.clock, bounds: this.#bounds, log });
    exchange.start();
    this.#network.broker = { process, exchange };
  }

  /** Makes the mesh and lets everybody in, as HTTP would; returns each one's entry of config.json. */
  admit(folk: readonly Person[]): MeshEntry[] {
    const store = new Store(this.db);
    const at = { wallMs: 1_750_000_000_000, steadyMs: 0 };
    const newId = () => this.#newId();
    const [owner, ...others] = folk;
    if (owner === undefined) throw new Error("a mesh needs an owner");
    const request = {
      slug: "team",
      name: "Team",
      owner_pubkey: owner.keys.publicKey,
      display_name: owner.name,
    };
    const made = succeed(createMesh(request, store, this.#bounds, newId, at));
    this.meshId = made.meshId;
    const entryOf = (person: Person, memberId: string): MeshEntry => ({
      meshId: made.meshId,
      memberId,
      slug: "team",
      name: "Team",
      pubkey: person.keys.publicKey,
      secretKey: person.keys.secretKey,
      brokerUrl: "ws://simulated/ws",
      joinedAt: "2025-06-15T15:06:40.000Z",
      inviteVersion: 3,
      ownerPubkey: owner.keys.publicKey,
    });
    const invite = signInvite(
      {
        mesh_id: made.meshId,
        mesh_slug: "team",
        broker_url: "ws://simulated/ws",
        expires_at: at.wallMs / 1000 + 3600,
        mesh_root_key: Buffer.alloc(32, 7).toString("base64url"),
        role: "member",
        owner_pubkey: owner.keys.publicKey,
        invite_id: "invite-1",
        invite_secret: "ee".repeat(32),
      },
      owner.keys.secretKey,
    );
    const identity = this.#identityOf(store, owner, made.memberId);
    const refusal = createInvite(
      {
        type: "create_invite",
        invite_id: invite.invite_id,
        invite_public_key: keyPairFromSeed(invite.invite_secret).publicKey,
        role: "member",
        expires_at: invite.expires_at,
        max_uses: 10,
        mesh_slug: "team",
        broker_url: invite.broker_url,
        root_key_sha256: rootKeySha256(invite.mesh_root_key),
        signature: invite.signature,
      },
      identity,
      store,
      this.#bounds,
      at,
    );
    if (refusal !== undefined) throw refusal;
    const joined = others.map((person) => {
      const proof = joinProof(invite, person.keys.publicKey, at.wallMs);
      const join = {
        v: 3,
        invite_id: invite.invite_id,
        peer_pubkey: person.keys.publicKey,
        display_name: person.name,
        timestamp: at.wallMs,
        proof,
      } as const;
      return entryOf(person, succeed(joinMesh(join, store, this.#bounds, newId, at)).memberId);
    });
    store.close();
    return [entryOf(owner, made.memberId), ...joined];
  }

  /** As the owner would; the broker's memory learns of it at its next start. */
  remove(person: Person, owner: Person): void {
    const store = new Store(this.db);
    const row = store.memberByKey(store.meshById(this.meshId)?.mesh ?? -1, owner.keys.publicKey);
    const identity = this.#identityOf(store, owner, row?.member_id ?? "");
    succeed(removeMember(person.keys.publicKey, identity, store, { wallMs: 1_750_000_000_000, steadyMs: 0 }));
    store.close();
  }

  #identityOf(store: Store, person: Person, memberId: string) {
    const mesh = store.meshById(this.meshId);
    const member = mesh === undefined ? undefined : store.memberByKey(mesh.mesh, person.keys.publicKey);
    if (mesh === undefined || member === undefined) throw new Error("the mesh or its member is not there");
    return {
      member: member.member,
      memberId,
      pubkey: person.keys.publicKey,
      displayName: person.name,
      mesh: mesh.mesh,
      meshId: this.meshId,
    };
  }

  #newId(): string {
    return `B${String(this.#ids++).padStart(25, "0")}`;
  }
}

export class SimDaemon {
  readonly person: Person;
  readonly outboxDb: SimDatabase;
  readonly inboxDb: SimDatabase;
  readonly directoryDb: SimDatabase;
  process: Process;
  /** How far this host's clock is off. */
  skewMs = 0;
  parts: DaemonParts | undefined;
  handlers: Handlers | undefined;
  readonly #world: World;
  readonly #network: Network;
  readonly #engine: Engine;
  readonly #sealer: Sealer;
  readonly #configFile: string;
  #ids = 0;
  #starts = 0;

  constructor(
    person: Person,
    entry: MeshEntry,
    world: World,
    network: Network,
    engine: Engine,
    sealer: Sealer,
    directory: string,
  ) {
    this.person = person;
    this.#world = world;
    this.#network = network;
    this.#engine = engine;
    this.#sealer = sealer;
    this.#configFile = join(directory, `${person.name}.json`);
    writeFileAtomic(this.#configFile, JSON.stringify({ version: 1, meshes: [entry] }));
    this.outboxDb = new SimDatabase(world.chance);
    this.inboxDb = new SimDatabase(world.chance);
    this.directoryDb = new SimDatabase(world.chance);
    migrateOutbox(this.outboxDb);
    migrateInbox(this.inboxDb);
    migrateDirectory(this.directoryDb);
    this.process = new Process(world, () => this.skewMs);
    this.process.alive = false;
  }

  get outbox(): Outbox {
    return new Outbox(this.outboxDb);
  }

  get inbox(): Inbox {
    return new Inbox(this.inboxDb);
  }

  /** What run.ts does at a start. */
  start(): void {
    const process = new Process(this.#world, () => this.skewMs);
    this.process = process;
    for (const db of [this.outboxDb, this.inboxDb]) {
      db.recover();
      db.process = process;
    }
    const outbox = this.#engine.outbox(this.outboxDb);
    const parts = assemble({
      clock: process.clock,
      chance: () => this.#world.chance.next(),
      newId: () => `${this.person.name[0]}${String(this.#ids++).padStart(25, "0")}`,
      log,
      sealer: this.#engine.sealer(this.#sealer),
      connect: (_url, handlers) => this.#network.connect(this.person.name, process, handlers),
      outbox,
      inbox: this.#engine.inbox(this.inboxDb),
      directoryStore: new DirectoryStore(this.directoryDb),
      configFile: this.#configFile,
      token: new LocalToken({ token: "", keep: () => undefined, clock: process.clock, graceS: () => 0, log }),
      sessionId: `${this.person.name}-${this.#starts++}`,
      settings: () => defaultSettings,
      startProblems: [],
    });
    this.parts = parts;
    this.handlers = this.#engine.handlers(handlersOf(parts), this);
    outbox.putBackInflight();
    parts.meshes.reload();
  }
}

function succeed<T>(outcome: T | MeshError): T {
  if (outcome instanceof MeshError) throw outcome;
  return outcome;
}
