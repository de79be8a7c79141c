/** Starting the daemon where a service of it is installed: by that service, or it would not be looked after any more. */
import type { Host } from "~/cli/command";
import { serviceTarget } from "~/cli/daemon/service-target";
import { MeshError } from "~/errors";
import { installedRivals, isInstalled, startService } from "~/service/install";

/**
 * True when the service has started it. False when none is installed, or none that can be started from here, which is then said.
 * Throws `service_failed` when the service's daemon does not come up.
 */
export async function startByService(host: Host): Promise<boolean> {
  if (process.platform !== "linux" && process.platform !== "darwin") return false;
  // Behind sudo the daemon becomes root's own, which has no service there.
  if (host.env.SUDO_USER && process.getuid?.() === 0) return false;
  const { manager, daemon } = await serviceTarget(host, {
    system: false,
    user: undefined,
    command: "daemon up",
    purpose: "remove",
  });
  const [rival] = installedRivals(manager);
  if (rival !== undefined) {
    await host.out.note(
      `warning: ${rival.path} is there to run this daemon, which is started without it now. To have it run by that: claudemesh daemon down; ${rival.start}`,
    );
  }
  if (!isInstalled(manager)) return false;
  try {
    await startService(manager, daemon);
    return true;
  } catch (error) {
    if (!(error instanceof MeshError) || error.code !== "no_service_manager") throw error;
    await host.out.note(`warning: ${error.message}; the daemon is started without its service`);
    return false;
  }
}
