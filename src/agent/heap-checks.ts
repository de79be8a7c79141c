/**
 * How often a shim looks after its heap, told to it in its environment as to any server of ours: by itself it would wake up every second
 * for nothing. The agent, which may be made with Bun as well, is not told.
 */
import { heapCheckEveryMs } from "~/wire/limits";

const name = "BUN_GC_TIMER_INTERVAL";
const value = String(heapCheckEveryMs);

type Env = Readonly<Record<string, string | undefined>>;

/** The environment of a shim that is about to be started. What is there already stands. */
export const withRareHeapChecks = (env: Env): Record<string, string | undefined> => ({
  [name]: value,
  ...env,
});

/** The environment of the agent, from that of its shim. Another value than ours is somebody's own. */
export function withoutRareHeapChecks(env: Env): Record<string, string | undefined> {
  const { [name]: interval, ...others } = env;
  return interval === value ? others : { ...env };
}
