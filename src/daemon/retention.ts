/**
 * Takes the contents from messages that have ended or were read long enough ago (`storage.retention_days`), a while after the start
 * and then every `storage.upkeep_every_h`. It goes in small steps with pauses between, so that nobody who sends waits for it. Rows,
 * ids and dedupe keys stay for good. What was cleared makes room for new messages; the files do not shrink. Databases as they once were
 * hold contents, too: those that are as old go, as far as nothing is in them alone (daemon/tidying.ts).
 */
import { type Clock, type Clocks, jumpMs, pause, readClocks, takeSteps } from "~/clock";
import type { Pruned } from "~/daemon/db/pruned";
import type { Writer } from "~/disk/writer";
import { MeshError } from "~/errors";
import type { Log } from "~/log";
import type { Settings } from "~/settings/knobs";
import { faultOf } from "~/wire/fault";
import type { Problem } from "~/wire/ipc";
import {
  clockJumpMsMax,
  clockSettledMs,
  upkeepPauseMs,
  upkeepStepMsMax,
  upkeepTurnMs,
  upkeepWrittenRowsMax,
} from "~/wire/limits";

const dayMs = 24 * 3600 * 1000;

/** Something that holds contents, and the one way of writing to it. */
export interface Shelf {
  store: { prune(beforeMs: number, limit: number, isOver: () => boolean): Pruned };
  writer: Writer;
}

export interface RetentionParts {
  outbox: Shelf;
  inbox: Shelf;
  clock: Clock;
  settings(): Settings;
  log: Log;
  /** Removes what nobody needs beside the databases in use (daemon/tidying.ts), and returns the names of older ones. */
  tidy(beforeMs: number): string[];
  /** Somebody with a clock of its own (a broker) says that this host's is wrong. */
  isClockDoubted(): boolean;
}

export class Retention {
  readonly #parts: RetentionParts;
  #problems: Problem[] = [];
  /** The two clocks as they were when they were last compared. */
  #clocks: Clocks;
  /** Since when, by the steady clock, the wall clock has kept pace with it. */
  #settledSinceMs: number;

  constructor(parts: RetentionParts) {
    this.#parts = parts;
    this.#clocks = readClocks(this.#parts.clock);
    this.#settledSinceMs = this.#clocks.steadyMs;
  }

  /** What the last time left undone. */
  get problems(): readonly Problem[] {
    return this.#problems;
  }

  /** Goes on until it is aborted; never rejects. Call it once the daemon serves. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, settings } = this.#parts;
    let lastMs: number | undefined;
    while (!signal.aborted) {
      // Looks up now and then, since the setting and the clock may change meanwhile.
      await pause(clock, lastMs === undefined ? clockSettledMs : upkeepTurnMs, signal);
      if (signal.aborted) return;
      this.#compareClocks();
      const nowMs = clock.monotonicMs();
      const everyMs = settings()["storage.upkeep_every_h"] * 3_600_000;
      if (lastMs !== undefined && nowMs - lastMs < everyMs) continue;
      if (!this.#isClockBelieved(nowMs)) continue;
      lastMs = nowMs;
      await this.#clear(signal);
    }
  }

  // ── The clock ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * A wall clock that was set far ahead by mistake would have everything cleared at once, for good. A machine that slept looks the
   * same at first, so that a jump only means waiting: until the clock has kept pace for a while, in which it may be set right.
   */
  #compareClocks(): void {
    const before = this.#clocks;
    this.#clocks = readClocks(this.#parts.clock);
    const jumpedMs = jumpMs(before, this.#clocks);
    if (Math.abs(jumpedMs) <= clockJumpMsMax) return;
    this.#settledSinceMs = this.#clocks.steadyMs;
    this.#parts.log("info", "clock_jumped", { minutes: Math.round(jumpedMs / 60_000) });
  }

  #isClockBelieved(nowMs: number): boolean {
    return nowMs - this.#settledSinceMs >= clockSettledMs && !this.#parts.isClockDoubted();
  }

  // ── Clearing ──────────────────────────────────────────────────────────────────────────────────────────────────────

  async #clear(signal: AbortSignal): Promise<void> {
    const { clock, settings, log, outbox, inbox } = this.#parts;
    const days = settings()["storage.retention_days"];
    const beforeMs = clock.now() - days * dayMs;
    try {
      const sent = await this.#clearShelf(outbox, beforeMs, signal);
      const read = await this.#clearShelf(inbox, beforeMs, signal);
      if (sent + read > 0) log("info", "old_contents_cleared", { sent, read, days });
      if (signal.aborted) return;
      const files = this.#parts.tidy(beforeMs);
      if (files.length > 0) log("info", "old_databases_removed", { files, days });
      this.#problems = [];
    } catch (error) {
      if (error instanceof MeshError && error.code === "daemon_stopping") return;
      const why = faultOf(error);
      log("error", "retention_failed", { error: why });
      this.#problems = [
        {
          code: "retention_failed",
          message: `old contents could not be cleared: ${why}`,
          hint: "It is tried again by itself. If this stays, look at the disk: claudemesh doctor",
        },
      ];
    }
  }

  /** Resolves with how many rows were cleared, when nothing is left to clear or it is aborted. */
  async #clearShelf({ store, writer }: Shelf, beforeMs: number, signal: AbortSignal): Promise<number> {
    const { clock } = this.#parts;
    let cleared = 0;
    await takeSteps(clock, upkeepPauseMs, signal, async () => {
      const { count, isMore } = await writer.submit(() => {
        // From here on everybody else waits.
        const beganMs = clock.monotonicMs();
        const isOver = () => clock.monotonicMs() - beganMs >= upkeepStepMsMax;
        return store.prune(beforeMs, upkeepWrittenRowsMax, isOver);
      });
      cleared += count;
      return isMore;
    });
    return cleared;
  }
}
