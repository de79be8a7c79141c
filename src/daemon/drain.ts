/**
 * Empties the outbox onto the links. Rows are marked `inflight` in the same transaction as the work that made them ready
 * (an accept, an answer), and leave once it is on disk; answers come back as rows in the next one. It is woken, it never
 * polls. Invariant: within a lane, what leaves first was accepted first.
 */
import type { Clock, Timer } from "~/clock";
import { isOlderThan, type RetryPolicy, type RowChange, stepAnswered } from "~/daemon/answer";
import type { Outbox, OutboxRow, SendableRow } from "~/daemon/db/outbox";
import { type Lane, Lanes } from "~/daemon/lanes";
import type { Writer } from "~/disk/writer";
import { readAnswer, type Verdict } from "~/link/answer";
import type { BrokerTerms } from "~/link/negotiate";
import type { LinkEnd } from "~/link/state";
import type { Log } from "~/log";
import { Tally } from "~/metrics/tally";
import type { Settings } from "~/settings/knobs";
import type { AckFrame, ClientFrameInput } from "~/wire/broker";
import { faultOf } from "~/wire/fault";
import { drainPauseMs, laneBurstMessagesMax, retryAfterMsMax } from "~/wire/limits";
import { encodeSealed } from "~/wire/sealed";
import type { Priority } from "~/wire/text";

/** What the drain needs of an open link. */
export interface Port {
  /** False when the connection is gone. */
  send(frame: ClientFrameInput): boolean;
  readonly bufferedBytes: number;
  /** Connects anew at once: what the broker remembers of this connection is in the way. */
  reconnect(why: string, end: LinkEnd): void;
  /** Gives this connection up; the next one comes after the usual pause. */
  drop(why: string, end: LinkEnd): void;
}

export interface DrainOptions {
  outbox: Outbox;
  writer: Writer;
  clock: Clock;
  chance(): number;
  log: Log;
  settings(): Settings;
  /** A row changed for good or for now; called after the commit. */
  changed(clientMessageId: string): void;
}

interface Flying {
  target: string;
  bytes: number;
  /** By the clock that never steps back; undefined until the commit that allows it to leave. */
  sentAtMs: number | undefined;
}

/** What is known of one mesh while its link is open. */
interface Route {
  mesh: string;
  port: Port;
  terms: BrokerTerms;
  lanes: Lanes;
  /** True once what the connection before left in flight is back in its place. */
  ready: boolean;
  flying: Map<string, Flying>;
  flyingBytes: number;
  timer: Timer | undefined;
  timeout: Timer | undefined;
}

/** What one batch takes off the disk, to be carried out after its commit or given back. */
interface Taken {
  departures: { route: Route; lane: Lane; row: SendableRow; awaitedId: string | undefined }[];
  expired: string[];
  /** Every lane that was looked at. */
  lanes: Map<Lane, Route>;
}

/** What brokers answered to sends; `none` when the link closed before they did. */
const answerKinds = [
  "created",
  "duplicate",
  "reused",
  "permanent",
  "transient",
  "held",
  "unrecognised",
  "none",
] as const;

export class Drain {
  readonly answers = new Tally(answerKinds);
  readonly #options: DrainOptions;
  readonly #routes = new Map<string, Route>();
  #held = false;

