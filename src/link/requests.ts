/** Requests on a connection that wait for an answer with the same `_reqId`. */
import type { Clock, Timer } from "~/clock";
import { MeshError } from "~/errors";
import { brokerError } from "~/link/failure";
import type { BrokerFrame } from "~/wire/broker";
import { answerTimeoutMs } from "~/wire/limits";

interface Waiting {
  resolve(frame: BrokerFrame): void;
  reject(error: MeshError): void;
  timer: Timer;
}

export class Requests {
  readonly #clock: Clock;
  readonly #timeoutMs: number;
  readonly #waiting = new Map<string, Waiting>();
  #next = 1;

  constructor(clock: Clock, timeoutMs: number = answerTimeoutMs) {
    this.#clock = clock;
    this.#timeoutMs = timeoutMs;
  }

  /** `transmit` says whether the frame could be handed to the connection. */
  make(transmit: (reqId: string) => boolean): Promise<BrokerFrame> {
    const reqId = String(this.#next++);
    return new Promise((resolve, reject) => {
      if (!transmit(reqId)) {
        reject(new MeshError("broker_unreachable", "there is no connection to the broker"));
        return;
      }
      const timer = this.#clock.after(this.#timeoutMs, () => {
        this.#waiting.delete(reqId);
        reject(new MeshError("timed_out", `the broker did not answer within ${this.#timeoutMs / 1000} s`));
      });
      this.#waiting.set(reqId, { resolve, reject, timer });
    });
  }

  /** True when the frame was the answer to a request. */
  settle(frame: BrokerFrame): boolean {
    const reqId = "_reqId" in frame ? frame._reqId : undefined;
    const waiting = reqId === undefined ? undefined : this.#waiting.get(reqId);
    if (reqId === undefined || waiting === undefined) return false;
    this.#waiting.delete(reqId);
    waiting.timer.cancel();
    if (frame.type === "error") waiting.reject(brokerError(frame.code, frame.message));
    else waiting.resolve(frame);
    return true;
  }

  failAll(error: MeshError): void {
    for (const waiting of this.#waiting.values()) {
      waiting.timer.cancel();
      waiting.reject(error);
    }
    this.#waiting.clear();
  }
}
