/**
 * What a watchdog runs when its shim is gone (`end-agent MARK [WORD…]`): ends the agent and all that it started, which nobody watches
 * any more. In words that only this version and its watchdogs need to understand.
 */
import { endTree, parseKnown } from "~/agent/process-tree";
import { systemClock } from "~/clock";
import { MeshError } from "~/errors";
import { orphanTermMs } from "~/wire/limits";

/** Throws `usage` when the words are not those of a watchdog; resolves with the pids that would not go. */
export async function endAgent([mark = "", ...words]: readonly string[]): Promise<readonly number[]> {
  const known = parseKnown(words);
  if (!/^[0-9a-f]{32}$/.test(mark) || known === undefined) {
    throw new MeshError("usage", "end-agent is called by the watchdog of a shim, with what the shim told it");
  }
  const facts = { ...known, mark, adopter: undefined, spared: [process.pid, process.ppid] };
  return await endTree(() => facts, { clock: systemClock, termMs: orphanTermMs });
}