  constructor(options: DrainOptions) {
    this.#options = options;
    options.writer.addTail(
      () => (this.#held ? undefined : this.#fill()),
      () => {
        for (const route of this.#routes.values()) this.#wakeAfter(route, drainPauseMs);
      },
    );
  }

  /** The link of a mesh opened: its waiting rows may leave. */
  attach(mesh: string, port: Port, terms: BrokerTerms): void {
    const route: Route = {
      mesh,
      port,
      terms,
      lanes: new Lanes(),
      ready: false,
      flying: new Map(),
      flyingBytes: 0,
      timer: undefined,
      timeout: undefined,
    };
    this.#routes.set(mesh, route);
    const { outbox, writer, log } = this.#options;
    writer
      .submit(() => {
        outbox.putBackInflight(mesh);
        for (const target of outbox.lanesWithPending(mesh)) this.#offerStored(route, target);
        route.ready = true;
      })
      .catch((error: unknown) => {
        log("error", "drain_attach_failed", { mesh, error: faultOf(error) });
        if (this.#routes.get(mesh) === route) port.drop("the outbox could not be read", "storage");
      });
  }

  /** The link of a mesh closed: what was on the wire is back in the queue, its attempts unchanged. */
  detach(mesh: string): void {
    const route = this.#routes.get(mesh);
    if (route === undefined) return;
    this.#routes.delete(mesh);
    route.timer?.cancel();
    route.timeout?.cancel();
    for (const { sentAtMs } of route.flying.values()) if (sentAtMs !== undefined) this.answers.add("none");
    if (route.flying.size === 0) return;
    const { outbox, writer, log } = this.#options;
    writer
      .submit(() => outbox.putBackInflight(mesh))
      // The next attach does the same again, so nothing is lost by this.
      .catch((error: unknown) => log("error", "drain_detach_failed", { mesh, error: faultOf(error) }));
  }

  /** The window may be wider now, and the time for an answer shorter. */
  settingsChanged(): void {
    for (const route of this.#routes.values()) {
      if (route.timeout === undefined) continue;
      route.timeout.cancel();
      this.#watchAnswers(route);
    }
    this.#options.writer.wake();
  }

  /** Nothing leaves any more; answers to what has left are still taken. */
  hold(): void {
    this.#held = true;
  }

  /** How many messages have left, and have no answer on disk yet. */
  get onTheWire(): number {
    return [...this.#routes.values()].reduce((sum, route) => sum + route.flying.size, 0);
  }

  /** A row was just inserted, in the transaction that is still open. */
  inserted(mesh: string, target: string, priority: Priority): void {
    this.#routes.get(mesh)?.lanes.offerIfIdle(target, priority, this.#options.clock.monotonicMs());
  }

  /** The broker answered. Anything it may say is dealt with, even about rows that it never got. */
  answered(mesh: string, ack: AckFrame): void {
    const id = ack.client_message_id ?? ack.id;
    const route = this.#routes.get(mesh);
    if (id === undefined || route === undefined) return;
    const { writer, clock, log, changed } = this.#options;
    const verdict = readAnswer(ack);
    this.answers.add(kindOf(verdict));
    writer
      .submit(() => {
        const change = this.#applyAnswer(mesh, id, verdict, route.terms, clock.now());
        // The row is pending again in this very transaction, at whose end the drain looks for rows: not for this lane's, until
        // the refusal has landed.
        if (isRefusal(verdict)) this.#settle(route, id);
        return change;
      })
      .then(
        (change) => {
          this.#landed(route, id, verdict, change);
          if (change.to !== "unchanged") changed(id);
        },
        (error: unknown) => {
          log("error", "answer_not_stored", { mesh, client_message_id: id, error: faultOf(error) });
          if (this.#routes.get(mesh) === route) route.port.drop("an answer could not be stored", "storage");
        },
      );
  }

  // ── Inside the transaction ─────────────────────────────────────────────────────────────────────────────────────────

  #applyAnswer(mesh: string, id: string, verdict: Verdict, terms: BrokerTerms, nowMs: number): RowChange {
    const { outbox, chance, log } = this.#options;
    const row = outbox.byClientMessageId(id);
    if (row === null || row.mesh !== mesh) {
      log("warn", "answer_to_unknown_message", { mesh, client_message_id: id });
      return { to: "unchanged" };
    }
    const change = stepAnswered(row, verdict, nowMs, this.#policy(terms), chance());
    switch (change.to) {
      case "done":
        outbox.markDone(row.seq, change.brokerMessageId, nowMs);
        break;
      case "dead":
        outbox.markDead(row.seq, change.lastError);
        break;
      case "pending":
        outbox.markPending(row.seq, change.attempts, change.retryAtMs, change.lastError);
        break;
      case "aborted":
        outbox.noteBrokerMessageId(row.seq, change.brokerMessageId);
        break;
      case "unchanged":
    }
    this.#logAnswer(row, verdict, change);
    return change;
  }

  /** Takes rows into the window as far as it has room; their frames leave after the commit. */
  #fill(): { committed(): void; failed(): void } | undefined {
    const taken: Taken = { departures: [], expired: [], lanes: new Map() };
    try {
      for (const route of this.#routes.values()) if (route.ready) this.#fillRoute(route, taken);
    } catch (error) {
      this.#giveBack(taken);
      throw error;
    }
    if (taken.lanes.size === 0) return undefined;
    return {
      // Whoever waits for this commit, to hear that his message is on disk, is answered first.
      committed: () => this.#options.clock.soon(() => this.#carryOut(taken)),
      failed: () => this.#giveBack(taken),
    };
  }

  #carryOut({ departures, expired }: Taken): void {
    for (const { route, row } of departures) this.#depart(route, row);
    for (const id of expired) this.#options.changed(id);
  }

  #fillRoute(route: Route, taken: Taken): void {
    const due = route.lanes.wake(this.#options.clock.monotonicMs());
    for (const lane of due) taken.lanes.set(lane, route);
    for (const lane of due) this.#offerHead(route, lane);
    while (this.#room(route) > 0) {
      const lane = route.lanes.next();
      if (lane === undefined) break;
      // Its turn comes again when what is on the wire has been answered.
      if (lane.inflight > 0 && (lane.settling || !route.terms.lanes)) continue;
      taken.lanes.set(lane, route);
      this.#fillLane(route, lane, taken);
    }
    this.#setTimer(route);
  }

  #fillLane(route: Route, lane: Lane, { departures, expired }: Taken): void {
    const { outbox, clock } = this.#options;
    const nowMs = clock.now();
    lane.settling = false;
    const { maxAgeMs } = this.#policy(route.terms);
    const most = route.terms.lanes ? Math.min(laneBurstMessagesMax, this.#room(route)) : 1;
    const rows = outbox.pendingOfLane(route.mesh, lane.target, most + 1);
    let passed = 0;
    for (const row of rows) {
      if (passed >= most || this.#room(route) <= 0) break;
      if (isOlderThan(maxAgeMs, row, nowMs)) {
        outbox.markDead(row.seq, "expired");
        expired.push(row.client_message_id);
        passed++;
        continue;
      }
      const { awaitedId } = lane;
      if (awaitedId !== undefined && awaitedId !== row.client_message_id) {
        // The row that the broker waits for will not come again; only a new connection makes it forget.
        lane.awaitedId = undefined;
        queueMicrotask(() =>
          route.port.reconnect("the row that the broker holds a lane for was withdrawn", "lane"),
        );
        return;
      }
      outbox.markInflight(row.seq, nowMs);
      lane.awaitedId = undefined;
      route.flying.set(row.client_message_id, {
        target: lane.target,
        bytes: row.ciphertext.length,
        sentAtMs: undefined,
      });
      route.flyingBytes += row.ciphertext.length;
      lane.inflight++;
      departures.push({ route, lane, row, awaitedId });
      passed++;
    }
    const following = rows[passed];
    if (following !== undefined) route.lanes.offer(lane.target, following.priority, clock.monotonicMs());
    else route.lanes.release(lane.target);
  }

  /** The batch failed: the rows are pending on disk, as they were, and their lanes look there again in a moment. */
  #giveBack({ departures, lanes }: Taken): void {
    for (const { route, lane, row, awaitedId } of departures) {
      const id = row.client_message_id;
      route.flyingBytes -= route.flying.get(id)?.bytes ?? 0;
      route.flying.delete(id);
      lane.inflight--;
      lane.awaitedId ??= awaitedId;
    }
    const nowMs = this.#options.clock.monotonicMs();
    for (const [{ target }, route] of lanes) {
      const lane = route.lanes.enter(target);
      lane.retryAtMs = Math.max(lane.retryAtMs, nowMs + drainPauseMs);
      route.lanes.offer(target, "next", nowMs);
    }
  }

  /** A lane as the disk has it; its first row may have been told to wait. */
  #offerStored(route: Route, target: string): void {
    const [head] = this.#options.outbox.pendingOfLane(route.mesh, target, 1);
    if (head === undefined) return;
    const lane = route.lanes.enter(target);
    lane.retryAtMs = Math.max(lane.retryAtMs, this.#steady(head.next_attempt_at));
    route.lanes.offer(target, head.priority, this.#options.clock.monotonicMs());
  }

  #offerHead(route: Route, { target }: Lane): void {
    const [head] = this.#options.outbox.pendingOfLane(route.mesh, target, 1);
    if (head === undefined) route.lanes.release(target);
    else route.lanes.offer(target, head.priority, this.#options.clock.monotonicMs());
  }

  /**
   * A time of the wall clock by the one that never steps back. However the first was set meanwhile, nothing waits for longer
   * than a broker may ask.
   */
  #steady(wallMs: number): number {
    const { clock } = this.#options;
    return clock.monotonicMs() + Math.max(0, Math.min(wallMs - clock.now(), retryAfterMsMax));
  }

  // ── After the commit ───────────────────────────────────────────────────────────────────────────────────────────────

  #depart(route: Route, row: SendableRow): void {
    const flying = route.flying.get(row.client_message_id);
    // The link closed meanwhile: detach has put the row back already, or is about to.
    if (flying === undefined || this.#routes.get(route.mesh) !== route) return;
    flying.sentAtMs = this.#options.clock.monotonicMs();
    route.port.send(sendFrame(row));
    this.#options.changed(row.client_message_id);
    if (route.timeout === undefined) this.#watchAnswers(route);
  }

  /** The answer is on disk: the window has room again, and the lane goes on or waits. */
  #landed(route: Route, id: string, verdict: Verdict, change: RowChange): void {
    if (this.#routes.get(route.mesh) !== route) return;
    const flying = route.flying.get(id);
    if (flying === undefined) return;
    route.flying.delete(id);
    route.flyingBytes -= flying.bytes;
    const lane = route.lanes.enter(flying.target);
    lane.inflight--;
    if (isRefusal(verdict)) {
      this.#heldUp(route, lane, id, verdict, change.to === "pending" ? change.retryAtMs : 0);
    }
    if (lane.inflight === 0) {
      if (lane.settling || !route.terms.lanes) this.#offerHead(route, lane);
      else route.lanes.release(lane.target);
    }
    this.#options.writer.wake();
  }

  #settle(route: Route, id: string): void {
    const target = route.flying.get(id)?.target;
    const lane = target === undefined ? undefined : route.lanes.get(target);
    if (lane !== undefined) lane.settling = true;
  }

  #heldUp(route: Route, lane: Lane, id: string, verdict: Refusal, retryAtMs: number): void {
    lane.settling = true;
    lane.retryAtMs = Math.max(lane.retryAtMs, this.#steady(retryAtMs));
    if (verdict.kind !== "held") {
      // Whatever became of the row here, the broker waits for it; of several, for the first that it refused.
      if (route.terms.lanes) lane.awaitedId ??= id;
    } else if (lane.awaitedId === undefined) {
      // Held for a refusal that we were never told of: go on, but not in a tight circle.
      lane.retryAtMs = Math.max(lane.retryAtMs, this.#options.clock.monotonicMs() + drainPauseMs);
    }
  }

  /** One timer for the oldest that is unanswered: a broker that is silent for so long is as good as gone. */
  #watchAnswers(route: Route): void {
    const { clock } = this.#options;
    const [oldest] = route.flying.values();
    if (oldest === undefined) {
      route.timeout = undefined;
      return;
    }
    const answerTimeoutMs = this.#options.settings()["delivery.answer_timeout_s"] * 1000;
    const waitedMs = oldest.sentAtMs === undefined ? 0 : clock.monotonicMs() - oldest.sentAtMs;
    // What has not left this host cannot have been answered: a slow network is not a silent broker.
    if (waitedMs >= answerTimeoutMs && route.port.bufferedBytes > 0) {
      route.timeout = clock.after(answerTimeoutMs, () => this.#watchAnswers(route));
      return;
    }
    if (waitedMs >= answerTimeoutMs) {
      route.port.drop(`no answer to a message in ${answerTimeoutMs / 1000} s`, "no_answer");
      return;
    }
    route.timeout = clock.after(answerTimeoutMs - waitedMs, () => this.#watchAnswers(route));
  }

  #setTimer(route: Route): void {
    const at = route.lanes.nextWakeMs();
    const laterMs = at === undefined ? undefined : at - this.#options.clock.monotonicMs();
    // With nothing on the wire no answer will tell that the socket's buffer has emptied.
    const isChoked = route.flying.size === 0 && route.lanes.size > 0 && this.#room(route) <= 0;
    if (isChoked) this.#wakeAfter(route, Math.min(laterMs ?? drainPauseMs, drainPauseMs));
    else if (laterMs !== undefined) this.#wakeAfter(route, laterMs);
    else {
      route.timer?.cancel();
      route.timer = undefined;
    }
  }

  #wakeAfter(route: Route, delayMs: number): void {
    route.timer?.cancel();
    route.timer = this.#options.clock.after(delayMs, () => this.#options.writer.wake());
  }

  #room(route: Route): number {
    const settings = this.#options.settings();
    const bytes = route.flyingBytes + route.port.bufferedBytes;
    if (bytes >= settings["delivery.window_bytes_max"]) return 0;
    return settings["delivery.window_messages_max"] - route.flying.size;
  }

  #policy(terms: BrokerTerms): RetryPolicy {
    const settings = this.#options.settings();
    const asked = settings["delivery.max_age_h"];
    return {
      maxAgeMs: asked === null ? terms.maxAgeMs : Math.min(asked * hourMs, terms.maxAgeMsMax ?? Infinity),
      delayMsMin: settings["delivery.retry_delay_ms_min"],
      delayMsMax: settings["delivery.retry_delay_s_max"] * 1000,
      unrecognisedAttemptsMax: settings["delivery.unrecognised_attempts_max"],
    };
  }

  #logAnswer(row: OutboxRow, verdict: Verdict, change: RowChange): void {
    const { log } = this.#options;
    const about = { mesh: row.mesh, client_message_id: row.client_message_id };
    if (verdict.kind === "accepted" && verdict.duplicate) {
      log(verdict.historyGone ? "warn" : "info", "broker_had_it_already", {
        ...about,
        history_gone: verdict.historyGone,
      });
    }
    if (change.to === "dead") log("warn", "message_dead", { ...about, reason: codeIn(change.lastError) });
    if (verdict.kind === "unrecognised")
      log("warn", "answer_not_recognised", { ...about, reason: codeIn(verdict.why) });
  }
}

