/**
 * What the broker does by itself when it has started, and then once a day: it takes the contents from old messages, forgets ids that
 * expired, removes copies of its database that still hold either, and checks that dedupe records, messages and deliveries belong
 * together. All of it goes in small steps with pauses, so that nobody who sends waits for it, and each step leaves the store whole, so
 * that it can end anywhere. What the check finds is told, in the log and in the broker's health, and never mended: a row that is
 * missing cannot be made up.
 */
import type { Bounds } from "~/broker/bounds";
import type { Checked, OldMessage } from "~/broker/rows";
import { cutoffsOf, type Settings } from "~/broker/settings";
import type { Store } from "~/broker/sqlite";
import { type Clock, type Clocks, jumpMs, pause, readClocks, takeSteps } from "~/clock";
import type { Writer } from "~/disk/writer";
import type { Log } from "~/log";
import { faultOf } from "~/wire/fault";
import { brokerClockJumpMsMax } from "~/wire/limits";
import type { BrokerHealth } from "~/wire/membership";

export type Problem = BrokerHealth["problems"][number];

const firstRow = Number.MIN_SAFE_INTEGER;

type Finding = "dedupe_without_message" | "message_without_dedupe" | "delivery_without_message";

const findingTexts: Record<Finding, string> = {
  dedupe_without_message:
    "dedupe records have no message: their ids are taken, and what was sent under them is gone",
  message_without_dedupe: "messages have no dedupe record: sent again, they would be accepted twice",
  delivery_without_message: "deliveries have no message: they never reach anybody",
};

export class Upkeep {
  readonly #store: Store;
  readonly #writer: Writer;
  readonly #clock: Clock;
  readonly #bounds: Bounds;
  readonly #settings: Settings;
  readonly #log: Log;
  readonly #tidy: (beforeMs: number) => string[];
  /** The two clocks as they were when retention last looked at them. */
  #clocks: Clocks;
  /** What the last time of each task left behind. */
  readonly #problems = new Map<string, Problem[]>();

  constructor(parts: {
    store: Store;
    writer: Writer;
    clock: Clock;
    bounds: Bounds;
    settings: Settings;
    log: Log;
    /** Removes what nobody needs beside the database, and returns the names of copies that were made before then. */
    tidy(beforeMs: number): string[];
  }) {
    this.#store = parts.store;
    this.#writer = parts.writer;
    this.#clock = parts.clock;
    this.#bounds = parts.bounds;
    this.#settings = parts.settings;
    this.#log = parts.log;
    this.#tidy = (beforeMs) => parts.tidy(beforeMs);
    this.#clocks = readClocks(this.#clock);
  }

