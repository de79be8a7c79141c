/**
 * A terminal's screen as what another terminal must be sent to look the same. Modes are not in it but for the alternate screen:
 * attachment.ts follows these in the agent's output, since the screen does not keep all of them.
 */
import { SerializeAddon } from "@xterm/addon-serialize";
import type { Terminal } from "@xterm/headless";

/** Once for each terminal. */
export type Snapshots = (isComplete: boolean) => Promise<string>;

/**
 * `terminal` is made with `allowProposedApi`. What was written to it before a snapshot is asked for is in it, what is written after is
 * not, for a terminal takes in one portion after the other. With `isComplete` the lines that scrolled away are there as well.
 */
export function openSnapshots(terminal: Terminal): Snapshots {
  const addon = new SerializeAddon();
  terminal.loadAddon(addon);
  return (isComplete) =>
    new Promise((resolve) => {
      terminal.write("", () =>
        resolve(addon.serialize({ excludeModes: true, ...(isComplete ? {} : { scrollback: 0 }) })),
      );
    });
}
