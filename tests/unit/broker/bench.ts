/**
 * The broker's core on a database in memory and a clock that stands still: frames go in, in batches that are committed or lost,
 * and what each connection was sent can be looked at.
 */
import type { Database } from "bun:sqlite";
import { randomUUID } from "node:crypto";
import { type Bounds, defaultBounds } from "~/broker/bounds";
import type { ConnectionId } from "~/broker/connections";
import { Core } from "~/broker/core";
import type { Arrival, Decision, Output } from "~/broker/effects";
import { parseFrame } from "~/broker/frames";
import { type Instant, instantOf } from "~/broker/instant";
import { createMesh, joinMesh } from "~/broker/membership";
import { defaultSettings, type Settings } from "~/broker/settings";
import { Store } from "~/broker/sqlite";
import { openSqlite } from "~/disk/sqlite";
import { joinProof } from "~/identity/invite";
import { generateKeyPair } from "~/identity/keys";
import type { BrokerFrameInput, ClientFrameInput } from "~/wire/broker";
import type { InviteV3 } from "~/wire/membership";
import { FakeClock, inviteTo, registrationOf, type TestMesh } from "../../support/broker";
import { type HelloFrame, helloOf, type TestMember } from "../../support/broker-client";

export type SentFrame = BrokerFrameInput;
type OfType<Type extends string> = Extract<SentFrame, { type: Type }>;
export type Ack = OfType<"ack">;
export type Message = Extract<SentFrame, { type: "push"; ciphertext: string }>;
export type SystemPush = Extract<SentFrame, { type: "push"; event: string }>;

export class Bench {
  readonly clock = new FakeClock();
  readonly bounds: Bounds;
  readonly db: Database = openSqlite(":memory:");
  store: Store;
  core: Core;
  readonly mesh: TestMesh;
  /** What each connection was sent since it was last looked at. */
  readonly #sent = new Map<ConnectionId, SentFrame[]>();
  readonly closes = new Map<ConnectionId, { code: number; reason: string }>();
  readonly logs: Output[] = [];
  #lastConnection = 0;
  #lastId = 0;

  readonly settings: Settings;

  constructor(bounds: Partial<Bounds> = {}, settings: Partial<Settings> = {}) {
    this.bounds = { ...defaultBounds, ...bounds };
    this.settings = { ...defaultSettings, ...settings };
    this.store = new Store(this.db);
    this.core = new Core(this.store, this.bounds, this.newId, this.settings);
    this.mesh = this.addMesh();
  }

  /** As after a crash of the broker: what was committed is there, and nobody is connected. */
  restart(): void {
    this.store = new Store(this.db);
    this.core = new Core(this.store, this.bounds, this.newId, this.settings);
    this.closes.clear();
  }

  /** Ids in a row, so that a test can say which came first. */
  newId = (): string => {
    this.#lastId += 1;
    return `ID${String(this.#lastId).padStart(6, "0")}`;
  };

  get at(): Instant {
    return instantOf(this.clock);
  }

  addMesh(): TestMesh {
    const keys = generateKeyPair();
    const slug = `mesh-${randomUUID()}`;
    const request = { slug, name: slug, owner_pubkey: keys.publicKey, display_name: "owner" };
    const made = this.transaction(() => createMesh(request, this.store, this.bounds, this.newId, this.at));
    if (made instanceof Error) throw made;
    const owner = { meshId: made.meshId, memberId: made.memberId, keys, displayName: "owner" };
    const broker = {
      url: "ws://127.0.0.1:1/ws",
      httpUrl: "http://127.0.0.1:1",
      port: 1,
      stop: async () => undefined,
    };
    return { broker, meshId: made.meshId, slug, rootKey: "A".repeat(43), owner };
  }

  /** A member that was invited and has joined. */
  addMember(displayName: string, role: "admin" | "member" = "member", mesh = this.mesh): TestMember {
    const invite = this.registered({ role }, 1, mesh);
    const joined = this.join(invite, displayName, mesh);
    if (joined instanceof Error) throw joined;
    return joined;
  }

  /** An invite that the owner signed and registered. */
  registered(changes: Partial<InviteV3> = {}, maxUses = 1, mesh = this.mesh): InviteV3 {
    const expires_at = Math.floor(this.clock.now() / 1000) + 3600;
    const invite = inviteTo(mesh, { expires_at, ...changes });
    const owner = this.connect(mesh.owner, { capabilities: ["send_only"] });
    const [answer] = this.send(owner, registrationOf(invite, maxUses));
    if (answer?.type !== "invite_created") throw new Error(`not created: ${JSON.stringify(answer)}`);
    this.gone(owner);
    return invite;
  }

