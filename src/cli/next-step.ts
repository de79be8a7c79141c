/** What to type next, said only when it is still to be done. */
import type { Host } from "~/cli/command";
import { askHealth, daemonClient } from "~/cli/daemon-client";
import { localTime } from "~/cli/text";
import { messageOf } from "~/errors";
import type { HealthReply } from "~/wire/ipc";

/** A running daemon follows config.json by itself; without one the membership receives nothing. */
export async function sayHowToReceive(host: Host): Promise<void> {
  let health: HealthReply | undefined;
  try {
    health = await askHealth(daemonClient(host));
  } catch (error) {
    await host.out.note(`warning: ${messageOf(error)}`);
    return;
  }
  if (health === undefined) await host.out.note("next: claudemesh daemon up");
  else if (health.ephemeral !== undefined) {
    const { until } = health.ephemeral;
    await host.out.note(
      `note: the daemon is ephemeral: this membership ends with it${until === undefined ? "" : `, at ${localTime(until)} at the latest`}`,
    );
  }
}
