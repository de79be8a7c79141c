/**
 * The last moments of a daemon: what is on the wire may still be answered, and an ephemeral daemon, whose messages nobody
 * will send later, tries to get rid of all of them and takes leave of its brokers. Everything within a bounded time.
 */
import type { Clock, Timer } from "~/clock";
import type { DaemonParts } from "~/daemon/parts";
import type { MeshEntry } from "~/identity/config";
import { leaveMesh } from "~/link/leave";
import type { Log } from "~/log";
import { faultOf } from "~/wire/fault";
import { leaveTimeoutMs } from "~/wire/limits";
import type { Ephemeral } from "~/wire/reply";

/** The time that an ephemeral daemon was given. A timer stands still while the host sleeps, so the wall clock is asked too. */
export class Term {
  readonly isOver: Promise<void>;
  readonly #clock: Clock;
  readonly #untilMs: number;
  readonly #timer: Timer | undefined;
  #end: () => void = () => undefined;

  constructor(clock: Clock, ephemeral: Ephemeral | undefined) {
    this.#clock = clock;
    this.#untilMs = ephemeral?.until === undefined ? Number.POSITIVE_INFINITY : Date.parse(ephemeral.until);
    this.isOver = new Promise((resolve) => {
      this.#end = resolve;
    });
    if (Number.isFinite(this.#untilMs)) {
      this.#timer = clock.after(this.#untilMs - clock.now(), () => this.#end());
    }
  }

  look(): void {
    if (this.#clock.now() >= this.#untilMs) this.#end();
  }

  stop(): void {
    this.#timer?.cancel();
  }
}

/** Waits until nothing is on the wire, or with `all` until nothing is left to be sent; at most `graceMs`. */
export function settle(parts: DaemonParts, all: boolean, graceMs: number): Promise<void> {
  const { drain, outbox, hub, clock, meshes } = parts;
  const isDone = (): boolean => {
    if (!all) return drain.onTheWire === 0;
    // Without any link nothing will leave in this time either.
    if (!meshes.sessions.some((session) => session.isOpen)) return true;
    const { pending, inflight } = outbox.counts();
    return pending + inflight === 0;
  };
  if (!all) drain.hold();
  if (isDone()) return Promise.resolve();
  return new Promise((resolve) => {
    const end = (): void => {
      stopListening();
      timer.cancel();
      resolve();
    };
    const stopListening = hub.listen(() => void (isDone() && end()));
    const timer = clock.after(graceMs, end);
  });
}

/** Tells every broker that this member is gone for good. Resolves with the meshes whose broker goes on counting it as one. */
export async function leaveMeshes(meshes: readonly MeshEntry[], log: Log): Promise<string[]> {
  const notLeft = await Promise.all(
    meshes.map(async (mesh) => {
      try {
        await leaveMesh(mesh, { timeoutMs: leaveTimeoutMs });
        log("info", "mesh_left", { mesh: mesh.slug });
        return [];
      } catch (error) {
        log("warn", "mesh_not_left", { mesh: mesh.slug, error: faultOf(error) });
        return [mesh.slug];
      }
    }),
  );
  return notLeft.flat();
}
