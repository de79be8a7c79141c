/** Asking something that may never answer. */
import { systemClock } from "~/clock";

/** What `ask` resolves with, or `late` when that takes longer; it may go on behind our back. */
export async function within<T, L>(ms: number, ask: () => Promise<T>, late: () => L): Promise<T | L> {
  const timeout = Promise.withResolvers<L>();
  const timer = systemClock.after(ms, () => timeout.resolve(late()));
  try {
    return await Promise.race([ask(), timeout.promise]);
  } finally {
    timer.cancel();
  }
}
