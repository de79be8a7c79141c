/**
 * One connection for one errand (a mesh command, a cold send): it greets as `send_only`, so it neither takes the daemon's
 * mail nor its place, and it never tries again by itself.
 */
import { type Clock, systemClock } from "~/clock";
import { MeshError } from "~/errors";
import { isClaudemeshMesh, type MeshEntry } from "~/identity/config";
import { brokerError, unreachable } from "~/link/failure";
import { helloFrame } from "~/link/hello";
import { type BrokerTerms, negotiate } from "~/link/negotiate";
import { Requests } from "~/link/requests";
import { BrokerSocket } from "~/link/socket";
import {
  type AckFrame,
  type BrokerFrame,
  type ClientFrameInput,
  closeCode,
  type RequestFrame,
} from "~/wire/broker";
import { shownUrl } from "~/wire/fault";
import { helloTimeoutMs } from "~/wire/limits";

export class BrokerConnection {
  readonly terms: BrokerTerms;
  readonly #socket: BrokerSocket;
  readonly #requests: Requests;
  readonly #acks: Map<string, (ack: AckFrame) => void>;

  constructor(parts: {
    terms: BrokerTerms;
    socket: BrokerSocket;
    requests: Requests;
    acks: Map<string, (ack: AckFrame) => void>;
  }) {
    this.terms = parts.terms;
    this.#socket = parts.socket;
    this.#requests = parts.requests;
    this.#acks = parts.acks;
  }

  /** Throws `broker_unreachable`, `timed_out`, or what the broker answered. */
  request(frame: RequestFrame): Promise<BrokerFrame> {
    return this.#requests.make((reqId) => this.#socket.send({ ...frame, _reqId: reqId }));
  }

  /** Sends a message and resolves with the broker's answer to it; the caller bounds the wait. */
  deliver(frame: Extract<ClientFrameInput, { type: "send" }> & { id: string }): Promise<AckFrame> {
    return new Promise((resolve, reject) => {
      this.#acks.set(frame.id, resolve);
      if (!this.#socket.send(frame))
        reject(new MeshError("broker_unreachable", "the connection to the broker closed"));
    });
  }

  close(): void {
    this.#socket.close(closeCode.normal, "done");
    this.#requests.failAll(new MeshError("broker_unreachable", "the connection was closed"));
  }
}

export interface OnceOptions {
  timeoutMs?: number;
  clock?: Clock;
  /** Told when the connection ends before `close` was called. */
  onClosed?: (error: MeshError) => void;
}

/** Connects and greets. Throws `broker_unreachable`, `timed_out`, `clock_skew`, or the broker's refusal. */
export function connectOnce(mesh: MeshEntry, options: OnceOptions = {}): Promise<BrokerConnection> {
  const clock = options.clock ?? systemClock;
  const timeoutMs = options.timeoutMs ?? helloTimeoutMs;
  const requests = new Requests(clock, timeoutMs);
  const acks = new Map<string, (ack: AckFrame) => void>();
  return new Promise((resolve, reject) => {
    let greeted = false;
    const fail = (error: MeshError) => {
      timer.cancel();
      socket.close(closeCode.normal, "failed");
      requests.failAll(error);
      if (greeted) options.onClosed?.(error);
      else reject(error);
    };
    const timer = clock.after(timeoutMs, () => {
      fail(
        new MeshError(
          "timed_out",
          `the broker at ${shownUrl(mesh.brokerUrl)} did not answer within ${timeoutMs / 1000} s`,
        ),
      );
    });
    const greet = (frame: BrokerFrame) => {
      if (frame.type === "error") fail(brokerError(frame.code, frame.message, hintFor(frame.code)));
      if (frame.type !== "hello_ack") return;
      const agreed = negotiate(frame.features, isClaudemeshMesh(mesh));
      if (!agreed.ok) {
        fail(
          new MeshError(
            "broker_refused",
            `the broker does not offer what this mesh needs (${agreed.kind}: ${agreed.feature})`,
          ),
        );
        return;
      }
      greeted = true;
      timer.cancel();
      resolve(new BrokerConnection({ terms: agreed.terms, socket, requests, acks }));
    };
    const socket = new BrokerSocket(mesh.brokerUrl, {
      opened: () => void socket.send(helloFrame(mesh, crypto.randomUUID(), clock.now(), true)),
      received: (parsed) => {
        if (parsed.kind !== "frame") return;
        if (!greeted) greet(parsed.frame);
        else if (parsed.frame.type === "ack") settleAck(parsed.frame, acks);
        else requests.settle(parsed.frame);
      },
      heard: () => undefined,
      pong: () => undefined,
      closed: (_code, reason) => fail(unreachable(mesh.brokerUrl, reason)),
    });
  });
}

function settleAck(ack: AckFrame, acks: Map<string, (ack: AckFrame) => void>): void {
  const id = ack.client_message_id ?? ack.id;
  if (id === undefined) return;
  acks.get(id)?.(ack);
  acks.delete(id);
}

function hintFor(code: string): string | undefined {
  if (code === "clock_skew") return "Set this host's clock (timedatectl set-ntp true), then try again.";
  if (code === "not_a_member" || code === "removed" || code === "unknown_mesh") {
    return "This host is no longer in that mesh: claudemesh mesh leave, then join with a new invite.";
  }
  return undefined;
}
