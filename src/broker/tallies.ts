/** What the broker has counted since it started; metrics.ts shows it when somebody asks. */
import type { ErrorCode } from "~/errors";
import { Tally } from "~/metrics/tally";
import { type AckCode, ackCodes, closeCode } from "~/wire/broker";

/** Routes of the broker's HTTP; every other path is one. */
export const httpPaths = ["/health", "/join", "/meshes", "/metrics", "/ws"] as const;
export type HttpPath = (typeof httpPaths)[number] | "none";

/** Codes that a peer closes with: RFC 6455 §7.4.1, and those of this protocol. Whatever else a peer says is one. */
const peerCloseCodes: readonly number[] = [...Object.values(closeCode), 1005, 1006];

export class Tallies {
  /** The answers to sends. */
  readonly sends = new Tally<AckCode>(ackCodes);
  /** Messages that were handed to a socket. */
  pushes = 0;
  /** Those that their recipient then had on its disk. */
  acknowledged = 0;
  readonly redeliveries = new Tally(["lapsed", "closed"]);
  /** `admitted`, or the code of the refusal. */
  readonly hellos = new Tally<string>(["admitted"]);
  /** `joined`, `already_member`, or the code of the refusal. */
  readonly joins = new Tally<"joined" | "already_member" | ErrorCode>(["joined", "already_member"]);
  /** By the code that this broker closed with, or why it cut a connection off. */
  readonly closedByBroker = new Tally<string>(["backlog", "silence"]);
  readonly closedByPeer = new Tally<string>(["other"]);
  readonly http = new Map<HttpPath, Map<number, number>>();

  peerClosed(code: number): void {
    this.closedByPeer.add(peerCloseCodes.includes(code) ? String(code) : "other");
  }

  requestEnded(path: string, status: number): void {
    const known = httpPaths.find((httpPath) => httpPath === path) ?? "none";
    const statuses = this.http.get(known) ?? new Map<number, number>();
    this.http.set(known, statuses.set(status, (statuses.get(status) ?? 0) + 1));
  }
}
