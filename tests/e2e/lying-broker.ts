/**
 * A broker that says what a test scripts, to a daemon whose config.json was written by hand with real keys. Left to itself it
 * behaves: greets, lists its members, accepts every send once.
 */
import { randomUUID } from "node:crypto";
import { writeFileSync } from "node:fs";
import type { ServerWebSocket } from "bun";
import { joinProof, signedInviteText, signInvite } from "~/identity/invite";
import { generateKeyPair, type KeyPair } from "~/identity/keys";
import { openSealer } from "~/identity/sealer";
import type { BrokerFrameInput } from "~/wire/broker";
import { encodeSealed, type SealedText } from "~/wire/sealed";
import { joinText } from "~/wire/signed";
import { cleanup } from "../support/cleanup";
import { type Member, newMember } from "../support/mesh";
import { waitFor } from "../support/wait-for";

type Frame = Record<string, unknown> & { type: string };
type Socket = ServerWebSocket<Connection>;

/** One connection of the daemon. */
export class Connection {
  readonly frames: Frame[] = [];
  closed: { code: number; reason: string } | undefined;
  socket: Socket | undefined;

  /** Anything: a frame, or bytes that are none. */
  say(what: object | string | Uint8Array): void {
    if (typeof what === "string" || what instanceof Uint8Array) this.socket?.send(what);
    else this.socket?.send(JSON.stringify(what));
  }

  of(type: string): Frame[] {
    return this.frames.filter((frame) => frame.type === type);
  }
}

export interface Actor {
  keys: KeyPair;
  name: string;
}

export type MemberListing = Extract<BrokerFrameInput, { type: "members_list" }>["members"][number];
export type PushInput = Record<string, unknown> & { messageId: string };

export class LyingBroker {
  readonly url: string;
  readonly meshId = randomUUID();
  readonly owner: Actor = { keys: generateKeyPair(), name: "olga" };
  readonly host: Actor = { keys: generateKeyPair(), name: "bob" };
  /** The daemon's connections, oldest first. */
  readonly connections: Connection[] = [];
  features: Record<string, unknown> = {
    client_message_id_dedupe: { version: 1, mode: "permanent", request_fingerprint: true },
    max_payload: { version: 1, inline_bytes: 65_536 },
    lanes: { version: 1 },
    members: { version: 1 },
  };
  members: MemberListing[];
  onHello = (connection: Connection): void =>
    connection.say({ type: "hello_ack", presenceId: "p", features: this.features });
  onSend = (frame: Frame, connection: Connection): void =>
    connection.say(this.ack(frame, { code: "created", messageId: `m-${String(frame.id)}` }));
  onMembers = (frame: Frame, connection: Connection): void =>
    connection.say({ type: "members_list", _reqId: frame._reqId, members: this.members });

  constructor() {
    const server = Bun.serve<Connection>({
      hostname: "127.0.0.1",
      port: 0,
      fetch: (request, self) =>
        self.upgrade(request, { data: new Connection() })
          ? undefined
          : new Response("{}", { headers: { "content-type": "application/json" } }),
      websocket: {
        maxPayloadLength: 4 * 1024 * 1024,
        open: (ws) => {
          ws.data.socket = ws;
          this.connections.push(ws.data);
        },
        message: (ws, text) => this.#hear(ws.data, JSON.parse(String(text))),
        close: (ws, code, reason) => {
          ws.data.closed = { code, reason };
        },
      },
    });
    this.url = `ws://127.0.0.1:${server.port}/ws`;
    this.members = [this.listing(this.owner, { role: "owner" }), this.listing(this.host)];
    cleanup(async () => {
      await server.stop(true);
    });
  }

  /** A host that is a member of this broker's mesh; its daemon is not started. */
  newHost(): Member {
    const member = newMember(this.host.name);
    const mesh = {
      meshId: this.meshId,
      memberId: "01BOB",
      slug: "team",
      name: "team",
      pubkey: this.host.keys.publicKey,
      secretKey: this.host.keys.secretKey,
      brokerUrl: this.url,
      joinedAt: "2026-01-01T00:00:00.000Z",
      rootKey: Buffer.alloc(32, 7).toString("base64url"),
      inviteVersion: 3,
      ownerPubkey: this.owner.keys.publicKey,
    };
    const config = { version: 1, displayName: "bob", meshes: [mesh] };
    writeFileSync(member.configFile, JSON.stringify(config), { mode: 0o600 });
    return member;
  }