  join(
    invite: InviteV3,
    displayName: string,
    mesh = this.mesh,
    keys = generateKeyPair(),
    timestamp = this.clock.now(),
  ): TestMember | Error {
    const request = {
      v: 3 as const,
      invite_id: invite.invite_id,
      peer_pubkey: keys.publicKey,
      display_name: displayName,
      timestamp,
      proof: joinProof(invite, keys.publicKey, timestamp),
    };
    const joined = this.transaction(() => joinMesh(request, this.store, this.bounds, this.newId, this.at));
    if (joined instanceof Error) return joined;
    this.record(this.core.joined(joined));
    return { meshId: mesh.meshId, memberId: joined.memberId, keys, displayName };
  }

  /** A connection that has not greeted. */
  open(): ConnectionId {
    this.#lastConnection += 1;
    this.record(this.core.open(this.#lastConnection));
    return this.#lastConnection;
  }

  /** A hello with this bench's time; every call makes another one. */
  hello(member: TestMember, changes: Partial<HelloFrame> = {}): HelloFrame {
    this.clock.advance(1);
    return helloOf(member, { timestamp: this.clock.now(), ...changes });
  }

  /** Opens, greets and checks that it was let in. */
  connect(member: TestMember, changes: Partial<HelloFrame> = {}): ConnectionId {
    const id = this.open();
    const [answer] = this.send(id, this.hello(member, changes));
    if (answer?.type !== "hello_ack") throw new Error(`not admitted: ${JSON.stringify(answer)}`);
    this.#sent.set(id, this.taken(id).filter(isMessage));
    return id;
  }

  gone(id: ConnectionId): void {
    this.commit([{ connection: id, input: { type: "gone" } }]);
  }

  /** One batch of frames of one connection; what that connection was sent in answer, which pushes are not. */
  send(id: ConnectionId, ...frames: (ClientFrameInput | string)[]): SentFrame[] {
    this.commit(frames.map((frame) => arrivalOf(id, frame)));
    return this.taken(id, (frame) => frame.type !== "push");
  }

  /** One send, and its ack. */
  ackOf(id: ConnectionId, frame: ClientFrameInput): Ack {
    const [ack] = this.send(id, frame);
    if (ack?.type !== "ack") throw new Error(`no ack but ${JSON.stringify(ack)}`);
    return ack;
  }

  /** Decides a batch in one transaction and performs it. */
  commit(arrivals: readonly Arrival[]): void {
    const decisions: Decision[] = [];
    this.transaction(() => {
      for (const arrival of arrivals) decisions.push(this.core.decide(arrival, this.at));
    });
    this.record(this.core.settle(decisions, this.at));
  }

  /** Decides a batch whose transaction then cannot be committed. */
  lose(arrivals: readonly Arrival[]): void {
    this.db.run("BEGIN IMMEDIATE");
    const decisions = arrivals.map((arrival) => this.core.decide(arrival, this.at));
    this.db.run("ROLLBACK");
    this.record(this.core.lose(arrivals, decisions, this.at));
  }

  /** What the connection was sent and nobody looked at yet; those that do not fit stay. */
  taken(id: ConnectionId, fits: (frame: SentFrame) => boolean = () => true): SentFrame[] {
    const frames = this.#sent.get(id) ?? [];
    this.#sent.set(
      id,
      frames.filter((frame) => !fits(frame)),
    );
    return frames.filter(fits);
  }

  /** The messages pushed since the last look. */
  messages(id: ConnectionId): Message[] {
    return this.taken(id, isMessage).filter(isMessage);
  }

  /** The client_message_ids of the messages pushed since the last look. */
  pushedIds(id: ConnectionId): string[] {
    return this.messages(id).map((push) => push.client_message_id ?? "");
  }

  /** `event name` of the system pushes since the last look. */
  events(id: ConnectionId): string[] {
    return this.taken(id, isSystemPush)
      .filter(isSystemPush)
      .map((push) => `${push.event} ${push.eventData?.displayName}`);
  }

  acknowledge(id: ConnectionId, ...messages: readonly { messageId: string }[]): void {
    this.send(
      id,
      ...messages.map(({ messageId }) => ({ type: "client_ack" as const, brokerMessageId: messageId })),
    );
  }

  count(table: "messages" | "dedupe" | "deliveries" | "members" | "invites" | "hellos"): number {
    return this.db.query<{ n: number }, []>(`SELECT count(*) AS n FROM ${table}`).get()?.n ?? 0;
  }

  record(outputs: readonly Output[]): void {
    for (const output of outputs) {
      if (output.do === "log") this.logs.push(output);
      else if (output.do === "close")
        this.closes.set(output.connection, { code: output.code, reason: output.reason });
      else this.#sent.set(output.to, [...(this.#sent.get(output.to) ?? []), output.frame]);
    }
  }

  transaction<T>(step: () => T): T {
    return this.db.transaction(step).immediate();
  }
}

export const arrivalOf = (connection: ConnectionId, frame: ClientFrameInput | string): Arrival => ({
  connection,
  input: parseFrame(typeof frame === "string" ? frame : JSON.stringify(frame)),
});

const isMessage = (frame: SentFrame): frame is Message => frame.type === "push" && "ciphertext" in frame;

const isSystemPush = (frame: SentFrame): frame is SystemPush => frame.type === "push" && "event" in frame;