  get problems(): Problem[] {
    return [...this.#problems.values()].flat();
  }

  /** Goes on until it is aborted; never rejects. A store that may have suffered (`isSuspect`) is checked at once. */
  async run(isSuspect: boolean, signal: AbortSignal): Promise<void> {
    for (let isCheckDue = isSuspect; !signal.aborted; isCheckDue = true) {
      const beganMs = this.#clock.monotonicMs();
      if (isCheckDue) await this.#attempt("check", () => this.#check(signal));
      await this.#attempt("retention", () => this.#retain(signal));
      const dueMs = beganMs + this.#bounds.upkeepEveryMs;
      await pause(this.#clock, dueMs - this.#clock.monotonicMs(), signal);
    }
  }

  /** A task that fails is a problem until the next time; one that is cut short leaves things as they were. */
  async #attempt(task: string, run: () => Promise<Problem[] | undefined>): Promise<void> {
    try {
      const problems = await run();
      if (problems !== undefined) this.#problems.set(task, problems);
    } catch (error) {
      const why = faultOf(error);
      this.#log("error", `the broker's ${task} could not be finished`, { error: why });
      const message = `the last ${task} could not be finished: ${why}`;
      this.#problems.set(task, [{ code: `${task}_failed`, message }]);
    }
  }

  // ── Retention ─────────────────────────────────────────────────────────────────────────────────────────────────────

  async #retain(signal: AbortSignal): Promise<Problem[] | undefined> {
    const before = this.#clocks;
    this.#clocks = readClocks(this.#clock);
    const nowMs = this.#clocks.wallMs;
    const jumpedMs = jumpMs(before, this.#clocks);
    if (Math.abs(jumpedMs) > brokerClockJumpMsMax) {
      const hours = (jumpedMs / 3_600_000).toFixed(1);
      const message = `the clock moved by ${hours} h while the broker ran: nothing is forgotten before it has kept right for a day`;
      this.#log("warn", "the clock jumped", { hours });
      return [{ code: "clock_jumped", message }];
    }
    const { pruneBefore, expireBefore } = cutoffsOf(this.#settings, nowMs);
    const limit = this.#bounds.upkeepWrittenRowsMax;
    let [pruned, forgotten] = [0, 0];
    let after: OldMessage = { created_at: firstRow, seq: firstRow };
    const isPruned = await this.#steps(signal, async () => {
      const from = after;
      const page = await this.#writer.submit(() => this.#store.prune(pruneBefore, from, limit, nowMs));
      pruned += page.count;
      if (page.next !== undefined) after = page.next;
      return page.next !== undefined;
    });
    const isDone =
      isPruned &&
      (expireBefore === undefined ||
        (await this.#steps(signal, async () => {
          const count = await this.#writer.submit(() => this.#store.expire(expireBefore, limit));
          forgotten += count;
          return count === limit;
        })));
    if (pruned + forgotten > 0) this.#log("info", "old messages were pruned", { pruned, forgotten });
    if (!isDone) return undefined;
    const files = this.#tidy(pruneBefore);
    if (files.length > 0) this.#log("info", "old copies of the database were removed", { files });
    return [];
  }

  // ── The check ─────────────────────────────────────────────────────────────────────────────────────────────────────

  async #check(signal: AbortSignal): Promise<Problem[] | undefined> {
    const store = this.#store;
    const counts: Record<Finding, number | undefined> = {
      dedupe_without_message: await this.#countUnsound(
        { sender: firstRow, client_message_id: "" },
        (after, limit) => store.checkDedupe(after, limit),
        signal,
      ),
      message_without_dedupe: await this.#countUnsound(
        { seq: firstRow },
        (after, limit) => store.checkMessages(after, limit),
        signal,
      ),
      delivery_without_message: await this.#countUnsound(
        { seq: firstRow, recipient: firstRow },
        (after, limit) => store.checkDeliveries(after, limit),
        signal,
      ),
    };
    const problems: Problem[] = [];
    for (const [code, text] of Object.entries(findingTexts)) {
      const count = counts[code as Finding];
      if (count === undefined) return undefined;
      if (count > 0) problems.push({ code, message: `${count} ${text}` });
    }
    if (problems.length > 0) this.#log("error", "the broker's database contradicts itself", counts);
    else this.#log("info", "the broker's database was checked and is consistent");
    return problems;
  }

  /** How many rows, looked at page by page in the order of their keys, lack what belongs to them. Undefined when cut short. */
  async #countUnsound<Key>(
    first: Key,
    read: (after: Key, limit: number) => (Key & Checked)[],
    signal: AbortSignal,
  ): Promise<number | undefined> {
    const limit = this.#bounds.upkeepReadRowsMax;
    let after = first;
    let count = 0;
    const isDone = await this.#steps(signal, () => {
      const page = read(after, limit);
      count += page.filter(({ sound }) => sound === 0).length;
      after = page.at(-1) ?? after;
      return page.length === limit;
    });
    return isDone ? count : undefined;
  }

  #steps(signal: AbortSignal, step: () => boolean | Promise<boolean>): Promise<boolean> {
    return takeSteps(this.#clock, this.#bounds.upkeepPauseMs, signal, step);
  }
}
