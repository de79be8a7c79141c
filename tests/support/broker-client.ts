/**
 * A raw client of the broker for tests: it speaks frames, keeps everything that it receives, and misbehaves when told to.
 * What it receives must fit the schemas of wire/broker.ts, or the test fails.
 */
import { randomBytes, randomUUID } from "node:crypto";
import { generateKeyPair, type KeyPair, signText } from "~/identity/keys";
import { type BrokerFrame, type ClientFrameInput, parseBrokerFrame } from "~/wire/broker";
import { helloText } from "~/wire/signed";
import { cleanup } from "./cleanup";
import { waitFor } from "./wait-for";

/** What a hello needs to be believed. */
export interface TestMember {
  meshId: string;
  memberId: string;
  keys: KeyPair;
  displayName: string;
}

export type HelloFrame = Extract<ClientFrameInput, { type: "hello" }>;
export type SendFrameInput = Extract<ClientFrameInput, { type: "send" }>;
export type PushFrame = Extract<BrokerFrame, { type: "push"; nonce: string }>;
export type FrameOf<Type extends BrokerFrame["type"]> = Extract<BrokerFrame, { type: Type }>;

/** A correctly signed hello; what `changes` replaces is not signed anew. */
export function helloOf(member: TestMember, changes: Partial<HelloFrame> = {}): HelloFrame {
  const signed = {
    meshId: member.meshId,
    memberId: member.memberId,
    pubkey: member.keys.publicKey,
    timestamp: changes.timestamp ?? nextTimestamp(),
  };
  const signature = signText(helloText(signed), member.keys.secretKey);
  return { type: "hello", protocolVersion: 1, capabilities: ["body2"], ...signed, signature, ...changes };
}

/** No two hellos of a test share a time: they would share a signature, and the second would be a replay. */
let lastTimestamp = 0;
function nextTimestamp(): number {
  lastTimestamp = Math.max(lastTimestamp + 1, Date.now());
  return lastTimestamp;
}

/** A send that the broker cannot tell from a real one: it never looks into what is sealed. */
export function sendOf(to: string, changes: Partial<SendFrameInput> = {}): SendFrameInput & { id: string } {
  const id = changes.client_message_id ?? changes.id ?? randomUUID();
  return {
    type: "send",
    id,
    client_message_id: id,
    request_fingerprint: randomBytes(32).toString("hex"),
    targetSpec: to,
    priority: "next",
    nonce: randomBytes(24).toString("base64"),
    ciphertext: randomBytes(48).toString("base64"),
    bodyVersion: 2,
    ...changes,
  };
}

export const strangerTo = (meshId: string): TestMember => ({
  meshId,
  memberId: "01STRANGER",
  keys: generateKeyPair(),
  displayName: "stranger",
});

export class BrokerClient {
  /** Everything received, in order. */
  readonly frames: BrokerFrame[] = [];
  /** The close that ended the connection, once it has. */
  closed: { code: number; reason: string } | undefined;
  /** Answer every push with a client_ack, as a daemon does. */
  acknowledges = false;
  readonly #socket: WebSocket;
  readonly #faults: string[] = [];
  /** Frames before this one were consumed by `next`. */
  readonly #consumed = new Set<BrokerFrame>();

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.addEventListener("message", (event) => this.#receive(event.data));
    socket.addEventListener("close", ({ code, reason }) => {
      this.closed = { code, reason };
    });
  }

  /** Opens the socket and says nothing yet. */
  static async open(url: string): Promise<BrokerClient> {
    const socket = new WebSocket(url);
    const client = new BrokerClient(socket);
    cleanup(() => socket.close());
    await waitFor(() => socket.readyState === WebSocket.OPEN || client.closed !== undefined, {
      what: `a WebSocket to ${url}`,
    });
    if (client.closed !== undefined && client.frames.length === 0)
      throw new Error(`no WebSocket to ${url}: ${client.closed.code} ${client.closed.reason}`);
    return client;
  }

  /** Opens and greets; fails when the broker refuses. */
  static async connect(
    url: string,
    member: TestMember,
    changes: Partial<HelloFrame> = {},
  ): Promise<BrokerClient> {
    const client = await BrokerClient.open(url);
    client.send(helloOf(member, changes));
    await client.next("hello_ack");
    return client;
  }

  send(frame: ClientFrameInput): void {
    this.sendRaw(JSON.stringify(frame));
  }

  sendRaw(data: string | Uint8Array<ArrayBuffer>): void {
    this.#socket.send(data);
  }

  /** Waits for the next frame of this type (and shape) that was not yet returned, and takes it. */
  async next<Type extends BrokerFrame["type"]>(
    type: Type,
    fits: (frame: FrameOf<Type>) => boolean = () => true,
  ): Promise<FrameOf<Type>> {
    const isWanted = (frame: BrokerFrame): frame is FrameOf<Type> =>
      !this.#consumed.has(frame) && isOfType(frame, type) && fits(frame);
    const frame = await waitFor(
      () => {
        this.#failOnFaults();
        return this.frames.find(isWanted);
      },
      { what: `a ${type} frame; received: ${this.frames.map((received) => received.type).join(", ")}` },
    );
    this.#consumed.add(frame);
    return frame;
  }

  /** The next message that was pushed; system pushes are none. */
  async nextPush(): Promise<PushFrame> {
    const frame = await this.next("push", isMessage);
    if (!isMessage(frame)) throw new Error("not a message");
    return frame;
  }

  /** Sends, and waits for the ack with the same id. */
  async sendAndWait(frame: SendFrameInput & { id: string }): Promise<FrameOf<"ack">> {
    this.send(frame);
    return this.next("ack", (ack) => ack.id === frame.id);
  }

  acknowledge(push: { messageId: string }): void {
    this.send({ type: "client_ack", brokerMessageId: push.messageId });
  }

  /** All messages pushed so far, in order. */
  get pushes(): PushFrame[] {
    return this.frames.filter(isMessage);
  }

  async waitForClose(): Promise<{ code: number; reason: string }> {
    const closed = await waitFor(() => this.closed, { what: "the broker to close the connection" });
    this.#failOnFaults();
    return closed;
  }

  async close(): Promise<void> {
    this.#socket.close();
    await this.waitForClose();
  }

  /** Ends the TCP connection without a closing handshake, as a host that crashes does. */
  async drop(): Promise<void> {
    this.#socket.terminate();
    await this.waitForClose();
  }

  #receive(data: unknown): void {
    if (typeof data !== "string") {
      this.#faults.push("received a frame that is not text");
      return;
    }
    const parsed = parseBrokerFrame(data);
    if (parsed.kind !== "frame") {
      this.#faults.push(`received a frame that fits no schema: ${data.slice(0, 200)}`);
      return;
    }
    this.frames.push(parsed.frame);
    if (this.acknowledges && isMessage(parsed.frame)) this.acknowledge(parsed.frame);
  }

  #failOnFaults(): void {
    if (this.#faults.length > 0) throw new Error(this.#faults.join("; "));
  }
}

const isOfType = <Type extends BrokerFrame["type"]>(frame: BrokerFrame, type: Type): frame is FrameOf<Type> =>
  frame.type === type;

const isMessage = (frame: BrokerFrame): frame is PushFrame => frame.type === "push" && "ciphertext" in frame;
