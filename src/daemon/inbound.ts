/**
 * Everything that arrives from one broker goes through here: opened, checked against the members, stored once, then
 * acknowledged, strictly in the order of the pushes. What cannot be opened or believed is stored apart and acknowledged
 * too, so that it blocks nothing, and is tried again when keys change.
 */
import * as v from "valibot";
import type { Clock } from "~/clock";
import type { Inbox, ProblemRow } from "~/daemon/db/inbox";
import type { Directory } from "~/daemon/directory";
import type { Writer } from "~/disk/writer";
import type { MeshEntry } from "~/identity/config";
import { type Letter, openLetter, type ProblemReason, problemReasons } from "~/identity/envelope";
import type { Sealer } from "~/identity/sealer";
import type { LinkEnd } from "~/link/state";
import type { Log } from "~/log";
import { Tally } from "~/metrics/tally";
import { type ClientFrameInput, PushFrame, parseBrokerFrame } from "~/wire/broker";
import { faultOf } from "~/wire/fault";
import { problemRetriesMax, pushesWaitingMax } from "~/wire/limits";

export interface InboundOptions {
  mesh: MeshEntry;
  inbox: Inbox;
  writer: Writer;
  directory: Directory;
  sealer: Sealer;
  clock: Clock;
  newId(): string;
  log: Log;
  /** New rows are on disk. */
  stored(): void;
  /** A message came from a key that the directory does not know or believe. */
  senderUnknown(): void;
}

/** The connection that pushes come from and acknowledgements go to. */
export interface PushConnection {
  send(frame: ClientFrameInput): boolean;
  drop(why: string, end: LinkEnd): void;
}

/** What came of the pushes, counted once it was on disk. */
export class Arrivals {
  readonly messages = new Tally(["new", "duplicate"]);
  readonly problems = new Tally(problemReasons);

  add(arrival: Arrival): void {
    if (arrival === "new" || arrival === "duplicate") this.messages.add(arrival);
    else this.problems.add(arrival);
  }
}

type Arrival = "new" | "duplicate" | ProblemReason;

/** What one transaction did: whether there is a new message by it, and what it adds to the arrivals. */
export interface Stored {
  isNew: boolean;
  arrivals: Arrival[];
}

type Judgement =
  | { ok: true; letter: Letter; bodyVersion: number; senderName: string }
  | { ok: false; reason: ProblemReason };

export class Inbound {
  readonly arrivals = new Arrivals();
  readonly #options: InboundOptions;
  /** Of the job that runs at the moment. */
  #arrivals: Arrival[] = [];

  constructor(options: InboundOptions) {
    this.#options = options;
  }

  /** One intake for one connection: after a push that could not be stored, it takes none. */
  open(connection: PushConnection): Intake {
    return new Intake(this, this.#options, connection);
  }

  /** Runs a job inside a transaction, and notes what it adds to the arrivals if that is committed. */
  noting(job: () => boolean): Stored {
    this.#arrivals = [];
    const isNew = job();
    return { isNew, arrivals: this.#arrivals };
  }

  /** What was noted is on disk. */
  count({ arrivals }: Stored): void {
    for (const arrival of arrivals) this.arrivals.add(arrival);
  }

  /** Stores a push that fits its schema; true when there is a new message by it. To be called inside a transaction. */
  store(push: PushFrame): boolean {
    const judgement = this.#judge(push);
    if (!judgement.ok) {
      this.#storeProblem(push, judgement.reason);
      return false;
    }
    // What this sender wrote before it was known comes first, or this message would overtake it.
    const { inbox, mesh } = this.#options;
    const solved = this.#retryAll(inbox.waitingForSender(mesh.meshId, judgement.letter.from));
    return this.#insert(push, judgement) || solved > 0;
  }

  /** Keeps a push that does not even fit its schema. To be called inside a transaction. */
  storeMalformed(messageId: string, push: unknown): void {
    const { mesh, inbox, clock, newId } = this.#options;
    const isNew = inbox.insertProblem({
      id: newId(),
      mesh: mesh.meshId,
      broker_message_id: messageId,
      sender_pubkey: null,
      sender_name: null,
      client_message_id: null,
      reason: "frame_malformed",
      push: JSON.stringify(push),
      received_at: clock.now(),
    });
    if (isNew) this.#arrivals.push("frame_malformed");
  }

  /** Tries the stored problems of this mesh again; resolves with how many became messages. */
  async retryProblems(): Promise<number> {
    const { inbox, mesh, writer, stored, log } = this.#options;
    let solved = 0;
    for (let after = 0; inbox.problemsAfter(after, mesh.meshId, 1).length > 0; ) {
      let inPage = 0;
      const stored = await writer.submit(() =>
        this.noting(() => {
          const page = inbox.problemsAfter(after, mesh.meshId, problemRetriesMax);
          after = page.at(-1)?.seq ?? after;
          inPage = this.#retryAll(page);
          return inPage > 0;
        }),
      );
      this.count(stored);
      solved += inPage;
    }
    if (solved > 0) {
      log("info", "problems_solved", { mesh: mesh.slug, count: solved });
      stored();
    }
    return solved;
  }

  /** In the order in which they came; returns how many became messages. */
  #retryAll(problems: readonly ProblemRow[]): number {
    return problems.filter((problem) => this.#retry(problem)).length;
  }

  #retry(problem: ProblemRow): boolean {
    const parsed = parseBrokerFrame(problem.push);
    if (parsed.kind !== "frame" || !v.is(PushFrame, parsed.frame)) return false;
    const judgement = this.#judge(parsed.frame);
    if (!judgement.ok) return false;
    this.#insert(parsed.frame, judgement);
    this.#options.inbox.removeProblem(problem.seq);
    return true;
  }

  #judge(push: PushFrame): Judgement {
    const { mesh, directory, sealer, clock, senderUnknown } = this.#options;
    const recipient = { meshId: mesh.meshId, publicKey: mesh.pubkey, secretKey: mesh.secretKey };
    const opened = openLetter(push, recipient, sealer, clock.now());
    if (!opened.ok) return opened;
    if (!directory.admits(opened.letter.from, push.senderAdmission)) {
      senderUnknown();
      return { ok: false, reason: "sender_not_admitted" };
    }
    const senderName =
      directory.byKey(opened.letter.from)?.name ?? push.senderName ?? opened.letter.from.slice(0, 8);
    return { ok: true, letter: opened.letter, bodyVersion: opened.bodyVersion, senderName };
  }

