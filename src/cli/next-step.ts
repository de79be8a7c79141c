/** What to type next, said only when it is still to be done. */
import type { Host } from "~/cli/command";
import { askHealth, daemonClient } from "~/cli/daemon-client";
import { messageOf } from "~/errors";

/** A running daemon follows config.json by itself; without one the membership receives nothing. */
export async function sayHowToReceive(host: Host): Promise<void> {
  let runs: boolean;
  try {
    runs = (await askHealth(daemonClient(host))) !== undefined;
  } catch (error) {
    await host.out.note(`warning: ${messageOf(error)}`);
    return;
  }
  if (!runs) await host.out.note("next: claudemesh daemon up");
}