  /** The newest connection that is open. */
  get connection(): Connection {
    const newest = this.connections.at(-1);
    if (newest === undefined || newest.closed !== undefined) throw new Error("no connection is open");
    return newest;
  }

  /** Every frame of one type, over all connections. */
  heard(type: string): Frame[] {
    return this.connections.flatMap((connection) => connection.of(type));
  }

  async hears(type: string, count: number, timeoutMs = 10_000): Promise<Frame[]> {
    return await waitFor(() => (this.heard(type).length >= count ? this.heard(type) : undefined), {
      what: `${count} frames of type ${type}`,
      timeoutMs,
    });
  }

  close(code: number, reason = ""): void {
    this.connection.socket?.close(code, reason);
  }

  ack(frame: Frame, fields: Record<string, unknown>): Frame {
    return {
      type: "ack",
      id: frame.id,
      client_message_id: frame.client_message_id,
      queued: false,
      ...fields,
    };
  }

  /** A member as the list shows it; admitted only when `admit` says so. */
  listing(actor: Actor, changes: Partial<MemberListing> = {}): MemberListing {
    return {
      member_id: `01${actor.name.toUpperCase()}`,
      pubkey: actor.keys.publicKey,
      display_name: actor.name,
      role: "member",
      capabilities: ["body2"],
      joined_at: "2026-01-01T00:00:00.000Z",
      online: true,
      ...changes,
    };
  }

  /** Proof that the owner let this key in. */
  admit(actor: Actor): NonNullable<MemberListing["admission"]> {
    const invite = signInvite(
      {
        mesh_id: this.meshId,
        mesh_slug: "team",
        broker_url: this.url,
        expires_at: Math.floor(Date.now() / 1000) + 3600,
        mesh_root_key: Buffer.alloc(32, 7).toString("base64url"),
        role: "member",
        owner_pubkey: this.owner.keys.publicKey,
        invite_id: randomUUID(),
        invite_secret: Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("hex"),
      },
      this.owner.keys.secretKey,
    );
    const at = Date.now();
    return {
      invite: signedInviteText(invite),
      signature: invite.signature,
      join: joinText(this.meshId, invite.invite_id, actor.keys.publicKey, at),
      proof: joinProof(invite, actor.keys.publicKey, at),
    };
  }

  /** A push that is as it should be, from the mesh's owner to the host; `sealed` and `frame` change what is in and on it. */
  async push(
    body: string,
    changes: { from?: Actor; sealed?: Record<string, unknown>; frame?: Record<string, unknown> } = {},
  ): Promise<PushInput> {
    const from = changes.from ?? this.owner;
    const id = String(changes.sealed?.id ?? changes.frame?.client_message_id ?? randomUUID());
    const content = {
      v: 2,
      id,
      mesh: this.meshId,
      from: from.keys.publicKey,
      to: this.host.keys.publicKey,
      body,
      sent_at: new Date().toISOString(),
      ...changes.sealed,
    };
    const sealed = await this.seal(JSON.stringify(content), from);
    return {
      type: "push",
      messageId: `m-${randomUUID()}`,
      meshId: this.meshId,
      senderPubkey: from.keys.publicKey,
      senderMemberPubkey: from.keys.publicKey,
      senderName: from.name,
      priority: "next",
      createdAt: new Date().toISOString(),
      client_message_id: id,
      bodyVersion: 2,
      ...sealed,
      ...changes.frame,
    };
  }

  async seal(text: string, from: Actor, to: string = this.host.keys.publicKey): Promise<SealedText> {
    return encodeSealed((await openSealer()).seal(text, from.keys.secretKey, to));
  }

  #hear(connection: Connection, frame: Frame): void {
    connection.frames.push(frame);
    switch (frame.type) {
      case "hello":
        this.onHello(connection);
        return;
      case "send":
        this.onSend(frame, connection);
        return;
      case "list_members":
        this.onMembers(frame, connection);
        return;
      case "list_peers":
        connection.say({
          type: "peers_list",
          _reqId: frame._reqId,
          peers: this.members
            .filter(({ online }) => online)
            .map(({ pubkey, display_name }) => ({ pubkey, memberPubkey: pubkey, displayName: display_name })),
        });
        return;
      case "client_ack":
        return;
      default:
        connection.say({ type: "ok", _reqId: frame._reqId });
    }
  }
}