/** The broker's words may repeat what it was sent; they stay with the row (`daemon outbox show`), and the log has the code. */
const codeIn = (why: string): string => /^[a-z][a-z0-9_]{0,63}(?=:|$)/.exec(why)?.[0] ?? "other";

const hourMs = 3600 * 1000;

const kindOf = (verdict: Verdict): Exclude<(typeof answerKinds)[number], "none"> => {
  if (verdict.kind !== "accepted") return verdict.kind;
  return verdict.duplicate ? "duplicate" : "created";
};

type Refusal = Extract<Verdict, { kind: "transient" | "unrecognised" | "held" }>;

/** The row may go again, and so may what follows it in its lane, but not now. */
const isRefusal = (verdict: Verdict): verdict is Refusal =>
  verdict.kind === "transient" || verdict.kind === "unrecognised" || verdict.kind === "held";

const sendFrame = (row: SendableRow): ClientFrameInput => ({
  type: "send",
  id: row.client_message_id,
  client_message_id: row.client_message_id,
  ...(row.wire_fingerprint === null ? {} : { request_fingerprint: row.wire_fingerprint }),
  targetSpec: row.target_spec,
  priority: row.priority,
  ...encodeSealed(row),
  // Body version 2 carries the thread inside the seal, where the broker does not see it.
  ...(row.body_version === 2 || row.reply_to_id === null ? {} : { replyToId: row.reply_to_id }),
  bodyVersion: row.body_version === 2 ? 2 : 1,
});