  #insert(push: PushFrame, judgement: Extract<Judgement, { ok: true }>): boolean {
    const { inbox, newId, clock } = this.#options;
    const seq = inbox.insert({
      id: newId(),
      letter: judgement.letter,
      bodyVersion: judgement.bodyVersion,
      senderName: judgement.senderName,
      brokerMessageId: push.messageId,
      priority: push.priority,
      receivedAt: clock.now(),
    });
    this.#arrivals.push(seq === undefined ? "duplicate" : "new");
    return seq !== undefined;
  }

  #storeProblem(push: PushFrame, reason: ProblemReason): void {
    const { inbox, mesh, clock, newId, log } = this.#options;
    const isNew = inbox.insertProblem({
      id: newId(),
      mesh: mesh.meshId,
      broker_message_id: push.messageId,
      sender_pubkey: push.senderMemberPubkey ?? push.senderPubkey,
      sender_name: push.senderName ?? null,
      client_message_id: push.client_message_id ?? null,
      reason,
      push: JSON.stringify(push),
      received_at: clock.now(),
    });
    if (isNew) this.#arrivals.push(reason);
    if (isNew)
      log("warn", "push_not_understood", { mesh: mesh.slug, broker_message_id: push.messageId, reason });
  }
}

export class Intake {
  readonly #inbound: Inbound;
  readonly #options: InboundOptions;
  readonly #connection: PushConnection;
  #waiting = 0;
  #closed = false;
  /** Set while a push is being stored, and for good when that failed. */
  #broken = false;

  constructor(inbound: Inbound, options: InboundOptions, connection: PushConnection) {
    this.#inbound = inbound;
    this.#options = options;
    this.#connection = connection;
  }

  /** A push that fits its schema. */
  take(push: PushFrame): void {
    this.#store(push.messageId, push.client_message_id, () => this.#inbound.store(push));
  }

  /** A push of which only the message's name could be read. */
  takeMalformed(messageId: string, push: unknown): void {
    this.#store(messageId, undefined, () => {
      this.#inbound.storeMalformed(messageId, push);
      return false;
    });
  }

  close(): void {
    this.#closed = true;
  }

  #store(messageId: string, clientMessageId: string | undefined, job: () => boolean): void {
    if (this.#closed) return;
    if (this.#waiting >= pushesWaitingMax) {
      const why = `the broker pushes more than ${pushesWaitingMax} messages ahead of their acknowledgement`;
      this.#giveUp(why, "overrun");
      return;
    }
    this.#waiting++;
    const inOrder = () => {
      if (this.#broken || this.#closed) throw new Error("a push before this one could not be stored");
      this.#broken = true;
      const stored = this.#inbound.noting(job);
      this.#broken = false;
      return stored;
    };
    this.#options.writer.submit(inOrder).then(
      (stored) => {
        this.#waiting--;
        this.#inbound.count(stored);
        if (stored.isNew) this.#options.stored();
        if (this.#closed) return;
        this.#connection.send({
          type: "client_ack",
          brokerMessageId: messageId,
          ...(clientMessageId === undefined ? {} : { clientMessageId }),
        });
      },
      (error: unknown) => {
        this.#waiting--;
        if (this.#closed) return;
        this.#options.log("error", "push_not_stored", {
          mesh: this.#options.mesh.slug,
          error: faultOf(error),
        });
        this.#giveUp("an arriving message could not be stored", "storage");
      },
    );
  }

  #giveUp(why: string, end: LinkEnd): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#connection.drop(why, end);
  }
}
