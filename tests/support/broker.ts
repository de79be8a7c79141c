/** A broker of a test's own, on a free port and in a temporary directory, and members to talk to it. */
import { randomBytes, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import * as v from "valibot";
import { type BrokerOptions, type RunningBroker, startBroker } from "~/broker/serve";
import type { Clock, Timer } from "~/clock";
import { joinProof, rootKeySha256, signedInviteText, signInvite } from "~/identity/invite";
import { generateKeyPair } from "~/identity/keys";
import type { CreateInvite } from "~/wire/broker";
import { CreateMeshReply, type InviteV3, JoinReply } from "~/wire/membership";
import { brokerPaths } from "~/wire/paths";
import { BrokerClient, type TestMember } from "./broker-client";
import { cleanup } from "./cleanup";
import { tempDir } from "./temp-dir";

export interface TestBroker extends RunningBroker {
  dataDir: string;
  adminToken: string;
}

/** Starts a broker that is stopped after the test. Its log goes nowhere unless `options.log` says otherwise. */
export async function startTestBroker(options: Partial<BrokerOptions> = {}): Promise<TestBroker> {
  const dataDir = options.dataDir ?? tempDir();
  const broker = await startBroker({ port: 0, log: () => undefined, ...options, dataDir });
  cleanup(() => broker.stop());
  return { ...broker, dataDir, adminToken: readFileSync(brokerPaths(dataDir).adminToken, "utf8") };
}

export interface TestMesh {
  broker: RunningBroker;
  meshId: string;
  slug: string;
  rootKey: string;
  owner: TestMember;
}

/** A new mesh on the broker, with its owner. */
export async function createTestMesh(broker: TestBroker, slug = `mesh-${randomUUID()}`): Promise<TestMesh> {
  const keys = generateKeyPair();
  const response = await fetch(`${broker.httpUrl}/meshes`, {
    method: "POST",
    headers: { authorization: `Bearer ${broker.adminToken}` },
    body: JSON.stringify({ slug, name: slug, owner_pubkey: keys.publicKey, display_name: "owner" }),
  });
  const reply = v.parse(CreateMeshReply, await response.json());
  const owner = { meshId: reply.mesh_id, memberId: reply.member_id, keys, displayName: "owner" };
  const rootKey = randomBytes(32).toString("base64url");
  return { broker, meshId: reply.mesh_id, slug, rootKey, owner };
}

/** An invite signed by the owner, not registered yet. */
export function inviteTo(mesh: TestMesh, changes: Partial<InviteV3> = {}): InviteV3 {
  return signInvite(
    {
      mesh_id: mesh.meshId,
      mesh_slug: mesh.slug,
      broker_url: mesh.broker.url,
      expires_at: Math.floor(Date.now() / 1000) + 3600,
      mesh_root_key: mesh.rootKey,
      role: "member",
      owner_pubkey: mesh.owner.keys.publicKey,
      invite_id: randomUUID(),
      invite_secret: randomBytes(32).toString("hex"),
      ...changes,
    },
    mesh.owner.keys.secretKey,
  );
}

/** The frame that registers the invite. */
export function registrationOf(invite: InviteV3, maxUses = 1): CreateInvite {
  const { invite_id, role, expires_at, mesh_slug, broker_url, signature } = invite;
  return {
    type: "create_invite",
    _reqId: invite_id,
    invite_id,
    invite_public_key: signedInviteText(invite).split("|").at(-1) ?? "",
    role,
    expires_at,
    max_uses: maxUses,
    mesh_slug,
    broker_url,
    root_key_sha256: rootKeySha256(invite.mesh_root_key),
    signature,
  };
}

/** Posts a join with this invite and a key pair of its own; the response as it came. */
export function postJoin(
  mesh: TestMesh,
  invite: InviteV3,
  joiner: { keys: { publicKey: string }; displayName: string },
  timestamp = Date.now(),
): Promise<Response> {
  return fetch(`${mesh.broker.httpUrl}/join`, {
    method: "POST",
    body: JSON.stringify({
      v: 3,
      invite_id: invite.invite_id,
      peer_pubkey: joiner.keys.publicKey,
      display_name: joiner.displayName,
      timestamp,
      proof: joinProof(invite, joiner.keys.publicKey, timestamp),
    }),
  });
}

/** Has the owner invite somebody, who joins. */
export async function joinTestMesh(
  mesh: TestMesh,
  displayName: string,
  role: "admin" | "member" = "member",
): Promise<TestMember> {
  const owner = await BrokerClient.connect(mesh.broker.url, mesh.owner, { capabilities: ["send_only"] });
  const invite = inviteTo(mesh, { role });
  owner.send(registrationOf(invite));
  await owner.next("invite_created");
  await owner.close();
  const keys = generateKeyPair();
  const response = await postJoin(mesh, invite, { keys, displayName });
  const { memberId } = v.parse(JoinReply, await response.json());
  return { meshId: mesh.meshId, memberId, keys, displayName };
}

/** A clock that stands still until it is told to move; timers that fall due run then, in order. */
export class FakeClock implements Clock {
  #wallMs: number;
  #steadyMs = 1_000_000;
  #timers: { dueMs: number; action: () => void }[] = [];

  constructor(startMs = Date.UTC(2030, 0, 1)) {
    this.#wallMs = startMs;
  }

  now = (): number => this.#wallMs;

  monotonicMs = (): number => this.#steadyMs;

  after(delayMs: number, action: () => void): Timer {
    const timer = { dueMs: this.#steadyMs + Math.max(0, delayMs), action };
    this.#timers.push(timer);
    return {
      cancel: () => {
        this.#timers = this.#timers.filter((other) => other !== timer);
      },
    };
  }

  /** How long until each timer that is set fires. */
  get timers(): number[] {
    return this.#timers.map(({ dueMs }) => dueMs - this.#steadyMs);
  }

  /** Real: batches go on while time stands still. */
  soon(action: () => void): void {
    setImmediate(action);
  }

  /** Moves both clocks on by `ms`, running what falls due on the way. */
  advance(ms: number): void {
    const endMs = this.#steadyMs + ms;
    for (;;) {
      const next = this.#timers
        .filter(({ dueMs }) => dueMs <= endMs)
        .reduce<{ dueMs: number; action: () => void } | undefined>(
          (first, timer) => (first === undefined || timer.dueMs < first.dueMs ? timer : first),
          undefined,
        );
      if (next === undefined) break;
      this.#moveTo(Math.max(next.dueMs, this.#steadyMs));
      this.#timers = this.#timers.filter((other) => other !== next);
      next.action();
    }
    this.#moveTo(endMs);
  }

  /** Sets the wall clock alone, as an operator or NTP does. */
  setWall(ms: number): void {
    this.#wallMs = ms;
  }

  #moveTo(steadyMs: number): void {
    this.#wallMs += steadyMs - this.#steadyMs;
    this.#steadyMs = steadyMs;
  }
}
