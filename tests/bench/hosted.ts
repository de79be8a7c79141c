/** One shim of the compiled binary with a program in it, driven over a socket pair as the daemon would. */
import { spawnShim } from "~/agent/client";
import { systemClock } from "~/clock";
import type { ShimEvent } from "~/wire/shim";
import { command } from "./process";

const startMsMax = 20_000;
const workMsMax = 300_000;
const pingPauseMs = 5;

export interface BenchShim {
  pid: number;
  /** From before it was executed to its first `StateChanged`. */
  startMs: number;
  /** Sends a text to the program; resolves with its completion. */
  work(body: string): Promise<void>;
  /** Sends a text that makes the program end; resolves when all that it printed was taken in. */
  workToDeath(body: string): Promise<void>;
  /** Asks again and again, with a short pause, until the promise resolves; then gives how long the slowest answer took. */
  slowestPingMs(until: Promise<void>): Promise<number>;
  end(): Promise<void>;
}

/** Resolves when the program has shown its prompt. */
export async function openShim(
  env: Record<string, string>,
  program: readonly string[],
  args: readonly string[] = [],
): Promise<BenchShim> {
  const begunMs = performance.now();
  let startMs = Number.NaN;
  const shim = await spawnShim({
    executable: command,
    args: [...args, "--", ...program],
    env: { ...env, PS1: "$ ", LANG: "C.UTF-8" },
    cwd: env.HOME ?? "/",
    clock: systemClock,
    event(event) {
      if (event.event === "StateChanged" && Number.isNaN(startMs)) startMs = performance.now() - begunMs;
    },
    warning: (message) => console.error(`shim: ${message}`),
    dead: () => undefined,
  });
  const next = (name: ShimEvent["event"], timeoutMs: number): Promise<true> =>
    shim.next((event) => (event.event === name ? true : undefined), timeoutMs);
  const sendUntil = async (name: ShimEvent["event"], body: string): Promise<void> => {
    const there = next(name, workMsMax);
    await shim.send({ cmd: "SendMessage", from: "bench", body, message_id: "bench" });
    await there;
  };
  await next("Ready", startMsMax);
  return {
    pid: shim.pid,
    startMs,
    work: (body) => sendUntil("Completion", body),
    workToDeath: (body) => sendUntil("Died", body),
    async slowestPingMs(until) {
      let isOver = false;
      const over = until.finally(() => {
        isOver = true;
      });
      let slowestMs = 0;
      while (!isOver) {
        const askedMs = performance.now();
        await shim.ping();
        slowestMs = Math.max(slowestMs, performance.now() - askedMs);
        await Bun.sleep(pingPauseMs);
      }
      await over;
      return slowestMs;
    },
    async end() {
      shim.close();
      await shim.exited;
    },
  };
}
